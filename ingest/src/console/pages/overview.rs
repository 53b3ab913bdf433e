//! The overview: whether everything works, and what doesn't. Before a tenant's first delivery it
//! shows the first steps instead.

mod attention;
pub mod first_steps;

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use shared::ids::DeliveryId;
use time::OffsetDateTime;

use crate::api::access::auth::Reading;
use crate::api::access::role::Role;
use crate::api::deliveries;
use crate::api::deliveries::view::Delivery;
use crate::api::http::request::Parameters;
use crate::api::webhooks::backlog;
use crate::api::webhooks::stats::window::{StatsQuery, Window};
use crate::api::webhooks::stats::{self, Stats};
use crate::api::webhooks::view::WebhookView;
use crate::console::failure::Result;
use crate::console::fields::query;
use crate::console::frame::{Page, Section};
use crate::console::icons::icon;
use crate::console::moments::{ago, at, count, number, percent, took};
use crate::console::pages::deliveries::{Row, list};
use crate::console::pages::events::{a_minute, seen};
use crate::console::pages::statistics::{self, WindowParams, change, ended, name_of, windows};
use crate::console::pages::webhooks::{all, name, names};
use crate::console::parts::{Figure, figures, unreadable};
use crate::console::query::{SearchQuery, of_deliveries};
use crate::console::state::Console;
use crate::console::visit::{Origin, Poll, Reads, Visit};
use crate::console::watch::{Charts, Snapshot};

/// How many deliveries in trouble are shown.
const TROUBLE: i64 = 6;
const TROUBLE_PART: &str = "trouble";
const CHART: &str = "chart-ended";

