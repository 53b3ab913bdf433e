//! Publishes dead letters again: one of them, or all that match.
//!
//! To replay a message is to publish it to its original exchange and routing key,
//! and to delete it here after the broker's confirm. After a crash between the
//! two, the message is still here and may be replayed again: ingest recognises
//! its event by its id, or by the dead letter's id if it has none.

use std::collections::HashSet;

use axum::Json;
use axum::extract::State;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use shared::clock;
use shared::ids::DeadLetterId;
use shared::publish::Outgoing;
use utoipa::ToSchema;

use super::selection::{AT_MOST, Selection};
use super::view::unknown;
use crate::api::access::auth::Operating;
use crate::api::events::confirmed;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Body, Id, OptionalBody};
use crate::api::state::{Api, Shared};
use crate::dead_letters::letter::{Letter, Repair};
use crate::dead_letters::{query, store, tickets};

/// The most dead letters in memory at a time while they are replayed.
const AT_ONCE: i64 = 50;

/// The most bytes of these together, unless one alone has more.
const BYTES_AT_ONCE: i64 = 4 * 1024 * 1024;

/// What a replay came to.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterReplay)]
pub struct Replayed {
    /// Published again and confirmed; they are gone from here.
    pub replayed: i64,
    /// Not published to an exchange of Posthorn's before, truncated, unreadable, or a whole bundle of
    /// jobs.
    /// Replay unreadable ones one by one. Publish or discard the others by hand.
    pub skipped: i64,
    /// There may be more: 1,000 are replayed at most.
    pub more: bool,
}

/// With what an unreadable message is published anew.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = DeadLetterRepair, example = json!({
    "routing_key": "acme.order.created", "message_id": "order-4711-created", "content_type": "application/json"
}))]
#[serde(deny_unknown_fields)]
pub struct NewProperties {
    /// `<tenant>.<event type>`.
    #[schema(example = "acme.order.created", required)]
    pub routing_key: Option<String>,
    /// The event's id; without one it takes the dead letter's.
    pub message_id: Option<String>,
    /// `application/json` without one.
    pub content_type: Option<String>,
}

impl NewProperties {
    fn is_empty(&self) -> bool {
        self.routing_key.is_none() && self.message_id.is_none() && self.content_type.is_none()
    }

    fn check(&self) -> Result<Repair> {
        let (key, id) = (self.routing_key.as_deref(), self.message_id.as_deref());
        Ok(Repair::new(key, id, self.content_type.as_deref())?)
    }
}

/// Replay a dead letter
///
/// Publishes it to where it was published before. If what was wrong with it
/// still is, it comes back, with a new id. One that is unreadable needs a body
/// with a new routing key and properties, and only such a one takes one.
#[utoipa::path(
    post, path = "/{id}/replay", operation_id = "replay_dead_letter", tag = "dead letters",
    security(("token" = ["operator"])),
    params(("id" = DeadLetterId, Path)),
    request_body = Option<NewProperties>,
    responses(
        (status = 200, description = "The message is published.", body = Replayed),
        (status = 409, description = "It was not published to an exchange of Posthorn's, or is \
                                       truncated, or is a whole bundle of jobs, or is unreadable and there is no new routing \
                                       key, or is readable and there is one."),
    ),
)]
pub async fn replay(
    _: Operating,
    State(api): State<Shared>,
    Id(id): Id<DeadLetterId>,
    OptionalBody(new): OptionalBody<NewProperties>,
) -> Result<Json<Replayed>> {
    let repair = (!new.is_empty()).then(|| new.check()).transpose()?;
    let client = api.pool.get().await?;
    let letter = query::find(&client, id).await?;
    let letter = letter.ok_or_else(|| unknown(id))?;
    let message = match (letter.unreadable(), repair) {
        (Some(_), _) if letter.is_to_be_a_job() => {
            return Err(Problem::conflict(
                "it was to be a job, and is unreadable: the sweeper makes its delivery another one, so discard it",
            ));
        }
        (Some(_), Some(repair)) => letter.repaired(&repair),
        (Some(unreadable), None) => {
            return Err(Problem::conflict(format!(
                "{unreadable}: say with which `routing_key`, `message_id` and `content_type` it is to be published, or discard it"
            )));
        }
        (None, Some(_)) => {
            return Err(Problem::conflict(
                "it is readable, so it is replayed as it was published, without a body",
            ));
        }
        (None, None) => {
            let now = clock::now();
            let message = letter
                .again(now, api.publisher.shards())
                .map_err(|reason| Problem::conflict(reason.to_string()))?;
            let job: Vec<_> = letter.job().into_iter().collect();
            tickets::take_tickets(&client, &job, now).await?;
            message
        }
    };
    drop(client);
    publish_part(&api, vec![(id, message)]).await.map(Json)
}

