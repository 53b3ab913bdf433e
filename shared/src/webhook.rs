//! A webhook, in the form that ingest matches and in the form that the dispatcher sends to.
//!
//! A [`Subscription`] has the columns that matching needs. None of them is sealed, so a
//! webhook whose secrets can't be opened is matched like any other. A [`Webhook`] has the
//! columns that delivering needs: the secrets, but no patterns, filter or metadata. The
//! types of its secrets never print them.

use std::time::Duration;

use secrecy::SecretString;
use tokio_postgres::Row;

use crate::dialect::Dialect;
use crate::ids::{Tenant, WebhookId};
use crate::retry::Retry;
use crate::seal::{Keyring, Unopenable};
use crate::secret::{Previous, Secret, Secrets, SigningKey};

/// What ingest matches events with.
#[derive(Debug)]
pub struct Subscription {
    /// Its webhook.
    pub id: WebhookId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Which event types it listens to.
    pub patterns: Vec<String>,
    /// Which of those events it wants.
    pub filter: Option<serde_json::Value>,
    /// Whether it gets operational events, and those alone.
    pub operational: bool,
    /// Whether it gets deliveries.
    pub status: Status,
}

/// What delivers to a webhook.
#[derive(Debug)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Where deliveries go.
    pub url: String,
    /// How deliveries look; the tenant's, if none.
    pub dialect: Option<String>,
    /// What signs: the current secret first.
    pub secrets: Secrets,
    /// Sent with every delivery.
    pub headers: Vec<(String, SecretString)>,
    /// How long an attempt may take; the server's default, if none.
    pub timeout: Option<Duration>,
    /// What it says of retries; the rest is the dialect's.
    pub retry: Option<Retry>,
    /// How many attempts it takes, and in what time.
    pub rate: Option<Rate>,
    /// Whether requests and answers are kept whole.
    pub debug_mode: bool,
    /// Whether it gets deliveries.
    pub status: Status,
}

/// What is sealed in a webhook's row, opened.
#[derive(Debug)]
pub struct Sealed {
    /// What signs: the current secret first.
    pub secrets: Secrets,
    /// Sent with every delivery.
    pub headers: Vec<(String, SecretString)>,
}

/// At most so many attempts in any period of a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many; at least one.
    pub limit: u32,
    /// A second, a minute or an hour.
    pub period: Duration,
}

/// Whether a webhook gets deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It does.
    Active,
    /// They are held until it is active again.
    Paused,
    /// Switched off by its owner.
    Inactive,
    /// Switched off by Posthorn, because of what its endpoint answered or because
    /// it failed for too long.
    Disabled,
    /// Gone, but for its log.
    Deleted,
}

impl Status {
    /// Whether events get deliveries to it.
    #[must_use]
    pub fn is_on(self) -> bool {
        matches!(self, Self::Active | Self::Paused)
    }

    /// As the table has it.
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

    /// From the table.
    #[must_use]
    pub fn read(text: &str) -> Self {
        // The table's CHECK allows no sixth.
        [Self::Active, Self::Paused, Self::Inactive, Self::Disabled]
            .into_iter()
            .find(|status| status.as_str() == text)
            .unwrap_or(Self::Deleted)
    }
}

/// Why a row can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A secret or the headers.
    #[error("opening the {0} of a webhook")]
    Sealed(&'static str, #[source] Unopenable),
    /// What was opened isn't what is sealed there.
    #[error("the {0} of a webhook cannot be read")]
    Field(&'static str),
}

/// The columns that are sealed, each with what it is bound to: a rotation moves
/// what is current to what is previous as it is.
pub const SEALED: [(&str, &str); 5] = [
    ("secret", "secret"),
    ("previous_secret", "secret"),
    ("signing_key", "signing key"),
    ("previous_signing_key", "signing key"),
    ("headers", "headers"),
];

/// What a sealed column is bound to (see [`crate::seal`]).
#[must_use]
pub fn seal_context(id: WebhookId, column: &str) -> String {
    format!("{id}/{column}")
}

impl Unreadable {
    /// Whether this process lacks the key that the row was sealed with. Another
    /// one may have it.
    #[must_use]
    pub fn is_missing_key(&self) -> bool {
        matches!(self, Self::Sealed(_, Unopenable::UnknownKey))
    }
}

impl Webhook {
    /// How long an attempt may take: its own timeout, else the server's if it
    /// has one, else the dialect's.
    #[must_use]
    pub fn timeout_in(&self, dialect: &Dialect, servers: Option<Duration>) -> Duration {
        let own = self.timeout.or(servers);
        own.unwrap_or(dialect.policy().timeout)
    }

    /// The columns that [`Webhook::read`] wants.
    pub const COLUMNS: &'static str = "id, tenant, url, dialect, secret, previous_secret, \
        previous_secret_until, signing_key, previous_signing_key, headers, timeout_ms, retry, \
        rate_limit, rate_period_s, debug_mode, status";

    /// From its row.
    ///
    /// # Errors
    /// If what is sealed doesn't open, or isn't what it should be.
    pub fn read(row: &Row, keys: &Keyring) -> Result<Self, Unreadable> {
        let Sealed { secrets, headers } = Sealed::open(row, keys)?;
        Ok(Self {
            id: row.get("id"),
            tenant: row.get("tenant"),
            url: row.get("url"),
            dialect: row.get("dialect"),
            secrets,
            headers,
            timeout: row
                .get::<_, Option<i32>>("timeout_ms")
                .map(|ms| Duration::from_millis(ms as u64)),
            retry: read_retry(row)?,
            rate: Rate::read(row),
            debug_mode: row.get("debug_mode"),
            status: Status::read(row.get("status")),
        })
    }
}

impl Subscription {
    /// The columns that [`Subscription::read`] wants.
    pub const COLUMNS: &'static str = "id, tenant, patterns, filter, operational, status";

    /// From its row. Opens nothing.
    #[must_use]
    pub fn read(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            tenant: row.get("tenant"),
            patterns: row.get("patterns"),
            filter: row.get("filter"),
            operational: row.get("operational"),
            status: Status::read(row.get("status")),
        }
    }
}

impl Rate {
    /// Of a webhook's row: `rate_limit` and `rate_period_s`.
    #[must_use]
    pub fn read(row: &Row) -> Option<Self> {
        row.get::<_, Option<i32>>("rate_limit").map(|limit| Self {
            limit: limit as u32,
            period: Duration::from_secs(row.get::<_, i32>("rate_period_s") as u64),
        })
    }
}

/// What a webhook's row says of retries.
///
/// # Errors
/// If it says what no API takes: only a row made by hand does.
pub fn read_retry(row: &Row) -> Result<Option<Retry>, Unreadable> {
    row.get::<_, Option<serde_json::Value>>("retry")
        .map(serde_json::from_value)
        .transpose()
        .map_err(|_| Unreadable::Field("retry"))
}

impl Sealed {
    /// The columns that [`Sealed::open`] wants, besides `id`.
    pub const COLUMNS: &'static str = "secret, previous_secret, previous_secret_until, \
        signing_key, previous_signing_key, headers";

    /// Opens what is sealed in a row.
    ///
    /// # Errors
    /// If it doesn't open, or isn't what it should be.
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
                // The table's CHECK has both or neither.
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
        Ok(Self {
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
