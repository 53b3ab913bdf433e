//! Tenants: make, list, show, change. For the operator.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use shared::dialect::{DEFAULT, Dialects};
use shared::ids::Tenant;
use shared::tenant::{LARGEST_MAX_PAYLOAD, MAX_PAYLOAD};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::auth::Operating;
use super::dialects::check_dialect;
use super::problem::{Problem, Result};
use super::request::{Body, Name, Page, Parameters, object};
use super::timestamp::Timestamp;
use super::webhook_form::present;

/// The longest name, in bytes.
const MAX_NAME: usize = 256;
/// The highest limit on webhooks.
const MAX_WEBHOOKS: i32 = 100_000;
/// The highest limit on deliveries an hour.
const MAX_DELIVERIES: i32 = 100_000_000;
/// The highest limit on a delivery's age, in seconds.
const WEEK: i32 = 7 * 86_400;

/// `/api/v1/admin/tenants…`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, change))
}

/// Whose events and webhooks these are.
#[derive(Serialize, ToSchema)]
#[schema(as = Tenant)]
struct Shown {
    id: Tenant,
    /// For people.
    #[schema(example = "Acme Ltd")]
    name: String,
    /// The dialect of webhooks that have none of their own.
    #[schema(example = "standard")]
    dialect: String,
    limits: Limits,
    /// Whether its webhooks and events may only have types that are in its catalogue.
    strict_event_types: bool,
    created_at: Timestamp,
}

/// What a tenant may have.
#[derive(Serialize, ToSchema)]
#[schema(as = TenantLimits)]
struct Limits {
    /// How many webhooks.
    #[schema(example = 100)]
    webhooks: i32,
    /// Attempts in any hour, over all webhooks; `null`: as many as there are.
    #[schema(required)]
    deliveries_per_hour: Option<i32>,
    /// The largest data of an event, in bytes.
    #[schema(example = 262_144)]
    payload_bytes: i32,
    /// From an event to its last attempt; `null`: what the dialect says.
    #[schema(required)]
    max_age_seconds: Option<i32>,
}

/// A page of tenants.
#[derive(Serialize, ToSchema)]
#[schema(as = TenantPage)]
struct Listed {
    tenants: Vec<Shown>,
    /// Of the next page; `null` on the last.
    #[schema(required)]
    next_cursor: Option<String>,
}

const COLUMNS: &str = "id, name, dialect, max_webhooks, deliveries_per_hour, max_payload, \
                       max_age_s, strict_event_types, created_at";

impl Shown {
    fn of(row: &Row) -> Self {
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
            created_at: row.get("created_at"),
        }
    }
}

/// A new tenant. Only its id is needed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTenant {
    /// In events' routing keys and in `X-Tenant-ID`. For good.
    #[schema(value_type = Tenant)]
    id: String,
    /// For people.
    #[schema(max_length = 256, example = "Acme Ltd")]
    name: Option<String>,
    /// The dialect of webhooks that have none of their own; `standard` unless set.
    #[schema(example = "standard")]
    dialect: Option<String>,
    #[serde(default, deserialize_with = "object")]
    limits: NewLimits,
}

/// What is to change of a tenant. What isn't sent stays.
#[derive(Deserialize, ToSchema)]
#[schema(as = TenantChange)]
#[serde(deny_unknown_fields)]
struct Change {
    /// For people.
    #[schema(max_length = 256, example = "Acme Ltd")]
    name: Option<String>,
    /// The dialect of webhooks that have none of their own.
    #[schema(example = "standard")]
    dialect: Option<String>,
    #[serde(default, deserialize_with = "object")]
    limits: NewLimits,
    /// Whether its webhooks and events may only have types that are in its catalogue.
    strict_event_types: Option<bool>,
}

