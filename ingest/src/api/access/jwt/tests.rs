//! What is accepted, and what isn't whatever its header says.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::*;

/// Keys that sign nothing but these tests' tokens.
const ED25519: &str = "MC4CAQAwBQYDK2VwBCIEIM8emuw1826OGDDXpqBBxf8nRDfUhOtBrCzwXOcrWgaM";
const P256: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg7CGpS672tyHCeT6xj+6obj1HQRIWOk4jUzKUZ/XYe2yhRANCAAStosYhiyeD9R6en0PqKpH8eXmcWtNyNcjraiopplecBMsY+Vw4VMkDcxoSASAD/vMh/3tTkvaVeVKIZAcyTKY3";
const RSA: &str = "\
MIIEogIBAAKCAQEA3x1evNdgHf1Inu557/whpoeitJHBe8Je+0CZHSIsvyt+pYcIQegWB59n7ITVK3lfv3d9Ow94JFLG54bjXddV\
etYAfi4CILEk0rGz1wE7q6VOvOjqhlwam9C0bJg7WCuDNw5/waO0/d6ZhHEq7T3wd9cSaz7fndfU4ifZVKxC6mCvmfskHxSFeiW7\
ajAvRj3rsQr+YctB9B6xWE1cinL8xjWcDechaPieSCXymx+C7VclDY1RMWfNU8MJ94e6D4hlGcIQu3WpvyHIk7RFMjwNqQ+eBRA8\
jGen9M+fvEW4v3LWxKkuVGJg0fFNHcaO8Oylb5jiHUovGrsEwi/7OhdHkwIDAQABAoIBADbd/aC55ECru1KeOa1bFxlhTJFUML0T\
CRGHir+/2jou44eoQ88VWGmKeV+QMO3ufK3UoB7IiJaCJrjkEoDOxg4dl2RwQwSwG2qW2a97daWZ0tmg+5+MAd0kf2IfM6TUmoGN\
FrzTWdx+g8kunUxXSY3m/XgTL6Gc5JSzEP6CGDiTlYF4ZS6Gdoz4RB21nCwF5iEez/kFqciH56ts246HVU7SWpyqtnOad0O6E+GV\
mOdY5Hu98cdE8IW108r/YEgUYubfNt1ArDQERywfkzL2OI4mTzN3Fu7ZRRXhgXXAgzNTg5w6CiTeyxZ1nsoasJYKgy6p8PfoWTXI\
vAAIQEehM3UCgYEA/uJo708I7+Ak876v+nU4LNqdWG6Z/SApyupgD8SoMMibNlg2/M3bd73iMOgR3hucIJNqe7V3ig/FbCLiOTMp\
EhqGibCe97AlaI6hlQa7ShyF3FJbQcg3k3flJZDp77UvJ3k5K6ZD22RdUGaBFS4O/R55oV0HrnI/rguSwW2vjb8CgYEA4Bdc+7/b\
V6lhys62eiAuUdCr0W2UQ18XsQt5saXf1I7Kl2lXvqe6M32fjO/f8dv0kbPgdfvsU6XdTL5t957t1rzVidCO9GFvDpkmni4qNbY4\
hL7Yjd1CDeCvHK2QG+1Z+rvI/RkmH137+l6Qy9Dn8m4wP0CZqHhaZeUAGdE14y0CgYAYxCcuGZ/krwLoLD8tNvaeZR+k2BpeXiGx\
ddSfs5wkIVnzjd7J8bbBi9HOrr4NtuEUyT4vhxJ2d9HXEAyrQi1bdPhdqKvJpXP9FN7efCj2qo7XOalkWvALhDrfy5TvlctfKohD\
lYRCbR4kEdG5HSCXt75Zz5BPgwps/vLjmKTWQQKBgE1JYYVmLzU1sweqcZ7/OFp5WLj7TRZLVrV2GrudVOxPbyn3aA7WdE7L9do6\
5QbacKhL3I90mpZi70dHqk+r3aWhLRjB+Hvqms3zHjGSBHbP6QBHfhK3i8+TfXGrnrczDkR+vZwlL1PEK2K3eMMCwuyG+lbmZdiH\
4c2gxH8i+63lAoGAFw6X2x4IIhrd15LOvD0FTw3+9DumHZY1flMLoEvIC8PL/oEn2GALUiSPisu2QmVMcWDn6b1pc/NBQjUn0T99\
2XKEsa5PJV8EuPjusd8/Q2Q/9YX2EQSjmustks5ZxmfyXaOm1XbkUKFAF2jftJroZ671vDlho05/ik2f6Y+7pV8=";
const JWKS: &str = r#"{"keys": [
    {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": "9xElN_0KtwGV4IvW12-jwz-X3Jio5f2SvcHFUPJdNY4"},
    {"kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig", "x": "raLGIYsng_Uenp9D6iqR_Hl5nFrTcjXI62oqKaZXnAQ", "y": "yxj5XDhUyQNzGhIBIAP-8yH_e1OS9pV5UohkBzJMpjc"},
    {"kty": "RSA", "kid": "rsa", "alg": "RS256", "e": "AQAB", "n": "3x1evNdgHf1Inu557_whpoeitJHBe8Je-0CZHSIsvyt-pYcIQegWB59n7ITVK3lfv3d9Ow94JFLG54bjXddVetYAfi4CILEk0rGz1wE7q6VOvOjqhlwam9C0bJg7WCuDNw5_waO0_d6ZhHEq7T3wd9cSaz7fndfU4ifZVKxC6mCvmfskHxSFeiW7ajAvRj3rsQr-YctB9B6xWE1cinL8xjWcDechaPieSCXymx-C7VclDY1RMWfNU8MJ94e6D4hlGcIQu3WpvyHIk7RFMjwNqQ-eBRA8jGen9M-fvEW4v3LWxKkuVGJg0fFNHcaO8Oylb5jiHUovGrsEwi_7OhdHkw"},
    {"kty": "RSA", "kid": "other", "use": "enc", "e": "AQAB", "n": "3x1evNdgHf1Inu557_whpoeitJHBe8Je-0CZHSIsvyt-pYcIQegWB59n7ITVK3lfv3d9Ow94JFLG54bjXddVetYAfi4CILEk0rGz1wE7q6VOvOjqhlwam9C0bJg7WCuDNw5_waO0_d6ZhHEq7T3wd9cSaz7fndfU4ifZVKxC6mCvmfskHxSFeiW7ajAvRj3rsQr-YctB9B6xWE1cinL8xjWcDechaPieSCXymx-C7VclDY1RMWfNU8MJ94e6D4hlGcIQu3WpvyHIk7RFMjwNqQ-eBRA8jGen9M-fvEW4v3LWxKkuVGJg0fFNHcaO8Oylb5jiHUovGrsEwi_7OhdHkw"}
]}"#;
const SECRET: &str = "a-secret-of-at-least-32-bytes-it-is";

