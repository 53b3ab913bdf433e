//! A webhook, in the form that ingest matches and in the form that the dispatcher sends to.
//!
//! A [`Subscription`] has the columns that matching needs. None of them is sealed, so a
//! webhook whose secrets can't be opened is matched like any other. A [`Webhook`] has the
//! columns that delivering needs: the secrets, but no patterns, filter or metadata. The
//! types of its secrets never print them.

use std::time::Duration;

use secrecy::SecretString;
use tokio_postgres::Row;

use crate::client_certificate::ClientCertificate;
use crate::dialect::Dialect;
use crate::ids::{ExternalId, Tenant, WebhookId};
use crate::oauth::ClientCredentials;
use crate::retry::Retry;
use crate::seal::{Keyring, Unopenable};
use crate::secret::{Previous, Secret, Secrets, SigningKey};

/// The columns of a webhook that ingest matches events with.
#[derive(Debug)]
pub struct Subscription {
    pub id: WebhookId,
    pub tenant: Tenant,
    /// The patterns of event types that the webhook subscribes to.
    pub patterns: Vec<String>,
    /// The filter on the data of those events.
    pub filter: Option<serde_json::Value>,
    /// `None` means the tenant's dialect.
    pub dialect: Option<String>,
    /// Whether the webhook gets operational events, and only those.
    pub operational: bool,
    pub status: Status,
}

/// The columns of a webhook that the dispatcher needs to deliver.
#[derive(Debug)]
pub struct Webhook {
    pub id: WebhookId,
    pub tenant: Tenant,
    /// What the webhook was called in the system that it comes from.
    pub external_id: Option<ExternalId>,
    pub url: String,
    /// `None` means the tenant's dialect.
    pub dialect: Option<String>,
    /// The keys that sign: the current secret first.
    pub secrets: Secrets,
    /// Custom headers, sent with every delivery.
    pub headers: Vec<(String, SecretString)>,
    /// What the endpoint is shown in the TLS handshake, if it asks (mTLS).
    pub client_certificate: Option<ClientCertificate>,
    /// What bearer tokens for the endpoint are asked for with.
    pub oauth2: Option<ClientCredentials>,
    /// The timeout of an attempt; `None` means the server's or the dialect's
    /// default.
    pub timeout: Option<Duration>,
    /// The webhook's override of the retry schedule.
    pub retry: Option<Retry>,
    /// The webhook's rate limit.
    pub rate: Option<Rate>,
    /// Whether whole requests and answers are kept.
    pub debug_mode: bool,
    /// Whether deliveries carry the trace of their event, in the header `traceparent`.
    pub trace_header: bool,
    pub status: Status,
}

/// The sealed columns of a webhook's row, opened.
#[derive(Debug)]
pub struct Sealed {
    /// The keys that sign: the current secret first.
    pub secrets: Secrets,
    /// Custom headers, sent with every delivery.
    pub headers: Vec<(String, SecretString)>,
    pub client_certificate: Option<ClientCertificate>,
    pub oauth2: Option<ClientCredentials>,
}

/// A rate limit: at most this many attempts in any period of this length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// At least one.
    pub limit: u32,
    /// A second, a minute or an hour.
    pub period: Duration,
}

/// The status of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The webhook gets deliveries.
    Active,
    /// Deliveries are held until the webhook is active again.
    Paused,
    /// The owner switched the webhook off.
    Inactive,
    /// Posthorn switched the webhook off, because of an answer of its endpoint or
    /// because it failed for too long.
    Disabled,
    /// The webhook was deleted. Its row is kept for its log.
    Deleted,
}

impl Status {
    /// Whether new events create deliveries for the webhook.
    #[must_use]
    pub fn is_on(self) -> bool {
        matches!(self, Self::Active | Self::Paused)
    }

