//! Links to the portal: a page of a tenant's webhooks for that tenant's customers.
//!
//! The operator makes one on behalf of a tenant, usually by a program that then shows the
//! portal in a frame. A link opens once, within ten minutes, and begins a session of its own:
//! one tenant, the webhooks that it names, the role that it says. The table has the SHA-256 of
//! the link's 32 random bytes.

use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use deadpool_postgres::Client;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use shared::clock;
use shared::ids::{Tenant, WebhookId};
use shared::seal::fill_random;
use time::Duration;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::access::auth::Operating;
use crate::api::access::role::Role;
use crate::api::http::headers::Created;
use crate::api::http::problem::Result;
use crate::api::http::request::Body;
use crate::api::openapi::words::{PortalAccent, PortalTheme};
use crate::api::state::{Api, Shared};
use crate::invalid::{Gathered, Invalid, NotFound};
use crate::timestamp::Timestamp;

/// How long a link can be opened.
const TO_BE_OPENED: Duration = Duration::minutes(10);
/// How long the session lasts that it begins, in seconds: by default, and at most.
const SESSION: i32 = 3_600;
const MAX_SESSION: i32 = 86_400;
/// The most webhooks that a link names.
const MAX_WEBHOOKS: usize = 100;

/// `/api/v1/admin/portal-links`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(create))
}

/// A link to make.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({
    "tenant": "acme", "role": "viewer", "webhooks": ["wh_01kb4v2p8zf5sttdw3m8e7h2xk"],
    "expires_in": 3600, "theme": "light", "accent": "petrol"
}))]
#[serde(deny_unknown_fields)]
pub struct NewPortalLink {
    /// Whose webhooks it shows.
    #[schema(value_type = Tenant)]
    pub tenant: String,
    /// `viewer`, the default, reads. `manager` also retries, tests and changes.
    pub role: Option<Role>,
    /// The webhooks that it covers, at most 100; all of the tenant's by default.
    #[schema(value_type = Option<Vec<WebhookId>>, max_items = 100)]
    pub webhooks: Option<Vec<String>>,
    /// How long the session lasts that it begins, in seconds.
    #[schema(minimum = 60, maximum = 86_400, default = 3_600)]
    pub expires_in: Option<i32>,
    /// `light` or `dark`; the browser's by default.
    #[schema(value_type = Option<PortalTheme>)]
    pub theme: Option<String>,
    /// `petrol` (the default), `blue`, `violet`, `green`, `brown` or `gray`.
    #[schema(value_type = Option<PortalAccent>)]
    pub accent: Option<String>,
}

/// A link that was made.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "path": "/portal/open?link=8Jc2u0tV…", "open_until": "2026-11-26T10:52:18.000Z", "expires_in": 3600
}))]
pub struct PortalLink {
    /// To be put behind the address under which people reach the API. It is not shown again, and
    /// opens once.
    pub path: String,
    /// It opens until then.
    pub open_until: Timestamp,
    /// How long the session lasts that it begins, in seconds.
    pub expires_in: i32,
}

/// Make a link to the portal
///
/// For a tenant's customer. It opens once, within ten minutes.
#[utoipa::path(
    post, path = "/", operation_id = "create_portal_link", tag = "tenants",
    security(("token" = ["operator"])),
    request_body = NewPortalLink,
    responses(
        (status = 201, description = "The link, which is not shown again.", body = PortalLink),
        (status = 404, description = "There is no such tenant, or it has no such webhook."),
    ),
)]
pub async fn create(
    _: Operating,
    State(api): State<Shared>,
    Body(new): Body<NewPortalLink>,
) -> Result<Created<PortalLink>> {
    let mut wrong = Gathered::default();
    let tenant = new.tenant.parse::<Tenant>();
    let tenant = wrong.keep(tenant.map_err(|error| Invalid::new("tenant", error)));
    let role = new.role.unwrap_or(Role::Viewer);
    if role == Role::Admin {
        wrong.add(Invalid::new("role", "must be `viewer` or `manager`"));
    }
    let session = new.expires_in.unwrap_or(SESSION);
    if !(60..=MAX_SESSION).contains(&session) {
        let bound = format!("must be between 60 and {MAX_SESSION} (seconds)");
        wrong.add(Invalid::new("expires_in", bound));
    }
    wrong.take(one_of("theme", new.theme.as_deref(), &THEMES));
    wrong.take(one_of("accent", new.accent.as_deref(), &ACCENTS));
    let webhooks = wrong.take(new.webhooks.map(|ids| parsed(&ids)).transpose());
    let tenant = wrong.finish_with(tenant)?;
    check_theirs(&api, &tenant, webhooks.as_deref().unwrap_or_default()).await?;

    let mut link = [0; 32];
    fill_random(&mut link);
    let hash: [u8; 32] = Sha256::digest(link).into();
    let open_until = clock::now() + TO_BE_OPENED;
    let client = api.pool.get().await?;
    forget_old_links(&client).await?;
    // The tenant may have been deleted since it was looked at. Its deletion removes its links
    // and waits for this statement's lock.
    let made = client
        .execute(
            "-- create_portal_link\n\
             INSERT INTO links (id, hash, kind, tenant, role, webhooks, session_s, ends_at, theme, accent) \
             SELECT $1, $2, 'portal', id, $4, $5, $6, $7, $8, $9 \
             FROM tenants WHERE id = $3 AND deleted_at IS NULL FOR SHARE",
            &[
                &Uuid::now_v7(),
                &hash.as_slice(),
                &tenant,
                &role.as_str(),
                &webhooks,
                &session,
                &open_until,
                &new.theme,
                &new.accent,
            ],
        )
        .await?;
    if made == 0 {
        return Err(NotFound::tenant(&tenant).into());
    }
    let link = BASE64.encode(link);
    let made = PortalLink {
        path: format!("{OPEN}?link={link}"),
        open_until: Timestamp(open_until),
        expires_in: session,
    };
    Ok(Created::at(made.path.clone(), made))
}

