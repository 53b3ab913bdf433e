//! The parameters of a search, and the search that they ask for once they are within their bounds.

use serde::Deserialize;
use shared::ids::{DeliveryId, EventId, Malformed, WebhookId, first_uuid_at};
use utoipa::IntoParams;
use uuid::Uuid;

use crate::api::deliveries::search::ids::end_of_log;
use crate::api::deliveries::view::PROCESSING;
use crate::api::http::request::Page;
use crate::invalid::{Gathered, Invalid, Invalids};
use crate::log_filter::{LogFilter, Source, listed};
use crate::timestamp::Timestamp;

/// The most webhooks that a list can be narrowed to.
pub const MAX_WEBHOOKS: usize = 100;
/// The states that can be searched for.
pub const STATES: [&str; 6] = [
    "queued",
    "retrying",
    "delivered",
    "failed",
    "expired",
    "cancelled",
];
/// A word for states, and the states.
type Word = (&'static str, &'static [&'static str]);
/// The states of deliveries that aren't finished.
const OPEN: [&str; 2] = ["queued", "retrying"];
/// Other words for states.
const OF_DELIVERIES: [Word; 2] = [("success", &["delivered"]), ("pending", &OPEN)];
/// The words of the short log.
const OF_LOGS: [Word; 3] = [
    ("success", &["delivered"]),
    ("pending", &OPEN),
    ("failed", &["failed", "expired", "cancelled"]),
];

/// Which deliveries to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeliveryQuery {
    /// `queued`, `retrying`, `delivered` (or `success`), `failed`, `expired`,
    /// `cancelled`; several with commas between them. `pending` is `queued` and `retrying`;
    /// `processing` is those of them whose next attempt is due.
    #[param(
        pattern = "^(queued|retrying|delivered|success|failed|expired|cancelled|pending|processing)(,(queued|retrying|delivered|success|failed|expired|cancelled|pending|processing))*$"
    )]
    pub status: Option<String>,
    /// An event type or a pattern such as `order.*`; several with commas between them.
    #[param(example = "order.*,user.created")]
    pub event_type: Option<String>,
    /// Only of this webhook; several with commas between them, at most 100.
    #[param(example = "wh_01kb4v2p8zf5sttdw3m8e7h2xk")]
    pub webhook_id: Option<String>,
    /// Only of events that were accepted at this time or later.
    pub since: Option<Timestamp>,
    /// Only of events that were accepted before this time.
    pub until: Option<Timestamp>,
    /// The HTTP status that the last attempt was answered with, a class such as `5xx`, or
    /// `none`: there was no answer. Several with commas between them.
    #[param(
        pattern = "^([1-5]([0-9]{2}|xx)|none)(,([1-5]([0-9]{2}|xx)|none))*$",
        example = "5xx,none"
    )]
    pub response_code: Option<String>,
    /// The outcome of the last attempt: `success`, `redirect`, `client_error`, `server_error`,
    /// `timeout`, `dns`, `connect`, `tls`, `broken` or `forbidden`; several with commas
    /// between them.
    #[param(
        pattern = "^(success|redirect|client_error|server_error|timeout|dns|connect|tls|broken|forbidden)(,(success|redirect|client_error|server_error|timeout|dns|connect|tls|broken|forbidden))*$",
        example = "timeout,tls"
    )]
    pub outcome: Option<String>,
    /// Only of this event.
    #[param(value_type = Option<EventId>)]
    pub event_id: Option<String>,
    /// The most entries of the page.
    #[param(minimum = 1, maximum = 250, default = 50)]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page.
    pub cursor: Option<String>,
}

/// A filter within bounds.
pub struct Search {
    pub(super) states: Option<Vec<&'static str>>,
    /// Only deliveries whose next attempt is due.
    pub(super) due: bool,
    pub(super) filter: LogFilter,
    /// Only of these webhooks.
    pub webhooks: Option<Vec<WebhookId>>,
    pub(super) event: Option<EventId>,
    /// Ids from this one on.
    pub(super) from: Uuid,
    /// Ids before this one.
    pub(super) to: Uuid,
    pub(super) limit: i64,
}

