//! `make bench ARGS=lists`: how long the console's pages and the API's lists take with much in the log.
//!
//! The database has a month of deliveries, 10,000 webhooks and 1,000 tenants. One tenant has 100
//! webhooks and half of all deliveries; another has 1,000 webhooks. Each page and each list is
//! asked for many times over HTTP, one request after the other.
//!
//! Filling takes minutes, so `--folder` keeps the servers' data: the next run with this folder
//! measures at once.

#![allow(clippy::print_stderr)] // Filling takes minutes: it says how far it is.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::json;
use shared::ids::{DeliveryId, WebhookId};
use shared::stats::{BUCKETS, OUTCOMES};
use tokio_postgres::Client;

use super::stage::{MASTER_KEY, TENANT, sql};
use crate::history;
use crate::pair::{Pair, PairConfig};
use crate::service::{Service, command, free_address, http};

const DATABASE: &str = "bench_lists";
const DAYS: u32 = 31;
/// Of the first tenant, of the second one, and of all others together.
const WEBHOOKS: [usize; 3] = [100, 1_000, 8_900];
const TENANTS: usize = 1_000;
/// The tenant with many webhooks.
const WIDE: &str = "wide";
const ADMIN_TOKEN: &str = "the-operators-token-of-the-benchmark";

/// The sizes of the benchmark.
#[derive(Args)]
pub struct Lists {
    /// Deliveries in all.
    #[arg(long, default_value_t = 10_000_000)]
    deliveries: u32,
    /// How often each page is asked for.
    #[arg(long, default_value_t = 40)]
    calls: usize,
    /// Only pages whose address contains this.
    #[arg(long)]
    only: Option<String>,
    /// Where the servers' data stays for the next run.
    #[arg(long)]
    folder: Option<PathBuf>,
}

impl Lists {
    /// Measures on servers of its own, and answers a table.
    ///
    /// # Errors
    /// If something can't be started, filled or asked.
    pub async fn measure(&self) -> anyhow::Result<String> {
        let temporary = std::env::temp_dir().join(format!("posthorn-bench-{}", std::process::id()));
        let folder = self.folder.as_ref().unwrap_or(&temporary);
        let pair = Pair::start(PairConfig::new(folder)).await?;
        let settings = settings(&pair);
        let admin = sql(&pair, "posthorn").await?;
        let there = "SELECT 1 FROM pg_database WHERE datname = $1";
        let is_there = admin.query_opt(there, &[&DATABASE]).await?.is_some();
        if !is_there {
            let create = format!("CREATE DATABASE {DATABASE}");
            admin.batch_execute(&create).await?;
        }
        command("posthorn-ingest", &["migrate"], &settings).await?;
        let log = folder.with_extension("log");
        let ingest = service(&settings, &log).await?;
        if !is_there {
            let begun = Instant::now();
            self.fill(&pair, &ingest).await?;
            eprintln!("filled in {:.0} s", begun.elapsed().as_secs_f64());
        }
        let client = sql(&pair, DATABASE).await?;
        // As autovacuum would in time. Each is a statement of its own: VACUUM can't run in a
        // transaction, and several statements in one query are one.
        client.batch_execute("VACUUM ANALYZE").await?;
        client.batch_execute("CHECKPOINT").await?;
        let table = self.ask_for_all(&ingest, &client).await;
        ingest.stop().await?;
        match self.folder {
            Some(_) => pair.stop().await?,
            None => pair.discard().await?,
        }
        table
    }

