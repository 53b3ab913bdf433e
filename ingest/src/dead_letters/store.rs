//! The rows of dead letters. Every statement that adds or deletes some counts
//! them in the same breath (`dead_letter_count`).

use anyhow::Context;
use deadpool_postgres::{Client, Pool};
use lapin::BasicProperties;
use shared::ids::{DeadLetterId, first_uuid_at};
use shared::job::Job;
use time::OffsetDateTime;
use tokio_postgres::Row;

use super::letter::{Letter, Origin};

/// How much of a body is shown, in bytes.
const EXCERPT: i32 = 1024;
/// How many are deleted at a time when they are outdated.
const OUTDATED_AT_ONCE: i64 = 1_000;

/// Which dead letters are meant. All that is set must hold.
#[derive(Debug, Default)]
pub struct Filter {
    /// Here for exactly this reason.
    pub reason: Option<String>,
    /// To be this tenant's events; any text, since it may name nobody.
    pub tenant: Option<String>,
    /// From this queue.
    pub origin: Option<Origin>,
}

/// One as it is listed.
pub struct Shown {
    /// Its name.
    pub id: DeadLetterId,
    /// `parking` or `unrouted`.
    pub queue: String,
    /// Why it is here.
    pub reason: String,
    /// Where it was published to.
    pub exchange: String,
    /// With which routing key.
    pub routing_key: String,
    /// Whose event it was to be.
    pub tenant: Option<String>,
    /// The producer's id of it.
    pub message_id: Option<String>,
    /// As they were published.
    pub properties: BasicProperties,
    /// How long the body is, in bytes.
    pub size: i32,
    /// How it begins.
    pub excerpt: Vec<u8>,
}

/// How many there are.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn held(pool: &Pool) -> anyhow::Result<i64> {
    let client = pool.get().await?;
    let statement = client
        .prepare_cached("-- dead_letters_held\nSELECT held FROM dead_letter_count")
        .await?;
    Ok(client.query_one(&statement, &[]).await?.get(0))
}

/// Has the deliveries of these jobs wait, if they still wait for these attempts
/// since the same beginning.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn put_off(pool: &Pool, jobs: &[Job], until: OffsetDateTime) -> anyhow::Result<()> {
    if jobs.is_empty() {
        return Ok(());
    }
    let client = pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- put_off_given_up\n\
             UPDATE deliveries d SET due_at = $3, deferred_because = 'parked' \
             FROM unnest($1::uuid[], $2::int2[], $4::timestamptz[]) AS v (delivery_id, n, restarted_at) \
             WHERE d.id = ANY($1) AND d.id = v.delivery_id \
               AND d.attempts = v.n - 1 \
               AND d.restarted_at IS NOT DISTINCT FROM v.restarted_at \
               AND d.state NOT IN ('delivered', 'failed', 'expired', 'cancelled')",
        )
        .await?;
    let ids: Vec<_> = jobs.iter().map(|job| job.delivery).collect();
    let attempts: Vec<_> = jobs.iter().map(|job| job.attempt as i16).collect();
    let restarts: Vec<_> = jobs
        .iter()
        .map(|job| job.restart.map(|restart| restart.at))
        .collect();
    client
        .execute(&statement, &[&ids, &attempts, &until, &restarts])
        .await?;
    Ok(())
}

/// Makes these jobs, due at `now`, the ones that their deliveries wait for, if they
/// still wait for these attempts since the same beginning. What is then not published
/// is overdue, and the sweeper's.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn take_tickets(
    client: &Client,
    jobs: &[Job],
    now: OffsetDateTime,
) -> Result<(), tokio_postgres::Error> {
    if jobs.is_empty() {
        return Ok(());
    }
    let statement = client
        .prepare_cached(
            "-- take_tickets\n\
             UPDATE deliveries d SET due_at = $3, deferred_because = NULL \
             FROM unnest($1::uuid[], $2::int2[], $4::timestamptz[]) AS v (delivery_id, n, restarted_at) \
             WHERE d.id = ANY($1) AND d.id = v.delivery_id \
               AND d.attempts = v.n - 1 \
               AND d.restarted_at IS NOT DISTINCT FROM v.restarted_at \
               AND d.due_at IS NOT NULL",
        )
        .await?;
    let ids: Vec<_> = jobs.iter().map(|job| job.delivery).collect();
    let attempts: Vec<_> = jobs.iter().map(|job| job.attempt as i16).collect();
    let restarts: Vec<_> = jobs
        .iter()
        .map(|job| job.restart.map(|restart| restart.at))
        .collect();
    client
        .execute(&statement, &[&ids, &attempts, &now, &restarts])
        .await?;
    Ok(())
}

