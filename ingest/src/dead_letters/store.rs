//! The rows of dead letters, bounded in bytes: in all, and for each owner.
//!
//! A letter's owner is the tenant of its event or job, or nobody (`''`) if there is
//! no such tenant. `dead_letter_use` has each owner's total. Every transaction that
//! adds or deletes letters updates it under a lock on that table, so that two never
//! deadlock.
//!
//! When an owner's share is full, its oldest letters are dropped. When the table is
//! full, the oldest letters of the owner with the most bytes are dropped: an owner
//! never loses letters to one that has more.

use anyhow::Context;
use deadpool_postgres::{Client, Pool, Transaction};
use lapin::BasicProperties;
use shared::ids::{DeadLetterId, EventId, Tenant, first_uuid_at};
use shared::job::Job;
use shared::publish::Whole;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::letter::{Letter, Origin};

/// How much of a body is shown, in bytes.
const EXCERPT: i32 = 1024;
/// How many letters are deleted at a time when they are outdated or too many.
const DELETED_AT_ONCE: i64 = 1_000;

/// What the table may hold, in bytes, as [`Letter::weight`] counts.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Of all owners together.
    pub all: i64,
}

impl Room {
    /// Of one owner.
    fn each(self) -> i64 {
        self.all / 4
    }
}

/// What the table holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    pub letters: i64,
    /// Their size in bytes.
    pub bytes: i64,
}

/// An owner whose letters were dropped for newer ones.
#[derive(Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The tenant, or `''`.
    pub owner: String,
    pub letters: i64,
}

/// Selects dead letters: all conditions that are set must hold.
#[derive(Debug, Default)]
pub struct LetterFilter {
    /// Refused for exactly this reason.
    pub reason: Option<String>,
    /// Meant for this tenant. Any text, because there may be no such tenant.
    pub tenant: Option<String>,
    /// Taken from this queue.
    pub origin: Option<Origin>,
    /// One of these.
    pub ids: Option<Vec<DeadLetterId>>,
}

/// Why letters are here, and how many for the same reason.
pub struct OfReason {
    pub reason: String,
    pub tenant: Option<String>,
    pub queue: String,
    pub count: i64,
    /// The first and the latest of them.
    pub first: DeadLetterId,
    pub last: DeadLetterId,
}

/// A letter as lists show it.
pub struct StoredLetter {
    pub id: DeadLetterId,
    /// `parking` or `unrouted`.
    pub queue: String,
    /// Why it was refused.
    pub reason: String,
    /// The exchange that it was published to.
    pub exchange: String,
    /// The routing key that it was published with.
    pub routing_key: String,
    /// The tenant of its event.
    pub tenant: Option<String>,
    /// The id that its producer gave it.
    pub message_id: Option<String>,
    /// Its properties.
    pub properties: BasicProperties,
    /// The size of the body that was kept, in bytes.
    pub size: i32,
    /// The beginning of the body.
    pub excerpt: Vec<u8>,
    /// The size and hash of the whole body, if only its beginning was kept.
    pub whole: Option<Whole>,
}

/// The table's totals.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn held(pool: &Pool) -> anyhow::Result<Held> {
    let client = pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- dead_letters_held\n\
             SELECT COALESCE(sum(letters), 0)::int8, COALESCE(sum(bytes), 0)::int8 \
             FROM dead_letter_use",
        )
        .await?;
    let row = client.query_one(&statement, &[]).await?;
    Ok(Held {
        letters: row.get(0),
        bytes: row.get(1),
    })
}

/// Defers the deliveries of these jobs, if they still wait for exactly these jobs.
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
             UPDATE deliveries d SET due_at = $3, deferred_because = 'parked', \
                 waits = add_wait(d.waits, 'parked', d.attempts, $3) \
             FROM unnest($1::uuid[], $2::int2[], $4::timestamptz[], $5::timestamptz[]) \
                 AS v (delivery_id, n, restarted_at, due_at) \
             WHERE d.id = ANY($1) AND d.id = v.delivery_id \
               AND d.attempts = v.n - 1 AND d.due_at = v.due_at \
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
    let due_at: Vec<_> = jobs.iter().map(|job| job.due_at).collect();
    client
        .execute(&statement, &[&ids, &attempts, &until, &restarts, &due_at])
        .await?;
    Ok(())
}

