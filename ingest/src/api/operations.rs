//! What the operator sees of the whole system: processes, queues, and the state of the log.
//!
//! All of it is read from PostgreSQL, where the processes write it. So it is the same
//! whichever process answers, and nothing is asked of RabbitMQ for a request.

pub mod endpoints;
pub mod load;

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use deadpool_postgres::Client;
use serde::Serialize;
use shared::clock;
use shared::ids::{ProcessId, first_uuid_at};
use shared::processes::SILENCE;
use time::OffsetDateTime;
use tokio_postgres::Row;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::Operating;
use crate::api::http::problem::Result;
use crate::api::openapi::words::ProcessKind;
use crate::api::state::Shared;
use crate::partitions;
use crate::timestamp::Timestamp;

/// How many first attempts are looked at for the time to the first attempt, of how long.
const FIRST_ATTEMPTS: i64 = 1_000;
const OF_LATE: time::Duration = time::Duration::hours(1);
/// How many clients of PostgreSQL are named.
const CLIENTS: usize = 10;

/// `/api/v1/admin/processes`, `/queues`, `/system`, `/endpoints`, `/load`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_processes))
        .routes(routes!(list_queues))
        .routes(routes!(show_system))
        .merge(endpoints::routes())
        .merge(load::routes())
}

/// The processes of this system.
#[derive(Serialize, ToSchema)]
pub struct Processes {
    pub processes: Vec<Process>,
}

/// A running process, by its own account.
#[derive(Serialize, ToSchema)]
pub struct Process {
    pub id: ProcessId,
    /// `dispatcher`; `ingest`, or the part of it that the process is: `api` or `intake`.
    #[schema(value_type = ProcessKind)]
    pub kind: String,
    pub host: String,
    #[schema(example = "0.9.0")]
    pub version: String,
    pub started_at: Timestamp,
    /// When it last told of itself. It does every ten seconds.
    pub told_at: Timestamp,
    /// Whether it told of itself in the last thirty seconds. If not, it was killed, hangs, or
    /// can't reach PostgreSQL.
    #[schema(example = true)]
    pub alive: bool,
    /// A dispatcher's requests in flight.
    #[schema(required, example = 12)]
    pub in_flight: Option<i32>,
    /// The most jobs that a dispatcher holds at a time (`CONCURRENCY`).
    #[schema(required, example = 512)]
    pub concurrency: Option<i32>,
    /// Bytes of memory that it uses.
    #[schema(required, example = 48_234_496)]
    pub memory_bytes: Option<i64>,
    /// Events that it accepts a second.
    #[schema(example = 206.0)]
    pub events_per_second: f32,
    /// Attempts that it makes a second.
    #[schema(example = 488.5)]
    pub attempts_per_second: f32,
}

/// List processes
///
/// All ingests and dispatchers that run, or ran in the last day and weren't stopped in order.
#[utoipa::path(
    get, path = "/processes", operation_id = "list_processes", tag = "operations",
    security(("token" = ["operator"])),
    responses((status = 200, description = "The processes, by kind and start.", body = Processes)),
)]
pub async fn list_processes(_: Operating, State(api): State<Shared>) -> Result<Json<Processes>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- list_processes\n\
             SELECT *, told_at > now() - make_interval(secs => $1) AS alive FROM processes \
             ORDER BY kind, started_at, id LIMIT 1000",
        )
        .await?;
    let rows = client.query(&statement, &[&f64::from(SILENCE)]).await?;
    let read = |row: &Row| Process {
        id: row.get("id"),
        kind: row.get("kind"),
        host: row.get("host"),
        version: row.get("version"),
        started_at: row.get("started_at"),
        told_at: row.get("told_at"),
        alive: row.get("alive"),
        in_flight: row.get("in_flight"),
        concurrency: row.get("concurrency"),
        memory_bytes: row.get("memory"),
        events_per_second: row.get("events_per_second"),
        attempts_per_second: row.get("attempts_per_second"),
    };
    Ok(Json(Processes {
        processes: rows.iter().map(read).collect(),
    }))
}

