//! Deletes a tenant: what acts for it at once, its log step by step.
//!
//! [`begin`] marks the tenant's row. From that commit on every process takes the tenant for
//! unknown: its events are refused, its tokens and JWTs are not accepted. [`forget_webhooks`]
//! then empties the rows of its webhooks, secrets included, a bounded number in each
//! transaction. [`run`] does the rest: whichever replica of ingest comes first takes the next
//! step; the row of the deletion is the lease. An event goes together with its deliveries and
//! their attempts, so at no time does an event lack a delivery that it had. The tenant's own
//! row goes last. Then its id is free again.

use std::time::{Duration, Instant};

use deadpool_postgres::{GenericClient, Pool, Transaction};
use serde::Serialize;
use shared::ids::Tenant;
use tokio_postgres::Row;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use utoipa::ToSchema;

use crate::dead_letters::store::remove_of_tenant;
use crate::invalid::{NotFound, Unsaved};
use crate::timestamp::Timestamp;
use crate::webhooks::store::FORGOTTEN;

/// How often a deletion is looked for.
const TICK: Duration = Duration::from_secs(1);
/// The most webhooks, events or dead letters in one transaction.
const AT_ONCE: i64 = 500;
/// The most events that are counted to show the progress.
const COUNTED: i64 = 100_000;

/// How far the deletion of a tenant is.
#[derive(Serialize, ToSchema)]
#[schema(as = TenantDeletion)]
pub struct Deletion {
    tenant: Tenant,
    /// `purging`: the log is being deleted. `finished`: nothing of the tenant is left.
    state: DeletionState,
    requested_at: Timestamp,
    /// When nothing was left.
    #[schema(required)]
    finished_at: Option<Timestamp>,
    /// The number of events that were deleted, with their deliveries.
    #[schema(example = 1_200)]
    events_deleted: i64,
    #[schema(example = 3_600)]
    deliveries_deleted: i64,
    #[schema(example = 0)]
    dead_letters_deleted: i64,
    /// The number of events that are left. At most 100,000 are counted.
    #[schema(example = 800)]
    events_left: i64,
}

/// How far the deletion of a tenant is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = TenantDeletionState)]
enum DeletionState {
    Purging,
    Finished,
}

impl From<&Row> for Deletion {
    fn from(row: &Row) -> Self {
        let finished_at: Option<Timestamp> = row.get("finished_at");
        Self {
            tenant: row.get("tenant"),
            state: match finished_at {
                Some(_) => DeletionState::Finished,
                None => DeletionState::Purging,
            },
            requested_at: row.get("requested_at"),
            finished_at,
            events_deleted: row.get("events"),
            deliveries_deleted: row.get("deliveries"),
            dead_letters_deleted: row.get("dead_letters"),
            events_left: row.get("events_left"),
        }
    }
}

/// Marks the tenant as deleted and takes away what acts for it: tokens, event types, replays.
///
/// # Errors
/// If there is no such tenant.
pub async fn begin(transaction: &Transaction<'_>, tenant: &Tenant) -> Result<(), Unsaved> {
    let marked = execute(
        transaction,
        "-- mark_tenant_deleted\n\
         UPDATE tenants SET deleted_at = now() WHERE id = $1 AND deleted_at IS NULL",
        tenant,
    );
    if marked.await? == 0 {
        return Err(NotFound::tenant(tenant).into());
    }
    for statement in [
        // Before the sessions: this waits for a link that is being opened, and then its session is
        // there to be deleted.
        "-- delete_tenants_links\nDELETE FROM links WHERE tenant = $1",
        "-- delete_tenants_sessions\n\
         DELETE FROM sessions WHERE tenant = $1 \
             OR token_id IN (SELECT id FROM tokens WHERE tenant = $1)",
        "-- delete_tenants_tokens\nDELETE FROM tokens WHERE tenant = $1",
        "-- delete_tenants_event_types\nDELETE FROM event_types WHERE tenant = $1",
        "-- delete_tenants_replays\nDELETE FROM replays WHERE tenant = $1",
        "-- note_tenant_deletion\nINSERT INTO tenant_deletions (tenant) VALUES ($1)",
    ] {
        execute(transaction, statement, tenant).await?;
    }
    Ok(())
}

async fn execute(
    client: &impl GenericClient,
    statement: &str,
    tenant: &Tenant,
) -> Result<u64, tokio_postgres::Error> {
    let statement = client.prepare_cached(statement).await?;
    client.execute(&statement, &[tenant]).await
}

