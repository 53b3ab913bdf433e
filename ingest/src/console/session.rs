//! Sessions: a browser's sign-in, and whom each of its requests acts for.
//!
//! A token, a JWT, `ADMIN_TOKEN` or a link begins a session. The browser gets 32 random bytes in
//! a cookie; the table has their SHA-256. Sessions aren't cached: each request looks up its
//! session together with the session's token. So a revoked token ends its sessions at once, on
//! all replicas.
//!
//! A session ends 12 hours after it began, or after two hours without a request.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use shared::clock;
use shared::excerpt::excerpt;
use shared::ids::{Tenant, TokenId, WebhookId};
use shared::seal::fill_random;
use subtle::ConstantTimeEq;
use time::{Duration, OffsetDateTime};

use crate::actor::Actor;
use crate::api::access::jwt;
use crate::api::access::role::Role;
use crate::api::access::tokens;
use crate::api::http::problem::Result;
use crate::api::portal_links::ACCENTS;
use crate::api::state::Api;
use crate::console::shell::Theme;

/// The cookie. The prefix makes browsers insist on `Secure`, `Path=/` and no domain.
pub const COOKIE: &str = "__Host-posthorn";
/// How long a session lasts.
pub const LASTS: Duration = Duration::hours(12);
/// How long a secret that was just made can be shown.
const SEALED: Duration = Duration::minutes(10);
/// How much of a token pages and logs show.
const SHOWN: usize = 8;
/// How much of a JWT's subject they show.
const SHOWN_SUBJECT: usize = 64;
/// The most sessions of a token: the oldest make way.
const MOST: i64 = 20;

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

/// The cookie's 32 bytes.
#[derive(Clone)]
struct Id([u8; 32]);

impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Id(…)")
    }
}

impl Id {
    fn generate() -> Self {
        let mut bytes = [0; 32];
        fill_random(&mut bytes);
        Self(bytes)
    }

    fn parse(cookie: &str) -> Option<Self> {
        let bytes = BASE64.decode(cookie).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }

    fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// A MAC with the session's id as its key.
    fn mac(&self, purpose: &str, of: &[u8]) -> [u8; 32] {
        // HMAC takes keys of any length.
        #[expect(clippy::expect_used, reason = "see above")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of 32 bytes");
        mac.update(purpose.as_bytes());
        mac.update(of);
        mac.finalize().into_bytes().into()
    }
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

/// What begins a session, checked.
struct Begins {
    kind: &'static str,
    token: Option<TokenId>,
    operator: bool,
    tenant: Option<Tenant>,
    role: Role,
    webhooks: Option<Vec<WebhookId>>,
    shown: String,
    ends_at: OffsetDateTime,
    theme: Option<String>,
    accent: Option<String>,
}

/// A session that has begun, and its cookie's value.
pub struct Begun {
    pub session: Session,
    pub cookie: SecretString,
}

/// Exchanges a token for a session. `None`: it isn't valid here.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn begin(api: &Api, token: &str) -> Result<Option<Begun>> {
    match checked(api, token).await? {
        Some(begins) => insert(api, begins).await.map(Some),
        None => Ok(None),
    }
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

async fn insert(api: &Api, begins: Begins) -> Result<Begun> {
    let id = Id::generate();
    let mark = match &api.admin_token {
        Some(admin) if begins.operator => Some(operator_mark(&id, admin)),
        _ => None,
    };
    let client = api.pool.get().await?;
    // Nobody waits for old ones to go; there are as many as people sign in.
    client
        .execute(
            "-- end_sessions\nDELETE FROM sessions WHERE ends_at < now()",
            &[],
        )
        .await?;
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
    Ok(Begun {
        cookie: BASE64.encode(id.0).into(),
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

/// A session of `ADMIN_TOKEN` ends when that setting changes. The mark tells, and whoever
/// reads the table can't try tokens against it: the key is in the browser alone.
fn operator_mark(id: &Id, admin: &SecretString) -> [u8; 32] {
    id.mac("operator", admin.expose_secret().as_bytes())
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

/// Keeps a secret that was just made, for the page that shows it once.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn keep_secret(api: &Api, session: &Session, about: &str, secret: &str) -> Result<()> {
    let hash = session.id.hash();
    let sealed = api.keys.seal(&context(&hash, about), secret.as_bytes());
    let until = clock::now() + SEALED;
    let client = api.pool.get().await?;
    client
        .execute(
            "-- keep_secret\nUPDATE sessions SET sealed = $2, sealed_until = $3 WHERE hash = $1",
            &[&hash.as_slice(), &sealed, &until],
        )
        .await?;
    Ok(())
}

/// The secret that was kept about this, which is forgotten.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn take_secret(
    api: &Api,
    session: &Session,
    about: &str,
) -> Result<Option<SecretString>> {
    let hash = session.id.hash();
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- take_secret\n\
             UPDATE sessions s SET sealed = NULL, sealed_until = NULL \
             FROM (SELECT hash, sealed, sealed_until FROM sessions WHERE hash = $1 FOR UPDATE) before \
             WHERE s.hash = before.hash AND before.sealed IS NOT NULL \
             RETURNING before.sealed, before.sealed_until > now() AS fresh",
        )
        .await?;
    let Some(row) = client.query_opt(&statement, &[&hash.as_slice()]).await? else {
        return Ok(None);
    };
    let opened = api.keys.open(&context(&hash, about), row.get("sealed"));
    // Of another page, or too old: forgotten all the same.
    let fresh: bool = row.get("fresh");
    Ok(opened
        .ok()
        .filter(|_| fresh)
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(Into::into))
}

fn context(hash: &[u8], about: &str) -> String {
    format!("session/{}/{about}", hex::encode(hash))
}

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
    client
        .execute(
            "-- forget_links\nDELETE FROM links WHERE ends_at < now() - interval '1 day'",
            &[],
        )
        .await?;
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
    Ok(BASE64.encode(id.0).into())
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
pub async fn open_link(api: &Api, link: &str) -> Result<Option<Begun>> {
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
pub async fn open_portal_link(api: &Api, link: &str) -> Result<Option<Begun>> {
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
