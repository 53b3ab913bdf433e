//! `posthorn-ingest dialect preview`: prints the request that would deliver an event.
//!
//! The code that delivers composes it, so what is printed is what a receiver would
//! get, byte for byte. No server is needed.

use clap::Args;
use shared::dialect::{Dialects, Message};
use shared::ids::{
    DeliveryId, EventId, EventType, EventUid, ExternalId, Tenant, WebhookId, time_of,
};
use shared::secret::{Secret, Secrets};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::decode::MAX_DATA;
use crate::json_text::{MAX_DEPTH, depth};

/// An event, and who it is for.
#[derive(Debug, Args)]
pub struct Preview {
    /// The dialect's name.
    dialect: String,
    /// The event's type.
    #[arg(long = "type", default_value = "order.created")]
    event_type: EventType,
    /// The event's data, as JSON.
    #[arg(long, default_value = "{}")]
    data: String,
    /// The event's id; generated unless given.
    #[arg(long)]
    id: Option<EventId>,
    /// When it happened (RFC 3339); now, unless given.
    #[arg(long, value_parser = moment)]
    occurred_at: Option<OffsetDateTime>,
    /// When it is sent (RFC 3339); now, unless given.
    #[arg(long, value_parser = moment)]
    sent_at: Option<OffsetDateTime>,
    /// The webhook's secret.
    #[arg(long, default_value = "whsec_c2VjcmV0LWZvci1leGFtcGxlcy1vbmx5")]
    secret: String,
    /// Whose event it is.
    #[arg(long, default_value = "acme")]
    tenant: Tenant,
    /// The webhook's id; generated unless given.
    #[arg(long)]
    webhook: Option<WebhookId>,
    /// The webhook's external id; none unless given.
    #[arg(long)]
    external_id: Option<ExternalId>,
    /// The delivery's id; generated unless given.
    #[arg(long)]
    delivery: Option<DeliveryId>,
}

fn moment(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "is not an RFC 3339 time".to_owned())
}

impl Preview {
    /// The request's headers and body, as HTTP/1.1 has them.
    ///
    /// # Errors
    /// If there is no such dialect, or no event or secret could be like this.
    pub fn write(&self, dialects: &Dialects) -> anyhow::Result<String> {
        let dialect = dialects.get(&self.dialect).ok_or_else(|| {
            let names: Vec<_> = dialects.names().collect();
            anyhow::anyhow!(
                "there is no dialect `{}`; there is {}",
                self.dialect,
                names.join(", ")
            )
        })?;
        let data: &serde_json::value::RawValue = serde_json::from_str(&self.data)
            .map_err(|error| anyhow::anyhow!("--data is not JSON: {error}"))?;
        anyhow::ensure!(
            data.get().len() <= MAX_DATA && depth(data.get()) <= MAX_DEPTH,
            "--data is over {MAX_DATA} bytes or {MAX_DEPTH} levels deep"
        );
        let secret =
            Secret::parse(&self.secret).map_err(|error| anyhow::anyhow!("--secret {error}"))?;
        let now = OffsetDateTime::now_utc();
        let uid = EventUid::at(now);
        let generated = uid.into();
        let wire = dialect.compose(
            &Message {
                event_id: self.id.as_ref().unwrap_or(&generated),
                event_type: &self.event_type,
                occurred_at: self.occurred_at.unwrap_or_else(|| time_of(uid.uuid())),
                data: data.get(),
                attributes: None,
                tenant: &self.tenant,
                webhook_id: self.webhook.unwrap_or_else(WebhookId::generate),
                external_id: self.external_id.as_ref(),
                delivery_id: self.delivery.unwrap_or_else(|| DeliveryId::for_event(uid)),
            },
            &Secrets::new(secret, None),
            self.sent_at.unwrap_or(now),
        );
        let mut text = String::new();
        for (name, value) in &wire.headers {
            text.push_str(&format!("{name}: {}\n", value.to_str().unwrap_or_default()));
        }
        text.push('\n');
        text.push_str(&String::from_utf8_lossy(&wire.body));
        Ok(text)
    }
}

/// The dialects, a line each.
#[must_use]
pub fn list(dialects: &Dialects) -> String {
    let lines: Vec<_> = dialects
        .iter()
        .map(|dialect| format!("{:<14} {}", dialect.name(), dialect.description()))
        .collect();
    lines.join("\n")
}