/// What a tenant is to be allowed. `null` is the default again.
#[derive(Deserialize, Default, ToSchema)]
#[schema(as = NewTenantLimits)]
#[serde(deny_unknown_fields)]
struct NewLimits {
    /// How many webhooks; 100 unless set.
    #[schema(minimum = 0, maximum = 100_000, example = 100)]
    webhooks: Option<i32>,
    /// Attempts in any hour, over all webhooks; as many as there are unless set.
    #[serde(default, alias = "deliveriesPerHour", deserialize_with = "present")]
    #[schema(
        value_type = Option<i32>, minimum = 1, maximum = 100_000_000, example = 1000,
        extensions(("x-also" = json!(["deliveriesPerHour"])))
    )]
    deliveries_per_hour: Option<Option<i32>>,
    /// The largest data of an event; 262,144 unless set.
    #[serde(default, alias = "payloadBytes", deserialize_with = "present")]
    #[schema(
        value_type = Option<i32>, minimum = 1, maximum = 1_048_576, example = 262_144,
        extensions(("x-also" = json!(["payloadBytes"])))
    )]
    payload_bytes: Option<Option<i32>>,
    /// From an event to its last attempt; what the dialect says unless set.
    #[serde(default, alias = "maxAgeSeconds", deserialize_with = "present")]
    #[schema(
        value_type = Option<i32>, minimum = 60, maximum = 604_800, example = 604_800,
        extensions(("x-also" = json!(["maxAgeSeconds"])))
    )]
    max_age_seconds: Option<Option<i32>>,
}

impl NewLimits {
    fn check(&self) -> Result<()> {
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
                return Err(Problem::field(
                    format!("limits.{field}"),
                    format!("must be between {least} and {most}"),
                ));
            }
        }
        Ok(())
    }
}

fn check(
    name: Option<&str>,
    dialect: Option<&str>,
    limits: &NewLimits,
    dialects: &Dialects,
) -> Result<()> {
    if name.is_some_and(|name| name.len() > MAX_NAME || name.contains('\0')) {
        return Err(Problem::field(
            "name",
            format!("must be at most {MAX_NAME} bytes, without NUL"),
        ));
    }
    if let Some(dialect) = dialect {
        check_dialect(dialect, dialects)?;
    }
    limits.check()
}

/// Create a tenant
#[utoipa::path(
    post, path = "/", operation_id = "create_tenant", tag = "tenants",
    security(("token" = ["operator"])),
    request_body = NewTenant,
    responses(
        (status = 201, description = "The tenant.", body = Shown),
        (status = 409, description = "There is one with this id."),
    ),
)]
async fn create(
    _: Operating,
    State(api): State<Shared>,
    Body(new): Body<NewTenant>,
) -> Result<(StatusCode, Json<Shown>)> {
    let id: Tenant = new
        .id
        .parse()
        .map_err(|error| Problem::field("id", format!("{error}")))?;
    let NewTenant {
        name,
        dialect,
        limits,
        ..
    } = new;
    check(name.as_deref(), dialect.as_deref(), &limits, &api.dialects)?;
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- create_tenant\n\
             INSERT INTO tenants (id, name, dialect, max_webhooks, deliveries_per_hour, max_payload, \
                 max_age_s, revision) \
             VALUES ($1, coalesce($2, ''), coalesce($3, '{DEFAULT}'), coalesce($4, 100), $5, $6, $7, 0) \
             RETURNING {COLUMNS}"
        ))
        .await?;
    let row = client
        .query_one(
            &statement,
            &[
                &id,
                &name,
                &dialect,
                &limits.webhooks,
                &limits.deliveries_per_hour.flatten(),
                &limits.payload_bytes.flatten(),
                &limits.max_age_seconds.flatten(),
            ],
        )
        .await
        .map_err(|error| match error.code() {
            Some(&SqlState::UNIQUE_VIOLATION) => {
                Problem::conflict(format!("tenant `{id}` exists already"))
            }
            _ => error.into(),
        })?;
    drop(client);
    api.feed.refresh().await?;
    Ok((StatusCode::CREATED, Json(Shown::of(&row))))
}

