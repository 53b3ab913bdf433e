//! Checks a signature for whoever builds a receiver: which step fails, and what it probably is.
//!
//! The request has what the receiver got. Nothing of it is stored or logged. With a known
//! delivery the body is compared with the one that was sent; with the signature that the
//! receiver's own code has computed, typical mistakes in that code are recognised.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use shared::clock;
use shared::dialect::{Dialect, Keyed, Place, Received};
use shared::ids::{DeliveryId, EventId, Tenant, WebhookId};
use shared::secret::Secret;
use shared::webhook::Webhook;
use std::sync::Arc;
use std::time::Instant;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use tokio::task::block_in_place;
use tokio_postgres::Row;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::Managing;
use crate::api::access::rate_limit::Client;
use crate::api::deliveries::composed::{Composed, webhook_of};
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::Body;
use crate::api::state::{Api, Shared};
use crate::cpu;
use crate::invalid::NotFound;

/// The largest body and headers together, in bytes.
const MAX_BYTES: usize = 256 * 1024;
/// How many checks of a tenant there may be in a second; twice as many at once.
pub const CHECKS_PER_SECOND: u32 = 5;
/// How far a receiver lets the time be off.
const TOLERANCE: Duration = Duration::minutes(5);
/// How many other webhooks' secrets are tried.
const OTHERS: i64 = 100;
/// How many bytes around a difference are shown, before and after it.
const AROUND: usize = 24;

/// `/api/v1/signatures…`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(check))
}

/// What a receiver got, and with which secret it verifies.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = SignatureCheck, example = json!({
    "webhook_id": "wh_01kb4v2p8zf5sttdw3m8e7h2xk",
    "headers": {
        "webhook-id": "order-4711", "webhook-timestamp": "1795687927",
        "webhook-signature": "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="
    },
    "body": "{\"type\":\"order.paid\",\"timestamp\":\"2026-11-26T10:00:00Z\",\"data\":{}}",
}))]
#[serde(deny_unknown_fields)]
pub struct NewCheck {
    /// The dialect; that of the webhook or the delivery by default.
    #[schema(example = "standard")]
    pub dialect: Option<String>,
    /// The headers that came.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body that came, exactly.
    #[serde(default)]
    pub body: String,
    /// The secret that the receiver verifies with; the webhook's by default.
    #[schema(max_length = 512)]
    pub secret: Option<String>,
    /// The webhook that it came from.
    #[schema(value_type = Option<WebhookId>)]
    pub webhook_id: Option<String>,
    /// The delivery that it was. Its webhook needn't be named, then.
    #[schema(value_type = Option<DeliveryId>)]
    pub delivery_id: Option<String>,
    /// The attempt of the delivery; by default the one with the time in the headers.
    #[schema(minimum = 1)]
    pub attempt: Option<i16>,
    /// The signature that the receiver's own code has computed.
    #[schema(max_length = 512)]
    pub computed: Option<String>,
}

/// The steps of verifying, and what is wrong.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CheckedSignature, example = json!({
    "verifies": false, "finding": "body_changed",
    "detail": "The body isn't the one that was signed: it was parsed and written again.",
    "steps": [
        {"step": "headers", "passed": true, "detail": "webhook-id, webhook-timestamp, webhook-signature are there."},
        {"step": "body", "passed": false, "detail": "185 bytes came, 186 were sent. The first difference is at byte 92."},
    ],
    "difference": {"at": 92, "sent": "…\"total\":129.90,\"currency\"", "received": "…\"total\":129.9,\"currency\""},
}))]
pub struct Checked {
    /// Whether a receiver with this secret accepts the signature.
    pub verifies: bool,
    pub finding: Finding,
    /// The finding in a sentence.
    pub detail: String,
    /// In the order in which a receiver takes them.
    pub steps: Vec<Step>,
    /// Where the body that came begins to differ from the one that was sent.
    #[schema(required)]
    pub difference: Option<Difference>,
}

