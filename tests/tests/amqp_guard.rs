//! Messages that an AMQP client can't read, published byte by byte: each is parked
//! with its reason and its bytes, and no other message is delayed.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::StreamExt;
use harness::producer::Publication;
use harness::raw::{RawProducer, headers, long, nested, short, text_property};
use harness::receiver::{Receiver, answering};
use harness::service::Service;
use harness::setups::OtherTenant;
use harness::world::{ADMIN_TOKEN, TENANT, Webhook, World, eventually};
use lapin::options::BasicAckOptions;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use shared::amqp::{Broker, Session, Unreadable, keep_session};
use shared::supervise::Readiness;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

const LETTERS: &str = "/api/v1/admin/dead-letters";
/// Bytes that aren't UTF-8 and contain control characters.
const BAD: &[u8] = b"\xFF\xFE\n\"\x1b[2J";

/// The promise is that no session is lost, so the metric must be 0.
async fn no_session_was_lost(services: &[&Service]) {
    for service in services {
        let lost = service.metric("posthorn_amqp_reconnects_total").await;
        assert_eq!(lost.unwrap() as i64, 0, "{}", service.log_tail());
    }
}

async fn letters(world: &World, ingest: &Service, count: i64) -> Vec<Value> {
    eventually(&format!("{count} messages are set aside"), async || {
        world.count("dead_letters").await >= count
    })
    .await;
    let path = format!("{LETTERS}?limit=250");
    let listed = world.ask_as_operator(ingest, "GET", &path, None).await;
    let letters = listed.body["dead_letters"].as_array().unwrap().clone();
    assert_eq!(letters.len() as i64, count, "{}", listed.body);
    letters
}

/// The dead letter with this reason in the list.
fn with_reason<'a>(letters: &'a [Value], why: &str) -> &'a Value {
    let reason = format!("the message is unreadable: {why}");
    let found = letters.iter().find(|letter| letter["reason"] == reason);
    found.unwrap_or_else(|| panic!("no letter with the reason {reason}: {letters:?}"))
}

fn bytes_of(shown: &Value) -> Vec<u8> {
    BASE64.decode(shown["base64"].as_str().unwrap()).unwrap()
}

async fn webhook(world: &World, ingest: &Service) -> (Receiver, Webhook) {
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(ingest, &shop, json!({})).await;
    (shop, webhook)
}

