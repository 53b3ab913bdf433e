//! The 32 random bytes that a browser or a link has. The tables have their SHA-256 alone.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use shared::seal::fill_random;

/// The cookie's 32 bytes.
#[derive(Clone)]
pub(super) struct Id(pub(super) [u8; 32]);

impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Id(…)")
    }
}

impl Id {
    pub(super) fn generate() -> Self {
        let mut bytes = [0; 32];
        fill_random(&mut bytes);
        Self(bytes)
    }

    pub(super) fn parse(cookie: &str) -> Option<Self> {
        let bytes = BASE64.decode(cookie).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }

    pub(super) fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// A MAC with the session's id as its key.
    pub(super) fn mac(&self, purpose: &str, of: &[u8]) -> [u8; 32] {
        // HMAC takes keys of any length.
        #[expect(clippy::expect_used, reason = "see above")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of 32 bytes");
        mac.update(purpose.as_bytes());
        mac.update(of);
        mac.finalize().into_bytes().into()
    }

    /// As the cookie or the link has it.
    pub(super) fn text(&self) -> SecretString {
        BASE64.encode(self.0).into()
    }
}
