//! One delivery: what happened, attempt by attempt, what it waits for, and what comes next.

pub mod attempt;

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use serde::Deserialize;
use shared::ids::DeliveryId;

use attempt::{Endpoint, attempt_shown};

use crate::api::access::auth::Reading;
use crate::api::access::role::Role;
use crate::api::deliveries;
use crate::api::deliveries::retries;
use crate::api::deliveries::view::{Attempt, Delivery, DeliveryDetail, Wait};
use crate::api::http::problem::{self, Problem};
use crate::api::http::request::Id;
use crate::api::webhooks::view::{self, WebhookView};
use crate::console::failure::Result;
use crate::console::fields::segment;
use crate::console::frame::{Page, Section, csrf};
use crate::console::icons::icon;
use crate::console::moments::{at, count, exactly, span, took};
use crate::console::pages::webhooks::{name, pattern_for};
use crate::console::parts::id;
use crate::console::state::Console;
use crate::console::text::{excerpt, line, short};
use crate::console::visit::{At, ManagerVisit, Poll, Reads, Visit};
use crate::console::watch::Snapshot;
use crate::console::words;

/// How many attempts, the latest ones, the timeline and the page have.
const SHOWN_ATTEMPTS: usize = 12;
/// The live part with the attempts.
const ATTEMPTS_PART: &str = "panels";

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
    let shown = deliveries::show(acting, api, Id(delivery)).await?.0;
    let delivery = &shown.delivery;
    let webhook = not_deleted(held.webhook(delivery.webhook_id).await)?;
    let endpoint = Endpoint::new(&console.api, &visit.tenant, webhook.as_ref());
    let is_chosen = |attempt: &Attempt| params.attempt == attempt.n.to_string();
    let chosen = shown.attempt_log.iter().position(is_chosen);
    // Who looks at one attempt goes on looking at it. Others see the next one as it comes.
    let follows = chosen.is_none().then_some(ATTEMPTS_PART);
    let signature = visit.path("/signature");
    let signature = Some(signature.as_str()).filter(|_| visit.by.may(Role::Manager));
    let content = html! {
        (head(&visit, delivery, webhook.as_ref()))
        div class="cols" {
            section {
                div class="row apart" {
                    h2 { "What happened" }
                    span class="small soft num" data-live="attempts" { (count(delivery.attempts.into(), "attempt")) }
                }
                div data-live="timeline" { (timeline(&shown, webhook.as_ref())) }
            }
            section class="stack near" data-attempts data-live=[follows] { (attempts(&shown, endpoint, chosen, signature)) }
        }
    };
    let title = format!(
        "{} to {}",
        delivery.event_type,
        to(delivery, webhook.as_ref())
    );
    let page = Page::of_tenant(&visit, Section::Deliveries, title);
    Ok(match delivery.finished_at {
        Some(_) => page.show(&content),
        None => page
            .live("delivery", &[("id", &delivery.id.to_string())])
            .show(&content),
    })
}

/// A deleted webhook is gone, its log stays.
fn not_deleted(found: problem::Result<WebhookView>) -> Result<Option<WebhookView>> {
    match found {
        Ok(webhook) => Ok(Some(webhook)),
        Err(problem) if problem.status() == StatusCode::NOT_FOUND => Ok(None),
        Err(problem) => Err(problem.into()),
    }
}

/// The latest attempts, one of them with its request and its answer: the last one, unless
/// another was chosen.
/// `signature`: the path of the signature check, for visitors who may use it.
fn attempts(
    shown: &DeliveryDetail,
    endpoint: Endpoint<'_>,
    chosen: Option<usize>,
    signature: Option<&str>,
) -> Markup {
    let (all, id) = (&shown.attempt_log, shown.delivery.id);
    let chosen = chosen.unwrap_or(all.len().saturating_sub(1));
    html! {
        @if all.is_empty() {
            h2 { "Attempts" }
            div class="empty" { h2 { "Not tried yet" } p { (why_it_waits(&shown.delivery)) } }
        } @else {
            @for (n, attempt) in all.iter().enumerate().rev() {
                @if n == chosen || n + SHOWN_ATTEMPTS >= all.len() {
                    (attempt_shown(attempt, all, endpoint, (n == chosen, id), signature))
                }
            }
        }
    }
}

/// The live parts: its state, its timeline and its attempts. Attempts have bodies, so they are
/// read only if the delivery's row has changed.
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
    let webhook = {
        let _permit: Reading = poll.reading().await?;
        not_deleted(view::find(&poll.api, &poll.tenant, row.webhook_id).await)?
    };
    let acting = poll.reading().await?;
    let shown = deliveries::show(acting, State(poll.api.clone()), Id(id))
        .await?
        .0;
    let delivery = &shown.delivery;
    let endpoint = Endpoint::new(&poll.api, &poll.tenant, webhook.as_ref());
    let mut snapshot = Snapshot {
        mark,
        is_over: delivery.finished_at.is_some(),
        ..Snapshot::default()
    };
    let many = html! { (count(delivery.attempts.into(), "attempt")) };
    snapshot.add("state", &state(delivery));
    snapshot.add("attempts", &many);
    snapshot.add("timeline", &timeline(&shown, webhook.as_ref()));
    // Viewers may not use the signature check, so their part has no link to it.
    let mut managers = snapshot.parts.clone();
    let signature = poll.path("/signature");
    let theirs = attempts(&shown, endpoint, None, Some(&signature));
    managers.push((ATTEMPTS_PART.to_owned(), theirs.into_string()));
    snapshot.add(ATTEMPTS_PART, &attempts(&shown, endpoint, None, None));
    snapshot.for_managers = Some(managers);
    Ok(snapshot)
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

fn timeline(shown: &DeliveryDetail, webhook: Option<&WebhookView>) -> Markup {
    let delivery = &shown.delivery;
    let (attempts, waits) = (&shown.attempt_log, &shown.waits);
    let attempts = &attempts[attempts.len().saturating_sub(SHOWN_ATTEMPTS)..];
    let waits = &waits[waits.len().saturating_sub(SHOWN_ATTEMPTS)..];
    let nothing = html! {};
    html! {
        ol class="line" {
            (point("", "event", &accepted(delivery, webhook), &exactly(delivery.queued_at.0), &nothing))
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
            @if let Some(expires) = shown.expires_at {
                @let what = html! { span class="soft" { "Expires at " (at(expires.0)) ", whatever comes" } };
                (point("", "expired", &what, &nothing, &nothing))
            }
        }
    }
}

/// Why the delivery was made: the webhook's pattern that matches the event. The log doesn't keep
/// which pattern it was. So it is looked for among the patterns that the webhook has now.
fn accepted(delivery: &Delivery, webhook: Option<&WebhookView>) -> Markup {
    let pattern = webhook.and_then(|webhook| pattern_for(webhook, delivery.event_type.as_str()));
    let changed = webhook.is_some_and(|webhook| webhook.updated_at.0 > delivery.queued_at.0);
    html! {
        b { "Accepted" }
        @if let Some(pattern) = pattern {
            " " span class="soft" {
                "and matched by " code class="break" { (excerpt(pattern, 80)) }
                @if changed { ", as its webhook is now" }
            }
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
