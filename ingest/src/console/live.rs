//! Live parts of pages, by server-sent events: `GET /console/{tenant}/live?part=…`.
//!
//! The page that is open says which of its parts change ([`Page::live`](super::frame::Page::live)).
//! Each of them comes as a message `part` with its name and its HTML, made by the same functions
//! as the page's: first all of them, then those that have changed. All viewers of a subject share
//! one look at PostgreSQL ([`watch`](super::watch)); between two looks no connection is held.
//!
//! A stream ends after [`STREAM`], because the server bounds how long an answer may take; the
//! browser comes again. It ends at once when its session does, when its subject can't be read
//! (the browser comes again and is told why), and when the process stops.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, HeaderName};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use futures_util::stream::unfold;
use futures_util::{FutureExt, Stream};
use serde::Deserialize;
use serde_json::json;
use shared::ids::{DeliveryId, EventUid, Tenant};
use uuid::Uuid;

use crate::api::access::role::Role;
use crate::api::http::problem::Problem;
use crate::console::failure::{Failure, Result};
use crate::console::pages::{
    deliveries, delivery, events, health, log, overview, replays, statistics, webhook, webhooks,
};
use crate::console::portal::{delivery as portal_delivery, webhook as portal_webhook};
use crate::console::session::{self, Session};
use crate::console::state::Console;
use crate::console::visit::{Operation, Poll, Visit, Visitor};
use crate::console::watch::{
    Latest, LivePart, OF_A_SESSION, PATIENCE, Snapshot, Subject, Unread, Watcher,
};

/// How long a stream lasts: less than `serve` lets an answer take.
const STREAM: Duration = Duration::from_secs(45);
/// How often it is looked up whether the session goes on.
const SESSION: Duration = Duration::from_secs(5);
/// How often something is sent, so that both sides notice a connection that is gone.
const ALIVE: Duration = Duration::from_secs(15);
/// How soon a browser comes again.
const AGAIN: Duration = Duration::from_secs(1);
/// The most replays of one page.
const REPLAYS: usize = 5;

#[derive(Deserialize)]
pub struct Params {
    pub part: String,
    /// Of the webhook, the delivery, or the replays.
    #[serde(default)]
    pub id: String,
    /// The list's filter, or the kinds of the log's lines.
    #[serde(default)]
    pub q: String,
    /// The newest delivery or event on the page.
    #[serde(default)]
    after: String,
    #[serde(default)]
    window: String,
}

impl Params {
    fn newest(&self) -> Option<Uuid> {
        let delivery = self.after.parse().map(DeliveryId::uuid);
        delivery
            .or_else(|_| self.after.parse().map(EventUid::uuid))
            .ok()
    }

    fn live_part(&self) -> Option<LivePart> {
        Some(match self.part.as_str() {
            // Whoever means the same window shares it, however they say it.
            "overview" => LivePart::Overview(statistics::WindowParams::new(&self.window).name()),
            "first-steps" => LivePart::FirstSteps,
            "webhooks" => LivePart::Webhooks,
            "webhook" => LivePart::Webhook(self.id.parse().ok()?),
            "statistics" => LivePart::Statistics(
                self.id.parse().ok()?,
                statistics::WindowParams::new(&self.window).name(),
            ),
            "log" => {
                let shown = log::Shown::named([self.q.as_str()].into_iter());
                LivePart::Log(self.id.parse().ok()?, shown.names())
            }
            "delivery" => LivePart::Delivery(self.id.parse().ok()?),
            "deliveries" => {
                let webhook = Some(self.id.as_str()).filter(|id| !id.is_empty());
                let webhook = webhook.map(str::parse).transpose().ok()?;
                LivePart::Deliveries(webhook, deliveries::normal(&self.q))
            }
            "events" => LivePart::Events(events::normal(&self.q)),
            "replays" => {
                let ids = self.id.split(',').take(REPLAYS).map(str::parse);
                LivePart::Replays(ids.collect::<std::result::Result<_, _>>().ok()?)
            }
            _ => return None,
        })
    }
}

