//! What each row became, for people to read.

use std::fmt;

use shared::ids::{ExternalId, WebhookId};

use crate::apply::place::without;
use crate::invalid::Invalid;

/// What a row became.
pub(super) enum Became {
    /// A new webhook, with its members. `None`: a dry run made it.
    Created(Option<WebhookId>, Vec<String>),
    /// It is here already.
    Known(WebhookId),
    Refused(Vec<String>),
}

/// One row of the file.
pub(super) struct Entry {
    line: u64,
    pub(super) external_id: Option<ExternalId>,
    /// Names in the file that have no counterpart, and whose values nobody misses.
    pub(super) left_out: Vec<String>,
    pub(super) became: Became,
}

impl Entry {
    pub(super) fn new(line: u64) -> Self {
        Self {
            line,
            external_id: None,
            left_out: Vec::new(),
            became: Became::Refused(Vec::new()),
        }
    }

    pub(super) fn refuse(&mut self, problems: &[Invalid], confidential: &[String]) {
        let lines = problems.iter().map(|Invalid { field, reason, .. }| {
            let reason = cleaned(reason, confidential);
            match field.as_str() {
                "" | "." => reason,
                field => format!("{field}: {reason}"),
            }
        });
        self.became = Became::Refused(lines.collect());
    }
}

/// The report of an import.
pub struct Report {
    dry_run: bool,
    entries: Vec<Entry>,
    /// Rows were refused, so the others were not created either.
    pub(super) nothing_changed: bool,
}

impl Report {
    pub(super) fn new(dry_run: bool) -> Self {
        Self {
            dry_run,
            entries: Vec::new(),
            nothing_changed: false,
        }
    }

    pub(super) fn add(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// How many rows were refused.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.count(|became| matches!(became, Became::Refused(_)))
    }

    fn count(&self, which: impl Fn(&Became) -> bool) -> usize {
        let entries = self.entries.iter();
        entries.filter(|entry| which(&entry.became)).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in &self.entries {
            let line = entry.line;
            let called = match &entry.external_id {
                Some(id) => format!("line {line} ({id})"),
                None => format!("line {line}"),
            };
            match &entry.became {
                Became::Created(id, members) => {
                    let id = id.map_or(String::new(), |id| format!(" {id}"));
                    writeln!(f, "+ {called}: a new webhook{id}")?;
                    members
                        .iter()
                        .try_for_each(|line| writeln!(f, "    {line}"))?;
                    if !entry.left_out.is_empty() {
                        writeln!(f, "    not needed: {}", entry.left_out.join(", "))?;
                    }
                }
                Became::Known(id) => {
                    writeln!(f, "= {called}: is here as {id}, which stays as it is")?;
                }
                Became::Refused(problems) => {
                    writeln!(f, "! {called}: refused")?;
                    problems
                        .iter()
                        .try_for_each(|line| writeln!(f, "    {line}"))?;
                }
            }
        }
        let created = self.count(|became| matches!(became, Became::Created(..)));
        let known = self.count(|became| matches!(became, Became::Known(_)));
        let refused = self.refused();
        if self.dry_run {
            write!(
                f,
                "dry run: {created} to create, {known} here already, {refused} refused"
            )
        } else if self.nothing_changed {
            write!(
                f,
                "nothing was created, because {refused} of {} rows were refused; --skip-invalid creates the others",
                self.entries.len()
            )
        } else {
            write!(
                f,
                "{created} created, {known} here already, {refused} refused"
            )
        }
    }
}

/// The reason without confidential values.
fn cleaned(reason: &str, confidential: &[String]) -> String {
    without(reason, confidential.iter().map(String::as_str))
}
