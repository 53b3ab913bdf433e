//! Serves HTTP/1.1 so that slow or silent clients don't take capacity from others.
//!
//! `axum::serve` waits for a client without a limit. Here every state of a connection
//! has a time limit ([`Bounds`]), and the number of connections is limited, in total
//! and per client address. Both binaries serve with this.
//!
//! A new connection beyond a limit replaces an old one: first the connection that has
//! waited longest for a request, else one whose client is slow with its body or with
//! reading its answer. A connection whose handler is working is never replaced.
//!
//! The surprising fact: no connection has a timer. Each one records its state and when
//! that began, and the accept loop closes the overdue ones.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use hyper::body::{Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::telemetry::metrics;

/// The largest request head, in bytes. hyper answers a larger one with 431.
const MAX_HEAD: usize = 64 * 1024;
/// The time limit for receiving a request's head, from its first byte on.
const HEAD: Duration = Duration::from_secs(10);
/// The time limit for receiving a whole request body.
const BODY: Duration = Duration::from_secs(60);
/// The time limit for sending a whole answer.
const ANSWER: Duration = Duration::from_secs(60);

/// A connection that has spent this long on a body or an answer is slow, and may be
/// replaced by a new one.
const SLOW: Duration = Duration::from_secs(5);

/// The limits for clients of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// `HTTP_IDLE_TIMEOUT` (s): how long a connection may wait for a request.
    pub idle: Duration,
    /// From the first byte of a request's head to the last.
    pub head: Duration,
    /// For a whole request body.
    pub body: Duration,
    /// For a whole answer.
    pub answer: Duration,
    /// `HTTP_CONNECTIONS`: the most connections.
    pub connections: usize,
    /// `HTTP_CONNECTIONS_PER_ADDRESS`: the most connections of one IPv4 address or
    /// IPv6 /64.
    pub per_address: usize,
}

impl Bounds {
    /// Of the three that are settings. The rest is fixed.
    #[must_use]
    pub fn new(idle: Duration, connections: usize, per_address: usize) -> Self {
        Self {
            idle,
            head: HEAD.min(idle),
            body: BODY,
            answer: ANSWER,
            connections,
            per_address,
        }
    }

    /// The time limit of a state. Handlers have their own limits.
    fn of(&self, doing: Doing) -> Option<Duration> {
        match doing {
            Doing::Idle => Some(self.idle),
            Doing::Head => Some(self.head),
            Doing::Body => Some(self.body),
            Doing::Working => None,
            Doing::Answering | Doing::Flushing => Some(self.answer),
        }
    }

    /// How often overdue connections are searched for.
    fn tick(&self) -> Duration {
        let shortest = [self.idle, self.head, self.body, self.answer];
        let shortest = shortest.into_iter().min().unwrap_or_default() / 4;
        shortest.clamp(Duration::from_millis(10), Duration::from_secs(1))
    }
}

/// The state of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// No byte of the next request has come.
    Idle,
    /// The request's head is being received.
    Head,
    /// The request's body is being received.
    Body,
    /// A handler runs.
    Working,
    /// The answer is being written to the socket.
    Answering,
    /// The whole answer is written, but not all of it is sent.
    Flushing,
}

impl Doing {
    /// The name in the metric's label.
    fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Head => "head",
            Self::Body => "body",
            Self::Working => "working",
            Self::Answering | Self::Flushing => "answer",
        }
    }
}

/// An open connection, for the accept loop.
struct Connection {
    address: IpAddr,
    doing: Mutex<(Doing, Instant)>,
    /// Cancel this to close the connection at once.
    cut: CancellationToken,
}

impl Connection {
    fn state(&self) -> MutexGuard<'_, (Doing, Instant)> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begins(&self, doing: Doing) {
        *self.state() = (doing, Instant::now());
    }

    /// Changes the state if it is `from`; otherwise does nothing.
    fn goes_on(&self, from: Doing, to: Doing) {
        let mut state = self.state();
        if state.0 == from {
            *state = (to, Instant::now());
        }
    }

    /// Since when the connection has waited for a request; `None` if it doesn't
    /// wait.
    fn waiting_since(&self) -> Option<Instant> {
        let (doing, since) = *self.state();
        matches!(doing, Doing::Idle | Doing::Head).then_some(since)
    }

    /// If a new connection may replace this one: whether it does so only after all
    /// others, and since when it has been in its state.
    fn spare(&self) -> Option<(bool, Instant)> {
        let (doing, since) = *self.state();
        match doing {
            Doing::Idle | Doing::Head => Some((false, since)),
            Doing::Body | Doing::Answering | Doing::Flushing => {
                (since.elapsed() > SLOW).then_some((true, since))
            }
            Doing::Working => None,
        }
    }
}

/// The open connections.
struct Connections {
    bounds: Bounds,
    open: HashMap<u64, Arc<Connection>>,
    next: u64,
}

