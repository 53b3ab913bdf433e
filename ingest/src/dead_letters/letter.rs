//! One dead letter: what a message says about itself, and the message that it
//! becomes again when it is replayed.
//!
//! Pure. A message that we refused says why and where it came from in headers of
//! ours (`Outgoing::dead`); one that the broker gave up on, in `x-death`.

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use shared::ids::{DeadLetterId, Tenant};
use shared::job::Job;
use shared::publish::{
    EXCHANGE_HEADER, Outgoing, REASON_HEADER, ROUTING_KEY_HEADER, is_the_producers,
};
use shared::topology;
use time::OffsetDateTime;

/// How much of a reason is kept, in characters.
const MAX_REASON: usize = 1_000;

/// Which queue it was in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Refused, or given up on.
    Parking,
    /// No queue was bound for it.
    Unrouted,
}

impl Origin {
    /// The queue.
    pub fn queue(self) -> &'static str {
        match self {
            Self::Parking => topology::PARKING_QUEUE,
            Self::Unrouted => topology::UNROUTED_QUEUE,
        }
    }

    /// As the table has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parking => "parking",
            Self::Unrouted => "unrouted",
        }
    }
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// Says when it was taken from its queue.
    pub id: DeadLetterId,
    /// Which queue it was in.
    pub origin: Origin,
    /// Why it is here.
    pub reason: String,
    /// Where it was published to.
    pub exchange: String,
    /// With which routing key.
    pub routing_key: String,
    /// Whose event it was to be, if that can be told.
    pub tenant: Option<Tenant>,
    /// The producer's id of it.
    pub message_id: Option<String>,
    /// Without what the broker and we added.
    pub properties: BasicProperties,
    /// As it was published.
    pub body: Vec<u8>,
}

impl Letter {
    /// What a message from its queue says.
    pub fn of(message: &Delivery, origin: Origin) -> Self {
        let headers = message.properties.headers().clone().unwrap_or_default();
        let here = || message.routing_key.to_string();
        let (reason, exchange, routing_key) = match (origin, last_death(&headers)) {
            (Origin::Unrouted, _) => (
                "no queue is bound for its routing key".to_owned(),
                message.exchange.to_string(),
                here(),
            ),
            // Dead-lettering keeps the routing key. Headers of ours would be the
            // producer's here: a way to speak for another tenant.
            (Origin::Parking, Some(death)) => (
                given_up(&text(death, "reason").unwrap_or_default()),
                fed_by(&text(death, "queue").unwrap_or_default()).to_owned(),
                here(),
            ),
            (Origin::Parking, None) => (
                text(&headers, REASON_HEADER).unwrap_or_else(|| "nobody said why".to_owned()),
                text(&headers, EXCHANGE_HEADER).unwrap_or_default(),
                text(&headers, ROUTING_KEY_HEADER).unwrap_or_else(here),
            ),
        };
        let tenant = (exchange == topology::EVENTS)
            .then(|| routing_key.split_once('.')?.0.parse().ok())
            .flatten();
        let message_id = message.properties.message_id().as_ref();
        Self {
            id: DeadLetterId::generate(),
            origin,
            reason: storable(&reason).chars().take(MAX_REASON).collect(),
            exchange: storable(&exchange),
            routing_key: storable(&routing_key),
            tenant,
            message_id: message_id.map(|id| storable(id.as_str())),
            properties: bare(&message.properties, &headers),
            body: message.data.clone(),
        }
    }

    /// The job that this is, if the broker gave it up: one that we park ourselves
    /// can't be read.
    pub fn job_given_up(&self) -> Option<Job> {
        let is_one = self.origin == Origin::Parking && self.exchange == topology::JOBS;
        is_one.then(|| Job::decode(&self.body).ok()).flatten()
    }

    /// The message to publish so that it takes its way again; `None` if there
    /// is no such way: it wasn't published to an exchange of ours.
    ///
    /// An event without an id takes this letter's, so that it is known if it is
    /// replayed twice. A job says that it may exist twice, and takes the shard and the delay
    /// that are its now: meanwhile the sweeper may have put it back.
    pub fn again(&self, now: OffsetDateTime, shards: u16) -> Option<Outgoing> {
        let exchange = match self.exchange.as_str() {
            topology::EVENTS => topology::EVENTS,
            topology::JOBS | topology::RETRY => {
                if let Ok(mut job) = Job::decode(&self.body) {
                    job.recheck = true;
                    return Some(Outgoing::job(&job, now, shards));
                }
                topology::JOBS
            }
            _ => return None,
        };
        let mut properties = self.properties.clone();
        if properties.message_id().is_none() {
            // At most 29 bytes: a TypeID.
            properties = properties.with_message_id(self.id.to_string().into());
        }
        Some(Outgoing {
            exchange,
            routing_key: ShortString::try_new(self.routing_key.as_str()).ok()?,
            properties,
            body: self.body.clone(),
        })
    }
}

