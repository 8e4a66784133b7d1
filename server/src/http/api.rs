//! `/v1`: nodes for people and portals, and the JSON they are shown as.

use super::actor::By;
use super::error::Problem;
use super::extract::{Body, Path};
use super::guard::permit;
use super::node_about::entity_tag;
use crate::app::App;
use crate::config::{self, is_host_name};
use crate::store::Key;
use crate::summary::NodeSummary;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use kaltstart_core::about::Edit;
use kaltstart_core::access::{Permission, Principal};
use kaltstart_core::approval::{self, Approval};
use kaltstart_core::audit::Actor;
use kaltstart_core::boot::UefiLoader;
use kaltstart_core::class;
use kaltstart_core::hardware;
use kaltstart_core::lifecycle::event::{Event, Move};
use kaltstart_core::machine::{ErasureRecord, Machine, Node, System};
use kaltstart_core::trace::What;
use kaltstart_protocol::facts::{Disk, Facts};
use kaltstart_protocol::finding::Finding;
use kaltstart_protocol::ids::{Fingerprint, Mac, NodeId};
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// A node as clients see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeView {
    /// What lists tell of it too.
    #[serde(flatten)]
    pub summary: NodeSummary,
    /// What the agent saw last.
    pub facts: Option<Facts>,
    /// When that was.
    #[serde(default)]
    pub facts_at: Option<Millis>,
    /// What became of its disks since then, so that they no longer hold what is told of them.
    #[serde(default)]
    pub changed_since: Option<DisksChanged>,
    /// Its class of machines, if it has one.
    #[serde(default)]
    pub class: Option<String>,
    /// What is wrong with its hardware, or keeps its disks closed, and what to do.
    #[serde(default)]
    pub findings: Vec<FindingView>,
    /// Fingerprint of what lies on each disk, by the disk's identity; of disks that could be read.
    #[serde(default)]
    pub fingerprints: BTreeMap<String, Fingerprint>,
    /// What the installed system told.
    pub report: Option<System>,
    /// Whether that system asks if a job calls it back.
    #[serde(default)]
    pub recall: bool,
    /// How its disks were erased when it was released last.
    #[serde(default)]
    pub erasure: Option<ErasureRecord>,
    /// What somebody agreed to that somebody else orders, if it was not ordered yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
}

/// What became of a node's disks after its agent had looked at them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisksChanged {
    /// What it was.
    pub by: Change,
    /// When it was told.
    pub at: Millis,
}

/// What a job does to disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A system was laid down.
    Installed,
    /// They were erased.
    Erased,
}

/// The newest change of the node's disks that its facts do not show.
fn changed_since(node: &Node) -> Option<DisksChanged> {
    let facts_at = node.facts_at?;
    let installed = node.system.as_ref().map(|system| (Change::Installed, system.reported_at));
    let erased = node.erasure.as_ref().map(|record| (Change::Erased, record.at));
    let changes = [installed, erased].into_iter().flatten().map(|(by, at)| DisksChanged { by, at });
    changes.filter(|change| change.at > facts_at).max_by_key(|change| change.at)
}

/// A finding with its words.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindingView {
    /// Code and proof.
    #[serde(flatten)]
    pub finding: Finding,
    /// What the code means.
    pub title: String,
    /// What to do next.
    pub next: String,
}

impl From<Finding> for FindingView {
    fn from(finding: Finding) -> Self {
        Self { title: finding.code.title().into(), next: finding.code.next().into(), finding }
    }
}

pub(super) fn node_view(app: &App, machine: &Machine) -> NodeView {
    let node = &machine.node;
    let facts = node.facts.as_ref();
    let summary = NodeSummary::of(machine);
    let class = summary.class(&app.config.classes);
    let differs = class.zip(facts).map_or_else(Vec::new, |(class, facts)| class::findings(class, facts));
    let locked = node.shut_out.as_ref().map(|locked| locked.finding.clone());
    let findings = hardware::findings(node).into_iter().chain(differs).chain(locked);
    NodeView {
        class: class.map(|class| class.name.clone()),
        summary,
        facts: node.facts.clone(),
        facts_at: node.facts_at,
        changed_since: changed_since(node),
        findings: findings.map(FindingView::from).collect(),
        fingerprints: node.facts.iter().flat_map(|facts| &facts.disks).filter_map(fingerprint).collect(),
        report: node.system.clone(),
        recall: node.recall.is_some(),
        erasure: node.erasure.clone(),
        approval: node.approval.clone(),
    }
}

fn fingerprint(disk: &Disk) -> Option<(String, Fingerprint)> {
    Some((disk.identity().to_owned(), disk.holds.as_ref()?.fingerprint()))
}

/// A point in time as RFC 3339 text.
#[must_use]
pub fn rfc3339(time: Millis) -> String {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(time.0).unwrap_or(i64::MAX))
        .unwrap_or(jiff::Timestamp::MAX);
    format!("{time:.3}")
}

/// The machine whose identifier, name or hardware address is `text`.
pub(super) fn find(app: &App, text: &str) -> Result<Machine, Problem> {
    app.store.named(text)?.map(|found| found.machine).ok_or_else(|| no_node(text))
}

/// Told of a node that is not there, also to those for whom it is not there.
pub(super) fn no_node(text: &str) -> Problem {
    Problem::not_found(format!("no node has the identifier, name or MAC {text:?}; `ks node list` shows all"))
}

