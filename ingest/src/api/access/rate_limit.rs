//! Rate limits of the API (GCRA token buckets): per token, or per client address.
//!
//! A token has a bucket of its own from its second request on, once it was
//! accepted. Requests without a token, or with an unknown one, are charged to
//! their client's address, so made-up tokens gain nothing.
//!
//! Buckets are in memory and per replica: they keep one client from crowding out
//! others, and are no exact quota. A bucket is stored as the moment at which it
//! will be full again, so a full bucket needs no entry and can be forgotten.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most buckets. Clients that come when all are in use share one bucket.
const MAX_BUCKETS: usize = 10_000;
/// How many seconds' worth of requests may come at once: the burst.
const BURST: u32 = 2;

pub struct Rates {
    per_second: u32,
    /// The time between two requests at the limit.
    interval: Duration,
    burst: Duration,
    full_at: Mutex<HashMap<Client, Instant>>,
}

/// Whose bucket it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    /// An accepted token, by its SHA-256.
    Token([u8; 32]),
    /// The address of a client without an accepted token.
    Address(IpAddr),
    /// All clients that came when no bucket was free.
    Others,
}

impl Rates {
    /// A limit of so many requests per second, for each client.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self {
            per_second,
            interval: Duration::from_secs(1) / per_second.max(1),
            burst: Duration::from_secs(u64::from(BURST)),
            full_at: Mutex::default(),
        }
    }

    /// The limit, in requests per second.
    pub fn per_second(&self) -> u32 {
        self.per_second
    }

    /// Whether a token has a bucket: it was accepted, and not long ago.
    pub fn knows(&self, token: [u8; 32]) -> bool {
        self.buckets().contains_key(&Client::Token(token))
    }

    /// Gives an accepted token a bucket of its own, if there is room.
    pub fn know(&self, token: [u8; 32], now: Instant) {
        let mut full_at = self.buckets();
        if make_room(&mut full_at, now) {
            full_at.entry(Client::Token(token)).or_insert(now);
        }
    }

    fn buckets(&self) -> MutexGuard<'_, HashMap<Client, Instant>> {
        self.full_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a bucket has that will be full after this time.
    fn left(&self, until_full: Duration) -> Left {
        let room = self.burst.saturating_sub(until_full);
        Left {
            limit: self.per_second * BURST,
            remaining: (room.as_nanos() / self.interval.as_nanos().max(1)) as u32,
            reset: until_full,
        }
    }

    /// Charges a client's bucket for one request.
    ///
    /// # Errors
    /// If the bucket is empty: how long until it isn't.
    pub fn take(&self, client: Client, now: Instant) -> Result<Left, Refused> {
        let mut full_at = self.buckets();
        let mut client = client;
        if !full_at.contains_key(&client) && !make_room(&mut full_at, now) {
            client = Client::Others;
        }
        let at = full_at.entry(client).or_insert(now);
        let full = (*at).max(now) + self.interval;
        match full.duration_since(now).checked_sub(self.burst) {
            Some(wait) if !wait.is_zero() => {
                let left = self.left(at.duration_since(now));
                Err(Refused { wait, left })
            }
            _ => {
                *at = full;
                Ok(self.left(full.duration_since(now)))
            }
        }
    }
}

/// What is left in a client's bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// How many requests a full bucket has.
    pub limit: u32,
    /// How many requests may come now.
    pub remaining: u32,
    /// How long until the bucket is full.
    pub reset: Duration,
}

/// A request came too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// How long until the next may come.
    pub wait: Duration,
    pub left: Left,
}

/// Forgets full buckets if there are too many. Answers whether there is room for another.
fn make_room(full_at: &mut HashMap<Client, Instant>, now: Instant) -> bool {
    if full_at.len() >= MAX_BUCKETS {
        full_at.retain(|_, at| *at > now);
    }
    full_at.len() < MAX_BUCKETS
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
        let refused = rates.take(client, begun).unwrap_err();
        assert_eq!(
            refused.wait,
            Duration::from_millis(100),
            "when it may again"
        );
        assert_eq!((refused.left.limit, refused.left.remaining), (20, 0));
        assert_eq!(refused.left.reset, Duration::from_secs(2));
        assert_eq!(granted(Duration::from_millis(99)), 0);
        assert_eq!(granted(Duration::from_millis(100)), 1);
        assert_eq!(granted(Duration::from_secs(1)), 9);
        assert_eq!(granted(Duration::from_secs(100)), 20);
        let other = rates.take(Client::Token([2; 32]), begun).unwrap();
        assert_eq!(
            (other.remaining, other.reset),
            (19, Duration::from_millis(100))
        );
    }

    #[test]
    fn when_all_buckets_are_in_use_the_others_share_one_until_some_are_idle() {
        let (rates, begun) = (Rates::new(1), Instant::now());
        let address = |n: u32| Client::Address(std::net::Ipv4Addr::from_bits(n).into());
        let many = MAX_BUCKETS as u32;
        let refused = (0..many + 100).filter(|n| rates.take(address(*n), begun).is_err());
        assert_eq!(refused.count(), 98);
        rates.know([1; 32], begun);
        assert!(!rates.knows([1; 32]), "there is no room");
        let later = begun + Duration::from_secs(10);
        assert!(rates.take(address(many + 200), later).is_ok());
        rates.know([1; 32], later);
        assert!(rates.knows([1; 32]));
        assert!(rates.full_at.lock().unwrap().len() <= 3);
    }
}
