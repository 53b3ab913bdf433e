//! The form for a new replay, which shows the number of deliveries before it starts.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use serde::Deserialize;
use shared::clock;
use shared::ids::WebhookId;
use time::{Duration, OffsetDateTime};

use crate::api::access::role::Role;
use crate::api::deliveries::all_replays::{self, NewBackfill};
use crate::api::deliveries::replays::{self, DryRun, NewReplay, ReplayAnswer};
use crate::api::webhooks::stats::Health;
use crate::api::webhooks::view::WebhookView;
use crate::console::failure::{Failure, Result};
use crate::console::fields::Fields;
use crate::console::frame::{Page, Section, csrf};
use crate::console::moments::{at, count, span};
use crate::console::pages::webhooks::{all, name};
use crate::console::parts::{field, note, reasons};
use crate::console::query::moment;
use crate::console::state::Console;
use crate::console::text::{line, plain};
use crate::console::visit::{ManagerVisit, Posted, Visitor};
use crate::invalid::{Gathered, Invalid};
use crate::timestamp::Timestamp;

/// The states that can begin again, and what people call them.
const STATES: [(&str, &str); 4] = [
    ("failed", "Failed"),
    ("expired", "Expired"),
    ("cancelled", "Cancelled"),
    ("delivered", "Delivered"),
];
/// Rates to choose from.
const RATES: [(&str, &str); 3] = [("2", "gently, 2 /s"), ("10", "10 /s"), ("100", "100 /s")];

/// What the form for a new replay has in it: from a link, or as it was sent.
#[derive(Debug, Clone, Default)]
struct Form {
    webhook: String,
    kind: String,
    status: Vec<String>,
    since: String,
    until: String,
    types: String,
    code: String,
    rate: String,
    ramp: bool,
}

impl Form {
    fn read(fields: &Fields) -> Self {
        let mut form = Self {
            webhook: fields.text("webhook").trim().to_owned(),
            kind: fields.text("kind").to_owned(),
            status: fields.all("status").map(str::to_owned).collect(),
            since: fields.text("since").trim().to_owned(),
            until: fields.text("until").trim().to_owned(),
            types: fields.text("types").trim().to_owned(),
            code: fields.text("code").trim().to_owned(),
            rate: fields
                .filled("other_rate")
                .or(fields.filled("rate"))
                .unwrap_or("10")
                .to_owned(),
            ramp: fields.has("ramp"),
        };
        if form.status.is_empty() {
            form.status = vec!["failed".to_owned(), "expired".to_owned()];
        }
        form
    }

    /// Since when, until when, and at which rate. Where one is none, another stands for it.
    fn times_and_rate(&self, wrong: &mut Gathered) -> (Timestamp, Option<Timestamp>, Option<i32>) {
        let now = clock::now();
        let time = |field: &str, text: &str| {
            let bound = "must be a time, like 3h, yesterday or 2026-11-26 07:29 (UTC)";
            moment(text, now).ok_or_else(|| Invalid::new(field, bound))
        };
        let since = wrong.keep(time("since", &self.since));
        let until = match self.until.as_str() {
            "" | "now" => None,
            text => wrong.keep(time("until", text)),
        };
        let rate = self.rate.parse();
        let bound = "must be a number of deliveries a second";
        let rate = wrong.keep(rate.map_err(|_| Invalid::new("rate", bound)));
        let since = since.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        (Timestamp(since), until.map(Timestamp), rate)
    }

    fn replay(&self, dry_run: bool) -> Result<NewReplay> {
        let mut wrong = Gathered::default();
        let (since, until, rate) = self.times_and_rate(&mut wrong);
        let list = |text: &str| {
            let parts = text.split([',', ' ']).filter(|part| !part.is_empty());
            Some(parts.map(str::to_owned).collect::<Vec<_>>()).filter(|parts| !parts.is_empty())
        };
        let new = NewReplay {
            since,
            until,
            status: Some(self.status.clone()),
            event_types: list(&self.types),
            response_code: list(&self.code),
            outcome: None,
            ramp: self.ramp,
            dry_run,
            rate,
        };
        if !wrong.is_empty() {
            // What the API would refuse is said at once.
            wrong.take(new.clone().check().map(drop));
        }
        Ok(wrong.finish(new)?)
    }

