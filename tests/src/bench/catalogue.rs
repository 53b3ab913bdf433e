//! `make bench ARGS=catalogue`: how much do one tenant's configuration changes delay another tenant?
//!
//! A quiet tenant publishes over HTTP at a steady rate, first alone. Then another tenant
//! changes its webhooks or event types beside it, many at once. The benchmark prints three
//! times of the quiet tenant: of a publish request (until the 202), from publishing to
//! arrival, and of its own changes.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::generator::{EVENT_TYPE, event_id};
use super::stage::{Stage, until};
use super::usage::resident;
use crate::pair::Pair;
use crate::service::{Answer, Service, ask};

/// The event types of the busy tenant, each with a schema.
const TYPES: usize = 1_000;

/// What the busy tenant does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Change {
    /// Nothing.
    Nothing,
    /// Changes webhooks.
    Webhooks,
    /// Makes webhooks and deletes them.
    Pairs,
    /// Changes one event type of a thousand.
    EventTypes,
    /// Changes a webhook with SQL, in a transaction that stays open.
    Open,
}

/// How much of it.
#[derive(Args)]
pub struct Catalogue {
    /// Only beside this; may be repeated.
    #[arg(long)]
    only: Vec<Change>,
    /// Changes a second, as far as they are taken.
    #[arg(long, default_value_t = 200)]
    changes: u64,
    /// Changes that wait for their answers at once.
    #[arg(long, default_value_t = 64)]
    at_once: usize,
    /// The quiet tenant's events a second.
    #[arg(long, default_value_t = 50)]
    rate: u64,
    /// How long each measures.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

impl Catalogue {
    /// Measures, and answers a table.
    pub async fn measure(&self, pair: &Pair, folder: &Path) -> anyhow::Result<String> {
        let mut table = format!(
            "{:<12} {:>9} {:>24} {:>24} {:>24} {:>18}\n{:<12} {:>9} {:>24} {:>24} {:>24} {:>18}\n",
            "beside",
            "changes/s",
            "publishing, ms",
            "arrival, ms",
            "own change, ms",
            "MiB",
            "",
            "",
            "p50    p99    max",
            "p50    p95    p99",
            "p50    p99    max",
            "ingest dispatcher",
        );
        let all = [
            Change::Nothing,
            Change::Webhooks,
            Change::Pairs,
            Change::EventTypes,
            Change::Open,
        ];
        for change in all {
            if self.only.is_empty() || self.only.contains(&change) {
                self.beside(change, pair, folder, &mut table).await?;
            }
        }
        Ok(table)
    }

    async fn beside(
        &self,
        change: Change,
        pair: &Pair,
        folder: &Path,
        table: &mut String,
    ) -> anyhow::Result<()> {
        let stage = Stage::set(pair, folder, "warn", Duration::ZERO).await?;
        let ingest = Arc::new(stage.ingest(1).await?);
        let dispatcher = stage.dispatcher().await?;
        let busy = Busy {
            token: stage.tenant("busy").await?,
            ingest: ingest.clone(),
            change,
            done: Arc::default(),
        };
        let webhooks = busy.prepare(self.at_once).await?;
        let quiet = Quiet {
            token: stage.token.clone(),
            ingest: ingest.clone(),
        };
        quiet.publish(self.rate, 20).await?;
        until("warming up", 20, async || {
            Ok(stage.receiver.seen().await?.count)
        })
        .await?;
        stage.receiver.reset().await?;
        stage.checkpoint().await?;

        let stop = CancellationToken::new();
        let blocker = stage.sql().await?;
        if change == Change::Open {
            let held = "BEGIN; UPDATE webhooks SET description = 'open' WHERE tenant = 'busy'";
            blocker.batch_execute(held).await?;
        }
        let changing = tokio::spawn(busy.run(webhooks, self.changes, stop.clone()));
        let begun = Instant::now();
        let events = self.rate * self.seconds;
        let (published, changed) = tokio::join!(
            quiet.publish(self.rate, events),
            quiet.change(Duration::from_secs(self.seconds))
        );
        let (published, changed) = (published?, changed?);
        let seconds = begun.elapsed().as_secs_f64();
        stop.cancel();
        let changes = changing.await??;
        blocker.batch_execute("ROLLBACK").await?;
        until("arriving", events, async || {
            Ok(stage.receiver.seen().await?.count)
        })
        .await?;
        let seen = stage.receiver.reset().await?;
        let [p50, p95, p99, _] = seen.latency_ms.context("nothing arrived")?;
        let _ = writeln!(
            table,
            "{:<12} {:>9.0} {:>24} {:>24} {:>24} {:>18}",
            format!("{change:?}"),
            changes as f64 / seconds,
            spread(published),
            format!("{p50:.1} {p95:>6.1} {p99:>6.1}"),
            spread(changed),
            format!(
                "{:.0} {:.0}",
                resident(ingest.pid()),
                resident(dispatcher.pid())
            ),
        );
        drop((quiet, ingest, dispatcher));
        stage.strike().await
    }
}

/// The median, p99 and maximum, in milliseconds.
fn spread(mut times: Vec<f64>) -> String {
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    format!("{:.1} {:>6.1} {:>6.1}", at(0.5), at(0.99), at(1.0))
}

/// The tenant that should not be delayed.
struct Quiet {
    token: String,
    ingest: Arc<Service>,
}

impl Quiet {
    /// Publishes at a fixed rate, without waiting for answers. Returns the time of
    /// each request.
    async fn publish(&self, rate: u64, events: u64) -> anyhow::Result<Vec<f64>> {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate)?);
        let mut under_way = JoinSet::new();
        for n in 0..events {
            tick.tick().await;
            let body = json!({"type": EVENT_TYPE, "id": event_id(n), "data": {"n": n}});
            let (url, token) = (self.ingest.url("/api/v1/events"), self.token.clone());
            under_way.spawn(async move { timed(&url, &token, "POST", body, 202).await });
        }
        let all = under_way.join_all().await;
        all.into_iter().collect()
    }

    /// Changes its own webhook twice a second, one change after the other.
    async fn change(&self, time: Duration) -> anyhow::Result<Vec<f64>> {
        let until = Instant::now() + time;
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        let list = self.ingest.url("/api/v1/webhooks");
        let listed = ask(&list, &self.token, "GET", None).await?;
        let id = listed.body["webhooks"][0]["id"].as_str().context("an id")?;
        let url = self.ingest.url(&format!("/api/v1/webhooks/{id}"));
        let mut times = Vec::new();
        while Instant::now() < until {
            tick.tick().await;
            let body = json!({"description": times.len().to_string()});
            times.push(timed(&url, &self.token, "PATCH", body, 200).await?);
        }
        Ok(times)
    }
}

