//! One delivery: what happened, attempt by attempt, what it waits for, and what comes next.

pub mod attempt;

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use serde::Deserialize;
use shared::ids::DeliveryId;

use attempt::attempt_shown;

use crate::api::access::auth::Reading;
use crate::api::access::role::Role;
use crate::api::deliveries::retries;
use crate::api::deliveries::view::{Attempt, Delivery, DeliveryDetail, Wait};
use crate::api::http::request::Id;
use crate::api::webhooks::view::WebhookView;
use crate::api::{deliveries, http::problem::Problem};
use crate::console::failure::Result;
use crate::console::fields::segment;
use crate::console::frame::{Page, Section, csrf};
use crate::console::icons::icon;
use crate::console::moments::{at, count, exactly, span, took};
use crate::console::pages::webhooks::name;
use crate::console::parts::id;
use crate::console::state::Console;
use crate::console::text::{line, short};
use crate::console::visit::{At, ManagerVisit, Poll, Reads, Visit};
use crate::console::watch::Snapshot;
use crate::console::words;

/// How many attempts, the latest ones, the timeline and the page have.
const SHOWN_ATTEMPTS: usize = 12;

#[derive(Deserialize)]
pub struct Params {
    /// The attempt whose request and answer are shown; the latest one without it.
    #[serde(default)]
    attempt: String,
}

/// `GET /console/{tenant}/deliveries/{id}?attempt=`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    At(delivery): At<DeliveryId>,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    // Until the page is written: it has the bodies of up to a hundred attempts.
    let held = visit.hold().await?;
    let acting = held.acting()?;
    let api = State(console.reads.clone());
    let DeliveryDetail {
        delivery,
        attempt_log,
        waits,
        ..
    } = deliveries::show(acting, api, Id(delivery)).await?.0;
    // A deleted webhook is gone, its log stays.
    let webhook = match held.webhook(delivery.webhook_id).await {
        Ok(webhook) => Some(webhook),
        Err(problem) if problem.status() == axum::http::StatusCode::NOT_FOUND => None,
        Err(problem) => return Err(problem.into()),
    };
    let is_chosen = |attempt: &Attempt| params.attempt == attempt.n.to_string();
    let chosen = attempt_log
        .iter()
        .position(is_chosen)
        .unwrap_or(attempt_log.len().saturating_sub(1));
    let content = html! {
        (head(&visit, &delivery, webhook.as_ref()))
        div class="cols" {
            section {
                div class="row apart" {
                    h2 { "What happened" }
                    span class="small soft num" data-live="attempts" { (count(delivery.attempts.into(), "attempt")) }
                }
                div data-live="timeline" { (timeline(&delivery, &attempt_log, &waits)) }
            }
            section class="stack near" data-attempts {
                @if attempt_log.is_empty() {
                    h2 { "Attempts" }
                    div class="empty" { h2 { "Not tried yet" } p { (why_it_waits(&delivery)) } }
                } @else {
                    @for (n, attempt) in attempt_log.iter().enumerate().rev() {
                        @if n == chosen || n + SHOWN_ATTEMPTS >= attempt_log.len() {
                            (attempt_shown(attempt, &attempt_log, webhook.as_ref(), (n == chosen, delivery.id)))
                        }
                    }
                }
            }
        }
    };
    let title = format!(
        "{} to {}",
        delivery.event_type,
        to(&delivery, webhook.as_ref())
    );
    let page = Page::of_tenant(&visit, Section::Deliveries, title);
    Ok(match delivery.finished_at {
        Some(_) => page.show(&content),
        None => page
            .live("delivery", &[("id", &delivery.id.to_string())])
            .show(&content),
    })
}

