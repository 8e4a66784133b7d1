//! HTTP: every route on one page.

mod activity;
mod actor;
mod agent;
pub mod api;
pub mod audit;
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
mod guard;
pub(crate) mod idempotency;
mod inventory;
pub mod jobs;
pub mod layout;
pub mod listen;
pub mod node_about;
pub(crate) mod nodes;
pub(crate) mod pace;
mod patience;
mod recall;
pub mod rescue;
pub mod restored;
pub mod tokens;
mod unlock;

use crate::app::App;
pub(crate) use actor::REASON;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use connection::Door;
use error::Problem;
use guard::Guarded;
use kaltstart_core::access::Permission::{Administer, Operate, Order, SeeNodes, SeeSite, Touch};
use kaltstart_core::dhcp::role::Role;
use kaltstart_protocol::secret::Secret;
use std::sync::Arc;

/// Largest body that is read, in bytes: facts of a machine with many disks stay far below.
const BODY_MAX: usize = 1 << 20;

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    let people = Guarded::new(&app)
        .get("/v1/whoami", SeeNodes, tokens::whoami)
        .get("/v1/nodes", SeeNodes, nodes::list)
        .post("/v1/nodes", Operate, api::declare)
        .get("/v1/nodes/{node}", SeeNodes, api::node)
        .patch("/v1/nodes/{node}", Operate, node_about::edit)
        .post("/v1/nodes/{node}/lock", Order, node_about::lock)
        .post("/v1/nodes/{node}/unlock", Order, node_about::unlock)
        .post("/v1/nodes/{node}/approval", Order, node_about::approve)
        .post("/v1/nodes/{node}/jobs", Order, jobs::order)
        .get("/v1/boot/{node}", SeeSite, boot_view::try_boot)
        .get("/v1/nodes/{node}/boot", SeeNodes, boot_view::shown)
        .get("/v1/nodes/{node}/trace", SeeNodes, diagnosis::trace)
        .get("/v1/nodes/{node}/diagnosis", SeeNodes, diagnosis::diagnosis)
        .get("/v1/nodes/{node}/layout", SeeNodes, layout::try_layout)
        .post("/v1/nodes/{node}/power", Touch, api::power)
        .post("/v1/nodes/{node}/board", Operate, api::accept_board)
        .post("/v1/nodes/{node}/{move}", Operate, api::move_node)
        .get("/v1/jobs", SeeNodes, jobs::list)
        .get("/v1/jobs/{job}", SeeNodes, jobs::show)
        .post("/v1/jobs/{job}/cancel", Order, jobs::cancel)
        .get("/v1/jobs/{job}/log", SeeNodes, jobs::log)
        .get("/v1/jobs/{job}/events", SeeNodes, events::of_job)
        .post("/v1/jobs/{job}/code", Operate, rescue::code)
        .post("/v1/jobs/{job}/shell", Operate, rescue::enter)
        .post("/v1/jobs/{job}/shell/input", Operate, rescue::type_in)
        .post("/v1/jobs/{job}/shell/output", Operate, rescue::watch)
        .get("/v1/jobs/{job}/recording", Operate, rescue::recording)
        .get("/v1/inventory/ansible", SeeNodes, inventory::ansible)
        .get("/v1/sd/prometheus", SeeNodes, inventory::prometheus)
        .get("/v1/export/csv", SeeNodes, inventory::csv)
        .get("/v1/export/telegraf/{node}", SeeNodes, inventory::telegraf)
        .get("/v1/enc/{node}", SeeNodes, inventory::enc)
        .get("/v1/dhcp", SeeSite, dhcp::subnets)
        .get("/v1/dhcp/leases", SeeSite, dhcp::leases)
        .get("/v1/dhcp/options/{server}", SeeSite, dhcp::options)
        .get("/v1/grant-key", SeeSite, grant_key::shown)
        .post("/v1/grant-key/rotate", Administer, grant_key::rotate)
        .get("/v1/audit", Administer, audit::records)
        .get("/v1/audit/verify", Administer, audit::verify)
        .get("/v1/restored", SeeSite, restored::shown)
        .post("/v1/restored/accept", Administer, restored::accept)
        .get("/v1/profiles", SeeNodes, api::profiles)
        .get("/v1/images", SeeNodes, api::images)
        .get("/v1/images/refused", SeeNodes, api::refused_images)
        .get("/v1/layouts", SeeNodes, layout::layouts)
        .get("/v1/layouts/{layout}", SeeNodes, layout::layout)
        .get("/v1/events", SeeNodes, events::all)
        .get("/v1/tokens", Administer, tokens::list)
        .post("/v1/tokens", Administer, tokens::create)
        .delete("/v1/tokens/{name}", Administer, tokens::revoke);
    let unread = people
        .into_router()
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
