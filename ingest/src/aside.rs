//! Sets tenants with many waiting events aside, so that their backlog delays nobody else.
//!
//! A tenant whose events have piled up ([`PILED_UP`](crate::turns::PILED_UP)) is *set aside*: its
//! new events go to one of four overflow queues instead of the queue that all tenants share. No
//! message is published again, and none can be lost, because an event takes exactly
//! one of the two ways (`shared::topology`).
//!
//! The tenant is released when its overflow queue has been empty for a second. It
//! is also released when, for some seconds, other tenants' events came out of that
//! queue and none of its own, so that no tenant stays behind another's backlog.
//! Events that it still has in the queue are taken all the same.
//!
//! Who is set aside is a row in PostgreSQL, the same for all replicas. Bindings
//! change under an advisory lock. A row is committed before its tenant's queue is
//! bound, and deleted after it is unbound. So a crash can leave a row too many, but
//! never a binding without a row, and a later [`keep`] removes it.
//!
//! Tenants that are set aside are also restrained (see `look_ahead`), as are tenants
//! with many jobs: [`watch_jobs`] says when their events may be taken.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use deadpool_postgres::{Client, Pool, Transaction};
use futures_util::future::try_join_all;
use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use shared::amqp::Session;
use shared::ids::Tenant;
use shared::job::per_message::JobsPerMessage;
use shared::topology::{self, OVERFLOW_QUEUES, jobs_queue};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::look_ahead::LookAhead;
use crate::metrics::metrics;
use crate::turns::STUCK;

/// The most tenants that are set aside at a time: each is a binding.
const MOST: i64 = 256;
/// How long an overflow queue must be empty before its tenants are released. Also how long
/// a tenant that was released is not set aside again.
const EMPTY: Duration = Duration::from_secs(1);
/// How often the tenants that are set aside are looked at: while there are any, and otherwise.
const LOOK: Duration = Duration::from_millis(500);
const LOOK_AT_REST: Duration = Duration::from_secs(10);
/// The time that RabbitMQ has for everything that is done under the lock.
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);
/// Any number that no other lock of ours has: "setaside" in ASCII.
const LOCK: i64 = 0x7365_7461_7369_6465;
/// How often the jobs queues are looked at while a tenant is restrained.
const JOBS_LOOK: Duration = Duration::from_millis(10);

/// Tells `ahead` how many jobs wait for dispatchers, while any tenant is restrained.
///
/// # Errors
/// If the connection fails.
pub async fn watch_jobs(
    session: &Session,
    ahead: &LookAhead,
    per_message: &JobsPerMessage,
    shards: u16,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let channel = session.control_channel().await?;
    loop {
        tokio::select! {
            () = ahead.restrains() => {}
            () = stop.cancelled() => return Ok(()),
        }
        let (mut jobs, mut dispatchers) = (0, 0);
        for shard in 0..shards {
            let (messages, consumers) = look_at(&channel, &jobs_queue(shard)).await?;
            jobs += per_message.jobs_in(messages);
            dispatchers += consumers;
        }
        ahead.jobs_waiting((dispatchers > 0).then_some(jobs));
        tokio::time::sleep(JOBS_LOOK).await;
    }
}

/// How many messages wait in a queue, and how many consumers it has.
async fn look_at(channel: &Channel, queue: &str) -> lapin::Result<(u32, u32)> {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let found = channel
        .queue_declare(queue.into(), passive, FieldTable::default())
        .await?;
    Ok((found.message_count(), found.consumer_count()))
}

/// Sets tenants aside and releases them until told to stop.
///
/// # Errors
/// If the connection to RabbitMQ fails. PostgreSQL may fail meanwhile.
pub async fn keep(
    session: &Session,
    ahead: &LookAhead,
    pool: &Pool,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut keeper = Keeper {
        pool,
        ahead,
        begun: Instant::now(),
        channel: session.control_channel().await?,
        is_bound: false,
        nobody_is_aside: false,
        set_aside: HashMap::new(),
        empty_since: [None; OVERFLOW_QUEUES.len()],
    };
    let mut review = tokio::time::Instant::now();
    loop {
        let done = tokio::select! {
            // Tenants are released on time, however many are to be set aside.
            biased;
            () = tokio::time::sleep_until(review) => keeper.review().await,
            tenants = ahead.crowding() => keeper.set_aside(tenants).await.map(|()| LOOK),
            () = stop.cancelled() => return Ok(()),
        };
        let pause = match done {
            Ok(pause) => pause,
            Err(error) => {
                if !keeper.channel.status().connected() {
                    return Err(error);
                }
                warn!(
                    error = format!("{error:#}"),
                    "setting tenants aside or releasing them failed; trying again"
                );
                tokio::time::sleep(LOOK).await;
                LOOK
            }
        };
        let now = tokio::time::Instant::now();
        review = match review > now {
            // Setting a tenant aside doesn't delay the next look.
            true => review.min(now + pause),
            false => now + pause,
        };
    }
}

