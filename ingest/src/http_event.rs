//! An event over HTTP on its way through the lanes.
//!
//! A request enters it ([`Waiting`]), a lane takes it when its turn has come
//! ([`HttpEvent`]) and answers. One that is dropped without an answer, because its lane's
//! session ended or PostgreSQL failed, goes back to its [`Owner`]: [`door`](crate::door).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use shared::ids::Tenant;
use tokio::sync::oneshot;

use crate::decode::{Event, Rejected};

/// What became of an event.
#[derive(Debug)]
pub enum Answer {
    /// It is written, and its jobs are on their way to so many webhooks. `None`: it was
    /// known already.
    Accepted(Option<usize>),
    /// RabbitMQ has it.
    Published,
    /// It isn't what its tenant's catalogue or PostgreSQL takes.
    Refused(Rejected),
    /// Perhaps it was taken, and this is why nobody knows.
    Unconfirmed(String),
}

/// How far a lane is with an event, for the request that waits.
#[derive(Debug, Default)]
pub struct Progress {
    /// It may have been written.
    is_sent: AtomicBool,
    /// To how many webhooks it goes, once that is committed; `None` in it: it was known.
    committed: OnceLock<Option<usize>>,
}

impl Progress {
    /// Whether the event may have been written.
    pub fn is_sent(&self) -> bool {
        self.is_sent.load(Ordering::SeqCst)
    }

    /// What was committed, if that is known.
    pub fn committed(&self) -> Option<Option<usize>> {
        self.committed.get().copied()
    }
}

/// Where events come from, and where they go back to.
pub trait Owner: Send + Sync {
    /// An event of this size has left the lanes.
    fn left(&self, tenant: &Tenant, bytes: usize);

    /// A lane gave an event up. `is_sent`: it may have been written. The answer is due
    /// when it is safe.
    fn given_up(self: Arc<Self>, event: Arc<Event>, is_sent: bool, answer: oneshot::Sender<Answer>);
}

/// A place in which an event waits for its turn.
pub struct Waiting(Mutex<Option<Entered>>);

/// An event in a lane.
pub struct HttpEvent {
    entered: Entered,
    place: Arc<Waiting>,
}

/// An event on this way, wherever it is.
struct Entered {
    event: Arc<Event>,
    progress: Arc<Progress>,
    /// `None`: it was answered.
    answer: Option<oneshot::Sender<Answer>>,
    owner: Arc<dyn Owner>,
    bytes: usize,
}

impl Waiting {
    /// A place with this event in it, where the answer comes, and how far it is.
    pub fn new(
        event: Arc<Event>,
        owner: Arc<dyn Owner>,
        bytes: usize,
    ) -> (Arc<Self>, oneshot::Receiver<Answer>, Arc<Progress>) {
        let (answer, answered) = oneshot::channel();
        let progress = Arc::<Progress>::default();
        let entered = Entered {
            event,
            progress: progress.clone(),
            answer: Some(answer),
            owner,
            bytes,
        };
        let place = Arc::new(Self(Mutex::new(Some(entered))));
        (place, answered, progress)
    }

    /// Takes the event back, unless a lane has it. Whoever asked sees to it from now on.
    pub fn withdraw(&self) -> bool {
        let entered = self.take();
        let was_here = entered.is_some();
        if let Some(entered) = entered {
            entered.withdraw();
        }
        was_here
    }

    fn take(&self) -> Option<Entered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether the event that waited here was published instead.
    pub fn is_empty(&self) -> bool {
        let waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waits.is_none()
    }
}

impl HttpEvent {
    /// Its turn has come. `None`: it was published meanwhile.
    pub fn take(place: Arc<Waiting>) -> Option<Self> {
        let entered = place.take()?;
        Some(Self { entered, place })
    }

    /// It waits again.
    pub fn give_back(self) -> Arc<Waiting> {
        let Self { entered, place } = self;
        *place.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(entered);
        place
    }

    /// What is to be written.
    pub fn event(&self) -> &Arc<Event> {
        &self.entered.event
    }

    /// Whether it may have been written, from now on.
    pub fn set_sent(&self, is_sent: bool) {
        let progress = &self.entered.progress;
        progress.is_sent.store(is_sent, Ordering::SeqCst);
    }

    /// It is committed with so many deliveries; `None`: it was known.
    pub fn committed(&self, matched: Option<usize>) {
        let _ = self.entered.progress.committed.set(matched);
    }

    /// Everything that follows from it is safe.
    pub fn is_safe(mut self) {
        let matched = self.entered.progress.committed().flatten();
        self.entered.answer(Answer::Accepted(matched));
    }

    /// It isn't what the catalogue, or PostgreSQL, takes.
    pub fn refuse(mut self, reason: Rejected) {
        self.entered.answer(Answer::Refused(reason));
    }
}

impl Entered {
    fn answer(&mut self, answer: Answer) {
        if let Some(asked) = self.answer.take() {
            // Whoever asked may be gone.
            let _ = asked.send(answer);
        }
    }

    /// Whoever asked sees to it.
    fn withdraw(mut self) {
        self.answer = None;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.owner.left(&self.event.tenant, self.bytes);
        if let Some(answer) = self.answer.take() {
            let owner = self.owner.clone();
            owner.given_up(self.event.clone(), self.progress.is_sent(), answer);
        }
    }
}
