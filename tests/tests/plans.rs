//! No statement's work grows faster than what it is asked for: not on a fresh
//! database, not on one that has been analyzed with a month of history in it, and
//! not on one whose deliveries are unlike those that its statistics were made of.
//!
//! Both services run as always, but PostgreSQL tells each of their connections how
//! it executed each statement (`auto_explain`), and they log what it tells. What is
//! counted is rows, never time: every row that a node of the plan passed on or threw
//! away, against how many the statement was given or answered.

#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use harness::history;
use harness::producer::Publication;
use harness::receiver::answering;
use harness::service::Service;
use harness::world::{TENANT, World, eventually};
use serde_json::{Value, json};

/// Events published at once, so that there are large batches.
const EVENTS: i64 = 400;
/// Webhooks that each event matches. A batch of ingest's makes 128 jobs at most, so it has 64
/// events.
const WEBHOOKS: i64 = 2;
/// Days with partitions before today's and yesterday's.
const DAYS: u32 = 30;
/// Deliveries a day of history.
const PER_DAY: u32 = 2_000;
/// A plan of ours has about a dozen nodes, and passes each row through most of them.
const ROWS_PER_ROW: u64 = 30;
/// What any statement may look at beside: each day's index, a page of rows.
const ROWS_ANYWAY: u64 = 700;
/// A look of a search, or of the walk for a webhook's log, reads at most all deliveries of each
/// webhook that it is given: here one of each event. It passes each through five nodes: the index,
/// the days together, the limit, a subquery, a count.
const LOOKS: [&str; 2] = ["look_at_deliveries", "look_at_log"];
const ROWS_PER_WEBHOOK: u64 = 5 * EVENTS as u64;
/// The smallest batch that tells work that grows with its square from other work: from 46 on,
/// `n * n` is more than `ROWS_PER_ROW * n + ROWS_ANYWAY`.
const LARGE_BATCH: u64 = 46;
const _: () = assert!(LARGE_BATCH * LARGE_BATCH > ROWS_PER_ROW * LARGE_BATCH + ROWS_ANYWAY);

/// The survey for the metrics looks at 20,000 open deliveries (`LOOKED_AT`). Which partitions there
/// are is looked up in PostgreSQL's catalogue, a few times a minute at most.
const BOUNDED_OTHERWISE: [&str; 4] = [
    "open_deliveries",
    "outdated_partitions",
    "partitions_ahead",
    "sizes_of_days",
];

/// The id of the nth delivery of this moment.
const NEW_ID: &str = "(lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0')
                 || '70008000' || lpad(to_hex(n), 12, '0'))::uuid";

/// What auto_explain is to do, for each connection of a service.
const EXPLAINED: &str = "-c session_preload_libraries=auto_explain \
    -c auto_explain.log_min_duration=0 -c auto_explain.log_analyze=on \
    -c auto_explain.log_timing=off -c auto_explain.log_buffers=on \
    -c auto_explain.log_nested_statements=on \
    -c auto_explain.log_format=json -c client_min_messages=log";
/// A function has this statement, which is planned once for a connection.
const OLDEST_OPEN_DAY: &str = "oldest_open_day";

#[tokio::test]
async fn no_statement_reads_more_than_it_needs_on_a_fresh_database() {
    let world = World::start().await;
    works_within_bounds(&world).await;
    world.finish().await;
}

#[tokio::test]
async fn no_statement_reads_more_than_it_needs_on_an_analyzed_month() {
    let world = World::start().await;
    let sql = world.sql().await;
    history::fill(&sql, TENANT, DAYS, PER_DAY).await.unwrap();
    sql.batch_execute("VACUUM ANALYZE").await.unwrap();
    works_within_bounds(&world).await;
    world.finish().await;
}

/// The statistics say that nothing is open, and nothing at all is of today. Then much
/// is, and due in a while.
#[tokio::test]
async fn no_statement_reads_more_than_it_needs_with_statistics_of_another_time() {
    let world = World::start().await;
    let sql = world.sql().await;
    history::fill(&sql, TENANT, DAYS, PER_DAY).await.unwrap();
    for delete in [
        "DELETE FROM deliveries WHERE id >= first_uuid_at(date_trunc('day', now()))",
        "DELETE FROM events WHERE uid >= first_uuid_at(date_trunc('day', now()))",
    ] {
        sql.batch_execute(delete).await.unwrap();
    }
    sql.batch_execute("VACUUM ANALYZE").await.unwrap();
    turn_autovacuum_off(&sql).await;
    fill_with_open(&sql, 20_000).await;
    works_within_bounds(&world).await;
    sql.batch_execute("DELETE FROM deliveries WHERE deferred_because = 'endpoint_down'")
        .await
        .unwrap();
    world.finish().await;
}

