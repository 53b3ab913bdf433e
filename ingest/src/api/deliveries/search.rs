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

use std::time::Duration;

use deadpool_postgres::Client;
use serde::Deserialize;
use shared::clock;
use shared::ids::{
    DeliveryId, EventId, Malformed, Tenant, WebhookId, first_uuid_at, same_millisecond, time_of,
};
use time::Time;
use tokio_postgres::Row;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::api::deliveries::merge::{Look, Merge, Seen};
use crate::api::deliveries::view::{COLUMNS, PROCESSING};
use crate::api::events::by_id::uids_of_event;
use crate::api::http::problem::Result;
use crate::api::http::request::Page;
use crate::invalid::{Gathered, Invalid, Invalids};
use crate::log_filter::{LogFilter, Source, listed, passes};
use crate::timestamp::Timestamp;

/// The most deliveries that one request looks at.
const BUDGET: usize = 5_000;

/// The most webhooks that a list can be narrowed to.
const MAX_WEBHOOKS: usize = 100;

/// How far the clocks of replicas may be apart.
const CLOCKS: Duration = Duration::from_secs(600);
/// In days: what is older than that is looked at together.
const OLDEST_RANGE: i64 = 40;
/// How many deliveries are read first if few of them may pass the filters.
const FIRST: usize = 500;

/// The states that can be searched for.
pub const STATES: [&str; 6] = [
    "queued",
    "retrying",
    "delivered",
    "failed",
    "expired",
    "cancelled",
];
/// A word for states, and the states.
type Word = (&'static str, &'static [&'static str]);
/// The states of deliveries that aren't finished.
const OPEN: [&str; 2] = ["queued", "retrying"];
/// Other words for states.
const OF_DELIVERIES: [Word; 2] = [("success", &["delivered"]), ("pending", &OPEN)];
/// The words of the short log.
const OF_LOGS: [Word; 3] = [
    ("success", &["delivered"]),
    ("pending", &OPEN),
    ("failed", &["failed", "expired", "cancelled"]),
];
/// The states that the index `deliveries_in_trouble` contains.
const IN_TROUBLE: [&str; 4] = ["retrying", "failed", "expired", "cancelled"];

/// Which deliveries to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeliveryQuery {
    /// `queued`, `retrying`, `delivered` (or `success`), `failed`, `expired`,
    /// `cancelled`; several with commas between them. `pending` is `queued` and `retrying`;
    /// `processing` is those of them whose next attempt is due.
    #[param(
        pattern = "^(queued|retrying|delivered|success|failed|expired|cancelled|pending|processing)(,(queued|retrying|delivered|success|failed|expired|cancelled|pending|processing))*$"
    )]
    pub status: Option<String>,
    /// An event type or a pattern such as `order.*`; several with commas between them.
    #[param(example = "order.*,user.created")]
    pub event_type: Option<String>,
    /// Only of this webhook; several with commas between them, at most 100.
    #[param(example = "wh_01kb4v2p8zf5sttdw3m8e7h2xk")]
    pub webhook_id: Option<String>,
    /// Only of events that were accepted at this time or later.
    pub since: Option<Timestamp>,
    /// Only of events that were accepted before this time.
    pub until: Option<Timestamp>,
    /// The HTTP status that the last attempt was answered with, a class such as `5xx`, or
    /// `none`: there was no answer. Several with commas between them.
    #[param(
        pattern = "^([1-5]([0-9]{2}|xx)|none)(,([1-5]([0-9]{2}|xx)|none))*$",
        example = "5xx,none"
    )]
    pub response_code: Option<String>,
    /// The outcome of the last attempt: `success`, `redirect`, `client_error`, `server_error`,
    /// `timeout`, `dns`, `connect`, `tls`, `broken` or `forbidden`; several with commas
    /// between them.
    #[param(
        pattern = "^(success|redirect|client_error|server_error|timeout|dns|connect|tls|broken|forbidden)(,(success|redirect|client_error|server_error|timeout|dns|connect|tls|broken|forbidden))*$",
        example = "timeout,tls"
    )]
    pub outcome: Option<String>,
    /// Only of this event.
    #[param(value_type = Option<EventId>)]
    pub event_id: Option<String>,
    /// The most entries of the page.
    #[param(minimum = 1, maximum = 250, default = 50)]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page.
    pub cursor: Option<String>,
}

