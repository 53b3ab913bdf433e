//! The open sessions of a tenant's portal: who has it open, and how to end them all.
//!
//! A session is named by the link that began it. Its cookie is nowhere but in the browser.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use shared::ids::{Tenant, WebhookId};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::{Operating, is_tenant};
use crate::api::http::problem::Result;
use crate::api::http::request::Name;
use crate::api::portal_links::{end_sessions, open_sessions};
use crate::api::state::{Api, Shared};
use crate::invalid::NotFound;
use crate::timestamp::Timestamp;

/// The most sessions that are listed.
const LISTED: i64 = 100;

/// `/api/v1/admin/tenants/{id}/portal-sessions`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(list, end))
}

/// The open sessions of a tenant's portal.
#[derive(Serialize, ToSchema)]
pub struct PortalSessions {
    /// How many there are.
    #[schema(example = 1)]
    pub open: i64,
    /// The latest 100 of them.
    pub sessions: Vec<PortalSession>,
}

/// An open session of the portal.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "by": "portal link 01980a4e-3f0c-7cc4-9d52-3f7f0b8f6b1a", "role": "viewer",
    "webhooks": ["wh_01kb4v2p8zf5sttdw3m8e7h2xk"], "began_at": "2026-11-26T10:42:18.000Z",
    "seen_at": "2026-11-26T10:43:02.000Z", "ends_at": "2026-11-26T11:42:18.000Z"
}))]
pub struct PortalSession {
    /// The link that began it, as the history of changes names it.
    pub by: String,
    /// `viewer` or `manager`.
    pub role: String,
    /// The webhooks that it covers; `null`: all of the tenant's.
    #[schema(required)]
    pub webhooks: Option<Vec<WebhookId>>,
    pub began_at: Timestamp,
    /// When it was last used, to the minute.
    pub seen_at: Timestamp,
    /// When it ends. Without use it ends two hours after `seen_at`.
    pub ends_at: Timestamp,
}

/// What was ended.
#[derive(Serialize, ToSchema)]
pub struct EndedPortalSessions {
    /// How many sessions there were.
    #[schema(example = 1)]
    pub ended: i64,
}

/// List the sessions of a tenant's portal
#[utoipa::path(
    get, path = "/{id}/portal-sessions", operation_id = "list_portal_sessions", tag = "tenants",
    security(("token" = ["operator"])),
    params(("id" = Tenant, Path)),
    responses((status = 200, description = "The open sessions, the latest first.", body = PortalSessions)),
)]
pub async fn list(
    _: Operating,
    State(api): State<Shared>,
    Name(id): Name,
) -> Result<Json<PortalSessions>> {
    let tenant = known(&api, &id).await?;
    let open = open_sessions(&api, &tenant).await?;
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- list_portal_sessions\n\
             SELECT shown, role, webhooks, created_at, seen_at, ends_at FROM sessions \
             WHERE tenant = $1 AND kind = 'portal' AND ends_at > now() \
               AND seen_at > now() - interval '2 hours' \
             ORDER BY created_at DESC LIMIT $2",
        )
        .await?;
    let rows = client.query(&statement, &[&tenant, &LISTED]).await?;
    let sessions = rows.iter().map(|row| PortalSession {
        by: row.get("shown"),
        role: row.get("role"),
        webhooks: row.get("webhooks"),
        began_at: row.get("created_at"),
        seen_at: row.get("seen_at"),
        ends_at: row.get("ends_at"),
    });
    Ok(Json(PortalSessions {
        open,
        sessions: sessions.collect(),
    }))
}

/// End the sessions of a tenant's portal
///
/// All of them, at once, and links that weren't opened yet open no more. The tenant's customers
/// need new links.
#[utoipa::path(
    delete, path = "/{id}/portal-sessions", operation_id = "end_portal_sessions", tag = "tenants",
    security(("token" = ["operator"])),
    params(("id" = Tenant, Path)),
    responses((status = 200, description = "The sessions have ended.", body = EndedPortalSessions)),
)]
pub async fn end(
    _: Operating,
    State(api): State<Shared>,
    Name(id): Name,
) -> Result<Json<EndedPortalSessions>> {
    let tenant = known(&api, &id).await?;
    let ended = open_sessions(&api, &tenant).await?;
    end_sessions(&api, &tenant).await?;
    Ok(Json(EndedPortalSessions { ended }))
}

async fn known(api: &Api, id: &str) -> Result<Tenant> {
    let tenant: Tenant = id.parse().map_err(|_| NotFound::tenant(id))?;
    match is_tenant(api, &tenant).await? {
        true => Ok(tenant),
        false => Err(NotFound::tenant(&tenant).into()),
    }
}