fn given_up(reason: &str) -> String {
    match reason {
        "delivery_limit" => "whoever took it failed every time".to_owned(),
        _ => format!("RabbitMQ gave it up: {reason}"),
    }
}

/// The exchange that a queue of ours gets its messages from.
fn fed_by(queue: &str) -> &'static str {
    if queue == topology::INGEST_QUEUE || topology::OVERFLOW_QUEUES.contains(&queue) {
        topology::EVENTS
    } else if queue.starts_with("posthorn.jobs.") {
        topology::JOBS
    } else {
        ""
    }
}

/// What the broker says of where it gave it up: the newest is the first, and
/// ours doesn't have one (see `is_the_producers`).
fn last_death(headers: &FieldTable) -> Option<&FieldTable> {
    let AMQPValue::FieldArray(deaths) = headers.inner().get("x-death")? else {
        return None;
    };
    match deaths.as_slice().first()? {
        AMQPValue::FieldTable(death) => Some(death),
        _ => None,
    }
}

fn text(headers: &FieldTable, name: &str) -> Option<String> {
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

/// PostgreSQL's text has no U+0000.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Properties as their producer set them.
fn bare(properties: &BasicProperties, headers: &FieldTable) -> BasicProperties {
    let mut kept = FieldTable::default();
    for (name, value) in headers.inner() {
        let ours = [REASON_HEADER, EXCHANGE_HEADER, ROUTING_KEY_HEADER].contains(&name.as_str());
        if is_the_producers(name.as_str()) && !ours {
            kept.insert(name.clone(), value.clone());
        }
    }
    properties.clone().with_headers(kept).with_delivery_mode(2)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use proptest::prelude::*;
    use shared::ids::{DeliveryId, EventUid, WebhookId};
    use shared::job::Payload;

    use super::*;

    fn message(exchange: &str, routing_key: &str, body: &[u8]) -> Delivery {
        Delivery::mock(1, exchange.into(), routing_key.into(), false, body.to_vec())
    }

    #[test]
    fn what_was_refused_becomes_the_message_that_it_was() {
        let mut published = message("posthorn.events", "acme.order.created", b"{\"a\":25.00}");
        let mut headers = FieldTable::default();
        headers.insert("tier".into(), AMQPValue::LongString("gold".into()));
        published.properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_message_id("evt-1".into())
            .with_content_type("application/json".into())
            .with_correlation_id("c-1".into())
            .with_headers(headers);
        let dead = Outgoing::dead(&published, "because");
        let mut parked = message("posthorn.dead", "acme.order.created", &dead.body);
        parked.properties = dead.properties;

        let letter = Letter::of(&parked, Origin::Parking);
        assert_eq!(letter.reason, "because");
        assert_eq!(letter.tenant.as_ref().unwrap().as_str(), "acme");
        assert_eq!(letter.message_id.as_deref(), Some("evt-1"));
        let again = letter.again(OffsetDateTime::now_utc(), 1).unwrap();
        assert_eq!(again.exchange, "posthorn.events");
        assert_eq!(again.routing_key.as_str(), "acme.order.created");
        assert_eq!(again.body, published.data);
        assert_eq!(again.properties, published.properties);
    }

    #[test]
    fn what_the_broker_gave_up_says_where_it_was() {
        let mut death = FieldTable::default();
        for (name, value) in [
            ("reason", "delivery_limit"),
            ("queue", "posthorn.ingest.v1"),
        ] {
            death.insert(name.into(), AMQPValue::LongString(value.into()));
        }
        let mut headers = FieldTable::default();
        // What its producer made up.
        for (name, value) in [
            (EXCHANGE_HEADER, "posthorn.jobs"),
            (ROUTING_KEY_HEADER, "other.order.created"),
        ] {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        }
        let deaths = vec![AMQPValue::FieldTable(death)];
        headers.insert("x-death".into(), AMQPValue::FieldArray(deaths.into()));
        let mut parked = message("posthorn.dead", "acme.order.created", b"{}");
        parked.properties = BasicProperties::default().with_headers(headers);
        let letter = Letter::of(&parked, Origin::Parking);
        assert_eq!(letter.reason, "whoever took it failed every time");
        let again = letter.again(OffsetDateTime::now_utc(), 1).unwrap();
        assert_eq!(again.exchange, "posthorn.events");
        assert_eq!(again.routing_key.as_str(), "acme.order.created");
        assert!(
            again
                .properties
                .headers()
                .as_ref()
                .unwrap()
                .inner()
                .is_empty()
        );
    }

    #[test]
    fn a_job_is_rechecked_and_goes_to_the_shard_that_is_its_now() {
        let now = OffsetDateTime::now_utc();
        let uid = EventUid::generate();
        let job = Job {
            delivery: DeliveryId::of(uid),
            webhook: WebhookId::generate(),
            tenant: "acme".parse().unwrap(),
            event_uid: uid,
            event_id: uid.into(),
            event_type: "order.created".parse().unwrap(),
            occurred_at: now,
            attempt: 1,
            due_at: now,
            recheck: false,
            payload: Payload::of("{}", None),
            restart: None,
        };
        let unrouted = message("posthorn.jobs", "0.77", &job.encode());
        let letter = Letter::of(&unrouted, Origin::Unrouted);
        assert_eq!(letter.tenant, None);
        let again = letter.again(now, 1).unwrap();
        assert_eq!(
            (again.exchange, again.routing_key.as_str()),
            ("posthorn.jobs", "0.0")
        );
        assert!(Job::decode(&again.body).unwrap().recheck);
    }

    #[test]
    fn what_came_around_the_exchange_has_no_way_to_take_again() {
        let published = message("", "posthorn.ingest.v1", b"{}");
        let dead = Outgoing::dead(&published, "published to exchange ``");
        let mut parked = message("posthorn.dead", "posthorn.ingest.v1", &dead.body);
        parked.properties = dead.properties;
        let letter = Letter::of(&parked, Origin::Parking);
        assert_eq!((letter.exchange.as_str(), &letter.tenant), ("", &None));
        assert!(letter.again(OffsetDateTime::now_utc(), 1).is_none());
    }

    #[test]
    fn any_text_can_be_stored() {
        let mut parked = message("a\0b", "c\0d", b"");
        parked.properties = BasicProperties::default().with_message_id("e\0f".into());
        let letter = Letter::of(&parked, Origin::Unrouted);
        let texts = [
            letter.exchange,
            letter.routing_key,
            letter.message_id.unwrap(),
        ];
        assert!(texts.iter().all(|text| !text.contains('\0')), "{texts:?}");
    }

    proptest! {
        /// What a stranger put into the parking queue, and what is stored of it.
        #[test]
        fn no_letter_panics_and_each_can_be_stored_and_read(
            exchange in "(posthorn[.](events|jobs|retry|dead)|.{0,20})", key in ".{0,40}", body: Vec<u8>,
            name in "(x-death|x-posthorn-(reason|exchange|routing-key)|.{0,8})", text in ".{0,40}", list: bool,
        ) {
            let mut headers = FieldTable::default();
            let mut value = AMQPValue::LongString(text.as_str().into());
            if list {
                let mut table = FieldTable::default();
                table.insert("queue".into(), value);
                value = AMQPValue::FieldArray(vec![AMQPValue::FieldTable(table)].into());
            }
            headers.insert(name.as_str().into(), value);
            let mut parked = message("posthorn.dead", "a", &body);
            // Strings of the wire have at most 255 bytes: these have.
            parked.exchange = exchange.as_str().into();
            parked.routing_key = key.as_str().into();
            parked.properties = BasicProperties::default().with_headers(headers);
            for origin in [Origin::Parking, Origin::Unrouted] {
                let letter = Letter::of(&parked, origin);
                let _ = letter.again(OffsetDateTime::now_utc(), 1);
                let stored = rmp_serde::to_vec(&letter.properties).unwrap();
                let read: BasicProperties = rmp_serde::from_slice(&stored).unwrap();
                prop_assert_eq!(read, letter.properties);
            }
        }

        #[test]
        fn no_stored_properties_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = rmp_serde::from_slice::<BasicProperties>(&bytes);
        }
    }
}
