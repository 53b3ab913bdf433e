//! A webhook as ingest matches it and as the dispatcher calls it.
//!
//! Read from its row by [`Webhook::read`], which opens what is sealed. The
//! secrets stay in types that don't print them.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use time::OffsetDateTime;
use tokio_postgres::Row;

use crate::ids::{Tenant, WebhookId};
use crate::retry::Schedule;
use crate::seal::{Keyring, Unopenable, fill_random};

/// The longest secret, in characters.
pub const MAX_SECRET: usize = 256;
/// The shortest secret, in characters.
pub const MIN_SECRET: usize = 8;
/// How Standard Webhooks marks a symmetric secret.
const SECRET_PREFIX: &str = "whsec_";

/// A tenant's subscription.
#[derive(Debug)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Where deliveries go.
    pub url: String,
    /// Which event types it listens to.
    pub patterns: Vec<String>,
    /// Which of those events it wants.
    pub filter: Option<serde_json::Value>,
    /// How deliveries look; the tenant's, if none.
    pub dialect: Option<String>,
    /// What signs: the current secret first.
    pub secrets: Secrets,
    /// Sent with every delivery.
    pub headers: Vec<(String, SecretString)>,
    /// How long an attempt may take; the server's default, if none.
    pub timeout: Option<Duration>,
    /// When failed attempts are repeated; the dialect's, if none.
    pub retry: Option<Schedule>,
    /// Whether it gets deliveries.
    pub status: Status,
}

/// Whether a webhook gets deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It does.
    Active,
    /// Switched off by its owner.
    Inactive,
    /// Switched off by Posthorn, because of what its endpoint answered.
    Disabled,
    /// Gone, but for its log.
    Deleted,
}

impl Status {
    /// As the table has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Disabled => "disabled",
            Self::Deleted => "deleted",
        }
    }

    fn read(text: &str) -> Self {
        // The table's CHECK allows no fifth.
        [Self::Active, Self::Inactive, Self::Disabled]
            .into_iter()
            .find(|status| status.as_str() == text)
            .unwrap_or(Self::Deleted)
    }
}

/// One signing secret.
#[derive(Debug, Clone)]
pub struct Secret(SecretString);

/// A secret outside the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// Too short or too long, or not visible ASCII.
    #[error("secret must be {MIN_SECRET} to {MAX_SECRET} visible ASCII characters")]
    Length,
    /// Marked as base64, but isn't.
    #[error("secret starts with `whsec_` but the rest is not base64")]
    NotBase64,
}

impl Secret {
    /// A new one: `whsec_` and 32 random bytes in base64.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        fill_random(&mut bytes);
        Self(format!("{SECRET_PREFIX}{}", BASE64.encode(bytes)).into())
    }

    /// A customer's own.
    ///
    /// # Errors
    /// If it is out of bounds. The message doesn't repeat it.
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        if !(MIN_SECRET..=MAX_SECRET).contains(&text.len())
            || !text.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(BadSecret::Length);
        }
        if let Some(encoded) = text.strip_prefix(SECRET_PREFIX) {
            BASE64.decode(encoded).map_err(|_| BadSecret::NotBase64)?;
        }
        Ok(Self(text.to_owned().into()))
    }

    /// The HMAC key of Standard Webhooks: what follows `whsec_`, decoded; of any
    /// other secret, its bytes.
    #[must_use]
    pub fn key(&self) -> SecretSlice<u8> {
        let text = self.0.expose_secret();
        text.strip_prefix(SECRET_PREFIX)
            .and_then(|encoded| BASE64.decode(encoded).ok())
            .unwrap_or_else(|| text.as_bytes().to_vec())
            .into()
    }

    /// The text, to be shown once or sealed.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Enough of it to be told from another: `whsec_…ab12`.
    #[must_use]
    pub fn masked(&self) -> String {
        let text = self.expose();
        let prefix = if text.starts_with(SECRET_PREFIX) {
            SECRET_PREFIX
        } else {
            ""
        };
        // Bytes are characters here: `parse` took ASCII only.
        let tail = if text.len() >= 4 * MIN_SECRET {
            &text[text.len() - 4..]
        } else {
            ""
        };
        format!("{prefix}…{tail}")
    }
}

/// The current secret, and the one before while a rotation lasts.
#[derive(Debug, Clone)]
pub struct Secrets {
    current: Secret,
    previous: Option<(Secret, OffsetDateTime)>,
}

