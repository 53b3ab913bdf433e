//! How long the console's lists and figures take with much in the log. Nothing is asserted of
//! time: it is measured and printed, by whoever asks for it.
//!
//! ```sh
//! POSTHORN_DELIVERIES=10000000 cargo nextest run --test console_lists --run-ignored all --no-capture
//! ```
//!
//! A million deliveries take about 0.6 GB. The servers are the test's own, and go with it.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use harness::history;
use harness::receiver::answering;
use harness::service::http;
use harness::world::{ADMIN_TOKEN, TENANT, World};
use reqwest::{Client, redirect};
use serde_json::json;

/// The tenant's own webhooks, and other tenants with ten each.
const WEBHOOKS: usize = 100;
const TENANTS: usize = 1_000;
const DAYS: u32 = 30;
/// How often each page is asked for.
const TIMES: usize = 20;

#[tokio::test]
#[ignore = "a measurement"]
async fn how_long_lists_take_with_much_in_the_log() {
    let wanted = std::env::var("POSTHORN_DELIVERIES").ok();
    let deliveries: u32 = wanted.and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let world = World::with_own_servers(&[("API_RATE_LIMIT", "0")]).await;
    let ingest = world.ingest().await;
    let receiver = world.receiver(answering(200)).await;
    for n in 0..WEBHOOKS {
        let more = json!({"description": format!("Webhook {n}"), "events": [format!("type{n}.*")]});
        world.webhook(&ingest, &receiver, more).await;
    }
    let sql = world.sql().await;
    let begun = Instant::now();
    history::fill(&sql, TENANT, DAYS, deliveries / DAYS)
        .await
        .unwrap();
    // Its deliveries went to webhooks that are there, and there is much beside them.
    let more = format!(
        "SET statement_timeout = 0;
         CREATE TEMP TABLE own AS SELECT id, row_number() OVER (ORDER BY id) - 1 AS n FROM webhooks
             WHERE tenant = '{TENANT}' AND status = 'active';
         UPDATE deliveries d SET webhook_id = own.id FROM own WHERE own.n = abs(hashtext(d.id::text)) % {WEBHOOKS};
         INSERT INTO tenants (id, revision) SELECT 'tenant' || n, 0 FROM generate_series(1, {TENANTS}) n;
         INSERT INTO webhooks (id, tenant, url, patterns, secret, revision, status)
             SELECT gen_random_uuid(), 'tenant' || (n % {TENANTS} + 1), 'https://example.com/', '{{*}}', '', 0, 'inactive'
             FROM generate_series(1, 10 * {TENANTS}) n;
         ANALYZE;"
    );
    sql.batch_execute(&more).await.unwrap();
    let rows = sql.query("SELECT id FROM own", &[]).await.unwrap();
    let own: Vec<shared::ids::WebhookId> = rows.iter().map(|row| row.get(0)).collect();
    let mut subjects: Vec<_> = own.iter().map(|id| format!("webhook/{id}")).collect();
    subjects.extend((1..=TENANTS).map(|n| format!("tenant/tenant{n}")));
    subjects.push(format!("tenant/{TENANT}"));
    // A week of it, of two dispatchers.
    let stats = "INSERT INTO stats (subject, quarter, slot, outcomes, retries, delivered, delivered_at_once, failed, expired, \
            cancelled, response_times, response_ms, last_attempt_at, last_delivered_at) \
        SELECT subject, to_timestamp(floor(extract(epoch FROM now()) / 900) * 900) - q * interval '15 minutes', slot, \
            array_fill(9, ARRAY[10]), 10, 90, 80, 1, 0, 0, array_fill(5, ARRAY[20]), 4000, now(), now() \
        FROM unnest($1::text[]) subject, generate_series(0, 671) q, generate_series(0, 1) slot";
    sql.execute(stats, &[&subjects]).await.unwrap();
    sql.batch_execute("ANALYZE stats").await.unwrap();
    println!("{deliveries} deliveries were made in {:?}", begun.elapsed());

    let client = Client::builder()
        .redirect(redirect::Policy::none())
        .build()
        .unwrap();
    let signed_in = client
        .post(ingest.url("/console/_/sign-in"))
        .header("sec-fetch-site", "same-origin")
        .body(format!("token={ADMIN_TOKEN}"))
        .send()
        .await
        .unwrap();
    let cookie = signed_in.headers()["set-cookie"]
        .to_str()
        .unwrap()
        .to_owned();
    let row = sql
        .query_one("SELECT id FROM own LIMIT 1", &[])
        .await
        .unwrap();
    let webhook: shared::ids::WebhookId = row.get(0);
    for page in [
        format!("/console/{TENANT}"),
        format!("/console/{TENANT}?window=7d"),
        format!("/console/{TENANT}/webhooks"),
        format!("/console/{TENANT}/webhooks/{webhook}"),
        format!("/console/{TENANT}/webhooks/{webhook}?q=status:failed"),
        format!("/console/{TENANT}/webhooks/{webhook}/statistics?window=7d"),
        format!("/console/{TENANT}/webhooks/{webhook}/log"),
        format!("/console/{TENANT}/deliveries"),
        format!("/console/{TENANT}/deliveries?q=status:failed"),
        format!("/console/{TENANT}/deliveries?q=code:5xx"),
        format!("/console/{TENANT}/deliveries?q=status:failed+type:nothing.*"),
        format!("/console/{TENANT}/events"),
        format!("/console/{TENANT}/events?q=type:nothing.*"),
        format!("/console/{TENANT}/event-types"),
        format!("/console/{TENANT}/replays"),
        "/console/_/tenants".to_owned(),
        "/console/_/dead-letters".to_owned(),
        "/console/_/health".to_owned(),
    ] {
        let mut took = Vec::new();
        let mut bytes = 0;
        for _ in 0..TIMES {
            let begun = Instant::now();
            let asked = http().get(ingest.url(&page)).header("cookie", &cookie);
            let answer = asked.send().await.unwrap();
            assert_eq!(answer.status(), 200, "{page}");
            let text = answer.text().await.unwrap();
            assert!(!text.contains("be read just now"), "{page}");
            bytes = text.len();
            took.push(begun.elapsed());
        }
        took.sort();
        let ms = |at: Duration| at.as_secs_f64() * 1_000.0;
        println!(
            "{:7.1} ms  p95 {:7.1} ms  {bytes:6} bytes  {page}",
            ms(took[TIMES / 2]),
            ms(took[TIMES * 19 / 20])
        );
    }
    world.abandon().await;
}
