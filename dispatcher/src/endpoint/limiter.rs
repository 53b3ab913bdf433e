//! The way to one endpoint: how many requests one replica has under way there,
//! and what becomes of a job when it can't be one of them.
//!
//! The number grows while the endpoint answers and its places are needed, and
//! halves when it struggles. A [`Circuit`] stops asking one that is down. And no
//! endpoint takes more places than are left for all others together (the
//! [`Crowd`]): however many hang at once, there is room for those that don't.
//!
//! A job waits here only while the endpoint's own pace promises it a place within
//! [`PATIENCE`], and never longer; otherwise it is put off, to a moment when a
//! place is likely, so that a backlog isn't carried round every second.

use shared::clock;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::oneshot;

use crate::endpoint::circuit::{Circuit, Pass};
use crate::metrics::metrics;

/// Requests under way at an endpoint that has never been asked.
const FIRST_PLACES: f64 = 2.0;
/// The most requests under way at one endpoint, per replica.
const MOST_PLACES: f64 = 64.0;
/// The longest that a job waits here.
const PATIENCE: Duration = Duration::from_secs(1);
/// The farthest that a job is put off.
const FARTHEST: Duration = Duration::from_secs(900);
/// Jobs of an endpoint that is down come back no closer together than this.
const SPACING: Duration = Duration::from_millis(5);
/// What an attempt is taken to last before the first one has been seen.
const FIRST_GUESS: Duration = Duration::from_millis(10);

/// See the module's text.
pub struct Gate {
    crowd: Arc<Crowd>,
    state: Mutex<State>,
}

/// What all gates of a replica have in common: the jobs that it can hold.
#[derive(Debug)]
pub struct Crowd {
    capacity: usize,
    /// Requests, at all endpoints.
    under_way: AtomicUsize,
    /// Jobs, at all gates.
    waiting: AtomicUsize,
}

struct State {
    circuit: Circuit,
    standing: Standing,
    /// How many places there are.
    places: f64,
    /// Whether it has struggled: then it grows slowly.
    cautious: bool,
    /// When the number was halved: failures of one volley halve it once.
    halved_at: OffsetDateTime,
    taken: usize,
    /// Each is given its place when there is one.
    waiting: VecDeque<oneshot::Sender<Place>>,
    /// A moving average of how long a place is taken.
    mean: Duration,
    /// When a place was left, or the first one taken.
    moved_at: OffsetDateTime,
    /// Where the last job that was put off is expected to get in.
    horizon: OffsetDateTime,
}

/// What is known of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Standing {
    /// Nothing yet.
    New,
    /// It answered when it was last asked.
    Answers,
    /// It failed when it was last asked, or let somebody wait in vain and nobody in.
    Struggles,
}

/// A place that is taken until this is dropped.
pub struct Place {
    gate: Arc<Gate>,
    /// Whether the circuit waits to hear of it.
    probe: bool,
    /// Whether most places were taken by then: those that nobody needs prove nothing.
    needed: bool,
}

/// Why a job may not go there now, and when it may be expected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// All places are taken.
    Full(OffsetDateTime),
    /// The endpoint is down.
    Down(OffsetDateTime),
}

impl Crowd {
    /// Of a replica that holds so many jobs at a time.
    pub fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            capacity,
            under_way: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        })
    }

    /// How many requests more there could be.
    fn free(&self) -> usize {
        let under_way = self.under_way.load(Ordering::Relaxed);
        self.capacity.saturating_sub(under_way)
    }

    /// Whether what is left is kept for endpoints that are known to answer.
    fn is_dense(&self) -> bool {
        self.free() <= self.capacity / 8
    }

    /// Whether one more may wait for an endpoint of this standing.
    fn has_room(&self, standing: Standing) -> bool {
        let room = match standing {
            Standing::Answers => return true,
            Standing::New => self.capacity / 4 * 3,
            Standing::Struggles => self.capacity / 4,
        };
        self.waiting.load(Ordering::Relaxed) < room
    }
}

