//! The last step of verifying: is the signature the one that the secret makes? If not, with which
//! body, with which secret and at which time would it be? The first that fits is the finding.

use serde_json::Value;
use shared::dialect::{Dialect, Keyed, Received, SignatureSpec};
use shared::ids::WebhookId;
use shared::secret::Secret;
use shared::webhook::Webhook;

use super::bodies::variants;
use super::form::Finding;
use super::steps::Checking;

impl Checking<'_> {
    pub(super) fn signature(
        &mut self,
        dialect: &Dialect,
        spec: &SignatureSpec,
        came: &[String],
        time: Option<bool>,
        same_body: Option<bool>,
    ) -> (Finding, String) {
        let covers = format!("HMAC-SHA256 of `{}`", spec.covers);
        let Some(secret) = self.known.secret.clone() else {
            self.step("signature", None, format!("{covers}: there is no secret."));
            return (
                Finding::Unknown,
                "Without a secret nothing more can be said.".to_owned(),
            );
        };
        let makes = |received: &Received<'_>, secret: &Secret, keyed| {
            dialect.expected(spec, received, secret, keyed).ok()
        };
        let is_it = |received: &Received<'_>, secret: &Secret, keyed| {
            makes(received, secret, keyed).is_some_and(|made| came.contains(&made))
        };
        let received = self.received;
        if is_it(&received, &secret, Keyed::Rightly) {
            self.step("signature", true, format!("{covers} is what came."));
            return self.verified(dialect, spec, &secret, time);
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
        let given = self.new.secret.as_deref();
        if let Some(text) = given.filter(|text| text.trim() != *text)
            && let Ok(trimmed) = Secret::parse(text.trim())
            && is_it(&body, &trimmed, Keyed::Rightly)
        {
            return (
                Finding::WrongSecret,
                "The receiver's secret has white space around it, perhaps the end of a line. Without \
                 that it is the one that signed."
                    .to_owned(),
            );
        }
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
        let signed = dialect.signed(spec, &body).unwrap_or_default();
        let signs = |secret: &Secret| {
            came.contains(&dialect.signature_of(spec, &signed, secret, Keyed::Rightly))
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
        spec: &SignatureSpec,
        secret: &Secret,
        time: Option<bool>,
    ) -> (Finding, String) {
        let computed = self.new.computed.as_deref().map(str::trim);
        let is_computed = |keyed| {
            let made = dialect.expected(spec, &self.received, secret, keyed).ok();
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
