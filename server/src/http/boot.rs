//! What firmware and boot loaders fetch: loaders, scripts, kernel, ramdisk, images.
//!
//! Nothing here is secret but the one-time token within a script.

use super::connection;
use super::error::Problem;
use super::extract::Path;
use super::files::{self, Served, Shared};
use crate::app::{App, AppError};
use crate::render;
use crate::store::StoreError;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::Body as _;
use kaltstart_core::boot::{Door, File};
use kaltstart_core::trace::{HttpAnswer, Loading, Protocol, What, clean};
use kaltstart_protocol::ids::{Digest, Mac};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Port of syslog (RFC 3164 §2).
const SYSLOG_PORT: u16 = 514;

/// Type of what is only bytes to HTTP.
const DATA: &str = "application/octet-stream";

/// The machine at the other end; none when nobody knows which it is.
fn asking(app: &App, request: &Request) -> Result<Option<Mac>, StoreError> {
    let Some(door) = request.extensions().get::<connection::Door>() else { return Ok(None) };
    door.peer.machine(app)
}

/// Takes note of what is fetched here, for the machine in the path or at the other end.
pub(super) async fn watch(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let named = path.split('/').nth(2).and_then(|part| part.parse::<Mac>().ok());
    let mac = named.or_else(|| {
        let asking = asking(&app, &request).inspect_err(|error| tracing::error!(%error, "leases"));
        asking.ok()?.filter(|mac| app.has_seen(*mac))
    });
    let get = request.method() == Method::GET;
    let response = next.run(request).await;
    let Some(mac) = mac else { return response };
    let status = response.status();
    // A script that was made is noted by what it starts.
    if path.ends_with(".ipxe") && status.is_success() {
        return response;
    }
    let seen = {
        let (app, path) = (app.clone(), clean(&path));
        move |bytes, total| {
            let answer = HttpAnswer { path, status: status.as_u16(), bytes, total };
            app.trace.note(mac, What::Http(answer));
        }
    };
    match response.extensions().get::<Shared>().filter(|_| get) {
        Some(content) => {
            let total = response.body().size_hint().exact();
            app.trace.note(mac, What::Loading(Loading::begun(Protocol::Http, &path)));
            content.when_ended(move |bytes| seen(bytes, total));
        }
        None => seen(0, None),
    }
    response
}

/// `GET /boot/{mac}/script.ipxe`: what the machine may start now; grants it at the same time.
pub(super) async fn script(
    State(app): State<Arc<App>>,
    Path(mac): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let mac = parse_mac(&mac)?;
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    if request.method() == Method::HEAD {
        // Whoever only asks about the script does not get its token: an earlier one stays valid.
        return Ok(kind.into_response());
    }
    let text = match app.grant(mac).await? {
        Some(start) => {
            // A loader goes on in the family it came in; the agent has IPv4.
            let files = match request.extensions().get::<connection::Door>().map(|door| door.own) {
                Some(IpAddr::V6(own)) => app.config.http_base_at(own),
                _ => app.config.http_base(),
            };
            // Loaders know no other port.
            let syslog = app.config.syslog.as_ref().map(|syslog| syslog.listen);
            let syslog = syslog.filter(|listen| listen.port() == SYSLOG_PORT).map(|listen| *listen.ip());
            render::agent_script(&start, &files, syslog)
        }
        None => render::local_script(mac),
    };
    let text = text.map_err(|error| {
        tracing::error!(%error, "boot script");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the boot script is broken")
    })?;
    Ok((kind, text).into_response())
}

/// `GET /boot/{mac}/vmlinuz`
pub(super) async fn kernel(
    State(app): State<Arc<App>>,
    Path(mac): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let mac = parse_mac(&mac)?;
    let path = given(&app, Some(mac), File::Kernel(mac))?;
    let served = Served { path: &path, content_type: DATA, digest: None };
    Ok(files::serve(&app, &served, &request, |_| {}))
}

/// `GET /boot/{mac}/ramdisk`: the last file before the kernel starts.
pub(super) async fn ramdisk(
    State(app): State<Arc<App>>,
    Path(mac): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let mac = parse_mac(&mac)?;
    let path = given(&app, Some(mac), File::Ramdisk(mac))?;
    let told = app.clone();
    let sent = move |bytes| {
        tokio::spawn(async move { told.ramdisk_served(mac, bytes).await });
    };
    let served = Served { path: &path, content_type: DATA, digest: None };
    Ok(files::serve(&app, &served, &request, sent))
}

/// `GET /boot/files/{name}`: first-stage loaders, for UEFI HTTP boot.
pub(super) async fn loader(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let Some(file @ File::Loader(_)) = File::named(&name) else {
        return Err(Problem::not_found(format!("{name:?} is not a boot file")));
    };
    let path = given(&app, asking(&app, &request).map_err(AppError::from)?, file)?;
    let served = Served { path: &path, content_type: "application/efi", digest: None };
    Ok(files::serve(&app, &served, &request, |_| {}))
}

/// Where the file lies if [`kaltstart_core::boot::offer`] gives it to the machine `mac`; none when nobody
/// knows which machine asks.
fn given(app: &App, mac: Option<Mac>, file: File) -> Result<PathBuf, Problem> {
    let offer = app.offer(mac, Door::Http(file));
    app.config.boot.path(file, offer).ok_or_else(|| {
        let who = mac.map_or_else(|| "who asks".to_owned(), |mac| mac.to_string());
        let detail = format!("{file} is not given: {offer}; `ks boot try {who}` shows what is");
        tracing::info!(mac = mac.map(tracing::field::display), "{detail}");
        Problem::new(StatusCode::FORBIDDEN, "boot-not-granted", detail)
    })
}

/// `GET /images/{digest}`
pub(super) async fn image(
    State(app): State<Arc<App>>,
    Path(digest): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let digest: Digest = digest.parse().map_err(|error| Problem::bad_request(format!("{error}")))?;
    let path = app
        .images
        .file(&digest)
        .ok_or_else(|| Problem::not_found(format!("no image has the digest {digest}")))?;
    let served = Served { path: &path, content_type: DATA, digest: Some(&digest) };
    Ok(files::serve(&app, &served, &request, |_| {}))
}

fn parse_mac(text: &str) -> Result<Mac, Problem> {
    text.parse().map_err(|error| Problem::bad_request(format!("{error}")))
}
