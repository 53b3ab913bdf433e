//! The statement that writes events and their deliveries.
//!
//! It names the partitions of the day and of the day before. So its cost doesn't depend on the
//! number of days, nothing is planned when it is executed, and one generic plan fits an empty
//! partition as well as a huge one: each table in it has one suitable index.
//!
//! [`of_any_day`] goes through the partitioned tables instead. It is for the end of a day, and for
//! a day without partitions. It is slower, and fails if no partition takes its rows.

use shared::ids::first_uuid_at;
use shared::partitions::Day;
use time::{Date, OffsetDateTime, Time};

/// For the batches of a day (UTC).
pub(super) fn of_day(day: Date) -> String {
    let named = |day: Date| Day::at(OffsetDateTime::new_utc(day, Time::MIDNIGHT));
    let (today, before) = (named(day), named(day.previous_day().unwrap_or(day)));
    // A table that somebody has detached still takes rows, which nobody would find.
    let detached = format!(
        "SELECT FROM pg_class WHERE oid IN ('events{today}'::regclass, 'deliveries{today}'::regclass) \
         AND NOT relispartition"
    );
    let known = format!(
        "SELECT y.uid FROM events{before} y WHERE y.tenant = e.tenant AND y.id = e.id LIMIT 1"
    );
    statement(
        &format!("events{today}"),
        &format!("deliveries{today}"),
        &detached,
        &known,
    )
}

/// The same, whatever partitions there are. It looks into later days, too: a batch that
/// ends its day may have been overtaken by one of the next day with the same event.
pub(super) fn of_any_day(day: Date) -> String {
    let first = |day: Date| first_uuid_at(OffsetDateTime::new_utc(day, Time::MIDNIGHT));
    let before = first(day.previous_day().unwrap_or(day));
    let (today, after) = (first(day), first(day.next_day().unwrap_or(day)));
    let known = format!(
        "SELECT y.uid FROM events y WHERE y.tenant = e.tenant AND y.id = e.id \
         AND (y.uid >= '{before}' AND y.uid < '{today}' OR y.uid >= '{after}') LIMIT 1"
    );
    statement("events", "deliveries", "SELECT WHERE false", &known)
}

// Written so that there is nothing to plan: joins would be nested loops over
// the batch squared, or read all of yesterday, for a planner that knows nothing
// of a fresh partition. `IS TRUE` keeps `IN` a hashed lookup, and the subquery
// in a comparison is a lookup for each event. `due_at` is what the job says too:
// the millisecond in the delivery's id.
//
// Its snapshot is taken when it begins. So if it has the expected
// revision, the batch was matched with everything that was committed before, and a token
// that was revoked before isn't valid in it.
fn statement(events: &str, deliveries: &str, detached: &str, known: &str) -> String {
    format!(
        "-- accept_events
WITH detached AS MATERIALIZED ({detached}), revoked AS MATERIALIZED (
    SELECT p.hash FROM unnest($17::bytea[]) AS p (hash)
    WHERE (SELECT t.id FROM tokens t
           WHERE t.hash = p.hash AND t.revoked_at IS NULL
             AND (t.expires_at IS NULL OR t.expires_at > statement_timestamp())) IS NULL
), accepted AS (
    INSERT INTO {events} (uid, tenant, id, type, occurred_at, data, attributes, matched,
                          too_costly, over_http)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[],
                         $6::text[], $7::jsonb[], $8::int4[], $9::jsonb[], $16::bool[])
    AS e (uid, tenant, id, type, occurred_at, data, attributes, matched, too_costly, over_http)
    WHERE (SELECT revision = coalesce($15::int8, revision) FROM catalogue)
      AND NOT EXISTS (SELECT FROM detached)
      AND NOT EXISTS (SELECT FROM revoked)
      AND ({known}) IS NULL
    ON CONFLICT DO NOTHING
    RETURNING uid
), enqueued AS (
    INSERT INTO {deliveries} (id, event_uid, webhook_id, event_type, state, due_at)
    SELECT d.id, d.event_uid, d.webhook_id, d.event_type, 'queued', $14::timestamptz
    FROM unnest($10::uuid[], $11::uuid[], $12::uuid[], $13::text[])
    AS d (id, event_uid, webhook_id, event_type)
    WHERE (d.event_uid IN (SELECT uid FROM accepted)) IS TRUE
)
SELECT uid, NULL::text AS refused, NULL::bytea AS hash FROM accepted
UNION ALL SELECT NULL, 'revision', NULL FROM catalogue WHERE revision <> $15
UNION ALL SELECT NULL, 'detached', NULL FROM detached
UNION ALL SELECT NULL, 'token', hash FROM revoked"
    )
}