    /// The status as it is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Inactive => "inactive",
            Self::Disabled => "disabled",
            Self::Deleted => "deleted",
        }
    }

    /// Parses a stored status.
    #[must_use]
    pub fn read(text: &str) -> Self {
        // The table's CHECK allows no sixth status.
        [Self::Active, Self::Paused, Self::Inactive, Self::Disabled]
            .into_iter()
            .find(|status| status.as_str() == text)
            .unwrap_or(Self::Deleted)
    }
}

/// Why a row can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A secret or the headers can't be opened.
    #[error("the {0} of a webhook cannot be opened")]
    Sealed(&'static str, #[source] Unopenable),
    /// A secret or the headers were opened, but have the wrong form.
    #[error("the {0} of a webhook has the wrong form")]
    Field(&'static str),
}

/// The sealed columns, each with the name that its value is bound to. A rotation
/// copies the current value to the previous one unchanged, so both are bound to the
/// same name.
pub const SEALED: [(&str, &str); 7] = [
    ("secret", "secret"),
    ("previous_secret", "secret"),
    ("signing_key", "signing key"),
    ("previous_signing_key", "signing key"),
    ("headers", "headers"),
    ("client_certificate", "client certificate"),
    ("oauth2", "oauth2"),
];

/// The context that a sealed column is bound to (see [`crate::seal`]).
#[must_use]
pub fn seal_context(id: WebhookId, column: &str) -> String {
    format!("{id}/{column}")
}

impl Unreadable {
    /// Whether this process lacks the key that the row was sealed with. Another
    /// process may have it.
    #[must_use]
    pub fn is_missing_key(&self) -> bool {
        matches!(self, Self::Sealed(_, Unopenable::UnknownKey))
    }
}

impl Webhook {
    /// A webhook with a new secret and nothing else of its own.
    #[must_use]
    pub fn plain(tenant: Tenant, url: String) -> Self {
        Self {
            id: WebhookId::generate(),
            tenant,
            external_id: None,
            url,
            dialect: None,
            secrets: Secrets::new(Secret::generate(), None),
            headers: Vec::new(),
            client_certificate: None,
            oauth2: None,
            timeout: None,
            retry: None,
            rate: None,
            debug_mode: false,
            trace_header: true,
            status: Status::Active,
        }
    }

    /// The timeout of an attempt: the webhook's, otherwise the server's, otherwise
    /// the dialect's.
    #[must_use]
    pub fn timeout_in(&self, dialect: &Dialect, servers: Option<Duration>) -> Duration {
        let own = self.timeout.or(servers);
        own.unwrap_or(dialect.policy().timeout)
    }

    /// The columns that [`Webhook::read`] needs.
    pub const COLUMNS: &'static str = "id, tenant, external_id, url, dialect, secret, previous_secret, \
        previous_secret_until, signing_key, previous_signing_key, headers, client_certificate, \
        oauth2, timeout_ms, retry, rate_limit, rate_period_s, debug_mode, trace_header, status";

    /// Reads a row and opens its sealed columns.
    ///
    /// # Errors
    /// If a sealed column can't be opened or has the wrong form.
    pub fn read(row: &Row, keys: &Keyring) -> Result<Self, Unreadable> {
        let Sealed {
            secrets,
            headers,
            client_certificate,
            oauth2,
        } = Sealed::open(row, keys)?;
        Ok(Self {
            id: row.get("id"),
            tenant: row.get("tenant"),
            external_id: row.get("external_id"),
            url: row.get("url"),
            dialect: row.get("dialect"),
            secrets,
            headers,
            client_certificate,
            oauth2,
            timeout: row
                .get::<_, Option<i32>>("timeout_ms")
                .map(|ms| Duration::from_millis(ms as u64)),
            retry: read_retry(row)?,
            rate: Rate::read(row),
            debug_mode: row.get("debug_mode"),
            trace_header: row.get("trace_header"),
            status: Status::read(row.get("status")),
        })
    }
}

impl Subscription {
    /// The columns that [`Subscription::read`] needs.
    pub const COLUMNS: &'static str = "id, tenant, patterns, filter, dialect, operational, status";

    /// Reads a row. Opens no sealed column.
    #[must_use]
    pub fn read(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            tenant: row.get("tenant"),
            patterns: row.get("patterns"),
            filter: row.get("filter"),
            dialect: row.get("dialect"),
            operational: row.get("operational"),
            status: Status::read(row.get("status")),
        }
    }
}

