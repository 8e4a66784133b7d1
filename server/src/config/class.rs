//! `[[class]]`

use super::profile::disk_rule_problems;
use kaltstart_core::class;
use kaltstart_protocol::agent_api::DiskRule;
use serde::Deserialize;
use std::collections::BTreeMap;

/// `[[class]]`: what machines of a kind should be made of.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Name.
    name: String,
    /// Maker of its machines, exactly as SMBIOS has it.
    #[serde(default)]
    vendor: Option<String>,
    /// Model of its machines, exactly as SMBIOS has it.
    #[serde(default)]
    product: Option<String>,
    /// Its machines by name.
    #[serde(default)]
    nodes: Vec<String>,
    /// Memory in GiB.
    #[serde(default)]
    memory_gib: Option<u64>,
    /// Memory modules.
    #[serde(default)]
    modules: Option<usize>,
    /// Processors that are plugged in.
    #[serde(default)]
    sockets: Option<usize>,
    /// Cores of all processors together.
    #[serde(default)]
    cores: Option<u32>,
    /// Network interfaces.
    #[serde(default)]
    nics: Option<usize>,
    /// Oldest version of the firmware.
    #[serde(default)]
    firmware: Option<String>,
    /// Disks.
    #[serde(default)]
    disks: Vec<Disks>,
}

/// Disks of a kind.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Disks {
    count: usize,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    transport: Option<String>,
    #[serde(default)]
    rotational: Option<bool>,
    #[serde(default)]
    min_gib: Option<u64>,
    #[serde(default)]
    max_gib: Option<u64>,
}

impl Disks {
    fn rule(&self) -> DiskRule {
        DiskRule {
            model: self.model.clone(),
            transport: self.transport.clone(),
            rotational: self.rotational,
            min_gib: self.min_gib,
            max_gib: self.max_gib,
            ..DiskRule::default()
        }
    }
}

impl Class {
    /// As the decisions want it.
    pub(super) fn decided_upon(&self) -> class::Class {
        let group = |disks: &Disks| class::DiskGroup { count: disks.count, rule: disks.rule() };
        class::Class {
            name: self.name.clone(),
            vendor: self.vendor.clone(),
            product: self.product.clone(),
            nodes: self.nodes.clone(),
            memory_gib: self.memory_gib,
            modules: self.modules,
            sockets: self.sockets,
            cores: self.cores,
            nics: self.nics,
            firmware: self.firmware.clone(),
            disks: self.disks.iter().map(group).collect(),
        }
    }

    fn problems(&self, all: &mut Vec<String>) {
        let title = format!("class {:?}", self.name);
        if self.vendor.is_none() && self.product.is_none() && self.nodes.is_empty() {
            all.push(format!("{title}: it fits no machine: give vendor, product or nodes"));
        }
        if let Some(version) = self.firmware.as_ref().filter(|version| class::numbers(version).is_empty()) {
            all.push(format!("{title}: firmware {version:?} has no number that could be compared"));
        }
        for disks in &self.disks {
            disk_rule_problems(&format!("{title}: disks"), &disks.rule(), all);
        }
    }
}

/// What is wrong with classes, each by itself and all together.
pub(super) fn problems(classes: &[Class], all: &mut Vec<String>) {
    super::twice(all, "class.name", classes.iter().map(|class| class.name.clone()));
    let mut named = BTreeMap::new();
    for class in classes {
        class.problems(all);
        for node in &class.nodes {
            if let Some(other) = named.insert(node, &class.name) {
                all.push(format!("class {:?}: node {node:?} is in class {other:?} too", class.name));
            }
        }
    }
}
