//! Events that are published all the time, through any fault, until told to stop.
//!
//! What counts is what the broker has confirmed. Unconfirmed events are published again under
//! the same ids.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::producer::{Producer, Publication};
use crate::world::TENANT;

/// How many events are published at a time.
const BATCH: usize = 5;
/// The pause between two batches: about 100 events a second.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a batch may take to be confirmed.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module's text.
pub struct Load {
    confirmed: Confirmed,
    stop: CancellationToken,
    publishing: tokio::task::JoinHandle<()>,
}

/// The ids, with the time of their confirms.
type Confirmed = Arc<Mutex<BTreeMap<String, Instant>>>;

impl Load {
    /// Begins. The events' ids begin with `prefix`.
    #[must_use]
    pub fn start(amqp_url: &str, prefix: &str) -> Self {
        let (confirmed, stop) = (Confirmed::default(), CancellationToken::new());
        let publishing = publish(
            amqp_url.to_owned(),
            prefix.to_owned(),
            confirmed.clone(),
            stop.clone(),
        );
        Self {
            confirmed,
            stop,
            publishing: tokio::spawn(publishing),
        }
    }

    /// The events that are confirmed by now.
    #[must_use]
    pub fn confirmed(&self) -> BTreeMap<String, Instant> {
        let confirmed = self.confirmed.lock();
        confirmed.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends, and returns the events that were confirmed.
    pub async fn stop(self) -> BTreeMap<String, Instant> {
        self.stop.cancel();
        // It panics in no case; if it does, the test finds events missing.
        let _ = self.publishing.await;
        let confirmed = self.confirmed.lock();
        confirmed.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn publish(url: String, prefix: String, confirmed: Confirmed, stop: CancellationToken) {
    let mut next = 0;
    while !stop.is_cancelled() {
        let connecting = tokio::time::timeout(CONFIRM_TIMEOUT, Producer::connect(&url));
        let Ok(Ok(producer)) = connecting.await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        while !stop.is_cancelled() {
            let ids: Vec<_> = (next..next + BATCH)
                .map(|n| format!("{prefix}-{n:06}"))
                .collect();
            let batch: Vec<_> = ids
                .iter()
                .map(|id| Publication::json(TENANT, "order.created", id, r#"{"total":1}"#))
                .collect();
            let published = tokio::time::timeout(CONFIRM_TIMEOUT, producer.publish_all(&batch));
            if !matches!(published.await, Ok(Ok(()))) {
                break;
            }
            let now = Instant::now();
            confirmed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(ids.into_iter().map(|id| (id, now)));
            next += BATCH;
            tokio::time::sleep(PAUSE).await;
        }
    }
}
