//! Which deliveries are meant, by their event's type and by their last attempt's answer.
//!
//! Lists and replays filter in the same way. The conditions are SQL on a delivery `d`;
//! an outcome is looked up in the attempt's row.

use crate::invalid::{Gathered, Invalid, Invalids};
use crate::matching::{Pattern, PatternError};

type Result<T> = std::result::Result<T, Invalids>;

/// The most event types or patterns.
const MAX_TYPES: usize = 100;
/// The most codes or outcomes.
const MAX_CODES: usize = 20;

/// Outcomes of attempts.
pub const OUTCOMES: [&str; 10] = [
    "success",
    "redirect",
    "client_error",
    "server_error",
    "timeout",
    "dns",
    "connect",
    "tls",
    "broken",
    "forbidden",
];

/// Within bounds. `None`: all.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LogFilter {
    types: Option<Types>,
    /// `404`, `5xx`, `none`.
    pub codes: Option<Vec<String>>,
    pub outcomes: Option<Vec<String>>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Types {
    exact: Vec<String>,
    /// With their separators; of `*` the empty one.
    prefixes: Vec<String>,
}

/// Where a list of entries comes from, for saying which of them is wrong.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// A member of a body: `event_types[2]`.
    Member(&'static str),
    /// A query parameter, which has commas between its entries: `event_type`.
    Parameter(&'static str),
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Member(name) | Self::Parameter(name) => name,
        }
    }

    fn entry(self, at: usize) -> String {
        match self {
            Self::Member(name) => format!("{name}[{at}]"),
            Self::Parameter(name) => name.to_owned(),
        }
    }

    /// Checks every entry, without the spaces around it.
    fn check<T>(
        self,
        texts: &[String],
        most: usize,
        check: impl Fn(&str) -> std::result::Result<T, String>,
    ) -> Result<Vec<T>> {
        if !(1..=most).contains(&texts.len()) {
            let bound = format!("must have 1 to {most} entries");
            return Err(Invalid::new(self.name(), bound).into());
        }
        let mut wrong = Gathered::default();
        let mut checked = Vec::with_capacity(texts.len());
        for (at, text) in texts.iter().enumerate() {
            match check(text.trim()) {
                Ok(entry) => checked.push(entry),
                Err(reason) => wrong.add(Invalid::new(self.entry(at), reason)),
            }
        }
        wrong.finish(checked)
    }
}

impl LogFilter {
    /// Patterns of event types, codes and outcomes, each with where it comes from.
    ///
    /// # Errors
    /// Names every entry that is wrong.
    pub fn read(
        (from_types, types): (Source, Option<&[String]>),
        (from_codes, codes): (Source, Option<&[String]>),
        (from_outcomes, outcomes): (Source, Option<&[String]>),
    ) -> Result<Self> {
        let mut wrong = Gathered::default();
        let of_types = wrong.take(Self::default().with_types(from_types, types));
        let of_codes = wrong.take(Self::default().with_codes(from_codes, codes));
        let of_outcomes = wrong.take(Self::default().with_outcomes(from_outcomes, outcomes));
        wrong.finish(Self {
            types: of_types.types,
            codes: of_codes.codes,
            outcomes: of_outcomes.outcomes,
        })
    }

    /// Patterns of event types.
    ///
    /// # Errors
    /// Names every one that is none.
    pub fn with_types(mut self, from: Source, patterns: Option<&[String]>) -> Result<Self> {
        let Some(patterns) = patterns else {
            return Ok(self);
        };
        let parse = |text: &str| {
            text.parse()
                .map_err(|error: PatternError| format!("`{text}`: {error}"))
        };
        let mut types = Types::default();
        for pattern in from.check::<Pattern>(patterns, MAX_TYPES, parse)? {
            match pattern.as_str().strip_suffix('*') {
                Some(prefix) => types.prefixes.push(prefix.to_owned()),
                None => types.exact.push(pattern.as_str().to_owned()),
            }
        }
        self.types = Some(types);
        Ok(self)
    }

