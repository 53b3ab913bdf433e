//! How publishing fails.

/// Why a message may not have been taken by the broker.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unconfirmed {
    /// The queue is full or has no quorum: certainly not taken.
    #[error("RabbitMQ refused the message")]
    Refused,
    /// The connection failed before the answer: perhaps taken.
    #[error("the connection to RabbitMQ failed before the message was confirmed")]
    Lost(#[source] lapin::Error),
    /// The process is stopping, or too much waits for RabbitMQ already.
    #[error("no connection to RabbitMQ")]
    Unavailable,
}