fn settings() -> Settings {
    Settings {
        secret: Some(SECRET.into()),
        jwks_file: None,
        tenant_claim: "tenant".to_owned(),
        role_claim: "role".to_owned(),
        owner_claim: None,
        issuer: None,
        audience: None,
    }
}

fn by_secret(settings: Settings) -> Jwts {
    Jwts::new(settings).unwrap().unwrap()
}

/// A file of this test's own.
struct Jwks(PathBuf);

impl Jwks {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("posthorn-{}-{name}", std::process::id()));
        std::fs::write(&path, JWKS).unwrap();
        Self(path)
    }

    fn jwts(&self) -> Jwts {
        let file = settings();
        by_secret(Settings {
            secret: None,
            jwks_file: Some(self.0.clone()),
            ..file
        })
    }
}

impl Drop for Jwks {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn later() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp() + 600
}

fn good() -> Value {
    json!({"tenant": "acme", "role": "manager", "exp": later()})
}

fn signed(algorithm: Algorithm, id: Option<&str>, key: &EncodingKey, claims: &Value) -> String {
    let mut header = Header::new(algorithm);
    header.kid = id.map(str::to_owned);
    encode(&header, claims, key).unwrap()
}

fn by_hs256(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    signed(Algorithm::HS256, None, &key, claims)
}

