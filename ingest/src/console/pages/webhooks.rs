//! All webhooks of a tenant: what needs attention first.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;
use shared::clock;
use shared::ids::{EventType, WebhookId};
use time::Duration;
use tokio_postgres::Row;

use crate::api::access::auth::Reading;
use crate::api::access::role::Role;
use crate::api::http::request::{MAX_PAGE, Parameters};
use crate::api::webhooks::stats::Health;
use crate::api::webhooks::view::WebhookView;
use crate::api::webhooks::{self, WebhookQuery};
use crate::console::chart::spark;
use crate::console::failure::Result;
use crate::console::fields::query;
use crate::console::frame::{Page, Section};
use crate::console::icons::icon;
use crate::console::moments::{ago, count, number, percent};
use crate::console::parts::{Head, dash, empty, facets, num, table, td, tr};
use crate::console::state::Console;
use crate::console::text::{excerpt, line};
use crate::console::visit::{Poll, Reads, Visit};
use crate::console::watch::Snapshot;
use crate::console::words;
use crate::matching::Pattern;

#[derive(Deserialize, Default)]
pub struct Params {
    #[serde(default)]
    q: String,
    #[serde(default)]
    health: String,
    cursor: Option<String>,
    /// How many of the sorted ones are above this page.
    #[serde(default)]
    from: usize,
}

/// How many are shown: a page stays within its budget.
const SHOWN: usize = 50;
/// The steps of the small charts: twelve of two hours.
const STEPS: usize = 12;
const STEP: Duration = Duration::hours(2);

/// The longest name, in bytes.
const LONGEST_NAME: usize = 80;

/// What a webhook is called: the first line of its description, or its URL's host.
pub fn name(webhook: &WebhookView) -> String {
    name_of(&webhook.description, &webhook.url)
}

/// The same of its columns.
pub fn name_of(description: &str, url: &str) -> String {
    let first = description.lines().next().unwrap_or_default().trim();
    if !first.is_empty() {
        // Names stand in every row of a list.
        let cut = first.floor_char_boundary(LONGEST_NAME);
        return match cut < first.len() {
            true => format!("{}…", &first[..cut]),
            false => first.to_owned(),
        };
    }
    let host = url::Url::parse(url).ok();
    let host = host.as_ref().and_then(|url| url.host_str());
    host.unwrap_or("a deleted webhook").to_owned()
}

/// The tenant's webhooks, at most as many as a page of the API has: a tenant has a hundred
/// unless the operator allows more.
pub async fn all(
    console: &Console,
    reader: &impl Reads,
    cursor: Option<String>,
) -> Result<(Vec<WebhookView>, Option<String>)> {
    let page = WebhookQuery {
        limit: Some(MAX_PAGE),
        cursor,
        client_id: None,
        external_id: None,
    };
    let acting = reader.reading().await?;
    let answer =
        webhooks::list(acting, State(reader.api(console).clone()), Parameters(page)).await?;
    Ok((answer.0.webhooks, answer.0.next_cursor))
}

/// The names of these webhooks of the tenant, without the deleted ones: for lists of what
/// happened to them.
pub async fn names(
    console: &Console,
    reader: &impl Reads,
    ids: impl IntoIterator<Item = WebhookId>,
) -> Result<HashMap<WebhookId, String>> {
    let mut ids: Vec<_> = ids.into_iter().collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let acting: Reading = reader.reading().await?;
    let client = reader.api(console).pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- names_of_webhooks\n\
             SELECT id, description, url FROM webhooks \
             WHERE tenant = $1 AND id = ANY($2) AND status <> 'deleted'",
        )
        .await?;
    let rows = client.query(&statement, &[&acting.tenant, &ids]).await?;
    let name = |row: &Row| name_of(row.get("description"), row.get("url"));
    Ok(rows.iter().map(|row| (row.get("id"), name(row))).collect())
}

