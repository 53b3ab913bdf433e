//! The spans of one job: `wait`, `admit`, `attempt`, `settle`, below one span `deliver`.
//!
//! `deliver` is below ingest's `publish`, for a retry as for the first attempt. It begins
//! when the job was published first, so that `wait` shows the queues and the retry's delay.
//! Each stage begins where the one before it ends.

use shared::attempt::Report;
use shared::clock;
use shared::job::Job;
use shared::trace::{Span, SpanKind, TraceContext};
use time::OffsetDateTime;

use crate::judge::Verdict;

/// Of a job whose trace is recorded.
pub struct JobSpans {
    deliver: Span,
    /// When the current stage began.
    stage: OffsetDateTime,
}

impl JobSpans {
    /// When a job is taken that is due.
    #[must_use]
    pub fn begin(job: &Job) -> Option<Box<Self>> {
        // A trace that isn't recorded was decided on by ingest or by the producer.
        let trace = job.trace.filter(|trace| trace.parent.is_sampled())?;
        let kind = SpanKind::Consumer;
        let mut deliver = Span::first("deliver", kind, Some(trace.parent), trace.since)?;
        deliver.set("posthorn.tenant", job.tenant.to_string());
        deliver.set("posthorn.webhook", job.webhook.to_string());
        deliver.set("posthorn.delivery", job.delivery.to_string());
        deliver.set("posthorn.attempt", i64::from(job.attempt));
        let mut spans = Self {
            deliver,
            stage: trace.since,
        };
        spans.end_stage("wait");
        Some(Box::new(spans))
    }

    pub fn end_stage(&mut self, name: &'static str) {
        let span = self.deliver.child(name, SpanKind::Internal, self.stage);
        self.stage = clock::now();
        span.end(self.stage);
    }

    /// The span of the request. Its context goes to the endpoint.
    #[must_use]
    pub fn attempt(&self) -> Span {
        self.deliver.child("attempt", SpanKind::Client, self.stage)
    }

    pub fn end_attempt(&mut self, mut attempt: Span, report: &Report) {
        attempt.set("http.request.method", "POST");
        if let Some(request) = &report.request {
            attempt.set("server.address", request.host.clone());
        }
        attempt.set("posthorn.outcome", report.outcome());
        match &report.result {
            Ok(answer) => {
                attempt.set("http.response.status_code", i64::from(answer.status));
                if !(200..300).contains(&answer.status) {
                    attempt.fail(report.outcome());
                }
            }
            Err(failure) => attempt.fail(failure.to_string()),
        }
        self.stage = clock::now();
        attempt.end(self.stage);
    }

    /// The verdict is on record.
    pub fn end(mut self, verdict: &Verdict) {
        self.end_stage("settle");
        self.deliver.set("posthorn.verdict", verdict.as_str());
        self.deliver.end(self.stage);
    }
}

/// What the request takes along: the attempt's span, or else the trace as it came.
#[must_use]
pub fn of_request(attempt: Option<&Span>, job: &Job) -> Option<TraceContext> {
    match attempt {
        Some(attempt) => Some(attempt.context()),
        None => job.trace.map(|trace| trace.parent),
    }
}
