//! The language of the search field: `status:failed type:order.paid code:503 since:1h`.
//!
//! The server turns each word into a filter of the API, and shows it as a chip. A chip is a link
//! to the same list without that filter. A word that isn't understood stays in the field, with
//! an error below it.

use maud::{Markup, html};
use shared::clock;
use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime, PrimitiveDateTime, Time};

use crate::api::deliveries::search::{DeliveryQuery, STATES};
use crate::console::fields::query;
use crate::console::icons::icon;
use crate::console::text::{line, plain};
use crate::timestamp::Timestamp;

/// The longest query.
pub const MOST: usize = 2048;

/// A word that filters, and its value, as they were typed: `status:failed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    pub word: String,
    pub value: String,
}

impl Term {
    /// As it is typed. A time of a day needs no quotes.
    fn typed(&self) -> String {
        let Self { word, value } = self;
        let has_space = value.contains(char::is_whitespace);
        match has_space && !matches!(word.as_str(), "since" | "until") {
            true => format!("{word}:\"{value}\""),
            false => format!("{word}:{value}"),
        }
    }
}

/// Puts words together up to the one that ends with a quote.
fn quoted<'a>(begun: &'a str, more: &mut impl Iterator<Item = &'a str>) -> String {
    let mut words = Vec::new();
    let mut next = Some(begun);
    while let Some(word) = next {
        if let Some(last) = word.strip_suffix('"') {
            words.push(last);
            break;
        }
        words.push(word);
        next = more.next();
    }
    words.join(" ").trim().to_owned()
}

/// What was typed into the search field, in parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SearchQuery {
    pub terms: Vec<Term>,
    /// Words that are no filter.
    pub rest: String,
}

impl SearchQuery {
    /// Reads `q`, and `add` behind it: the field adds to what there is.
    pub fn parse(q: &str, words: &[&str]) -> Self {
        let mut query = Self::default();
        let q = &q[..q.floor_char_boundary(MOST)];
        let mut tokens = q.split_whitespace().peekable();
        let mut rest = Vec::new();
        while let Some(token) = tokens.next() {
            let Some((word, value)) = token.split_once(':') else {
                rest.push(token);
                continue;
            };
            if !words.contains(&word) || value.is_empty() {
                rest.push(token);
                continue;
            }
            // `webhook:"ERP orders"`
            let mut value = match value.strip_prefix('"') {
                Some(begun) => quoted(begun, &mut tokens),
                None => value.to_owned(),
            };
            if value.is_empty() {
                continue;
            }
            // `since:2026-11-26 07:29`
            if matches!(word, "since" | "until")
                && let Some(clock) = tokens.next_if(|next| is_clock(next))
            {
                value = format!("{value} {clock}");
            }
            // The last one counts: what is added to a chip of the same word replaces it.
            query.terms.retain(|term| term.word != word);
            let word = word.to_owned();
            query.terms.push(Term { word, value });
        }
        query.rest = rest.join(" ");
        query
    }

    pub fn get(&self, word: &str) -> Option<&str> {
        let found = self.terms.iter().find(|term| term.word == word);
        found.map(|term| term.value.as_str())
    }

    /// As it is typed, without one word.
    pub fn without(&self, word: Option<&str>) -> String {
        let kept = self
            .terms
            .iter()
            .filter(|term| Some(term.word.as_str()) != word);
        let kept = kept.map(Term::typed);
        let rest = Some(self.rest.clone()).filter(|rest| !rest.is_empty());
        kept.chain(rest).collect::<Vec<_>>().join(" ")
    }

    pub fn is_empty(&self) -> bool {
        self.terms.is_empty() && self.rest.is_empty()
    }
}

fn is_clock(text: &str) -> bool {
    Time::parse(text, format_description!("[hour]:[minute]")).is_ok()
}

/// The field with its chips. `path`: the page; `beneath`: what wasn't understood.
pub fn bar(
    path: &str,
    search: &SearchQuery,
    label: &str,
    placeholder: &str,
    beneath: Option<&str>,
) -> Markup {
    let kept = SearchQuery {
        rest: String::new(),
        ..search.clone()
    };
    html! {
        form class="query" action=(path) role="search" aria-label=(label) {
            div class="chips" {
                (icon("search"))
                @for term in &search.terms {
                    a class="chip" href={ (path) (query(&[("q", &search.without(Some(&term.word)))])) }
                        aria-label={ "Remove " (term.word) " " (plain(&term.value)) } {
                        b { (term.word) } " " (line(&term.value)) " " (icon("x"))
                    }
                }
                @if !kept.is_empty() { input type="hidden" name="q" value=(kept.without(None)); }
                input name=(if kept.is_empty() { "q" } else { "add" }) value=(search.rest) aria-label=(label)
                    placeholder=(placeholder) maxlength=(MOST) autocomplete="off" spellcheck="false"
                    aria-invalid=[beneath.map(|_| "true")] aria-describedby=[beneath.map(|_| "q-error")];
            }
            button class="btn" { "Filter" }
        }
        @if let Some(beneath) = beneath { p class="small bad" id="q-error" { (line(beneath)) } }
    }
}

/// The words that deliveries are filtered by.
pub const OF_DELIVERIES: [&str; 8] = [
    "status", "type", "code", "outcome", "webhook", "event", "since", "until",
];