/// Writes them; answers how many there are then.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn keep(pool: &Pool, letters: &[Letter]) -> anyhow::Result<i64> {
    let client = pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- keep_dead_letters\n\
             WITH kept AS ( \
                 INSERT INTO dead_letters (id, queue, reason, exchange, routing_key, tenant, \
                                           message_id, properties, body) \
                 SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], \
                                      $6::text[], $7::text[], $8::bytea[], $9::bytea[]) \
                 RETURNING 1) \
             UPDATE dead_letter_count SET held = held + (SELECT count(*) FROM kept) RETURNING held",
        )
        .await?;
    macro_rules! column {
        ($letter:ident => $value:expr) => {
            &letters.iter().map(|$letter| $value).collect::<Vec<_>>()
        };
    }
    let properties = letters
        .iter()
        .map(|letter| rmp_serde::to_vec(&letter.properties))
        .collect::<Result<Vec<_>, _>>()
        .context("encoding AMQP properties")?;
    let row = client
        .query_one(
            &statement,
            &[
                column!(l => l.id),
                column!(l => l.origin.as_str()),
                column!(l => l.reason.as_str()),
                column!(l => l.exchange.as_str()),
                column!(l => l.routing_key.as_str()),
                column!(l => l.tenant.as_ref()),
                column!(l => l.message_id.as_ref()),
                &properties,
                column!(l => l.body.as_slice()),
            ],
        )
        .await?;
    Ok(row.get(0))
}

/// A page, newest first. Reads at most all of them, of which there is a bound.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn list(
    client: &Client,
    filter: &Filter,
    before: Option<DeadLetterId>,
    limit: i64,
) -> anyhow::Result<Vec<Shown>> {
    let statement = client
        .prepare_cached(
            "-- list_dead_letters\n\
             SELECT id, queue, reason, exchange, routing_key, tenant, message_id, properties, \
                    length(body) AS size, substring(body FOR $6::int) AS excerpt \
             FROM dead_letters \
             WHERE ($1::uuid IS NULL OR id < $1) AND ($2::text IS NULL OR reason = $2) \
               AND ($3::text IS NULL OR tenant = $3) AND ($4::text IS NULL OR queue = $4) \
             ORDER BY id DESC LIMIT $5",
        )
        .await?;
    let origin = filter.origin.map(Origin::as_str);
    let rows = client
        .query(
            &statement,
            &[
                &before,
                &filter.reason,
                &filter.tenant,
                &origin,
                &limit,
                &EXCERPT,
            ],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Shown {
                id: row.get("id"),
                queue: row.get("queue"),
                reason: row.get("reason"),
                exchange: row.get("exchange"),
                routing_key: row.get("routing_key"),
                tenant: row.get("tenant"),
                message_id: row.get("message_id"),
                properties: properties(row)?,
                size: row.get("size"),
                excerpt: row.get("excerpt"),
            })
        })
        .collect()
}

/// One, whole.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn find(client: &Client, id: DeadLetterId) -> anyhow::Result<Option<Letter>> {
    let statement = client
        .prepare_cached(
            "-- find_dead_letter\n\
             SELECT id, queue, reason, exchange, routing_key, tenant, message_id, properties, body \
             FROM dead_letters WHERE id = $1",
        )
        .await?;
    let row = client.query_opt(&statement, &[&id]).await?;
    row.as_ref().map(letter).transpose()
}

