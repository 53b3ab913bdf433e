//! What the console's handlers share.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::api::state::Shared;
use crate::console::rail::Rail;
use crate::console::watch::Watching;

/// Failed sign-ins of an address before it has to wait.
const FAILURES: u32 = 5;
/// How long they count.
const MINUTE: Duration = Duration::from_secs(60);
/// The most addresses that are remembered.
const MAX_ADDRESSES: usize = 10_000;

pub struct Console {
    /// Pages call the API's functions.
    pub api: Shared,
    /// The same for what pages list and count: no statement takes longer than two seconds.
    pub reads: Shared,
    /// The same for live parts, with connections and permits of their own: pages that are left
    /// open keep neither their tenant's requests nor other pages waiting.
    pub live: Shared,
    pub sign_ins: SignIns,
    /// The counts beside the rail's entries.
    pub rail: Rail,
    /// Who watches live parts.
    pub watching: Watching,
    /// Cancelled when the process is told to stop: live parts end then.
    pub stop: CancellationToken,
}

/// Failed sign-ins, by address.
#[derive(Default)]
pub struct SignIns(Mutex<HashMap<IpAddr, (Instant, u32)>>);

impl SignIns {
    /// Counts a try as a failure until [`succeeded`](Self::succeeded) takes it back, so that
    /// tries at the same time are as many as tries one after another.
    ///
    /// # Errors
    /// How long this address has to wait.
    pub fn begin(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut failures = self.failures();
        if failures.len() >= MAX_ADDRESSES {
            failures.retain(|_, (since, _)| now.duration_since(*since) < MINUTE);
        }
        if failures.len() >= MAX_ADDRESSES && !failures.contains_key(&address) {
            // Whoever has so many addresses isn't held up by this anyway; the API's rate limit is.
            return Ok(());
        }
        let (since, count) = failures.entry(address).or_insert((now, 0));
        if now.duration_since(*since) >= MINUTE {
            (*since, *count) = (now, 0);
        }
        if *count >= FAILURES {
            return Err(MINUTE.saturating_sub(now.duration_since(*since)));
        }
        *count += 1;
        Ok(())
    }

    /// The try was none to count.
    pub fn succeeded(&self, address: IpAddr) {
        if let Some((_, count)) = self.failures().get_mut(&address) {
            *count = count.saturating_sub(1);
        }
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<IpAddr, (Instant, u32)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_try_in_a_minute_has_to_wait() {
        let (sign_ins, begun) = (SignIns::default(), Instant::now());
        let (ours, others) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        for n in 0..5 {
            assert!(sign_ins.begin(ours, begun).is_ok(), "{n}");
            // What was right doesn't count.
            assert!(sign_ins.begin(others, begun).is_ok(), "{n}");
            sign_ins.succeeded(others);
        }
        let wait = sign_ins.begin(ours, begun + Duration::from_secs(20));
        assert_eq!(wait, Err(Duration::from_secs(40)));
        assert!(sign_ins.begin(others, begun).is_ok());
        assert!(sign_ins.begin(ours, begun + MINUTE).is_ok());
    }
}
