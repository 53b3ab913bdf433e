//! Links that begin a session once: the operator's to the console, and those to the portal.

use deadpool_postgres::Transaction;
use secrecy::SecretString;
use shared::clock;
use shared::ids::Tenant;
use time::Duration;
use tokio_postgres::Row;

use super::LASTS;
use super::begin::{Begins, NewSession, forget_ended, insert};
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

/// Opens a link for the console, once. `None`: there is none, or not any more.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn open_link(api: &Api, link: &str) -> Result<Option<NewSession>> {
    open(api, link, "link", |row| Begins {
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
    })
    .await
}

/// Opens a link to the portal, once. `None`: there is none, or not any more.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn open_portal_link(api: &Api, link: &str) -> Result<Option<NewSession>> {
    open(api, link, "portal", |row| Begins {
        kind: "portal",
        token: None,
        operator: false,
        tenant: row.get("tenant"),
        role: row.get::<_, &str>("role").parse().unwrap_or(Role::Viewer),
        webhooks: row.get("webhooks"),
        // The link's public name: what was done with it is found by it.
        shown: format!("portal link {}", row.get::<_, &str>("id")),
        ends_at: clock::now() + Duration::seconds(row.get::<_, i32>("session_s").into()),
        theme: row.get("theme"),
        accent: row.get("accent"),
    })
    .await
}

/// Uses up a link and begins its session, in one transaction. Whoever ends all sessions deletes
/// links first, and waits for this transaction at the link's row. So the session is there when
/// sessions are deleted, or the link is gone before it is opened.
async fn open(
    api: &Api,
    link: &str,
    kind: &str,
    begins: impl FnOnce(&Row) -> Begins,
) -> Result<Option<NewSession>> {
    let Some(id) = Id::parse(link) else {
        return Ok(None);
    };
    let mut client = api.pool.get().await?;
    forget_ended(&client).await?;
    let transaction = client.transaction().await?;
    let Some(row) = use_up(&transaction, &id, kind).await? else {
        return Ok(None);
    };
    let begun = insert(api, &transaction, begins(&row)).await?;
    transaction.commit().await?;
    Ok(Some(begun))
}

/// Marks a link of this kind as opened, and locks it. `None`: there is none, or not any more.
async fn use_up(transaction: &Transaction<'_>, id: &Id, kind: &str) -> Result<Option<Row>> {
    let statement = transaction
        .prepare_cached(
            "-- open_link\n\
             UPDATE links SET opened_at = now() \
             WHERE hash = $1 AND kind = $2 AND opened_at IS NULL AND ends_at > now() \
             RETURNING id::text, tenant, role, webhooks, session_s, theme, accent",
        )
        .await?;
    let row = transaction
        .query_opt(&statement, &[&id.hash().as_slice(), &kind])
        .await?;
    Ok(row)
}
