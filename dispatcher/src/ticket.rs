//! Is this the job that its delivery waits for? And which job follows from one whose
//! dispatcher died?
//!
//! A delivery's `due_at` is the ticket of its current job. Whoever makes another job for the
//! delivery (a retry, a deferral, the sweeper, a release, a restart) writes a new ticket in
//! the statement that decides it, and the job carries this ticket. A job with another ticket
//! than its row's is superseded, and it is dropped. Whoever wrote the new ticket makes sure
//! that its job exists.
//!
//! Two kinds of jobs may lack the job that follows. RabbitMQ delivers a job again whose
//! dispatcher may have recorded the verdict without publishing the next job. And a job whose
//! confirm was lost may be in its queue or not. For both, [`Tickets::successor`] makes the
//! job to publish now:
//!
//! - If it isn't due yet, it gets a new ticket. If there is another job, that one is
//!   superseded before it can be sent. So the delivery is neither late nor sent twice.
//! - If it is due, another one may be on its way to the endpoint. So this one is a late copy:
//!   it keeps the ticket, waits for [`LATE`], and is sent only if the row still has the same
//!   ticket then. If the old job shared its message with others, the retry or the deferral may
//!   have been published long before the message was delivered again. So the copy waits for as
//!   long as an attempt may take, and at least [`LATE`].
//!
//! A late copy that is about to be sent takes its delivery over ([`Tickets::claim`]): the time
//! until which the copy waited becomes the ticket. Its old ticket is older by the whole wait, or
//! by a whole outage. With the old ticket in the row, the sweeper would count the job as lost
//! during the request. And a job may have two copies that are due at about the same time: the
//! dispatcher that lost the confirm makes one, and the dispatcher that gets the old job again
//! makes another. The second copy would find the same ticket and be sent beside the first one.

use std::time::Duration;

use deadpool_postgres::{Client, Pool};
use shared::clock;
use shared::job::{Job, Late};
use shared::partitions::{self, Day};
use shared::supervise::until_done;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

/// How long a late copy waits for its original. If the original takes longer, the delivery is
/// sent twice. If there was no original, the delivery is late by this much.
pub const LATE: Duration = Duration::from_secs(15);
/// A job that is due later than this from now cannot have been sent yet. Dispatchers' clocks
/// differ by less.
const SOON: Duration = Duration::from_millis(300);

/// Reads and writes the tickets of deliveries.
#[derive(Clone)]
pub struct Tickets {
    pub pool: Pool,
    /// When this is cancelled, nothing waits for PostgreSQL any longer.
    pub grace_over: CancellationToken,
}

impl Tickets {
    /// Whether the job may be sent: its delivery still waits for this very job. A late copy
    /// gets a new ticket by that, and isn't a copy any more. `None`: stopping.
    ///
    /// The new ticket follows from the message alone. So the copy can be claimed again if
    /// RabbitMQ delivers its message again, but no other copy of the job can be.
    pub async fn claim(&self, job: &mut Job) -> Option<bool> {
        if job.late.is_none() {
            return self.is_current(job).await;
        }
        let is_claimed = self.take_over(job).await?;
        if is_claimed {
            job.due_at = job.when();
            job.late = None;
        }
        Some(is_claimed)
    }

    async fn is_current(&self, job: &Job) -> Option<bool> {
        until_done(
            &self.grace_over,
            "the ticket of a delivery could not be read",
            || async {
                let client = self.pool.get().await?;
                let attempt = i32::from(job.attempt);
                let restarted_at = job.restart.map(|restart| restart.at);
                let found = partitions::query_opt(
                    &client,
                    "-- recheck_delivery\n\
                 SELECT 1 FROM deliveries{day} \
                 WHERE id = $1 AND attempts = $2 - 1 AND restarted_at IS NOT DISTINCT FROM $3 \
                   AND due_at = $4 AND state IN ('queued', 'retrying')",
                    Day::from_id(job.delivery.uuid()),
                    &[&job.delivery, &attempt, &restarted_at, &job.due_at],
                )
                .await?;
                Ok(found.is_some())
            },
        )
        .await
    }

