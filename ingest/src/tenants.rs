//! Tenants: what may be declared of one, and its row.
//!
//! Both the API and `apply` check forms here and write rows with [`insert`] and
//! [`update`].

use deadpool_postgres::GenericClient;
use serde::{Deserialize, Serialize};
use shared::dialect::{DEFAULT, Dialects};
use shared::egress::is_name;
use shared::ids::Tenant;
use shared::operational::Thresholds;
use shared::tenant::{LARGEST_MAX_PAYLOAD, MAX_PAYLOAD};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use utoipa::ToSchema;

use crate::assignments::Assignments;
use crate::form::{check_dialect, object, present};
use crate::invalid::{Conflict, Gathered, Invalid, Invalids, NotFound, Unsaved};
use crate::timestamp::Timestamp;

/// The longest name, in bytes.
const MAX_NAME: usize = 256;
/// The most origins that may frame a tenant's portal.
const MAX_ORIGINS: usize = 10;
/// The highest limit on webhooks.
const MAX_WEBHOOKS: i32 = 100_000;
/// The highest limit on deliveries an hour.
const MAX_DELIVERIES: i32 = 100_000_000;
/// The highest limit on a delivery's age, in seconds.
const WEEK: i32 = 7 * 86_400;

/// A tenant: the owner of events and webhooks.
#[derive(Serialize, ToSchema)]
#[schema(as = Tenant)]
pub struct TenantView {
    /// The id.
    pub id: Tenant,
    /// A text for people.
    #[schema(example = "Acme Ltd")]
    pub name: String,
    /// The dialect of webhooks that choose none.
    #[schema(example = "standard")]
    pub dialect: String,
    /// The tenant's limits.
    pub limits: Limits,
    /// Beyond what the tenant's operational webhooks are told of a webhook.
    pub alerts: Alerts,
    /// Whether only event types of its catalogue may be published and subscribed to.
    pub strict_event_types: bool,
    /// Origins whose pages may have its portal in a frame.
    #[schema(example = json!(["https://app.example.com"]))]
    pub frame_ancestors: Vec<String>,
    /// The name of the proxy that its deliveries leave through; `null`: that of all tenants, if
    /// there is one.
    #[schema(required, example = "eu")]
    pub egress_proxy: Option<String>,
    pub created_at: Timestamp,
    /// What it uses; only where tenants are listed or shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub usage: Option<Usage>,
}

/// What a tenant uses of its limits, and how its deliveries do.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[schema(as = TenantUsage)]
pub struct Usage {
    /// Its webhooks.
    #[schema(example = 8)]
    pub webhooks: i64,
    /// Attempts in the last hour, in whole quarters of an hour.
    #[schema(example = 412)]
    pub attempts_this_hour: i64,
    /// Deliveries that ended in the last 24 hours.
    #[schema(example = 9_120)]
    pub deliveries_24h: i64,
    /// Successful deliveries of those as a share of successful and failed ones, from 0 to 1.
    #[schema(required, example = 0.998)]
    pub success_rate_24h: Option<f64>,
    /// When an attempt was last made, in the last 24 hours.
    #[schema(required)]
    pub last_attempt_at: Option<Timestamp>,
}

/// A tenant's limits.
#[derive(Serialize, ToSchema)]
#[schema(as = TenantLimits)]
pub struct Limits {
    /// The most webhooks.
    #[schema(example = 100)]
    pub webhooks: i32,
    /// The most attempts in any hour, over all webhooks; `null`: as its dialect says, which is
    /// no limit in most.
    #[schema(required)]
    pub deliveries_per_hour: Option<i32>,
    /// The largest data of an event, in bytes.
    #[schema(example = 262_144)]
    pub payload_bytes: i32,
    /// The longest time from an event to its last attempt; `null`: the dialect's.
    #[schema(required)]
    pub max_age_seconds: Option<i32>,
}

/// When operational events tell that a webhook is failing, slow or down.
#[derive(Serialize, ToSchema)]
#[schema(as = TenantAlerts)]
pub struct Alerts {
    /// `webhook.failing`: more than this share of the attempts of the last quarter of an hour
    /// failed.
    #[schema(example = 0.05)]
    pub failure_rate: f64,
    /// `webhook.failing` and `webhook.slow`: only if there were this many attempts.
    #[schema(example = 20)]
    pub min_attempts: i32,
    /// `webhook.slow`: the 95th percentile of response times is longer, in milliseconds.
    #[schema(example = 5000)]
    pub slow_ms: i32,
    /// `webhook.down`: the endpoint is down for this long, in seconds.
    #[schema(example = 60)]
    pub down_after_seconds: i32,
}

