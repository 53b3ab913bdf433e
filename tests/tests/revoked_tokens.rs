//! A token that is revoked publishes nothing from then on, although ingest remembers for a minute
//! which tokens were valid.

#![allow(clippy::unwrap_used)]

use futures_util::future::join_all;
use harness::service::Service;
use harness::world::{Answer, World, eventually};
use serde_json::{Value, json};

const EVENTS: &str = "/api/v1/events";

fn event(id: &str) -> Value {
    json!({"type": "order.created", "id": id, "data": {}})
}

/// Makes a tenant. Answers a token of its managers, and the token's id.
async fn tenant(world: &World, ingest: &Service, id: &str) -> (String, String) {
    world.tenant(ingest, id).await;
    let body = Some(json!({"tenant": id, "role": "manager"}));
    let made = world
        .ask_as_operator(ingest, "POST", "/api/v1/admin/tokens", body)
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    let text = |name: &str| made.body[name].as_str().unwrap().to_owned();
    (text("token"), text("id"))
}

async fn publish(world: &World, ingest: &Service, token: &str, id: &str) -> Answer {
    let body = Some(event(id));
    world.ask_as(token, ingest, "POST", EVENTS, body).await
}

async fn revoke(world: &World, ingest: &Service, token: &str) {
    let path = format!("/api/v1/admin/tokens/{token}");
    let revoked = world.ask_as_operator(ingest, "DELETE", &path, None).await;
    assert_eq!(revoked.status, 204, "{}", revoked.body);
}

#[tokio::test]
async fn whatever_is_asked_with_a_token_that_was_revoked_a_moment_ago_is_refused_with_401() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let (token, id) = tenant(&world, &ingest, "globex").await;
    let taken = publish(&world, &ingest, &token, "evt-1").await;
    assert_eq!(taken.status, 202, "{}", taken.body);
    revoke(&world, &ingest, &id).await;

    let dry = format!("{EVENTS}?dry_run=true");
    let wrong = format!("{EVENTS}?dry_run=perhaps");
    let batch = format!("{EVENTS}/batch");
    for (path, body) in [
        (EVENTS, event("evt-2")),
        // The catalogue wouldn't take it, nor would the API.
        (EVENTS, json!({"type": "*", "data": {}})),
        (EVENTS, json!([])),
        // It conflicts with what was accepted.
        (
            EVENTS,
            json!({"type": "order.left", "id": "evt-1", "data": 1}),
        ),
        (&dry, event("evt-3")),
        (&wrong, event("evt-4")),
        (&batch, json!({"events": [event("evt-5")]})),
    ] {
        let refused = world
            .ask_as(&token, &ingest, "POST", path, Some(body.clone()))
            .await;
        assert_eq!(refused.status, 401, "{path} {body}: {}", refused.body);
    }
    assert_eq!(world.count("events").await, 1);
    world.finish().await;
}

/// The API alone publishes to RabbitMQ.
#[tokio::test]
async fn a_process_without_an_intake_publishes_nothing_with_a_revoked_token() {
    let world = World::start().await;
    let api = world.ingest_with(&["serve", "--only", "api"]).await;
    let (token, id) = tenant(&world, &api, "globex").await;
    let taken = publish(&world, &api, &token, "evt-1").await;
    assert_eq!(taken.status, 202, "{}", taken.body);
    revoke(&world, &api, &id).await;
    let refused = publish(&world, &api, &token, "evt-2").await;
    assert_eq!(refused.status, 401, "{}", refused.body);
    assert_eq!(world.messages_in("posthorn.ingest.v1").await, 1);
    world.finish().await;
}

/// PostgreSQL doesn't write while the token is revoked, so events of both tenants wait together.
#[tokio::test]
async fn events_of_others_in_a_batch_with_a_revoked_token_are_taken() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let (revoked, id) = tenant(&world, &ingest, "globex").await;
    let (valid, _) = tenant(&world, &ingest, "initech").await;
    for token in [&revoked, &valid] {
        let taken = publish(&world, &ingest, token, "evt-0").await;
        assert_eq!(taken.status, 202, "{}", taken.body);
    }

    let sql = world.hold_up_events().await;
    let ids: Vec<_> = (1..=40).map(|n| format!("evt-{n}")).collect();
    let both = ids.iter().flat_map(|id| [(&revoked, id), (&valid, id)]);
    let answers = join_all(both.map(async |(token, id)| {
        let answer = publish(&world, &ingest, token, id).await;
        (token == &valid, answer)
    }));
    let meanwhile = async {
        eventually("lanes wait for PostgreSQL", async || {
            world.held_up().await >= 1
        })
        .await;
        revoke(&world, &ingest, &id).await;
        sql.batch_execute("COMMIT").await.unwrap();
    };
    let (answers, ()) = tokio::join!(answers, meanwhile);

    let mut refused = 0;
    for (is_valid, answer) in answers {
        match is_valid {
            true => assert_eq!(answer.status, 202, "{}", answer.body),
            false if answer.status == 401 => refused += 1,
            false => assert_eq!(answer.status, 202, "{}", answer.body),
        }
    }
    assert!(refused > 0, "the token was revoked too late");
    let taken = world.count("events WHERE tenant = 'globex'").await;
    assert_eq!(taken, 1 + 40 - refused);
    assert_eq!(world.count("events WHERE tenant = 'initech'").await, 41);
    world.finish().await;
}
