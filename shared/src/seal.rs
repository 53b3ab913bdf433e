//! Seals secrets and custom headers for storage, with an authenticated cipher.
//!
//! A sealed value is `1 | key id (4 bytes) | nonce (24 bytes) | ciphertext`. The cipher
//! is XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha). The owner's id is its associated
//! data, so a value that was moved to another row can't be opened.
//!
//! The key comes from `MASTER_KEY`. The keys of `MASTER_KEY_PREVIOUS` still open values
//! that they sealed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use secrecy::zeroize::Zeroize;
use sha2::{Digest, Sha256};

const VERSION: u8 = 1;
const KEY_ID: usize = 4;
const NONCE: usize = 24;
const KEY: usize = 32;

/// The current key and the previous ones.
#[derive(Clone)]
pub struct Keyring {
    /// The first key seals; all keys open.
    keys: Vec<MasterKey>,
}

/// Identifies the key of a sealed value: the beginning of the key's SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; KEY_ID]);

impl KeyId {
    /// The key id of a sealed value; zeroes if it isn't a sealed value.
    #[must_use]
    pub fn of_sealed(sealed: &[u8]) -> Self {
        let rest = sealed.strip_prefix(&[VERSION]);
        let id = rest.and_then(|rest| rest.first_chunk());
        Self(id.copied().unwrap_or_default())
    }
}

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

#[derive(Clone)]
struct MasterKey {
    id: KeyId,
    cipher: XChaCha20Poly1305,
}

/// Why a sealed value can't be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unopenable {
    /// It wasn't written by [`Keyring::seal`].
    #[error("the sealed value is malformed")]
    Malformed,
    /// It was sealed with a key that this process doesn't have.
    #[error(
        "the value was sealed with a key that is neither MASTER_KEY nor in MASTER_KEY_PREVIOUS"
    )]
    UnknownKey,
    /// It was changed, or belongs to another row.
    #[error("the sealed value is not authentic")]
    NotAuthentic,
}

impl Keyring {
    /// Parses base64 keys of 32 bytes, the current one first.
    ///
    /// # Errors
    /// If there is no key, or if one isn't 32 bytes in base64. The message doesn't
    /// repeat the key.
    pub fn from_base64<'a>(keys: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let keys = keys
            .into_iter()
            .map(MasterKey::from_base64)
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err("no key was given".to_owned());
        }
        Ok(Self { keys })
    }

    /// Encrypts `plain` for the owner named by `context`.
    #[must_use]
    pub fn seal(&self, context: &str, plain: &[u8]) -> Vec<u8> {
        let key = &self.keys[0];
        let mut nonce = [0; NONCE];
        fill_random(&mut nonce);
        let payload = Payload {
            msg: plain,
            aad: context.as_bytes(),
        };
        let Ok(ciphertext) = key.cipher.encrypt(&XNonce::from(nonce), payload) else {
            // Only for messages of 256 GiB and more.
            unreachable!("the cipher refused {} bytes", plain.len());
        };
        [&[VERSION], key.id.0.as_slice(), &nonce, &ciphertext].concat()
    }

    /// The id of the key that seals.
    #[must_use]
    pub fn current(&self) -> KeyId {
        self.keys[0].id
    }

    /// The ids of all keys, the current one first.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.keys.iter().map(|key| key.id)
    }

    /// Seals the value with the current key, unless it already is.
    ///
    /// # Errors
    /// As [`Keyring::open`].
    pub fn reseal(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, Unopenable> {
        if KeyId::of_sealed(sealed) == self.current() {
            return Ok(sealed.to_vec());
        }
        let mut plain = self.open(context, sealed)?;
        let resealed = self.seal(context, &plain);
        plain.zeroize();
        Ok(resealed)
    }

    /// Decrypts a value that was sealed for the same `context`.
    ///
    /// # Errors
    /// If it wasn't sealed by Posthorn, with one of these keys, for this `context`.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, Unopenable> {
        let rest = sealed
            .strip_prefix(&[VERSION])
            .ok_or(Unopenable::Malformed)?;
        let (id, rest) = rest
            .split_first_chunk::<KEY_ID>()
            .ok_or(Unopenable::Malformed)?;
        let (nonce, ciphertext) = rest
            .split_first_chunk::<NONCE>()
            .ok_or(Unopenable::Malformed)?;
        let key = self
            .keys
            .iter()
            .find(|key| key.id.0 == *id)
            .ok_or(Unopenable::UnknownKey)?;
        let payload = Payload {
            msg: ciphertext,
            aad: context.as_bytes(),
        };
        key.cipher
            .decrypt(&XNonce::from(*nonce), payload)
            .map_err(|_| Unopenable::NotAuthentic)
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring({} keys)", self.keys.len())
    }
}

