//! Traces: spans of what happens to an event, exported over OTLP.
//!
//! Ingest and the dispatcher open a [`Span`] where a stage begins and end it where the
//! stage is over. Ended spans go to a bounded queue, which a thread of the OpenTelemetry SDK
//! empties; what doesn't fit is dropped, so that a slow collector delays nothing.
//!
//! Without `OTEL_EXPORTER_OTLP_ENDPOINT` there is no exporter. Then [`Span::first`] returns
//! `None` after one atomic load, and nothing else happens. The spans of an event that isn't
//! sampled cost the same and a random number.

mod context;

use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use opentelemetry::trace::{SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor,
};
use time::OffsetDateTime;
use url::Url;

pub use context::{JobTrace, TRACEPARENT, TraceContext};
pub use opentelemetry::trace::SpanKind;

/// How long a process that stops waits for its last spans to be exported.
const LAST_EXPORT: Duration = Duration::from_secs(3);

/// Where spans go, and which traces are recorded.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`: the collector, without `/v1/traces`. `None`: no spans.
    pub endpoint: Option<Url>,
    /// `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`.
    pub sampler: Sampler,
}

/// Decides which traces are recorded. The names are those of OpenTelemetry.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sampler {
    /// Whether the producer's decision counts, for events that come with a trace.
    is_parent_based: bool,
    /// The share of all other traces, from 0 to 1.
    ratio: f64,
}

impl Sampler {
    /// `None`: OpenTelemetry has no sampler of this name, or it needs arguments of its own.
    #[must_use]
    pub fn new(name: &str, ratio: f64) -> Option<Self> {
        let (is_parent_based, name) = match name.strip_prefix("parentbased_") {
            Some(name) => (true, name),
            None => (false, name),
        };
        let ratio = match name {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => ratio,
            _ => return None,
        };
        Some(Self {
            is_parent_based,
            ratio,
        })
    }

    fn samples(&self, parent: Option<TraceContext>, trace: TraceId) -> bool {
        if let Some(parent) = parent
            && self.is_parent_based
        {
            return parent.is_sampled();
        }
        // As other SDKs decide, so that all services of a trace come to the same decision:
        // by the lower half of the trace's id.
        let [.., b0, b1, b2, b3, b4, b5, b6, b7] = trace.to_bytes();
        let lower = u64::from_be_bytes([b0, b1, b2, b3, b4, b5, b6, b7]) >> 1;
        (lower as f64) < self.ratio * (1_u64 << 63) as f64
    }
}

struct Exporter {
    processor: BatchSpanProcessor,
    sampler: Sampler,
}

static EXPORTER: OnceLock<Exporter> = OnceLock::new();

/// Whether this process exports spans.
#[must_use]
pub fn is_on() -> bool {
    EXPORTER.get().is_some()
}

/// Starts exporting spans, if there is an endpoint. The exporter reads the other variables of
/// OpenTelemetry itself, such as `OTEL_EXPORTER_OTLP_HEADERS`.
///
/// # Errors
/// If such a variable isn't valid.
pub fn start(settings: &Settings, service: &'static str) -> anyhow::Result<()> {
    let Some(endpoint) = &settings.endpoint else {
        return Ok(());
    };
    // This fails only if a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let endpoint = format!("{}/v1/traces", endpoint.as_str().trim_end_matches('/'));
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(endpoint)
        .build()
        .context("OTEL_EXPORTER_OTLP_ENDPOINT: the exporter of spans can't be started")?;
    let mut processor = BatchSpanProcessor::builder(exporter).build();
    let resource = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
        Some(_) => resource,
        None => resource.with_service_name(service),
    };
    processor.set_resource(&resource.build());
    let sampler = settings.sampler;
    // A second call would be a mistake in `main`; the first exporter stays.
    let _ = EXPORTER.set(Exporter { processor, sampler });
    Ok(())
}

/// Exports the last spans, within [`LAST_EXPORT`].
pub async fn stop() {
    if let Some(exporter) = EXPORTER.get() {
        let stopped =
            tokio::task::spawn_blocking(|| exporter.processor.shutdown_with_timeout(LAST_EXPORT));
        // What can't be exported is lost; the SDK says so.
        let _ = stopped.await;
    }
}

/// A span that isn't ended yet. One that is dropped is never exported.
#[derive(Debug)]
pub struct Span {
    context: TraceContext,
    parent: SpanId,
    /// Whether the parent is another process's.
    parent_is_remote: bool,
    kind: SpanKind,
    name: &'static str,
    start: OffsetDateTime,
    attributes: Vec<KeyValue>,
    status: Status,
}

