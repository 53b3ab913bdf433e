//! Rewrites JSON text as `JSON.stringify(JSON.parse(text))` would write it.
//!
//! Some receivers verify `JSON.stringify(JSON.parse(body))` instead of the bytes
//! that arrived. [`rewrite`] produces text for which the two are equal: numbers as
//! ECMAScript prints them, its escapes, integer-like keys first, one member per
//! name. In ECMA-262, `JSON.parse` is section 25.5.1, `JSON.stringify` 25.5.2, the
//! order of keys 10.1.11.1, numbers as text 6.1.6.1.20.
//!
//! It has its own parser, because `serde_json` can't represent a lone surrogate.
//! JavaScript's strings can hold one, and JSON text can contain one (`"\ud800"`).
//!
//! The surprising fact: a string is never unescaped. It is rewritten into the one
//! spelling that `JSON.stringify` has for it, and member names are compared in that
//! spelling.

use std::borrow::Cow;
use std::collections::HashMap;

/// The deepest nesting of text: the same as the deepest nesting of data in `ingest`.
pub const MAX_DEPTH: usize = 100;
/// The largest array index in ECMAScript. Names up to it are sorted as numbers.
const MAX_INDEX: u64 = (1 << 32) - 2;

/// Text that isn't JSON, or is nested too deeply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct NotJson {
    what: &'static str,
    at: usize,
}

/// `JSON.stringify(JSON.parse(text))`.
///
/// # Errors
/// If it isn't JSON (RFC 8259), or nested more than [`MAX_DEPTH`] levels deep.
pub fn rewrite(text: &str) -> Result<String, NotJson> {
    let mut parser = Parser { text, at: 0 };
    parser.skip_space();
    let value = parser.value(0)?;
    parser.skip_space();
    if parser.at < text.len() {
        return Err(parser.wrong("something follows the value"));
    }
    let mut out = String::with_capacity(text.len());
    value.write(&mut out);
    Ok(out)
}

/// A JSON string as `JSON.stringify` writes it, with its quotes.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        push_char(&mut out, c);
    }
    out.push('"');
    out
}

/// A number as JavaScript prints it.
#[must_use]
pub fn number(number: f64) -> String {
    let mut out = String::new();
    Value::Number(number).write(&mut out);
    out
}

/// Whether objects list a member with this name first.
#[must_use]
pub fn is_index(name: &str) -> bool {
    index(&quote(name)).is_some()
}

