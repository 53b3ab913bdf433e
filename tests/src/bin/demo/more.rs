//! Something to look at on each page of the console: a described type, an event that a filter
//! leaves out, a dead letter, a replay.
//!
//! Nothing here waits for its result: `make run` stays as fast as it was.

use anyhow::ensure;
use harness::producer::{Producer, Publication};
use harness::service::ask;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::stage::Place;

/// Gets orders of a thousand and more, and so none of the demonstration's.
pub(crate) const PICKY: (&str, &str) = ("Big orders only, by its filter", "/big");

/// Its filter.
pub(crate) fn big_orders() -> Value {
    json!({"filters": {"total": {"$gte": 1000}}})
}

/// A type in the catalogue, which the demonstration's event of that type conforms to.
pub(crate) async fn describe(place: &Place, token: &str) -> anyhow::Result<()> {
    let known = json!({
        "description": "An order is paid: pick it and pack it.",
        "schema": {
            "type": "object",
            "required": ["order", "method"],
            "properties": {
                "order": {"type": "integer", "description": "The order's number."},
                "method": {"enum": ["card", "invoice"], "description": "How it was paid."}
            }
        },
        "example": {"order": 1001, "method": "card"}
    });
    let url = format!("http://{}/api/v1/event-types/order.paid", place.api);
    let answer = ask(&url, token, "PUT", Some(&known)).await?;
    ensure!(
        answer.status < 300,
        "describing a type: {} {}",
        answer.status,
        answer.body
    );
    Ok(())
}

/// Publishes what isn't an event: it becomes a dead letter.
pub(crate) async fn dead_letter(producer: &Producer, tenant: &str, id: &str) -> anyhow::Result<()> {
    let broken = Publication::json(tenant, "order.paid", id, "{\"order\": 1001, ");
    producer.publish(&broken).await
}

/// Sends one of the events again.
pub(crate) async fn replay(
    place: &Place,
    token: &str,
    webhook: &str,
    event_type: &str,
) -> anyhow::Result<()> {
    // An hour ago the shop may have had other events of an earlier run.
    let since = OffsetDateTime::now_utc() - Duration::minutes(1);
    let wanted = json!({
        "since": since.format(&Rfc3339)?,
        "status": ["delivered"],
        "event_types": [event_type],
    });
    let url = format!("http://{}/api/v1/webhooks/{webhook}/replay", place.api);
    let answer = ask(&url, token, "POST", Some(&wanted)).await?;
    // An earlier run's may still be going on.
    ensure!(
        answer.status < 300 || answer.status == 409,
        "replaying: {} {}",
        answer.status,
        answer.body
    );
    Ok(())
}
