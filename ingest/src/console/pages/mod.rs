//! One file per page, or per few that belong together: the handler on top, what it shows below.

pub mod dead_letters;
pub mod deliveries;
pub mod delivery;
pub mod edit;
pub mod event;
pub mod event_types;
pub mod events;
pub mod go;
pub mod health;
pub mod log;
pub mod overview;
pub mod publish;
pub mod replays;
pub mod retry;
pub mod secret;
pub mod settings;
pub mod sign_in;
pub mod signature;
pub mod snippets;
pub mod statistics;
pub mod tenants;
pub mod test;
pub mod tokens;
pub mod webhook;
pub mod webhooks;
