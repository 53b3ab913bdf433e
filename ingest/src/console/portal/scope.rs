//! Which webhooks a session of the portal may see, and what it may do with them.
//!
//! The tenant, the webhooks and the role come from the session alone. A webhook outside of the
//! session's is answered with 404, like one that doesn't exist. So is an operational webhook, which
//! gets events about all webhooks of the tenant, and so are their deliveries.
//!
//! A tenant has few requests at a time that use PostgreSQL. A function here takes one permit, and
//! has given it back when it answers. So a handler that calls several of them one after another
//! never waits for a permit while it holds one.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use shared::ids::{DeliveryId, Tenant, WebhookId};

use crate::api::access::auth::{Acting, Reading, permit};
use crate::api::access::role::Role;
use crate::api::deliveries;
use crate::api::deliveries::view::DeliveryDetail;
use crate::api::http::problem::Problem;
use crate::api::http::request::Id;
use crate::api::webhooks::view::{COLUMNS, WebhookView, all, find};
use crate::console::portal::ended::{Ended, Result};
use crate::console::state::Console;
use crate::console::visit::Visitor;

/// How many webhooks a page has.
const ROWS: i64 = 50;

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

    /// For pages that only managers have.
    ///
    /// # Errors
    /// 403 if the link only reads.
    pub fn must_change(&self) -> Result<()> {
        match self.may_change() {
            true => Ok(()),
            false => Err(Problem::forbidden("this link only reads").into()),
        }
    }

    /// For the API's handlers.
    ///
    /// # Errors
    /// 403 if the link doesn't say so, or 429 if too many of the tenant's requests are under way.
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

    /// A page of the webhooks that the link covers, the newest first, and whether there are more.
    ///
    /// # Errors
    /// If PostgreSQL fails.
    pub async fn webhooks(&self, after: Option<WebhookId>) -> Result<(Vec<WebhookView>, bool)> {
        let _permit: Reading = self.acting().await?;
        let api = &self.console.reads;
        let client = api.pool.get().await?;
        let statement = client
            .prepare_cached(&format!(
                "-- customers_webhooks\n\
                 SELECT {COLUMNS} FROM webhooks w \
                 WHERE w.tenant = $1 AND w.status <> 'deleted' AND NOT w.operational \
                   AND ($2::uuid[] IS NULL OR w.id = ANY($2)) \
                   AND ($4::uuid IS NULL OR w.id < $4) \
                 ORDER BY w.id DESC LIMIT $3"
            ))
            .await?;
        let covered = &self.by.session.webhooks;
        let mut rows = client
            .query(&statement, &[&self.tenant, covered, &(ROWS + 1), &after])
            .await?;
        let more = rows.len() as i64 > ROWS;
        rows.truncate(ROWS as usize);
        Ok((all(api, &client, &rows).await?, more))
    }

    /// One of them.
    ///
    /// # Errors
    /// 404 if it isn't covered.
    pub async fn webhook(&self, id: WebhookId) -> Result<WebhookView> {
        if !self.covers(id) {
            return Err(Ended::Nothing);
        }
        let _permit: Reading = self.acting().await?;
        let found = find(&self.console.reads, &self.tenant, id).await?;
        match found.operational {
            true => Err(Ended::Nothing),
            false => Ok(found),
        }
    }

    /// A delivery to one of them, with its webhook.
    ///
    /// # Errors
    /// 404 if its webhook isn't covered.
    pub async fn delivery(&self, id: DeliveryId) -> Result<(DeliveryDetail, WebhookView)> {
        let webhook = {
            let _permit: Reading = self.acting().await?;
            let found = deliveries::find(&self.console.reads, &self.tenant, id).await?;
            found.webhook_id
        };
        // Before its bodies are read.
        let webhook = self.webhook(webhook).await?;
        let api = State(self.console.reads.clone());
        let shown = deliveries::show(self.acting().await?, api, Id(id)).await?.0;
        Ok((shown, webhook))
    }

    /// Those of the deliveries that go to webhooks of the link, in the same order: no other is
    /// retried or shown.
    ///
    /// # Errors
    /// If PostgreSQL fails.
    pub async fn covered(&self, ids: &[DeliveryId]) -> Result<Vec<DeliveryId>> {
        let uuids = ids.iter().map(|id| id.uuid());
        // The range leaves out the other days when the statement is planned.
        let (Some(first), Some(last)) = (uuids.clone().min(), uuids.max()) else {
            return Ok(Vec::new());
        };
        let _permit: Reading = self.acting().await?;
        let client = self.console.reads.pool.get().await?;
        let statement = client
            .prepare_cached(
                "-- covered_deliveries\n\
                 SELECT d.id FROM ( \
                     SELECT id, webhook_id FROM deliveries \
                     WHERE id = ANY($1) AND id >= $4 AND id <= $5) d \
                 JOIN webhooks w ON w.id = d.webhook_id \
                 WHERE w.tenant = $2 AND w.status <> 'deleted' AND NOT w.operational \
                   AND ($3::uuid[] IS NULL OR w.id = ANY($3))",
            )
            .await?;
        let webhooks = &self.by.session.webhooks;
        let rows = client
            .query(&statement, &[&ids, &self.tenant, webhooks, &first, &last])
            .await?;
        let found: HashSet<DeliveryId> = rows.iter().map(|row| row.get(0)).collect();
        let covered = ids.iter().copied().filter(|id| found.contains(id));
        Ok(covered.collect())
    }
}
