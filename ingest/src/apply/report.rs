//! The report of what `apply` did, for people to read.

use std::fmt;

use super::difference::Difference;

/// What was done to a tenant, an event type or a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It is new.
    Created,
    /// It differed.
    Changed,
    /// No file declares it any more.
    Removed,
}

pub struct Report {
    dry_run: bool,
    entries: Vec<(Done, String, Difference)>,
    unchanged: usize,
    left: Vec<String>,
}

impl Report {
    pub(super) fn new(dry_run: bool) -> Self {
        Self {
            dry_run,
            entries: Vec::new(),
            unchanged: 0,
            left: Vec::new(),
        }
    }

    /// Notes the result of a comparison.
    pub(super) fn compared(&mut self, is_new: bool, subject: String, difference: Difference) {
        match (is_new, difference.is_empty()) {
            (true, _) => self.done(Done::Created, subject, difference),
            (false, false) => self.done(Done::Changed, subject, difference),
            (false, true) => self.unchanged += 1,
        }
    }

    pub(super) fn done(&mut self, done: Done, subject: String, difference: Difference) {
        self.entries.push((done, subject, difference));
    }

    /// Notes a webhook that `--prune` would have deleted.
    pub(super) fn left(&mut self, subject: String) {
        self.left.push(subject);
    }

    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Whether anything differed from the declaration.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.entries.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (done, subject, difference) in &self.entries {
            let sign = match done {
                Done::Created => '+',
                Done::Changed => '~',
                Done::Removed => '-',
            };
            writeln!(f, "{sign} {subject}")?;
            for line in &difference.lines {
                writeln!(f, "    {line}")?;
            }
        }
        for subject in &self.left {
            writeln!(f, "? {subject} is declared no more; --prune deletes it")?;
        }
        let count = |wanted: Done| {
            let of_this = self.entries.iter().filter(|(done, ..)| *done == wanted);
            of_this.count()
        };
        let (created, changed, removed) = (
            count(Done::Created),
            count(Done::Changed),
            count(Done::Removed),
        );
        let unchanged = self.unchanged;
        if self.dry_run {
            write!(
                f,
                "dry run: {created} to create, {changed} to change, {removed} to delete, {unchanged} unchanged"
            )
        } else {
            write!(
                f,
                "{created} created, {changed} changed, {removed} deleted, {unchanged} unchanged"
            )
        }
    }
}