impl DeliveryQuery {
    /// Checks every parameter.
    ///
    /// # Errors
    /// Names each that is wrong, and its bound.
    pub fn check(self) -> std::result::Result<Search, Invalids> {
        self.check_with(&OF_DELIVERIES)
    }

    /// The same for the short log, whose `failed` is any end but success.
    ///
    /// # Errors
    /// Names each that is wrong, and its bound.
    pub fn check_as_log(self) -> std::result::Result<Search, Invalids> {
        self.check_with(&OF_LOGS)
    }

    fn check_with(self, words: &[Word]) -> std::result::Result<Search, Invalids> {
        let mut wrong = Gathered::default();
        let states = self.status.map(|text| states(&text, words)).transpose();
        let (states, due) = wrong.take(states).unzip();
        let filter = wrong.take(LogFilter::read(
            (
                Source::Parameter("event_type"),
                listed(self.event_type).as_deref(),
            ),
            (
                Source::Parameter("response_code"),
                listed(self.response_code).as_deref(),
            ),
            (
                Source::Parameter("outcome"),
                listed(self.outcome).as_deref(),
            ),
        ));
        let webhooks = listed(self.webhook_id).as_deref().map(webhooks);
        let webhooks = wrong.take(webhooks.transpose());
        let event = self.event_id.map(|text| text.parse()).transpose();
        let event = wrong.take(event.map_err(|error: Malformed| Invalid::new("event_id", error)));
        let page = Page {
            limit: self.limit,
            cursor: self.cursor,
        };
        let (limit, before) = wrong.take(page.read::<DeliveryId>());
        let until = self.until.map(|Timestamp(at)| first_uuid_at(at));
        let before = before.map(DeliveryId::uuid);
        wrong.finish(Search {
            states,
            due: due.unwrap_or_default(),
            filter,
            webhooks,
            event,
            from: self
                .since
                .map_or(Uuid::nil(), |Timestamp(at)| first_uuid_at(at)),
            to: until
                .into_iter()
                .chain(before)
                .fold(end_of_log(), Uuid::min),
            limit,
        })
    }
}

fn webhooks(texts: &[String]) -> std::result::Result<Vec<WebhookId>, Invalids> {
    if texts.len() > MAX_WEBHOOKS {
        let bound = format!("must have at most {MAX_WEBHOOKS} entries");
        return Err(Invalid::new("webhook_id", bound).into());
    }
    let mut wrong = Gathered::default();
    let mut webhooks = Vec::with_capacity(texts.len());
    for text in texts {
        let parsed = text.trim().parse::<WebhookId>();
        let parsed = parsed.map_err(|error: Malformed| Invalid::new("webhook_id", error));
        webhooks.extend(wrong.take(parsed.map(Some)));
    }
    wrong.finish(webhooks)
}

/// One state, or several with commas between them. Answers also whether only deliveries whose
/// next attempt is due are meant.
fn states(text: &str, words: &[Word]) -> std::result::Result<(Vec<&'static str>, bool), Invalid> {
    let names: Vec<_> = text.split(',').map(str::trim).collect();
    let mut found = Vec::new();
    for name in &names {
        if *name == PROCESSING {
            found.extend(OPEN);
            continue;
        }
        let own = STATES.iter().find(|state| *state == name);
        match words.iter().find(|(word, _)| word == name) {
            Some((_, states)) => found.extend(*states),
            None => found.push(*own.ok_or_else(|| unknown(name))?),
        }
    }
    found.sort_unstable();
    found.dedup();
    let due = names.contains(&PROCESSING);
    if due && names.len() > 1 {
        let alone = "`processing` can't be combined with others";
        return Err(Invalid::new("status", alone));
    }
    Ok((found, due))
}

fn unknown(name: &str) -> Invalid {
    let others = STATES.iter().chain(&["success", "pending", PROCESSING]);
    let all: Vec<_> = others.copied().collect();
    Invalid::new(
        "status",
        format!("`{name}` is not one of {}", all.join(", ")),
    )
}
