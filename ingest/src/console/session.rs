//! Sessions: a browser's sign-in, and whom each of its requests acts for.
//!
//! A token, a JWT, `ADMIN_TOKEN` or a link begins a session. The browser gets 32 random bytes in
//! a cookie; the table has their SHA-256. Sessions aren't cached: each request looks up its
//! session together with the session's token. So a revoked token ends its sessions at once, on
//! all replicas.
//!
//! A session ends 12 hours after it began, or after two hours without a request.

pub mod begin;
mod id;
pub mod links;
pub mod shown_once;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use shared::ids::{Tenant, TokenId, WebhookId};
use subtle::ConstantTimeEq;
use time::{Duration, OffsetDateTime};

use id::Id;

use crate::actor::Actor;
use crate::api::access::role::Role;
use crate::api::http::problem::Result;
use crate::api::portal_links::ACCENTS;
use crate::api::state::Api;
use crate::console::shell::Theme;

/// The cookie. The prefix makes browsers insist on `Secure`, `Path=/` and no domain.
pub const COOKIE: &str = "__Host-posthorn";
/// How long a session lasts.
pub const LASTS: Duration = Duration::hours(12);

/// Who a request comes from.
#[derive(Debug, Clone)]
pub struct Session {
    /// `None`: all tenants, which is the operator.
    pub tenant: Option<Tenant>,
    pub role: Role,
    /// The webhooks that a portal link covers; `None`: no such limit.
    pub webhooks: Option<Vec<WebhookId>>,
    /// Whether a portal link began it.
    pub is_portal: bool,
    /// How pages and logs name it.
    pub shown: String,
    pub ends_at: OffsetDateTime,
    /// See [`Session::shared_bucket`].
    shared_bucket: Option<[u8; 32]>,
    /// How the portal looks: as its link says.
    pub theme: Theme,
    pub accent: &'static str,
    id: Id,
}

/// How the rate limit knows a browser before its session is looked up.
pub fn cookie_hash(cookie: &str) -> Option<[u8; 32]> {
    Id::parse(cookie).map(|id| id.hash())
}

impl Session {
    /// Whether it may see all tenants.
    pub fn is_operator(&self) -> bool {
        self.tenant.is_none() && self.role == Role::Admin && !self.is_portal
    }

    /// As the history of changes has whoever is signed in.
    pub fn actor(&self) -> Actor {
        match (self.is_portal, self.is_operator()) {
            (true, _) => Actor::other(&self.shown),
            (_, true) => Actor::other(&format!("operator in the console, {}", self.shown)),
            _ => Actor::other(&format!("{} in the console", self.shown)),
        }
    }

    /// What every form has to send with it: another site can't know it.
    pub fn csrf(&self) -> String {
        BASE64.encode(self.id.mac("form", &[]))
    }

    /// Whether a form came from one of this session's pages.
    pub fn is_csrf(&self, sent: &str) -> bool {
        self.csrf().as_bytes().ct_eq(sent.as_bytes()).into()
    }

    /// How the rate limit knows its browser.
    pub fn cookie_hash(&self) -> [u8; 32] {
        self.id.hash()
    }

    /// How the rate limit knows all sessions of its token or JWT's subject.
    pub fn shared_bucket(&self) -> Option<[u8; 32]> {
        self.shared_bucket
    }
}

/// The session of this cookie, if it goes on. It has been used.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn find(api: &Api, cookie: &str) -> Result<Option<Session>> {
    match Id::parse(cookie) {
        Some(id) => look_up(api, id, true).await,
        None => Ok(None),
    }
}

/// The same for what browsers do by themselves: that doesn't count as use.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn find_unused(api: &Api, cookie: &str) -> Result<Option<Session>> {
    match Id::parse(cookie) {
        Some(id) => look_up(api, id, false).await,
        None => Ok(None),
    }
}

/// Whether a session goes on, while something of it is open.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn goes_on(api: &Api, session: &Session) -> Result<bool> {
    let found = look_up(api, session.id.clone(), false).await?;
    Ok(found.is_some_and(|found| found.role == session.role && found.tenant == session.tenant))
}

