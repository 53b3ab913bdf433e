//! The open connections of a server, their states and their limits.
//!
//! A new connection beyond a limit replaces an old one: first the connection that has
//! waited longest for a request, else one whose client is slow with its body or with
//! reading its answer. A connection whose handler is working is never replaced.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics;

/// The time limit for receiving a request's head, from its first byte on.
const HEAD: Duration = Duration::from_secs(10);

/// The time limit for receiving a whole request body.
const BODY: Duration = Duration::from_secs(60);

/// The time limit for sending a whole answer.
const ANSWER: Duration = Duration::from_secs(60);

/// A connection that has spent this long on a body or an answer is slow, and may be
/// replaced by a new one.
pub(super) const SLOW: Duration = Duration::from_secs(5);

/// The limits for clients of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// `HTTP_IDLE_TIMEOUT` (s): how long a connection may wait for a request.
    pub idle: Duration,
    /// From the first byte of a request's head to the last.
    pub head: Duration,
    /// For a whole request body.
    pub body: Duration,
    /// For a whole answer.
    pub answer: Duration,
    /// `HTTP_CONNECTIONS`: the most connections.
    pub connections: usize,
    /// `HTTP_CONNECTIONS_PER_ADDRESS`: the most connections of one IPv4 address or
    /// IPv6 /64.
    pub per_address: usize,
}

impl Bounds {
    /// Of the three that are settings. The rest is fixed.
    #[must_use]
    pub fn new(idle: Duration, connections: usize, per_address: usize) -> Self {
        Self {
            idle,
            head: HEAD.min(idle),
            body: BODY,
            answer: ANSWER,
            connections,
            per_address,
        }
    }

    /// The time limit of a state. Handlers have their own limits.
    pub(super) fn limit_of(&self, doing: Doing) -> Option<Duration> {
        match doing {
            Doing::Idle => Some(self.idle),
            Doing::Head => Some(self.head),
            Doing::Body => Some(self.body),
            Doing::Working => None,
            Doing::Answering | Doing::Flushing => Some(self.answer),
        }
    }

    /// How often overdue connections are searched for.
    pub(super) fn tick(&self) -> Duration {
        let shortest = [self.idle, self.head, self.body, self.answer];
        let shortest = shortest.into_iter().min().unwrap_or_default() / 4;
        shortest.clamp(Duration::from_millis(10), Duration::from_secs(1))
    }
}

/// The state of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// No byte of the next request has come.
    Idle,
    /// The request's head is being received.
    Head,
    /// The request's body is being received.
    Body,
    /// A handler runs.
    Working,
    /// The answer is being written to the socket.
    Answering,
    /// The whole answer is written, but not all of it is sent.
    Flushing,
}

impl Doing {
    /// The name in the metric's label.
    fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Head => "head",
            Self::Body => "body",
            Self::Working => "working",
            Self::Answering | Self::Flushing => "answer",
        }
    }
}

/// An open connection, for the accept loop.
pub(super) struct Connection {
    pub(super) address: IpAddr,
    pub(super) doing: Mutex<(Doing, Instant)>,
    /// Cancel this to close the connection at once.
    pub(super) cut: CancellationToken,
}

impl Connection {
    pub(super) fn state(&self) -> MutexGuard<'_, (Doing, Instant)> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begins(&self, doing: Doing) {
        *self.state() = (doing, Instant::now());
    }

    /// Changes the state if it is `from`; otherwise does nothing.
    pub(super) fn goes_on(&self, from: Doing, to: Doing) {
        let mut state = self.state();
        if state.0 == from {
            *state = (to, Instant::now());
        }
    }

    /// Since when the connection has waited for a request; `None` if it doesn't
    /// wait.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        let (doing, since) = *self.state();
        matches!(doing, Doing::Idle | Doing::Head).then_some(since)
    }

    /// If a new connection may replace this one: whether it does so only after all
    /// others, and since when it has been in its state.
    pub(super) fn spare(&self) -> Option<(bool, Instant)> {
        let (doing, since) = *self.state();
        match doing {
            Doing::Idle | Doing::Head => Some((false, since)),
            Doing::Body | Doing::Answering | Doing::Flushing => {
                (since.elapsed() > SLOW).then_some((true, since))
            }
            Doing::Working => None,
        }
    }
}

/// The open connections.
pub(super) struct Connections {
    bounds: Bounds,
    pub(super) open: HashMap<u64, Arc<Connection>>,
    next: u64,
}

impl Connections {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            open: HashMap::new(),
            next: 0,
        }
    }

    /// Admits a connection, and closes another one if the limits require that.
    /// `None`: no open connection may be closed, because all of them are being
    /// answered or haven't been slow for long.
    pub(super) fn admit(&mut self, from: IpAddr) -> Option<(u64, Arc<Connection>)> {
        let address = network(from);
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for connection in self.open.values() {
            *counts.entry(connection.address).or_default() += 1;
        }
        let own = counts.get(&address).copied().unwrap_or_default();
        if own >= self.bounds.per_address {
            counts.retain(|other, _| *other == address);
            self.make_room(&counts)?;
        } else if self.open.len() >= self.bounds.connections {
            self.make_room(&counts)?;
        }
        let connection = Arc::new(Connection {
            address,
            doing: Mutex::new((Doing::Idle, Instant::now())),
            cut: CancellationToken::new(),
        });
        self.next += 1;
        self.open.insert(self.next, connection.clone());
        self.count();
        Some((self.next, connection))
    }

    /// Closes one connection. Of the addresses in `counts` that have a replaceable
    /// connection, it takes the one with the most connections. Of that address it
    /// takes the connection that has waited longest, or else the one that has been
    /// slow longest.
    pub(super) fn make_room(&mut self, counts: &HashMap<IpAddr, usize>) -> Option<()> {
        let spare = self.open.iter().filter_map(|(id, connection)| {
            let count = counts.get(&connection.address)?;
            let (last, since) = connection.spare()?;
            Some((Reverse(*count), last, since, *id))
        });
        let (.., chosen) = spare.min()?;
        self.open.remove(&chosen)?.cut.cancel();
        count_cut("place");
        Some(())
    }

    /// Closes connections that have been in one state for too long.
    pub(super) fn cut_overdue(&mut self) {
        let bounds = self.bounds;
        self.open.retain(|_, connection| {
            let (doing, since) = *connection.state();
            let overdue = bounds
                .limit_of(doing)
                .is_some_and(|bound| since.elapsed() > bound);
            if overdue {
                count_cut(doing.as_str());
                connection.cut.cancel();
            }
            !overdue
        });
        self.count();
    }

    pub(super) fn forget(&mut self, id: u64) {
        self.open.remove(&id);
        self.count();
    }

    pub(super) fn count(&self) {
        metrics().http_connections.set(self.open.len() as i64);
    }
}

pub(super) fn count_cut(reason: &str) {
    metrics()
        .http_connections_cut
        .with_label_values(&[reason])
        .inc();
}

/// An IPv6 address counts as its /64, because providers assign whole /64 networks.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}
