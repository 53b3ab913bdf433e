//! Events are seen through in batches: decoded, matched and written ([`batch`]), their jobs
//! published and confirmed; then acked, or answered if they came over HTTP.
//!
//! A batch is whatever has gathered while the last one was written, in the order
//! of tenants' turns ([`look_ahead`](crate::look_ahead)): under load batches grow,
//! at rest an event waits for nobody. Several [`lane`]s run side by side, each with
//! a publishing channel of its own, so that one writes while another waits for
//! confirms.
//!
//! A batch ends early where its events make many jobs or take long to match: the
//! rest takes its turn again. So nobody's event waits long for a lane.
//!
//! Nothing is acked before everything that follows from it is safe. After a
//! crash the broker delivers the batch again, its events are found known, and of
//! the jobs that nobody has tried yet late copies are published.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use lapin::Channel;
use shared::amqp::Session;
use shared::ids::Tenant;
use shared::job::per_message::JobsPerMessage;
use shared::publish::{Outgoing, Unconfirmed, publish_all};
use shared::supervise::Backoff;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::aside;
use crate::batch::{self, Begun, Writer};
use crate::look_ahead::{Confirm, LookAhead};
use crate::metrics::metrics;

/// Lanes per process: one writes while the other waits for confirms.
pub const LANES: usize = 2;
/// The most messages that wait for their confirms.
const PUBLISHED_AT_ONCE: usize = 1024;

/// What lanes need.
#[derive(Clone)]
pub struct Intake {
    /// Writes batches.
    pub writer: Writer,
    /// For the routing of jobs.
    pub shards: u16,
    /// The most jobs of first attempts in one message.
    pub most_jobs: usize,
}

/// Takes events on a session until told to stop; `one_at_a_time` finds the one at
/// which sessions end.
///
/// # Errors
/// If a consumer or a channel fails. What was taken and not acked comes again.
pub async fn take_events(
    intake: &Intake,
    session: &Session,
    one_at_a_time: bool,
) -> anyhow::Result<()> {
    let ahead = &*intake.writer.ahead;
    let _session = ahead.open();
    let per_message = JobsPerMessage::default();
    let mut lanes = Vec::new();
    for _ in 0..LANES {
        let channel = session.publishing_channel().await?;
        lanes.push(lane(intake, ahead, channel, &per_message));
    }
    let is_tenant = |tenant: &Tenant| intake.writer.subscriptions.max_payload(tenant).is_some();
    tokio::try_join!(
        ahead.take_in(session, is_tenant, one_at_a_time, &intake.writer.stop),
        try_join_all(lanes),
        aside::watch_jobs(
            session,
            ahead,
            &per_message,
            intake.shards,
            &intake.writer.stop
        ),
        aside::keep(session, ahead, &intake.writer.pool, &intake.writer.stop),
    )?;
    Ok(())
}

/// Sees batches through until told to stop.
async fn lane(
    intake: &Intake,
    ahead: &LookAhead,
    channel: Channel,
    per_message: &JobsPerMessage,
) -> anyhow::Result<()> {
    loop {
        let batch = tokio::select! {
            batch = ahead.next_batch() => batch,
            () = intake.writer.stop.cancelled() => return Ok(()),
        };
        let started = Instant::now();
        let (events, reserved) = batch.open();
        let Some(written) = batch::write(&intake.writer, events).await else {
            return Ok(());
        };
        let outgoing = written.outgoing(intake.shards, intake.most_jobs);
        let publishing = Instant::now();
        let published = publish_in_parts(&channel, outgoing, &intake.writer.stop).await?;
        let Some(messages) = published else {
            return Ok(());
        };
        let confirm = (messages > 0).then(|| Confirm {
            messages: u32::try_from(messages).unwrap_or(u32::MAX),
            took: publishing.elapsed(),
        });
        let made = written.jobs();
        per_message.count(made, messages);
        metrics().received.inc_by(written.begun.len() as u64);
        metrics().batch.observe(written.begun.len() as f64);
        metrics()
            .batch_seconds
            .observe(started.elapsed().as_secs_f64());
        let finished = written.begun.into_iter().map(Begun::finish).collect();
        ahead.through(reserved, made, confirm, finished).await?;
    }
}

/// Publishes and waits for the confirms, a part at a time: events with many
/// matches make many more messages than were taken. What a queue refuses, because
/// it is full or has no quorum, is published again until it is taken. Answers the number
/// of messages; `None` if told to stop before that.
async fn publish_in_parts(
    channel: &Channel,
    outgoing: impl Iterator<Item = Outgoing>,
    stop: &CancellationToken,
) -> anyhow::Result<Option<usize>> {
    let mut outgoing = outgoing.peekable();
    let mut messages = 0;
    while outgoing.peek().is_some() {
        let mut part: Vec<_> = outgoing.by_ref().take(PUBLISHED_AT_ONCE).collect();
        messages += part.len();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            let published = publish_all(channel, &part).await;
            let mut refused = Vec::new();
            for (message, published) in part.into_iter().zip(published) {
                match published {
                    Ok(()) => {}
                    Err(Unconfirmed::Refused) => refused.push(message),
                    Err(error) => return Err(error.into()),
                }
            }
            if refused.is_empty() {
                break;
            }
            let pause = backoff.next();
            warn!(
                messages = refused.len(),
                ?pause,
                "RabbitMQ refused messages, perhaps because a queue is full; publishing them again"
            );
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return Ok(None),
            }
            part = refused;
        }
    }
    Ok(Some(messages))
}
