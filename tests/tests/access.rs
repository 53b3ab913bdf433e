//! Tenants, tokens and JWTs: who gets access to the API, and who may grant it.

#![allow(clippy::unwrap_used)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use harness::service::{Service, http};
use harness::world::{Answer, TENANT, World, eventually};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use time::OffsetDateTime;

const TOKENS: &str = "/api/v1/admin/tokens";
const TENANTS: &str = "/api/v1/admin/tenants";
const JWT_SECRET: &str = "a-shared-secret-of-32-bytes-or-more";
/// Keys that sign only these tests' tokens.
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
    {"kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig", "x": "raLGIYsng_Uenp9D6iqR_Hl5nFrTcjXI62oqKaZXnAQ", "y": "yxj5XDhUyQNzGhIBIAP-8yH_e1OS9pV5UohkBzJMpjc"},
    {"kty": "RSA", "kid": "rsa", "alg": "RS256", "e": "AQAB", "n": "3x1evNdgHf1Inu557_whpoeitJHBe8Je-0CZHSIsvyt-pYcIQegWB59n7ITVK3lfv3d9Ow94JFLG54bjXddVetYAfi4CILEk0rGz1wE7q6VOvOjqhlwam9C0bJg7WCuDNw5_waO0_d6ZhHEq7T3wd9cSaz7fndfU4ifZVKxC6mCvmfskHxSFeiW7ajAvRj3rsQr-YctB9B6xWE1cinL8xjWcDechaPieSCXymx-C7VclDY1RMWfNU8MJ94e6D4hlGcIQu3WpvyHIk7RFMjwNqQ-eBRA8jGen9M-fvEW4v3LWxKkuVGJg0fFNHcaO8Oylb5jiHUovGrsEwi_7OhdHkw"}
]}"#;

async fn tenant(world: &World, ingest: &Service, id: &str) {
    let body = Some(json!({"id": id}));
    let made = world.ask_as_operator(ingest, "POST", TENANTS, body).await;
    assert_eq!(made.status, 201, "{}", made.body);
}

async fn issue(world: &World, ingest: &Service, by: Option<&str>, body: Value) -> Answer {
    match by {
        Some(token) => {
            world
                .ask_as(token, ingest, "POST", TOKENS, Some(body))
                .await
        }
        None => {
            world
                .ask_as_operator(ingest, "POST", TOKENS, Some(body))
                .await
        }
    }
}

