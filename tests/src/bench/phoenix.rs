//! An endpoint that first fails every request at once. When it is told to recover, it
//! answers each request after a delay. It records how many requests it had at the same
//! time. It runs in its own process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::child;
use super::http::Messages;

/// How long a request takes after the recovery.
pub const LATENCY: Duration = Duration::from_millis(50);

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const NOT_OK: &[u8] = b"HTTP/1.1 500 Oh No\r\ncontent-length: 2\r\n\r\nno";

/// One second after the recovery, counted from the first request.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Second {
    /// Requests that arrived.
    pub arrivals: u64,
    /// The most requests that it had at the same time.
    pub in_flight: u64,
}

/// The endpoint's own statistics.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Told {
    /// How often it has failed.
    pub failures: u64,
    /// How often it has answered with success.
    pub answered: u64,
    /// Seconds from the recovery to the first request.
    pub asked_after: f64,
    /// The seconds since then.
    pub seconds: Vec<Second>,
}

#[derive(Default)]
struct State {
    recovered: Option<Instant>,
    asked: Option<Instant>,
    in_flight: u64,
    told: Told,
}

/// The process's life: says its address, then serves until its owner is gone.
pub async fn run() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    child::say(&listener.local_addr()?.to_string())?;
    let state = Arc::new(Mutex::new(State::default()));
    let serving = async {
        loop {
            let (stream, _) = listener.accept().await?;
            let state = state.clone();
            tokio::spawn(async move {
                // The client may close the connection at any time.
                let _ = serve(stream, &state).await;
            });
        }
    };
    tokio::select! {
        ended = serving => ended,
        () = child::owner_gone() => Ok(()),
    }
}

async fn serve(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (reading, mut writing) = stream.split();
    let mut messages = Messages::new(reading);
    while let Some(request) = messages.next().await? {
        if request.head.starts_with(b"GET /-/") {
            if request.head.starts_with(b"GET /-/recover") {
                hold(state).recovered = Some(Instant::now());
            }
            // A struct of numbers can always be written.
            let body = serde_json::to_string(&hold(state).told).unwrap_or_default();
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            writing.write_all(answer.as_bytes()).await?;
            continue;
        }
        let is_well = hold(state).arrive();
        if is_well {
            tokio::time::sleep(LATENCY).await;
        }
        hold(state).leave(is_well);
        writing.write_all(if is_well { OK } else { NOT_OK }).await?;
    }
    Ok(())
}

impl State {
    /// Records a request. Returns whether the endpoint has recovered.
    fn arrive(&mut self) -> bool {
        self.in_flight += 1;
        let Some(recovered) = self.recovered else {
            return false;
        };
        let asked = *self.asked.get_or_insert_with(|| {
            self.told.asked_after = recovered.elapsed().as_secs_f64();
            Instant::now()
        });
        let second = asked.elapsed().as_secs() as usize;
        let seconds = &mut self.told.seconds;
        if seconds.len() <= second {
            seconds.resize(second + 1, Second::default());
        }
        seconds[second].arrivals += 1;
        seconds[second].in_flight = seconds[second].in_flight.max(self.in_flight);
        true
    }

    fn leave(&mut self, was_well: bool) {
        self.in_flight -= 1;
        if was_well {
            self.told.answered += 1;
        } else {
            self.told.failures += 1;
        }
    }
}

fn hold(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The endpoint, as its owner sees it.
pub struct Phoenix {
    // Killed when dropped.
    _child: child::Child,
    address: String,
}

impl Phoenix {
    /// Starts the process.
    pub async fn start() -> anyhow::Result<Self> {
        let mut child = child::Child::start(&["phoenix"])?;
        let address = child.line().await.context("the phoenix's address")?;
        Ok(Self {
            _child: child,
            address,
        })
    }

    /// The URL for its webhook.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Makes it recover.
    pub async fn recover(&self) -> anyhow::Result<Told> {
        self.ask("recover").await
    }

    /// Its statistics.
    pub async fn told(&self) -> anyhow::Result<Told> {
        self.ask("told").await
    }

    async fn ask(&self, what: &str) -> anyhow::Result<Told> {
        let url = format!("http://{}/-/{what}", self.address);
        let answer = crate::service::http().get(url).send().await?;
        Ok(serde_json::from_slice(&answer.bytes().await?)?)
    }
}