impl Span {
    /// The first span of a process in a trace. `None` unless the trace is recorded and this
    /// process exports spans.
    #[must_use]
    pub fn first(
        name: &'static str,
        kind: SpanKind,
        parent: Option<TraceContext>,
        start: OffsetDateTime,
    ) -> Option<Self> {
        let exporter = EXPORTER.get()?;
        let trace = match parent {
            Some(parent) => parent.trace,
            None => TraceId::from(fastrand::u128(1..)),
        };
        let is_sampled = exporter.sampler.samples(parent, trace);
        is_sampled.then(|| {
            let above = parent.map(|parent| parent.span);
            Self::new(trace, above, above.is_some(), name, kind, start)
        })
    }

    /// A span below this one.
    #[must_use]
    pub fn child(&self, name: &'static str, kind: SpanKind, start: OffsetDateTime) -> Self {
        let TraceContext { trace, span, .. } = self.context;
        Self::new(trace, Some(span), false, name, kind, start)
    }

    fn new(
        trace: TraceId,
        parent: Option<SpanId>,
        parent_is_remote: bool,
        name: &'static str,
        kind: SpanKind,
        start: OffsetDateTime,
    ) -> Self {
        Self {
            context: TraceContext {
                trace,
                span: SpanId::from(fastrand::u64(1..)),
                flags: TraceFlags::SAMPLED,
            },
            parent: parent.unwrap_or(SpanId::INVALID),
            parent_is_remote,
            kind,
            name,
            start,
            attributes: Vec::new(),
            status: Status::Unset,
        }
    }

    /// What a message or a request takes along, to be below this span.
    #[must_use]
    pub fn context(&self) -> TraceContext {
        self.context
    }

    pub fn set_start(&mut self, start: OffsetDateTime) {
        self.start = start;
    }

    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.attributes.push(KeyValue::new(key, value));
    }

    /// Marks the span as failed.
    pub fn fail(&mut self, reason: impl Into<Cow<'static, str>>) {
        self.status = Status::error(reason);
    }

    /// Ends the span; the exporter has it from now on.
    pub fn end(self, end: OffsetDateTime) {
        let Some(exporter) = EXPORTER.get() else {
            return;
        };
        let TraceContext { trace, span, flags } = self.context;
        exporter.processor.on_end(SpanData {
            span_context: SpanContext::new(trace, span, flags, false, TraceState::NONE),
            parent_span_id: self.parent,
            parent_span_is_remote: self.parent_is_remote,
            span_kind: self.kind,
            name: self.name.into(),
            start_time: self.start.into(),
            // PostgreSQL's time is measured anew now and then, so it may step back a little.
            end_time: end.max(self.start).into(),
            attributes: self.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: self.status,
            instrumentation_scope: InstrumentationScope::builder("posthorn").build(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(sampled: &str) -> Option<TraceContext> {
        let value = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{sampled}");
        TraceContext::parse(value.as_bytes())
    }

    #[test]
    fn a_process_without_an_endpoint_makes_no_spans() {
        assert!(!is_on());
        let now = OffsetDateTime::UNIX_EPOCH;
        assert!(Span::first("accept", SpanKind::Consumer, context("01"), now).is_none());
    }

    #[test]
    fn a_producers_decision_counts_unless_the_sampler_says_otherwise() {
        let trace = context("01").map(|context| context.trace_id()).unwrap();
        for (name, decisions) in [
            ("parentbased_always_off", [true, false, false]),
            ("parentbased_always_on", [true, false, true]),
            ("always_on", [true, true, true]),
            ("always_off", [false, false, false]),
        ] {
            let sampler = Sampler::new(name, 0.5).unwrap();
            let parents = [context("01"), context("00"), None];
            let decided = parents.map(|parent| sampler.samples(parent, trace));
            assert_eq!(decided, decisions, "{name}");
        }
        assert_eq!(Sampler::new("sometimes", 0.5), None);
    }

    #[test]
    fn about_as_many_traces_are_recorded_as_the_ratio_says() {
        let sampler = Sampler::new("parentbased_traceidratio", 0.1).unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        let sampled =
            (0..10_000).filter(|_| sampler.samples(None, TraceId::from(random.u128(1..))));
        // Ten standard deviations (30 each) around the expected 1,000.
        assert!((700..1_300).contains(&sampled.count()));
    }
}
