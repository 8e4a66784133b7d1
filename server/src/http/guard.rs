//! Who asks, and whether they may. A route of `/v1` cannot be made without the permission that it needs; nodes and jobs
//! that a path names are looked at here, so that no handler can forget whose they are.

use super::error::Problem;
use super::{api, bearer, jobs};
use crate::app::App;
use crate::clock;
use axum::Router;
use axum::extract::{FromRequestParts as _, RawPathParams, Request, State};
use axum::handler::Handler;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodRouter, delete, get, patch, post};
use kaltstart_core::access::{Permission, Principal, Role};
use kaltstart_protocol::time::Millis;
use std::sync::Arc;

/// Routes, each with the permission it needs.
pub(super) struct Guarded {
    app: Arc<App>,
    router: Router<Arc<App>>,
}

impl Guarded {
    pub(super) fn new(app: &Arc<App>) -> Self {
        Self { app: app.clone(), router: Router::new() }
    }

    pub(super) fn get<H: Handler<T, Arc<App>>, T: 'static>(
        self,
        path: &str,
        needs: Permission,
        to: H,
    ) -> Self {
        self.route(path, needs, get(to))
    }

    pub(super) fn post<H: Handler<T, Arc<App>>, T: 'static>(
        self,
        path: &str,
        needs: Permission,
        to: H,
    ) -> Self {
        self.route(path, needs, post(to))
    }

    pub(super) fn patch<H: Handler<T, Arc<App>>, T: 'static>(
        self,
        path: &str,
        needs: Permission,
        to: H,
    ) -> Self {
        self.route(path, needs, patch(to))
    }

    pub(super) fn delete<H: Handler<T, Arc<App>>, T: 'static>(
        self,
        path: &str,
        needs: Permission,
        to: H,
    ) -> Self {
        self.route(path, needs, delete(to))
    }

    fn route(mut self, path: &str, needs: Permission, to: MethodRouter<Arc<App>>) -> Self {
        let state = (self.app.clone(), needs);
        self.router = self.router.route(path, to.route_layer(middleware::from_fn_with_state(state, guard)));
        self
    }

    pub(super) fn into_router(self) -> Router<Arc<App>> {
        self.router
    }
}

async fn guard(
    State((app, needs)): State<(Arc<App>, Permission)>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let principal = authenticate(&app, request.headers())?;
    permit(&principal, needs)?;
    let (mut parts, body) = request.into_parts();
    if principal.team.is_some() {
        let params = RawPathParams::from_request_parts(&mut parts, &()).await;
        for (name, value) in &params.map_err(|rejection| Problem::bad_request(rejection.body_text()))? {
            match name {
                "node" => see_node(&app, &principal, value)?,
                "job" => see_job(&app, &principal, value)?,
                _ => {}
            }
        }
    }
    parts.extensions.insert(principal);
    Ok(next.run(Request::from_parts(parts, body)).await)
}

/// Who holds the token of the request.
pub(super) fn authenticate(app: &App, headers: &HeaderMap) -> Result<Principal, Problem> {
    const HOW: &str = "send `Authorization: Bearer TOKEN`: one that `ks token create` has made, or that in admin.token of \
                       the data directory";
    let token = bearer(headers).ok_or_else(|| Problem::unauthorized(HOW))?;
    // Of a file: also when the database is lost.
    if token.matches(&app.admin.fingerprint()) {
        return Ok(Principal::administrator());
    }
    match app.store.token(&token.fingerprint())? {
        Some(token) if token.is_valid(clock::now()) => Ok(token.principal),
        Some(_) => {
            Err(Problem::unauthorized("the token has expired; let an admin make another (`ks token create`)"))
        }
        None => Err(Problem::unauthorized(HOW)),
    }
}

/// Refuses those whose role does not have the permission.
pub(super) fn permit(principal: &Principal, needs: Permission) -> Result<(), Problem> {
    principal.may(needs).map_err(|roles| {
        let roles: Vec<&str> = roles.iter().copied().map(Role::name).collect();
        let team = principal.team.as_ref().map_or_else(String::new, |team| format!(" of team {team}"));
        let detail = format!("this takes the role {}; yours is {}{team}", roles.join(" or "), principal.role);
        Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
    })
}

/// Refuses a node that is not there for them, as if it were not there at all.
fn see_node(app: &App, principal: &Principal, text: &str) -> Result<(), Problem> {
    let node = api::find(app, text)?.node;
    if principal.sees(node.owner(), clock::now()) { Ok(()) } else { Err(api::no_node(text)) }
}

/// Refuses a job that is not there for them.
fn see_job(app: &App, principal: &Principal, text: &str) -> Result<(), Problem> {
    let id = jobs::job_id(text)?;
    let job = jobs::find_job(app, &id)?;
    if sees(app, principal, job.node.as_str(), job.created_at) { Ok(()) } else { Err(jobs::no_job(&id)) }
}

/// Whether what the node with that identifier did at `at` is there for them.
pub(super) fn sees(app: &App, principal: &Principal, node: &str, at: Millis) -> bool {
    principal.team.is_none()
        || node
            .parse()
            .ok()
            .and_then(|id| app.store.index().summary(&id))
            .is_some_and(|node| principal.sees(node.owner(), at))
}
