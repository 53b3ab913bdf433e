//! Which deliveries are meant, by their event's type and by their last attempt's answer.
//!
//! Lists and replays filter in the same way. The conditions are SQL on a delivery `d`;
//! an outcome is looked up in the attempt's row.

use crate::invalid::Invalid;
use crate::matching::Pattern;

type Result<T> = std::result::Result<T, Invalid>;

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

impl LogFilter {
    /// Patterns of event types.
    ///
    /// # Errors
    /// Names the first that is none.
    pub fn with_types(mut self, patterns: Option<&[String]>) -> Result<Self> {
        let Some(patterns) = patterns else {
            return Ok(self);
        };
        bounded("event_type", patterns.len(), MAX_TYPES)?;
        let mut types = Types::default();
        for text in patterns {
            let pattern: Pattern = text.trim().parse().map_err(|error| {
                Invalid::new("event_type", format!("`{}`: {error}", text.trim()))
            })?;
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
    /// Names the first that is none.
    pub fn with_codes(mut self, codes: Option<Vec<String>>) -> Result<Self> {
        let Some(codes) = codes else {
            return Ok(self);
        };
        bounded("response_code", codes.len(), MAX_CODES)?;
        let codes: Vec<_> = codes.iter().map(|code| code.trim().to_owned()).collect();
        let is_code = |code: &str| {
            let class = |digit: char| ('1'..='5').contains(&digit);
            code == "none"
                || code.len() == 3
                    && code.starts_with(class)
                    && (code.ends_with("xx") || code.bytes().all(|byte| byte.is_ascii_digit()))
        };
        if let Some(unknown) = codes.iter().find(|code| !is_code(code)) {
            return Err(Invalid::new(
                "response_code",
                format!(
                    "`{unknown}` is not a status from 100 to 599, a class such as `5xx`, or `none`"
                ),
            ));
        }
        self.codes = Some(codes);
        Ok(self)
    }

    /// Outcomes.
    ///
    /// # Errors
    /// Names the first that is none.
    pub fn with_outcomes(mut self, outcomes: Option<Vec<String>>) -> Result<Self> {
        let Some(outcomes) = outcomes else {
            return Ok(self);
        };
        bounded("outcome", outcomes.len(), MAX_CODES)?;
        let outcomes: Vec<_> = outcomes
            .iter()
            .map(|outcome| outcome.trim().to_owned())
            .collect();
        let unknown = |outcome: &&String| !OUTCOMES.contains(&outcome.as_str());
        if let Some(unknown) = outcomes.iter().find(unknown) {
            let all = OUTCOMES.join(", ");
            return Err(Invalid::new(
                "outcome",
                format!("`{unknown}` is not one of {all}"),
            ));
        }
        self.outcomes = Some(outcomes);
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
        filter.with_types(types).unwrap_or(unfiltered)
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

fn bounded(field: &'static str, count: usize, most: usize) -> Result<()> {
    match (1..=most).contains(&count) {
        true => Ok(()),
        false => Err(Invalid::new(
            field,
            format!("must have 1 to {most} entries"),
        )),
    }
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
            let filter = LogFilter::default().with_codes(Some(texts(&[code])));
            assert_eq!(filter.is_ok(), is_one, "{code}");
        }
    }

    #[test]
    fn types_are_exact_or_prefixes() {
        let patterns = texts(&["order.*", "user.created"]);
        let filter = LogFilter::default().with_types(Some(&patterns)).unwrap();
        assert_eq!(filter.exact(), Some(&texts(&["user.created"])[..]));
        assert_eq!(filter.prefixes(), Some(&texts(&["order."])[..]));
        let refused = LogFilter::default().with_types(Some(&texts(&["ord*"])));
        assert!(refused.is_err());
    }
}