/// Empties the rows of some of the tenant's webhooks. Answers whether none is left.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn forget_webhooks(
    client: &impl GenericClient,
    tenant: &Tenant,
) -> Result<bool, tokio_postgres::Error> {
    let statement = client
        .prepare_cached(&format!(
            "-- forget_webhooks\n\
             UPDATE webhooks SET {FORGOTTEN} WHERE id = ANY (ARRAY( \
                 SELECT id FROM webhooks WHERE tenant = $1 AND status <> 'deleted' \
                 ORDER BY id LIMIT $2))"
        ))
        .await?;
    let forgotten = client.execute(&statement, &[tenant, &AT_ONCE]).await?;
    Ok((forgotten as i64) < AT_ONCE)
}

/// The latest deletion of a tenant with this id.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn find(
    client: &impl GenericClient,
    tenant: &Tenant,
) -> Result<Option<Deletion>, tokio_postgres::Error> {
    // `matched >= 0`: see `events::log`.
    let statement = client
        .prepare_cached(
            "-- show_tenant_deletion\n\
             SELECT d.*, CASE WHEN d.finished_at IS NULL THEN (SELECT count(*) FROM ( \
                 SELECT FROM events WHERE tenant = $1 AND matched >= 0 LIMIT $2) AS counted) \
                 ELSE 0 END AS events_left \
             FROM tenant_deletions d WHERE d.tenant = $1 ORDER BY d.requested_at DESC LIMIT 1",
        )
        .await?;
    let row = client.query_opt(&statement, &[tenant, &COUNTED]).await?;
    Ok(row.as_ref().map(Deletion::from))
}

