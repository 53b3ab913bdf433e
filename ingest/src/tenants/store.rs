//! The rows of tenants: create and change them, and read what tenants use.

use deadpool_postgres::GenericClient;
use shared::dialect::DEFAULT;
use shared::ids::Tenant;
use tokio_postgres::error::SqlState;

use super::form::TenantChange;
use super::health::TenantHealth;
use super::view::{COLUMNS, TenantView, Usage};
use crate::assignments::{Assignments, Insertion};
use crate::invalid::{Conflict, NotFound, Unsaved};

/// What these tenants use, in their order.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn usage(
    client: &impl GenericClient,
    tenants: &[Tenant],
) -> Result<Vec<Usage>, tokio_postgres::Error> {
    let statement = client
        .prepare_cached(
            "-- usage_of_tenants\n\
             SELECT w.webhooks, s.* FROM unnest($1::text[]) WITH ORDINALITY AS t (id, n) \
             CROSS JOIN LATERAL (SELECT count(*) AS webhooks FROM webhooks \
                 WHERE tenant = t.id AND status <> 'deleted') w \
             CROSS JOIN LATERAL ( \
                 SELECT coalesce(sum((SELECT sum(n) FROM unnest(outcomes) n)) \
                         FILTER (WHERE quarter >= now() - interval '1 hour'), 0)::int8 AS attempts, \
                     coalesce(sum(outcomes[1]) FILTER (WHERE quarter >= now() - interval '1 hour'), 0)::int8 AS successes, \
                     coalesce(sum(delivered), 0)::int8 AS delivered, \
                     coalesce(sum(failed + expired), 0)::int8 AS failed, \
                     coalesce(sum(cancelled), 0)::int8 AS cancelled, \
                     max(last_attempt_at) AS last_attempt_at \
                 FROM stats WHERE subject = 'tenant/' || t.id AND quarter >= now() - interval '24 hours') s \
             ORDER BY t.n",
        )
        .await?;
    let rows = client.query(&statement, &[&tenants]).await?;
    let usage = rows.iter().map(|row| {
        let count = |column: &str| row.get::<_, i64>(column);
        let (delivered, failed) = (count("delivered"), count("failed"));
        let ended = delivered + failed;
        Usage {
            health: TenantHealth::of(count("successes"), count("attempts")),
            webhooks: count("webhooks"),
            attempts_this_hour: count("attempts"),
            deliveries_24h: ended + count("cancelled"),
            success_rate_24h: (ended > 0).then(|| delivered as f64 / ended as f64),
            last_attempt_at: row.get("last_attempt_at"),
            // `api::tenants` counts them.
            waiting: None,
            waiting_counted: true,
        }
    });
    Ok(usage.collect())
}

/// Makes a tenant, with defaults for what isn't said.
///
/// # Errors
/// If there is one by this id.
pub async fn insert(
    client: &impl GenericClient,
    id: &Tenant,
    new: &TenantChange,
) -> Result<TenantView, Unsaved> {
    let mut tenant = Insertion::default();
    tenant.set("id", id);
    tenant.set_or("name", new.name.as_ref(), "''");
    tenant.set_or("dialect", new.dialect.as_ref(), &format!("'{DEFAULT}'"));
    let limits = &new.limits;
    tenant.set_or("max_webhooks", limits.webhooks, "100");
    tenant.set("deliveries_per_hour", limits.deliveries_per_hour.flatten());
    tenant.set("max_payload", limits.payload_bytes.flatten());
    tenant.set("max_age_s", limits.max_age_seconds.flatten());
    tenant.set_or("strict_event_types", new.strict_event_types, "false");
    let alerts = &new.alerts;
    tenant.set("alert_failure_rate", alerts.failure_rate.flatten());
    tenant.set("alert_min_attempts", alerts.min_attempts.flatten());
    tenant.set("alert_slow_ms", alerts.slow_ms.flatten());
    tenant.set("alert_down_after_s", alerts.down_after_seconds.flatten());
    let origins = new.frame_ancestors.as_ref();
    tenant.set_or("frame_ancestors", origins, "'{}'::text[]");
    tenant.set(
        "egress_proxy",
        new.egress_proxy.as_ref().and_then(Option::as_ref),
    );
    tenant.set("revision", 0_i64);
    let statement = client
        .prepare_cached(&format!(
            "-- create_tenant\nINSERT INTO tenants {} RETURNING {COLUMNS}",
            tenant.row()
        ))
        .await?;
    let row = client
        .query_one(&statement, &tenant.values())
        .await
        .map_err(|error| match error.code() {
            Some(&SqlState::UNIQUE_VIOLATION) => Unsaved::from(Conflict::tenant_exists(id)),
            _ => error.into(),
        })?;
    Ok(TenantView::from_row(&row))
}

/// Changes what is said of a tenant.
///
/// # Errors
/// If there is none by this id.
pub async fn update(
    client: &impl GenericClient,
    id: &Tenant,
    change: &TenantChange,
) -> Result<TenantView, Unsaved> {
    let TenantChange {
        name,
        dialect,
        limits,
        alerts,
        strict_event_types,
        frame_ancestors,
        egress_proxy,
    } = change;
    let mut changes = Assignments::default();
    let tenant = changes.parameter(id);
    changes.set("name", name.as_ref());
    changes.set("dialect", dialect.as_ref());
    changes.set("max_webhooks", limits.webhooks);
    changes.set_nullable("deliveries_per_hour", limits.deliveries_per_hour);
    changes.set_nullable("max_payload", limits.payload_bytes);
    changes.set_nullable("max_age_s", limits.max_age_seconds);
    changes.set_nullable("alert_failure_rate", alerts.failure_rate);
    changes.set_nullable("alert_min_attempts", alerts.min_attempts);
    changes.set_nullable("alert_slow_ms", alerts.slow_ms);
    changes.set_nullable("alert_down_after_s", alerts.down_after_seconds);
    changes.set("strict_event_types", *strict_event_types);
    changes.set("frame_ancestors", frame_ancestors.as_ref());
    changes.set_nullable("egress_proxy", egress_proxy.as_ref().map(Option::as_ref));
    let statement = client
        .prepare_cached(&format!(
            "-- change_tenant\n\
             UPDATE tenants SET {} WHERE id = {tenant} AND deleted_at IS NULL RETURNING {COLUMNS}",
            changes.clauses()
        ))
        .await?;
    let row = client
        .query_opt(&statement, &changes.values())
        .await?
        .ok_or_else(|| NotFound::tenant(id))?;
    Ok(TenantView::from_row(&row))
}
