//! What the doctor found, and how it is printed.

use std::fmt;

/// What was found about one thing.
#[derive(Debug)]
pub(super) struct Finding {
    what: String,
    is: Is,
}

#[derive(Debug)]
enum Is {
    /// With what there is to say about it.
    Fine(String),
    Wrong {
        problem: String,
        fix: String,
    },
    /// It couldn't be looked at.
    Unknown {
        reason: String,
        fix: String,
    },
}

impl Finding {
    pub(super) fn fine(what: impl Into<String>, detail: impl Into<String>) -> Self {
        let (what, is) = (what.into(), Is::Fine(detail.into()));
        Self { what, is }
    }

    pub(super) fn wrong(
        what: impl Into<String>,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let (problem, fix) = (problem.into(), fix.into());
        let (what, is) = (what.into(), Is::Wrong { problem, fix });
        Self { what, is }
    }

    pub(super) fn unknown(
        what: impl Into<String>,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let (reason, fix) = (reason.into(), fix.into());
        let (what, is) = (what.into(), Is::Unknown { reason, fix });
        Self { what, is }
    }
}

impl Finding {
    pub(super) fn is_wrong(&self) -> bool {
        matches!(self.is, Is::Wrong { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = &self.what;
        match &self.is {
            Is::Fine(detail) => write!(f, "ok       {what}: {detail}"),
            Is::Wrong { problem, fix } => {
                write!(f, "WRONG    {what}: {problem}\n         fix: {fix}")
            }
            Is::Unknown { reason, fix } => {
                write!(f, "unknown  {what}: {reason}\n         to know: {fix}")
            }
        }
    }
}

/// All findings, in the order in which they were made.
#[derive(Debug)]
pub struct Report(Vec<Finding>);

impl Report {
    pub(super) fn new(found: Vec<Finding>) -> Self {
        Self(found)
    }

    /// Whether nothing is wrong. What is unknown doesn't count.
    pub fn is_healthy(&self) -> bool {
        let mut findings = self.0.iter();
        findings.all(|finding| !finding.is_wrong())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |is: fn(&Is) -> bool| self.0.iter().filter(|one| is(&one.is)).count();
        let wrong = count(|is| matches!(is, Is::Wrong { .. }));
        let unknown = count(|is| matches!(is, Is::Unknown { .. }));
        for finding in &self.0 {
            writeln!(f, "{finding}")?;
        }
        write!(f, "{wrong} wrong, {unknown} unknown, of {}", self.0.len())
    }
}

/// `3.10.8` and the like, as far as they are compared.
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(['.', ' ', '-']).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next().flatten().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_first_two_numbers() {
        assert_eq!(version("3.10.8"), Some((3, 10)));
        assert_eq!(version("4.0.5-rc.1"), Some((4, 0)));
        assert_eq!(version("17 (Debian 17.5)"), Some((17, 0)));
        assert_eq!(version("latest"), None);
    }

    #[test]
    fn what_is_wrong_counts_and_what_is_unknown_does_not() {
        let unknown = || Finding::unknown("a", "nobody knows", "ask");
        let report = Report(vec![Finding::fine("b", "fine"), unknown()]);
        assert!(report.is_healthy());
        assert!(report.to_string().ends_with("0 wrong, 1 unknown, of 2"));
        let report = Report(vec![unknown(), Finding::wrong("c", "broken", "mend it")]);
        assert!(!report.is_healthy());
        assert!(
            report
                .to_string()
                .contains("WRONG    c: broken\n         fix: mend it\n")
        );
    }
}
