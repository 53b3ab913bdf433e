//! The operator's operations on tenants: create, list, show, change.

use axum::Json;
use axum::extract::State;
use deadpool_postgres::Client;
use serde::{Deserialize, Serialize};
use shared::egress::is_name;
use shared::ids::{Tenant, WebhookId};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::actor::begin;
use crate::api::access::auth::Operating;
use crate::api::http::headers::Created;
use crate::api::http::problem::Result;
use crate::api::http::request::{Body, Name, Page, Parameters};
use crate::api::state::{Api, Shared};
use crate::api::webhooks::backlog::{Backlog, backlogs};
use crate::invalid::{Gathered, Invalid, NotFound};
use crate::tenants::form::{NewTenant, TenantChange};
use crate::tenants::health::{TenantCounts, TenantHealth, counts, judged};
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
/// How many webhooks of the tenants that are listed together are looked at for what waits.
const WEBHOOKS: i64 = 600;

/// Which tenants to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct TenantQuery {
    /// Only tenants whose id or name has this text in it, whatever its case.
    #[param(max_length = 256, example = "acme")]
    pub q: Option<String>,
    /// Only tenants that do so, judged by the attempts of the last hour.
    #[param(inline)]
    pub health: Option<TenantHealth>,
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
    /// How many tenants pass `q`, and how they do, whatever `health` says.
    pub counts: TenantCounts,
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
    let mut wrong = Gathered::default();
    wrong.take(check_proxy(&api, new.egress_proxy()));
    let checked = wrong.keep(new.check(&api.dialects));
    let (id, tenant) = wrong.finish_with(checked)?;
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
               AND ($4::text IS NULL OR id IN (SELECT id FROM ({}) j WHERE health = $4)) \
             ORDER BY id LIMIT $2",
            judged("$3")
        ))
        .await?;
    let rows = client
        .query(
            &statement,
            &[
                &after,
                &(limit + 1),
                &q,
                &query.health.map(TenantHealth::as_str),
            ],
        )
        .await?;
    let (shown, next_cursor) = page.cut::<Tenant>(&rows)?;
    let mut tenants: Vec<_> = shown.iter().map(TenantView::from_row).collect();
    let ids: Vec<_> = tenants.iter().map(|tenant| tenant.id.clone()).collect();
    for (tenant, usage) in tenants.iter_mut().zip(usage(&client, &ids).await?) {
        tenant.usage = Some(usage);
    }
    count_waiting(&client, &mut tenants).await?;
    Ok(Json(TenantPage {
        counts: counts(&client, q.as_deref()).await?,
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
    count_waiting(&client, std::slice::from_mut(&mut shown)).await?;
    Ok(Json(shown))
}

/// Counts what waits for the tenants' webhooks, if there aren't too many of them.
async fn count_waiting(client: &Client, tenants: &mut [TenantView]) -> Result<()> {
    let ids: Vec<_> = tenants.iter().map(|tenant| tenant.id.clone()).collect();
    let statement = client
        .prepare_cached(
            "-- webhooks_of_tenants\n\
             SELECT id, tenant FROM webhooks WHERE tenant = ANY($1) AND status <> 'deleted' LIMIT $2",
        )
        .await?;
    let rows = client.query(&statement, &[&ids, &(WEBHOOKS + 1)]).await?;
    if rows.len() as i64 > WEBHOOKS {
        return Ok(());
    }
    let webhooks: Vec<WebhookId> = rows.iter().map(|row| row.get("id")).collect();
    let backlogs = backlogs(client, &webhooks).await?;
    for tenant in tenants {
        let Some(usage) = &mut tenant.usage else {
            continue;
        };
        let theirs = rows
            .iter()
            .filter(|row| row.get::<_, &str>("tenant") == tenant.id.as_str());
        let theirs = theirs.filter_map(|row| backlogs.get(&row.get::<_, WebhookId>("id")));
        let mut sum = Backlog::default();
        theirs.for_each(|backlog| sum.add(*backlog));
        usage.waiting = Some(sum.waiting);
        usage.waiting_counted = sum.counted;
    }
    Ok(())
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
    let mut wrong = Gathered::default();
    wrong.take(change.check(&api.dialects));
    wrong.take(check_proxy(&api, change.egress_proxy()));
    wrong.finish(())?;
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

/// Refuses a proxy that this process doesn't know: deliveries would fail. A text that is no proxy's
/// name is refused by the form.
fn check_proxy(api: &Api, proxy: Option<&str>) -> std::result::Result<(), Invalid> {
    match proxy {
        Some(name) if is_name(name) && !api.egress.has(name) => Err(Invalid::new(
            "egress_proxy",
            format!("`{name}` is not in EGRESS_PROXIES"),
        )),
        _ => Ok(()),
    }
}
