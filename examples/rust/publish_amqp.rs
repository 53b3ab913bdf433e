//! Publishes one event over AMQP and waits for RabbitMQ's confirm, with `lapin`.

// This workspace's lints warn about printing. This program has to print.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("AMQP_URL")?;
    let key = format!("{}.invoice.paid", std::env::var("TENANT")?);
    let now = std::time::UNIX_EPOCH.elapsed()?;
    // The same in every try.
    let id = format!("invoice-2026-0042-{}", now.as_nanos());
    for attempt in 0..5 {
        match publish(&url, &key, &id).await {
            Ok(()) => {
                println!("{id}");
                return Ok(());
            }
            // The event may have arrived all the same. Its id makes the repetition harmless.
            Err(error) => eprintln!("not confirmed, trying again: {error:#}"),
        }
        tokio::time::sleep(Duration::from_secs(1 << attempt)).await;
    }
    anyhow::bail!("RabbitMQ did not confirm the event")
}

async fn publish(url: &str, key: &str, id: &str) -> anyhow::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let properties = BasicProperties::default()
        .with_message_id(id.into())
        .with_content_type("application/json".into())
        .with_delivery_mode(2); // persistent
    let data = br#"{"invoice": "2026-0042", "total": 99.5}"#;
    let confirm = channel
        .basic_publish(
            "posthorn.events".into(),
            key.into(),
            options,
            data,
            properties,
        )
        .await?
        .await?;
    connection.close(200, "done".into()).await?;
    match confirm {
        Confirmation::Ack(None) => Ok(()),
        // A message that can't be routed is returned together with its confirm.
        Confirmation::Ack(Some(returned)) => {
            anyhow::bail!("no queue is bound for the event: {}", returned.reply_text)
        }
        other => anyhow::bail!("RabbitMQ refused the event: {other:?}"),
    }
}
