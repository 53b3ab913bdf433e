//! API tokens: issue, list, revoke.
//!
//! A tenant's admin manages the tenant's tokens, a global admin all. A token is
//! shown once, in the answer that issues it; lists show its first characters.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use shared::clock;
use shared::ids::{Owner, Tenant, TokenId};
use tokio_postgres::Row;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::actor::begin;
use crate::api::access::auth::Administering;
use crate::api::access::role::Role;
use crate::api::access::tokens::{TooManyTokens, create_token, is_unknown_tenant};
use crate::api::http::headers::Created;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Body, Id, Page, Parameters};
use crate::api::state::{Api, Shared};
use crate::invalid::{Gathered, Invalid};
use crate::timestamp::Timestamp;

/// `/api/v1/admin/tokens…`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, issue))
        .routes(routes!(show, revoke))
}

/// A new token.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({
    "tenant": "acme", "role": "viewer", "owner": "user-7", "expires_at": "2099-01-31T10:00:00.000Z"
}))]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Whose it is: the caller's own, unless the caller is global. A global
    /// caller that names none makes a global token.
    #[schema(value_type = Option<Tenant>)]
    pub tenant: Option<String>,
    /// `manager` by default.
    pub role: Option<Role>,
    /// The owner whose webhooks the token sees and changes, and no others. Not of an admin.
    #[schema(value_type = Option<Owner>)]
    pub owner: Option<String>,
    /// When it expires; never by default.
    #[serde(alias = "expiresAt")]
    pub expires_at: Option<Timestamp>,
}

/// A token that was just made.
#[derive(Serialize, ToSchema)]
pub struct IssuedToken {
    pub id: TokenId,
    /// The token itself. It is not shown again.
    #[schema(example = "pht_Nlb0cAUqVJFUVGP1L2RZ5Vq6YVxkQO3cDRZC4yN2v0E")]
    pub token: String,
    /// The first characters of the token, by which lists show it.
    #[schema(example = "pht_Nlb0cA")]
    pub prefix: String,
    /// The tenant it belongs to; `null`: it is global.
    #[schema(required)]
    pub tenant: Option<Tenant>,
    pub role: Role,
    #[schema(required)]
    pub owner: Option<Owner>,
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
}

/// A token as it is listed.
#[derive(Serialize, ToSchema)]
pub struct Token {
    pub id: TokenId,
    /// The token's first characters.
    #[schema(example = "pht_Nlb0cA")]
    pub prefix: String,
    /// The tenant it belongs to; `null`: it is global.
    #[schema(required)]
    pub tenant: Option<Tenant>,
    pub role: Role,
    /// The owner whose webhooks it sees and changes; `null`: all of its tenant's.
    #[schema(required)]
    pub owner: Option<Owner>,
    pub created_at: Timestamp,
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
    #[schema(required)]
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    #[schema(required)]
    pub last_used_at: Option<Timestamp>,
}

impl Token {
    fn from_row(row: &Row) -> Result<Self> {
        let role = row.get::<_, &str>("role").parse::<Role>();
        Ok(Self {
            id: row.get("id"),
            prefix: row.get("prefix"),
            tenant: row.get("tenant"),
            role: role.map_err(|_| anyhow::anyhow!("a token has an unknown role"))?,
            owner: row.get("owner"),
            created_at: row.get("created_at"),
            expires_at: row.get("expires_at"),
            revoked_at: row.get("revoked_at"),
            last_used_at: row.get("last_used_at"),
        })
    }
}

/// A page of tokens.
#[derive(Serialize, ToSchema)]
pub struct TokenPage {
    pub tokens: Vec<Token>,
    /// The cursor of the next page; `null` on the last page.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// Issue a token
///
/// A tenant has at most 100 tokens that are neither revoked nor expired.
#[utoipa::path(
    post, path = "/", operation_id = "issue_token", tag = "tokens",
    security(("token" = ["admin"])),
    request_body = NewToken,
    responses((status = 201, description = "The token, which is not shown again.", body = IssuedToken)),
)]
pub async fn issue(
    admin: Administering,
    State(api): State<Shared>,
    Body(new): Body<NewToken>,
) -> Result<Created<IssuedToken>> {
    let unknown = || Problem::field("tenant", "does not exist");
    let mut wrong = Gathered::default();
    let named = new.tenant.map(|tenant| tenant.parse::<Tenant>());
    let named = named.transpose();
    let named = wrong.take(named.map_err(|error| Invalid::new("tenant", error)));
    let tenant = match (admin.tenant, named) {
        // Another tenant's things don't exist, nor does the tenant.
        (Some(own), Some(named)) if own != named => {
            return Err(Problem::not_found("the tenant does not exist"));
        }
        (own, named) => own.or(named),
    };
    if new.expires_at.is_some_and(|at| at.0 <= clock::now()) {
        wrong.add(Invalid::new("expires_at", "must be in the future"));
    }
    let role = new.role.unwrap_or(Role::Manager);
    let owner = new.owner.map(|owner| owner.parse::<Owner>()).transpose();
    let owner = wrong.take(owner.map_err(|error| Invalid::new("owner", error)));
    if owner.is_some() && (tenant.is_none() || role == Role::Admin) {
        let why = "is for a tenant's viewers and managers: an admin's token, and a global one, is for all webhooks";
        wrong.add(Invalid::new("owner", why));
    }
    wrong.finish(())?;
    let expires_at = new.expires_at.map(|at| at.0);
    let tenants = tenant.as_ref();
    let made = create_token(
        &api.pool,
        &admin.actor,
        tenants,
        role,
        owner.as_ref(),
        expires_at,
    )
    .await
    .map_err(|error| match error.downcast_ref::<TooManyTokens>() {
        Some(too_many) => Problem::field("tenant", too_many.to_string()),
        None if is_unknown_tenant(&error) => unknown(),
        None => error.into(),
    })?;
    let issued = IssuedToken {
        id: made.id,
        token: made.secret.expose_secret().to_owned(),
        prefix: made.prefix,
        tenant,
        role,
        owner,
        expires_at: new.expires_at,
    };
    Ok(Created::new("/api/v1/admin/tokens", issued.id, issued))
}

