//! A producer that speaks AMQP 1.0 and writes its own frames: any sections, any types, any bytes.
//!
//! RabbitMQ translates these messages to AMQP 0-9-1 for Posthorn's consumers: RabbitMQ 3.x (with
//! its plugin) when they are published, RabbitMQ 4 when they are delivered. The functions
//! at the end encode values as OASIS AMQP 1.0, part 1, section 1.6 says.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

/// The types of frames.
const AMQP: u8 = 0;
const SASL: u8 = 1;
/// Descriptors of the frames that are sent or expected.
const OPEN: u8 = 0x10;
const BEGIN: u8 = 0x11;
const ATTACH: u8 = 0x12;
const FLOW: u8 = 0x13;
const TRANSFER: u8 = 0x14;
const DISPOSITION: u8 = 0x15;
const MECHANISMS: u8 = 0x40;
const INIT: u8 = 0x41;
const OUTCOME: u8 = 0x44;
/// The state of a message that the broker has stored.
const ACCEPTED: u8 = 0x24;
/// The largest frame that is sent and accepted, in bytes.
const FRAME_MAX: usize = 65_536;
/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection with one session and one link.
pub struct Amqp10Producer {
    stream: TcpStream,
    next: u32,
}

impl Amqp10Producer {
    /// Connects with the user and the password of the URL, to the virtual host `/`. `target` is the
    /// address that messages are sent to.
    ///
    /// # Errors
    /// If the broker refuses, or doesn't speak AMQP 1.0.
    pub async fn connect(amqp_url: &str, target: &str) -> anyhow::Result<Self> {
        let url = Url::parse(amqp_url)?;
        let address = (
            url.host_str().context("no host")?,
            url.port().unwrap_or(5672),
        );
        let stream = TcpStream::connect(address).await?;
        let mut producer = Self { stream, next: 0 };
        producer.greet(3).await?;
        producer.expect(MECHANISMS).await?;
        let (user, password) = (url.username(), url.password().unwrap_or_default());
        let response = format!("\0{user}\0{password}");
        let init = [symbol(b"PLAIN"), binary(response.as_bytes())];
        producer.send(SASL, INIT, &init, b"").await?;
        producer.expect(OUTCOME).await?;
        producer.greet(0).await?;
        let open = [string(b"tests"), null(), uint(FRAME_MAX as u32)];
        producer.send(AMQP, OPEN, &open, b"").await?;
        producer.expect(OPEN).await?;
        let window = || uint(1_000);
        let begin = [null(), uint(0), window(), window()];
        producer.send(AMQP, BEGIN, &begin, b"").await?;
        producer.expect(BEGIN).await?;
        let (sender, unsettled, first) = (boolean(false), ubyte(0), ubyte(0));
        let attach = [
            string(b"link"),
            uint(0),
            sender,
            unsettled,
            first,
            described(0x28, &list(&[null()])),
            described(0x29, &list(&[string(target.as_bytes())])),
            null(),
            null(),
            uint(0),
        ];
        producer.send(AMQP, ATTACH, &attach, b"").await?;
        producer.expect(ATTACH).await?;
        producer.expect(FLOW).await?;
        Ok(producer)
    }

    /// Sends a message, which is its sections one after the other, and waits until the broker has
    /// accepted it.
    ///
    /// # Errors
    /// If the broker doesn't accept it, or ends the session or the connection because of it.
    pub async fn publish(&mut self, sections: &[Vec<u8>]) -> anyhow::Result<()> {
        let message = sections.concat();
        let id = self.next;
        self.next += 1;
        // The frame has a head and the transfer's own values, too.
        let mut parts = message.chunks(FRAME_MAX - 256).peekable();
        if parts.peek().is_none() {
            self.transfer(id, false, b"").await?;
        }
        while let Some(part) = parts.next() {
            self.transfer(id, parts.peek().is_some(), part).await?;
        }
        let disposition = self.expect(DISPOSITION).await?;
        let is_accepted = disposition
            .windows(3)
            .any(|window| window == [0, 0x53, ACCEPTED]);
        ensure!(is_accepted, "not accepted: {}", disposition.escape_ascii());
        Ok(())
    }

    async fn transfer(&mut self, id: u32, more: bool, part: &[u8]) -> anyhow::Result<()> {
        let transfer = [
            uint(0),
            uint(id),
            binary(&id.to_be_bytes()),
            uint(0),
            boolean(false),
            boolean(more),
        ];
        self.send(AMQP, TRANSFER, &transfer, part).await
    }

    /// Sends a protocol header, and reads the broker's.
    async fn greet(&mut self, protocol: u8) -> anyhow::Result<()> {
        let header = [b'A', b'M', b'Q', b'P', protocol, 1, 0, 0];
        self.stream.write_all(&header).await?;
        let mut answer = [0; 8];
        let read = self.stream.read_exact(&mut answer);
        tokio::time::timeout(PATIENCE, read).await??;
        ensure!(
            answer == header,
            "the broker speaks {}",
            answer.escape_ascii()
        );
        Ok(())
    }

