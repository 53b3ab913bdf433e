//! A dry run of publishing: would the event be taken, and which webhooks would get it?
//!
//! Nothing is published or stored.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use shared::ids::{EventType, Tenant};
use tokio::task::block_in_place;
use utoipa::{IntoParams, ToSchema};

use crate::api::events::detail::{ExplainedEvent, Matching, explain, webhooks_of};
use crate::api::events::new_event::refused;
use crate::api::http::problem::{Problem, Result};
use crate::api::state::Api;
use crate::cpu::{self, Busy};
use crate::decode::{Event, Rejected};
use crate::matching::Explanation;

/// How many of the tenant's webhooks are asked.
const ASKED: i64 = 1_000;
/// How many of them are shown.
const SHOWN: usize = 250;

/// How an event is published.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Publishing {
    /// `true`: only say whether it would be taken, and which webhooks would get it.
    pub dry_run: Option<bool>,
}

/// What publishing the event would do.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "dry_run": true, "type": "order.created", "accepted": true, "field": null, "detail": null,
    "matched": 1, "all": true,
    "matching": [{
        "webhook_id": "wh_01kb4v2p8zf5sttdw3m8e7h2xk", "webhook_status": "active",
        "changed_since": false, "result": "matched", "pattern": "order.*",
        "clauses": [{"at": "/total/$gte", "clause": "total $gte 100", "found": "120"}],
    }],
}))]
pub struct EventDryRun {
    /// Always true: nothing was published.
    pub dry_run: bool,
    pub r#type: EventType,
    /// Whether it would be taken: it is within its bounds, and what its type's schema says.
    pub accepted: bool,
    /// The member to blame, if it wouldn't be taken and one is.
    #[schema(required)]
    pub field: Option<String>,
    /// Why it wouldn't be taken.
    #[schema(required)]
    pub detail: Option<String>,
    /// How many webhooks would get it, of those that were asked. Paused ones are among them.
    pub matched: usize,
    /// Whether all webhooks of the tenant were asked: 1,000 are.
    pub all: bool,
    /// For each webhook whether it would get it, and why not: those that would come first; at
    /// most 250.
    pub matching: Vec<Matching>,
}

/// Asks the catalogue and the webhooks.
///
/// # Errors
/// If PostgreSQL can't be asked.
pub async fn dry_run(api: &Api, tenant: &Tenant, event: &Event) -> Result<EventDryRun> {
    api.feed.refresh().await?;
    let blame = check(api, event).await?.err().map(refused);
    let (field, detail) = match blame.map(Problem::into_blame) {
        Some((_, detail, errors)) => {
            let field = errors.into_iter().next().map(|blame| blame.field);
            (field, Some(detail))
        }
        None => (None, None),
    };
    let mut webhooks = webhooks_of(api, tenant, None, ASKED + 1).await?;
    let all = webhooks.len() as i64 <= ASKED;
    webhooks.truncate(ASKED as usize);
    let explained = ExplainedEvent {
        tenant,
        event_type: event.event_type.as_str(),
        data: &event.data,
        accepted_at: None,
    };
    let mut matching = {
        let _permit = cpu::permit(tenant).await?;
        block_in_place(|| explain(api, &explained, &webhooks, &HashSet::new()))
    };
    let gets = |matching: &Matching| {
        matches!(matching.explanation, Explanation::Matched { .. })
            && ["active", "paused"].contains(&matching.webhook_status.as_str())
    };
    matching.sort_by_key(|matching| !gets(matching));
    let matched = matching
        .iter()
        .take_while(|matching| gets(matching))
        .count();
    matching.truncate(SHOWN);
    Ok(EventDryRun {
        dry_run: true,
        r#type: event.event_type.clone(),
        accepted: detail.is_none(),
        field,
        detail,
        matched,
        all,
        matching,
    })
}

async fn check(
    api: &Api,
    event: &Event,
) -> std::result::Result<std::result::Result<(), Rejected>, Busy> {
    if let Err(rejected) = api.subscriptions.check(event) {
        return Ok(Err(rejected));
    }
    let (tenant, event_type) = (&event.tenant, &event.event_type);
    let checked = api
        .event_types
        .check_in_turn(tenant, event_type, &event.data)
        .await?;
    Ok(checked.map_err(Rejected::from))
}
