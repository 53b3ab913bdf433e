//! A client certificate (mTLS): what a webhook shows of itself to an endpoint that asks.
//!
//! Certificate chain and private key are PEM. They are stored sealed, as one text, and never
//! shown again but for the certificate's fingerprint.

use std::fmt;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The longest chain and the longest key, in bytes of PEM each.
pub const MAX_PEM: usize = 16 * 1024;
/// The most certificates in a chain.
const MAX_CHAIN: usize = 10;

pub struct ClientCertificate {
    /// PEM.
    certificate: String,
    /// PEM.
    private_key: SecretString,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// How it is stored, before it is sealed.
#[derive(Serialize, Deserialize)]
struct Stored {
    certificate: String,
    private_key: String,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCertificate({})", self.fingerprint())
    }
}

impl Clone for ClientCertificate {
    fn clone(&self) -> Self {
        Self {
            certificate: self.certificate.clone(),
            private_key: self.private_key.clone(),
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl PartialEq for ClientCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.certificate == other.certificate
            && self.private_key.expose_secret() == other.private_key.expose_secret()
    }
}

impl ClientCertificate {
    /// Parses PEM, and checks that the key belongs to the first certificate.
    ///
    /// # Errors
    /// The member that is wrong, and why. No reason repeats a value.
    pub fn parse(
        certificate: String,
        private_key: String,
    ) -> Result<Self, (&'static str, &'static str)> {
        for (member, text) in [("certificate", &certificate), ("private_key", &private_key)] {
            if text.len() > MAX_PEM {
                return Err((member, "has more than 16384 bytes"));
            }
        }
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes());
        let chain = chain
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| ("certificate", "is not PEM"))?;
        if chain.is_empty() || chain.len() > MAX_CHAIN {
            return Err(("certificate", "must have 1 to 10 certificates in PEM"));
        }
        let key = PrivateKeyDer::from_pem_slice(private_key.as_bytes()).map_err(|_| {
            (
                "private_key",
                "must be a private key in PEM, without a password",
            )
        })?;
        let own = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|_| {
            (
                "private_key",
                "must be an RSA, ECDSA (P-256, P-384) or Ed25519 key",
            )
        })?;
        let pair = rustls::sign::CertifiedKey::new(chain.clone(), own);
        match pair.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                return Err(("private_key", "does not belong to the certificate"));
            }
            Err(_) => return Err(("certificate", "is not an X.509 certificate")),
        }
        Ok(Self {
            certificate,
            private_key: private_key.into(),
            chain,
            key,
        })
    }

    /// Parses what [`ClientCertificate::to_stored`] has written.
    pub(crate) fn stored(text: &str) -> Option<Self> {
        let Stored {
            certificate,
            private_key,
        } = serde_json::from_str(text).ok()?;
        Self::parse(certificate, private_key).ok()
    }

    /// The text that is sealed.
    #[must_use]
    pub fn to_stored(&self) -> SecretString {
        let stored = Stored {
            certificate: self.certificate.clone(),
            private_key: self.private_key.expose_secret().to_owned(),
        };
        // Two texts are always JSON.
        serde_json::to_string(&stored).unwrap_or_default().into()
    }

    /// The chain, in PEM. It is public.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The SHA-256 of the first certificate, in hex.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let first = self.chain.first();
        first.map_or(String::new(), |first| hex::encode(Sha256::digest(first)))
    }

    pub(crate) fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.chain.clone(), self.key.clone_key())
    }
}
