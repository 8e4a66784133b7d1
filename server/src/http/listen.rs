//! Connections: accepted up to a limit, closed when they keep the server waiting.

use super::connections::{Place, Room};
use super::direct::{Direct, End};
use super::patience::Patient;
use crate::app::App;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use bytes::BytesMut;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

/// Longest head of a request, in bytes; also what is buffered of an answer.
const HEAD_MAX: usize = 32 << 10;

/// Headers of a request.
const HEADERS_MAX: usize = 64;

/// Pause after a failed accept: the process has no file handles left, and asking again at once
/// does not make some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What answers the requests of connections.
#[derive(Clone)]
pub struct Routes {
    router: Router,
    /// Longest a client may keep the server waiting.
    idle_max: Duration,
    /// The other side of the connection.
    peer: Option<Peer>,
}

/// The address a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) Ipv4Addr);

impl Routes {
    /// All routes of `app`.
    #[must_use]
    pub fn new(app: Arc<App>) -> Self {
        let idle_max = app.config.http.timeout();
        Self { router: super::router(app), idle_max, peer: None }
    }

    /// Answers one request.
    pub(super) async fn answer(&mut self, mut request: Request<Body>) -> Response {
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(peer);
        }
        match self.router.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Answers by `routes` until `stop`, then until open requests are answered.
pub async fn serve(listener: TcpListener, routes: Routes, stop: CancellationToken) {
    let room = Room::new();
    let open = TaskTracker::new();
    while let Some((stream, place)) = stop.run_until_cancelled(next(&listener, &room)).await.flatten() {
        let (routes, stop) = (routes.clone(), stop.clone());
        open.spawn(async move {
            if let Err(error) = connection(stream, routes, stop).await {
                tracing::debug!(%error, "connection");
            }
            drop(place);
        });
    }
    drop(listener);
    open.close();
    open.wait().await;
}

/// The next connection, and its place among those that may be open; none never.
async fn next(listener: &TcpListener, room: &Room) -> Option<(TcpStream, Place)> {
    let mut one = Some(room.wait().await?);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Answers are small and awaited: they shall not wait for more to send.
                stream.set_nodelay(true).ok();
                match room.enter(peer.ip(), one.take()?) {
                    Some(place) => return Some((stream, place)),
                    None => tracing::debug!(%peer, "HTTP: too many connections from one address"),
                }
                one = Some(room.wait().await?);
            }
            Err(error) => {
                tracing::warn!(%error, "HTTP: a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, mut routes: Routes, stop: CancellationToken) -> io::Result<()> {
    if let IpAddr::V4(peer) = stream.peer_addr()?.ip().to_canonical() {
        routes.peer = Some(Peer(peer));
    }
    let idle_max = routes.idle_max;
    let mut direct = Direct { stream, buffer: BytesMut::new(), idle_max };
    if let End::Closed = direct.serve(&mut routes, &stop).await? {
        return Ok(());
    }
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut routes = routes.clone();
        async move { Ok::<_, Infallible>(routes.answer(request.map(Body::new)).await) }
    });
    let stream = Patient::new(direct.stream, direct.buffer.freeze(), idle_max);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle_max)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let outcome = match stop.run_until_cancelled(connection.as_mut()).await {
        Some(outcome) => outcome,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    outcome.map_err(io::Error::other)
}