/// As after midnight: the statistics were made when the day had a few rows.
#[tokio::test]
async fn no_statement_reads_more_than_it_needs_on_a_day_that_has_just_begun() {
    for rows in [1, 40] {
        let world = World::start().await;
        let sql = world.sql().await;
        history::fill(&sql, TENANT, DAYS, PER_DAY).await.unwrap();
        let today = "date_trunc('day', now(), 'UTC')";
        for (table, id) in [
            ("deliveries", "id"),
            ("events", "uid"),
            ("attempts", "delivery_id"),
        ] {
            let all_but = format!(
                "DELETE FROM {table} WHERE {id} >= first_uuid_at({today}) AND {id} NOT IN
                 (SELECT {id} FROM {table} ORDER BY {id} DESC LIMIT {rows})"
            );
            sql.batch_execute(&all_but).await.unwrap();
        }
        sql.batch_execute("VACUUM ANALYZE").await.unwrap();
        turn_autovacuum_off(&sql).await;
        works_within_bounds(&world).await;
        world.finish().await;
    }
}

#[tokio::test]
async fn a_clients_webhooks_and_one_by_its_old_id_are_found_without_reading_the_others() {
    let world = World::start().await;
    let sql = world.sql().await;
    let many = format!(
        "SET session_replication_role = replica;
         INSERT INTO webhooks (id, tenant, url, patterns, secret, revision, metadata, external_id)
         SELECT gen_random_uuid(), '{TENANT}', 'https://example.com/', '{{never}}', '', 0,
             jsonb_build_object('client_id', 'client-' || n % 500), 'old-' || n
         FROM generate_series(1, 5000) n;
         RESET session_replication_role; ANALYZE webhooks"
    );
    sql.batch_execute(&many).await.unwrap();
    let ingest = explained_ingest(&world).await;
    for (query, found) in [("client_id=client-7", 10), ("external_id=old-7", 1)] {
        let path = format!("/api/v1/webhooks?{query}");
        let listed = world.ask(&ingest, "GET", &path, None).await;
        assert_eq!(
            listed.body["webhooks"].as_array().unwrap().len(),
            found,
            "{query}"
        );
    }
    let plans = plans(&world.logs());
    let listed: Vec<_> = plans
        .iter()
        .filter(|plan| plan.name == "list_webhooks")
        .collect();
    assert_eq!(listed.len(), 2);
    for plan in listed {
        assert!(
            plan.rows <= ROWS_PER_ROW * plan.asked,
            "{} rows of 5,000",
            plan.rows
        );
    }
    world.finish().await;
}

