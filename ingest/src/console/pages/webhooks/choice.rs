//! Which webhooks a list shows, and in which order.

use shared::ids::EventType;

use crate::api::webhooks::health::Health;
use crate::api::webhooks::view::WebhookView;
use crate::matching::Pattern;

pub(super) fn health_key(webhook: &WebhookView) -> &'static str {
    match (webhook.status, webhook.health) {
        ("active", Health::Failing) => "failing",
        ("active", Health::Degraded) => "degraded",
        ("active", Health::Healthy) => "healthy",
        ("active", Health::Unused) => "unused",
        (status, _) => status,
    }
}

/// What needs attention comes first: below 4 something does.
pub fn urgency(webhook: &WebhookView) -> u8 {
    match health_key(webhook) {
        "disabled" => 0,
        "failing" => 1,
        // Its circuit breaker has opened, and its figures may not show it yet.
        "degraded" | "healthy" | "unused" if webhook.down_since.is_some() => 1,
        "degraded" => 2,
        "paused" => 3,
        "healthy" => 4,
        "unused" => 5,
        _ => 6,
    }
}

pub(super) fn contains(webhook: &WebhookView, text: &str) -> bool {
    let text = text.to_lowercase();
    let has = |value: &str| value.to_lowercase().contains(&text);
    has(&webhook.description)
        || has(&webhook.url)
        || webhook.events.iter().any(|pattern| has(pattern))
}

pub(super) fn listens_to(webhook: &WebhookView, name: &EventType) -> bool {
    pattern_for(webhook, name.as_str()).is_some()
}

/// The first of its patterns that listens to this type.
pub fn pattern_for<'a>(webhook: &'a WebhookView, event_type: &str) -> Option<&'a str> {
    let listens = |text: &&String| {
        text.parse::<Pattern>()
            .is_ok_and(|pattern| pattern.listens_to(event_type))
    };
    webhook.events.iter().find(listens).map(String::as_str)
}
