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
use shared::column;
use shared::ids::{DeadLetterId, DeliveryId, EventId, Tenant, first_uuid_at};
use time::OffsetDateTime;
use tokio_postgres::types::ToSql;

use super::letter::{Letter, Origin};
use super::query::LetterFilter;

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
    let statement = transaction.prepare_cached(INSERT).await?;
    let rows = transaction
        .query(
            &statement,
            &[
                column!(letters, l => l.id),
                column!(letters, l => l.origin.as_str()),
                column!(letters, l => l.reason.as_str()),
                column!(letters, l => l.exchange.as_str()),
                column!(letters, l => l.routing_key.as_str()),
                column!(letters, l => l.tenant.as_ref()),
                column!(letters, l => l.message_id.as_ref()),
                &properties,
                column!(letters, l => l.body.as_slice()),
                column!(letters, l => whole(l).map(|whole| i32::try_from(whole.size).unwrap_or(i32::MAX))),
                column!(letters, l => whole(l).map(|whole| whole.sha256.to_vec())),
                &bytes,
                column!(letters, l => l.owner()),
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

/// Deletes the letters of one event of a tenant, and those of its deliveries' jobs. It reads the
/// tenant's letters, whose size is bounded.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn remove_of_event(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    event: &EventId,
    deliveries: &[DeliveryId],
) -> anyhow::Result<()> {
    lock_use(transaction).await?;
    // A job's message id is its delivery's.
    let deliveries: Vec<_> = deliveries.iter().map(DeliveryId::to_string).collect();
    let which = "SELECT id FROM dead_letters \
                 WHERE owner = $1 AND (message_id = $2 OR message_id = ANY($3))";
    remove(transaction, "expunge", which, &[tenant, event, &deliveries]).await?;
    Ok(())
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
