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
    /// Jobs that have waited for too long, and are held without a permit.
    beyond: Arc<AtomicUsize>,
    per_message: Arc<JobsPerMessage>,
}

/// A job is held until this is dropped.
#[derive(Debug)]
pub(super) enum JobPermit {
    /// One of the permits. It returns to the semaphore by itself.
    Own { _permit: OwnedSemaphorePermit },
    /// There was none in time.
    Beyond(Arc<AtomicUsize>),
}

impl Drop for JobPermit {
    fn drop(&mut self) {
        if let Self::Beyond(beyond) = self {
            beyond.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Capacity {
    /// For so many jobs. `per_message` learns how many jobs a message has.
    pub fn new(jobs: u16, per_message: Arc<JobsPerMessage>) -> Arc<Self> {
        let jobs = usize::from(jobs);
        Arc::new(Self {
            jobs,
            permits: Arc::new(Semaphore::new(jobs)),
            waiting: AtomicUsize::new(0),
            beyond: Arc::default(),
            per_message,
        })
    }

    /// A message with so many jobs has come. Each of them waits for a permit from now on.
    pub(super) fn message_came(&self, jobs: usize) {
        self.per_message.count(jobs, 1);
        self.waiting.fetch_add(jobs, Ordering::Relaxed);
    }

    /// A permit for one job, until the job is acked. After the deadline the job is held without
    /// one.
    pub(super) async fn acquire(&self, deadline: Instant) -> JobPermit {
        let permit = timeout_at(deadline, self.permits.clone().acquire_owned()).await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        match permit {
            Ok(Ok(permit)) => JobPermit::Own { _permit: permit },
            _ => {
                self.beyond.fetch_add(1, Ordering::Relaxed);
                JobPermit::Beyond(self.beyond.clone())
            }
        }
    }

    /// How many more messages may be held, as many jobs as they have on average.
    pub(super) fn room_for_messages(&self) -> usize {
        self.per_message.messages_with(self.free())
    }

    /// Whether one more message may be held although its jobs may be too many: at least as many
    /// permits are free as an average message needs, or a quarter of all.
    pub(super) fn has_room(&self) -> bool {
        let free = self.free();
        free > 0 && (free >= self.jobs / 4 || self.room_for_messages() > 0)
    }

    /// Whether so many jobs are held that some have waited for a while.
    pub(super) fn is_exceeded(&self) -> bool {
        self.too_many() > self.jobs / 2
    }

    fn free(&self) -> usize {
        let free = self.permits.available_permits();
        free.saturating_sub(self.too_many())
    }

    /// Jobs that were taken and have no permit.
    fn too_many(&self) -> usize {
        self.waiting.load(Ordering::Relaxed) + self.beyond.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn jobs_that_are_held_without_a_permit_leave_room_for_fewer_messages() {
        let capacity = Capacity::new(4, Arc::default());
        let now = Instant::now();
        capacity.message_came(6);
        let mut held = Vec::new();
        for _ in 0..6 {
            held.push(capacity.acquire(now).await);
        }
        let beyond = |permit: &JobPermit| matches!(permit, JobPermit::Beyond(_));
        assert_eq!(held.iter().filter(|permit| beyond(permit)).count(), 2);
        assert!(!capacity.has_room());
        // Two permits are free, and two jobs are held without one.
        held.drain(..2);
        assert_eq!(
            (capacity.room_for_messages(), capacity.has_room()),
            (0, false)
        );
        held.clear();
        assert_eq!(capacity.free(), 4);
    }

    #[tokio::test]
    async fn a_quarter_of_all_permits_is_room_for_a_message_with_more_jobs() {
        let capacity = Capacity::new(16, Arc::default());
        for _ in 0..64 {
            capacity.message_came(16);
            for _ in 0..16 {
                drop(capacity.acquire(Instant::now()).await);
            }
        }
        let mut held = Vec::new();
        capacity.message_came(13);
        for _ in 0..12 {
            held.push(capacity.acquire(Instant::now()).await);
        }
        // The thirteenth still waits, so three permits are free.
        assert!(!capacity.has_room());
        let last = capacity.acquire(Instant::now()).await;
        assert!(matches!(last, JobPermit::Own { .. }));
        drop(held.pop());
        assert!(capacity.has_room());
        assert_eq!(capacity.room_for_messages(), 0);
    }
}
