//! Who looks at a page, and what they may see.
//!
//! A handler's first parameter says which role its page needs: [`Visit`] for pages of a
//! tenant, [`Operation`] for those of all tenants. The tenant comes from the path and is
//! checked against the session: another tenant's pages are 404. Nothing else decides whose
//! rows are read, least of all a form.

use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::header::HOST;
use axum::http::request::Parts;
use shared::ids::{Malformed, Tenant, WebhookId};
use tokio::sync::OwnedSemaphorePermit;

use crate::actor::Actor;
use crate::api::access::auth::{Acting, Administering, Operating, is_tenant, permit};
use crate::api::access::role::Role;
use crate::api::http::problem;
use crate::api::state::Shared;
use crate::api::webhooks::view::{WebhookView, find};
use crate::console::failure::{Failure, Result};
use crate::console::fields::{Fields, of_segment};
use crate::console::session::Session;
use crate::console::shell::Appearance;
use crate::console::state::Console;
use crate::invalid::NotFound;

/// The address that somebody asked for who isn't signed in. A nested router's own has no
/// prefix.
#[derive(Clone)]
pub(super) struct WantedPage(pub String);

/// Who is signed in, and how they see pages. `guard` puts it into each request.
#[derive(Debug, Clone)]
pub struct Visitor {
    pub session: Arc<Session>,
    pub appearance: Appearance,
    /// The path and query of this page.
    pub here: String,
}

impl Visitor {
    /// Whether their role is enough for it: what they may not do isn't shown.
    pub fn may(&self, role: Role) -> bool {
        self.session.role >= role
    }
}

/// Somebody who may see a tenant's page in a role.
pub struct Visit<const ROLE: u8 = { Role::Viewer as u8 }> {
    pub tenant: Tenant,
    pub by: Visitor,
    api: Shared,
}

/// The page changes something.
pub type ManagerVisit = Visit<{ Role::Manager as u8 }>;
/// The page is about tokens.
pub type AdminVisit = Visit<{ Role::Admin as u8 }>;

impl<const ROLE: u8> Visit<ROLE> {
    /// For the API's handlers that want this role, or a lower one. It counts among the tenant's
    /// requests that use PostgreSQL until the handler has answered.
    ///
    /// # Errors
    /// 403, or 429 if too many of the tenant's requests are under way.
    pub async fn acting<const WANTED: u8, const OWN: bool>(
        &self,
    ) -> Result<Acting<WANTED, true, OWN>> {
        must_be(&self.by.session, WANTED)?;
        Ok(Acting {
            tenant: self.tenant.clone(),
            owner: None,
            permit: Some(permit(&self.tenant, &self.api).await?),
            actor: self.by.session.actor(),
        })
    }

    /// Counts the whole page among the tenant's requests that use PostgreSQL: for pages that
    /// have much in memory until they are written.
    ///
    /// # Errors
    /// 429.
    pub async fn hold(&self) -> Result<HeldVisit<'_, ROLE>> {
        let _permit = permit(&self.tenant, &self.api).await?;
        Ok(HeldVisit {
            visit: self,
            _permit,
        })
    }

    /// A webhook of the tenant, for pages that read nothing else meanwhile.
    ///
    /// # Errors
    /// 404, or 429.
    pub async fn webhook(&self, id: WebhookId) -> Result<WebhookView> {
        Ok(self.hold().await?.webhook(id).await?)
    }

    /// For the API's handlers that publish, and need no connection to PostgreSQL.
    ///
    /// # Errors
    /// 403.
    pub fn publishing(&self) -> Result<Acting<{ Role::Manager as u8 }, false>> {
        must_be(&self.by.session, Role::Manager as u8)?;
        Ok(Acting {
            tenant: self.tenant.clone(),
            owner: None,
            permit: None,
            actor: self.by.session.actor(),
        })
    }

    /// For the API's handlers of tokens: this tenant's.
    ///
    /// # Errors
    /// 403, or 429.
    pub async fn administering(&self) -> Result<Administering> {
        must_be(&self.by.session, Role::Admin as u8)?;
        Ok(Administering {
            tenant: Some(self.tenant.clone()),
            permit: Some(permit(&self.tenant, &self.api).await?),
            actor: self.by.session.actor(),
        })
    }

    /// The address of one of the tenant's pages: `visit.path("/webhooks")`.
    pub fn path(&self, rest: &str) -> String {
        format!("/console/{}{rest}", self.tenant)
    }
}

