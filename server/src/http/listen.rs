//! Doors: connections accepted up to a limit, plain or with TLS.

use super::connection::{self, Door};
use super::connections::{Place, Room};
use crate::app::App;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

/// Pause after a failed accept: the process has no file handles left, and asking again at once
/// does not make some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What answers the requests of connections, whichever door they come through.
#[derive(Clone)]
pub struct Routes {
    router: Router,
    room: Room,
    idle_max: Duration,
    /// The address of plain HTTP.
    own: IpAddr,
}

impl Routes {
    /// All routes of `app`.
    #[must_use]
    pub fn new(app: Arc<App>) -> Self {
        let (idle_max, own) = (app.config.http.timeout(), IpAddr::V4(*app.config.http.listen.ip()));
        Self { router: super::router(app), room: Room::new(), idle_max, own }
    }

    /// Longest a client may keep the server waiting.
    pub(super) fn idle_max(&self) -> Duration {
        self.idle_max
    }

    /// Answers one request of a client in this process, which is at the address `from`, over TLS or in the clear.
    pub async fn ask(&self, request: Request<Body>, from: IpAddr, tls: bool) -> Response {
        let own = self.own;
        self.answer(request, Door::within(from, own, tls)).await
    }

    /// Answers one request that came in through `door`.
    pub(super) async fn answer(&self, mut request: Request<Body>, door: Door) -> Response {
        request.extensions_mut().insert(door);
        match self.router.clone().call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Answers by `routes` until `stop`, then until open requests are answered; with TLS if there is
/// an `acceptor`.
pub async fn serve(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    routes: Routes,
    stop: CancellationToken,
) {
    let open = TaskTracker::new();
    while let Some((stream, place)) = stop.run_until_cancelled(next(&listener, &routes.room)).await.flatten()
    {
        let (acceptor, routes, stop) = (acceptor.clone(), routes.clone(), stop.clone());
        open.spawn(async move {
            let outcome = match &acceptor {
                Some(acceptor) => connection::secure(stream, acceptor, routes, &stop).await,
                None => connection::plain(stream, routes, &stop).await,
            };
            if let Err(error) = outcome {
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
