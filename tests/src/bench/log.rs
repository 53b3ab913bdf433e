//! `make bench ARGS=log`: do queries of the delivery log stay fast when the log is large?
//!
//! A real ingest runs on a database with many finished deliveries of one tenant: first
//! few, then many. The benchmark requests each list and each statistic many times over
//! HTTP, one request after the other. The result is the ratio of the two p99. A request
//! whose p99 grows with the log reads rows that it doesn't need.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use shared::ids::{DeliveryId, WebhookId};
use shared::stats::{BUCKETS, OUTCOMES};

use super::stage::{Stage, TENANT};
use crate::pair::Pair;
use crate::service::{Service, ask};

/// How many webhooks share the deliveries; the first has nine in ten.
const WEBHOOKS: usize = 10;

/// The sizes of the benchmark.
#[derive(Args)]
pub struct Log {
    /// Deliveries to begin with.
    #[arg(long, default_value_t = 10_000)]
    few: i64,
    /// Deliveries in the end.
    #[arg(long, default_value_t = 1_000_000)]
    many: i64,
    /// How often each call is made.
    #[arg(long, default_value_t = 300)]
    calls: usize,
}

/// A call's times with few deliveries and with many, in milliseconds.
#[derive(Default)]
struct Times {
    few: Quantiles,
    many: Quantiles,
}

#[derive(Default)]
struct Quantiles {
    p50: f64,
    p99: f64,
}

impl Log {
    /// Measures, and answers a table.
    pub async fn measure(&self, pair: &Pair, folder: &Path) -> anyhow::Result<String> {
        let stage = Stage::set(pair, folder, "warn", Duration::ZERO).await?;
        let ingest = stage.ingest(WEBHOOKS).await?;
        let mut times: BTreeMap<String, Times> = BTreeMap::new();
        fill(&stage, 0, self.few).await?;
        for (call, path) in calls(&stage).await? {
            times.entry(call).or_default().few = self.time(&stage, &ingest, &path).await?;
        }
        fill(&stage, self.few, self.many).await?;
        for (call, path) in calls(&stage).await? {
            times.entry(call).or_default().many = self.time(&stage, &ingest, &path).await?;
        }
        ingest.stop().await?;
        stage.strike().await?;
        Ok(self.table(&times))
    }

    async fn time(
        &self,
        stage: &Stage<'_>,
        ingest: &Service,
        path: &str,
    ) -> anyhow::Result<Quantiles> {
        let mut taken = Vec::with_capacity(self.calls);
        let url = ingest.url(path);
        for _ in 0..self.calls {
            let begun = Instant::now();
            let answer = ask(&url, &stage.token, "GET", None).await?;
            taken.push(begun.elapsed().as_secs_f64() * 1000.0);
            ensure!(
                answer.status == 200,
                "{path}: {} {}",
                answer.status,
                answer.body
            );
        }
        taken.sort_by(f64::total_cmp);
        let at = |share: f64| taken[((taken.len() - 1) as f64 * share).round() as usize];
        Ok(Quantiles {
            p50: at(0.5),
            p99: at(0.99),
        })
    }

    fn table(&self, times: &BTreeMap<String, Times>) -> String {
        let (few, many) = (self.few, self.many);
        let mut table = format!(
            "{:<34} {:>21} {:>21}   ratio of p99\n{:<34} {:>10} {:>10} {:>10} {:>10}\n",
            "milliseconds", few, many, "", "p50", "p99", "p50", "p99"
        );
        for (call, Times { few, many }) in times {
            let ratio = many.p99 / few.p99;
            // Writing to a string can't fail.
            let _ = writeln!(
                table,
                "{call:<34} {:>10.1} {:>10.1} {:>10.1} {:>10.1}   {ratio:.2}",
                few.p50, few.p99, many.p50, many.p99
            );
        }
        table
    }
}

