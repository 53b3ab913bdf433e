//! `sslmode` and `sslrootcert` of `DATABASE_URL`, with the names that libpq uses.
//!
//! tokio-postgres knows neither certificate files nor the modes that verify. So this
//! file takes both parameters out of the URL before tokio-postgres parses the rest.
//!
//! The surprising fact: a certificate that can't be verified is never accepted, in
//! any mode. `require` verifies the host name too, and `prefer` verifies when the server
//! offers TLS.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore};
use rustls::{SignatureScheme, crypto};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;
use url::form_urlencoded;

/// The TLS parameters of a URL.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    mode: Option<String>,
    root: Option<String>,
}

/// Takes the two parameters out of a URL, or out of `name=value` pairs.
pub(crate) fn split(text: &str) -> (String, Tls) {
    let mut tls = Tls::default();
    let is_url = ["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| text.starts_with(scheme));
    if is_url {
        let Some((url, query)) = text.split_once('?') else {
            return (text.to_owned(), tls);
        };
        let others: Vec<_> = query
            .split('&')
            .filter(|pair| !tls.takes_url(pair))
            .collect();
        let url = match others.join("&") {
            query if query.is_empty() => url.to_owned(),
            query => format!("{url}?{query}"),
        };
        return (url, tls);
    }
    let others = pairs(text).into_iter().filter(|pair| !tls.takes(pair));
    let others: Vec<_> = others.collect();
    (others.join(" "), tls)
}

/// Splits at white space that isn't quoted.
fn pairs(text: &str) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(|c: char| {
        let ends = c.is_whitespace() && !quoted && !escaped;
        quoted ^= c == '\'' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })
    .filter(|pair| !pair.is_empty())
    .collect()
}

impl Tls {
    fn takes_url(&mut self, pair: &str) -> bool {
        // In a PostgreSQL URL, `+` means a plus sign.
        let pair = pair.replace('+', "%2B");
        form_urlencoded::parse(pair.as_bytes())
            .next()
            .is_some_and(|(name, value)| self.set(&name, &value))
    }

    fn takes(&mut self, pair: &str) -> bool {
        pair.split_once('=')
            .is_some_and(|(name, value)| self.set(name, value.trim_matches('\'')))
    }

    fn set(&mut self, name: &str, value: &str) -> bool {
        match name {
            "sslmode" => self.mode = Some(value.to_owned()),
            "sslrootcert" => self.root = Some(value.to_owned()),
            _ => return false,
        }
        true
    }

    /// Sets the mode, and returns the TLS connector if any connection may use TLS.
    ///
    /// # Errors
    /// If the mode is unknown, or if the certificates can't be read.
    pub(crate) fn apply(&self, config: &mut Config) -> anyhow::Result<Option<MakeRustlsConnect>> {
        let (mode, any_name) = match self.mode.as_deref() {
            Some("disable") => (SslMode::Disable, false),
            None | Some("prefer") => (SslMode::Prefer, false),
            Some("require" | "verify-full") => (SslMode::Require, false),
            Some("verify-ca") => (SslMode::Require, true),
            Some(_) => {
                bail!("its sslmode must be disable, prefer, require, verify-ca or verify-full")
            }
        };
        config.ssl_mode(mode);
        if mode == SslMode::Disable {
            return Ok(None);
        }
        let roots = match self.root.as_deref() {
            None | Some("system") => of_system(),
            Some(path) => of_file(path.as_ref())?,
        };
        client(roots, any_name).map(Some)
    }
}

fn of_system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn of_file(path: &Path) -> anyhow::Result<RootCertStore> {
    let shown = path.display();
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path)
        .with_context(|| format!("the file {shown} of its sslrootcert can't be read"))?;
    for certificate in certificates {
        let certificate = certificate
            .with_context(|| format!("the file {shown} of its sslrootcert is not PEM"))?;
        roots.add(certificate).with_context(|| {
            format!("the file {shown} of its sslrootcert contains an invalid certificate")
        })?;
    }
    ensure!(
        !roots.is_empty(),
        "the file {shown} of its sslrootcert has no certificate"
    );
    Ok(roots)
}

