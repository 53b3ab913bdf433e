//! The HTML around every page's content, and the pages without navigation: sign-in and errors.

use axum::response::Html;
use maud::{DOCTYPE, Markup, html};

use crate::console::assets::{ACCENTS, MARK, SCRIPT, STYLE};
use crate::console::icons::{icon, sprite};
use crate::console::text::plain;

/// How a page looks: by the visitor's cookie, or as the system has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Theme {
    #[default]
    System,
    Light,
    Dark,
}

impl Theme {
    /// Of the cookie's or the form's value.
    pub fn parse(text: &str) -> Self {
        match text {
            "light" => Self::Light,
            "dark" => Self::Dark,
            _ => Self::System,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::System => "",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }

    /// What the button changes it to.
    pub fn next(self) -> Self {
        match self {
            Self::System => Self::Light,
            Self::Light => Self::Dark,
            Self::Dark => Self::System,
        }
    }
}

/// How a page is set up for its visitor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Appearance {
    pub theme: Theme,
    /// Whether the visitor has switched single-letter keys off.
    pub without_keys: bool,
    /// The portal's colour, of `portal_links::ACCENTS`.
    pub accent: &'static str,
}

tokio::task_local! {
    static CURRENT: Appearance;
}

impl Appearance {
    /// How the page looks that this task answers with. Error pages are made where the request
    /// isn't known.
    pub fn current() -> Self {
        CURRENT
            .try_with(|appearance| *appearance)
            .unwrap_or_default()
    }

    /// Runs `answer`, which may ask for the [`current`](Self::current) appearance.
    pub async fn scope<F: Future>(self, answer: F) -> F::Output {
        CURRENT.scope(self, answer).await
    }
}

/// A whole document. `events`: where its live parts come from.
pub fn document(
    appearance: Appearance,
    title: &str,
    events: Option<&str>,
    body: &Markup,
) -> Html<String> {
    let theme = Some(appearance.theme.name()).filter(|name| !name.is_empty());
    let accent = Some(appearance.accent).filter(|accent| !accent.is_empty());
    let page = html! {
        (DOCTYPE)
        html lang="en" data-theme=[theme] data-accent=[accent] data-keys=[appearance.without_keys.then_some("off")] {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (plain(title)) " · Posthorn" }
                link rel="icon" href=(MARK.path) type="image/svg+xml";
                link rel="stylesheet" href=(STYLE.path);
                @if accent.is_some() { link rel="stylesheet" href=(ACCENTS.path); }
                script src=(SCRIPT.path) defer {}
            }
            body data-events=[events] {
                // A live part may come to need any of them.
                (sprite(&body.0, events.is_some()))
                (body)
            }
        }
    };
    Html(page.into_string())
}

/// A page without the rail.
pub fn alone(appearance: Appearance, title: &str, content: &Markup) -> Html<String> {
    let body = html! {
        main class="alone" id="main" {
            a class="brand" href="/console" { (icon("horn")) "Posthorn" }
            (content)
        }
    };
    document(appearance, title, None, &body)
}
