//! Serves HTTP/1.1 so that slow or silent clients don't take capacity from others.
//!
//! `axum::serve` waits for a client without a limit. Here every state of a connection
//! has a time limit ([`Bounds`]), and the number of connections is limited, in total
//! and per client address. Both binaries serve with this.
//!
//! The surprising fact: no connection has a timer. Each one records its state and when
//! that began, and the accept loop closes the overdue ones.

mod connections;
mod watched;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

pub use connections::{Bounds, network};
use connections::{Connection, Connections, Doing, count_cut};
use watched::{Marked, Watched};

/// The largest request head, in bytes. hyper answers a larger one with 431.
const MAX_HEAD: usize = 64 * 1024;

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

#[cfg(test)]
mod tests;
