//! The overview: whether everything works, and what doesn't. Before a tenant's first delivery it
//! shows the first steps instead.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use time::OffsetDateTime;

use crate::api::access::role::Role;
use crate::api::deliveries;
use crate::api::deliveries::view::Delivery;
use crate::api::events::log::{self, Search};
use crate::api::http::request::Parameters;
use crate::api::webhooks::stats::{self, Stats, StatsQuery};
use crate::api::webhooks::view::WebhookView;
use crate::console::failure::Result;
use crate::console::frame::{Page, Section};
use crate::console::icons::icon;
use crate::console::moments::{ago, at, count, number, percent, took};
use crate::console::pages::deliveries::{Row, list};
use crate::console::pages::statistics::{self, WindowParams, ended, windows};
use crate::console::pages::webhooks::{all, name, names, urgency};
use crate::console::parts::{Figure, Head, code, figures, num, table, td, tr, unreadable};
use crate::console::query::{SearchQuery, of_deliveries};
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::{Poll, Reads, Visit};
use crate::console::watch::Snapshot;
use crate::console::words;

/// The most webhooks that need attention.
const ATTENTION: usize = 10;
/// How many deliveries in trouble are shown.
const TROUBLE: i64 = 6;
const TROUBLE_PART: &str = "trouble";

/// `GET /console/{tenant}?window=`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Query(params): Query<WindowParams>,
) -> Result<Html<String>> {
    let (webhooks, next) = all(&console, &visit, None).await?;
    let window = params.window();
    let stats = {
        let acting = visit.acting().await?;
        let query = Parameters(StatsQuery { window });
        // A part that can't be read leaves the rest of the page alone.
        stats::of_tenant(acting, State(console.reads.clone()), query).await
    };
    let is_new = stats
        .as_ref()
        .is_ok_and(|stats| stats.0.last_delivery_at.is_none() && stats.0.totals.attempts == 0);
    if is_new {
        return first_steps(&console, &visit, &webhooks).await;
    }
    let trouble = latest_trouble(&console, &visit).await;
    let names: HashMap<_, _> = webhooks
        .iter()
        .map(|webhook| (webhook.id, name(webhook)))
        .collect();
    let content = html! {
        div class="head" {
            div {
                h1 { (visit.tenant) }
                p class="sub" {
                    span { (at(shared::clock::now())) " UTC" }
                    span { (count(webhooks.len() as i64, "webhook")) @if next.is_some() { " and more" } }
                }
            }
            div class="row" {
                (windows(&visit.path(""), window))
                @if visit.by.may(Role::Manager) {
                    a class="btn main-btn" href=(visit.path("/webhooks/new")) data-key="c" { (icon("plus")) "New webhook" }
                }
            }
        }
        @match &stats {
            Ok(stats) => {
                div data-live="figures" { (totals(&visit.path(""), &stats.0, &Waiting::new(&webhooks, next.is_some()))) }
                section { (ended(&stats.0)) }
            },
            Err(unread) => (unreadable("The statistics", unread.is_too_slow())),
        }
        section {
            div class="row apart" { h2 { "Needs attention" } a class="small go" href=(visit.path("/webhooks")) { "All webhooks" } }
            (attention(&visit, &webhooks))
        }
        section {
            div class="row apart" { h2 { "Latest trouble" } a class="small go" href=(visit.path("/deliveries")) { "All deliveries" } }
            div data-live=(TROUBLE_PART) {
                @match &trouble {
                    Ok(trouble) => (trouble_list(&visit.path(""), trouble, &names)),
                    Err(unread) => (unreadable("The latest deliveries", unread.is_too_slow())),
                }
            }
        }
    };
    let title = visit.tenant.to_string();
    Ok(Page::of_tenant(&visit, Section::Overview, title)
        .live("overview", &[("window", params.name())])
        .show(&content))
}

