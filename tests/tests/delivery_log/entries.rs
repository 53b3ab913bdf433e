//! A webhook's attempts and waits, as lists.

use harness::service::Service;
use harness::world::{World, eventually};
use serde_json::{Value, json};

use crate::asking::{by_type, get};

/// All entries of a list: each as these members say it. Pages have so many entries.
async fn entries(
    world: &World,
    ingest: &Service,
    path: &str,
    limit: usize,
    members: [&str; 2],
) -> Vec<String> {
    let list = path.rsplit('/').next().unwrap();
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(world, ingest, &format!("{path}?limit={limit}{cursor}")).await;
        let found = page[list].as_array().unwrap();
        assert!(found.len() <= limit, "{path}: {page}");
        let said = found.iter().map(|entry| {
            let member = |name: &str| match &entry[name] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            format!("{} {}", member(members[0]), member(members[1]))
        });
        all.extend(said);
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

#[tokio::test]
async fn a_webhooks_attempts_and_waits_are_listed_page_by_page_and_none_is_skipped() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(by_type()).await;
    let more = json!({"retry_policy": {"delays": [100, 100]}});
    let webhook = world.webhook(&ingest, &shop, more).await;
    let unused = json!({"events": ["nothing.*"]});
    let unused = world.webhook(&ingest, &shop, unused).await;
    for (n, kind) in ["order.paid", "order.broken", "order.odd"]
        .into_iter()
        .enumerate()
    {
        world.publish(kind, &format!("evt-{n}"), &json!({})).await;
        world.accepts(n as i64 + 1).await;
    }
    world.settles().await;

    let hook = format!("/api/v1/webhooks/{}", webhook.id);
    let attempts = format!("{hook}/attempts");
    let made = ["evt-2 1", "evt-1 3", "evt-1 2", "evt-1 1", "evt-0 1"];
    for limit in [1, 2, 3, 5, 250] {
        let listed = entries(&world, &ingest, &attempts, limit, ["event_id", "n"]).await;
        assert_eq!(listed, made, "{limit} a page");
    }
    let page = get(&world, &ingest, &attempts).await;
    let broken = &page["attempts"][1];
    assert_eq!(
        (
            &broken["outcome"],
            &broken["response_code"],
            &broken["event_type"],
            &broken["next_attempt_reason"]
        ),
        (
            &json!("server_error"),
            &json!(500),
            &json!("order.broken"),
            &Value::Null
        )
    );
    assert_eq!(page["attempts"][2]["next_attempt_reason"], "schedule");
    assert_eq!(page["attempts"][0]["response_body"], "noted\n");
    assert_eq!(page["next_cursor"], Value::Null);

    // What an attempt adds to a delivery that was shown stands before the cursor.
    let first = get(&world, &ingest, &format!("{attempts}?limit=2")).await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let again = first["attempts"][1]["delivery_id"].as_str().unwrap();
    let retry = format!("/api/v1/deliveries/{again}/retry");
    world.ask(&ingest, "POST", &retry, None).await;
    shop.receives(6).await;
    world.settles().await;
    let rest = get(&world, &ingest, &format!("{attempts}?cursor={cursor}")).await;
    let rest = rest["attempts"].as_array().unwrap().clone();
    let numbers: Vec<_> = rest.iter().map(|one| one["n"].as_i64().unwrap()).collect();
    assert_eq!(numbers, [2, 1, 1]);

    // Runs of three reasons, as dispatchers write them.
    let sql = world.sql().await;
    for reason in ["endpoint_full", "rate_limited", "in_flight"] {
        let wait = "UPDATE deliveries SET waits = add_wait(waits, $1, 0::smallint, now()) WHERE event_type = 'order.paid'";
        sql.execute(wait, &[&reason]).await.unwrap();
    }
    let set = async |status: &str| {
        let body = Some(json!({"status": status}));
        let answer = world.ask(&ingest, "PATCH", &hook, body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    set("paused").await;
    world.publish("order.paid", "evt-3", &json!({})).await;
    eventually("it is held", async || {
        world
            .count("deliveries WHERE deferred_because = 'paused'")
            .await
            == 1
    })
    .await;
    let waits = format!("{hook}/waits");
    let expected = [
        "evt-3 paused",
        "evt-0 in_flight",
        "evt-0 rate_limited",
        "evt-0 endpoint_full",
    ];
    for limit in [1, 2, 3, 250] {
        let listed = entries(&world, &ingest, &waits, limit, ["event_id", "reason"]).await;
        assert_eq!(listed, expected, "{limit} a page");
    }
    let held = &get(&world, &ingest, &waits).await["waits"][0];
    assert_eq!(
        (&held["until"], &held["after_attempt"], &held["times"]),
        (&Value::Null, &json!(0), &json!(1))
    );
    set("active").await;
    world.settles().await;

    for list in ["attempts", "waits"] {
        let none = format!("/api/v1/webhooks/{}/{list}", unused.id);
        let none = get(&world, &ingest, &none).await;
        assert_eq!(
            (&none[list], &none["next_cursor"]),
            (&json!([]), &Value::Null)
        );
        let later = format!("{hook}/{list}?since=2100-01-01T00:00:00Z");
        assert_eq!(get(&world, &ingest, &later).await[list], json!([]));
        let all = format!("{hook}/{list}?since=2020-01-01T00:00:00Z&until=2100-01-01T00:00:00Z");
        assert!(
            !get(&world, &ingest, &all).await[list]
                .as_array()
                .unwrap()
                .is_empty()
        );
        for (wrong, status, field) in [
            ("limit=251", 422, "limit"),
            ("cursor=3", 422, "cursor"),
            ("since=yesterday", 400, "since"),
            ("status=failed", 422, "status"),
        ] {
            let path = format!("{hook}/{list}?{wrong}");
            let answer = world.ask(&ingest, "GET", &path, None).await;
            assert_eq!(
                (answer.status, answer.body["field"].as_str()),
                (status, Some(field)),
                "{}",
                answer.body
            );
        }
    }
    world.finish().await;
}