fn text(answer: &Answer, name: &str) -> String {
    answer.body[name].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_tenants_admin_manages_its_own_tokens_and_no_others() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    tenant(&world, &ingest, "other").await;
    let made = issue(
        &world,
        &ingest,
        None,
        json!({"tenant": TENANT, "role": "admin"}),
    )
    .await;
    let admin = text(&made, "token");
    let foreign = issue(&world, &ingest, None, json!({"tenant": "other"})).await;
    let global = issue(&world, &ingest, None, json!({})).await;
    assert_eq!(global.body["tenant"], Value::Null);

    // The token is the tenant's own, with or without `tenant` in the body.
    for body in [json!({}), json!({"tenant": TENANT, "role": "viewer"})] {
        let made = issue(&world, &ingest, Some(&admin), body).await;
        assert_eq!((made.status, &made.body["tenant"]), (201, &json!(TENANT)));
    }
    let refused = issue(&world, &ingest, Some(&admin), json!({"tenant": "other"})).await;
    let unknown = issue(&world, &ingest, Some(&admin), json!({"tenant": "nobody"})).await;
    assert_eq!((refused.status, unknown.status), (404, 404));
    assert_eq!(refused.body["detail"], unknown.body["detail"]);

    // The admin sees its tenant's tokens: the first one, its own, and the two new
    // ones.
    let listed = world.ask_as(&admin, &ingest, "GET", TOKENS, None).await;
    let tokens = listed.body["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 4, "{}", listed.body);
    assert!(tokens.iter().all(|token| token["tenant"] == TENANT));
    for made in [&foreign, &global] {
        let path = format!("{TOKENS}/{}", text(made, "id"));
        let revoked = world.ask_as(&admin, &ingest, "DELETE", &path, None).await;
        assert_eq!(revoked.status, 404, "{}", revoked.body);
    }
    assert_eq!(world.count("tokens WHERE revoked_at IS NOT NULL").await, 0);

    // The operator sees all tokens, or those of the tenant that it names.
    let all = world.ask_as_operator(&ingest, "GET", TOKENS, None).await;
    assert_eq!(all.body["tokens"].as_array().unwrap().len(), 6);
    let named = http()
        .get(ingest.url(TOKENS))
        .bearer_auth("the-operators-token-of-the-tests")
        .header("x-tenant-id", "other");
    let named: Value =
        serde_json::from_str(&named.send().await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(named["tokens"].as_array().unwrap().len(), 1);
    world.finish().await;
}

#[tokio::test]
async fn tokens_are_listed_in_pages_with_when_they_were_used() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let mut used = String::new();
    for _ in 0..4 {
        used = text(
            &issue(&world, &ingest, None, json!({"tenant": TENANT})).await,
            "token",
        );
    }
    for _ in 0..3 {
        let asked = world
            .ask_as(&used, &ingest, "GET", "/api/v1/webhooks", None)
            .await;
        assert_eq!(asked.status, 200);
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("{TOKENS}?limit=2{cursor}");
        let page = world
            .ask_as_operator(&ingest, "GET", &path, None)
            .await
            .body;
        seen.extend(page["tokens"].as_array().unwrap().clone());
        let Some(next) = page["next_cursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 5);
    assert!(used.starts_with(seen[0]["prefix"].as_str().unwrap()));
    assert!(seen[0]["last_used_at"].is_string(), "{}", seen[0]);
    assert_eq!(seen[1]["last_used_at"], Value::Null);
    world.finish().await;
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let in_a = |seconds| {
        let at = OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
        at.format(&time::format_description::well_known::Rfc3339)
            .unwrap()
    };
    let past = issue(&world, &ingest, None, json!({"expires_at": in_a(-5)})).await;
    assert_eq!(
        (past.status, &past.body["field"]),
        (422, &json!("expires_at"))
    );
    let body = json!({"tenant": TENANT, "expiresAt": in_a(2)});
    let token = text(&issue(&world, &ingest, None, body).await, "token");
    eventually("it has expired", async || {
        let asked = world
            .ask_as(&token, &ingest, "GET", "/api/v1/webhooks", None)
            .await;
        asked.status == 401
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn a_jwt_allows_what_its_claims_say() {
    let settings = [("JWT_SECRET", JWT_SECRET), ("JWT_TENANT_CLAIM", "org")];
    let world = World::with(&settings).await;
    let ingest = world.ingest().await;
    let signed = |org: &str, role: &str, secret: &str| {
        let exp = OffsetDateTime::now_utc().unix_timestamp() + 60;
        let claims = json!({"org": org, "role": role, "exp": exp});
        let key = EncodingKey::from_secret(secret.as_bytes());
        encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
    };
    let viewer = signed(TENANT, "viewer", JWT_SECRET);
    let webhooks = "/api/v1/webhooks";
    let asked = world.ask_as(&viewer, &ingest, "GET", webhooks, None).await;
    assert_eq!(asked.status, 200, "{}", asked.body);
    let body = Some(json!({"url": "https://example.com", "events": ["*"]}));
    let asked = world
        .ask_as(&viewer, &ingest, "POST", webhooks, body.clone())
        .await;
    assert_eq!(asked.status, 403, "{}", asked.body);
    let manager = signed(TENANT, "manager", JWT_SECRET);
    let asked = world
        .ask_as(&manager, &ingest, "POST", webhooks, body)
        .await;
    assert_eq!(asked.status, 201, "{}", asked.body);
    // A JWT with the role `admin` is never an operator.
    let admin = signed(TENANT, "admin", JWT_SECRET);
    let asked = world.ask_as(&admin, &ingest, "GET", TENANTS, None).await;
    assert_eq!(asked.status, 403, "{}", asked.body);

    let stranger = signed("nobody", "admin", JWT_SECRET);
    let asked = world
        .ask_as(&stranger, &ingest, "GET", webhooks, None)
        .await;
    assert_eq!(asked.status, 404, "{}", asked.body);
    let forged = signed(TENANT, "admin", "some-other-secret-of-32-bytes-or-more");
    let asked = world.ask_as(&forged, &ingest, "GET", webhooks, None).await;
    assert_eq!(asked.status, 401, "{}", asked.body);
    assert!(
        asked.body["detail"]
            .as_str()
            .unwrap()
            .contains("its signature is not valid")
    );
    assert!(!world.logs().contains(JWT_SECRET));
    world.finish().await;
}

#[tokio::test]
async fn a_jwt_is_accepted_if_its_key_is_in_the_jwks_file() {
    let file = std::env::temp_dir().join(format!("posthorn-jwks-{}", std::process::id()));
    std::fs::write(&file, JWKS).unwrap();
    let world = World::with(&[("JWT_JWKS_FILE", file.to_str().unwrap())]).await;
    let ingest = world.ingest().await;
    let der = |text: &str| STANDARD.decode(text).unwrap();
    let (es, rs) = (
        EncodingKey::from_ec_der(&der(P256)),
        EncodingKey::from_rsa_der(&der(RSA)),
    );
    let ask = async |algorithm: Algorithm, kid: &str, key: &EncodingKey| {
        let exp = OffsetDateTime::now_utc().unix_timestamp() + 60;
        let claims = json!({"tenant": TENANT, "role": "viewer", "exp": exp});
        let mut header = Header::new(algorithm);
        header.kid = Some(kid.to_owned());
        let token = encode(&header, &claims, key).unwrap();
        let webhooks = "/api/v1/webhooks";
        world.ask_as(&token, &ingest, "GET", webhooks, None).await
    };
    for (algorithm, kid, key) in [
        (Algorithm::ES256, "ec", &es),
        (Algorithm::RS256, "rsa", &rs),
    ] {
        let asked = ask(algorithm, kid, key).await;
        assert_eq!(asked.status, 200, "{algorithm:?}: {}", asked.body);
        for wrong in ["gone", "EC", ""] {
            let refused = ask(algorithm, wrong, key).await;
            assert_eq!(refused.status, 401, "{algorithm:?} {wrong}");
            let detail = refused.body["detail"].as_str().unwrap();
            assert!(
                detail.contains("no key of ours has its `alg` and `kid`"),
                "{detail}"
            );
        }
    }
    // The file's keys change without a restart: tokens of removed keys are refused.
    std::fs::write(&file, JWKS.replace("\"ec\"", "\"newer\"")).unwrap();
    eventually("the new name counts", async || {
        ask(Algorithm::ES256, "newer", &es).await.status == 200
    })
    .await;
    assert_eq!(ask(Algorithm::ES256, "ec", &es).await.status, 401);
    std::fs::remove_file(&file).unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_tenant_is_made_listed_shown_and_changed() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let ask = async |method: &str, path: &str, body: Option<Value>| {
        world.ask_as_operator(&ingest, method, path, body).await
    };
    let body = json!({"id": "shop", "name": "The shop", "dialect": "rishi"});
    let made = ask("POST", TENANTS, Some(body)).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(made.body["limits"]["webhooks"], 100);
    let path = format!("{TENANTS}/shop");
    let mut shown = ask("GET", &path, None).await.body;
    let usage = shown.as_object_mut().unwrap().remove("usage").unwrap();
    assert_eq!(usage["webhooks"], 0);
    assert_eq!(shown, made.body);

    let limits = json!({
        "webhooks": 7, "deliveries_per_hour": 1000, "payload_bytes": 4096, "max_age_seconds": 3600,
    });
    let changed = ask("PATCH", &path, Some(json!({"limits": limits}))).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert_eq!(
        (&changed.body["name"], &changed.body["limits"]),
        (&json!("The shop"), &limits)
    );
    // Members that aren't sent stay. Null restores the default.
    let less = json!({"limits": {"deliveries_per_hour": null, "payloadBytes": null}});
    let changed = ask("PATCH", &path, Some(less)).await.body;
    let expected = json!({
        "webhooks": 7, "deliveries_per_hour": null, "payload_bytes": 262_144, "max_age_seconds": 3600,
    });
    assert_eq!(changed["limits"], expected);
    for (body, field) in [
        (json!({"name": "x".repeat(257)}), "name"),
        (json!({"name": "\u{0}"}), "name"),
        (json!({"dialect": "klingon"}), "dialect"),
        (json!({"limits": {"webhooks": -1}}), "limits.webhooks"),
        (
            json!({"limits": {"deliveries_per_hour": 0}}),
            "limits.deliveries_per_hour",
        ),
        (
            json!({"limits": {"payload_bytes": 1_048_577}}),
            "limits.payload_bytes",
        ),
        (
            json!({"limits": {"max_age_seconds": 604_801}}),
            "limits.max_age_seconds",
        ),
    ] {
        let refused = ask("PATCH", &path, Some(body)).await;
        assert_eq!(
            (refused.status, &refused.body["field"]),
            (422, &json!(field))
        );
    }
    for unknown in ["nobody", "Not%20a%20slug"] {
        let path = format!("{TENANTS}/{unknown}");
        assert_eq!(ask("GET", &path, None).await.status, 404);
        assert_eq!(ask("PATCH", &path, Some(json!({}))).await.status, 404);
    }
    let page = ask("GET", &format!("{TENANTS}?limit=1"), None).await.body;
    assert_eq!(page["tenants"][0]["id"], TENANT);
    let path = format!(
        "{TENANTS}?limit=1&cursor={}",
        page["next_cursor"].as_str().unwrap()
    );
    let page = ask("GET", &path, None).await.body;
    assert_eq!(
        (&page["tenants"][0]["id"], &page["next_cursor"]),
        (&json!("shop"), &Value::Null)
    );
    world.finish().await;
}

#[tokio::test]
async fn a_tenant_has_a_bounded_number_of_valid_tokens_and_outdated_ones_are_deleted() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let sql = world.sql().await;
    let filled = "INSERT INTO tokens (id, hash, prefix, tenant, role) \
        SELECT gen_random_uuid(), sha256(n::text::bytea), 'pht_filled', $1, 'viewer' \
        FROM generate_series(1, 100 - (SELECT count(*)::int FROM tokens WHERE tenant = $1)) n";
    sql.execute(filled, &[&TENANT]).await.unwrap();
    let new = || Some(json!({"tenant": TENANT, "role": "viewer"}));
    let issue = async || world.ask_as_operator(&ingest, "POST", TOKENS, new()).await;
    let refused = issue().await;
    assert_eq!(refused.status, 422, "{}", refused.body);
    assert!(refused.body["detail"].as_str().unwrap().contains("100"));

    // What is revoked or has expired doesn't count.
    for (change, days) in [("revoked_at", 31), ("expires_at", 29)] {
        let change = format!(
            "UPDATE tokens SET {change} = now() - interval '{days} days' WHERE id = ( \
                 SELECT id FROM tokens WHERE prefix = 'pht_filled' AND revoked_at IS NULL \
                     AND expires_at IS NULL LIMIT 1)"
        );
        assert_eq!(sql.execute(&change, &[]).await.unwrap(), 1);
        let issued = issue().await;
        assert_eq!(issued.status, 201, "{}", issued.body);
        assert_eq!(issue().await.status, 422);
    }
    // The upkeep runs when the process starts.
    ingest.stop().await.unwrap();
    let _ingest = world.ingest().await;
    eventually("the token that was revoked long ago is gone", async || {
        world.count("tokens WHERE revoked_at IS NOT NULL").await == 0
    })
    .await;
    assert_eq!(world.count("tokens WHERE expires_at < now()").await, 1);
    world.finish().await;
}
