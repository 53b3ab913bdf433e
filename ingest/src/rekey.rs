//! `posthorn-ingest rekey`: seals with the current master key what older keys sealed.
//!
//! It runs after `MASTER_KEY` has changed. When it is complete, the old key can be
//! removed from `MASTER_KEY_PREVIOUS`. It may run beside the services, and
//! repeatedly: a row is locked, read and written in one transaction, and a row
//! that the current key sealed is left alone.
//!
//! Deadlocks are avoided by order. A transaction that changes a webhook locks its
//! row and then waits for the counter of revisions, or the other way round. So a
//! batch here waits for the counter first, while it holds nothing, and skips rows
//! that are locked; a later pass takes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::{Pool, Transaction};
use shared::ids::WebhookId;
use shared::seal::{KeyId, Keyring};
use shared::webhook::{SEALED, seal_context};
use tokio_postgres::Row;
use tracing::warn;

/// The most webhooks in one transaction.
const BATCH: i64 = 200;
/// How many passes there are at most, because rows may be locked.
const PASSES: usize = 20;
/// The pause between two passes.
const PAUSE: Duration = Duration::from_millis(250);

/// What was resealed, and what is left.
#[derive(Debug)]
pub struct Rekeyed {
    /// The current key.
    pub current: KeyId,
    /// How many webhooks were resealed.
    pub resealed: u64,
    /// For each older key: the webhooks that still have something sealed with it.
    pub left: BTreeMap<KeyId, BTreeSet<WebhookId>>,
}

impl Rekeyed {
    /// Whether nothing needs an older key any more.
    pub fn is_complete(&self) -> bool {
        self.left.is_empty()
    }
}

impl fmt::Display for Rekeyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            current, resealed, ..
        } = self;
        write!(f, "{resealed} webhooks resealed with key {current}")?;
        for (key, webhooks) in &self.left {
            write!(f, "\n{} webhooks left with key {key}", webhooks.len())?;
        }
        if self.is_complete() {
            write!(f, "\nno webhook needs another key")?;
        }
        Ok(())
    }
}

/// Reseals everything that another key sealed.
///
/// # Errors
/// If PostgreSQL fails. What was resealed before that stays resealed.
pub async fn rekey(pool: &Pool, keys: &Keyring) -> anyhow::Result<Rekeyed> {
    let mut rekeyed = Rekeyed {
        current: keys.current(),
        resealed: 0,
        left: BTreeMap::new(),
    };
    for pass in 0..PASSES {
        if pass > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        rekeyed.left.clear();
        if !through_all(pool, keys, &mut rekeyed).await? {
            break;
        }
    }
    Ok(rekeyed)
}

/// How many webhooks have something that each older key sealed.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn older_keys(pool: &Pool, keys: &Keyring) -> anyhow::Result<BTreeMap<KeyId, usize>> {
    let mut used = BTreeMap::new();
    let mut after = None;
    loop {
        let page = sealed_webhooks(pool, after).await?;
        let Some(last) = page.last() else {
            return Ok(used);
        };
        after = Some(last.get::<_, WebhookId>("id"));
        for key in page.iter().flat_map(|row| others(row, keys)) {
            *used.entry(key).or_default() += 1;
        }
    }
}

/// One pass over all webhooks. Answers whether another pass may get further.
async fn through_all(pool: &Pool, keys: &Keyring, rekeyed: &mut Rekeyed) -> anyhow::Result<bool> {
    let mut passed_over = false;
    let mut after = None;
    loop {
        let page = sealed_webhooks(pool, after).await?;
        let Some(last) = page.last() else {
            return Ok(passed_over);
        };
        after = Some(last.get::<_, WebhookId>("id"));
        let old = page.iter().filter(|row| !others(row, keys).is_empty());
        let old: Vec<WebhookId> = old.map(|row| row.get("id")).collect();
        if old.is_empty() {
            continue;
        }
        let seen = reseal_batch(pool, keys, &old, rekeyed).await?;
        for row in page {
            let id = row.get("id");
            // Another transaction holds the row, so it keeps the key that was read.
            if old.contains(&id) && !seen.contains(&id) {
                passed_over = true;
                note(&mut rekeyed.left, id, others(&row, keys));
            }
        }
    }
}

fn note(
    left: &mut BTreeMap<KeyId, BTreeSet<WebhookId>>,
    webhook: WebhookId,
    keys: BTreeSet<KeyId>,
) {
    for key in keys {
        left.entry(key).or_default().insert(webhook);
    }
}

/// The keys other than the current one that a row's columns are sealed with.
fn others(row: &Row, keys: &Keyring) -> BTreeSet<KeyId> {
    let sealed = SEALED.iter().filter_map(|(column, _)| sealed(row, column));
    let ids = sealed.map(KeyId::of_sealed);
    ids.filter(|id| *id != keys.current()).collect()
}

