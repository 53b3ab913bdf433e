//! The floor of a delivery that begins with a request: what it costs to write an event and to
//! queue its job, if nothing else is done.
//!
//! A request is answered after one commit and one publishing, by a process of its own. Its job
//! goes through a quorum queue to [the other floor](super), which POSTs it. No token is looked
//! up, nothing is matched, and nothing is recorded afterwards.

use std::sync::Arc;

use anyhow::Context;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio_postgres::{Client, NoTls, Statement};

use crate::bench::child;
use crate::bench::stage::Stage;

/// Where the events are written.
const TABLE: &str = "CREATE TABLE floor (id text PRIMARY KEY, data text NOT NULL)";

/// The arguments of the process.
#[derive(Debug, Clone, clap::Args)]
pub struct FloorDoor {
    /// The broker and its virtual host.
    #[arg(long)]
    pub amqp_url: String,
    /// The database.
    #[arg(long)]
    pub database_url: String,
}

struct Door {
    client: Client,
    insert: Statement,
    channel: Channel,
}

#[derive(Deserialize)]
struct Event<'a> {
    id: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Door {
    async fn take(&self, body: &[u8]) -> anyhow::Result<()> {
        let event: Event = serde_json::from_slice(body)?;
        let data = event.data.get();
        self.client
            .execute(&self.insert, &[&event.id, &data])
            .await?;
        let confirm = self
            .channel
            .basic_publish(
                shared::topology::JOBS.into(),
                "0.0".into(),
                BasicPublishOptions::default(),
                data.as_bytes(),
                BasicProperties::default()
                    .with_delivery_mode(2)
                    .with_message_id(event.id.into()),
            )
            .await?;
        // As in ingest, the request is answered before the confirm.
        tokio::spawn(confirm);
        Ok(())
    }
}

/// The process's life: says its address, then serves until its owner is gone.
pub async fn run(door: FloorDoor) -> anyhow::Result<()> {
    let (client, serving) = tokio_postgres::connect(&door.database_url, NoTls).await?;
    tokio::spawn(serving);
    let insert = "INSERT INTO floor (id, data) VALUES ($1, $2)";
    let insert = client.prepare(insert).await?;
    let connection = Connection::connect(&door.amqp_url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let door = Arc::new(Door {
        client,
        insert,
        channel,
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    child::say(&listener.local_addr()?.to_string())?;
    let take = async |State(door): State<Arc<Door>>, body: Bytes| match door.take(&body).await {
        Ok(()) => (StatusCode::ACCEPTED, String::new()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")),
    };
    let routes = axum::Router::new().route("/api/v1/events", post(take));
    tokio::select! {
        ended = axum::serve(listener, routes.with_state(door)) => Ok(ended?),
        () = child::owner_gone() => Ok(()),
    }
}

/// Starts the process on a stage; answers its address, too.
///
/// # Errors
/// If it doesn't start.
pub async fn start(stage: &Stage<'_>) -> anyhow::Result<(child::Child, String)> {
    stage.sql().await?.batch_execute(TABLE).await?;
    let mut door = child::Child::start(&[
        "floor-door",
        "--amqp-url",
        &stage.amqp_url,
        "--database-url",
        &stage.database_url(),
    ])?;
    let address = door.line().await.context("the floor's door")?;
    Ok((door, format!("http://{address}")))
}
