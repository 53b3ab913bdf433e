//! HTML that many pages use: tables, pagination, notes, empty lists, code, copy buttons.
//!
//! Tables carry explicit ARIA roles. On a narrow screen a table's rows are displayed as blocks,
//! and browsers drop the implicit roles of a table with another `display`.

use axum::http::header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use maud::{Markup, Render, html};
use serde_json::Value;

use crate::api::http::problem::Problem;
use crate::console::icons::icon;
use crate::console::text::{MOST, block, excerpt, line, plain, short, within};

/// A column's head: words, and whether its cells are numbers.
pub enum Head {
    Text(&'static str),
    Number(&'static str),
    /// Buttons, whose words say enough to those who see them.
    Action(&'static str),
    /// Boxes that select rows.
    Pick,
}

/// A list of things. `class`: `tight` for one-line rows.
pub fn table(class: &str, heads: &[Head], rows: &Markup) -> Markup {
    html! {
        div class="scroll" {
            table role="table" class={ "list " (class) } {
                thead role="rowgroup" { tr role="row" {
                    @for head in heads {
                        @match head {
                            Head::Text(words) => th role="columnheader" { (words) },
                            Head::Number(words) => th role="columnheader" class="right" { (words) },
                            Head::Action(words) => th role="columnheader" { span class="sr" { (words) } },
                            Head::Pick => th role="columnheader" class="pick" {
                                input type="checkbox" class="js-only" data-all aria-label="Select this page";
                                span class="sr" { "Select" }
                            },
                        }
                    }
                } }
                tbody role="rowgroup" { (rows) }
            }
        }
    }
}

/// A row of cells.
pub fn tr(cells: &Markup) -> Markup {
    html! { tr role="row" { (cells) } }
}

/// A cell. `class`: see `.list` in console.css: `first grow` for the name, `ans`, `hide`, `last`.
pub fn td(class: &str, content: &impl Render) -> Markup {
    let class = Some(class).filter(|class| !class.is_empty());
    html! { td role="cell" class=[class] { (content) } }
}

/// A number's cell; `label` names it where there are no columns.
pub fn num(class: &str, label: Option<&str>, content: &impl Render) -> Markup {
    html! { td role="cell" class={ "right num " (class) } data-l=[label] { (content) } }
}

/// The box that selects a row.
pub fn pick(id: &str) -> Markup {
    let id = plain(id);
    html! {
        td role="cell" class="pick" {
            input type="checkbox" name="id" value=(id) form="bulk" aria-label={ "Select " (id) };
        }
    }
}

/// Nothing, or not tried.
pub fn dash() -> Markup {
    html! { span class="soft" { "—" } }
}

/// How many are shown, and the way to older ones.
pub fn pager(shown: &Markup, older: Option<&str>) -> Markup {
    html! {
        p class="pager" {
            span { (shown) }
            @if let Some(older) = older { a class="btn tiny" href=(older) rel="next" { "Older" } }
        }
    }
}

/// What would be here, why it isn't, and what to do about it.
pub fn empty(what: &str, why: &Markup, actions: &Markup) -> Markup {
    html! { div class="empty" { h2 { (what) } p { (why) } p class="row" { (actions) } } }
}

/// One note on top of a page: what is wrong, since when, what happens now, one action.
pub fn note(tone: &str, symbol: &str, what: &Markup, more: &Markup, action: &Markup) -> Markup {
    html! {
        div class={ "note " (tone) } {
            (icon(symbol))
            div { b { (what) } @if !more.0.is_empty() { p { (more) } } }
            @if !action.0.is_empty() { div class="row" { (action) } }
        }
    }
}

/// All that is wrong with what was entered, or why it can't be done: a line for each.
pub fn reasons(problem: &Problem) -> Markup {
    html! {
        @for (at, text) in problem.lines().iter().enumerate() { @if at > 0 { br; } (line(text)) }
    }
}

/// What was just done, after a form.
pub fn done(words: &str) -> Markup {
    html! { div class="note good" role="status" { (icon("ok")) div { b { (words) } } } }
}

/// A part that couldn't be read: the rest of the page is right.
pub fn unreadable(what: &str, is_too_slow: bool) -> Markup {
    note(
        "fail",
        "warn",
        &html! { (what) " can't be read just now." },
        &html! {
            @if is_too_slow { "Reading it took too long. Narrow the filter or the time, or try again in a moment. " }
            "The rest of this page is right."
            @if let Some(id) = crate::api::http::request_id::current() { " Request " code { (line(id)) } "." }
        },
        &html! {},
    )
}

/// A button that copies this text.
pub fn copy(text: &str, label: &str) -> Markup {
    html! {
        button class="btn quiet tiny js-only" type="button" data-copy=(text) aria-label=(label) { (icon("copy")) }
    }
}

/// An id by its end, and a button that copies it whole.
pub fn id(id: &str) -> Markup {
    html! { span class="row" { code class="soft" title=(plain(id)) { (short(id)) } " " (copy(id, "Copy the id")) } }
}

/// A block of code or text, with a button that copies it.
pub fn code(content: &Markup) -> Markup {
    html! {
        div class="code" {
            button class="btn quiet tiny js-only" type="button" data-copy-next aria-label="Copy" { (icon("copy")) }
            pre tabindex="0" { (content) }
        }
    }
}

/// The longest JSON in colours, in bytes of HTML: each token takes many times its length.
pub const COLOURED: usize = 12 * 1024;
/// The most levels of JSON that are set in.
const LEVELS: usize = 8;

/// A payload: JSON in its colours if it isn't long, byte for byte; anything else as text.
pub fn payload(text: &str) -> Markup {
    let is_json = |text| serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok();
    let coloured = (text.len() <= COLOURED && is_json(text)).then(|| json(text));
    let coloured = coloured.filter(|coloured| coloured.0.len() <= COLOURED);
    coloured.unwrap_or_else(|| block(text))
}

/// Pretty, with names, strings and other values told apart. The text stays the producer's:
/// only white space between its tokens changes.
fn json(text: &str) -> Markup {
    let mut out: Vec<Markup> = Vec::new();
    let mut depth = 0_usize;
    let bytes = text.as_bytes();
    let mut at = 0;
    let newline = |depth: usize| html! { "\n" (" ".repeat(2 * depth.min(LEVELS))) };
    while at < bytes.len() {
        let rest = &bytes[at + 1..];
        let next = rest.iter().position(|b| !b.is_ascii_whitespace());
        match bytes[at] {
            b'"' => {
                let mut end = at + 1;
                while end < bytes.len() && bytes[end] != b'"' {
                    end += if bytes[end] == b'\\' { 2 } else { 1 };
                }
                let end = (end + 1).min(bytes.len());
                let after = bytes[end..].iter().find(|b| !b.is_ascii_whitespace());
                let class = if after == Some(&b':') { "k" } else { "s" };
                out.push(html! { span class=(class) { (line(&text[at..end])) } });
                at = end;
                continue;
            }
            open @ (b'{' | b'[') => {
                let closes = next.is_some_and(|n| matches!(rest[n], b'}' | b']'));
                out.push(html! { (char::from(open)) });
                if closes {
                    out.push(html! { (char::from(rest[next.unwrap_or_default()])) });
                    at += next.unwrap_or_default() + 2;
                    continue;
                }
                depth += 1;
                out.push(newline(depth));
            }
            close @ (b'}' | b']') => {
                depth = depth.saturating_sub(1);
                out.push(newline(depth));
                out.push(html! { (char::from(close)) });
            }
            b',' => {
                out.push(html! { "," });
                out.push(newline(depth));
            }
            b':' => out.push(html! { ": " }),
            b if b.is_ascii_whitespace() => {}
            _ => {
                let rest = &bytes[at..];
                let end = rest
                    .iter()
                    .position(|b| b",]}".contains(b) || b.is_ascii_whitespace());
                let end = at + end.unwrap_or(rest.len());
                out.push(html! { span class="v" { (text[at..end]) } });
                at = end;
                continue;
            }
        }
        at += 1;
    }
    html! { @for part in &out { (part) } }
}

/// How many headers are shown.
const HEADERS: usize = 50;

/// Headers, as pairs of name and value. A long value is cut: it is whole in the API.
pub fn headers(headers: &Value) -> Markup {
    let pairs = headers.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |pair: &Value, at: usize| pair[at].as_str().unwrap_or_default().to_owned();
    html! {
        @for (n, pair) in pairs.iter().take(HEADERS).enumerate() {
            @if n > 0 { "\n" }
            span class="k" { (line(text(pair, 0))) } ": "
            @match text(pair, 1).as_str() {
                "…" => span class="soft" { "…  (yours; the value is never shown)" },
                value => (excerpt(value, 400)),
            }
        }
        @if pairs.len() > HEADERS { "\n" span class="soft" { "… " (pairs.len() - HEADERS) " more" } }
    }
}

/// A value as a file: whole, as text, and nothing that a browser would run.
pub fn raw(name: &str, text: String) -> Response {
    // The name is ours: an id and a number.
    let file = format!("attachment; filename=\"{name}.txt\"");
    let headers = [
        (CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()),
        (CONTENT_DISPOSITION, file),
        (CONTENT_SECURITY_POLICY, "sandbox".to_owned()),
    ];
    (headers, text).into_response()
}

/// The way to a value that is longer than what a page shows of one.
pub fn whole(text: &str, path: &str) -> Markup {
    html! { @if within(text, MOST) < text.len() { p class="small" { a href=(path) { "All of it, as text" } } } }
}

/// A panel that can be closed.
pub fn panel(title: &str, hint: &Markup, open: bool, content: &Markup) -> Markup {
    html! {
        details class="panel" open[open] {
            summary { h3 { (title) } span class="soft small" { (hint) } }
            div class="pad stack" { (content) }
        }
    }
}

/// A field of a form, with its label, a hint, and what is wrong with it.
pub fn field(
    id: &str,
    label: &Markup,
    hint: Option<&Markup>,
    error: Option<&str>,
    input: &dyn Fn(&str, Option<&str>) -> Markup,
) -> Markup {
    let described = match (hint.is_some(), error.is_some()) {
        (_, true) => Some(format!("{id}-error")),
        (true, false) => Some(format!("{id}-hint")),
        (false, false) => None,
    };
    html! {
        div class="field" data-error[error.is_some()] {
            label for=(id) { (label) }
            (input(id, described.as_deref()))
            @if let Some(error) = error { p class="error" id={ (id) "-error" } { (line(error)) } }
            @if let Some(hint) = hint { p class="hint" id={ (id) "-hint" } { (hint) } }
        }
    }
}

/// Ready-made filters or parts: links, one of them the current one.
pub fn facets(label: &str, links: &[(String, Markup, bool)], beside: &Markup) -> Markup {
    html! {
        nav class="facets" aria-label=(label) {
            @for (path, words, current) in links {
                a href=(path) aria-current=[current.then_some("true")] { (words) }
            }
            @if !beside.0.is_empty() { span { (beside) } }
        }
    }
}

/// A choice between a few, such as time windows.
pub fn choice(label: &str, links: &[(String, &str, bool)]) -> Markup {
    html! {
        nav class="seg" aria-label=(label) {
            @for (path, words, current) in links {
                a href=(path) aria-current=[current.then_some("true")] { (words) }
            }
        }
    }
}

/// A number with its name, and one line of what it means.
pub struct Figure<'a> {
    pub name: &'a str,
    pub value: Markup,
    /// `ok` or `bad`, or nothing.
    pub tone: &'a str,
    pub meaning: Markup,
}

pub fn figures(figures: &[Figure<'_>]) -> Markup {
    html! {
        dl class="figures" {
            @for figure in figures {
                div {
                    dt { (figure.name) }
                    dd class={ "num " (figure.tone) } { (figure.value) }
                    dd { (figure.meaning) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(markup: &Markup) -> String {
        let mut text = String::new();
        let mut inside = false;
        for c in markup.0.chars() {
            match c {
                '<' => inside = true,
                '>' => inside = false,
                c if !inside => text.push(c),
                _ => {}
            }
        }
        text.replace("&quot;", "\"")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&")
    }

    #[test]
    fn a_payload_keeps_every_digit_and_escape() {
        let sent = r#"{"a":1.10,"b":[{},[ ],true, null],"c\"}":"x,\u0041<script>"}"#;
        let shown = text(&payload(sent));
        let expected = "{\n  \"a\": 1.10,\n  \"b\": [\n    {},\n    [],\n    true,\n    null\n  ],\n  \"c\\\"}\": \"x,\\u0041<script>\"\n}";
        assert_eq!(shown, expected);
        assert!(!payload(sent).0.contains("<script>"));
        assert_eq!(text(&payload("a<b\0")), "a<b␀");
        assert_eq!(text(&payload("\"{\"")), "\"{\"");
    }

    #[test]
    fn a_payload_takes_a_bounded_part_of_a_page() {
        let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        let flat = |many: usize| format!("[{}1]", "1,".repeat(many));
        let quotes = |many: usize| format!("[{}0]", r#""\"","#.repeat(many));
        // serde_json reads 128 levels at most.
        for sent in [
            deep(120),
            flat(8_000),
            quotes(3_000),
            quotes(9_000),
            flat(9_000),
            "\"&<".repeat(9_000),
        ] {
            let (sent, shown) = (sent.len(), payload(&sent).0.len());
            assert!(shown <= COLOURED, "{sent} {shown}");
        }
        let plain = payload(&flat(9_000)).0;
        assert!(
            !plain.contains("<span class=\"v\""),
            "long ones have no colours"
        );
    }
}
