//! How a session begins: a token, a JWT or `ADMIN_TOKEN` is checked, and the session's row written.

use deadpool_postgres::{Client, GenericClient};
use secrecy::{ExposeSecret, SecretString};
use shared::clock;
use shared::excerpt::excerpt;
use shared::ids::{Tenant, TokenId, WebhookId};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

use super::id::Id;
use super::{LASTS, Session, accent, bucket_of, operator_mark};
use crate::api::access::jwt;
use crate::api::access::role::Role;
use crate::api::access::tokens;
use crate::api::http::problem::Result;
use crate::api::state::Api;
use crate::console::shell::Theme;

/// How much of a token pages and logs show.
const SHOWN: usize = 8;
/// How much of a JWT's subject they show.
const SHOWN_SUBJECT: usize = 64;
/// The most sessions of a token: the oldest make way.
const MOST: i64 = 20;

/// What begins a session, checked.
pub(super) struct Begins {
    pub(super) kind: &'static str,
    pub(super) token: Option<TokenId>,
    pub(super) operator: bool,
    pub(super) tenant: Option<Tenant>,
    pub(super) role: Role,
    pub(super) webhooks: Option<Vec<WebhookId>>,
    pub(super) shown: String,
    pub(super) ends_at: OffsetDateTime,
    pub(super) theme: Option<String>,
    pub(super) accent: Option<String>,
}

/// A session that has begun, and its cookie's value.
pub struct NewSession {
    pub session: Session,
    pub cookie: SecretString,
}

/// Exchanges a token for a session. `None`: it isn't valid here.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn begin(api: &Api, token: &str) -> Result<Option<NewSession>> {
    let Some(begins) = checked(api, token).await? else {
        return Ok(None);
    };
    let client = api.pool.get().await?;
    forget_ended(&client).await?;
    insert(api, &client, begins).await.map(Some)
}

async fn checked(api: &Api, token: &str) -> Result<Option<Begins>> {
    let hash = tokens::hash(token);
    let ends_at = clock::now() + LASTS;
    let shown = |token: &str| format!("{}…", token.chars().take(SHOWN).collect::<String>());
    if let Some(admin) = &api.admin_token
        && bool::from(tokens::hash(admin.expose_secret()).ct_eq(&hash))
    {
        return Ok(Some(Begins {
            kind: "operator",
            token: None,
            operator: true,
            tenant: None,
            role: Role::Admin,
            webhooks: None,
            // Of a token that somebody chose, not even the beginning is shown.
            shown: "ADMIN_TOKEN".to_owned(),
            ends_at,
            theme: None,
            accent: None,
        }));
    }
    if let (Some(jwts), true) = (&api.jwts, token.contains('.')) {
        let Ok(claims) = jwts.verify(token) else {
            return Ok(None);
        };
        // Pages show all of a tenant: nobody gets more by a session than by the JWT itself.
        if claims.owner.is_some() {
            return Ok(None);
        }
        if api.subscriptions.max_payload(&claims.tenant).is_none() {
            api.feed.refresh().await?;
            if api.subscriptions.max_payload(&claims.tenant).is_none() {
                return Ok(None);
            }
        }
        return Ok(Some(Begins {
            kind: "jwt",
            token: None,
            operator: false,
            tenant: Some(claims.tenant),
            role: claims.role,
            webhooks: None,
            shown: claims.subject.map_or_else(
                || "a JWT".to_owned(),
                |subject| format!("a JWT of {}", excerpt(&subject, SHOWN_SUBJECT)),
            ),
            ends_at: jwt::expires_at(token).map_or(ends_at, |at| at.min(ends_at)),
            theme: None,
            accent: None,
        }));
    }
    let found = api.tokens.find(&hash).await?;
    // Pages show all webhooks of a tenant.
    let found = found.filter(|found| found.owner.is_none());
    Ok(found.map(|found| Begins {
        kind: "token",
        token: Some(found.id),
        operator: false,
        tenant: found.tenant,
        role: found.role,
        webhooks: None,
        shown: shown(token),
        ends_at,
        theme: None,
        accent: None,
    }))
}

/// Deletes sessions that have ended. Nobody waits for them to go, and there are as many as people
/// sign in.
pub(super) async fn forget_ended(client: &Client) -> Result<()> {
    let statement = "-- end_sessions\nDELETE FROM sessions WHERE ends_at < now()";
    client.execute(statement, &[]).await?;
    Ok(())
}

/// Writes the session's row.
pub(super) async fn insert(
    api: &Api,
    client: &impl GenericClient,
    begins: Begins,
) -> Result<NewSession> {
    let id = Id::generate();
    let mark = match &api.admin_token {
        Some(admin) if begins.operator => Some(operator_mark(&id, admin)),
        _ => None,
    };
    let statement = client
        .prepare_cached(
            "-- begin_session\n\
             INSERT INTO sessions (hash, kind, token_id, operator_mark, tenant, role, webhooks, shown, ends_at, theme, accent) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .await?;
    let (hash, mark) = (id.hash(), mark.as_ref().map(<[u8; 32]>::as_slice));
    client
        .execute(
            &statement,
            &[
                &hash.as_slice(),
                &begins.kind,
                &begins.token,
                &mark,
                &begins.tenant,
                &begins.role.as_str(),
                &begins.webhooks,
                &begins.shown,
                &begins.ends_at,
                &begins.theme,
                &begins.accent,
            ],
        )
        .await?;
    if begins.token.is_some() {
        let statement = "-- end_oldest_sessions\n\
             DELETE FROM sessions WHERE hash IN ( \
                 SELECT hash FROM sessions WHERE token_id = $1 \
                 ORDER BY created_at DESC, hash OFFSET $2)";
        let statement = client.prepare_cached(statement).await?;
        client.execute(&statement, &[&begins.token, &MOST]).await?;
    }
    let tenant = begins.tenant.as_ref();
    Ok(NewSession {
        cookie: id.text(),
        session: Session {
            shared_bucket: bucket_of(begins.kind, begins.token, tenant, &begins.shown),
            tenant: begins.tenant,
            role: begins.role,
            webhooks: begins.webhooks,
            is_portal: begins.kind == "portal",
            shown: begins.shown,
            ends_at: begins.ends_at,
            theme: Theme::parse(begins.theme.as_deref().unwrap_or_default()),
            accent: accent(begins.accent.as_deref()),
            id,
        },
    })
}
