//! Tenants: what may be declared of one, and its row.
//!
//! Both the API and `apply` check forms here and write rows with [`insert`] and
//! [`update`].

use deadpool_postgres::GenericClient;
use serde::{Deserialize, Serialize};
use shared::dialect::{DEFAULT, Dialects};
use shared::egress::is_name;
use shared::ids::Tenant;
use shared::tenant::{LARGEST_MAX_PAYLOAD, MAX_PAYLOAD};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use utoipa::ToSchema;

use crate::assignments::Assignments;
use crate::form::{check_dialect, object, present};
use crate::invalid::{Conflict, Invalid, NotFound, Unsaved};
use crate::timestamp::Timestamp;

/// The longest name, in bytes.
const MAX_NAME: usize = 256;
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
    /// Whether only event types of its catalogue may be published and subscribed to.
    pub strict_event_types: bool,
    /// The name of the proxy that its deliveries leave through; `null`: that of all tenants, if
    /// there is one.
    #[schema(required, example = "eu")]
    pub egress_proxy: Option<String>,
    created_at: Timestamp,
}

/// A tenant's limits.
#[derive(Serialize, ToSchema)]
#[schema(as = TenantLimits)]
pub struct Limits {
    /// The most webhooks.
    #[schema(example = 100)]
    pub webhooks: i32,
    /// The most attempts in any hour, over all webhooks; `null`: no limit.
    #[schema(required)]
    pub deliveries_per_hour: Option<i32>,
    /// The largest data of an event, in bytes.
    #[schema(example = 262_144)]
    pub payload_bytes: i32,
    /// The longest time from an event to its last attempt; `null`: the dialect's.
    #[schema(required)]
    pub max_age_seconds: Option<i32>,
}

/// What is read to show a tenant.
pub const COLUMNS: &str = "id, name, dialect, max_webhooks, deliveries_per_hour, max_payload, \
                       max_age_s, strict_event_types, egress_proxy, created_at";

impl TenantView {
    #[must_use]
    pub fn from_row(row: &Row) -> Self {
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
            strict_event_types: row.get("strict_event_types"),
            egress_proxy: row.get("egress_proxy"),
            created_at: row.get("created_at"),
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
    /// Whether only event types of its catalogue may be published and subscribed to.
    strict_event_types: Option<bool>,
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
    /// Whether only event types of its catalogue may be published and subscribed to.
    pub strict_event_types: Option<bool>,
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

impl NewLimits {
    fn check(&self) -> Result<(), Invalid> {
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
                return Err(Invalid::new(
                    format!("limits.{field}"),
                    format!("must be between {least} and {most}"),
                ));
            }
        }
        Ok(())
    }
}

impl NewTenant {
    /// Its id, and the rest of it.
    ///
    /// # Errors
    /// Names the member and its bound.
    pub fn check(self, dialects: &Dialects) -> Result<(Tenant, Change), Invalid> {
        let id = self.id.parse().map_err(|error| Invalid::new("id", error))?;
        let change = Change {
            name: self.name,
            dialect: self.dialect,
            limits: self.limits,
            strict_event_types: self.strict_event_types,
            egress_proxy: self.egress_proxy,
        };
        change.check(dialects)?;
        Ok((id, change))
    }
}

impl Change {
    /// Checks every member.
    ///
    /// # Errors
    /// Names the member and its bound.
    pub fn check(&self, dialects: &Dialects) -> Result<(), Invalid> {
        let unfit = |name: &String| name.len() > MAX_NAME || name.contains('\0');
        if self.name.as_ref().is_some_and(unfit) {
            return Err(Invalid::new(
                "name",
                format!("must be at most {MAX_NAME} bytes, without NUL"),
            ));
        }
        if let Some(dialect) = &self.dialect {
            check_dialect(dialect, dialects)?;
        }
        let unfit = |name: &String| !is_name(name);
        if self
            .egress_proxy
            .as_ref()
            .and_then(Option::as_ref)
            .is_some_and(unfit)
        {
            let bound = "must be 1 to 63 of `a-z`, `0-9`, `_` and `-`";
            return Err(Invalid::new("egress_proxy", bound));
        }
        self.limits.check()
    }
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
                 max_age_s, strict_event_types, egress_proxy, revision) \
             VALUES ($1, coalesce($2, ''), coalesce($3, '{DEFAULT}'), coalesce($4, 100), $5, $6, $7, \
                 coalesce($8, false), $9, 0) \
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
        strict_event_types,
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
    changes.set("strict_event_types", *strict_event_types);
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
