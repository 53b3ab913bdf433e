//! Shows text that others wrote: payloads, headers, answers, names, ids, URLs.
//!
//! Templates escape HTML, but not control and bidi characters. A browser would make these
//! invisible, or use them to reverse the order of text. This file makes them visible. It also
//! puts each value into a `<bdi>` element, so that a right-to-left value doesn't reorder the
//! words beside it.

use std::fmt::Write;

use maud::{Markup, html};

/// The most of a value that a page shows, in bytes of HTML: a quote takes six.
pub const MOST: usize = 8 * 1024;

/// A value within a line: line breaks are visible characters, too.
pub fn line(value: impl AsRef<str>) -> Markup {
    html! { bdi { (plain(value)) } }
}

/// A value in a block of its own: line breaks and tabs are kept. Says so if it is cut.
pub fn block(value: &str) -> Markup {
    let shown = &value[..within(value, MOST)];
    html! {
        bdi { (visible(shown, true)) }
        @if shown.len() < value.len() {
            "\n"
            span class="soft" { "… " (value.len() - shown.len()) " more bytes are not shown" }
        }
    }
}

/// How many bytes of the beginning take at most so many bytes of HTML.
pub fn within(value: &str, most: usize) -> usize {
    let mut taken = 0;
    let over = value.char_indices().find(|(_, c)| {
        taken += match c {
            '"' => 6,
            '&' => 5,
            '<' | '>' => 4,
            // A control or bidi character is shown as up to six others.
            c if c.is_control() => 6,
            c => c.len_utf8(),
        };
        taken > most
    });
    over.map_or(value.len(), |(at, _)| at)
}

/// A value for an attribute or the title.
pub fn plain(value: impl AsRef<str>) -> String {
    visible(value.as_ref(), false)
}

/// The beginning of a value for a line in a list.
pub fn excerpt(value: &str, most: usize) -> Markup {
    let cut = value.floor_char_boundary(most);
    html! { bdi { (visible(&value[..cut], false)) @if cut < value.len() { "…" } } }
}

/// The end of an id, by which people tell ids apart: `whd_…j7k9mn`.
pub fn short(id: &str) -> String {
    match id.split_once('_') {
        Some((prefix, rest)) if rest.len() == 26 && rest.is_ascii() => {
            format!("{prefix}_…{}", &rest[20..])
        }
        _ => plain(id),
    }
}

fn visible(value: &str, lines: bool) -> String {
    let mut shown = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\n' | '\t' if lines => shown.push(c),
            // A picture of each: ␀ to ␟, and ␡.
            '\0'..='\u{1f}' => shown.extend(char::from_u32(0x2400 + c as u32)),
            '\u{7f}' => shown.push('␡'),
            c if is_hidden(c) => {
                let _ = write!(shown, "U+{:04X}", c as u32);
            }
            c => shown.push(c),
        }
    }
    shown
}

/// Controls of direction, C1 controls, and what has no width and no use in text.
fn is_hidden(c: char) -> bool {
    matches!(c,
        '\u{80}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_invisible_or_turn_a_line_around_is_shown() {
        assert_eq!(plain("a\0b\r\nc\u{7f}"), "a␀b␍␊c␡");
        assert_eq!(plain("\u{202e}gpj.exe"), "U+202Egpj.exe");
        assert_eq!(plain("ä\u{85}\u{2066}\u{e0041}"), "äU+0085U+2066U+E0041");
        assert_eq!(visible("a\n\tb\u{1b}", true), "a\n\tb␛");
        assert_eq!(
            line("<b>\"'&").into_string(),
            "<bdi>&lt;b&gt;&quot;'&amp;</bdi>"
        );
    }

    #[test]
    fn a_long_value_is_cut_at_a_character_and_says_so() {
        let long = "ä".repeat(MOST);
        let shown = block(&long).into_string();
        assert!(
            shown.contains(&format!("{MOST} more bytes")),
            "{}",
            &shown[MOST..]
        );
        assert_eq!(excerpt("äöü", 3).into_string(), "<bdi>ä…</bdi>");
    }

    #[test]
    fn ids_are_told_apart_by_their_end() {
        assert_eq!(short("whd_01m84q7n9wf7a9c1e3g5j7k9mn"), "whd_…j7k9mn");
        assert_eq!(short("order-4711"), "order-4711");
    }
}
