//! A webhook endpoint that records each request and answers as its script says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How long to wait for arrivals.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub at: Instant,
    pub path: String,
    pub headers: HeaderMap,
    /// The body, byte for byte.
    pub body: Bytes,
}

impl Arrival {
    /// A header as text, empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The message id of Standard Webhooks.
    #[must_use]
    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{error} in {:?}", self.body),
        }
    }

    /// Verifies the signature as a customer would, with the Standard Webhooks crate.
    pub fn verify(&self, secret: &str) -> Result<(), String> {
        let verifier = standardwebhooks::Webhook::new(secret).map_err(|error| error.to_string())?;
        verifier
            .verify(&self.body, &self.headers)
            .map_err(|error| error.to_string())
    }
}

/// The answer to the nth request (from 0) of a path.
pub type Script = Arc<dyn Fn(usize, &Arrival) -> Reply + Send + Sync>;

/// An answer, with a delay.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    after: Duration,
    body: String,
}

impl Reply {
    /// An answer with this status and no delay.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            after: Duration::ZERO,
            body: "noted\n".to_owned(),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn saying(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the delay.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.after = wait;
        self
    }
}

/// Always answers with this status.
#[must_use]
pub fn answering(status: u16) -> Script {
    Arc::new(move |_, _| Reply::status(status))
}

/// Answers with these statuses in turn; repeats the last one.
#[must_use]
pub fn answering_in_turn(statuses: &'static [u16]) -> Script {
    Arc::new(move |n, _| Reply::status(statuses[n.min(statuses.len() - 1)]))
}

/// Answers with 200 after a delay.
#[must_use]
pub fn answering_after(wait: Duration) -> Script {
    Arc::new(move |_, _| Reply::status(200).after(wait))
}

/// A running endpoint. Stops when dropped.
pub struct Receiver {
    address: SocketAddr,
    memory: Memory,
    serving: tokio::task::JoinHandle<()>,
}

#[derive(Clone)]
struct Memory {
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    count: Arc<watch::Sender<usize>>,
    script: Script,
}

impl Receiver {
    /// Starts an endpoint on a free port.
    pub async fn start(script: Script) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let memory = Memory {
            arrivals: Arc::default(),
            count: Arc::new(watch::Sender::new(0)),
            script,
        };
        let router = Router::new().fallback(remember).with_state(memory.clone());
        let serving = tokio::spawn(async move {
            // Ends when the receiver is dropped.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            address,
            memory,
            serving,
        })
    }

    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The requests so far.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.memory
            .arrivals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits for this many arrivals, for at most a minute after each.
    pub async fn receives(&self, count: usize) -> Vec<Arrival> {
        let mut seen = self.memory.count.subscribe();
        let mut so_far = *seen.borrow();
        while so_far < count {
            let more = seen.wait_for(|seen| *seen > so_far);
            let waited = tokio::time::timeout(PATIENCE, more).await;
            assert!(waited.is_ok(), "{so_far} of {count} arrived");
            drop(waited);
            so_far = *seen.borrow();
        }
        self.arrivals()
    }

    /// Waits for `within` and checks that no more than `count` requests have
    /// arrived.
    pub async fn receives_no_more_than(&self, count: usize, within: Duration) {
        let mut seen = self.memory.count.subscribe();
        let more = tokio::time::timeout(within, seen.wait_for(|seen| *seen > count)).await;
        assert!(
            more.is_err(),
            "{} arrived instead of {count}",
            self.arrivals().len()
        );
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn remember(
    State(memory): State<Memory>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let arrival = Arrival {
        at: Instant::now(),
        path: uri.path().to_owned(),
        headers,
        body,
    };
    let reply = {
        let mut arrivals = memory
            .arrivals
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = arrivals
            .iter()
            .filter(|earlier| earlier.path == arrival.path)
            .count();
        let reply = (memory.script)(before, &arrival);
        arrivals.push(arrival);
        memory.count.send_replace(arrivals.len());
        reply
    };
    tokio::time::sleep(reply.after).await;
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, reply.body).into_response();
    for (name, value) in reply.headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Unix seconds now.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
