//! What DHCP must know of machines, in memory: a packet shall not wait for the database.
//!
//! The index follows the commits: a change is in it before its caller hears that it is durable.

use super::Store;
use crate::summary::NodeSummary;
use kaltstart_core::dhcp::Known;
use kaltstart_core::lifecycle::HEARD_EVERY_MS;
use kaltstart_core::machine::{Machine, State};
use kaltstart_core::observing::has_no_system;
use kaltstart_protocol::ids::{Mac, NodeId};
use kaltstart_protocol::time::Millis;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, PoisonError, RwLockReadGuard};

/// A machine in brief.
#[derive(Debug)]
pub struct Brief {
    /// What its addresses and boot file are decided by.
    pub known: Known,
    /// Whether somebody declared it.
    pub declared: bool,
    /// See [`has_no_system`].
    pub has_no_system: bool,
    /// The machine's version.
    version: i64,
    summary: Arc<NodeSummary>,
    /// By which it is found.
    macs: Box<[Mac]>,
    /// Whether a job is queued or running.
    works: bool,
}

impl Brief {
    fn of(machine: &Machine, version: i64) -> Self {
        let node = &machine.node;
        // Kept for the record; its name, addresses and hardware are free again.
        let retired = node.state == State::Retired;
        Self {
            known: if retired { Known::STRANGER } else { Known::of(machine) },
            declared: node.declared,
            has_no_system: has_no_system(node),
            version,
            macs: if retired { Box::default() } else { node.macs.clone().into() },
            summary: Arc::new(NodeSummary::of(machine)),
            works: machine.job.as_ref().is_some_and(|job| !job.state.ended()),
        }
    }

    /// Whether a sign of life at `now`, with the address that is given, may change what is stored
    /// of the machine. `lifecycle::step` has the last word.
    #[must_use]
    pub fn may_change(&self, address: Option<IpAddr>, now: Millis) -> bool {
        let NodeSummary { address: last_address, last_seen, .. } = &*self.summary;
        let lately = last_seen.is_some_and(|last| now.since(last) < HEARD_EVERY_MS);
        self.works || !lately || (address.is_some() && address != *last_address)
    }
}

/// All machines in brief.
#[derive(Debug, Default)]
pub struct Index {
    machines: HashMap<NodeId, Arc<Brief>>,
    by_mac: HashMap<Mac, Arc<Brief>>,
    reserved: Arc<BTreeSet<Ipv4Addr>>,
    undeclared: usize,
}

impl Index {
    /// The machine with that hardware address.
    #[must_use]
    pub fn get(&self, mac: Mac) -> Option<&Arc<Brief>> {
        self.by_mac.get(&mac)
    }

    /// What is listed of all machines, in no order.
    #[must_use]
    pub fn summaries(&self) -> Vec<Arc<NodeSummary>> {
        self.machines.values().map(|brief| brief.summary.clone()).collect()
    }

    /// What is listed of the machine with that identifier.
    #[must_use]
    pub fn summary(&self, id: &NodeId) -> Option<Arc<NodeSummary>> {
        self.machines.get(id).map(|brief| brief.summary.clone())
    }

    /// The addresses reserved for any machine.
    #[must_use]
    pub const fn reserved(&self) -> &Arc<BTreeSet<Ipv4Addr>> {
        &self.reserved
    }

    /// How many machines there are.
    #[must_use]
    pub fn machines(&self) -> usize {
        self.machines.len()
    }

    /// How many machines nobody declared.
    #[must_use]
    pub const fn undeclared(&self) -> usize {
        self.undeclared
    }

    /// Takes note of a machine, unless a newer version of it is known: what another server stored may be heard of
    /// later than what was stored here upon it.
    pub(super) fn put(&mut self, machine: &Machine, version: i64) {
        if self.machines.get(&machine.node.id).is_some_and(|known| known.version > version) {
            return;
        }
        let brief = Arc::new(Brief::of(machine, version));
        if let Some(before) = self.machines.insert(machine.node.id.clone(), brief.clone()) {
            self.undeclared -= usize::from(!before.declared);
            for mac in &before.macs {
                // Another machine may have it by now.
                if self.by_mac.get(mac).is_some_and(|found| Arc::ptr_eq(found, &before)) {
                    self.by_mac.remove(mac);
                }
            }
            if before.known.reservation != brief.known.reservation {
                before.known.reservation.map(|address| Arc::make_mut(&mut self.reserved).remove(&address));
            }
        }
        self.undeclared += usize::from(!brief.declared);
        if let Some(address) = brief.known.reservation.filter(|address| !self.reserved.contains(address)) {
            Arc::make_mut(&mut self.reserved).insert(address);
        }
        for mac in &brief.macs {
            self.by_mac.insert(*mac, brief.clone());
        }
    }
}

impl Store {
    /// All machines in brief, as the last commit left them.
    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }
}