/// Takes steps until it is told to stop.
pub async fn run(pool: Pool, stop: CancellationToken) {
    loop {
        let begun = Instant::now();
        let pause = match step(&pool).await {
            // As long as the step took, so that deleting takes at most half of a connection.
            Ok(true) => begun.elapsed(),
            Ok(false) => TICK,
            Err(error) => {
                warn!(
                    error = format!("{error:#}"),
                    "a step of deleting a tenant failed; trying again in a second"
                );
                TICK
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// What one step has deleted.
#[derive(Default)]
struct Step {
    events: i64,
    deliveries: i64,
    dead_letters: i64,
    is_last: bool,
}

/// Takes one step of the oldest deletion that no other replica is working on. Answers whether
/// there was one.
async fn step(pool: &Pool) -> anyhow::Result<bool> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    let statement = transaction
        .prepare_cached(
            "-- claim_tenant_deletion\n\
             SELECT tenant FROM tenant_deletions WHERE finished_at IS NULL \
             ORDER BY requested_at LIMIT 1 FOR UPDATE SKIP LOCKED",
        )
        .await?;
    let Some(row) = transaction.query_opt(&statement, &[]).await? else {
        return Ok(false);
    };
    let tenant: Tenant = row.get(0);
    let step = purge(&transaction, &tenant).await?;
    let statement = transaction
        .prepare_cached(
            "-- advance_tenant_deletion\n\
             UPDATE tenant_deletions SET events = events + $2, deliveries = deliveries + $3, \
                 dead_letters = dead_letters + $4, finished_at = CASE WHEN $5 THEN now() END \
             WHERE tenant = $1 AND finished_at IS NULL",
        )
        .await?;
    let Step {
        events,
        deliveries,
        dead_letters,
        is_last,
    } = step;
    transaction
        .execute(
            &statement,
            &[&tenant, &events, &deliveries, &dead_letters, &is_last],
        )
        .await?;
    transaction.commit().await?;
    if is_last {
        info!(%tenant, "a deleted tenant's log is gone");
    }
    Ok(true)
}

async fn purge(transaction: &Transaction<'_>, tenant: &Tenant) -> anyhow::Result<Step> {
    // The request that deleted the tenant may have been cut off.
    if !forget_webhooks(transaction, tenant).await? {
        return Ok(Step::default());
    }
    let (events, deliveries) = purge_events(transaction, tenant).await?;
    if events > 0 {
        return Ok(Step {
            events,
            deliveries,
            ..Step::default()
        });
    }
    let dead_letters = remove_of_tenant(transaction, tenant, AT_ONCE).await?;
    if dead_letters > 0 {
        return Ok(Step {
            dead_letters,
            ..Step::default()
        });
    }
    let is_last = purge_webhooks(transaction, tenant).await?;
    if is_last {
        for statement in [
            "-- purge_tenants_stats\nDELETE FROM stats WHERE subject = 'tenant/' || $1",
            "-- purge_tenants_rate_usage\nDELETE FROM rate_usage WHERE subject = 'tenant/' || $1",
            "-- purge_tenants_overflow\nDELETE FROM set_aside WHERE tenant = $1",
            "-- purge_tenants_sessions\n\
             DELETE FROM sessions WHERE tenant = $1 \
                 OR token_id IN (SELECT id FROM tokens WHERE tenant = $1)",
            "-- purge_tenants_links\nDELETE FROM links WHERE tenant = $1",
            "-- purge_tenants_replays\nDELETE FROM replays WHERE tenant = $1",
            "-- purge_tenants_type_counts\nDELETE FROM event_type_counts WHERE tenant = $1",
            "-- purge_tenants_changes\nDELETE FROM changes WHERE tenant = $1",
            "-- purge_tenants_tokens\nDELETE FROM tokens WHERE tenant = $1",
            "-- purge_tenant\nDELETE FROM tenants WHERE id = $1 AND deleted_at IS NOT NULL",
        ] {
            execute(transaction, statement, tenant).await?;
        }
    }
    Ok(Step {
        is_last,
        ..Step::default()
    })
}

/// Deletes some events with their deliveries and attempts. Answers how many of the first two.
async fn purge_events(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
) -> Result<(i64, i64), tokio_postgres::Error> {
    let statement = transaction
        .prepare_cached(
            "-- events_to_purge\n\
             SELECT uid FROM events WHERE tenant = $1 AND matched >= 0 ORDER BY tenant, uid LIMIT $2",
        )
        .await?;
    let rows = transaction.query(&statement, &[tenant, &AT_ONCE]).await?;
    let events: Vec<uuid::Uuid> = rows.iter().map(|row| row.get(0)).collect();
    if events.is_empty() {
        return Ok((0, 0));
    }
    let statement = transaction
        .prepare_cached(
            "-- purge_deliveries\n\
             WITH doomed AS MATERIALIZED ( \
                 SELECT d.id FROM unnest($1::uuid[]) AS e (uid) CROSS JOIN LATERAL ( \
                     SELECT id FROM deliveries \
                     WHERE id BETWEEN millisecond_floor(e.uid) AND millisecond_ceiling(e.uid) \
                       AND event_uid = e.uid) d), \
             attempted AS (DELETE FROM attempts WHERE delivery_id = ANY (ARRAY(SELECT id FROM doomed))) \
             DELETE FROM deliveries WHERE id = ANY (ARRAY(SELECT id FROM doomed))",
        )
        .await?;
    let deliveries = transaction.execute(&statement, &[&events]).await?;
    let statement = transaction
        .prepare_cached("-- purge_events\nDELETE FROM events WHERE uid = ANY ($1)")
        .await?;
    transaction.execute(&statement, &[&events]).await?;
    Ok((events.len() as i64, deliveries as i64))
}

/// Deletes the rows of some webhooks, and what is counted of them. Answers whether none is left.
async fn purge_webhooks(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
) -> Result<bool, tokio_postgres::Error> {
    let statement = transaction
        .prepare_cached(
            "-- purge_tenants_webhooks\n\
             DELETE FROM webhooks WHERE id = ANY (ARRAY( \
                 SELECT id FROM webhooks WHERE tenant = $1 ORDER BY id LIMIT $2)) \
             RETURNING id",
        )
        .await?;
    let rows = transaction.query(&statement, &[tenant, &AT_ONCE]).await?;
    let ids: Vec<shared::ids::WebhookId> = rows.iter().map(|row| row.get(0)).collect();
    let subjects: Vec<String> = ids.iter().map(|id| format!("webhook/{id}")).collect();
    for statement in [
        "-- purge_webhooks_stats\nDELETE FROM stats WHERE subject = ANY ($1)",
        "-- purge_webhooks_rate_usage\nDELETE FROM rate_usage WHERE subject = ANY ($1)",
        "-- purge_webhooks_troubles\nDELETE FROM troubles WHERE subject = ANY ($1)",
    ] {
        let statement = transaction.prepare_cached(statement).await?;
        transaction.execute(&statement, &[&subjects]).await?;
    }
    for statement in [
        "-- purge_webhooks_holds\nDELETE FROM holds WHERE webhook_id = ANY ($1)",
        "-- purge_webhooks_alerts\nDELETE FROM webhook_alerts WHERE webhook_id = ANY ($1)",
        "-- purge_webhooks_told\nDELETE FROM exhausted_told WHERE webhook_id = ANY ($1)",
        "-- purge_webhooks_endpoints\nDELETE FROM endpoints WHERE webhook_id = ANY ($1)",
        "-- purge_webhooks_outages\nDELETE FROM outages WHERE webhook_id = ANY ($1)",
        "-- purge_webhooks_probes\nDELETE FROM probes WHERE webhook_id = ANY ($1)",
        "-- purge_costly_filters\nDELETE FROM costly_filters WHERE webhook_id = ANY ($1)",
    ] {
        let statement = transaction.prepare_cached(statement).await?;
        transaction.execute(&statement, &[&ids]).await?;
    }
    Ok((ids.len() as i64) < AT_ONCE)
}

/// Deletes the rows of deletions that finished a month ago.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn delete_outdated(pool: &Pool) -> anyhow::Result<()> {
    let client = pool.get().await?;
    client
        .execute(
            "-- delete_outdated_deletions\n\
             DELETE FROM tenant_deletions WHERE finished_at < now() - interval '30 days'",
            &[],
        )
        .await?;
    Ok(())
}
