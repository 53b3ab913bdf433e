//! The private servers of `harness::pair` keep their promises. These tests start real
//! servers, so each takes seconds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::bench::stage::Month;
use harness::pair::{Pair, PairConfig};
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};
use tokio::sync::{Mutex, MutexGuard};
use tokio_postgres::{Client, NoTls};

/// Starting a node uses all processors, so these tests run one at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().await
}

/// A folder that no other test uses.
fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("posthorn-pair-{name}-{}", std::process::id()))
}

fn config(folder: PathBuf) -> PairConfig {
    let mut config = PairConfig::new(folder);
    config.fsync = false;
    config.vhosts = 2;
    config.progress = Some(Arc::new(|step| eprintln!("  {step}")));
    config
}

async fn sql(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn amqp(url: &str) -> Connection {
    Connection::connect(url, ConnectionProperties::default())
        .await
        .unwrap()
}

fn durable_quorum() -> (QueueDeclareOptions, FieldTable) {
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    let options = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    (options, arguments)
}

/// Returns after the broker's confirm.
async fn publish(url: &str, body: &[u8]) {
    let connection = amqp(url).await;
    let channel = connection.create_channel().await.unwrap();
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    let (options, arguments) = durable_quorum();
    channel
        .queue_declare("q".into(), options, arguments)
        .await
        .unwrap();
    let confirmation = channel
        .basic_publish(
            "".into(),
            "q".into(),
            BasicPublishOptions::default(),
            body,
            BasicProperties::default().with_delivery_mode(2),
        )
        .await
        .unwrap()
        .await
        .unwrap();
    assert!(matches!(confirmation, Confirmation::Ack(_)));
}

async fn take(url: &str) -> Option<Vec<u8>> {
    let connection = amqp(url).await;
    let channel = connection.create_channel().await.unwrap();
    // After a start, a quorum queue needs a moment to elect its leader.
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Ok(Some(message)) = channel
            .basic_get("q".into(), BasicGetOptions { no_ack: true })
            .await
        {
            return Some(message.delivery.data.to_vec());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}

fn running(pids: &[u32]) -> Vec<u32> {
    pids.iter()
        .copied()
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z "))
        })
        .collect()
}