    async fn ask_for_all(&self, ingest: &Service, client: &Client) -> anyhow::Result<String> {
        let cookie = sign_in(ingest).await?;
        let mut table = format!(
            "{:>8} {:>8} {:>8} {:>7}  address\n",
            "p50, ms", "p95, ms", "max, ms", "KiB"
        );
        for (words, path) in addresses(client).await? {
            let only = self.only.as_deref().unwrap_or_default();
            if !words.contains(only) {
                continue;
            }
            let mut taken = Vec::with_capacity(self.calls);
            let mut bytes = 0;
            for _ in 0..self.calls {
                let begun = Instant::now();
                let asked = http().get(ingest.url(&path)).header("cookie", &cookie);
                let asked = asked.bearer_auth(ADMIN_TOKEN);
                let tenant = if words.contains(WIDE) { WIDE } else { TENANT };
                let answer = asked.header("x-tenant-id", tenant).send().await?;
                let status = answer.status();
                let text = answer.text().await?;
                taken.push(begun.elapsed().as_secs_f64() * 1_000.0);
                ensure!(status == 200, "{path}: {status} {text}");
                ensure!(!text.contains("be read just now"), "{path} took too long");
                bytes = text.len();
            }
            taken.sort_by(f64::total_cmp);
            let at = |share: f64| taken[((taken.len() - 1) as f64 * share).round() as usize];
            // Writing to a string can't fail.
            let _ = writeln!(
                table,
                "{:>8.1} {:>8.1} {:>8.1} {:>7}  {words}",
                at(0.5),
                at(0.95),
                at(1.0),
                bytes / 1024
            );
        }
        Ok(table)
    }

    async fn fill(&self, pair: &Pair, ingest: &Service) -> anyhow::Result<()> {
        let client = sql(pair, DATABASE).await?;
        // The servers are the benchmark's own. With PostgreSQL's defaults it would write checkpoints all the time.
        client
            .batch_execute("ALTER SYSTEM SET max_wal_size = '2GB'")
            .await?;
        client.batch_execute("SELECT pg_reload_conf()").await?;
        history::make_partitions(&client, DAYS).await?;
        fill_tenants(&client, ingest).await?;
        // Two connections at a time: as many as this machine has cores.
        let days = |first: u32| async move {
            let client = sql(pair, DATABASE).await?;
            let own = own_webhooks(&client).await?;
            for day in (first..DAYS).step_by(2) {
                fill_day(&client, &own, day, self.deliveries / DAYS).await?;
                eprintln!("day {day} of {DAYS}");
            }
            anyhow::Ok(())
        };
        tokio::try_join!(days(0), days(1))?;
        fill_stats(&client).await?;
        Ok(())
    }
}