/// What is read to show a tenant.
pub const COLUMNS: &str = "id, name, dialect, max_webhooks, deliveries_per_hour, max_payload, \
                       max_age_s, strict_event_types, frame_ancestors, egress_proxy, created_at, alert_failure_rate, \
                       alert_min_attempts, alert_slow_ms, alert_down_after_s";

impl TenantView {
    #[must_use]
    pub fn from_row(row: &Row) -> Self {
        let alerts = Thresholds::read(row);
        Self {
            id: row.get("id"),
            name: row.get("name"),
            dialect: row.get("dialect"),
            limits: Limits {
                webhooks: row.get("max_webhooks"),
                deliveries_per_hour: row.get("deliveries_per_hour"),
                payload_bytes: row
                    .get::<_, Option<i32>>("max_payload")
                    .unwrap_or(MAX_PAYLOAD as i32),
                max_age_seconds: row.get("max_age_s"),
            },
            alerts: Alerts {
                failure_rate: alerts.failure_rate,
                min_attempts: alerts.min_attempts as i32,
                slow_ms: alerts.slow.as_millis() as i32,
                down_after_seconds: alerts.down_after.as_secs() as i32,
            },
            strict_event_types: row.get("strict_event_types"),
            frame_ancestors: row.get("frame_ancestors"),
            egress_proxy: row.get("egress_proxy"),
            created_at: row.get("created_at"),
            usage: None,
        }
    }
}

/// A new tenant. Only its id is needed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// The id in events' routing keys and in `X-Tenant-ID`. It can't be changed.
    #[schema(value_type = Tenant)]
    id: String,
    /// A text for people.
    #[schema(max_length = 256, example = "Acme Ltd")]
    name: Option<String>,
    /// The dialect of webhooks that choose none; `standard` by default.
    #[schema(example = "standard")]
    dialect: Option<String>,
    #[serde(default, deserialize_with = "object")]
    limits: NewLimits,
    #[serde(default, deserialize_with = "object")]
    alerts: NewAlerts,
    /// Whether only event types of its catalogue may be published and subscribed to.
    strict_event_types: Option<bool>,
    /// Origins whose pages may have its portal in a frame, at most 10; nobody by default.
    #[schema(max_items = 10, example = json!(["https://app.example.com"]))]
    frame_ancestors: Option<Vec<String>>,
    /// The name of a proxy in `EGRESS_PROXIES`; by default deliveries leave through `EGRESS_PROXY`,
    /// or directly.
    #[serde(default, alias = "egressProxy", deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 63, example = "eu")]
    egress_proxy: Option<Option<String>>,
}

/// Changes to a tenant. A member that isn't sent stays as it is.
#[derive(Deserialize, ToSchema)]
#[schema(as = TenantChange)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// A text for people.
    #[schema(max_length = 256, example = "Acme Ltd")]
    pub name: Option<String>,
    /// The dialect of webhooks that choose none.
    #[schema(example = "standard")]
    pub dialect: Option<String>,
    /// The new limits.
    #[serde(default, deserialize_with = "object")]
    pub limits: NewLimits,
    /// When operational events tell of a webhook.
    #[serde(default, deserialize_with = "object")]
    pub alerts: NewAlerts,
    /// Whether only event types of its catalogue may be published and subscribed to.
    pub strict_event_types: Option<bool>,
    /// Origins whose pages may have its portal in a frame, at most 10.
    #[schema(max_items = 10, example = json!(["https://app.example.com"]))]
    pub frame_ancestors: Option<Vec<String>>,
    /// The name of a proxy in `EGRESS_PROXIES`; `null`: `EGRESS_PROXY`, if it is set.
    #[serde(default, alias = "egressProxy", deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 63, example = "eu")]
    pub egress_proxy: Option<Option<String>>,
}

