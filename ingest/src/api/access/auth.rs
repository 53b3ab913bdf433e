//! Authentication and authorisation: API tokens, JWTs ([`jwt`](super::jwt)), and the operator's `ADMIN_TOKEN`.
//!
//! A handler's first parameter is [`Reading`], [`Managing`], [`Administering`] or
//! [`Operating`]. Axum makes it from the request's headers before it reads the
//! body, so a caller without the role is refused early. A global token names its
//! tenant in `X-Tenant-ID`.
//!
//! [`Presumed`] is for the publishing of one event, whose token PostgreSQL looks up together with
//! accepting the event.
//!
//! Two limits keep one tenant's requests from delaying others': tokens are looked
//! up on PostgreSQL connections of their own, and a tenant has at most
//! [`OF_A_TENANT`] requests at a time that use PostgreSQL.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use secrecy::ExposeSecret;
use shared::ids::{DeliveryId, Owner, Tenant, WebhookId};
use subtle::ConstantTimeEq;
use tokio::sync::OwnedSemaphorePermit;

use crate::actor::Actor;
use crate::api::access::jwt::Claims;
use crate::api::access::role::{Caller, Role};
use crate::api::access::tokens::{self, hash};
use crate::api::http::held_bodies::HeldBody;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::no_text;
use crate::api::state::{Api, Shared};
use crate::decode::TokenHash;
use crate::invalid::{Gathered, Invalid, Invalids, NotFound};
use crate::tenant_permits::{MAX_WAITING, NoPermit};
use crate::webhooks::form::{CheckedWebhook, WebhookForm};

/// The most requests of a tenant that use PostgreSQL at a time: less than half of the
/// API's connections.
pub const OF_A_TENANT: usize = 3;
/// How long a request waits for the tenant's requests before it.
const PATIENCE: Duration = Duration::from_secs(5);
/// The header in which a global token names its tenant.
pub const TENANT_HEADER: &str = "x-tenant-id";

/// A caller who may act for a tenant in a role.
pub struct Acting<const ROLE: u8, const USES_POSTGRES: bool = true, const OWN: bool = false> {
    pub tenant: Tenant,
    /// The owner whose webhooks alone the caller may see and change; `None`: all of the
    /// tenant's. Always `None` unless `OWN`.
    pub owner: Option<Owner>,
    /// Counts this request among the tenant's that use PostgreSQL, until it is dropped.
    pub permit: Option<OwnedSemaphorePermit>,
    /// As the history of changes has the caller.
    pub actor: Actor,
}

/// A caller who may read the tenant's resources.
pub type Reading = Acting<{ Role::Viewer as u8 }>;
/// A caller who may change the tenant's resources.
pub type Managing = Acting<{ Role::Manager as u8 }>;
/// A caller who may publish the tenant's events, which needs no connection to PostgreSQL.
pub type Publishing = Acting<{ Role::Manager as u8 }, false>;

/// A caller who may publish the tenant's events if its token still is what it was a moment ago.
pub struct Presumed {
    pub tenant: Tenant,
    /// The token that is to be looked up still.
    pub token: Option<TokenHash>,
}

/// As [`Reading`], but a caller with an owner is let in, too. If the path has the id of a
/// webhook or a delivery, that is the owner's.
pub type OwnReading = Acting<{ Role::Viewer as u8 }, true, true>;
/// As [`Managing`], but a caller with an owner is let in, too, as in [`OwnReading`].
pub type OwnManaging = Acting<{ Role::Manager as u8 }, true, true>;

/// A caller who manages tokens.
pub struct Administering {
    /// The tenant whose tokens are managed; `None`: all tokens.
    pub tenant: Option<Tenant>,
    /// As in [`Acting`].
    pub permit: Option<OwnedSemaphorePermit>,
    /// As the history of changes has the caller.
    pub actor: Actor,
}

