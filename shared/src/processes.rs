//! The running processes: each tells PostgreSQL about itself every ten seconds.
//!
//! A row of `processes` that is older than [`SILENCE`] belongs to a process that was killed,
//! hangs, or can't reach PostgreSQL. What such a process has told of endpoints doesn't count.
//! A process that is stopped deletes its row.

use std::time::{Duration, Instant};

use anyhow::Context;
use deadpool_postgres::Pool;
use time::OffsetDateTime;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::clock;
use crate::ids::ProcessId;

/// How often a process tells of itself.
const EVERY: Duration = Duration::from_secs(10);
/// After this many seconds a process that tells nothing doesn't count.
pub const SILENCE: i32 = 30;
/// How long a process that stops tries to delete its row.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A process of ours, as others know it.
#[derive(Debug, Clone)]
pub struct Process {
    pub id: ProcessId,
    kind: &'static str,
    host: String,
    started_at: OffsetDateTime,
}

/// What a process tells of its work.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work {
    /// Requests to endpoints, and the most jobs that it holds; `None`: not a dispatcher.
    pub in_flight: Option<i32>,
    pub concurrency: Option<i32>,
    /// Events accepted and attempts made since the process started.
    pub events: u64,
    pub attempts: u64,
}

impl Process {
    /// This process. `kind`: `ingest`, `api`, `intake` or `dispatcher`. The clock has to be
    /// measured before.
    #[must_use]
    pub fn this(kind: &'static str) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            id: ProcessId::generate(),
            kind,
            host: host.trim().to_owned(),
            started_at: clock::now(),
        }
    }

    /// Tells of this process until `stop`.
    pub async fn keep_told(
        self,
        pool: Pool,
        work: impl Fn() -> Work + Send,
        stop: CancellationToken,
    ) {
        let mut next = tokio::time::interval(EVERY);
        next.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last, mut last_at) = (work(), Instant::now());
        loop {
            tokio::select! {
                _ = next.tick() => {}
                () = stop.cancelled() => break,
            }
            let now = work();
            let seconds = last_at.elapsed().as_secs_f32().max(1.0);
            let rates = [(now.events, last.events), (now.attempts, last.attempts)]
                .map(|(now, before)| now.saturating_sub(before) as f32 / seconds);
            (last, last_at) = (now, Instant::now());
            if let Err(error) = self.tell(&pool, now, rates).await {
                let error = format!("{error:#}");
                warn!(
                    error,
                    "telling PostgreSQL about this process failed; trying again in 10 s"
                );
            }
        }
        // A row that stays is ignored after thirty seconds.
        let _ = tokio::time::timeout(LAST_WORD, self.take_leave(&pool)).await;
    }

    async fn tell(&self, pool: &Pool, work: Work, rates: [f32; 2]) -> anyhow::Result<()> {
        let client = pool.get().await.context("connecting to PostgreSQL")?;
        let statement = client
            .prepare_cached(
                "-- tell_process\n\
                 WITH gone AS ( \
                     DELETE FROM processes WHERE told_at < now() - interval '1 day' AND id <> $1) \
                 INSERT INTO processes AS p (id, kind, host, version, started_at, told_at, \
                     in_flight, concurrency, memory, events_per_second, attempts_per_second) \
                 VALUES ($1, $2, $3, $4, $5, now(), $6, $7, $8, $9, $10) \
                 ON CONFLICT (id) DO UPDATE SET told_at = now(), \
                     in_flight = excluded.in_flight, memory = excluded.memory, \
                     events_per_second = excluded.events_per_second, \
                     attempts_per_second = excluded.attempts_per_second",
            )
            .await?;
        let [events, attempts] = rates;
        client
            .execute(
                &statement,
                &[
                    &self.id,
                    &self.kind,
                    &self.host,
                    &env!("CARGO_PKG_VERSION"),
                    &self.started_at,
                    &work.in_flight,
                    &work.concurrency,
                    &memory(),
                    &events,
                    &attempts,
                ],
            )
            .await?;
        Ok(())
    }

    async fn take_leave(&self, pool: &Pool) -> anyhow::Result<()> {
        let client = pool.get().await?;
        let gone = "-- process_stops\nDELETE FROM processes WHERE id = $1";
        client.execute(gone, &[&self.id]).await?;
        Ok(())
    }
}

/// The memory that this process uses, in bytes. `None` if the system doesn't tell.
fn memory() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_some_memory() {
        let memory = memory().unwrap();
        assert!((1 << 20..1 << 40).contains(&memory), "{memory}");
    }
}