/// The live parts: the figures, and the latest trouble. The names of webhooks are read only if
/// there is other trouble than before.
pub async fn live(
    console: &Console,
    poll: &Poll,
    window: &str,
    before: Option<&Snapshot>,
) -> Result<Snapshot> {
    let window = WindowParams::new(window).window();
    let query = Parameters(StatsQuery { window });
    let acting = poll.reading().await?;
    let stats = stats::of_tenant(acting, State(poll.api.clone()), query).await?;
    let (webhooks, next) = all(console, poll, None).await?;
    let waiting = Waiting::new(&webhooks, next.is_some());
    let figures = totals(&poll.path(""), &stats.0, &waiting).into_string();
    let trouble = latest_trouble(console, poll).await?;
    let marks = trouble.iter().map(|one| {
        format!(
            " {} {} {} {:?}",
            one.id, one.status, one.attempts, one.next_attempt_at
        )
    });
    // Not empty: that is the mark of no look at all.
    let mark = format!("trouble{}", marks.collect::<String>());
    let known = before
        .filter(|before| before.mark == mark)
        .and_then(|before| before.parts.iter().find(|(name, _)| name == TROUBLE_PART));
    let trouble = match known {
        Some((_, html)) => html.clone(),
        None => {
            let ids = trouble.iter().map(|one| one.webhook_id);
            let names = names(console, poll, ids).await?;
            trouble_list(&poll.path(""), &trouble, &names).into_string()
        }
    };
    Ok(Snapshot {
        parts: vec![
            ("figures".to_owned(), figures),
            (TROUBLE_PART.to_owned(), trouble),
        ],
        mark,
        ..Snapshot::default()
    })
}

async fn latest_trouble(console: &Console, reader: &impl Reads) -> Result<Vec<Delivery>> {
    let query = SearchQuery::parse("status:retrying,failed,expired", &["status"]);
    let (mut filter, _) = of_deliveries(&query, None);
    filter.limit = Some(TROUBLE);
    let acting = reader.reading().await?;
    let found = deliveries::list(
        acting,
        State(reader.api(console).clone()),
        Parameters(filter),
    )
    .await?;
    Ok(found.0.deliveries)
}

fn trouble_list(
    base: &str,
    trouble: &[Delivery],
    names: &HashMap<shared::ids::WebhookId, String>,
) -> Markup {
    if trouble.is_empty() {
        return html! {
            div class="empty" { h2 { "No trouble" } p { "No delivery was given up or needs another attempt." } }
        };
    }
    let rows: Vec<_> = trouble
        .iter()
        .map(|delivery| Row::new(delivery, Some(names)))
        .collect();
    list(None, base, &rows)
}

/// The deliveries of all webhooks that wait for an attempt.
struct Waiting {
    deliveries: i64,
    /// `false`: there are more.
    counted: bool,
    oldest: Option<OffsetDateTime>,
}

impl Waiting {
    /// `has_more`: whether there are webhooks beside these.
    fn new(webhooks: &[WebhookView], has_more: bool) -> Self {
        let oldest = webhooks.iter().filter_map(|one| one.oldest_waiting_at);
        Self {
            deliveries: webhooks.iter().map(|one| one.waiting).sum(),
            counted: !has_more && webhooks.iter().all(|one| one.waiting_counted),
            oldest: oldest.map(|at| at.0).min(),
        }
    }

    fn figure(&self) -> Figure<'static> {
        Figure {
            name: "Waiting",
            value: html! { (number(self.deliveries)) @if !self.counted { "+" } },
            tone: "",
            meaning: html! {
                @if let Some(oldest) = self.oldest { "oldest " (ago(oldest)) } @else { "nothing" }
            },
        }
    }
}

