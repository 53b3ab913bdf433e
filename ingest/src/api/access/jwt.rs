//! Verifies JWTs of the operator's identity provider. They are accepted beside API tokens.
//!
//! A JWT is signed with a shared secret (HS256), or with a key of a JWKS file
//! (RS256, ES256, EdDSA), which is read again when it changes. Two claims name the
//! tenant and the role; `exp` is required.
//!
//! Each key is used only with the one algorithm that it was loaded for. So the
//! `alg` of a token's header can make us refuse the token, but never choose how
//! the signature is verified.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use shared::clock;
use shared::ids::{MAX_OWNER, Owner, Tenant};
use time::OffsetDateTime;
use tracing::{error, info, warn};

use crate::api::access::role::Role;

/// The shortest secret, in bytes: as long as what HS256 makes of it (RFC 7518, 3.2).
pub const MIN_SECRET: usize = 32;
/// The shortest RSA modulus, in base64 characters: 2048 bits (RFC 7518, 3.3).
const MIN_RSA: usize = 342;
/// The largest JWKS file, in bytes.
const MAX_FILE: u64 = 1024 * 1024;
/// The most keys of a JWKS file.
const MAX_KEYS: usize = 64;
/// With how many keys a token is tried that doesn't say which is its own.
const MAX_TRIES: usize = 4;
/// How often the JWKS file is read.
const LOOK: Duration = Duration::from_secs(1);
/// How far the clocks of issuer and server may be apart, in seconds.
const LEEWAY: f64 = 30.0;

/// Which JWTs are accepted.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `JWT_SECRET`: verifies HS256.
    pub secret: Option<SecretString>,
    /// `JWT_JWKS_FILE`: verifies RS256, ES256 and EdDSA.
    pub jwks_file: Option<PathBuf>,
    /// `JWT_TENANT_CLAIM`: where the tenant is.
    pub tenant_claim: String,
    /// `JWT_ROLE_CLAIM`: where the role is.
    pub role_claim: String,
    /// `JWT_OWNER_CLAIM`: where the owner is; `None`: JWTs have none.
    pub owner_claim: Option<String>,
    /// `JWT_ISSUER`: what `iss` must be.
    pub issuer: Option<String>,
    /// `JWT_AUDIENCE`: what `aud` must be or have.
    pub audience: Option<String>,
}

/// Verifies them.
pub struct Jwts {
    settings: Settings,
    secret: Option<VerificationKey>,
    file: Option<KeyFile>,
}

/// What a JWT says of who asks.
#[derive(Debug, PartialEq, Eq)]
pub struct Claims {
    /// For which tenant.
    pub tenant: Tenant,
    /// In which role.
    pub role: Role,
    /// For whose webhooks; `None`: all of the tenant's.
    pub owner: Option<Owner>,
    /// Whose it is, if it says.
    pub subject: Option<String>,
}

/// A key and the one algorithm that it verifies.
struct VerificationKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Jwts {
    /// With the keys that there are now; `None` if there are to be none.
    ///
    /// # Errors
    /// If the JWKS file can't be used.
    pub fn new(settings: Settings) -> anyhow::Result<Option<Self>> {
        let secret = settings.secret.as_ref().map(|secret| VerificationKey {
            id: None,
            algorithm: Algorithm::HS256,
            key: DecodingKey::from_secret(secret.expose_secret().as_bytes()),
        });
        let file = settings.jwks_file.as_deref().map(KeyFile::open);
        let file = file.transpose().context("JWT_JWKS_FILE")?;
        if secret.is_none() && file.is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            settings,
            secret,
            file,
        }))
    }

    /// Who asks with this JWT; the reason, if nobody may.
    ///
    /// # Errors
    /// In words for whoever asks.
    pub fn verify(&self, token: &str) -> Result<Claims, String> {
        let header = decode_header(token).map_err(|_| "it is not a JWT".to_owned())?;
        if is_critical(token) {
            return Err("its header has `crit`, and no extension is understood".to_owned());
        }
        let file = self.file.as_ref().map(KeyFile::keys).unwrap_or_default();
        let fits = |key: &&VerificationKey| {
            let other = header.kid.is_some() && key.id.is_some() && header.kid != key.id;
            !other && header.alg == key.algorithm
        };
        let keys = self.secret.iter().chain(file.iter()).filter(fits);
        let mut refused = "no key of ours has its `alg` and `kid`".to_owned();
        // Verifying is what costs; a token that says its key's id needs one try.
        for key in keys.take(MAX_TRIES) {
            match decode::<Map<String, Value>>(token, &key.key, &self.validation(key.algorithm)) {
                Ok(verified) => {
                    in_force(&verified.claims, clock::now())?;
                    return self.claims(&verified.claims);
                }
                // Not for us, or not signed with this key.
                Err(error) => refused = plain(error.kind()),
            }
        }
        Err(refused)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        // It goes by this machine's clock: see `in_force`.
        validation.validate_exp = false;
        let mut required = vec!["exp"];
        if let Some(issuer) = &self.settings.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        match &self.settings.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);
        validation
    }

    fn claims(&self, claims: &Map<String, Value>) -> Result<Claims, String> {
        let Settings {
            tenant_claim,
            role_claim,
            owner_claim,
            ..
        } = &self.settings;
        let tenant = claim(claims, tenant_claim)
            .and_then(Value::as_str)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("its claim `{tenant_claim}` is not a tenant's id"))?;
        let role = claim(claims, role_claim)
            .and_then(highest_role)
            .ok_or_else(|| format!("its claim `{role_claim}` is not admin, manager or viewer"))?;
        let owner = owner_claim.as_ref().map(|name| owner(claims, name));
        // A tenant's admin is responsible for all of its webhooks.
        let owner = owner.transpose()?.flatten().filter(|_| role != Role::Admin);
        let subject = claims.get("sub").and_then(Value::as_str);
        Ok(Claims {
            tenant,
            role,
            owner,
            subject: subject.map(str::to_owned),
        })
    }
}

