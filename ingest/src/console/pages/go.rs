//! The field "Jump to": finds the page of an id. The id's prefix tells its kind.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Redirect;
use serde::Deserialize;
use shared::ids::{DeliveryId, EventId, Tenant, WebhookId};

use crate::actor::Actor;
use crate::api::access::auth::{Acting, is_tenant, permit};
use crate::api::events::detail::{self, Pages};
use crate::api::http::request::{Id, Parameters};
use crate::console::failure::{Failure, Result};
use crate::console::fields::{query, segment};
use crate::console::state::Console;
use crate::console::visit::Visitor;

#[derive(Deserialize)]
pub struct Params {
    #[serde(default)]
    q: String,
    #[serde(default)]
    tenant: String,
}

/// `GET /console/_/go?q=&tenant=`
pub async fn go(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    Query(params): Query<Params>,
) -> Result<Redirect> {
    let q = params.q.trim();
    let tenant = match (&visitor.session.tenant, params.tenant.parse::<Tenant>()) {
        (Some(own), _) => own.clone(),
        (None, Ok(named)) if is_tenant(&console.api, &named).await? => named,
        // An operator's jump from a page of all tenants: only to a tenant.
        _ => return to_tenant(&console, q).await,
    };
    let base = format!("/console/{tenant}");
    if q.is_empty() {
        return Ok(Redirect::to(&base));
    }
    let to = if q.parse::<WebhookId>().is_ok() {
        format!("/webhooks/{q}")
    } else if q.parse::<DeliveryId>().is_ok() {
        format!("/deliveries/{q}")
    } else if q.starts_with("rpl_") {
        format!("/replays/{}", segment(q))
    } else if q.starts_with("dl_") && visitor.session.is_operator() {
        return Ok(Redirect::to(&format!(
            "/console/_/dead-letters/{}",
            segment(q)
        )));
    } else if is_event(&console, visitor.session.actor(), &tenant, q).await? {
        format!("/events/{}", segment(q))
    } else if q.starts_with("evt_") {
        return Err(Failure::not_found(format!("there is no event {q}")));
    } else {
        // Part of a name or a URL, or an event type: who gets it?
        format!("/webhooks{}", query(&[("q", q)]))
    };
    Ok(Redirect::to(&format!("{base}{to}")))
}

async fn to_tenant(console: &Console, q: &str) -> Result<Redirect> {
    if let Ok(tenant) = q.parse::<Tenant>()
        && is_tenant(&console.api, &tenant).await?
    {
        return Ok(Redirect::to(&format!("/console/{tenant}")));
    }
    let path = match q.starts_with("dl_") {
        true => format!("/console/_/dead-letters/{}", segment(q)),
        false => format!("/console/_/tenants{}", query(&[("q", q)])),
    };
    Ok(Redirect::to(&path))
}

async fn is_event(console: &Console, actor: Actor, tenant: &Tenant, q: &str) -> Result<bool> {
    let Ok(event) = q.parse::<EventId>() else {
        return Ok(false);
    };
    let acting = Acting {
        tenant: tenant.clone(),
        owner: None,
        permit: Some(permit(tenant, &console.api).await?),
        actor,
    };
    let pages = Pages {
        limit: Some(1),
        deliveries_cursor: None,
        matching_cursor: None,
    };
    match detail::show(
        acting,
        State(console.api.clone()),
        Id(event),
        Parameters(pages),
    )
    .await
    {
        Ok(_) => Ok(true),
        Err(problem) if problem.status() == StatusCode::NOT_FOUND => Ok(false),
        Err(problem) => Err(problem.into()),
    }
}
