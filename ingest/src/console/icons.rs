//! Icons: one drawing each, 16 units, one stroke. A page's sprite has only those that it uses.

use maud::{Markup, PreEscaped, html};

/// The mark: a post horn, 24 units.
const HORN: &str = r#"<g stroke-width="1.9"><path d="M2 9.2h8.6a5.1 5.1 0 1 1-5.1 5.1"/><path d="M5.5 14.3c0-3 2.2-5.1 5.1-5.1h4.4"/></g><path d="M14.5 10.2c3.2-.3 5.6-2 7.5-5.2v9.4c-1.9-2.9-4.3-4.2-7.5-4.2z" fill="currentColor" stroke-width="1.2"/><path d="M2 7.4v3.6" stroke-width="1.9"/>"#;

/// Each icon's name, and what is drawn.
const ICONS: &[(&str, &str)] = &[
    (
        "cancelled",
        r#"<circle cx="8" cy="8" r="5.7"/><path d="m4.2 11.8 7.6-7.6"/>"#,
    ),
    ("check", r#"<path d="m3.2 8.5 3.2 3.2 6.4-7"/>"#),
    (
        "clock",
        r#"<circle cx="8" cy="8" r="5.7"/><path d="M8 4.8V8l2.3 1.7"/>"#,
    ),
    (
        "copy",
        r#"<rect x="5.5" y="5.5" width="8" height="8" rx="1.5"/><path d="M10.5 5.5v-3h-8v8h3"/>"#,
    ),
    (
        "dead",
        r#"<path d="M2 5.5 8 2l6 3.5v7H2z"/><path d="m6.2 7.2 3.6 3.6M9.8 7.2l-3.6 3.6"/>"#,
    ),
    ("event", r#"<path d="M9 1.8 3.5 9H8l-1 5.2L12.5 7H8z"/>"#),
    (
        "expired",
        r#"<circle cx="8" cy="8" r="5.7"/><path d="M8 4.8V8l2.3 1.7"/>"#,
    ),
    (
        "fail",
        r#"<circle cx="8" cy="8" r="6.2" fill="currentColor" stroke="none"/><path d="m5.8 5.8 4.4 4.4M10.2 5.8l-4.4 4.4" stroke="var(--sheet)" stroke-width="1.8"/>"#,
    ),
    (
        "held",
        r#"<circle cx="8" cy="8" r="5.7"/><path d="M6.5 5.8v4.4M9.5 5.8v4.4"/>"#,
    ),
    (
        "hook",
        r#"<circle cx="3.7" cy="8" r="2"/><circle cx="12.5" cy="3.9" r="1.7"/><circle cx="12.5" cy="12.1" r="1.7"/><path d="M5.7 8h1.5c2 0 1.5-4.1 3.5-4.1M7.2 8c2 0 1.5 4.1 3.5 4.1"/>"#,
    ),
    (
        "link",
        r#"<path d="M6.5 9.5l3-3M7 4.5l1.5-1.5a3 3 0 0 1 4.5 4.5L11.5 9M9 11.5 7.5 13A3 3 0 0 1 3 8.5L4.5 7"/>"#,
    ),
    (
        "ok",
        r#"<circle cx="8" cy="8" r="6.2" fill="currentColor" stroke="none"/><path d="m5.3 8.2 1.9 1.9 3.6-4" stroke="var(--sheet)" stroke-width="1.8"/>"#,
    ),
    (
        "out",
        r#"<path d="M9.5 3H3v10h6.5M6.5 8H14M11.5 5.5 14 8l-2.5 2.5"/>"#,
    ),
    (
        "overview",
        r#"<path d="M2.5 13.5v-4M6.2 13.5v-7M9.8 13.5v-5M13.5 13.5v-11"/>"#,
    ),
    ("pause", r#"<path d="M5.5 3.5v9M10.5 3.5v9"/>"#),
    ("plus", r#"<path d="M8 3v10M3 8h10"/>"#),
    ("pulse", r#"<path d="M1.5 8.5h3l2-5.5 3 10 2-4.5h3"/>"#),
    ("queued", r#"<circle cx="8" cy="8" r="5.5"/>"#),
    (
        "replay",
        r#"<path d="M3 8a5 5 0 1 0 1.6-3.7"/><path d="M3 2.5v3h3"/>"#,
    ),
    (
        "retry",
        r#"<path d="M13.5 8a5.5 5.5 0 1 1-1.7-4M13.5 1.8V5h-3.2"/>"#,
    ),
    (
        "search",
        r#"<circle cx="7" cy="7" r="4.3"/><path d="m10.3 10.3 3.4 3.4"/>"#,
    ),
    (
        "send",
        r#"<path d="M2 8h10.5M9 4.2 12.8 8 9 11.8"/><path d="M2 4.5h3M2 11.5h3"/>"#,
    ),
    (
        "sign",
        r#"<path d="M8 1.8 13 4v4c0 3-2 5.2-5 6.2C5 13.2 3 11 3 8V4z"/><path d="m5.8 8 1.6 1.6 2.9-3.2"/>"#,
    ),
    ("sort", r#"<path d="m5 6.5 3-3 3 3M5 9.5l3 3 3-3"/>"#),
    (
        "tenants",
        r#"<path d="M2.5 13.5v-10h5v10M7.5 13.5v-6h6v6M1.5 13.5h13M5 6v.01M5 9v.01M10.5 10v.01"/>"#,
    ),
    (
        "theme",
        r#"<circle cx="8" cy="8" r="5.7"/><path d="M8 2.3a5.7 5.7 0 0 1 0 11.4z" fill="currentColor"/>"#,
    ),
    (
        "token",
        r#"<circle cx="5.3" cy="10.7" r="2.8"/><path d="m7.4 8.6 5.6-5.6M11 5l1.8 1.8"/>"#,
    ),
    ("types", r#"<path d="M3 3.5h10M3 8h10M3 12.5h6"/>"#),
    (
        "unknown",
        r#"<circle cx="8" cy="8" r="5.7" stroke-dasharray="2.5 2"/><path d="M8 8v.01" stroke-width="2"/>"#,
    ),
    (
        "warn",
        r#"<path d="M8 2.2 14.3 13H1.7z"/><path d="M8 6.5v3M8 11.3v.01"/>"#,
    ),
    ("x", r#"<path d="m4 4 8 8M12 4l-8 8"/>"#),
];

/// An icon beside words that say the same: hidden from screen readers.
pub fn icon(name: &str) -> Markup {
    html! { svg class="i" aria-hidden="true" { use href={ "#i-" (name) } {} } }
}

/// An icon that stands without words.
pub fn labelled(name: &str, label: &str) -> Markup {
    html! { svg class="i" role="img" aria-label=(label) { use href={ "#i-" (name) } {} } }
}

/// The drawings of the icons that a page uses; `all`: that it may come to use.
pub fn sprite(page: &str, all: bool) -> Markup {
    let used = |name: &&(&str, &str)| all || page.contains(&format!("\"#i-{}\"", name.0));
    html! {
        svg width="0" height="0" hidden { defs {
            @if page.contains("\"#i-horn\"") {
                symbol id="i-horn" viewBox="0 0 24 24" { (PreEscaped(HORN)) }
            }
            @for (name, drawing) in ICONS.iter().filter(used) {
                symbol id={ "i-" (name) } viewBox="0 0 16 16" { (PreEscaped(*drawing)) }
            }
        } }
    }
}