/// The operator.
pub struct Operating {
    /// As the history of changes has the caller.
    pub actor: Actor,
}

/// A caller with a valid token, whatever it may do.
pub struct Identified {
    pub caller: Caller,
    /// The tenant that the caller acts for: `None` for a global caller that names none.
    pub tenant: Option<Tenant>,
    /// The token's SHA-256.
    pub hash: [u8; 32],
    _permit: Option<OwnedSemaphorePermit>,
}

/// The operator, acting for the tenant that `X-Tenant-ID` names.
pub struct OperatingFor {
    pub tenant: Tenant,
}

impl<const ROLE: u8, const USES_POSTGRES: bool, const OWN: bool> FromRequestParts<Shared>
    for Acting<ROLE, USES_POSTGRES, OWN>
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self> {
        let caller = identify(&parts.headers, api).await?;
        caller.must_be(ROLE)?;
        let actor = caller.actor.clone();
        let owner = caller.owner.clone();
        if owner.is_some() && !OWN {
            return Err(Problem::forbidden(
                "this token is for the webhooks of one owner, and this request is about more than those",
            ));
        }
        let Some(tenant) = acting_for(caller, &parts.headers, api).await? else {
            return Err(Problem::field(
                "X-Tenant-ID",
                "is missing: a global token must name its tenant",
            ));
        };
        hold_body_for(parts, &tenant);
        let permit = match USES_POSTGRES {
            true => Some(permit(&tenant, api).await?),
            false => None,
        };
        if let Some(owner) = &owner {
            check_path(parts, api, &tenant, owner).await?;
        }
        Ok(Self {
            tenant,
            owner,
            permit,
            actor,
        })
    }
}

impl FromRequestParts<Shared> for Presumed {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self> {
        if let Some(presumed) = presume(&parts.headers, api) {
            hold_body_for(parts, &presumed.tenant);
            return Ok(presumed);
        }
        let publishing = Publishing::from_request_parts(parts, api).await?;
        Ok(Self {
            tenant: publishing.tenant,
            token: None,
        })
    }
}

/// `None`: the token isn't remembered as one of a tenant that may publish its events, so it is to be
/// looked up.
fn presume(headers: &HeaderMap, api: &Api) -> Option<Presumed> {
    let token = hash(bearer(headers)?);
    let caller = Caller::from(api.tokens.presumed(&token)?);
    caller.must_be(Role::Manager as u8).ok()?;
    let named = named_tenant(headers).ok()?;
    let tenant = caller.tenant.filter(|_| caller.owner.is_none())?;
    if named.is_some_and(|named| named != tenant) {
        return None;
    }
    if let Some(rates) = &api.rates {
        rates.know(token, Instant::now());
    }
    Some(Presumed {
        tenant,
        token: Some(token),
    })
}

impl Presumed {
    /// Looks the token up, so that it isn't presumed any more.
    ///
    /// # Errors
    /// 401.
    pub async fn confirm(&mut self, api: &Api) -> Result<()> {
        if let Some(token) = self.token.take() {
            tokens::find(&token, &api.tokens).await?;
        }
        Ok(())
    }

    /// Whether the token is known not to be valid any more.
    pub async fn is_revoked(&self, api: &Api) -> bool {
        match &self.token {
            Some(token) => matches!(api.tokens.find(token).await, Ok(None)),
            None => false,
        }
    }
}

/// The request's body counts among the tenant's.
fn hold_body_for(parts: &Parts, tenant: &Tenant) {
    if let Some(held) = parts.extensions.get::<Arc<HeldBody>>() {
        held.is_of(tenant);
    }
}

/// Refuses a path with the id of a webhook that isn't the owner's, or of a delivery to one, as
/// one that doesn't exist. Any other id in a path is for the handler to judge.
async fn check_path(parts: &mut Parts, api: &Shared, tenant: &Tenant, owner: &Owner) -> Result<()> {
    let path = RawPathParams::from_request_parts(parts, api).await;
    let path = path.map_err(|_| no_text())?;
    for (_, id) in path.iter() {
        check_id(id, api, tenant, owner).await?;
    }
    Ok(())
}

