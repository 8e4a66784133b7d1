//! Connections: accepted up to a limit, closed when they keep the server waiting.

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Connections that are open at once; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;

/// Longest a connection may take to send the head of its next request; also how long an idle one
/// is kept. Longer than clients wait between two requests, shorter than an attacker's patience.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);

/// Pause after a failed accept: the process has no file handles left, and asking again at once
/// does not make some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves `router` until `stop`, then until open requests are answered.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let service = TowerToHyperService::new(router);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let open = GracefulShutdown::new();
    while let Some((stream, place)) = stop.run_until_cancelled(next(&listener, &room)).await.flatten() {
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME_MAX)
            .serve_connection(TokioIo::new(stream), service.clone());
        let connection = open.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection");
            }
            drop(place);
        });
    }
    drop(listener);
    open.shutdown().await;
}

/// The next connection, and its place among those that may be open; none never.
async fn next(listener: &TcpListener, room: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let place = room.clone().acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are small and awaited: they shall not wait for more to send.
                stream.set_nodelay(true).ok();
                return Some((stream, place));
            }
            Err(error) => {
                tracing::warn!(%error, "HTTP: a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
