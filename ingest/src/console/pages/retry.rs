//! Retries many deliveries: the selected ones, or all that match a filter.
//!
//! Retrying all that match first shows their number and asks for a confirmation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::{Html, IntoResponse, Redirect, Response};
use maud::html;
use shared::ids::DeliveryId;

use crate::api::deliveries::retries::{NewRetry, retry_many};
use crate::api::deliveries::search::DeliveryQuery;
use crate::api::deliveries::{self, DeliveryPage};
use crate::api::http::problem::Problem;
use crate::api::http::request::{Body, MAX_PAGE, Parameters};
use crate::console::failure::Result;
use crate::console::fields::{Fields, query};
use crate::console::frame::{Page, Section, csrf};
use crate::console::icons::icon;
use crate::console::moments::count;
use crate::console::pages::deliveries::named::with_ids;
use crate::console::query::{OF_DELIVERIES, SearchQuery, of_deliveries};
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::{ManagerVisit, Posted};

/// The most that one form retries, as many as the API takes. A replay has no such bound.
pub const MOST: usize = 1_000;
/// How often they are read, and for how long, before it is said that these aren't all.
const ROUNDS: u32 = 20;
const AT_MOST: Duration = Duration::from_secs(2);

/// `POST /console/{tenant}/deliveries/retry`
pub async fn retry(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    Posted(fields): Posted,
) -> Result<Response> {
    let ids: Vec<String> = match fields.has("all") {
        true => {
            let (ids, more) = matching(&console, &visit, &fields).await?;
            if !fields.has("sure") {
                return Ok(ask(&visit, &fields, ids.len(), more).into_response());
            }
            ids
        }
        false => fields.all("id").map(str::to_owned).collect(),
    };
    let back = back(&visit, &fields);
    if ids.is_empty() {
        return Ok(Redirect::to(&back).into_response());
    }
    let acting = visit.acting().await?;
    let api = State(console.api.clone());
    let done = retry_many(acting, api, Body(NewRetry { ids })).await?.0;
    let sign = if back.contains('?') { '&' } else { '?' };
    let done = format!("{back}{sign}done=retried-{}-{}", done.retried, done.refused);
    Ok(Redirect::to(&done).into_response())
}

/// The page of the list, made anew: nothing else is an address to go back to.
fn back(visit: &ManagerVisit, fields: &Fields) -> String {
    let q = SearchQuery::parse(fields.text("q"), &OF_DELIVERIES).without(None);
    let path = match fields.filled("webhook") {
        Some(webhook) if webhook.parse::<shared::ids::WebhookId>().is_ok() => {
            visit.path(&format!("/webhooks/{webhook}"))
        }
        _ => visit.path("/deliveries"),
    };
    format!("{path}{}", query(&[("q", &q)]))
}

/// The ids of the deliveries that match, up to the most, and whether there are more.
async fn matching(
    console: &Console,
    visit: &ManagerVisit,
    fields: &Fields,
) -> Result<(Vec<String>, bool)> {
    let wanted = SearchQuery::parse(fields.text("q"), &OF_DELIVERIES);
    let mut all = AllThatMatch::new(&wanted);
    while !all.is_over() {
        let mut filter = all.next_page()?;
        if let Some(wrong) = with_ids(&console.api, visit, &mut filter).await? {
            return Err(Problem::field("q", wrong).into());
        }
        if let Some(webhook) = fields.filled("webhook") {
            filter.webhook_id = Some(webhook.to_owned());
        }
        let acting = visit.acting().await?;
        let page = deliveries::list(acting, State(console.api.clone()), Parameters(filter)).await?;
        all.add(&page.0);
    }
    let (ids, more) = all.found();
    Ok((ids.iter().map(DeliveryId::to_string).collect(), more))
}

/// Gathers the ids of the deliveries that match a search, page by page.
pub struct AllThatMatch<'a> {
    wanted: &'a SearchQuery,
    ids: Vec<DeliveryId>,
    cursor: Option<DeliveryId>,
    begun: Instant,
    rounds: u32,
    has_ended: bool,
}

impl<'a> AllThatMatch<'a> {
    /// With no page read.
    pub fn new(wanted: &'a SearchQuery) -> Self {
        Self {
            wanted,
            ids: Vec::new(),
            cursor: None,
            begun: Instant::now(),
            rounds: 0,
            has_ended: false,
        }
    }

    /// Whether no further page is read: there is none, or there are enough, or it took too long.
    pub fn is_over(&self) -> bool {
        self.has_ended || self.rounds >= ROUNDS
    }

    /// What to read next.
    ///
    /// # Errors
    /// If the search can't be read.
    pub fn next_page(&self) -> std::result::Result<DeliveryQuery, Problem> {
        let cursor = self.cursor.map(|cursor| cursor.to_string());
        let (mut filter, wrong) = of_deliveries(self.wanted, cursor);
        if let Some(wrong) = wrong {
            return Err(Problem::field("q", wrong));
        }
        filter.limit = Some(MAX_PAGE);
        Ok(filter)
    }

    /// A page was read.
    pub fn add(&mut self, page: &DeliveryPage) {
        self.ids.extend(page.deliveries.iter().map(|one| one.id));
        self.cursor = page.next_cursor;
        self.rounds += 1;
        self.has_ended =
            self.ids.len() >= MOST || self.cursor.is_none() || self.begun.elapsed() >= AT_MOST;
    }

    /// The ids, up to the most, and whether there are more.
    pub fn found(mut self) -> (Vec<DeliveryId>, bool) {
        let more = self.ids.len() > MOST || self.cursor.is_some();
        self.ids.truncate(MOST);
        (self.ids, more)
    }
}

/// Says how many before anything is done.
fn ask(visit: &ManagerVisit, fields: &Fields, many: usize, more: bool) -> Html<String> {
    let q = SearchQuery::parse(fields.text("q"), &OF_DELIVERIES).without(None);
    let back = back(visit, fields);
    let number = count(many as i64, "delivery");
    let content = html! {
        div class="head" { div { h1 { "Retry " (number) "?" } } }
        div class="stack form" {
            p {
                @if q.is_empty() { "All deliveries" } @else { "Deliveries that match " code { (line(&q)) } }
                ": " (number)
                @if more && many < MOST { ". They were looked for for 2 s, from the newest on, and there may be more" }
                @else if more { ", and more. This many at a time, the newest first" }
                "."
            }
            p class="soft" {
                "Finished ones begin again, delivered ones too: their receivers get them once more, with the same "
                code { "webhook-id" } ". Those that wait are sent now."
            }
            @if more { p class="soft" { "For all of a webhook's, at a rate: a replay." } }
            form class="row" method="post" action=(visit.path("/deliveries/retry")) {
                (csrf(&visit.by))
                input type="hidden" name="all" value="1";
                input type="hidden" name="sure" value="1";
                input type="hidden" name="q" value=(q);
                input type="hidden" name="webhook" value=(fields.text("webhook"));
                a class="btn" href=(back) { "Leave them" }
                @if many > 0 { button class="btn main-btn" { (icon("retry")) "Retry " (number) } }
            }
        }
    };
    Page::of_tenant(visit, Section::Deliveries, "Retry").show(&content)
}
