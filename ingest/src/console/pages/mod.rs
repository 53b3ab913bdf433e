//! One file per page, or per few that belong together: the handler on top, what it shows below.

pub mod deliveries;
pub mod delivery;
pub mod edit;
pub mod event;
pub mod events;
pub mod go;
pub mod log;
pub mod overview;
pub mod retry;
pub mod secret;
pub mod settings;
pub mod sign_in;
pub mod statistics;
pub mod test;
pub mod webhook;
pub mod webhooks;
