//! A producer that writes AMQP frames by hand, to publish messages that no client library
//! would send: any bytes as a routing key and as properties.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const END: u8 = 0xCE;
const CHANNEL: u16 = 1;
/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection with one channel and publisher confirms.
pub struct RawProducer {
    stream: TcpStream,
    /// The largest frame that the broker accepts, in bytes.
    pub frame_max: usize,
}

/// A short string: its length in one byte.
#[must_use]
pub fn short(bytes: &[u8]) -> Vec<u8> {
    [&[bytes.len() as u8], bytes].concat()
}

/// A long string, or the content of a table: its length in four bytes.
#[must_use]
pub fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

/// Properties with one text. `bit` is the property's position in AMQP's order: 0 for
/// `content_type`, 8 for `message_id`.
#[must_use]
pub fn text_property(bit: u32, text: &[u8]) -> Vec<u8> {
    [&(0x8000u16 >> bit).to_be_bytes(), &short(text)[..]].concat()
}

/// Properties with only these headers: names and typed values.
#[must_use]
pub fn headers(table: &[u8]) -> Vec<u8> {
    [&[0x20, 0], &long(table)[..]].concat()
}

/// A header table with this many levels, each a table with one field.
#[must_use]
pub fn nested(levels: usize) -> Vec<u8> {
    let mut table = Vec::new();
    for _ in 1..levels {
        table = [b"\x01aF", &long(&table)[..]].concat();
    }
    table
}

impl RawProducer {
    pub async fn connect(amqp_url: &str) -> anyhow::Result<Self> {
        let url = Url::parse(amqp_url)?;
        let address = (
            url.host_str().context("no host")?,
            url.port().unwrap_or(5672),
        );
        let mut producer = Self {
            stream: TcpStream::connect(address).await?,
            frame_max: 0,
        };
        producer.stream.write_all(b"AMQP\0\0\x09\x01").await?;
        producer.expect((10, 10)).await?;
        let (user, password) = (url.username(), url.password().unwrap_or_default());
        let response = format!("\0{user}\0{password}");
        let start_ok = [
            long(b""),
            short(b"PLAIN"),
            long(response.as_bytes()),
            short(b"en_US"),
        ];
        producer.method(0, (10, 11), &start_ok.concat()).await?;
        let tune = producer.expect((10, 30)).await?;
        ensure!(tune.len() == 8, "tune has {} bytes", tune.len());
        producer.frame_max = u32::from_be_bytes([tune[2], tune[3], tune[4], tune[5]]) as usize;
        // Accept the broker's values, but without a heartbeat.
        producer
            .method(0, (10, 31), &[&tune[..6], &[0, 0]].concat())
            .await?;
        let vhost = url.path().trim_start_matches('/').replace("%2f", "/");
        let vhost = if vhost.is_empty() { "/" } else { &vhost };
        let open = [short(vhost.as_bytes()), short(b""), vec![0]];
        producer.method(0, (10, 40), &open.concat()).await?;
        producer.expect((10, 41)).await?;
        producer.method(CHANNEL, (20, 10), &short(b"")).await?;
        producer.expect((20, 11)).await?;
        producer.method(CHANNEL, (85, 10), &[0]).await?;
        producer.expect((85, 11)).await?;
        Ok(producer)
    }

    /// Publishes and waits for the confirm. `properties` are flags and values.
    pub async fn publish(
        &mut self,
        exchange: &str,
        key: &[u8],
        properties: &[u8],
        body: &[u8],
    ) -> anyhow::Result<()> {
        let publish = [vec![0, 0], short(exchange.as_bytes()), short(key), vec![0]];
        self.method(CHANNEL, (60, 40), &publish.concat()).await?;
        let size = (body.len() as u64).to_be_bytes();
        let header = [&[0, 60, 0, 0], &size[..], properties].concat();
        self.frame(HEADER, CHANNEL, &header).await?;
        for part in body.chunks(self.frame_max - 8) {
            self.frame(BODY, CHANNEL, part).await?;
        }
        self.expect((60, 80)).await?;
        Ok(())
    }

    /// Takes a message and closes the connection without an ack. The broker counts
    /// that in a header of its own.
    pub async fn take_and_leave(mut self, queue: &str) -> anyhow::Result<()> {
        let get = [vec![0, 0], short(queue.as_bytes()), vec![0]];
        self.method(CHANNEL, (60, 70), &get.concat()).await?;
        self.expect((60, 71)).await?;
        Ok(())
    }

    async fn method(
        &mut self,
        channel: u16,
        (class, method): (u16, u16),
        arguments: &[u8],
    ) -> anyhow::Result<()> {
        let payload = [&class.to_be_bytes(), &method.to_be_bytes(), arguments].concat();
        self.frame(METHOD, channel, &payload).await
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) -> anyhow::Result<()> {
        let mut frame = vec![kind];
        frame.extend(channel.to_be_bytes());
        frame.extend(long(payload));
        frame.push(END);
        Ok(self.stream.write_all(&frame).await?)
    }

    /// Waits for this method and returns its arguments.
    async fn expect(&mut self, wanted: (u16, u16)) -> anyhow::Result<Vec<u8>> {
        tokio::time::timeout(PATIENCE, self.next(wanted))
            .await
            .with_context(|| format!("no answer while waiting for {wanted:?}"))?
    }

    async fn next(&mut self, wanted: (u16, u16)) -> anyhow::Result<Vec<u8>> {
        loop {
            let mut head = [0; 7];
            self.stream.read_exact(&mut head).await?;
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let mut payload = vec![0; size + 1];
            self.stream.read_exact(&mut payload).await?;
            ensure!(payload.pop() == Some(END), "a frame without an end");
            if head[0] != METHOD {
                continue;
            }
            ensure!(size >= 4, "a method of {size} bytes");
            let arguments = payload.split_off(4);
            let ids = (
                u16::from_be_bytes([payload[0], payload[1]]),
                u16::from_be_bytes([payload[2], payload[3]]),
            );
            if ids == wanted {
                return Ok(arguments);
            }
            bail!(
                "{ids:?} instead of {wanted:?}: {}",
                arguments.escape_ascii()
            );
        }
    }
}