fn der(text: &str) -> Vec<u8> {
    BASE64.decode(text).unwrap()
}

#[test]
fn a_shared_secret_and_each_kind_of_key_are_accepted() {
    let claims = Claims {
        tenant: "acme".parse().unwrap(),
        role: Role::Manager,
        owner: None,
        subject: None,
    };
    assert_eq!(by_secret(settings()).verify(&by_hs256(&good())), Ok(claims));

    let file = Jwks::new("kinds");
    let jwts = file.jwts();
    for (algorithm, id, key) in [
        (
            Algorithm::EdDSA,
            "ed",
            EncodingKey::from_ed_der(&der(ED25519)),
        ),
        (Algorithm::ES256, "ec", EncodingKey::from_ec_der(&der(P256))),
        (
            Algorithm::RS256,
            "rsa",
            EncodingKey::from_rsa_der(&der(RSA)),
        ),
    ] {
        for id in [Some(id), None] {
            let token = signed(algorithm, id, &key, &good());
            assert!(jwts.verify(&token).is_ok(), "{algorithm:?} {id:?}");
        }
        let unknown = signed(algorithm, Some("unknown"), &key, &good());
        assert!(jwts.verify(&unknown).is_err());
    }
}

#[test]
fn a_header_cannot_choose_how_it_is_verified() {
    let file = Jwks::new("confusion");
    let jwts = file.jwts();
    // The public key as if it were a shared secret: the classic.
    let set: Value = serde_json::from_str(JWKS).unwrap();
    for public in [JWKS, set["keys"][2]["n"].as_str().unwrap()] {
        let key = EncodingKey::from_secret(public.as_bytes());
        for id in [Some("rsa"), None] {
            assert!(
                jwts.verify(&signed(Algorithm::HS256, id, &key, &good()))
                    .is_err()
            );
        }
    }
    // The right key, another algorithm.
    let rsa = EncodingKey::from_rsa_der(&der(RSA));
    let token = signed(Algorithm::RS512, Some("rsa"), &rsa, &good());
    assert!(jwts.verify(&token).is_err());
    // No algorithm at all.
    let url_safe = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    for header in [json!({"alg": "none"}), json!({"alg": "none", "kid": "rsa"})] {
        let [header, claims] = [header, good()].map(|part| url_safe.encode(part.to_string()));
        assert!(jwts.verify(&format!("{header}.{claims}.")).is_err());
    }
    assert!(
        jwts.verify(&by_hs256(&good())).is_err(),
        "there is no secret here"
    );
    let long = EncodingKey::from_secret(SECRET.as_bytes());
    let token = signed(Algorithm::HS512, None, &long, &good());
    assert!(by_secret(settings()).verify(&token).is_err());
}

#[test]
fn what_is_not_in_force_or_not_for_us_is_refused_with_the_reason() {
    let jwts = by_secret(Settings {
        issuer: Some("https://id.example.com".to_owned()),
        audience: Some("posthorn".to_owned()),
        ..settings()
    });
    let with = |changes: Value| {
        let mut claims = good();
        claims["iss"] = "https://id.example.com".into();
        claims["aud"] = json!(["posthorn", "billing"]);
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => claims.as_object_mut().unwrap().remove(name),
                value => claims
                    .as_object_mut()
                    .unwrap()
                    .insert(name.clone(), value.clone()),
            };
        }
        jwts.verify(&by_hs256(&claims))
    };
    assert!(with(json!({})).is_ok());
    for (changes, word) in [
        (json!({"exp": 1_000_000_000}), "expired"),
        (json!({"exp": null}), "exp"),
        (json!({"exp": "soon"}), "exp"),
        (json!({"nbf": later()}), "not valid yet"),
        (
            json!({"iss": "https://elsewhere.example.com"}),
            "another issuer",
        ),
        (json!({"iss": null}), "iss"),
        (json!({"aud": "billing"}), "another audience"),
        (json!({"aud": null}), "aud"),
        (json!({"tenant": null}), "`tenant`"),
        (json!({"tenant": "A tenant"}), "`tenant`"),
        (json!({"role": "root"}), "`role`"),
        (json!({"role": null}), "`role`"),
    ] {
        let refused = with(changes.clone()).unwrap_err();
        assert!(refused.contains(word), "{changes}: {refused}");
    }
    let mut flipped = by_hs256(&good());
    flipped.pop();
    assert!(by_secret(settings()).verify(&flipped).is_err());
}

