//! Where a page of a webhook's attempts or waits begins, and where it ends.
//!
//! A page begins at a cursor, which names the last entry that was shown. It ends at its limit, or
//! at the delivery at which the walk ended.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use shared::ids::{DeliveryId, first_uuid_at};
use utoipa::IntoParams;
use uuid::Uuid;

use crate::api::deliveries::search::end_of_log;
use crate::api::deliveries::walk::{Span, Walked, Wanted};
use crate::api::http::problem::Result;
use crate::api::http::request::Page;
use crate::timestamp::Timestamp;

/// Which attempts or waits to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WebhookLogQuery {
    /// Only of events that were accepted at this time or later.
    pub since: Option<Timestamp>,
    /// Only of events that were accepted before this time.
    pub until: Option<Timestamp>,
    /// The most entries of the page.
    #[param(minimum = 1, maximum = 250, default = 50)]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page.
    pub cursor: Option<String>,
}

impl WebhookLogQuery {
    pub(super) fn check(self) -> Result<Asked> {
        let page = Page {
            limit: self.limit,
            cursor: self.cursor,
        };
        let (limit, cursor) = page.read::<Cursor>()?;
        // A delivery that was shown in part is looked at again.
        let begun = cursor.filter(|cursor| cursor.below > 0);
        let before = cursor.map(|cursor| {
            let id = cursor.delivery.uuid().as_u128();
            Uuid::from_u128(id.saturating_add(u128::from(cursor.below > 0)))
        });
        let until = self.until.map(|Timestamp(at)| first_uuid_at(at));
        let from = self.since.map(|Timestamp(at)| first_uuid_at(at));
        Ok(Asked {
            span: Span {
                from: from.unwrap_or_default(),
                to: until
                    .into_iter()
                    .chain(before)
                    .fold(end_of_log(), Uuid::min),
                begun: begun.map(|cursor| cursor.delivery.uuid()),
            },
            part: Part {
                begun: begun.map_or((Uuid::nil(), 0), |cursor| {
                    (cursor.delivery.uuid(), cursor.below)
                }),
                of_each: limit + 1,
                most: limit + 1,
            },
            limit,
        })
    }
}

/// A page that is asked for, within its bounds.
pub(super) struct Asked {
    pub(super) span: Span,
    pub(super) part: Part,
    limit: i64,
}

impl Asked {
    pub(super) fn wanted(&self, attempts: bool) -> Wanted {
        Wanted {
            attempts,
            waits: !attempts,
            of_each: i32::MAX / 2,
            entries: self.limit + 1,
        }
    }

    /// Drops the entry over the limit. Answers where the next page begins.
    pub(super) fn cut<T>(
        &self,
        entries: &mut Vec<T>,
        walked: &Walked,
        cursor_of: impl Fn(&T) -> Cursor,
    ) -> Option<String> {
        let has_more = entries.len() > self.limit as usize;
        entries.truncate(self.limit as usize);
        let next = match entries.last().filter(|_| has_more) {
            Some(last) => Some(cursor_of(last)),
            None => walked.edge.map(|edge| Cursor {
                delivery: DeliveryId::from_uuid(edge),
                below: 0,
            }),
        };
        next.map(|cursor| cursor.to_string())
    }
}

/// Which entries of the deliveries that a walk found.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Of this delivery only entries below this one.
    pub(super) begun: (Uuid, i64),
    /// The most entries of one delivery.
    pub(super) of_each: i64,
    /// The most entries.
    pub(super) most: i64,
}

impl Part {
    /// The latest entries of each delivery, up to this many.
    pub fn latest(of_each: i32) -> Self {
        Self {
            begun: (Uuid::nil(), 0),
            of_each: of_each.into(),
            most: i64::MAX,
        }
    }
}

/// Where a page begins: after this entry of this delivery.
///
/// An attempt is found by its number, a wait by the microsecond in which it began. Both only grow
/// while the delivery is open, so new entries of a delivery are never behind a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) delivery: DeliveryId,
    /// Only entries of the delivery below this one; 0: none of them.
    pub(super) below: i64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.delivery, self.below)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let (delivery, below) = text.split_once('.').ok_or(())?;
        Ok(Self {
            delivery: delivery.parse().map_err(|_| ())?,
            below: below.parse().map_err(|_| ())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(cursor: &str) -> WebhookLogQuery {
        WebhookLogQuery {
            since: None,
            until: None,
            limit: Some(2),
            cursor: Some(cursor.to_owned()),
        }
    }

    #[test]
    fn a_delivery_that_was_shown_in_part_is_looked_at_again_and_no_other() {
        let id = DeliveryId::generate();
        let next = Uuid::from_u128(id.uuid().as_u128() + 1);
        let begun = query(&format!("{id}.3")).check().unwrap();
        assert_eq!(
            (begun.span.to, begun.span.begun, begun.part.begun),
            (next, Some(id.uuid()), (id.uuid(), 3))
        );
        let whole = query(&format!("{id}.0")).check().unwrap();
        assert_eq!((whole.span.to, whole.span.begun), (id.uuid(), None));
    }

    #[test]
    fn the_next_page_begins_after_the_last_entry_or_where_the_walk_ended() {
        let id = DeliveryId::generate();
        let asked = query(&format!("{id}.0")).check().unwrap();
        let cursor_of = |n: &i64| Cursor {
            delivery: id,
            below: *n,
        };
        let walked = Walked {
            deliveries: vec![id.uuid()],
            edge: Some(id.uuid()),
        };
        let mut three = vec![9, 8, 7];
        let next = asked.cut(&mut three, &walked, cursor_of);
        assert_eq!((three, next), (vec![9, 8], Some(format!("{id}.8"))));
        let next = asked.cut(&mut vec![9], &walked, cursor_of);
        assert_eq!(next, Some(format!("{id}.0")));
        assert_eq!(asked.cut(&mut vec![9], &Walked::default(), cursor_of), None);
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_nothing_else_is_one() {
        let cursor = Cursor {
            delivery: DeliveryId::generate(),
            below: 1_795_754_562_104_512,
        };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for wrong in ["", "3", "whd_x.3", &cursor.delivery.to_string()] {
            assert!(query(wrong).check().is_err(), "{wrong}");
        }
    }
}