/// `GET /console/{tenant}/webhooks?q=&health=`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let (mut webhooks, next) = all(&console, &visit, params.cursor.clone()).await?;
    let whole = next.is_none() && params.cursor.is_none();
    webhooks.sort_by_cached_key(|webhook| (urgency(webhook), name(webhook).to_lowercase()));
    let of = |health: &str| {
        webhooks
            .iter()
            .filter(|webhook| health_key(webhook) == health)
            .count()
    };
    let kinds = [
        "failing", "disabled", "degraded", "paused", "inactive", "healthy", "unused",
    ];
    let counts: Vec<_> = kinds.iter().map(|kind| (*kind, of(kind))).collect();
    let total = webhooks.len();

    let asks = params.q.trim();
    let event_type: Option<EventType> = asks.parse().ok().filter(|_| asks.contains('.'));
    webhooks.retain(|webhook| {
        let listens = event_type
            .as_ref()
            .is_some_and(|name| listens_to(webhook, name));
        let fits = asks.is_empty() || listens || contains(webhook, asks);
        fits && (params.health.is_empty() || health_key(webhook) == params.health)
    });

    let matching = webhooks.len();
    let shown: Vec<_> = webhooks.into_iter().skip(params.from).take(SHOWN).collect();
    // Beside the names it matters little: without it the list is there all the same.
    let charts = charts(&console, &visit, &shown).await.unwrap_or_default();
    let path = visit.path("/webhooks");
    let next = match params.from + shown.len() < matching {
        true => Some((params.cursor.clone(), params.from + shown.len())),
        false => next.map(|next| (Some(next), 0)),
    };
    let further = next.map(|(cursor, from)| {
        let from = if from == 0 {
            String::new()
        } else {
            from.to_string()
        };
        let cursor = cursor.unwrap_or_default();
        let kept = [
            ("q", asks),
            ("health", &params.health),
            ("cursor", &cursor),
            ("from", &from),
        ];
        format!("{path}{}", query(&kept))
    });
    let can_create = visit.by.may(Role::Manager);
    let content = html! {
        div class="head" {
            div {
                h1 { "Webhooks" }
                p class="sub" {
                    span { @if whole { (count(total as i64, "webhook")) } @else { (total) " of a longer list" } }
                    @if let Some(name) = event_type.as_ref().filter(|_| total > 0) {
                         span { (count(matching as i64, "webhook")) " would be asked about " code { (line(name.as_str())) } }
                    }
                }
            }
            @if can_create {
                a class="btn main-btn" href={ (path) "/new" } data-key="c" { (icon("plus")) "New webhook " kbd aria-hidden="true" { "c" } }
            }
        }
        @if total == 0 {
            (empty(
                "No webhook yet",
                &html! { "A webhook says where deliveries go." },
                &html! { @if can_create { a class="btn main-btn" href={ (path) "/new" } { "New webhook" } } },
            ))
        } @else {
            form class="query" action=(path) role="search" aria-label="Webhooks" {
                div class="chips" {
                    (icon("search"))
                    input name="q" value=(params.q) aria-label="Filter webhooks" maxlength="2048" autocomplete="off" spellcheck="false"
                        placeholder="Part of a name, URL or pattern, or an event type to see who gets it";
                }
                button class="btn" { "Filter" }
            }
            (health_facets(&path, &params, total, &counts))
            @if shown.is_empty() {
                (empty(
                    "Nothing matches",
                    &html! { "No webhook has this in its name, URL or patterns." },
                    &html! { a class="btn" href=(path) { "All webhooks" } },
                ))
            } @else {
                (list(&visit, &shown, &charts))
                p class="pager" {
                    span {
                        @if shown.len() == matching && whole { (count(matching as i64, "webhook")) }
                        @else { (params.from + 1) " to " (params.from + shown.len()) @if whole { " of " (matching) } }
                    }
                    @if let Some(further) = &further { a class="btn tiny" href=(further) rel="next" { "More" } }
                }
            }
        }
    };
    let page = Page::of_tenant(&visit, Section::Webhooks, "Webhooks");
    // Of the first page alone: that is what a poll reads.
    Ok(match total > 0 && params.cursor.is_none() {
        true => page.live("webhooks", &[]).show(&content),
        false => page.show(&content),
    })
}

