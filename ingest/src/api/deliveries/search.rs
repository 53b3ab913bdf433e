//! Searches deliveries, at a cost that doesn't grow with their number.
//!
//! A page costs about the same with a million deliveries as with ten thousand,
//! whatever the filters and however many webhooks. Deliveries are read newest
//! first from the index on (webhook, id), or on (webhook, state, id) for states
//! that are rare. [`merge`](crate::api::deliveries::merge) says how many to read
//! next of which webhook. Only the rows of the page are read whole.
//!
//! The days of the log are looked at in [`ranges`], the newest first: each day is a partition with
//! indexes of its own, and most pages are full before the second day.
//!
//! A request looks at about [`BUDGET`] deliveries at most. So a page may have fewer
//! than its limit, or none, and still a `next_cursor` to continue with.

mod ids;
mod query;

use deadpool_postgres::Client;
use shared::ids::{DeliveryId, EventId, Tenant, WebhookId};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::api::deliveries::merge::{Look, Merge, Seen};
use crate::api::deliveries::view::COLUMNS;
use crate::api::events::by_id::uids_of_event;
use crate::api::http::problem::Result;
use crate::log_filter::passes;

pub use ids::{end_of_log, milliseconds_of, ranges};
pub use query::{DeliveryQuery, MAX_WEBHOOKS, STATES, Search};

/// The most deliveries that one request looks at.
const BUDGET: usize = 5_000;

/// How many deliveries are read first if few of them may pass the filters.
const FIRST: usize = 500;

/// The states that the index `deliveries_in_trouble` contains.
const IN_TROUBLE: [&str; 4] = ["retrying", "failed", "expired", "cancelled"];

/// A page of deliveries.
pub struct DeliveryRows {
    /// Columns of [`COLUMNS`].
    pub rows: Vec<Row>,
    /// Where the next page begins, if there may be one.
    pub next: Option<DeliveryId>,
}

/// Finds a page of these webhooks' deliveries.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn search(
    client: &Client,
    tenant: &Tenant,
    webhooks: &[WebhookId],
    search: &Search,
) -> Result<DeliveryRows> {
    if let Some(event) = &search.event {
        return deliveries_of_event(client, tenant, webhooks, event, search).await;
    }
    list_deliveries(client, webhooks, search).await
}

/// Whether a delivery's next attempt is due, in addition to other conditions.
const IS_DUE: &str = " AND due_at <= now() AND deferred_because IS NULL";

/// Joins the event and the last attempt to deliveries `d`. A subquery with a limit is looked up
/// row by row, whatever the planner assumes about a fresh partition. `$2` and `$3` are the
/// [`milliseconds_of`] the deliveries: other days are left out at planning.
pub const WITH_ITS_EVENT: &str = "\
    CROSS JOIN LATERAL (SELECT * FROM events \
        WHERE uid = d.event_uid AND uid >= $2 AND uid <= $3 LIMIT 1) e \
    LEFT JOIN LATERAL (SELECT * FROM attempts \
        WHERE delivery_id = d.id AND n = d.attempts \
            AND delivery_id >= $2 AND delivery_id <= $3 LIMIT 1) a ON true";

async fn list_deliveries(
    client: &Client,
    webhooks: &[WebhookId],
    search: &Search,
) -> Result<DeliveryRows> {
    let by_index = match search.states.as_deref() {
        Some([state]) if IN_TROUBLE.contains(state) => Some(*state),
        _ => None,
    };
    let wanted = search.limit as usize + 1;
    let all_are_wanted = (search.states.is_none() || by_index.is_some()) && search.filter.is_all();
    let first = if all_are_wanted {
        wanted
    } else {
        wanted.max(FIRST)
    };
    let (mut ids, mut edge, mut budget) = (Vec::new(), None, BUDGET);
    for (from, to) in ranges(search.from, search.to) {
        let mut merge = Merge::new(webhooks, to, wanted - ids.len(), first, budget);
        while let Some(look) = merge.next_look() {
            let seen = look_at_deliveries(client, &look, by_index, (from, to), search).await?;
            merge.add(&look, seen);
        }
        budget = merge.budget();
        let found;
        (found, edge) = merge.found();
        ids.extend(found);
        // The edge of a range that wasn't read to its end is where the next page begins.
        if ids.len() >= wanted || edge.is_some() {
            break;
        }
        if budget == 0 {
            edge = Some(from).filter(|from| *from > search.from);
            break;
        }
    }
    let has_more = ids.len() > search.limit as usize;
    ids.truncate(search.limit as usize);
    let last = ids.last().copied().filter(|_| has_more);
    Ok(DeliveryRows {
        rows: read_deliveries(client, &ids).await?,
        next: last.or(edge).map(DeliveryId::from_uuid),
    })
}

