//! An adaptive concurrency limiter: how many requests one replica has in flight to one
//! endpoint at a time.
//!
//! `admit` acquires a [`Permit`] for a job, and `deliver` releases it with the result of
//! the request. The limit follows AIMD: it grows while the endpoint answers and uses its
//! limit, and it is halved when the endpoint shows overload. A circuit breaker
//! ([`Circuit`]) stops the requests to an endpoint that is down.
//!
//! A bulkhead keeps the endpoints apart: none may have more requests in flight than there is
//! capacity left for all others together. However many endpoints hang, the others get through.
//! Another one ([`TenantShare`]) does the same for tenants: however many endpoints of one tenant
//! are slow, other tenants' requests get through. So do requests to the tenant's own endpoints
//! that answer within a second. [`super::bulkhead`] says where this ends.
//!
//! A job without a permit waits for one, if the endpoint's recent speed promises one within
//! [`MAX_WAIT`]. Otherwise it is refused, and with it comes the time to which it should be
//! deferred. Refused jobs get times one after the other, at the endpoint's own speed, so
//! that a backlog doesn't come back every second. If the endpoint hangs, they wait for as long
//! again as it has hung.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::clock;
use time::OffsetDateTime;
use tokio::sync::oneshot;

use super::bulkhead::{
    Began, INITIAL_DURATION, MAX_WAIT, MIN_SPACING, Pace, SharedCapacity, TenantShare, Waiting,
    after_horizon,
};
use super::circuit::{Circuit, Outage, Pass};
use crate::metrics::metrics;

/// The limit of an endpoint that has had no request yet.
const INITIAL_LIMIT: f64 = 2.0;
/// The highest limit of an endpoint, per replica.
const MAX_LIMIT: f64 = 64.0;
/// For how long an endpoint counts as full after a job was refused.
const FULL_FOR: Duration = Duration::from_secs(10);

/// The limiter of one endpoint.
pub struct Limiter {
    /// What the endpoint's tenant holds of this replica.
    share: Arc<TenantShare>,
    state: Mutex<State>,
}

struct State {
    circuit: Circuit,
    health: Health,
    /// The most requests in flight.
    limit: f64,
    /// Whether the endpoint has ever shown overload. From then on the limit grows slowly.
    has_struggled: bool,
    /// When the limit was halved. Requests that fail together halve it once.
    halved_at: OffsetDateTime,
    in_flight: usize,
    /// Jobs that wait for a permit. Each gets it through its channel.
    waiters: VecDeque<oneshot::Sender<Permit>>,
    /// A moving average of the duration of requests.
    mean_duration: Duration,
    /// When a request last ended, or when the first of those in flight began.
    progress_at: OffsetDateTime,
    /// The time to which the last refused job was deferred.
    horizon: OffsetDateTime,
    /// When the last job was refused because the endpoint had no permit left. A job that was
    /// refused because its tenant had none doesn't count.
    full_at: OffsetDateTime,
}

/// What is told of an endpoint that is down or full.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trouble {
    /// `None`: the circuit is closed, but jobs were refused of late.
    pub outage: Option<Outage>,
    /// The most requests in flight, and how many are.
    pub permits: usize,
    pub in_flight: usize,
}

/// What the latest requests say of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Health {
    /// No request has ended yet.
    Unknown,
    /// The last request got an answer without a sign of overload.
    Answering,
    /// The last request showed overload, or a job waited in vain while no request ended.
    Struggling,
}

/// Permission for one request. Dropping it returns it.
pub struct Permit {
    limiter: Arc<Limiter>,
    /// Whether the request is the circuit breaker's probe.
    is_probe: bool,
    /// Whether at least half of the limit was used when this permit was given. If less is
    /// used, a success doesn't show that the endpoint could take more.
    was_needed: bool,
    began: Began,
    /// How long the request took, if it was sent.
    took: Option<Duration>,
}

/// Why there is no permit, and to when the job should be deferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The endpoint or its tenant has as many requests in flight as it may have.
    Full(OffsetDateTime),
    /// The circuit breaker is open.
    Down(OffsetDateTime),
}

