//! What goes into a dialect, and what comes out of it.

use axum::http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::ids::{DeliveryId, EventId, EventType, ExternalId, Tenant, WebhookId};

/// What is delivered.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The event's id: the same in every attempt and for every webhook.
    pub event_id: &'a EventId,
    /// The event's type.
    pub event_type: &'a EventType,
    /// When it happened.
    pub occurred_at: OffsetDateTime,
    /// The producer's JSON text.
    pub data: &'a str,
    /// The producer's CloudEvents attributes, but for id, time and data.
    pub attributes: Option<&'a Map<String, Value>>,
    /// Whose it is.
    pub tenant: &'a Tenant,
    /// Where it goes.
    pub webhook_id: WebhookId,
    /// What the webhook was called in the system that it comes from.
    pub external_id: Option<&'a ExternalId>,
    /// The same in every attempt.
    pub delivery_id: DeliveryId,
}

/// A request, but for its URL and the webhook's own headers.
#[derive(Debug, Clone)]
pub struct Wire {
    /// The exact bytes that were signed.
    pub body: Vec<u8>,
    /// Including `content-type`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}
