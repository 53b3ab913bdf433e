//! Keeps text from outside inside its field of a log line.
//!
//! Content types, message ids, endpoints' errors and similar values are logged as
//! they came. This file escapes them in one place, for every event and every span:
//! control characters (a line feed would begin a new log line, an escape sequence
//! would control the terminal), other line separators, and the invisible characters
//! that reorder displayed text.
//!
//! For `pretty` each field is escaped by itself, because the formatter's own colours
//! are escape sequences too. A value in which another field could seem to begin is
//! quoted. For `json` the finished line is escaped: there such characters only occur
//! inside strings, where `\uXXXX` means the same.

use std::fmt::{self, Debug, Write as _};
use std::io::{self, Stderr, Write};

use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};

/// Whether a character can begin a log line, control a terminal or reorder a line.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            // Bidirectional marks, embeddings and isolates; line and paragraph
            // separators; zero-width and other invisible format characters.
            '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Formats the fields of an event or a span for `LOG_FORMAT=pretty`.
pub(crate) fn pretty_fields() -> impl for<'w> FormatFields<'w> + 'static {
    debug_fn(pretty_field).delimited(" ")
}

fn pretty_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    let name = field.name();
    if name.starts_with("log.") {
        // The source location of a `log` record. The event's metadata has it
        // already.
        return Ok(());
    }
    let is_message = name == "message";
    if !is_message {
        let name = name.strip_prefix("r#").unwrap_or(name);
        match writer.has_ansi_escapes() {
            true => write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m")?,
            false => write!(writer, "{name}=")?,
        }
    }
    if is_message {
        return write!(Escaping(writer), "{value:?}");
    }
    let value = format!("{value:?}");
    if seems_to_end(&value) && !is_quoted(&value) {
        return write!(Escaping(writer), "{value:?}");
    }
    write!(Escaping(writer), "{value}")
}

/// Whether a reader may take only a part of the value for the whole value.
fn seems_to_end(value: &str) -> bool {
    value.contains(|c: char| c.is_whitespace() || c == '=' || c == '"')
}

/// Whether the value is exactly one string as `Debug` writes it. A value logged with
/// `%` may only look like one.
fn is_quoted(value: &str) -> bool {
    let inside = value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'));
    let Some(inside) = inside else {
        return false;
    };
    let mut escaped = false;
    for c in inside.chars() {
        if c == '"' && !escaped {
            return false;
        }
        escaped = c == '\\' && !escaped;
    }
    !escaped
}

/// Escapes characters as Rust does: `\n`, `\u{202e}`.
struct Escaping<'a, W>(&'a mut W);

impl<W: fmt::Write> fmt::Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_unsafe(*c)) {
            self.0.write_str(&rest[..at])?;
            match c {
                '\n' | '\r' | '\t' => write!(self.0, "{}", c.escape_default())?,
                _ => write!(self.0, "{}", c.escape_unicode())?,
            }
            rest = &rest[at + c.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

/// Standard error, for `LOG_FORMAT=json`.
pub(crate) struct JsonLines;

impl MakeWriter<'_> for JsonLines {
    type Writer = JsonLine<Stderr>;

    fn make_writer(&self) -> Self::Writer {
        JsonLine(io::stderr())
    }
}

/// Gets one whole line per write: an event as `tracing-subscriber` formats it.
pub(crate) struct JsonLine<W>(W);

impl<W: Write> Write for JsonLine<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let (text, end) = match text.strip_suffix('\n') {
            Some(text) => (text, "\n"),
            None => (&*text, ""),
        };
        let mut escaped = String::with_capacity(line.len());
        for c in text.chars() {
            if is_unsafe(c) {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Cannot fail: it writes to memory.
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
            } else {
                escaped.push(c);
            }
        }
        escaped.push_str(end);
        self.0.write_all(escaped.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[allow(clippy::unwrap_used, reason = "a test may fail")]
#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::info;
    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Text from an attacker: a forged line, another terminal title, a reversed
    /// line.
    const FORGED: &str =
        "a\nINFO accepted\r\u{1b}]0;title\u{7}\u{85}\u{2028}\u{202e}\u{e0041}\u{0}z";

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Shared {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn log_everywhere(layer: impl Layer<tracing_subscriber::Registry> + Send + Sync) {
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("request", path = %FORGED, agent = FORGED);
            let _inside = span.enter();
            info!(shown = %FORGED, debugged = ?FORGED, text = FORGED, "said {FORGED}");
        });
    }

    fn assert_is_one_line(text: &str, told: usize) {
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        let line = text.strip_suffix('\n').unwrap();
        assert!(!line.contains(is_unsafe), "{line:?}");
        assert_eq!(line.matches("INFO accepted").count(), told, "{line:?}");
    }

    #[test]
    fn foreign_text_stays_inside_its_field_of_a_pretty_line() {
        let written = Shared::default();
        let lines = written.clone();
        log_everywhere(
            tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .fmt_fields(pretty_fields())
                .with_writer(move || lines.clone()),
        );
        assert_is_one_line(&written.text(), 6);
        assert!(
            written
                .text()
                .contains("shown=\"a\\nINFO accepted\\r\\u{1b}")
        );
    }

    #[test]
    fn foreign_text_forges_no_field_of_a_pretty_line() {
        let written = Shared::default();
        let lines = written.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .fmt_fields(pretty_fields())
            .with_writer(move || lines.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            info!(
                spaced = %"text/x  tenant=victim",
                equal = %"a\u{a0}b=c",
                quoted = %r#""x" tenant="victim""#,
                open = %r#""x\""#,
                whole = r#"a "b" c=d"#,
                plain = %"text/plain;a/b\\c",
                number = 7,
                "said a=b"
            );
        });
        let text = written.text();
        for field in [
            r#" spaced="text/x  tenant=victim" "#,
            r#" equal="a\u{a0}b=c" "#,
            r#" quoted="\"x\" tenant=\"victim\"" "#,
            r#" open="\"x\\\"" "#,
            r#" whole="a \"b\" c=d" "#,
            r" plain=text/plain;a/b\c ",
            " number=7\n",
            " said a=b ",
        ] {
            assert!(text.contains(field), "{field} in {text}");
        }
    }

    #[test]
    fn foreign_text_stays_inside_its_field_of_a_json_line_and_is_unchanged_when_read() {
        let written = Shared::default();
        let lines = written.clone();
        log_everywhere(
            tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(move || JsonLine(lines.clone())),
        );
        // JSON has a span's fields twice: in `span` and in `spans`.
        assert_is_one_line(&written.text(), 8);
        let line: serde_json::Value = serde_json::from_str(&written.text()).unwrap();
        assert_eq!(line["shown"], FORGED);
        assert_eq!(line["text"], FORGED);
        assert_eq!(line["message"], format!("said {FORGED}"));
    }

    #[test]
    fn ordinary_text_is_logged_as_it_is() {
        let mut written = String::new();
        write!(Escaping(&mut written), "Grüße, 日本語 🦀 'a' \"b\" \\").unwrap();
        assert_eq!(written, "Grüße, 日本語 🦀 'a' \"b\" \\");
    }
}