fn settings(pair: &Pair) -> Vec<(String, String)> {
    let database_url = pair.postgres().database_url(DATABASE);
    let amqp_url = pair.rabbitmq().amqp_url("/");
    [
        ("DATABASE_URL", database_url.as_str()),
        ("AMQP_URL", &amqp_url),
        ("MASTER_KEY", MASTER_KEY),
        ("ADMIN_TOKEN", ADMIN_TOKEN),
        ("API_RATE_LIMIT", "0"),
        // 45 days: nothing is dropped while it is measured.
        ("WEBHOOK_EVENT_TTL", "3888000"),
        ("RUST_LOG", "warn"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

async fn service(settings: &[(String, String)], log: &Path) -> anyhow::Result<Service> {
    let address = free_address()?;
    let mut ingest = Service::start("ingest", "posthorn-ingest", &address, settings, log)?;
    ingest.ready().await?;
    Ok(ingest)
}

async fn sign_in(ingest: &Service) -> anyhow::Result<String> {
    let answer = http()
        .post(ingest.url("/console/_/sign-in"))
        .header("sec-fetch-site", "same-origin")
        .body(format!("token={ADMIN_TOKEN}"))
        .send()
        .await?;
    let cookie = answer.headers().get("set-cookie").context("no session")?;
    Ok(cookie.to_str()?.to_owned())
}

/// The addresses that are measured, each with the words that the table has for it.
async fn addresses(client: &Client) -> anyhow::Result<Vec<(String, String)>> {
    let busy =
        "SELECT id FROM webhooks WHERE tenant = $1 AND status = 'active' ORDER BY id LIMIT 1";
    let webhook: WebhookId = client.query_one(busy, &[&TENANT]).await?.get(0);
    let of_it = "SELECT d.id, e.id FROM deliveries d JOIN events e ON e.uid = d.event_uid \
        WHERE d.webhook_id = $1 AND d.id < first_uuid_at(now() - interval '9 days') \
        ORDER BY d.id DESC LIMIT 1";
    let row = client.query_one(of_it, &[&webhook]).await?;
    let (delivery, event): (DeliveryId, String) = (row.get(0), row.get(1));
    let pages = [
        "/console/acme",
        "/console/acme?window=7d",
        "/console/acme?window=30d",
        "/console/acme/webhooks",
        "/console/acme/webhooks/{w}",
        "/console/acme/webhooks/{w}?q=status:failed",
        "/console/acme/webhooks/{w}?q=code:5xx",
        "/console/acme/webhooks/{w}/statistics?window=30d",
        "/console/acme/webhooks/{w}/log",
        "/console/acme/deliveries",
        "/console/acme/deliveries?cursor={d}",
        "/console/acme/deliveries?q=status:failed",
        "/console/acme/deliveries?q=status:retrying,failed,expired",
        "/console/acme/deliveries?q=status:queued",
        "/console/acme/deliveries?q=code:5xx",
        "/console/acme/deliveries?q=code:none",
        "/console/acme/deliveries?q=type:rare.*",
        "/console/acme/deliveries?q=type:nothing.*",
        "/console/acme/deliveries?q=status:failed+type:nothing.*",
        "/console/acme/deliveries?q=event:{e}",
        "/console/acme/deliveries/{d}",
        "/console/acme/events",
        "/console/acme/events?q=type:rare.*",
        "/console/acme/events?q=type:nothing.*",
        "/console/acme/events?q=matched:0",
        "/console/acme/events/{e}",
        "/console/acme/event-types",
        "/console/acme/replays",
        "/console/acme/replays/new?since=24h",
        "/console/wide",
        "/console/wide/webhooks",
        "/console/wide/deliveries",
        "/console/wide/deliveries?q=status:failed",
        "/console/wide/deliveries?q=code:5xx",
        "/console/_/tenants",
        "/console/_/tenants?health=failing",
        "/console/_/tenants/acme",
        "/console/_/dead-letters",
        "/console/_/health",
        "/console/_/health?window=7d",
        "/console/acme/webhooks/{w}/settings",
        "/console/acme/dead-letters",
        "/api/v1/deliveries",
        "/api/v1/deliveries?limit=250",
        "/api/v1/deliveries?status=failed",
        "/api/v1/deliveries?response_code=5xx",
        "/api/v1/deliveries?event_type=nothing.*",
        "/api/v1/webhooks/{w}/deliveries",
        "/api/v1/webhooks/{w}/logs",
        "/api/v1/webhooks/{w}/attempts",
        "/api/v1/webhooks/{w}/waits",
        "/api/v1/webhooks/{w}/outages",
        "/api/v1/webhooks/{w}/stats?window=30d",
        "/api/v1/webhooks",
        "/api/v1/events",
        "/api/v1/events?type=nothing.*",
        "/api/v1/stats?window=30d",
        "/api/v1/replays",
        "/api/v1/changes",
        "/api/v1/admin/tenants",
        "/api/v1/admin/dead-letters",
        "/api/v1/admin/system",
        "/api/v1/admin/endpoints",
        "/api/v1/admin/load?window=24h",
    ];
    let ids = [
        ("{w}", webhook.to_string()),
        ("{d}", delivery.to_string()),
        ("{e}", event),
    ];
    let filled = |path: &str| {
        let ids = ids.iter();
        ids.fold(path.to_owned(), |path, (name, id)| path.replace(name, id))
    };
    let pages = pages.into_iter();
    Ok(pages.map(|path| (path.to_owned(), filled(path))).collect())
}

/// The first tenant's webhooks are made by the API. All others are rows that nothing is sent to.
async fn fill_tenants(client: &Client, ingest: &Service) -> anyhow::Result<()> {
    let tenants = format!(
        "INSERT INTO tenants (id, revision, max_webhooks) SELECT CASE n WHEN 1 THEN '{TENANT}'
                 WHEN 2 THEN '{WIDE}' ELSE 'tenant' || n END, 0, 10000
             FROM generate_series(1, {TENANTS}) n
             ON CONFLICT (id) DO UPDATE SET max_webhooks = 10000"
    );
    client.batch_execute(&tenants).await?;
    for n in 0..WEBHOOKS[0] {
        let body = json!({"url": format!("https://example.com/{n}"), "events": [format!("type{n}.*")],
            "description": format!("Webhook {n}")});
        let asked = http().post(ingest.url("/api/v1/webhooks"));
        let asked = asked.bearer_auth(ADMIN_TOKEN).header("x-tenant-id", TENANT);
        let asked = asked.header("content-type", "application/json");
        let answer = asked.body(body.to_string()).send().await?;
        ensure!(answer.status() == 201, "{}", answer.text().await?);
    }
    let [_, wide, others] = WEBHOOKS;
    let rows = format!(
        "SET session_replication_role = replica;
         INSERT INTO webhooks (id, tenant, url, description, patterns, secret, revision, status)
             SELECT gen_random_uuid(), CASE WHEN n <= {wide} THEN '{WIDE}' ELSE 'tenant' || (n % ({TENANTS} - 2) + 3) END,
                 'https://example.com/' || n, 'Webhook ' || n, ARRAY['type' || n || '.*'], '', 0, 'inactive'
             FROM generate_series(1, {wide} + {others}) n;
         RESET session_replication_role"
    );
    Ok(client.batch_execute(&rows).await?)
}

/// The webhooks' ids: of the first tenant, of the second one, of the others.
async fn own_webhooks(client: &Client) -> anyhow::Result<[Vec<WebhookId>; 3]> {
    let of =
        "SELECT id, CASE tenant WHEN $1 THEN 0 WHEN $2 THEN 1 ELSE 2 END FROM webhooks ORDER BY id";
    let mut own: [Vec<WebhookId>; 3] = Default::default();
    for row in client.query(of, &[&TENANT, &WIDE]).await? {
        own[row.get::<_, i32>(1) as usize].push(row.get(0));
    }
    Ok(own)
}

/// A day's deliveries, as dispatchers would have left them: of twenty types, one in a hundred
/// failed, one in a thousand expired, and one in ten thousand of a rare type. Of today's, one in
/// five hundred isn't finished.
async fn fill_day(
    client: &Client,
    own: &[Vec<WebhookId>; 3],
    day: u32,
    count: u32,
) -> anyhow::Result<()> {
    let [first, wide, others] = own;
    let whose = "SET synchronous_commit = off; SET statement_timeout = 0; SET timezone = 'UTC'; DROP TABLE IF EXISTS filled";
    client.batch_execute(whose).await?;
    // A quarter of the first tenant's go to one webhook.
    let filled = format!(
        "CREATE TEMP TABLE filled AS
         SELECT n, (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
                 || '7' || lpad(to_hex(h & 4095), 3, '0') || '8000' || lpad(to_hex(n), 12, '0'))::uuid AS id,
             at, CASE WHEN h % 10 < 5 THEN '{TENANT}' WHEN h % 10 < 7 THEN '{WIDE}' ELSE w.tenant END AS tenant,
             CASE WHEN h % 10 < 5 THEN ($1::uuid[])[CASE WHEN h % 40 < 10 THEN 1 ELSE h / 40 % {a} + 1 END]
                 WHEN h % 10 < 7 THEN ($2::uuid[])[h / 40 % {b} + 1] ELSE w.id END AS webhook,
             CASE WHEN n % 10000 = 5 THEN 'rare.happened' ELSE 'type' || h / 10 % 20 || '.happened' END AS type,
             CASE WHEN n % 100 = 0 THEN 'failed' WHEN n % 1000 = 1 THEN 'expired'
                 WHEN n % 1000 = 2 AND {day} = 0 THEN 'retrying' WHEN n % 1000 = 3 AND {day} = 0 THEN 'queued'
                 ELSE 'delivered' END AS state,
             CASE WHEN n % 100 = 0 THEN (ARRAY[500, 503, 404, NULL])[h % 4 + 1] WHEN n % 1000 IN (1, 2) THEN 503
                 WHEN n % 1000 = 3 AND {day} = 0 THEN NULL ELSE 200 END::smallint AS code
         FROM (SELECT n, hashint8(n) & 2147483647 AS h, CASE WHEN {day} = 0 THEN now() - n % {count} * ((now() - date_trunc('day', now())) / {count})
                 ELSE date_trunc('day', now()) - interval '{day} days' + n % {count} * (interval '1 day' / {count}) END AS at
             FROM generate_series({day}::bigint * {count} + 1, ({day}::bigint + 1) * {count}) n) made
         JOIN webhooks w ON w.id = ($3::uuid[])[h / 40 % {c} + 1]",
        a = first.len(),
        b = wide.len(),
        c = others.len(),
    );
    client.execute(&filled, &[first, wide, others]).await?;
    let rows = "INSERT INTO events (uid, tenant, id, type, occurred_at, data, matched)
             SELECT id, tenant, 'evt-' || n, type, at, '{\"invoice\": \"2026-' || n || '\", \"total\": 99.50}', 1 FROM filled;
         INSERT INTO deliveries (id, event_uid, webhook_id, event_type, state, attempts, finished_at, due_at, status_code)
             SELECT id, id, webhook, type, state, CASE state WHEN 'queued' THEN 0 ELSE 1 END,
                 CASE WHEN state NOT IN ('queued', 'retrying') THEN at END,
                 CASE WHEN state IN ('queued', 'retrying') THEN now() + interval '1 day' END, code FROM filled;
         INSERT INTO attempts (delivery_id, n, started_at, duration_ms, outcome, status_code, response_body, response_headers)
             SELECT id, 1, at, 12, CASE WHEN code = 200 THEN 'success' WHEN code = 404 THEN 'client_error'
                 WHEN code IS NULL THEN 'timeout' ELSE 'server_error' END, code, 'noted', '[]' FROM filled WHERE state <> 'queued';
         DROP TABLE filled";
    Ok(client.batch_execute(rows).await?)
}

/// Of the first tenant and its webhooks, each quarter of an hour of a month by two dispatchers;
/// of the second one's a week; of all others each hour of three days.
async fn fill_stats(client: &Client) -> anyhow::Result<()> {
    let [first, wide, others] = own_webhooks(client).await?;
    let subjects = |tenant: &str, webhooks: &[WebhookId]| {
        let of_webhooks = webhooks.iter().map(|id| format!("webhook/{id}"));
        let tenant = Some(format!("tenant/{tenant}"));
        of_webhooks.chain(tenant).collect::<Vec<_>>()
    };
    let mut of_others = subjects("tenant3", &others);
    of_others.extend((4..=TENANTS).map(|n| format!("tenant/tenant{n}")));
    for (subjects, quarters, every, slots) in [
        (subjects(TENANT, &first), 30 * 96, 1, 2),
        (subjects(WIDE, &wide), 7 * 96, 1, 1),
        (of_others, 3 * 96, 4, 1),
    ] {
        let rows = "INSERT INTO stats (subject, quarter, slot, outcomes, response_times, response_ms, retries, \
                delivered, delivered_at_once, failed, expired, cancelled, last_attempt_at, last_delivered_at, last_failed_at) \
            SELECT subject, quarter, slot, array_fill(9, ARRAY[$2::int4]), array_fill(5, ARRAY[$3::int4]), 4000, 10, \
                90, 80, 1, 0, 0, quarter, quarter, quarter \
            FROM unnest($1::text[]) subject, generate_series(0, $4::int4, $5::int4) q, generate_series(1, $6::int4) slot, \
                LATERAL (SELECT to_timestamp(floor(extract(epoch FROM now()) / 900) * 900) - q * interval '15 minutes' AS quarter) at";
        let (outcomes, buckets) = (OUTCOMES.len() as i32, BUCKETS as i32);
        client
            .execute(
                rows,
                &[&subjects, &outcomes, &buckets, &quarters, &every, &slots],
            )
            .await?;
    }
    Ok(())
}