/// Makes the deliveries of these jobs wait for them as jobs due at `now`, if they still wait
/// for the same attempt. If publishing one fails then, the sweeper finds it overdue.
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

/// Writes letters and makes room for them. Answers whose letters were dropped.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn keep(pool: &Pool, letters: &[Letter], room: Room) -> anyhow::Result<Vec<Dropped>> {
    let mut client = pool.get().await?;
    let transaction = take_turns(&mut client).await?;
    let mut dropped = Vec::new();
    for (owner, bytes) in insert(&transaction, letters).await? {
        if bytes > room.each() {
            dropped.push(drop_oldest(&transaction, &owner, bytes - room.each()).await?);
        }
    }
    while let Some((owner, excess)) = too_much(&transaction, room).await? {
        dropped.push(drop_oldest(&transaction, &owner, excess).await?);
    }
    transaction.commit().await?;
    Ok(dropped)
}

/// Begins a transaction that adds or deletes letters. There is one at a time.
async fn take_turns(client: &mut Client) -> anyhow::Result<Transaction<'_>> {
    let transaction = client.transaction().await?;
    lock_use(&transaction).await?;
    Ok(transaction)
}

async fn lock_use(transaction: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
    transaction
        .batch_execute(
            "-- take_turns_with_dead_letters\nLOCK TABLE dead_letter_use IN EXCLUSIVE MODE",
        )
        .await
}

