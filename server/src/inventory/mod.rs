//! Nodes as other programs want them: pure, from what lists of nodes tell to text.
//!
//! What was written freely, by a person (the reason of a lock) or by hardware, is only in the table for people: the
//! other programs may take such text for code.

pub(crate) mod ansible;
pub(crate) mod csv;
mod names;
pub(crate) mod prometheus;
pub(crate) mod puppet;
pub(crate) mod telegraf;

use crate::summary::NodeSummary;
use kaltstart_core::about::{LabelValue, Word};
use kaltstart_core::class::Class;
use kaltstart_core::machine::State;
use kaltstart_protocol::ids::{Mac, NodeId};
use serde::Serialize;
use std::collections::BTreeMap;

/// What configuration management is told of a node: words that need no quoting in any language.
#[derive(Debug, Serialize)]
struct Told<'a> {
    kaltstart_id: &'a NodeId,
    kaltstart_state: &'static str,
    kaltstart_team: Option<&'a Word>,
    kaltstart_role: Option<&'a Word>,
    kaltstart_site: Option<&'a Word>,
    kaltstart_rack: Option<&'a Word>,
    kaltstart_position: Option<u16>,
    kaltstart_class: Option<Word>,
    kaltstart_labels: &'a BTreeMap<Word, LabelValue>,
    kaltstart_macs: &'a [Mac],
    kaltstart_locked: bool,
}

impl<'a> Told<'a> {
    fn of(node: &'a NodeSummary, classes: &[Class]) -> Self {
        let about = &node.about;
        Self {
            kaltstart_id: &node.id,
            kaltstart_state: node.state.name(),
            kaltstart_team: about.team.as_ref(),
            kaltstart_role: about.role.as_ref(),
            kaltstart_site: about.site.as_ref(),
            kaltstart_rack: about.rack.as_ref(),
            kaltstart_position: about.position,
            kaltstart_class: class(node, classes),
            kaltstart_labels: &about.labels,
            kaltstart_macs: &node.macs,
            kaltstart_locked: node.lock.is_some(),
        }
    }
}

/// The name of a node's class where that is a word: the configuration may have any text.
fn class(node: &NodeSummary, classes: &[Class]) -> Option<Word> {
    node.class(classes)?.name.parse().ok()
}

/// A node's labels, each alone or with its value.
fn labels(node: &NodeSummary) -> impl Iterator<Item = String> {
    node.about.labels.iter().map(|(label, value)| match value.as_str() {
        "" => label.to_string(),
        value => format!("{label}={value}"),
    })
}

/// Whether a node is one of ours: not retired, and accepted if nobody declared it.
const fn is_ours(state: State) -> bool {
    !matches!(state, State::Discovered | State::Retired)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Hardware;
    use kaltstart_core::about::{About, Lock};
    use kaltstart_protocol::time::Millis;

    pub(super) fn word(text: &str) -> Word {
        text.parse().expect("a word")
    }

    /// A deployed node with an address, a site and that label.
    pub(super) fn node(name: &str, site: &str, (label, value): (&str, &str)) -> NodeSummary {
        let labels = BTreeMap::from([(word(label), value.parse().expect("a value"))]);
        NodeSummary {
            id: "node_00000000000000000000000000".parse().expect("an identifier"),
            name: name.into(),
            state: State::Deployed,
            headline: "deployed".into(),
            macs: vec![Mac([2, 0, 0, 0, 0, 7])],
            address: Some([10, 0, 0, 9].into()),
            reservation: None,
            job: None,
            last_job: None,
            last_seen: Some(Millis(0)),
            about: About {
                team: Some(word("payments")),
                role: Some(word("web-server")),
                site: Some(word(site)),
                rack: Some(word("A12")),
                position: Some(14),
                labels,
            },
            team_since: None,
            lock: None,
            hardware: None,
        }
    }

    /// A node of which everything is hostile that a person or a machine may write freely.
    pub(super) fn hostile(text: &str) -> NodeSummary {
        let lock = Lock { reason: text.into(), by: "oncall".into(), at: Millis(0), team: None };
        let hardware = Hardware { vendor: text.into(), product: text.into(), serial: text.into() };
        NodeSummary {
            headline: text.into(),
            lock: Some(lock),
            hardware: Some(hardware),
            ..node("n1", "fra1", ("env", "prod"))
        }
    }
}
