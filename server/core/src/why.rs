//! Why a machine does not start: causes, each with its likelihood, its proof and what to do next,
//! concluded from what the doors saw before any agent ran, and from what its last job and its node tell.
//!
//! [`why`] divides the past into [`Boot`]s, lets every rule look at the newest one (and those
//! before it), and ranks what they find with what is known without packets. A rule never guesses from silence alone what a packet
//! could show: without proof there is no cause, and the answer says what is going on instead.

mod boot;
mod dhcp;
mod dhcp6;
mod fetch;
mod known;
mod loader;
mod now;
mod start;
#[cfg(test)]
mod tests;

pub use boot::{Boot, boots};
pub use loader::{HEADER_BYTES, Loader};

use crate::boot::decide;
use crate::dhcp::subnet::Network;
use crate::dhcp6::subnet::Prefix;
use crate::machine::Machine;
use crate::trace::Sighting;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};

/// Facts about the site that packets do not tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Networks in which addresses are given out.
    pub networks: Vec<Network>,
    /// The same by DHCPv6.
    pub prefixes: Vec<Prefix>,
    /// The loaders there are, by file name.
    pub loaders: BTreeMap<String, Loader>,
    /// Addresses of the pools that hosts unknown here answered for; counted where a pool was used up.
    pub in_use: u32,
}

/// How sure a cause is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Likelihood {
    /// It fits, as other causes would.
    Low,
    /// It fits better than others.
    Medium,
    /// The packets show it.
    High,
}

impl Likelihood {
    /// The name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// A packet or the lack of one, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// When.
    pub at: Millis,
    /// What was seen.
    pub text: String,
}

/// Why a machine may not start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Which problem.
    pub code: Code,
    /// How sure it is.
    pub likelihood: Likelihood,
    /// What shows it, oldest first.
    pub proof: Vec<Proof>,
}

impl Cause {
    fn new(code: Code, likelihood: Likelihood) -> Self {
        Self { code, likelihood, proof: Vec::new() }
    }

    /// Adds what shows it.
    fn seen(mut self, at: Millis, text: impl Into<String>) -> Self {
        self.proof.push(Proof { at, text: text.into() });
        self
    }

    /// The same as a finding of a job: the proof in one line.
    #[must_use]
    pub fn finding(&self) -> Finding {
        let texts: Vec<&str> = self.proof.iter().map(|proof| proof.text.as_str()).collect();
        Finding::new(self.code, texts.join("; "))
    }
}

/// What is wrong with a machine's start, or what is going on instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Likeliest first; empty when nothing is wrong.
    pub causes: Vec<Cause>,
    /// What was seen last, in words.
    pub now: Proof,
    /// What has worked in this start.
    pub ruled_out: Vec<String>,
}

/// All that a rule looks at.
#[derive(Clone, Copy)]
struct Case<'a> {
    /// The starts that are remembered, oldest first; the last is the one in question.
    boots: &'a [Boot<'a>],
    boot: Boot<'a>,
    machine: Option<&'a Machine>,
    site: &'a Site,
    now: Millis,
}

impl Case<'_> {
    /// Whether the machine is to start from its own disk.
    fn is_local(&self) -> bool {
        self.machine.is_some_and(|machine| !decide(machine).is_network())
    }
}

type Rule = fn(&Case<'_>) -> Option<Cause>;

/// The rules; of equally likely causes the one named first is the more precise one.
const RULES: &[Rule] = &[
    dhcp::unknown_network,
    dhcp6::unknown_network,
    dhcp::lease_not_stored,
    dhcp::subnet_not_served,
    dhcp::leases_restored,
    dhcp::pool_exhausted,
    dhcp6::pool_exhausted,
    dhcp::address_conflict,
    dhcp::foreign_server,
    dhcp::proxy_ignored,
    dhcp::offer_not_requested,
    dhcp::no_address_server,
    start::wrong_architecture,
    fetch::boot_file_missing,
    fetch::path_mtu,
    fetch::packet_loss,
    fetch::transfer_stopped,
    fetch::http_aborted,
    start::secure_boot_refused,
    start::loader_silent,
    start::kernel_silent,
    start::disk_not_bootable,
    fetch::no_boot_file,
    start::boot_loop,
    dhcp::link_flaps,
    dhcp::link_delay,
    dhcp::no_dhcp,
];

/// Concludes from `trace`, oldest first, why the machine does not start.
#[must_use]
pub fn why(trace: &[Sighting], machine: Option<&Machine>, site: &Site, now: Millis) -> Diagnosis {
    let boots = boots(trace);
    let boot = boots.last().copied().unwrap_or_default();
    let case = Case { boots: &boots, boot, machine, site, now };
    let seen: Vec<Cause> = RULES.iter().filter_map(|rule| rule(&case)).collect();
    // Where packets show what a job has failed with, they are the proof.
    let mut causes = known::causes(&case);
    causes.retain(|known| seen.iter().all(|cause| cause.code != known.code));
    causes.extend(seen);
    // Stable: among equals the order of the rules decides.
    causes.sort_by_key(|cause| core::cmp::Reverse(cause.likelihood));
    Diagnosis { causes, now: now::in_words(&case), ruled_out: now::worked(&case) }
}

/// Commands that tell more, or end the problem; `node` is how the operator named the machine.
#[must_use]
pub fn commands(code: Code, node: &str, mac: Option<Mac>) -> Vec<String> {
    let mut all = Vec::new();
    let mac = mac.map_or_else(|| node.to_string(), |mac| mac.to_string());
    match code {
        Code::NoDhcp | Code::LinkDelay | Code::OfferNotRequested | Code::ForeignServer => {
            all.push(alloc::format!("tcpdump -eni any 'ether host {mac} and (port 67 or port 68)'"));
        }
        Code::PathMtu | Code::PacketLoss | Code::TransferStopped => {
            all.push(alloc::format!("tcpdump -eni any 'ether host {mac} and udp'"));
        }
        Code::SubnetNotServed | Code::NoAddressServer => all.push("ks dhcp status".into()),
        Code::LeaseNotStored => all.push("df -h".into()),
        Code::DiskNotBootable => all.push(alloc::format!("ks node show {node}")),
        _ => {}
    }
    all.push(alloc::format!("ks explain {code}"));
    all
}