/// List tenants
///
/// By id.
#[utoipa::path(
    get, path = "/", operation_id = "list_tenants", tag = "tenants",
    security(("token" = ["operator"])),
    params(Page),
    responses((status = 200, description = "A page of them.", body = Listed)),
)]
async fn list(
    _: Operating,
    State(api): State<Shared>,
    Parameters(page): Parameters<Page>,
) -> Result<Json<Listed>> {
    let (limit, after) = (page.limit()?, page.after::<Tenant>()?);
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- list_tenants\n\
             SELECT {COLUMNS} FROM tenants WHERE id > coalesce($1, '') ORDER BY id LIMIT $2"
        ))
        .await?;
    let rows = client.query(&statement, &[&after, &(limit + 1)]).await?;
    let (shown, next_cursor) = page.cut::<Tenant>(&rows)?;
    Ok(Json(Listed {
        tenants: shown.iter().map(Shown::of).collect(),
        next_cursor,
    }))
}

/// Show a tenant
#[utoipa::path(
    get, path = "/{id}", operation_id = "show_tenant", tag = "tenants",
    security(("token" = ["operator"])),
    params(("id" = Tenant, Path)),
    responses((status = 200, description = "The tenant.", body = Shown)),
)]
async fn show(_: Operating, State(api): State<Shared>, Name(id): Name) -> Result<Json<Shown>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- show_tenant\nSELECT {COLUMNS} FROM tenants WHERE id = $1"
        ))
        .await?;
    let row = client.query_opt(&statement, &[&known(&id)?]).await?;
    row.map(|row| Json(Shown::of(&row)))
        .ok_or_else(|| unknown(&id))
}

/// Change a tenant
///
/// A limit that is lower than what the tenant has takes nothing away.
#[utoipa::path(
    patch, path = "/{id}", operation_id = "change_tenant", tag = "tenants",
    security(("token" = ["operator"])),
    params(("id" = Tenant, Path)),
    request_body = Change,
    responses((status = 200, description = "The tenant as it is now.", body = Shown)),
)]
async fn change(
    _: Operating,
    State(api): State<Shared>,
    Name(id): Name,
    Body(change): Body<Change>,
) -> Result<Json<Shown>> {
    let Change {
        name,
        dialect,
        limits,
        strict_event_types,
    } = change;
    check(name.as_deref(), dialect.as_deref(), &limits, &api.dialects)?;
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- change_tenant\n\
             UPDATE tenants SET name = coalesce($2, name), dialect = coalesce($3, dialect), \
                 max_webhooks = coalesce($4, max_webhooks), \
                 deliveries_per_hour = CASE WHEN $5 THEN $6 ELSE deliveries_per_hour END, \
                 max_payload = CASE WHEN $7 THEN $8 ELSE max_payload END, \
                 max_age_s = CASE WHEN $9 THEN $10 ELSE max_age_s END, \
                 strict_event_types = coalesce($11, strict_event_types) \
             WHERE id = $1 RETURNING {COLUMNS}"
        ))
        .await?;
    let row = client
        .query_opt(
            &statement,
            &[
                &known(&id)?,
                &name,
                &dialect,
                &limits.webhooks,
                &limits.deliveries_per_hour.is_some(),
                &limits.deliveries_per_hour.flatten(),
                &limits.payload_bytes.is_some(),
                &limits.payload_bytes.flatten(),
                &limits.max_age_seconds.is_some(),
                &limits.max_age_seconds.flatten(),
                &strict_event_types,
            ],
        )
        .await?
        .ok_or_else(|| unknown(&id))?;
    drop(client);
    api.feed.refresh().await?;
    Ok(Json(Shown::of(&row)))
}

/// What can't be a tenant's id is as unknown as any other.
fn known(id: &str) -> Result<Tenant> {
    id.parse().map_err(|_| unknown(id))
}

fn unknown(id: &str) -> Problem {
    Problem::not_found(format!("tenant `{id}` does not exist"))
}
