//! How many jobs this replica holds, of how many that it may hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shared::job::per_message::JobsPerMessage;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// How many jobs this replica may hold, and holds.
pub struct Capacity {
    jobs: usize,
    permits: Arc<Semaphore>,
    /// Jobs of messages that were taken, which wait for a permit.
    waiting: AtomicUsize,
    per_message: Arc<JobsPerMessage>,
}

impl Capacity {
    /// For so many jobs. `per_message` learns how many jobs a message has.
    pub fn new(jobs: u16, per_message: Arc<JobsPerMessage>) -> Arc<Self> {
        let jobs = usize::from(jobs);
        Arc::new(Self {
            jobs,
            permits: Arc::new(Semaphore::new(jobs)),
            waiting: AtomicUsize::new(0),
            per_message,
        })
    }

    /// A message with so many jobs has come. Each of them waits for a permit from now on.
    pub(super) fn message_came(&self, jobs: usize) {
        self.per_message.count(jobs, 1);
        self.waiting.fetch_add(jobs, Ordering::Relaxed);
    }

    /// A permit for one job, until the job is acked. `None` if there was none by the deadline.
    pub(super) async fn permit(&self, deadline: Instant) -> Option<OwnedSemaphorePermit> {
        let permit = timeout_at(deadline, self.permits.clone().acquire_owned()).await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        permit.ok()?.ok()
    }

    /// How many more messages may be held, as many jobs as they have on average.
    pub(super) fn room_for_messages(&self) -> usize {
        let free = self.permits.available_permits();
        let waiting = self.waiting.load(Ordering::Relaxed);
        self.per_message.messages_with(free.saturating_sub(waiting))
    }

    /// Whether one more job may be held.
    pub(super) fn has_room(&self) -> bool {
        self.permits.available_permits() > self.waiting.load(Ordering::Relaxed)
    }

    /// Whether so many jobs are held that some have waited for a while.
    pub(super) fn is_exceeded(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > self.jobs / 2
    }
}