/// New limits of a tenant. `null` restores a limit's default.
#[derive(Deserialize, Default, ToSchema)]
#[schema(as = NewTenantLimits)]
#[serde(deny_unknown_fields)]
pub struct NewLimits {
    /// The most webhooks; 100 by default.
    #[schema(minimum = 0, maximum = 100_000, example = 100)]
    pub webhooks: Option<i32>,
    /// The most attempts in any hour, over all webhooks; no limit by default.
    #[serde(default, alias = "deliveriesPerHour", deserialize_with = "present")]
    #[schema(
        value_type = Option<i32>, minimum = 1, maximum = 100_000_000, example = 1000,
        extensions(("x-also" = json!(["deliveriesPerHour"])))
    )]
    pub deliveries_per_hour: Option<Option<i32>>,
    /// The largest data of an event, in bytes; 262,144 by default.
    #[serde(default, alias = "payloadBytes", deserialize_with = "present")]
    #[schema(
        value_type = Option<i32>, minimum = 1, maximum = 1_048_576, example = 262_144,
        extensions(("x-also" = json!(["payloadBytes"])))
    )]
    pub payload_bytes: Option<Option<i32>>,
    /// The longest time from an event to its last attempt; the dialect's by default.
    #[serde(default, alias = "maxAgeSeconds", deserialize_with = "present")]
    #[schema(
        value_type = Option<i32>, minimum = 60, maximum = 604_800, example = 604_800,
        extensions(("x-also" = json!(["maxAgeSeconds"])))
    )]
    pub max_age_seconds: Option<Option<i32>>,
}

/// New thresholds of a tenant's operational events. `null` restores a default.
#[derive(Deserialize, Default, ToSchema)]
#[schema(as = NewTenantAlerts)]
#[serde(deny_unknown_fields)]
pub struct NewAlerts {
    /// `webhook.failing`: the share of attempts that fail; 0.05 by default.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<f64>, minimum = 0.001, maximum = 1.0, example = 0.05)]
    pub failure_rate: Option<Option<f64>>,
    /// `webhook.failing` and `webhook.slow`: the least number of attempts; 20 by default.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 1_000_000, example = 20)]
    pub min_attempts: Option<Option<i32>>,
    /// `webhook.slow`: the 95th percentile of response times, in milliseconds; 5,000 by default.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 60_000, example = 5000)]
    pub slow_ms: Option<Option<i32>>,
    /// `webhook.down`: for how long the endpoint is down, in seconds; 60 by default.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i32>, minimum = 0, maximum = 86_400, example = 60)]
    pub down_after_seconds: Option<Option<i32>>,
}

impl NewAlerts {
    fn check(&self, wrong: &mut Gathered) {
        let rate = self.failure_rate.flatten();
        if rate.is_some_and(|rate| !(0.001..=1.0).contains(&rate)) {
            wrong.take::<()>(Err(Invalid::new(
                "alerts.failure_rate",
                "must be between 0.001 and 1",
            )));
        }
        for (field, value, least, most) in [
            ("min_attempts", self.min_attempts.flatten(), 1, 1_000_000),
            ("slow_ms", self.slow_ms.flatten(), 1, 60_000),
            (
                "down_after_seconds",
                self.down_after_seconds.flatten(),
                0,
                86_400,
            ),
        ] {
            if value.is_some_and(|value| !(least..=most).contains(&value)) {
                wrong.take::<()>(Err(Invalid::new(
                    format!("alerts.{field}"),
                    format!("must be between {least} and {most}"),
                )));
            }
        }
    }
}

impl NewLimits {
    fn check(&self, wrong: &mut Gathered) {
        for (field, value, least, most) in [
            ("webhooks", self.webhooks, 0, MAX_WEBHOOKS),
            (
                "deliveries_per_hour",
                self.deliveries_per_hour.flatten(),
                1,
                MAX_DELIVERIES,
            ),
            (
                "payload_bytes",
                self.payload_bytes.flatten(),
                1,
                LARGEST_MAX_PAYLOAD as i32,
            ),
            ("max_age_seconds", self.max_age_seconds.flatten(), 60, WEEK),
        ] {
            if value.is_some_and(|value| !(least..=most).contains(&value)) {
                wrong.take::<()>(Err(Invalid::new(
                    format!("limits.{field}"),
                    format!("must be between {least} and {most}"),
                )));
            }
        }
    }
}

impl NewTenant {
    /// Its id, and the rest of it.
    ///
    /// # Errors
    /// Names each invalid member and its bound.
    pub fn check(self, dialects: &Dialects) -> Result<(Tenant, Change), Invalids> {
        let mut wrong = Gathered::default();
        let id = self.id.parse::<Tenant>();
        let id = wrong.take(id.map(Some).map_err(|error| Invalid::new("id", error)));
        let change = Change {
            name: self.name,
            dialect: self.dialect,
            limits: self.limits,
            alerts: self.alerts,
            strict_event_types: self.strict_event_types,
            frame_ancestors: self.frame_ancestors,
            egress_proxy: self.egress_proxy,
        };
        change.gather(dialects, &mut wrong);
        // There is an id unless an error was gathered.
        match wrong.finish(id)? {
            Some(id) => Ok((id, change)),
            None => Err(Invalids(vec![Invalid::missing("id")])),
        }
    }
}