/// `GET /console/{tenant}/live?part=`
pub async fn of_tenant(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Query(params): Query<Params>,
) -> Result<Response> {
    let part = params.live_part().ok_or_else(nothing)?;
    begin(console, Some(visit.tenant), visit.by, part, &params).await
}

/// `GET /console/_/live?part=health`
pub async fn of_all(
    State(console): State<Arc<Console>>,
    operation: Operation,
    Query(params): Query<Params>,
) -> Result<Response> {
    if params.part != "health" {
        return Err(nothing());
    }
    let part = LivePart::Health(statistics::WindowParams::new(&params.window).name());
    begin(console, None, operation.by, part, &params).await
}

fn unread(Unread(status): Unread) -> Failure {
    match status {
        StatusCode::NOT_FOUND => nothing(),
        _ => Problem::unavailable("the live parts can't be read just now").into(),
    }
}

fn nothing() -> Failure {
    Failure::not_found("there are no such live parts")
}

/// Begins a stream. Whoever calls it has checked that the visitor may see this part.
///
/// # Errors
/// If there are too many streams, or the part can't be read.
pub async fn begin(
    console: Arc<Console>,
    tenant: Option<Tenant>,
    by: Visitor,
    part: LivePart,
    params: &Params,
) -> Result<Response> {
    let subject = Subject { tenant, part };
    let watcher = console.watching.begin(by.session.cookie_hash(), subject);
    let watcher = watcher.ok_or_else(|| Problem::too_many_at_once(OF_A_SESSION))?;
    let now = Instant::now();
    let mut viewer = Viewer {
        console,
        watcher,
        may_change: by.may(Role::Manager),
        session: by.session,
        after: params.newest(),
        until: now + STREAM,
        looked_up: now,
        sent: HashMap::new(),
        to_send: VecDeque::new(),
        is_over: false,
    };
    // Before the answer begins: what can't be read, or isn't there, is answered as such.
    let first = match viewer.watcher.watched.latest() {
        Some(latest) => latest,
        None => viewer.read().await.map_err(unread)?,
    };
    viewer.take(&first);
    viewer.count().await;
    let events = Sse::new(events(viewer)).keep_alive(KeepAlive::new().interval(ALIVE));
    // For nginx, which would keep what is sent until there is more.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), "no");
    Ok(([(CACHE_CONTROL, "no-store"), unbuffered], events).into_response())
}

/// Somebody who has a page open.
struct Viewer {
    console: Arc<Console>,
    watcher: Watcher,
    session: Arc<Session>,
    may_change: bool,
    /// The newest delivery or event on their page.
    after: Option<Uuid>,
    until: Instant,
    /// When it was looked up whether the session goes on.
    looked_up: Instant,
    /// The parts as they have them.
    sent: HashMap<String, String>,
    to_send: VecDeque<Event>,
    /// Nothing more comes.
    is_over: bool,
}

fn events(viewer: Viewer) -> impl Stream<Item = std::result::Result<Event, Infallible>> {
    unfold(viewer, |mut viewer| async move {
        let event = viewer.next().await?;
        Some((Ok(event), viewer))
    })
}

