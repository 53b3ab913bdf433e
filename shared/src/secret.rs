//! The keys that sign deliveries: shared secrets, and ed25519 key pairs for receivers
//! that can't keep a secret.
//!
//! The text forms are those of Standard Webhooks: `whsec_` for a shared secret, `whsk_`
//! for a private key, `whpk_` for a public key. No type here prints a secret.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::signature::{Ed25519KeyPair, KeyPair};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use time::OffsetDateTime;

use crate::seal::fill_random;

/// The longest secret, in bytes.
pub const MAX_SECRET: usize = 256;
/// How many characters a masked secret shows of a long one.
const SHOWN: usize = 4;
/// Shorter secrets are masked entirely.
const SHOWN_OF: usize = 32;
/// The prefix of a symmetric secret in Standard Webhooks.
const SECRET_PREFIX: &str = "whsec_";

/// The prefix of a private key in Standard Webhooks.
const PRIVATE_PREFIX: &str = "whsk_";
/// The prefix of a public key in Standard Webhooks.
const PUBLIC_PREFIX: &str = "whpk_";
/// An ed25519 private key, in bytes (RFC 8032, section 5.1.5).
const SEED: usize = 32;

/// One signing secret.
#[derive(Debug, Clone)]
pub struct Secret(SecretString);

/// Why a text isn't a valid secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// It is empty or too long.
    #[error("must be 1 to {MAX_SECRET} bytes")]
    Length,
    /// It has the prefix of base64, but isn't base64.
    #[error("begins with `whsec_`, but the rest is not base64 as this dialect needs it")]
    NotBase64,
    /// It is what the API shows instead of a secret.
    #[error("is a masked secret, as GET shows it; leave it out to keep the secret")]
    Masked,
}

impl Secret {
    /// A secret from the database. It was checked before it was stored.
    pub(crate) fn stored(text: String) -> Self {
        Self(text.into())
    }

    /// The empty secret of a deleted webhook.
    pub(crate) fn none() -> Self {
        Self(SecretString::default())
    }

    /// A new secret: `whsec_` and 32 random bytes in base64.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        fill_random(&mut bytes);
        Self(format!("{SECRET_PREFIX}{}", BASE64.encode(bytes)).into())
    }

    /// A secret that a customer chose: any text, because other systems set no rules for
    /// theirs. [`Secret::check_base64`] has the rule of Standard Webhooks.
    ///
    /// # Errors
    /// If it is out of bounds. The message doesn't repeat the secret.
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        if text.is_empty() || text.len() > MAX_SECRET {
            return Err(BadSecret::Length);
        }
        let unprefixed = text.strip_prefix(SECRET_PREFIX).unwrap_or(text);
        let tail = unprefixed.strip_prefix('…');
        if tail.is_some_and(|tail| tail.is_empty() || tail.chars().count() == SHOWN) {
            return Err(BadSecret::Masked);
        }
        Ok(Self(text.to_owned().into()))
    }

    /// Refuses a secret that begins with `whsec_` and goes on with something that isn't base64.
    ///
    /// # Errors
    /// If it is such a secret.
    pub fn check_base64(&self) -> Result<(), BadSecret> {
        match self.expose().strip_prefix(SECRET_PREFIX) {
            Some(encoded) if BASE64.decode(encoded).is_err() => Err(BadSecret::NotBase64),
            _ => Ok(()),
        }
    }

    /// The HMAC key of Standard Webhooks: the part after `whsec_`, decoded. Of any
    /// other secret, its bytes.
    #[must_use]
    pub fn key(&self) -> SecretSlice<u8> {
        let text = self.0.expose_secret();
        text.strip_prefix(SECRET_PREFIX)
            .and_then(|encoded| BASE64.decode(encoded).ok())
            .unwrap_or_else(|| text.as_bytes().to_vec())
            .into()
    }

    /// The secret's text, to be shown once or to be sealed.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Enough of the secret to tell it from another: `whsec_…ab12`.
    #[must_use]
    pub fn masked(&self) -> String {
        let text = self.expose();
        let prefix = if text.starts_with(SECRET_PREFIX) {
            SECRET_PREFIX
        } else {
            ""
        };
        let characters = text.chars().count();
        let hidden = match characters >= SHOWN_OF {
            true => characters - SHOWN,
            false => characters,
        };
        let tail: String = text.chars().skip(hidden).collect();
        format!("{prefix}…{tail}")
    }
}

