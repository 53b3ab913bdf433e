//! How often the API may be asked: per token, or per address where there is none.
//!
//! In memory and per replica: it keeps one client from crowding out the others,
//! no more. Each bucket is one moment, that at which it will be full again
//! (GCRA), so an idle bucket is worth nothing and can be forgotten.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many buckets are kept. Whoever comes when all are in use shares one with
/// all others who do: made-up tokens don't get a bucket each for ever.
const MAX_BUCKETS: usize = 10_000;
/// How many seconds' worth of requests may come at once.
const BURST: u32 = 2;

/// See the module's text.
pub struct Rates {
    /// How long a request takes to be made up for.
    interval: Duration,
    burst: Duration,
    full_at: Mutex<HashMap<Client, Instant>>,
}

/// Who is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    /// A token's SHA-256.
    Token([u8; 32]),
    /// Where a request without a token comes from.
    Address(IpAddr),
    /// Whoever came when no bucket was free.
    Others,
}

impl Rates {
    /// So many requests a second.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            burst: Duration::from_secs(u64::from(BURST)),
            full_at: Mutex::default(),
        }
    }

    /// Takes a request's worth from a client's bucket; else says when there is
    /// enough in it.
    ///
    /// # Errors
    /// How long to wait.
    pub fn take(&self, client: Client, now: Instant) -> Result<(), Duration> {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let mut client = client;
        if full_at.len() >= MAX_BUCKETS && !full_at.contains_key(&client) {
            full_at.retain(|_, at| *at > now);
            if full_at.len() >= MAX_BUCKETS {
                client = Client::Others;
            }
        }
        let at = full_at.entry(client).or_insert(now);
        let full = (*at).max(now) + self.interval;
        match full.duration_since(now).checked_sub(self.burst) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                *at = full;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_its_rate_after_its_burst_and_nobody_elses() {
        let (rates, begun) = (Rates::new(10), Instant::now());
        let client = Client::Token([1; 32]);
        let granted = |at: Duration| {
            let now = begun + at;
            std::iter::from_fn(|| rates.take(client, now).ok()).count()
        };
        assert_eq!(granted(Duration::ZERO), 20);
        assert_eq!(
            rates.take(client, begun),
            Err(Duration::from_millis(100)),
            "and when it may again"
        );
        assert_eq!(granted(Duration::from_millis(99)), 0);
        assert_eq!(granted(Duration::from_millis(100)), 1);
        assert_eq!(granted(Duration::from_secs(1)), 9);
        assert_eq!(granted(Duration::from_secs(100)), 20);
        assert!(rates.take(Client::Token([2; 32]), begun).is_ok());
    }

    #[test]
    fn made_up_tokens_share_what_is_left_and_are_forgotten() {
        let (rates, begun) = (Rates::new(1), Instant::now());
        let made_up = |n: u32| {
            let mut token = [0; 32];
            token[..4].copy_from_slice(&n.to_be_bytes());
            Client::Token(token)
        };
        let many = MAX_BUCKETS as u32;
        let refused = (0..many + 100).filter(|n| rates.take(made_up(*n), begun).is_err());
        assert_eq!(refused.count(), 98);
        let later = begun + Duration::from_secs(10);
        assert!(rates.take(made_up(many + 200), later).is_ok());
        assert!(rates.full_at.lock().unwrap().len() <= 2);
    }
}
