//! A server that goes on from a restored copy only observes, until somebody has compared the copy with the fleet.

use crate::machine::{Node, Order, State};
use crate::wipe;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use kaltstart_protocol::agent_api::Mode;
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::ids::{JobId, Mac, NodeId};
use kaltstart_protocol::select::describe;
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};

/// A copy that was put in the database's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Since when the database is known to be a copy: the server's epoch.
    pub since: Millis,
    /// When the newest event or lease in it was stored; 0 if there is none.
    pub copied: Millis,
    /// Who has compared it with the fleet; as long as nobody has, the server only observes.
    #[serde(default)]
    pub accepted: Option<Accepted>,
}

/// Somebody has compared a copy with the fleet, and takes it as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// When.
    pub at: Millis,
    /// Who.
    pub by: String,
    /// How many differences were known.
    pub differences: u64,
    /// How many nodes had not been heard of.
    pub not_heard: u64,
}

/// Whether `order` may be carried out by a server that only observes. What writes to disks may not; nor may a burn-in,
/// as a machine that the copy has as free may be somebody's by now. A rescue that writes to nothing is how a person
/// looks at a machine.
#[must_use]
pub fn permits(order: &Order) -> bool {
    match order {
        Order::Rescue(rescue) => rescue.writable.is_empty(),
        Order::System(_) | Order::Release(_) | Order::BurnIn(_) => false,
    }
}

/// In what the fleet and the copy differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A machine that the copy does not know wants to boot.
    Machine,
    /// An agent was started for, or works on, what the copy does not know or has otherwise.
    Agent,
    /// An installed system runs that the copy does not know.
    System,
    /// Disks hold what the copy does not know.
    Disks,
    /// A client uses an address that it does not have by the copy.
    Address,
}

impl Kind {
    /// The word in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Agent => "agent",
            Self::System => "system",
            Self::Disks => "disks",
            Self::Address => "address",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Characters of what is said that are kept.
pub const DETAIL_CHARS_MAX: usize = 1000;

/// Something that the fleet says and the copy does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// In what.
    pub kind: Kind,
    /// The node it is about, if the copy knows it.
    pub node: Option<NodeId>,
    /// The hardware address of the machine, if that is known.
    pub mac: Option<Mac>,
    /// The address that it has or speaks from.
    pub address: Option<IpAddr>,
    /// The job that it names.
    pub job: Option<JobId>,
    /// What it says, and what the copy has instead. Claimed by whoever says it: text, never trusted.
    pub detail: String,
    /// When it was told.
    pub at: Millis,
}

impl Difference {
    /// What it is about, as text: what is said of the same later takes its place.
    #[must_use]
    pub fn subject(&self) -> String {
        let node = self.node.as_ref().map(ToString::to_string);
        let mac = || self.mac.map(|mac| mac.to_string());
        let address = || self.address.map(|address| address.to_string());
        let who = node.or_else(mac).or_else(address).unwrap_or_default();
        match (self.kind, self.address) {
            (Kind::Address, Some(address)) => format!("{} {who} {address}", self.kind),
            _ => format!("{} {who}", self.kind),
        }
    }

    /// Whether it says nothing but what `other` has said before.
    #[must_use]
    pub fn repeats(&self, other: &Self) -> bool {
        *self == Self { at: self.at, ..other.clone() }
    }
}

/// Whether the node was heard of since the copy was restored.
#[must_use]
pub fn is_heard(node: &Node, restored: &Restored) -> bool {
    // A clock that was set back leaves what the copy has in the future.
    node.last_seen.is_some_and(|last| last >= restored.since.max(restored.copied))
}

/// Whether a system that runs on the node is news: by the copy none was installed.
#[must_use]
pub fn has_no_system(node: &Node) -> bool {
    node.declared && node.system.is_none() && node.job.is_none()
}

/// Whether the machine, whose agent only looks, shall start again from its own disk: it holds something, perhaps a
/// system that was installed since the copy was made, and it was looked at.
#[must_use]
pub fn goes_on(node: &Node) -> bool {
    let looks = node.session.as_ref().is_some_and(|session| session.mode == Mode::Discover);
    let holds = |disk: &Disk| disk.holds.as_ref().is_none_or(|contents| !contents.is_blank());
    looks && node.facts.iter().flat_map(|facts| &facts.disks).any(holds)
}