/// One step of verifying.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SignatureStep)]
pub struct Step {
    /// `headers`, `form`, `time`, `secret`, `body`, `signature`.
    #[schema(example = "signature")]
    pub step: &'static str,
    /// `null`: it couldn't be checked.
    #[schema(required)]
    pub passed: Option<bool>,
    pub detail: String,
}

/// The first difference of two bodies.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BodyDifference)]
pub struct Difference {
    /// The first byte that differs, from 0.
    pub at: usize,
    /// What was sent around there.
    pub sent: String,
    /// What came around there.
    pub received: String,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Nothing: it verifies.
    Verifies,
    /// It verifies, but the receiver's own code computes something else: it doesn't use the
    /// secret as the dialect says.
    SecretNotDecoded,
    /// The receiver's own code decodes the secret, whose characters are the key.
    SecretDecoded,
    /// A header that verifying needs isn't there.
    HeaderMissing,
    /// The signature is of another dialect, or isn't whole.
    WrongForm,
    /// The time in the headers isn't when it was sent, or is too far from now.
    TimeOff,
    /// The body isn't the one that was signed.
    BodyChanged,
    /// The secret was replaced; this is the one before.
    PreviousSecret,
    /// The secret belongs to another webhook.
    OtherWebhooksSecret,
    /// The secret isn't the one that signed.
    WrongSecret,
    /// It doesn't verify, and nothing more is known.
    Unknown,
}

/// Check a signature
///
/// Goes through what a receiver does, and says which step fails and what it probably is: a body that
/// was parsed and written again, another webhook's secret, the secret before a rotation, a secret
/// that wasn't decoded, a clock that is off. Name the `secret` that the receiver has, the
/// `webhook_id`, or the `delivery_id`; the more is known, the more is found. At most 256 KiB.
#[utoipa::path(
    post, path = "/check", operation_id = "check_signature", tag = "webhooks",
    security(("token" = ["manager"])),
    request_body = NewCheck,
    responses(
        (status = 200, description = "What a receiver finds.", body = Checked),
        (status = 404, description = "There is no such webhook or delivery."),
    ),
)]
pub async fn check(
    acting: Managing,
    State(api): State<Shared>,
    Body(new): Body<NewCheck>,
) -> Result<Response> {
    let checked = checked(&api, &acting.tenant, new).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(checked)).into_response())
}

/// What is known beside the request itself.
struct Known {
    dialect: Arc<Dialect>,
    /// The receiver's, or the webhook's.
    secret: Option<Secret>,
    /// The webhook's current and previous one.
    webhooks: Option<[Option<Secret>; 2]>,
    webhook: Option<WebhookId>,
    /// The bodies of the attempt, and when it was sent.
    sent: Option<(String, OffsetDateTime)>,
}

/// Checks a signature.
///
/// # Errors
/// If something that the request names doesn't exist, or PostgreSQL fails.
pub async fn checked(api: &Api, tenant: &Tenant, new: NewCheck) -> Result<Checked> {
    let headers: Vec<_> = new.headers.clone().into_iter().collect();
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes + new.body.len() > MAX_BYTES {
        let bound = format!("headers and body may have at most {MAX_BYTES} bytes together");
        return Err(Problem::too_large(bound));
    }
    let received = Received {
        headers: &headers,
        body: &new.body,
    };
    let bucket = Client::Token(Sha256::digest(tenant.as_str()).into());
    if let Err(refused) = api.checks.take(bucket, Instant::now()) {
        return Err(Problem::too_many_of(
            "signature checks",
            CHECKS_PER_SECOND,
            refused.wait,
        ));
    }
    let known = known(api, tenant, &new, &received).await?;
    let others = other_webhooks(api, tenant, known.webhook).await?;
    let _permit = cpu::permit(tenant).await;
    let mut checking = Checking {
        api,
        others,
        new: &new,
        received,
        known,
        steps: Vec::new(),
        difference: None,
    };
    let (finding, detail) = block_in_place(|| checking.run());
    Ok(Checked {
        verifies: finding != Finding::TimeOff
            && checking
                .steps
                .last()
                .is_some_and(|step| step.step == "signature" && step.passed == Some(true)),
        finding,
        detail,
        steps: checking.steps,
        difference: checking.difference,
    })
}

