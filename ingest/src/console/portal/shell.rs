//! A page of the portal.

use axum::response::Html;
use maud::{Markup, html};
use shared::clock;

use crate::console::moments::span;
use crate::console::portal::scope::Customer;
use crate::console::shell::document;
use crate::console::text::line;

/// A page with this content. `above`: pages above it.
pub fn page(
    customer: &Customer,
    title: &str,
    above: &[(String, Markup)],
    content: &Markup,
) -> Html<String> {
    live_page(customer, title, above, None, content)
}

/// The same with live parts. `events`: the address that they come from.
pub fn live_page(
    customer: &Customer,
    title: &str,
    above: &[(String, Markup)],
    events: Option<&str>,
    content: &Markup,
) -> Html<String> {
    let left = customer.by.session.ends_at - clock::now();
    let body = html! {
        a class="skip" href="#main" { "Skip to the page" }
        main class="portal" id="main" {
            @if !above.is_empty() || events.is_some() {
                div class="top" {
                    @if !above.is_empty() {
                        nav aria-label="Where you are" { ol class="crumbs" {
                            @for (path, words) in above { li { a href=(path) { (words) } } }
                            li { (line(title)) }
                        } }
                    }
                    @if events.is_some() { span class="live js-only" data-live-state { "Live" } }
                }
            }
            (content)
            p class="pager" { span { "This page is yours for " (span(left)) " more." } }
        }
    };
    document(customer.by.appearance, title, events, &body)
}