/// Forgets links that ended a day ago or earlier. Whoever makes a link calls it, so there are never
/// many of them.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn forget_old_links(client: &Client) -> std::result::Result<(), tokio_postgres::Error> {
    let statement = "-- forget_links\nDELETE FROM links WHERE ends_at < now() - interval '1 day'";
    client.execute(statement, &[]).await?;
    Ok(())
}

/// Where a link leads.
const OPEN: &str = "/portal/open";

pub const THEMES: [&str; 2] = ["light", "dark"];
/// Accents, each with enough contrast in both themes.
pub const ACCENTS: [&str; 6] = ["petrol", "blue", "violet", "green", "brown", "gray"];

fn one_of(
    field: &'static str,
    text: Option<&str>,
    known: &[&str],
) -> std::result::Result<(), Invalid> {
    match text {
        Some(text) if !known.contains(&text) => {
            let all = known.join(", ");
            Err(Invalid::new(field, format!("must be one of {all}")))
        }
        _ => Ok(()),
    }
}

fn parsed(ids: &[String]) -> std::result::Result<Vec<WebhookId>, Invalid> {
    if ids.is_empty() || ids.len() > MAX_WEBHOOKS {
        let bound = format!("must have 1 to {MAX_WEBHOOKS} entries");
        return Err(Invalid::new("webhooks", bound));
    }
    ids.iter()
        .map(|id| id.parse())
        .collect::<std::result::Result<_, shared::ids::Malformed>>()
        .map_err(|error| Invalid::new("webhooks", error))
}

async fn check_theirs(api: &Api, tenant: &Tenant, webhooks: &[WebhookId]) -> Result<()> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- webhooks_of_portal_link\n\
             SELECT (SELECT array_agg(id) FROM webhooks \
                 WHERE tenant = t.id AND status <> 'deleted' AND id = ANY($2)) AS theirs \
             FROM tenants t WHERE t.id = $1 AND t.deleted_at IS NULL",
        )
        .await?;
    let row = client.query_opt(&statement, &[tenant, &webhooks]).await?;
    let row = row.ok_or_else(|| NotFound::tenant(tenant))?;
    let theirs: Vec<WebhookId> = row.get::<_, Option<_>>("theirs").unwrap_or_default();
    match webhooks.iter().find(|id| !theirs.contains(id)) {
        Some(unknown) => Err(NotFound::webhook(*unknown).into()),
        None => Ok(()),
    }
}

/// How many sessions of a tenant's portal are open.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn open_sessions(api: &Api, tenant: &Tenant) -> Result<i64> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- open_portal_sessions\n\
             SELECT count(*) FROM sessions WHERE tenant = $1 AND kind = 'portal' AND ends_at > now() \
               AND seen_at > now() - interval '2 hours'",
        )
        .await?;
    Ok(client.query_one(&statement, &[tenant]).await?.get(0))
}

/// Ends all sessions of a tenant's portal, and links that weren't opened yet.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn end_sessions(api: &Api, tenant: &Tenant) -> Result<()> {
    let client = api.pool.get().await?;
    // Links first: a link that is opened in between would begin a session that stays. Opening is one
    // transaction, and deleting the link waits for it. So its session is there to be deleted.
    for statement in [
        "-- end_portal_links\nDELETE FROM links WHERE tenant = $1 AND kind = 'portal'",
        "-- end_portal_sessions\nDELETE FROM sessions WHERE tenant = $1 AND kind = 'portal'",
    ] {
        let statement = client.prepare_cached(statement).await?;
        client.execute(&statement, &[tenant]).await?;
    }
    Ok(())
}