#[test]
fn the_claims_may_have_other_names_and_places() {
    let jwts = by_secret(Settings {
        tenant_claim: "https://example.com/tenant".to_owned(),
        role_claim: "realm_access.roles".to_owned(),
        ..settings()
    });
    let claims = json!({
        "https://example.com/tenant": "acme", "exp": later(),
        "realm_access": {"roles": ["offline_access", "viewer", "admin"]},
    });
    assert_eq!(jwts.verify(&by_hs256(&claims)).unwrap().role, Role::Admin);
}

/// Writes the file, and looks at it as if the last look had been a second ago.
fn rewritten(jwts: &Jwts, file: &Jwks, text: &str) {
    std::fs::write(&file.0, text).unwrap();
    let mut read = jwts.file.as_ref().unwrap().read.lock().unwrap();
    read.looked = read.looked.checked_sub(LOOK).unwrap();
}

fn by_ed25519() -> String {
    let key = EncodingKey::from_ed_der(&der(ED25519));
    signed(Algorithm::EdDSA, Some("ed"), &key, &good())
}

#[test]
fn a_changed_key_file_is_read_again_and_a_broken_one_is_not() {
    let file = Jwks::new("changed");
    let jwts = file.jwts();
    let token = by_ed25519();
    let accepted = |text: &str| {
        rewritten(&jwts, &file, text);
        jwts.verify(&token).is_ok()
    };
    assert!(accepted("{"));
    // Of the same length, within the file system's idea of a moment.
    let renamed = JWKS.replace("\"kid\": \"ed\"", "\"kid\": \"de\"");
    let modified = std::fs::metadata(&file.0).unwrap().modified().unwrap();
    std::fs::write(&file.0, &renamed).unwrap();
    let written = std::fs::File::options().write(true).open(&file.0).unwrap();
    written.set_modified(modified).unwrap();
    assert!(!accepted(&renamed));
    assert!(accepted(JWKS));
}

#[test]
fn keys_that_leave_the_file_are_not_valid_any_more_even_if_none_is_left() {
    let file = Jwks::new("revoked");
    let jwts = file.jwts();
    let token = by_ed25519();
    let keys: Value = serde_json::from_str(JWKS).unwrap();
    let with = |member: &str, value: Value| {
        let mut key = keys["keys"][0].clone();
        key[member] = value;
        json!({ "keys": [key] }).to_string()
    };
    let others = json!({ "keys": [keys["keys"][3]] }).to_string();
    for revoked in [
        r#"{"keys": []}"#,
        &others,
        &with("use", json!("enc")),
        &with("key_ops", json!(["sign"])),
        &with("key_ops", json!([])),
    ] {
        rewritten(&jwts, &file, revoked);
        assert!(jwts.verify(&token).is_err(), "{revoked}");
        rewritten(&jwts, &file, &with("key_ops", json!(["sign", "verify"])));
        assert!(jwts.verify(&token).is_ok());
    }
}

