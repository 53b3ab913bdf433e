//! Who asks: API tokens, JWTs ([`super::jwt`]), and the operator's `ADMIN_TOKEN`.
//!
//! A token is `pht_` and 32 random bytes; the database has its SHA-256. It
//! belongs to a tenant, or is global and names a tenant by `X-Tenant-ID`. A
//! handler takes [`Reading`], [`Managing`], [`Administering`] or [`Operating`]
//! first: who asks is settled before what is asked is read.
//!
//! Tokens are looked up on connections of their own, and a tenant has only some
//! requests at a time that use PostgreSQL: so whatever one tenant asks for, others
//! are known and answered.

use std::str::FromStr;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use deadpool_postgres::Pool;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use shared::ids::{Tenant, TokenId};
use shared::seal::fill_random;
use subtle::ConstantTimeEq;
use time::OffsetDateTime;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;

use super::Shared;
use super::jwt::Claims;
use super::problem::{Problem, Result};

const PREFIX: &str = "pht_";
/// How much of a token is kept to tell it by.
const SHOWN: usize = 10;
/// A tenant's requests that use PostgreSQL at a time: less than half of the API's
/// connections.
pub const OF_A_TENANT: usize = 3;
/// How long a request waits for those before it.
const PATIENCE: Duration = Duration::from_secs(5);
/// The header with which a global token names a tenant.
pub const TENANT_HEADER: &str = "x-tenant-id";

/// What a token may do: a viewer reads, a manager also changes webhooks and
/// publishes events, an admin also manages tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Read.
    Viewer,
    /// Change webhooks, publish events.
    Manager,
    /// Manage tokens and, if global, tenants.
    Admin,
}

impl Role {
    /// As the table has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Manager => "manager",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        [Self::Viewer, Self::Manager, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| "must be admin, manager or viewer".to_owned())
    }
}

/// Who asks.
#[derive(Debug, Clone)]
struct Caller {
    /// `None`: a global token.
    tenant: Option<Tenant>,
    role: Role,
}

/// A caller who may act for a tenant in a role.
pub struct Acting<const ROLE: u8, const USES_POSTGRES: bool = true> {
    /// The tenant.
    pub tenant: Tenant,
    /// Its place among the tenant's requests that use PostgreSQL, until it is dropped.
    pub place: Option<OwnedSemaphorePermit>,
}

/// A caller who may read a tenant's things.
pub type Reading = Acting<{ Role::Viewer as u8 }>;
/// A caller who may change a tenant's things.
pub type Managing = Acting<{ Role::Manager as u8 }>;
/// A caller who may publish a tenant's events: that needs no PostgreSQL.
pub type Publishing = Acting<{ Role::Manager as u8 }, false>;

/// A caller who manages tokens.
pub struct Administering {
    /// Whose; `None`: everybody's.
    pub tenant: Option<Tenant>,
    _place: Option<OwnedSemaphorePermit>,
}

/// The operator.
pub struct Operating;

/// The operator, acting for the tenant that `X-Tenant-ID` names.
pub struct OperatingFor {
    /// The tenant.
    pub tenant: Tenant,
}

impl<const ROLE: u8, const USES_POSTGRES: bool> FromRequestParts<Shared>
    for Acting<ROLE, USES_POSTGRES>
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self> {
        let caller = identify(&parts.headers, api).await?;
        caller.must_be(ROLE)?;
        let Some(tenant) = acting_for(caller, &parts.headers, api).await? else {
            return Err(Problem::field(
                "X-Tenant-ID",
                "this token is global: say for which tenant it is used",
            ));
        };
        let place = match USES_POSTGRES {
            true => Some(place(&tenant, api).await?),
            false => None,
        };
        Ok(Self { tenant, place })
    }
}

impl FromRequestParts<Shared> for Administering {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self> {
        let caller = identify(&parts.headers, api).await?;
        caller.must_be(Role::Admin as u8)?;
        let tenant = acting_for(caller, &parts.headers, api).await?;
        let _place = match &tenant {
            Some(tenant) => Some(place(tenant, api).await?),
            None => None,
        };
        Ok(Self { tenant, _place })
    }
}

impl FromRequestParts<Shared> for Operating {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self> {
        let caller = identify(&parts.headers, api).await?;
        if caller.tenant.is_some() || caller.role != Role::Admin {
            return Err(Problem::forbidden(
                "this request needs a global admin token",
            ));
        }
        Ok(Self)
    }
}

impl FromRequestParts<Shared> for OperatingFor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self> {
        Operating::from_request_parts(parts, api).await?;
        match named_tenant(&parts.headers)? {
            Some(tenant) if is_tenant(api, &tenant).await? => Ok(Self { tenant }),
            Some(tenant) => Err(unknown(&tenant)),
            None => Err(Problem::field(
                "X-Tenant-ID",
                "is missing: say whose event it is",
            )),
        }
    }
}

impl Caller {
    fn must_be(&self, role: u8) -> Result<()> {
        if self.role as u8 >= role {
            return Ok(());
        }
        Err(Problem::forbidden(format!(
            "this token is a {}'s; that is not enough for this request",
            self.role.as_str()
        )))
    }
}

