//! The console in a real browser: what its design promises, with JavaScript and without.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "console/pages.rs"]
mod pages;
#[path = "console/safety.rs"]
mod safety;
#[path = "console/sessions.rs"]
mod sessions;
#[path = "console/shop.rs"]
mod shop;
#[path = "console/why.rs"]
mod why;
