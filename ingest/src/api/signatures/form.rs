//! What is asked and answered when a signature is checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::ids::{DeliveryId, WebhookId};
use utoipa::ToSchema;

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
