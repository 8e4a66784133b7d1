//! `[[profile]]`

use super::authorized_key;
use crate::images::is_file_name;
use kaltstart_protocol::agent_api::DiskRule;
use kaltstart_protocol::facts::TRANSPORTS;
use kaltstart_protocol::restart::Restart;
use serde::Deserialize;

/// `[[profile]]`: what a machine shall become.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Name.
    pub name: String,
    /// Image, by name.
    pub image: String,
    /// Layout, by name.
    #[serde(default = "single")]
    pub layout: String,
    /// Which disk.
    #[serde(default)]
    pub disk: DiskRule,
    /// Lines of root's `authorized_keys`.
    #[serde(default)]
    pub authorized_keys: Vec<String>,
    /// How the installed system is started; an order may say otherwise.
    #[serde(default)]
    pub restart: Restart,
    /// Whether the installed system asks if a job calls it back.
    #[serde(default)]
    pub recall: bool,
}

fn single() -> String {
    "single".into()
}

impl Profile {
    pub(super) fn problems(&self, all: &mut Vec<String>) {
        disk_rule_problems(&format!("profile {:?}: disk", self.name), &self.disk, all);
        if !is_file_name(&self.image) {
            all.push(format!("profile {:?}: image {:?} is not an image name", self.name, self.image));
        }
        for (at, line) in self.authorized_keys.iter().enumerate() {
            if let Some(problem) = authorized_key::problem(line) {
                let (whose, number) = (&self.name, at + 1);
                all.push(format!("profile {whose:?}: authorized_keys: entry {number} {problem}"));
            }
        }
    }
}

/// Rules that no disk can fit; `title` names their section.
pub(super) fn disk_rule_problems(title: &str, rule: &DiskRule, all: &mut Vec<String>) {
    let DiskRule { serial, wwn, model, transport, min_gib, max_gib, path, .. } = rule;
    for (key, text) in [("serial", serial), ("wwn", wwn), ("model", model), ("path", path)] {
        if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
            all.push(format!(
                "{title}.{key} is empty; leave it out, or write what `ks node show` tells of the disk"
            ));
        }
    }
    if let Some(path) = path.as_ref().filter(|path| path.starts_with("/dev/")) {
        all.push(format!(
            "{title}.path {path:?} is a name that a disk has by chance at each start; write where it is plugged, \
             as `ks node show` tells it behind `at`, or its serial"
        ));
    }
    if let Some(transport) = transport.as_ref().filter(|text| !TRANSPORTS.contains(&text.as_str())) {
        let known = TRANSPORTS.join(", ");
        all.push(format!("{title}.transport {transport:?} is none of {known}"));
    }
    if min_gib.zip(*max_gib).is_some_and(|(min, max)| min > max) {
        all.push(format!("{title}.min_gib is above {title}.max_gib"));
    }
}