/// A signalled process may take a moment to end.
async fn all_end(pids: &[u32]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !running(pids).is_empty() {
        assert!(
            Instant::now() < deadline,
            "still there: {:?}",
            running(pids)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn all_pids(pair: &Pair) -> Vec<u32> {
    let mut pids = pair.postgres().pids().unwrap();
    pids.extend(pair.rabbitmq().pids().unwrap());
    pids
}

#[tokio::test]
async fn confirmed_data_survives_kill_9_and_stop_leaves_no_process() {
    let _alone = alone().await;
    let pair = Pair::start(config(folder("survive"))).await.unwrap();
    let database = sql(pair.postgres().url()).await;
    database
        .batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (7)")
        .await
        .unwrap();
    publish(&pair.rabbitmq().amqp_url("t1"), b"still here").await;
    pair.rabbitmq().flush_declarations().await.unwrap();
    assert!(pair.postgres().cpu_seconds().unwrap() > 0.0);
    assert!(pair.rabbitmq().cpu_seconds().unwrap() > 1.0);
    assert!(pair.rabbitmq().peak_rss_bytes().unwrap() > 50 << 20);
    assert!(pair.postgres().memory_bytes().unwrap() > 5 << 20);

    let before = all_pids(&pair);
    assert!(before.len() >= 8, "{before:?}");
    let (postgres, rabbitmq) = tokio::join!(pair.postgres().kill(), pair.rabbitmq().kill());
    postgres.unwrap();
    rabbitmq.unwrap();
    all_end(&before).await;
    assert!(all_pids(&pair).is_empty());

    let (postgres, rabbitmq) =
        tokio::join!(pair.postgres().start_again(), pair.rabbitmq().start_again());
    postgres.unwrap();
    rabbitmq.unwrap();
    let row = sql(pair.postgres().url())
        .await
        .query_one("SELECT n FROM t", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i32>(0), 7);
    assert_eq!(
        take(&pair.rabbitmq().amqp_url("t1")).await.as_deref(),
        Some(&b"still here"[..])
    );

    let vhosts = pair
        .rabbitmq()
        .rabbitmqctl(&["--quiet", "list_vhosts"])
        .await
        .unwrap();
    assert_eq!(
        vhosts.lines().filter(|line| line.starts_with('t')).count(),
        2
    );

    pair.rabbitmq().wipe().await.unwrap();
    let connection = amqp(&pair.rabbitmq().amqp_url("t1")).await;
    let channel = connection.create_channel().await.unwrap();
    let asked = channel
        .basic_get("q".into(), BasicGetOptions::default())
        .await;
    assert!(asked.is_err(), "the queue is gone");

    let pids = all_pids(&pair);
    let place = pair.folder().unwrap().to_owned();
    let begun = Instant::now();
    pair.stop().await.unwrap();
    eprintln!("  stopped in {:?}", begun.elapsed());
    assert!(running(&pids).is_empty());
    assert!(place.join("pair.json").exists());
    std::fs::remove_dir_all(place).unwrap();
}

#[tokio::test]
async fn a_paused_server_hangs_and_answers_when_it_is_resumed() {
    let _alone = alone().await;
    let pair = Pair::start(config(folder("pause"))).await.unwrap();
    let database = sql(pair.postgres().url()).await;
    let connection = amqp(pair.rabbitmq().url()).await;

    pair.postgres().pause().unwrap();
    pair.rabbitmq().pause().unwrap();
    let mut query = Box::pin(database.query_one("SELECT 1", &[]));
    let mut channel = Box::pin(connection.create_channel());
    tokio::select! {
        _ = &mut query => panic!("a paused PostgreSQL answers"),
        _ = &mut channel => panic!("a paused RabbitMQ answers"),
        () = tokio::time::sleep(Duration::from_secs(1)) => {}
    }
    pair.postgres().resume().unwrap();
    pair.rabbitmq().resume().unwrap();
    query.await.unwrap();
    channel.await.unwrap();
    pair.discard().await.unwrap();
}

#[tokio::test]
async fn two_pairs_run_at_once_and_a_second_start_keeps_ports_and_data() {
    let _alone = alone().await;
    let (first, second) = tokio::join!(
        Pair::start(config(folder("one"))),
        Pair::start(config(folder("two")))
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_ne!(first.postgres().url(), second.postgres().url());
    publish(first.rabbitmq().url(), b"kept").await;
    publish(second.rabbitmq().url(), b"other").await;
    let urls = [
        first.postgres().url().to_owned(),
        first.rabbitmq().url().to_owned(),
    ];

    second.discard().await.unwrap();
    first.stop().await.unwrap();
    let again = Pair::start(config(folder("one"))).await.unwrap();
    assert_eq!(urls, [again.postgres().url(), again.rabbitmq().url()]);
    assert_eq!(
        take(again.rabbitmq().url()).await.as_deref(),
        Some(&b"kept"[..])
    );

    // Dropped, as when a test panics.
    let pids = all_pids(&again);
    drop(again);
    all_end(&pids).await;
    std::fs::remove_dir_all(folder("one")).unwrap();
}

#[tokio::test]
async fn a_killed_owner_leaves_nothing_behind_even_paused() {
    let _alone = alone().await;
    let place = folder("orphan");
    for paused in [false, true] {
        let mut owner = Command::new(env!("CARGO_BIN_EXE_pair_owner"))
            .arg(&place)
            .args(paused.then_some("paused"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(owner.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let pids: Vec<u32> = line
            .trim()
            .trim_matches(['[', ']'])
            .split(", ")
            .map(|pid| pid.parse().unwrap())
            .collect();
        assert_eq!(running(&pids), pids);

        owner.kill().unwrap();
        owner.wait().unwrap();
        let begun = Instant::now();
        while !running(&pids).is_empty() {
            assert!(
                begun.elapsed() < Duration::from_secs(3),
                "{:?}",
                running(&pids)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        eprintln!("  gone after {:?}", begun.elapsed());
    }
    // The next start copes with the files that a crash leaves in the folder.
    let pair = Pair::start(config(place)).await.unwrap();
    pair.discard().await.unwrap();
}

#[tokio::test]
async fn a_folder_that_the_servers_cannot_work_in_gets_another() {
    let _alone = alone().await;
    let wanted = folder("with a space");
    let mut config = config(wanted.clone());
    config.amqp_url = Some("amqp://u:p@mq.test:2/%2f".to_owned());
    let pair = Pair::start(config).await.unwrap();
    let place = pair.folder().unwrap().to_owned();
    assert_ne!(place, wanted);
    assert_eq!(
        std::fs::read_link(wanted.join("servers-are-here")).unwrap(),
        place
    );
    sql(pair.postgres().url()).await;
    pair.discard().await.unwrap();
    assert!(!place.exists() && !wanted.exists());
}

#[tokio::test]
async fn an_external_server_is_neither_started_nor_signalled() {
    let mut config = config(folder("external"));
    config.database_url = Some("postgres://u:p@db.test:1/x?sslmode=disable".to_owned());
    config.amqp_url = Some("amqp://u:p@mq.test:2/%2f".to_owned());
    let pair = Pair::start(config).await.unwrap();
    assert!(pair.folder().is_none());
    assert!(pair.postgres().is_external());
    assert!(pair.postgres().pause().is_err());
    assert!(pair.rabbitmq().kill().await.is_err());
    assert_eq!(
        pair.postgres().database_url("y"),
        "postgres://u:p@db.test:1/y?sslmode=disable"
    );
    assert_eq!(pair.rabbitmq().amqp_url("/"), "amqp://u:p@mq.test:2/%2F");
    assert_eq!(pair.rabbitmq().amqp_url("t3"), "amqp://u:p@mq.test:2/t3");
    pair.stop().await.unwrap();
}

#[tokio::test]
async fn the_month_that_benchmarks_measure_after_can_be_filled_and_copied() {
    /// Two in each of its 31 days.
    const DELIVERIES: u32 = 62;
    let _alone = alone().await;
    let pair = Pair::start(config(folder("month"))).await.unwrap();
    let _month = Month::fill(&pair, DELIVERIES).await.unwrap();
    let admin = sql(pair.postgres().url()).await;
    // Nobody may have the month open.
    let copy = "CREATE DATABASE copied TEMPLATE bench_month STRATEGY file_copy";
    admin.batch_execute(copy).await.unwrap();
    let copied = sql(&pair.postgres().database_url("copied")).await;
    let count = "SELECT count(*) FROM deliveries";
    let deliveries: i64 = copied.query_one(count, &[]).await.unwrap().get(0);
    assert_eq!(deliveries, i64::from(DELIVERIES));
    pair.discard().await.unwrap();
}
