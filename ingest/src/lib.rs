//! Takes events, matches them to webhooks, enqueues one job per match, and serves the API.
//!
//! An event passes these modules, in this order:
//!
//! 1. [`look_ahead`] takes events from the queues and hands them out in batches in
//!    which tenants take turns ([`turns`], [`aside`], [`acks`]);
//! 2. [`intake`] sees each batch through;
//! 3. [`decode`] reads a message as an event, and [`event_types`] checks it against
//!    its tenant's catalogue;
//! 4. [`subscriptions`] finds the webhooks that want it ([`matching`]);
//! 5. [`accept`] writes the event and its deliveries in one statement.
//!
//! [`spans`] shows these stages in the event's trace.
//!
//! Messages that are refused on the way are kept in [`dead_letters`].
//!
//! What may be declared, and its rows: [`webhooks`], [`tenants`] and [`event_types`],
//! with [`form`], [`json_text`], [`assignments`], who changes it ([`actor`]) and the errors
//! of [`invalid`]. They
//! know nothing of HTTP. Three things stand on them: [`api`], which also publishes
//! events, and [`apply`](mod@apply) and [`import`](mod@import), which read files.
//!
//! Deliveries begin again by [`restart`], many of them by [`replay`], which are named by
//! [`log_filter`]; deliveries that an event should have had are made by
//! [`rematch`](mod@rematch), and those that a new webhook would have had by [`backfill`].
//! [`tenant_deletion`] deletes a tenant with its log. [`partitions`] and
//! [`deleted_webhooks`] keep the log within its retention. [`audit`](mod@audit),
//! [`doctor`], [`rekey`](mod@rekey) and [`preview`] are commands for operators, [`cli`] those
//! that use the API; [`listening`] is what one of them listens to. [`run`] starts and
//! stops everything.

pub mod accept;
pub mod acks;
pub mod actor;
pub mod api;
pub mod apply;
pub mod aside;
pub mod assignments;
pub mod audit;
pub mod backfill;
pub mod batch;
pub mod cli;
pub mod console;
pub mod cpu;
pub mod dead_letters;
pub mod decode;
pub mod deleted_webhooks;
pub mod doctor;
pub mod door;
pub mod event_types;
pub mod form;
pub mod http_event;
pub mod import;
pub mod intake;
pub mod invalid;
pub mod json_text;
pub mod listening;
pub mod loads;
pub mod log_filter;
pub mod look_ahead;
pub mod matching;
pub mod metrics;
pub mod partitions;
pub mod plain_words;
pub mod preview;
pub mod rekey;
pub mod rematch;
pub mod replay;
pub mod restart;
pub mod run;
pub mod settings;
pub mod spans;
pub mod subscriptions;
pub mod survey;
pub mod tenant_deletion;
pub mod tenant_permits;
pub mod tenants;
pub mod timestamp;
pub mod turns;
pub mod type_counts;
pub mod webhooks;