/// Every day of the log has indexes of its own. Whoever looks into each of them for each webhook
/// looks 3,100 times for a page of fifty deliveries. And planning for them all takes ten times as
/// long as for one.
#[tokio::test]
async fn lists_of_many_webhooks_look_into_the_days_that_they_need() {
    const MANY: u64 = 100;
    let world = World::start().await;
    let sql = world.sql().await;
    history::fill(&sql, TENANT, DAYS, PER_DAY).await.unwrap();
    // Its deliveries are those of webhooks that are there, and one of them is open.
    let many = format!(
        "SET session_replication_role = replica;
         INSERT INTO webhooks (id, tenant, url, patterns, secret, revision)
             SELECT gen_random_uuid(), '{TENANT}', 'https://example.com/', '{{never}}', '', 0
             FROM generate_series(1, {MANY});
         RESET session_replication_role;
         CREATE TEMP TABLE own AS SELECT id, row_number() OVER () - 1 AS n FROM webhooks WHERE status = 'active';
         UPDATE deliveries d SET webhook_id = own.id FROM own WHERE own.n = abs(hashtext(d.id::text) % {MANY})"
    );
    sql.batch_execute(&many).await.unwrap();
    fill_with_open(&sql, 1).await;
    sql.batch_execute("VACUUM ANALYZE").await.unwrap();
    let ingest = explained_ingest(&world).await;
    let own = "SELECT id FROM webhooks WHERE status = 'active' LIMIT 1";
    let own: shared::ids::WebhookId = sql.query_one(own, &[]).await.unwrap().get(0);
    let attempts = format!("/api/v1/webhooks/{own}/attempts?limit=1");
    for path in [
        "/api/v1/deliveries",
        "/api/v1/webhooks?limit=250",
        attempts.as_str(),
    ] {
        let listed = world.ask(&ingest, "GET", path, None).await;
        assert_eq!(listed.status, 200, "{path}: {}", listed.body);
    }
    let plans = plans(&world.logs());
    // A day, or two about midnight. `backlogs` looks into two indexes for each webhook, and once into
    // a third. `read_deliveries` looks into a day once, for all ids of a page; it has an index of
    // deliveries, of events and of attempts.
    for (name, indexes, most) in [
        ("look_at_deliveries", 2, 2 * MANY),
        ("backlogs", 6, 4 * MANY + 2),
        ("read_deliveries", 6, 2),
        // One webhook, for a page of one: the last day that has deliveries of it is enough, and its
        // deliveries, events and attempts are of one millisecond.
        ("look_at_log", 2, 4),
        ("attempts_of_deliveries", 6, 4),
    ] {
        let of_name: Vec<_> = plans.iter().filter(|plan| plan.name == name).collect();
        assert!(!of_name.is_empty(), "{name}");
        for plan in of_name {
            let Plan { planned, scans, .. } = plan;
            assert!(
                *planned <= indexes,
                "{name} has {planned} indexes of a day in its plan"
            );
            assert!(
                *scans <= most,
                "{name} looked into {scans} indexes of a day"
            );
        }
    }
    let delete = "DELETE FROM deliveries WHERE deferred_because = 'endpoint_down'";
    sql.batch_execute(delete).await.unwrap();
    world.finish().await;
}

/// The plan is kept by a connection that made it while the day had no deliveries.
#[tokio::test]
async fn the_oldest_open_day_is_found_among_open_deliveries_alone() {
    let world = World::start().await;
    let ingest = explained_ingest(&world).await;
    let list = async || {
        let path = "/api/v1/webhooks";
        let listed = world.ask(&ingest, "GET", path, None).await;
        assert_eq!(listed.status, 200, "{}", listed.body);
    };
    list().await;
    let sql = world.sql().await;
    turn_autovacuum_off(&sql).await;
    let finished = format!(
        "INSERT INTO deliveries (id, event_uid, webhook_id, event_type, state, attempts, finished_at)
        SELECT {NEW_ID}, gen_random_uuid(), gen_random_uuid(),
            'order.paid', 'delivered', 1, now() FROM generate_series(1, 20000) n"
    );
    sql.batch_execute(&finished).await.unwrap();
    list().await;
    let plans = plans(&world.logs());
    let looks = plans.iter().filter(|plan| plan.name == OLDEST_OPEN_DAY);
    let looks: Vec<_> = looks.collect();
    assert!(looks.len() >= 2);
    for look in looks {
        assert!(
            look.rows <= ROWS_ANYWAY,
            "{} rows:\n{}",
            look.rows,
            look.nodes
        );
    }
    world.finish().await;
}