/// The owner in a claim: a text, or a number such as a user's id.
fn owner(claims: &Map<String, Value>, name: &str) -> Result<Option<Owner>, String> {
    let text = match claim(claims, name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(_) => String::new(),
    };
    let owner = text.parse().map(Some);
    owner.map_err(|_| {
        format!("its claim `{name}` is not an owner: 1 to {MAX_OWNER} visible ASCII characters")
    })
}

/// Whether a token's header names extensions that must be understood. We have
/// none, so whoever says `crit` is refused (RFC 7515, section 4.1.11).
fn is_critical(token: &str) -> bool {
    let header = token.split('.').next().unwrap_or_default();
    let header = BASE64.decode(header).unwrap_or_default();
    let header: Option<Map<String, Value>> = serde_json::from_slice(&header).ok();
    header.is_none_or(|header| header.contains_key("crit"))
}

/// Why a JWT is refused, in our words.
fn plain(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::InvalidSignature => "its signature is not valid".to_owned(),
        ErrorKind::MissingRequiredClaim(name) => format!("its claim `{name}` is missing"),
        ErrorKind::InvalidClaimFormat(name) => format!("its claim `{name}` has a wrong type"),
        ErrorKind::InvalidIssuer => "its claim `iss` names another issuer".to_owned(),
        ErrorKind::InvalidAudience => "its claim `aud` names another audience".to_owned(),
        ErrorKind::InvalidAlgorithm => "its `alg` is not the key's".to_owned(),
        ErrorKind::Base64(_) | ErrorKind::Json(_) | ErrorKind::Utf8(_) => {
            "it is not a JWT".to_owned()
        }
        _ => "it can't be verified".to_owned(),
    }
}

/// Checks `exp` and `nbf` by PostgreSQL's clock, as tokens' expiry is.
fn in_force(claims: &Map<String, Value>, now: OffsetDateTime) -> Result<(), String> {
    let now = now.unix_timestamp() as f64;
    let time = |name: &str| match claims.get(name).map(Value::as_f64) {
        Some(None) => Err(format!("its claim `{name}` is not a number")),
        time => Ok(time.flatten()),
    };
    if time("exp")?.is_none_or(|exp| exp < now - LEEWAY) {
        return Err("it has expired: see its claim `exp`".to_owned());
    }
    if time("nbf")?.is_some_and(|nbf| nbf > now + LEEWAY) {
        return Err("it is not valid yet: see its claim `nbf`".to_owned());
    }
    Ok(())
}

/// When a JWT that was verified expires.
pub fn expires_at(token: &str) -> Option<OffsetDateTime> {
    let claims = BASE64.decode(token.split('.').nth(1)?).ok()?;
    let claims: Map<String, Value> = serde_json::from_slice(&claims).ok()?;
    OffsetDateTime::from_unix_timestamp(claims.get("exp")?.as_f64()? as i64).ok()
}

/// The claim of this name; else, as in `realm_access.roles`, the one that the
/// names between the dots lead to.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let path = || {
        let mut names = name.split('.');
        let first = claims.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    };
    claims.get(name).or_else(path)
}