/// Inserts letters. Answers each owner that got some, and its bytes now.
async fn insert(
    transaction: &Transaction<'_>,
    letters: &[Letter],
) -> anyhow::Result<Vec<(String, i64)>> {
    // A letter that exists already was written by a COMMIT whose answer was lost.
    const INSERT: &str = "-- keep_dead_letters\n\
        WITH kept AS ( \
            INSERT INTO dead_letters (id, queue, reason, exchange, routing_key, tenant, message_id, \
                                      properties, body, whole_size, whole_sha256, bytes, owner) \
            SELECT v.id, v.queue, v.reason, v.exchange, v.routing_key, v.tenant, v.message_id, \
                   v.properties, v.body, v.whole_size, v.whole_sha256, v.bytes, COALESCE(t.id, '') \
            FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], \
                        $7::text[], $8::bytea[], $9::bytea[], $10::int4[], $11::bytea[], \
                        $12::int4[], $13::text[]) \
                 AS v (id, queue, reason, exchange, routing_key, tenant, message_id, properties, \
                       body, whole_size, whole_sha256, bytes, owner) \
                 LEFT JOIN tenants t ON t.id = v.owner AND t.deleted_at IS NULL \
            ON CONFLICT (id) DO NOTHING RETURNING owner, bytes) \
        INSERT INTO dead_letter_use AS u (owner, letters, bytes) \
        SELECT owner, count(*), sum(bytes) FROM kept GROUP BY owner \
        ON CONFLICT (owner) DO UPDATE \
            SET letters = u.letters + excluded.letters, bytes = u.bytes + excluded.bytes \
        RETURNING owner, bytes";
    let properties = letters
        .iter()
        .map(|letter| rmp_serde::to_vec(&letter.properties))
        .collect::<Result<Vec<_>, _>>()
        .context("encoding AMQP properties")?;
    let bytes: Vec<_> = letters
        .iter()
        .zip(&properties)
        .map(|(letter, properties)| letter.weight(properties))
        .collect();
    let whole = |letter: &Letter| letter.whole.clone();
    macro_rules! column {
        ($letter:ident => $value:expr) => {
            &letters.iter().map(|$letter| $value).collect::<Vec<_>>()
        };
    }
    let statement = transaction.prepare_cached(INSERT).await?;
    let rows = transaction
        .query(
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
                column!(l => whole(l).map(|whole| i32::try_from(whole.size).unwrap_or(i32::MAX))),
                column!(l => whole(l).map(|whole| whole.sha256.to_vec())),
                &bytes,
                column!(l => l.owner()),
            ],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The owner with the most bytes, and how many of them are to be dropped. If those aren't
/// enough, another owner has the most afterwards.
async fn too_much(
    transaction: &Transaction<'_>,
    room: Room,
) -> anyhow::Result<Option<(String, i64)>> {
    let statement = transaction
        .prepare_cached(
            "-- heaviest_owner_of_dead_letters\n\
             SELECT owner, least(bytes, (SELECT sum(bytes) FROM dead_letter_use)::int8 - $1) \
             FROM dead_letter_use ORDER BY bytes DESC, owner LIMIT 1",
        )
        .await?;
    let row = transaction.query_opt(&statement, &[&room.all]).await?;
    Ok(row
        .map(|row| (row.get(0), row.get::<_, i64>(1)))
        .filter(|(_, excess)| *excess > 0))
}

/// Deletes an owner's oldest letters until `excess` bytes are free.
async fn drop_oldest(
    transaction: &Transaction<'_>,
    owner: &str,
    excess: i64,
) -> anyhow::Result<Dropped> {
    const OLDEST: &str = "SELECT id FROM ( \
            SELECT id, sum(bytes) OVER (ORDER BY id) - bytes AS freed FROM ( \
                SELECT id, bytes FROM dead_letters WHERE owner = $1 ORDER BY id LIMIT $3) oldest) o \
        WHERE freed < $2";
    let mut gone = Held {
        letters: 0,
        bytes: 0,
    };
    while gone.bytes < excess {
        let rest = excess - gone.bytes;
        let parameters: [&(dyn ToSql + Sync); 3] = [&owner, &rest, &DELETED_AT_ONCE];
        let part = remove(transaction, "drop_oldest", OLDEST, &parameters).await?;
        anyhow::ensure!(part.letters > 0, "dead_letter_use says more than there is");
        gone.letters += part.letters;
        gone.bytes += part.bytes;
    }
    Ok(Dropped {
        owner: owner.to_owned(),
        letters: gone.letters,
    })
}

/// Deletes the letters that `which` selects. Answers how many, and their bytes.
async fn remove(
    transaction: &Transaction<'_>,
    name: &str,
    which: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> anyhow::Result<Held> {
    let statement = format!(
        "-- {name}_dead_letters\n\
         WITH gone AS ( \
                  DELETE FROM dead_letters WHERE id = ANY (ARRAY({which})) RETURNING owner, bytes), \
              freed AS ( \
                  SELECT owner, count(*) AS letters, sum(bytes) AS bytes FROM gone GROUP BY owner), \
              counted AS ( \
                  UPDATE dead_letter_use u \
                  SET letters = u.letters - f.letters, bytes = u.bytes - f.bytes \
                  FROM freed f WHERE u.owner = f.owner) \
         SELECT count(*), COALESCE(sum(bytes), 0)::int8 FROM gone"
    );
    let statement = transaction.prepare_cached(&statement).await?;
    let row = transaction.query_one(&statement, parameters).await?;
    Ok(Held {
        letters: row.get(0),
        bytes: row.get(1),
    })
}

/// Deletes some of a tenant's letters. Answers how many.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn remove_of_tenant(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    most: i64,
) -> anyhow::Result<i64> {
    lock_use(transaction).await?;
    let which = "SELECT id FROM dead_letters WHERE owner = $1 ORDER BY id LIMIT $2";
    let removed = remove(transaction, "purge", which, &[tenant, &most]).await?;
    Ok(removed.letters)
}

/// Deletes the letters of one event of a tenant. It reads the tenant's letters, whose size is
/// bounded.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn remove_of_event(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    event: &EventId,
) -> anyhow::Result<()> {
    lock_use(transaction).await?;
    let which = "SELECT id FROM dead_letters WHERE owner = $1 AND message_id = $2";
    remove(transaction, "expunge", which, &[tenant, event]).await?;
    Ok(())
}