/// Deleting a webhook empties its secret, and takes the rest away.
fn sealed<'r>(row: &'r Row, column: &str) -> Option<&'r [u8]> {
    row.get::<_, Option<&[u8]>>(column)
        .filter(|sealed| !sealed.is_empty())
}

/// The next webhooks, as they are.
async fn sealed_webhooks(pool: &Pool, after: Option<WebhookId>) -> anyhow::Result<Vec<Row>> {
    let client = pool.get().await.context("connecting to PostgreSQL")?;
    let statement = client
        .prepare_cached(
            "-- sealed_webhooks\n\
             SELECT id, secret, previous_secret, signing_key, previous_signing_key, headers, \
                 client_certificate, oauth2 \
             FROM webhooks WHERE id > coalesce($1, '00000000-0000-0000-0000-000000000000'::uuid) \
             ORDER BY id LIMIT $2",
        )
        .await?;
    let page = client.query(&statement, &[&after, &BATCH]).await;
    page.context("reading webhooks")
}

/// Reseals the webhooks whose rows aren't locked; answers which these are.
async fn reseal_batch(
    pool: &Pool,
    keys: &Keyring,
    webhooks: &[WebhookId],
    rekeyed: &mut Rekeyed,
) -> anyhow::Result<BTreeSet<WebhookId>> {
    let mut client = pool.get().await.context("connecting to PostgreSQL")?;
    let transaction = client.transaction().await?;
    lock_catalogue(&transaction).await?;
    let rows = lock_sealed(&transaction, webhooks).await?;
    let mut left = BTreeMap::new();
    let mut resealed = 0;
    for row in &rows {
        let id: WebhookId = row.get("id");
        match Resealed::from_row(row, id, keys) {
            Ok(columns) => {
                reseal_webhook(&transaction, id, &columns).await?;
                resealed += 1;
            }
            Err(error) => {
                warn!(webhook = %id, error = format!("{error:#}"), "a webhook was not resealed; it still needs its old key");
                note(&mut left, id, others(row, keys));
            }
        }
    }
    transaction.commit().await.context("resealing webhooks")?;
    rekeyed.resealed += resealed;
    for (key, webhooks) in left {
        rekeyed.left.entry(key).or_default().extend(webhooks);
    }
    Ok(rows.iter().map(|row| row.get("id")).collect())
}

/// A row's sealed columns, in the order of [`SEALED`], all with the current key.
struct Resealed(Vec<Option<Vec<u8>>>);

impl Resealed {
    fn from_row(row: &Row, id: WebhookId, keys: &Keyring) -> anyhow::Result<Self> {
        let columns = SEALED.iter().map(|(column, bound_to)| {
            let Some(before) = sealed(row, column) else {
                return Ok(row.get(column));
            };
            let resealed = keys.reseal(&seal_context(id, bound_to), before);
            resealed
                .map(Some)
                .with_context(|| format!("opening the column `{column}`"))
        });
        columns.collect::<anyhow::Result<_>>().map(Self)
    }
}

async fn lock_catalogue(transaction: &Transaction<'_>) -> anyhow::Result<()> {
    let statement = transaction
        .prepare_cached("-- lock_catalogue\nSELECT revision FROM catalogue FOR UPDATE")
        .await?;
    transaction.query_one(&statement, &[]).await?;
    Ok(())
}

async fn lock_sealed(
    transaction: &Transaction<'_>,
    webhooks: &[WebhookId],
) -> anyhow::Result<Vec<Row>> {
    let statement = transaction
        .prepare_cached(
            "-- lock_sealed\n\
             SELECT id, secret, previous_secret, signing_key, previous_signing_key, headers, \
                 client_certificate, oauth2 \
             FROM webhooks WHERE id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED",
        )
        .await?;
    Ok(transaction.query(&statement, &[&webhooks]).await?)
}

async fn reseal_webhook(
    transaction: &Transaction<'_>,
    id: WebhookId,
    Resealed(columns): &Resealed,
) -> anyhow::Result<()> {
    let statement = transaction
        .prepare_cached(
            "-- reseal_webhook\n\
             UPDATE webhooks SET secret = $2, previous_secret = $3, signing_key = $4, \
                 previous_signing_key = $5, headers = $6, client_certificate = $7, oauth2 = $8 \
             WHERE id = $1",
        )
        .await?;
    let [
        secret,
        previous_secret,
        signing_key,
        previous_signing_key,
        headers,
        client_certificate,
        oauth2,
    ] = columns.as_slice()
    else {
        unreachable!("as many as `SEALED` has");
    };
    transaction
        .execute(
            &statement,
            &[
                &id,
                secret,
                previous_secret,
                signing_key,
                previous_signing_key,
                headers,
                client_certificate,
                oauth2,
            ],
        )
        .await?;
    Ok(())
}