    async fn take_over(&self, copy: &Job) -> Option<bool> {
        until_done(
            &self.grace_over,
            "the ticket of a delivery could not be written",
            || async {
                let client = self.pool.get().await?;
                let attempt = i32::from(copy.attempt);
                let restarted_at = copy.restart.map(|restart| restart.at);
                let found = partitions::query_opt(
                    &client,
                    "-- claim_delivery\n\
                 UPDATE deliveries{day} SET due_at = $5 \
                 WHERE id = $1 AND attempts = $2 - 1 AND restarted_at IS NOT DISTINCT FROM $3 \
                   AND due_at IN ($4, $5) AND state IN ('queued', 'retrying') \
                 RETURNING 1",
                    Day::from_id(copy.delivery.uuid()),
                    &[
                        &copy.delivery,
                        &attempt,
                        &restarted_at,
                        &copy.due_at,
                        &copy.when(),
                    ],
                )
                .await?;
                Ok(found.is_some())
            },
        )
        .await
    }

    /// The job to publish in place of one that RabbitMQ has delivered again, or whose confirm
    /// was lost. `Some(None)` if the delivery needs none: it is finished, or another
    /// dispatcher has gone on with it. `None`: stopping. `wait_for_next`: how long a late copy of
    /// the delivery's next job (a retry or a deferral) waits for that job.
    pub async fn successor(&self, job: &Job, wait_for_next: Duration) -> Option<Option<Job>> {
        until_done(
            &self.grace_over,
            "the next job of a delivery could not be looked up",
            || async {
                let client = self.pool.get().await?;
                loop {
                    let Some(found) = find(&client, job).await? else {
                        return Ok(None);
                    };
                    match next(job, found, clock::now(), wait_for_next) {
                        Next::Late(job) => return Ok(Some(job)),
                        Next::NewTicket(job) => {
                            if let Some(due_at) = take(&client, &job).await? {
                                return Ok(Some(Job { due_at, ..job }));
                            }
                            // Another process was quicker: look again.
                        }
                    }
                }
            },
        )
        .await
    }
}

/// What the row of an open delivery says.
#[derive(Debug, Clone, Copy)]
struct Found {
    attempts: u16,
    due_at: OffsetDateTime,
}

/// The job to publish.
#[derive(Debug, PartialEq)]
enum Next {
    /// It needs a new ticket. No other job of the delivery can have been sent before that.
    NewTicket(Job),
    /// A late copy, with the ticket that the row has.
    Late(Job),
}

fn next(job: &Job, found: Found, now: OffsetDateTime, wait_for_next: Duration) -> Next {
    let attempt = found.attempts + 1;
    let is_its_own = attempt == job.attempt && found.due_at == job.due_at;
    let next = Job {
        attempt,
        due_at: found.due_at,
        recheck: true,
        // Only a copy of the same job keeps its time.
        late: job.late.filter(|_| is_its_own),
        ..job.clone()
    };
    let when = next.when();
    if when > now + SOON {
        return Next::NewTicket(next);
    }
    let wait = match is_its_own {
        true => LATE,
        false => wait_for_next,
    };
    // It follows from this moment alone, so that no two copies wait until the same time.
    let wait = if when > now { SOON + wait } else { wait };
    Next::Late(Job {
        late: Some(Late::Until(now + wait)),
        ..next
    })
}

/// The row of a delivery that waits for this job or for its next attempt. A delivery of a
/// paused webhook waits for neither.
async fn find(client: &Client, job: &Job) -> anyhow::Result<Option<Found>> {
    let attempt = i32::from(job.attempt);
    let restarted_at = job.restart.map(|restart| restart.at);
    let row = partitions::query_opt(
        client,
        "-- find_ticket\n\
         SELECT attempts, due_at FROM deliveries{day} \
         WHERE id = $1 AND attempts BETWEEN $2 - 1 AND $2 \
           AND restarted_at IS NOT DISTINCT FROM $3 \
           AND due_at IS NOT NULL AND state IN ('queued', 'retrying')",
        Day::from_id(job.delivery.uuid()),
        &[&job.delivery, &attempt, &restarted_at],
    )
    .await?;
    Ok(row.map(|row| Found {
        attempts: row.get::<_, i16>(0) as u16,
        due_at: row.get(1),
    }))
}

/// Gives a delivery that waits for this job a ticket that it never had. `None` if it has
/// another ticket by now.
async fn take(client: &Client, job: &Job) -> anyhow::Result<Option<OffsetDateTime>> {
    let attempt = i32::from(job.attempt);
    let restarted_at = job.restart.map(|restart| restart.at);
    let row = partitions::query_opt(
        client,
        "-- take_ticket\n\
         UPDATE deliveries{day} SET due_at = due_at + interval '1 microsecond' \
         WHERE id = $1 AND attempts = $2 - 1 AND restarted_at IS NOT DISTINCT FROM $3 \
           AND due_at = $4 AND state IN ('queued', 'retrying') \
         RETURNING due_at",
        Day::from_id(job.delivery.uuid()),
        &[&job.delivery, &attempt, &restarted_at, &job.due_at],
    )
    .await?;
    Ok(row.map(|row| row.get(0)))
}

