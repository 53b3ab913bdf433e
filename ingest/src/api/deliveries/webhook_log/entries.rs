//! An attempt and a wait as the lists show them, and how they are read from PostgreSQL.

use deadpool_postgres::Client;
use serde::Serialize;
use shared::ids::{DeliveryId, EventId, EventType};
use tokio_postgres::Row;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api::deliveries::search::milliseconds_of;
use crate::api::deliveries::view::Wait;
use crate::api::deliveries::webhook_log::paging::Part;
use crate::api::http::problem::Result;
use crate::api::openapi::words::AttemptOutcome;
use crate::timestamp::Timestamp;

/// How much of an answer's body a list shows, in bytes.
const EXCERPT: i32 = 1024;

/// The deliveries `$1` as `d`, in their order by `w.place`, each with its event `e`. `$2` and `$3` are
/// the deliveries' milliseconds. Subqueries with a limit are looked up row by row, as in
/// [`search::WITH_ITS_EVENT`](crate::api::deliveries::search::WITH_ITS_EVENT).
const OF_DELIVERIES: &str = "\
    FROM unnest($1::uuid[]) WITH ORDINALITY AS w (id, place) \
    CROSS JOIN LATERAL (SELECT * FROM deliveries \
        WHERE id = w.id AND id >= $2 AND id <= $3 LIMIT 1) d \
    CROSS JOIN LATERAL (SELECT * FROM events \
        WHERE uid = d.event_uid AND uid >= $2 AND uid <= $3 LIMIT 1) e";

/// An attempt as a list shows it. The delivery shows its request and its whole answer.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "delivery_id": "whd_01kb4v2p8zf5sttdw3m8e7h2xk", "event_id": "order-4711-paid",
    "event_type": "order.paid", "n": 2, "started_at": "2026-11-26T10:38:02.118Z",
    "duration_ms": 212, "outcome": "server_error", "response_code": 503,
    "response_body": "upstream connect error", "error": null,
    "next_attempt_at": "2026-11-26T10:43:02.330Z", "next_attempt_reason": "schedule",
    "debug": false,
}))]
pub struct WebhookAttempt {
    pub delivery_id: DeliveryId,
    /// The producer's id of the event.
    pub event_id: EventId,
    pub event_type: EventType,
    /// Which of the delivery's attempts it is, from 1.
    pub n: i16,
    pub started_at: Timestamp,
    pub duration_ms: i32,
    /// How it ended.
    #[schema(value_type = AttemptOutcome)]
    pub outcome: String,
    #[schema(required)]
    pub response_code: Option<i16>,
    /// The first 1,024 bytes of the answer's body, as text.
    #[schema(required)]
    pub response_body: Option<String>,
    /// Why no answer was received.
    #[schema(required)]
    pub error: Option<String>,
    /// For when the attempt after this one was planned.
    #[schema(required)]
    pub next_attempt_at: Option<Timestamp>,
    /// What said so: `schedule` or `retry_after`.
    #[schema(required, extensions(("x-extensible-enum" = json!(["schedule", "retry_after"]))))]
    pub next_attempt_reason: Option<String>,
    /// Whether the webhook was in debug mode: the delivery shows the attempt's request as it was.
    pub debug: bool,
}

/// A time in which one delivery was put off again and again for the same reason. It cost no
/// attempt.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "delivery_id": "whd_01kb4v2p8zf5sttdw3m8e7h2xk", "event_id": "order-4711-paid",
    "event_type": "order.paid", "reason": "endpoint_down", "after_attempt": 2,
    "first_at": "2026-11-26T10:38:07.204Z", "until": "2026-11-26T10:43:02.330Z", "times": 5,
}))]
pub struct WebhookWait {
    pub delivery_id: DeliveryId,
    /// The producer's id of the event.
    pub event_id: EventId,
    pub event_type: EventType,
    #[serde(flatten)]
    pub wait: Wait,
}

/// The attempts of these deliveries, in the deliveries' order, the latest of each first.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn attempts_of(
    client: &Client,
    deliveries: &[Uuid],
    part: &Part,
) -> Result<Vec<WebhookAttempt>> {
    let Some((first, last)) = milliseconds_of(deliveries) else {
        return Ok(Vec::new());
    };
    let statement = client
        .prepare_cached(&format!(
            "-- attempts_of_deliveries\n\
             SELECT d.id, d.event_type, e.id AS event_id, a.n, a.started_at, a.duration_ms, a.outcome, \
                 a.status_code, a.error, a.next_attempt_at, a.next_attempt_reason, a.debug, \
                 substring(a.response_body FOR $8::int4) AS response_excerpt \
             {OF_DELIVERIES} \
             CROSS JOIN LATERAL (SELECT * FROM attempts \
                 WHERE delivery_id = w.id AND delivery_id >= $2 AND delivery_id <= $3 \
                   AND (w.id <> $4::uuid OR n < $5::int8) ORDER BY n DESC LIMIT $6) a \
             ORDER BY w.place, a.n DESC LIMIT $7"
        ))
        .await?;
    let rows = client
        .query(
            &statement,
            &[
                &deliveries,
                &first,
                &last,
                &part.begun.0,
                &part.begun.1,
                &part.of_each,
                &part.most,
                &EXCERPT,
            ],
        )
        .await?;
    Ok(rows.iter().map(WebhookAttempt::from_row).collect())
}

/// The waits of these deliveries, in the deliveries' order, the latest of each first.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn waits_of(
    client: &Client,
    deliveries: &[Uuid],
    part: &Part,
) -> Result<Vec<WebhookWait>> {
    let Some((first, last)) = milliseconds_of(deliveries) else {
        return Ok(Vec::new());
    };
    let statement = client
        .prepare_cached(&format!(
            "-- waits_of_deliveries\n\
             SELECT d.id, d.event_type, e.id AS event_id, \
                 a.because, a.attempts, a.first_at, a.until, a.times \
             {OF_DELIVERIES} \
             CROSS JOIN LATERAL (SELECT a.* FROM jsonb_to_recordset(d.waits) \
                     AS a (because text, attempts smallint, first_at timestamptz, until timestamptz, \
                           times integer) \
                 WHERE w.id <> $4::uuid \
                    OR round(extract(epoch FROM a.first_at) * 1000000)::int8 < $5::int8 \
                 ORDER BY a.first_at DESC LIMIT $6) a \
             ORDER BY w.place, a.first_at DESC LIMIT $7"
        ))
        .await?;
    let rows = client
        .query(
            &statement,
            &[
                &deliveries,
                &first,
                &last,
                &part.begun.0,
                &part.begun.1,
                &part.of_each,
                &part.most,
            ],
        )
        .await?;
    let read = |row: &Row| WebhookWait {
        delivery_id: row.get("id"),
        event_id: row.get("event_id"),
        event_type: row.get("event_type"),
        wait: Wait::from_row(row),
    };
    Ok(rows.iter().map(read).collect())
}

impl WebhookAttempt {
    fn from_row(row: &Row) -> Self {
        let answer: Option<&[u8]> = row.get("response_excerpt");
        Self {
            delivery_id: row.get("id"),
            event_id: row.get("event_id"),
            event_type: row.get("event_type"),
            n: row.get("n"),
            started_at: row.get("started_at"),
            duration_ms: row.get("duration_ms"),
            outcome: row.get("outcome"),
            response_code: row.get("status_code"),
            response_body: answer.map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
            error: row.get("error"),
            next_attempt_at: row.get("next_attempt_at"),
            next_attempt_reason: row.get("next_attempt_reason"),
            debug: row.get("debug"),
        }
    }
}
