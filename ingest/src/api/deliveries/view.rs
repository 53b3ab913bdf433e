//! A delivery and its attempts as the API shows them.
//!
//! One representation serves all lists. It has each member under the names that
//! the supported systems use.

use std::collections::HashMap;

use deadpool_postgres::Client;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use shared::clock;
use shared::dialect::{Additions, Dialects};
use shared::ids::{DeliveryId, EventId, EventType, EventUid, WebhookId};
use time::OffsetDateTime;
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::api::beside::{Beside, beside};
use crate::api::http::problem::Result;
use crate::api::openapi::words::{
    AttemptOutcome, DeliveryStatus, LogStatus, NextAttemptReason, WaitReason,
};
use crate::timestamp::Timestamp;

/// The status of an open delivery whose next attempt is due, in dialects that show it.
pub const PROCESSING: &str = "processing";
/// The largest data of an event that a list shows, in bytes, where a dialect shows it.
pub const DATA_IN_LISTS: usize = 16 * 1024;
/// How much of an answer's body a list shows, in bytes.
const EXCERPT: usize = 1024;

/// One event on its way to one webhook.
#[derive(Serialize, ToSchema)]
pub struct Delivery {
    /// The same in every attempt.
    pub id: DeliveryId,
    /// Where it goes.
    pub webhook_id: WebhookId,
    /// The producer's id of the event.
    pub event_id: EventId,
    /// The event's type.
    pub event_type: EventType,
    /// The state.
    #[schema(value_type = DeliveryStatus)]
    pub status: String,
    /// How many attempts were made.
    pub attempts: i16,
    /// When the event was accepted.
    pub queued_at: Timestamp,
    /// The same as `queued_at`.
    pub created_at: Timestamp,
    /// When the last attempt began.
    #[schema(required)]
    pub processing_started_at: Option<Timestamp>,
    /// When the endpoint took it.
    #[schema(required)]
    pub delivered_at: Option<Timestamp>,
    /// When it was given up: `failed`, `expired` or `cancelled`.
    #[schema(required)]
    pub failed_at: Option<Timestamp>,
    /// `delivered_at` or `failed_at`.
    #[schema(required)]
    pub finished_at: Option<Timestamp>,
    /// When the next attempt is due.
    #[schema(required)]
    pub next_attempt_at: Option<Timestamp>,
    /// Why then: `first_attempt`, `schedule`, `retry_after`, `restarted`, or what
    /// it was put off for (`endpoint_full`, `rate_limited`, …).
    #[schema(required, value_type = Option<NextAttemptReason>)]
    pub next_attempt_reason: Option<String>,
    /// The HTTP status that the last attempt was answered with.
    #[schema(required, example = 200)]
    pub response_code: Option<i16>,
    /// How long the last attempt took.
    #[schema(required)]
    pub response_time_ms: Option<i32>,
    /// The beginning of that answer, as text.
    #[schema(required)]
    pub response_body: Option<String>,
    /// Why the last attempt received no answer.
    #[schema(required)]
    pub error: Option<String>,
    /// The same as `error`.
    #[schema(required)]
    pub error_message: Option<String>,
    /// The members that the dialect's system has in addition.
    #[serde(flatten)]
    #[schema(ignore)]
    beside: Beside,
    #[serde(skip)]
    event_uid: EventUid,
    /// Whether `beside` has the event's data.
    #[serde(skip)]
    shows_data: bool,
}

/// A delivery with its attempts.
#[derive(Serialize, ToSchema)]
pub struct DeliveryDetail {
    /// The delivery.
    #[serde(flatten)]
    pub delivery: Delivery,
    /// From the first to the last; the latest 100.
    pub attempt_log: Vec<Attempt>,
    /// When it was put off without an attempt, and why; from the first to the last, the
    /// latest 20.
    pub waits: Vec<Wait>,
    /// When it is given up if no attempt has succeeded by then, because its event is too old;
    /// `null`: it is finished.
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
}

/// A time in which a delivery was put off again and again for the same reason. It cost no
/// attempt.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryWait)]
pub struct Wait {
    /// `endpoint_full`, `endpoint_down`, `rate_limited`, `paused`, `in_flight`,
    /// `unknown_webhook`, `unknown_dialect` or `parked`.
    #[schema(value_type = WaitReason)]
    pub reason: String,
    /// How many attempts had been made before.
    #[schema(example = 2)]
    pub after_attempt: i16,
    /// When it was put off for the first time.
    pub first_at: Timestamp,
    /// Until when it was put off the last time; `null`: until its webhook is active again.
    #[schema(required)]
    pub until: Option<Timestamp>,
    /// How often it was put off.
    #[schema(example = 5)]
    pub times: i32,
}