/// The live parts: how each webhook does, and what waits for it.
pub async fn live(console: &Console, poll: &Poll) -> Result<Snapshot> {
    let (webhooks, _) = all(console, poll, None).await?;
    let parts = webhooks.iter().flat_map(|webhook| {
        [
            (
                format!("health-{}", webhook.id),
                health(webhook).into_string(),
            ),
            (
                format!("waiting-{}", webhook.id),
                waiting(webhook).into_string(),
            ),
        ]
    });
    Ok(Snapshot {
        parts: parts.collect(),
        ..Snapshot::default()
    })
}

fn health(webhook: &WebhookView) -> Markup {
    let word = words::webhook(webhook.status, webhook.health);
    match word.tone {
        "fail" => word.strong(),
        _ => word.show(),
    }
}

/// What was delivered and given up in each step of the last day.
type Charts = HashMap<WebhookId, Vec<(i64, i64)>>;

async fn charts(console: &Console, visit: &Visit, webhooks: &[WebhookView]) -> Result<Charts> {
    let _permit: Reading = visit.acting().await?;
    let client = console.reads.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- charts_of_webhooks\n\
             SELECT w.id, least(floor(extract(epoch FROM s.quarter - $3)::float8 / $4)::int4, $5) AS step, \
                 sum(s.delivered)::int8 AS delivered, sum(s.failed + s.expired)::int8 AS failed \
             FROM unnest($1::uuid[], $2::text[]) AS w (id, subject) \
             JOIN stats s ON s.subject = w.subject AND s.quarter >= $3 \
             GROUP BY 1, 2",
        )
        .await?;
    let ids: Vec<_> = webhooks.iter().map(|webhook| webhook.id).collect();
    let subjects: Vec<_> = ids.iter().map(|id| format!("webhook/{id}")).collect();
    let since = clock::now() - STEP * STEPS as i32;
    let (step, last) = (STEP.as_seconds_f64(), STEPS as i32 - 1);
    let rows = client
        .query(&statement, &[&ids, &subjects, &since, &step, &last])
        .await?;
    let mut charts = Charts::new();
    for row in &rows {
        let steps = charts
            .entry(row.get("id"))
            .or_insert_with(|| vec![(0, 0); STEPS]);
        if let Some(step) = steps.get_mut(row.get::<_, i32>("step").max(0) as usize) {
            *step = (row.get("delivered"), row.get("failed"));
        }
    }
    Ok(charts)
}

fn list(visit: &Visit, webhooks: &[WebhookView], charts: &Charts) -> Markup {
    let heads = [
        Head::Text("Health"),
        Head::Text("Webhook"),
        Head::Text("Listens to"),
        Head::Text("Ended, 24 h"),
        Head::Number("Success"),
        Head::Number("Waiting"),
        Head::Number("Last call"),
    ];
    let chart = |webhook: &WebhookView| charts.get(&webhook.id).map(Vec::as_slice);
    let rows = html! { @for webhook in webhooks { (row(visit, webhook, chart(webhook).unwrap_or_default())) } };
    table("", &heads, &rows)
}

fn row(visit: &Visit, webhook: &WebhookView, chart: &[(i64, i64)]) -> Markup {
    let path = visit.path(&format!("/webhooks/{}", webhook.id));
    let named = html! {
        a class="cut" href=(path) { b { (line(name(webhook))) } }
        span class="cut small" { (excerpt(&webhook.url, 120)) }
    };
    let (good, bad) = chart
        .iter()
        .fold((0, 0), |sum, step| (sum.0 + step.0, sum.1 + step.1));
    let success = (good + bad > 0).then(|| good as f64 / (good + bad) as f64);
    tr(&html! {
        (td("", &html! { span data-live={ "health-" (webhook.id) } { (health(webhook)) } }))
        (td("grow first", &named))
        (td("hide", &patterns(webhook)))
        (td("hide", &spark(chart)))
        (num("", Some("success"), &html! { @match success {
            Some(share) => span class=(statistics_tone(share)) { (percent(share)) },
            None => (dash()),
        } }))
        (num("", Some("waiting"), &html! { span data-live={ "waiting-" (webhook.id) } { (waiting(webhook)) } }))
        (num("last", None, &match webhook.last_triggered {
            Some(at) => html! { span class="soft" { (ago(at.0)) } },
            None => html! { span class="soft" { "never" } },
        }))
    })
}