/// How many letters there are for each reason, of each tenant, the most first.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn reasons(
    client: &Client,
    tenant: Option<&str>,
    limit: i64,
) -> anyhow::Result<Vec<OfReason>> {
    // PostgreSQL knows no least UUID before version 18; as texts they have the same order.
    let statement = client
        .prepare_cached(
            "-- reasons_of_dead_letters\n\
             SELECT reason, tenant, queue, count(*) AS letters, \
                 min(id::text)::uuid AS first, max(id::text)::uuid AS last \
             FROM dead_letters WHERE $1::text IS NULL OR tenant = $1 \
             GROUP BY reason, tenant, queue ORDER BY letters DESC, last DESC LIMIT $2",
        )
        .await?;
    let rows = client.query(&statement, &[&tenant, &limit]).await?;
    let reasons = rows.iter().map(|row| OfReason {
        reason: row.get("reason"),
        tenant: row.get("tenant"),
        queue: row.get("queue"),
        count: row.get("letters"),
        first: row.get("first"),
        last: row.get("last"),
    });
    Ok(reasons.collect())
}

/// A page, newest first. In the worst case it reads the whole table, which is bounded.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn list(
    client: &Client,
    filter: &LetterFilter,
    before: Option<DeadLetterId>,
    limit: i64,
) -> anyhow::Result<Vec<StoredLetter>> {
    let statement = client
        .prepare_cached(
            "-- list_dead_letters\n\
             SELECT id, queue, reason, exchange, routing_key, tenant, message_id, properties, \
                    whole_size, whole_sha256, \
                    length(body) AS size, substring(body FOR $6::int) AS excerpt \
             FROM dead_letters \
             WHERE ($1::uuid IS NULL OR id < $1) AND ($2::text IS NULL OR reason = $2) \
               AND ($3::text IS NULL OR tenant = $3) AND ($4::text IS NULL OR queue = $4) \
               AND ($7::uuid[] IS NULL OR id = ANY($7)) \
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
                &filter.ids,
            ],
        )
        .await?;
    rows.iter().map(StoredLetter::from_row).collect()
}

/// One tenant's own: the events that were published for it and refused. Newest first.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn list_of_tenant(
    client: &Client,
    tenant: &Tenant,
    before: Option<DeadLetterId>,
    limit: i64,
) -> anyhow::Result<Vec<StoredLetter>> {
    let statement = client
        .prepare_cached(
            "-- list_tenant_dead_letters\n\
             SELECT id, queue, reason, exchange, routing_key, tenant, message_id, properties, \
                    whole_size, whole_sha256, \
                    length(body) AS size, substring(body FOR $4::int) AS excerpt \
             FROM dead_letters \
             WHERE owner = $1 AND tenant = $1 AND id < coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid) \
             ORDER BY id DESC LIMIT $3",
        )
        .await?;
    let rows = client
        .query(&statement, &[tenant, &before, &limit, &EXCERPT])
        .await?;
    rows.iter().map(StoredLetter::from_row).collect()
}

impl StoredLetter {
    fn from_row(row: &Row) -> anyhow::Result<Self> {
        Ok(Self {
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
            whole: whole(row),
        })
    }
}

/// One letter with its whole body.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn find(client: &Client, id: DeadLetterId) -> anyhow::Result<Option<Letter>> {
    let statement = client
        .prepare_cached(
            "-- find_dead_letter\n\
             SELECT id, queue, reason, exchange, routing_key, tenant, message_id, properties, body, \
                    whole_size, whole_sha256 \
             FROM dead_letters WHERE id = $1",
        )
        .await?;
    let row = client.query_opt(&statement, &[&id]).await?;
    row.as_ref().map(letter).transpose()
}

/// Letters without their bodies.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn heads(client: &Client, ids: &[DeadLetterId]) -> anyhow::Result<Vec<Letter>> {
    let statement = client
        .prepare_cached(
            "-- heads_of_dead_letters\n\
             SELECT id, queue, reason, exchange, routing_key, tenant, message_id, properties, \
                    ''::bytea AS body, whole_size, whole_sha256 \
             FROM dead_letters WHERE id = ANY($1)",
        )
        .await?;
    let rows = client.query(&statement, &[&ids]).await?;
    rows.iter().map(letter).collect()
}

