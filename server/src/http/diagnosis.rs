//! `/v1`: what the doors saw of a machine, and why it does not start; also of one that nobody
//! declared.

use super::api;
use super::error::Problem;
use super::extract::Path;
use crate::app::App;
use crate::clock;
use crate::summary::headline;
use axum::Json;
use axum::extract::State;
use kaltstart_core::machine::Machine;
use kaltstart_core::trace::Sighting;
use kaltstart_core::why::{self, Cause, Likelihood, Proof};
use kaltstart_protocol::finding::Code;
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::phase::Phase;
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Why a machine does not start, as clients see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiagnosisView {
    /// The node's name; the hardware address when nobody declared it.
    pub node: String,
    /// Its state and job in words; none when nobody declared it.
    pub headline: Option<String>,
    /// Likeliest first; empty when nothing is wrong.
    pub causes: Vec<CauseView>,
    /// What was seen last.
    pub last: Proof,
    /// What has worked in this start.
    pub ruled_out: Vec<String>,
    /// The server's clock, to which all times here belong.
    pub now: Millis,
}

/// A cause with its words.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CauseView {
    /// Which problem.
    pub code: Code,
    /// What the code means.
    pub title: String,
    /// How sure it is.
    pub likelihood: Likelihood,
    /// What shows it, oldest first.
    pub proof: Vec<Proof>,
    /// What to do next.
    pub next: String,
    /// Commands that tell more.
    pub commands: Vec<String>,
}

/// A machine as an operator names it: known, or only seen.
struct Asked {
    name: String,
    macs: Vec<Mac>,
    machine: Option<Machine>,
}

/// The machine with that identifier, name or hardware address.
fn asked(app: &App, text: &str) -> Result<Asked, Problem> {
    match (api::find(app, text), text.parse::<Mac>()) {
        (Ok(machine), _) => {
            let node = &machine.node;
            Ok(Asked { name: node.name.clone(), macs: node.macs.clone(), machine: Some(machine) })
        }
        // Nobody's machine: if it was seen, that is what somebody wants to know of it.
        (Err(_), Ok(mac)) if !app.trace.of(&[mac]).is_empty() => {
            Ok(Asked { name: mac.to_string(), macs: vec![mac], machine: None })
        }
        (Err(unknown), _) => Err(unknown),
    }
}

/// `GET /v1/nodes/{node}/trace`: the recent past of a machine, oldest first.
pub(super) async fn trace(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
) -> Result<Json<Vec<Sighting>>, Problem> {
    Ok(Json(app.trace.of(&asked(&app, &node)?.macs)))
}

/// `GET /v1/nodes/{node}/diagnosis`: why it does not start, or what is going on.
pub(super) async fn diagnosis(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
) -> Result<Json<DiagnosisView>, Problem> {
    let Asked { name, macs, machine } = asked(&app, &node)?;
    let why::Diagnosis { causes, now, ruled_out } = app.diagnose(&macs, machine.as_ref());
    let mut causes: Vec<CauseView> =
        causes.into_iter().map(|cause| view(cause, &name, macs.first().copied())).collect();
    // What a job has failed with stands in the words of its agent in its log.
    let last = machine.as_ref().and_then(|machine| machine.job.as_ref()?.findings.last());
    for cause in causes.iter_mut().filter(|cause| last.is_some_and(|last| last.code == cause.code)) {
        cause.commands.insert(0, format!("ks job log {name}"));
    }
    Ok(Json(DiagnosisView {
        headline: machine.as_ref().map(headline),
        causes,
        last: now,
        ruled_out,
        node: name,
        now: clock::now(),
    }))
}

/// The causes that packets show for a job whose agent has not spoken yet.
pub(super) fn of_job(app: &App, machine: &Machine) -> Vec<CauseView> {
    let early = |job: &&kaltstart_core::machine::Job| !job.state.ended() && job.phase <= Phase::Kernel;
    if machine.job.as_ref().filter(early).is_none() {
        return Vec::new();
    }
    let node = &machine.node;
    let causes = app.diagnose(&node.macs, Some(machine)).causes;
    causes.into_iter().map(|cause| view(cause, &node.name, node.macs.first().copied())).collect()
}

fn view(cause: Cause, node: &str, mac: Option<Mac>) -> CauseView {
    let Cause { code, likelihood, proof } = cause;
    CauseView {
        code,
        title: code.title().into(),
        likelihood,
        proof,
        next: code.next().into(),
        commands: why::commands(code, node, mac),
    }
}