/// A filter within bounds.
pub struct Search {
    states: Option<Vec<&'static str>>,
    /// Only deliveries whose next attempt is due.
    due: bool,
    filter: LogFilter,
    /// Only of these webhooks.
    pub webhooks: Option<Vec<WebhookId>>,
    event: Option<EventId>,
    /// Ids from this one on.
    from: Uuid,
    /// Ids before this one.
    to: Uuid,
    limit: i64,
}

/// A page of deliveries.
pub struct DeliveryRows {
    /// Columns of [`COLUMNS`].
    pub rows: Vec<Row>,
    /// Where the next page begins, if there may be one.
    pub next: Option<DeliveryId>,
}

impl DeliveryQuery {
    /// Checks every parameter.
    ///
    /// # Errors
    /// Names each that is wrong, and its bound.
    pub fn check(self) -> std::result::Result<Search, Invalids> {
        self.check_with(&OF_DELIVERIES)
    }

    /// The same for the short log, whose `failed` is any end but success.
    ///
    /// # Errors
    /// Names each that is wrong, and its bound.
    pub fn check_as_log(self) -> std::result::Result<Search, Invalids> {
        self.check_with(&OF_LOGS)
    }

    fn check_with(self, words: &[Word]) -> std::result::Result<Search, Invalids> {
        let mut wrong = Gathered::default();
        let states = self.status.map(|text| states(&text, words)).transpose();
        let (states, due) = wrong.take(states).unzip();
        let filter = wrong.take(LogFilter::read(
            (
                Source::Parameter("event_type"),
                listed(self.event_type).as_deref(),
            ),
            (
                Source::Parameter("response_code"),
                listed(self.response_code).as_deref(),
            ),
            (
                Source::Parameter("outcome"),
                listed(self.outcome).as_deref(),
            ),
        ));
        let webhooks = listed(self.webhook_id).as_deref().map(webhooks);
        let webhooks = wrong.take(webhooks.transpose());
        let event = self.event_id.map(|text| text.parse()).transpose();
        let event = wrong.take(event.map_err(|error: Malformed| Invalid::new("event_id", error)));
        let page = Page {
            limit: self.limit,
            cursor: self.cursor,
        };
        let (limit, before) = wrong.take(page.read::<DeliveryId>());
        let until = self.until.map(|Timestamp(at)| first_uuid_at(at));
        let before = before.map(DeliveryId::uuid);
        // Future days have partitions, too, and planning with them costs more than reading.
        let to_come = first_uuid_at(clock::now() + CLOCKS);
        wrong.finish(Search {
            states,
            due: due.unwrap_or_default(),
            filter,
            webhooks,
            event,
            from: self
                .since
                .map_or(Uuid::nil(), |Timestamp(at)| first_uuid_at(at)),
            to: until.into_iter().chain(before).fold(to_come, Uuid::min),
            limit,
        })
    }
}

fn webhooks(texts: &[String]) -> std::result::Result<Vec<WebhookId>, Invalids> {
    if texts.len() > MAX_WEBHOOKS {
        let bound = format!("must have at most {MAX_WEBHOOKS} entries");
        return Err(Invalid::new("webhook_id", bound).into());
    }
    let mut wrong = Gathered::default();
    let mut webhooks = Vec::with_capacity(texts.len());
    for text in texts {
        let parsed = text.trim().parse::<WebhookId>();
        let parsed = parsed.map_err(|error: Malformed| Invalid::new("webhook_id", error));
        webhooks.extend(wrong.take(parsed.map(Some)));
    }
    wrong.finish(webhooks)
}

