//! Reads the documentation's examples, and what commands print.

/// The contents of the fenced blocks in this language.
#[must_use]
pub fn fenced<'d>(document: &'d str, language: &str) -> Vec<&'d str> {
    let opening = format!("```{language}\n");
    let parts = document.split(opening.as_str()).skip(1);
    parts.filter_map(|part| part.split("```").next()).collect()
}

/// A command's output without the ids of webhooks, which differ in each run.
#[must_use]
pub fn without_ids(text: &str) -> String {
    let mut parts = text.trim().split("wh_");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str("wh_…");
        plain.push_str(part.trim_start_matches(|c: char| c.is_ascii_alphanumeric()));
    }
    plain
}
