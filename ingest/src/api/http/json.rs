//! Reads a JSON object, and says everything that is wrong with it.
//!
//! Serde stops at the first error. So a body that can't be read is read again without the
//! member to blame, until it can be read or says nothing new. Only refused requests pay for
//! that, and only while they are small. All objects of a request share one [`ReadAgain`]: when
//! it is used up, the first error of each further object is told alone.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;
use serde_json::{Map, Value, json};
use serde_path_to_error::{Path, Segment};

use crate::api::http::code::Code;
use crate::api::http::problem::{Blame, Problem};
use crate::plain_words;

/// The most errors that are looked for.
const MAX_ERRORS: usize = 16;
/// The largest object that is read again, in bytes.
const LARGEST_READ_AGAIN: usize = 64 * 1024;
/// The most bytes that are read again for one request: some milliseconds of a processor.
const MAX_READ_AGAIN: usize = 512 * 1024;

/// How many bytes may still be read again to find further errors of one request.
pub struct ReadAgain(usize);

impl Default for ReadAgain {
    fn default() -> Self {
        Self(MAX_READ_AGAIN)
    }
}

impl ReadAgain {
    /// Whether this many bytes may be read again. They count as read.
    fn take(&mut self, bytes: usize) -> bool {
        let left = self.0.checked_sub(bytes);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

/// Reads an object of the type.
///
/// # Errors
/// Names each member that is to blame.
pub fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, Problem> {
    read_one_of_many(text, &mut ReadAgain::default())
}

/// The same for one of several objects of a request.
///
/// # Errors
/// Names each member that is to blame, or only the first if too much was read again.
pub fn read_one_of_many<T: DeserializeOwned>(
    text: &[u8],
    again: &mut ReadAgain,
) -> Result<T, Problem> {
    // Serde takes a list for a struct, member by member; nobody means that.
    let first = text.trim_ascii_start().first();
    if first.is_some_and(|first| !b"{n".contains(first)) {
        return Err(Problem::bad_request("the body must be a JSON object"));
    }
    serde_json::from_slice(text).map_err(|error| {
        if error.classify() == Category::Data || is_of_a_value(&error) && is_json(text) {
            return refused::<T>(text, again);
        }
        let reason = plain_words::of_json(&error);
        Problem::bad_request(format!("the body is not JSON: {reason}"))
    })
}

/// Whether it may be said of JSON too: the library says it of a number where one of some words
/// belongs, and of a number that is too large.
fn is_of_a_value(error: &serde_json::Error) -> bool {
    let words = error.to_string();
    let words_of_values = ["expected value", "number out of range"];
    words_of_values.iter().any(|of| words.starts_with(of))
}

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

/// Why the text, which is JSON, isn't an object of the type.
fn refused<T: DeserializeOwned>(text: &[u8], again: &mut ReadAgain) -> Problem {
    let Err(first) = attempt::<T>(text) else {
        // The same text was refused a moment ago.
        return Problem::bad_request("the body can't be read");
    };
    let mut errors = vec![first];
    // The bounds come first: as a `Value`, JSON takes up to 25 times its size.
    let may_be_read = text.len() <= LARGEST_READ_AGAIN && again.take(text.len());
    let body = may_be_read.then(|| serde_json::from_slice::<Value>(text));
    if let Some(Ok(mut body)) = body {
        let mut last = errors[0].clone();
        while errors.len() < MAX_ERRORS && mend::<T>(&mut body, &last, again) {
            let Some(Err(next)) = attempt_again::<T>(&body, again) else {
                break;
            };
            // A member that was taken away may be missing now: that is no error of the client's.
            if !errors.iter().any(|error| error.place == next.place) {
                errors.push(next.clone());
            } else if next.blame.code != Code::MissingMember
                || last.place == next.place && last.blame.code == next.blame.code
            {
                break;
            }
            last = next;
        }
    }
    if errors[0].place.is_empty() {
        return Problem::bad_request("the body must be a JSON object");
    }
    Problem::wrong(errors.into_iter().map(|error| error.blame).collect())
}

/// What is wrong, and where.
#[derive(Clone)]
struct Wrong {
    blame: Blame,
    place: Vec<Step>,
}

#[derive(Clone, PartialEq)]
enum Step {
    Member(String),
    Item(usize),
}

fn attempt<T: DeserializeOwned>(text: &[u8]) -> Result<(), Wrong> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Ok(_) => Ok(()),
        Err(error) => {
            let place = steps(error.path());
            Err(Wrong::new(place, &error.into_inner().to_string()))
        }
    }
}

