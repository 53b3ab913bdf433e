//! The webhooks that need attention, worst first: each with its cause and the next step.

use std::collections::HashMap;

use maud::{Markup, html};
use shared::clock;
use shared::ids::{WebhookId, first_uuid_at};
use time::Duration;

use crate::api::access::auth::Reading;
use crate::api::access::role::Role;
use crate::api::webhooks::view::WebhookView;
use crate::console::failure::Result;
use crate::console::frame::csrf;
use crate::console::moments::{at, number};
use crate::console::pages::webhooks::{name, urgency};
use crate::console::parts::{Head, num, table, td, tr};
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::Visit;
use crate::console::words::{self, Word};

/// The most webhooks that are shown.
const SHOWN: usize = 10;
/// How many of a webhook's latest deliveries tell the cause, and of how long.
const LOOKED_AT: i64 = 50;
const LATELY: Duration = Duration::hours(36);
/// How far the clocks of replicas may be apart.
const CLOCKS: Duration = Duration::seconds(600);

/// Those that need attention, worst first. One that is paused needs it if something waits.
pub(super) fn needy(webhooks: &[WebhookView]) -> Vec<&WebhookView> {
    let needs = |webhook: &&WebhookView| {
        urgency(webhook) < 4 && (webhook.status != "paused" || webhook.waiting > 0)
    };
    let mut needy: Vec<_> = webhooks.iter().filter(needs).collect();
    needy.sort_by_cached_key(|webhook| (urgency(webhook), name(webhook).to_lowercase()));
    needy
}

/// What the latest attempts of these webhooks failed with. Without it the list is right.
pub(super) async fn causes(
    console: &Console,
    visit: &Visit,
    needy: &[&WebhookView],
) -> HashMap<WebhookId, String> {
    let read = read_causes(console, visit, needy).await;
    read.unwrap_or_default()
}

async fn read_causes(
    console: &Console,
    visit: &Visit,
    needy: &[&WebhookView],
) -> Result<HashMap<WebhookId, String>> {
    let shown = needy.iter().take(SHOWN);
    let ids: Vec<_> = shown.map(|webhook| webhook.id).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let _permit: Reading = visit.acting().await?;
    let client = console.reads.pool.get().await?;
    // As in `api::deliveries::search`: rows are compared by all columns of the index that is meant.
    let statement = client
        .prepare_cached(
            "-- causes_of_trouble\n\
             SELECT w.id, l.status_code, count(*) AS many FROM unnest($1::uuid[]) AS w (id) \
             CROSS JOIN LATERAL (SELECT state, attempts, status_code FROM deliveries \
                 WHERE (webhook_id, id) >= (w.id, $2::uuid) AND (webhook_id, id) <= (w.id, $3::uuid) \
                   AND webhook_id >= w.id AND webhook_id <= w.id AND id >= $2 AND id < $3 \
                 ORDER BY webhook_id DESC, id DESC LIMIT $4) l \
             WHERE l.state IN ('retrying', 'failed', 'expired') AND l.attempts > 0 \
             GROUP BY 1, 2 ORDER BY 1, 3 DESC",
        )
        .await?;
    let now = clock::now();
    let (since, until) = (first_uuid_at(now - LATELY), first_uuid_at(now + CLOCKS));
    let rows = client
        .query(&statement, &[&ids, &since, &until, &LOOKED_AT])
        .await?;
    let mut counts: HashMap<WebhookId, Vec<(Option<i16>, i64)>> = HashMap::new();
    for row in &rows {
        let of_webhook = counts.entry(row.get("id")).or_default();
        of_webhook.push((row.get("status_code"), row.get("many")));
    }
    let said = counts.into_iter().map(|(id, counts)| (id, said(&counts)));
    Ok(said.collect())
}

/// The most frequent answer, and the second one if it is frequent, too.
fn said(counts: &[(Option<i16>, i64)]) -> String {
    let all: i64 = counts.iter().map(|(_, many)| many).sum();
    let words = |(code, _): &(Option<i16>, i64)| {
        code.map_or_else(|| "no answer".to_owned(), |code| code.to_string())
    };
    match counts {
        [] => String::new(),
        [first, second, ..] if second.1 * 4 >= all => {
            format!("Mostly {} or {}. ", words(first), words(second))
        }
        [first, ..] => format!("Mostly {}. ", words(first)),
    }
}

pub(super) fn list(
    visit: &Visit,
    needy: &[&WebhookView],
    causes: &HashMap<WebhookId, String>,
) -> Markup {
    if needy.is_empty() {
        return html! {
            div class="empty" { h2 { "Nothing needs attention" } p { "No webhook is failing, down or disabled, and none that is paused holds a delivery." } }
        };
    }
    let heads = [
        Head::Text("Health"),
        Head::Text("Webhook and why"),
        Head::Number("Waiting"),
        Head::Text("What to do"),
    ];
    let rows = html! {
        @for webhook in needy.iter().take(SHOWN) {
            @let path = visit.path(&format!("/webhooks/{}", webhook.id));
            (tr(&html! {
                (td("", &health(webhook).strong()))
                (td("grow full", &html! {
                    a class="cut" href=(path) { b { (line(name(webhook))) } " " span class="soft" { (line(&webhook.url)) } }
                    span class="cut soft small" { (why(webhook, causes.get(&webhook.id))) }
                }))
                (num("hide", None, &html! { b { (number(webhook.waiting)) @if !webhook.waiting_counted { "+" } } " " small { "waiting" } }))
                (td("last", &html! {
                    @if webhook.status == "paused" && visit.by.may(Role::Manager) {
                        form method="post" action={ (path) "/status" } {
                            (csrf(&visit.by))
                            button class="btn tiny" name="status" value="active" { "Resume" }
                        }
                    } @else { a class="btn tiny" href=(path) { "Look" } }
                }))
            }))
        }
    };
    html! {
        (table("", &heads, &rows))
        @if needy.len() > SHOWN { p class="small soft" { (needy.len() - SHOWN) " more need attention." } }
    }
}

fn health(webhook: &WebhookView) -> Word<'_> {
    let word = words::webhook(webhook.status, webhook.health);
    match webhook.down_since {
        Some(_) if webhook.status == "active" && word.tone != "fail" => Word {
            tone: "fail",
            icon: "fail",
            word: "Down",
            ..word
        },
        _ => word,
    }
}

fn why(webhook: &WebhookView, cause: Option<&String>) -> Markup {
    let sentence = words::webhook(webhook.status, webhook.health).sentence;
    html! {
        // What it failed with long ago doesn't explain why somebody paused it.
        @if let Some(cause) = cause.filter(|_| webhook.status == "active") { (cause) }
        @match webhook.down_since {
            Some(since) if webhook.status == "active" => {
                "Down since " (at(since.0)) ": it is asked with one request at a time"
                @if let Some(next) = webhook.next_probe_at { ", the next at " (at(next.0)) }
                "."
            },
            _ => (sentence),
        }
        @if webhook.status == "paused" && webhook.waiting > 0 {
            @if let Some(oldest) = webhook.oldest_waiting_at { " The oldest came at " (at(oldest.0)) "." }
        }
        @if let Some(reason) = &webhook.disabled_reason { " " (line(reason)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_the_most_frequent_answer_and_another_that_is_frequent() {
        for (counts, words) in [
            (&[(Some(503), 10)][..], "Mostly 503. "),
            (&[(Some(503), 10), (None, 9)], "Mostly 503 or no answer. "),
            (&[(None, 10), (Some(429), 1)], "Mostly no answer. "),
            (&[], ""),
        ] {
            assert_eq!(said(counts), words);
        }
    }
}
