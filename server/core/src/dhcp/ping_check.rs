//! Whether a free address is looked for on the network before it is offered (RFC 2131 §2.2).

use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};

/// When free addresses are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PingCheck {
    /// Never: the table of leases is believed.
    Never,
    /// Until every lease has ended that this server may have given before it started and does not
    /// know of, since its database was lost or an older copy was restored.
    #[default]
    AfterStart,
    /// Always: also for addresses that somebody set by hand.
    Always,
}

/// What must come before the offer of an address that the table says is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Nothing.
    None,
    /// It is looked for, if not too many are already.
    IfRoom,
    /// It is looked for.
    Must,
    /// Time: somebody may have it, and nothing from here shows who.
    Wait,
}

/// How free addresses of a subnet are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Looking {
    /// When.
    pub mode: PingCheck,
    /// How long the longest lease lasts, ms.
    pub longest_ms: u64,
    /// Whether this server is on the subnet's wire: there a host can be silent to echo requests, but
    /// not to ARP.
    pub on_wire: bool,
}

impl Looking {
    /// When a subnet is served with new addresses again after its leases were found to be an older copy at
    /// `restored`; none where they are given all the time.
    #[must_use]
    pub fn waits_until(&self, restored: Millis) -> Option<Millis> {
        (self.mode != PingCheck::Never && !self.on_wire).then(|| restored.plus(self.longest_ms))
    }

    /// What must come before an offer of a server that runs for so long, ms, and learned so long ago
    /// that its database is an older copy, if it is.
    #[must_use]
    pub fn before_offer(&self, running_ms: u64, restored_ms: Option<u64>) -> Check {
        let copied = restored_ms.is_some_and(|ago| ago < self.longest_ms);
        match self.mode {
            PingCheck::Never => Check::None,
            _ if copied && !self.on_wire => Check::Wait,
            _ if copied => Check::Must,
            PingCheck::AfterStart if running_ms >= self.longest_ms => Check::None,
            PingCheck::AfterStart | PingCheck::Always => Check::IfRoom,
        }
    }
}
