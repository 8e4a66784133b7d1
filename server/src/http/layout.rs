//! `/v1`: which layouts there are, and what one would make of a node's disks. Nothing is changed.

use super::api::{self, FindingView};
use super::error::Problem;
use super::extract::{Path, Query};
use crate::app::{App, AppError};
use axum::Json;
use axum::extract::State;
use kaltstart_core::placement::place;
use kaltstart_protocol::agent_api::DiskRule;
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::layout::array::Array;
use kaltstart_protocol::layout::plan::{Plan, smallest_disk};
use kaltstart_protocol::layout::{FileSystem, Layout, Role, Subvolume};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A layout in a list.
#[derive(Debug, Serialize, Deserialize)]
pub struct LayoutView {
    /// Name.
    pub name: String,
    /// Where it comes from.
    pub origin: Origin,
    /// How many partitions it has.
    pub partitions: usize,
    /// Smallest disk, in bytes, that it fits on.
    pub min_disk: u64,
}

/// Where a layout comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It comes with the server.
    BuiltIn,
    /// It stands in the configuration.
    Configuration,
}

/// What a layout would make of a node's disks.
#[derive(Debug, Serialize, Deserialize)]
pub struct LayoutTrial {
    /// The node's name.
    pub node: String,
    /// The layout's name.
    pub layout: String,
    /// The profile whose disk rule and image were taken; none: any disk fits, and no image is asked.
    pub profile: Option<String>,
    /// The disks, as the node's agent saw them last; none when not exactly as many as the layout wants can be
    /// chosen.
    pub disks: Vec<Disk>,
    /// What the partitions of several disks are to each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<Array>,
    /// What would lie on each of them, in the order on the disk; empty when there is a finding.
    pub partitions: Vec<PlacedPartition>,
    /// The finding with which a job would fail.
    pub finding: Option<FindingView>,
}

/// A partition with its place.
#[derive(Debug, Serialize, Deserialize)]
pub struct PlacedPartition {
    /// Number in the table, from 1; logical volumes, which are in none, go on counting.
    pub number: u32,
    /// Name in the table.
    pub label: String,
    /// What it is for.
    pub role: Role,
    /// The group that it is a logical volume of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Where the installed system mounts it, if it does.
    pub mount: Option<String>,
    /// Whether it is encrypted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encrypted: bool,
    /// Its file system; left out where it is the role's own, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_system: Option<FileSystem>,
    /// The layout's mount options.
    pub options: Vec<String>,
    /// Subvolumes of its btrfs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subvolumes: Vec<Subvolume>,
    /// First byte on the disk; of a logical volume in what its group lies on.
    pub start: u64,
    /// Bytes on the disk.
    pub size: u64,
    /// Bytes of the array that it is a member of, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array_size: Option<u64>,
}

/// `GET /v1/layouts`
pub(super) async fn layouts(State(app): State<Arc<App>>) -> Json<Vec<LayoutView>> {
    let view = |layout: &Layout| LayoutView {
        name: layout.name.clone(),
        origin: if app.config.owns_layout(&layout.name) { Origin::Configuration } else { Origin::BuiltIn },
        partitions: layout.partitions.len(),
        min_disk: smallest_disk(layout),
    };
    Json(app.config.layouts.values().map(view).collect())
}

/// `GET /v1/layouts/{layout}`
pub(super) async fn layout(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<Layout>, Problem> {
    Ok(Json(app.layout(&name)?.clone()))
}

/// What may be asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    layout: Option<String>,
    profile: Option<String>,
}

/// `GET /v1/nodes/{node}/layout?layout=&profile=`: where that layout, else that of the profile, would lie
/// on the node's disks.
pub(super) async fn try_layout(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Json<LayoutTrial>, Problem> {
    let node = api::find(&app, &node)?.node;
    let (profile, image) = asked.profile.as_deref().map(|name| app.profile(name)).transpose()?.unzip();
    let name = asked.layout.as_deref().or(profile.map(|profile| profile.layout.as_str()));
    let name = name.ok_or_else(|| {
        Problem::bad_request(
            "name a layout, a profile or both, as ?layout=NAME&profile=NAME; `ks layout list` shows layouts",
        )
    })?;
    let layout = app.layout(name)?;
    let facts = node.facts.ok_or_else(|| {
        AppError::Refused(format!(
            "the hardware of {} is not known yet: start it over the network, and it is looked at",
            node.name
        ))
    })?;
    let rule = profile.map_or_else(DiskRule::default, |profile| profile.disk.clone());
    let placement = place(&facts, &rule, layout, image.as_ref());
    let (partitions, finding) = match placement.plan {
        Ok(plan) => (placed(&plan), None),
        Err(finding) => (Vec::new(), Some(finding.into())),
    };
    Ok(Json(LayoutTrial {
        node: node.name,
        layout: layout.name.clone(),
        profile: asked.profile,
        disks: placement.disks.into_iter().cloned().collect(),
        array: layout.array,
        partitions,
        finding,
    }))
}

fn placed(plan: &Plan) -> Vec<PlacedPartition> {
    let placed = plan.partitions.iter().map(|planned| PlacedPartition {
        number: planned.number,
        label: planned.label.clone(),
        role: planned.role,
        group: planned.group.clone(),
        mount: planned.mount.clone(),
        encrypted: planned.encrypted,
        file_system: planned.file_system,
        options: planned.options.clone(),
        subvolumes: planned.subvolumes.clone(),
        start: planned.first * plan.sector_size,
        size: planned.sectors * plan.sector_size,
        array_size: plan.array_of(planned).map(|_| plan.room(planned)),
    });
    placed.collect()
}
