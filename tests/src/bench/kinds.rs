//! The kinds of rounds, and what the table calls them.

/// How many webhooks match each event where there are several.
pub const MATCHING: usize = 10;

/// The interface through which events come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Published to the exchange.
    Amqp,
    /// Posted to the API.
    Http,
}

/// A kind of round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// First ingest alone, then a dispatcher alone on the jobs that have gathered.
    Halves(Door, usize),
    /// Everything together, at full speed; with logs or without.
    Whole(Door, usize, bool),
    /// The same over AMQP, where the tenant has so many webhooks and [`MATCHING`] of them match.
    Among(usize),
    /// Everything, at so many events a second.
    Pace(Door, u64),
    /// The floor.
    Floor,
    /// The floor of latency: at so many events a second, a commit, a hop and a POST for each.
    FloorPace(u64),
    /// This many dispatchers on a backlog, with a slow receiver.
    Dispatchers(usize),
}

impl Kind {
    /// The name in the table. The second half of [`Kind::Halves`] is
    /// [`Kind::backlog_name`].
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Halves(door, webhooks) => format!("accept alone, {}", via(door, webhooks)),
            Self::Whole(door, webhooks, logs) => {
                let logs = if logs { ", logging each" } else { "" };
                format!("accept and deliver, {}{logs}", via(door, webhooks))
            }
            Self::Among(webhooks) => format!("{MATCHING} of {webhooks} webhooks match"),
            Self::Pace(door, rate) => format!("{rate} events/s, {}", via(door, 1)),
            Self::Floor => "floor: consume, POST, ack".to_owned(),
            Self::FloorPace(rate) => format!("floor: {rate} events/s: HTTP, commit, consume, POST"),
            Self::Dispatchers(1) => "deliver to a 100 ms receiver, 1 dispatcher".to_owned(),
            Self::Dispatchers(n) => format!("deliver to a 100 ms receiver, {n} dispatchers"),
        }
    }

    /// The name of delivering a backlog in the table.
    #[must_use]
    pub fn backlog_name(webhooks: usize) -> String {
        format!("deliver a backlog alone, {webhooks} per event")
    }
}

fn via(door: Door, webhooks: usize) -> String {
    let door = match door {
        Door::Amqp => "AMQP",
        Door::Http => "HTTP",
    };
    format!("{door}, {webhooks} per event")
}

/// What is in the database before a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// Nothing.
    None,
    /// A month of deliveries, analyzed.
    Month,
}

impl Past {
    /// What the table adds to a round's name.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Month => ", after a month",
        }
    }
}
