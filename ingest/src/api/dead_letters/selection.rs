//! Which dead letters a request means.

use serde::Deserialize;
use shared::ids::DeadLetterId;
use utoipa::ToSchema;

use crate::api::http::problem::{Problem, Result};
use crate::api::openapi::words::DeadLetterQueue;
use crate::dead_letters::letter::Origin;
use crate::dead_letters::query::LetterFilter;
use crate::invalid::{Gathered, Invalid, Invalids};

/// The most messages that one request replays or discards.
pub(super) const AT_MOST: i64 = 1_000;

/// The dead letters to replay or discard: at least one member is required.
#[derive(Deserialize, ToSchema)]
#[schema(as = DeadLetterSelection)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Only messages that were refused for exactly this reason.
    #[schema(example = "tenant `acme` does not exist")]
    pub reason: Option<String>,
    /// Only messages that were meant for this tenant.
    #[schema(example = "acme")]
    pub tenant: Option<String>,
    /// Only messages that were taken from this queue.
    #[schema(value_type = Option<DeadLetterQueue>)]
    pub queue: Option<String>,
    /// Only these, at most 1,000.
    #[schema(value_type = Option<Vec<DeadLetterId>>, max_items = 1000)]
    pub ids: Option<Vec<String>>,
}

impl Selection {
    pub(super) fn filter(self) -> std::result::Result<LetterFilter, Invalids> {
        let mut wrong = Gathered::default();
        let origin = wrong.take(match self.queue.as_deref() {
            None => Ok(None),
            Some("parking") => Ok(Some(Origin::Parking)),
            Some("unrouted") => Ok(Some(Origin::Unrouted)),
            Some(_) => Err(Invalid::new("queue", "must be `parking` or `unrouted`")),
        });
        for (field, text) in [("reason", &self.reason), ("tenant", &self.tenant)] {
            if text.as_ref().is_some_and(|text| text.contains('\0')) {
                let bound = "must not contain the character U+0000";
                wrong.add(Invalid::new(field, bound));
            }
        }
        let ids = wrong.take(self.ids.as_deref().map(ids).transpose());
        wrong.finish(LetterFilter {
            reason: self.reason,
            tenant: self.tenant,
            origin,
            ids,
            q: None,
        })
    }

    /// The filter of a request that must not select everything by mistake.
    pub(super) fn narrow(self) -> Result<LetterFilter> {
        let is_wide = self.reason.is_none() && self.tenant.is_none() && self.queue.is_none();
        if is_wide && self.ids.is_none() {
            return Err(Problem::field(
                "reason",
                "one of `reason`, `tenant`, `queue` and `ids` must be there",
            ));
        }
        Ok(self.filter()?)
    }
}

fn ids(texts: &[String]) -> std::result::Result<Vec<DeadLetterId>, Invalid> {
    if texts.is_empty() || texts.len() as i64 > AT_MOST {
        let bound = format!("must have 1 to {AT_MOST} entries");
        return Err(Invalid::new("ids", bound));
    }
    let parsed = texts.iter().map(|text| text.trim().parse());
    parsed
        .collect::<std::result::Result<_, shared::ids::Malformed>>()
        .map_err(|error| Invalid::new("ids", error))
}
