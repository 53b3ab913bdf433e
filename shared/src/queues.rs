//! How long RabbitMQ's queues are, for the API and the console.
//!
//! Every ten seconds one of the processes asks RabbitMQ (passive declares) and writes what
//! it learned into the table `queues`. Every ingest and dispatcher can do it; whoever finds
//! the rows too old does.

use std::convert::Infallible;
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::time::MissedTickBehavior;
use tracing::warn;

use crate::amqp::{Depth, Session};
use crate::topology;

const EVERY: Duration = Duration::from_secs(10);

/// Keeps the table current, for as long as it is polled. A failure is logged: if the session
/// is gone, others notice.
pub async fn keep_measured(pool: &Pool, session: &Session, shards: u16) -> Infallible {
    let names: Vec<_> = topology::queues(shards).map(|(name, _)| name).collect();
    let mut next = tokio::time::interval(EVERY);
    next.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        next.tick().await;
        if let Err(error) = measure(pool, session, &names).await {
            let error = format!("{error:#}");
            warn!(
                error,
                "the lengths of RabbitMQ's queues could not be written; trying again in 10 s"
            );
        }
    }
}

async fn measure(pool: &Pool, session: &Session, names: &[String]) -> anyhow::Result<()> {
    let is_fresh = "-- queues_are_fresh\n\
        SELECT coalesce(max(told_at) > now() - interval '9 seconds', false) FROM queues";
    let client = pool.get().await?;
    let statement = client.prepare_cached(is_fresh).await?;
    if client.query_one(&statement, &[]).await?.get(0) {
        return Ok(());
    }
    drop(client);
    let depths = session.depths(names).await?;
    let messages: Vec<_> = depths.iter().map(|it| i64::from(it.messages)).collect();
    let consumers: Vec<_> = depths
        .iter()
        .map(|it: &Depth| it.consumers as i32)
        .collect();
    let client = pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- tell_queues\n\
             INSERT INTO queues (name, messages, consumers, told_at) \
             SELECT v.name, v.messages, v.consumers, now() \
             FROM unnest($1::text[], $2::int8[], $3::int4[]) AS v (name, messages, consumers) \
             ORDER BY v.name \
             ON CONFLICT (name) DO UPDATE SET messages = excluded.messages, \
                 consumers = excluded.consumers, told_at = excluded.told_at",
        )
        .await?;
    client
        .execute(&statement, &[&names, &messages, &consumers])
        .await?;
    Ok(())
}