async fn known(
    api: &Api,
    tenant: &Tenant,
    new: &NewCheck,
    received: &Received<'_>,
) -> Result<Known> {
    let own = match &new.secret {
        // A secret that nobody could have is a finding, not an error: see the step.
        Some(text) if !text.trim().is_empty() => Secret::parse(text.trim()).ok(),
        _ => None,
    };
    let mut webhook = new
        .webhook_id
        .as_deref()
        .map(|text| text.parse::<WebhookId>())
        .transpose()
        .map_err(|error| Problem::field("webhook_id", error.to_string()))?;
    let delivery = new
        .delivery_id
        .as_deref()
        .map(|text| text.parse::<DeliveryId>())
        .transpose()
        .map_err(|error| Problem::field("delivery_id", error.to_string()))?;
    let named = match new.dialect.as_deref() {
        None => None,
        Some(name) => Some(api.dialects.get(name).cloned().ok_or_else(|| {
            Problem::field("dialect", crate::form::unknown_dialect(name, &api.dialects))
        })?),
    };
    let delivery = match (delivery, webhook, &named) {
        (Some(delivery), ..) => Some(delivery),
        // The event's id leads to the delivery.
        (None, Some(webhook), named) => {
            delivery_of_event(api, tenant, webhook, named.as_deref(), received).await?
        }
        (None, None, _) => None,
    };
    let composed = match delivery {
        Some(delivery) => Composed::read(api, tenant, delivery).await?,
        None => None,
    };
    if composed.is_none() && new.delivery_id.is_some() {
        let id = new.delivery_id.clone().unwrap_or_default();
        return Err(Problem::not_found(format!("there is no delivery {id}")));
    }
    let stored = match (&composed, webhook) {
        (Some(composed), _) => {
            webhook = Some(composed.webhook.id);
            Some((composed.webhook.secrets.clone(), composed.dialect.clone()))
        }
        (None, Some(id)) => {
            let client = api.pool.get().await?;
            let found = webhook_of(api, &client, tenant, id).await?;
            let (webhook, dialect) = found.ok_or_else(|| NotFound::webhook(id))?;
            Some((webhook.secrets, dialect))
        }
        (None, None) => None,
    };
    let dialect = named
        .or_else(|| stored.as_ref().map(|(_, dialect)| dialect.clone()))
        .or_else(|| {
            let tenants = api.subscriptions.dialect(tenant)?;
            api.dialects.get(&tenants).cloned()
        })
        .unwrap_or_else(|| api.dialects.default().clone());
    let webhooks = stored
        .as_ref()
        .map(|(secrets, _)| [Some(secrets.current().clone()), secrets.replaced().cloned()]);
    let sent = match (&composed, delivery) {
        (Some(composed), Some(delivery)) => {
            let said = dialect.sent_at(received);
            let at = attempt_at(api, delivery, new.attempt, said).await?;
            at.map(|at| {
                let body = composed.at(at).body;
                (String::from_utf8_lossy(&body).into_owned(), at)
            })
        }
        _ => None,
    };
    let secret = own.or_else(|| {
        let given = new
            .secret
            .as_ref()
            .is_some_and(|text| !text.trim().is_empty());
        webhooks
            .as_ref()
            .filter(|_| !given)
            .and_then(|[current, _]| current.clone())
    });
    Ok(Known {
        dialect,
        secret,
        webhooks,
        webhook,
        sent,
    })
}

/// The delivery of the event whose id a header has.
async fn delivery_of_event(
    api: &Api,
    tenant: &Tenant,
    webhook: WebhookId,
    named: Option<&Dialect>,
    received: &Received<'_>,
) -> Result<Option<DeliveryId>> {
    let client = api.pool.get().await?;
    let found = webhook_of(api, &client, tenant, webhook).await?;
    drop(client);
    let own = found.map(|(_, dialect)| dialect);
    let Some(dialect) = named.or(own.as_deref()) else {
        return Ok(None);
    };
    let event = dialect
        .received_event_id(received)
        .map(str::parse::<EventId>);
    let Some(Ok(event)) = event else {
        return Ok(None);
    };
    crate::api::deliveries::retries::find_delivery(api, tenant, webhook, &event).await
}