    async fn send(
        &mut self,
        kind: u8,
        descriptor: u8,
        values: &[Vec<u8>],
        payload: &[u8],
    ) -> anyhow::Result<()> {
        let performative = described(descriptor, &list(values));
        let size = (8 + performative.len() + payload.len()) as u32;
        // The head: the size, where the body begins (in words of 4 bytes), the type, the channel.
        let head = [&size.to_be_bytes()[..], &[2, kind, 0, 0]].concat();
        let frame = [&head[..], &performative, payload].concat();
        Ok(self.stream.write_all(&frame).await?)
    }

    /// Waits for a frame with this descriptor, and returns its body. Empty frames (heartbeats) and
    /// flow frames may come before it.
    async fn expect(&mut self, wanted: u8) -> anyhow::Result<Vec<u8>> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let body = tokio::time::timeout_at(deadline, self.frame())
                .await
                .with_context(|| format!("no answer while waiting for {wanted:#x}"))??;
            match descriptor(&body) {
                Some(found) if found == wanted => return Ok(body),
                None if body.is_empty() => {}
                Some(FLOW) => {}
                _ => bail!("{} instead of {wanted:#x}", body.escape_ascii()),
            }
        }
    }

    async fn frame(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut head = [0; 8];
        self.stream.read_exact(&mut head).await?;
        let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let body_at = usize::from(head[4]) * 4;
        ensure!(
            (8..=size).contains(&body_at) && size <= 16 * FRAME_MAX,
            "a frame of {size} bytes with its body at {body_at}"
        );
        let mut rest = vec![0; size - 8];
        self.stream.read_exact(&mut rest).await?;
        Ok(rest.split_off(body_at - 8))
    }
}

/// The descriptor of a frame's body: an unsigned integer in one byte or in eight.
fn descriptor(body: &[u8]) -> Option<u8> {
    match body {
        [0, 0x53, code, ..] | [0, 0x80, 0, 0, 0, 0, 0, 0, 0, code, ..] => Some(*code),
        _ => None,
    }
}

/// A section of a message, or any other value with a descriptor below 256.
#[must_use]
pub fn described(descriptor: u8, value: &[u8]) -> Vec<u8> {
    [&[0, 0x53, descriptor][..], value].concat()
}

#[must_use]
pub fn list(values: &[Vec<u8>]) -> Vec<u8> {
    compound(0xd0, values)
}

/// Keys and values in turn.
#[must_use]
pub fn map(keys_and_values: &[Vec<u8>]) -> Vec<u8> {
    compound(0xd1, keys_and_values)
}

fn compound(constructor: u8, values: &[Vec<u8>]) -> Vec<u8> {
    let content = values.concat();
    let size = (content.len() + 4) as u32;
    let count = (values.len() as u32).to_be_bytes();
    [&[constructor][..], &size.to_be_bytes(), &count, &content].concat()
}

#[must_use]
pub fn null() -> Vec<u8> {
    vec![0x40]
}

#[must_use]
pub fn boolean(is: bool) -> Vec<u8> {
    vec![if is { 0x41 } else { 0x42 }]
}

#[must_use]
pub fn ubyte(value: u8) -> Vec<u8> {
    vec![0x50, value]
}

#[must_use]
pub fn uint(value: u32) -> Vec<u8> {
    [&[0x70][..], &value.to_be_bytes()].concat()
}

#[must_use]
pub fn ulong(value: u64) -> Vec<u8> {
    [&[0x80][..], &value.to_be_bytes()].concat()
}

/// Milliseconds since 1970.
#[must_use]
pub fn timestamp(value: i64) -> Vec<u8> {
    [&[0x83][..], &value.to_be_bytes()].concat()
}

#[must_use]
pub fn uuid(bytes: [u8; 16]) -> Vec<u8> {
    [&[0x98][..], &bytes].concat()
}

/// A decimal of 4, 8 or 16 bytes.
#[must_use]
pub fn decimal(bytes: &[u8]) -> Vec<u8> {
    let constructor = match bytes.len() {
        4 => 0x74,
        8 => 0x84,
        _ => 0x94,
    };
    [&[constructor][..], bytes].concat()
}

/// Text, which should be UTF-8.
#[must_use]
pub fn string(bytes: &[u8]) -> Vec<u8> {
    variable(0xb1, bytes)
}

/// A symbol, which should be ASCII.
#[must_use]
pub fn symbol(bytes: &[u8]) -> Vec<u8> {
    variable(0xb3, bytes)
}

#[must_use]
pub fn binary(bytes: &[u8]) -> Vec<u8> {
    variable(0xb0, bytes)
}

fn variable(constructor: u8, bytes: &[u8]) -> Vec<u8> {
    let size = (bytes.len() as u32).to_be_bytes();
    [&[constructor][..], &size, bytes].concat()
}

/// The section `properties`, with the values at these positions: 0 for `message-id`, 3 for
/// `subject`, 5 for `correlation-id`, 6 for `content-type`, 9 for `creation-time`.
#[must_use]
pub fn properties(values: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut all = vec![null(); 10];
    for (position, value) in values {
        all[*position].clone_from(value);
    }
    described(0x73, &list(&all))
}

/// A body of bytes.
#[must_use]
pub fn data(bytes: &[u8]) -> Vec<u8> {
    described(0x75, &binary(bytes))
}