/// A parsed value. Its strings and names are already in their final spelling.
enum Value<'a> {
    Literal(&'static str),
    Number(f64),
    Text(Cow<'a, str>),
    Array(Vec<Value<'a>>),
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
}

impl Value<'_> {
    fn write(&self, out: &mut String) {
        match self {
            Self::Literal(text) => out.push_str(text),
            // A number that doesn't fit into a double became infinite, and
            // JavaScript writes that as null.
            Self::Number(number) if !number.is_finite() => out.push_str("null"),
            Self::Number(number) => {
                out.push_str(ryu_js::Buffer::new().format_finite(*number));
            }
            Self::Text(text) => out.push_str(text),
            Self::Array(values) => {
                out.push('[');
                for (n, value) in values.iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    value.write(out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (n, (name, value)) in members.iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    out.push_str(name);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// Members in JavaScript's order, each name once. A repeated name changes the value
/// and keeps the position.
fn own_members<'a>(members: Vec<(Cow<'a, str>, Value<'a>)>) -> Value<'a> {
    let mut places: HashMap<Cow<'a, str>, usize> = HashMap::with_capacity(members.len());
    let mut own: Vec<(Cow<'a, str>, Value<'a>)> = Vec::with_capacity(members.len());
    for (name, value) in members {
        if let Some(&place) = places.get(&name) {
            own[place].1 = value;
        } else {
            places.insert(name.clone(), own.len());
            own.push((name, value));
        }
    }
    // The sort is stable: names that aren't indices keep their order, behind the
    // indices.
    own.sort_by_key(|(name, _)| index(name).unwrap_or(u64::MAX));
    Value::Object(own)
}

/// The array index that a quoted name stands for, if any: `"0"` does, `"00"`
/// doesn't.
fn index(name: &str) -> Option<u64> {
    let digits = &name[1..name.len() - 1];
    let canonical = digits == "0" || !digits.starts_with('0');
    if digits.is_empty() || !canonical || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|index| *index <= MAX_INDEX)
}

/// Writes a character as `QuoteJSONString` of ECMA-262 does.
fn push_char(out: &mut String, c: char) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\0'..='\u{1f}' => push_escape(out, c as u16),
        c => out.push(c),
    }
}

fn push_escape(out: &mut String, unit: u16) {
    out.push_str("\\u");
    for shift in [12, 8, 4, 0] {
        let digit = u32::from(unit >> shift) & 0xf;
        // A hex digit, always.
        out.push(char::from_digit(digit, 16).unwrap_or('0'));
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn wrong(&self, what: &'static str) -> NotJson {
        NotJson { what, at: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Skips white space, then `byte` if it comes next.
    fn takes(&mut self, byte: u8) -> bool {
        self.skip_space();
        let comes = self.peek() == Some(byte);
        self.at += usize::from(comes);
        comes
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, NotJson> {
        match self.peek() {
            Some(b'{' | b'[') if depth == MAX_DEPTH => Err(self.wrong("nested too deeply")),
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Value::Text),
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Number),
            _ => {
                for literal in ["null", "true", "false"] {
                    if self.text[self.at..].starts_with(literal) {
                        self.at += literal.len();
                        return Ok(Value::Literal(literal));
                    }
                }
                Err(self.wrong("a value was expected"))
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value<'a>, NotJson> {
        self.at += 1;
        let mut values = Vec::new();
        if self.takes(b']') {
            return Ok(Value::Array(values));
        }
        loop {
            self.skip_space();
            values.push(self.value(depth + 1)?);
            if self.takes(b']') {
                return Ok(Value::Array(values));
            }
            if !self.takes(b',') {
                return Err(self.wrong("`,` or `]` was expected"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value<'a>, NotJson> {
        self.at += 1;
        let mut members = Vec::new();
        if self.takes(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.wrong("a name was expected"));
            }
            let name = self.string()?;
            if !self.takes(b':') {
                return Err(self.wrong("`:` was expected"));
            }
            self.skip_space();
            members.push((name, self.value(depth + 1)?));
            if self.takes(b'}') {
                return Ok(own_members(members));
            }
            if !self.takes(b',') {
                return Err(self.wrong("`,` or `}` was expected"));
            }
        }
    }

    fn number(&mut self) -> Result<f64, NotJson> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        // Rust parses every JSON number, and rounds it to the nearest double.
        self.text[start..self.at]
            .parse()
            .map_err(|_| self.wrong("a number was expected"))
    }

    fn digits(&mut self) -> Result<(), NotJson> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.wrong("a digit was expected"));
        }
        Ok(())
    }

    /// Reads a string and returns it in its final spelling, with its quotes.
    fn string(&mut self) -> Result<Cow<'a, str>, NotJson> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.next() {
                Some(b'"') => return Ok(Cow::Borrowed(&self.text[start..self.at])),
                Some(b'\\') => break,
                Some(0x20..) => {}
                Some(_) => return Err(self.wrong("a control character in a string")),
                None => return Err(self.wrong("the string doesn't end")),
            }
        }
        // The string has an escape. The part before it is final.
        let mut out = self.text[start..self.at - 1].to_owned();
        self.escape(&mut out)?;
        loop {
            let plain = self.at;
            let byte = self.next();
            let end = self.at - usize::from(byte.is_some());
            match byte {
                Some(b'"' | b'\\' | ..0x20) | None => {}
                Some(_) => {
                    // Copy everything up to the next byte with a special meaning.
                    let rest = &self.text.as_bytes()[end..];
                    let length = rest
                        .iter()
                        .position(|b| matches!(b, b'"' | b'\\' | ..0x20))
                        .unwrap_or(rest.len());
                    self.at = end + length;
                    out.push_str(&self.text[plain..self.at]);
                    continue;
                }
            }
            match byte {
                Some(b'"') => {
                    out.push('"');
                    return Ok(Cow::Owned(out));
                }
                Some(b'\\') => self.escape(&mut out)?,
                Some(_) => return Err(self.wrong("a control character in a string")),
                None => return Err(self.wrong("the string doesn't end")),
            }
        }
    }

    /// Reads the part of an escape after the backslash.
    fn escape(&mut self, out: &mut String) -> Result<(), NotJson> {
        let plain = match self.next() {
            Some(b'u') => return self.unicode_escape(out),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            _ => return Err(self.wrong("an escape that isn't one")),
        };
        push_char(out, plain);
        Ok(())
    }

    fn unicode_escape(&mut self, out: &mut String) -> Result<(), NotJson> {
        let unit = self.hex()?;
        if let Some(c) = char::from_u32(u32::from(unit)) {
            push_char(out, c);
            return Ok(());
        }
        // A surrogate: with the next one it is a pair, otherwise it is alone.
        if (0xd800..0xdc00).contains(&unit) && self.text[self.at..].starts_with("\\u") {
            let after = self.at;
            self.at += 2;
            let second = self.hex()?;
            if let Some(Ok(c)) = char::decode_utf16([unit, second]).next() {
                out.push(c);
                return Ok(());
            }
            self.at = after;
        }
        push_escape(out, unit);
        Ok(())
    }

    fn hex(&mut self) -> Result<u16, NotJson> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.next().and_then(|byte| char::from(byte).to_digit(16));
            let digit = digit.ok_or(NotJson {
                what: "four hex digits were expected",
                at: self.at,
            })?;
            unit = unit << 4 | digit as u16;
        }
        Ok(unit)
    }
}

#[cfg(test)]
mod tests;