impl Gate {
    /// Of an endpoint that nothing is known of.
    pub fn new(crowd: Arc<Crowd>) -> Arc<Self> {
        Arc::new(Self {
            crowd,
            state: Mutex::new(State {
                circuit: Circuit::default(),
                standing: Standing::New,
                places: FIRST_PLACES,
                cautious: false,
                halved_at: OffsetDateTime::UNIX_EPOCH,
                taken: 0,
                waiting: VecDeque::new(),
                mean: FIRST_GUESS,
                moved_at: OffsetDateTime::UNIX_EPOCH,
                horizon: OffsetDateTime::UNIX_EPOCH,
            }),
        })
    }

    /// Takes a place, waiting a little for it.
    ///
    /// # Errors
    /// If the wait is or would be too long, or the endpoint is down.
    pub async fn enter(self: &Arc<Self>, now: OffsetDateTime) -> Result<Place, Closed> {
        let turn = {
            let mut state = self.state();
            match state.circuit.pass(now) {
                Pass::NotBefore(at) => return Err(Closed::Down(state.put_off(now, at))),
                Pass::Probe if self.crowd.is_dense() => {
                    state.circuit.gave_up(now);
                    return Err(Closed::Down(state.put_off(now, now + PATIENCE)));
                }
                Pass::Probe => return Ok(self.place(&mut state, true, now)),
                Pass::Free if state.has_place(&self.crowd) => {
                    return Ok(self.place(&mut state, false, now));
                }
                Pass::Free => {}
            }
            state.forget_who_left();
            let ahead = state.waiting.len();
            // Where none is taken, none is left either that somebody could wait for.
            let in_vain = state.taken == 0 || state.time_for(ahead + 1, now) > PATIENCE;
            if in_vain || !self.crowd.has_room(state.standing) {
                return Err(Closed::Full(state.put_off(now, now + PATIENCE)));
            }
            let (given, turn) = oneshot::channel();
            state.waiting.push_back(given);
            turn
        };
        let _waiting = Counted::add(&self.crowd.waiting);
        match tokio::time::timeout(PATIENCE, turn).await {
            Ok(Ok(place)) => Ok(place),
            // Nobody is sent away but when the endpoint goes down.
            Ok(Err(_)) => Err(Closed::Down(self.state().put_off(now, now + PATIENCE))),
            Err(_) => {
                let mut state = self.state();
                if state.moved_at <= now {
                    state.standing = Standing::Struggles;
                }
                Err(Closed::Full(state.put_off(now, now + 2 * PATIENCE)))
            }
        }
    }

    fn place(self: &Arc<Self>, state: &mut State, probe: bool, now: OffsetDateTime) -> Place {
        if state.taken == 0 {
            state.moved_at = now;
        }
        state.taken += 1;
        self.crowd.under_way.fetch_add(1, Ordering::Relaxed);
        Place {
            gate: self.clone(),
            probe,
            needed: 2 * state.taken > state.places as usize,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives places to those that wait, as far as there are any.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let (next, place) = {
                let mut state = self.state();
                if !state.circuit.is_closed() {
                    state.waiting.clear();
                }
                state.forget_who_left();
                if !state.has_place(&self.crowd) {
                    return;
                }
                let Some(next) = state.waiting.pop_front() else {
                    return;
                };
                (next, self.place(&mut state, false, clock::now()))
            };
            // If it leaves just now, the place is free again.
            let _ = next.send(place);
        }
    }
}