/// One request to an endpoint, and what came back.
#[derive(Serialize, ToSchema)]
pub struct Attempt {
    /// From 1.
    pub n: i16,
    pub started_at: Timestamp,
    pub duration_ms: i32,
    /// How it ended.
    #[schema(value_type = AttemptOutcome)]
    pub outcome: String,
    /// Always POST.
    #[schema(example = "POST")]
    pub request_method: &'static str,
    /// Host and port of the URL.
    #[schema(required, example = "example.com:443")]
    pub request_host: Option<String>,
    /// Names and values. The values of the webhook's own headers are left out.
    #[schema(required, value_type = Option<Vec<Vec<String>>>)]
    pub request_headers: Option<Value>,
    /// How long the request's body was.
    #[schema(required)]
    pub request_bytes: Option<i32>,
    /// The request's body. In debug mode as it was stored; else `composed` again, or `null` if
    /// that isn't possible: the event or the webhook is gone, its dialect was changed, or the
    /// bodies of later attempts are more than 2 MiB.
    #[schema(required)]
    pub request_body: Option<String>,
    /// Whether `request_body` wasn't stored, but composed again as it was sent then.
    pub composed: bool,
    #[schema(required, example = 200)]
    pub response_code: Option<i16>,
    /// Names and values.
    #[schema(required, value_type = Option<Vec<Vec<String>>>)]
    pub response_headers: Option<Value>,
    /// The first 16 KiB of it, as text; 64 KiB in debug mode.
    #[schema(required)]
    pub response_body: Option<String>,
    /// The IP address and port that were connected to.
    #[schema(required)]
    pub remote_address: Option<String>,
    /// Why no answer was received.
    #[schema(required)]
    pub error: Option<String>,
    /// For when the attempt after this one was planned.
    #[schema(required)]
    pub next_attempt_at: Option<Timestamp>,
    /// What said so: `schedule` or `retry_after`.
    #[schema(required, extensions(("x-extensible-enum" = json!(["schedule", "retry_after"]))))]
    pub next_attempt_reason: Option<String>,
    /// Whether the webhook was in debug mode.
    pub debug: bool,
}

/// A delivery in few words.
#[derive(Serialize, ToSchema)]
pub struct LogEntry {
    pub delivery_id: DeliveryId,
    pub event_id: EventId,
    pub event_type: EventType,
    /// The state in the words of AuraConnect.
    #[schema(value_type = LogStatus)]
    pub status: &'static str,
    pub attempts: i16,
    /// The HTTP status that the last attempt was answered with.
    #[schema(required, example = 200)]
    pub response_code: Option<i16>,
    /// How long the last attempt took.
    #[schema(required, example = 150)]
    pub response_time_ms: Option<i32>,
    /// When the last attempt began; when the event was accepted, if there is none.
    pub timestamp: Timestamp,
    /// Whether the last attempt was in debug mode: everything is in the delivery.
    pub debug: bool,
}

/// What [`deliveries`] and [`LogEntry::from_row`] read, of a delivery `d`, its event
/// `e` and its last attempt `a` (see [`crate::api::deliveries::search::WITH_ITS_EVENT`]).
pub const COLUMNS: &str = "d.id, d.webhook_id, d.event_type, d.state, d.attempts, \
    d.attempts_before, d.restarted_at, d.due_at, d.deferred_because, d.finished_at, d.status_code, \
    d.error, e.id AS event_id, a.started_at, a.duration_ms, a.next_attempt_reason, \
    substring(a.response_body FOR 1024) AS response_excerpt, coalesce(a.debug, false) AS debug, \
    d.event_uid, \
    (SELECT coalesce(w.dialect, t.dialect) FROM webhooks w JOIN tenants t ON t.id = w.tenant \
     WHERE w.id = d.webhook_id) AS dialect";

impl Delivery {
    fn from_row(row: &Row, additions: &Additions) -> Self {
        let id: DeliveryId = row.get("id");
        let mut status: String = row.get("state");
        let finished_at: Option<Timestamp> = row.get("finished_at");
        let error: Option<String> = row.get("error");
        let excerpt = row.get::<_, Option<&[u8]>>("response_excerpt");
        let delivered = status == "delivered";
        if additions.processing && is_under_way(row) {
            PROCESSING.clone_into(&mut status);
        }
        Self {
            id,
            webhook_id: row.get("webhook_id"),
            event_id: row.get("event_id"),
            event_type: row.get("event_type"),
            attempts: row.get("attempts"),
            queued_at: Timestamp(id.accepted_at()),
            created_at: Timestamp(id.accepted_at()),
            processing_started_at: row.get("started_at"),
            delivered_at: finished_at.filter(|_| delivered),
            failed_at: finished_at.filter(|_| !delivered),
            finished_at,
            next_attempt_at: row.get("due_at"),
            next_attempt_reason: next_attempt_reason(row),
            response_code: row.get("status_code"),
            response_time_ms: row.get("duration_ms"),
            response_body: excerpt.map(|bytes| text(&bytes[..bytes.len().min(EXCERPT)])),
            error_message: error.clone(),
            error,
            status,
            beside: Beside::new(),
            event_uid: row.get("event_uid"),
            shows_data: additions.show_data(),
        }
    }
}

