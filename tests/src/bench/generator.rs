//! The load generator: publishes events of 1 KiB over AMQP or HTTP, as fast as
//! they are confirmed or at a fixed rate. It runs in its own process.
//!
//! At a fixed rate it doesn't wait for confirms. So a slow server gets the same load as a
//! fast one, and the time that an event waits is part of its latency.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::http::Messages;
use super::usage::cpu_seconds;
use super::{child, now_us};

/// Bytes of an event's data.
pub const PAYLOAD: usize = 1024;
/// The type of every event.
pub const EVENT_TYPE: &str = "order.created";
/// AMQP channels, and unconfirmed messages on each.
const CHANNELS: u64 = 4;
const IN_FLIGHT: usize = 500;
/// Concurrent HTTP requests, each on a connection that is kept.
const CONNECTIONS: u64 = 64;

/// The load to publish.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// `amqp://…` or `http://host:port`.
    #[arg(long)]
    pub to: String,
    /// The exchange, if it is AMQP.
    #[arg(long, default_value = "posthorn.events")]
    pub exchange: String,
    /// The routing key, if it is AMQP.
    #[arg(long, default_value = "acme.order.created")]
    pub routing_key: String,
    /// Over how many routing keys the events are spread: `.0`, `.1` and so on are
    /// appended. 0: over none.
    #[arg(long, default_value_t = 0)]
    pub spread: u64,
    /// The API token, if it is HTTP.
    #[arg(long, default_value = "")]
    pub token: String,
    /// How many.
    #[arg(long)]
    pub count: u64,
    /// How many a second; 0: as fast as they are confirmed.
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// Bytes of a message.
    #[arg(long, default_value_t = PAYLOAD)]
    pub bytes: usize,
}

/// The result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sent {
    /// Just before the first was published: microseconds since 1970.
    pub first_us: u64,
    /// When the last was confirmed.
    pub last_us: u64,
    /// Processor time of the generator, connecting included.
    pub cpu_seconds: f64,
}

/// An event's id. It is unique among all generators of this machine, and ends with the present
/// moment.
#[must_use]
pub fn event_id(n: u64) -> String {
    format!("bench-{}-{n}-{}", std::process::id(), now_us())
}

/// An order of exactly this many bytes.
#[must_use]
pub fn data(bytes: usize) -> String {
    let start = r#"{"order":4711,"customer":{"id":"c_81","name":"Ada"},"total":25.00,"lines":[{"sku":"A-1","quantity":2}],"note":""#;
    let end = r#""}"#;
    let padding = bytes.saturating_sub(start.len() + end.len());
    format!("{start}{}{end}", "x".repeat(padding))
}

/// The process's life: publishes all, says what came of it.
pub async fn run(load: Load) -> anyhow::Result<()> {
    let (first_us, last_us) = if load.to.starts_with("http://") {
        over_http(&load).await?
    } else {
        over_amqp(&load).await?
    };
    let sent = Sent {
        first_us,
        last_us,
        cpu_seconds: cpu_seconds(std::process::id()),
    };
    child::say(&serde_json::to_string(&sent)?)
}

async fn over_amqp(load: &Load) -> anyhow::Result<(u64, u64)> {
    let connection = Connection::connect(&load.to, ConnectionProperties::default()).await?;
    let mut channels = Vec::new();
    for _ in 0..CHANNELS {
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        channels.push(channel);
    }
    let body = data(load.bytes);
    let first_us = now_us();
    if load.rate > 0 {
        paced(load, &channels[0], body.as_bytes()).await?;
    } else {
        let next = AtomicU64::new(0);
        try_join_all(
            channels
                .iter()
                .map(|channel| fill(load, channel, body.as_bytes(), &next)),
        )
        .await?;
    }
    Ok((first_us, now_us()))
}

/// Keeps a channel's window of unconfirmed messages full.
async fn fill(load: &Load, channel: &Channel, body: &[u8], next: &AtomicU64) -> anyhow::Result<()> {
    let mut unconfirmed = FuturesUnordered::new();
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= load.count {
            break;
        }
        unconfirmed.push(publish(load, channel, body, n).await?);
        if unconfirmed.len() >= IN_FLIGHT {
            confirmed(unconfirmed.next().await)?;
        }
    }
    while let Some(answer) = unconfirmed.next().await {
        confirmed(Some(answer))?;
    }
    Ok(())
}

