//! `posthorn-ingest doctor` finds what is wrong with an installation, and says how to mend it.

#![allow(clippy::unwrap_used)]

use harness::clock;
use harness::receiver::answering;
use harness::service::Ran;
use harness::world::{World, eventually};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};

const OLD_KEY: &str = "dGVzdHMgaGF2ZSBhIG1hc3RlciBrZXkgdG9vISEhISE=";
const NEW_KEY: &str = "YW5vdGhlciBtYXN0ZXIga2V5IG9mIHRoZSB0ZXN0cyE=";
/// What a production installation has instead of the tests' settings.
const PRODUCTION: [(&str, &str); 2] = [("ALLOW_HTTP", ""), ("ALLOWED_NETWORKS", "")];

/// Drops the coming days of one of the log's tables.
const NO_TOMORROW: &str = "DO $$ DECLARE day text; BEGIN
    FOR day IN SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'attempts'::regclass
    LOOP
        IF to_date(right(day, 8), 'YYYYMMDD') > (now() AT TIME ZONE 'UTC')::date THEN
            EXECUTE 'DROP TABLE ' || day;
        END IF;
    END LOOP;
END $$";

/// Runs the doctor as in production, with more settings.
async fn doctor(world: &World, more: &[(&str, &str)]) -> Ran {
    let rabbitmq = world.pair.as_ref().map(|pair| pair.rabbitmq());
    let management = rabbitmq.and_then(|rabbitmq| rabbitmq.management_url().ok());
    let management = management.unwrap_or_default();
    let mut settings = PRODUCTION.to_vec();
    settings.push(("RABBITMQ_MANAGEMENT_URL", &management));
    settings.extend(more);
    world.shell("posthorn-ingest doctor", &settings).await
}

/// As [`assert_finds`], soon: RabbitMQ's management API shows a change after a while.
async fn soon_finds(world: &World, problem: &str, fix: &str) {
    eventually(&format!("the doctor finds: {problem}"), async || {
        let ran = doctor(world, &[]).await;
        ran.printed.contains(problem)
    })
    .await;
    assert_finds(&doctor(world, &[]).await, problem, fix);
}

async fn soon_healthy(world: &World) {
    eventually("the doctor finds nothing", async || {
        doctor(world, &[]).await.status == 0
    })
    .await;
}

/// The doctor fails, with a line that has the first word and a fix that has the second.
fn assert_finds(ran: &Ran, problem: &str, fix: &str) {
    let printed = &ran.printed;
    assert_eq!(ran.status, 1, "{printed}\n{}", ran.said);
    let mut lines = printed.lines();
    let found = lines.any(|line| line.starts_with("WRONG ") && line.contains(problem));
    assert!(found, "{problem} is missing:\n{printed}");
    let next = lines.next().unwrap_or_default();
    assert!(
        next.contains("fix: ") && next.contains(fix),
        "{fix}: {next}"
    );
}

fn assert_healthy(ran: &Ran) {
    assert_eq!(ran.status, 0, "{}\n{}", ran.printed, ran.said);
    assert!(!ran.printed.contains("WRONG"), "{}", ran.printed);
}

async fn ctl(world: &World, arguments: &[&str]) {
    let pair = world.pair.as_ref().unwrap();
    pair.rabbitmq().rabbitmqctl(arguments).await.unwrap();
}

/// Runs the command that the doctor names for the consumer timeout, and returns what it prints.
async fn asked_consumer_timeout(world: &World) -> String {
    let ran = doctor(world, &[]).await;
    let mut lines = ran.printed.lines();
    let unknown = lines.any(|line| line.starts_with("unknown  RabbitMQ's consumer timeout: "));
    assert!(unknown, "{}", ran.printed);
    let command = lines.next().unwrap();
    let (_, command) = command.split_once("to know: rabbitmqctl eval '").unwrap();
    let (expression, _) = command.split_once("' prints the nodes").unwrap();
    let pair = world.pair.as_ref().unwrap();
    let printed = pair.rabbitmq().rabbitmqctl(&["eval", expression]).await;
    printed.unwrap().trim().to_owned()
}