impl Limiter {
    /// The limiter of an endpoint of which nothing is known.
    pub fn new(share: Arc<TenantShare>) -> Arc<Self> {
        Arc::new(Self {
            share,
            state: Mutex::new(State {
                circuit: Circuit::default(),
                health: Health::Unknown,
                limit: INITIAL_LIMIT,
                has_struggled: false,
                halved_at: OffsetDateTime::UNIX_EPOCH,
                in_flight: 0,
                waiters: VecDeque::new(),
                mean_duration: INITIAL_DURATION,
                progress_at: OffsetDateTime::UNIX_EPOCH,
                horizon: OffsetDateTime::UNIX_EPOCH,
                full_at: OffsetDateTime::UNIX_EPOCH,
            }),
        })
    }

    /// Acquires a permit, and waits up to [`MAX_WAIT`] for it.
    ///
    /// # Errors
    /// If the wait is or would be longer, or the endpoint is down.
    pub async fn acquire(self: &Arc<Self>, now: OffsetDateTime) -> Result<Permit, Refused> {
        let (permit, _waiting) = {
            let mut state = self.state();
            match state.circuit.pass(now) {
                Pass::NotBefore(at) => return Err(Refused::Down(state.defer(now, at))),
                Pass::Probe => {
                    if !self.capacity().is_nearly_full()
                        && let Some(probe) = self.begin(&mut state, true, now)
                    {
                        return Ok(probe);
                    }
                    state.circuit.not_sent(now);
                    return Err(Refused::Down(state.defer(now, now + MAX_WAIT)));
                }
                Pass::Free => {
                    if let Some(permit) = self.try_permit(&mut state, now) {
                        return Ok(permit);
                    }
                }
            }
            self.wait(&mut state, now)?
        };
        match tokio::time::timeout(MAX_WAIT, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            // Waiters are dropped only when the circuit opens.
            Ok(Err(_)) => Err(Refused::Down(self.state().defer(now, now + MAX_WAIT))),
            Err(_) => {
                let mut state = self.state();
                if state.progress_at <= now {
                    state.health = Health::Struggling;
                }
                if !self.share.is_full(state.pace(now), clock::now()) {
                    state.full_at = now;
                }
                Err(Refused::Full(state.defer(now, now + 2 * MAX_WAIT)))
            }
        }
    }

    /// `None`: the endpoint is neither down nor full.
    pub fn trouble(&self, now: OffsetDateTime) -> Option<Trouble> {
        let state = self.state();
        let outage = state.circuit.outage();
        let is_full = now - state.full_at < FULL_FOR;
        (outage.is_some() || is_full).then(|| Trouble {
            outage,
            permits: if outage.is_some() {
                1
            } else {
                state.limit as usize
            },
            in_flight: state.in_flight,
        })
    }

    /// If the endpoint is down, the next job is sent at once, as a probe.
    pub fn end_wait(&self, now: OffsetDateTime) {
        self.state().circuit.end_wait(now);
    }

    /// A permit, if the endpoint's limit leaves one and its tenant may hold one more.
    fn try_permit(self: &Arc<Self>, state: &mut State, now: OffsetDateTime) -> Option<Permit> {
        match state.has_permit(self.capacity()) {
            true => self.begin(state, false, now),
            false => None,
        }
    }

    /// A permit, if the endpoint's tenant may hold one more.
    fn begin(
        self: &Arc<Self>,
        state: &mut State,
        is_probe: bool,
        now: OffsetDateTime,
    ) -> Option<Permit> {
        let pace = match is_probe {
            true => Pace::Probed,
            false => state.pace(now),
        };
        let began = self.share.begin(pace, now)?;
        if state.in_flight == 0 {
            state.progress_at = now;
        }
        state.in_flight += 1;
        Some(Permit {
            limiter: self.clone(),
            is_probe,
            was_needed: 2 * state.in_flight > state.limit as usize,
            began,
            took: None,
        })
    }