    fn backfill(&self, dry_run: bool) -> Result<NewBackfill> {
        let mut wrong = Gathered::default();
        let (since, until, rate) = self.times_and_rate(&mut wrong);
        Ok(wrong.finish(NewBackfill {
            since,
            until,
            dry_run,
            rate,
            ramp: self.ramp,
        })?)
    }

    /// Counts, or starts.
    async fn send(
        &self,
        console: &Console,
        visit: &ManagerVisit,
        dry_run: bool,
    ) -> Result<ReplayAnswer> {
        // It counts among the tenant's requests until the answer is there.
        let acting = visit.acting::<{ Role::Manager as u8 }, false>().await?;
        let (api, tenant) = (&*console.api, &acting.tenant);
        if self.webhook.is_empty() {
            return Ok(all_replays::begin_all(api, tenant, self.replay(dry_run)?).await?);
        }
        let webhook: WebhookId = self
            .webhook
            .parse()
            .map_err(|_| Failure::not_found(format!("there is no webhook {}", self.webhook)))?;
        Ok(match self.kind.as_str() {
            "backfill" => {
                let new = self.backfill(dry_run)?;
                all_replays::begin_backfill(api, tenant, webhook, new).await?
            }
            _ => replays::begin(api, tenant, webhook, self.replay(dry_run)?).await?,
        })
    }
}

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
        rate: "10".to_owned(),
        ramp: true,
    };
    if form.since.is_empty() {
        form.since = "24h".to_owned();
    }
    if form.status.is_empty() {
        form.status = vec!["failed".to_owned(), "expired".to_owned()];
    }
    page(&console, &visit, &form).await
}

/// `POST /console/{tenant}/replays`: counts again, or starts.
pub async fn create(
    State(console): State<Arc<Console>>,
    visit: ManagerVisit,
    Posted(fields): Posted,
) -> Result<std::result::Result<Redirect, Html<String>>> {
    let form = Form::read(&fields);
    if !fields.has("go") {
        return Ok(Err(page(&console, &visit, &form).await?));
    }
    Ok(match form.send(&console, &visit, false).await? {
        ReplayAnswer::Started(replay) => Ok(Redirect::to(
            &visit.path(&format!("/replays/{}", replay.id)),
        )),
        // It wasn't a dry run.
        ReplayAnswer::Counted(_) => Ok(Redirect::to(&visit.path("/replays"))),
    })
}