fn client(roots: RootCertStore, any_name: bool) -> anyhow::Result<MakeRustlsConnect> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let config = if any_name {
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let verifier = AnyName {
            inner: inner.build()?,
            provider,
        };
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth()
    } else {
        builder.with_root_certificates(roots).with_no_client_auth()
    };
    Ok(MakeRustlsConnect::new(config))
}

/// Verifies for `verify-ca`: any certificate of this authority is accepted, whatever
/// its name.
#[derive(Debug)]
struct AnyName {
    inner: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self
            .inner
            .verify_server_cert(certificate, chain, name, ocsp, now);
        match verified {
            // The name is checked last, so everything else was right.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Whether the server, or an attacker on the network, can make the connection
/// unencrypted.
pub(crate) fn may_be_plain(config: &Config) -> bool {
    let is_here = |host: &Host| match host {
        Host::Tcp(name) => {
            let address = name.trim_matches(['[', ']']).parse::<IpAddr>();
            name == "localhost" || address.is_ok_and(|address| address.is_loopback())
        }
        Host::Unix(_) => true,
    };
    config.get_ssl_mode() == SslMode::Prefer && !config.get_hosts().iter().all(is_here)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(mode: Option<&str>, root: Option<&str>) -> Tls {
        Tls {
            mode: mode.map(str::to_owned),
            root: root.map(str::to_owned),
        }
    }

    #[test]
    fn both_parameters_are_taken_out_wherever_they_are() {
        for (text, rest, expected) in [
            ("postgres://u:p@h/d", "postgres://u:p@h/d", tls(None, None)),
            (
                "postgres://u:p@h/d?sslmode=verify-full",
                "postgres://u:p@h/d",
                tls(Some("verify-full"), None),
            ),
            (
                "postgresql://h/d?connect_timeout=5&sslrootcert=/etc/my%20ca+1.pem&sslmode=verify-ca&options=-c%20a=b",
                "postgresql://h/d?connect_timeout=5&options=-c%20a=b",
                tls(Some("verify-ca"), Some("/etc/my ca+1.pem")),
            ),
            (
                "host=h sslmode=require password='a sslmode=disable b' sslrootcert='/ca.pem'",
                "host=h password='a sslmode=disable b'",
                tls(Some("require"), Some("/ca.pem")),
            ),
            (
                r"host=h password=a\ b sslmode=prefer",
                r"host=h password=a\ b",
                tls(Some("prefer"), None),
            ),
        ] {
            assert_eq!(split(text), (rest.to_owned(), expected), "{text}");
        }
    }

    #[test]
    fn only_what_may_be_read_on_the_way_is_warned_of() {
        for (text, plain) in [
            ("postgres://db.example.com/d", true),
            ("postgres://db.example.com/d?sslmode=prefer", true),
            ("postgres://10.0.0.1,127.0.0.1/d", true),
            ("postgres://db.example.com/d?sslmode=disable", false),
            ("postgres://db.example.com/d?sslmode=require", false),
            ("postgres://localhost/d", false),
            ("postgres://127.0.0.1:5432/d", false),
            ("postgres://[::1]/d", false),
            ("host=/var/run/postgresql dbname=d", false),
        ] {
            let (rest, tls) = split(text);
            let mut config: Config = rest.parse().unwrap();
            tls.apply(&mut config).unwrap();
            assert_eq!(may_be_plain(&config), plain, "{text}");
        }
    }

    #[test]
    fn an_unusable_sslmode_or_sslrootcert_is_refused() {
        for (tls, words) in [
            (tls(Some("allow"), None), "sslmode must be"),
            (tls(None, Some("/nowhere/ca.pem")), "can't be read"),
            (
                tls(Some("verify-full"), Some("/dev/null")),
                "no certificate",
            ),
        ] {
            let refused = tls.apply(&mut Config::new()).err().unwrap();
            assert!(refused.to_string().contains(words), "{refused}");
        }
        let nothing = tls(Some("disable"), Some("/nowhere/ca.pem"));
        assert!(nothing.apply(&mut Config::new()).unwrap().is_none());
    }
}
