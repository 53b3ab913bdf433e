//! Runs the commands of README.md's first-webhook section and compares their output.
//!
//! The fenced `sh` blocks of that section are run in order. A `json` block after one has
//! the expected output. An id in the page stands for the id that this run printed in
//! its place: later commands are run with the new id.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::process::Command;

use crate::print::say;

const PAGE: &str = "README.md";
const SECTION: &str = "## A first webhook in five minutes";
/// How long a reader would wait before looking again.
const PATIENCE: Duration = Duration::from_secs(30);

/// A command of the page.
#[derive(Debug, PartialEq)]
struct Example {
    command: String,
    /// Its expected output.
    output: Option<Value>,
}

/// Runs the section's commands. `known` has values that differ from the page, such
/// as ports that were taken. Returns all values of this run by the values that they
/// replace.
pub(crate) async fn run(known: &[(String, String)]) -> anyhow::Result<BTreeMap<String, String>> {
    let page = std::fs::read_to_string(PAGE).with_context(|| format!("reading {PAGE}"))?;
    let mut stands_for: BTreeMap<String, String> = known.iter().cloned().collect();
    for example in examples(&page)? {
        let command = replaced(&example.command, &stands_for);
        say(format_args!("$ {}", command.replace('\n', "\n  ")));
        try_out(&command, example.output.as_ref(), &mut stands_for)
            .await
            .with_context(|| format!("{PAGE}, `{SECTION}`: {command}"))?;
    }
    Ok(stands_for)
}

async fn try_out(
    command: &str,
    expected: Option<&Value>,
    stands_for: &mut BTreeMap<String, String>,
) -> anyhow::Result<()> {
    // A command that only reads may be repeated until it shows the expected output.
    let only_looks = !["-d ", "-X "].iter().any(|option| command.contains(option));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shell = Command::new("sh").args(["-euc", command]).output().await?;
        let printed = String::from_utf8_lossy(&shell.stdout).into_owned();
        ensure!(
            shell.status.success(),
            "{}: {printed}{}",
            shell.status,
            String::from_utf8_lossy(&shell.stderr)
        );
        let Some(expected) = expected else {
            say(printed.trim_end());
            return Ok(());
        };
        let found: Value = serde_json::from_str(&printed)
            .with_context(|| format!("it printed no JSON: {printed}"))?;
        let mut learned = stands_for.clone();
        match compare(expected, &found, "", &mut learned) {
            Ok(()) => {
                say(printed.trim_end());
                *stands_for = learned;
                return Ok(());
            }
            Err(_) if only_looks && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(difference) => bail!("{difference}. It printed: {found}"),
        }
    }
}

/// The section's commands, each with the output that the page shows below it.
fn examples(page: &str) -> anyhow::Result<Vec<Example>> {
    let mut examples: Vec<Example> = Vec::new();
    let mut block: Option<(&str, String)> = None;
    let section = page
        .lines()
        .skip_while(|line| *line != SECTION)
        .skip(1)
        .take_while(|line| !line.starts_with("## "));
    for line in section {
        block = match (block, line.strip_prefix("```")) {
            (None, None) => None,
            (None, Some(language)) => Some((language, String::new())),
            (Some((language, text)), None) => Some((language, text + line + "\n")),
            (Some(("sh", command)), Some(_)) => {
                let command = command.trim_end().to_owned();
                examples.push(Example {
                    command,
                    output: None,
                });
                None
            }
            (Some(("json", text)), Some(_)) => {
                let above = examples.last_mut().context("`json` before any `sh`")?;
                above.output = Some(serde_json::from_str(&text)?);
                None
            }
            (Some(_), Some(_)) => None,
        };
    }
    ensure!(!examples.is_empty(), "{PAGE} has no `{SECTION}`");
    Ok(examples)
}

fn replaced(text: &str, stands_for: &BTreeMap<String, String>) -> String {
    stands_for
        .iter()
        .fold(text.to_owned(), |text, (here, there)| {
            text.replace(here, there)
        })
}