/// An ed25519 key pair (RFC 8032).
#[derive(Clone)]
pub struct SigningKey {
    seed: SecretSlice<u8>,
    pair: std::sync::Arc<Ed25519KeyPair>,
}

/// A text that isn't an ed25519 private key. The error doesn't repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be `whsk_` and the base64 of a 32-byte ed25519 private key, or of it and its public key"
)]
pub struct BadSigningKey;

impl SigningKey {
    #[must_use]
    pub fn generate() -> Self {
        let mut seed = [0; SEED];
        fill_random(&mut seed);
        match Self::from_seed(&seed) {
            Ok(key) => key,
            // Any 32 bytes are a private key.
            Err(BadSigningKey) => unreachable!("a seed of 32 bytes was refused"),
        }
    }

    /// Parses `whsk_…`.
    ///
    /// # Errors
    /// If it isn't a key, or if its public half doesn't belong to the private one.
    pub fn parse(text: &str) -> Result<Self, BadSigningKey> {
        let encoded = text.strip_prefix(PRIVATE_PREFIX).ok_or(BadSigningKey)?;
        let bytes = BASE64.decode(encoded).map_err(|_| BadSigningKey)?;
        let (seed, public) = bytes.split_at_checked(SEED).ok_or(BadSigningKey)?;
        let key = Self::from_seed(seed)?;
        if public.is_empty() || public == key.pair.public_key().as_ref() {
            Ok(key)
        } else {
            Err(BadSigningKey)
        }
    }

    fn from_seed(seed: &[u8]) -> Result<Self, BadSigningKey> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| BadSigningKey)?;
        Ok(Self {
            seed: seed.to_vec().into(),
            pair: std::sync::Arc::new(pair),
        })
    }

    /// The private key's text, to be sealed.
    #[must_use]
    pub fn expose(&self) -> SecretString {
        format!(
            "{PRIVATE_PREFIX}{}",
            BASE64.encode(self.seed.expose_secret())
        )
        .into()
    }

    #[must_use]
    pub fn public_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// The public key's text, for receivers: `whpk_…`.
    #[must_use]
    pub fn public_key(&self) -> String {
        format!("{PUBLIC_PREFIX}{}", BASE64.encode(self.public_bytes()))
    }

    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.pair.sign(message);
        let mut bytes = [0; 64];
        // An ed25519 signature's length (RFC 8032, section 5.1.6).
        bytes.copy_from_slice(signature.as_ref());
        bytes
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "SigningKey({})", self.public_key())
    }
}

/// The keys that sign a webhook's deliveries, and the previous ones during a
/// rotation.
#[derive(Debug, Clone)]
pub struct Secrets {
    pub(crate) current: Secret,
    pub(crate) signing_key: Option<SigningKey>,
    pub(crate) previous: Option<Previous>,
}

/// The keys that a rotation replaced.
#[derive(Debug, Clone)]
pub struct Previous {
    pub(crate) secret: Secret,
    pub(crate) signing_key: Option<SigningKey>,
    pub(crate) until: OffsetDateTime,
}

impl Secrets {
    /// A secret, with or without a key pair.
    #[must_use]
    pub fn new(current: Secret, signing_key: Option<SigningKey>) -> Self {
        Self {
            current,
            signing_key,
            previous: None,
        }
    }

    fn previous(&self, now: OffsetDateTime) -> Option<&Previous> {
        self.previous
            .as_ref()
            .filter(|previous| now < previous.until)
    }

    /// The secrets that sign now, the current one first.
    pub fn signing(&self, now: OffsetDateTime) -> impl Iterator<Item = &Secret> {
        let previous = self.previous(now).map(|previous| &previous.secret);
        std::iter::once(&self.current).chain(previous)
    }

