//! Accepts events over HTTP: through this process's own lanes, or else through RabbitMQ.
//!
//! An event goes straight to the lanes of `intake`, where it takes its turn among the events
//! that come over AMQP. The request is answered when the event and its jobs are safe. This
//! saves a trip through RabbitMQ. Otherwise the event is published to `posthorn.events`, and
//! the request is answered after the broker's confirm. That happens
//!
//! - if this process has no lanes or no session to RabbitMQ, or RabbitMQ blocks publishers;
//! - if PostgreSQL is away, or this process stops;
//! - if too much of the tenant's waits already ([`EVENTS`], [`BYTES`]): RabbitMQ has room for
//!   the rest of a burst.
//!
//! What keeps the promises:
//!
//! - The intake owns the event, and the request owns only its answer. So a client that goes
//!   away cancels nothing. An [`HttpEvent`](crate::http_event::HttpEvent) may be dropped
//!   without an answer, because its lane's session ended or PostgreSQL failed. Then a task of
//!   the door publishes it.
//! - If that event may have been written already, it is published with the mark of an
//!   interrupted event, and until it is confirmed. A lane that finds it known publishes late
//!   copies of its jobs, as for an event that RabbitMQ delivers again.
//! - No event is refused before the cache of webhooks and event types was refreshed.
//! - An event whose token is only [presumed](Event::presumed) to be valid is written by a statement
//!   that looks the token up, or published after the token was looked up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Map, Value};
use shared::ids::Tenant;
use shared::publish::{HTTP_HEADER, Outgoing, Publisher, RETURNED_HEADER, persistent};
use shared::revisions::Feed;
use shared::supervise::Backoff;
use shared::telemetry::metrics;
use shared::topology;
use shared::trace::TRACEPARENT;
use shared::webhook::Subscription;
use time::format_description::well_known::Rfc3339;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::cpu::Busy;
use crate::decode::{Event, Rejected, TokenHash};
use crate::event_types::EventTypes;
use crate::http_event::{Answer, Owner, Progress, Waiting};
use crate::look_ahead::LookAhead;
use crate::subscriptions::Subscriptions;

/// The most events of a tenant that take this way at a time.
const EVENTS: usize = 256;
/// The most bytes of them, and of all tenants' events.
const BYTES: usize = 4 << 20;
const ALL_BYTES: usize = 32 << 20;
/// What an event takes besides its data, in bytes.
const AN_EVENT: usize = 512;
/// An event that waits for so long without a turn is published; so is one that was
/// written so long ago without being through, if its commit isn't known.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a request waits for the broker's confirm.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);

/// Says whether API tokens are valid.
pub trait Tokens: Send + Sync {
    /// Whether the token with this hash is valid now.
    fn is_valid(&self, token: TokenHash) -> BoxFuture<'_, anyhow::Result<bool>>;
}

/// See the module's text.
pub struct Door {
    /// Where events wait for their turns.
    pub ahead: Arc<LookAhead>,
    /// To `posthorn.events`.
    pub publisher: Publisher,
    /// Refreshes the cache before an event is refused.
    pub feed: Arc<Feed<Subscription>>,
    /// Says what a tenant's events may be.
    pub subscriptions: Arc<Subscriptions>,
    /// The same of its types.
    pub event_types: Arc<EventTypes>,
    /// Looks tokens up.
    pub tokens: Arc<dyn Tokens>,
    /// What was given up without an answer, until it is published.
    pub given_up: TaskTracker,
    /// Publish once more, and not again.
    pub stop: CancellationToken,
    /// What takes this way now.
    pub room: Room,
}

impl Door {
    /// Takes an event that has an id, and answers what became of it.
    pub async fn publish(self: &Arc<Self>, event: Event) -> Answer {
        let event = Arc::new(event);
        let Some((place, mut answer, progress)) = self.enter(&event) else {
            return self.by_exchange(&event, false).await;
        };
        // There is no error after its commit.
        let unless_committed = |answer| match (answer, progress.committed()) {
            (Answer::Unconfirmed(_), Some(matched)) => Answer::Accepted(matched),
            (answer, _) => answer,
        };
        for _ in 0..2 {
            match timeout(PATIENCE, &mut answer).await {
                Ok(Ok(answer)) => return unless_committed(answer),
                Ok(Err(_)) => break,
                Err(_) => {}
            }
            // It is durable, and its jobs will be.
            if let Some(matched) = progress.committed() {
                return Answer::Accepted(matched);
            }
            if place.withdraw() {
                self.ahead.withdrawn();
                return self.by_exchange(&event, false).await;
            }
            // A lane hangs that has it.
            self.ahead.postgres_is_away(true);
        }
        let is_sent = progress.is_sent();
        unless_committed(self.by_exchange(&event, is_sent).await)
    }