/// Has both services do all that they do often, and looks at how it was done.
async fn works_within_bounds(world: &World) {
    let url = explained(world.database_url());
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("LOG_FORMAT", "json"),
        ("SWEEP_INTERVAL", "1"),
        ("RUST_LOG", "info,lapin=off"),
    ];
    let ingest = world.service("posthorn-ingest", &settings).await;
    let shop = world.receiver(answering(200)).await;
    let mut webhooks = Vec::new();
    for _ in 0..WEBHOOKS {
        webhooks.push(world.webhook(&ingest, &shop, json!({})).await);
    }
    // What has gathered comes in large batches.
    ingest.stop().await.unwrap();
    let producer = world.producer().await;
    for n in 0..EVENTS {
        let data = json!({"n": n}).to_string();
        let event = Publication::json(TENANT, "order.created", &format!("evt-{n}"), &data);
        producer.publish(&event).await.unwrap();
    }
    let ingest = world.service("posthorn-ingest", &settings).await;
    let accepted = "events WHERE type = 'order.created'";
    eventually("all is accepted", async || {
        world.count(accepted).await == EVENTS
    })
    .await;
    // Known events are compared with what was accepted, in large batches too.
    ingest.stop().await.unwrap();
    // Comparing takes less than reading from RabbitMQ, so large batches need more that waits.
    for n in (0..EVENTS).chain(0..EVENTS) {
        let data = json!({"n": n}).to_string();
        let event = Publication::json(TENANT, "order.created", &format!("evt-{n}"), &data);
        producer.publish(&event).await.unwrap();
    }
    let ingest = world.service("posthorn-ingest", &settings).await;
    let known = "posthorn_events_deduplicated_total";
    eventually("all is known", async || {
        ingest.metric(known).await.unwrap_or(0.0) as i64 == 2 * EVENTS
    })
    .await;
    let dispatcher = world.service("posthorn-dispatcher", &settings).await;
    let finished = "posthorn_deliveries_finished_total";
    eventually("all is delivered", async || {
        dispatcher.metric(finished).await.unwrap_or(0.0) as i64 == EVENTS * WEBHOOKS
    })
    .await;
    let hook = format!("/api/v1/webhooks/{}", webhooks[0].id);
    let lists = [
        format!("{hook}/deliveries"),
        format!("{hook}/deliveries?status=failed"),
        format!("{hook}/deliveries?status=delivered&limit=100"),
        format!("{hook}/deliveries?status=processing"),
        format!("{hook}/logs"),
        format!("{hook}/attempts"),
        format!("{hook}/waits"),
        format!("{hook}/outages"),
        format!("{hook}/stats"),
        "/api/v1/deliveries".to_owned(),
        "/api/v1/deliveries?status=failed".to_owned(),
        "/api/v1/events".to_owned(),
        "/api/v1/events/evt-0".to_owned(),
        "/api/v1/stats?window=30d".to_owned(),
        "/api/v1/webhooks".to_owned(),
    ];
    for path in &lists {
        let answer = world.ask(&ingest, "GET", path, None).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    }
    swept_once_more(&dispatcher, world).await;

    let plans = plans(&world.logs());
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    let mut beyond = Vec::new();
    for plan in &plans {
        let asked = seen.entry(&plan.name).or_default();
        *asked = plan.asked.max(*asked);
        let per_row = match plan.name.as_str() {
            look if LOOKS.contains(&look) => ROWS_PER_WEBHOOK,
            _ => ROWS_PER_ROW,
        };
        let bound = per_row * plan.asked + ROWS_ANYWAY;
        if plan.rows > bound && !BOUNDED_OTHERWISE.contains(&plan.name.as_str()) {
            let Plan {
                name,
                asked,
                rows,
                nodes,
                ..
            } = plan;
            beyond.push(format!(
                "{name} looked at {rows} rows for {asked}:\n{nodes}"
            ));
        }
    }
    assert!(beyond.is_empty(), "{}", beyond.join("\n"));
    for statement in ["settle_deliveries", "accept_events", "stored_events"] {
        let largest = seen.get(statement).copied().unwrap_or_default();
        assert!(largest >= LARGE_BATCH, "{statement}: {largest} of {seen:?}");
    }
    for statement in ["sweep_overdue", "note_sweep"] {
        assert!(seen.contains_key(statement), "{statement}: {seen:?}");
    }
}

/// An ingest whose statements PostgreSQL explains.
async fn explained_ingest(world: &World) -> Service {
    let url = explained(world.database_url());
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("LOG_FORMAT", "json"),
        ("RUST_LOG", "info,lapin=off"),
    ];
    world.service("posthorn-ingest", &settings).await
}

/// The same database, with connections that are told how statements were executed.
fn explained(url: &str) -> String {
    let mut url = url::Url::parse(url).unwrap();
    url.query_pairs_mut().append_pair("options", EXPLAINED);
    // A `+` is a plus sign in PostgreSQL's URLs.
    url.as_str().replace('+', "%20")
}

