//! The floor: the cost that no design can avoid if it keeps jobs in a quorum queue and
//! POSTs them. Jobs are consumed, POSTed and acked, and nothing else: no database, no
//! signature, no retry. It runs in its own process, with the HTTP client and the prefetch
//! of a dispatcher.

pub mod door;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::child;

/// As many jobs as a dispatcher holds.
const PREFETCH: u16 = 512;
/// Requests in flight: as many as a dispatcher allows per webhook.
pub const PLACES: usize = 64;

/// The arguments of the process.
#[derive(Debug, Clone, clap::Args)]
pub struct Floor {
    /// The broker and its virtual host.
    #[arg(long)]
    pub amqp_url: String,
    /// The queue of the jobs.
    #[arg(long)]
    pub queue: String,
    /// The URL that they are POSTed to.
    #[arg(long)]
    pub target: String,
    /// Requests in flight at a time.
    #[arg(long)]
    pub places: usize,
}

/// The process's life: until its owner is gone.
pub async fn run(floor: Floor) -> anyhow::Result<()> {
    // This fails only if a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // The same settings as in shared/src/attempt.rs.
    let client = reqwest::Client::builder()
        .user_agent("Posthorn/floor")
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(10))
        .pool_max_idle_per_host(64)
        .build()?;
    let connection = Connection::connect(&floor.amqp_url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .basic_qos(PREFETCH, BasicQosOptions::default())
        .await?;
    let mut jobs = channel
        .basic_consume(
            floor.queue.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let places = Arc::new(Semaphore::new(floor.places));
    let work = async {
        let mut tasks = JoinSet::new();
        loop {
            let job = jobs.next().await.context("the queue is gone")??;
            let place = places.clone().acquire_owned().await?;
            while let Some(ended) = tasks.try_join_next() {
                ended??;
            }
            let id = job.properties.message_id().as_ref();
            let id = id.map_or("floor", |id| id.as_str());
            let request = client
                .post(&floor.target)
                .timeout(Duration::from_secs(30))
                .header("content-type", "application/json")
                .header("webhook-id", id)
                .body(job.data);
            tasks.spawn(async move {
                let answer = request.send().await?.error_for_status()?;
                answer.bytes().await?;
                drop(place);
                job.acker.ack(BasicAckOptions::default()).await?;
                anyhow::Ok(())
            });
        }
    };
    tokio::select! {
        ended = work => ended,
        () = child::owner_gone() => Ok(()),
    }
}

/// Starts the process.
pub fn start(floor: &Floor) -> anyhow::Result<child::Child> {
    child::Child::start(&[
        "floor",
        "--amqp-url",
        &floor.amqp_url,
        "--queue",
        &floor.queue,
        "--target",
        &floor.target,
        "--places",
        &floor.places.to_string(),
    ])
}