/// One state, or several with commas between them. Answers also whether only deliveries whose
/// next attempt is due are meant.
fn states(text: &str, words: &[Word]) -> std::result::Result<(Vec<&'static str>, bool), Invalid> {
    let names: Vec<_> = text.split(',').map(str::trim).collect();
    let mut found = Vec::new();
    for name in &names {
        if *name == PROCESSING {
            found.extend(OPEN);
            continue;
        }
        let own = STATES.iter().find(|state| *state == name);
        match words.iter().find(|(word, _)| word == name) {
            Some((_, states)) => found.extend(*states),
            None => found.push(*own.ok_or_else(|| unknown(name))?),
        }
    }
    found.sort_unstable();
    found.dedup();
    let due = names.contains(&PROCESSING);
    if due && names.len() > 1 {
        let alone = "`processing` can't be combined with others";
        return Err(Invalid::new("status", alone));
    }
    Ok((found, due))
}

fn unknown(name: &str) -> Invalid {
    let others = STATES.iter().chain(&["success", "pending", PROCESSING]);
    let all: Vec<_> = others.copied().collect();
    Invalid::new(
        "status",
        format!("`{name}` is not one of {}", all.join(", ")),
    )
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

/// From the first id of the lowest id's millisecond to the last id of the highest's. The events of
/// deliveries and the deliveries of events are in this range. `None`: there are no ids.
fn milliseconds_of(ids: &[Uuid]) -> Option<(Uuid, Uuid)> {
    let (first, last) = (ids.iter().min()?, ids.iter().max()?);
    Some((same_millisecond(*first).0, same_millisecond(*last).1))
}

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

/// Splits the ids from `from` up to, but without, `to` into ranges, the newest first: the last day,
/// the day before, three days, nine days, 27 days, the rest. A range begins at midnight, as
/// partitions do.
fn ranges(from: Uuid, to: Uuid) -> Vec<(Uuid, Uuid)> {
    let midnight = time_of(to).replace_time(Time::MIDNIGHT);
    let (mut ranges, mut end, mut age) = (Vec::new(), to, 0);
    while end > from {
        let begin = match age <= OLDEST_RANGE {
            true => first_uuid_at(midnight - time::Duration::days(age)).max(from),
            false => from,
        };
        if begin < end {
            ranges.push((begin, end));
        }
        (end, age) = (begin, age * 3 + 1);
    }
    ranges
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_days_and_leave_nothing_out() {
        let at = |text: &str| {
            let at =
                time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
            first_uuid_at(at.unwrap())
        };
        let days = |from: Uuid, to: Uuid| {
            let ranges = ranges(from, to);
            let days = ranges
                .iter()
                .map(|(from, to)| (time_of(*to) - time_of(*from)).whole_hours());
            assert!(
                ranges.windows(2).all(|pair| pair[0].0 == pair[1].1),
                "{ranges:?}"
            );
            let ends = ranges.first().zip(ranges.last());
            assert!(ends.is_none_or(|(first, last)| first.1 == to && last.0 == from));
            days.collect::<Vec<_>>()
        };
        let now = at("2026-11-30T06:00:00Z");
        assert_eq!(days(at("2026-11-01T00:00:00Z"), now), [6, 24, 72, 216, 384]);
        assert_eq!(days(at("2026-11-28T12:00:00Z"), now), [6, 24, 12]);
        assert_eq!(days(at("2026-11-30T05:00:00Z"), now), [1]);
        let midnight = at("2026-11-30T00:00:00Z");
        assert_eq!(days(at("2026-11-28T00:00:00Z"), midnight), [24, 24]);
        assert!(days(now, midnight).is_empty());
        assert!(days(now, now).is_empty());
        assert_eq!(days(Uuid::nil(), now).len(), 6);
        // Made-up ids of impossible times.
        assert_eq!(days(Uuid::nil(), Uuid::max()).len(), 1);
    }
}