impl Change {
    /// Checks every member.
    ///
    /// # Errors
    /// Names each invalid member and its bound.
    pub fn check(&self, dialects: &Dialects) -> Result<(), Invalids> {
        let mut wrong = Gathered::default();
        self.gather(dialects, &mut wrong);
        wrong.finish(())
    }

    fn gather(&self, dialects: &Dialects, wrong: &mut Gathered) {
        let unfit = |name: &String| name.len() > MAX_NAME || name.contains('\0');
        if self.name.as_ref().is_some_and(unfit) {
            wrong.take::<()>(Err(Invalid::new(
                "name",
                format!("must be at most {MAX_NAME} bytes, without NUL"),
            )));
        }
        if let Some(dialect) = &self.dialect {
            wrong.take(check_dialect(dialect, dialects));
        }
        let unfit = |name: &String| !is_name(name);
        let proxy = self.egress_proxy.as_ref().and_then(Option::as_ref);
        if proxy.is_some_and(unfit) {
            let bound = "must be 1 to 63 of `a-z`, `0-9`, `_` and `-`";
            wrong.take::<()>(Err(Invalid::new("egress_proxy", bound)));
        }
        self.limits.check(wrong);
        self.alerts.check(wrong);
        let origins = self.frame_ancestors.as_deref().unwrap_or_default();
        if origins.len() > MAX_ORIGINS {
            let bound = format!("must have at most {MAX_ORIGINS} entries");
            wrong.take::<()>(Err(Invalid::new("frame_ancestors", bound)));
        }
        for (at, origin) in origins.iter().enumerate().take(MAX_ORIGINS) {
            wrong.take(check_origin(at, origin));
        }
    }
}

/// An origin as browsers write it: it becomes a part of a header.
fn check_origin(at: usize, origin: &str) -> Result<(), Invalid> {
    let parsed = url::Url::parse(origin).ok();
    let is_web = |url: &&url::Url| matches!(url.scheme(), "https" | "http");
    let written = parsed
        .as_ref()
        .filter(is_web)
        .map(|url| url.origin().ascii_serialization());
    match written {
        Some(written) if written == origin && !origin.contains(['*', ';', ',']) => Ok(()),
        _ => Err(Invalid::new(
            format!("frame_ancestors[{at}]"),
            "must be an origin, such as https://app.example.com, without a path or a trailing slash",
        )),
    }
}

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
            webhooks: count("webhooks"),
            attempts_this_hour: count("attempts"),
            deliveries_24h: ended + count("cancelled"),
            success_rate_24h: (ended > 0).then(|| delivered as f64 / ended as f64),
            last_attempt_at: row.get("last_attempt_at"),
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
    new: &Change,
) -> Result<TenantView, Unsaved> {
    let statement = client
        .prepare_cached(&format!(
            "-- create_tenant\n\
             INSERT INTO tenants (id, name, dialect, max_webhooks, deliveries_per_hour, max_payload, \
                 max_age_s, strict_event_types, alert_failure_rate, alert_min_attempts, \
                 alert_slow_ms, alert_down_after_s, frame_ancestors, egress_proxy, revision) \
             VALUES ($1, coalesce($2, ''), coalesce($3, '{DEFAULT}'), coalesce($4, 100), $5, $6, $7, \
                 coalesce($8, false), $9, $10, $11, $12, coalesce($13::text[], '{{}}'), $14, 0) \
             RETURNING {COLUMNS}"
        ))
        .await?;
    let row = client
        .query_one(
            &statement,
            &[
                id,
                &new.name,
                &new.dialect,
                &new.limits.webhooks,
                &new.limits.deliveries_per_hour.flatten(),
                &new.limits.payload_bytes.flatten(),
                &new.limits.max_age_seconds.flatten(),
                &new.strict_event_types,
                &new.alerts.failure_rate.flatten(),
                &new.alerts.min_attempts.flatten(),
                &new.alerts.slow_ms.flatten(),
                &new.alerts.down_after_seconds.flatten(),
                &new.frame_ancestors,
                &new.egress_proxy.clone().flatten(),
            ],
        )
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
    change: &Change,
) -> Result<TenantView, Unsaved> {
    let Change {
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
