//! All that is wrong with the files, a line each.
//!
//! A line names the file, the line and the member. No line repeats a value that
//! stands in a file: it may be a secret in the wrong place.

use std::fmt;

use super::place::Place;
use crate::invalid::{Invalid, Unsaved};

/// How an event type's form begins to say what is wrong with an example; excerpts of the
/// example follow.
const OF_AN_EXAMPLE: &str = "is not what the schema says";

/// What is wrong, a line each.
#[derive(Default)]
pub struct Problems(Vec<String>);

impl Problems {
    /// Notes what is wrong, in words of ours.
    pub(super) fn note(&mut self, place: &Place, reason: impl fmt::Display) {
        self.0.push(format!("{place}: {reason}"));
    }

    /// Notes that a member is invalid, without the values that the reason repeats.
    pub fn invalid(&mut self, place: &Place, Invalid { field, reason }: &Invalid) {
        let place = place.at(field);
        // What an example isn't is said with excerpts of it.
        let reason = reason
            .split_once(OF_AN_EXAMPLE)
            .map_or(reason.as_str(), |_| OF_AN_EXAMPLE);
        self.note(&place, place.without_values(reason));
    }

    /// Notes why a change was refused; gives back what is no refusal.
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
    /// All of them.
    pub fn none(self) -> Result<(), Vec<String>> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(self.0)
        }
    }

    /// What is `Ok`; what isn't is noted.
    pub(super) fn sift<T>(&mut self, place: &Place, checked: Result<T, Invalid>) -> Option<T> {
        checked
            .map_err(|invalid| self.invalid(place, &invalid))
            .ok()
    }
}