/// The queues of RabbitMQ.
#[derive(Serialize, ToSchema)]
pub struct Queues {
    pub queues: Vec<Queue>,
}

/// A queue.
#[derive(Serialize, ToSchema)]
pub struct Queue {
    #[schema(example = "posthorn.jobs.v1.0")]
    pub name: String,
    /// Messages that wait. Those that a process holds don't count.
    #[schema(example = 41)]
    pub messages: i64,
    #[schema(example = 2)]
    pub consumers: i32,
    /// When RabbitMQ was asked.
    pub told_at: Timestamp,
}

/// List queues
///
/// The length of each queue of RabbitMQ. RabbitMQ is asked every ten seconds.
#[utoipa::path(
    get, path = "/queues", operation_id = "list_queues", tag = "operations",
    security(("token" = ["operator"])),
    responses((status = 200, description = "The queues, by name.", body = Queues)),
)]
pub async fn list_queues(_: Operating, State(api): State<Shared>) -> Result<Json<Queues>> {
    let client = api.pool.get().await?;
    // Queues of a JOB_SHARDS that was changed aren't asked for any more.
    let statement = client
        .prepare_cached(
            "-- list_queues\n\
             SELECT name, messages, consumers, told_at FROM queues \
             WHERE told_at > (SELECT max(told_at) FROM queues) - interval '1 hour' ORDER BY name",
        )
        .await?;
    let rows = client.query(&statement, &[]).await?;
    let read = |row: &Row| Queue {
        name: row.get("name"),
        messages: row.get("messages"),
        consumers: row.get("consumers"),
        told_at: row.get("told_at"),
    };
    Ok(Json(Queues {
        queues: rows.iter().map(read).collect(),
    }))
}

/// The state of the system.
#[derive(Serialize, ToSchema)]
#[schema(as = SystemState)]
pub struct System {
    /// Of the process that answers.
    #[schema(example = "0.9.0")]
    pub version: &'static str,
    pub now: Timestamp,
    /// Seconds since the oldest delivery was due that nothing keeps from being sent; 0: none
    /// is overdue. Deliveries that are just being sent count.
    #[schema(example = 0.4)]
    pub lag_seconds: f64,
    /// Events that all processes accept a second, over the last ten seconds.
    #[schema(example = 412.0)]
    pub events_per_second: f64,
    /// Attempts that all dispatchers make a second, over the last ten seconds.
    #[schema(example = 977.0)]
    pub attempts_per_second: f64,
    /// Requests that are in flight.
    #[schema(example = 1204)]
    pub in_flight: i64,
    /// The time from an event to the first attempt of its delivery, in milliseconds: 99 of a
    /// hundred of the latest 1,000 deliveries were no longer. `null`: no attempt was made for
    /// an event of the last hour.
    #[schema(required, example = 38.0)]
    pub first_attempt_p99_ms: Option<f64>,
    /// As the process that answers sees it.
    pub postgresql: PostgresqlState,
    /// As the process that answers sees it.
    pub rabbitmq: RabbitmqState,
    /// What the sweeper found last.
    pub sweep: Sweep,
    /// The size of the log.
    pub storage: Storage,
}

/// The state of PostgreSQL.
#[derive(Serialize, ToSchema)]
pub struct PostgresqlState {
    /// Connections to this database, of all its clients.
    #[schema(example = 14)]
    pub connections: i64,
    /// The most connections that the server takes (`max_connections`), over all databases.
    #[schema(example = 100)]
    pub max_connections: i64,
    /// How long it took to answer, in milliseconds.
    #[schema(example = 1.2)]
    pub answered_in_ms: f64,
    /// Whose the connections are: the ten names with the most of them.
    #[schema(example = json!([
        {"name": "posthorn-ingest", "connections": 9},
        {"name": "posthorn-dispatcher", "connections": 5}
    ]))]
    pub clients: Vec<DatabaseClient>,
}

