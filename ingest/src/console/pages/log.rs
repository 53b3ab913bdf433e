//! A webhook's log: its attempts, its waits and outages, and its changes, newest on top.
//!
//! A page has whole deliveries: the latest attempts and waits of each. The link "Older" goes on
//! after the last of them, so no delivery is skipped and none is shown twice. A change belongs to
//! the page whose deliveries are of its time. Within a page the lines are in the order of time.

pub mod lines;
pub mod outages;

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::Html;
use maud::{Markup, html};
use shared::ids::{DeliveryId, WebhookId};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::api::access::auth::Reading;
use crate::api::changes::{self, Change, ChangePage, ChangeQuery};
use crate::api::deliveries::search::end_of_log;
use crate::api::deliveries::walk::{Span, Wanted, walk};
use crate::api::deliveries::webhook_log::entries::{
    WebhookAttempt, WebhookWait, attempts_of, waits_of,
};
use crate::api::deliveries::webhook_log::paging::Part;
use crate::api::http::request::Parameters;
use crate::api::webhooks::outages::find;
use crate::console::failure::Result;
use crate::console::fields::{Fields, query};
use crate::console::icons::icon;
use crate::console::moments::count;
use crate::console::pages::log::lines::{attempt_lines, change_line, in_order, wait_line};
use crate::console::pages::log::outages::{Down, is_failed_probe, together};
use crate::console::pages::webhook;
use crate::console::pages::webhook::tabs::{Tab, live_page};
use crate::console::parts::{empty, pager, unreadable};
use crate::console::state::Console;
use crate::console::visit::{At, Poll, Reads, Visit};
use crate::console::watch::Snapshot;

/// A page ends with the delivery that has its fiftieth attempt or wait.
const LINES: i64 = 50;
/// The most attempts of one delivery on a page, and the most waits.
const OF_EACH: i32 = 8;
/// The most changes between the lines of a page, and the most lines of outages.
const CHANGES: usize = 15;
/// As many as the history keeps of one object, and more.
const ALL_CHANGES: i64 = 250;
/// How many outages are looked at: those of two dispatchers, and more.
const OUTAGES: i64 = 250;

/// Which kinds of lines are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    attempts: bool,
    waits: bool,
    changes: bool,
}

impl Shown {
    const ALL: Self = Self {
        attempts: true,
        waits: true,
        changes: true,
    };

    /// The kinds that are named. If none is, all are meant.
    pub fn named<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut shown = Self {
            attempts: false,
            waits: false,
            changes: false,
        };
        for name in names.flat_map(|names| names.split(',')) {
            match name {
                "attempts" => shown.attempts = true,
                "waits" => shown.waits = true,
                "changes" => shown.changes = true,
                _ => {}
            }
        }
        match shown.kinds().iter().any(|(_, _, is_shown)| *is_shown) {
            true => shown,
            false => Self::ALL,
        }
    }

    fn kinds(self) -> [(&'static str, &'static str, bool); 3] {
        [
            ("attempts", "Attempts", self.attempts),
            ("waits", "Waits", self.waits),
            ("changes", "Changes", self.changes),
        ]
    }

    /// The names of the kinds, for a link; empty: all.
    pub fn names(self) -> String {
        if self == Self::ALL {
            return String::new();
        }
        let shown = self.kinds().into_iter().filter(|(_, _, shown)| *shown);
        let names: Vec<_> = shown.map(|(name, _, _)| name).collect();
        names.join(",")
    }

    fn only_changes(self) -> bool {
        !self.attempts && !self.waits
    }
}

/// What a page of the log has.
#[derive(Default)]
struct Log {
    attempts: Vec<WebhookAttempt>,
    waits: Vec<WebhookWait>,
    /// The latest outages.
    downs: Vec<Down>,
    changes: Vec<Change>,
    /// There are more changes of this time than a page has.
    has_more_changes: bool,
    /// Where the next page begins.
    next: Option<String>,
    /// The time of the page's deliveries: from the first, and before the second. `None`: no bound.
    time: (Option<OffsetDateTime>, Option<OffsetDateTime>),
}

impl Log {
    /// Whether what happened then belongs to this page.
    fn has(&self, at: OffsetDateTime) -> bool {
        let (from, before) = self.time;
        from.is_none_or(|from| at >= from) && before.is_none_or(|before| at < before)
    }
}