    /// Lets a job wait for a permit, if it is likely to get one in time.
    fn wait(
        &self,
        state: &mut State,
        now: OffsetDateTime,
    ) -> Result<(oneshot::Receiver<Permit>, Waiting), Refused> {
        state.remove_closed_waiters();
        let ahead = state.waiters.len();
        // With no request in flight, no permit will be returned soon.
        let in_vain = state.in_flight == 0 || state.time_to_serve(ahead + 1, now) > MAX_WAIT;
        let may_wait = !in_vain && state.has_room_to_wait(self.capacity());
        let is_brief = state.health != Health::Struggling && state.answers_soon(now);
        if may_wait && let Some(waiting) = self.share.wait(is_brief) {
            let (waiter, permit) = oneshot::channel();
            state.waiters.push_back(waiter);
            return Ok((permit, waiting));
        }
        let pace = state.pace(now);
        let is_tenant_full = self.share.is_full(pace, now);
        // With no request in flight it is this replica that is full.
        if state.in_flight > 0 && !is_tenant_full {
            state.full_at = now;
        }
        let mut until = state.defer(now, now + MAX_WAIT);
        if is_tenant_full {
            until = until.max(self.share.defer(pace, now, now + MAX_WAIT));
        }
        Err(Refused::Full(until))
    }

    fn capacity(&self) -> &SharedCapacity {
        self.share.capacity()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives permits to waiting jobs, as many as there are.
    fn serve_waiters(self: &Arc<Self>) {
        loop {
            let (waiter, permit) = {
                let mut state = self.state();
                if !state.circuit.is_closed() {
                    state.waiters.clear();
                }
                state.remove_closed_waiters();
                let Some(waiter) = state.waiters.pop_front() else {
                    return;
                };
                let Some(permit) = self.try_permit(&mut state, clock::now()) else {
                    state.waiters.push_front(waiter);
                    return;
                };
                (waiter, permit)
            };
            // If the job gives up at this moment, the permit is dropped, which returns it.
            let _ = waiter.send(permit);
        }
    }
}

impl Permit {
    /// Returns the permit with the result of its request. `shows_overload`: whether fewer
    /// requests at a time may help the endpoint.
    pub fn release(mut self, shows_overload: bool, took: Duration, now: OffsetDateTime) {
        let mut state = self.limiter.state();
        let hung = state.hangs(now);
        state.mean_duration = (state.mean_duration * 7 + took) / 8;
        state.progress_at = now;
        let was_closed = state.circuit.is_closed();
        if shows_overload {
            state.health = Health::Struggling;
            state.circuit.failed(now);
            if was_closed && !state.circuit.is_closed() {
                metrics().circuits_opened.inc();
            }
            state.shrink(now);
        } else {
            if !was_closed {
                // An endpoint that has just come up could go down again under its backlog,
                // so it begins with one request at a time.
                state.limit = 1.0;
            }
            if !was_closed || hung {
                // The endpoint is back. New jobs don't wait behind those that were
                // deferred while it was away.
                state.horizon = now;
            }
            state.health = Health::Answering;
            state.circuit.answered();
            if self.was_needed && was_closed {
                state.grow();
            }
        }
        drop(state);
        // The circuit breaker knows the result now. The rest is done by `drop`.
        self.is_probe = false;
        self.took = Some(took);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.share.end(self.began, self.took);
        {
            let mut state = self.limiter.state();
            state.in_flight -= 1;
            if self.is_probe {
                state.circuit.not_sent(clock::now());
            }
        }
        self.limiter.serve_waiters();
    }
}

impl State {
    fn has_permit(&self, capacity: &SharedCapacity) -> bool {
        if self.in_flight == 0 {
            // Every endpoint may have one request in flight while there is capacity, but the
            // reserve is for endpoints that answer. The tenant's share allows it only to those
            // that answer within a second.
            let may_use_reserve = self.health == Health::Answering;
            return capacity.free() > 0 && (may_use_reserve || !capacity.is_nearly_full());
        }
        self.in_flight < self.limit as usize && self.in_flight < capacity.free()
    }