/// Whether the output is as on the page. Ids are learned; secrets may differ, and times that
/// have equally many digits. The page may leave members out.
fn compare(
    shown: &Value,
    found: &Value,
    at: &str,
    stands_for: &mut BTreeMap<String, String>,
) -> Result<(), String> {
    match (shown, found) {
        (Value::Object(shown), Value::Object(found)) => {
            shown.iter().try_for_each(|(name, shown)| {
                let found = found.get(name).unwrap_or(&Value::Null);
                compare(shown, found, &format!("{at}.{name}"), stands_for)
            })
        }
        (Value::Array(shown), Value::Array(found)) if shown.len() == found.len() => shown
            .iter()
            .zip(found)
            .try_for_each(|(shown, found)| compare(shown, found, &format!("{at}[]"), stands_for)),
        (Value::String(shown), Value::String(found))
            if replaced(shown, stands_for) == *found
                || form(shown).is_some_and(|shown| form(found) == Some(shown)) =>
        {
            Ok(())
        }
        (Value::String(shown), Value::String(found))
            if is_id(shown) && is_id(found) && !stands_for.contains_key(shown) =>
        {
            stands_for.insert(shown.clone(), found.clone());
            Ok(())
        }
        (shown, found) if shown == found && !shown.is_string() => Ok(()),
        _ => Err(format!("`{at}` is {found}, but the page shows {shown}")),
    }
}

/// What is the same in every run for a text that differs between runs.
#[derive(PartialEq)]
enum Form {
    Secret,
    /// A time with this many digits after the second.
    Time(usize),
}

/// The form of a time or a secret; `None` for other texts, which don't differ between runs.
fn form(text: &str) -> Option<Form> {
    if text.starts_with("whsec_") {
        return Some(Form::Secret);
    }
    OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let digits = text.split_once('.').map_or(0, |(_, fraction)| {
        fraction.bytes().take_while(u8::is_ascii_digit).count()
    });
    Some(Form::Time(digits))
}

/// Whether the text is a prefix and 26 characters, as `wh_01kb…`.
fn is_id(text: &str) -> bool {
    text.split_once('_').is_some_and(|(prefix, suffix)| {
        prefix.bytes().all(|b| b.is_ascii_lowercase())
            && suffix.len() == 26
            && suffix.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ID: &str = "wh_01kaq5a1b2c3d4e5f6g7h8j9k0";
    const OTHER: &str = "wh_01kaq5zzzzzzzzzzzzzzzzzzzz";

    #[test]
    fn only_the_sections_commands_count_each_with_its_output() {
        let page = format!(
            "# P\n```sh\nmake run\n```\n{SECTION}\nText.\n```sh\ncurl \\\n  -s\n```\n```json\n\
             {{\"a\": 1}}\n```\n```text\nseen\n```\n```sh\nls\n```\n## Next\n```sh\nrm\n```\n"
        );
        let expected = [
            Example {
                command: "curl \\\n  -s".to_owned(),
                output: Some(json!({"a": 1})),
            },
            Example {
                command: "ls".to_owned(),
                output: None,
            },
        ];
        assert_eq!(examples(&page).unwrap(), expected);
    }

    #[test]
    fn a_page_without_the_section_is_refused() {
        assert!(examples("# P\n").is_err());
    }

    #[test]
    fn an_id_of_the_page_stands_for_the_one_that_came_out() {
        let mut stands_for = BTreeMap::new();
        let shown = json!({"id": ID, "at": "2026-11-22T10:00:00.120Z", "n": 1});
        let found = json!({"id": OTHER, "at": "2027-01-01T00:00:00.005Z", "n": 1});
        compare(&shown, &found, "", &mut stands_for).unwrap();
        assert_eq!(
            replaced(&format!("curl /{ID}"), &stands_for),
            format!("curl /{OTHER}")
        );
        // From now on the id stands for this one and no other.
        assert!(compare(&json!(ID), &json!(ID), "", &mut stands_for).is_err());
    }

    #[test]
    fn a_page_with_other_output_is_reported() {
        for (shown, found) in [
            (json!({"status": "delivered"}), json!({"status": "queued"})),
            (json!({"a": 1, "b": 2}), json!({"a": 1})),
            (json!({"attempts": 1}), json!({"attempts": 2})),
            (json!([1]), json!([])),
            (
                json!("2026-11-22T10:00:00.123Z"),
                json!("2026-11-22T10:00:00.123456Z"),
            ),
            (
                json!("2026-11-22T10:00:00.123Z"),
                json!("2026-11-22T10:00:00Z"),
            ),
            (json!("2026-11-22T10:00:00.123Z"), json!("whsec_1")),
        ] {
            let difference = compare(&shown, &found, "", &mut BTreeMap::new());
            assert!(difference.is_err(), "{shown} {found}");
        }
    }
}