/// Whoever may read a tenant's resources: a visitor, or the poll of a live part.
pub trait Reads: Sync {
    /// The connections on which they read.
    fn api<'a>(&'a self, console: &'a Console) -> &'a Shared;

    /// For the API's handlers that read. See [`Visit::acting`].
    ///
    /// # Errors
    /// 429.
    fn reading<const OWN: bool>(
        &self,
    ) -> impl Future<Output = Result<Acting<{ Role::Viewer as u8 }, true, OWN>>> + Send;
}

impl<const ROLE: u8> Reads for Visit<ROLE> {
    fn api<'a>(&'a self, console: &'a Console) -> &'a Shared {
        &console.reads
    }

    async fn reading<const OWN: bool>(&self) -> Result<Acting<{ Role::Viewer as u8 }, true, OWN>> {
        self.acting().await
    }
}

/// Reads a tenant's live parts, for all who watch them.
pub struct Poll {
    pub tenant: Tenant,
    /// `Console::live`, whose permits and connections are for this alone.
    pub api: Shared,
}

impl Poll {
    /// As [`Visit::path`].
    pub fn path(&self, rest: &str) -> String {
        format!("/console/{}{rest}", self.tenant)
    }
}

impl Reads for Poll {
    fn api<'a>(&'a self, _: &'a Console) -> &'a Shared {
        &self.api
    }

    async fn reading<const OWN: bool>(&self) -> Result<Acting<{ Role::Viewer as u8 }, true, OWN>> {
        Ok(Acting {
            tenant: self.tenant.clone(),
            owner: None,
            permit: Some(permit(&self.tenant, &self.api).await?),
            actor: Actor::other("the console"),
        })
    }
}

/// A page that counts among the tenant's requests until this is dropped.
pub struct HeldVisit<'a, const ROLE: u8> {
    visit: &'a Visit<ROLE>,
    _permit: OwnedSemaphorePermit,
}

impl<const ROLE: u8> HeldVisit<'_, ROLE> {
    /// As [`Visit::acting`], without counting twice.
    ///
    /// # Errors
    /// 403.
    pub fn acting<const WANTED: u8, const OWN: bool>(&self) -> Result<Acting<WANTED, true, OWN>> {
        must_be(&self.visit.by.session, WANTED)?;
        Ok(Acting {
            tenant: self.visit.tenant.clone(),
            owner: None,
            permit: None,
            actor: self.visit.by.session.actor(),
        })
    }

    /// A webhook of the tenant.
    ///
    /// # Errors
    /// 404.
    pub async fn webhook(&self, id: WebhookId) -> problem::Result<WebhookView> {
        find(&self.visit.api, &self.visit.tenant, id).await
    }
}

/// The operator, on a page of all tenants.
pub struct Operation {
    pub by: Visitor,
}

impl Operation {
    /// For the API's handlers of the operator.
    pub fn operating(&self) -> Operating {
        Operating {
            actor: self.by.session.actor(),
        }
    }
}

/// The id in the address. (The API's `Id` is for addresses with one parameter; ours have the
/// tenant, too.) One that isn't an id at all is as unknown as any other.
pub struct At<T>(pub T);

impl<T: FromStr<Err = Malformed> + Send> FromRequestParts<Arc<Console>> for At<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, console: &Arc<Console>) -> Result<Self> {
        let path = RawPathParams::from_request_parts(parts, console).await;
        let path = path.map_err(|_| Failure::not_found("there is no such page"))?;
        let id = path.iter().find(|(name, _)| *name != "tenant");
        let id = id.map(|(_, value)| value).unwrap_or_default();
        of_segment(id)
            .parse()
            .map(Self)
            .map_err(|error: Malformed| Failure::not_found(error.to_string()))
    }
}

/// The address that the browser asked, such as `https://posthorn.example.com`: for snippets.
pub struct Origin(pub String);

