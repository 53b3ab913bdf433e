//! One file per page, or per few that belong together: the handler on top, what it shows below.

pub mod deliveries;
pub mod delivery;
pub mod event;
pub mod events;
pub mod go;
pub mod sign_in;
pub mod webhook;
pub mod webhooks;
