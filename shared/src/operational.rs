//! The types of operational events. They tell a tenant about its own webhooks.
//!
//! `dispatcher` creates these events. `ingest` lets webhooks subscribe to them.

use std::sync::LazyLock;

use crate::ids::EventType;

/// Posthorn disabled a webhook, because of an answer of its endpoint or because it
/// failed for too long.
pub static DISABLED: LazyLock<EventType> = LazyLock::new(|| match "webhook.disabled".parse() {
    Ok(name) => name,
    Err(error) => unreachable!("{error}"),
});
