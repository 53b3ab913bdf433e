//! The field "Jump to": finds the page of an id. The id's prefix tells its kind.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Redirect;
use serde::Deserialize;
use shared::ids::{DeliveryId, EventId, EventUid, ReplayId, Tenant, WebhookId, first_uuid_at};
use time::Duration;

use crate::actor::Actor;
use crate::api::access::auth::{Acting, is_tenant, permit};
use crate::api::events::detail::{self, Pages};
use crate::api::http::request::{Id, Parameters};
use crate::console::failure::{Failure, Result};
use crate::console::fields::{query, segment};
use crate::console::state::Console;
use crate::console::visit::Visitor;

/// An event is looked for among those accepted this long before and after its id was made.
const ACCEPTED_WITHIN: Duration = Duration::days(1);

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
        // From a page of all tenants: the id says whose it is.
        _ => match tenant_of(&console, q).await? {
            Some(tenant) => tenant,
            None => return to_tenant(&console, &visitor, q).await,
        },
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
    } else if q.starts_with("dl_") {
        format!("/dead-letters/{}", segment(q))
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

/// The tenant of what has this id. Only for visitors of all tenants: nobody else may know it.
async fn tenant_of(console: &Console, q: &str) -> Result<Option<Tenant>> {
    let (statement, id) = if let Ok(id) = q.parse::<WebhookId>() {
        let statement = "-- tenant_of_webhook\nSELECT tenant FROM webhooks WHERE id = $1";
        (statement, id.uuid())
    } else if let Ok(id) = q.parse::<DeliveryId>() {
        let statement = "-- tenant_of_delivery\n\
            SELECT w.tenant FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id \
            WHERE d.id = $1";
        (statement, id.uuid())
    } else if let Ok(id) = q.parse::<ReplayId>() {
        let statement = "-- tenant_of_replay\nSELECT tenant FROM replays WHERE id = $1";
        (statement, id.uuid())
    } else {
        return tenant_of_event(console, q).await;
    };
    let client = console.reads.pool.get().await?;
    let statement = client.prepare_cached(statement).await?;
    let row = client.query_opt(&statement, &[&id]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// The tenant of an event whose id Posthorn has made. The id says when, so each tenant is asked for
/// the days in which such an event is accepted. An id that a producer has made doesn't say that.
async fn tenant_of_event(console: &Console, q: &str) -> Result<Option<Tenant>> {
    let Ok(made) = q.parse::<EventUid>() else {
        return Ok(None);
    };
    let made_at = made.accepted_at();
    let from = first_uuid_at(made_at.saturating_sub(ACCEPTED_WITHIN));
    let until = first_uuid_at(made_at.saturating_add(ACCEPTED_WITHIN));
    let client = console.reads.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- tenant_of_event\n\
             SELECT t.id FROM tenants AS t WHERE EXISTS (\
               SELECT FROM events AS e \
               WHERE e.tenant = t.id AND e.id = $1 AND e.uid >= $2 AND e.uid < $3) LIMIT 1",
        )
        .await?;
    let row = client.query_opt(&statement, &[&q, &from, &until]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// Leads to the tenant with this id, or to the list of tenants with this text in their names.
async fn to_tenant(console: &Console, visitor: &Visitor, q: &str) -> Result<Redirect> {
    if let Ok(tenant) = q.parse::<Tenant>()
        && is_tenant(&console.api, &tenant).await?
    {
        return Ok(Redirect::to(&format!("/console/{tenant}")));
    }
    let path = match (visitor.session.is_operator(), q.starts_with("dl_")) {
        (true, true) => format!("/console/_/dead-letters/{}", segment(q)),
        (true, false) => format!("/console/_/tenants{}", query(&[("q", q)])),
        // Lists of all tenants are the operator's.
        (false, _) => format!("/console/_/choose{}", query(&[("tenant", q)])),
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