/// The figures of the window, and what waits now.
fn totals(base: &str, stats: &Stats, waiting: &Waiting) -> Markup {
    let totals = &stats.totals;
    let ms = |value: Option<f64>| value.map_or_else(|| "—".to_owned(), |ms| took(ms as i64));
    let share = |value: Option<f64>| value.map_or_else(|| "—".to_owned(), percent);
    let ended = totals.successful_deliveries + totals.failed_deliveries;
    figures(&[
        Figure {
            name: "Delivered",
            value: html! { (number(totals.successful_deliveries)) },
            tone: "",
            meaning: html! { "of " (number(ended)) " that ended" },
        },
        Figure {
            name: "Success",
            value: html! { (share(totals.success_rate)) },
            tone: statistics::tone(totals.success_rate),
            meaning: html! { (number(totals.attempts)) " attempts" },
        },
        Figure {
            name: "First try",
            value: html! { (share(totals.first_try_success_rate)) },
            tone: "",
            meaning: html! { (number(totals.retries)) " retries" },
        },
        Figure {
            name: "Response time, p95",
            value: html! { (ms(totals.p95_response_time_ms)) },
            tone: "",
            meaning: html! { "half within " (ms(totals.p50_response_time_ms)) },
        },
        waiting.figure(),
        Figure {
            name: "Gave up",
            value: html! { (number(totals.failed_deliveries)) },
            tone: if totals.failed_deliveries > 0 {
                "bad"
            } else {
                ""
            },
            meaning: html! {
                @if totals.failed_deliveries > 0 { a href={ (base) "/deliveries?q=status%3Afailed%2Cexpired" } { "Look at them" } }
                @else { "nothing" }
            },
        },
    ])
}

fn attention(visit: &Visit, webhooks: &[WebhookView]) -> Markup {
    let mut needy: Vec<_> = webhooks
        .iter()
        .filter(|webhook| urgency(webhook) < 4)
        .collect();
    needy.sort_by_cached_key(|webhook| (urgency(webhook), name(webhook).to_lowercase()));
    if needy.is_empty() {
        return html! {
            div class="empty" { h2 { "Nothing needs attention" } p { "No webhook is failing, disabled or paused." } }
        };
    }
    let heads = [
        Head::Text("Health"),
        Head::Text("Webhook and why"),
        Head::Number("Waiting"),
        Head::Text("What to do"),
    ];
    let rows = html! {
        @for webhook in needy.iter().take(ATTENTION) {
            @let word = words::webhook(webhook.status, webhook.health);
            @let path = visit.path(&format!("/webhooks/{}", webhook.id));
            (tr(&html! {
                (td("", &word.strong()))
                (td("grow full", &html! {
                    a class="cut" href=(path) { b { (line(name(webhook))) } " " span class="soft" { (line(&webhook.url)) } }
                    span class="cut soft small" {
                        @match webhook.down_since { Some(since) => { "Down since " (at(since.0)) ": it is asked with one request at a time." }, None => (word.sentence) }
                        @if let Some(reason) = &webhook.disabled_reason { " " (line(reason)) }
                    }
                }))
                (num("hide", None, &html! { b { (number(webhook.waiting)) @if !webhook.waiting_counted { "+" } } " " small { "waiting" } }))
                (td("last", &html! { a class="btn tiny" href=(path) { "Look" } }))
            }))
        }
    };
    html! {
        (table("", &heads, &rows))
        @if needy.len() > ATTENTION { p class="small soft" { (needy.len() - ATTENTION) " more need attention." } }
    }
}

