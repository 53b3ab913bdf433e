//! A webhook's log: its attempts, newest first, with the changes of the webhook between them.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;
use shared::clock;
use shared::ids::{DeliveryId, WebhookId, first_uuid_at};
use time::{Duration, OffsetDateTime};

use crate::api::access::auth::Reading;
use crate::api::changes::{self, Change, ChangeAction, ChangeQuery};
use crate::api::http::request::Parameters;
use crate::console::failure::Result;
use crate::console::fields::query;
use crate::console::moments::{count, exactly, took};
use crate::console::pages::webhook::{self, Tab, page};
use crate::console::parts::{empty, pager, unreadable};
use crate::console::state::Console;
use crate::console::text::{excerpt, line};
use crate::console::visit::{At, Poll, Reads, Visit};
use crate::console::watch::Snapshot;
use crate::console::words;

/// How many deliveries are looked at for a page, and how many lines it has.
const DELIVERIES: i64 = 200;
const LINES: usize = 90;
/// How far the clocks of replicas may be apart.
const CLOCKS: Duration = Duration::seconds(600);

#[derive(Deserialize, Default)]
pub struct Params {
    cursor: Option<String>,
}

/// One attempt, as a line of the log.
struct Attempted {
    delivery: DeliveryId,
    n: i16,
    at: OffsetDateTime,
    event_type: String,
    took_ms: i32,
    code: Option<i16>,
    outcome: String,
    error: Option<String>,
    answer: Option<Vec<u8>>,
}

/// `GET /console/{tenant}/webhooks/{id}/log`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    At(webhook): At<WebhookId>,
    Query(params): Query<Params>,
) -> Result<Html<String>> {
    let webhook = visit.webhook(webhook).await?;
    let before: Option<DeliveryId> = params
        .cursor
        .as_deref()
        .and_then(|cursor| cursor.parse().ok());
    let is_live = before.is_none();
    let (attempts, next) = attempts(&console, &visit, webhook.id, before).await?;
    let changes = match before {
        None => changed(&console, &visit, webhook.id).await,
        Some(_) => Ok(Vec::new()),
    };
    let path = visit.path(&format!("/webhooks/{}/log", webhook.id));
    let content = html! {
        div class="row apart" {
            span class="small soft" {
                "Attempts of the latest deliveries, newest on top."
                @if is_live { span class="js-only" { " " kbd { "Space" } " holds the log. " b data-held {} } }
            }
        }
        @if let Err(unread) = &changes { (unreadable("The history of changes", unread.is_too_slow())) }
        @if attempts.is_empty() && changes.as_ref().is_ok_and(Vec::is_empty) {
            (empty("Nothing happened yet", &html! { "Each attempt and each change is a line here." }, &html! {}))
        } @else {
            section class="panel" {
                div class="pad" {
                    ol class="tail" aria-label="Log" data-live=[is_live.then_some("tail")] {
                        (lines(&visit.path(""), &attempts, changes.as_deref().unwrap_or_default()))
                    }
                }
            }
        }
        (pager(
            &html! { (count(attempts.len() as i64, "attempt")) " shown" },
            next.map(|next| format!("{path}{}", query(&[("cursor", &next.to_string())]))).as_deref(),
        ))
    };
    Ok(page(&visit, &webhook, Tab::Log, &content))
}

/// The live parts: those of the webhook's head, and the latest lines.
pub async fn live(console: &Console, poll: &Poll, id: WebhookId) -> Result<Snapshot> {
    let mut snapshot = webhook::live(poll, id).await?;
    let (attempts, _) = attempts(console, poll, id, None).await?;
    let changes = changed(console, poll, id).await?;
    let tail = lines(&poll.path(""), &attempts, &changes).into_string();
    if let Some(parts) = &mut snapshot.for_managers {
        parts.push(("tail".to_owned(), tail.clone()));
    }
    snapshot.parts.push(("tail".to_owned(), tail));
    Ok(snapshot)
}

