//! Retries deliveries in the portal: one, the selected ones, or all that match a filter.
//!
//! Retrying all that match first shows their number and asks for a confirmation. No more are
//! retried than one request of the API takes, and the page says so.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{Html, IntoResponse, Redirect, Response};
use maud::html;
use shared::ids::{DeliveryId, WebhookId};

use crate::api::deliveries;
use crate::api::deliveries::retries::{self, NewRetry};
use crate::api::http::request::{Body, Id, Parameters};
use crate::api::webhooks::view::WebhookView;
use crate::console::fields::{Fields, query};
use crate::console::frame::csrf;
use crate::console::icons::icon;
use crate::console::moments::count;
use crate::console::pages::retry::{AllThatMatch, MOST};
use crate::console::pages::webhooks::name;
use crate::console::portal::ended::{Ended, Result};
use crate::console::portal::list::search;
use crate::console::portal::scope::Customer;
use crate::console::portal::shell::page;
use crate::console::query::SearchQuery;
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::Posted;

/// `POST /portal/deliveries/{id}/retry`
pub async fn retry(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Id(id): Id<DeliveryId>,
) -> Result<Redirect> {
    if customer.covered(&[id]).await?.is_empty() {
        return Err(Ended::Nothing);
    }
    let acting = customer.acting().await?;
    let _: (_, _) = retries::retry(acting, State(console.api.clone()), Id(id)).await?;
    Ok(Redirect::to(&format!("/portal/deliveries/{id}")))
}

/// `POST /portal/deliveries/retry`
pub async fn retry_many(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Posted(fields): Posted,
) -> Result<Response> {
    customer.must_change()?;
    let webhook = fields.text("webhook").parse::<WebhookId>();
    let webhook = customer
        .webhook(webhook.map_err(|_| Ended::Nothing)?)
        .await?;
    let wanted = search(fields.text("q"), "");
    let back = back(&webhook, &wanted);
    let ids = match fields.has("all") {
        true => {
            let (ids, more) = matching(&console, &customer, webhook.id, &wanted).await?;
            if !fields.has("sure") {
                return Ok(ask(&customer, &webhook, &wanted, (ids.len(), more)).into_response());
            }
            ids
        }
        false => customer.covered(&selected(&fields)).await?,
    };
    if ids.is_empty() {
        return Ok(Redirect::to(&back).into_response());
    }
    let ids = ids.iter().map(ToString::to_string).collect();
    let acting = customer.acting().await?;
    let api = State(console.api.clone());
    let done = retries::retry_many(acting, api, Body(NewRetry { ids }))
        .await?
        .0;
    let sign = if back.contains('?') { '&' } else { '?' };
    let done = format!("{back}{sign}done=retried-{}-{}", done.retried, done.refused);
    Ok(Redirect::to(&done).into_response())
}

fn selected(fields: &Fields) -> Vec<DeliveryId> {
    let ids = fields.all("id").filter_map(|id| id.parse().ok());
    ids.take(MOST).collect()
}

/// The page of the list, made anew: nothing else is an address to go back to.
fn back(webhook: &WebhookView, wanted: &SearchQuery) -> String {
    let q = wanted.without(None);
    format!("/portal/webhooks/{}{}", webhook.id, query(&[("q", &q)]))
}

/// The ids of the webhook's deliveries that match, up to the most, and whether there are more.
async fn matching(
    console: &Console,
    customer: &Customer,
    webhook: WebhookId,
    wanted: &SearchQuery,
) -> Result<(Vec<DeliveryId>, bool)> {
    let mut all = AllThatMatch::new(wanted);
    while !all.is_over() {
        let filter = all.next_page()?;
        // The permit is given back with each page.
        let acting = customer.acting().await?;
        let api = State(console.reads.clone());
        let page = deliveries::list_of_webhook(acting, api, Id(webhook), Parameters(filter));
        all.add(&page.await?.0);
    }
    Ok(all.found())
}

/// Says how many before anything is done.
fn ask(
    customer: &Customer,
    webhook: &WebhookView,
    wanted: &SearchQuery,
    (many, more): (usize, bool),
) -> Html<String> {
    let q = wanted.without(None);
    let back = back(webhook, wanted);
    let number = count(many as i64, "delivery");
    let content = html! {
        div class="head" { div { h1 { "Retry " (number) "?" } } }
        div class="stack form" {
            p {
                @if q.is_empty() { "All deliveries of this webhook" } @else { "Deliveries that match " code { (line(&q)) } }
                ": " (number)
                @if more && many < MOST { ". The search stopped after 2 s, and there may be older ones" }
                @else if more { ", and there are more. This many are retried at a time, the newest first" }
                "."
            }
            p class="soft" {
                "Finished ones begin again, delivered ones too: your endpoint gets them once more, with the same "
                code { "webhook-id" } ". Those that wait are sent now."
            }
            form class="row" method="post" action="/portal/deliveries/retry" {
                (csrf(&customer.by))
                input type="hidden" name="all" value="1";
                input type="hidden" name="sure" value="1";
                input type="hidden" name="q" value=(q);
                input type="hidden" name="webhook" value=(webhook.id);
                a class="btn" href=(back) { "Leave them" }
                @if many > 0 { button class="btn main-btn" { (icon("retry")) "Retry " (number) } }
            }
        }
    };
    let above = [
        ("/portal".to_owned(), html! { "Your webhooks" }),
        (
            format!("/portal/webhooks/{}", webhook.id),
            line(name(webhook)),
        ),
    ];
    page(customer, "Retry", &above, &content)
}
