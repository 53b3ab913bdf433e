//! Endpoints that are dead in every known way. They run in their own process, like the
//! receiver: an endless answer costs its sender processor time too.
//!
//! Two ways need no process: a port that refuses connections, and a name that doesn't exist.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::child;
use crate::service::free_address;

/// The pause between two bytes of a slow answer.
const DRIP: Duration = Duration::from_millis(500);

/// The way in which an endpoint is dead.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
pub enum Way {
    /// It accepts the request and never answers.
    Hang,
    /// Nobody listens.
    Refuse,
    /// It sends its headers byte by byte.
    SlowHeaders,
    /// It sends its body byte by byte.
    SlowBody,
    /// It sends an endless body quickly.
    EndlessBody,
    /// It resets the connection after the request.
    Reset,
    /// Its URL is `https:`, but it doesn't speak TLS.
    BadTls,
    /// Its name doesn't exist.
    NoName,
}

pub const WAYS: [Way; 8] = [
    Way::Hang,
    Way::Refuse,
    Way::SlowHeaders,
    Way::SlowBody,
    Way::EndlessBody,
    Way::Reset,
    Way::BadTls,
    Way::NoName,
];

/// The process's life: says where they are, then serves until its owner is gone.
pub async fn run() -> anyhow::Result<()> {
    let mut bases = BTreeMap::new();
    for way in WAYS {
        let base = match way {
            Way::Refuse => format!("http://{}", free_address()?),
            Way::NoName => "http://nobody.invalid".to_owned(),
            _ => {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                let address = listener.local_addr()?;
                tokio::spawn(serve(listener, way));
                let scheme = if way == Way::BadTls { "https" } else { "http" };
                format!("{scheme}://{address}")
            }
        };
        bases.insert(way, base);
    }
    child::say(&serde_json::to_string(&bases)?)?;
    child::owner_gone().await;
    Ok(())
}

async fn serve(listener: TcpListener, way: Way) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            // The client may close the connection at any time.
            let _ = misbehave(stream, way).await;
        });
    }
}

async fn misbehave(mut stream: TcpStream, way: Way) -> std::io::Result<()> {
    let mut request = vec![0; 16 * 1024];
    if stream.read(&mut request).await? == 0 {
        return Ok(());
    }
    match way {
        Way::Hang | Way::Refuse | Way::NoName => {
            // Until the other side closes.
            while stream.read(&mut request).await? > 0 {}
            Ok(())
        }
        Way::SlowHeaders => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nx-slow: ").await?;
            drip(stream).await
        }
        Way::SlowBody => {
            let head = b"HTTP/1.1 500 Oh No\r\ncontent-length: 1000000\r\n\r\n";
            stream.write_all(head).await?;
            drip(stream).await
        }
        Way::EndlessBody => {
            let head = b"HTTP/1.1 500 Oh No\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head).await?;
            let chunk = [b"1000\r\n", [b'x'; 0x1000].as_slice(), b"\r\n"].concat();
            loop {
                stream.write_all(&chunk).await?;
            }
        }
        Way::Reset => stream.set_zero_linger(),
        Way::BadTls => stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await,
    }
}

async fn drip(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        stream.write_all(b".").await?;
        tokio::time::sleep(DRIP).await;
    }
}

/// The dead endpoints, as their owner sees them.
pub struct Villains {
    // Killed when dropped.
    _child: child::Child,
    bases: BTreeMap<Way, String>,
}

impl Villains {
    /// Starts the process.
    pub async fn start() -> anyhow::Result<Self> {
        let mut child = child::Child::start(&["villains"])?;
        let bases = serde_json::from_str(&child.line().await?).context("the villains' URLs")?;
        Ok(Self {
            _child: child,
            bases,
        })
    }

    /// The URL for the webhook with this number, at an endpoint that is dead in this
    /// way.
    pub fn url(&self, way: Way, webhook: usize) -> anyhow::Result<String> {
        let base = self.bases.get(&way).context("a way without a URL")?;
        Ok(format!("{base}/hook/{webhook}"))
    }
}
