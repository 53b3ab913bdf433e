//! The operator's operations on tenants: create, list, show, change.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use shared::ids::Tenant;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::actor::begin;
use crate::api::access::auth::Operating;
use crate::api::http::headers::Created;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Body, Name, Page, Parameters};
use crate::api::state::{Api, Shared};
use crate::invalid::{Gathered, Invalid, NotFound};
use crate::tenants::form::{NewTenant, TenantChange};
use crate::tenants::store::{insert, update, usage};
use crate::tenants::view::{COLUMNS, TenantView};

/// `/api/v1/admin/tenants…`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, change))
}

/// The longest text to look for, in bytes.
const MAX_Q: usize = 256;

/// Which tenants to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct TenantQuery {
    /// Only tenants whose id or name has this text in it, whatever its case.
    #[param(max_length = 256, example = "acme")]
    pub q: Option<String>,
    /// The most entries of the page.
    #[param(minimum = 1, maximum = 250, default = 50)]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page.
    pub cursor: Option<String>,
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
    operating: Operating,
    State(api): State<Shared>,
    Body(new): Body<NewTenant>,
) -> Result<Created<TenantView>> {
    let (id, tenant) = new.check(&api.dialects)?;
    check_proxy(&api, &tenant)?;
    let mut client = api.pool.get().await?;
    let transaction = begin(&mut client, &operating.actor).await?;
    let shown = insert(&transaction, &id, &tenant).await?;
    transaction.commit().await?;
    drop(client);
    api.feed.refresh().await?;
    Ok(Created::new("/api/v1/admin/tenants", id, shown))
}

/// List tenants
///
/// By id, each with what it uses.
#[utoipa::path(
    get, path = "/", operation_id = "list_tenants", tag = "tenants",
    security(("token" = ["operator"])),
    params(TenantQuery),
    responses((status = 200, description = "A page.", body = TenantPage)),
)]
pub async fn list(
    _: Operating,
    State(api): State<Shared>,
    Parameters(query): Parameters<TenantQuery>,
) -> Result<Json<TenantPage>> {
    let page = Page {
        limit: query.limit,
        cursor: query.cursor,
    };
    let mut wrong = Gathered::default();
    let (limit, after) = wrong.take(page.read::<Tenant>());
    let q = query.q.filter(|q| !q.is_empty());
    if q.as_ref()
        .is_some_and(|q| q.len() > MAX_Q || q.contains('\0'))
    {
        let bound = format!("must be at most {MAX_Q} bytes, without NUL");
        wrong.add(Invalid::new("q", bound));
    }
    wrong.finish(())?;
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- list_tenants\n\
             SELECT {COLUMNS} FROM tenants WHERE id > coalesce($1, '') AND deleted_at IS NULL \
               AND ($3::text IS NULL OR position(lower($3) IN id) > 0 OR position(lower($3) IN lower(name)) > 0) \
             ORDER BY id LIMIT $2"
        ))
        .await?;
    let rows = client
        .query(&statement, &[&after, &(limit + 1), &q])
        .await?;
    let (shown, next_cursor) = page.cut::<Tenant>(&rows)?;
    let mut tenants: Vec<_> = shown.iter().map(TenantView::from_row).collect();
    let ids: Vec<_> = tenants.iter().map(|tenant| tenant.id.clone()).collect();
    for (tenant, usage) in tenants.iter_mut().zip(usage(&client, &ids).await?) {
        tenant.usage = Some(usage);
    }
    Ok(Json(TenantPage {
        tenants,
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
    let row = row.ok_or_else(|| NotFound::tenant(&id))?;
    let mut shown = TenantView::from_row(&row);
    shown.usage = usage(&client, &[shown.id.clone()]).await?.pop();
    Ok(Json(shown))
}

/// Change a tenant
///
/// A limit that is lower than what the tenant has takes nothing away.
#[utoipa::path(
    patch, path = "/{id}", operation_id = "change_tenant", tag = "tenants",
    security(("token" = ["operator"])),
    params(("id" = Tenant, Path)),
    request_body = TenantChange,
    responses((status = 200, description = "The tenant as it is now.", body = TenantView)),
)]
pub async fn change(
    operating: Operating,
    State(api): State<Shared>,
    Name(id): Name,
    Body(change): Body<TenantChange>,
) -> Result<Json<TenantView>> {
    change.check(&api.dialects)?;
    check_proxy(&api, &change)?;
    let mut client = api.pool.get().await?;
    let transaction = begin(&mut client, &operating.actor).await?;
    let shown = update(&transaction, &known(&id)?, &change).await?;
    transaction.commit().await?;
    drop(client);
    api.feed.refresh().await?;
    Ok(Json(shown))
}

/// A text that can't be a tenant's id is answered like an id that no tenant has.
fn known(id: &str) -> Result<Tenant> {
    id.parse().map_err(|_| NotFound::tenant(id).into())
}

/// Refuses a proxy that this process doesn't know: deliveries would fail.
fn check_proxy(api: &Api, change: &TenantChange) -> Result<()> {
    match &change.egress_proxy {
        Some(Some(name)) if !api.egress.has(name) => Err(Problem::field(
            "egress_proxy",
            format!("`{name}` is not in EGRESS_PROXIES"),
        )),
        _ => Ok(()),
    }
}
