//! One delivery in the portal: what comes next, and each attempt with its verdict.

use axum::extract::State;
use axum::response::Html;
use maud::{Markup, html};
use shared::ids::DeliveryId;

use crate::api::access::auth::Reading;
use crate::api::deliveries;
use crate::api::deliveries::view::{Attempt, Delivery, DeliveryDetail};
use crate::api::http::request::Id;
use crate::api::webhooks::view::find;
use crate::console::failure::{self, Failure};
use crate::console::fields::segment;
use crate::console::frame::csrf;
use crate::console::icons::icon;
use crate::console::moments::{at, count, exactly, took};
use crate::console::pages::webhooks::name;
use crate::console::parts::{code, headers, id as shown_id, panel, payload};
use crate::console::portal::ended::Result;
use crate::console::portal::said;
use crate::console::portal::scope::Customer;
use crate::console::portal::shell::live_page;
use crate::console::portal::webhook::{above, events, path};
use crate::console::text::line;
use crate::console::visit::{Poll, Reads};
use crate::console::watch::Snapshot;
use crate::console::words;

/// How many attempts are shown, the latest ones.
const SHOWN_ATTEMPTS: usize = 12;

/// `GET /portal/deliveries/{id}`
pub async fn show(customer: Customer, Id(id): Id<DeliveryId>) -> Result<Html<String>> {
    let (shown, webhook) = customer.delivery(id).await?;
    let delivery = &shown.delivery;
    let title = delivery.event_type.to_string();
    let event = format!("/portal/events/{}", segment(&delivery.event_id.to_string()));
    let content = html! {
        div class="head" {
            div {
                h1 { (line(&title)) }
                p class="sub" {
                    span data-live="state" { (state(delivery)) }
                    span { "event " a href=(event) { (line(delivery.event_id.to_string())) } }
                    (shown_id(&delivery.id.to_string()))
                }
            }
            @if customer.may_change() { (again(&customer, delivery)) }
        }
        div data-live="next" { (what_comes_next(delivery)) }
        section class="stack near" data-live="attempts" { (attempts(&shown)) }
    };
    let above = [above(), (path(&webhook), line(name(&webhook)))];
    let events = match delivery.finished_at {
        Some(_) => None,
        None => Some(events(&[("part", "delivery"), ("id", &id.to_string())])),
    };
    Ok(live_page(
        &customer,
        &title,
        &above,
        events.as_deref(),
        &content,
    ))
}

/// The live parts. Attempts have bodies, so they are read only if the delivery's row has changed.
pub async fn live(
    poll: &Poll,
    id: DeliveryId,
    before: Option<&Snapshot>,
) -> failure::Result<Snapshot> {
    let (row, webhook) = {
        let _permit: Reading = poll.reading().await?;
        let row = deliveries::find(&poll.api, &poll.tenant, id).await?;
        let webhook = find(&poll.api, &poll.tenant, row.webhook_id).await?;
        (row, webhook)
    };
    if webhook.operational {
        return Err(Failure::not_found("there is no such delivery"));
    }
    let mark = format!(
        "{} {} {:?} {:?}",
        row.status, row.attempts, row.next_attempt_reason, row.next_attempt_at
    );
    if let Some(before) = before.filter(|before| before.mark == mark) {
        return Ok(before.clone());
    }
    let acting = poll.reading().await?;
    let api = State(poll.api.clone());
    let shown = deliveries::show(acting, api, Id(id)).await?.0;
    let part = |name: &str, content: Markup| (name.to_owned(), content.into_string());
    Ok(Snapshot {
        parts: vec![
            part("state", state(&shown.delivery)),
            part("next", what_comes_next(&shown.delivery)),
            part("attempts", attempts(&shown)),
        ],
        mark,
        is_over: shown.delivery.finished_at.is_some(),
        ..Snapshot::default()
    })
}

fn state(delivery: &Delivery) -> Markup {
    words::delivery(&delivery.status, delivery.next_attempt_reason.as_deref()).strong()
}

fn again(customer: &Customer, delivery: &Delivery) -> Markup {
    html! {
        form method="post" action={ "/portal/deliveries/" (delivery.id) "/retry" } {
            (csrf(&customer.by))
            button class="btn main-btn" data-key="r" {
                (icon("retry"))
                @if delivery.finished_at.is_some() { "Retry" } @else { "Send now" }
            }
        }
    }
}

fn what_comes_next(delivery: &Delivery) -> Markup {
    let word = words::delivery(&delivery.status, delivery.next_attempt_reason.as_deref());
    html! {
        p {
            (word.sentence)
            @if let Some(next) = delivery.next_attempt_at { " The next attempt is at " (at(next.0)) "." }
            // The state of one that is held says why already.
            @if let Some(reason) = delivery.next_attempt_reason.as_deref().filter(|reason| *reason != "paused") {
                " " (said::reason(reason))
            }
        }
    }
}

fn attempts(shown: &DeliveryDetail) -> Markup {
    let all = &shown.attempt_log;
    html! {
        h2 { (count(shown.delivery.attempts.into(), "attempt")) }
        @for (n, attempt) in all.iter().enumerate().rev().take(SHOWN_ATTEMPTS) {
            (attempted(attempt, n + 1 == all.len()))
        }
        @if all.len() > SHOWN_ATTEMPTS { p class="small soft" { "Earlier attempts aren't shown." } }
    }
}

/// Without the address that was connected to, and without the text of the failure: they are the
/// operator's.
fn attempted(attempt: &Attempt, is_latest: bool) -> Markup {
    let title = format!("Attempt {}", attempt.n);
    let hint = html! { (words::answer(attempt.response_code, 1)) " " (took(attempt.duration_ms.into())) " · " (exactly(attempt.started_at.0)) };
    // The webhook's timeout may have changed since: of a timeout, the duration says how long it was.
    let waited_ms = u64::try_from(attempt.duration_ms).ok();
    let verdict = said::verdict(&attempt.outcome, attempt.response_code, waited_ms);
    let content = html! {
        (said::shown(&verdict))
        @if let Some(next) = attempt.next_attempt_at {
            p {
                "The attempt after it was planned for " (at(next.0)) "."
                @if let Some(reason) = &attempt.next_attempt_reason { " " (said::reason(reason)) }
            }
        }
        // Only the latest attempt shows its bodies, because they are large.
        @if is_latest {
            h3 { "Sent" @if attempt.composed { " " span class="soft small" { "(composed again)" } } }
            @if let Some(all) = &attempt.request_headers { (code(&headers(all))) }
            @if let Some(body) = &attempt.request_body { (code(&payload(body))) }
            h3 { "Answered" }
            @if let Some(all) = &attempt.response_headers { (code(&headers(all))) }
            @if let Some(body) = &attempt.response_body { (code(&payload(body))) }
            @if attempt.response_code.is_none() { p class="soft" { "There is no answer." } }
        } @else {
            p class="soft small" { "What was sent and answered is shown of the latest attempt." }
        }
    };
    panel(&title, &hint, is_latest, &content)
}
