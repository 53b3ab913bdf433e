//! Holds restrained tenants' events back while dispatchers don't keep up.
//!
//! Jobs queues are first in, first out: what one tenant's events make waits in front of
//! everybody's jobs. So the gate counts the jobs that may be made until the queues have been
//! looked at again. It counts a batch's expected jobs in when a lane begins with it, and out
//! when the lane is through.

use crate::turns::Class;

/// Restrained tenants get turns while fewer jobs than this wait for dispatchers, or
/// are expected of batches that are worked on.
///
/// This many, and what one batch makes beyond it, is what another tenant's job waits
/// behind, for each ingest. It has to last dispatchers until the next look at the queues
/// (every 10 ms) and until a batch is through (some 10 ms), or a single busy tenant would
/// be slowed; dispatchers themselves hold jobs to go on with. Two batches fit in, one for
/// each lane. The bound is the same for every ingest: one that is behind isn't held back
/// by what another makes.
const SHORT: i64 = 256;

/// Whether restrained tenants may have jobs made.
#[derive(Default)]
pub(super) struct Gate {
    /// How many more may be made until dispatchers' queues have been looked at again.
    pub(super) room: i64,
    /// Of batches that are worked on: not in the queues yet.
    under_way: i64,
    /// Batches of restrained tenants that are worked on.
    pub(super) batches: usize,
}

/// What the gate counts on until a lane is through with a batch.
#[derive(Debug, Clone, Copy)]
pub struct Reserved {
    pub(super) jobs: i64,
    pub(super) class: Class,
}

impl Gate {
    /// So many jobs wait now; `None`: there are no dispatchers, so that nobody's wait is
    /// made longer.
    pub(super) fn looked(&mut self, jobs: Option<i64>) {
        self.room = jobs.map_or(i64::MAX / 2, |jobs| SHORT - jobs - self.under_way);
    }

    /// A lane begins with a batch.
    pub(super) fn reserve(&mut self, reserved: Reserved) {
        self.room -= reserved.jobs;
        self.under_way += reserved.jobs;
        self.batches += usize::from(reserved.class == Class::Restrained);
    }

    /// A lane is through with it.
    pub(super) fn is_through(&mut self, reserved: Reserved) {
        self.under_way -= reserved.jobs;
        if reserved.class == Class::Restrained {
            self.batches = self.batches.saturating_sub(1);
        }
    }
}