/// The API's filter of deliveries. The second is what can't be understood, in a sentence.
pub fn of_deliveries(
    query: &SearchQuery,
    cursor: Option<String>,
) -> (DeliveryQuery, Option<String>) {
    let now = clock::now();
    let mut wanted = DeliveryQuery {
        status: None,
        event_type: None,
        since: None,
        until: None,
        response_code: None,
        outcome: None,
        webhook_id: None,
        event_id: None,
        limit: None,
        cursor,
    };
    let mut wrong = None;
    if !query.rest.is_empty() {
        wrong = Some(format!(
            "`{}` isn't a filter. Filters are words like `status:failed`, `type:order.paid`, `code:503`, `event:order-4711`, `since:1h`.",
            query.rest
        ));
    }
    for Term { word, value } in &query.terms {
        match word.as_str() {
            "status" => {
                let known = |state: &str| state == "waiting" || STATES.contains(&state);
                match value.split(',').find(|state| !known(state)) {
                    None => wanted.status = Some(value.replace("waiting", "queued,retrying")),
                    Some(unknown) => {
                        let all = STATES.join(", ");
                        wrong = Some(format!(
                            "`status:{unknown}` isn't a state. They are {all}, and waiting."
                        ));
                    }
                }
            }
            "type" => wanted.event_type = Some(value.clone()),
            "event" => wanted.event_id = Some(value.clone()),
            "code" => wanted.response_code = Some(value.clone()),
            "outcome" => wanted.outcome = Some(value.clone()),
            "webhook" => wanted.webhook_id = Some(value.clone()),
            "since" | "until" => match moment(value, now) {
                Some(at) if word == "since" => wanted.since = Some(Timestamp(at)),
                Some(at) => wanted.until = Some(Timestamp(at)),
                None => {
                    wrong = Some(format!(
                        "`{word}:{value}` isn't a time, like `{word}:1h`, `{word}:yesterday` or `{word}:2026-11-26 07:29` (UTC)."
                    ));
                }
            },
            _ => {}
        }
    }
    (wanted, wrong)
}

/// `1h`, `30m`, `2d`, `today`, `yesterday`, `2026-11-26`, `2026-11-26 07:29` or RFC 3339.
pub fn moment(text: &str, now: OffsetDateTime) -> Option<OffsetDateTime> {
    let day = format_description!("[year]-[month]-[day]");
    let minute = format_description!("[year]-[month]-[day] [hour]:[minute]");
    let midnight = |date: Date| PrimitiveDateTime::new(date, Time::MIDNIGHT).assume_utc();
    match text {
        "today" => return Some(midnight(now.date())),
        "yesterday" => return now.date().previous_day().map(midnight),
        _ => {}
    }
    let number = text
        .get(..text.len().saturating_sub(1))
        .and_then(|n| n.parse::<u32>().ok());
    if let Some(number) = number {
        let unit = match text.chars().next_back() {
            Some('s') => Some(Duration::SECOND),
            Some('m') => Some(Duration::MINUTE),
            Some('h') => Some(Duration::HOUR),
            Some('d') => Some(Duration::DAY),
            Some('w') => Some(Duration::WEEK),
            _ => None,
        };
        if let Some(back) = unit.and_then(|unit| unit.checked_mul(number.try_into().ok()?)) {
            return now.checked_sub(back);
        }
    }
    if let Ok(date) = Date::parse(text, day) {
        return Some(midnight(date));
    }
    if let Ok(at) = PrimitiveDateTime::parse(&text.replace('T', " "), minute) {
        return Some(at.assume_utc());
    }
    OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn what_is_typed_becomes_chips_and_what_is_not_understood_stays() {
        let query = SearchQuery::parse(
            "status:failed,expired foo since:2026-11-26 07:29 colour:red status:failed",
            &OF_DELIVERIES,
        );
        assert_eq!(query.get("status"), Some("failed"));
        assert_eq!(query.get("since"), Some("2026-11-26 07:29"));
        assert_eq!(query.rest, "foo colour:red");
        assert_eq!(query.without(Some("since")), "status:failed foo colour:red");
        assert!(
            of_deliveries(&query, None)
                .1
                .is_some_and(|wrong| wrong.contains("foo colour:red"))
        );
    }

    #[test]
    fn a_value_in_quotes_may_have_spaces() {
        for (typed, value, kept) in [
            (
                "webhook:\"ERP orders\" code:5xx",
                "ERP orders",
                "webhook:\"ERP orders\" code:5xx",
            ),
            ("webhook:\"ERP\"", "ERP", "webhook:ERP"),
            (
                "webhook:\"ERP orders",
                "ERP orders",
                "webhook:\"ERP orders\"",
            ),
        ] {
            let query = SearchQuery::parse(typed, &OF_DELIVERIES);
            assert_eq!(query.get("webhook"), Some(value), "{typed}");
            assert_eq!(query.without(None), kept);
            assert_eq!(SearchQuery::parse(kept, &OF_DELIVERIES), query);
        }
        assert!(SearchQuery::parse("webhook:\"\"", &OF_DELIVERIES).is_empty());
    }

    #[test]
    fn times_are_taken_as_people_type_them() {
        let now = datetime!(2026-11-26 10:42:18 UTC);
        for (text, expected) in [
            ("1h", Some(datetime!(2026-11-26 09:42:18 UTC))),
            ("30m", Some(datetime!(2026-11-26 10:12:18 UTC))),
            ("today", Some(datetime!(2026-11-26 00:00 UTC))),
            ("yesterday", Some(datetime!(2026-11-25 00:00 UTC))),
            ("2026-11-26", Some(datetime!(2026-11-26 00:00 UTC))),
            ("2026-11-26 07:29", Some(datetime!(2026-11-26 07:29 UTC))),
            ("2026-11-26T07:29", Some(datetime!(2026-11-26 07:29 UTC))),
            (
                "2026-11-26T07:29:00+02:00",
                Some(datetime!(2026-11-26 05:29 UTC)),
            ),
            ("4294967295w", None),
            ("soon", None),
            ("", None),
            ("ä", None),
        ] {
            assert_eq!(moment(text, now), expected, "{text}");
        }
    }
}