    /// Codes and classes of codes.
    ///
    /// # Errors
    /// Names every one that is none.
    pub fn with_codes(mut self, from: Source, codes: Option<&[String]>) -> Result<Self> {
        let Some(codes) = codes else {
            return Ok(self);
        };
        let is_code = |code: &str| {
            let class = |digit: char| ('1'..='5').contains(&digit);
            code == "none"
                || code.len() == 3
                    && code.starts_with(class)
                    && (code.ends_with("xx") || code.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let check = |code: &str| match is_code(code) {
            true => Ok(code.to_owned()),
            false => Err(format!(
                "`{code}` is not a status from 100 to 599, a class such as `5xx`, or `none`"
            )),
        };
        self.codes = Some(from.check(codes, MAX_CODES, check)?);
        Ok(self)
    }

    /// Outcomes.
    ///
    /// # Errors
    /// Names every one that is none.
    pub fn with_outcomes(mut self, from: Source, outcomes: Option<&[String]>) -> Result<Self> {
        let Some(outcomes) = outcomes else {
            return Ok(self);
        };
        let check = |outcome: &str| match OUTCOMES.contains(&outcome) {
            true => Ok(outcome.to_owned()),
            false => Err(format!("`{outcome}` is not one of {}", OUTCOMES.join(", "))),
        };
        self.outcomes = Some(from.check(outcomes, MAX_CODES, check)?);
        Ok(self)
    }

    /// As a replay's row has it: it was checked when the replay was created.
    pub fn stored(
        types: Option<&[String]>,
        codes: Option<Vec<String>>,
        outcomes: Option<Vec<String>>,
    ) -> Self {
        let filter = Self {
            types: None,
            codes,
            outcomes,
        };
        let unfiltered = filter.clone();
        let from = Source::Member("event_types");
        filter.with_types(from, types).unwrap_or(unfiltered)
    }

    /// Whether all deliveries are meant.
    pub fn is_all(&self) -> bool {
        self.types.is_none() && self.codes.is_none() && self.outcomes.is_none()
    }

    /// The parameter of exact types for [`passes`]; `None`: all types.
    pub fn exact(&self) -> Option<&[String]> {
        self.types.as_ref().map(|types| types.exact.as_slice())
    }

    /// The parameter of prefixes for [`passes`].
    pub fn prefixes(&self) -> Option<&[String]> {
        self.types.as_ref().map(|types| types.prefixes.as_slice())
    }
}

/// A text with commas in it.
pub fn listed(text: Option<String>) -> Option<Vec<String>> {
    text.map(|text| text.split(',').map(str::to_owned).collect())
}

/// Whether a delivery `d` passes; the parameters are, from the one with this number on:
/// exact types, prefixes, codes, outcomes.
///
/// What isn't asked for is planned away.
#[must_use]
pub fn passes(first: usize) -> String {
    let [exact, prefixes, codes, outcomes] = [first, first + 1, first + 2, first + 3];
    format!(
        "(${exact}::text[] IS NULL OR d.event_type = ANY(${exact}) OR d.event_type ^@ ANY(${prefixes}::text[])) \
         AND (${codes}::text[] IS NULL \
             OR coalesce(d.status_code::text, CASE WHEN d.attempts > 0 THEN 'none' END) = ANY(${codes}) \
             OR (d.status_code / 100)::text || 'xx' = ANY(${codes})) \
         AND (${outcomes}::text[] IS NULL OR ( \
             SELECT t.outcome FROM attempts t WHERE t.delivery_id = d.id AND t.n = d.attempts LIMIT 1 \
         ) = ANY(${outcomes}))"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: Source = Source::Member("event_types");

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn codes_are_statuses_classes_and_none() {
        for (code, is_one) in [
            ("404", true),
            ("5xx", true),
            ("none", true),
            ("999", false),
            ("6xx", false),
            ("xxx", false),
            ("40", false),
            ("4x4", false),
            ("", false),
        ] {
            let filter = LogFilter::default().with_codes(FROM, Some(&texts(&[code])));
            assert_eq!(filter.is_ok(), is_one, "{code}");
        }
    }

    #[test]
    fn types_are_exact_or_prefixes() {
        let patterns = texts(&["order.*", "user.created"]);
        let filter = LogFilter::default()
            .with_types(FROM, Some(&patterns))
            .unwrap();
        assert_eq!(filter.exact(), Some(&texts(&["user.created"])[..]));
        assert_eq!(filter.prefixes(), Some(&texts(&["order."])[..]));
    }

    #[test]
    fn every_wrong_entry_is_named() {
        let patterns = texts(&["ord*", "order.*", "a..b"]);
        let fields = |from| {
            let refused = LogFilter::default().with_types(from, Some(&patterns));
            let Invalids(all) = refused.unwrap_err();
            all.into_iter()
                .map(|invalid| invalid.field)
                .collect::<Vec<_>>()
        };
        assert_eq!(fields(FROM), ["event_types[0]", "event_types[2]"]);
        assert_eq!(
            fields(Source::Parameter("event_type")),
            ["event_type", "event_type"]
        );
        let none = LogFilter::default().with_outcomes(Source::Member("outcome"), Some(&[]));
        assert_eq!(none.unwrap_err().0[0].field, "outcome");
    }
}