impl Place {
    /// The request is over. `struggles`: whether the endpoint failed in a way
    /// that fewer requests may help.
    pub fn leave(mut self, struggles: bool, took: Duration, now: OffsetDateTime) {
        let mut state = self.gate.state();
        let hung = state.hangs(now);
        state.mean = (state.mean * 7 + took) / 8;
        state.moved_at = now;
        let was_closed = state.circuit.is_closed();
        if struggles {
            state.standing = Standing::Struggles;
            state.circuit.failed(now);
            if was_closed && !state.circuit.is_closed() {
                metrics().circuits_opened.inc();
            }
            state.shrink(now);
        } else {
            if !was_closed {
                // It begins anew, with one, and as cautious as before: who has just
                // come up may well go down again under what has waited for it.
                state.places = 1.0;
            }
            if !was_closed || hung {
                // It is back: who comes now isn't behind all who came meanwhile.
                state.horizon = now;
            }
            state.standing = Standing::Answers;
            state.circuit.answered();
            if self.needed && was_closed {
                state.grow();
            }
        }
        drop(state);
        // The circuit has heard of it. What is left happens to whatever is dropped.
        self.probe = false;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.crowd.under_way.fetch_sub(1, Ordering::Relaxed);
        {
            let mut state = self.gate.state();
            state.taken -= 1;
            if self.probe {
                state.circuit.gave_up(clock::now());
            }
        }
        self.gate.hand_out();
    }
}

impl State {
    fn has_place(&self, crowd: &Crowd) -> bool {
        if self.taken == 0 {
            // Everybody may have one, as long as that leaves some for those that answer.
            return self.standing == Standing::Answers || !crowd.is_dense();
        }
        self.taken < self.places as usize && self.taken < crowd.free()
    }

    /// Drops those at the front that wait no longer.
    fn forget_who_left(&mut self) {
        while self.waiting.front().is_some_and(oneshot::Sender::is_closed) {
            self.waiting.pop_front();
        }
    }

    /// Twice as many with every round in which all are taken; once it has struggled,
    /// one more.
    fn grow(&mut self) {
        let step = if self.cautious {
            1.0 / self.places
        } else {
            1.0
        };
        self.places = (self.places + step).min(MOST_PLACES);
    }

    fn shrink(&mut self, now: OffsetDateTime) {
        if now - self.halved_at > self.mean {
            self.places = (self.places / 2.0).max(1.0);
            self.cautious = true;
            self.halved_at = now;
        }
    }

    /// How long nothing has come back from it.
    fn standstill(&self, now: OffsetDateTime) -> Duration {
        if self.taken == 0 {
            return Duration::ZERO;
        }
        (now - self.moved_at).try_into().unwrap_or_default()
    }

    /// Whether that is longer than can be explained by its being slow.
    fn hangs(&self, now: OffsetDateTime) -> bool {
        self.standstill(now) > PATIENCE.max(2 * self.mean)
    }

    /// How long a place is taken. What is under way counts, too: one that hangs
    /// shows it long before its first timeout.
    fn pace(&self, now: OffsetDateTime) -> Duration {
        self.mean.max(self.standstill(now))
    }

    /// How many places there will be after such a time, if they are needed and it
    /// goes on as it does. One that has struggled may be at its limit.
    fn places_after(&self, time: Duration, now: OffsetDateTime) -> f64 {
        if self.cautious || self.standing == Standing::Struggles || self.hangs(now) {
            return self.places;
        }
        let rounds = time.as_secs_f64() / self.pace(now).as_secs_f64();
        (self.places * rounds.exp2()).min(MOST_PLACES)
    }

    /// How long until this many more jobs have been served.
    fn time_for(&self, jobs: usize, now: OffsetDateTime) -> Duration {
        let places = self.places_after(PATIENCE / 2, now);
        self.pace(now).mul_f64(jobs as f64 / places)
    }

    /// The next moment at the endpoint's own pace, not before `at`, after those
    /// already given away.
    fn put_off(&mut self, now: OffsetDateTime, at: OffsetDateTime) -> OffsetDateTime {
        let ahead = (self.horizon - now).try_into().unwrap_or_default();
        let mut step = self.pace(now).div_f64(self.places_after(ahead, now));
        if !self.circuit.is_closed() {
            step = step.max(SPACING);
        }
        let next = (self.horizon + step).max(at);
        if next > now + FARTHEST {
            // Too far to plan: anywhere in the second half of what is allowed.
            return now + FARTHEST.mul_f64(0.5 + 0.5 * fastrand::f64());
        }
        self.horizon = next;
        next
    }
}

/// One more, until it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn add(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