async fn check_id(id: &str, api: &Shared, tenant: &Tenant, owner: &Owner) -> Result<()> {
    if let Ok(webhook) = id.parse::<WebhookId>() {
        let client = api.pool.get().await?;
        if !owns_webhook(&client, tenant, owner, webhook).await? {
            return Err(NotFound::webhook(webhook).into());
        }
    } else if let Ok(delivery) = id.parse::<DeliveryId>() {
        let client = api.pool.get().await?;
        let statement = client
            .prepare_cached(
                "-- owns_delivery\n\
                 SELECT 1 FROM webhooks WHERE tenant = $1 AND owner = $2 AND id = ( \
                     SELECT webhook_id FROM deliveries WHERE id = $3)",
            )
            .await?;
        let owned = client
            .query_opt(&statement, &[tenant, owner, &delivery])
            .await?;
        if owned.is_none() {
            return Err(Problem::not_found(format!(
                "there is no delivery {delivery}"
            )));
        }
    }
    Ok(())
}

async fn owns_webhook(
    client: &deadpool_postgres::Client,
    tenant: &Tenant,
    owner: &Owner,
    webhook: WebhookId,
) -> Result<bool> {
    let statement = client
        .prepare_cached(
            "-- owns_webhook\n\
             SELECT 1 FROM webhooks WHERE id = $1 AND tenant = $2 AND owner = $3",
        )
        .await?;
    let owned = client
        .query_opt(&statement, &[&webhook, tenant, owner])
        .await?;
    Ok(owned.is_some())
}

impl<const ROLE: u8, const USES_POSTGRES: bool, const OWN: bool> Acting<ROLE, USES_POSTGRES, OWN> {
    /// Refuses a webhook that isn't the caller's owner's, as one that doesn't exist. Ids in the
    /// path are checked already.
    ///
    /// # Errors
    /// 404.
    pub async fn must_own(&self, api: &Shared, webhook: WebhookId) -> Result<()> {
        let Some(owner) = &self.owner else {
            return Ok(());
        };
        let client = api.pool.get().await?;
        match owns_webhook(&client, &self.tenant, owner, webhook).await? {
            true => Ok(()),
            false => Err(NotFound::webhook(webhook).into()),
        }
    }

    /// What a caller with an owner may write into a webhook: its own owner, and nothing that
    /// shows others' webhooks.
    ///
    /// # Errors
    /// Names each member that it may not.
    pub fn may_write(&self, form: &WebhookForm) -> std::result::Result<(), Invalids> {
        let mut wrong = Gathered::default();
        if let Some(owner) = &self.owner {
            let is_own = |other: Option<&str>| other == Some(owner.as_str());
            if form.owner().is_some_and(|other| !is_own(other)) {
                wrong.add(Invalid::new("owner", "must be the token's own owner"));
            }
            if form.operational() == Some(true) {
                let why =
                    "must not be true: operational events are about all webhooks of the tenant";
                wrong.add(Invalid::new("operational", why));
            }
        }
        wrong.finish(())
    }

    /// Gives a webhook the caller's owner, if the caller has one.
    pub fn claim(&self, webhook: &mut CheckedWebhook) {
        if let Some(owner) = &self.owner {
            webhook.owner = Some(Some(owner.clone()));
        }
    }
}

impl FromRequestParts<Shared> for Administering {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self> {
        let caller = identify(&parts.headers, api).await?;
        caller.must_be(Role::Admin as u8)?;
        let actor = caller.actor.clone();
        let tenant = acting_for(caller, &parts.headers, api).await?;
        let permit = match &tenant {
            Some(tenant) => {
                hold_body_for(parts, tenant);
                Some(permit(tenant, api).await?)
            }
            None => None,
        };
        Ok(Self {
            tenant,
            permit,
            actor,
        })
    }
}

