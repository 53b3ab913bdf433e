//! The form for a new replay, which shows the number of deliveries before it starts.

mod form;
mod markup;

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{Html, IntoResponse, Redirect, Response};
use maud::html;
use serde::Deserialize;
use shared::stats::Subject;
use time::macros::format_description;
use time::{Duration, OffsetDateTime};

use crate::api::deliveries::replays::ReplayAnswer;
use crate::api::http::problem::Problem;
use crate::api::webhooks::health::Health;
use crate::console::failure::{Failure, Result};
use crate::console::frame::{Page, Section};
use crate::console::pages::webhooks::all;
use crate::console::parts::{note, reasons};
use crate::console::state::Console;
use crate::console::visit::{ManagerVisit, Posted};

use form::Form;
use markup::{how_many, the_form};

#[derive(Deserialize, Default)]
pub struct Prefilled {
    #[serde(default)]
    webhook: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    since: String,
    #[serde(default)]
    until: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    types: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    outcome: String,
}

/// `GET /console/{tenant}/replays/new?webhook=&since=&status=`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    Query(from): Query<Prefilled>,
) -> Result<Html<String>> {
    let status = from.status.split(',').filter(|state| !state.is_empty());
    let mut form = Form {
        webhook: from.webhook,
        kind: from.kind,
        status: status.map(str::to_owned).collect(),
        since: from.since,
        until: from.until,
        types: from.types,
        code: from.code,
        outcome: from.outcome,
        rate: "10".to_owned(),
        ramp: true,
    };
    if form.since.is_empty() {
        form.since = since_it_failed(&console, &visit, &form.webhook)
            .await
            .unwrap_or_else(|| "24h".to_owned());
    }
    if form.status.is_empty() {
        form.status = vec!["failed".to_owned(), "expired".to_owned()];
    }
    page(&console, &visit, &form, None).await
}

/// Since when every attempt at the webhook's endpoint has failed, to the minute before; `None`: it
/// takes deliveries, or that can't be told.
async fn since_it_failed(console: &Console, visit: &ManagerVisit, webhook: &str) -> Option<String> {
    let webhook = visit.webhook(webhook.parse().ok()?).await.ok()?;
    let client = console.reads.pool.get().await.ok()?;
    let statement = client
        .prepare_cached("-- failing_since\nSELECT since FROM troubles WHERE subject = $1")
        .await
        .ok()?;
    let subject = Subject::Webhook(webhook.id).to_string();
    let troubled = client.query_opt(&statement, &[&subject]).await.ok()?;
    let troubled = troubled.map(|row| row.get::<_, OffsetDateTime>("since"));
    let down = webhook.down_since.map(|since| since.0);
    let since = [troubled, down].into_iter().flatten().min()?;
    let minute = format_description!("[year]-[month]-[day] [hour]:[minute]");
    (since - Duration::MINUTE).format(minute).ok()
}

/// `POST /console/{tenant}/replays`: counts again, or starts.
pub async fn create(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    Posted(fields): Posted,
) -> Result<Response> {
    let form = Form::read(&fields);
    if !fields.has("go") {
        return Ok(page(&console, &visit, &form, None).await?.into_response());
    }
    let to = match form.send(&console, &visit, false).await {
        Ok(ReplayAnswer::Started(replay)) => format!("/replays/{}", replay.id),
        // It wasn't a dry run.
        Ok(ReplayAnswer::Counted(_)) => "/replays".to_owned(),
        // What was entered stays in the form.
        Err(Failure::Problem(problem)) if problem.status().is_client_error() => {
            let page = page(&console, &visit, &form, Some(&problem)).await?;
            return Ok((problem.status(), page).into_response());
        }
        Err(failure) => return Err(failure),
    };
    Ok(Redirect::to(&visit.path(&to)).into_response())
}

/// `refused`: why the replay wasn't started.
async fn page(
    console: &Console,
    visit: &ManagerVisit,
    form: &Form,
    refused: Option<&Problem>,
) -> Result<Html<String>> {
    let (webhooks, _) = all(console, visit, None).await?;
    let counted = match form.send(console, visit, true).await {
        Ok(ReplayAnswer::Counted(counted)) => Ok(Some(counted)),
        Ok(ReplayAnswer::Started(_)) => Ok(None),
        // What was typed is wrong: its sentence says what would be right.
        Err(Failure::Problem(problem)) if problem.status().is_client_error() => {
            Err(reasons(&problem))
        }
        Err(failure) => return Err(failure),
    };
    let chosen = webhooks
        .iter()
        .find(|webhook| webhook.id.to_string() == form.webhook);
    let content = html! {
        div class="head" { div {
            h1 { "Replay" }
            p class="sub" { "What is finished begins again: new attempts, the same event ids, so receivers know a repetition." }
        } }
        @if let Some(refused) = refused {
            (note("fail", "fail", &html! { "Not started." }, &reasons(refused), &html! {}))
        }
        div class="cols wide" {
            (the_form(&visit.by, &visit.path("/replays"), form, &webhooks, counted.as_ref().ok().and_then(Option::as_ref)))
            aside class="stack stick" {
                @match &counted {
                    Ok(Some(counted)) => (how_many(counted, form)),
                    Ok(None) => "",
                    Err(wrong) => (note("slow", "warn", &html! { "That can't be counted." }, wrong, &html! {})),
                }
                @if let Some(webhook) = chosen.filter(|webhook| webhook.down_since.is_some() || matches!(webhook.health, Health::Failing)) {
                    (note("slow", "warn", &html! { @if webhook.down_since.is_some() { "The endpoint is down." } @else { "The endpoint is failing." } },
                        &html! {
                            "What begins again waits"
                            @if webhook.waiting > 0 { " with the " (webhook.waiting) " others" }
                            ". Better: wait until it answers."
                        }, &html! {}))
                }
            }
        }
    };
    Ok(Page::of_tenant(visit, Section::Replays, "New replay").show(&content))
}
