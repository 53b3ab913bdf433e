//! An event in look-ahead: while it waits, in a lane's hands, and when the lane is through.

use std::sync::Arc;
use std::time::Duration;

use lapin::message::Delivery;
use shared::ids::Tenant;

use crate::http_event::{HttpEvent, Waiting};
use crate::turns::Class;

/// An event costs one unit for itself, and one for each of these.
pub(super) const BYTES_PER_COST: usize = 4096;

/// An event that waits for its turn.
pub(super) struct Held {
    pub(super) message: Waits,
    /// The memory that it takes, about.
    pub(super) bytes: usize,
}

/// What waits, by the door that it came through.
#[allow(clippy::large_enum_variant)] // Boxing would cost each message an allocation.
pub(super) enum Waits {
    Amqp(FromQueue),
    Http(Arc<Waiting>),
}

/// A message, and which consumer it came from.
#[derive(Debug)]
pub struct FromQueue {
    /// As it came.
    pub delivery: Delivery,
    pub(super) source: usize,
}

/// An event in a lane, by the door that it came through.
#[allow(clippy::large_enum_variant)] // As above.
pub enum Came {
    /// It is acked when it is safe.
    Amqp(FromQueue),
    /// It is answered when it is safe.
    Http(HttpEvent),
}

/// An event on its way through a lane.
pub struct Taken {
    /// Whose, if there is such a tenant.
    pub tenant: Option<Tenant>,
    /// How it came.
    pub came: Came,
    pub(super) bytes: usize,
    pub(super) cost: u64,
    pub(super) class: Class,
}

/// An event that a lane is through with, as far as acking and charging goes.
#[derive(Debug)]
pub struct Finished {
    pub(super) tenant: Option<Tenant>,
    /// The consumer and the tag, if it is to be acked.
    pub(super) ack: Option<(usize, u64)>,
    pub(super) bytes: usize,
    pub(super) cost: u64,
}

impl Taken {
    /// To be told when it is safe; `jobs` and `effort` are what it came to.
    #[must_use]
    pub fn finished(&self, jobs: usize, effort: Duration) -> Finished {
        Finished {
            tenant: self.tenant.clone(),
            ack: match &self.came {
                Came::Amqp(from) => Some((from.source, from.delivery.delivery_tag)),
                Came::Http(_) => None,
            },
            bytes: self.bytes,
            // A tenth of a millisecond is about what one job costs.
            cost: jobs as u64 + effort.as_micros() as u64 / 100,
        }
    }
}