#[cfg(test)]
mod tests {
    use shared::ids::{DeliveryId, EventUid, WebhookId};
    use shared::job::Payload;
    use time::Duration;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-29 10:00 UTC);

    fn job(attempt: u16, due_at: OffsetDateTime) -> Job {
        let event_uid = EventUid::at(NOW);
        Job {
            delivery: DeliveryId::for_event(event_uid),
            webhook: WebhookId::generate(),
            tenant: "acme".parse().unwrap(),
            event_uid,
            event_id: event_uid.into(),
            event_type: "order.created".parse().unwrap(),
            occurred_at: NOW,
            attempt,
            due_at,
            recheck: false,
            payload: Payload::Stored,
            restart: None,
            late: None,
            trace: None,
        }
    }

    #[test]
    fn a_retry_that_isnt_due_gets_a_new_ticket_and_is_on_time() {
        let due_at = NOW + Duration::SECOND;
        let found = Found {
            attempts: 1,
            due_at,
        };
        let Next::NewTicket(next) = next(&job(1, NOW), found, NOW, LATE) else {
            panic!("it is late");
        };
        assert_eq!((next.attempt, next.when(), next.recheck), (2, due_at, true));
    }

    #[test]
    fn a_retry_that_is_due_is_a_late_copy_with_the_same_ticket() {
        let due_at = NOW - Duration::SECOND;
        let found = Found {
            attempts: 1,
            due_at,
        };
        let Next::Late(next) = next(&job(1, due_at), found, NOW, LATE) else {
            panic!("its other may be under way");
        };
        assert_eq!((next.attempt, next.due_at), (2, due_at));
        // The promise is 20 s, of which a delay queue may take one.
        assert_eq!(next.when(), NOW + LATE);
        assert!(LATE + Duration::seconds(2) < Duration::seconds(20));
    }

    #[test]
    fn a_late_copy_of_a_retry_or_a_deferral_waits_as_long_as_it_is_told() {
        let due_at = NOW - Duration::SECOND;
        let wait = 5 * LATE;
        let until = |attempts, due_at| {
            let found = Found { attempts, due_at };
            match next(&job(1, NOW - Duration::MINUTE), found, NOW, wait) {
                Next::Late(copy) => copy.when(),
                Next::NewTicket(_) => panic!("it is late"),
            }
        };
        // A retry, and a deferral of the first attempt.
        assert_eq!(until(1, due_at), NOW + wait);
        assert_eq!(until(0, due_at), NOW + wait);
        // The job itself was not settled.
        assert_eq!(until(0, NOW - Duration::MINUTE), NOW + LATE);
    }

    #[test]
    fn two_late_copies_of_a_job_wait_until_different_times() {
        // Whichever is claimed first becomes the delivery's job, and the other one is dropped.
        for due_at in [NOW - Duration::SECOND, NOW, NOW + SOON] {
            let found = Found {
                attempts: 1,
                due_at,
            };
            let until = |now| match next(&job(1, NOW), found, now, LATE) {
                Next::Late(copy) => copy.when(),
                Next::NewTicket(_) => panic!("it is late"),
            };
            let (one, other) = (until(NOW), until(NOW + Duration::MICROSECOND));
            assert_ne!(one, other);
            assert!(one >= due_at + LATE && other >= due_at + LATE);
        }
    }

    #[test]
    fn a_late_copy_that_is_handed_out_again_keeps_its_moment() {
        let (due_at, until) = (NOW - Duration::SECOND, NOW + Duration::MINUTE);
        let found = Found {
            attempts: 0,
            due_at,
        };
        let copy = Job {
            late: Some(Late::Until(until)),
            ..job(1, due_at)
        };
        let Next::NewTicket(again) = next(&copy, found, NOW, LATE) else {
            panic!("it isn't due yet");
        };
        assert_eq!(again.when(), until);
        // Unless somebody has put the delivery off since.
        let found = Found {
            due_at: due_at + Duration::minutes(2),
            ..found
        };
        let Next::NewTicket(again) = next(&copy, found, NOW, LATE) else {
            panic!("it isn't due yet");
        };
        assert_eq!((again.when(), again.late), (found.due_at, None));
    }
}
