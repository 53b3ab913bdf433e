//! What dispatchers counted of a webhook lately: for its note, and for the counts of its filters.
//!
//! Both read rows of `stats`, of which there is one for each quarter of an hour.

use shared::clock;
use shared::stats::{PERIOD, Subject, WAITS};
use time::{Duration, OffsetDateTime};

use crate::api::http::problem::Result;
use crate::api::state::Api;
use crate::api::webhooks::stats::window::{floor, moment};
use crate::api::webhooks::view::WebhookView;
use crate::console::pages::deliveries::facets::Counts;

/// Deliveries were put off because a rate limit was used up.
pub(super) struct Limited {
    pub(super) times: i64,
    pub(super) since: OffsetDateTime,
}

/// Whether its rate limit put deliveries off in the current quarter of an hour or the one before.
/// `None` if nothing waits, too.
pub(super) async fn limited(api: &Api, webhook: &WebhookView) -> Result<Option<Limited>> {
    if webhook.status != "active" || webhook.waiting == 0 {
        return Ok(None);
    }
    let since = moment(floor(clock::now().unix_timestamp(), PERIOD) - PERIOD).0;
    let reason = WAITS.iter().position(|reason| *reason == "rate_limited");
    // Arrays begin at 1.
    let at = reason.map_or(0, |at| at as i32 + 1);
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- rate_limited_lately\n\
             SELECT coalesce(sum(waits[$3]), 0)::int8 FROM stats \
             WHERE subject = $1 AND quarter >= $2",
        )
        .await?;
    let subject = Subject::Webhook(webhook.id).to_string();
    let row = client
        .query_one(&statement, &[&subject, &since, &at])
        .await?;
    let times: i64 = row.get(0);
    Ok((times > 0).then_some(Limited { times, since }))
}

/// How many of its deliveries wait, and how many ended in the last day, by state.
pub(super) async fn counts(api: &Api, webhook: &WebhookView) -> Result<Counts> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- ended_of_webhook\n\
             SELECT coalesce(sum(delivered), 0)::int8, coalesce(sum(failed), 0)::int8, \
                 coalesce(sum(expired), 0)::int8, coalesce(sum(cancelled), 0)::int8 \
             FROM stats WHERE subject = $1 AND quarter >= $2",
        )
        .await?;
    let subject = Subject::Webhook(webhook.id).to_string();
    let since = clock::now() - Duration::DAY;
    let row = client.query_one(&statement, &[&subject, &since]).await?;
    let states = ["delivered", "failed", "expired", "cancelled"];
    let ended = states.iter().enumerate();
    Ok(Counts {
        waiting: Some((webhook.waiting, !webhook.waiting_counted)),
        ended: ended.map(|(n, state)| (*state, row.get(n))).collect(),
    })
}
