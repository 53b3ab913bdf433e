//! Ingest's settings.

use std::net::SocketAddr;

use axum::http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use shared::settings::{Common, Defaults, Reader, Unusable};
use time::Duration;
use url::Url;

use crate::api::access::jwt;
use crate::dead_letters::store::Room;

/// The shortest `ADMIN_TOKEN`, in characters.
const MIN_TOKEN: usize = 16;

/// Read once, at start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What both binaries have.
    pub common: Common,
    /// What holds where a webhook says nothing: tests keep to it.
    pub defaults: Defaults,
    /// `HTTP_ADDR`: where the API is served.
    pub http_addr: SocketAddr,
    /// `ADMIN_TOKEN`: a global bearer token to begin with.
    pub admin_token: Option<SecretString>,
    /// `JWT_…`: the JWTs that are accepted beside API tokens.
    pub jwt: jwt::Settings,
    /// `API_RATE_LIMIT`: requests a second and token; 0: as many as there are.
    pub api_rate_limit: u32,
    /// `CONSOLE`: whether the API's process serves the console.
    pub console: bool,
    /// `JOB_BUNDLES`: whether first attempts share messages.
    pub job_bundles: bool,
    /// `CORS_ORIGINS`: whose pages may use the API.
    pub cors_origins: Vec<HeaderValue>,
    /// `WEBHOOK_EVENT_TTL` (s): how long events, deliveries and attempts are kept.
    pub retention: Duration,
    /// `WEBHOOK_METRICS`: whether `/metrics/webhooks` shows webhooks to the operator.
    pub webhook_metrics: bool,
    /// `DEAD_LETTERS_BYTES`: what dead letters may take, of all tenants.
    pub dead_letters: Room,
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
            defaults: Defaults::read(&mut reader),
            http_addr: reader.or("HTTP_ADDR", SocketAddr::from(([127, 0, 0, 1], 8080))),
            admin_token: reader.optional_secret("ADMIN_TOKEN"),
            jwt: jwt(&mut reader),
            api_rate_limit: reader.within("API_RATE_LIMIT", 200, 0, 1_000_000),
            console: on_or_off(&mut reader, "CONSOLE"),
            job_bundles: on_or_off(&mut reader, "JOB_BUNDLES"),
            cors_origins: origins(&mut reader),
            retention: Duration::seconds(reader.within(
                "WEBHOOK_EVENT_TTL",
                2_592_000,
                // Duplicates are found for a day, retries go on for seven.
                8 * 86_400,
                3_650 * 86_400,
            )),
            webhook_metrics: reader.or("WEBHOOK_METRICS", false),
            dead_letters: Room {
                // A quarter of the least is three of the largest messages.
                all: reader.within("DEAD_LETTERS_BYTES", 1 << 30, 16 << 20, 1 << 40),
            },
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
        // A header can't have others, and white space around it is taken away.
        let visible =
            |token: &SecretString| token.expose_secret().bytes().all(|b| b.is_ascii_graphic());
        if !settings.admin_token.as_ref().is_none_or(visible) {
            reader.problem(
                "ADMIN_TOKEN must be visible ASCII characters, without white space: no request could \
                 have it otherwise"
                    .to_owned(),
            );
        }
        reader.finish()?;
        Ok(settings)
    }
}

fn jwt(reader: &mut Reader<'_>) -> jwt::Settings {
    let settings = jwt::Settings {
        secret: reader.optional_secret("JWT_SECRET"),
        jwks_file: reader.optional("JWT_JWKS_FILE"),
        tenant_claim: reader.or("JWT_TENANT_CLAIM", "tenant".to_owned()),
        role_claim: reader.or("JWT_ROLE_CLAIM", "role".to_owned()),
        owner_claim: reader.optional("JWT_OWNER_CLAIM"),
        issuer: reader.optional("JWT_ISSUER"),
        audience: reader.optional("JWT_AUDIENCE"),
    };
    let short = |secret: &SecretString| secret.expose_secret().len() < jwt::MIN_SECRET;
    if settings.secret.as_ref().is_some_and(short) {
        reader.problem(format!(
            "JWT_SECRET must have at least {} bytes",
            jwt::MIN_SECRET
        ));
    }
    settings
}

/// On unless it says `off`.
fn on_or_off(reader: &mut Reader<'_>, name: &str) -> bool {
    match reader.optional::<String>(name).as_deref() {
        None | Some("on") => true,
        Some("off") => false,
        Some(other) => {
            reader.problem(format!("{name} must be on or off, not `{other}`"));
            false
        }
    }
}

fn origins(reader: &mut Reader<'_>) -> Vec<HeaderValue> {
    let list = reader
        .optional::<String>("CORS_ORIGINS")
        .unwrap_or_default();
    let entries = list
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty());
    let mut origins = Vec::new();
    for entry in entries {
        // As browsers write it: no path, no port that goes without saying.
        let same = Url::parse(entry).is_ok_and(|url| url.origin().ascii_serialization() == entry);
        match HeaderValue::from_str(entry) {
            Ok(origin) if same => origins.push(origin),
            _ => reader.problem(format!(
                "CORS_ORIGINS: `{entry}` is not like `https://app.example.com`"
            )),
        }
    }
    origins
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str, value: &str) -> String {
        let pairs = [
            ("DATABASE_URL", "postgres://localhost/posthorn"),
            ("AMQP_URL", "amqp://localhost"),
            ("MASTER_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            (name, value),
        ];
        let variable = |name: &str| {
            let pair = pairs.iter().find(|(key, _)| *key == name);
            pair.map(|(_, value)| (*value).to_owned())
        };
        match Settings::read(&variable) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_the_api_cannot_use_is_named() {
        assert_eq!(
            refused("CORS_ORIGINS", "https://a.example, http://localhost:3000"),
            ""
        );
        for (name, value) in [
            ("CONSOLE", "maybe"),
            ("CORS_ORIGINS", "*"),
            ("CORS_ORIGINS", "https://a.example/"),
            ("CORS_ORIGINS", "a.example"),
            ("JWT_SECRET", "short-secret"),
            ("API_RATE_LIMIT", "-1"),
            ("ADMIN_TOKEN", "short"),
            ("ADMIN_TOKEN", "short-but-long-enough "),
            ("ADMIN_TOKEN", "\tshort-but-long-enough"),
            ("ADMIN_TOKEN", "short but long enough"),
            ("ADMIN_TOKEN", "shört-but-long-enough\n"),
        ] {
            let error = refused(name, value);
            assert!(error.contains(name), "{name}={value}: {error}");
            assert!(!error.contains("short"), "{error}");
        }
    }
}
