//! HTTP: every route on one page.

mod activity;
mod agent;
pub mod api;
mod boot;
pub mod boot_view;
mod connection;
mod connections;
pub mod dhcp;
pub mod diagnosis;
mod direct;
pub mod error;
mod events;
mod extract;
mod files;
pub mod grant_key;
pub mod jobs;
pub mod layout;
pub mod listen;
pub(crate) mod pace;
mod patience;
mod recall;
pub mod rescue;
pub mod restored;
mod unlock;

use crate::app::App;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use connection::Door;
use error::Problem;
use kaltstart_core::dhcp::role::Role;
use kaltstart_core::machine::ADMINISTRATOR;
use kaltstart_protocol::secret::Secret;
use std::sync::Arc;

/// Largest body that is read, in bytes: facts of a machine with many disks stay far below.
const BODY_MAX: usize = 1 << 20;

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    let unread = Router::new()
        .route("/v1/nodes", get(api::nodes).post(api::declare))
        .route("/v1/nodes/{node}", get(api::node))
        .route("/v1/nodes/{node}/jobs", post(jobs::order))
        .route("/v1/boot/{node}", get(boot_view::try_boot))
        .route("/v1/nodes/{node}/boot", get(boot_view::shown))
        .route("/v1/nodes/{node}/trace", get(diagnosis::trace))
        .route("/v1/nodes/{node}/diagnosis", get(diagnosis::diagnosis))
        .route("/v1/nodes/{node}/layout", get(layout::try_layout))
        .route("/v1/nodes/{node}/power", post(api::power))
        .route("/v1/nodes/{node}/board", post(api::accept_board))
        .route("/v1/nodes/{node}/{move}", post(api::move_node))
        .route("/v1/jobs", get(jobs::list))
        .route("/v1/jobs/{job}", get(jobs::show))
        .route("/v1/jobs/{job}/cancel", post(jobs::cancel))
        .route("/v1/jobs/{job}/log", get(jobs::log))
        .route("/v1/jobs/{job}/events", get(events::of_job))
        .route("/v1/jobs/{job}/code", post(rescue::code))
        .route("/v1/jobs/{job}/shell", post(rescue::enter))
        .route("/v1/jobs/{job}/shell/input", post(rescue::type_in))
        .route("/v1/jobs/{job}/shell/output", post(rescue::watch))
        .route("/v1/jobs/{job}/recording", get(rescue::recording))
        .route("/v1/dhcp", get(dhcp::subnets))
        .route("/v1/dhcp/leases", get(dhcp::leases))
        .route("/v1/dhcp/options/{server}", get(dhcp::options))
        .route("/v1/grant-key", get(grant_key::shown))
        .route("/v1/grant-key/rotate", post(grant_key::rotate))
        .route("/v1/restored", get(restored::shown))
        .route("/v1/restored/accept", post(restored::accept))
        .route("/v1/profiles", get(api::profiles))
        .route("/v1/images", get(api::images))
        .route("/v1/images/refused", get(api::refused_images))
        .route("/v1/layouts", get(layout::layouts))
        .route("/v1/layouts/{layout}", get(layout::layout))
        .route("/v1/events", get(events::all))
        .route_layer(middleware::from_fn_with_state(app.clone(), only_admin))
        .route("/agent/v1/hello", post(agent::hello))
        .route("/agent/v1/task", post(agent::task))
        .route("/agent/v1/report", post(agent::report))
        .route("/agent/v1/installed", post(agent::installed))
        .route("/agent/v1/erased", post(agent::erased))
        .route("/agent/v1/neighbours", post(agent::neighbours))
        .route("/agent/v1/log", post(agent::log))
        .route("/agent/v1/shell/input", post(rescue::input))
        .route("/agent/v1/shell/output", post(rescue::output))
        .route("/agent/v1/rescued", post(rescue::rescued))
        .route("/node/v1/report", post(agent::system_report))
        .route("/node/v1/recall", post(recall::ask))
        .route("/node/v1/unlock", post(unlock::ask))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .route_layer(middleware::from_fn_with_state(app.clone(), only_unread));
    let boot = Router::new()
        .route("/boot/{mac}/script.ipxe", get(boot::script))
        .route("/boot/{mac}/vmlinuz", get(boot::kernel))
        .route("/boot/{mac}/ramdisk", get(boot::ramdisk))
        .route("/boot/files/{name}", get(boot::loader))
        .route_layer(middleware::from_fn_with_state(app.clone(), boot::watch));
    Router::new()
        .route("/images/{digest}", get(boot::image))
        .merge(boot)
        .merge(unread)
        .fallback(|| async { Problem::not_found("there is no such page") })
        .method_not_allowed_fallback(|method: Method| async move {
            let detail = format!("{method} is not for this page; the Allow header tells what is");
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
        })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(app)
}

/// The secret of an `Authorization: Bearer` header (RFC 6750 §2.1).
fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    text.strip_prefix("Bearer ").map(|token| Secret::new(token.trim().to_owned()))
}

/// Who asks, by the name under which approvals are noted.
#[derive(Debug, Clone, Copy)]
struct Principal(&'static str);

async fn only_admin(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let admin = app.admin.fingerprint();
    match bearer(request.headers()) {
        Some(token) if token.matches(&admin) => {
            request.extensions_mut().insert(Principal(ADMINISTRATOR));
            Ok(next.run(request).await)
        }
        _ => Err(Problem::unauthorized(
            "send `Authorization: Bearer TOKEN`; the token stands in admin.token of the data directory",
        )),
    }
}

/// Refuses what came over a wire in the clear: plain HTTP is for what firmware and boot loaders
/// fetch. A client on the server's own machine is on no wire.
async fn only_unread(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, Problem> {
    match request.extensions().get::<Door>() {
        Some(door) if door.tls || door.same_host => Ok(next.run(request).await),
        _ => {
            let detail = format!("only over TLS: {}{}", app.config.https_base(), request.uri().path());
            Err(Problem::new(StatusCode::FORBIDDEN, "tls-required", detail))
        }
    }
}

async fn healthz(State(app): State<Arc<App>>) -> (StatusCode, Json<serde_json::Value>) {
    let nodes = app.store.index().machines();
    let observing = app.store.observing().is_some();
    let (code, status) = if app.store.is_lost() {
        (StatusCode::SERVICE_UNAVAILABLE, "the shared database is lost")
    } else if !app.metrics.stores_leases() {
        (StatusCode::SERVICE_UNAVAILABLE, "leases cannot be stored")
    } else if app.watches.view(&[]).iter().any(|subnet| subnet.role == Role::Refused) {
        (StatusCode::SERVICE_UNAVAILABLE, "another DHCP server serves a subnet; `ks dhcp status` names it")
    } else if observing {
        // It serves: nobody is to be sent to another.
        (StatusCode::OK, "only observes since a copy was restored; `ks restored` shows what differs")
    } else {
        (StatusCode::OK, "ok")
    };
    let version = env!("CARGO_PKG_VERSION");
    let health =
        serde_json::json!({"status": status, "observing": observing, "nodes": nodes, "version": version});
    (code, Json(health))
}

async fn metrics(State(app): State<Arc<App>>) -> ([(header::HeaderName, &'static str); 1], String) {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    app.metrics.set_observing(app.store.observing().is_some());
    ([(header::CONTENT_TYPE, TYPE)], app.metrics.text())
}