/// When the attempt was sent: this one, or the one that was nearest to a time.
async fn attempt_at(
    api: &Api,
    delivery: DeliveryId,
    n: Option<i16>,
    said: Option<OffsetDateTime>,
) -> Result<Option<OffsetDateTime>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- attempt_to_check\n\
             SELECT started_at FROM attempts WHERE delivery_id = $1 AND ($2::int2 IS NULL OR n = $2) \
             ORDER BY abs(extract(epoch FROM started_at - $3::timestamptz)), n DESC LIMIT 1",
        )
        .await?;
    let row = client
        .query_opt(&statement, &[&delivery, &n, &said])
        .await?;
    Ok(row.map(|row| row.get(0)))
}

/// A tenant's latest webhooks, but this one.
async fn other_webhooks(api: &Api, tenant: &Tenant, but: Option<WebhookId>) -> Result<Vec<Row>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- secrets_to_check\n\
             SELECT {} FROM webhooks \
             WHERE tenant = $1 AND status <> 'deleted' AND id IS DISTINCT FROM $2 \
             ORDER BY id DESC LIMIT $3",
            Webhook::COLUMNS
        ))
        .await?;
    Ok(client.query(&statement, &[tenant, &but, &OTHERS]).await?)
}

struct Checking<'a> {
    api: &'a Api,
    /// The tenant's latest webhooks, but this one.
    others: Vec<Row>,
    new: &'a NewCheck,
    received: Received<'a>,
    known: Known,
    steps: Vec<Step>,
    difference: Option<Difference>,
}

