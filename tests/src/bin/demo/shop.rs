//! The demo endpoint: prints a line for each delivery that arrives, with the result of
//! verifying its signature.
//!
//! `harness::receiver` would not do: it keeps every request in memory for a test to look
//! at. This endpoint stays up for as long as somebody plays with it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use harness::receiver::Arrival;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::print::say;

/// How long an event may take to arrive, including its retry.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is below this path is never taken.
pub(crate) const DOWN: &str = "/down";
/// How many arrivals are kept.
const REMEMBERED: usize = 1000;

/// The running endpoint. Stops when dropped.
pub(crate) struct Shop {
    memory: Arc<Memory>,
    serving: JoinHandle<()>,
}

struct Memory {
    secret: String,
    recent: watch::Sender<VecDeque<Seen>>,
    /// The event whose first arrival is answered with an error.
    fails_once: Mutex<Option<String>>,
}

/// The facts about an arrival that are kept.
#[derive(Clone)]
struct Seen {
    path: String,
    id: String,
    verified: bool,
    status: StatusCode,
}

impl Shop {
    /// Serves on this listener, and verifies signatures with `secret`.
    pub(crate) fn start(listener: TcpListener, secret: String) -> Self {
        let memory = Arc::new(Memory {
            secret,
            recent: watch::Sender::default(),
            fails_once: Mutex::default(),
        });
        let router = Router::new().fallback(take).with_state(memory.clone());
        let serving = tokio::spawn(async move {
            // Ends when the shop is dropped.
            let _ = axum::serve(listener, router).await;
        });
        Self { memory, serving }
    }

    /// Answers the first arrival of this event with an error.
    pub(crate) fn fail_once(&self, id: &str) {
        *self.memory.failing() = Some(id.to_owned());
    }

    /// Waits until this event has arrived at this path for the `times`th time, with
    /// a valid signature, and was answered with success.
    pub(crate) async fn takes(&self, path: &str, id: &str, times: usize) -> anyhow::Result<()> {
        let mut recent = self.memory.recent.subscribe();
        let of_event = |recent: &VecDeque<Seen>| -> Vec<Seen> {
            let same = |seen: &&Seen| seen.path == path && seen.id == id;
            recent.iter().filter(same).cloned().collect()
        };
        let arrived = recent.wait_for(|recent| of_event(recent).len() >= times);
        let arrivals = match tokio::time::timeout(PATIENCE, arrived).await {
            Ok(recent) => of_event(&*recent.context("the receiver is gone")?),
            Err(_) => anyhow::bail!("event {id} did not arrive within {PATIENCE:?}"),
        };
        ensure!(
            arrivals.iter().all(|seen| seen.verified),
            "event {id} arrived with a wrong signature"
        );
        ensure!(
            arrivals
                .last()
                .is_some_and(|seen| seen.status == StatusCode::OK),
            "event {id} arrived and was not answered well"
        );
        Ok(())
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Memory {
    fn failing(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        // The lock's holders only move a value, so a panic can't leave it half
        // changed.
        self.fails_once
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this arrival must fail.
    fn fails_now(&self, id: &str) -> bool {
        self.failing().take_if(|failing| failing == id).is_some()
    }

    /// Records an arrival. Returns whether the event had arrived before.
    fn note(&self, seen: Seen) -> bool {
        let mut again = false;
        self.recent.send_modify(|recent| {
            again = recent
                .iter()
                .any(|earlier| earlier.path == seen.path && earlier.id == seen.id);
            if recent.len() == REMEMBERED {
                recent.pop_front();
            }
            recent.push_back(seen);
        });
        again
    }
}

async fn take(
    State(memory): State<Arc<Memory>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, &'static str) {
    let arrival = Arrival {
        at: Instant::now(),
        path: uri.path().to_owned(),
        headers,
        body,
    };
    let verified = arrival.verify(&memory.secret);
    let status = match &verified {
        Err(_) => StatusCode::UNAUTHORIZED,
        Ok(()) if arrival.path.starts_with(DOWN) => StatusCode::SERVICE_UNAVAILABLE,
        Ok(()) if memory.fails_now(arrival.id()) => StatusCode::INTERNAL_SERVER_ERROR,
        Ok(()) => StatusCode::OK,
    };
    let again = memory.note(Seen {
        path: arrival.path.clone(),
        id: arrival.id().to_owned(),
        verified: verified.is_ok(),
        status,
    });
    let verdict = match &verified {
        Ok(()) => "verified".to_owned(),
        Err(reason) => format!("NOT verified ({reason})"),
    };
    say(format_args!(
        "{}  {:<10} {:<16} {:<30} {verdict}, answered {}{}",
        clock(),
        arrival.path,
        event_type(&arrival, verified.is_ok()),
        arrival.id(),
        status.as_u16(),
        if again { ", seen before" } else { "" },
    ));
    match status {
        StatusCode::OK => (status, "thank you\n"),
        StatusCode::UNAUTHORIZED => (status, "the signature is not right\n"),
        _ => (status, "out of order, on purpose: try again\n"),
    }
}

/// The event type in the body, if the signature is valid.
fn event_type(arrival: &Arrival, verified: bool) -> String {
    serde_json::from_slice::<Value>(&arrival.body)
        .ok()
        .filter(|_| verified)
        .and_then(|body| Some(body["type"].as_str()?.to_owned()))
        .unwrap_or_else(|| "-".to_owned())
}

/// The time of day in UTC, as in the logs.
pub(crate) fn clock() -> String {
    let now = time::OffsetDateTime::now_utc().time();
    let (hour, minute, second) = now.as_hms();
    format!("{hour:02}:{minute:02}:{second:02}")
}