/// `None`: too much was read again.
fn attempt_again<T: DeserializeOwned>(
    body: &Value,
    again: &mut ReadAgain,
) -> Option<Result<(), Wrong>> {
    let text = body.to_string();
    again
        .take(text.len())
        .then(|| attempt::<T>(text.as_bytes()))
}

fn steps(path: &Path) -> Vec<Step> {
    let step = |segment: &Segment| match segment {
        Segment::Seq { index } => Some(Step::Item(*index)),
        Segment::Map { key } => Some(Step::Member(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    };
    path.iter().filter_map(step).collect()
}

impl Wrong {
    /// From serde's words. They end with a position, which a member's name says better.
    fn new(mut place: Vec<Step>, words: &str) -> Self {
        let detail = words
            .rsplit_once(" at line ")
            .map_or(words, |(detail, _)| detail);
        let named = || detail.split('`').nth(1).map(str::to_owned);
        let mut name_at_end = |name: Option<String>| {
            let name = name.map(Step::Member);
            place.extend(name.filter(|name| place.last() != Some(name)));
        };
        let (code, detail) = if detail.starts_with("unknown field") {
            let known = detail
                .rsplit_once("`, expected ")
                .map_or("none", |(_, known)| known);
            let known = known.trim_start_matches("one of ");
            name_at_end(named());
            (
                Code::UnknownMember,
                format!("is not known; there is {known}"),
            )
        } else if detail.starts_with("missing field") {
            name_at_end(named());
            (Code::MissingMember, "is missing".to_owned())
        } else if detail.starts_with("duplicate field") {
            name_at_end(named());
            let twice = "is there twice, perhaps under two of its names";
            (Code::DuplicateMember, twice.to_owned())
        } else {
            (Code::WrongType, plain_words::of_value(detail))
        };
        Self {
            blame: Blame::new(code, written(&place), detail),
            place,
        }
    }
}

/// `retry_policy.delays[2]`
fn written(place: &[Step]) -> String {
    let mut text = String::new();
    for step in place {
        match step {
            Step::Item(at) => text.push_str(&format!("[{at}]")),
            Step::Member(name) if text.is_empty() => text.push_str(name),
            Step::Member(name) => text.push_str(&format!(".{name}")),
        }
    }
    text
}

/// Takes the member to blame away, or puts one where it is missing. Answers whether it could.
fn mend<T: DeserializeOwned>(body: &mut Value, wrong: &Wrong, again: &mut ReadAgain) -> bool {
    let (name, way) = match wrong.place.split_last() {
        Some((Step::Member(name), way)) => (name, way),
        Some((Step::Item(index), way)) => {
            let items = at(body, way).and_then(Value::as_array_mut);
            return items
                .is_some_and(|items| items.len() > *index && !items.remove(*index).is_null());
        }
        None => return false,
    };
    if wrong.blame.code != Code::MissingMember {
        let members = at(body, way).and_then(Value::as_object_mut);
        return members.is_some_and(|members| members.remove(name).is_some());
    }
    let stand_ins = [
        Value::Null,
        json!(""),
        json!(0),
        json!(false),
        json!([]),
        Map::new().into(),
    ];
    for stand_in in stand_ins {
        if let Some(Value::Object(members)) = at(body, way) {
            members.insert(name.clone(), stand_in);
        }
        match attempt_again::<T>(body, again) {
            Some(Err(next)) if next.place.starts_with(&wrong.place) => {}
            Some(_) => return true,
            None => return false,
        }
    }
    false
}

fn at<'a>(body: &'a mut Value, way: &[Step]) -> Option<&'a mut Value> {
    way.iter().try_fold(body, |at, step| match step {
        Step::Member(name) => at.get_mut(name),
        Step::Item(index) => at.get_mut(index),
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Form {
        #[serde(alias = "label")]
        name: String,
        size: u8,
        since: crate::timestamp::Timestamp,
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Inner {
        parts: Vec<u8>,
        kind: Option<Kind>,
        free: Option<Value>,
    }

    #[derive(Debug, Deserialize)]
    enum Kind {
        Large,
    }

    fn errors(body: &str) -> Vec<(String, &'static str)> {
        let problem = read::<Form>(body.as_bytes()).err().unwrap();
        let errors = problem.errors().iter();
        errors
            .map(|it| (it.field.clone(), it.code.as_str()))
            .collect()
    }

    fn wrong(field: &str, code: &'static str) -> (String, &'static str) {
        (field.to_owned(), code)
    }

    #[test]
    fn all_members_to_blame_are_named_at_once() {
        let body = r#"{"name": 1, "bogus": 2, "size": 256, "since": "2026-01-31T10:00:00Z", "inner": {"parts": [1, "x"]}}"#;
        assert_eq!(
            errors(body),
            [
                wrong("name", "wrong_type"),
                wrong("bogus", "unknown_member"),
                // After the first, in the order of the alphabet.
                wrong("inner.parts[1]", "wrong_type"),
                wrong("size", "wrong_type"),
            ]
        );
    }

    #[test]
    fn all_missing_members_are_named_as_far_as_a_stand_in_can_be_found() {
        assert_eq!(
            errors("{}"),
            [
                wrong("name", "missing_member"),
                wrong("size", "missing_member"),
                wrong("since", "missing_member"),
            ]
        );
        assert_eq!(
            errors(r#"{"inner": {}}"#)[0],
            wrong("inner.parts", "missing_member")
        );
    }

    #[test]
    fn all_objects_of_a_request_are_read_again_for_a_bounded_number_of_bytes() {
        let zeros = vec!["0"; 30_000].join(",");
        let unknown: Vec<_> = (1..=16).map(|n| format!("\"u{n:02}\":0")).collect();
        let object = format!(
            "{{\"inner\":{{\"parts\":[{zeros}]}},{}}}",
            unknown.join(",")
        );
        let mut again = ReadAgain::default();
        let mut told = (0..128).map(|_| {
            let problem = read_one_of_many::<Form>(object.as_bytes(), &mut again).err();
            problem.unwrap().errors().len()
        });
        // The first object is read again as often as the bound allows.
        assert!((2..=1 + MAX_READ_AGAIN / 60_000).contains(&told.next().unwrap()));
        assert!(told.all(|errors| errors == 1));
    }

    #[test]
    fn a_number_that_is_none_of_some_words_or_too_large_is_a_members_fault() {
        for (inner, field) in [
            (r#""kind": 7"#, "inner.kind"),
            (r#""kind": []"#, "inner.kind"),
            (r#""free": {"a": 1e999}"#, "inner.free.a"),
        ] {
            let body = format!(r#"{{"inner": {{"parts": [], {inner}}}}}"#);
            assert_eq!(errors(&body)[0], wrong(field, "wrong_type"), "{body}");
        }
    }

    #[test]
    fn a_member_under_two_of_its_names_is_there_twice() {
        let twice = r#"{"name": "a", "label": "b", "size": 1, "since": "2026-01-31T10:00:00Z"}"#;
        assert_eq!(errors(twice), [wrong("name", "duplicate_member")]);
    }

    #[test]
    fn what_is_no_json_object_blames_no_member() {
        for body in ["", "{", "[]", "[1]", "7", "null"] {
            let problem = read::<Form>(body.as_bytes()).err().unwrap();
            assert!(problem.errors().is_empty(), "{body}");
        }
    }
}