    /// What a request keeps of an event that waits for its turn.
    fn enter(
        self: &Arc<Self>,
        event: &Arc<Event>,
    ) -> Option<(Arc<Waiting>, oneshot::Receiver<Answer>, Arc<Progress>)> {
        // What a batch makes of events would only wait, though they are written.
        if metrics().amqp_blocked.get() > 0 {
            return None;
        }
        let bytes = AN_EVENT + event.data.len();
        if !self.room.take(&event.tenant, bytes) {
            return None;
        }
        let (place, answered, progress) = Waiting::new(event.clone(), self.clone(), bytes);
        if !self.ahead.push_http(&event.tenant, place.clone(), bytes) {
            place.withdraw();
            return None;
        }
        Some((place, answered, progress))
    }

    /// Publishes to `posthorn.events`.
    async fn by_exchange(&self, event: &Event, is_sent: bool) -> Answer {
        if let Some(token) = event.presumed {
            match self.tokens.is_valid(token).await {
                Ok(true) => {}
                Ok(false) => return Answer::Refused(Rejected::Revoked),
                Err(error) => {
                    let why = format!("the token can't be looked up: {error:#}");
                    return Answer::Unconfirmed(why);
                }
            }
        }
        // What may be written isn't refused any more.
        if !is_sent && let Some(answer) = self.refusal(event).await {
            return answer;
        }
        let message = match message(event, is_sent) {
            Ok(message) => message,
            Err(error) => return Answer::Unconfirmed(error.to_string()),
        };
        match timeout(CONFIRM_TIMEOUT, self.publisher.publish(message)).await {
            Ok(Ok(())) => Answer::Published,
            Ok(Err(error)) => Answer::Unconfirmed(error.to_string()),
            Err(_) => Answer::Unconfirmed("RabbitMQ did not confirm in time".to_owned()),
        }
    }

    /// Why an event isn't published. A reason that the cache gives is checked again with a fresh cache.
    /// `None`: it is published.
    async fn refusal(&self, event: &Event) -> Option<Answer> {
        match self.check(event).await {
            Ok(Ok(())) => return None,
            Ok(Err(_)) => {}
            Err(busy) => return Some(Answer::Unconfirmed(busy.to_string())),
        }
        if let Err(error) = self.feed.refresh().await {
            return Some(Answer::Unconfirmed(format!(
                "the webhooks and event types in memory cannot be refreshed: {error:#}"
            )));
        }
        match self.check(event).await {
            Ok(Ok(())) => None,
            Ok(Err(rejected)) => Some(Answer::Refused(rejected)),
            Err(busy) => Some(Answer::Unconfirmed(busy.to_string())),
        }
    }

    /// The inner error says why the event isn't taken.
    async fn check(&self, event: &Event) -> Result<Result<(), Rejected>, Busy> {
        if let Err(rejected) = self.subscriptions.check(event) {
            return Ok(Err(rejected));
        }
        let types = &self.event_types;
        let checked = types
            .check_in_turn(&event.tenant, &event.event_type, &event.data)
            .await?;
        Ok(checked.map_err(Rejected::from))
    }

    /// Publishes what a lane has given up.
    async fn publish_given_up(
        self: Arc<Self>,
        event: Arc<Event>,
        is_sent: bool,
        answer: oneshot::Sender<Answer>,
    ) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let became = loop {
            let became = self.by_exchange(&event, is_sent).await;
            match &became {
                Answer::Unconfirmed(reason) if is_sent && !self.stop.is_cancelled() => {
                    let id = event.id.as_ref().map(ToString::to_string);
                    warn!(
                        event = id,
                        reason, "an event that was interrupted isn't published; trying again"
                    );
                }
                _ => break became,
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = self.stop.cancelled() => {}
            }
        };
        // Whoever asked may be gone.
        let _ = answer.send(became);
    }
}

impl Owner for Door {
    fn left(&self, tenant: &Tenant, bytes: usize) {
        self.room.give_back(tenant, bytes);
    }

    fn given_up(
        self: Arc<Self>,
        event: Arc<Event>,
        is_sent: bool,
        answer: oneshot::Sender<Answer>,
    ) {
        let publishing = self.clone().publish_given_up(event, is_sent, answer);
        self.given_up.spawn(publishing);
    }
}

/// The message that a lane reads as this event.
fn message(event: &Event, is_interrupted: bool) -> Result<Outgoing, time::error::Format> {
    if let Some(Value::Object(attributes)) = &event.attributes {
        return structured(event, attributes, is_interrupted);
    }
    let mut headers = headers(event, is_interrupted);
    if let Some(occurred_at) = event.occurred_at {
        let text = occurred_at.format(&Rfc3339)?;
        headers.insert("occurred_at".into(), AMQPValue::LongString(text.into()));
    }
    let body = event.data.as_bytes().to_vec();
    Ok(outgoing(event, "application/json", headers, body))
}

/// The headers of each event that came over HTTP.
fn headers(event: &Event, is_interrupted: bool) -> FieldTable {
    let mut headers = FieldTable::default();
    headers.insert(HTTP_HEADER.into(), AMQPValue::Boolean(true));
    if let Some(trace) = &event.trace {
        let value = AMQPValue::LongString(trace.to_string().into());
        headers.insert(TRACEPARENT.into(), value);
    }
    if is_interrupted {
        headers.insert(RETURNED_HEADER.into(), AMQPValue::Boolean(true));
    }
    headers
}

