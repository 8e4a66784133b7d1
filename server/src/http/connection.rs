//! One connection, from its first byte to its end.

use super::activity::Activity;
use super::direct::{Direct, End};
use super::listen::Routes;
use super::patience::Patient;
use crate::app::App;
use crate::store::StoreError;
use axum::body::Body;
use axum::http::Request;
use bytes::{Bytes, BytesMut};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kaltstart_protocol::ids::Mac;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// Longest head of a request, in bytes; also what is buffered of an answer.
const HEAD_MAX: usize = 32 << 10;

/// Headers of a request.
const HEADERS_MAX: usize = 64;

/// Requests that are open on one connection at once (HTTP/2).
const STREAMS_MAX: u32 = 100;

/// Bytes of one answer that are handed to the connection ahead (HTTP/2).
const SEND_BUFFER: usize = 512 << 10;

/// The client of one connection.
#[derive(Debug)]
pub(super) struct Peer {
    address: IpAddr,
    /// The machine it is, once that is known.
    machine: OnceLock<Mac>,
}

impl Peer {
    fn at(address: IpAddr) -> Self {
        Self { address, machine: OnceLock::new() }
    }

    /// Its address.
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    /// The hardware address of the machine; none when nobody knows who is at the address.
    ///
    /// Found once, it holds for the connection, and cannot be outlived by it: leases may move, but
    /// a TCP connection does not, since who takes over the address knows none of its numbers (RFC 9293
    /// §3.4.1). Who is not known may be at the next request. What the machine may have is not
    /// remembered: that is decided anew each time.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn machine(&self, app: &App) -> Result<Option<Mac>, StoreError> {
        if let Some(known) = self.machine.get() {
            return Ok(Some(*known));
        }
        Ok(app.who_has(self.address)?.map(|found| *self.machine.get_or_init(|| found)))
    }
}

/// How a request came in.
#[derive(Debug, Clone)]
pub(super) struct Door {
    /// Who asks.
    pub(super) peer: Arc<Peer>,
    /// The address of this server it went to.
    pub(super) own: IpAddr,
    /// Nobody on the way could read it.
    pub(super) tls: bool,
    /// It comes from this machine itself, so it was on no wire.
    pub(super) same_host: bool,
}

impl Door {
    fn of(stream: &TcpStream, tls: bool) -> io::Result<Self> {
        let [peer, own] =
            [stream.peer_addr()?, stream.local_addr()?].map(|address| address.ip().to_canonical());
        let same_host = peer == own || peer.is_loopback();
        Ok(Self { peer: Arc::new(Peer::at(peer)), own, tls, same_host })
    }

    /// That of a client within this process, which stands for one on the network.
    pub(super) fn within(peer: IpAddr, own: IpAddr, tls: bool) -> Self {
        Self { peer: Arc::new(Peer::at(peer)), own, tls, same_host: false }
    }
}

/// Plain HTTP/1.1.
pub(super) async fn plain(stream: TcpStream, routes: Routes, stop: &CancellationToken) -> io::Result<()> {
    let door = Door::of(&stream, false)?;
    let mut direct = Direct { stream, buffer: BytesMut::new(), idle_max: routes.idle_max() };
    if let End::Closed = direct.serve(&routes, &door, stop).await? {
        return Ok(());
    }
    http1(direct.stream, direct.buffer.freeze(), routes, door, stop).await
}

/// HTTP/2 or HTTP/1.1 over TLS.
pub(super) async fn secure(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    routes: Routes,
    stop: &CancellationToken,
) -> io::Result<()> {
    let door = Door::of(&stream, true)?;
    let stream = tokio::time::timeout(routes.idle_max(), acceptor.accept(stream))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))??;
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => http2(stream, routes, door, stop).await,
        _ => http1(stream, Bytes::new(), routes, door, stop).await,
    }
}

async fn http1(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    before: Bytes,
    routes: Routes,
    door: Door,
    stop: &CancellationToken,
) -> io::Result<()> {
    let idle_max = routes.idle_max();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (routes, door) = (routes.clone(), door.clone());
        async move { Ok::<_, Infallible>(routes.answer(request.map(Body::new), door).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle_max)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Patient::new(stream, before, idle_max)), service);
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

async fn http2(
    stream: TlsStream<TcpStream>,
    routes: Routes,
    door: Door,
    stop: &CancellationToken,
) -> io::Result<()> {
    let idle_max = routes.idle_max();
    let activity = Arc::new(Activity::default());
    let watched = activity.clone();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (routes, door, deciding) = (routes.clone(), door.clone(), watched.request());
        async move {
            let answer = routes.answer(request.map(Body::new), door).await;
            Ok::<_, Infallible>(answer.map(|body| deciding.answered(body)))
        }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(idle_max)
        .keep_alive_timeout(idle_max)
        .serve_connection(TokioIo::new(Patient::new(stream, Bytes::new(), idle_max)), service);
    let mut connection = pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = activity.until_idle(idle_max) => return Ok(()),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    outcome.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::tests::{app, mac};
    use std::net::Ipv4Addr;

    #[tokio::test]
    async fn a_connection_stays_with_its_machine_and_the_next_is_looked_up() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let app = app(dir.path()).await;
        let address = Ipv4Addr::new(192, 0, 2, 7);
        let open = || Peer::at(address.into());
        let machine = |peer: &Peer| peer.machine(&app).expect("it can be read");
        let first = open();
        assert_eq!(machine(&first), None);
        app.claims.note(address, mac(1));
        assert_eq!(machine(&first), Some(mac(1)), "who was not known is asked for again");
        app.claims.note(address, mac(2));
        assert_eq!(machine(&first), Some(mac(1)));
        assert_eq!(machine(&open()), Some(mac(2)));
    }
}
