//! `/v1`: what a machine would be given at each door, and what it was given. Nothing is granted
//! and nothing changes.

use super::api;
use super::error::Problem;
use super::extract::{Path, Query};
use crate::app::{App, AppError};
use axum::Json;
use axum::extract::State;
use kaltstart_core::boot::{self, Door, File, Offer, Served, UefiLoader, served};
use kaltstart_core::dhcp::Known;
use kaltstart_core::dhcp::client::Architecture;
use kaltstart_core::machine::{Machine, Node, State as NodeState};
use kaltstart_core::trace::{Exchange, Exchange6, Sighting, What};
use kaltstart_protocol::ids::{Mac, NodeId};
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What would be given.
#[derive(Debug, Serialize, Deserialize)]
pub struct Trial {
    /// The interface that would ask.
    pub mac: Mac,
    /// Its node; none when nobody knows it.
    pub node: Option<String>,
    /// What the node is.
    pub state: Option<NodeState>,
    /// What the machine may start.
    pub decision: String,
    /// Why that.
    pub why: String,
    /// Its processor and firmware: as asked for, or as it was last seen, or x86-64 with UEFI.
    pub architecture: String,
    /// How it is started if it has UEFI.
    pub uefi_loader: UefiLoader,
    /// It gets its loader again and again, and nothing comes of it.
    pub looping: bool,
    /// What each door gives; those of DHCPv6 only where it is served.
    pub doors: Vec<DoorTrial>,
}

/// What one door would give.
#[derive(Debug, Serialize, Deserialize)]
pub struct DoorTrial {
    /// The door and what is asked for.
    pub door: String,
    /// What it gives.
    pub gives: String,
    /// What is wrong with it, as a file that is not there or cannot be read.
    pub problem: Option<String>,
}

/// What may be asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    arch: Option<String>,
    loader: Option<UefiLoader>,
}

/// `GET /v1/boot/{node}?arch=&loader=`: what that machine would be given now. The node may be a
/// hardware address that nobody knows.
pub(super) async fn try_boot(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Json<Trial>, Problem> {
    let found = api::find(&app, &node).ok();
    let named = node.parse::<Mac>().ok();
    let mac = named.or_else(|| found.as_ref()?.node.macs.first().copied());
    let mac =
        mac.ok_or_else(|| Problem::not_found(format!("there is no node {node:?}, and it is no MAC")))?;
    let architecture = match &asked.arch {
        Some(text) => text.parse().map_err(|error| Problem::bad_request(format!("arch: {error}")))?,
        None => last_architecture(&app.trace.of(&[mac])).unwrap_or(Architecture::UefiX64),
    };
    Ok(Json(trial(&app, found, mac, architecture, asked.loader)))
}

/// The processor and firmware that the machine's firmware or loader named last.
fn last_architecture(sightings: &[Sighting]) -> Option<Architecture> {
    sightings.iter().rev().find_map(|sighting| match &sighting.what {
        What::Dhcp(Exchange { client, .. }) | What::Dhcp6(Exchange6 { client, .. }) if client.boots() => {
            Some(client.architecture)
        }
        _ => None,
    })
}

fn trial(
    app: &App,
    found: Option<Machine>,
    mac: Mac,
    architecture: Architecture,
    loader: Option<UefiLoader>,
) -> Trial {
    let (node, state) = found.as_ref().map(|it| (it.node.name.clone(), it.node.state)).unzip();
    // Recorded at its first packet, if unknown ones are.
    let stranger = || Node::new(NodeId::new(Millis(0), 0), String::new(), mac, false);
    let machine = found.or_else(|| app.records_unknown().then(|| Machine { node: stranger(), job: None }));
    let (decision, why) = machine.as_ref().map(boot::judge).unzip();
    let mut known = app.in_this_site(machine.as_ref().map_or(Known::STRANGER, Known::of), mac);
    known.uefi_loader = loader.or(known.uefi_loader);
    let policy = known.policy();
    let is_open = |door: &Door| !matches!(door, Door::Dhcp6(_)) || !app.config.dhcp6.is_empty();
    let doors = boot::doors(architecture, mac).into_iter().filter(is_open).map(|door| {
        let gives = boot::offer(decision.as_ref(), policy, door);
        DoorTrial { door: door.to_string(), gives: gives.to_string(), problem: problem(app, door, gives) }
    });
    Trial {
        mac,
        node,
        state,
        decision: match &decision {
            Some(decision) => decision.name().into(),
            None => "local".into(),
        },
        why: why.unwrap_or("nobody knows it, and unknown machines are not recorded").into(),
        architecture: architecture.to_string(),
        uefi_loader: policy.uefi,
        looping: policy.looping,
        doors: doors.collect(),
    }
}

/// What is wrong with what a door gives: the file that is missing or cannot be read.
fn problem(app: &App, door: Door, gives: Offer) -> Option<String> {
    let boot = &app.config.boot;
    let (file, gives) = match (gives, door) {
        (Offer::NameByTftp(loader) | Offer::UrlOfLoader(loader), _) => (File::Loader(loader), Offer::File),
        (_, Door::Tftp(file) | Door::Http(file)) => (file, gives),
        (_, Door::Dhcp(_) | Door::Dhcp6(_)) => return None,
    };
    let (path, key) = (boot.path(file, gives)?, file.key()?);
    // Opened, since one that is there may still not be readable for the server's user.
    std::fs::File::open(&path).err().map(|error| format!("{key}: {}: {error}", path.display()))
}

/// `GET /v1/nodes/{node}/boot`: what that machine was given last at each door.
pub(super) async fn shown(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
) -> Result<Json<Vec<Served>>, Problem> {
    let macs = match (api::find(&app, &node), node.parse::<Mac>()) {
        (Ok(machine), _) => machine.node.macs,
        (Err(_), Ok(mac)) => vec![mac],
        (Err(unknown), Err(_)) => return Err(unknown),
    };
    let shown = served(&app.trace.of(&macs));
    if shown.is_empty() && api::find(&app, &node).is_err() {
        return Err(AppError::NotFound(format!("nothing was seen of {node}")).into());
    }
    Ok(Json(shown))
}