/// A name under which clients of PostgreSQL are connected.
#[derive(Serialize, ToSchema)]
pub struct DatabaseClient {
    /// Their `application_name`: `posthorn-ingest` and `posthorn-dispatcher` are all processes of
    /// that kind.
    #[schema(example = "posthorn-dispatcher")]
    pub name: String,
    /// How many connections they have.
    #[schema(example = 5)]
    pub connections: i64,
}

/// The state of RabbitMQ.
#[derive(Serialize, ToSchema)]
pub struct RabbitmqState {
    /// Whether there is a connection that publishes.
    #[schema(example = true)]
    pub connected: bool,
}

/// What the sweeper found last.
#[derive(Serialize, ToSchema)]
pub struct Sweep {
    /// When it looked.
    #[schema(required)]
    pub swept_at: Option<Timestamp>,
    /// Every job that was due before this time has reached a dispatcher.
    #[schema(required)]
    pub watermark: Option<Timestamp>,
    /// Open deliveries whose jobs are lost and weren't put back in time. Always 0, or it is a
    /// fault.
    #[schema(example = 0)]
    pub unaccounted: i64,
    /// The earliest due time of an open delivery.
    #[schema(required)]
    pub oldest_due_at: Option<Timestamp>,
    /// Lost jobs that were put back, since the system exists.
    #[schema(example = 0)]
    pub requeued: i64,
}

/// The size of the log on PostgreSQL's disk, indexes included.
#[derive(Serialize, ToSchema)]
pub struct Storage {
    #[schema(example = 61_203_283_968_i64)]
    pub bytes: i64,
    /// The size when the log is as old as it gets, at the pace of the last seven days.
    #[schema(example = 76_235_669_504_i64)]
    pub forecast_bytes: i64,
    /// How many days the log is kept.
    #[schema(example = 30)]
    pub retention_days: i64,
    /// By day; the coming days are empty.
    pub days: Vec<StorageDay>,
}

/// The events, deliveries and attempts of a day.
#[derive(Serialize, ToSchema)]
pub struct StorageDay {
    #[schema(example = "2026-11-26")]
    pub day: String,
    #[schema(example = 2_136_746_229_i64)]
    pub bytes: i64,
}

/// Show the system
///
/// How late it is, how much it does, and how large its log is.
#[utoipa::path(
    get, path = "/system", operation_id = "show_system", tag = "operations",
    security(("token" = ["operator"])),
    responses((status = 200, description = "The state of the system.", body = System)),
)]
pub async fn show_system(_: Operating, State(api): State<Shared>) -> Result<Json<System>> {
    let size = partitions::weigh(&api.pool, api.retention).await?;
    let client = api.pool.get().await?;
    let rates = rates(&client).await?;
    let days = size.days.iter().map(|(day, bytes)| StorageDay {
        day: day.to_string(),
        bytes: *bytes,
    });
    let now = clock::now();
    let overdue = oldest_sendable(&client).await?;
    Ok(Json(System {
        version: env!("CARGO_PKG_VERSION"),
        now: Timestamp(now),
        lag_seconds: overdue.map_or(0.0, |due| (now - due).as_seconds_f64().max(0.0)),
        events_per_second: rates.get("events"),
        attempts_per_second: rates.get("attempts"),
        in_flight: rates.get("in_flight"),
        first_attempt_p99_ms: first_attempt_p99(&client).await?,
        postgresql: postgresql(&client).await?,
        rabbitmq: RabbitmqState {
            connected: api.publisher.is_connected(),
        },
        sweep: sweep(&client).await?,
        storage: Storage {
            bytes: size.now,
            forecast_bytes: size.forecast,
            retention_days: api.retention.whole_days(),
            days: days.collect(),
        },
    }))
}