async fn look_up(api: &Api, id: Id, is_use: bool) -> Result<Option<Session>> {
    let hash = id.hash();
    // Here, because requests wait neither for others' pages nor for the API's.
    let client = api.tokens.pool().get().await?;
    let statement = client
        .prepare_cached(
            "-- find_session\n\
             SELECT s.kind, s.token_id, s.operator_mark, s.webhooks, s.shown, s.ends_at, s.theme, s.accent, \
                 CASE WHEN t.id IS NULL THEN s.tenant ELSE t.tenant END AS tenant, \
                 coalesce(t.role, s.role) AS role, \
                 s.seen_at < now() - interval '1 minute' AS unnoticed \
             FROM sessions s LEFT JOIN tokens t ON t.id = s.token_id \
             WHERE s.hash = $1 AND s.ends_at > now() AND s.seen_at > now() - interval '2 hours' \
                 AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now())",
        )
        .await?;
    let Some(row) = client.query_opt(&statement, &[&hash.as_slice()]).await? else {
        return Ok(None);
    };
    if let Some(mark) = row.get::<_, Option<&[u8]>>("operator_mark") {
        let now = api
            .admin_token
            .as_ref()
            .map(|admin| operator_mark(&id, admin));
        if !now.is_some_and(|now| bool::from(now.as_slice().ct_eq(mark))) {
            return Ok(None);
        }
    }
    if is_use && row.get("unnoticed") {
        let statement = client
            .prepare_cached(
                "-- notice_session\nUPDATE sessions SET seen_at = now() WHERE hash = $1",
            )
            .await?;
        client.execute(&statement, &[&hash.as_slice()]).await?;
    }
    let (kind, tenant): (&str, Option<Tenant>) = (row.get("kind"), row.get("tenant"));
    let shown: String = row.get("shown");
    Ok(Some(Session {
        shared_bucket: bucket_of(kind, row.get("token_id"), tenant.as_ref(), &shown),
        tenant,
        // The least of them, if a row were to have another.
        role: row.get::<_, &str>("role").parse().unwrap_or(Role::Viewer),
        webhooks: row.get("webhooks"),
        is_portal: kind == "portal",
        shown,
        ends_at: row.get("ends_at"),
        theme: Theme::parse(row.get::<_, Option<&str>>("theme").unwrap_or_default()),
        accent: accent(row.get("accent")),
        id,
    }))
}

/// How many sessions of a token go on.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn sessions_of_token(api: &Api, token: TokenId) -> Result<i64> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- sessions_of_token\n\
             SELECT count(*) FROM sessions \
             WHERE token_id = $1 AND ends_at > now() AND seen_at > now() - interval '2 hours'",
        )
        .await?;
    Ok(client.query_one(&statement, &[&token]).await?.get(0))
}

/// Ends a session.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn end(api: &Api, session: &Session) -> Result<()> {
    let client = api.pool.get().await?;
    let hash = session.id.hash();
    client
        .execute(
            "-- end_session\nDELETE FROM sessions WHERE hash = $1",
            &[&hash.as_slice()],
        )
        .await?;
    Ok(())
}

/// Ends all sessions of a tenant, or of everybody, and takes the links away that weren't opened
/// yet. Answers how many sessions there were.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn end_all(
    pool: &deadpool_postgres::Pool,
    tenant: Option<&Tenant>,
) -> anyhow::Result<u64> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    transaction
        .execute(
            "-- end_links\nDELETE FROM links \
             WHERE opened_at IS NULL AND ($1::text IS NULL OR tenant = $1)",
            &[&tenant],
        )
        .await?;
    let ended = transaction
        .execute(
            "-- end_all_sessions\nDELETE FROM sessions WHERE $1::text IS NULL OR tenant = $1",
            &[&tenant],
        )
        .await?;
    transaction.commit().await?;
    Ok(ended)
}

/// The rate limit's bucket of what began a session. A link begins only one.
fn bucket_of(
    kind: &str,
    token: Option<TokenId>,
    tenant: Option<&Tenant>,
    shown: &str,
) -> Option<[u8; 32]> {
    let whose = match (kind, token) {
        ("token", Some(token)) => token.to_string(),
        // By its tenant and its subject.
        ("jwt", _) => format!("{} {shown}", tenant.map_or("", Tenant::as_str)),
        ("operator", _) => String::new(),
        _ => return None,
    };
    Some(Sha256::digest(format!("console {kind} {whose}")).into())
}

/// A session of `ADMIN_TOKEN` ends when that setting changes. The mark tells, and whoever
/// reads the table can't try tokens against it: the key is in the browser alone.
fn operator_mark(id: &Id, admin: &SecretString) -> [u8; 32] {
    id.mac("operator", admin.expose_secret().as_bytes())
}

/// One of those that there are: it becomes an attribute.
fn accent(text: Option<&str>) -> &'static str {
    let known = ACCENTS.into_iter().find(|known| Some(*known) == text);
    known.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_of_another_session_is_not_taken() {
        let session = |byte| Session {
            tenant: None,
            role: Role::Admin,
            webhooks: None,
            is_portal: false,
            shown: String::new(),
            ends_at: OffsetDateTime::UNIX_EPOCH,
            shared_bucket: None,
            theme: Theme::System,
            accent: "",
            id: Id([byte; 32]),
        };
        let (ours, other) = (session(1), session(2));
        assert!(ours.is_csrf(&ours.csrf()));
        for wrong in [other.csrf().as_str(), "", "AAAA"] {
            assert!(!ours.is_csrf(wrong));
        }
        assert!(!format!("{ours:?}").contains("1, 1"), "{ours:?}");
    }
}