/// The newest.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn newest(client: &Client) -> anyhow::Result<Option<DeadLetterId>> {
    let statement = client
        .prepare_cached(
            "-- newest_dead_letter\nSELECT id FROM dead_letters ORDER BY id DESC LIMIT 1",
        )
        .await?;
    let row = client.query_opt(&statement, &[]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// The next ones after `after`, up to `last`, whole, oldest first: the order in
/// which they are replayed.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn next(
    client: &Client,
    filter: &Filter,
    after: Option<DeadLetterId>,
    last: DeadLetterId,
    limit: i64,
) -> anyhow::Result<Vec<Letter>> {
    let statement = client
        .prepare_cached(
            "-- next_dead_letters\n\
             SELECT id, queue, reason, exchange, routing_key, tenant, message_id, properties, body \
             FROM dead_letters \
             WHERE ($1::uuid IS NULL OR id > $1) AND id <= $6 \
               AND ($2::text IS NULL OR reason = $2) \
               AND ($3::text IS NULL OR tenant = $3) AND ($4::text IS NULL OR queue = $4) \
             ORDER BY id LIMIT $5",
        )
        .await?;
    let origin = filter.origin.map(Origin::as_str);
    let rows = client
        .query(
            &statement,
            &[
                &after,
                &filter.reason,
                &filter.tenant,
                &origin,
                &limit,
                &last,
            ],
        )
        .await?;
    rows.iter().map(letter).collect()
}

fn letter(row: &Row) -> anyhow::Result<Letter> {
    let origin = match row.get("queue") {
        "unrouted" => Origin::Unrouted,
        // The table's CHECK allows no third.
        _ => Origin::Parking,
    };
    Ok(Letter {
        id: row.get("id"),
        origin,
        reason: row.get("reason"),
        exchange: row.get("exchange"),
        routing_key: row.get("routing_key"),
        tenant: row.get("tenant"),
        message_id: row.get("message_id"),
        properties: properties(row)?,
        body: row.get("body"),
    })
}

fn properties(row: &Row) -> anyhow::Result<BasicProperties> {
    rmp_serde::from_slice(row.get("properties")).context("reading AMQP properties")
}

/// Deletes them; answers how many there were.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn delete(client: &Client, ids: &[DeadLetterId]) -> anyhow::Result<i64> {
    let statement = client
        .prepare_cached(
            "-- delete_dead_letters\n\
             WITH gone AS (DELETE FROM dead_letters WHERE id = ANY ($1) RETURNING 1), \
                  counted AS (SELECT count(*) AS n FROM gone) \
             UPDATE dead_letter_count SET held = held - counted.n FROM counted RETURNING counted.n",
        )
        .await?;
    Ok(client.query_one(&statement, &[&ids]).await?.get(0))
}

/// Deletes those that match, oldest first; answers how many there were.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn discard(client: &Client, filter: &Filter, limit: i64) -> anyhow::Result<i64> {
    let statement = client
        .prepare_cached(
            "-- discard_dead_letters\n\
             WITH gone AS ( \
                 DELETE FROM dead_letters WHERE id = ANY (ARRAY( \
                     SELECT id FROM dead_letters \
                     WHERE ($1::text IS NULL OR reason = $1) AND ($2::text IS NULL OR tenant = $2) \
                       AND ($3::text IS NULL OR queue = $3) \
                     ORDER BY id LIMIT $4)) RETURNING 1), \
                  counted AS (SELECT count(*) AS n FROM gone) \
             UPDATE dead_letter_count SET held = held - counted.n FROM counted RETURNING counted.n",
        )
        .await?;
    let origin = filter.origin.map(Origin::as_str);
    let row = client
        .query_one(
            &statement,
            &[&filter.reason, &filter.tenant, &origin, &limit],
        )
        .await?;
    Ok(row.get(0))
}

/// Deletes those that were taken before `until`, part by part.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn delete_outdated(pool: &Pool, until: OffsetDateTime) -> anyhow::Result<()> {
    let client = pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- delete_outdated_dead_letters\n\
             WITH gone AS ( \
                 DELETE FROM dead_letters WHERE id = ANY (ARRAY( \
                     SELECT id FROM dead_letters WHERE id < $1 ORDER BY id LIMIT $2)) RETURNING 1), \
                  counted AS (SELECT count(*) AS n FROM gone) \
             UPDATE dead_letter_count SET held = held - counted.n FROM counted RETURNING counted.n",
        )
        .await?;
    let first_kept = first_uuid_at(until);
    loop {
        let row = client
            .query_one(&statement, &[&first_kept, &OUTDATED_AT_ONCE])
            .await?;
        if row.get::<_, i64>(0) < OUTDATED_AT_ONCE {
            return Ok(());
        }
    }
}
