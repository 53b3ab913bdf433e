//! The console in a real browser: what its design promises, with JavaScript and without.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "console/acting.rs"]
mod acting;
#[path = "console/forms.rs"]
mod forms;
#[path = "console/gallery.rs"]
mod gallery;
#[path = "console/live.rs"]
mod live;
#[path = "console/pages.rs"]
mod pages;
#[path = "console/portal.rs"]
mod portal;
#[path = "console/safety.rs"]
mod safety;
#[path = "console/sessions.rs"]
mod sessions;
#[path = "console/shop.rs"]
mod shop;
#[path = "console/waits.rs"]
mod waits;
#[path = "console/why.rs"]
mod why;