impl Viewer {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.to_send.pop_front() {
                return Some(event);
            }
            if self.is_over || Instant::now() >= self.until || !self.goes_on().await {
                return None;
            }
            let stop = self.console.stop.clone();
            let snapshot = tokio::select! {
                snapshot = self.read() => snapshot.ok()?,
                () = stop.cancelled() => return None,
            };
            self.take(&snapshot);
            self.count().await;
        }
    }

    /// The counts of the rail, which are read at most every ten seconds, whoever watches what.
    async fn count(&mut self) {
        // The portal has no rail.
        if self.session.is_portal {
            return;
        }
        let tenant = self.watcher.watched.subject.tenant.as_ref();
        let (console, operator) = (&self.console, self.session.is_operator());
        let counts = console.rail.counts(&console.live, tenant, operator).await;
        for (name, text) in counts.parts() {
            self.part(name, text);
        }
    }

    async fn read(&self) -> std::result::Result<Arc<Snapshot>, Unread> {
        let watched = &self.watcher.watched;
        let read = |before| poll(self.console.clone(), watched.subject.clone(), before);
        watched.next(read).await
    }

    /// What of it is new for them.
    fn take(&mut self, snapshot: &Snapshot) {
        let managers = snapshot.for_managers.as_ref().filter(|_| self.may_change);
        for (name, html) in managers.unwrap_or(&snapshot.parts) {
            self.part(name, html);
        }
        for (name, html) in snapshot.charts.iter().flat_map(|charts| charts.parts()) {
            self.part(name, html);
        }
        if let Some(Latest { ids, more, noun }) = &snapshot.latest {
            let newer = ids.iter().take_while(|id| Some(**id) != self.after);
            // The one that was on top may be gone from the list: then nobody knows.
            let newer = newer.filter(|id| self.after.is_none_or(|after| **id > after));
            let newer = newer.count();
            let more = *more && newer == ids.len();
            self.part("newer", &deliveries::newer(newer, more, noun).into_string());
        }
        if snapshot.is_over && !self.is_over {
            self.is_over = true;
            // Browsers leave a message without data out.
            self.to_send
                .push_back(Event::default().event("over").data("over"));
        }
    }

    fn part(&mut self, name: &str, html: &str) {
        if self.sent.get(name).is_some_and(|sent| sent == html) {
            return;
        }
        self.sent.insert(name.to_owned(), html.to_owned());
        let event = Event::default().event("part").retry(AGAIN);
        // No line of JSON ends before its end.
        let data = json!({"name": name, "html": html}).to_string();
        self.to_send.push_back(event.data(data));
    }

    /// Whether their session does, which is looked up now and then.
    async fn goes_on(&mut self) -> bool {
        if self.looked_up.elapsed() < SESSION {
            return true;
        }
        self.looked_up = Instant::now();
        let (api, session) = (self.console.api.clone(), self.session.clone());
        let goes_on = async move { session::goes_on(&api, &session).await }.boxed();
        let stop = self.console.stop.clone();
        tokio::select! {
            goes_on = tokio::time::timeout(PATIENCE, goes_on) => {
                goes_on.is_ok_and(|goes_on| goes_on.unwrap_or(false))
            }
            () = stop.cancelled() => false,
        }
    }
}

fn poll(
    console: Arc<Console>,
    subject: Subject,
    before: Option<Arc<Snapshot>>,
) -> BoxFuture<'static, std::result::Result<Snapshot, Unread>> {
    let poll = async move {
        let read = read(&console, &subject, before.as_deref()).await;
        read.map_err(|failure| Unread(failure.status()))
    };
    poll.boxed()
}

async fn read(console: &Console, subject: &Subject, before: Option<&Snapshot>) -> Result<Snapshot> {
    let Some(tenant) = &subject.tenant else {
        return match subject.part {
            LivePart::Health(window) => health::live(console, window, before).await,
            _ => Err(nothing()),
        };
    };
    let poll = Poll {
        tenant: tenant.clone(),
        api: console.live.clone(),
    };
    match &subject.part {
        LivePart::Overview(window) => overview::live(console, &poll, window, before).await,
        LivePart::FirstSteps => overview::first_steps::live(console, &poll).await,
        LivePart::Webhooks => webhooks::live(console, &poll).await,
        LivePart::Webhook(id) => webhook::live(&poll, *id).await,
        LivePart::Statistics(id, window) => statistics::live(&poll, *id, window, before).await,
        LivePart::Log(id, shown) => log::live(console, &poll, *id, shown).await,
        LivePart::Deliveries(webhook, q) => {
            let list = deliveries::live(&poll, *webhook, q).await?;
            // On the page of a webhook, its head, too.
            Ok(match webhook {
                Some(id) => Snapshot {
                    latest: list.latest,
                    ..webhook::live(&poll, *id).await?
                },
                None => list,
            })
        }
        LivePart::Delivery(id) => delivery::live(&poll, *id, before).await,
        LivePart::Events(q) => events::live(&poll, q).await,
        LivePart::Replays(ids) => replays::live(console, &poll, ids).await,
        LivePart::PortalWebhook(id, q) => portal_webhook::live(&poll, *id, q).await,
        LivePart::PortalDelivery(id) => portal_delivery::live(&poll, *id, before).await,
        LivePart::Health(_) => Err(nothing()),
    }
}
