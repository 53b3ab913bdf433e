//! Messages that were published over AMQP 1.0, which RabbitMQ translates for Posthorn: each
//! becomes an event or a dead letter with its reason, and no other tenant notices.

#![allow(clippy::unwrap_used)]

use harness::amqp10::{
    Amqp10Producer, binary, boolean, data, decimal, described, list, map, null, properties, string,
    symbol, timestamp, ubyte, ulong, uuid,
};
use harness::producer::Publication;
use harness::receiver::answering;
use harness::service::Service;
use harness::setups::OtherTenant;
use harness::world::{TENANT, World, eventually};
use serde_json::{Value, json};

const ID: usize = 0;
const CORRELATION_ID: usize = 5;
const CONTENT_TYPE: usize = 6;
const CREATION_TIME: usize = 9;
/// Sections of a message, by their descriptors.
const HEADER: u8 = 0x70;
const ANNOTATIONS: u8 = 0x72;
const APPLICATION_PROPERTIES: u8 = 0x74;
const SEQUENCE: u8 = 0x76;
const VALUE: u8 = 0x77;
const FOOTER: u8 = 0x78;
/// Bytes that aren't UTF-8.
const BAD: &[u8] = b"\xFF\xFE\n";

/// Messages in a row that the broker can't deliver. Each ends 51 sessions.
const POISONS: usize = 3;

/// What becomes of a message.
enum End {
    Accepted,
    /// It is parked, with a reason that contains this.
    Parked(&'static str),
}
use End::{Accepted, Parked};

struct Broker {
    url: String,
    /// What addresses of exchanges begin with. It differs between RabbitMQ 3 and 4.
    exchanges: &'static str,
    is_version_3: bool,
}

impl Broker {
    async fn of(world: &World) -> Self {
        let rabbitmq = world.pair.as_ref().unwrap().rabbitmq();
        let version = rabbitmq.rabbitmqctl(&["version"]).await.unwrap();
        let is_version_3 = version.trim().starts_with("3.");
        Self {
            url: world.amqp_url().to_owned(),
            exchanges: if is_version_3 {
                "/exchange"
            } else {
                "/exchanges"
            },
            is_version_3,
        }
    }

    /// A producer for this exchange, with a routing key if one is given.
    async fn producer(&self, exchange: &str, key: Option<&str>) -> Amqp10Producer {
        let mut target = format!("{}/{exchange}", self.exchanges);
        if let Some(key) = key {
            target = format!("{target}/{key}");
        }
        Amqp10Producer::connect(&self.url, &target).await.unwrap()
    }