fn statistics_tone(share: f64) -> &'static str {
    if share < 0.5 { "bad" } else { "" }
}

/// How many wait, and the oldest for how long.
fn waiting(webhook: &WebhookView) -> Markup {
    html! {
        @if webhook.waiting == 0 { span class="soft" { "0" } } @else {
            span class=[(webhook.down_since.is_some()).then_some("bad")] { (number(webhook.waiting)) @if !webhook.waiting_counted { "+" } }
            @if let Some(oldest) = webhook.oldest_waiting_at { br; small { (ago(oldest.0)) } }
        }
    }
}

/// The first two patterns, and how many more.
fn patterns(webhook: &WebhookView) -> Markup {
    let more = webhook.events.len().saturating_sub(2);
    html! {
        @for (n, pattern) in webhook.events.iter().take(2).enumerate() {
            @if n > 0 { br; }
            code { (excerpt(pattern, 40)) }
        }
        @if more > 0 { " " small { "and " (more) " more" } }
        @if webhook.operational { br; small { "operational events" } }
        @if webhook.filters.is_some() { br; small { "with a filter" } }
        @if webhook.events.is_empty() { (dash()) }
    }
}

fn health_facets(path: &str, params: &Params, total: usize, counts: &[(&str, usize)]) -> Markup {
    let link = |health: &str| format!("{path}{}", query(&[("q", &params.q), ("health", health)]));
    let mut links = vec![(link(""), html! { "All " (total) }, params.health.is_empty())];
    for (kind, count) in counts.iter().filter(|(_, count)| *count > 0) {
        let words = match *kind {
            "failing" => "Failing",
            "disabled" => "Disabled",
            "degraded" => "Degraded",
            "paused" => "Paused",
            "inactive" => "Switched off",
            "healthy" => "Healthy",
            _ => "Not used yet",
        };
        links.push((
            link(kind),
            html! { (words) " " (count) },
            params.health == *kind,
        ));
    }
    facets(
        "Health",
        &links,
        &html! { "Sorted by what needs attention" },
    )
}

fn health_key(webhook: &WebhookView) -> &'static str {
    match (webhook.status, webhook.health) {
        ("active", Health::Failing) => "failing",
        ("active", Health::Degraded) => "degraded",
        ("active", Health::Healthy) => "healthy",
        ("active", Health::Unused) => "unused",
        (status, _) => status,
    }
}

/// What needs attention comes first: below 4 something does.
pub fn urgency(webhook: &WebhookView) -> u8 {
    match health_key(webhook) {
        "failing" => 0,
        "disabled" => 1,
        "degraded" => 2,
        "paused" => 3,
        "healthy" => 4,
        "unused" => 5,
        _ => 6,
    }
}

fn contains(webhook: &WebhookView, text: &str) -> bool {
    let text = text.to_lowercase();
    let has = |value: &str| value.to_lowercase().contains(&text);
    has(&webhook.description)
        || has(&webhook.url)
        || webhook.events.iter().any(|pattern| has(pattern))
}

fn listens_to(webhook: &WebhookView, name: &EventType) -> bool {
    let patterns = webhook
        .events
        .iter()
        .filter_map(|text| text.parse::<Pattern>().ok());
    patterns
        .into_iter()
        .any(|pattern| pattern.listens_to(name.as_str()))
}