/// Replay dead letters
///
/// Oldest first, at most 1,000.
#[utoipa::path(
    post, path = "/replay", operation_id = "replay_dead_letters", tag = "dead letters",
    security(("token" = ["operator"])),
    request_body = Selection,
    responses((status = 200, description = "The messages are published.", body = Replayed)),
)]
pub async fn replay_many(
    _: Operating,
    State(api): State<Shared>,
    Body(selection): Body<Selection>,
) -> Result<Json<Replayed>> {
    let filter = selection.narrow()?;
    let client = api.pool.get().await?;
    let last = query::newest(&client).await?;
    drop(client);
    let mut all = Replayed {
        replayed: 0,
        skipped: 0,
        more: last.is_some(),
    };
    // What comes back while this goes on is not taken again: it would go round.
    let last = last.unwrap_or_else(DeadLetterId::generate);
    let mut after = None;
    while all.more && all.replayed + all.skipped < AT_MOST {
        let client = api.pool.get().await?;
        let letters = query::next(&client, &filter, after, last, AT_ONCE, BYTES_AT_ONCE).await?;
        drop(client);
        after = letters.last().map(|letter| letter.id).or(after);
        all.more = !letters.is_empty();
        if letters.is_empty() {
            break;
        }
        let part = replay_part(&api, letters).await?;
        all.replayed += part.replayed;
        all.skipped += part.skipped;
    }
    Ok(Json(all))
}

/// Publishes what can be.
async fn replay_part(api: &Api, letters: Vec<Letter>) -> Result<Replayed> {
    let now = clock::now();
    let found = letters.len() as i64;
    // A job that is here twice goes once: both would have the same ticket.
    let mut deliveries = HashSet::new();
    let letters: Vec<_> = letters
        .into_iter()
        .filter(|letter| {
            letter
                .job()
                .is_none_or(|job| deliveries.insert(job.delivery))
        })
        .collect();
    let jobs: Vec<_> = letters.iter().filter_map(Letter::job).collect();
    let client = api.pool.get().await?;
    tickets::take_tickets(&client, &jobs, now).await?;
    drop(client);
    let messages: Vec<_> = letters
        .into_iter()
        .filter_map(|letter| Some((letter.id, letter.again(now, api.publisher.shards()).ok()?)))
        .collect();
    let skipped = found - messages.len() as i64;
    let published = publish_part(api, messages).await?;
    Ok(Replayed {
        skipped,
        ..published
    })
}

/// Publishes these, and deletes what was confirmed, before it fails for what
/// wasn't.
async fn publish_part(api: &Api, messages: Vec<(DeadLetterId, Outgoing)>) -> Result<Replayed> {
    let publishing = messages
        .into_iter()
        .map(async |(id, message)| (id, confirmed(&api.publisher, message).await));
    let published = join_all(publishing).await;
    let taken: Vec<_> = published
        .iter()
        .filter(|(_, confirmed)| confirmed.is_ok())
        .map(|(id, _)| *id)
        .collect();
    let mut client = api.pool.get().await?;
    store::delete(&mut client, &taken).await?;
    if let Some(reason) = published
        .into_iter()
        .find_map(|(_, confirmed)| confirmed.err())
    {
        return Err(Problem::unavailable(format!(
            "{reason}; what was not confirmed is still here"
        )));
    }
    Ok(Replayed {
        replayed: taken.len() as i64,
        skipped: 0,
        more: false,
    })
}
