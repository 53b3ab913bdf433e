//! Asks before something is done that ends or cancels what others rely on, and says with numbers
//! what will happen.
//!
//! The first POST of such a form changes nothing. Its answer is this question, whose form has the
//! same fields and [`SURE`]. So it works without JavaScript, and a button that is pressed by mistake
//! does no harm.

use maud::{Markup, html};

use crate::console::frame::csrf;
use crate::console::visit::Visitor;

/// The field of a form that was asked about.
pub const SURE: &str = "sure";

/// What is asked, and how it goes on.
pub struct Question<'a> {
    /// The question itself.
    pub asks: Markup,
    /// What will happen: paragraphs.
    pub says: Markup,
    /// Where the form is sent to.
    pub action: &'a str,
    /// Its fields, without `csrf` and [`SURE`].
    pub fields: &'a [(&'a str, &'a str)],
    /// The word on the button that does it.
    pub does: &'a str,
    /// The way back, and its word.
    pub back: (&'a str, &'a str),
}

impl Question<'_> {
    /// As a page of its own.
    pub fn page(&self, by: &Visitor) -> Markup {
        html! {
            div class="head" { div { h1 { (self.asks) } } }
            (self.form(by))
        }
    }

    /// As a part of a page that has a heading.
    pub fn part(&self, by: &Visitor) -> Markup {
        html! { section { h2 { (self.asks) } (self.form(by)) } }
    }

    fn form(&self, by: &Visitor) -> Markup {
        let (back, word) = self.back;
        html! {
            form class="stack form" method="post" action=(self.action) {
                (csrf(by))
                input type="hidden" name=(SURE) value="1";
                @for (name, value) in self.fields { input type="hidden" name=(name) value=(value); }
                (self.says)
                div class="row" {
                    a class="btn" href=(back) autofocus { (word) }
                    button class="btn risk" { (self.does) }
                }
            }
        }
    }
}