fn outgoing(
    event: &Event,
    content_type: &'static str,
    headers: FieldTable,
    body: Vec<u8>,
) -> Outgoing {
    let mut properties = persistent()
        .with_content_type(content_type.into())
        .with_headers(headers);
    if let Some(id) = &event.id {
        // At most 255 bytes: an event id's bound.
        properties = properties.with_message_id(id.as_str().into());
    }
    Outgoing {
        exchange: topology::EVENTS,
        // At most 63 + 1 + 128 bytes.
        routing_key: format!("{}.{}", event.tenant, event.event_type).into(),
        properties,
        body,
    }
}

/// The same of an event that came as a CloudEvent, whose attributes have any JSON type.
fn structured(
    event: &Event,
    attributes: &Map<String, Value>,
    is_interrupted: bool,
) -> Result<Outgoing, time::error::Format> {
    let mut attributes = attributes.clone();
    let id = event.id.as_ref().map_or("", |id| id.as_str());
    attributes.insert("id".to_owned(), id.into());
    attributes.insert("type".to_owned(), event.event_type.as_str().into());
    if let Some(occurred_at) = event.occurred_at {
        attributes.insert("time".to_owned(), occurred_at.format(&Rfc3339)?.into());
    }
    let mut body = Value::Object(attributes).to_string();
    // There are members, so the data is one more.
    body.truncate(body.len() - 1);
    let body = format!("{body},\"data\":{}}}", event.data);
    let headers = headers(event, is_interrupted);
    let content_type = "application/cloudevents+json";
    Ok(outgoing(event, content_type, headers, body.into_bytes()))
}

/// How much takes the way of a [`Door`] now.
#[derive(Default)]
pub struct Room(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    bytes: usize,
    tenants: HashMap<Tenant, OfTenant>,
}

#[derive(Default)]
struct OfTenant {
    events: usize,
    bytes: usize,
}

impl Room {
    fn take(&self, tenant: &Tenant, bytes: usize) -> bool {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.bytes + bytes > ALL_BYTES {
            return false;
        }
        if let Some(own) = taken.tenants.get(tenant)
            && (own.events >= EVENTS || own.bytes + bytes > BYTES)
        {
            return false;
        }
        taken.bytes += bytes;
        let own = taken.tenants.entry(tenant.clone()).or_default();
        own.events += 1;
        own.bytes += bytes;
        true
    }

    fn give_back(&self, tenant: &Tenant, bytes: usize) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.bytes -= bytes;
        if let Some(own) = taken.tenants.get_mut(tenant) {
            own.events -= 1;
            own.bytes -= bytes;
            if own.events == 0 {
                taken.tenants.remove(tenant);
            }
        }
    }
}

#[allow(clippy::unwrap_used, reason = "a test may fail")]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cloudevent_that_goes_through_rabbitmq_stays_what_it_is() {
        let event = Event {
            tenant: "acme".parse().unwrap(),
            event_type: "order.created".parse().unwrap(),
            id: Some("e-1".parse().unwrap()),
            occurred_at: Some(time::macros::datetime!(2026-01-31 10:00 UTC)),
            data: r#"{"total":25.00}"#.to_owned(),
            attributes: Some(serde_json::json!({
                "specversion": "1.0", "source": "/shop", "level": 3, "urgent": true,
            })),
            over_http: true,
            trace: None,
            presumed: None,
        };
        let message = message(&event, true).unwrap();
        let (key, properties) = (message.routing_key.to_string(), message.properties);
        let again = crate::decode::read(&key, &properties, &message.body).unwrap();
        assert_eq!(again, event);
    }

    #[test]
    fn one_tenants_waiting_events_are_bounded_and_take_none_of_anothers_room() {
        let room = Room::default();
        let (acme, globex): (Tenant, Tenant) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        let taken = (0..1_000).filter(|_| room.take(&acme, 1_000)).count();
        assert_eq!(taken, EVENTS);
        assert!(room.take(&globex, BYTES));
        assert!(!room.take(&globex, 1));
        room.give_back(&acme, 1_000);
        assert!(room.take(&acme, 1_000) && !room.take(&acme, 1_000));
    }

    #[test]
    fn all_waiting_events_together_are_bounded_in_bytes() {
        let room = Room::default();
        let tenant = |n: usize| format!("t{n}").parse::<Tenant>().unwrap();
        let taken = (0..100).filter(|n| room.take(&tenant(*n), BYTES)).count();
        assert_eq!(taken * BYTES, ALL_BYTES);
        (0..taken).for_each(|n| room.give_back(&tenant(n), BYTES));
        let room = room.0.into_inner().unwrap();
        assert!(room.bytes == 0 && room.tenants.is_empty());
    }
}
