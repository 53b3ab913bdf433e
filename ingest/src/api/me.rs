//! Who is asking: the token of a request, its role, and the limits that hold for it.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use shared::ids::{Owner, Tenant, TokenId};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::Identified;
use crate::api::access::role::Role;
use crate::api::http::problem::Result;
use crate::api::state::{Api, Shared};
use crate::tenants::view::{COLUMNS, Limits, TenantView};
use crate::timestamp::Timestamp;

/// `/api/v1/me`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(show))
}

/// Whose token this is, its role and limits.
#[derive(Serialize, ToSchema)]
struct Me {
    /// The tenant that requests with this token act for. `null`: the token is global, and
    /// `X-Tenant-ID` names none.
    #[schema(required)]
    tenant: Option<Tenant>,
    /// Whether the token is global: it may act for any tenant.
    global: bool,
    role: Role,
    /// The owner whose webhooks alone the token sees and changes. `null`: all of the tenant's.
    #[schema(required)]
    owner: Option<Owner>,
    /// The API token. `null` for a JWT, and for the operator's `ADMIN_TOKEN`.
    #[schema(required)]
    token: Option<MyToken>,
    /// The most requests per second with this token; twice as many may come at once. `null`: no limit.
    #[schema(required, example = 200)]
    requests_per_second: Option<u32>,
    /// The tenant's limits.
    #[schema(required)]
    limits: Option<Limits>,
}

/// The API token that a request was sent with.
#[derive(Serialize, ToSchema)]
struct MyToken {
    id: TokenId,
    /// The token's first characters, by which lists show it.
    #[schema(example = "pht_Nlb0cA")]
    prefix: String,
    /// `null`: never.
    #[schema(required)]
    expires_at: Option<Timestamp>,
}

/// Show who is asking
///
/// The tenant, the role and the limits of the token that the request is sent with.
#[utoipa::path(
    get, path = "/", operation_id = "show_me", tag = "tokens",
    security(("token" = ["viewer"])),
    responses((status = 200, description = "Whose token it is.", body = Me)),
)]
async fn show(asking: Identified, State(api): State<Shared>) -> Result<Json<Me>> {
    Ok(Json(Me {
        global: asking.caller.tenant.is_none(),
        role: asking.caller.role,
        owner: asking.caller.owner,
        token: token(&api, &asking.hash).await?,
        requests_per_second: api.rates.as_ref().map(|rates| rates.per_second()),
        limits: match &asking.tenant {
            Some(tenant) => limits(&api, tenant).await?,
            None => None,
        },
        tenant: asking.tenant,
    }))
}

async fn token(api: &Api, hash: &[u8; 32]) -> Result<Option<MyToken>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached("-- my_token\nSELECT id, prefix, expires_at FROM tokens WHERE hash = $1")
        .await?;
    let row = client.query_opt(&statement, &[&hash.as_slice()]).await?;
    Ok(row.map(|row| MyToken {
        id: row.get("id"),
        prefix: row.get("prefix"),
        expires_at: row.get("expires_at"),
    }))
}

async fn limits(api: &Api, tenant: &Tenant) -> Result<Option<Limits>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- my_limits\nSELECT {COLUMNS} FROM tenants WHERE id = $1"
        ))
        .await?;
    let row = client.query_opt(&statement, &[tenant]).await?;
    Ok(row.map(|row| TenantView::from_row(&row).limits))
}