impl Origin {
    /// Browsers keep the console's cookie only over HTTPS and on this machine, so the host tells
    /// which it was. A proxy may have terminated TLS.
    fn of_host(host: &str) -> Option<Self> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-.:[]_".contains(&b);
        if host.is_empty() || !host.bytes().all(is_plain) {
            return None;
        }
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let is_here = matches!(name, "localhost" | "127.0.0.1" | "[::1]");
        let scheme = if is_here { "http" } else { "https" };
        Some(Self(format!("{scheme}://{host}")))
    }
}

impl<S: Sync> FromRequestParts<S> for Origin {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Infallible> {
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let origin = host.and_then(Self::of_host);
        Ok(origin.unwrap_or_else(|| Self("https://your-posthorn".to_owned())))
    }
}

/// The fields of a form. `guard` has checked that it came from one of our pages.
pub struct Posted(pub Fields);

impl<const ROLE: u8> FromRequestParts<Arc<Console>> for Visit<ROLE> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, console: &Arc<Console>) -> Result<Self> {
        let by = visitor(parts)?;
        let path = RawPathParams::from_request_parts(parts, console).await;
        let path = path.map_err(|_| Failure::not_found("there is no such page"))?;
        let tenant = path.iter().find(|(name, _)| *name == "tenant");
        let tenant = tenant.map(|(_, value)| value).unwrap_or_default();
        let tenant: Tenant = tenant
            .parse()
            .map_err(|_| Failure::not_found("there is no such page"))?;
        let is_theirs = match &by.session.tenant {
            Some(own) => *own == tenant,
            None => is_tenant(&console.api, &tenant).await?,
        };
        if !is_theirs || by.session.is_portal {
            return Err(NotFound::tenant(&tenant).into());
        }
        must_be(&by.session, ROLE)?;
        Ok(Self {
            tenant,
            by,
            api: console.api.clone(),
        })
    }
}

impl FromRequestParts<Arc<Console>> for Operation {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Console>) -> Result<Self> {
        let by = visitor(parts)?;
        if !by.session.is_operator() {
            return Err(Failure::forbidden(
                "this page is the operator's: it needs a global admin token",
            ));
        }
        Ok(Self { by })
    }
}

impl FromRequestParts<Arc<Console>> for Visitor {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Console>) -> Result<Self> {
        visitor(parts)
    }
}

impl FromRequestParts<Arc<Console>> for Posted {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Console>) -> Result<Self> {
        Ok(Self(parts.extensions.remove().unwrap_or_default()))
    }
}

fn visitor(parts: &Parts) -> Result<Visitor> {
    let visitor = parts.extensions.get::<Visitor>().cloned();
    visitor.ok_or_else(|| {
        let wanted = parts.extensions.get::<WantedPage>();
        let wanted = wanted.filter(|_| parts.method == axum::http::Method::GET);
        Failure::SignIn {
            next: wanted
                .map(|WantedPage(here)| here.clone())
                .unwrap_or_default(),
        }
    })
}

fn must_be(session: &Session, role: u8) -> Result<()> {
    if session.role as u8 >= role {
        return Ok(());
    }
    let wanted = match role {
        role if role == Role::Manager as u8 => "a manager or an admin",
        _ => "an admin",
    };
    Err(Failure::forbidden(format!(
        "you are signed in as {}; this page is for {wanted}",
        session.role.as_str()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_what_the_browser_asked_and_nothing_that_a_shell_would_read() {
        for (host, origin) in [
            ("posthorn.example.com", Some("https://posthorn.example.com")),
            (
                "posthorn.example.com:8443",
                Some("https://posthorn.example.com:8443"),
            ),
            ("localhost:8080", Some("http://localhost:8080")),
            ("127.0.0.1", Some("http://127.0.0.1")),
            ("[::1]:8080", Some("http://[::1]:8080")),
            ("a.example; rm -rf /", None),
            ("a'b", None),
            ("", None),
        ] {
            let made = Origin::of_host(host).map(|Origin(text)| text);
            assert_eq!(made.as_deref(), origin, "{host}");
        }
    }
}
