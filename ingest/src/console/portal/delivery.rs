//! One delivery in the portal, attempt by attempt, and sending again.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use shared::ids::{DeliveryId, WebhookId};

use crate::api::deliveries;
use crate::api::deliveries::retries::{self, NewRetry};
use crate::api::deliveries::view::{Attempt, Delivery};
use crate::api::http::request::{Body, Id, MAX_PAGE, Parameters};
use crate::console::frame::csrf;
use crate::console::icons::icon;
use crate::console::moments::{at, count, exactly, took};
use crate::console::parts::{code, headers, id as shown_id, panel, payload};
use crate::console::portal::ended::{Ended, Result};
use crate::console::portal::scope::Customer;
use crate::console::portal::shell::page;
use crate::console::query::{OF_DELIVERIES, SearchQuery, of_deliveries};
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::Posted;
use crate::console::words;

/// How many attempts are shown, the latest ones.
const SHOWN_ATTEMPTS: usize = 20;

/// `GET /portal/deliveries/{id}`
pub async fn show(customer: Customer, Id(id): Id<DeliveryId>) -> Result<Html<String>> {
    let shown = customer.delivery(id).await?;
    let delivery = &shown.delivery;
    let word = words::delivery(&delivery.status, delivery.next_attempt_reason.as_deref());
    let title = delivery.event_type.to_string();
    let content = html! {
        div class="head" {
            div {
                h1 { (line(&title)) }
                p class="sub" {
                    (word.strong())
                    span { "event " (line(delivery.event_id.to_string())) }
                    (shown_id(&delivery.id.to_string()))
                }
            }
            @if customer.may_change() { (again(&customer, delivery)) }
        }
        p { (word.sentence) " " (next(delivery)) }
        section class="stack near" {
            h2 { (count(delivery.attempts.into(), "attempt")) }
            @for (n, attempt) in shown.attempt_log.iter().enumerate().rev().take(SHOWN_ATTEMPTS) {
                (attempted(attempt, n + 1 == shown.attempt_log.len()))
            }
        }
    };
    let above = [
        ("/portal".to_owned(), html! { "Your webhooks" }),
        (
            format!("/portal/webhooks/{}", delivery.webhook_id),
            html! { "Deliveries" },
        ),
    ];
    Ok(page(&customer, &title, &above, &content))
}

fn again(customer: &Customer, delivery: &Delivery) -> Markup {
    html! {
        form method="post" action={ "/portal/deliveries/" (delivery.id) "/retry" } {
            (csrf(&customer.by))
            button class="btn main-btn" { (icon("retry")) @if delivery.finished_at.is_some() { "Retry" } @else { "Send now" } }
        }
    }
}

fn next(delivery: &Delivery) -> Markup {
    html! {
        @if let Some(next) = delivery.next_attempt_at { "The next attempt is at " (at(next.0)) ". " }
        @if let Some(reason) = &delivery.next_attempt_reason { (words::reason_in_short(reason)) }
    }
}

/// Without the address that was connected to: that is the operator's.
fn attempted(attempt: &Attempt, open: bool) -> Markup {
    let title = format!("Attempt {}", attempt.n);
    let hint = html! { (words::answer(attempt.response_code, 1)) " " (took(attempt.duration_ms.into())) " · " (exactly(attempt.started_at.0)) };
    panel(
        &title,
        &hint,
        open,
        &html! {
            @if let Some(error) = &attempt.error { p class="bad" { (line(error)) } }
            // Of the latest one only: bodies are large.
            @if !open { p class="soft small" { "What was sent and answered is shown of the latest attempt." } } @else {
            h3 { "Sent" @if attempt.composed { " " span class="soft small" { "(composed again)" } } }
            @if let Some(all) = &attempt.request_headers { (code(&headers(all))) }
            @if let Some(body) = &attempt.request_body { (code(&payload(body))) }
            h3 { "Answered" }
            @if let Some(all) = &attempt.response_headers { (code(&headers(all))) }
            @if let Some(body) = &attempt.response_body { (code(&payload(body))) }
            }
        },
    )
}

/// `POST /portal/deliveries/{id}/retry`
pub async fn retry(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Id(id): Id<DeliveryId>,
) -> Result<Redirect> {
    customer.delivery(id).await?;
    let acting = customer.acting().await?;
    let _: (_, _) = retries::retry(acting, State(console.api.clone()), Id(id)).await?;
    Ok(Redirect::to(&format!("/portal/deliveries/{id}")))
}

/// `POST /portal/deliveries/retry`: those that were selected, of webhooks that the link covers.
pub async fn retry_many(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Posted(fields): Posted,
) -> Result<Redirect> {
    let acting = customer.acting().await?;
    // Where it came from, if that is one of ours.
    let back = fields.text("back").strip_prefix("/portal/webhooks/");
    let webhook = back.and_then(|rest| rest.parse::<WebhookId>().ok());
    let webhook = webhook.filter(|webhook| customer.covers(*webhook));
    let webhook = webhook.ok_or(Ended::Nothing)?;
    let ids: Vec<_> = match fields.has("all") {
        true => all_that_match(&console, &customer, webhook, fields.text("q")).await?,
        false => fields.all("id").take(250).map(str::to_owned).collect(),
    };
    let ids = customer.covered(&ids).await?;
    if !ids.is_empty() {
        let body = Body(NewRetry { ids });
        let _: axum::Json<_> =
            retries::retry_many(acting, State(console.api.clone()), body).await?;
    }
    Ok(Redirect::to(&format!("/portal/webhooks/{webhook}")))
}

/// The latest of one webhook's deliveries that pass the filter, at most 250.
async fn all_that_match(
    console: &Console,
    customer: &Customer,
    webhook: WebhookId,
    q: &str,
) -> Result<Vec<String>> {
    let (mut filter, wrong) = of_deliveries(&SearchQuery::parse(q, &OF_DELIVERIES), None);
    if wrong.is_some() {
        return Err(Ended::Nothing);
    }
    filter.limit = Some(MAX_PAGE);
    filter.webhook_id = None;
    let api = State(console.api.clone());
    let acting = customer.acting().await?;
    let page = deliveries::list_of_webhook(acting, api, Id(webhook), Parameters(filter))
        .await?
        .0;
    let found = page
        .deliveries
        .iter()
        .map(|delivery| delivery.id.to_string());
    Ok(found.collect())
}
