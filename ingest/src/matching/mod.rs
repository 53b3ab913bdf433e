//! Which webhooks want this event, and why the others do not.
//!
//! An event (tenant, type, `data` as JSON text) comes in from `ingest`'s
//! batches; the webhooks to make deliveries for go out. The API asks the same
//! index to explain itself. No database, no clock, no I/O here: whoever keeps
//! the [`Index`] fresh does so through `upsert` and `remove`.
//!
//! * [`pattern`]: the patterns of event types that webhooks listen to;
//! * [`filter`]: conditions on an event's data;
//! * [`data`]: that data, parsed at most once and only if a filter asks;
//! * [`index`]: all webhooks of all tenants, found by event type;
//! * [`candidates`]: those that listen to one event's type, and whose filter it passes;
//! * `number`: comparing JSON numbers without losing a digit.
//!
//! Everything here is fed by tenants, so everything is bounded: what a pattern
//! or filter may be when it is parsed, and how long all filters together may look
//! at an event when they run. Nothing panics on any input.

pub mod candidates;
pub mod data;
pub mod filter;
pub mod index;
mod number;
pub mod pattern;

pub use candidates::{Candidates, Found};
pub use data::Data;
pub use filter::{Filter, FilterError, Holding, Refusal, Within};
pub use index::{Entry, Explanation, Index};
pub use pattern::{Pattern, PatternError};