async fn channel(world: &World) -> (lapin::Connection, Channel) {
    let connection = world.connection().await;
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

async fn declare_quorum(channel: &Channel, name: &str) {
    let mut arguments = FieldTable::default();
    let quorum = AMQPValue::LongString("quorum".into());
    arguments.insert("x-queue-type".into(), quorum);
    let options = QueueDeclareOptions::durable();
    let declared = channel.queue_declare(name.into(), options, arguments);
    declared.await.unwrap();
}

#[tokio::test]
async fn a_healthy_installation_gets_a_clean_bill() {
    let world = World::with_management(true, &[]).await;
    let _ingest = world.ingest().await;
    let ran = doctor(&world, &[]).await;
    assert_healthy(&ran);
    for what in [
        "destinations: public addresses, over TLS",
        "CA certificates",
        "a delivery to itself: signed, sent and received",
        "PostgreSQL's fsync: on",
        "PostgreSQL's synchronous_commit: on",
        "schema: version",
        "partitions: 14 days ahead",
        "master keys: all is sealed with MASTER_KEY",
        "clock: ",
        "RabbitMQ's exchanges and queues: declared",
        "RabbitMQ's version: ",
        "RabbitMQ's nodes: 1 running, without alarms",
        "RabbitMQ's policies: none that loses messages",
        "producers' topic permissions: every producer",
    ] {
        let line = format!("ok       {what}");
        assert!(ran.printed.contains(&line), "{what}:\n{}", ran.printed);
    }
    for secret in [OLD_KEY, "posthorn:posthorn"] {
        assert!(!ran.printed.contains(secret));
    }

    // Without the management API the rest is still looked at.
    let nowhere = [("RABBITMQ_MANAGEMENT_URL", "http://127.0.0.1:9")];
    let ran = doctor(&world, &nowhere).await;
    assert_healthy(&ran);
    assert!(
        ran.printed
            .contains("unknown  RabbitMQ's version, policies")
    );
    assert!(ran.printed.contains("to know: rabbitmq-plugins enable"));
    world.finish().await;
}

#[tokio::test]
async fn what_is_wrong_with_postgresql_is_found() {
    let world = World::with_management(false, &[]).await;
    let sql = world.sql().await;
    let run = async |statement: &str| sql.batch_execute(statement).await.unwrap();
    run(NO_TOMORROW).await;
    let ran = doctor(&world, &[]).await;
    assert_finds(&ran, "fsync: off", "ALTER SYSTEM SET fsync = on");
    assert_finds(&ran, "partitions: ", "serve --only intake");
    let ingest = world.ingest().await;
    eventually("ingest has made the coming days", async || {
        let ran = doctor(&world, &[]).await;
        ran.printed.contains("partitions: 14 days ahead")
    })
    .await;

    run("ALTER ROLE posthorn SET synchronous_commit = off").await;
    let ran = doctor(&world, &[]).await;
    assert_finds(
        &ran,
        "synchronous_commit: off",
        "SET synchronous_commit = on",
    );
    run("ALTER ROLE posthorn RESET synchronous_commit").await;

    run("CREATE ROLE stranger LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO stranger")
        .await;
    let url = world.database_url().replace("posthorn@", "stranger@");
    let ran = doctor(&world, &[("DATABASE_URL", &url)]).await;
    assert_finds(
        &ran,
        "stranger may not read and write",
        "GRANT SELECT, INSERT",
    );
    assert_finds(
        &ran,
        "stranger may not create tables",
        "GRANT CREATE ON SCHEMA public",
    );
    assert_finds(&ran, "stranger doesn't own attempts", "OWNER TO stranger");

    // A webhook's secret is sealed with the key that was the current one.
    let _endpoint = world.subscribed(&ingest, answering(200)).await;
    let rotated = [("MASTER_KEY", NEW_KEY), ("MASTER_KEY_PREVIOUS", OLD_KEY)];
    let ran = doctor(&world, &rotated).await;
    assert_finds(
        &ran,
        "1 webhooks are still sealed with the previous key",
        "rekey",
    );
    let ran = doctor(&world, &rotated[..1]).await;
    assert_finds(&ran, "which isn't set", "MASTER_KEY_PREVIOUS");
    assert_eq!(
        world.shell("posthorn-ingest rekey", &rotated).await.status,
        0
    );
    let ran = doctor(&world, &rotated).await;
    assert!(ran.printed.contains("MASTER_KEY_PREVIOUS can be removed"));
    // Back, for the running ingest.
    let back = [("MASTER_KEY_PREVIOUS", NEW_KEY)];
    assert_eq!(world.shell("posthorn-ingest rekey", &back).await.status, 0);

    let ran = doctor(
        &world,
        &[("DATABASE_URL", "postgres://127.0.0.1:9/posthorn")],
    )
    .await;
    assert_finds(&ran, "PostgreSQL: connecting", "psql \"$DATABASE_URL\"");
    assert!(
        ran.printed.contains("ok       RabbitMQ's exchanges"),
        "{}",
        ran.printed
    );
    let away = [("DATABASE_URL", "postgres://db.example/posthorn")];
    let ran = doctor(&world, &away).await;
    assert_eq!(ran.status, 1);

    let behind = "DELETE FROM posthorn_migrations WHERE version > 1";
    run(&format!(
        "BEGIN; CREATE TABLE kept AS SELECT * FROM posthorn_migrations; {behind}; COMMIT"
    ))
    .await;
    let ran = doctor(&world, &[]).await;
    assert_finds(&ran, "schema: version 1", "posthorn-ingest migrate");
    run(
        "TRUNCATE posthorn_migrations; INSERT INTO posthorn_migrations TABLE kept; DROP TABLE kept",
    )
    .await;
    world.finish().await;
}

#[tokio::test]
async fn what_is_wrong_with_rabbitmq_is_found() {
    let world = World::with_management(true, &[]).await;
    let _ingest = world.ingest().await;
    soon_healthy(&world).await;

    // The doctor can't know the node's own setting. The command that it names can.
    assert_eq!(asked_consumer_timeout(&world).await, "[]");
    let set = |timeout| format!("application:set_env(rabbit, consumer_timeout, {timeout}).");
    ctl(&world, &["eval", &set(60_000)]).await;
    let printed = asked_consumer_timeout(&world).await;
    assert!(printed.contains('@'), "no node is named: {printed}");
    ctl(&world, &["eval", &set(1_800_000)]).await;

    // A limit on queues that refuse what is too much is fine, on others it drops messages.
    let limit = r#"{"max-length-bytes":1000000}"#;
    let queues = "^posthorn.ingest";
    ctl(&world, &["set_operator_policy", "limit", queues, limit]).await;
    soon_healthy(&world).await;
    ctl(
        &world,
        &["set_operator_policy", "limit", "^posthorn", limit],
    )
    .await;
    soon_finds(
        &world,
        "applies to posthorn.parking.v1",
        "clear_operator_policy -p '/' limit",
    )
    .await;
    ctl(&world, &["clear_operator_policy", "limit"]).await;
    let expiry = r#"{"expires":86400000}"#;
    ctl(&world, &["set_policy", "expiry", "^posthorn.jobs", expiry]).await;
    soon_finds(
        &world,
        "expires = 86400000 applies to posthorn.jobs.v1.0",
        "clear_policy -p '/' expiry",
    )
    .await;
    ctl(&world, &["clear_policy", "expiry"]).await;

    // A producer that is restricted by its exchange alone.
    ctl(&world, &["add_user", "producer", "password"]).await;
    let permissions = [
        "set_permissions",
        "producer",
        "^$",
        "^posthorn\\.events$",
        "^$",
    ];
    ctl(&world, &permissions).await;
    soon_finds(
        &world,
        "publish events of every tenant: producer",
        "set_topic_permissions -p '/' producer",
    )
    .await;
    let topics = [
        "set_topic_permissions",
        "producer",
        "posthorn.events",
        "^acme\\.[!-~]+$",
        "^$",
    ];
    ctl(&world, &topics).await;
    soon_healthy(&world).await;

    // Posthorn's own user may declare nothing.
    let url = world
        .amqp_url()
        .replace("posthorn:posthorn@", "producer:password@");
    let ran = doctor(&world, &[("AMQP_URL", &url)]).await;
    assert_finds(&ran, "ACCESS_REFUSED", "set_permissions -p '/' producer");
    let ran = doctor(&world, &[("AMQP_URL", "amqp://127.0.0.1:9")]).await;
    assert_finds(&ran, "RabbitMQ's exchanges and queues", "check AMQP_URL");
    assert!(
        ran.printed.contains("ok       PostgreSQL's version"),
        "{}",
        ran.printed
    );

    // Jobs of a time when there were more shards.
    let (_connection, publishing) = channel(&world).await;
    publishing
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    declare_quorum(&publishing, "posthorn.jobs.v1.5").await;
    let options = BasicPublishOptions::default();
    let job = publishing.basic_publish(
        "".into(),
        "posthorn.jobs.v1.5".into(),
        options,
        b"job",
        BasicProperties::default(),
    );
    job.await.unwrap().await.unwrap();
    soon_finds(&world, "JOB_SHARDS is 1", "JOB_SHARDS=6").await;
    let options = QueueDeleteOptions::default();
    publishing
        .queue_delete("posthorn.jobs.v1.5".into(), options)
        .await
        .unwrap();

    ctl(&world, &["set_vm_memory_high_watermark", "0.00001"]).await;
    soon_finds(&world, "has a memory alarm", "vm_memory_high_watermark").await;
    ctl(&world, &["set_vm_memory_high_watermark", "0.4"]).await;

    // A queue that somebody declared otherwise.
    let parking = "posthorn.parking.v1";
    publishing
        .queue_delete(parking.into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    let durable = QueueDeclareOptions::durable();
    let declared = publishing.queue_declare(parking.into(), durable, FieldTable::default());
    // Ingest declares it anew only after its session has ended.
    declared.await.unwrap();
    let ran = doctor(&world, &[]).await;
    assert_finds(&ran, "PRECONDITION_FAILED", "delete_queue");
    publishing
        .queue_delete(parking.into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    world.finish().await;
}

#[tokio::test]
async fn settings_and_the_machine_are_looked_at_too() {
    let world = World::start().await;
    let _ingest = world.ingest().await;
    let ran = doctor(&world, &[("ALLOW_HTTP", "true")]).await;
    assert_finds(&ran, "ALLOW_HTTP", "unset ALLOW_HTTP");
    let ran = doctor(&world, &[("ALLOWED_NETWORKS", "127.0.0.0/8")]).await;
    assert_finds(
        &ran,
        "ALLOWED_NETWORKS has 127.0.0.0/8",
        "remove 127.0.0.0/8",
    );
    let none = [("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/nowhere")];
    let ran = doctor(&world, &none).await;
    assert_finds(&ran, "CA certificates", "ca-certificates");

    // A clock with which no process is ready.
    let late = clock::off_by("-40s");
    let late = late.each_ref().map(|(name, value)| (*name, value.as_str()));
    let ran = doctor(&world, &late).await;
    assert_finds(&ran, "PostgreSQL's minus this machine's is ", "timedatectl");

    // A machine whose loopback interface is down. Only root may make one as it is; another user
    // becomes root in it, which no process may inside a chroot.
    let alone = "unshare --net $([ $(id -u) = 0 ] || echo --map-root-user) posthorn-ingest doctor";
    let alone = world.shell(alone, &PRODUCTION).await;
    assert_finds(&alone, "a delivery to itself", "ip address show lo");
    world.finish().await;
}

#[tokio::test]
async fn migrate_refuses_a_schema_that_a_newer_version_made() {
    let world = World::start().await;
    let sql = world.sql().await;
    let newer = "INSERT INTO posthorn_migrations (version, name, applied_on, checksum) \
                 VALUES (9999, 'from_the_future', '2030-01-01T00:00:00Z', '1')";
    sql.batch_execute(newer).await.unwrap();
    let refused = world
        .try_command(&["migrate"])
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("schema is version 9999"), "{refused}");
    assert!(refused.contains("nothing was changed"), "{refused}");
    // Processes of this version go on: migrations only add.
    let _ingest = world.ingest().await;
    let ran = doctor(&world, &[]).await;
    assert!(
        ran.printed.contains("newer than this binary's"),
        "{}",
        ran.printed
    );
    world.finish().await;
}
