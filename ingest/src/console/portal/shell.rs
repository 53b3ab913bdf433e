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
    let left = customer.by.session.ends_at - clock::now();
    let body = html! {
        main class="portal" id="main" {
            @if !above.is_empty() {
                div class="top" {
                    nav aria-label="Where you are" { ol class="crumbs" {
                        @for (path, words) in above { li { a href=(path) { (words) } } }
                        li { (line(title)) }
                    } }
                }
            }
            (content)
            p class="pager" { span { "This page is yours for " (span(left)) " more." } }
        }
    };
    document(customer.by.appearance, title, None, &body)
}