#[test]
fn many_keys_make_no_request_expensive() {
    let file = Jwks::new("many");
    let keys: Value = serde_json::from_str(JWKS).unwrap();
    let many = |count: usize, last: &Value| {
        let mut other = keys["keys"][0].clone();
        // Another point of the curve: a key that verifies nothing of ours.
        other["x"] = json!("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        let mut all = vec![other; count - 1];
        for (at, key) in all.iter_mut().enumerate() {
            key["kid"] = json!(format!("other-{at}"));
        }
        all.push(last.clone());
        json!({ "keys": all }).to_string()
    };
    std::fs::write(&file.0, many(MAX_KEYS + 1, &keys["keys"][0])).unwrap();
    let refused = format!("{:#}", KeyFile::open(&file.0).err().unwrap());
    assert!(refused.contains("65 keys; at most 64"), "{refused}");

    std::fs::write(&file.0, many(MAX_KEYS, &keys["keys"][0])).unwrap();
    let jwts = file.jwts();
    assert!(jwts.verify(&by_ed25519()).is_ok(), "its `kid` finds it");
    // Without, it would be the 64th try.
    let key = EncodingKey::from_ed_der(&der(ED25519));
    let nameless = signed(Algorithm::EdDSA, None, &key, &good());
    assert!(jwts.verify(&nameless).is_err());
    std::fs::write(&file.0, many(MAX_TRIES, &keys["keys"][0])).unwrap();
    assert!(file.jwts().verify(&nameless).is_ok());
}

#[test]
fn a_critical_extension_is_refused_because_none_is_understood() {
    let jwts = by_secret(settings());
    let url_safe = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let with = |header: &Value| {
        let [header, claims] = [header, &good()].map(|part| url_safe.encode(part.to_string()));
        let message = format!("{header}.{claims}");
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        jwts.verify(&format!("{message}.{signature}"))
    };
    assert!(with(&json!({"alg": "HS256", "typ": "JWT"})).is_ok());
    for critical in [
        json!(["b64"]),
        json!(["exp"]),
        json!(["https://example.com/bound"]),
        json!([]),
        json!("b64"),
        Value::Null,
    ] {
        let header = json!({"alg": "HS256", "crit": critical, "b64": true});
        let refused = with(&header);
        assert!(
            refused.is_err_and(|said| said.contains("crit") || said.contains("not a JWT")),
            "{header}"
        );
    }
}

#[test]
fn a_key_file_without_a_usable_key_is_refused_at_start() {
    let file = Jwks::new("useless");
    let start = |text: &str| {
        std::fs::write(&file.0, text).unwrap();
        format!("{:#}", KeyFile::open(&file.0).err().unwrap())
    };
    assert!(start("[]").contains("not a JWKS"));
    assert!(start(r#"{"keys": []}"#).contains("no key"));
    let secret = r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#;
    assert!(start(secret).contains("no key"));
    let short = r#"{"keys": [{"kty": "RSA", "e": "AQAB", "n": "c2hvcnQ"}]}"#;
    assert!(start(short).contains("no key"));
}

#[test]
fn an_owner_is_in_the_claim_that_the_operator_names() {
    let jwts = by_secret(Settings {
        owner_claim: Some("sub".to_owned()),
        ..settings()
    });
    let owner = |claims: Value| {
        let mut all = good();
        all.as_object_mut()
            .unwrap()
            .extend(claims.as_object().unwrap().clone());
        jwts.verify(&by_hs256(&all)).map(|claims| claims.owner)
    };
    let ada = "ada".parse().ok();
    assert_eq!(owner(json!({"sub": "ada"})), Ok(ada));
    assert_eq!(owner(json!({"sub": 7})), Ok("7".parse().ok()));
    assert_eq!(owner(json!({})), Ok(None));
    assert_eq!(owner(json!({"sub": "ada", "role": "admin"})), Ok(None));
    for bad in [
        json!(""),
        json!("a b"),
        json!(["ada"]),
        json!("x".repeat(129)),
    ] {
        // What isn't a text is refused by the library, in its own words.
        let is_text = bad.is_string();
        let refused = owner(json!({"sub": bad})).unwrap_err();
        assert!(!is_text || refused.contains("`sub`"), "{refused}");
    }
    // Without the setting the claim means nothing.
    let mut claims = good();
    claims["sub"] = json!("ada");
    let all = by_secret(settings()).verify(&by_hs256(&claims)).unwrap();
    assert_eq!(all.owner, None);
}
