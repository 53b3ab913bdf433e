//! A producer that publishes events over AMQP. It is an independent client: it shares
//! nothing with Posthorn except the name of the exchange.

use anyhow::Context;
use futures_util::future::try_join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

const EXCHANGE: &str = "posthorn.events";

/// A connection with publisher confirms.
pub struct Producer {
    // Closes the connection when dropped.
    _connection: Connection,
    channel: Channel,
}

/// An event to publish.
#[derive(Debug, Clone)]
pub struct Publication {
    /// `<tenant>.<event type>`.
    pub routing_key: String,
    /// Properties; `message_id` is optional.
    pub properties: BasicProperties,
    pub body: Vec<u8>,
}

impl Publication {
    /// An event with JSON data and an id.
    #[must_use]
    pub fn json(tenant: &str, event_type: &str, id: &str, data: &str) -> Self {
        Self {
            routing_key: format!("{tenant}.{event_type}"),
            properties: BasicProperties::default()
                .with_delivery_mode(2)
                .with_content_type("application/json".into())
                .with_message_id(id.into()),
            body: data.as_bytes().to_vec(),
        }
    }

    /// Replaces the properties.
    #[must_use]
    pub fn with(mut self, properties: BasicProperties) -> Self {
        self.properties = properties;
        self
    }
}

impl Producer {
    pub async fn connect(amqp_url: &str) -> anyhow::Result<Self> {
        let connection = Connection::connect(amqp_url, ConnectionProperties::default())
            .await
            .context("the producer's connection")?;
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok(Self {
            _connection: connection,
            channel,
        })
    }

    /// Publishes and waits for the confirm.
    pub async fn publish(&self, publication: &Publication) -> anyhow::Result<()> {
        self.publish_to(EXCHANGE, publication).await
    }

    /// Publishes all of these concurrently and waits until all are confirmed.
    pub async fn publish_all(&self, publications: &[Publication]) -> anyhow::Result<()> {
        try_join_all(
            publications
                .iter()
                .map(|publication| self.publish(publication)),
        )
        .await?;
        Ok(())
    }

    /// Publishes to another exchange, which a producer isn't allowed to do.
    pub async fn publish_to(
        &self,
        exchange: &str,
        publication: &Publication,
    ) -> anyhow::Result<()> {
        let confirmation = self
            .channel
            .basic_publish(
                exchange.into(),
                publication.routing_key.as_str().into(),
                BasicPublishOptions::default(),
                &publication.body,
                publication.properties.clone(),
            )
            .await?
            .await?;
        anyhow::ensure!(confirmation.is_ack(), "RabbitMQ refused the event");
        Ok(())
    }
}