/// In what `node`, as it is stored, differs from what the copy had of it.
#[must_use]
pub fn shown(node: &Node, restored: &Restored) -> Option<Difference> {
    if node.state == State::Retired {
        return None;
    }
    // Identifiers begin with the time at which they were made.
    let is_new = !node.declared && node.id >= NodeId::new(restored.since, 0);
    let looked_at = node.facts.as_ref().filter(|_| node.facts_at.is_some_and(|at| at >= restored.since));
    let foreign = |disk: &Disk| {
        let contents = disk.holds.as_ref()?;
        (!wipe::is_own(node, contents)).then(|| format!("{} holds {contents}", describe(disk)))
    };
    let disks = looked_at.into_iter().flat_map(|facts| &facts.disks).filter_map(foreign);
    let disks = disks.collect::<Vec<_>>().join("; ");
    let (kind, detail) = match (is_new, disks.is_empty()) {
        (true, true) => (Kind::Machine, "it wants to boot, and the copy does not know it".into()),
        (true, false) => (Kind::Machine, format!("it wants to boot, and the copy does not know it; {disks}")),
        (false, false) => (Kind::Disks, format!("{disks}, which the copy does not know as its own")),
        (false, true) => return None,
    };
    Some(Difference {
        kind,
        node: Some(node.id.clone()),
        mac: node.macs.first().copied(),
        address: node.address,
        job: None,
        detail: detail.chars().take(DETAIL_CHARS_MAX).collect(),
        at: node.facts_at.filter(|_| !disks.is_empty()).or(node.last_seen).unwrap_or(restored.since),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::event::Event;
    use crate::lifecycle::table::{MAC, apply, grant, hello, idle, job, system_order};
    use crate::machine::{JobKind, Machine, RescueOrder};
    use alloc::vec;
    use kaltstart_protocol::agent_api::DiskUuids;
    use kaltstart_protocol::contents::{Area, Contents};
    use kaltstart_protocol::facts::Facts;

    const RESTORED: Restored = Restored { since: Millis(1_000), copied: Millis(900), accepted: None };

    fn holding(areas: Vec<Area>) -> Option<Facts> {
        let disk = Disk { serial: "S1".into(), holds: Some(Contents::new(areas)), ..Disk::default() };
        Some(Facts { disks: vec![disk], ..Facts::default() })
    }

    fn table(id: &str) -> Vec<Area> {
        vec![Area { partition: None, kind: "gpt".into(), id: id.into(), label: String::new() }]
    }

    #[test]
    fn p08_who_only_observes_carries_out_no_order_but_to_look() {
        for kind in [JobKind::Deploy, JobKind::Rebuild, JobKind::Release, JobKind::BurnIn] {
            assert!(!permits(&job(kind).order), "{kind:?}");
        }
        assert!(permits(&job(JobKind::Rescue).order));
        let writes = RescueOrder { writable: vec!["S1".into()], ..RescueOrder::default() };
        assert!(!permits(&Order::Rescue(writes)));
    }

    #[test]
    fn p08_what_a_machine_shows_is_compared_with_the_copy() {
        let mut node = idle(State::Deployed).node;
        node.own = vec![DiskUuids { disk: "own".into(), ..system_order().uuids }];
        (node.facts, node.facts_at) = (holding(table("other")), Some(Millis(999)));
        assert_eq!(shown(&node, &RESTORED), None, "the copy knows that");
        node.facts_at = Some(Millis(1_000));
        let found = shown(&node, &RESTORED).expect("a difference");
        assert_eq!((found.kind, found.node.as_ref()), (Kind::Disks, Some(&node.id)));
        assert!(found.detail.contains("S1") && found.detail.contains("gpt"), "{}", found.detail);
        for known in [table("own"), vec![]] {
            node.facts = holding(known);
            assert_eq!(shown(&node, &RESTORED), None);
        }
        let mut newcomer = Node::new(NodeId::new(Millis(1_001), 7), "node-1".into(), MAC, false);
        assert_eq!(shown(&newcomer, &RESTORED).map(|found| found.kind), Some(Kind::Machine));
        newcomer.declared = true;
        assert_eq!(shown(&newcomer, &RESTORED), None, "somebody declared it since");
        newcomer.declared = false;
        newcomer.state = State::Retired;
        assert_eq!(shown(&newcomer, &RESTORED), None, "somebody rejected it since");
    }

    #[test]
    fn p08_who_is_looked_at_goes_on_with_what_is_on_its_disk() {
        for (mode, holds, on) in [
            (Mode::Discover, table("other"), true),
            (Mode::Discover, vec![], false),
            (Mode::Rescue, table("other"), false),
        ] {
            let granted = Event::ScriptServed { grant: grant(mode, None) };
            let mut node = idle(State::Expected).node;
            if mode == Mode::Discover {
                node = apply(Machine { node, job: None }, &[granted, hello(mode)]).node;
            }
            node.facts = holding(holds);
            assert_eq!(goes_on(&node), on, "{mode:?}");
        }
    }

    #[test]
    fn of_the_same_subject_the_last_word_counts() {
        let said = |kind, address: u8, detail: &str, at| Difference {
            kind,
            node: None,
            mac: Some(MAC),
            address: Some(IpAddr::from([10, 0, 0, address])),
            job: None,
            detail: detail.into(),
            at: Millis(at),
        };
        let agent = said(Kind::Agent, 1, "image", 1);
        assert_eq!(agent.subject(), said(Kind::Agent, 2, "configure", 2).subject());
        assert_ne!(agent.subject(), said(Kind::System, 1, "image", 1).subject());
        assert_ne!(said(Kind::Address, 1, "", 1).subject(), said(Kind::Address, 2, "", 1).subject());
        assert!(said(Kind::Agent, 1, "image", 9).repeats(&agent));
        assert!(!said(Kind::Agent, 1, "configure", 9).repeats(&agent));
    }
}
