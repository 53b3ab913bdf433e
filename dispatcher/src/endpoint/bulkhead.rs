//! Bulkheads: a replica's permits and places, shared out among tenants.
//!
//! The limiters of endpoints ask here before they send a request or let a job wait. All
//! limiters of a tenant share one [`TenantShare`], and all tenants of a replica share one
//! [`SharedCapacity`].
//!
//! A tenant has no more requests in flight than are left for all other tenants together. A
//! tenant that is alone gets half of the replica by that. Beyond it there are three rules:
//!
//! - An eighth of the replica is for the tenant's endpoints that answer within a second. They
//!   get it although the tenant's other endpoints hang. So a tenant that is alone has five
//!   eighths.
//! - Probes of circuit breakers may use the first half of that eighth. The rest stays free for
//!   endpoints that answer, however many probes hang.
//! - Another eighth is for the same endpoints while at most a quarter of the replica is taken by
//!   requests of the tenant that have lasted longer than a second.
//!
//! The last eighth of the replica is the reserve. Only endpoints that answer within a second get
//! it, and only within their tenant's half of what is left.
//!
//! Other tenants' requests count as taken, too. If several tenants are slow at the same time,
//! less than three eighths of the replica may be free. Then a tenant that holds more than is left
//! gets nothing beyond its half, not even for endpoints that answer.
//!
//! Jobs that wait for a permit hold places, too. They wait for a second at most. Those of
//! endpoints that take longer to answer count with the requests of their tenant.
//!
//! A job that is refused for its tenant gets a time at the speed at which the tenant's requests
//! end, and holds no place until then.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::clock;
use time::OffsetDateTime;

/// The longest time that a job waits for a permit. An endpoint that answers within this time
/// counts as quick.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(1);
/// The longest deferral of a refused job.
pub(super) const MAX_DEFERRAL: Duration = Duration::from_secs(900);
/// The shortest time between two deferred jobs of an endpoint or a tenant that hangs.
pub(super) const MIN_SPACING: Duration = Duration::from_millis(5);
/// The expected duration of a request before the first one has ended.
pub(super) const INITIAL_DURATION: Duration = Duration::from_millis(10);

/// The number of jobs that a replica can hold, shared by all its tenants.
#[derive(Debug)]
pub struct SharedCapacity {
    jobs: usize,
    /// Requests to all endpoints.
    in_flight: AtomicUsize,
    /// Jobs that wait for a permit of any endpoint.
    waiting: AtomicUsize,
}

/// What one tenant holds of a replica's capacity.
pub struct TenantShare {
    capacity: Arc<SharedCapacity>,
    held: Mutex<Held>,
}

struct Held {
    in_flight: usize,
    waiting: usize,
    begun: Begun,
    /// A moving average of the duration of requests.
    mean_duration: Duration,
    /// When a request last ended, or when the first of those in flight began.
    progress_at: OffsetDateTime,
    /// The times to which the last refused jobs were deferred: of slow endpoints, and of quick
    /// ones. So jobs of quick endpoints don't wait behind a backlog of slow ones.
    horizons: [OffsetDateTime; 2],
}

/// How many of the requests in flight began in this second, and in the one before.
#[derive(Debug)]
struct Begun {
    second: i64,
    counts: [usize; 2],
}

/// What is known of an endpoint that wants a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// It answers within a second.
    Quick,
    /// Its circuit is open. The request is the probe.
    Probed,
    /// It is slow, or it hasn't answered yet.
    Slow,
}

/// The second in which a request began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Began(i64);

/// One waiting job of a tenant, until this is dropped.
pub(super) struct Waiting(Arc<TenantShare>);

