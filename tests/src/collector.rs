//! An OpenTelemetry collector that keeps what it gets: spans, over OTLP (HTTP, protobuf).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use tokio::net::TcpListener;

/// A span that was exported.
#[derive(Debug, Clone)]
pub struct Span {
    /// The exporting service.
    pub service: String,
    pub name: String,
    /// In hexadecimal, as the parent's.
    pub trace: String,
    pub id: String,
    /// Empty if there is none.
    pub parent: String,
    /// In nanoseconds since 1970.
    pub start: u64,
    pub end: u64,
    pub failed: bool,
    /// Text, or a number as text.
    pub attributes: HashMap<String, String>,
}

/// A running collector. Stops when dropped.
pub struct Collector {
    address: SocketAddr,
    spans: Spans,
    serving: tokio::task::JoinHandle<()>,
}

type Spans = Arc<Mutex<Vec<Span>>>;

impl Collector {
    /// Starts a collector on a free port.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let spans = Spans::default();
        let router = Router::new()
            .route("/v1/traces", post(keep))
            .with_state(spans.clone());
        let serving = tokio::spawn(async move {
            // Ends when the collector is dropped.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            address,
            spans,
            serving,
        })
    }

    /// The value of `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The spans so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn keep(State(spans): State<Spans>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return StatusCode::BAD_REQUEST;
    };
    let mut kept = spans.lock().unwrap_or_else(PoisonError::into_inner);
    for of_process in request.resource_spans {
        let resource = of_process.resource.unwrap_or_default();
        let service = texts(resource.attributes)
            .remove("service.name")
            .unwrap_or_default();
        let spans = of_process.scope_spans.into_iter();
        kept.extend(spans.flat_map(|scope| scope.spans).map(|span| Span {
            service: service.clone(),
            name: span.name,
            trace: hex::encode(span.trace_id),
            id: hex::encode(span.span_id),
            parent: hex::encode(span.parent_span_id),
            start: span.start_time_unix_nano,
            end: span.end_time_unix_nano,
            failed: span.status.is_some_and(|status| status.code == 2),
            attributes: texts(span.attributes),
        }));
    }
    StatusCode::OK
}

fn texts(attributes: Vec<KeyValue>) -> HashMap<String, String> {
    let text = |value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let attributes = attributes.into_iter();
    let known = attributes.filter_map(|one| Some((one.key, text(one.value?.value?))));
    known.collect()
}