struct Keeper<'a> {
    pool: &'a Pool,
    ahead: &'a LookAhead,
    /// When this process began to watch overflow queues: it knows nothing from before.
    begun: Instant,
    channel: Channel,
    /// Whether the bindings are known to agree with the rows. After a new session they aren't:
    /// the broker may be a new one.
    is_bound: bool,
    /// Whether the last review found no tenant set aside.
    nobody_is_aside: bool,
    /// Tenants that this process has just set aside, and when.
    set_aside: HashMap<Tenant, Instant>,
    /// Since when each overflow queue has been seen empty.
    empty_since: [Option<Instant>; OVERFLOW_QUEUES.len()],
}

impl Keeper<'_> {
    async fn set_aside(&mut self, mut tenants: Vec<Tenant>) -> anyhow::Result<()> {
        self.set_aside.retain(|_, at| at.elapsed() < EMPTY);
        // Some were set aside a moment ago: a tenant is reported with every event.
        tenants.retain(|tenant| !self.set_aside.contains_key(tenant));
        if tenants.is_empty() {
            return Ok(());
        }
        // Few round trips: until the binding is made, other tenants' events wait behind these
        // tenants'.
        let waiting = self.waiting_aside().await?;
        for tenant in tenants {
            let mut client = self.pool.get().await?;
            let choose = client.prepare_cached(SET_ASIDE).await?;
            // A statement of its own, so that the row is committed before the queue is bound.
            let chosen = client
                .query_opt(&choose, &[&tenant.as_str(), &MOST, &waiting])
                .await?;
            if chosen.is_none() {
                continue;
            }
            let transaction = client.transaction().await?;
            lock(&transaction).await?;
            // Under the lock, look again: another replica may have released the tenant.
            let chosen = transaction
                .query_opt(&choose, &[&tenant.as_str(), &MOST, &waiting])
                .await?;
            let Some(queue) = chosen.as_ref().and_then(overflow_queue) else {
                continue;
            };
            in_time(topology::set_aside(&self.channel, &tenant, queue)).await?;
            transaction.commit().await?;
            info!(%tenant, queue, "a tenant with many events waiting is set aside");
            self.set_aside.insert(tenant, Instant::now());
        }
        Ok(())
    }

    /// How many messages wait in each overflow queue. If this process knows of no tenant that is set
    /// aside, it takes the queues for empty and doesn't ask RabbitMQ, which is busy. Another process may
    /// have set a tenant aside since the last look. Then two tenants may share a queue, until one of
    /// them is released.
    async fn waiting_aside(&self) -> lapin::Result<Vec<i64>> {
        if self.nobody_is_aside && self.set_aside.is_empty() {
            return Ok(vec![0; OVERFLOW_QUEUES.len()]);
        }
        let looks = OVERFLOW_QUEUES.map(|queue| look_at(&self.channel, queue));
        let found = try_join_all(looks).await?;
        Ok(found.into_iter().map(|(n, _)| i64::from(n)).collect())
    }

    /// Releases tenants that need not be set aside any more. Answers when to look again.
    async fn review(&mut self) -> anyhow::Result<Duration> {
        let mut client = self.pool.get().await?;
        let statement = client
            .prepare_cached("-- who_is_set_aside\nSELECT tenant, queue FROM set_aside")
            .await?;
        let rows = client.query(&statement, &[]).await?;
        metrics().set_aside.set(rows.len() as i64);
        if !self.is_bound {
            let transaction = client.transaction().await?;
            lock(&transaction).await?;
            for row in transaction.query(&statement, &[]).await? {
                if let (Ok(tenant), Some(queue)) =
                    (row.get::<_, &str>("tenant").parse(), overflow_queue(&row))
                {
                    in_time(topology::set_aside(&self.channel, &tenant, queue)).await?;
                }
            }
            transaction.commit().await?;
            self.is_bound = true;
        }
        self.nobody_is_aside = rows.is_empty();
        if rows.is_empty() {
            return Ok(LOOK_AT_REST);
        }
        for (n, queue) in OVERFLOW_QUEUES.iter().enumerate() {
            let n16 = n as i16;
            if !rows.iter().any(|row| row.get::<_, i16>("queue") == n16) {
                continue;
            }
            let (messages, _) = look_at(&self.channel, queue).await?;
            if messages > 0 {
                self.empty_since[n] = None;
                if self.begun.elapsed() >= STUCK {
                    let of_queue = rows
                        .iter()
                        .filter(|row| row.get::<_, i16>("queue") == n16)
                        .filter_map(|row| row.get::<_, &str>("tenant").parse().ok())
                        .collect();
                    let stuck = stuck(of_queue, &self.ahead.overflowed(queue));
                    if !stuck.is_empty() {
                        self.release(&mut client, n16, STUCK, Some(&stuck)).await?;
                    }
                }
                continue;
            }
            let since = *self.empty_since[n].get_or_insert_with(Instant::now);
            if since.elapsed() < EMPTY {
                continue;
            }
            self.release(&mut client, n16, EMPTY, None).await?;
        }
        Ok(LOOK)
    }

    /// Releases the tenants of an overflow queue that have been set aside for longer than
    /// `calm`: all of them, or `only` these.
    async fn release(
        &self,
        client: &mut Client,
        n: i16,
        calm: Duration,
        only: Option<&[Tenant]>,
    ) -> anyhow::Result<()> {
        let only: Option<Vec<&str>> =
            only.map(|tenants| tenants.iter().map(Tenant::as_str).collect());
        let transaction = client.transaction().await?;
        lock(&transaction).await?;
        let released = transaction
            .query(
                "-- release_tenants\n\
                 DELETE FROM set_aside \
                 WHERE queue = $1 AND since < now() - make_interval(secs => $2) \
                   AND ($3::text[] IS NULL OR tenant = ANY ($3)) \
                 RETURNING tenant, queue",
                &[&n, &calm.as_secs_f64(), &only],
            )
            .await?;
        for row in released {
            if let (Ok(tenant), Some(queue)) =
                (row.get::<_, &str>("tenant").parse(), overflow_queue(&row))
            {
                in_time(topology::release(&self.channel, &tenant, queue)).await?;
                info!(%tenant, queue, "a tenant is no longer set aside");
            }
        }
        transaction.commit().await?;
        Ok(())
    }
}