async fn page(console: &Console, visit: &ManagerVisit, form: &Form) -> Result<Html<String>> {
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
        div class="cols wide" {
            (the_form(&visit.by, &visit.path("/replays"), form, &webhooks, counted.as_ref().ok().and_then(Option::as_ref)))
            aside class="stack stick" {
                @match &counted {
                    Ok(Some(counted)) => (how_many(counted, form)),
                    Ok(None) => "",
                    Err(wrong) => (note("slow", "warn", &html! { "That can't be counted." }, wrong, &html! {})),
                }
                @if let Some(webhook) = chosen.filter(|webhook| matches!(webhook.health, Health::Failing)) {
                    (note("slow", "warn", &html! { "The endpoint is failing." },
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

fn how_many(counted: &DryRun, form: &Form) -> Markup {
    let more = if counted.counted { "" } else { " and more" };
    let rate: f64 = form.rate.parse().unwrap_or(10.0);
    let takes = Duration::seconds((counted.matching as f64 / rate.max(0.1)).ceil() as i64);
    html! {
        section class="panel" data-live="dry-run" {
            header {
                h2 { (counted.matching) (more) @if form.kind == "backfill" { " would be sent" } @else { " would begin again" } }
                span class="soft small" { "counted, nothing sent" }
            }
            dl class="kv pad" {
                @if !counted.by_type.is_empty() {
                    dt { "By type" }
                    dd { @for of in counted.by_type.iter().take(10) { code { (line(&of.event_type)) } " " (of.matching) br; } }
                }
                @if let Some(oldest) = counted.oldest { dt { "Oldest" } dd { (at(oldest.0)) } }
                @if counted.matching > 0 { dt { "Takes about" } dd { (span(takes)) " at " (line(&form.rate)) " a second" } }
            }
        }
    }
}

fn the_form(
    by: &Visitor,
    path: &str,
    form: &Form,
    webhooks: &[WebhookView],
    counted: Option<&DryRun>,
) -> Markup {
    let is_backfill = form.kind == "backfill";
    let many = counted.map_or(0, |counted| counted.matching);
    let known_rate = RATES.iter().any(|(rate, _)| *rate == form.rate);
    html! {
        form class="form" method="post" action=(path) {
            (csrf(by))
            div class="pair" {
                (field("rw", &html! { "Webhook" }, None, None, &|id, _| html! {
                    select id=(id) name="webhook" {
                        option value="" selected[form.webhook.is_empty()] { "all, one after the other" }
                        @for webhook in webhooks {
                            option value=(webhook.id) selected[webhook.id.to_string() == form.webhook] { (plain(name(webhook))) }
                        }
                    }
                }))
                (field("rk", &html! { "What" }, None, None, &|id, _| html! {
                    select id=(id) name="kind" {
                        option value="replay" selected[!is_backfill] { "its finished deliveries" }
                        option value="backfill" selected[is_backfill] { "events from before it was made" }
                    }
                }))
            }
            @if !is_backfill {
                fieldset class="field" {
                    legend { "In which state" }
                    div class="row" {
                        @for (state, words) in STATES {
                            label { input type="checkbox" name="status" value=(state) checked[form.status.iter().any(|s| s == state)]; " " (words) }
                        }
                    }
                }
            }
            div class="field" {
                div class="pair" {
                    div class="field" { label for="rf" { "Events from" } input id="rf" name="since" value=(plain(&form.since)) maxlength="64" aria-describedby="rh"; }
                    div class="field" { label for="ru" { "until before" } input id="ru" name="until" value=(plain(&form.until)) placeholder="now" maxlength="64" aria-describedby="rh"; }
                }
                p class="soft small" id="rh" { "UTC, like 2026-11-26 07:29; " code { "3h" } " and " code { "yesterday" } " are understood, too." }
            }
            @if !is_backfill {
                div class="pair" {
                    (field("rt", &html! { "Event types" }, None, None, &|id, _| html! {
                        input id=(id) name="types" value=(plain(&form.types)) placeholder="all; order.*, user.created" maxlength="2048" spellcheck="false";
                    }))
                    (field("rc", &html! { "Last answered" }, None, None, &|id, _| html! {
                        input id=(id) name="code" value=(plain(&form.code)) placeholder="no matter; 5xx, none" maxlength="256" spellcheck="false";
                    }))
                }
            }
            fieldset class="field" {
                legend { "How fast" }
                div class="row" {
                    span class="seg" { @for (rate, words) in RATES {
                        label { input type="radio" name="rate" value=(rate) checked[rate == form.rate]; " " (words) }
                    } }
                    label class="row" {
                        span class="sr" { "Other rate" }
                        input name="other_rate" size="6" inputmode="numeric" placeholder="1 to 1,000" maxlength="4"
                            value=[(!known_rate).then(|| plain(&form.rate))];
                    }
                }
                label class="check" {
                    input type="checkbox" name="ramp" checked[form.ramp];
                    " Start slowly"
                    span class="hint" { "2 a second, and a little more every second while the endpoint takes them. Back to half when it answers 429 or 5xx, or not at all." }
                }
            }
            div class="row" {
                button class="btn main-btn" name="go" value="1" {
                    @if is_backfill { "Send " } @else { "Replay " } (count(many, "delivery"))
                }
                button class="btn quiet" { "Count again" }
            }
        }
    }
}