/// The id of the newest letter.
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

/// The next letters with their bodies, from `after` up to `last`, oldest first, which is the
/// order of replaying. As many as fit into `bytes`, and at least one.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn next(
    client: &Client,
    filter: &LetterFilter,
    after: Option<DeadLetterId>,
    last: DeadLetterId,
    limit: i64,
    bytes: i64,
) -> anyhow::Result<Vec<Letter>> {
    let statement = client
        .prepare_cached(
            "-- next_dead_letters\n\
             SELECT id, queue, reason, exchange, routing_key, tenant, message_id, properties, body, \
                    whole_size, whole_sha256 \
             FROM dead_letters WHERE id = ANY (ARRAY( \
                 SELECT id FROM ( \
                     SELECT id, sum(bytes) OVER (ORDER BY id) - bytes AS before FROM ( \
                         SELECT id, bytes FROM dead_letters \
                         WHERE ($1::uuid IS NULL OR id > $1) AND id <= $6 \
                           AND ($2::text IS NULL OR reason = $2) \
                           AND ($3::text IS NULL OR tenant = $3) \
                           AND ($4::text IS NULL OR queue = $4) \
                           AND ($8::uuid[] IS NULL OR id = ANY($8)) \
                         ORDER BY id LIMIT $5) next) n \
                 WHERE before < $7)) \
             ORDER BY id",
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
                &bytes,
                &filter.ids,
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
        whole: whole(row),
    })
}

fn whole(row: &Row) -> Option<Whole> {
    let size: Option<i32> = row.get("whole_size");
    let sha256: Option<Vec<u8>> = row.get("whole_sha256");
    Some(Whole {
        size: size? as u32,
        // The table's CHECK has 32 bytes.
        sha256: sha256?.try_into().ok()?,
    })
}

fn properties(row: &Row) -> anyhow::Result<BasicProperties> {
    rmp_serde::from_slice(row.get("properties")).context("reading AMQP properties")
}

/// Deletes these letters. Answers how many there were.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn delete(client: &mut Client, ids: &[DeadLetterId]) -> anyhow::Result<i64> {
    let transaction = take_turns(client).await?;
    let gone = remove(&transaction, "delete", "SELECT unnest($1::uuid[])", &[&ids]).await?;
    transaction.commit().await?;
    Ok(gone.letters)
}

/// Deletes letters that match, oldest first. Answers how many there were.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn discard(
    client: &mut Client,
    filter: &LetterFilter,
    limit: i64,
) -> anyhow::Result<i64> {
    const WHICH: &str = "SELECT id FROM dead_letters \
         WHERE ($1::text IS NULL OR reason = $1) AND ($2::text IS NULL OR tenant = $2) \
           AND ($3::text IS NULL OR queue = $3) AND ($5::uuid[] IS NULL OR id = ANY($5)) \
         ORDER BY id LIMIT $4";
    let origin = filter.origin.map(Origin::as_str);
    let transaction = take_turns(client).await?;
    let parameters: [&(dyn ToSql + Sync); 5] =
        [&filter.reason, &filter.tenant, &origin, &limit, &filter.ids];
    let gone = remove(&transaction, "discard", WHICH, &parameters).await?;
    transaction.commit().await?;
    Ok(gone.letters)
}

/// Deletes letters that were taken before `until`, some at a time.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn delete_outdated(pool: &Pool, until: OffsetDateTime) -> anyhow::Result<()> {
    const OUTDATED: &str = "SELECT id FROM dead_letters WHERE id < $1 ORDER BY id LIMIT $2";
    let mut client = pool.get().await?;
    let first_kept = first_uuid_at(until);
    loop {
        let transaction = take_turns(&mut client).await?;
        let parameters: [&(dyn ToSql + Sync); 2] = [&first_kept, &DELETED_AT_ONCE];
        let gone = remove(&transaction, "delete_outdated", OUTDATED, &parameters).await?;
        transaction.commit().await?;
        if gone.letters < DELETED_AT_ONCE {
            return Ok(());
        }
    }
}
