//! What a machine's loader and kernel say: into its job's log, and the last of it into its
//! recent past.

use crate::app::App;
use crate::clock;
use crate::net::syslog::Listener;
use crate::store::Key;
use kaltstart_core::trace::What;
use kaltstart_protocol::ids::{JobId, Mac, NodeId};
use kaltstart_protocol::syslog::Line;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Connects the syslog receiver with the machines.
pub(crate) struct SyslogDoor(pub(crate) Arc<App>);

impl Listener for SyslogDoor {
    async fn take(&self, lines: Vec<(Ipv4Addr, Line)>) {
        let mut by_machine: BTreeMap<Mac, Vec<Line>> = BTreeMap::new();
        for (from, line) in lines {
            if let Some(mac) = self.0.holder(from.into()) {
                by_machine.entry(mac).or_default().push(line);
            }
        }
        for (mac, lines) in by_machine {
            if let Some(last) = lines.last() {
                self.0.trace.note(mac, What::Syslog { text: last.text.clone() });
            }
            let Some((node, job)) = self.job(mac) else { continue };
            if let Err(error) = self.0.store.put_syslog(node, job, lines, clock::now()).await {
                tracing::warn!(%mac, %error, "syslog lines are lost");
            }
        }
    }
}

impl SyslogDoor {
    /// The machine's job, if it has one: lines belong to a job, as an agent's do.
    fn job(&self, mac: Mac) -> Option<(NodeId, JobId)> {
        let found = self.0.store.machine(Key::Mac(mac));
        let node = found.inspect_err(|error| tracing::error!(%error, "syslog")).ok()??.machine.node;
        Some((node.id, node.job?))
    }
}
