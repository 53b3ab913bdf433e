//! What a dialect adds to the API's answers, so that clients written for that system read
//! the members that they know.
//!
//! An addition is a name and a JSON pointer (RFC 6901) into the answer that the API gives
//! anyway. So a dialect can rename what there is; it can't compute anything. Two sources
//! are read from the database only for a dialect that names them: `/data` (of a delivery)
//! and `/endpoints` (of a tenant's statistics).

use toml::Value as Toml;

use super::section::{Result, Section};

/// The members of a webhook that an addition may point to.
const WEBHOOK: &[&str] = &[
    "id",
    "url",
    "events",
    "description",
    "active",
    "status",
    "filters",
    "timeout",
    "metadata",
    "external_id",
    "created_at",
    "updated_at",
    "lastTriggered",
];
/// The same of a delivery.
const DELIVERY: &[&str] = &[
    "id",
    "webhook_id",
    "event_id",
    "event_type",
    "status",
    "attempts",
    "queued_at",
    "processing_started_at",
    "delivered_at",
    "failed_at",
    "finished_at",
    "next_attempt_at",
    "response_code",
    "response_time_ms",
    "response_body",
    "error",
    DATA,
];
/// The same of statistics.
const STATS: &[&str] = &[
    "total_deliveries",
    "successful_deliveries",
    "failed_deliveries",
    "success_rate",
    "attempts",
    "retries",
    "retry_rate",
    "average_response_time_ms",
    "p95_response_time_ms",
    "last_delivery_at",
    "last_failure_at",
    ENDPOINTS,
];
/// The event's data, as a delivery's source.
const DATA: &str = "data";
/// The figures of each webhook, as a source of a tenant's statistics.
const ENDPOINTS: &str = "endpoints";

/// The section `[api]` of a dialect's file. Empty for a dialect without one.
#[derive(Debug, Clone, Default)]
pub struct Additions {
    /// To a webhook.
    pub webhook: Vec<Addition>,
    /// To a delivery.
    pub delivery: Vec<Addition>,
    /// To statistics.
    pub stats: Vec<Addition>,
    /// Whether the status of a delivery whose attempt is due is `processing`.
    pub processing: bool,
}

/// A member that an answer has in addition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    pub name: String,
    /// A JSON pointer into the answer.
    pub source: String,
}

impl Addition {
    /// The first member that it points through.
    fn first(&self) -> &str {
        first(&self.source)
    }
}

impl Additions {
    /// Whether a delivery is shown with its event's data.
    #[must_use]
    pub fn show_data(&self) -> bool {
        self.delivery.iter().any(|one| one.first() == DATA)
    }

    /// Whether a tenant's statistics are shown with those of each webhook.
    #[must_use]
    pub fn show_endpoints(&self) -> bool {
        self.stats.iter().any(|one| one.first() == ENDPOINTS)
    }
}

fn first(pointer: &str) -> &str {
    let path = pointer.strip_prefix('/').unwrap_or_default();
    path.split('/').next().unwrap_or_default()
}

/// Parses `[api]`.
pub(super) fn additions(mut section: Section) -> Result<Additions> {
    let mut of = |key: &str, sources: &[&str]| {
        if !section.table.contains_key(key) {
            return Ok(Vec::new());
        }
        list(&section.section(key)?, sources)
    };
    let (webhook, delivery) = (of("webhook", WEBHOOK)?, of("delivery", DELIVERY)?);
    let stats = of("stats", STATS)?;
    let processing = section.truth("processing")?.unwrap_or(false);
    section.finish()?;
    Ok(Additions {
        webhook,
        delivery,
        stats,
        processing,
    })
}

fn list(section: &Section, sources: &[&str]) -> Result<Vec<Addition>> {
    let entries = section.table.clone().into_iter();
    entries
        .map(|(name, value)| match value {
            Toml::String(source) if sources.contains(&first(&source)) => {
                Ok(Addition { name, source })
            }
            _ => {
                let sources: Vec<_> = sources.iter().map(|name| format!("/{name}")).collect();
                let reason = format!(
                    "must be a JSON pointer that begins with one of {}",
                    sources.join(", ")
                );
                Err(section.invalid(&name, reason))
            }
        })
        .collect()
}
