//! Webhooks that belong to one user of a tenant: who sees and changes which.

#![allow(clippy::unwrap_used)]

use harness::receiver::answering;
use harness::service::{Answer, Service};
use harness::world::{TENANT, World};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

const TOKENS: &str = "/api/v1/admin/tokens";
const WEBHOOKS: &str = "/api/v1/webhooks";

async fn token(world: &World, ingest: &Service, owner: &str, role: &str) -> String {
    let body = json!({"tenant": TENANT, "role": role, "owner": owner});
    let made = world
        .ask_as_operator(ingest, "POST", TOKENS, Some(body))
        .await;
    assert_eq!(
        (made.status, &made.body["owner"]),
        (201, &json!(owner)),
        "{}",
        made.body
    );
    made.body["token"].as_str().unwrap().to_owned()
}

async fn create(world: &World, ingest: &Service, token: &str, more: Value) -> Answer {
    let mut body = json!({"url": "http://127.0.0.1:9/", "events": ["*"]});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    world
        .ask_as(token, ingest, "POST", WEBHOOKS, Some(body))
        .await
}

fn id(answer: &Answer) -> String {
    assert_eq!(answer.status, 201, "{}", answer.body);
    answer.body["id"].as_str().unwrap().to_owned()
}

fn ids(listed: &Answer) -> Vec<String> {
    let webhooks = listed.body["webhooks"].as_array().unwrap();
    let ids = webhooks
        .iter()
        .map(|webhook| webhook["id"].as_str().unwrap().to_owned());
    ids.collect()
}

