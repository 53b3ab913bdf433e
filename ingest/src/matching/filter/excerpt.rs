//! JSON cut short, for error messages and refusals.
//!
//! Writing stops where the excerpt ends, so that a glimpse of an event of
//! 256 KiB does not cost printing all of it.

use std::io::{self, Write};

use serde_json::Value;

/// `value` as JSON in at most `chars` characters; `…` at the end where cut.
pub(super) fn excerpt(value: &Value, chars: usize) -> String {
    excerpt_of_all(&[value], chars)
}

/// The same for several values, separated by commas.
pub(super) fn excerpt_of_all(values: &[&Value], chars: usize) -> String {
    let mut start = Start {
        text: Vec::new(),
        // A character of UTF-8 has at most 4 bytes; one more to know it is cut.
        room: 4 * (chars + 1),
    };
    for (n, value) in values.iter().enumerate() {
        let separated = if n == 0 {
            Ok(())
        } else {
            start.write_all(b", ")
        };
        // Fails only when the room is used up, which is where an excerpt ends.
        if separated.is_err() || serde_json::to_writer(&mut start, value).is_err() {
            break;
        }
    }
    cut(&String::from_utf8_lossy(&start.text), chars)
}

/// `text` in at most `chars` characters; `…` at the end where cut.
pub(super) fn cut(text: &str, chars: usize) -> String {
    if text.chars().nth(chars).is_none() {
        return text.to_owned();
    }
    let kept: String = text.chars().take(chars.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// Keeps the first bytes written, then refuses more.
struct Start {
    text: Vec<u8>,
    room: usize,
}

impl Write for Start {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let kept = bytes.len().min(self.room - self.text.len());
        self.text.extend_from_slice(&bytes[..kept]);
        // 0 makes `write_all` fail, and with it the serializer.
        Ok(kept)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_excerpt_is_the_json_or_its_beginning() {
        assert_eq!(excerpt(&json!({"a": [1, "é"]}), 100), r#"{"a":[1,"é"]}"#);
        assert_eq!(excerpt(&json!("abcdef"), 8), r#""abcdef""#);
        assert_eq!(excerpt(&json!("abcdef"), 7), r#""abcde…"#);
        assert_eq!(excerpt_of_all(&[&json!(1), &json!(2)], 9), "1, 2");
    }

    #[test]
    fn an_excerpt_keeps_to_its_characters_whatever_their_bytes() {
        for c in ["a", "é", "€", "🦀"] {
            let long = json!([c.repeat(1000)]);
            let cut = excerpt(&long, 100);
            assert_eq!(cut.chars().count(), 100);
            assert_eq!(cut, format!("[\"{}…", c.repeat(97)));
        }
    }
}
