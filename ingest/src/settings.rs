//! Ingest's settings.

use std::net::SocketAddr;

use secrecy::{ExposeSecret, SecretString};
use shared::settings::{Common, Reader, Unusable};
use time::Duration;

/// The shortest `ADMIN_TOKEN`, in characters.
const MIN_TOKEN: usize = 16;

/// Read once, at start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What both binaries have.
    pub common: Common,
    /// `HTTP_ADDR`: where the API is served.
    pub http_addr: SocketAddr,
    /// `ADMIN_TOKEN`: a global bearer token to begin with.
    pub admin_token: Option<SecretString>,
    /// `WEBHOOK_EVENT_TTL` (s): how long events, deliveries and attempts are kept.
    pub retention: Duration,
}

impl Settings {
    /// Reads and checks all of them.
    ///
    /// # Errors
    /// Everything that is wrong, by variable.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Unusable> {
        let mut reader = Reader::new(variable);
        let settings = Self {
            common: Common::read(&mut reader),
            http_addr: reader.or("HTTP_ADDR", SocketAddr::from(([127, 0, 0, 1], 8080))),
            admin_token: reader.optional_secret("ADMIN_TOKEN"),
            retention: Duration::seconds(reader.within(
                "WEBHOOK_EVENT_TTL",
                2_592_000,
                // Duplicates are found for a day, retries go on for seven.
                8 * 86_400,
                3_650 * 86_400,
            )),
        };
        if settings
            .admin_token
            .as_ref()
            .is_some_and(|token| token.expose_secret().len() < MIN_TOKEN)
        {
            reader.problem(format!(
                "ADMIN_TOKEN must have at least {MIN_TOKEN} characters"
            ));
        }
        reader.finish()?;
        Ok(settings)
    }
}
