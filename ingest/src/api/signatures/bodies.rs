//! Two bodies, or two texts, compared: where they differ, and whether only white space does. Pure.

/// How many bytes around a difference are shown, before and after it.
const AROUND: usize = 24;

/// Bodies that are this one but for white space.
pub(super) fn variants(body: &str) -> Vec<String> {
    let mut variants = vec![
        body.trim_end().to_owned(),
        body.trim().to_owned(),
        format!("{body}\n"),
        body.replace("\r\n", "\n"),
    ];
    if let Ok(value) = serde_json::from_str::<Box<serde_json::value::RawValue>>(body) {
        variants.push(compact(value.get()));
    }
    variants.retain(|variant| variant != body);
    variants
}

/// Without white space between its parts.
fn compact(json: &str) -> String {
    let (mut text, mut in_text, mut escaped) = (String::with_capacity(json.len()), false, false);
    for c in json.chars() {
        if in_text {
            in_text = escaped || c != '"';
            escaped = c == '\\' && !escaped;
        } else if c.is_ascii_whitespace() {
            continue;
        } else {
            in_text = c == '"';
        }
        text.push(c);
    }
    text
}

/// What a text has around a byte.
pub(super) fn around(text: &str, at: usize) -> String {
    let from = text.floor_char_boundary(at.saturating_sub(AROUND));
    let to = text.ceil_char_boundary((at + AROUND).min(text.len()));
    let (before, after) = (
        if from > 0 { "…" } else { "" },
        if to < text.len() { "…" } else { "" },
    );
    format!("{before}{}{after}", &text[from..to])
}
