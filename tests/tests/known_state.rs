//! What dispatchers know is shown to everybody: which endpoints are down and when they are
//! asked again, why a delivery waited, which processes run, how long the queues are, and how
//! many events of each type there were.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use harness::receiver::{Reply, Script, answering};
use harness::service::Service;
use harness::world::{Webhook, World, eventually};
use serde_json::{Value, json};

/// A fast sweeper.
const BRISK: [(&str, &str); 2] = [("SWEEP_GRACE", "2"), ("SWEEP_INTERVAL", "1")];

fn answering_as_told(status: &Arc<AtomicU16>) -> Script {
    let status = status.clone();
    Arc::new(move |_, _| Reply::status(status.load(Ordering::Relaxed)))
}

async fn get(world: &World, ingest: &Service, path: &str) -> Value {
    let answer = world.ask(ingest, "GET", path, None).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

async fn get_as_operator(world: &World, ingest: &Service, path: &str) -> Value {
    let answer = world.ask_as_operator(ingest, "GET", path, None).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

fn health_of(webhook: &Webhook) -> String {
    format!("/api/v1/webhooks/{}/health", webhook.id)
}

#[tokio::test]
async fn an_endpoint_that_is_down_says_so_and_is_asked_at_once_on_request() {
    let world = World::with(&BRISK).await;
    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    let status = Arc::new(AtomicU16::new(503));
    let shop = world.receiver(answering_as_told(&status)).await;
    let policy = json!({"retry_policy": {"delays": [1000, 1000, 1000, 1000]}});
    let webhook = world.webhook(&ingest, &shop, policy).await;
    let healthy = get(&world, &ingest, &health_of(&webhook)).await;
    assert_eq!(
        (
            &healthy["down"],
            &healthy["replicas"],
            &healthy["down_since"]
        ),
        (&json!(false), &json!([]), &Value::Null)
    );
    for n in 0..100 {
        let id = format!("evt-{n}");
        world.publish("order.created", &id, &json!({})).await;
    }
    // The second wait is at least ten seconds long.
    let waits_long = "endpoints WHERE circuit = 'open' AND permits = 1 \
                      AND next_probe_at > now() + interval '8 seconds'";
    eventually("it waits long for its next request", async || {
        world.count(waits_long).await == 1
    })
    .await;
    let down = get(&world, &ingest, &health_of(&webhook)).await;
    assert_eq!(
        (&down["down"], &down["dispatchers"], &down["health"]),
        (&json!(true), &json!(1), &json!("failing")),
        "{down}"
    );
    let replica = &down["replicas"][0];
    assert_eq!(
        (&replica["circuit"], &replica["next_probe_at"]),
        (&json!("open"), &down["next_probe_at"]),
        "{down}"
    );
    assert!(
        down["last_failed_at"].as_str() > down["down_since"].as_str(),
        "{down}"
    );
    let shown = get(&world, &ingest, &format!("/api/v1/webhooks/{}", webhook.id)).await;
    for member in ["down_since", "next_probe_at"] {
        assert_eq!(shown[member], down[member], "{member}");
    }

    let outages = format!("/api/v1/webhooks/{}/outages", webhook.id);
    let listed = get(&world, &ingest, &outages).await;
    let outage = &listed["outages"][0];
    assert_eq!(
        (&outage["since"], &outage["lasts"], &outage["ended_at"]),
        (&down["down_since"], &json!(true), &Value::Null),
        "{listed}"
    );
    assert_eq!(
        (&outage["process_id"], &outage["probes"]),
        (&replica["process_id"], &json!(1)),
        "{listed}"
    );
    assert_eq!(outage["last_failed_at"], down["last_failed_at"], "{listed}");

    // The operator finds it among those of all tenants.
    let held = get_as_operator(&world, &ingest, "/api/v1/admin/endpoints").await;
    let longest = &held["longest"];
    assert_eq!(
        (&longest["webhook_id"], &longest["tenant"]),
        (&json!(webhook.id), &json!("acme")),
        "{held}"
    );
    assert_eq!(
        (&longest["down_since"], &longest["replicas"][0]["circuit"]),
        (&down["down_since"], &json!("open")),
        "{held}"
    );
    assert!(longest["waiting"].as_i64() > Some(0), "{held}");
    assert_eq!(&held["endpoints"][0], longest);

    // A delivery that was put off shows why, once for each run of the reason.
    let waiting = world.deliveries(&ingest, &webhook).await;
    let is_down = |delivery: &&Value| delivery["next_attempt_reason"] == "endpoint_down";
    let waiting = waiting.iter().find(is_down).unwrap();
    let waiting = world.delivery(&ingest, &waiting["id"]).await;
    let last = waiting["waits"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["reason"], &last["after_attempt"], &last["until"]),
        (
            &json!("endpoint_down"),
            &waiting["attempts"],
            &waiting["next_attempt_at"]
        ),
        "{waiting}"
    );

    status.store(200, Ordering::Relaxed);
    let failed = shop.arrivals().len();
    let probe = format!("/api/v1/webhooks/{}/probe", webhook.id);
    let asked = world.ask(&ingest, "POST", &probe, None).await;
    assert_eq!(asked.status, 202, "{}", asked.body);
    assert!(asked.body["delivery_id"].is_string(), "{}", asked.body);
    shop.receives(failed + 1).await;
    // Nobody would have asked it before.
    let before = format!(
        "deliveries WHERE state = 'delivered' AND finished_at < '{}'",
        down["next_probe_at"].as_str().unwrap()
    );
    eventually("it is up before its time", async || {
        world.count(&before).await > 0
    })
    .await;
    eventually("no circuit is open any more", async || {
        world.count("endpoints WHERE circuit <> 'closed'").await == 0
    })
    .await;
    assert_eq!(
        get(&world, &ingest, &health_of(&webhook)).await["down"],
        false
    );
    // The outage stays in the history, with its end.
    let listed = get(&world, &ingest, &outages).await;
    let outage = &listed["outages"][0];
    assert_eq!(
        (
            listed["outages"].as_array().unwrap().len(),
            &outage["lasts"]
        ),
        (1, &json!(false)),
        "{listed}"
    );
    assert!(
        outage["ended_at"].as_str() > outage["last_failed_at"].as_str(),
        "{listed}"
    );
    assert_eq!(listed["next_cursor"], Value::Null);
    let stats = format!("/api/v1/webhooks/{}/stats", webhook.id);
    let stats = get(&world, &ingest, &stats).await;
    assert!(
        stats["deferrals_by_reason"]["endpoint_down"]
            .as_i64()
            .unwrap()
            > 50,
        "{stats}"
    );
    assert_eq!(stats["series"].as_array().unwrap().len(), 49);
    world.settles().await;
    dispatcher.stop().await.unwrap();
    assert_eq!(world.count("processes WHERE kind = 'dispatcher'").await, 0);
    world.finish().await;
}

#[tokio::test]
async fn what_a_dispatcher_said_that_is_silent_since_does_not_count() {
    let world = World::with(&BRISK).await;
    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(503)).await;
    let policy = json!({"retry_policy": {"delays": [1000]}});
    let webhook = world.webhook(&ingest, &shop, policy).await;
    for n in 0..30 {
        let id = format!("evt-{n}");
        world.publish("order.created", &id, &json!({})).await;
    }
    eventually("the endpoint is down", async || {
        get(&world, &ingest, &health_of(&webhook)).await["down"] == true
    })
    .await;
    dispatcher.kill().await.unwrap();
    let sql = world.sql().await;
    let silent =
        "UPDATE processes SET told_at = now() - interval '31 seconds' WHERE kind = 'dispatcher'";
    sql.execute(silent, &[]).await.unwrap();
    let health = get(&world, &ingest, &health_of(&webhook)).await;
    assert_eq!(
        (&health["down"], &health["dispatchers"], &health["replicas"]),
        (&json!(false), &json!(0), &json!([]))
    );
    // Nobody knows how its outage ended.
    let outages = format!("/api/v1/webhooks/{}/outages", webhook.id);
    let outages = get(&world, &ingest, &outages).await;
    assert_eq!(
        (
            &outages["outages"][0]["lasts"],
            &outages["outages"][0]["ended_at"]
        ),
        (&json!(false), &Value::Null),
        "{outages}"
    );
    let processes = get_as_operator(&world, &ingest, "/api/v1/admin/processes").await;
    let alive = |kind: &str| {
        let all = processes["processes"].as_array().unwrap().iter();
        let of_kind = all.filter(|process| process["kind"] == kind);
        of_kind
            .map(|process| process["alive"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (alive("dispatcher"), alive("ingest")),
        (vec![json!(false)], vec![json!(true)])
    );
    world.abandon().await;
}

#[tokio::test]
async fn a_delivery_shows_each_run_of_waits_once_however_often_it_was_put_off() {
    let world = World::with(&BRISK).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let limited = json!({"rate_limit": {"limit": 1, "per": "second"}});
    let webhook = world.webhook(&ingest, &shop, limited).await;
    for n in 0..5 {
        let id = format!("evt-{n}");
        world.publish("order.created", &id, &json!({})).await;
    }
    shop.receives(5).await;
    world.settles().await;
    let mut times = 0;
    for delivery in world.deliveries(&ingest, &webhook).await {
        let delivery = world.delivery(&ingest, &delivery["id"]).await;
        let waits = delivery["waits"].as_array().unwrap();
        assert!(waits.len() <= 1, "{delivery}");
        for wait in waits {
            assert_eq!(
                (&wait["reason"], &wait["after_attempt"]),
                (&json!("rate_limited"), &json!(0))
            );
            assert!(
                wait["until"].as_str() >= wait["first_at"].as_str(),
                "{wait}"
            );
            times += wait["times"].as_i64().unwrap();
        }
    }
    assert!(times >= 4, "all but the first were put off");
    let stats = format!("/api/v1/webhooks/{}/stats", webhook.id);
    let stats = get(&world, &ingest, &stats).await;
    assert_eq!(stats["deferrals_by_reason"], json!({"rate_limited": times}));
    assert_eq!(stats["attempts"], 5, "a deferral is no attempt: {stats}");

    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let set = async |status: &str| {
        let change = json!({"status": status});
        let answer = world.ask(&ingest, "PATCH", &path, Some(change)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    set("paused").await;
    world.publish("order.created", "held", &json!({})).await;
    eventually("it is held", async || world.count("holds").await == 1).await;
    let held = world.deliveries(&ingest, &webhook).await[0]["id"].clone();
    let wait = world.delivery(&ingest, &held).await["waits"][0].clone();
    assert_eq!(
        (&wait["reason"], &wait["until"]),
        (&json!("paused"), &Value::Null)
    );
    set("active").await;
    shop.receives(6).await;
    world.settles().await;
    let wait = world.delivery(&ingest, &held).await["waits"][0].clone();
    assert!(wait["until"].as_str() > wait["first_at"].as_str(), "{wait}");
    world.finish().await;
}

#[tokio::test]
async fn the_operator_sees_processes_queues_and_the_system() {
    let world = World::with(&BRISK).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.subscribed(&ingest, answering(200)).await;
    for n in 0..20 {
        let id = format!("evt-{n}");
        world.publish("order.created", &id, &json!({})).await;
    }
    world.publish("order.paid", "evt-paid", &json!({})).await;
    world.publish("order.paid", "evt-paid", &json!({})).await;
    shop.receives(21).await;

    let processes = get_as_operator(&world, &ingest, "/api/v1/admin/processes").await;
    let processes = processes["processes"].as_array().unwrap();
    let kinds: Vec<_> = processes.iter().map(|process| &process["kind"]).collect();
    assert_eq!(kinds, ["dispatcher", "ingest"]);
    assert_eq!(processes[0]["concurrency"], 512);
    for process in processes {
        assert_eq!(process["alive"], true, "{process}");
        assert!(
            process["memory_bytes"].as_i64().unwrap() > 1 << 20,
            "{process}"
        );
    }
    let queues = "/api/v1/admin/queues";
    eventually("the queues were measured", async || {
        let queues = get_as_operator(&world, &ingest, queues).await;
        let queues = queues["queues"].as_array().unwrap();
        let jobs = queues
            .iter()
            .find(|queue| queue["name"] == "posthorn.jobs.v1.0");
        jobs.is_some_and(|jobs| jobs["consumers"] == 1) && queues.len() == 28
    })
    .await;
    let system = get_as_operator(&world, &ingest, "/api/v1/admin/system").await;
    assert_eq!(system["sweep"]["unaccounted"], 0, "{system}");
    assert!(system["storage"]["bytes"].as_i64().unwrap() > 0, "{system}");
    assert!(
        system["storage"]["days"].as_array().unwrap().len() > 14,
        "{system}"
    );
    world.settles().await;
    eventually("nothing is overdue", async || {
        get_as_operator(&world, &ingest, "/api/v1/admin/system").await["lag_seconds"] == 0.0
    })
    .await;
    assert!(
        system["first_attempt_p99_ms"].as_f64() >= Some(0.0),
        "{system}"
    );
    assert!(
        system["postgresql"]["connections"].as_i64() > Some(0),
        "{system}"
    );
    let clients = system["postgresql"]["clients"].as_array().unwrap();
    for name in ["posthorn-ingest", "posthorn-dispatcher"] {
        let known = clients.iter().find(|client| client["name"] == name);
        let connections = known.and_then(|client| client["connections"].as_i64());
        assert!(connections > Some(0), "{name}: {system}");
    }
    assert_eq!(system["rabbitmq"]["connected"], true, "{system}");
    for path in ["processes", "queues", "system", "endpoints", "load"] {
        let path = format!("/api/v1/admin/{path}");
        let refused = world.ask(&ingest, "GET", &path, None).await;
        assert_eq!(refused.status, 403, "{path}: {}", refused.body);
    }

    // A duplicate counts once.
    let expected = json!([
        {"event_type": "order.created", "events": 20},
        {"event_type": "order.paid", "events": 1},
    ]);
    eventually("events are counted by type", async || {
        let stats = get(&world, &ingest, "/api/v1/stats/event-types?window=1h").await;
        stats["event_types"] == expected && stats["other_events"] == 0
    })
    .await;
    eventually("the load of all tenants is added up", async || {
        let load = get_as_operator(&world, &ingest, "/api/v1/admin/load?window=1h").await;
        let series = load["series"].as_array().unwrap().iter();
        let sum = |member: &str| {
            let steps = series.clone();
            steps.filter_map(|step| step[member].as_i64()).sum::<i64>()
        };
        load["complete"] == true && (sum("events"), sum("attempts")) == (21, 21)
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn outages_of_an_endpoint_that_fails_and_recovers_are_listed_page_by_page() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let status = Arc::new(AtomicU16::new(200));
    let shop = world.receiver(answering_as_told(&status)).await;
    let policy = json!({"retry_policy": {"delays": [1000, 1000, 1000, 1000]}});
    let webhook = world.webhook(&ingest, &shop, policy).await;
    let open = async |many: i64| {
        eventually("the dispatcher says so", async || {
            let open = "outages WHERE ended_at IS NULL";
            world.count(open).await == many
        })
        .await;
    };
    for round in 0..3 {
        status.store(503, Ordering::Relaxed);
        for n in 0..20 {
            let id = format!("evt-{round}-{n}");
            world.publish("order.created", &id, &json!({})).await;
        }
        open(1).await;
        status.store(200, Ordering::Relaxed);
        open(0).await;
        world.settles().await;
    }
    let path = format!("/api/v1/webhooks/{}/outages", webhook.id);
    let all = get(&world, &ingest, &path).await["outages"].clone();
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 3);
    assert!(all.is_sorted_by(|one, next| one["since"].as_str() > next["since"].as_str()));
    let (mut by_page, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(&world, &ingest, &format!("{path}?limit=1{cursor}")).await;
        by_page.extend(page["outages"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(&by_page, all);
    let wrong = format!("{path}?cursor=yesterday");
    let wrong = world.ask(&ingest, "GET", &wrong, None).await;
    assert_eq!(
        (wrong.status, &wrong.body["field"]),
        (422, &json!("cursor"))
    );
    let other = world.webhook(&ingest, &shop, json!({})).await;
    let none = format!("/api/v1/webhooks/{}/outages", other.id);
    assert_eq!(get(&world, &ingest, &none).await["outages"], json!([]));
    world.finish().await;
}
