//! Each of the five systems' documented requests, and the answers that its clients read.
//!
//! Here are the requests that create and change webhooks. A module for each system walks
//! through the rest of its documents. `docs/systems/` has the same in words.

#![allow(clippy::unwrap_used)]

mod auraconnect;
mod brainsait;
mod corp_astro;
mod jossiedb;
mod put_back;
mod rishi;
mod walk;

use harness::receiver::answering;
use harness::world::{TENANT, World};
use serde_json::{Value, json};
use walk::ask;

/// A request as a system's documentation shows it, in a tenant of that dialect.
struct Documented {
    system: &'static str,
    path: &'static str,
    body: Value,
    /// The members that the answer must have, by JSON pointer.
    answer: Vec<(&'static str, Value)>,
    /// The documented updates, and a member of each answer.
    updates: Vec<(Value, &'static str, Value)>,
}

fn documented(url: &str) -> Vec<Documented> {
    vec![
        Documented {
            system: "rishi",
            path: "/api/webhooks",
            body: json!({
                "url": url, "events": ["booking.created", "staff.assigned"],
                "secret": "a-secret-of-the-venue", "active": true,
                "headers": {"X-Custom-Header": "v"}, "timeout": 30000, "retries": 3,
            }),
            answer: vec![
                ("/events", json!(["booking.created", "staff.assigned"])),
                ("/active", json!(true)),
                ("/timeout", json!(30000)),
                ("/retry_policy/max_retries", json!(3)),
                ("/lastTriggered", Value::Null),
            ],
            updates: vec![
                (
                    json!({"url": url, "events": ["booking.*"]}),
                    "/events",
                    json!(["booking.*"]),
                ),
                (json!({"active": false}), "/active", json!(false)),
            ],
        },
        Documented {
            system: "brainsait",
            path: "/api/v1/webhooks",
            body: json!({
                "url": url, "events": ["payment.completed"], "description": "the shop's books",
            }),
            answer: vec![("/description", json!("the shop's books"))],
            updates: vec![(
                json!({"url": url, "events": ["order.created"], "active": true}),
                "/events",
                json!(["order.created"]),
            )],
        },
        Documented {
            system: "auraconnect",
            path: "/api/v1/webhooks",
            body: json!({
                "url": url, "events": ["order.*"], "secret": "a-secret-of-the-kitchen",
                "active": true, "description": "orders", "filters": {"restaurant_id": 1},
            }),
            answer: vec![
                ("/filters", json!({"restaurant_id": 1})),
                ("/events", json!(["order.*"])),
            ],
            updates: vec![
                (
                    json!({"events": ["order.created"], "active": false}),
                    "/active",
                    json!(false),
                ),
                (json!({"debug_mode": true}), "/debug_mode", json!(true)),
            ],
        },
        Documented {
            system: "jossiedb",
            path: "/api/v1/webhooks",
            body: json!({
                "url": url, "events": ["low-stock-alert"],
                "filters": {"locations": ["loc-123"], "categories": ["cat-456"], "minStockThreshold": 5},
                "retryPolicy": {"maxRetries": 3, "retryDelay": 5000},
                "timeout": 30000, "headers": {"Authorization": "Bearer xyz"},
            }),
            answer: vec![
                ("/filters/minStockThreshold", json!(5)),
                (
                    "/retry_policy",
                    json!({"max_retries": 3, "retry_delay": 5000}),
                ),
                ("/headers", json!({"Authorization": "…"})),
            ],
            updates: vec![(
                json!({"retryPolicy": {"maxRetries": 5, "retryDelay": 1000}, "timeout": 5000}),
                "/retry_policy/max_retries",
                json!(5),
            )],
        },
        Documented {
            system: "corp-astro",
            path: "/api/webhooks",
            body: json!({
                "event_type": "user.created", "target_url": url, "client_id": "client-7",
                "status": "active", "secret": "a-secret-of-the-business", "description": "users",
            }),
            answer: vec![
                ("/events", json!(["user.created"])),
                ("/metadata/client_id", json!("client-7")),
                ("/status", json!("active")),
            ],
            updates: vec![
                (
                    json!({"metadata": {"team": "users"}, "client_id": "client-7"}),
                    "/metadata",
                    json!({"team": "users", "client_id": "client-7"}),
                ),
                // Other members of the metadata stay.
                (
                    json!({"client_id": "client-8", "status": "inactive"}),
                    "/metadata",
                    json!({"team": "users", "client_id": "client-8"}),
                ),
                (
                    json!({"event_type": "user.updated"}),
                    "/events",
                    json!(["user.updated"]),
                ),
            ],
        },
    ]
}

#[tokio::test]
async fn the_documented_bodies_of_five_systems_make_webhooks() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    for Documented {
        system,
        path,
        body,
        answer,
        updates,
    } in documented(&shop.url("/hook"))
    {
        let tenant = json!({"id": system, "dialect": system});
        let made = world
            .ask_as_operator(&ingest, "POST", "/api/v1/admin/tenants", Some(tenant))
            .await;
        assert_eq!(made.status, 201, "{}", made.body);

        let (status, made) = ask(&ingest, "POST", path, system, &body).await;
        assert_eq!(status, 201, "{system}: {made}");
        for (pointer, value) in answer {
            assert_eq!(
                made.pointer(pointer),
                Some(&value),
                "{system}{pointer} of {made}"
            );
        }
        match body.get("secret") {
            Some(secret) => assert_eq!(&made["secret"], secret, "shown once"),
            None => assert!(made["secret"].as_str().unwrap().starts_with("whsec_")),
        }
        let one = format!("{path}/{}", made["id"].as_str().unwrap());
        let (_, listed) = ask(&ingest, "GET", path, system, &json!({})).await;
        assert_eq!(
            listed["webhooks"].as_array().unwrap().len(),
            1,
            "{system}: {listed}"
        );
        for member in ["id", "url", "events", "active", "createdAt", "created_at"] {
            assert_eq!(
                listed["webhooks"][0][member], made[member],
                "{system}: {member}"
            );
        }
        assert_ne!(listed["webhooks"][0]["secret"], made["secret"], "masked");
        for (update, pointer, value) in updates {
            for method in ["PUT", "PATCH"] {
                let (status, changed) = ask(&ingest, method, &one, system, &update).await;
                assert_eq!(status, 200, "{system}: {method} {update}: {changed}");
                let now = changed.pointer(pointer);
                assert_eq!(now, Some(&value), "{system}: {update}");
                // Members that aren't sent stay.
                assert_eq!(changed["url"], made["url"], "{system}");
            }
        }
        let (status, _) = ask(&ingest, "GET", &one, TENANT, &json!({})).await;
        assert_eq!(status, 404, "{system}: another tenant's");
        let (status, _) = ask(&ingest, "DELETE", &one, system, &json!({})).await;
        assert_eq!(status, 204, "{system}");
    }
    world.finish().await;
}