    /// A producer of the tenant's events.
    async fn of_tenant(&self) -> Amqp10Producer {
        let key = format!("{TENANT}.order.created");
        self.producer("posthorn.events", Some(&key)).await
    }
}

async fn reasons(world: &World, ingest: &Service, count: i64) -> Vec<String> {
    world.has_dead_letters(count).await;
    let listed = world
        .ask_dead_letters(ingest, "GET", "?limit=250", Value::Null)
        .await;
    let letters = listed.body["dead_letters"].as_array().unwrap();
    letters
        .iter()
        .map(|letter| letter["reason"].as_str().unwrap().to_owned())
        .collect()
}

fn nested(levels: usize) -> Vec<u8> {
    (0..levels).fold(null(), |inner, _| map(&[string(b"a"), inner]))
}

/// Sections before or instead of a body `{}`, and what becomes of them.
fn forms() -> Vec<(&'static str, Vec<Vec<u8>>, End)> {
    let body = || data(b"{}");
    let with = |section: Vec<u8>| vec![section, body()];
    let annotated =
        |descriptor: u8, value: Vec<u8>| described(descriptor, &map(&[symbol(b"x-a"), value]));
    let application =
        |value: Vec<u8>| described(APPLICATION_PROPERTIES, &map(&[string(b"a"), value]));
    let identified = |position: usize, value: Vec<u8>| with(properties(&[(position, value)]));
    let large = || annotated(ANNOTATIONS, binary(&vec![b'x'; 200_000]));
    vec![
        ("nothing but a body", vec![body()], Accepted),
        (
            "a header",
            with(described(HEADER, &list(&[boolean(true), ubyte(200)]))),
            Accepted,
        ),
        (
            "a nested application property",
            with(application(nested(2))),
            Accepted,
        ),
        (
            "a deeply nested one",
            with(application(nested(1_000))),
            Accepted,
        ),
        (
            "a described one",
            with(application(described(0x24, &[0x45]))),
            Accepted,
        ),
        ("decimals", with(application(decimal(&[1; 4]))), Accepted),
        (
            "larger decimals",
            with(application(decimal(&[1; 8]))),
            Accepted,
        ),
        (
            "the largest decimals",
            with(application(decimal(&[1; 16]))),
            Accepted,
        ),
        (
            "a name that isn't UTF-8",
            with(described(
                APPLICATION_PROPERTIES,
                &map(&[string(BAD), null()]),
            )),
            Accepted,
        ),
        (
            "annotations",
            with(annotated(ANNOTATIONS, ulong(1))),
            Accepted,
        ),
        (
            "nested annotations",
            with(annotated(ANNOTATIONS, nested(1_000))),
            Accepted,
        ),
        (
            "a footer",
            vec![body(), annotated(FOOTER, ulong(1))],
            Accepted,
        ),
        (
            "annotations larger than a frame",
            with(large()),
            Parked("larger than a frame may be"),
        ),
        (
            "a value",
            vec![described(VALUE, &string(b"hi"))],
            Parked("the body is not"),
        ),
        (
            "no value",
            vec![described(VALUE, &null())],
            Parked("the body is not"),
        ),
        (
            "a sequence",
            vec![described(SEQUENCE, &list(&[ulong(1)]))],
            Parked("the body is not"),
        ),
        (
            "two bodies",
            vec![body(), body()],
            Parked("the body is not"),
        ),
        (
            "a binary id",
            identified(ID, binary(BAD)),
            Parked("`message_id` is not UTF-8"),
        ),
        (
            "a UUID",
            identified(ID, uuid([0xFF; 16])),
            Parked("`message_id` is not UTF-8"),
        ),
        (
            "an id of other bytes",
            identified(ID, string(BAD)),
            Parked("`message_id` is not UTF-8"),
        ),
        (
            "a correlation id",
            identified(CORRELATION_ID, binary(BAD)),
            Parked("`correlation_id` is not UTF-8"),
        ),
        (
            "a content type",
            identified(CONTENT_TYPE, symbol(BAD)),
            Parked("`content_type` is not UTF-8"),
        ),
        // RabbitMQ 3 takes the milliseconds for seconds.
        (
            "a time",
            identified(CREATION_TIME, timestamp(1_700_000_000_000)),
            Parked("`timestamp`"),
        ),
        (
            "a time before 1970",
            identified(CREATION_TIME, timestamp(-5)),
            Parked("`timestamp`"),
        ),
    ]
}

/// RabbitMQ 3 keeps sections that AMQP 0-9-1 lacks as bytes in headers, so a client reads them
/// whatever is in them. RabbitMQ 4 translates other things, so only counts are asserted there.
#[tokio::test]
async fn each_message_of_amqp_1_0_becomes_an_event_or_a_dead_letter_and_delays_no_other_tenant() {
    let world = World::with_amqp10(&[]).await;
    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    let broker = Broker::of(&world).await;
    let mut other = OtherTenant::new(&world, &ingest).await;
    let shop = world.subscribed(&ingest, answering(200)).await;

    let mut producer = broker.of_tenant().await;
    let valid = properties(&[
        (ID, string(b"evt-1")),
        (CONTENT_TYPE, symbol(b"application/json")),
    ]);
    let event = [valid, data(b"{\"price\": 25.00}")];
    producer.publish(&event).await.unwrap();
    let arrivals = shop.receives(1).await;
    assert_eq!(arrivals[0].id(), "evt-1");
    assert_eq!(arrivals[0].json()["data"], json!({"price": 25.0}));

    let forms = forms();
    for (name, sections, _) in &forms {
        let published = producer.publish(sections).await;
        published.unwrap_or_else(|error| panic!("{name}: {error:#}"));
        other.notices_nothing(&world, name).await;
    }
    // Without a subject and without a key in the address, the routing key is empty.
    let mut keyless = broker.producer("posthorn.events", None).await;
    keyless.publish(&[data(b"{}")]).await.unwrap();
    other.notices_nothing(&world, "no routing key").await;

    let count = forms.len() as i64 + 1;
    eventually("each is accepted or parked", async || {
        let accepted = world.count("events WHERE tenant = 'acme'").await - 1;
        accepted + world.count("dead_letters").await == count
    })
    .await;
    for service in [&ingest, &dispatcher] {
        let lost = service.metric("posthorn_amqp_reconnects_total").await;
        assert_eq!(lost.unwrap() as i64, 0, "{}", service.log_tail());
    }
    if broker.is_version_3 {
        let expected: Vec<_> = forms
            .iter()
            .filter_map(|(name, _, end)| match end {
                Accepted => None,
                Parked(why) => Some((*name, *why)),
            })
            .chain([("no routing key", "is not `<tenant>.<event type>`")])
            .collect();
        let mut reasons = reasons(&world, &ingest, expected.len() as i64).await;
        for (name, why) in expected {
            let found = reasons.iter().position(|reason| reason.contains(why));
            let found = found.unwrap_or_else(|| panic!("{name}: no reason `{why}`: {reasons:?}"));
            reasons.swap_remove(found);
        }
    }
    world.finish().await;
}

/// RabbitMQ 3 ends the producer's session at sections that it can't read.
#[tokio::test]
async fn sections_that_the_broker_refuses_reach_no_consumer() {
    let world = World::with_amqp10(&[]).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let broker = Broker::of(&world).await;
    let mut other = OtherTenant::new(&world, &ingest).await;
    let unknown = [&[0][..], &symbol(b"x"), &null()].concat();
    for (name, sections) in [
        (
            "properties that are no list",
            vec![described(0x73, &null()), data(b"{}")],
        ),
        (
            "a type with an unknown descriptor",
            vec![
                described(APPLICATION_PROPERTIES, &map(&[string(b"a"), unknown])),
                data(b"{}"),
            ],
        ),
        ("no section", vec![vec![0x01]]),
        ("nothing", Vec::new()),
    ] {
        // RabbitMQ 4 may accept one of them.
        let _ = broker.of_tenant().await.publish(&sections).await;
        other.notices_nothing(&world, name).await;
    }
    let lost = ingest.metric("posthorn_amqp_reconnects_total").await;
    assert_eq!(lost.unwrap() as i64, 0, "{}", ingest.log_tail());
    world.finish().await;
}

/// RabbitMQ 3 stores a number as `message_id`, and fails whenever it delivers the message: it has no
/// such text. Nobody sees a byte of it. In the events queue the delivery limit ends that. In the
/// parking queue, which has none, the keeper takes it without an ack. There are several in a row:
/// sessions must not pause for longer at the later ones. With pauses of 5 s the last one alone would
/// take four minutes, and `eventually` waits for one.
#[tokio::test]
async fn messages_that_the_broker_cannot_deliver_stop_neither_events_nor_dead_letters_for_good() {
    let world = World::with_amqp10(&[]).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let broker = Broker::of(&world).await;
    if !broker.is_version_3 {
        return world.finish().await;
    }
    let mut other = OtherTenant::new(&world, &ingest).await;
    let mut producer = broker.of_tenant().await;
    let poison = [properties(&[(ID, ulong(7))]), data(b"{}")];
    for _ in 0..POISONS {
        producer.publish(&poison).await.unwrap();
    }
    other.publishes(&world).await;
    let said = "taking it without an ack";
    eventually(
        "each has left both queues, and its loss is said",
        async || world.logs().matches(said).count() == POISONS,
    )
    .await;
    let failed = ingest.metric("posthorn_amqp_reconnects_total").await;
    assert!(failed.unwrap() > 0.0, "the broker could deliver it");

    let nobodys = Publication::json("nobody", "order.created", "evt-1", "{}");
    world.producer().await.publish(&nobodys).await.unwrap();
    world.has_dead_letters(1).await;
    eventually("the parking queue is empty", async || {
        world.messages_in("posthorn.parking.v1").await == 0
    })
    .await;
    other.publishes(&world).await;
    assert_eq!(world.count("dead_letters").await, 1);
    world.finish().await;
}