/// Body of `POST /v1/nodes`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declare {
    /// Host name, one label.
    pub name: String,
    /// Hardware address of the interface it boots from.
    pub mac: Mac,
    /// Reserved address.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// How it is started if it has UEFI; left out: as the site says.
    #[serde(default)]
    pub uefi_loader: Option<UefiLoader>,
}

/// `POST /v1/nodes`
pub(super) async fn declare(
    State(app): State<Arc<App>>,
    By(actor): By,
    Body(Declare { name, mac, address, uefi_loader }): Body<Declare>,
) -> Result<Response, Problem> {
    if !is_host_name(&name) {
        return Err(Problem::bad_request(format!("name {name:?} is not a host name (letters, digits, -)")));
    }
    if !mac.is_individual() {
        return Err(Problem::bad_request(format!("mac {mac} {}", config::NO_INTERFACE)));
    }
    if let Some(Err(problem)) = address.map(|address| app.config.reservable(address)) {
        return Err(Problem::bad_request(format!("address {problem}")));
    }
    // A name is easily given to the wrong MAC, and would take the other node's reservation along.
    let wanted =
        config::Declaration { name, mac, address, uefi_loader, about: Edit::default(), renames: false };
    let machine = app.declare(&actor, &wanted).await?;
    let location = format!("/v1/nodes/{}", machine.node.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(node_view(&app, &machine))).into_response())
}

/// `GET /v1/nodes/{node}`
pub(super) async fn node(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
) -> Result<([(HeaderName, String); 1], Json<NodeView>), Problem> {
    let view = node_view(&app, &find(&app, &node)?);
    Ok(([(header::ETAG, entity_tag(&view))], Json(view)))
}

/// Body of `POST /v1/nodes/{node}/power`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Power {
    /// What somebody saw or did.
    pub observed: PowerState,
}

/// Whether a machine is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// It was switched on.
    On,
}

/// `POST /v1/nodes/{node}/power`: somebody pressed the button.
pub(super) async fn power(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
    By(actor): By,
    Body(Power { observed: PowerState::On }): Body<Power>,
) -> Result<Json<NodeView>, Problem> {
    let node = find(&app, &node)?.node;
    if let Some(mac) = node.macs.first() {
        app.trace.note(*mac, What::Power);
    }
    let id = node.id;
    apply(&app, &actor, &id, &Event::PowerSeen).await
}

/// `POST /v1/nodes/{node}/{accept|reject|break|repair|retire}`
pub(super) async fn move_node(
    State(app): State<Arc<App>>,
    Path((node, word)): Path<(String, String)>,
    Extension(who): Extension<Principal>,
    By(actor): By,
) -> Result<Json<NodeView>, Problem> {
    let wanted = Move::ALL
        .into_iter()
        .find(|wanted| wanted.name() == word)
        .ok_or_else(|| Problem::not_found(format!("a node knows no {word:?}")))?;
    let node = find(&app, &node)?.node;
    if wanted == Move::Retire && approval::is_critical(&node) {
        // Its hardware would be free for a node that is not critical.
        permit(&who, Permission::Administer)?;
    }
    apply(&app, &actor, &node.id, &Event::Operator(wanted)).await
}

/// Body of `POST /v1/nodes/{node}/board`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// SMBIOS UUID of the machine that the node's system was refused its key on.
    pub uuid: String,
}

/// `POST /v1/nodes/{node}/board`: the machine with that UUID is the node with another board, and is given its key.
pub(super) async fn accept_board(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
    By(actor): By,
    Body(Board { uuid }): Body<Board>,
) -> Result<Json<NodeView>, Problem> {
    let id = find(&app, &node)?.node.id;
    let event = Event::BoardAccepted { uuid, approver: actor.name.clone() };
    apply(&app, &actor, &id, &event).await
}

/// Lets something happen to a node on somebody's word; the node as it is then.
pub(super) async fn apply(
    app: &App,
    actor: &Actor,
    id: &NodeId,
    event: &Event,
) -> Result<Json<NodeView>, Problem> {
    let applied = app.apply_by(actor, Key::Id(id), |_| Ok(event.clone())).await?;
    Ok(Json(node_view(app, &applied.machine)))
}

/// A profile as clients see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProfileView {
    /// Name.
    pub name: String,
    /// Image.
    pub image: String,
    /// Layout.
    pub layout: String,
}

/// `GET /v1/profiles`
pub(super) async fn profiles(State(app): State<Arc<App>>) -> Json<Vec<ProfileView>> {
    let view = |profile: &config::Profile| ProfileView {
        name: profile.name.clone(),
        image: profile.image.clone(),
        layout: profile.layout.clone(),
    };
    Json(app.config.profile.iter().map(view).collect())
}

/// An image that is there and cannot be used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefusedImage {
    /// Its name.
    pub name: String,
    /// Why, and what to do.
    pub problem: String,
}

/// `GET /v1/images/refused`
pub(super) async fn refused_images(State(app): State<Arc<App>>) -> Json<Vec<RefusedImage>> {
    let refused = app.images.refused().into_iter();
    Json(refused.map(|(name, error)| RefusedImage { name, problem: error.to_string() }).collect())
}

/// `GET /v1/images`
pub(super) async fn images(State(app): State<Arc<App>>) -> Json<Vec<kaltstart_protocol::image::Manifest>> {
    Json(app.images.all())
}
