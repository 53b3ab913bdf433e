//! The endpoints of all webhooks: one listener, one path per webhook. Every request is
//! verified as a customer would verify it, compared with the published event, and
//! written into the ledger.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::ledger::{Event, Kind, Ledger, Pair};

/// Running endpoints. They stop when dropped.
pub struct Endpoints {
    address: SocketAddr,
    state: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    ledger: Arc<Ledger>,
    /// One per webhook; `None` until the webhook's secret is known.
    verifiers: Mutex<Vec<Option<Arc<standardwebhooks::Webhook>>>>,
    rng: Mutex<fastrand::Rng>,
}

impl Endpoints {
    /// Starts the endpoints. The answers of the flaky ones follow from the seed.
    pub async fn start(ledger: Arc<Ledger>, seed: u64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(Shared {
            verifiers: Mutex::new(vec![None; ledger.subscribers().len()]),
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
            ledger,
        });
        let router = Router::new().fallback(take).with_state(state.clone());
        let serving = tokio::spawn(async move {
            // Ends when the endpoints are dropped.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            address,
            state,
            serving,
        })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the secret that this webhook signs with.
    pub fn trust(&self, webhook: usize, secret: &str) -> anyhow::Result<()> {
        let verifier = standardwebhooks::Webhook::new(secret)?;
        let verifiers = &self.state.verifiers;
        verifiers.lock().unwrap_or_else(PoisonError::into_inner)[webhook] =
            Some(Arc::new(verifier));
        Ok(())
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let id = headers.get("webhook-id").and_then(|id| id.to_str().ok());
    let event = id.and_then(Event::of_id);
    let webhook = uri.path().trim_start_matches('/').parse::<usize>().ok();
    let (Some(event), Some(webhook)) = (event, webhook) else {
        let ledger = &shared.ledger;
        ledger.object(format!("{uri} was sent {id:?}"));
        return StatusCode::BAD_REQUEST;
    };
    if let Err(objection) = shared.check(event, webhook, &headers, &body) {
        let ledger = &shared.ledger;
        ledger.object(format!("{event} to {webhook}: {objection}"));
    }
    let Some(subscriber) = shared.ledger.subscribers().get(webhook) else {
        return StatusCode::NOT_FOUND;
    };
    let (status, after) = shared.mood(subscriber.kind);
    let pair = (event, webhook);
    let mut request = UnderWay {
        ledger: &shared.ledger,
        pair,
        arrival: shared.ledger.arrive(pair, &body, status),
        answered: false,
    };
    tokio::time::sleep(after).await;
    // No await follows: the answer is as good as written.
    request.answered = true;
    drop(request);
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Records the end of a request. If the client disconnects, this is dropped without
/// an answer.
struct UnderWay<'a> {
    ledger: &'a Ledger,
    pair: Pair,
    arrival: usize,
    answered: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.ledger.end(self.pair, self.arrival, self.answered);
    }
}

impl Shared {
    /// Checks that the request is the published event, for the right webhook, with a
    /// valid signature.
    fn check(
        &self,
        event: Event,
        webhook: usize,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<(), String> {
        let subscriber = self.ledger.subscribers().get(webhook);
        if !subscriber.is_some_and(|subscriber| subscriber.wants(event)) {
            return Err("it was not asked for".to_owned());
        }
        let verifier = {
            let verifiers = self.verifiers.lock();
            verifiers.unwrap_or_else(PoisonError::into_inner)[webhook].clone()
        };
        let verifier = verifier.ok_or("nobody knows its secret")?;
        verifier
            .verify(body, headers)
            .map_err(|error| error.to_string())?;
        let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
        let json: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if json["type"] != event.event_type() {
            return Err(format!("its type is {}", json["type"]));
        }
        if !text.contains(&event.data()) {
            return Err(format!("its data differs from the published data: {text}"));
        }
        Ok(())
    }

    fn mood(&self, kind: Kind) -> (u16, Duration) {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        match kind {
            Kind::Slow => (200, Duration::from_millis(rng.u64(300..900))),
            Kind::Flaky if rng.u8(..3) == 0 => {
                let status = [500, 503, 429][rng.usize(..3)];
                (status, Duration::ZERO)
            }
            Kind::Gone => (410, Duration::ZERO),
            Kind::Healthy | Kind::Flaky | Kind::Dead => (200, Duration::ZERO),
        }
    }
}