/// Picks the overflow queue with the fewest messages; among equals, with the fewest tenants.
const SET_ASIDE: &str = "-- set_aside
INSERT INTO set_aside (tenant, queue)
SELECT $1::text, q.queue
FROM generate_series(0, 3) AS q (queue) LEFT JOIN set_aside AS s ON s.queue = q.queue
WHERE (SELECT count(*) FROM set_aside WHERE tenant <> $1) < $2
GROUP BY q.queue ORDER BY ($3::int8[])[q.queue + 1], count(s.tenant), q.queue LIMIT 1
ON CONFLICT (tenant) DO UPDATE SET since = now()
RETURNING queue";

/// Tenants of which nothing came out of their queue for as long as others' events did:
/// `came` says who had some in that time. If nobody had, the queue stands still, and
/// nobody is behind another.
fn stuck(mut tenants: Vec<Tenant>, came: &HashMap<Tenant, Duration>) -> Vec<Tenant> {
    let lately = |tenant: &Tenant| came.get(tenant).is_some_and(|ago| *ago < STUCK);
    if !came.keys().any(lately) {
        return Vec::new();
    }
    tenants.retain(|tenant| !lately(tenant));
    tenants
}

fn overflow_queue(row: &tokio_postgres::Row) -> Option<&'static str> {
    let n = usize::try_from(row.get::<_, i16>("queue")).ok()?;
    OVERFLOW_QUEUES.get(n).copied()
}

/// One replica at a time changes bindings.
async fn lock(transaction: &Transaction<'_>) -> anyhow::Result<()> {
    transaction
        .batch_execute(&format!(
            "-- set_aside_lock\nSET LOCAL lock_timeout = '5s'; SELECT pg_advisory_xact_lock({LOCK})"
        ))
        .await?;
    Ok(())
}

async fn in_time(bound: impl Future<Output = lapin::Result<()>>) -> anyhow::Result<()> {
    tokio::time::timeout(BROKER_TIMEOUT, bound)
        .await
        .context("RabbitMQ did not change a binding in time")?
        .context("changing a binding")
}

#[allow(clippy::unwrap_used, reason = "a test may fail")]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_behind_another_tenants_events_is_stuck() {
        let tenant = |name: &str| name.parse::<Tenant>().unwrap();
        let both = || vec![tenant("busy"), tenant("behind")];
        let busy_came = |ago| HashMap::from([(tenant("busy"), ago)]);
        assert_eq!(stuck(both(), &busy_came(EMPTY)), [tenant("behind")]);
        // The queue stands still.
        assert_eq!(stuck(both(), &HashMap::new()), []);
        assert_eq!(stuck(both(), &busy_came(STUCK)), []);
        let mut each = busy_came(EMPTY);
        each.insert(tenant("behind"), EMPTY);
        assert_eq!(stuck(both(), &each), []);
    }
}