async fn timed(
    url: &str,
    token: &str,
    method: &str,
    body: Value,
    wanted: u16,
) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let Answer { status, body } = ask(url, token, method, Some(&body)).await?;
    ensure!(status == wanted, "{method} {url}: {status} {body}");
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// The tenant that changes its catalogue.
struct Busy {
    token: String,
    ingest: Arc<Service>,
    change: Change,
    done: Arc<AtomicU64>,
}

impl Busy {
    /// Creates the things to be changed: a webhook for each concurrent change, and
    /// event types.
    async fn prepare(&self, at_once: usize) -> anyhow::Result<Vec<String>> {
        let mut made = Vec::new();
        for _ in 0..at_once {
            made.push(self.make().await?);
        }
        if self.change == Change::EventTypes {
            let properties = (0..40).map(|n| (format!("member_{n}"), json!({"type": "string"})));
            let schema = json!({
                "type": "object",
                "properties": properties.collect::<serde_json::Map<_, _>>(),
            });
            for n in 0..TYPES {
                self.event_type(n, &schema).await?;
            }
        }
        Ok(made)
    }

    async fn make(&self) -> anyhow::Result<String> {
        let url = self.ingest.url("/api/v1/webhooks");
        let filters =
            json!({"a": {"$in": (0..100).map(|n| format!("{n:0>100}")).collect::<Vec<_>>()}});
        let body = json!({"url": "http://127.0.0.1:9/", "events": ["busy"], "filters": filters});
        let made = ask(&url, &self.token, "POST", Some(&body)).await?;
        ensure!(
            made.status == 201,
            "a webhook: {} {}",
            made.status,
            made.body
        );
        Ok(made.body["id"].as_str().unwrap_or_default().to_owned())
    }

    async fn event_type(&self, n: usize, schema: &Value) -> anyhow::Result<()> {
        let url = self
            .ingest
            .url(&format!("/api/v1/event-types/busy.type{n}"));
        let body =
            json!({"description": self.done.load(Ordering::Relaxed).to_string(), "schema": schema});
        let put = ask(&url, &self.token, "PUT", Some(&body)).await?;
        ensure!(
            put.status < 300,
            "an event type: {} {}",
            put.status,
            put.body
        );
        Ok(())
    }

    /// Changes at a rate until told to stop, with a bounded number under way;
    /// answers how many came through.
    async fn run(
        self,
        webhooks: Vec<String>,
        rate: u64,
        stop: CancellationToken,
    ) -> anyhow::Result<u64> {
        if matches!(self.change, Change::Nothing | Change::Open) {
            return Ok(0);
        }
        let this = Arc::new(self);
        let mut tick = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate)?);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut under_way = JoinSet::new();
        for n in 0.. {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => break,
            }
            if under_way.len() >= webhooks.len() {
                under_way.join_next().await;
            }
            let (this, id) = (this.clone(), webhooks[n % webhooks.len()].clone());
            under_way.spawn(async move { this.once(&id, n).await });
        }
        // Refused changes don't count. The last ones are cancelled.
        under_way.shutdown().await;
        Ok(this.done.load(Ordering::Relaxed))
    }

    async fn once(&self, webhook: &str, n: usize) -> anyhow::Result<()> {
        match self.change {
            Change::Nothing | Change::Open => {}
            Change::Webhooks => {
                let url = self.ingest.url(&format!("/api/v1/webhooks/{webhook}"));
                let body = json!({"description": n.to_string()});
                timed(&url, &self.token, "PATCH", body, 200).await?;
            }
            Change::Pairs => {
                let id = self.make().await?;
                let url = self.ingest.url(&format!("/api/v1/webhooks/{id}"));
                let gone = ask(&url, &self.token, "DELETE", None).await?;
                ensure!(gone.status == 204, "deleting: {}", gone.status);
            }
            Change::EventTypes => {
                self.event_type(
                    n % TYPES,
                    &json!({"type": "object", "minProperties": n % 7}),
                )
                .await?;
            }
        }
        self.done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
