//! The six pictures in docs/console/: made by whoever asks for them, and copied there by hand.
//!
//! ```sh
//! cargo nextest run --test console --run-ignored only gallery
//! cp target/tmp/console/gallery/*.png docs/console/
//! ```

use std::fs;
use std::path::Path;

use harness::browser::Browser;
use harness::receiver::{Reply, answering};
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use serde_json::json;

/// A day of statistics: more by day than by night, and failures of the last three hours.
const DAY: &str = "INSERT INTO stats (subject, quarter, slot, outcomes, retries, delivered, delivered_at_once, failed, \
        expired, cancelled, response_times, response_ms, last_attempt_at, last_delivered_at) \
    SELECT subject, at, 9, ARRAY[good, 0, 0, bad, 0, 0, 0, 0, 0, 0], bad, good, good - bad / 2, bad / 4, 0, 0, \
        array_fill(0, ARRAY[12]) || ARRAY[good / 2, good / 3, good / 6, bad / 2] || array_fill(0, ARRAY[18]), good * 80, now(), now() \
    FROM (SELECT subject, at, (share * (60 + 40 * sin(extract(epoch FROM at) / 13751)))::int AS good, \
            CASE WHEN broken AND at > now() - interval '3 hours' THEN (share * 70)::int ELSE (share * 1)::int END AS bad \
        FROM unnest($1::text[], $2::float8[], $3::bool[]) AS s (subject, share, broken), \
            (SELECT to_timestamp(floor(extract(epoch FROM now()) / 900) * 900 - q * 900) AS at FROM generate_series(1, 95) q) t) x";

#[tokio::test]
#[ignore = "pictures for the documentation"]
async fn gallery() {
    let (world, browser) = tokio::join!(World::start(), Browser::start());
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let takes = world.receiver(answering(200)).await;
    let fails = world
        .receiver(std::sync::Arc::new(|_, _| {
            Reply::status(503).saying("{\"error\": \"database is locked\"}")
        }))
        .await;
    let make = async |name: &str, events: &[&str], more: serde_json::Value| {
        let receiver = if name == "Warehouse" { &fails } else { &takes };
        let mut body = json!({"description": name, "events": events});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        world.webhook(&ingest, receiver, body).await
    };
    let warehouse = make(
        "Warehouse",
        &["order.paid", "shipment.*"],
        json!({"retry_policy": {"delays": [1000, 1000, 60_000, 600_000]}}),
    )
    .await;
    let analytics = make(
        "Analytics",
        &["order.*", "invoice.*", "customer.*"],
        json!({}),
    )
    .await;
    let erp = make(
        "ERP orders",
        &["order.*"],
        json!({"filters": {"total": {"$gte": 100}, "currency": {"$in": ["EUR", "CHF"]}}}),
    )
    .await;
    let billing = make("Billing", &["invoice.*"], json!({})).await;
    make("CRM", &["customer.*"], json!({"status": "paused"})).await;
    make("Staging mirror", &["staging.*"], json!({})).await;
    for n in 0..24 {
        let (event_type, data) = match n % 4 {
            0 => (
                "invoice.paid",
                json!({"invoice": format!("2026-{n:04}"), "total": 99.5}),
            ),
            1 => ("customer.updated", json!({"customer": format!("c-{n}")})),
            2 => (
                "order.created",
                json!({"order": 4_700 + n, "total": 25.0 + f64::from(n), "currency": "EUR"}),
            ),
            _ => (
                "order.paid",
                json!({"order": 4_700 + n, "total": 129.9, "currency": "EUR", "customer": {"country": "AT"}}),
            ),
        };
        world
            .publish(event_type, &format!("order-{}", 4_700 + n), &data)
            .await;
    }
    world.accepts(24).await;
    eventually("some attempts failed", async || {
        world.count("attempts WHERE outcome = 'server_error'").await >= 12
    })
    .await;
    let subjects: Vec<_> = [&warehouse, &analytics, &erp, &billing]
        .map(|webhook| format!("webhook/{}", webhook.id))
        .into_iter()
        .chain([format!("tenant/{TENANT}")])
        .collect();
    let (shares, broken) = (
        vec![0.8, 2.5, 0.6, 0.4, 4.0],
        vec![true, false, false, false, true],
    );
    let sql = world.sql().await;
    sql.execute(DAY, &[&subjects, &shares, &broken])
        .await
        .unwrap();

    let tab = browser
        .tab(&ingest.url("").replace("127.0.0.1", "localhost"))
        .await;
    tab.sign_in(ADMIN_TOKEN).await;
    let failed = world.deliveries(&ingest, &warehouse).await;
    let failed = failed[0]["id"].as_str().unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("console/gallery");
    fs::create_dir_all(&folder).unwrap();
    let of = |rest: &str| format!("/console/{TENANT}{rest}");
    for (name, path, width, dark) in [
        ("overview", of(""), 1280, false),
        ("webhooks", of("/webhooks"), 1280, false),
        (
            "delivery",
            of(&format!("/deliveries/{failed}")),
            1280,
            false,
        ),
        ("event", of("/events/order-4702"), 1280, false),
        ("deliveries-dark", of("/deliveries"), 1280, true),
        (
            "webhook-phone",
            of(&format!("/webhooks/{}", warehouse.id)),
            390,
            false,
        ),
    ] {
        tab.screen(width, 800, dark).await;
        tab.goto(&path).await;
        fs::write(
            folder.join(format!("{name}.png")),
            tab.picture_of_screen().await,
        )
        .unwrap();
    }
    world.abandon().await;
}
