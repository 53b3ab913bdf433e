//! The deliveries that this replica is working on.
//!
//! RabbitMQ may deliver a second copy of a job while the first one is being sent: after
//! a lost session, for example. The copy finds its delivery marked here and is deferred,
//! so that one replica never sends a delivery twice at the same time.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use shared::ids::DeliveryId;

/// A set of deliveries. Cheap to clone: clones share it.
#[derive(Clone, Default)]
pub struct InFlight(Arc<Mutex<HashSet<DeliveryId>>>);

/// Keeps one delivery in the set until it is dropped.
pub struct Mark {
    in_flight: InFlight,
    delivery: DeliveryId,
}

impl InFlight {
    /// Adds a delivery. `None` if it is in the set already.
    pub fn mark(&self, delivery: DeliveryId) -> Option<Mark> {
        let mut deliveries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        deliveries.insert(delivery).then(|| Mark {
            in_flight: self.clone(),
            delivery,
        })
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let deliveries = &self.in_flight.0;
        let mut deliveries = deliveries.lock().unwrap_or_else(PoisonError::into_inner);
        deliveries.remove(&self.delivery);
    }
}
