//! A job with its verdict, on its way from `deliver` to `settle`.

use std::sync::Arc;

use shared::attempt::Report;
use shared::job::Job;
use shared::receipts::Receipt;
use shared::webhook::Webhook;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::in_flight::Mark;
use crate::judge::Verdict;
use crate::spans::JobSpans;

/// What is to be recorded about a job, and what has to outlive the recording.
pub struct Settlement {
    /// The job as it was taken.
    pub job: Job,
    pub verdict: Verdict,
    /// The attempt, if one was made.
    pub report: Option<Report>,
    /// The webhook as it was when the attempt was made.
    pub webhook_as_sent: Option<Arc<Webhook>>,
    pub receipt: Receipt,
    /// Marks the delivery as in flight until the verdict is recorded. `None` for a
    /// second copy of a job: the mark is the first copy's.
    pub mark: Option<Mark>,
    /// A process that stops waits until this is dropped.
    pub held: TaskTrackerToken,
    /// `None`: the trace isn't recorded.
    pub spans: Option<Box<JobSpans>>,
}

/// What a verdict has beside what its attempt has kept: ids, times, an error's text.
const FIXED: usize = 1024;

impl Settlement {
    /// About how many bytes PostgreSQL is sent of it.
    pub fn bytes(&self) -> usize {
        FIXED + self.report.as_ref().map_or(0, Report::kept_bytes)
    }
}
