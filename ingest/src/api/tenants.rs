//! The operator's operations on tenants: create, list, show, change.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use shared::ids::Tenant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::Operating;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Body, Name, Page, Parameters};
use crate::api::state::{Api, Shared};
use crate::invalid::NotFound;
use crate::tenants::{COLUMNS, Change, NewTenant, TenantView, insert, update};

/// `/api/v1/admin/tenants…`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, change))
}

/// A page of tenants.
#[derive(Serialize, ToSchema)]
pub struct TenantPage {
    pub tenants: Vec<TenantView>,
    /// The cursor of the next page; `null` on the last page.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// Create a tenant
#[utoipa::path(
    post, path = "/", operation_id = "create_tenant", tag = "tenants",
    security(("token" = ["operator"])),
    request_body = NewTenant,
    responses(
        (status = 201, description = "The tenant.", body = TenantView),
        (status = 409, description = "A tenant with this id exists already."),
    ),
)]
pub async fn create(
    _: Operating,
    State(api): State<Shared>,
    Body(new): Body<NewTenant>,
) -> Result<(StatusCode, Json<TenantView>)> {
    let (id, tenant) = new.check(&api.dialects)?;
    check_proxy(&api, &tenant)?;
    let client = api.pool.get().await?;
    let shown = insert(&client, &id, &tenant).await?;
    drop(client);
    api.feed.refresh().await?;
    Ok((StatusCode::CREATED, Json(shown)))
}

/// List tenants
///
/// By id.
#[utoipa::path(
    get, path = "/", operation_id = "list_tenants", tag = "tenants",
    security(("token" = ["operator"])),
    params(Page),
    responses((status = 200, description = "A page.", body = TenantPage)),
)]
pub async fn list(
    _: Operating,
    State(api): State<Shared>,
    Parameters(page): Parameters<Page>,
) -> Result<Json<TenantPage>> {
    let (limit, after) = (page.limit()?, page.after::<Tenant>()?);
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- list_tenants\n\
             SELECT {COLUMNS} FROM tenants \
             WHERE id > coalesce($1, '') AND deleted_at IS NULL ORDER BY id LIMIT $2"
        ))
        .await?;
    let rows = client.query(&statement, &[&after, &(limit + 1)]).await?;
    let (shown, next_cursor) = page.cut::<Tenant>(&rows)?;
    Ok(Json(TenantPage {
        tenants: shown.iter().map(TenantView::from_row).collect(),
        next_cursor,
    }))
}

/// Show a tenant
#[utoipa::path(
    get, path = "/{id}", operation_id = "show_tenant", tag = "tenants",
    security(("token" = ["operator"])),
    params(("id" = Tenant, Path)),
    responses((status = 200, description = "The tenant.", body = TenantView)),
)]
pub async fn show(
    _: Operating,
    State(api): State<Shared>,
    Name(id): Name,
) -> Result<Json<TenantView>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- show_tenant\nSELECT {COLUMNS} FROM tenants WHERE id = $1 AND deleted_at IS NULL"
        ))
        .await?;
    let row = client.query_opt(&statement, &[&known(&id)?]).await?;
    row.map(|row| Json(TenantView::from_row(&row)))
        .ok_or_else(|| NotFound::tenant(&id).into())
}

/// Change a tenant
///
/// A limit that is lower than what the tenant has takes nothing away.
#[utoipa::path(
    patch, path = "/{id}", operation_id = "change_tenant", tag = "tenants",
    security(("token" = ["operator"])),
    params(("id" = Tenant, Path)),
    request_body = Change,
    responses((status = 200, description = "The tenant as it is now.", body = TenantView)),
)]
pub async fn change(
    _: Operating,
    State(api): State<Shared>,
    Name(id): Name,
    Body(change): Body<Change>,
) -> Result<Json<TenantView>> {
    change.check(&api.dialects)?;
    check_proxy(&api, &change)?;
    let client = api.pool.get().await?;
    let shown = update(&client, &known(&id)?, &change).await?;
    drop(client);
    api.feed.refresh().await?;
    Ok(Json(shown))
}

/// A text that can't be a tenant's id is answered like an id that no tenant has.
fn known(id: &str) -> Result<Tenant> {
    id.parse().map_err(|_| NotFound::tenant(id).into())
}

/// Refuses a proxy that this process doesn't know: deliveries would fail.
fn check_proxy(api: &Api, change: &Change) -> Result<()> {
    match &change.egress_proxy {
        Some(Some(name)) if !api.egress.has(name) => Err(Problem::field(
            "egress_proxy",
            format!("`{name}` is not in EGRESS_PROXIES"),
        )),
        _ => Ok(()),
    }
}