#[tokio::test]
async fn unreadable_messages_of_one_tenant_do_not_delay_another_tenants_events() {
    let world = World::start().await;
    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    let mut other = OtherTenant::new(&world, &ingest).await;
    let (shop, _) = webhook(&world, &ingest).await;
    let mut producer = RawProducer::connect(world.amqp_url()).await.unwrap();

    let mut cases: Vec<(&str, Vec<u8>)> = [
        (0, "`content_type` is not UTF-8"),
        (1, "`content_encoding` is not UTF-8"),
        (5, "`correlation_id` is not UTF-8"),
        (6, "`reply_to` is not UTF-8"),
        (8, "`message_id` is not UTF-8"),
        (10, "`type` is not UTF-8"),
        (12, "`app_id` is not UTF-8"),
    ]
    .map(|(bit, why)| (why, text_property(bit, BAD)))
    .to_vec();
    let bad_name = [short(BAD), b"V".to_vec()].concat();
    cases.push(("a name in `headers` is not UTF-8", headers(&bad_name)));
    let deep = headers(&nested(1_000));
    cases.push(("`headers` is nested more than 32 levels deep", deep));
    let many = [b"\x01aA", &long(&[b'V'; 5_000])[..]].concat();
    cases.push(("`headers` has more than 1,000 values", headers(&many)));
    let key = b"acme.order.created";
    for (why, properties) in &cases {
        let body = b"{\"price\": 25.00}";
        let published = producer.publish("posthorn.events", key, properties, body);
        published.await.unwrap_or_else(|e| panic!("{why}: {e:#}"));
        other.notices_nothing(&world, "unreadable messages").await;
    }
    let bad_key = [b"acme.", BAD].concat();
    let published = producer.publish("posthorn.events", &bad_key, &[0, 0], b"{}");
    published.await.unwrap();
    other.notices_nothing(&world, "unreadable messages").await;
    no_session_was_lost(&[&ingest, &dispatcher]).await;

    let count = cases.len() as i64 + 1;
    let letters = letters(&world, &ingest, count).await;
    let rejected = ingest.metric("posthorn_events_rejected_total").await;
    assert_eq!(rejected.unwrap() as i64, count);
    for (why, properties) in &cases {
        let letter = with_reason(&letters, why);
        let unreadable = &letter["unreadable"];
        assert_eq!(letter["tenant"], TENANT, "{letter}");
        assert_eq!(letter["routing_key"], "acme.order.created", "{letter}");
        assert_eq!(letter["body_excerpt"], "{\"price\": 25.00}", "{letter}");
        assert_eq!(letter["headers"], json!({}), "{letter}");
        assert_eq!(unreadable["why"], *why, "{letter}");
        let kept = &properties[..properties.len().min(4096)];
        assert_eq!(bytes_of(&unreadable["properties"]), kept, "{letter}");
        assert_eq!(unreadable["properties_size"], properties.len(), "{letter}");
    }
    let letter = with_reason(&letters, "the routing key is not UTF-8");
    assert_eq!(letter["routing_key"], "acme.??\n\"\u{1b}[2J");
    let shown = &letter["unreadable"]["routing_key"];
    assert_eq!(shown["escaped"], r#"acme.\xff\xfe\n\"\x1b[2J"#, "{letter}");
    assert_eq!(bytes_of(shown), bad_key);

    // It can be published with a new key and properties, or discarded.
    let replay = format!("{LETTERS}/{}/replay", letter["id"].as_str().unwrap());
    for (body, status, says) in [
        (json!(null), 409, "`routing_key`"),
        (json!({"message_id": "evt-1"}), 422, "is missing"),
        (json!({"routing_key": "acme"}), 422, "<tenant>.<event type>"),
    ] {
        let body = (!body.is_null()).then_some(body);
        let refused = world.ask_as_operator(&ingest, "POST", &replay, body).await;
        assert_eq!(refused.status, status, "{}", refused.body);
        assert!(refused.body.to_string().contains(says), "{}", refused.body);
    }
    let new = json!({"routing_key": "acme.order.created", "message_id": "evt-1"});
    let replayed = world
        .ask_as_operator(&ingest, "POST", &replay, Some(new.clone()))
        .await;
    assert_eq!(replayed.body["replayed"], 1, "{}", replayed.body);
    assert_eq!(shop.receives(1).await.len(), 1);
    assert_eq!(world.count("events WHERE id = 'evt-1'").await, 1);
    let all = json!({"tenant": TENANT});
    let path = format!("{LETTERS}/replay");
    let skipped = world
        .ask_as_operator(&ingest, "POST", &path, Some(all))
        .await;
    let none = json!({"replayed": 0, "skipped": count - 1, "more": false});
    assert_eq!(skipped.body, none);
    let path = format!("{LETTERS}?tenant={TENANT}");
    let gone = world.ask_as_operator(&ingest, "DELETE", &path, None).await;
    assert_eq!(gone.body["discarded"], count - 1, "{}", gone.body);

    // A readable dead letter is replayed unchanged.
    let nobodys = Publication::json("nobody", "order.created", "evt-2", "{}");
    world.producer().await.publish(&nobodys).await.unwrap();
    let letters = self::letters(&world, &ingest, 1).await;
    let replay = format!("{LETTERS}/{}/replay", letters[0]["id"].as_str().unwrap());
    let refused = world
        .ask_as_operator(&ingest, "POST", &replay, Some(new))
        .await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    assert_eq!(letters[0]["unreadable"], Value::Null);
    world.finish().await;
}

#[tokio::test]
async fn a_header_that_the_broker_makes_larger_than_a_frame_is_set_aside() {
    let world = World::start().await;
    // Ingest declares the queues.
    world.ingest().await.stop().await.unwrap();
    let mut producer = RawProducer::connect(world.amqp_url()).await.unwrap();
    // The bytes around the text: the frame, the content header, flags, table, name,
    // type.
    let around = 8 + 12 + 2 + 4 + 2 + 1 + 4;
    let text = vec![b'x'; producer.frame_max - around];
    let properties = headers(&[b"\x01aS", &long(&text)[..]].concat());
    let key = b"acme.order.created";
    let published = producer.publish("posthorn.events", key, &properties, b"{}");
    published.await.unwrap();
    let taking = producer.take_and_leave("posthorn.ingest.v1");
    taking.await.unwrap();

    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    let mut other = OtherTenant::new(&world, &ingest).await;
    other.notices_nothing(&world, "unreadable messages").await;
    let letters = letters(&world, &ingest, 1).await;
    let why = "the content header is larger than a frame may be";
    let letter = with_reason(&letters, why);
    let size = letter["unreadable"]["properties_size"].as_u64().unwrap();
    assert!(size > properties.len() as u64, "it did not grow: {letter}");
    no_session_was_lost(&[&ingest, &dispatcher]).await;
    world.finish().await;
}

#[tokio::test]
async fn an_unreadable_message_in_any_queue_stops_no_consumer() {
    let world = World::start().await;
    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    let mut other = OtherTenant::new(&world, &ingest).await;
    let mut producer = RawProducer::connect(world.amqp_url()).await.unwrap();
    let bad = text_property(8, BAD);
    for (exchange, key) in [
        // As the broker parks a message that was delivered too often.
        ("posthorn.dead", "acme.order.created"),
        ("posthorn.jobs", "0.0"),
        // No queue is bound for this key.
        ("posthorn.jobs", "0.77"),
    ] {
        let published = producer.publish(exchange, key.as_bytes(), &bad, b"{}");
        published.await.unwrap();
        other.notices_nothing(&world, "unreadable messages").await;
    }
    let published = producer.publish("posthorn.jobs", BAD, &[0, 0], b"{}");
    published.await.unwrap();
    other.notices_nothing(&world, "unreadable messages").await;
    let letters = letters(&world, &ingest, 4).await;
    let whys: Vec<_> = letters
        .iter()
        .map(|letter| letter["unreadable"]["why"].as_str().unwrap())
        .collect();
    let of_key = "the routing key is not UTF-8";
    assert_eq!(whys.iter().filter(|why| **why == of_key).count(), 1);
    let jobs: Vec<_> = letters
        .iter()
        .filter(|letter| letter["exchange"] == "posthorn.jobs")
        .collect();
    assert_eq!(jobs.len(), 3, "{letters:?}");
    // A dead job can't be replayed as an event.
    let replay = format!("{LETTERS}/{}/replay", jobs[0]["id"].as_str().unwrap());
    let new = json!({"routing_key": "acme.order.created"});
    let refused = world
        .ask_as_operator(&ingest, "POST", &replay, Some(new))
        .await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    let parked = dispatcher.metric("posthorn_jobs_parked_total").await;
    assert_eq!(parked.unwrap() as i64, 1);
    no_session_was_lost(&[&ingest, &dispatcher]).await;
    world.finish().await;
}

#[tokio::test]
async fn unreadable_messages_are_parked_over_tls_too() {
    let world = World::start().await;
    let url = in_tls(world.amqp_url()).await;
    let authority = concat!(env!("CARGO_MANIFEST_DIR"), "/tls/authority.pem");
    let settings = [("AMQP_URL", url.as_str()), ("SSL_CERT_FILE", authority)];
    let ingest = world.service("posthorn-ingest", &settings).await;
    let dispatcher = world.service("posthorn-dispatcher", &settings).await;
    let mut other = OtherTenant::new(&world, &ingest).await;
    let mut producer = RawProducer::connect(world.amqp_url()).await.unwrap();
    let (key, bad) = (b"acme.order.created", text_property(8, BAD));
    for (properties, body) in [
        (bad, b"{}".to_vec()),
        (headers(&nested(1_000)), vec![b' '; 300_000]),
    ] {
        let published = producer.publish("posthorn.events", key, &properties, &body);
        published.await.unwrap();
        other.notices_nothing(&world, "unreadable messages").await;
    }
    let letters = letters(&world, &ingest, 2).await;
    with_reason(&letters, "`message_id` is not UTF-8");
    with_reason(&letters, "`headers` is nested more than 32 levels deep");
    no_session_was_lost(&[&ingest, &dispatcher]).await;
    world.finish().await;
}

/// A proxy to the broker that terminates TLS. Its certificate is signed by the
/// tests' own authority.
async fn in_tls(amqp_url: &str) -> String {
    let mut url = url::Url::parse(amqp_url).unwrap();
    let broker = format!("127.0.0.1:{}", url.port().unwrap());
    let pem = include_bytes!("../tls/localhost.pem");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(pem).unwrap()],
            PrivateKeyDer::from_pem_slice(pem).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (acceptor, broker) = (acceptor.clone(), broker.clone());
            tokio::spawn(async move {
                let mut far = TcpStream::connect(broker).await?;
                let mut near = acceptor.accept(near).await?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    url.set_host(Some("localhost")).unwrap();
    url.set_port(Some(port)).unwrap();
    url.to_string().replacen("amqp://", "amqps://", 1)
}

/// How many messages there are for [`take`], including the one to blame.
const MESSAGES: usize = 21;
const POISON: &str = "10";

/// Takes messages as the lanes do, and fails at one of them, until all have been
/// taken. Records each message and whether it was set aside.
async fn take(session: &Session, told: &mut BTreeMap<String, bool>) -> anyhow::Result<()> {
    let (_channel, mut events) = session.consumer("posthorn.ingest.v1", 100).await?;
    while let Some(message) = events.next().await {
        let message = message?;
        let body = String::from_utf8(message.data.clone())?;
        let set_aside = Unreadable::from_message(&message).is_some();
        anyhow::ensure!(body != POISON || set_aside, "nobody foresaw this");
        message.acker.ack(BasicAckOptions::default()).await?;
        // An ack may be lost with its session. Then the message comes again.
        told.insert(body, set_aside);
        if told.len() == MESSAGES {
            return Ok(());
        }
    }
    anyhow::bail!("cancelled")
}

#[tokio::test]
async fn a_message_that_ends_sessions_for_an_unknown_reason_is_parked_and_no_other() {
    let world = World::start().await;
    // Ingest declares the queues.
    world.ingest().await.stop().await.unwrap();
    let producer = world.producer().await;
    for n in 0..MESSAGES {
        let (id, data) = (format!("evt-{n}"), n.to_string());
        let event = Publication::json(TENANT, "order.created", &id, &data);
        producer.publish(&event).await.unwrap();
    }
    let broker = Broker::new(world.amqp_url().into(), "test", 1);
    let (ready, stop) = (Readiness::with_sessions(1), CancellationToken::new());
    let told = Mutex::new(BTreeMap::new());
    // The sessions: one for the ten messages before it, two without progress, two
    // with one message at a time, and the one that sets the message aside. Their
    // pauses take 6 s together.
    let patience = Duration::from_secs(60);
    let keeping = keep_session(&broker, "a test", &ready, &stop, async |session| {
        take(&session, &mut *told.lock().await).await
    });
    tokio::time::timeout(patience, keeping).await.unwrap();
    let told = told.into_inner();
    let aside: Vec<_> = told.iter().filter(|(_, aside)| **aside).collect();
    assert_eq!(aside, [(&POISON.to_owned(), &true)]);
    assert_eq!(told.len(), MESSAGES);
    world.finish().await;
}

#[tokio::test]
async fn the_api_and_the_intake_run_as_two_processes_and_survive_each_other() {
    let world = World::start().await;
    let serve = |only| ["serve", "--only", only];
    let api = world.ingest_with(&serve("api")).await;
    let intake = world.ingest_with(&serve("intake")).await;
    let _dispatcher = world.dispatcher().await;
    let (shop, _) = webhook(&world, &api).await;
    let post = async |id: &str| {
        let event = json!({"type": "order.created", "id": id, "data": {}});
        let posted = world.ask(&api, "POST", "/api/v1/events", Some(event)).await;
        assert_eq!(posted.status, 202, "{}", posted.body);
    };
    post("evt-1").await;
    world.publish("order.created", "evt-2", &json!({})).await;
    shop.receives(2).await;
    // Counted when the events' jobs are confirmed, which may be after their arrival.
    eventually("the intake has taken both events", async || {
        let received = intake.metric("posthorn_events_received_total").await;
        received.unwrap() >= 2.0
    })
    .await;
    assert_eq!(
        api.metric("posthorn_events_received_total").await.unwrap() as i64,
        0
    );
    // The intake serves health and metrics, but no API.
    let none = world.ask(&intake, "GET", "/api/v1/webhooks", None).await;
    assert_eq!(none.status, 404, "{}", none.body);

    // The intake takes dead letters, and the API shows them.
    let nobodys = Publication::json("nobody", "order.created", "evt-3", "{}");
    world.producer().await.publish(&nobodys).await.unwrap();
    assert_eq!(letters(&world, &api, 1).await.len(), 1);

    intake.kill().await.unwrap();
    post("evt-4").await;
    let ready = harness::service::ask(&api.url("/readyz"), ADMIN_TOKEN, "GET", None).await;
    assert_eq!(ready.unwrap().status, 200);
    let intake = world.ingest_with(&serve("intake")).await;
    shop.receives(3).await;
    api.stop().await.unwrap();
    world.publish("order.created", "evt-5", &json!({})).await;
    shop.receives(4).await;
    intake.stop().await.unwrap();
    world.finish().await;
}