async fn paced(load: &Load, channel: &Channel, body: &[u8]) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / u32::try_from(load.rate)?);
    let mut unconfirmed = FuturesUnordered::new();
    for n in 0..load.count {
        tick.tick().await;
        unconfirmed.push(publish(load, channel, body, n).await?);
    }
    while let Some(answer) = unconfirmed.next().await {
        confirmed(Some(answer))?;
    }
    Ok(())
}

async fn publish(
    load: &Load,
    channel: &Channel,
    body: &[u8],
    n: u64,
) -> lapin::Result<impl Future<Output = lapin::Result<lapin::Confirmation>> + use<>> {
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_message_id(event_id(n).into());
    let routing_key = match load.spread {
        0 => load.routing_key.clone(),
        spread => format!("{}.{}", load.routing_key, n % spread),
    };
    channel
        .basic_publish(
            load.exchange.as_str().into(),
            routing_key.into(),
            BasicPublishOptions::default(),
            body,
            properties,
        )
        .await
}

fn confirmed(answer: Option<lapin::Result<lapin::Confirmation>>) -> anyhow::Result<()> {
    let is_ack = answer.transpose()?.is_some_and(|answer| answer.is_ack());
    ensure!(is_ack, "RabbitMQ refused an event");
    Ok(())
}

async fn over_http(load: &Load) -> anyhow::Result<(u64, u64)> {
    let address = load.to.trim_start_matches("http://").to_owned();
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS.min(load.count) {
        let stream = TcpStream::connect(&address).await?;
        stream.set_nodelay(true)?;
        connections.push(stream);
    }
    let data = data(load.bytes);
    let next = Arc::new(AtomicU64::new(0));
    let (first_us, begun) = (now_us(), Instant::now());
    let posting = connections
        .into_iter()
        .map(|stream| post(load, stream, &address, &data, next.clone(), begun));
    try_join_all(posting).await?;
    Ok((first_us, now_us()))
}

async fn post(
    load: &Load,
    mut stream: TcpStream,
    address: &str,
    data: &str,
    next: Arc<AtomicU64>,
    begun: Instant,
) -> anyhow::Result<()> {
    let (reading, mut writing) = stream.split();
    let mut answers = Messages::new(reading);
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= load.count {
            return Ok(());
        }
        if load.rate > 0 {
            let due = begun + Duration::from_secs(1).mul_f64(n as f64 / load.rate as f64);
            tokio::time::sleep_until(due).await;
        }
        let id = event_id(n);
        let body = format!(r#"{{"type":"{EVENT_TYPE}","id":"{id}","data":{data}}}"#);
        let request = format!(
            "POST /api/v1/events HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            load.token,
            body.len()
        );
        writing.write_all(request.as_bytes()).await?;
        let answer = answers.next().await?.context("ingest hung up")?;
        ensure!(
            answer.head.starts_with(b"HTTP/1.1 202"),
            "ingest answered {} {}",
            String::from_utf8_lossy(answer.head),
            String::from_utf8_lossy(answer.body)
        );
    }
}

/// A running generator, as its owner sees it.
pub struct Generator(child::Child);

impl Generator {
    /// Starts the process.
    pub fn start(load: &Load) -> anyhow::Result<Self> {
        let (count, rate) = (load.count.to_string(), load.rate.to_string());
        let (bytes, spread) = (load.bytes.to_string(), load.spread.to_string());
        let arguments = [
            ["--to", &load.to],
            ["--exchange", &load.exchange],
            ["--routing-key", &load.routing_key],
            ["--spread", &spread],
            ["--token", &load.token],
            ["--count", &count],
            ["--rate", &rate],
            ["--bytes", &bytes],
        ];
        let mut all = vec!["publish"];
        all.extend(arguments.iter().flatten().copied());
        Ok(Self(child::Child::start(&all)?))
    }

    /// Waits until all is confirmed.
    pub async fn finished(self) -> anyhow::Result<Sent> {
        self.0.result().await.context("the load generator")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_json_of_the_size_asked_for() {
        let data = data(PAYLOAD);
        assert_eq!(data.len(), PAYLOAD);
        assert!(serde_json::from_str::<serde_json::Value>(&data).is_ok());
    }
}