impl Rate {
    /// Reads `rate_limit` and `rate_period_s` of a webhook's row.
    #[must_use]
    pub fn read(row: &Row) -> Option<Self> {
        row.get::<_, Option<i32>>("rate_limit").map(|limit| Self {
            limit: limit as u32,
            period: Duration::from_secs(row.get::<_, i32>("rate_period_s") as u64),
        })
    }
}

/// Reads a webhook's override of the retry schedule.
///
/// # Errors
/// If the row has a value that the API never accepts. Only a manual change can store
/// one.
pub fn read_retry(row: &Row) -> Result<Option<Retry>, Unreadable> {
    row.get::<_, Option<serde_json::Value>>("retry")
        .map(serde_json::from_value)
        .transpose()
        .map_err(|_| Unreadable::Field("retry"))
}

impl Sealed {
    /// The columns that [`Sealed::open`] needs, besides `id`.
    pub const COLUMNS: &'static str = "secret, previous_secret, previous_secret_until, \
        signing_key, previous_signing_key, headers, client_certificate, oauth2";

    /// Opens the sealed columns of a row.
    ///
    /// # Errors
    /// If a column can't be opened or has the wrong form.
    pub fn open(row: &Row, keys: &Keyring) -> Result<Self, Unreadable> {
        let id: WebhookId = row.get("id");
        let open = |column: &'static str, sealed: &[u8]| {
            let plain = keys
                .open(&seal_context(id, column), sealed)
                .map_err(|cause| Unreadable::Sealed(column, cause))?;
            String::from_utf8(plain).map_err(|_| Unreadable::Field(column))
        };
        let secret = |sealed: &[u8]| {
            // Deleting a webhook empties its secret.
            if sealed.is_empty() {
                return Ok(Secret::none());
            }
            Ok(Secret::stored(open("secret", sealed)?))
        };
        let signing_key = |column: &str| {
            let sealed = row.get::<_, Option<&[u8]>>(column);
            let text = sealed
                .map(|sealed| open("signing key", sealed))
                .transpose()?;
            text.map(|text| SigningKey::parse(&text))
                .transpose()
                .map_err(|_| Unreadable::Field("signing key"))
        };
        let previous = match row.get::<_, Option<&[u8]>>("previous_secret") {
            None => None,
            Some(sealed) => Some(Previous {
                secret: secret(sealed)?,
                signing_key: signing_key("previous_signing_key")?,
                // The table's CHECK requires both or neither.
                until: row.get("previous_secret_until"),
            }),
        };
        let headers = match row.get::<_, Option<&[u8]>>("headers") {
            None => Vec::new(),
            Some(sealed) => {
                serde_json::from_str::<Vec<(String, String)>>(&open("headers", sealed)?)
                    .map_err(|_| Unreadable::Field("headers"))?
            }
        };
        let optional = |column: &'static str, name: &'static str| {
            let sealed = row.get::<_, Option<&[u8]>>(column);
            sealed.map(|sealed| open(name, sealed)).transpose()
        };
        let client_certificate = optional("client_certificate", "client certificate")?
            .map(|text| {
                ClientCertificate::stored(&text).ok_or(Unreadable::Field("client certificate"))
            })
            .transpose()?;
        let oauth2 = optional("oauth2", "oauth2")?
            .map(|text| serde_json::from_str(&text).map_err(|_| Unreadable::Field("oauth2")))
            .transpose()?;
        Ok(Self {
            client_certificate,
            oauth2,
            secrets: Secrets {
                current: secret(row.get("secret"))?,
                signing_key: signing_key("signing_key")?,
                previous,
            },
            headers: headers
                .into_iter()
                .map(|(name, value)| (name, value.into()))
                .collect(),
        })
    }
}