/// Of the latest deliveries of the webhook, and after which delivery there is more.
async fn attempts(
    console: &Console,
    reader: &impl Reads,
    webhook: WebhookId,
    before: Option<DeliveryId>,
) -> Result<(Vec<Attempted>, Option<DeliveryId>)> {
    let _permit: Reading = reader.reading().await?;
    let client = reader.api(console).pool.get().await?;
    // As in `api::deliveries::search`: rows are compared by all columns of the index that is meant,
    // and future days aren't planned for.
    let statement = client
        .prepare_cached(
            "-- attempts_of_webhook\n\
             SELECT d.id, d.event_type, a.n, a.started_at, a.duration_ms, a.status_code, a.outcome, a.error, \
                 substring(a.response_body FOR 200) AS answer \
             FROM (SELECT id, event_type FROM deliveries \
                 WHERE (webhook_id, id) >= ($1, '00000000-0000-0000-0000-000000000000') \
                   AND (webhook_id, id) < ($1, $2) AND webhook_id >= $1 AND webhook_id <= $1 AND id < $2 \
                 ORDER BY webhook_id DESC, id DESC LIMIT $3) d \
             LEFT JOIN LATERAL (SELECT * FROM attempts WHERE delivery_id = d.id ORDER BY n DESC LIMIT 10) a ON true \
             ORDER BY d.id DESC, a.n DESC",
        )
        .await?;
    let to_come = first_uuid_at(clock::now() + CLOCKS);
    let before = before.map_or(to_come, |before| before.uuid().min(to_come));
    let rows = client
        .query(&statement, &[&webhook, &before, &DELIVERIES])
        .await?;
    let mut deliveries: Vec<DeliveryId> = rows.iter().map(|row| row.get("id")).collect();
    deliveries.dedup();
    let next = deliveries
        .last()
        .copied()
        .filter(|_| deliveries.len() as i64 == DELIVERIES);
    let tried = rows
        .iter()
        .filter(|row| row.get::<_, Option<i16>>("n").is_some());
    let mut attempts: Vec<_> = tried
        .map(|row| Attempted {
            delivery: row.get("id"),
            n: row.get("n"),
            at: row.get("started_at"),
            event_type: row.get("event_type"),
            took_ms: row.get("duration_ms"),
            code: row.get("status_code"),
            outcome: row.get("outcome"),
            error: row.get("error"),
            answer: row.get("answer"),
        })
        .collect();
    attempts.sort_by_key(|attempt| std::cmp::Reverse(attempt.at));
    attempts.truncate(LINES);
    Ok((attempts, next))
}

/// The latest changes of a webhook, newest first.
pub async fn changed(
    console: &Console,
    reader: &impl Reads,
    webhook: WebhookId,
) -> Result<Vec<Change>> {
    let wanted = ChangeQuery {
        object: Some(webhook.to_string()),
        limit: Some(50),
        cursor: None,
    };
    let acting = reader.reading().await?;
    let page = changes::list(
        acting,
        State(reader.api(console).clone()),
        Parameters(wanted),
    )
    .await?;
    Ok(page.0.changes)
}

fn lines(base: &str, attempts: &[Attempted], changes: &[Change]) -> Markup {
    let mut all: Vec<(OffsetDateTime, Markup)> = Vec::new();
    all.extend(
        attempts
            .iter()
            .map(|attempt| (attempt.at, attempt_line(base, attempt))),
    );
    let oldest = attempts.last().map(|attempt| attempt.at);
    let within = changes.iter().filter(|change| {
        oldest.is_none_or(|oldest| change.at.0 >= oldest) || attempts.len() < LINES
    });
    all.extend(within.map(|change| (change.at.0, change_line(change))));
    all.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    html! { @for (_, line) in &all { (line) } }
}

fn attempt_line(base: &str, attempt: &Attempted) -> Markup {
    let path = format!(
        "{base}/deliveries/{}?attempt={n}#a{n}",
        attempt.delivery,
        n = attempt.n
    );
    let answer = attempt.answer.as_deref().map(String::from_utf8_lossy);
    html! {
        li {
            span class="soft" { (exactly(attempt.at)) }
            span { (words::answer(attempt.code, attempt.n)) }
            span class="soft" { (took(attempt.took_ms.into())) }
            a href=(path) { (excerpt(&attempt.event_type, 60)) }
            span class="soft cut" {
                @match (&attempt.error, &answer) {
                    (Some(error), _) => (excerpt(error, 120)),
                    (None, Some(answer)) => (excerpt(answer.trim(), 120)),
                    (None, None) => (line(&attempt.outcome)),
                }
            }
        }
    }
}

fn change_line(change: &Change) -> Markup {
    let what = match change.action {
        ChangeAction::Created => "Made",
        ChangeAction::Changed => "Changed",
        ChangeAction::Deleted => "Deleted",
    };
    html! {
        li class="mark" {
            (exactly(change.at.0)) " " (what) " by " (line(&change.actor))
            @if let (ChangeAction::Changed, Some(after)) = (change.action, &change.after) {
                ": "
                @for (n, (name, value)) in after.iter().enumerate() {
                    @if n > 0 { ", " }
                    (line(name)) " "
                    @if let Some(before) = change.before.as_ref().and_then(|before| before.get(name)) { (excerpt(&before.to_string(), 80)) " → " }
                    (excerpt(&value.to_string(), 80))
                }
            }
        }
    }
}