    /// The key pairs that sign now, the current one first.
    pub fn signing_keys(&self, now: OffsetDateTime) -> impl Iterator<Item = &SigningKey> {
        let previous = self
            .previous(now)
            .and_then(|previous| previous.signing_key.as_ref());
        self.signing_key.iter().chain(previous)
    }

    /// The secret that the current one replaced, whether it signs still or not.
    #[must_use]
    pub fn replaced(&self) -> Option<&Secret> {
        self.previous.as_ref().map(|previous| &previous.secret)
    }

    #[must_use]
    pub fn current(&self) -> &Secret {
        &self.current
    }

    /// The current key pair, if the webhook has one.
    #[must_use]
    pub fn signing_key(&self) -> Option<&SigningKey> {
        self.signing_key.as_ref()
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
            Secrets::new(secret.clone(), Some(SigningKey::generate())),
            secret.masked()
        );
        assert!(!printed.contains(&secret.expose()[6..40]), "{printed}");
        assert!(secret.masked().starts_with("whsec_…"));
        assert_eq!(Secret::parse("short-one").unwrap().masked(), "…");
    }

    #[test]
    fn a_marked_secret_is_base64() {
        let other = Secret::parse("whsec_%%%%%%").unwrap();
        assert_eq!(other.check_base64().unwrap_err(), BadSecret::NotBase64);
        assert!(Secret::parse("plain").unwrap().check_base64().is_ok());
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
    fn a_secret_is_any_text_of_1_to_256_bytes_but_a_masked_one() {
        let longest = "é".repeat(MAX_SECRET / 2);
        for text in ["x", " ", "pass word\u{0}", "…x", "…and more", &longest] {
            let secret = Secret::parse(text).unwrap();
            assert_eq!(secret.key().expose_secret(), text.as_bytes());
            let masked = secret.masked();
            assert_eq!(
                Secret::parse(&masked).unwrap_err(),
                BadSecret::Masked,
                "{masked}"
            );
        }
        let too_long = format!("{longest}x");
        for text in ["", &too_long] {
            assert_eq!(Secret::parse(text).unwrap_err(), BadSecret::Length);
        }
        let generated = Secret::generate().masked();
        assert_eq!(Secret::parse(&generated).unwrap_err(), BadSecret::Masked);
    }

    #[test]
    fn during_a_rotation_both_secrets_sign() {
        let now = OffsetDateTime::now_utc();
        let until = now + time::Duration::HOUR;
        let secrets = Secrets {
            current: Secret::generate(),
            signing_key: Some(SigningKey::generate()),
            previous: Some(Previous {
                secret: Secret::generate(),
                signing_key: Some(SigningKey::generate()),
                until,
            }),
        };
        assert_eq!(secrets.signing(now).count(), 2);
        assert_eq!(secrets.signing(until).count(), 1);
        assert_eq!(secrets.signing_keys(now).count(), 2);
        assert_eq!(secrets.signing_keys(until).count(), 1);
    }

    #[test]
    fn a_signing_key_is_rfc_8032s() {
        // The first test vector of RFC 8032, section 7.1.
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let bytes = hex::decode(format!("{seed}{public}")).unwrap();
        let whole = format!("whsk_{}", BASE64.encode(&bytes));
        let key = SigningKey::parse(&whole).unwrap();
        let again = SigningKey::parse(key.expose().expose_secret()).unwrap();
        assert_eq!(hex::encode(again.public_bytes()), public);
        let signature = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";
        assert_eq!(hex::encode(again.sign(b"")), signature);
        assert!(!format!("{key:?}").contains(&whole[5..40]));

        let mut other = bytes;
        other[40] ^= 1;
        for bad in [
            "",
            "whsk_",
            "whsk_%",
            "whsec_AAAA",
            &format!("whsk_{}", BASE64.encode(&other)),
        ] {
            assert_eq!(SigningKey::parse(bad).unwrap_err(), BadSigningKey, "{bad}");
        }
    }
}