/// The calls by name, and their paths.
async fn calls(stage: &Stage<'_>) -> anyhow::Result<Vec<(String, String)>> {
    let client = stage.sql().await?;
    let ids = client
        .query("SELECT id FROM webhooks ORDER BY id LIMIT 2", &[])
        .await?;
    let busy: WebhookId = ids[0].get(0);
    let middle: DeliveryId = client
        .query_one(
            "SELECT id FROM deliveries WHERE webhook_id = $1 ORDER BY id DESC LIMIT 1 OFFSET 4000",
            &[&busy],
        )
        .await?
        .get(0);
    let hook = format!("/api/v1/webhooks/{busy}");
    let list = |filter: &str| format!("{hook}/deliveries?{filter}");
    let all = |filter: &str| format!("/api/v1/deliveries?{filter}");
    Ok([
        ("webhook's deliveries", list("")),
        ("  250 of them", list("limit=250")),
        ("  from the middle", list(&format!("cursor={middle}"))),
        ("  status=failed", list("status=failed")),
        ("  status=failed,expired", list("status=failed,expired")),
        ("  status=delivered", list("status=delivered")),
        ("  a rare type", list("event_type=order.rare")),
        ("  a type that never was", list("event_type=order.none")),
        ("  response_code=500", list("response_code=500")),
        ("  failed with 500", list("status=failed&response_code=500")),
        ("  event_id", list("event_id=evt-5000")),
        ("webhook's logs", format!("{hook}/logs")),
        ("tenant's deliveries", all("")),
        ("  status=failed", all("status=failed")),
        ("  a rare type", all("event_type=order.rare")),
        ("one delivery", format!("/api/v1/deliveries/{middle}")),
        ("webhook's stats, 24 h", format!("{hook}/stats")),
        ("webhook's stats, 30 d", format!("{hook}/stats?window=30d")),
        (
            "tenant's stats, 30 d",
            "/api/v1/stats?window=30d".to_owned(),
        ),
        ("webhooks", "/api/v1/webhooks".to_owned()),
    ]
    .into_iter()
    .scan("", |above, (name, path)| {
        // An indented row belongs to the row above it.
        let is_part = name.starts_with(' ');
        if !is_part {
            *above = name;
        }
        let full = if is_part {
            format!("{above}, {}", name.trim_start())
        } else {
            name.to_owned()
        };
        Some((full, path))
    })
    .collect())
}

/// Adds deliveries from one number to another, spread over the last day, as
/// dispatchers would have left them: one in a hundred failed, one in a thousand
/// of a rare type; and a month of statistics.
async fn fill(stage: &Stage<'_>, from: i64, to: i64) -> anyhow::Result<()> {
    let client = stage.sql().await?;
    client
        .batch_execute(&format!(
            "CREATE TEMP TABLE filled AS
             SELECT n, (lpad(to_hex((extract(epoch FROM now()
                     - n * interval '1 day' / {to}) * 1000)::bigint), 12, '0')
                 || '70008000' || lpad(to_hex(n), 12, '0'))::uuid AS id,
                 CASE WHEN n % 1000 = 0 THEN 'order.rare' ELSE 'order.paid' END AS type,
                 n % 100 = 1 AS failed,
                 CASE WHEN n % 10 = 0 THEN n / 10 % {WEBHOOKS} ELSE 0 END AS webhook
             FROM generate_series({from}::bigint + 1, {to}) n;
             INSERT INTO events (uid, tenant, id, type, occurred_at, data, matched)
             SELECT id, '{TENANT}', 'evt-' || n, type, now(), '{{\"n\": 1}}', 1 FROM filled;
             INSERT INTO deliveries (id, event_uid, webhook_id, event_type, state, attempts,
                 finished_at, status_code)
             SELECT id, id, (SELECT array_agg(w.id ORDER BY w.id) FROM webhooks w)[webhook + 1], type,
                 CASE WHEN failed THEN 'failed' ELSE 'delivered' END, 1, now(),
                 CASE WHEN failed THEN 500 ELSE 200 END FROM filled;
             INSERT INTO attempts (delivery_id, n, started_at, duration_ms, outcome, status_code,
                 response_body, response_headers)
             SELECT id, 1, now(), 12, CASE WHEN failed THEN 'server_error' ELSE 'success' END,
                 CASE WHEN failed THEN 500 ELSE 200 END, 'noted', '[]' FROM filled;
             DROP TABLE filled;"
        ))
        .await?;
    fill_stats(&client).await?;
    Ok(client.batch_execute("VACUUM ANALYZE").await?)
}

/// A month in which something happened in every quarter of an hour.
async fn fill_stats(client: &tokio_postgres::Client) -> anyhow::Result<()> {
    let webhooks = client.query("SELECT id FROM webhooks", &[]).await?;
    let mut subjects = vec![format!("tenant/{TENANT}")];
    subjects.extend(
        webhooks
            .iter()
            .map(|row| format!("webhook/{}", row.get::<_, WebhookId>(0))),
    );
    client
        .execute(
            "INSERT INTO stats (subject, quarter, slot, outcomes, response_times, response_ms, \
                 retries, delivered, delivered_at_once, failed, expired, cancelled, \
                 last_attempt_at, last_delivered_at, last_failed_at) \
             SELECT subject, to_timestamp(floor(extract(epoch FROM at) / 900) * 900), 0, \
                 array_fill(1, ARRAY[$2::int4]), array_fill(1, ARRAY[$3::int4]), 12, \
                 1, 1, 1, 1, 1, 1, at, at, at \
             FROM unnest($1::text[]) AS subject, \
                 generate_series(now() - interval '30 days', now(), interval '15 minutes') AS at \
             ON CONFLICT DO NOTHING",
            &[&subjects, &(OUTCOMES.len() as i32), &(BUCKETS as i32)],
        )
        .await?;
    Ok(())
}