impl SharedCapacity {
    /// For a replica that may hold this many jobs at a time.
    pub fn new(jobs: usize) -> Arc<Self> {
        Arc::new(Self {
            jobs,
            in_flight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Permits that no request has.
    pub(super) fn free(&self) -> usize {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        self.jobs.saturating_sub(in_flight)
    }

    /// Whether only the last eighth is free. It is reserved for endpoints that answer within a
    /// second.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.free() <= self.jobs / 8
    }

    /// How many jobs may wait for endpoints of which nothing is known yet.
    pub(super) fn room_for_unknown(&self) -> usize {
        self.jobs / 4 * 3
    }

    /// How many jobs may wait for endpoints that struggle.
    pub(super) fn room_for_struggling(&self) -> usize {
        self.jobs / 4
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl TenantShare {
    /// Of a tenant that holds nothing yet.
    pub fn new(capacity: Arc<SharedCapacity>) -> Arc<Self> {
        Arc::new(Self {
            capacity,
            held: Mutex::new(Held {
                in_flight: 0,
                waiting: 0,
                begun: Begun {
                    second: 0,
                    counts: [0, 0],
                },
                mean_duration: INITIAL_DURATION,
                progress_at: OffsetDateTime::UNIX_EPOCH,
                horizons: [OffsetDateTime::UNIX_EPOCH; 2],
            }),
        })
    }

    pub(super) fn capacity(&self) -> &SharedCapacity {
        &self.capacity
    }

    /// Begins a request, if the tenant may have one more.
    pub(super) fn begin(&self, pace: Pace, now: OffsetDateTime) -> Option<Began> {
        let mut held = self.held();
        if !self.has_room(&mut held, pace, now) {
            return None;
        }
        if held.in_flight == 0 {
            held.progress_at = now;
        }
        held.in_flight += 1;
        self.capacity.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(held.begun.add(now))
    }

    /// Whether the tenant may have no more requests in flight at such an endpoint.
    pub(super) fn is_full(&self, pace: Pace, now: OffsetDateTime) -> bool {
        !self.has_room(&mut self.held(), pace, now)
    }

    /// Ends a request. `took`: how long it took, if it was sent.
    pub(super) fn end(&self, began: Began, took: Option<Duration>) {
        let now = clock::now();
        self.capacity.in_flight.fetch_sub(1, Ordering::Relaxed);
        let mut held = self.held();
        let hung = held.hangs(now);
        held.in_flight -= 1;
        held.begun.remove(began, now);
        if let Some(took) = took {
            held.mean_duration = (held.mean_duration * 7 + took) / 8;
            held.progress_at = now;
            if hung {
                // New jobs don't wait behind those that were deferred during the hang.
                held.horizons = [now; 2];
            }
        }
    }

    /// Lets a job wait for a permit, if the tenant may hold one more place. `is_brief`: its
    /// endpoint is expected to answer within a second, so the place is free again soon.
    pub(super) fn wait(self: &Arc<Self>, is_brief: bool) -> Option<Waiting> {
        let mut held = self.held();
        let unheld = self.capacity.free().saturating_sub(self.capacity.waiting());
        if !is_brief && held.in_flight + held.waiting >= unheld {
            return None;
        }
        held.waiting += 1;
        self.capacity.waiting.fetch_add(1, Ordering::Relaxed);
        Some(Waiting(self.clone()))
    }

    /// The time to which a job is deferred that the tenant has no room for: after those that
    /// were deferred before it, at the speed at which the tenant's requests end, and not before
    /// `at`. If none has ended for a while, nobody knows that speed. Then the job waits for as
    /// long again as that.
    pub(super) fn defer(
        &self,
        pace: Pace,
        now: OffsetDateTime,
        at: OffsetDateTime,
    ) -> OffsetDateTime {
        let mut held = self.held();
        let idle = held.time_without_progress(now);
        let hangs = held.hangs(now);
        let (at, duration) = match hangs {
            true => (at.max(now + idle), held.mean_duration),
            false => (at, held.mean_duration.max(idle)),
        };
        let step = duration.div_f64(held.in_flight.max(1) as f64);
        let step = if hangs { step.max(MIN_SPACING) } else { step };
        let is_quick = pace == Pace::Quick;
        after_horizon(&mut held.horizons[usize::from(is_quick)], step, at, now)
    }

    fn has_room(&self, held: &mut Held, pace: Pace, now: OffsetDateTime) -> bool {
        let (jobs, free) = (self.capacity.jobs, self.capacity.free());
        if held.in_flight < free {
            return pace == Pace::Quick || !self.capacity.is_nearly_full();
        }
        match pace {
            Pace::Quick if free > jobs * 3 / 8 => true,
            Pace::Quick => free > jobs / 4 && held.lasting(now) * 4 <= jobs,
            Pace::Probed => free > jobs * 7 / 16,
            Pace::Slow => false,
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Requests in flight that have lasted longer than a second. One that has lasted for less
    /// than two seconds may be missing.
    fn lasting(&mut self, now: OffsetDateTime) -> usize {
        self.begun.turn_to(now);
        let young: usize = self.begun.counts.iter().sum();
        self.in_flight.saturating_sub(young)
    }

    fn time_without_progress(&self, now: OffsetDateTime) -> Duration {
        if self.in_flight == 0 {
            return Duration::ZERO;
        }
        (now - self.progress_at).try_into().unwrap_or_default()
    }

    /// Whether no request has ended for longer than slow endpoints would explain.
    fn hangs(&self, now: OffsetDateTime) -> bool {
        self.time_without_progress(now) > MAX_WAIT.max(2 * self.mean_duration)
    }
}

impl Begun {
    /// A clock that was set back changes nothing.
    fn turn_to(&mut self, now: OffsetDateTime) {
        let second = now.unix_timestamp();
        match second - self.second {
            ..=0 => return,
            1 => self.counts = [0, self.counts[0]],
            _ => self.counts = [0, 0],
        }
        self.second = second;
    }

    fn add(&mut self, now: OffsetDateTime) -> Began {
        self.turn_to(now);
        self.counts[0] += 1;
        Began(self.second)
    }

    fn remove(&mut self, began: Began, now: OffsetDateTime) {
        self.turn_to(now);
        let age = usize::try_from(self.second - began.0).unwrap_or(usize::MAX);
        if let Some(count) = self.counts.get_mut(age) {
            *count -= 1;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.held().waiting -= 1;
        self.0.capacity.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The next time in a plan: a step after the last one, and not before `at`. A time that is too
/// far ahead for a plan is a random one in the second half of the longest deferral.
pub(super) fn after_horizon(
    horizon: &mut OffsetDateTime,
    step: Duration,
    at: OffsetDateTime,
    now: OffsetDateTime,
) -> OffsetDateTime {
    let next = (*horizon + step).max(at);
    if next > now + MAX_DEFERRAL {
        return now + MAX_DEFERRAL.mul_f64(0.5 + 0.5 * fastrand::f64());
    }
    *horizon = next;
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOBS: usize = 512;

    fn begin_all(share: &TenantShare, pace: Pace, now: OffsetDateTime) -> Vec<Began> {
        std::iter::from_fn(|| share.begin(pace, now)).collect()
    }

    #[test]
    fn a_tenant_never_holds_more_than_is_left_for_all_others_together() {
        let capacity = SharedCapacity::new(JOBS);
        let now = clock::now();
        let tenants: Vec<_> = (0..3).map(|_| TenantShare::new(capacity.clone())).collect();
        let held = tenants
            .iter()
            .map(|tenant| begin_all(tenant, Pace::Slow, now).len());
        assert_eq!(held.collect::<Vec<_>>(), [256, 128, 64]);
        // The last eighth is for endpoints that answer within a second.
        let other = TenantShare::new(capacity);
        assert!(other.begin(Pace::Slow, now).is_none());
        assert!(other.begin(Pace::Quick, now).is_some());
        assert!(tenants[0].begin(Pace::Slow, now).is_none());
    }

    #[test]
    fn endpoints_that_answer_within_a_second_may_use_three_quarters() {
        let capacity = SharedCapacity::new(JOBS);
        let now = clock::now();
        let tenant = TenantShare::new(capacity.clone());
        assert_eq!(begin_all(&tenant, Pace::Quick, now).len(), JOBS / 4 * 3);
        let other = TenantShare::new(capacity.clone());
        assert_eq!(begin_all(&other, Pace::Slow, now).len(), JOBS / 8);
        assert_eq!(capacity.free(), JOBS / 8);
    }

    #[test]
    fn endpoints_that_answer_get_an_eighth_however_many_of_their_tenants_hang() {
        let capacity = SharedCapacity::new(JOBS);
        let now = clock::now();
        let tenant = TenantShare::new(capacity.clone());
        assert_eq!(begin_all(&tenant, Pace::Slow, now).len(), JOBS / 2);
        // Probes get half of the eighth.
        let later = now + 10 * MAX_WAIT;
        assert_eq!(begin_all(&tenant, Pace::Probed, later).len(), JOBS / 16);
        assert_eq!(begin_all(&tenant, Pace::Quick, later).len(), JOBS / 16);
        assert_eq!(capacity.free(), JOBS / 8 * 3);
    }

    #[test]
    fn a_quick_tenant_whose_requests_begin_to_last_gets_no_more_than_five_eighths() {
        let capacity = SharedCapacity::new(JOBS);
        let now = clock::now();
        let tenant = TenantShare::new(capacity);
        let mut held = begin_all(&tenant, Pace::Quick, now);
        // They have lasted for two seconds, and some end.
        let later = now + 3 * MAX_WAIT;
        for began in held.split_off(JOBS / 8 * 5) {
            tenant.end(began, None);
        }
        assert!(tenant.begin(Pace::Quick, later).is_none());
        // When few have lasted, the rest is quick again.
        for began in held.split_off(JOBS / 4) {
            tenant.end(began, None);
        }
        let quick = begin_all(&tenant, Pace::Quick, later).len();
        assert_eq!(held.len() + quick, JOBS / 4 * 3);
    }

    #[test]
    fn jobs_that_wait_for_slow_endpoints_count_with_the_requests_of_their_tenant() {
        let capacity = SharedCapacity::new(8);
        let now = clock::now();
        let tenant = TenantShare::new(capacity.clone());
        let began = tenant.begin(Pace::Slow, now).unwrap();
        let waiting: Vec<_> = std::iter::from_fn(|| tenant.wait(false)).collect();
        assert_eq!(waiting.len(), 3);
        // A wait for an endpoint that answers soon is over soon.
        assert!(tenant.wait(true).is_some());
        drop(waiting);
        assert_eq!((capacity.waiting(), capacity.free()), (0, 7));
        tenant.end(began, None);
        assert_eq!(tenant.held().in_flight, 0);
        assert_eq!(tenant.held().lasting(now), 0);
    }

    #[test]
    fn refused_jobs_come_back_at_the_speed_at_which_the_tenants_requests_end() {
        let capacity = SharedCapacity::new(JOBS);
        let tenant = TenantShare::new(capacity);
        let now = clock::now();
        let held = begin_all(&tenant, Pace::Slow, now);
        tenant.held().mean_duration = Duration::from_secs(50);
        // 256 requests of 50 s each: about five end in a second.
        let first = tenant.defer(Pace::Slow, now, now + MAX_WAIT);
        let mut last = first;
        for _ in 1..1_000 {
            last = tenant.defer(Pace::Slow, now, now + MAX_WAIT);
        }
        let spread = (last - first).whole_seconds();
        assert!((190..=200).contains(&spread), "{spread}");
        // None ends for longer than usual: for as long again.
        let later = now + Duration::from_secs(120);
        tenant.held().horizons = [later; 2];
        let at = tenant.defer(Pace::Slow, later, later + MAX_WAIT);
        assert_eq!((at - later).whole_seconds(), 120);
        assert_eq!(held.len(), JOBS / 2);
    }

    #[test]
    fn no_job_waits_behind_those_that_were_refused_during_a_hang_or_are_of_slow_endpoints() {
        let tenant = TenantShare::new(SharedCapacity::new(JOBS));
        let hang = Duration::from_secs(60);
        let mut held = begin_all(&tenant, Pace::Slow, clock::now() - hang);
        let now = clock::now();
        let mut last = now;
        for _ in 0..1_000 {
            last = tenant.defer(Pace::Slow, now, now + MAX_WAIT);
        }
        // 5 ms apart.
        let quick = tenant.defer(Pace::Quick, now, now + MAX_WAIT);
        assert!((last - quick).whole_seconds() >= 4);
        // One ends, so the hang is over.
        tenant.end(held.pop().unwrap(), Some(hang));
        let now = clock::now();
        let next = tenant.defer(Pace::Slow, now, now + MAX_WAIT);
        assert!(next < now + 2 * MAX_WAIT);
    }

    #[test]
    fn requests_are_counted_by_the_second_in_which_they_began() {
        let tenant = TenantShare::new(SharedCapacity::new(JOBS));
        let now = clock::now();
        let in_seconds = |seconds| now + Duration::from_secs(seconds);
        let lasting = |seconds| tenant.held().lasting(in_seconds(seconds));
        for second in 0..3 {
            tenant.begin(Pace::Slow, in_seconds(second)).unwrap();
        }
        assert_eq!((lasting(2), lasting(3), lasting(9)), (1, 2, 3));
        // A clock that was set back makes none of them younger.
        assert_eq!(lasting(0), 3);
    }
}
