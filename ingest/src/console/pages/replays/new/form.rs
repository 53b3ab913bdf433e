//! What was entered into the form for a new replay, and the request that it stands for.

use shared::clock;
use shared::ids::WebhookId;
use time::OffsetDateTime;

use crate::api::access::role::Role;
use crate::api::deliveries::all_replays::{self, NewBackfill};
use crate::api::deliveries::replays::{self, NewReplay, ReplayAnswer};
use crate::console::failure::{Failure, Result};
use crate::console::fields::Fields;
use crate::console::query::moment;
use crate::console::state::Console;
use crate::console::visit::ManagerVisit;
use crate::invalid::{Gathered, Invalid};
use crate::timestamp::Timestamp;

/// The field that says that the form asked for states.
pub(super) const ASKED_STATES: &str = "states";

/// What the form for a new replay has in it: from a link, or as it was sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Form {
    pub(super) webhook: String,
    pub(super) kind: String,
    pub(super) status: Vec<String>,
    pub(super) since: String,
    pub(super) until: String,
    pub(super) types: String,
    pub(super) code: String,
    pub(super) outcome: String,
    pub(super) rate: String,
    pub(super) ramp: bool,
}

impl Form {
    pub(super) fn read(fields: &Fields) -> Self {
        let mut form = Self {
            webhook: fields.text("webhook").trim().to_owned(),
            kind: fields.text("kind").to_owned(),
            status: fields.all("status").map(str::to_owned).collect(),
            since: fields.text("since").trim().to_owned(),
            until: fields.text("until").trim().to_owned(),
            types: fields.text("types").trim().to_owned(),
            code: fields.text("code").trim().to_owned(),
            outcome: fields.text("outcome").trim().to_owned(),
            rate: fields
                .filled("other_rate")
                .or(fields.filled("rate"))
                .unwrap_or("10")
                .to_owned(),
            ramp: fields.has("ramp"),
        };
        // A backfill's form doesn't ask for states. Where it asked, none means none.
        if form.status.is_empty() && !fields.has(ASKED_STATES) {
            form.status = vec!["failed".to_owned(), "expired".to_owned()];
        }
        form
    }

    /// Since when, until when, and at which rate. Where one is none, another stands for it.
    fn times_and_rate(&self, wrong: &mut Gathered) -> (Timestamp, Option<Timestamp>, Option<i32>) {
        let now = clock::now();
        let time = |field: &str, text: &str| {
            let bound = "must be a time, like 3h, yesterday or 2026-11-26 07:29 (UTC)";
            moment(text, now).ok_or_else(|| Invalid::new(field, bound))
        };
        let since = wrong.keep(time("since", &self.since));
        let until = match self.until.as_str() {
            "" | "now" => None,
            text => wrong.keep(time("until", text)),
        };
        let rate = self.rate.parse();
        let bound = "must be a number of deliveries a second";
        let rate = wrong.keep(rate.map_err(|_| Invalid::new("rate", bound)));
        let since = since.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        (Timestamp(since), until.map(Timestamp), rate)
    }

    fn replay(&self, dry_run: bool) -> Result<NewReplay> {
        let mut wrong = Gathered::default();
        let (since, until, rate) = self.times_and_rate(&mut wrong);
        if self.status.is_empty() {
            wrong.add(Invalid::new("status", "choose at least one state"));
        }
        let list = |text: &str| {
            let parts = text.split([',', ' ']).filter(|part| !part.is_empty());
            Some(parts.map(str::to_owned).collect::<Vec<_>>()).filter(|parts| !parts.is_empty())
        };
        let new = NewReplay {
            since,
            until,
            status: Some(self.status.clone()),
            event_types: list(&self.types),
            response_code: list(&self.code),
            outcome: list(&self.outcome),
            ramp: self.ramp,
            dry_run,
            rate,
        };
        if !wrong.is_empty() {
            // What the API would refuse is said at once.
            let mut checked = new.clone();
            checked.status = checked.status.filter(|states| !states.is_empty());
            wrong.take(checked.check().map(drop));
        }
        Ok(wrong.finish(new)?)
    }

    fn backfill(&self, dry_run: bool) -> Result<NewBackfill> {
        let mut wrong = Gathered::default();
        let (since, until, rate) = self.times_and_rate(&mut wrong);
        Ok(wrong.finish(NewBackfill {
            since,
            until,
            dry_run,
            rate,
            ramp: self.ramp,
        })?)
    }

    /// Counts, or starts.
    pub(super) async fn send(
        &self,
        console: &Console,
        visit: &ManagerVisit,
        dry_run: bool,
    ) -> Result<ReplayAnswer> {
        // It counts among the tenant's requests until the answer is there.
        let acting = visit.acting::<{ Role::Manager as u8 }, false>().await?;
        let (api, tenant) = (&*console.api, &acting.tenant);
        if self.webhook.is_empty() {
            return Ok(all_replays::begin_all(api, tenant, self.replay(dry_run)?).await?);
        }
        let webhook: WebhookId = self
            .webhook
            .parse()
            .map_err(|_| Failure::not_found(format!("there is no webhook {}", self.webhook)))?;
        Ok(match self.kind.as_str() {
            "backfill" => {
                let new = self.backfill(dry_run)?;
                all_replays::begin_backfill(api, tenant, webhook, new).await?
            }
            _ => replays::begin(api, tenant, webhook, self.replay(dry_run)?).await?,
        })
    }
}
