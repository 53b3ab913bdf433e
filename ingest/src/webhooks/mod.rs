//! What a webhook may be, and its rows.

pub mod form;
pub mod store;
