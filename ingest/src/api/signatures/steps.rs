//! The steps of verifying, one after the other. The last one is in `signature`.

use shared::clock;
use shared::dialect::{Dialect, Received};
use shared::secret::Secret;
use time::Duration;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::Row;

use super::bodies::around;
use super::form::{Difference, Finding, NewCheck, Step};
use super::known::Known;
use crate::api::state::Api;

/// How far a receiver lets the time be off.
const TOLERANCE: Duration = Duration::minutes(5);

/// A check under way.
pub(super) struct Checking<'a> {
    pub(super) api: &'a Api,
    /// The tenant's latest webhooks, but this one.
    pub(super) others: Vec<Row>,
    pub(super) new: &'a NewCheck,
    pub(super) received: Received<'a>,
    pub(super) known: Known,
    pub(super) steps: Vec<Step>,
    pub(super) difference: Option<Difference>,
}

impl Checking<'_> {
    pub(super) fn step(
        &mut self,
        step: &'static str,
        passed: impl Into<Option<bool>>,
        detail: String,
    ) {
        self.steps.push(Step {
            step,
            passed: passed.into(),
            detail,
        });
    }

    /// Takes the steps in the order in which a receiver takes them.
    pub(super) fn run(&mut self) -> (Finding, String) {
        let dialect = self.known.dialect.clone();
        let needed = dialect.needed_headers();
        let is_there = |name: &&axum::http::HeaderName| self.received.header(name).is_some();
        let missing: Vec<_> = needed.iter().filter(|name| !is_there(name)).collect();
        if let Some(first) = missing.first() {
            let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
            let detail = format!("{} not there.", are(&missing));
            self.step("headers", false, detail);
            let others = self.of_another_dialect(&dialect);
            let hint = others.map_or_else(String::new, |name| {
                format!(" The headers are those of the dialect `{name}`.")
            });
            return (
                Finding::HeaderMissing,
                format!("The header `{first}` is missing, and nothing verifies without it.{hint}"),
            );
        }
        let names: Vec<_> = needed.iter().map(ToString::to_string).collect();
        if names.is_empty() {
            self.step("headers", true, "The signature is in the body.".to_owned());
        } else {
            self.step("headers", true, format!("{} there.", are(&names)));
        }
        let specs = dialect.signature_specs();
        // Every signature that is made by itself must verify; the first one tells.
        let Some(spec) = specs.first() else {
            return (Finding::Unknown, "The dialect signs nothing.".to_owned());
        };
        let came = dialect
            .received_signatures(spec, &self.received)
            .unwrap_or_default();
        let formed = came.iter().filter(|text| dialect.has_form(spec, text));
        let formed: Vec<_> = formed.cloned().collect();
        if formed.is_empty() {
            let detail = format!("`{spec}` must be `{}`, of 32 bytes.", spec.encoding);
            self.step("form", false, detail.clone());
            return (
                Finding::WrongForm,
                format!(
                    "The signature isn't one of the dialect `{}`: {detail}",
                    dialect.name()
                ),
            );
        }
        self.step("form", true, format!("`{}`, of 32 bytes.", spec.encoding));
        let time = self.time(&dialect);
        self.secret_form();
        let same_body = self.body();
        self.signature(&dialect, spec, &formed, time, same_body)
    }

    /// Whether the time in the headers is right; `None`: there is none.
    fn time(&mut self, dialect: &Dialect) -> Option<bool> {
        let said = dialect.sent_at(&self.received)?;
        let text = said.format(&Rfc3339).unwrap_or_default();
        let now = clock::now();
        let passed = match &self.known.sent {
            // To the second: the headers may have no more.
            Some((_, at)) => (said - *at).abs() < Duration::SECOND,
            None => (now - said).abs() <= TOLERANCE,
        };
        let detail = match (passed, &self.known.sent) {
            (true, Some(_)) if (now - said).abs() > TOLERANCE => format!(
                "{text} is when it was sent. Receivers allow five minutes; {} have passed since, \
                 which matters only now.",
                words(now - said)
            ),
            (true, _) => format!("{text}. Receivers allow five minutes."),
            (false, Some((_, at))) => format!(
                "{text} isn't when it was sent: that was {}.",
                at.format(&Rfc3339).unwrap_or_default()
            ),
            (false, None) => format!(
                "{text} is {} {}. Receivers allow five minutes.",
                words((now - said).abs()),
                if now > said { "ago" } else { "in the future" }
            ),
        };
        self.step("time", passed, detail);
        Some(passed)
    }

    fn secret_form(&mut self) {
        let given = self
            .new
            .secret
            .as_deref()
            .map(str::trim)
            .unwrap_or_default();
        let detail = match (&self.known.secret, given.is_empty()) {
            (None, true) => {
                let detail = "No secret is known: name one, the webhook or the delivery.";
                return self.step("secret", None, detail.to_owned());
            }
            (None, false) => {
                let detail = "No webhook can have this secret. A secret has 1 to 256 bytes. In dialects \
                              that decode secrets, it is base64 after `whsec_`.";
                return self.step("secret", false, detail.to_owned());
            }
            (Some(secret), _) if secret.expose().starts_with("whsec_") => {
                format!("`whsec_` and {} bytes in base64", secret_bytes(secret))
            }
            (Some(secret), _) => format!("{} characters", secret.expose().len()),
        };
        let whose = if given.is_empty() {
            ", the webhook's"
        } else {
            ""
        };
        self.step("secret", true, format!("{detail}{whose}."));
    }

    /// Whether the body is the one that was sent; `None`: that isn't known.
    fn body(&mut self) -> Option<bool> {
        let Some((sent, _)) = &self.known.sent else {
            let detail = format!(
                "{} bytes. What was sent isn't known: name the delivery to compare.",
                self.received.body.len()
            );
            self.step("body", None, detail);
            return None;
        };
        let came = self.received.body;
        if sent == came {
            let detail = format!("{} bytes, as they were sent.", came.len());
            self.step("body", true, detail);
            return Some(true);
        }
        let at = sent
            .bytes()
            .zip(came.bytes())
            .take_while(|(a, b)| a == b)
            .count();
        let detail = format!(
            "{} bytes came, {} were sent. The first difference is at byte {at}.",
            came.len(),
            sent.len()
        );
        let difference = Difference {
            at,
            sent: around(sent, at),
            received: around(came, at),
        };
        self.difference = Some(difference);
        self.step("body", false, detail);
        Some(false)
    }

    /// A dialect whose headers these are.
    fn of_another_dialect(&self, than: &Dialect) -> Option<String> {
        let mut others = self.api.dialects.iter();
        let found = others.find(|dialect| {
            let needed = dialect.needed_headers();
            dialect.name() != than.name()
                && !needed.is_empty()
                && needed
                    .iter()
                    .all(|name| self.received.header(name).is_some())
        });
        found.map(|dialect| dialect.name().to_owned())
    }
}

fn are(names: &[String]) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", names.join(", "))
}

fn secret_bytes(secret: &Secret) -> usize {
    use secrecy::ExposeSecret;
    secret.key().expose_secret().len()
}

fn words(time: Duration) -> String {
    match time.whole_seconds().abs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}
