//! Ready-made filters of deliveries: by state, and by what the last attempt was answered with.

use maud::{Markup, html};

use crate::api::access::role::Role;
use crate::console::fields::query;
use crate::console::moments::number;
use crate::console::parts::facets;
use crate::console::query::SearchQuery;
use crate::console::visit::Visit;

/// The states, as people call them.
const STATES: [(&str, &str); 5] = [
    ("Waiting", "waiting"),
    ("Failed", "failed"),
    ("Expired", "expired"),
    ("Cancelled", "cancelled"),
    ("Delivered", "delivered"),
];
/// Answers.
const CODES: [(&str, &str); 3] = [("No answer", "none"), ("4xx", "4xx"), ("5xx", "5xx")];
/// The states that can begin again.
const REPLAYABLE: [&str; 4] = ["failed", "expired", "cancelled", "delivered"];

/// How many deliveries of a webhook are in a state, as far as it is known without counting them.
#[derive(Default)]
pub struct Counts {
    /// Now: the number, and whether there are more.
    pub waiting: Option<(i64, bool)>,
    /// Those that ended so in the last 24 hours, by state.
    pub ended: Vec<(&'static str, i64)>,
}

impl Counts {
    fn of(&self, state: &str) -> Option<String> {
        if state == "waiting" {
            let (many, more) = self.waiting.filter(|(many, _)| *many > 0)?;
            return Some(format!("{}{}", number(many), if more { "+" } else { "" }));
        }
        let (_, many) = self.ended.iter().find(|(name, _)| *name == state)?;
        Some(number(*many)).filter(|_| *many > 0)
    }
}

/// Filters that people ask for, without counts.
pub fn ready_filters(path: &str, search: &SearchQuery) -> Markup {
    state_filters(path, search, &Counts::default(), None)
}

/// The same with counts, and with the way to replay what matches.
pub fn state_filters(
    path: &str,
    search: &SearchQuery,
    counts: &Counts,
    replay: Option<&str>,
) -> Markup {
    let to = |word: &str, value: &str| {
        let q = format!("{} {word}:{value}", search.without(Some(word)));
        format!("{path}{}", query(&[("q", q.trim())]))
    };
    let others = SearchQuery {
        terms: search
            .terms
            .iter()
            .filter(|term| !matches!(term.word.as_str(), "status" | "code"))
            .cloned()
            .collect(),
        rest: search.rest.clone(),
    };
    let all = format!("{path}{}", query(&[("q", &others.without(None))]));
    let (status, code) = (search.get("status"), search.get("code"));
    let mut links = vec![(all, html! { "All" }, status.is_none() && code.is_none())];
    for (words, state) in STATES {
        let words = html! {
            (words)
            @if let Some(many) = counts.of(state) { " " span class="num" { (many) } }
        };
        links.push((to("status", state), words, status == Some(state)));
    }
    for (words, answer) in CODES {
        links.push((to("code", answer), html! { (words) }, code == Some(answer)));
    }
    let beside = html! {
        @if let Some(replay) = replay { a class="go" href=(replay) { "Replay what matches" } " · " }
        "Newest event first"
        @if !counts.ended.is_empty() { ". Ended in 24 hours, waiting now" }
    };
    facets("State", &links, &beside)
}

/// The form of a replay with this filter in it, if somebody may replay and a replay can have all
/// of it. `webhook`: the one that is meant, or several with commas between them.
pub fn replay_link<const ROLE: u8>(
    visit: &Visit<ROLE>,
    search: &SearchQuery,
    webhook: Option<&str>,
) -> Option<String> {
    if !visit.by.may(Role::Manager) {
        return None;
    }
    let fields = replay_fields(search, webhook)?;
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    Some(visit.path(&format!("/replays/new{}", query(&fields))))
}

fn replay_fields(
    search: &SearchQuery,
    webhook: Option<&str>,
) -> Option<Vec<(&'static str, String)>> {
    // Without a filter there is a button for it.
    if search.terms.iter().all(|term| term.word == "webhook") || !search.rest.is_empty() {
        return None;
    }
    if webhook.is_some_and(|ids| ids.contains(',')) {
        return None;
    }
    let mut fields = vec![("webhook", webhook.unwrap_or_default().to_owned())];
    for term in &search.terms {
        let name = match term.word.as_str() {
            "status"
                if term
                    .value
                    .split(',')
                    .all(|state| REPLAYABLE.contains(&state)) =>
            {
                "status"
            }
            "type" => "types",
            "code" => "code",
            "since" => "since",
            "until" => "until",
            "webhook" => continue,
            _ => return None,
        };
        fields.push((name, term.value.clone()));
    }
    if search.get("since").is_none() {
        // As far back as the list goes, as a rule.
        fields.push(("since", "30d".to_owned()));
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::query::OF_DELIVERIES;

    #[test]
    fn a_replay_has_the_whole_filter_or_is_not_offered() {
        let fields = |q: &str, webhook| {
            let fields = replay_fields(&SearchQuery::parse(q, &OF_DELIVERIES), webhook)?;
            let fields = fields.iter().map(|(name, value)| format!("{name}={value}"));
            Some(fields.collect::<Vec<_>>().join(" "))
        };
        let all = fields(
            "status:failed type:a.* code:5xx since:1h until:5m",
            Some("wh_1"),
        );
        let expected = "webhook=wh_1 status=failed types=a.* code=5xx since=1h until=5m";
        assert_eq!(all.as_deref(), Some(expected));
        assert_eq!(
            fields("code:none", None).as_deref(),
            Some("webhook= code=none since=30d")
        );
        for (q, webhook) in [
            ("", Some("wh_1")),
            ("webhook:Till", Some("wh_1")),
            ("status:waiting", None),
            ("event:order-1", None),
            ("outcome:timeout", None),
            ("code:503 nonsense", None),
            ("code:503", Some("wh_1,wh_2")),
        ] {
            assert_eq!(fields(q, webhook), None, "{q}");
        }
    }
}