/// Shown until the first delivery was made.
async fn first_steps(
    console: &Console,
    visit: &Visit,
    webhooks: &[WebhookView],
) -> Result<Html<String>> {
    let is_published = is_published(console, visit).await?;
    let first = webhooks.first();
    let pattern = first.and_then(|webhook| webhook.events.first());
    let name = pattern.map_or("invoice.paid".to_owned(), |pattern| example_of(pattern));
    let curl = format!(
        "curl https://your-posthorn/api/v1/events \\\n  -H \"Authorization: Bearer $TOKEN\" \\\n  -H 'Content-Type: application/json' \\\n  -d '{{\"type\": \"{name}\", \"data\": {{\"invoice\": \"2026-0042\", \"total\": 99.50}}}}'"
    );
    let amqp = format!(
        "exchange       posthorn.events        (topic; persistent, with confirms)\nrouting key    {}.{name}\ncontent_type   application/json\nmessage_id     inv-2026-0042          (your event's id)\nbody           {{\"invoice\": \"2026-0042\", \"total\": 99.50}}",
        visit.tenant
    );
    let content = html! {
        div class="head" { div { h1 { "Your first webhook" } p class="sub" { "Three steps. This page sees for itself how far you are." } } }
        ol class="steps form" {
            li data-done[first.is_some()] {
                h2 { "Say where deliveries go" }
                @match first {
                    Some(webhook) => p class="soft" {
                        (line(&webhook.url)) " gets "
                        @for (n, pattern) in webhook.events.iter().take(5).enumerate() { @if n > 0 { ", " } code { (line(pattern)) } }
                        ". " a href=(visit.path(&format!("/webhooks/{}", webhook.id))) { "Look at it" }
                    },
                    None => {
                        p class="soft" { "A webhook is an address of yours, and which events it gets." }
                        @if visit.by.may(Role::Manager) {
                            p class="row section-gap" { a class="btn main-btn" href=(visit.path("/webhooks/new")) data-key="c" { (icon("plus")) "New webhook" } }
                        }
                    },
                }
            }
            li data-done[is_published] {
                h2 { "Publish an event" }
                p class="soft" { "Over HTTP, with a manager's token:" }
                (code(&line_by_line(&curl)))
                details class="section-gap" { summary { "Over AMQP" } (code(&line_by_line(&amqp))) }
            }
            li {
                h2 { "See it arrive" }
                div class="empty" data-live="first" { (arrival(&visit.path(""), is_published, !webhooks.is_empty())) }
            }
        }
    };
    let title = visit.tenant.to_string();
    Ok(Page::of_tenant(visit, Section::Overview, title)
        .live("first-steps", &[])
        .show(&content))
}

async fn is_published(console: &Console, reader: &impl Reads) -> Result<bool> {
    let search = Search {
        matched: None,
        event_type: None,
        since: None,
        until: None,
        limit: Some(1),
        cursor: None,
    };
    let acting = reader.reading().await?;
    let found = log::search(
        acting,
        State(reader.api(console).clone()),
        Parameters(search),
    )
    .await?;
    Ok(!found.0.events.is_empty())
}

/// The live part of the first steps: the third one.
pub async fn live_first_steps(console: &Console, poll: &Poll) -> Result<Snapshot> {
    let window = WindowParams::default().window();
    let query = Parameters(StatsQuery { window });
    let acting = poll.reading().await?;
    let stats = stats::of_tenant(acting, State(poll.api.clone()), query).await?;
    let is_over = stats.0.totals.attempts > 0 || stats.0.last_delivery_at.is_some();
    let part = if is_over {
        html! {
            p { b { "The first attempt was made." } }
            p class="row" { a class="btn main-btn" href=(poll.path("")) { "See the overview" } }
        }
    } else {
        let (webhooks, _) = all(console, poll, None).await?;
        let is_published = is_published(console, poll).await?;
        arrival(&poll.path(""), is_published, !webhooks.is_empty())
    };
    Ok(Snapshot {
        parts: vec![("first".to_owned(), part.into_string())],
        is_over,
        ..Snapshot::default()
    })
}

fn arrival(base: &str, is_published: bool, has_webhook: bool) -> Markup {
    html! {
        @match (is_published, has_webhook) {
            (true, true) => p { "The first event came, and no attempt has ended yet. " a href={ (base) "/events" } { "See who gets it" } },
            (true, false) => p { "The first event came, and there is no webhook to get it." },
            _ => p { span class="live pulse" { "Waiting for the first event" } },
        }
        p class="row" { a class="btn" href=(base) { "Look again" } }
    }
}

fn line_by_line(text: &str) -> Markup {
    crate::console::text::block(text)
}

/// A type that the pattern listens to.
fn example_of(pattern: &str) -> String {
    match pattern.strip_suffix('*') {
        Some("") => "invoice.paid".to_owned(),
        Some(prefix) => format!("{prefix}created"),
        None => pattern.to_owned(),
    }
}