/// Of a role, or of a list that has others' roles too.
fn highest_role(claim: &Value) -> Option<Role> {
    let role = |value: &Value| value.as_str()?.parse::<Role>().ok();
    match claim {
        Value::Array(roles) => roles.iter().filter_map(role).max(),
        one => role(one),
    }
}

/// A JWKS file and what was last read from it.
struct KeyFile {
    path: PathBuf,
    read: Mutex<Read>,
}

struct Read {
    keys: Arc<Vec<VerificationKey>>,
    /// The file's SHA-256, to tell one content from another; `None`: it couldn't be read.
    content: Option<[u8; 32]>,
    looked: Instant,
}

impl KeyFile {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let text = read(path)?;
        let keys = parse(path, &text)?;
        ensure!(
            !keys.is_empty(),
            "{} has no key for RS256, ES256 or EdDSA",
            path.display()
        );
        Ok(Self {
            path: path.to_owned(),
            read: Mutex::new(Read {
                keys: Arc::new(keys),
                content: Some(Sha256::digest(&text).into()),
                looked: Instant::now(),
            }),
        })
    }

    /// The keys that are in the file. Reads it at most once a second; what isn't a
    /// JWKS leaves the keys as they were, and one without a usable key leaves none.
    fn keys(&self) -> Arc<Vec<VerificationKey>> {
        let mut last = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if last.looked.elapsed() >= LOOK {
            last.looked = Instant::now();
            let text = read(&self.path);
            let content = text.as_ref().ok().map(|text| Sha256::digest(text).into());
            if content != last.content {
                last.content = content;
                match text.and_then(|text| parse(&self.path, &text)) {
                    Ok(keys) => {
                        if keys.is_empty() {
                            error!(
                                "JWT_JWKS_FILE has changed and has no key that can be used: its former \
                                 keys are not valid any more, and no JWT by a key is accepted"
                            );
                        } else {
                            info!(keys = keys.len(), "JWT_JWKS_FILE was read again");
                        }
                        last.keys = Arc::new(keys);
                    }
                    Err(error) => warn!(
                        error = format!("{error:#}"),
                        "JWT_JWKS_FILE has changed and can't be used; its former keys stay"
                    ),
                }
            }
        }
        last.keys.clone()
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let mut text = Vec::new();
    // One byte more than may be, to tell what is whole from what is cut.
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text))
        .with_context(|| format!("reading {shown}"))?;
    ensure!(
        text.len() as u64 <= MAX_FILE,
        "{shown} has more than {MAX_FILE} bytes"
    );
    Ok(text)
}

/// The usable keys of a file, which may be none.
fn parse(path: &Path, text: &[u8]) -> anyhow::Result<Vec<VerificationKey>> {
    #[derive(serde::Deserialize)]
    struct KeySet {
        keys: Vec<Value>,
    }
    let shown = path.display();
    let set: KeySet =
        serde_json::from_slice(text).with_context(|| format!("{shown} is not a JWKS"))?;
    ensure!(
        set.keys.len() <= MAX_KEYS,
        "{shown} has {} keys; at most {MAX_KEYS} are allowed",
        set.keys.len()
    );
    let mut keys = Vec::new();
    for (at, key) in set.keys.into_iter().enumerate() {
        match usable(key) {
            Ok(key) => keys.push(key),
            // Identity providers list keys for encryption too.
            Err(error) => info!(
                reason = format!("{error:#}"),
                "keys[{at}] of {shown} is not used"
            ),
        }
    }
    Ok(keys)
}

fn usable(key: Value) -> anyhow::Result<VerificationKey> {
    let key: Jwk = serde_json::from_value(key)?;
    if let Some(usage) = &key.common.public_key_use {
        ensure!(
            *usage == PublicKeyUse::Signature,
            "it is not for signatures"
        );
    }
    if let Some(operations) = &key.common.key_operations {
        ensure!(
            operations.contains(&KeyOperations::Verify),
            "its `key_ops` lack `verify`"
        );
    }
    let (algorithm, name) = match &key.algorithm {
        AlgorithmParameters::RSA(rsa) => {
            ensure!(
                rsa.n.len() >= MIN_RSA,
                "its modulus has less than 2048 bits"
            );
            (Algorithm::RS256, KeyAlgorithm::RS256)
        }
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::OctetKey(_) => {
            bail!("a shared secret does not belong into a public file")
        }
        _ => bail!("its type or curve is not supported"),
    };
    if let Some(stated) = key.common.key_algorithm {
        ensure!(stated == name, "its algorithm {stated} is not {name}");
    }
    Ok(VerificationKey {
        algorithm,
        key: DecodingKey::from_jwk(&key)?,
        id: key.common.key_id,
    })
}

#[cfg(test)]
mod tests;