async fn swept_once_more(dispatcher: &Service, world: &World) {
    let sql = world.sql().await;
    let now = sql.query_one("SELECT now()", &[]).await.unwrap();
    let now: time::OffsetDateTime = now.get(0);
    eventually("the sweeper has passed", async || {
        let swept = "SELECT coalesce(swept_at > $1, false) FROM sweep";
        let row = sql.query_one(swept, &[&now]).await.unwrap();
        row.get(0)
    })
    .await;
    assert!(
        dispatcher
            .metric("posthorn_jobs_taken_total")
            .await
            .unwrap()
            > 0.0
    );
}

/// A statement as it was executed.
struct Plan {
    name: String,
    /// Rows that it was given, or that it answered.
    asked: u64,
    /// Rows that its nodes passed on or threw away.
    rows: u64,
    /// How often it looked into an index of a day of deliveries.
    scans: u64,
    /// How many indexes of a day its plan has, of deliveries, events and attempts.
    planned: u64,
    /// What each node of the plan looked at, if it was more than a little.
    nodes: String,
}

/// What services have logged of plans.
fn plans(logs: &str) -> Vec<Plan> {
    let lines = logs.lines().filter_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        let message = line["message"].as_str()?;
        let plan = message.split_once("plan:")?.1;
        serde_json::from_str::<Value>(plan).ok()
    });
    lines
        .filter_map(|explained| {
            let query = explained["Query Text"].as_str()?;
            let name = match query.strip_prefix("-- ") {
                Some(named) => named.split_whitespace().next()?,
                None if query.contains("FROM deliveries WHERE id >= day.begins") => OLDEST_OPEN_DAY,
                None => return None,
            };
            let mut plan = Plan {
                name: name.to_owned(),
                asked: number(&explained["Plan"], "Actual Rows"),
                rows: 0,
                scans: 0,
                planned: 0,
                nodes: String::new(),
            };
            count(&explained["Plan"], &mut plan);
            Some(plan)
        })
        .collect()
}

fn count(node: &Value, plan: &mut Plan) {
    let loops = number(node, "Actual Loops");
    let passed_on = number(node, "Actual Rows");
    if node["Node Type"] == "Function Scan" && loops > 0 {
        plan.asked = plan.asked.max(passed_on);
    }
    let thrown_away: u64 = [
        "Rows Removed by Filter",
        "Rows Removed by Join Filter",
        "Rows Removed by Index Recheck",
    ]
    .iter()
    .map(|what| number(node, what))
    .sum();
    let rows = loops * (passed_on + thrown_away);
    plan.rows += rows;
    if rows > 100 {
        let [kind, of, index, condition] =
            ["Node Type", "Relation Name", "Index Name", "Index Cond"]
                .map(|what| node[what].as_str().unwrap_or_default());
        plan.nodes += &format!("  {rows} rows: {kind} {of} {index} {condition}\n");
    }
    let relation = node["Relation Name"].as_str().unwrap_or_default();
    if relation.starts_with("deliveries_") {
        plan.scans += loops;
    }
    let days = ["deliveries_2", "events_2", "attempts_2"];
    plan.planned += u64::from(days.iter().any(|day| relation.starts_with(day)));
    for child in node["Plans"].as_array().into_iter().flatten() {
        count(child, plan);
    }
}

fn number(node: &Value, what: &str) -> u64 {
    node[what].as_f64().unwrap_or_default().round() as u64
}

/// Turns autovacuum off for deliveries. A planner that knows of many pages that all can see favours
/// index-only scans. So its choice would depend on whether autovacuum has passed.
async fn turn_autovacuum_off(sql: &tokio_postgres::Client) {
    let turn_off = "DO $$
         DECLARE day regclass;
         BEGIN
             FOR day IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'deliveries'::regclass LOOP
                 EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off)', day);
             END LOOP;
         END $$";
    sql.batch_execute(turn_off).await.unwrap();
}

/// Deliveries of today that are open, and due in an hour.
async fn fill_with_open(sql: &tokio_postgres::Client, count: i64) {
    let fill = format!(
        "INSERT INTO deliveries (id, event_uid, webhook_id, event_type, state, due_at, deferred_because)
         SELECT {NEW_ID}, gen_random_uuid(),
             ('01900000-0000-7000-8000-' || lpad(to_hex(n % 10 + 1), 12, '0'))::uuid,
             'order.paid', 'queued', now() + interval '1 hour', 'endpoint_down'
         FROM generate_series(1, {count}) n"
    );
    sql.batch_execute(&fill).await.unwrap();
}
