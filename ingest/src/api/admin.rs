//! For operators: tenants and tokens.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{delete, get};
use axum::{Json, Router};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::dialect::DEFAULT;
use shared::ids::{Tenant, TokenId};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::error::SqlState;

use super::Shared;
use super::auth::{Operating, Role, create_token};
use super::dialects::check_dialect;
use super::problem::{Problem, Result};
use super::request::{Body, Id};

/// `/api/v1/admin…`
pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/tenants", get(list_tenants).post(create_tenant))
        .route("/tokens", get(list_tokens).post(issue_token))
        .route("/tokens/{id}", delete(revoke_token))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTenant {
    id: String,
    #[serde(default)]
    name: String,
    dialect: Option<String>,
    #[serde(default)]
    limits: Limits,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Limits {
    webhooks: Option<i32>,
}

async fn create_tenant(
    _: Operating,
    State(api): State<Shared>,
    Body(new): Body<NewTenant>,
) -> Result<(StatusCode, Json<Value>)> {
    let id: Tenant = new
        .id
        .parse()
        .map_err(|error| Problem::field("id", format!("{error}")))?;
    if new.name.len() > 256 {
        return Err(Problem::field("name", "must be at most 256 bytes"));
    }
    let dialect = new.dialect.unwrap_or_else(|| DEFAULT.to_owned());
    check_dialect(&dialect, &api.dialects)?;
    if new.limits.webhooks.is_some_and(|limit| limit < 0) {
        return Err(Problem::field("limits.webhooks", "must be at least 0"));
    }
    let client = api.pool.get().await?;
    let row = client
        .query_one(
            "-- create_tenant\n\
             INSERT INTO tenants (id, name, dialect, max_webhooks, revision) \
             VALUES ($1, $2, $3, coalesce($4, 100), 0) \
             RETURNING id, name, dialect, max_webhooks, created_at",
            &[&id, &new.name, &dialect, &new.limits.webhooks],
        )
        .await
        .map_err(|error| match error.code() {
            Some(&SqlState::UNIQUE_VIOLATION) => {
                Problem::conflict(format!("tenant `{id}` exists already"))
            }
            _ => error.into(),
        })?;
    api.feed.refresh().await?;
    Ok((StatusCode::CREATED, Json(tenant_json(&row))))
}

async fn list_tenants(_: Operating, State(api): State<Shared>) -> Result<Json<Value>> {
    let client = api.pool.get().await?;
    let rows = client
        .query(
            "-- list_tenants\n\
             SELECT id, name, dialect, max_webhooks, created_at FROM tenants ORDER BY id LIMIT 1000",
            &[],
        )
        .await?;
    Ok(Json(
        json!({ "tenants": rows.iter().map(tenant_json).collect::<Vec<_>>() }),
    ))
}

fn tenant_json(row: &tokio_postgres::Row) -> Value {
    json!({
        "id": row.get::<_, &str>("id"),
        "name": row.get::<_, &str>("name"),
        "dialect": row.get::<_, &str>("dialect"),
        "limits": { "webhooks": row.get::<_, i32>("max_webhooks") },
        "created_at": time_json(row.get("created_at")),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTokenForm {
    tenant: Option<String>,
    role: Option<String>,
    expires_at: Option<String>,
}

async fn issue_token(
    _: Operating,
    State(api): State<Shared>,
    Body(new): Body<NewTokenForm>,
) -> Result<(StatusCode, Json<Value>)> {
    let tenant: Option<Tenant> = new
        .tenant
        .map(|tenant| tenant.parse())
        .transpose()
        .map_err(|error| Problem::field("tenant", format!("{error}")))?;
    let role = new
        .role
        .as_deref()
        .unwrap_or("manager")
        .parse::<Role>()
        .map_err(|e| Problem::field("role", e))?;
    let expires_at = new
        .expires_at
        .map(|text| OffsetDateTime::parse(&text, &Rfc3339))
        .transpose()
        .map_err(|_| Problem::field("expires_at", "must be an RFC 3339 time"))?;
    let made = create_token(&api.pool, tenant.as_ref(), role, expires_at)
        .await
        .map_err(|error| {
            let sql = error
                .downcast_ref::<tokio_postgres::Error>()
                .and_then(tokio_postgres::Error::code);
            match sql {
                Some(&SqlState::FOREIGN_KEY_VIOLATION) => {
                    Problem::field("tenant", "does not exist")
                }
                _ => error.into(),
            }
        })?;
    let body = json!({
        "id": made.id,
        "token": made.secret.expose_secret(),
        "prefix": made.prefix,
        "tenant": tenant,
        "role": role,
        "expires_at": expires_at.map(time_json),
    });
    Ok((StatusCode::CREATED, Json(body)))
}

async fn list_tokens(_: Operating, State(api): State<Shared>) -> Result<Json<Value>> {
    let client = api.pool.get().await?;
    let rows = client
        .query(
            "-- list_tokens\n\
             SELECT id, prefix, tenant, role, created_at, expires_at, revoked_at FROM tokens \
             ORDER BY id DESC LIMIT 1000",
            &[],
        )
        .await?;
    let tokens: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "id": row.get::<_, TokenId>("id"),
                "prefix": row.get::<_, &str>("prefix"),
                "tenant": row.get::<_, Option<&str>>("tenant"),
                "role": row.get::<_, &str>("role"),
                "created_at": time_json(row.get("created_at")),
                "expires_at": row.get::<_, Option<OffsetDateTime>>("expires_at").map(time_json),
                "revoked_at": row.get::<_, Option<OffsetDateTime>>("revoked_at").map(time_json),
            })
        })
        .collect();
    Ok(Json(json!({ "tokens": tokens })))
}

async fn revoke_token(
    _: Operating,
    State(api): State<Shared>,
    Id(id): Id<TokenId>,
) -> Result<StatusCode> {
    let client = api.pool.get().await?;
    let revoked = client
        .execute(
            "-- revoke_token\nUPDATE tokens SET revoked_at = coalesce(revoked_at, now()) WHERE id = $1",
            &[&id],
        )
        .await?;
    if revoked == 0 {
        Err(Problem::not_found(format!("there is no token {id}")))
    } else {
        Ok(StatusCode::NO_CONTENT)
    }
}

/// A moment, in RFC 3339 and UTC.
pub fn time_json(at: OffsetDateTime) -> Value {
    // Formatting fails only for years that PostgreSQL's `now()` won't give.
    at.format(&Rfc3339)
        .map(Value::String)
        .unwrap_or(Value::Null)
}
