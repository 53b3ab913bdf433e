//! All that is wrong with the files, a line each.
//!
//! A line names the file, the line and the member. No line repeats a value that
//! stands in a file: it may be a secret in the wrong place.

use std::fmt;

use super::place::Place;
use crate::invalid::{Invalid, Invalids, Unsaved};

/// How an event type's form begins to say what is wrong with an example; excerpts of the
/// example follow.
const OF_AN_EXAMPLE: &str = "is not what the schema says";

/// The problems, a line each.
#[derive(Default)]
pub struct Problems(Vec<String>);

impl Problems {
    /// Notes a problem. The reason must not repeat a value of the file.
    pub(super) fn note(&mut self, place: &Place, reason: impl fmt::Display) {
        self.0.push(format!("{place}: {reason}"));
    }

    /// Notes that a member is invalid, without the values that the reason repeats.
    pub fn invalid(&mut self, place: &Place, Invalid { field, reason, .. }: &Invalid) {
        let place = place.at(field);
        // The rest of this reason has excerpts of the example.
        let reason = reason
            .split_once(OF_AN_EXAMPLE)
            .map_or(reason.as_str(), |_| OF_AN_EXAMPLE);
        self.note(&place, place.without_values(reason));
    }

    /// Notes why a change was refused. Gives back an error that is no refusal.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub fn refused(&mut self, place: &Place, unsaved: Unsaved) -> Result<(), Unsaved> {
        match unsaved {
            Unsaved::Invalid(invalid) => self.invalid(place, &invalid),
            Unsaved::NotFound(_) | Unsaved::Conflict(_) => {
                self.note(place, place.without_values(&unsaved.to_string()));
            }
            Unsaved::Postgres(_) => return Err(unsaved),
        }
        Ok(())
    }

    /// Whether there are none.
    ///
    /// # Errors
    /// All problems.
    pub fn none(self) -> Result<(), Vec<String>> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(self.0)
        }
    }

    /// The value if it is `Ok`; otherwise all errors are noted.
    pub(super) fn sift_all<T>(&mut self, place: &Place, checked: Result<T, Invalids>) -> Option<T> {
        let noted = checked.map_err(|Invalids(all)| {
            all.iter().for_each(|invalid| self.invalid(place, invalid));
        });
        noted.ok()
    }
}
