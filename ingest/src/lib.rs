//! Takes events, matches them to webhooks, enqueues one job per match; serves
//! the API.
//!
//! The files are the stages an event passes, in this order:
//!
//! 1. [`intake`] consumes the events queue in batches and sees each through;
//! 2. [`decode`] turns a message into an event, or says why not, and
//!    [`event_types`] whether it is what its tenant's catalogue says;
//! 3. [`matching`] finds the webhooks that want it (with [`subscriptions`], the
//!    index in memory);
//! 4. [`accept`] writes events and deliveries in one statement.
//!
//! What was refused on the way ends up in [`dead_letters`].
//!
//! [`api`] is the other door: it publishes events to the same exchange, and
//! manages tenants, tokens and webhooks. Deliveries that begin again go through
//! [`restart`], many of them at a rate by [`replay`]; deliveries that an event should have had are made by
//! [`rematch`](mod@rematch). What files declare of tenants, event
//! types and webhooks is made so by [`apply`](mod@apply). [`rekey`](mod@rekey) seals secrets
//! with a new master key; [`deleted_webhooks`] ends what deleted webhooks leave. [`run`] starts and stops all of it.

pub mod accept;
pub mod acks;
pub mod api;
pub mod apply;
pub mod aside;
pub mod audit;
pub mod batch;
pub mod dead_letters;
pub mod decode;
pub mod deleted_webhooks;
pub mod door;
pub mod event_types;
pub mod intake;
pub mod look_ahead;
pub mod matching;
pub mod metrics;
pub mod partitions;
pub mod preview;
pub mod rekey;
pub mod rematch;
pub mod replay;
pub mod restart;
pub mod run;
pub mod settings;
pub mod subscriptions;
pub mod turn;
pub mod turns;
