//! The events that wait for a lane, and which of them are the next batch.
//!
//! Tenants take turns ([`turns`](crate::turns)) in two classes. A batch has events of one
//! class. Free tenants come first, and a lane is kept for them; restrained tenants get turns
//! while the [gate](super::gate) lets them pass and the [pace](super::pace) allows it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::ids::Tenant;

use super::event::{BYTES_PER_COST, Came, Held, Taken, Waits};
use super::gate::{Gate, Reserved};
use super::of_late::JobsOfLate;
use super::pace::{Confirm, Pace};
use super::sources::Sources;
use crate::http_event::{HttpEvent, Waiting};
use crate::turns::{Class, Turns};

/// The most events in one batch: one transaction.
pub(super) const BATCH: usize = 256;
/// The most bytes in a batch, unless its first event is larger.
const BATCH_BYTES: usize = 8 << 20;
/// So many batches of free tenants are worked on before restrained tenants get one.
const FREE_IN_A_ROW: u8 = 3;
/// For so long after a free tenant's event, a lane is kept for free tenants.
const KEPT: Duration = Duration::from_secs(1);
/// The most jobs of one batch; the event that exceeds it is the last.
pub const BATCH_JOBS: usize = 128;

/// The events that wait.
#[derive(Default)]
pub(super) struct Batches {
    /// `None`: events of no tenant that is known.
    turns: Turns<Option<Tenant>, Held>,
    pub(super) gate: Gate,
    pace: Pace,
    pub(super) of_late: JobsOfLate,
    /// When a free tenant's event was last put into a batch.
    free_at: Option<Instant>,
    /// Batches of free tenants since the last one of restrained tenants.
    free_in_a_row: u8,
}

/// What a lane works on at a time.
pub struct Batch {
    /// In the order of their turns; never empty.
    pub events: Vec<Taken>,
    reserved: Reserved,
}

impl Batches {
    /// An event waits for its turn. Answers the cost of what waits of its tenant, if it is
    /// more than one event.
    pub(super) fn push(&mut self, tenant: &Option<Tenant>, held: Held, is_overflow: bool) -> u64 {
        let class = match is_overflow || self.of_late.is_busy(tenant) {
            true => Class::Restrained,
            false => Class::Free,
        };
        let cost = cost(held.bytes);
        self.turns.push(tenant, held, cost, class)
    }

    /// Whether events of restrained tenants wait.
    pub(super) fn has_restrained(&self) -> bool {
        self.turns.has(Class::Restrained)
    }

    /// Whether events of several tenants wait.
    pub(super) fn has_several(&self) -> bool {
        self.turns.owners() > 1
    }

    /// Charges a tenant for an event beyond what was known before.
    pub(super) fn charge(&mut self, tenant: &Option<Tenant>, cost: u64) {
        self.turns.charge(tenant, cost);
    }

    /// Remembers how many jobs a tenant's event makes.
    pub(super) fn remember(&mut self, tenant: Option<Tenant>, jobs: usize) {
        self.of_late.remember(tenant, jobs);
    }

    /// Forgets the places of events that were published instead.
    pub(super) fn forget_withdrawn(&mut self) {
        self.turns.retain(|held| match &held.message {
            Waits::Http(event) => !event.is_empty(),
            Waits::Amqp(_) => true,
        });
    }

    /// Hands out what came over HTTP and waits.
    pub(super) fn take_http(&mut self) -> Vec<Arc<Waiting>> {
        let mut waiting = Vec::new();
        self.turns.retain(|held| match &held.message {
            Waits::Http(event) => {
                waiting.push(event.clone());
                false
            }
            Waits::Amqp(_) => true,
        });
        waiting
    }

    /// Forgets what came over AMQP, and what lanes were working on.
    pub(super) fn end_session(&mut self) {
        self.turns
            .retain(|held| matches!(held.message, Waits::Http(_)));
        self.gate = Gate::default();
    }

    /// A batch has events of free tenants or of restrained ones, never of both: whatever is
    /// in a batch waits for all of it.
    pub(super) fn next(&mut self, sources: &mut Sources) -> Option<Batch> {
        loop {
            let batch = self.batch_of(self.next_class(sources)?, sources);
            // Events over HTTP may have been withdrawn.
            if !batch.events.is_empty() {
                self.gate.reserve(batch.reserved);
                return Some(batch);
            }
        }
    }