/// `GET /console/{tenant}/webhooks/{id}/log?show=&cursor=`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    At(webhook): At<WebhookId>,
    RawQuery(asked): RawQuery,
) -> Result<Html<String>> {
    // A box that is checked is sent, so a name can be there several times.
    let fields = Fields::parse(asked.unwrap_or_default().as_bytes()).unwrap_or_default();
    let shown = Shown::named(fields.all("show"));
    let cursor = fields.filled("cursor");
    let webhook = visit.webhook(webhook).await?;
    let id = webhook.id.to_string();
    let path = visit.path(&format!("/webhooks/{id}/log"));
    let names = shown.names();
    let is_live = cursor.is_none();
    let content = match read(&console, &visit, webhook.id, shown, cursor).await {
        Err(unread) => html! {
            (head(&path, shown, is_live))
            (unreadable("The log", unread.is_too_slow()))
        },
        Ok(log) => {
            let lines = lines(&visit.path(""), &path, shown, &log);
            let next = log.next.as_deref();
            let older =
                next.map(|next| format!("{path}{}", query(&[("show", &names), ("cursor", next)])));
            html! {
                (head(&path, shown, is_live))
                @if lines.is_empty() && is_live && older.is_none() && shown == Shown::ALL {
                    (empty("Nothing happened yet", &html! { "Each attempt, each wait and each change is a line here." }, &html! {}))
                } @else {
                    section class="panel" {
                        div class="pad" {
                            ol class="tail" aria-label="Log" data-live=[is_live.then_some("tail")] {
                                @for line in &lines { (line) }
                            }
                            @if lines.is_empty() { (nothing(older.is_some())) }
                        }
                    }
                }
                (pager(&html! { (count(lines.len() as i64, "line")) " shown" }, older.as_deref()))
            }
        }
    };
    let (part, more) = match is_live {
        true => ("log", ("q", names.as_str())),
        false => ("webhook", ("q", "")),
    };
    let page = (Tab::Log, part, &[("id", id.as_str()), more][..]);
    Ok(live_page(&visit, &webhook, page, &content))
}

/// What is above the lines: the button that holds them, and which kinds are shown.
fn head(path: &str, shown: Shown, is_live: bool) -> Markup {
    html! {
        div class="row apart" {
            form class="row" method="get" action=(path) data-auto {
                @if is_live {
                    button class="btn js-only" type="button" data-hold aria-pressed="false" {
                        (icon("pause")) "Hold the log " kbd { "Space" }
                    }
                }
                @for (name, words, is_shown) in shown.kinds() {
                    label { input type="checkbox" name="show" value=(name) checked[is_shown]; " " (words) }
                }
                noscript { button class="btn tiny" { "Show" } }
            }
            span class="small soft" {
                "The latest deliveries, newest on top. "
                @if is_live { b data-held {} noscript { "Reload for newer lines." } }
            }
        }
    }
}

fn nothing(has_more: bool) -> Markup {
    html! {
        p class="soft" {
            @if has_more { "There is nothing of this kind among the 5,000 deliveries that were looked at. Older ones may have something." }
            @else { "There is nothing of this kind." }
        }
    }
}

/// The live parts: those of the webhook's head, and the latest lines. `shown`: [`Shown::names`].
pub async fn live(console: &Console, poll: &Poll, id: WebhookId, shown: &str) -> Result<Snapshot> {
    let mut snapshot = webhook::live(poll, id).await?;
    let shown = Shown::named([shown].into_iter());
    let log = read(console, poll, id, shown, None).await?;
    let path = poll.path(&format!("/webhooks/{id}/log"));
    let lines = lines(&poll.path(""), &path, shown, &log);
    let tail = html! { @for line in &lines { (line) } }.into_string();
    if let Some(parts) = &mut snapshot.for_managers {
        parts.push(("tail".to_owned(), tail.clone()));
    }
    snapshot.parts.push(("tail".to_owned(), tail));
    Ok(snapshot)
}

/// One page. `cursor`: the last delivery of the page before; of changes alone, their own cursor.
async fn read(
    console: &Console,
    reader: &impl Reads,
    webhook: WebhookId,
    shown: Shown,
    cursor: Option<&str>,
) -> Result<Log> {
    if shown.only_changes() {
        let page = changes_of(console, reader, webhook, LINES, cursor).await?;
        return Ok(Log {
            changes: page.changes,
            next: page.next_cursor,
            ..Log::default()
        });
    }
    let before: Option<DeliveryId> = cursor.and_then(|cursor| cursor.parse().ok());
    let mut log = entries(console, reader, webhook, shown, before).await?;
    if shown.changes {
        let limit = match before {
            None => CHANGES as i64 + 1,
            Some(_) => ALL_CHANGES,
        };
        let mut changes = changes_of(console, reader, webhook, limit, None)
            .await?
            .changes;
        changes.retain(|change| log.has(change.at.0));
        log.has_more_changes = changes.len() > CHANGES;
        changes.truncate(CHANGES);
        log.changes = changes;
    }
    Ok(log)
}

