//! What endpoints behind walls want: client certificates and OAuth 2. The forms, and their bounds.

use serde::Deserialize;
use shared::client_certificate::ClientCertificate;
use shared::destination::Destinations;
use shared::oauth::ClientCredentials;
use utoipa::ToSchema;

use crate::invalid::{Gathered, Invalid, Invalids};

/// The longest client id, scope and audience, in bytes.
const MAX_TEXT: usize = 1024;
/// The longest client secret, in bytes.
const MAX_SECRET: usize = 1024;

/// A client certificate, which the endpoint is shown in the TLS handshake (mTLS).
#[derive(Deserialize, ToSchema)]
#[schema(as = NewClientCertificate)]
#[serde(deny_unknown_fields)]
pub struct CertificateForm {
    /// The certificate, and those that it was signed with, in PEM. At most 16 KiB.
    #[schema(max_length = 16384, example = "-----BEGIN CERTIFICATE-----…")]
    certificate: String,
    /// Its private key in PEM, without a password. It is not shown again. At most 16 KiB.
    #[schema(max_length = 16384, example = "-----BEGIN PRIVATE KEY-----…")]
    private_key: String,
}

/// OAuth 2 client credentials (RFC 6749, section 4.4): deliveries carry a bearer token.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewOAuth2)]
#[serde(deny_unknown_fields)]
pub struct OAuthForm {
    /// Where tokens are asked for: HTTPS, at a public address.
    #[serde(alias = "tokenUrl")]
    #[schema(max_length = 2048, example = "https://login.example.com/oauth2/token")]
    token_url: String,
    #[serde(alias = "clientId")]
    #[schema(min_length = 1, max_length = 1024, example = "posthorn")]
    client_id: String,
    /// It is not shown again.
    #[serde(alias = "clientSecret")]
    #[schema(min_length = 1, max_length = 1024)]
    client_secret: String,
    #[schema(max_length = 1024, example = "events.write")]
    scope: Option<String>,
    #[schema(max_length = 1024)]
    audience: Option<String>,
}

pub(super) fn certificate(
    form: Option<Option<CertificateForm>>,
) -> Result<Option<Option<ClientCertificate>>, Invalid> {
    let parse = |form: CertificateForm| {
        let parsed = ClientCertificate::parse(form.certificate, form.private_key);
        parsed.map_err(|(member, reason)| {
            Invalid::new(format!("client_certificate.{member}"), reason)
        })
    };
    form.map(|form| form.map(parse).transpose()).transpose()
}

pub(super) fn oauth2(
    form: Option<Option<OAuthForm>>,
    destinations: &Destinations,
) -> Result<Option<Option<ClientCredentials>>, Invalids> {
    let Some(Some(form)) = form else {
        return Ok(form.map(|_| None));
    };
    let mut wrong = Gathered::default();
    let invalid = |member: &str, reason: String| Invalid::new(format!("oauth2.{member}"), reason);
    if form.token_url.chars().any(char::is_control) {
        let bound = "must not contain control characters".to_owned();
        wrong.add(invalid("token_url", bound));
    } else if let Err(error) = destinations.check(&form.token_url) {
        wrong.add(invalid("token_url", error.to_string()));
    }
    for (member, text, most) in [
        ("client_id", Some(&form.client_id), MAX_TEXT),
        ("client_secret", Some(&form.client_secret), MAX_SECRET),
        ("scope", form.scope.as_ref(), MAX_TEXT),
        ("audience", form.audience.as_ref(), MAX_TEXT),
    ] {
        let unfit = |text: &String| {
            text.is_empty() || text.len() > most || text.chars().any(char::is_control)
        };
        if text.is_some_and(unfit) {
            let bound = format!("must be 1 to {most} bytes, without control characters");
            wrong.add(invalid(member, bound));
        }
    }
    wrong.finish(Some(Some(ClientCredentials {
        token_url: form.token_url,
        client_id: form.client_id,
        client_secret: form.client_secret,
        scope: form.scope,
        audience: form.audience,
    })))
}