impl FromRequestParts<Shared> for Identified {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self> {
        let caller = identify(&parts.headers, api).await?;
        let hash = bearer(&parts.headers).map(hash).unwrap_or_default();
        let tenant = acting_for(caller.clone(), &parts.headers, api).await?;
        let _permit = match &tenant {
            Some(tenant) => Some(permit(tenant, api).await?),
            None => None,
        };
        Ok(Self {
            caller,
            tenant,
            hash,
            _permit,
        })
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
        let actor = caller.actor;
        Ok(Self { actor })
    }
}

impl FromRequestParts<Shared> for OperatingFor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self> {
        Operating::from_request_parts(parts, api).await?;
        match named_tenant(&parts.headers)? {
            Some(tenant) if is_tenant(api, &tenant).await? => Ok(Self { tenant }),
            Some(tenant) => Err(NotFound::tenant(&tenant).into()),
            None => Err(Problem::field(
                "X-Tenant-ID",
                "is missing: name the tenant of the event",
            )),
        }
    }
}

/// The tenant that a caller acts for: its own, or the one that a global caller
/// names, if any.
async fn acting_for(caller: Caller, headers: &HeaderMap, api: &Shared) -> Result<Option<Tenant>> {
    match (caller.tenant, named_tenant(headers)?) {
        (Some(own), Some(named)) if own != named => Err(NotFound::tenant(&named).into()),
        (None, Some(named)) if !is_tenant(api, &named).await? => {
            Err(NotFound::tenant(&named).into())
        }
        (own, named) => Ok(own.or(named)),
    }
}

/// Waits until fewer of the tenant's requests use PostgreSQL.
///
/// # Errors
/// 429 if that takes too long, and at once if too many wait already.
pub async fn permit(tenant: &Tenant, api: &Api) -> Result<OwnedSemaphorePermit> {
    let permit = api.permits.acquire_within(tenant, PATIENCE).await;
    permit.map_err(|reason| match reason {
        NoPermit::Crowded => Problem::too_many_waiting(MAX_WAITING),
        NoPermit::Late => Problem::too_many_at_once(OF_A_TENANT),
    })
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
    let caller = caller(token, &hash, api).await?;
    if let Some(rates) = &api.rates {
        rates.know(hash, Instant::now());
    }
    Ok(caller)
}

async fn caller(token: &str, hash: &[u8; 32], api: &Shared) -> Result<Caller> {
    if let Some(admin) = &api.admin_token {
        let ours = tokens::hash(admin.expose_secret());
        if bool::from(hash.as_slice().ct_eq(ours.as_slice())) {
            return Ok(Caller {
                tenant: None,
                role: Role::Admin,
                owner: None,
                actor: Actor::operator(),
            });
        }
    }
    match &api.jwts {
        // No token of ours has a dot.
        Some(jwts) if token.contains('.') => {
            let Claims {
                tenant,
                role,
                owner,
                subject,
            } = jwts
                .verify(token)
                .map_err(|reason| Problem::bad_jwt(&reason))?;
            if !is_tenant(api, &tenant).await? {
                return Err(NotFound::tenant(&tenant).into());
            }
            Ok(Caller {
                tenant: Some(tenant),
                role,
                owner,
                actor: Actor::jwt(subject.as_deref()),
            })
        }
        _ => tokens::find(hash, &api.tokens).await,
    }
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

/// Looks a tenant up in memory. One that isn't there may be a moment old, so nobody is refused
/// before the cache was refreshed.
///
/// # Errors
/// If PostgreSQL can't be read.
pub async fn is_tenant(api: &Api, tenant: &Tenant) -> Result<bool> {
    let is_known = || api.subscriptions.max_payload(tenant).is_some();
    if !is_known() {
        api.feed.refresh().await?;
    }
    Ok(is_known())
}