/// The live parts: its state and its timeline. Attempts have bodies, so they are read only if the
/// delivery's row has changed.
pub async fn live(poll: &Poll, id: DeliveryId, before: Option<&Snapshot>) -> Result<Snapshot> {
    let row = {
        let _permit: Reading = poll.reading().await?;
        deliveries::find(&poll.api, &poll.tenant, id).await?
    };
    let mark = format!(
        "{} {} {:?} {:?}",
        row.status, row.attempts, row.next_attempt_reason, row.next_attempt_at
    );
    if let Some(before) = before.filter(|before| before.mark == mark) {
        return Ok(before.clone());
    }
    let acting = poll.reading().await?;
    let api = State(poll.api.clone());
    let DeliveryDetail {
        delivery,
        attempt_log,
        waits,
        ..
    } = deliveries::show(acting, api, Id(id)).await?.0;
    let attempts = html! { (count(delivery.attempts.into(), "attempt")) };
    Ok(Snapshot {
        parts: vec![
            ("state".to_owned(), state(&delivery).into_string()),
            ("attempts".to_owned(), attempts.into_string()),
            (
                "timeline".to_owned(),
                timeline(&delivery, &attempt_log, &waits).into_string(),
            ),
        ],
        mark,
        is_over: delivery.finished_at.is_some(),
        ..Snapshot::default()
    })
}

fn to(delivery: &Delivery, webhook: Option<&WebhookView>) -> String {
    match webhook {
        Some(webhook) => name(webhook),
        None => short(&delivery.webhook_id.to_string()),
    }
}

fn head(visit: &Visit, delivery: &Delivery, webhook: Option<&WebhookView>) -> Markup {
    let finished = delivery.finished_at.is_some();
    let event = visit.path(&format!(
        "/events/{}",
        segment(&delivery.event_id.to_string())
    ));
    html! {
        div class="head" {
            div {
                h1 {
                    (line(delivery.event_type.as_str())) " to "
                    @match webhook {
                        Some(webhook) => a href=(visit.path(&format!("/webhooks/{}", webhook.id))) { (line(name(webhook))) },
                        None => "a deleted webhook",
                    }
                }
                p class="sub" {
                    span data-live="state" { (state(delivery)) }
                    span { "event " a href=(event) { (line(delivery.event_id.to_string())) } }
                    (id(&delivery.id.to_string()))
                }
            }
            @if visit.by.may(Role::Manager) {
                form method="post" action=(visit.path(&format!("/deliveries/{}/retry", delivery.id))) {
                    (csrf(&visit.by))
                    button class="btn main-btn" data-key="r" {
                        (icon("retry"))
                        @if finished { "Retry " } @else { "Send now " }
                        kbd aria-hidden="true" { "r" }
                    }
                }
            }
        }
    }
}

fn state(delivery: &Delivery) -> Markup {
    let word = words::delivery(&delivery.status, delivery.next_attempt_reason.as_deref());
    let finished = delivery.finished_at.is_some();
    word.saying(
        &html! { span { (line(word.word)) @if !finished { ": " (waits_in_short(delivery)) } } },
    )
}

fn waits_in_short(delivery: &Delivery) -> Markup {
    html! {
        @if let Some(reason) = &delivery.next_attempt_reason { (words::reason_in_short(reason)) }
        @if let Some(next) = delivery.next_attempt_at { ", at " (at(next.0)) }
    }
}

fn why_it_waits(delivery: &Delivery) -> Markup {
    html! {
        @match &delivery.next_attempt_reason {
            Some(reason) => (words::reason(reason)),
            None => (words::delivery(&delivery.status, None).sentence),
        }
    }
}

/// One point of the timeline.
fn point(class: &str, symbol: &str, what: &Markup, when: &Markup, more: &Markup) -> Markup {
    html! {
        li class=(class) {
            span class="dot" { (icon(symbol)) }
            div class="what" { (what) " " (when) }
            @if !more.0.is_empty() { p { (more) } }
        }
    }
}

