//! An event's trace: from its producer through the queues to the endpoint, and to a collector.

#![allow(clippy::unwrap_used)]

use harness::collector::{Collector, Span};
use harness::producer::Publication;
use harness::receiver::{Arrival, answering, answering_in_turn};
use harness::service::{Service, http};
use harness::world::{TENANT, World, eventually};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PRODUCERS_SPAN: &str = "00f067aa0ba902b7";

fn traceparent(sampled: bool) -> String {
    format!("00-{TRACE}-{PRODUCERS_SPAN}-0{}", u8::from(sampled))
}

/// Publishes over AMQP with this header.
async fn publish(world: &World, id: &str, traceparent: &str) {
    let mut headers = FieldTable::default();
    let value = AMQPValue::LongString(traceparent.into());
    headers.insert("traceparent".into(), value);
    let properties = BasicProperties::default()
        .with_message_id(id.into())
        .with_headers(headers);
    let event = Publication::json(TENANT, "order.created", id, r#"{"n": 1}"#).with(properties);
    world.producer().await.publish(&event).await.unwrap();
}

/// A world whose processes export to this collector.
async fn traced(collector: &Collector, more: &[(&str, &str)]) -> (World, [Service; 2]) {
    let endpoint = collector.endpoint();
    let mut settings = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        // So that the test doesn't wait for the exporter's five seconds.
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    settings.extend(more);
    let world = World::with(&settings).await;
    let services = [world.ingest().await, world.dispatcher().await];
    (world, services)
}

/// The one span of this name with this attempt's number, if it has one.
fn only<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut named = spans.iter().filter(|span| span.name == name);
    let one = named.next().unwrap_or_else(|| panic!("no {name}"));
    assert!(named.next().is_none(), "two spans are called {name}");
    one
}

fn ids(arrivals: &[Arrival]) -> Vec<(String, String)> {
    let parts = |arrival: &Arrival| {
        let header = arrival.header("traceparent").to_owned();
        let mut parts = header.split('-').skip(1).map(str::to_owned);
        (parts.next().unwrap(), parts.next().unwrap())
    };
    arrivals.iter().map(parts).collect()
}

#[tokio::test]
async fn one_trace_leads_from_the_producer_through_a_retry_to_the_endpoint() {
    let collector = Collector::start().await.unwrap();
    let (world, [ingest, dispatcher]) = traced(&collector, &[]).await;
    let endpoint = world.receiver(answering_in_turn(&[500, 200])).await;
    let policy = json!({"retry_policy": {"delays": [1000]}});
    world.webhook(&ingest, &endpoint, policy).await;
    publish(&world, "evt-1", &traceparent(true)).await;

    let arrivals = endpoint.receives(2).await;
    world.settles().await;
    // A process that stops exports the spans it has.
    ingest.stop().await.unwrap();
    dispatcher.stop().await.unwrap();
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:?}");
    assert_eq!(spans.len(), 4 + 2 * 5, "{spans:?}");

    let accept = only(&spans, "accept");
    assert_eq!(accept.parent, PRODUCERS_SPAN);
    assert_eq!(accept.service, "posthorn-ingest");
    assert_eq!(accept.attributes["posthorn.event"], "evt-1");
    for name in ["match", "write", "publish"] {
        let stage = only(&spans, name);
        assert_eq!(stage.parent, accept.id, "{name}");
        assert!(
            accept.start <= stage.start && stage.end <= accept.end,
            "{name}"
        );
    }
    let publish = only(&spans, "publish");

    let mut seen = Vec::new();
    for (n, (attempt, failed)) in [("1", true), ("2", false)].into_iter().enumerate() {
        let is_it =
            |span: &&Span| span.name == "deliver" && span.attributes["posthorn.attempt"] == attempt;
        let deliver = spans.iter().find(is_it).unwrap();
        assert_eq!(deliver.parent, publish.id);
        assert_eq!(deliver.service, "posthorn-dispatcher");
        let below = spans.iter().filter(|span| span.parent == deliver.id);
        let mut below: Vec<_> = below.cloned().collect();
        below.sort_by_key(|span| (span.start, span.end));
        let names: Vec<_> = below.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["wait", "admit", "attempt", "settle"]);
        assert!(below.windows(2).all(|two| two[0].end <= two[1].start));
        assert_eq!(only(&below, "attempt").failed, failed);
        // The endpoint's own spans are below the attempt's.
        let id = only(&below, "attempt").id.clone();
        assert_eq!(ids(&arrivals)[n], (TRACE.to_owned(), id));
        seen.push((deliver.clone(), only(&below, "wait").clone()));
    }
    // The retry waits from the first verdict on, for its delay.
    let (first, retry) = (&seen[0].0, &seen[1].1);
    assert!(retry.start >= first.end);
    assert!(retry.end - retry.start >= 900_000_000, "{retry:?}");

    let lines = world.logs();
    let of_trace = lines.lines().filter(|line| line.contains(TRACE));
    // One of ingest's, and one for each attempt.
    assert_eq!(of_trace.count(), 3, "{lines}");
    world.finish().await;
}

