//! Reads dead letters: lists of them, one of them, and those that are to be replayed.
//!
//! `store` writes and deletes the rows. This file never changes one.

use anyhow::Context;
use deadpool_postgres::Client;
use lapin::BasicProperties;
use shared::amqp::UNREADABLE_HEADER;
use shared::ids::{DeadLetterId, Tenant};
use shared::publish::Whole;
use shared::topology;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::letter::{Letter, Origin};
use crate::decode::is_final;

/// How much of a body is shown, in bytes.
const EXCERPT: i32 = 1024;

/// A letter without its body.
const COLUMNS: &str = "id, queue, reason, exchange, routing_key, tenant, message_id, properties, \
                       whole_size, whole_sha256";

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
    /// Only for lists: its reason, routing key or message id has this text in it, whatever its
    /// case.
    pub q: Option<String>,
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

impl StoredLetter {
    /// Whether it can be published again, and may be accepted then. Of a job it isn't known
    /// without its body.
    pub fn is_replayable(&self) -> bool {
        let headers = self.properties.headers().as_ref();
        let is_readable = headers.is_none_or(|it| !it.contains_key(UNREADABLE_HEADER));
        let exchanges = [topology::EVENTS, topology::JOBS, topology::RETRY];
        self.whole.is_none()
            && is_readable
            && exchanges.contains(&self.exchange.as_str())
            && !is_final(&self.reason)
    }

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
        .prepare_cached(&format!(
            "-- list_dead_letters\n\
             SELECT {COLUMNS}, length(body) AS size, substring(body FOR $6::int) AS excerpt \
             FROM dead_letters \
             WHERE ($1::uuid IS NULL OR id < $1) AND ($2::text IS NULL OR reason = $2) \
               AND ($3::text IS NULL OR tenant = $3) AND ($4::text IS NULL OR queue = $4) \
               AND ($7::uuid[] IS NULL OR id = ANY($7)) \
               AND ($8::text IS NULL OR position(lower($8) IN lower(concat_ws(' ', \
                   reason, routing_key, message_id))) > 0) \
             ORDER BY id DESC LIMIT $5"
        ))
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
                &filter.q,
            ],
        )
        .await?;
    rows.iter().map(StoredLetter::from_row).collect()
}

/// How many match, counted up to `most`.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn count(client: &Client, filter: &LetterFilter, most: i64) -> anyhow::Result<i64> {
    let statement = client
        .prepare_cached(
            "-- count_dead_letters\n\
             SELECT count(*) FROM (SELECT FROM dead_letters \
                 WHERE ($1::text IS NULL OR reason = $1) AND ($2::text IS NULL OR tenant = $2) \
                   AND ($3::text IS NULL OR queue = $3) AND ($5::uuid[] IS NULL OR id = ANY($5)) \
                 LIMIT $4) AS matching",
        )
        .await?;
    let origin = filter.origin.map(Origin::as_str);
    let parameters: [&(dyn ToSql + Sync); 5] =
        [&filter.reason, &filter.tenant, &origin, &most, &filter.ids];
    Ok(client.query_one(&statement, &parameters).await?.get(0))
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
            &format!("-- list_tenant_dead_letters\n\
             SELECT {COLUMNS}, length(body) AS size, substring(body FOR $4::int) AS excerpt \
             FROM dead_letters \
             WHERE owner = $1 AND tenant = $1 AND id < coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid) \
             ORDER BY id DESC LIMIT $3"),
        )
        .await?;
    let rows = client
        .query(&statement, &[tenant, &before, &limit, &EXCERPT])
        .await?;
    rows.iter().map(StoredLetter::from_row).collect()
}

/// One of a tenant's own, as its list has it.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn find_of_tenant(
    client: &Client,
    tenant: &Tenant,
    id: DeadLetterId,
) -> anyhow::Result<Option<StoredLetter>> {
    let statement = client
        .prepare_cached(&format!(
            "-- find_tenant_dead_letter\n\
             SELECT {COLUMNS}, length(body) AS size, substring(body FOR $3::int) AS excerpt \
             FROM dead_letters WHERE id = $2 AND owner = $1 AND tenant = $1"
        ))
        .await?;
    let row = client
        .query_opt(&statement, &[tenant, &id, &EXCERPT])
        .await?;
    row.as_ref().map(StoredLetter::from_row).transpose()
}

/// One letter with its whole body.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn find(client: &Client, id: DeadLetterId) -> anyhow::Result<Option<Letter>> {
    let statement = client
        .prepare_cached(&format!(
            "-- find_dead_letter\n\
             SELECT {COLUMNS}, body FROM dead_letters WHERE id = $1"
        ))
        .await?;
    let row = client.query_opt(&statement, &[&id]).await?;
    row.as_ref().map(letter).transpose()
}

/// Letters without their bodies, except those that were published to an exchange for jobs: the
/// body decides whether such a letter can be replayed ([`Letter::again`]).
///
/// # Errors
/// If PostgreSQL fails.
pub async fn heads(client: &Client, ids: &[DeadLetterId]) -> anyhow::Result<Vec<Letter>> {
    let (jobs, retry) = (topology::JOBS, topology::RETRY);
    let statement = client
        .prepare_cached(&format!(
            "-- heads_of_dead_letters\n\
             SELECT {COLUMNS}, \
                 CASE WHEN exchange IN ('{jobs}', '{retry}') THEN body ELSE ''::bytea END AS body \
             FROM dead_letters WHERE id = ANY($1)"
        ))
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
        .prepare_cached(&format!(
            "-- next_dead_letters\n\
             SELECT {COLUMNS}, body FROM dead_letters WHERE id = ANY (ARRAY( \
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
             ORDER BY id"
        ))
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
