//! Which webhooks a session of the portal may see, and what it may do with them.
//!
//! The tenant, the webhooks and the role come from the session alone. A webhook outside of the
//! session's is answered with 404, like one that doesn't exist.

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use shared::ids::{DeliveryId, Tenant, WebhookId};
use std::sync::Arc;

use crate::api::access::auth::{Acting, permit};
use crate::api::access::role::Role;
use crate::api::deliveries;
use crate::api::deliveries::view::DeliveryDetail;
use crate::api::http::problem::Problem;
use crate::api::http::request::{Id, MAX_PAGE, Parameters};
use crate::api::webhooks::view::WebhookView;
use crate::api::webhooks::{self, WebhookQuery};
use crate::console::portal::ended::{Ended, Result};
use crate::console::state::Console;
use crate::console::visit::Visitor;

/// Somebody with a link.
pub struct Customer {
    pub by: Visitor,
    pub tenant: Tenant,
    console: Arc<Console>,
}

impl FromRequestParts<Arc<Console>> for Customer {
    type Rejection = Ended;

    async fn from_request_parts(parts: &mut Parts, console: &Arc<Console>) -> Result<Self> {
        let by = parts.extensions.get::<Visitor>().cloned();
        let by = by.ok_or(Ended::Over)?;
        let tenant = by.session.tenant.clone().ok_or(Ended::Over)?;
        Ok(Self {
            by,
            tenant,
            console: console.clone(),
        })
    }
}

impl Customer {
    pub fn may_change(&self) -> bool {
        self.by.may(Role::Manager)
    }

    /// For the API's handlers.
    ///
    /// # Errors
    /// 403 if the link doesn't say so.
    pub async fn acting<const WANTED: u8, const OWN: bool>(
        &self,
    ) -> Result<Acting<WANTED, true, OWN>> {
        if (self.by.session.role as u8) < WANTED {
            return Err(Problem::forbidden("this link only reads").into());
        }
        Ok(Acting {
            tenant: self.tenant.clone(),
            owner: None,
            permit: Some(permit(&self.tenant, &self.console.api).await?),
            actor: self.by.session.actor(),
        })
    }

    pub fn covers(&self, webhook: WebhookId) -> bool {
        let webhooks = self.by.session.webhooks.as_ref();
        webhooks.is_none_or(|webhooks| webhooks.contains(&webhook))
    }

    /// The webhooks that the link covers; operational ones aren't a customer's.
    ///
    /// # Errors
    /// If PostgreSQL fails.
    pub async fn webhooks(&self) -> Result<Vec<WebhookView>> {
        let mut covered = Vec::new();
        let mut cursor = None;
        // A tenant has a hundred unless the operator allows more.
        for _ in 0..4 {
            let page = WebhookQuery {
                client_id: None,
                external_id: None,
                limit: Some(MAX_PAGE),
                cursor,
            };
            let api = State(self.console.api.clone());
            let page = webhooks::list(self.acting().await?, api, Parameters(page))
                .await?
                .0;
            let of_page = page.webhooks.into_iter();
            covered.extend(of_page.filter(|one| self.covers(one.id) && !one.operational));
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        Ok(covered)
    }

    /// One of them.
    ///
    /// # Errors
    /// 404 if it isn't covered.
    pub async fn webhook(&self, id: WebhookId) -> Result<WebhookView> {
        if !self.covers(id) {
            return Err(Ended::Nothing);
        }
        let found = webhooks::view::find(&self.console.api, &self.tenant, id).await?;
        match found.operational {
            true => Err(Ended::Nothing),
            false => Ok(found),
        }
    }

    /// A delivery to one of them.
    ///
    /// # Errors
    /// 404 if its webhook isn't covered.
    pub async fn delivery(&self, id: DeliveryId) -> Result<DeliveryDetail> {
        let api = State(self.console.api.clone());
        let shown = deliveries::show(self.acting().await?, api, Id(id)).await?.0;
        match self.covers(shown.delivery.webhook_id) {
            true => Ok(shown),
            false => Err(Ended::Nothing),
        }
    }

    /// Those of the deliveries that go to webhooks of the link: no other is retried.
    ///
    /// # Errors
    /// If PostgreSQL fails.
    pub async fn covered(&self, ids: &[String]) -> Result<Vec<String>> {
        let mut covered = Vec::new();
        for text in ids {
            let Ok(id) = text.parse::<DeliveryId>() else {
                continue;
            };
            let found = deliveries::find(&self.console.api, &self.tenant, id).await;
            if found.is_ok_and(|delivery| self.covers(delivery.webhook_id)) {
                covered.push(text.clone());
            }
        }
        Ok(covered)
    }
}