#[tokio::test]
async fn an_event_over_http_keeps_its_trace_too_and_so_does_a_batch() {
    let collector = Collector::start().await.unwrap();
    let (world, [ingest, _dispatcher]) = traced(&collector, &[]).await;
    let endpoint = world.subscribed(&ingest, answering(200)).await;
    let token = world.token();
    let post = async |path: &str, body: Value| {
        let request = http().post(ingest.url(path)).bearer_auth(token);
        let request = request.header("traceparent", traceparent(true));
        let request = request.header("content-type", "application/json");
        let answer = request.body(body.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 202);
    };
    let event = |id: &str| json!({"type": "order.created", "id": id, "data": {}});
    post("/api/v1/events", event("one")).await;
    let batch = json!({"events": [event("two"), event("three")]});
    post("/api/v1/events/batch", batch).await;

    let arrivals = endpoint.receives(3).await;
    assert!(ids(&arrivals).iter().all(|(trace, _)| trace == TRACE));
    eventually("three events are exported", async || {
        let spans = collector.spans();
        let accepted = spans.iter().filter(|span| span.name == "accept");
        let below = accepted.filter(|span| span.parent == PRODUCERS_SPAN);
        below.count() == 3
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn without_a_collector_the_producers_trace_reaches_the_endpoint_as_it_is() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let endpoint = world.receiver(answering_in_turn(&[500, 200])).await;
    let policy = json!({"retry_policy": {"delays": [1000]}});
    world.webhook(&ingest, &endpoint, policy).await;
    publish(&world, "evt-1", &traceparent(false)).await;
    let arrivals = endpoint.receives(2).await;
    for arrival in &arrivals {
        assert_eq!(arrival.header("traceparent"), traceparent(false));
    }
    // What isn't a trace is none.
    publish(&world, "evt-2", "00-nonsense").await;
    let arrivals = endpoint.receives(3).await;
    assert_eq!(arrivals[2].header("traceparent"), "");
    world.settles().await;
    assert_eq!(world.logs().matches(TRACE).count(), 3);
    world.finish().await;
}

#[tokio::test]
async fn a_webhook_can_switch_the_header_off_or_set_its_own() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let endpoint = world.receiver(answering(200)).await;
    let without = world
        .webhook(&ingest, &endpoint, json!({"trace_header": false}))
        .await;
    let own = json!({"headers": {"Traceparent": "our own"}});
    let own = world.webhook(&ingest, &endpoint, own).await;
    publish(&world, "evt-1", &traceparent(true)).await;
    let arrivals = endpoint.receives(2).await;
    for (webhook, expected) in [(&without, ""), (&own, "our own")] {
        let mut arrivals = arrivals.iter();
        let arrival = arrivals.find(|one| one.path == webhook.path).unwrap();
        assert_eq!(arrival.header("traceparent"), expected);
    }
    let path = format!("/api/v1/webhooks/{}", without.id);
    let shown = world.ask(&ingest, "GET", &path, None).await;
    assert_eq!(shown.body["trace_header"], false);
    let on = json!({"trace_header": true});
    let shown = world.ask(&ingest, "PATCH", &path, Some(on)).await;
    assert_eq!(shown.body["trace_header"], true);
    world.settles().await;
    publish(&world, "evt-2", &traceparent(true)).await;
    let arrivals = endpoint.receives(4).await;
    let mut arrivals = arrivals.iter().skip(2);
    let arrival = arrivals.find(|one| one.path == without.path).unwrap();
    assert_eq!(arrival.header("traceparent"), traceparent(true));
    world.finish().await;
}

#[tokio::test]
async fn traces_that_begin_at_posthorn_are_recorded_as_the_sampler_says() {
    let collector = Collector::start().await.unwrap();
    let always = [("OTEL_TRACES_SAMPLER", "parentbased_always_on")];
    let (world, [ingest, dispatcher]) = traced(&collector, &always).await;
    let endpoint = world.subscribed(&ingest, answering(200)).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    // Its producer doesn't record it, so nobody does.
    publish(&world, "evt-2", &traceparent(false)).await;
    let arrivals = endpoint.receives(2).await;
    world.settles().await;
    ingest.stop().await.unwrap();
    dispatcher.stop().await.unwrap();
    let spans = collector.spans();
    let accept = only(&spans, "accept");
    assert_eq!(accept.attributes["posthorn.event"], "evt-1");
    assert_eq!(accept.parent, "");
    assert!(spans.iter().all(|span| span.trace == accept.trace));
    let of_first = arrivals.iter().find(|one| one.id() == "evt-1").unwrap();
    let attempt = only(&spans, "attempt");
    assert_eq!(
        of_first.header("traceparent"),
        format!("00-{}-{}-01", accept.trace, attempt.id)
    );
    world.finish().await;
}

#[tokio::test]
async fn a_collector_that_is_away_delays_nothing() {
    // Nobody listens there.
    let always = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "16"),
    ];
    let world = World::with(&always).await;
    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    let endpoint = world.subscribed(&ingest, answering(200)).await;
    let events = (0..200)
        .map(|n| Publication::json(TENANT, "order.created", &format!("evt-{n}"), r#"{"n": 1}"#));
    let events: Vec<_> = events.collect();
    world.publish_all(&events).await;
    endpoint.receives(200).await;
    world.settles().await;
    // `stop` fails if a process doesn't end by itself.
    ingest.stop().await.unwrap();
    dispatcher.stop().await.unwrap();
    world.finish().await;
}