fn timeline(delivery: &Delivery, attempts: &[Attempt], waits: &[Wait]) -> Markup {
    let attempts = &attempts[attempts.len().saturating_sub(SHOWN_ATTEMPTS)..];
    let waits = &waits[waits.len().saturating_sub(SHOWN_ATTEMPTS)..];
    let nothing = html! {};
    let accepted = html! { b { "Accepted" } };
    html! {
        ol class="line" {
            (point("", "event", &accepted, &exactly(delivery.queued_at.0), &nothing))
            @if attempts.first().is_some_and(|attempt| attempt.n > 1) {
                (point("gap", "clock", &html! { span class="soft" { "Earlier attempts aren't shown" } }, &nothing, &nothing))
            }
            (put_off(waits, 0))
            @for (at, attempt) in attempts.iter().enumerate() {
                (attempted(attempt))
                (put_off(waits, attempt.n))
                @if let Some(next) = attempts.get(at + 1) { (waited(attempt, next)) }
            }
            (what_comes(delivery))
        }
    }
}

/// What it waited for after so many attempts, without an attempt of its own.
fn put_off(waits: &[Wait], after: i16) -> Markup {
    html! {
        @for wait in waits.iter().filter(|wait| wait.after_attempt == after) {
            @let what = html! {
                span {
                    "Put off"
                    @if let Some(until) = wait.until { " " (span((until.0 - wait.first_at.0).abs())) }
                } " "
                code class="soft" { (line(&wait.reason)) }
                @if wait.times > 1 { " " span class="soft" { (wait.times) " times" } }
            };
            (point("slow gap", "pause", &what, &exactly(wait.first_at.0), &words::reason(&wait.reason)))
        }
    }
}

fn attempted(attempt: &Attempt) -> Markup {
    let tone = if attempt.outcome == "success" {
        "good"
    } else {
        "fail"
    };
    let symbol = if attempt.outcome == "success" {
        "check"
    } else {
        "x"
    };
    let what = html! {
        a href={ "?attempt=" (attempt.n) "#a" (attempt.n) } { b { "Attempt " (attempt.n) } } " "
        (words::answer(attempt.response_code, attempt.n)) " "
        span class="soft" { "in " (took(attempt.duration_ms.into())) }
    };
    point(
        tone,
        symbol,
        &what,
        &exactly(attempt.started_at.0),
        &html! {},
    )
}

fn waited(attempt: &Attempt, next: &Attempt) -> Markup {
    let waited = span(next.started_at.0 - attempt.started_at.0);
    let what = html! {
        span { "Waited " (waited) } " "
        @if let Some(reason) = &attempt.next_attempt_reason { code class="soft" { (line(reason)) } }
    };
    point("gap", "clock", &what, &html! {}, &html! {})
}

fn what_comes(delivery: &Delivery) -> Markup {
    let word = words::delivery(&delivery.status, delivery.next_attempt_reason.as_deref());
    let nothing = html! {};
    if let Some(finished) = delivery.finished_at {
        let tone = if word.tone == "none" { "" } else { word.tone };
        return point(
            tone,
            word.icon,
            &html! { b { (line(word.word)) } },
            &exactly(finished.0),
            &html! { (word.sentence) },
        );
    }
    let what = html! {
        b { "Attempt " (delivery.attempts + 1) } " "
        @if let Some(next) = delivery.next_attempt_at { span class="soft" { "at the earliest " (at(next.0)) } }
        @if let Some(reason) = &delivery.next_attempt_reason { " " code class="soft" { (line(reason)) } }
    };
    point(
        "next gap",
        "retry",
        &what,
        &nothing,
        &why_it_waits(delivery),
    )
}

/// `POST /console/{tenant}/deliveries/{id}/retry`
pub async fn retry(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    At(delivery): At<DeliveryId>,
) -> Result<Redirect> {
    let acting = visit.acting().await?;
    let answer = retries::retry(acting, State(console.api.clone()), Id(delivery)).await;
    let _: (_, _) = answer.map_err(|problem: Problem| problem)?;
    Ok(Redirect::to(
        &visit.path(&format!("/deliveries/{delivery}")),
    ))
}