/// The attempts and waits of the next deliveries.
async fn entries(
    console: &Console,
    reader: &impl Reads,
    webhook: WebhookId,
    shown: Shown,
    before: Option<DeliveryId>,
) -> Result<Log> {
    let _permit: Reading = reader.reading().await?;
    let client = reader.api(console).pool.get().await?;
    let wanted = Wanted {
        attempts: shown.attempts,
        waits: shown.waits,
        of_each: OF_EACH,
        entries: LINES,
    };
    let end = end_of_log();
    let span = Span {
        from: Uuid::nil(),
        to: before.map_or(end, |before| before.uuid().min(end)),
        begun: None,
    };
    let walked = walk(&client, webhook, &wanted, &span).await?;
    let (part, mut log) = (Part::latest(OF_EACH), Log::default());
    if shown.attempts {
        log.attempts = attempts_of(&client, &walked.deliveries, &part).await?;
    }
    if shown.waits {
        log.waits = waits_of(&client, &walked.deliveries, &part).await?;
    }
    log.downs = together(&find(&client, webhook, None, OUTAGES).await?);
    let edge = walked.edge.map(DeliveryId::from_uuid);
    log.time = (
        edge.map(DeliveryId::accepted_at),
        before.map(DeliveryId::accepted_at),
    );
    log.next = edge.map(|edge| edge.to_string());
    Ok(log)
}

/// The latest changes of a webhook, newest first.
pub async fn changed(
    console: &Console,
    reader: &impl Reads,
    webhook: WebhookId,
) -> Result<Vec<Change>> {
    let page = changes_of(console, reader, webhook, 50, None).await?;
    Ok(page.changes)
}

async fn changes_of(
    console: &Console,
    reader: &impl Reads,
    webhook: WebhookId,
    limit: i64,
    cursor: Option<&str>,
) -> Result<ChangePage> {
    let wanted = ChangeQuery {
        object: Some(webhook.to_string()),
        limit: Some(limit),
        cursor: cursor.map(str::to_owned),
    };
    let acting = reader.reading().await?;
    let api = State(reader.api(console).clone());
    Ok(changes::list(acting, api, Parameters(wanted)).await?.0)
}

/// The lines, newest first. `base`: of the tenant's pages; `path`: of this one.
fn lines(base: &str, path: &str, shown: Shown, log: &Log) -> Vec<Markup> {
    let is_probe = |attempt: &WebhookAttempt| is_failed_probe(&log.downs, attempt);
    let mut all = attempt_lines(base, &log.attempts, is_probe);
    all.extend(log.waits.iter().map(|wait| wait_line(base, wait)));
    all.extend(log.changes.iter().map(change_line));
    // Outages are why most deliveries wait, so one box shows both.
    let downs = log.downs.iter().filter(|_| shown.waits).rev();
    let mut downs = downs
        .flat_map(outages::lines)
        .filter(|(at, _)| log.has(*at));
    all.extend(downs.by_ref().take(CHANGES));
    let has_more_outages = downs.next().is_some();
    let mut lines = in_order(all);
    if has_more_outages {
        lines.push(html! { li class="mark" { "There were more outages in this time. The API lists them all." } });
    }
    if log.has_more_changes {
        lines.push(html! {
            li class="mark" {
                a href={ (path) (query(&[("show", "changes")])) } { "There are more changes of this time" }
            }
        });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_names_the_kinds_that_are_shown_unless_all_are() {
        for (names, expected) in [
            (vec![], ""),
            (vec!["attempts", "waits", "changes"], ""),
            (vec!["nothing"], ""),
            (vec!["waits"], "waits"),
            (vec!["changes,attempts"], "attempts,changes"),
        ] {
            let shown = Shown::named(names.iter().copied());
            assert_eq!(shown.names(), expected, "{names:?}");
            assert_eq!(Shown::named([expected].into_iter()), shown);
        }
    }
}