impl Connections {
    fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            open: HashMap::new(),
            next: 0,
        }
    }

    /// Admits a connection, and closes another one if the limits require that.
    /// `None`: no open connection may be closed, because all of them are being
    /// answered or haven't been slow for long.
    fn admit(&mut self, from: IpAddr) -> Option<(u64, Arc<Connection>)> {
        let address = network(from);
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for connection in self.open.values() {
            *counts.entry(connection.address).or_default() += 1;
        }
        let own = counts.get(&address).copied().unwrap_or_default();
        if own >= self.bounds.per_address {
            counts.retain(|other, _| *other == address);
            self.make_room(&counts)?;
        } else if self.open.len() >= self.bounds.connections {
            self.make_room(&counts)?;
        }
        let connection = Arc::new(Connection {
            address,
            doing: Mutex::new((Doing::Idle, Instant::now())),
            cut: CancellationToken::new(),
        });
        self.next += 1;
        self.open.insert(self.next, connection.clone());
        self.count();
        Some((self.next, connection))
    }

    /// Closes one connection. Of the addresses in `counts` that have a replaceable
    /// connection, it takes the one with the most connections. Of that address it
    /// takes the connection that has waited longest, or else the one that has been
    /// slow longest.
    fn make_room(&mut self, counts: &HashMap<IpAddr, usize>) -> Option<()> {
        let spare = self.open.iter().filter_map(|(id, connection)| {
            let count = counts.get(&connection.address)?;
            let (last, since) = connection.spare()?;
            Some((Reverse(*count), last, since, *id))
        });
        let (.., chosen) = spare.min()?;
        self.open.remove(&chosen)?.cut.cancel();
        count_cut("place");
        Some(())
    }

    /// Closes connections that have been in one state for too long.
    fn cut_overdue(&mut self) {
        let bounds = self.bounds;
        self.open.retain(|_, connection| {
            let (doing, since) = *connection.state();
            let overdue = bounds
                .of(doing)
                .is_some_and(|bound| since.elapsed() > bound);
            if overdue {
                count_cut(doing.as_str());
                connection.cut.cancel();
            }
            !overdue
        });
        self.count();
    }

    fn forget(&mut self, id: u64) {
        self.open.remove(&id);
        self.count();
    }

    fn count(&self) {
        metrics().http_connections.set(self.open.len() as i64);
    }
}

fn count_cut(reason: &str) {
    metrics()
        .http_connections_cut
        .with_label_values(&[reason])
        .inc();
}

/// An IPv6 address counts as its /64, because providers assign whole /64 networks.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

/// Serves `app` until `stop`, then finishes the requests in flight. Handlers find
/// the client's address in [`ConnectInfo`].
pub async fn serve(listener: TcpListener, app: Router, bounds: Bounds, stop: CancellationToken) {
    let connections = Arc::new(Mutex::new(Connections::new(bounds)));
    let open = || connections.lock().unwrap_or_else(PoisonError::into_inner);
    let tasks = TaskTracker::new();
    let mut tick = tokio::time::interval(bounds.tick());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = tick.tick() => {
                open().cut_overdue();
                continue;
            }
            () = stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            // The client closed the connection before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                // Most likely the process has no free file descriptor.
                warn!(%error, "accepting an HTTP connection failed; trying again in 100 ms");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some((id, connection)) = open().admit(peer.ip()) else {
            count_cut("full");
            continue;
        };
        let (app, stop, connections) = (app.clone(), stop.clone(), connections.clone());
        tasks.spawn(async move {
            answer(stream, peer, app, &connection, &stop).await;
            let connections = connections.lock();
            let mut connections = connections.unwrap_or_else(PoisonError::into_inner);
            connections.forget(id);
        });
    }
    drop(listener);
    tasks.close();
    loop {
        tokio::select! {
            () = tasks.wait() => return,
            _ = tick.tick() => open().cut_overdue(),
        }
    }
}

/// Answers the requests of one connection until it ends, is cut, or `stop`.
async fn answer(
    stream: TcpStream,
    peer: SocketAddr,
    app: Router,
    connection: &Arc<Connection>,
    stop: &CancellationToken,
) {
    // Answers are written as a whole, so delaying small packets gains nothing.
    let _ = stream.set_nodelay(true);
    let watched = Watched {
        stream,
        connection: connection.clone(),
    };
    let app = TowerToHyperService::new(app);
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        connection.begins(Doing::Body);
        let mut request = request
            .map(|body| Body::new(Marked::new(body, connection, Doing::Body, Doing::Working)));
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = app.call(request);
        async move {
            let answer: Response<Body> = answer.await?;
            connection.begins(Doing::Answering);
            Ok::<_, std::convert::Infallible>(
                answer.map(|body| Marked::new(body, connection, Doing::Answering, Doing::Flushing)),
            )
        }
    });
    let serving = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(watched), service);
    let mut serving = pin!(serving);
    let mut stopping = false;
    loop {
        tokio::select! {
            // The client closed the connection. That isn't worth a log line.
            _ = &mut serving => return,
            () = connection.cut.cancelled() => return,
            () = stop.cancelled(), if !stopping => {
                if connection.waiting_since().is_some() {
                    return;
                }
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

/// A stream that records when a request begins to arrive and when an answer is sent.
struct Watched {
    stream: TcpStream,
    connection: Arc<Connection>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.connection.goes_on(Doing::Idle, Doing::Head);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when it has nothing left to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.connection.goes_on(Doing::Flushing, Doing::Idle);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A body that changes its connection's state when it ends or is dropped.
struct Marked<B> {
    body: B,
    connection: Arc<Connection>,
    from: Doing,
    to: Doing,
}

impl<B: HttpBody> Marked<B> {
    fn new(body: B, connection: &Arc<Connection>, from: Doing, to: Doing) -> Self {
        let marked = Self {
            body,
            connection: connection.clone(),
            from,
            to,
        };
        if marked.body.is_end_stream() {
            marked.connection.goes_on(from, to);
        }
        marked
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Marked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let over = matches!(polled, Poll::Ready(None | Some(Err(_))));
        if over || polled.is_ready() && self.body.is_end_stream() {
            self.connection.goes_on(self.from, self.to);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Marked<B> {
    fn drop(&mut self) {
        self.connection.goes_on(self.from, self.to);
    }
}

#[cfg(test)]
mod tests;