impl Checking<'_> {
    fn step(&mut self, step: &'static str, passed: impl Into<Option<bool>>, detail: String) {
        self.steps.push(Step {
            step,
            passed: passed.into(),
            detail,
        });
    }

    fn run(&mut self) -> (Finding, String) {
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
        let places = dialect.signature_places();
        // Every place that is signed by itself must verify; the first one tells.
        let Some(place) = places.first() else {
            return (Finding::Unknown, "The dialect signs nothing.".to_owned());
        };
        let came = dialect
            .received_signatures(place, &self.received)
            .unwrap_or_default();
        let formed = came.iter().filter(|text| dialect.has_form(place, text));
        let formed: Vec<_> = formed.cloned().collect();
        if formed.is_empty() {
            let detail = format!("`{place}` must be `{}`, of 32 bytes.", place.encoding);
            self.step("form", false, detail.clone());
            return (
                Finding::WrongForm,
                format!(
                    "The signature isn't one of the dialect `{}`: {detail}",
                    dialect.name()
                ),
            );
        }
        self.step("form", true, format!("`{}`, of 32 bytes.", place.encoding));
        let time = self.time(&dialect);
        self.secret_form();
        let same_body = self.body();
        self.signature(&dialect, place, &formed, time, same_body)
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
                let detail = "No webhook can have it: 8 to 256 visible ASCII characters, and base64 \
                              after `whsec_`.";
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

    fn signature(
        &mut self,
        dialect: &Dialect,
        place: &Place,
        came: &[String],
        time: Option<bool>,
        same_body: Option<bool>,
    ) -> (Finding, String) {
        let covers = format!("HMAC-SHA256 of `{}`", place.covers);
        let Some(secret) = self.known.secret.clone() else {
            self.step("signature", None, format!("{covers}: there is no secret."));
            return (
                Finding::Unknown,
                "Without a secret nothing more can be said.".to_owned(),
            );
        };
        let makes = |received: &Received<'_>, secret: &Secret, keyed| {
            dialect.expected(place, received, secret, keyed).ok()
        };
        let is_it = |received: &Received<'_>, secret: &Secret, keyed| {
            makes(received, secret, keyed).is_some_and(|made| came.contains(&made))
        };
        let received = self.received;
        if is_it(&received, &secret, Keyed::Rightly) {
            self.step("signature", true, format!("{covers} is what came."));
            return self.verified(dialect, place, &secret, time);
        }
        let expected = makes(&received, &secret, Keyed::Rightly).unwrap_or_default();
        self.step(
            "signature",
            false,
            format!("{covers} would be `{}`.", shortened(&expected)),
        );
        // With the body that was sent, does it verify?
        let sent = self.known.sent.clone();
        let as_sent = sent.as_ref().map(|(body, _)| Received { body, ..received });
        if let Some(as_sent) = &as_sent
            && same_body == Some(false)
            && is_it(as_sent, &secret, Keyed::Rightly)
        {
            let how = match self.is_same_json() {
                true => {
                    "it was parsed and written again. Verify the raw bytes, before any JSON middleware."
                }
                false => "it was changed on its way, or isn't whole.",
            };
            return (
                Finding::BodyChanged,
                format!("The body isn't the one that was signed: {how}"),
            );
        }
        for variant in variants(received.body) {
            let variant = Received {
                body: &variant,
                ..received
            };
            if is_it(&variant, &secret, Keyed::Rightly) {
                return (
                    Finding::BodyChanged,
                    "The body isn't the one that was signed: white space or a line's end was added or \
                     taken away. Verify the raw bytes."
                        .to_owned(),
                );
            }
        }
        // Which secret did sign?
        let body = as_sent.unwrap_or(received);
        if let Some([current, previous]) = self.known.webhooks.clone() {
            let by = |secret: &Option<Secret>| {
                let secret = secret.as_ref();
                secret.is_some_and(|secret| is_it(&body, secret, Keyed::Rightly))
            };
            if by(&current) {
                return self.instead_of(&secret, previous.as_ref());
            }
            if by(&previous) {
                return (
                    Finding::PreviousSecret,
                    "It was signed with the secret before the rotation. Let the receiver accept both, \
                     or send the delivery again."
                        .to_owned(),
                );
            }
        }
        if time == Some(false) {
            return (
                Finding::TimeOff,
                "The time in the headers isn't the one that was signed. Use the header of the same \
                 request, as it came."
                    .to_owned(),
            );
        }
        if same_body == Some(false) {
            return (
                Finding::BodyChanged,
                "The body isn't the one that was sent, and the secret isn't the one that signed it."
                    .to_owned(),
            );
        }
        // Rendered once: there may be a hundred secrets.
        let signed = dialect.signed(place, &body).unwrap_or_default();
        let signs = |secret: &Secret| {
            came.contains(&dialect.signature_of(place, &signed, secret, Keyed::Rightly))
        };
        let others = self.other_webhooks_secrets();
        if let Some((other, _)) = others.iter().find(|(_, secret)| signs(secret)) {
            return (
                Finding::OtherWebhooksSecret,
                format!("It was signed with the secret of another webhook, {other}."),
            );
        }
        (
            Finding::WrongSecret,
            "The secret isn't the one that signed this body, or the body isn't the one that was signed."
                .to_owned(),
        )
    }

    /// It verifies. Is the time right, and does the receiver's code compute the same?
    fn verified(
        &self,
        dialect: &Dialect,
        place: &Place,
        secret: &Secret,
        time: Option<bool>,
    ) -> (Finding, String) {
        let computed = self.new.computed.as_deref().map(str::trim);
        let is_computed = |keyed| {
            let made = dialect.expected(place, &self.received, secret, keyed).ok();
            let (Some(made), Some(computed)) = (made, computed) else {
                return false;
            };
            // Their code may leave the prefix out.
            !computed.is_empty()
                && (made == computed || made.ends_with(computed) && computed.len() >= 40)
        };
        if computed.is_none_or(|text| text.is_empty() || is_computed(Keyed::Rightly)) {
            return match time {
                Some(false) => (
                    Finding::TimeOff,
                    "The signature is right, but the time is too far from now: is the receiver's clock \
                     right, or was it sent long ago?"
                        .to_owned(),
                ),
                _ => (Finding::Verifies, "It verifies.".to_owned()),
            };
        }
        if is_computed(Keyed::AsText) {
            return (
                Finding::SecretNotDecoded,
                "The signature is right. The receiver's code uses the secret's characters as the key: it \
                 must decode the base64 after `whsec_`."
                    .to_owned(),
            );
        }
        if is_computed(Keyed::Decoded) {
            return (
                Finding::SecretDecoded,
                "The signature is right. The receiver's code decodes the secret: in this dialect its \
                 characters are the key, `whsec_` too."
                    .to_owned(),
            );
        }
        (
            Finding::Verifies,
            "It verifies; the receiver's code computes something else, of another body or with another \
             secret."
                .to_owned(),
        )
    }

    /// The webhook's secret signed it, and the receiver has another one: which?
    fn instead_of(&self, secret: &Secret, previous: Option<&Secret>) -> (Finding, String) {
        if previous.is_some_and(|previous| previous.expose() == secret.expose()) {
            return (
                Finding::PreviousSecret,
                "The receiver has the secret before the rotation. It needs the new one.".to_owned(),
            );
        }
        let others = self.other_webhooks_secrets();
        if let Some((other, _)) = others
            .iter()
            .find(|(_, other)| other.expose() == secret.expose())
        {
            return (
                Finding::OtherWebhooksSecret,
                format!("The receiver has the secret of another webhook, {other}."),
            );
        }
        let current = self
            .known
            .webhooks
            .as_ref()
            .and_then(|[current, _]| current.as_ref());
        let is_undecoded = current.is_some_and(|current| {
            current.expose().strip_prefix("whsec_") == Some(secret.expose())
        });
        if is_undecoded {
            return (
                Finding::SecretNotDecoded,
                "The receiver's secret lacks `whsec_`: with it the rest is decoded.".to_owned(),
            );
        }
        (
            Finding::WrongSecret,
            "The receiver's secret isn't the webhook's.".to_owned(),
        )
    }

    fn other_webhooks_secrets(&self) -> Vec<(WebhookId, Secret)> {
        let rows = self.others.iter();
        let webhooks = rows.filter_map(|row| Webhook::read(row, &self.api.keys).ok());
        webhooks
            .map(|webhook| (webhook.id, webhook.secrets.current().clone()))
            .collect()
    }

    fn is_same_json(&self) -> bool {
        let read = |text: &str| serde_json::from_str::<Value>(text).ok();
        let sent = self.known.sent.as_ref().and_then(|(sent, _)| read(sent));
        sent.is_some() && sent == read(self.received.body)
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

/// Bodies that are this one but for white space.
fn variants(body: &str) -> Vec<String> {
    let mut variants = vec![
        body.trim_end().to_owned(),
        body.trim().to_owned(),
        format!("{body}\n"),
        body.replace("\r\n", "\n"),
    ];
    if let Ok(value) = serde_json::from_str::<Box<serde_json::value::RawValue>>(body) {
        variants.push(compact(value.get()));
    }
    variants.retain(|variant| variant != body);
    variants
}

/// Without white space between its parts.
fn compact(json: &str) -> String {
    let (mut text, mut in_text, mut escaped) = (String::with_capacity(json.len()), false, false);
    for c in json.chars() {
        if in_text {
            in_text = escaped || c != '"';
            escaped = c == '\\' && !escaped;
        } else if c.is_ascii_whitespace() {
            continue;
        } else {
            in_text = c == '"';
        }
        text.push(c);
    }
    text
}

fn around(text: &str, at: usize) -> String {
    let from = text.floor_char_boundary(at.saturating_sub(AROUND));
    let to = text.ceil_char_boundary((at + AROUND).min(text.len()));
    let (before, after) = (
        if from > 0 { "…" } else { "" },
        if to < text.len() { "…" } else { "" },
    );
    format!("{before}{}{after}", &text[from..to])
}

fn are(names: &[String]) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", names.join(", "))
}

/// Enough to compare by eye; a whole one would let somebody sign.
fn shortened(signature: &str) -> String {
    let end = signature.floor_char_boundary(signature.len().saturating_sub(4));
    let start = signature.floor_char_boundary(signature.len().min(11));
    if start >= end {
        return "…".to_owned();
    }
    format!("{}…{}", &signature[..start], &signature[end..])
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