    /// Whether one more job may wait for an endpoint in this state.
    fn has_room_to_wait(&self, capacity: &SharedCapacity) -> bool {
        let room = match self.health {
            Health::Answering => return true,
            Health::Unknown => capacity.room_for_unknown(),
            Health::Struggling => capacity.room_for_struggling(),
        };
        capacity.waiting() < room
    }

    /// An endpoint is quick if it is known to answer within [`MAX_WAIT`].
    fn pace(&self, now: OffsetDateTime) -> Pace {
        match self.health == Health::Answering && self.answers_soon(now) {
            true => Pace::Quick,
            false => Pace::Slow,
        }
    }

    fn answers_soon(&self, now: OffsetDateTime) -> bool {
        self.expected_duration(now) <= MAX_WAIT
    }

    /// Removes jobs that have given up waiting, from the front.
    fn remove_closed_waiters(&mut self) {
        while self.waiters.front().is_some_and(oneshot::Sender::is_closed) {
            self.waiters.pop_front();
        }
    }

    /// Called per success. A round in which the whole limit is used doubles it. Once the
    /// endpoint has struggled, a round adds one.
    fn grow(&mut self) {
        let step = if self.has_struggled {
            1.0 / self.limit
        } else {
            1.0
        };
        self.limit = (self.limit + step).min(MAX_LIMIT);
    }

    fn shrink(&mut self, now: OffsetDateTime) {
        if now - self.halved_at > self.mean_duration {
            self.limit = (self.limit / 2.0).max(1.0);
            self.has_struggled = true;
            self.halved_at = now;
        }
    }

    /// How long no request has ended although some are in flight.
    fn time_without_progress(&self, now: OffsetDateTime) -> Duration {
        if self.in_flight == 0 {
            return Duration::ZERO;
        }
        (now - self.progress_at).try_into().unwrap_or_default()
    }

    /// Whether no request has ended for longer than a slow endpoint would explain.
    fn hangs(&self, now: OffsetDateTime) -> bool {
        self.time_without_progress(now) > MAX_WAIT.max(2 * self.mean_duration)
    }

    /// The expected duration of a request. An endpoint that hangs raises it long before
    /// its first request times out.
    fn expected_duration(&self, now: OffsetDateTime) -> Duration {
        self.mean_duration.max(self.time_without_progress(now))
    }

    /// The limit that is expected after this time, if all of it is used meanwhile. An
    /// endpoint that has struggled isn't expected to take more than now.
    fn limit_after(&self, time: Duration, now: OffsetDateTime) -> f64 {
        if self.has_struggled || self.health == Health::Struggling || self.hangs(now) {
            return self.limit;
        }
        let rounds = time.as_secs_f64() / self.expected_duration(now).as_secs_f64();
        (self.limit * rounds.exp2()).min(MAX_LIMIT)
    }

    /// The expected time until this many more requests have ended.
    fn time_to_serve(&self, requests: usize, now: OffsetDateTime) -> Duration {
        let limit = self.limit_after(MAX_WAIT / 2, now);
        self.expected_duration(now).mul_f64(requests as f64 / limit)
    }

    /// The time to which a refused job is deferred: after those that were deferred before
    /// it, at the endpoint's own speed, and not before `at`.
    ///
    /// A hang says nothing of an endpoint's speed, and nobody knows how long it will last. So
    /// the job waits for as long again as the hang has lasted. The next time it waits twice as
    /// long. When the hang is over, no job waits for longer than the hang lasted.
    fn defer(&mut self, now: OffsetDateTime, at: OffsetDateTime) -> OffsetDateTime {
        let ahead = (self.horizon - now).try_into().unwrap_or_default();
        let hangs = self.hangs(now);
        let (at, duration) = if hangs {
            (
                at.max(now + self.time_without_progress(now)),
                self.mean_duration,
            )
        } else {
            (at, self.expected_duration(now))
        };
        let mut step = duration.div_f64(self.limit_after(ahead, now));
        if hangs || !self.circuit.is_closed() {
            step = step.max(MIN_SPACING);
        }
        after_horizon(&mut self.horizon, step, at, now)
    }
}

#[cfg(test)]
mod tests;
