//! Malicious endpoints, and webhooks that point to forbidden addresses.
//!
//! Each endpoint is a raw socket with one bad habit. Whatever it does, the attempt
//! ends in time, is recorded with its class, keeps little of the answer, and returns its
//! permit.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harness::receiver::answering;
use harness::service::Service;
use harness::world::{World, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How an endpoint answers: it sends some bytes, then the same bytes again and
/// again.
#[derive(Clone, Copy)]
struct Habit {
    /// The name in the webhook's metadata and in failures.
    name: &'static str,
    /// Whether its URL is `https:`.
    tls: bool,
    /// Sent first.
    begins: &'static str,
    /// Sent again and again, unless it is empty.
    goes_on: &'static str,
    /// The pause between two repetitions.
    pause: Duration,
    /// The expected outcome of the attempt.
    outcome: &'static str,
}

const AT_ONCE: Duration = Duration::ZERO;
const DRIPPING: Duration = Duration::from_millis(50);
const OK: &str = "HTTP/1.1 200 OK\r\n";

const fn habit(
    name: &'static str,
    begins: &'static str,
    goes_on: &'static str,
    pause: Duration,
    outcome: &'static str,
) -> Habit {
    Habit {
        name,
        tls: false,
        begins,
        goes_on,
        pause,
        outcome,
    }
}

/// An endpoint that has sent its status has answered, even if its body fails.
fn habits() -> Vec<Habit> {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let bomb = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n";
    let promised = "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n";
    let chunk = "400\r\n0000000000000000000000000000000000000000000000000000000000000000\
                 0000000000000000000000000000000000000000000000000000000000000000\r\n";
    let mut habits = vec![
        habit(
            "an endless body",
            promised,
            "lorem ipsum dolor sit amet ",
            AT_ONCE,
            "success",
        ),
        habit("a dripping body", promised, ".", DRIPPING, "success"),
        habit("less than it promised", promised, "", AT_ONCE, "success"),
        habit(
            "chunks without end",
            chunked,
            "5\r\nlorem\r\n",
            AT_ONCE,
            "success",
        ),
        habit("a chunk that isn't one", chunked, chunk, AT_ONCE, "success"),
        habit("a chunk size without end", chunked, "0", AT_ONCE, "success"),
        habit(
            "chunk extensions without end",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5",
            ";a=b",
            AT_ONCE,
            "success",
        ),
        habit(
            "trailers without end",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
            "x-a: b\r\n",
            AT_ONCE,
            "success",
        ),
        habit(
            "a compressed bomb",
            bomb,
            "5\r\nlorem\r\n",
            AT_ONCE,
            "success",
        ),
        habit("headers without end", OK, "x-a: b\r\n", AT_ONCE, "broken"),
        habit(
            "a header without end",
            "HTTP/1.1 200 OK\r\nx-a: ",
            "bbbbbbbbbbbbbbbb",
            AT_ONCE,
            "broken",
        ),
        habit("dripping headers", OK, "x", DRIPPING, "timeout"),
        habit("a dripping status", "", "HTTP", DRIPPING, "timeout"),
        habit(
            "informational answers without end",
            "",
            "HTTP/1.1 103 Early Hints\r\n\r\n",
            AT_ONCE,
            "timeout",
        ),
        habit(
            "another protocol",
            "SSH-2.0-OpenSSH_9.2\r\n",
            "",
            AT_ONCE,
            "broken",
        ),
        habit(
            "two lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "x",
            AT_ONCE,
            "broken",
        ),
        habit("silence", "", "", AT_ONCE, "timeout"),
    ];
    let mut silent_tls = habit("a handshake that hangs", "", "", AT_ONCE, "timeout");
    silent_tls.tls = true;
    let mut babble = habit(
        "a handshake that babbles",
        "",
        "not TLS at all ",
        AT_ONCE,
        "tls",
    );
    babble.tls = true;
    habits.extend([silent_tls, babble]);
    habits
}

/// Starts a listener that never ends and returns its URL.
async fn endpoint(habit: Habit) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scheme = if habit.tls { "https" } else { "http" };
    let url = format!("{scheme}://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // Ends when the client closes the connection.
                let _ = misbehave(stream, habit).await;
            });
        }
    });
    url
}

async fn misbehave(mut stream: TcpStream, habit: Habit) -> std::io::Result<()> {
    let mut request = [0; 4096];
    if stream.read(&mut request).await? == 0 {
        return Ok(());
    }
    stream.write_all(habit.begins.as_bytes()).await?;
    // Without a pause, send large chunks: single bytes would not be a flood.
    let often = if habit.pause.is_zero() { 1024 } else { 1 };
    let more = habit.goes_on.repeat(often);
    loop {
        if more.is_empty() {
            if stream.read(&mut request).await? == 0 {
                return Ok(());
            }
            continue;
        }
        stream.write_all(more.as_bytes()).await?;
        tokio::time::sleep(habit.pause).await;
    }
}

async fn subscribed(world: &World, ingest: &Service, url: &str, more: Value) -> String {
    let mut body = json!({"url": url, "events": ["*"], "retries": 0, "timeout": 1000});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let path = "/api/v1/webhooks";
    let made = world.ask(ingest, "POST", path, Some(body)).await;
    assert_eq!(made.status, 201, "{url}: {}", made.body);
    made.body["id"].as_str().unwrap().to_owned()
}

/// The peak memory of a process, in MiB.
fn peak(service: &Service) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<usize>().unwrap() / 1024
}