    fn batch_of(&mut self, class: Class, sources: &mut Sources) -> Batch {
        let mut events = Vec::new();
        let mut bytes = 0;
        let mut jobs = 0.0;
        match class {
            Class::Free => {
                self.fill(&mut events, &mut bytes, class, BATCH, sources);
                self.free_at = Some(Instant::now());
                self.free_in_a_row = self.free_in_a_row.saturating_add(1);
            }
            // The lane ends the batch at `BATCH_JOBS`, if events make more than is expected.
            Class::Restrained => {
                let most = self.gate.batch_jobs() as f64;
                while jobs < most {
                    let before = events.len();
                    self.fill(
                        &mut events,
                        &mut bytes,
                        class,
                        BATCH.min(before + 1),
                        sources,
                    );
                    let Some(taken) = events.get(before) else {
                        break;
                    };
                    jobs += self.of_late.expected(&taken.tenant);
                }
                self.free_in_a_row = 0;
            }
        }
        let jobs = jobs.ceil().min(BATCH_JOBS as f64) as i64;
        let reserved = Reserved { jobs, class };
        Batch { events, reserved }
    }

    /// Whose turn it is. While free tenants have events, a lane is kept for them: restrained tenants
    /// have one batch in progress at most. After three batches of free tenants the next one is a
    /// batch of restrained tenants, if they may have one.
    fn next_class(&self, sources: &Sources) -> Option<Class> {
        let is_free = self.turns.has(Class::Free);
        let is_kept = is_free || self.is_kept();
        let may_pass = self.gate.room > 0 || sources.is_full();
        let is_restrained = self.turns.has(Class::Restrained)
            && may_pass
            && (!is_kept || self.gate.batches == 0 && !self.is_paused());
        match (is_free, is_restrained) {
            (true, true) if self.free_in_a_row >= FREE_IN_A_ROW => Some(Class::Restrained),
            (true, _) => Some(Class::Free),
            (false, true) => Some(Class::Restrained),
            (false, false) => None,
        }
    }

    /// Whether free tenants had events of late.
    fn is_kept(&self) -> bool {
        self.free_at.is_some_and(|at| at.elapsed() < KEPT)
    }

    fn is_paused(&self) -> bool {
        let end = self.pace.pause_ends();
        end.is_some_and(|end| end > Instant::now())
    }

    /// When the next batch of restrained tenants may be had, if one waits for that.
    pub(super) fn pause_ends(&self) -> Option<Instant> {
        let may_wait = self.turns.has(Class::Restrained) && self.gate.batches == 0;
        self.pace
            .pause_ends()
            .filter(|_| may_wait && self.is_paused())
    }

    /// A lane is through with a batch. It made so many jobs, and RabbitMQ confirmed their messages.
    pub(super) fn is_through(&mut self, reserved: Reserved, made: usize, confirm: Option<Confirm>) {
        let now = Instant::now();
        self.gate.is_through(reserved, made);
        if let Some(confirm) = confirm {
            self.pace.confirmed(confirm, now);
        }
        if reserved.class == Class::Restrained {
            self.pace.restrained_is_through(now);
        }
    }

    fn fill(
        &mut self,
        batch: &mut Vec<Taken>,
        bytes: &mut usize,
        class: Class,
        most: usize,
        sources: &mut Sources,
    ) {
        while batch.len() < most && *bytes < BATCH_BYTES {
            let Some((tenant, held, cost)) = self.turns.take(class) else {
                return;
            };
            let came = match held.message {
                Waits::Amqp(from) => {
                    sources.taken(&from);
                    Came::Amqp(from)
                }
                Waits::Http(waiting) => match HttpEvent::take(waiting) {
                    Some(event) => Came::Http(event),
                    None => continue,
                },
            };
            *bytes += held.bytes;
            batch.push(Taken {
                tenant,
                came,
                bytes: held.bytes,
                cost,
                class,
            });
        }
    }

    /// Events that a lane took and didn't begin wait again, before others of their tenants. What was
    /// begun may have made their tenants busy.
    pub(super) fn give_back(&mut self, left: Vec<Taken>, sources: &mut Sources) {
        for taken in left.into_iter().rev() {
            let message = match taken.came {
                Came::Amqp(from) => {
                    sources.given_back(&from);
                    Waits::Amqp(from)
                }
                Came::Http(event) => Waits::Http(event.give_back()),
            };
            let held = Held {
                message,
                bytes: taken.bytes,
            };
            let class = match self.of_late.is_busy(&taken.tenant) {
                true => Class::Restrained,
                false => taken.class,
            };
            self.turns.give_back(&taken.tenant, held, taken.cost, class);
        }
    }
}

impl Batch {
    /// Its events, and what to tell [`LookAhead::through`](super::LookAhead::through).
    #[must_use]
    pub fn open(self) -> (Vec<Taken>, Reserved) {
        (self.events, self.reserved)
    }
}

fn cost(bytes: usize) -> u64 {
    1 + (bytes / BYTES_PER_COST) as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test may fail.
mod tests;
