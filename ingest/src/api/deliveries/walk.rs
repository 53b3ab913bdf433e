//! Walks the deliveries of one webhook, newest first, and finds those that have attempts or waits.
//!
//! Attempts and waits have no index by webhook: it would cost every attempt more than these lists
//! are worth. So deliveries are read from the index on (webhook, id), as
//! [`search`](mod@crate::api::deliveries::search) does, and their entries are listed in that order.
//!
//! A walk looks at [`BUDGET`] deliveries at most. It may end before it has found enough. Then its
//! edge says where the next walk begins.

use deadpool_postgres::Client;
use shared::ids::WebhookId;
use uuid::Uuid;

use crate::api::deliveries::search::ranges;
use crate::api::http::problem::Result;

/// The most deliveries that one walk looks at.
const BUDGET: i64 = 5_000;
/// How many deliveries are looked at first if few of them may have what is wanted.
const FIRST: i64 = 500;
/// By how much each further look of a walk grows.
const GROWTH: i64 = 4;

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub attempts: bool,
    pub waits: bool,
    /// The most attempts of one delivery that count, and the most waits.
    pub of_each: i32,
    /// The walk ends when it has found so many entries.
    pub entries: i64,
}

/// Which deliveries to walk through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Ids from this one on.
    pub from: Uuid,
    /// Ids before this one.
    pub to: Uuid,
    /// A delivery whose entries don't count, because most of them were on the page before.
    pub begun: Option<Uuid>,
}

/// What a walk has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Deliveries with entries, the newest first.
    pub deliveries: Vec<Uuid>,
    /// The last delivery that was looked at; `None`: the span was read to its end.
    pub edge: Option<Uuid>,
}

/// What one look has shown.
struct Look {
    seen: i64,
    edge: Option<Uuid>,
    /// Deliveries with entries, and how many.
    found: Vec<(Uuid, i32)>,
}

/// Walks until enough entries are found, the span ends, or [`BUDGET`] is used up.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn walk(
    client: &Client,
    webhook: WebhookId,
    wanted: &Wanted,
    span: &Span,
) -> Result<Walked> {
    let mut walked = Walked::default();
    let (mut entries, mut left) = (0, BUDGET);
    // Nearly every delivery has an attempt, and few have a wait.
    let mut count = match wanted.attempts {
        true => wanted.entries,
        false => wanted.entries.max(FIRST),
    };
    for (from, to) in ranges(span.from, span.to) {
        let mut before = to;
        loop {
            let asked = count.min(left);
            let look = look_at_log(client, webhook, wanted, (from, before), asked).await?;
            for (delivery, many) in look.found {
                walked.deliveries.push(delivery);
                if span.begun != Some(delivery) {
                    entries += i64::from(many);
                }
                if entries >= wanted.entries {
                    walked.edge = Some(delivery);
                    return Ok(walked);
                }
            }
            let Some(edge) = look.edge.filter(|_| look.seen == asked) else {
                break;
            };
            left -= look.seen;
            if left <= 0 {
                walked.edge = Some(edge);
                return Ok(walked);
            }
            (before, count) = (edge, count * GROWTH);
        }
    }
    Ok(walked)
}

/// Looks at the next deliveries. `search::look_at_deliveries` says why the webhook is compared
/// three times, and the ids twice.
async fn look_at_log(
    client: &Client,
    webhook: WebhookId,
    wanted: &Wanted,
    (from, before): (Uuid, Uuid),
    count: i64,
) -> Result<Look> {
    let statement = client
        .prepare_cached(
            "-- look_at_log\n\
             SELECT count(*) AS seen, (array_agg(id))[count(*)] AS edge, \
                 array_agg(id) FILTER (WHERE entries > 0) AS found, \
                 array_agg(entries) FILTER (WHERE entries > 0) AS entries \
             FROM (SELECT id, \
                     CASE WHEN $5 THEN least(attempts, $7::int4) ELSE 0 END \
                     + CASE WHEN $6 THEN least(coalesce(jsonb_array_length(waits), 0), $7) ELSE 0 END \
                     AS entries \
                 FROM deliveries \
                 WHERE (webhook_id, id) >= ($1::uuid, $2::uuid) AND (webhook_id, id) <= ($1, $3::uuid) \
                   AND webhook_id >= $1 AND webhook_id <= $1 AND id >= $2 AND id < $3 \
                 ORDER BY webhook_id DESC, id DESC LIMIT $4) d",
        )
        .await?;
    let row = client
        .query_one(
            &statement,
            &[
                &webhook,
                &from,
                &before,
                &count,
                &wanted.attempts,
                &wanted.waits,
                &wanted.of_each,
            ],
        )
        .await?;
    let found: Option<Vec<Uuid>> = row.get("found");
    let entries: Option<Vec<i32>> = row.get("entries");
    let entries = entries.unwrap_or_default();
    Ok(Look {
        seen: row.get("seen"),
        edge: row.get("edge"),
        found: found.unwrap_or_default().into_iter().zip(entries).collect(),
    })
}
