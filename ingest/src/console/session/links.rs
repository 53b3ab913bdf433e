//! Links that begin a session once: the operator's to the console, and those to the portal.

use secrecy::SecretString;
use shared::clock;
use shared::ids::Tenant;
use time::Duration;

use super::LASTS;
use super::begin::{Begins, NewSession, insert};
use super::id::Id;
use crate::api::access::role::Role;
use crate::api::http::problem::Result;
use crate::api::portal_links::forget_old_links;
use crate::api::state::Api;

/// A link that signs in to the console once. Answers what comes after `?link=`.
///
/// # Errors
/// If PostgreSQL fails or there is no such tenant.
pub async fn create_link(
    pool: &deadpool_postgres::Pool,
    tenant: Option<&Tenant>,
    role: Role,
    to_be_opened: Duration,
) -> anyhow::Result<SecretString> {
    let id = Id::generate();
    let client = pool.get().await?;
    forget_old_links(&client).await?;
    client
        .execute(
            "-- create_link\n\
             INSERT INTO links (id, hash, kind, tenant, role, session_s, ends_at) \
             VALUES ($1, $2, 'link', $3, $4, $5, now() + make_interval(secs => $6))",
            &[
                &uuid::Uuid::now_v7(),
                &id.hash().as_slice(),
                &tenant,
                &role.as_str(),
                &(LASTS.whole_seconds() as i32),
                &to_be_opened.as_seconds_f64(),
            ],
        )
        .await?;
    Ok(id.text())
}

/// Marks a link of this kind as opened. `None`: there is none, or not any more.
async fn use_up(api: &Api, link: &str, kind: &str) -> Result<Option<tokio_postgres::Row>> {
    let Some(id) = Id::parse(link) else {
        return Ok(None);
    };
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- open_link\n\
             UPDATE links SET opened_at = now() \
             WHERE hash = $1 AND kind = $2 AND opened_at IS NULL AND ends_at > now() \
             RETURNING id::text, tenant, role, webhooks, session_s, theme, accent",
        )
        .await?;
    let row = client
        .query_opt(&statement, &[&id.hash().as_slice(), &kind])
        .await?;
    Ok(row)
}

/// Opens a link for the console, once. `None`: there is none, or not any more.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn open_link(api: &Api, link: &str) -> Result<Option<NewSession>> {
    let Some(row) = use_up(api, link, "link").await? else {
        return Ok(None);
    };
    let begins = Begins {
        kind: "link",
        token: None,
        operator: false,
        tenant: row.get("tenant"),
        role: row.get::<_, &str>("role").parse().unwrap_or(Role::Viewer),
        webhooks: None,
        shown: "a link".to_owned(),
        ends_at: clock::now() + Duration::seconds(row.get::<_, i32>("session_s").into()),
        theme: None,
        accent: None,
    };
    insert(api, begins).await.map(Some)
}

/// Opens a link to the portal, once. `None`: there is none, or not any more.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn open_portal_link(api: &Api, link: &str) -> Result<Option<NewSession>> {
    let Some(row) = use_up(api, link, "portal").await? else {
        return Ok(None);
    };
    // The link's public name: what was done with it is found by it.
    let name: String = row.get("id");
    let ends_at = clock::now() + Duration::seconds(row.get::<_, i32>("session_s").into());
    let begins = Begins {
        kind: "portal",
        token: None,
        operator: false,
        tenant: row.get("tenant"),
        role: row.get::<_, &str>("role").parse().unwrap_or(Role::Viewer),
        webhooks: row.get("webhooks"),
        shown: format!("portal link {name}"),
        ends_at,
        theme: row.get("theme"),
        accent: row.get("accent"),
    };
    insert(api, begins).await.map(Some)
}
