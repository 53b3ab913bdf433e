//! The API's costly computations take turns.
//!
//! Reading a schema, checking data against one and explaining filters take a
//! processor for up to some tens of milliseconds each. Requests may do as many of
//! those at once as there are processors, in the order in which they asked for
//! it, so that a thousand requests don't hold a thousand results in memory.
//! Intake doesn't ask: its lanes bound what it does at once, and requests can't
//! make it wait.

use std::num::NonZero;
use std::sync::OnceLock;
use std::thread::available_parallelism;

use tokio::sync::{Semaphore, SemaphorePermit};

/// A place, which is free again when this is dropped.
pub type Turn = SemaphorePermit<'static>;

/// Waits for a place.
pub async fn turn() -> Turn {
    static PLACES: OnceLock<Semaphore> = OnceLock::new();
    let places =
        PLACES.get_or_init(|| Semaphore::new(available_parallelism().map_or(1, NonZero::get)));
    match places.acquire().await {
        Ok(place) => place,
        Err(_) => unreachable!("nobody closes this semaphore"),
    }
}

/// Runs what may take long on a thread where it keeps no task waiting.
///
/// # Panics
/// If `work` does, which ends the process (see `shared::supervise::die_on_panic`).
pub async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Nobody cancels it: whoever waits for it is gone before the runtime is.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