/// Deliveries as they are shown: with what their dialects add.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn deliveries(
    client: &Client,
    dialects: &Dialects,
    rows: &[Row],
    most_data: usize,
) -> Result<Vec<Delivery>> {
    let none = Additions::default();
    let of_row = |row: &Row| {
        let dialect = row.get::<_, Option<&str>>("dialect");
        let dialect = dialect.and_then(|name| dialects.get(name));
        dialect.map_or(&none, |dialect| dialect.additions())
    };
    let mut deliveries: Vec<_> = rows
        .iter()
        .map(|row| Delivery::from_row(row, of_row(row)))
        .collect();
    let data = event_data(client, &deliveries, most_data).await?;
    for (delivery, row) in deliveries.iter_mut().zip(rows) {
        let data = data.get(&delivery.event_uid).map(|data| ("/data", &**data));
        delivery.beside = beside(&of_row(row).delivery, delivery, data);
    }
    Ok(deliveries)
}

/// The data of these deliveries' events, as far as it is shown and not larger than this.
async fn event_data(
    client: &Client,
    deliveries: &[Delivery],
    most: usize,
) -> Result<HashMap<EventUid, Box<RawValue>>> {
    let shown = deliveries.iter().filter(|delivery| delivery.shows_data);
    let uids: Vec<_> = shown.map(|delivery| delivery.event_uid).collect();
    if uids.is_empty() {
        return Ok(HashMap::new());
    }
    let statement = client
        .prepare_cached(
            "-- data_of_deliveries\n\
             SELECT uid, data FROM events WHERE uid = ANY($1) AND octet_length(data) <= $2",
        )
        .await?;
    let rows = client.query(&statement, &[&uids, &(most as i32)]).await?;
    let read = |row: &Row| Some((row.get(0), RawValue::from_string(row.get(1)).ok()?));
    Ok(rows.iter().filter_map(read).collect())
}

/// Whether its next attempt is due, so that it is made now or as soon as a dispatcher takes it.
fn is_under_way(row: &Row) -> bool {
    let due_at: Option<OffsetDateTime> = row.get("due_at");
    let deferred = row.get::<_, Option<&str>>("deferred_because").is_some();
    due_at.is_some_and(|due_at| due_at <= clock::now()) && !deferred
}

/// Why the next attempt comes when it does, if one comes.
fn next_attempt_reason(row: &Row) -> Option<String> {
    if let Some(deferred) = row.get("deferred_because") {
        return Some(deferred);
    }
    row.get::<_, Option<OffsetDateTime>>("due_at")?;
    let (made, before): (i16, i16) = (row.get("attempts"), row.get("attempts_before"));
    let restarted = row
        .get::<_, Option<OffsetDateTime>>("restarted_at")
        .is_some();
    Some(match (made > before, restarted) {
        (true, _) => row
            .get::<_, Option<String>>("next_attempt_reason")
            .unwrap_or_else(|| "schedule".to_owned()),
        (false, true) => "restarted".to_owned(),
        (false, false) => "first_attempt".to_owned(),
    })
}

impl Attempt {
    pub fn from_row(row: &Row) -> Self {
        let body = |column: &str| row.get::<_, Option<&[u8]>>(column).map(text);
        Self {
            n: row.get("n"),
            started_at: row.get("started_at"),
            duration_ms: row.get("duration_ms"),
            outcome: row.get("outcome"),
            request_method: "POST",
            request_host: row.get("request_host"),
            request_headers: row.get("request_headers"),
            request_bytes: row.get("request_bytes"),
            request_body: body("request_body"),
            composed: false,
            response_code: row.get("status_code"),
            response_headers: row.get("response_headers"),
            response_body: body("response_body"),
            remote_address: row.get("remote_address"),
            error: row.get("error"),
            next_attempt_at: row.get("next_attempt_at"),
            next_attempt_reason: row.get("next_attempt_reason"),
            debug: row.get("debug"),
        }
    }
}

impl Wait {
    pub fn from_row(row: &Row) -> Self {
        Self {
            reason: row.get("because"),
            after_attempt: row.get("attempts"),
            first_at: row.get("first_at"),
            until: row.get("until"),
            times: row.get("times"),
        }
    }
}

impl LogEntry {
    pub fn from_row(row: &Row) -> Self {
        let id: DeliveryId = row.get("id");
        let started_at: Option<Timestamp> = row.get("started_at");
        Self {
            delivery_id: id,
            event_id: row.get("event_id"),
            event_type: row.get("event_type"),
            status: match row.get("state") {
                "delivered" => "success",
                "queued" | "retrying" => "pending",
                _ => "failed",
            },
            attempts: row.get("attempts"),
            response_code: row.get("status_code"),
            response_time_ms: row.get("duration_ms"),
            timestamp: started_at.unwrap_or(Timestamp(id.accepted_at())),
            debug: row.get("debug"),
        }
    }
}

/// Whatever an endpoint sent, as text.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
