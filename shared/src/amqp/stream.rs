//! Puts the [`Guard`] between a connection's bytes and lapin.
//!
//! lapin takes the type of its stream from its runtime. So this file has a runtime
//! that passes everything on to tokio, except that its stream type is the guarded one.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, TLSConfig};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};

use super::blame::Watch;
use super::guard::{Acks, Guard};
use super::unreadable;

/// How many bytes are read from the socket at a time.
const CHUNK: usize = 64 * 1024;

/// Opens a guarded connection, with TLS if the URI asks for it.
pub(super) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
    watch: Arc<Watch>,
) -> lapin::Result<Connection> {
    let tokio = Tokio::current();
    let plain = Runtime::new(tokio.clone());
    let guarded = Runtime::new(RuntimeParts::new(tokio.clone(), Guarding(tokio)));
    let open = async move |uri: AMQPUri, _: Runtime<_>| {
        let config = TLSConfig::default();
        let stream = uri.connect_with_config_async(config, &plain).await?;
        let guard = Guard::new(unreadable::marker(), uri.query.frame_max, watch.clone());
        Ok(AsyncTcpStream::Plain(Guarded::new(
            stream,
            guard,
            watch.clone(),
        )))
    };
    Connection::connector(uri, guarded, open, properties).await
}

type Socket = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// A stream whose reader sees only AMQP that the client can read.
pub(super) struct Guarded<S> {
    stream: S,
    guard: Guard,
    acks: Acks,
    watch: Arc<Watch>,
    chunk: Box<[u8]>,
    /// Bytes that passed the guard. Those from `read` on haven't been read yet.
    ready: Vec<u8>,
    read: usize,
}

impl<S> Guarded<S> {
    fn new(stream: S, guard: Guard, watch: Arc<Watch>) -> Self {
        Self {
            stream,
            guard,
            acks: Acks::default(),
            watch,
            chunk: vec![0; CHUNK].into_boxed_slice(),
            ready: Vec::new(),
            read: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // The guard may hold all of the bytes that were read. Then read more.
        while this.read == this.ready.len() {
            this.ready.clear();
            this.read = 0;
            let stream = Pin::new(&mut this.stream);
            let count = ready!(stream.poll_read(context, &mut this.chunk))?;
            if count == 0 {
                return Poll::Ready(Ok(0));
            }
            this.guard.take(&this.chunk[..count], &mut this.ready);
        }
        let ready = &this.ready[this.read..];
        let count = ready.len().min(buffer.len());
        buffer[..count].copy_from_slice(&ready[..count]);
        this.read += count;
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.stream).poll_write(context, bytes))?;
        if this.acks.take(&bytes[..count]) {
            this.watch.acks();
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(context)
    }
}

/// Tokio's runtime with another type of stream. lapin uses it to sleep and for
/// timers. It connects by the closure in [`connect`].
#[derive(Debug, Clone)]
struct Guarding(Tokio);

impl Reactor for Guarding {
    type TcpStream = Guarded<Socket>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move {
            let stream = AsyncTcpStream::Plain(connecting.await?);
            let watch = Arc::new(Watch::default());
            let guard = Guard::new(unreadable::marker(), None, watch.clone());
            Ok(Guarded::new(stream, guard, watch))
        }
    }
}
