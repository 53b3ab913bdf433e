//! The fields of a form that was sent.

use std::collections::HashMap;

use serde_json::Value;
use url::form_urlencoded;

/// The most fields of a form: a page of a list has a thousand boxes at most.
pub const MOST: usize = 2_000;

/// Names and values, in their order; a name may be there more than once.
#[derive(Debug, Clone, Default)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads a body of `application/x-www-form-urlencoded`. `None`: it has too many fields,
    /// each of which takes many times its bytes.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let separators = body.iter().filter(|byte| **byte == b'&').count();
        (separators < MOST).then(|| Self(form_urlencoded::parse(body).into_owned().collect()))
    }

    /// The first value of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The same without white space around it, if anything is left.
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.get(name)
            .map(str::trim)
            .filter(|text| !text.is_empty())
    }

    /// The first value of this name, or nothing.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// Whether a checkbox or a button of this name was sent.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// How many bytes the names and values have together.
    pub fn bytes(&self) -> usize {
        let sizes = self.0.iter().map(|(name, value)| name.len() + value.len());
        sizes.sum()
    }

    /// All values of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.0.iter().filter(move |(key, _)| key == name);
        named.map(|(_, value)| value.as_str())
    }

    /// As a JSON object of strings: the first value of each name.
    pub fn json(&self, names: &[&str]) -> Value {
        let members = names
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), Value::from(self.filled(name)?))));
        Value::Object(members.collect())
    }
}

/// A query string for a link, from names and values; empty values are left out.
pub fn query(pairs: &[(&str, &str)]) -> String {
    let mut text = form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        text.append_pair(name, value);
    }
    match text.finish() {
        text if text.is_empty() => text,
        text => format!("?{text}"),
    }
}

/// One segment of a path, percent-encoded: for ids that a producer chose. [`of_segment`] reads it.
///
/// Browsers take `.` and `..` out of a path, also percent-encoded ones (WHATWG URL Standard,
/// "single-dot URL path segment"). So these two get a tilde in front, as does what would then be
/// the same.
pub fn segment(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len() + 1);
    if is_dots(text) {
        encoded.push('~');
    }
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~.".contains(&byte) {
            encoded.push(byte.into());
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// The id that [`segment`] wrote, percent-decoded already.
pub fn of_segment(segment: &str) -> &str {
    let rest = segment.strip_prefix('~');
    rest.filter(|rest| is_dots(rest)).unwrap_or(segment)
}

/// Whether it is `.` or `..`, or one of these with tildes before it.
fn is_dots(text: &str) -> bool {
    matches!(text.trim_start_matches('~'), "." | "..")
}

/// The parameters of a query string that aren't read by serde.
pub type Parameters = HashMap<String, String>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_stays_one_segment() {
        assert_eq!(segment("order/47 11?#ä"), "order%2F47%2011%3F%23%C3%A4");
        assert_eq!(segment("a.b"), "a.b");
        for (id, written) in [(".", "~."), ("..", "~.."), ("~.", "~~."), ("~a", "~a")] {
            assert_eq!((segment(id).as_str(), of_segment(written)), (written, id));
        }
        // A browser's parser of addresses leaves it where it is.
        let address = format!("https://a.example/events/{}", segment(".."));
        assert_eq!(url::Url::parse(&address).unwrap().path(), "/events/~..");
    }

    #[test]
    fn a_form_of_very_many_fields_is_refused() {
        assert!(Fields::parse(&b"a&".repeat(MOST)).is_none());
        let most = Fields::parse(&b"a&".repeat(MOST)[..2 * MOST - 1]);
        assert_eq!(most.map(|fields| fields.all("a").count()), Some(MOST));
    }

    #[test]
    fn a_link_has_what_is_filled() {
        assert_eq!(query(&[("q", ""), ("cursor", "a&b")]), "?cursor=a%26b");
        assert_eq!(query(&[("q", "")]), "");
    }
}