#[tokio::test]
async fn every_attempt_is_bounded_in_time_and_size() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    // Fewer permits than attempts: one that is never returned would show.
    let dispatcher = world
        .service("posthorn-dispatcher", &[("CONCURRENCY", "24")])
        .await;
    let mut expected = BTreeMap::new();
    for habit in habits() {
        let url = endpoint(habit).await;
        let named = json!({"metadata": {"habit": habit.name}});
        subscribed(&world, &ingest, &url, named).await;
        expected.insert(habit.name.to_owned(), habit.outcome.to_owned());
    }
    for n in 0..2 {
        let id = format!("evt-{n}");
        world.publish("order.created", &id, &json!({})).await;
    }
    world.accepts(2).await;
    world.settles().await;

    let attempts = "SELECT w.metadata ->> 'habit', a.outcome, a.duration_ms, \
             coalesce(length(a.response_body), 0), coalesce(length(a.response_headers::text), 0) \
         FROM attempts a JOIN deliveries d ON d.id = a.delivery_id \
         JOIN webhooks w ON w.id = d.webhook_id";
    let client = world.sql().await;
    let mut seen = BTreeMap::new();
    for row in client.query(attempts, &[]).await.unwrap() {
        let (habit, outcome): (String, String) = (row.get(0), row.get(1));
        let (took, body, headers): (i32, i32, i32) = (row.get(2), row.get(3), row.get(4));
        // The timeout, or the time limit of the body, plus some time for a busy
        // machine.
        assert!(took < 8_000, "{habit} took {took} ms");
        assert!(body <= 16 * 1024, "{habit}: {body} bytes of body");
        assert!(headers <= 32 * 1024, "{habit}: {headers} bytes of headers");
        let before = seen.insert(habit.clone(), outcome.clone());
        assert!(before.is_none_or(|before| before == outcome), "{habit}");
    }
    assert_eq!(seen, expected);
    eventually("no request is under way", async || {
        let under_way = dispatcher.metric("posthorn_attempts_in_flight").await;
        under_way.unwrap() == 0.0
    })
    .await;

    // Every permit is free for a well-behaved endpoint.
    let shop = world.receiver(answering(200)).await;
    world
        .webhook(&ingest, &shop, json!({"events": ["item.sold"]}))
        .await;
    world.publish("item.sold", "evt-after", &json!({})).await;
    let arrived = shop.receives(1).await;
    assert_eq!(
        arrived[0].header("accept-encoding"),
        "",
        "nothing to unpack"
    );
    world.settles().await;
    let peak = peak(&dispatcher);
    assert!(peak < 256, "{peak} MiB");
    world.finish().await;
}

#[tokio::test]
async fn many_and_long_headers_are_kept_in_part() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let long = format!("x-long: {}\r\n", "b".repeat(4000)).repeat(60);
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let answer = format!("{OK}retry-after: 1\r\n{long}content-length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    subscribed(&world, &ingest, &url, json!({"timeout": 10_000})).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    world.accepts(1).await;
    world.settles().await;
    let client = world.sql().await;
    let sql = "SELECT jsonb_array_length(response_headers), length(response_headers::text) \
               FROM attempts WHERE outcome = 'success'";
    let row = client.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 5, "as many as fit into 16 KiB");
    assert!(row.get::<_, i32>(1) < 17 * 1024);
    world.finish().await;
}

#[tokio::test]
async fn forbidden_destinations_are_refused_by_the_api_and_by_every_attempt() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({"retries": 0})).await;
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let client = world.sql().await;
    let edit = "UPDATE webhooks SET url = $1";
    client.execute(edit, &[&"https://10.0.0.1/"]).await.unwrap();
    let _dispatcher = world.dispatcher().await;
    for (n, url) in [
        "https://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1:5672/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a00:1]/",
        "https://0xa000001/",
        "https://167772161./",
        "https://１０.０.０.１/",
        "https://user:pw@example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:25/",
    ]
    .into_iter()
    .enumerate()
    {
        for (method, at, more) in [
            (
                "POST",
                "/api/v1/webhooks",
                json!({"url": url, "events": ["*"]}),
            ),
            ("PATCH", path.as_str(), json!({"url": url})),
        ] {
            let refused = world.ask(&ingest, method, at, Some(more)).await;
            assert_eq!(
                (refused.status, &refused.body["field"]),
                (422, &json!("url")),
                "{url}: {}",
                refused.body
            );
        }
        // As if this URL had been allowed once.
        client.execute(edit, &[&url]).await.unwrap();
        let id = format!("evt-{n}");
        world.publish("order.created", &id, &json!({})).await;
        let forbidden = "attempts WHERE outcome = 'forbidden' AND request_host IS NULL";
        eventually(&format!("{url} is refused"), async || {
            world.count(forbidden).await == n as i64 + 1
        })
        .await;
        let test = format!("{path}/test");
        let tested = world.ask(&ingest, "POST", &test, None).await;
        assert_eq!(tested.body["outcome"], "forbidden", "{}", tested.body);
    }
    assert_eq!(shop.arrivals().len(), 0);
    world.finish().await;
}

#[tokio::test]
async fn a_proxy_in_the_environment_is_not_used() {
    let world = World::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    tokio::spawn({
        let connections = connections.clone();
        async move {
            while listener.accept().await.is_ok() {
                connections.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let names = [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ];
    let proxied = names.map(|name| (name, proxy.as_str()));
    let ingest = world.service("posthorn-ingest", &proxied).await;
    let _dispatcher = world.service("posthorn-dispatcher", &proxied).await;
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    let secure = shop.url("/").replace("http:", "https:");
    let at_secure = json!({"retries": 0});
    subscribed(&world, &ingest, &secure, at_secure).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    let test = format!("/api/v1/webhooks/{}/test", webhook.id);
    world.ask(&ingest, "POST", &test, None).await;
    shop.receives(2).await;
    world.settles().await;
    assert_eq!(connections.load(Ordering::Relaxed), 0);
    world.finish().await;
}