async fn rates(client: &Client) -> Result<Row> {
    let statement = client
        .prepare_cached(
            "-- system_rates\n\
             SELECT coalesce(sum(events_per_second), 0)::float8 AS events, \
                 coalesce(sum(attempts_per_second), 0)::float8 AS attempts, \
                 coalesce(sum(in_flight), 0)::int8 AS in_flight \
             FROM processes WHERE told_at > now() - make_interval(secs => $1)",
        )
        .await?;
    Ok(client.query_one(&statement, &[&f64::from(SILENCE)]).await?)
}

async fn postgresql(client: &Client) -> Result<PostgresqlState> {
    let statement = client
        .prepare_cached(
            "-- postgresql_state\n\
             SELECT coalesce(application_name, '') AS name, count(*) AS connections, \
                 current_setting('max_connections')::int8 AS most \
             FROM pg_stat_activity WHERE datname = current_database() \
             GROUP BY 1 ORDER BY connections DESC, name",
        )
        .await?;
    let asked = Instant::now();
    let rows = client.query(&statement, &[]).await?;
    let took = asked.elapsed().as_secs_f64() * 1_000.0;
    let clients = rows.iter().map(|row| DatabaseClient {
        name: row.get("name"),
        connections: row.get("connections"),
    });
    Ok(PostgresqlState {
        connections: rows
            .iter()
            .map(|row| row.get::<_, i64>("connections"))
            .sum(),
        // This connection is one of them.
        max_connections: rows.first().map_or(0, |row| row.get("most")),
        answered_in_ms: (took * 10.0).round() / 10.0,
        clients: clients.take(CLIENTS).collect(),
    })
}

/// An id's first 48 bits are the milliseconds of its event.
async fn first_attempt_p99(client: &Client) -> Result<Option<f64>> {
    let statement = client
        .prepare_cached(
            "-- first_attempt_p99\n\
             SELECT percentile_disc(0.99) WITHIN GROUP (ORDER BY greatest(0, \
                 extract(epoch FROM started_at) * 1000 - ('x' || left(replace(delivery_id::text, \
                 '-', ''), 12))::bit(48)::int8)::float8) \
             FROM (SELECT delivery_id, started_at FROM attempts \
                 WHERE delivery_id >= $1 AND delivery_id < $2 AND n = 1 \
                 ORDER BY delivery_id DESC LIMIT $3) latest",
        )
        .await?;
    let now = clock::now();
    let (since, until) = (first_uuid_at(now - OF_LATE), first_uuid_at(now + OF_LATE));
    let row = client
        .query_one(&statement, &[&since, &until, &FIRST_ATTEMPTS])
        .await?;
    let ms: Option<f64> = row.get(0);
    Ok(ms.map(f64::round))
}

async fn sweep(client: &Client) -> Result<Sweep> {
    let statement = client
        .prepare_cached(
            "-- show_sweep\n\
             SELECT swept_at, watermark, unaccounted, oldest_due_at, requeued FROM sweep",
        )
        .await?;
    let row = client.query_one(&statement, &[]).await?;
    Ok(Sweep {
        swept_at: row.get("swept_at"),
        watermark: row.get("watermark"),
        unaccounted: row.get("unaccounted"),
        oldest_due_at: row.get("oldest_due_at"),
        requeued: row.get("requeued"),
    })
}

/// The due time of the oldest delivery that is overdue and wasn't put off, among the 10,000
/// that are due first.
async fn oldest_sendable(client: &Client) -> Result<Option<OffsetDateTime>> {
    let statement = client
        .prepare_cached(
            "-- oldest_sendable\n\
             SELECT min(due_at) FROM ( \
                 SELECT due_at, deferred_because FROM deliveries \
                 WHERE state IN ('queued', 'retrying') AND due_at <= now() \
                 ORDER BY due_at LIMIT 10000) overdue \
             WHERE deferred_because IS NULL",
        )
        .await?;
    Ok(client.query_one(&statement, &[]).await?.get(0))
}
