//! Deletes a tenant, and shows how far that is.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use shared::ids::Tenant;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::actor;
use crate::api::access::auth::Operating;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Name, Parameters};
use crate::api::state::Shared;
use crate::invalid::NotFound;
use crate::tenant_deletion::{Deletion, begin, find, forget_webhooks};

/// `DELETE /api/v1/admin/tenants/{id}`, and `…/deletion`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(delete))
        .routes(routes!(show))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Confirmation {
    /// The tenant's id once more: there is no way back.
    #[param(required, example = "acme")]
    confirm: Option<String>,
}

/// Delete a tenant
///
/// When the answer comes, the tenant's webhooks, secrets, tokens and event types are gone, and its
/// events are refused. Its log is deleted afterwards, which takes less than a day.
#[utoipa::path(
    delete, path = "/{id}", operation_id = "delete_tenant", tag = "tenants",
    security(("token" = ["operator"])),
    params(("id" = Tenant, Path), Confirmation),
    responses((status = 202, description = "The tenant is deleted, and its log will be.", body = Deletion)),
)]
async fn delete(
    operating: Operating,
    State(api): State<Shared>,
    Name(id): Name,
    Parameters(Confirmation { confirm }): Parameters<Confirmation>,
) -> Result<(StatusCode, Json<Deletion>)> {
    let tenant: Tenant = id.parse().map_err(|_| NotFound::tenant(&id))?;
    if confirm.as_deref() != Some(tenant.as_str()) {
        return Err(Problem::field(
            "confirm",
            "must be the tenant's id: `?confirm=` and the id once more. A deletion can't be undone",
        ));
    }
    let _turn = api.changes.acquire(&tenant).await?;
    let mut client = api.pool.get().await?;
    let transaction = actor::begin(&mut client, &operating.actor).await?;
    begin(&transaction, &tenant).await?;
    transaction.commit().await?;
    while !forget_webhooks(&client, &tenant).await? {}
    let deletion = find(&client, &tenant).await?;
    drop(client);
    api.feed.refresh().await?;
    let deletion = deletion.ok_or_else(|| NotFound::tenant(&tenant))?;
    Ok((StatusCode::ACCEPTED, Json(deletion)))
}

/// Show the deletion of a tenant
///
/// It can be seen until a month after it has finished.
#[utoipa::path(
    get, path = "/{id}/deletion", operation_id = "show_tenant_deletion", tag = "tenants",
    security(("token" = ["operator"])),
    params(("id" = Tenant, Path)),
    responses((status = 200, description = "How far it is.", body = Deletion)),
)]
async fn show(_: Operating, State(api): State<Shared>, Name(id): Name) -> Result<Json<Deletion>> {
    let none = || Problem::not_found(format!("no tenant `{id}` was deleted"));
    let tenant: Tenant = id.parse().map_err(|_| none())?;
    let client = api.pool.get().await?;
    find(&client, &tenant).await?.map(Json).ok_or_else(none)
}