impl Secrets {
    /// A secret alone.
    #[must_use]
    pub fn of(current: Secret) -> Self {
        Self {
            current,
            previous: None,
        }
    }

    /// Those that sign now, the current one first.
    pub fn signing(&self, now: OffsetDateTime) -> impl Iterator<Item = &Secret> {
        let previous = self
            .previous
            .as_ref()
            .filter(|(_, until)| now < *until)
            .map(|(secret, _)| secret);
        std::iter::once(&self.current).chain(previous)
    }

    /// The current one.
    #[must_use]
    pub fn current(&self) -> &Secret {
        &self.current
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

/// What a sealed column is bound to (see [`crate::seal`]).
#[must_use]
pub fn seal_context(id: WebhookId, column: &str) -> String {
    format!("{id}/{column}")
}

impl Webhook {
    /// The columns that [`Webhook::read`] wants.
    pub const COLUMNS: &'static str = "id, tenant, url, patterns, filter, dialect, secret, \
        previous_secret, previous_secret_until, headers, timeout_ms, retry, status";

    /// From its row.
    ///
    /// # Errors
    /// If what is sealed doesn't open, or isn't what it should be.
    pub fn read(row: &Row, keys: &Keyring) -> Result<Self, Unreadable> {
        let id: WebhookId = row.get("id");
        let status = Status::read(row.get("status"));
        let open = |column: &'static str, sealed: &[u8]| {
            let plain = keys
                .open(&seal_context(id, column), sealed)
                .map_err(|cause| Unreadable::Sealed(column, cause))?;
            String::from_utf8(plain).map_err(|_| Unreadable::Field(column))
        };
        let secret = |sealed: &[u8]| {
            // Deleting a webhook empties its secret.
            let text = if sealed.is_empty() {
                String::new()
            } else {
                open("secret", sealed)?
            };
            Ok(Secret(text.into()))
        };
        let previous = row
            .get::<_, Option<&[u8]>>("previous_secret")
            .map(secret)
            .transpose()?;
        let headers = match row.get::<_, Option<&[u8]>>("headers") {
            None => Vec::new(),
            Some(sealed) => {
                serde_json::from_str::<Vec<(String, String)>>(&open("headers", sealed)?)
                    .map_err(|_| Unreadable::Field("headers"))?
            }
        };
        let retry = row
            .get::<_, Option<serde_json::Value>>("retry")
            .map(serde_json::from_value)
            .transpose()
            .map_err(|_| Unreadable::Field("retry"))?;
        Ok(Self {
            id,
            tenant: row.get("tenant"),
            url: row.get("url"),
            patterns: row.get("patterns"),
            filter: row.get("filter"),
            dialect: row.get("dialect"),
            secrets: Secrets {
                current: secret(row.get("secret"))?,
                previous: previous.zip(row.get("previous_secret_until")),
            },
            headers: headers
                .into_iter()
                .map(|(name, value)| (name, value.into()))
                .collect(),
            timeout: row
                .get::<_, Option<i32>>("timeout_ms")
                .map(|ms| Duration::from_millis(ms as u64)),
            retry,
            status,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::generate();
        let printed = format!(
            "{secret:?} {:?} {}",
            Secrets::of(secret.clone()),
            secret.masked()
        );
        assert!(!printed.contains(&secret.expose()[6..40]), "{printed}");
        assert!(secret.masked().starts_with("whsec_…"));
        assert_eq!(Secret::parse("short-one").unwrap().masked(), "…");
    }

    #[test]
    fn a_marked_secret_is_base64() {
        assert_eq!(
            Secret::parse("whsec_%%%%%%").unwrap_err(),
            BadSecret::NotBase64
        );
        assert_eq!(Secret::parse("short").unwrap_err(), BadSecret::Length);
        assert_eq!(
            Secret::parse("whsec_c2VjcmV0")
                .unwrap()
                .key()
                .expose_secret(),
            b"secret"
        );
        assert_eq!(
            Secret::parse("plain-text").unwrap().key().expose_secret(),
            b"plain-text"
        );
    }

    #[test]
    fn during_a_rotation_both_secrets_sign() {
        let now = OffsetDateTime::now_utc();
        let until = now + time::Duration::HOUR;
        let secrets = Secrets {
            current: Secret::generate(),
            previous: Some((Secret::generate(), until)),
        };
        assert_eq!(secrets.signing(now).count(), 2);
        assert_eq!(secrets.signing(until).count(), 1);
    }
}
