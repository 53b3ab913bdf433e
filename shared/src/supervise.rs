//! A process looks after itself: readiness, backoff, stopping.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::clock;

/// Exponential pauses between tries, with jitter, up to a cap.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// From `first`, doubling, up to `cap`.
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

    /// Starts over after success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Whether this process can do its work now: what `/readyz` answers.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Parts>);

#[derive(Debug, Default)]
struct Parts {
    /// RabbitMQ sessions that are needed and not there.
    amqp_missing: AtomicIsize,
    postgres: AtomicBool,
    /// Webhooks that can't be read, and those of them for which a key is missing.
    unreadable: AtomicUsize,
    missing_key: AtomicUsize,
}

impl Readiness {
    /// Needs this many RabbitMQ sessions.
    #[must_use]
    pub fn with_sessions(sessions: u8) -> Self {
        let ready = Self::default();
        let missing = &ready.0.amqp_missing;
        missing.store(isize::from(sessions), Ordering::Relaxed);
        ready
    }

    /// A RabbitMQ session has begun, or ended.
    pub fn amqp(&self, is: bool) {
        let change = if is { -1 } else { 1 };
        self.0.amqp_missing.fetch_add(change, Ordering::Relaxed);
    }

    /// Sets whether PostgreSQL answers.
    pub fn postgres(&self, is: bool) {
        self.0.postgres.store(is, Ordering::Relaxed);
    }

    /// Sets how many webhooks can't be read, and for how many of them the key is
    /// missing. Without a key that others have, this process isn't ready: it
    /// can't do what they do.
    pub fn unreadable(&self, webhooks: usize, missing_key: usize) {
        self.0.unreadable.store(webhooks, Ordering::Relaxed);
        self.0.missing_key.store(missing_key, Ordering::Relaxed);
    }

    /// How many webhooks can't be read, and for how many of them the key is missing.
    #[must_use]
    pub fn unreadable_webhooks(&self) -> (usize, usize) {
        let unreadable = self.0.unreadable.load(Ordering::Relaxed);
        (unreadable, self.0.missing_key.load(Ordering::Relaxed))
    }

    /// What is missing; empty when ready.
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

/// Ends the process when any of its tasks panics. A task that is gone would keep
/// its message unacked for ever; a process that is gone gives everything back,
/// and a message that kills its consumers over and over ends up parked.
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
/// If the handlers can't be installed.
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

/// How long an attempt that is under way may still take after `stop`.
pub const LAST_TRY: Duration = Duration::from_secs(5);

/// Runs `attempt` until it succeeds or `stop` is cancelled (`None`). Every failure
/// is logged as one of `doing` it.
pub async fn until_done<T, F>(
    stop: &CancellationToken,
    doing: &str,
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
        tracing::warn!(error, ?pause, "{doing}; trying again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return None,
        }
    }
}