/// The members of `errors`.
fn blamed(problem: &Value) -> Vec<&str> {
    let errors = problem["errors"].as_array().unwrap().iter();
    errors
        .map(|error| error["field"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn an_owners_token_sees_and_changes_the_owners_webhooks_alone() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let receiver = world.receiver(answering(200)).await;
    let ada = token(&world, &ingest, "ada", "manager").await;
    let bob = token(&world, &ingest, "bob", "manager").await;
    let url = json!({"url": receiver.url("/")});
    let adas = create(&world, &ingest, &ada, url.clone()).await;
    assert_eq!(adas.body["owner"], "ada");
    let adas = id(&adas);
    let bobs = id(&create(&world, &ingest, &bob, url).await);
    let tenants = world.webhook(&ingest, &receiver, json!({})).await.id;
    world.publish("order.created", "evt-1", &json!({})).await;
    receiver.receives(3).await;
    world.settles().await;

    let asked = async |token: &str, method: &str, path: &str| {
        world.ask_as(token, &ingest, method, path, None).await
    };
    assert_eq!(
        ids(&asked(&ada, "GET", WEBHOOKS).await),
        std::slice::from_ref(&adas)
    );
    // A tenant's manager sees all.
    assert_eq!(
        ids(&world.ask(&ingest, "GET", WEBHOOKS, None).await).len(),
        3
    );
    let delivery = async |webhook: &str| {
        let path = format!("{WEBHOOKS}/{webhook}/deliveries");
        let listed = world.ask(&ingest, "GET", &path, None).await;
        listed.body["deliveries"][0]["id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (own, foreign) = (delivery(&adas).await, delivery(&bobs).await);
    for (path, own, foreign) in [
        ("", &adas, &bobs),
        ("", &adas, &tenants),
        ("/deliveries", &adas, &bobs),
        ("/attempts", &adas, &bobs),
        ("/waits", &adas, &bobs),
        ("/outages", &adas, &bobs),
        ("/stats", &adas, &bobs),
        ("/replays", &adas, &bobs),
        ("", &own, &foreign),
    ] {
        let at = |id: &str| match id.starts_with("whd_") {
            true => format!("/api/v1/deliveries/{id}"),
            false => format!("{WEBHOOKS}/{id}{path}"),
        };
        let (mine, theirs) = (
            asked(&ada, "GET", &at(own)).await,
            asked(&ada, "GET", &at(foreign)).await,
        );
        assert_eq!((mine.status, theirs.status), (200, 404), "{path} {own}");
        // As if it didn't exist.
        let nothing = foreign.chars().rev().collect::<String>();
        assert!(!theirs.body.to_string().contains(&nothing));
    }
    for (method, path) in [
        ("PATCH", format!("{WEBHOOKS}/{bobs}")),
        ("PUT", format!("{WEBHOOKS}/{bobs}")),
        ("DELETE", format!("{WEBHOOKS}/{bobs}")),
        ("POST", format!("{WEBHOOKS}/{bobs}/rotate-secret")),
        ("POST", format!("{WEBHOOKS}/{bobs}/test")),
        ("POST", format!("{WEBHOOKS}/{bobs}/events/evt-1/retry")),
        ("POST", format!("/api/v1/deliveries/{foreign}/retry")),
    ] {
        let body = (method != "DELETE").then(|| json!({}));
        let refused = world.ask_as(&ada, &ingest, method, &path, body).await;
        assert_eq!(refused.status, 404, "{method} {path}: {}", refused.body);
    }
    let by_id = json!({"webhook_id": bobs});
    let path = format!("{WEBHOOKS}/test");
    let refused = world
        .ask_as(&ada, &ingest, "POST", &path, Some(by_id))
        .await;
    assert_eq!(refused.status, 404, "{}", refused.body);
    let listed = asked(&ada, "GET", "/api/v1/deliveries").await;
    let listed = listed.body["deliveries"].as_array().unwrap().clone();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["webhook_id"], json!(adas));

    // What is about more than one's own webhooks is refused, publishing too.
    for (method, path) in [
        ("GET", "/api/v1/events"),
        ("GET", "/api/v1/events/evt-1"),
        ("POST", "/api/v1/events/evt-1/expunge"),
        ("POST", "/api/v1/events"),
        ("GET", "/api/v1/stats"),
        ("GET", "/api/v1/export"),
        ("GET", TOKENS),
    ] {
        let body = (method == "POST").then(|| json!({"type": "a.b", "data": {}}));
        let refused = world.ask_as(&ada, &ingest, method, path, body).await;
        assert_eq!(refused.status, 403, "{method} {path}: {}", refused.body);
    }
    assert_eq!(asked(&ada, "GET", "/api/v1/event-types").await.status, 200);
    assert_eq!(
        asked(&ada, "DELETE", &format!("{WEBHOOKS}/{adas}"))
            .await
            .status,
        204
    );
    world.finish().await;
}

#[tokio::test]
async fn an_owner_makes_no_webhook_for_others_and_none_that_tells_of_others() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let ada = token(&world, &ingest, "ada", "manager").await;
    for (member, value) in [
        ("owner", json!("bob")),
        ("owner", Value::Null),
        ("operational", json!(true)),
    ] {
        let refused = create(&world, &ingest, &ada, json!({member: value})).await;
        assert_eq!(
            (refused.status, &refused.body["field"]),
            (422, &json!(member))
        );
    }
    let all = json!({"owner": "bob", "operational": true, "timeout": 1});
    let refused = create(&world, &ingest, &ada, all.clone()).await;
    assert_eq!(blamed(&refused.body), ["owner", "operational", "timeout"]);
    let adas = id(&create(&world, &ingest, &ada, json!({"owner": "ada"})).await);
    let path = format!("{WEBHOOKS}/{adas}");
    let refused = world.ask_as(&ada, &ingest, "PATCH", &path, Some(all)).await;
    assert_eq!(blamed(&refused.body), ["owner", "operational", "timeout"]);
    for change in [
        json!({"owner": "bob"}),
        json!({"owner": null}),
        json!({"operational": true}),
    ] {
        let refused = world
            .ask_as(&ada, &ingest, "PATCH", &path, Some(change))
            .await;
        assert_eq!(refused.status, 422, "{}", refused.body);
    }
    // The tenant's manager hands it over.
    let handed = world
        .ask(&ingest, "PATCH", &path, Some(json!({"owner": "bob"})))
        .await;
    assert_eq!(handed.body["owner"], "bob", "{}", handed.body);
    let shown = world.ask_as(&ada, &ingest, "GET", &path, None).await;
    assert_eq!(shown.status, 404);
    // Neither an admin nor the operator has an owner.
    for body in [
        json!({"tenant": TENANT, "role": "admin", "owner": "ada"}),
        json!({"owner": "ada"}),
    ] {
        let refused = world
            .ask_as_operator(&ingest, "POST", TOKENS, Some(body))
            .await;
        assert_eq!(
            (refused.status, &refused.body["field"]),
            (422, &json!("owner"))
        );
    }
    world.finish().await;
}

#[tokio::test]
async fn a_jwt_acts_for_the_owner_in_the_claim_that_the_operator_chose() {
    let secret = "a-secret-of-the-identity-provider-of-32";
    let settings = [("JWT_SECRET", secret), ("JWT_OWNER_CLAIM", "user.id")];
    let world = World::with(&settings).await;
    let ingest = world.ingest().await;
    let jwt = |claims: Value| {
        let mut all = json!({"tenant": TENANT, "role": "manager", "exp": 4_000_000_000_u64});
        all.as_object_mut()
            .unwrap()
            .extend(claims.as_object().unwrap().clone());
        let key = EncodingKey::from_secret(secret.as_bytes());
        encode(&Header::new(Algorithm::HS256), &all, &key).unwrap()
    };
    let ada = jwt(json!({"user": {"id": 7}}));
    let made = create(&world, &ingest, &ada, json!({})).await;
    assert_eq!(made.body["owner"], "7", "{}", made.body);
    let made = create(&world, &ingest, &jwt(json!({})), json!({})).await;
    assert_eq!(made.body["owner"], Value::Null);
    let seen = async |claims: Value| {
        let listed = world
            .ask_as(&jwt(claims), &ingest, "GET", WEBHOOKS, None)
            .await;
        assert_eq!(listed.status, 200, "{}", listed.body);
        ids(&listed).len()
    };
    assert_eq!(seen(json!({"user": {"id": 7}})).await, 1);
    assert_eq!(seen(json!({"user": {"id": "8"}})).await, 0);
    assert_eq!(seen(json!({"user": {"id": "8"}, "role": "admin"})).await, 2);
    assert_eq!(seen(json!({})).await, 2);
    // Both kinds of tokens are told whose they are.
    let me = async |token: &str| {
        let shown = world
            .ask_as(token, &ingest, "GET", "/api/v1/me", None)
            .await;
        assert_eq!(shown.status, 200, "{}", shown.body);
        shown.body
    };
    for (owner, role) in [(json!(7), "manager"), (Value::Null, "viewer")] {
        let mut claims = json!({"role": role});
        if !owner.is_null() {
            claims["user"] = json!({"id": owner});
        }
        let shown = me(&jwt(claims)).await;
        let owner = owner.as_i64().map(|id| id.to_string());
        assert_eq!(shown["owner"], json!(owner), "{shown}");
        assert_eq!(shown["role"], role, "{shown}");
        assert_eq!(shown["tenant"], TENANT, "{shown}");
        assert_eq!(shown["global"], false, "{shown}");
        // It is none of Posthorn's own tokens. The tenant's limits hold for it.
        assert_eq!(shown["token"], Value::Null, "{shown}");
        assert_eq!(shown["limits"]["webhooks"], 100, "{shown}");
    }
    let adas = token(&world, &ingest, "ada", "viewer").await;
    let shown = me(&adas).await;
    assert_eq!(shown["owner"], "ada", "{shown}");
    assert_eq!(shown["role"], "viewer", "{shown}");
    let prefix = shown["token"]["prefix"].as_str().unwrap();
    assert!(adas.starts_with(prefix), "{shown}");

    let bad = jwt(json!({"user": {"id": ["7"]}}));
    let refused = world.ask_as(&bad, &ingest, "GET", WEBHOOKS, None).await;
    assert_eq!(refused.status, 401, "{}", refused.body);
    world.finish().await;
}
