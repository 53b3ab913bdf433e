//! The counting receiver: answers 200 to every request and records when it came.
//!
//! It runs in its own process, so that its cost isn't counted as Posthorn's. One thread is
//! more than enough. It computes an event's latency from its `webhook-id`: the id ends
//! with the moment at which the generator published the event (see
//! [`super::generator::event_id`]).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::http::{Messages, header};
use super::{child, now_us};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\r\nok";

/// The receiver's statistics.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Requests since the last reset.
    pub count: u64,
    /// When the last one arrived: microseconds since 1970.
    pub last_us: u64,
    /// Milliseconds from publishing to arrival: p50, p95, p99 and the maximum.
    pub latency_ms: Option<[f64; 4]>,
}

#[derive(Default)]
struct Arrivals {
    count: u64,
    last_us: u64,
    /// Microseconds.
    latencies: Vec<u32>,
}

/// The process's life: says its address, then serves until its owner is gone.
pub async fn run(latency: Duration) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    child::say(&listener.local_addr()?.to_string())?;
    let arrivals = Arc::new(Mutex::new(Arrivals::default()));
    let serving = async {
        loop {
            let (stream, _) = listener.accept().await?;
            let arrivals = arrivals.clone();
            tokio::spawn(async move {
                // The client may close the connection at any time.
                let _ = serve(stream, &arrivals, latency).await;
            });
        }
    };
    tokio::select! {
        ended = serving => ended,
        () = child::owner_gone() => Ok(()),
    }
}

async fn serve(
    mut stream: TcpStream,
    arrivals: &Mutex<Arrivals>,
    latency: Duration,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (reading, mut writing) = stream.split();
    let mut messages = Messages::new(reading);
    while let Some(request) = messages.next().await? {
        if request.head.starts_with(b"GET /-/") {
            let reset = request.head.starts_with(b"GET /-/reset");
            writing.write_all(&report(arrivals, reset)).await?;
            continue;
        }
        note(arrivals, header(request.head, b"webhook-id"));
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        writing.write_all(OK).await?;
    }
    Ok(())
}

fn note(arrivals: &Mutex<Arrivals>, id: Option<&[u8]>) {
    let now = now_us();
    let published = id
        .and_then(|id| std::str::from_utf8(id).ok()?.rsplit('-').next())
        .and_then(|micros| micros.parse::<u64>().ok());
    let mut arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    arrivals.count += 1;
    arrivals.last_us = now;
    if let Some(published) = published {
        let micros = u32::try_from(now.saturating_sub(published)).unwrap_or(u32::MAX);
        arrivals.latencies.push(micros);
    }
}

fn report(arrivals: &Mutex<Arrivals>, reset: bool) -> Vec<u8> {
    let mut arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = Seen {
        count: arrivals.count,
        last_us: arrivals.last_us,
        latency_ms: reset
            .then(|| percentiles(&mut arrivals.latencies))
            .flatten(),
    };
    if reset {
        *arrivals = Arrivals::default();
    }
    // A struct of numbers can always be written.
    let body = serde_json::to_vec(&seen).unwrap_or_default();
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    answer.push_str(&String::from_utf8_lossy(&body));
    answer.into_bytes()
}

fn percentiles(latencies: &mut [u32]) -> Option<[f64; 4]> {
    latencies.sort_unstable();
    let last = latencies.len().checked_sub(1)?;
    Some([50, 95, 99, 100].map(|percent| f64::from(latencies[last * percent / 100]) / 1000.0))
}

/// The receiver, as its owner sees it.
pub struct Receiver {
    child: child::Child,
    address: String,
}

impl Receiver {
    /// Starts the process.
    pub async fn start(latency: Duration) -> anyhow::Result<Self> {
        let latency = latency.as_millis().to_string();
        let mut child = child::Child::start(&["receiver", "--latency-ms", &latency])?;
        let address = child.line().await.context("the receiver's address")?;
        Ok(Self { child, address })
    }

    /// The URL for the webhook with this number.
    #[must_use]
    pub fn url(&self, webhook: usize) -> String {
        format!("http://{}/hook/{webhook}", self.address)
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// What has arrived since the last reset.
    pub async fn seen(&self) -> anyhow::Result<Seen> {
        self.ask("seen").await
    }

    /// The same with the latencies; then it starts from nothing.
    pub async fn reset(&self) -> anyhow::Result<Seen> {
        self.ask("reset").await
    }

    async fn ask(&self, what: &str) -> anyhow::Result<Seen> {
        let url = format!("http://{}/-/{what}", self.address);
        let answer = crate::service::http().get(url).send().await?;
        Ok(serde_json::from_slice(&answer.bytes().await?)?)
    }
}
