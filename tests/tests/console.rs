//! The console in a real browser: what its design promises, with JavaScript and without.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "console/acting.rs"]
mod acting;
#[path = "console/asking.rs"]
mod asking;
#[path = "console/figures.rs"]
mod figures;
#[path = "console/forms.rs"]
mod forms;
#[path = "console/gallery.rs"]
mod gallery;
#[path = "console/honest.rs"]
mod honest;
#[path = "console/hostile.rs"]
mod hostile;
#[path = "console/jumps.rs"]
mod jumps;
#[path = "console/live.rs"]
mod live;
#[path = "console/log.rs"]
mod log;
#[path = "console/operating.rs"]
mod operating;
#[path = "console/pages.rs"]
mod pages;
#[path = "console/portal.rs"]
mod portal;
#[path = "console/portal_links.rs"]
mod portal_links;
#[path = "console/portal_scope.rs"]
mod portal_scope;
#[path = "console/rail.rs"]
mod rail;
#[path = "console/roles.rs"]
mod roles;
#[path = "console/safety.rs"]
mod safety;
#[path = "console/secrets.rs"]
mod secrets;
#[path = "console/sessions.rs"]
mod sessions;
#[path = "console/shop.rs"]
mod shop;
#[path = "console/waits.rs"]
mod waits;
#[path = "console/why.rs"]
mod why;