/// The tenant that a caller acts for: its own, or the one that a global caller
/// names, if any.
async fn acting_for(caller: Caller, headers: &HeaderMap, api: &Shared) -> Result<Option<Tenant>> {
    match (caller.tenant, named_tenant(headers)?) {
        (Some(own), Some(named)) if own != named => Err(unknown(&named)),
        (None, Some(named)) if !is_tenant(api, &named).await? => Err(unknown(&named)),
        (own, named) => Ok(own.or(named)),
    }
}

/// Waits for its place among the tenant's requests that use PostgreSQL.
async fn place(tenant: &Tenant, api: &Shared) -> Result<OwnedSemaphorePermit> {
    tokio::time::timeout(PATIENCE, api.places.place(tenant))
        .await
        .map_err(|_| Problem::too_many_at_once(OF_A_TENANT))
}

fn unknown(tenant: &Tenant) -> Problem {
    Problem::not_found(format!("tenant `{tenant}` does not exist"))
}

/// The token of a request, if it has one.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
}

async fn identify(headers: &HeaderMap, api: &Shared) -> Result<Caller> {
    let token = bearer(headers).ok_or_else(Problem::unauthorized)?;
    let hash = hash(token);
    let caller = whose(token, &hash, api).await?;
    if let Some(rates) = &api.rates {
        rates.know(hash, Instant::now());
    }
    Ok(caller)
}

async fn whose(token: &str, hash: &[u8; 32], api: &Shared) -> Result<Caller> {
    if let Some(admin) = &api.admin_token {
        let ours = self::hash(admin.expose_secret());
        if bool::from(hash.as_slice().ct_eq(ours.as_slice())) {
            return Ok(Caller {
                tenant: None,
                role: Role::Admin,
            });
        }
    }
    match &api.jwts {
        // No token of ours has a dot.
        Some(jwts) if token.contains('.') => {
            let Claims { tenant, role } = jwts
                .verify(token)
                .map_err(|reason| Problem::bad_jwt(&reason))?;
            if !is_tenant(api, &tenant).await? {
                return Err(unknown(&tenant));
            }
            Ok(Caller {
                tenant: Some(tenant),
                role,
            })
        }
        _ => find(hash, api).await,
    }
}

async fn find(hash: &[u8; 32], api: &Shared) -> Result<Caller> {
    let found = api.tokens.find(hash).await?;
    let found = found.ok_or_else(Problem::unauthorized)?;
    if found.is_unnoticed {
        notice_use(&*api.tokens.pool().get().await?, found.id).await?;
    }
    Ok(Caller {
        tenant: found.tenant,
        role: found.role,
    })
}

/// At most once a minute and token, however many requests and replicas.
async fn notice_use(client: &deadpool_postgres::ClientWrapper, id: TokenId) -> Result<()> {
    let statement = client
        .prepare_cached(
            "-- notice_use\n\
             UPDATE tokens SET last_used_at = now() \
             WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')",
        )
        .await?;
    client.execute(&statement, &[&id]).await?;
    Ok(())
}

fn named_tenant(headers: &HeaderMap) -> Result<Option<Tenant>> {
    let Some(value) = headers.get(TENANT_HEADER) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    text.parse()
        .map(Some)
        .map_err(|error| Problem::field("X-Tenant-ID", format!("{error}")))
}

/// Asked of memory. A tenant that isn't there may be a moment old, so nobody is refused
/// before the catalogue was read again.
async fn is_tenant(api: &Shared, tenant: &Tenant) -> Result<bool> {
    let is_known = || api.subscriptions.max_payload(tenant).is_some();
    if !is_known() {
        api.feed.refresh().await?;
    }
    Ok(is_known())
}

/// What is known of a token: the database has no more of it, either.
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// A token that was just made.
pub struct NewToken {
    /// Its public name.
    pub id: TokenId,
    /// The token itself: shown once.
    pub secret: SecretString,
    /// How it is listed.
    pub prefix: String,
}

/// Makes a token; `tenant` `None` makes a global one.
///
/// # Errors
/// If PostgreSQL fails or there is no such tenant.
pub async fn create_token(
    pool: &Pool,
    tenant: Option<&Tenant>,
    role: Role,
    expires_at: Option<OffsetDateTime>,
) -> anyhow::Result<NewToken> {
    let mut bytes = [0; 32];
    fill_random(&mut bytes);
    let token = format!("{PREFIX}{}", BASE64.encode(bytes));
    let made = NewToken {
        id: TokenId::generate(),
        prefix: token[..SHOWN].to_owned(),
        secret: token.into(),
    };
    let client = pool.get().await?;
    client
        .execute(
            "-- create_token\n\
             INSERT INTO tokens (id, hash, prefix, tenant, role, expires_at) VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                &made.id,
                &hash(made.secret.expose_secret()).as_slice(),
                &made.prefix,
                &tenant,
                &role.as_str(),
                &expires_at,
            ],
        )
        .await?;
    Ok(made)
}