/// List tokens
///
/// Newest first, those that were revoked or have expired in the last 30 days too.
#[utoipa::path(
    get, path = "/", operation_id = "list_tokens", tag = "tokens",
    security(("token" = ["admin"])),
    params(Page),
    responses((status = 200, description = "A page.", body = TokenPage)),
)]
pub async fn list(
    admin: Administering,
    State(api): State<Shared>,
    Parameters(page): Parameters<Page>,
) -> Result<Json<TokenPage>> {
    let (limit, after) = page.read::<TokenId>()?;
    let rows = match &admin.tenant {
        Some(tenant) => find_of_tenant(&api, tenant, after, limit + 1).await?,
        None => find_all(&api, after, limit + 1).await?,
    };
    let (shown, next_cursor) = page.cut::<TokenId>(&rows)?;
    let tokens = shown.iter().map(Token::from_row).collect::<Result<_>>()?;
    Ok(Json(TokenPage {
        tokens,
        next_cursor,
    }))
}

const COLUMNS: &str =
    "id, prefix, tenant, role, owner, created_at, expires_at, revoked_at, last_used_at";

async fn find_all(api: &Api, after: Option<TokenId>, most: i64) -> Result<Vec<Row>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- list_tokens\n\
             SELECT {COLUMNS} FROM tokens \
             WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2"
        ))
        .await?;
    Ok(client.query(&statement, &[&after, &most]).await?)
}

async fn find_of_tenant(
    api: &Api,
    tenant: &Tenant,
    after: Option<TokenId>,
    most: i64,
) -> Result<Vec<Row>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- list_tenant_tokens\n\
             SELECT {COLUMNS} FROM tokens \
             WHERE tenant = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3"
        ))
        .await?;
    Ok(client.query(&statement, &[tenant, &after, &most]).await?)
}

/// Show a token
///
/// Without its text, which nobody has any more.
#[utoipa::path(
    get, path = "/{id}", operation_id = "show_token", tag = "tokens",
    security(("token" = ["admin"])),
    params(("id" = TokenId, Path)),
    responses((status = 200, description = "The token.", body = Token)),
)]
async fn show(
    admin: Administering,
    State(api): State<Shared>,
    Id(id): Id<TokenId>,
) -> Result<Json<Token>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- show_token\n\
             SELECT {COLUMNS} FROM tokens WHERE id = $1 AND ($2::text IS NULL OR tenant = $2)"
        ))
        .await?;
    let row = client.query_opt(&statement, &[&id, &admin.tenant]).await?;
    let row = row.ok_or_else(|| Problem::not_found(format!("there is no token {id}")))?;
    Token::from_row(&row).map(Json)
}

/// Revoke a token
///
/// It stops working at once.
#[utoipa::path(
    delete, path = "/{id}", operation_id = "revoke_token", tag = "tokens",
    security(("token" = ["admin"])),
    params(("id" = TokenId, Path)),
    responses((status = 204, description = "It is revoked now, or was before.")),
)]
pub async fn revoke(
    admin: Administering,
    State(api): State<Shared>,
    Id(id): Id<TokenId>,
) -> Result<StatusCode> {
    let mut client = api.pool.get().await?;
    let transaction = begin(&mut client, &admin.actor).await?;
    let statement = transaction
        .prepare_cached(
            "-- revoke_token\n\
             UPDATE tokens SET revoked_at = coalesce(revoked_at, now()) \
             WHERE id = $1 AND ($2::text IS NULL OR tenant = $2)",
        )
        .await?;
    let revoked = transaction
        .execute(&statement, &[&id, &admin.tenant])
        .await?;
    transaction.commit().await?;
    if revoked == 0 {
        Err(Problem::not_found(format!("there is no token {id}")))
    } else {
        Ok(StatusCode::NO_CONTENT)
    }
}
