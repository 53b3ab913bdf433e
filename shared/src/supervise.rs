//! What every process needs to look after itself: readiness, backoff, shutdown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::clock;

/// Pauses between tries that double up to a cap, with jitter.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses that begin with `first` and double up to `cap`.
    #[must_use]
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            next: first,
        }
    }

    /// The next pause: between half and all of the current step.
    #[allow(clippy::should_implement_trait)] // It never ends, so it is no iterator.
    pub fn next(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.cap);
        step.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    /// Whether there was a pause since the start.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.next > self.first
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Whether this process can work now. `/readyz` reports it.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Parts>);

#[derive(Debug, Default)]
struct Parts {
    /// The number of RabbitMQ sessions that are needed and missing.
    amqp_missing: AtomicIsize,
    postgres: AtomicBool,
    /// The number of webhooks that can't be read, and the number of those for which
    /// a key is missing.
    unreadable: AtomicUsize,
    missing_key: AtomicUsize,
}

impl Readiness {
    /// A process that needs this many RabbitMQ sessions.
    #[must_use]
    pub fn with_sessions(sessions: u8) -> Self {
        let ready = Self::default();
        let missing = &ready.0.amqp_missing;
        missing.store(isize::from(sessions), Ordering::Relaxed);
        ready
    }

    /// A RabbitMQ session has begun (`true`) or ended (`false`).
    pub fn amqp(&self, is: bool) {
        let change = if is { -1 } else { 1 };
        self.0.amqp_missing.fetch_add(change, Ordering::Relaxed);
    }

    /// Sets whether PostgreSQL answers.
    pub fn postgres(&self, is: bool) {
        self.0.postgres.store(is, Ordering::Relaxed);
    }

    /// Sets how many webhooks can't be read, and for how many of them a key is
    /// missing. If a key is missing, the process isn't ready: other processes may
    /// have that key and can do its work.
    pub fn unreadable(&self, webhooks: usize, missing_key: usize) {
        self.0.unreadable.store(webhooks, Ordering::Relaxed);
        self.0.missing_key.store(missing_key, Ordering::Relaxed);
    }

    /// How many webhooks can't be read, and for how many of them a key is missing.
    #[must_use]
    pub fn unreadable_webhooks(&self) -> (usize, usize) {
        let unreadable = self.0.unreadable.load(Ordering::Relaxed);
        (unreadable, self.0.missing_key.load(Ordering::Relaxed))
    }

    /// The reasons why the process isn't ready; empty if it is ready.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let amqp = self.0.amqp_missing.load(Ordering::Relaxed) <= 0;
        let postgres = self.0.postgres.load(Ordering::Relaxed);
        [(amqp, "rabbitmq"), (postgres, "postgresql")]
            .into_iter()
            .filter(|(is, _)| !is)
            .map(|(_, name)| name)
            .chain(clock::is_far_off().then_some("clock within 10 s of PostgreSQL's"))
            .collect()
    }
}

/// Ends the process when any of its tasks panics. A task that is gone would keep its
/// message unacked for ever. When the process ends, RabbitMQ gets all its messages
/// back, and a message that crashes its consumers again and again is parked.
pub fn die_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

/// Cancels `stop` on SIGTERM or SIGINT.
///
/// # Errors
/// If the signal handlers can't be installed.
pub fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stop.cancel();
    });
    Ok(())
}

/// Owns the tasks of a process. A process that has lost one of them looks healthy and
/// does nothing, so a task that ends early ends the process.
pub struct Supervisor {
    stop: CancellationToken,
    tasks: JoinSet<&'static str>,
}

impl Supervisor {
    /// Of tasks that may end once `stop` is cancelled, and not before.
    #[must_use]
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            stop,
            tasks: JoinSet::new(),
        }
    }

    /// Starts a task. `name` completes the sentence "… ended unexpectedly".
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits until one of the tasks ends. With no task left it waits for ever.
    ///
    /// # Errors
    /// If the task ended before `stop` was cancelled.
    pub async fn watch(&mut self) -> anyhow::Result<()> {
        let Some(ended) = self.tasks.join_next().await else {
            return std::future::pending().await;
        };
        let name = ended?;
        anyhow::ensure!(self.stop.is_cancelled(), "{name} ended unexpectedly");
        Ok(())
    }

    /// Cancels `stop` and waits until every task has ended.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Runs a part of the process on a worker thread. The process's first thread isn't one: a task that
/// wakes it, and is waited for by it, costs two switches between threads. Dropping what is returned
/// ends the part.
pub fn on_a_worker(part: impl Future<Output = ()> + Send + 'static) -> impl Future<Output = ()> {
    let part = AbortOnDropHandle::new(tokio::spawn(part));
    async move {
        // A panic ends the process.
        let _ = part.await;
    }
}

/// How long an attempt that is under way may still take after `stop`.
pub const LAST_TRY: Duration = Duration::from_secs(5);

/// Repeats `attempt` until it succeeds (`Some`) or `stop` is cancelled (`None`).
/// `problem` begins the log line of a failure: what could not be done, and for what.
pub async fn until_done<T, F>(
    stop: &CancellationToken,
    problem: &str,
    mut attempt: impl FnMut() -> F,
) -> Option<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    let time_is_up = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_TRY).await;
    };
    tokio::pin!(time_is_up);
    loop {
        let error = tokio::select! {
            result = attempt() => match result {
                Ok(value) => return Some(value),
                Err(error) => error,
            },
            () = &mut time_is_up => return None,
        };
        let pause = backoff.next();
        let error = format!("{error:#}");
        tracing::warn!(error, ?pause, "{problem}; trying again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_before_it_is_told_to_is_an_error_with_its_name() {
        let mut supervisor = Supervisor::new(CancellationToken::new());
        supervisor.spawn("waiting", std::future::pending());
        supervisor.spawn("counting sheep", async {});
        let error = supervisor.watch().await.unwrap_err();
        assert_eq!(error.to_string(), "counting sheep ended unexpectedly");
    }

    #[tokio::test]
    async fn to_stop_is_to_cancel_the_token_and_wait_for_the_tasks() {
        let stop = CancellationToken::new();
        let mut supervisor = Supervisor::new(stop.clone());
        let done = Arc::new(AtomicBool::new(false));
        supervisor.spawn("working", {
            let (stop, done) = (stop.clone(), done.clone());
            async move {
                stop.cancelled().await;
                tokio::task::yield_now().await;
                done.store(true, Ordering::Relaxed);
            }
        });
        supervisor.stop().await;
        assert!(stop.is_cancelled() && done.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_task_may_end_after_it_was_told_to() {
        let stop = CancellationToken::new();
        let mut supervisor = Supervisor::new(stop.clone());
        stop.cancel();
        supervisor.spawn("working", async {});
        assert!(supervisor.watch().await.is_ok());
    }
}