/// Reads the next deliveries of some webhooks. Answers how many were read, the last of them,
/// and the ids of those that pass the filters that no index covers.
async fn look_at_deliveries(
    client: &Client,
    look: &Look,
    by_index: Option<&str>,
    (from, to): (Uuid, Uuid),
    search: &Search,
) -> Result<Vec<Seen>> {
    let by_looking = search.states.as_ref().filter(|_| by_index.is_none());
    let Look {
        webhooks,
        before,
        count,
    } = look;
    // The bounds of the ids are parameters, so days outside are left out at planning: planning for
    // a month of days takes ten times as long as for one. But they make the primary key look good
    // to the planner, and it would be read to the end of the range, whosever the deliveries are. So
    // rows are compared, and ordered, by all columns of the index that is meant. And the webhook is
    // a range of one column: the planner expects a two-hundredth of all rows in such a range, and
    // a ninth in a range of rows. An equality would remove the webhook from the order, and then the
    // primary key has the order, too.
    // What isn't asked for is planned away: then only the index is read.
    let due = if search.due { IS_DUE } else { "" };
    let (columns, state, newest_first) = match by_index {
        None => ("webhook_id, id", "", "webhook_id DESC, id DESC"),
        Some(_) => (
            "webhook_id, state, id",
            "$5::text, ",
            "webhook_id DESC, state DESC, id DESC",
        ),
    };
    let passes = passes(8);
    let statement = client
        .prepare_cached(&format!(
            "-- look_at_deliveries\n\
             SELECT s.* FROM unnest($1::uuid[], $2::uuid[]) \
                 WITH ORDINALITY AS w (id, before, n) \
             CROSS JOIN LATERAL ( \
                 SELECT count(*) AS seen, (array_agg(id))[1] AS newest, \
                     (array_agg(id))[count(*)] AS edge, \
                     array_agg(id) FILTER (WHERE passes) AS passing \
                 FROM (SELECT id, coalesce( \
                         ($6::text[] IS NULL OR state = ANY($6)) AND {passes}{due}, false) AS passes \
                     FROM deliveries d \
                     WHERE ({columns}) >= (w.id, {state}$3::uuid) AND ({columns}) < (w.id, {state}w.before) \
                       AND webhook_id >= w.id AND webhook_id <= w.id \
                       AND ($5::text IS NULL OR state = $5) AND id < $7 AND id >= $3 \
                     ORDER BY {newest_first} LIMIT $4) d) s \
             ORDER BY w.n"
        ))
        .await?;
    let rows = client
        .query(
            &statement,
            &[
                &webhooks,
                &before,
                &from,
                &(*count as i64),
                &by_index,
                &by_looking,
                &to,
                &search.filter.exact(),
                &search.filter.prefixes(),
                &search.filter.codes,
                &search.filter.outcomes,
            ],
        )
        .await?;
    let seen = rows.iter().map(|row| Seen {
        count: row.get::<_, i64>("seen") as usize,
        newest: row.get("newest"),
        edge: row.get("edge"),
        passing: row.get::<_, Option<_>>("passing").unwrap_or_default(),
    });
    Ok(seen.collect())
}

async fn read_deliveries(client: &Client, ids: &[Uuid]) -> Result<Vec<Row>> {
    let Some((first, last)) = milliseconds_of(ids) else {
        return Ok(Vec::new());
    };
    let statement = client
        .prepare_cached(&format!(
            "-- read_deliveries\n\
             WITH d AS (SELECT * FROM deliveries WHERE id = ANY($1)) \
             SELECT {COLUMNS} FROM d {WITH_ITS_EVENT} ORDER BY d.id DESC"
        ))
        .await?;
    Ok(client.query(&statement, &[&ids, &first, &last]).await?)
}

/// An event's deliveries share its millisecond.
async fn deliveries_of_event(
    client: &Client,
    tenant: &Tenant,
    webhooks: &[WebhookId],
    event: &EventId,
    search: &Search,
) -> Result<DeliveryRows> {
    let events = uids_of_event(client, tenant, event).await?;
    let events: Vec<_> = events.iter().map(|event| event.uuid()).collect();
    let Some((first, last)) = milliseconds_of(&events) else {
        return Ok(DeliveryRows {
            rows: Vec::new(),
            next: None,
        });
    };
    let passes = passes(9);
    let due = if search.due { IS_DUE } else { "" };
    let statement = client
        .prepare_cached(&format!(
            "-- deliveries_of_event\n\
             WITH d AS ( \
                 SELECT s.* FROM unnest($4::uuid[]) AS e (uid) CROSS JOIN LATERAL ( \
                     SELECT * FROM deliveries d \
                     WHERE id BETWEEN millisecond_floor(e.uid) AND millisecond_ceiling(e.uid) \
                       AND event_uid = e.uid AND id >= $2 AND id <= $3 \
                       AND id >= $5 AND id < $6 AND webhook_id = ANY($1) \
                       AND ($7::text[] IS NULL OR state = ANY($7)) \
                       AND {passes}{due} \
                     ORDER BY id DESC LIMIT $8) s \
                 ORDER BY s.id DESC LIMIT $8 \
             ) \
             SELECT {COLUMNS} FROM d {WITH_ITS_EVENT} ORDER BY d.id DESC"
        ))
        .await?;
    let mut rows = client
        .query(
            &statement,
            &[
                &webhooks,
                &first,
                &last,
                &events,
                &search.from,
                &search.to,
                &search.states,
                &(search.limit + 1),
                &search.filter.exact(),
                &search.filter.prefixes(),
                &search.filter.codes,
                &search.filter.outcomes,
            ],
        )
        .await?;
    let next = cut(&mut rows, search.limit);
    Ok(DeliveryRows { rows, next })
}

/// Drops rows over the limit. Answers the last id that is left, if any was dropped.
fn cut(rows: &mut Vec<Row>, limit: i64) -> Option<DeliveryId> {
    let has_more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    rows.last().filter(|_| has_more).map(|row| row.get("id"))
}