impl MasterKey {
    fn from_base64(text: &str) -> Result<Self, String> {
        let mut bytes = BASE64
            .decode(text.trim())
            .map_err(|_| "a key is not base64".to_owned())?;
        let Ok(mut key) = <[u8; KEY]>::try_from(bytes.as_slice()) else {
            return Err(format!("a key has {} bytes instead of {KEY}", bytes.len()));
        };
        let digest = Sha256::digest(key);
        let id = KeyId([digest[0], digest[1], digest[2], digest[3]]);
        let cipher = XChaCha20Poly1305::new(&key.into());
        key.zeroize();
        bytes.zeroize();
        Ok(Self { id, cipher })
    }
}

/// Fills a buffer from the operating system's generator.
pub fn fill_random(buffer: &mut [u8]) {
    if let Err(error) = getrandom::fill(buffer) {
        // Without random numbers no secret, nonce or token may be created.
        panic!("the operating system gives no randomness: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(seeds: &[u8]) -> Keyring {
        let keys: Vec<_> = seeds
            .iter()
            .map(|seed| BASE64.encode([*seed; KEY]))
            .collect();
        Keyring::from_base64(keys.iter().map(String::as_str)).unwrap()
    }

    #[test]
    fn a_sealed_value_opens_for_its_owner_alone() {
        let keys = keyring(&[1]);
        let sealed = keys.seal("wh_1/secret", b"hush");
        assert_eq!(keys.open("wh_1/secret", &sealed).unwrap(), b"hush");
        assert_eq!(
            keys.open("wh_2/secret", &sealed),
            Err(Unopenable::NotAuthentic)
        );
        assert!(!sealed.windows(4).any(|window| window == b"hush"));
        assert_ne!(
            sealed,
            keys.seal("wh_1/secret", b"hush"),
            "the nonce repeats"
        );
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let keys = keyring(&[1]);
        let sealed = keys.seal("a", b"hush");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(keys.open("a", &changed).is_err(), "byte {at}");
            assert!(keys.open("a", &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn after_a_rotation_the_old_key_still_opens() {
        let sealed = keyring(&[1]).seal("a", b"hush");
        assert_eq!(keyring(&[2, 1]).open("a", &sealed).unwrap(), b"hush");
        assert_eq!(
            keyring(&[2]).open("a", &sealed),
            Err(Unopenable::UnknownKey)
        );
    }

    #[test]
    fn only_values_sealed_with_an_old_key_are_sealed_again() {
        let old = keyring(&[1]).seal("a", b"hush");
        let both = keyring(&[2, 1]);
        let new = both.reseal("a", &old).unwrap();
        assert_eq!(KeyId::of_sealed(&new), both.current());
        assert_eq!(KeyId::of_sealed(&old), keyring(&[1]).current());
        assert_eq!(keyring(&[2]).open("a", &new).unwrap(), b"hush");
        assert_eq!(both.reseal("a", &new).unwrap(), new);
        assert_eq!(both.reseal("b", &old), Err(Unopenable::NotAuthentic));
        assert_eq!(keyring(&[3]).reseal("a", &old), Err(Unopenable::UnknownKey));
    }

    #[test]
    fn a_bad_key_is_refused_without_being_repeated() {
        let error = Keyring::from_base64(["c2hvcnQ="]).unwrap_err();
        assert!(
            error.contains("5 bytes instead of 32") && !error.contains("c2hv"),
            "{error}"
        );
        assert!(Keyring::from_base64(["%%"]).is_err());
        assert!(Keyring::from_base64([]).is_err());
    }
}