/// `GET /console/{tenant}?window=`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Origin(origin): Origin,
    Query(params): Query<WindowParams>,
) -> Result<Html<String>> {
    // A part that can't be read leaves the rest of the page alone.
    let listed = match all(&console, &visit, None).await {
        Err(failure) if !failure.status().is_server_error() => return Err(failure),
        listed => listed,
    };
    let (webhooks, next) = match &listed {
        Ok((webhooks, next)) => (webhooks.as_slice(), next.is_some()),
        Err(_) => (&[][..], false),
    };
    let waiting = match &listed {
        Ok(_) if !next => Waiting::of_all(webhooks),
        // The page has some of the webhooks, and its figure is of all of them.
        Ok(_) => count_waiting(&console, &visit).await.unwrap_or_default(),
        Err(_) => Waiting::default(),
    };
    let window = params.window();
    let stats = {
        let acting = visit.acting().await?;
        let wanted = Parameters(StatsQuery { window });
        stats::of_tenant(acting, State(console.reads.clone()), wanted).await
    };
    let is_new = stats
        .as_ref()
        .is_ok_and(|stats| stats.0.last_delivery_at.is_none() && stats.0.totals.attempts == 0);
    if is_new && listed.is_ok() {
        return first_steps::show(&console, &visit, &origin, webhooks).await;
    }
    let trouble = latest_trouble(&console, &visit).await;
    let seen = seen(&console, &visit, Window::Hour).await;
    let most = most_webhooks(&console, &visit).await.ok();
    let needy = attention::needy(webhooks);
    let causes = attention::causes(&console, &visit, &needy).await;
    let may = visit.by.may(Role::Manager);
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
                    @if listed.is_ok() {
                        span {
                            @match most {
                                Some(most) if !next => { (number(webhooks.len() as i64)) " of " (count(most.into(), "webhook")) },
                                _ => { (count(webhooks.len() as i64, "webhook")) @if next { " and more" } },
                            }
                        }
                    }
                    @if let Some(seen) = &seen { span { (a_minute(seen)) } }
                }
            }
            div class="row" {
                (windows(&visit.path(""), window, ""))
                @if may {
                    a class="btn" href=(visit.path("/events/new")) { (icon("event")) "Publish a test event" }
                    a class="btn main-btn" href=(visit.path("/webhooks/new")) data-key="c" { (icon("plus")) "New webhook" }
                }
            }
        }
        @match &stats {
            Ok(stats) => {
                div data-live="figures" { (totals(&visit.path(""), may, &stats.0, &waiting)) }
                section data-live=(CHART) { (ended(&stats.0)) }
            },
            Err(unread) => (unreadable("The statistics", unread.is_too_slow())),
        }
        section {
            div class="row apart" { h2 { "Needs attention" } a class="small go" href=(visit.path("/webhooks")) { "All webhooks" } }
            @match &listed {
                Ok(_) => (attention::list(&visit, &needy, &causes)),
                Err(unread) => (unreadable("The list of webhooks", unread.is_too_slow())),
            }
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

/// The live parts: the figures, the chart, and the latest trouble. The names of webhooks are read only if
/// there is other trouble than before.
pub async fn live(
    console: &Console,
    poll: &Poll,
    window: &str,
    before: Option<&Snapshot>,
) -> Result<Snapshot> {
    let window = WindowParams::new(window).window();
    let wanted = Parameters(StatsQuery { window });
    let acting = poll.reading().await?;
    let stats = stats::of_tenant(acting, State(poll.api.clone()), wanted).await?;
    let waiting = count_waiting(console, poll).await?;
    let figures = |may| totals(&poll.path(""), may, &stats.0, &waiting).into_string();
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
    let parts = |may| {
        vec![
            ("figures".to_owned(), figures(may)),
            (TROUBLE_PART.to_owned(), trouble.clone()),
        ]
    };
    Ok(Snapshot {
        parts: parts(false),
        for_managers: Some(parts(true)),
        charts: Charts::kept(before).or_else(|| Some(Charts::new([(CHART, ended(&stats.0))]))),
        mark,
        ..Snapshot::default()
    })
}

async fn latest_trouble(console: &Console, reader: &impl Reads) -> Result<Vec<Delivery>> {
    let search = SearchQuery::parse("status:retrying,failed,expired", &["status"]);
    let (mut filter, _) = of_deliveries(&search, None);
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

/// Counts what waits, without reading the webhooks whole: a page that is open asks every two seconds.
async fn count_waiting(console: &Console, reader: &impl Reads) -> Result<Waiting> {
    let acting: Reading = reader.reading().await?;
    let client = reader.api(console).pool.get().await?;
    let backlog = backlog::of_tenant(&client, &acting.tenant).await?;
    Ok(Waiting {
        is_known: true,
        deliveries: backlog.waiting,
        counted: backlog.counted,
        oldest: backlog.oldest.map(DeliveryId::accepted_at),
    })
}

/// The deliveries of all webhooks that wait for an attempt. By default: it isn't known.
#[derive(Default)]
struct Waiting {
    is_known: bool,
    deliveries: i64,
    /// `false`: there are more.
    counted: bool,
    oldest: Option<OffsetDateTime>,
}

impl Waiting {
    /// `webhooks`: all of the tenant's.
    fn of_all(webhooks: &[WebhookView]) -> Self {
        let oldest = webhooks.iter().filter_map(|one| one.oldest_waiting_at);
        Self {
            is_known: true,
            deliveries: webhooks.iter().map(|one| one.waiting).sum(),
            counted: webhooks.iter().all(|one| one.waiting_counted),
            oldest: oldest.map(|at| at.0).min(),
        }
    }

    fn figure(&self) -> Figure<'static> {
        Figure {
            name: "Waiting",
            value: html! {
                @if self.is_known { (number(self.deliveries)) @if !self.counted { "+" } } @else { "—" }
            },
            tone: "",
            meaning: html! {
                @if !self.is_known { "can't be read just now" }
                @else if let Some(oldest) = self.oldest { "oldest " (ago(oldest)) } @else { "nothing" }
            },
        }
    }
}

/// How many webhooks the tenant may have.
async fn most_webhooks(console: &Console, visit: &Visit) -> Result<i32> {
    let acting: Reading = visit.acting().await?;
    let client = console.reads.pool.get().await?;
    let statement = client
        .prepare_cached("-- most_webhooks\nSELECT max_webhooks FROM tenants WHERE id = $1")
        .await?;
    Ok(client
        .query_one(&statement, &[&acting.tenant])
        .await?
        .get(0))
}

/// The figures of the window, and what waits now. `may`: whether they may replay.
fn totals(base: &str, may: bool, stats: &Stats, waiting: &Waiting) -> Markup {
    let totals = &stats.totals;
    let earlier = stats.previous.as_ref();
    let of_success = change(
        totals.success_rate,
        earlier.and_then(|earlier| earlier.success_rate),
    );
    let of_first_try = change(
        totals.first_try_success_rate,
        earlier.and_then(|earlier| earlier.first_try_success_rate),
    );
    let given_up = query(&[(
        "q",
        &format!("status:failed,expired since:{}", name_of(stats.window)),
    )]);
    let replay = query(&[
        ("since", name_of(stats.window)),
        ("status", "failed,expired"),
    ]);
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
            meaning: html! {
                @match &of_success { Some(change) => (change), None => { (number(totals.attempts)) " attempts" } }
            },
        },
        Figure {
            name: "First try",
            value: html! { (share(totals.first_try_success_rate)) },
            tone: "",
            meaning: html! {
                (number(totals.retries)) " retries"
                @if let Some(change) = &of_first_try { ", " (change) }
            },
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
                @if totals.failed_deliveries > 0 {
                    a href={ (base) "/deliveries" (given_up) } { "Look at them" }
                    @if may { ", " a href={ (base) "/replays/new" (replay) } { "Replay them" } }
                }
                @else { "nothing" }
            },
        },
    ])
}
