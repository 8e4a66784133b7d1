//! What was seen of a machine by its address, and why it does not start.

use super::{App, AppError, Applied};
use crate::clock;
use crate::store::Key;
use kaltstart_core::dhcp::Drop;
use kaltstart_core::lifecycle::event::Event;
use kaltstart_core::machine::Machine;
use kaltstart_core::trace::{Answer, Exchange, Sighting, What};
use kaltstart_core::why::{self, Diagnosis, HEADER_BYTES, Likelihood, Loader, Site};
use kaltstart_protocol::finding::Finding;
use kaltstart_protocol::ids::{Mac, NodeId};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::Path;

/// Files in the directory of loaders that are looked at.
const LOADERS_MAX: usize = 64;

impl App {
    /// The machine that has the address; none when it is nobody's that was seen.
    pub fn holder(&self, address: IpAddr) -> Option<Mac> {
        self.trace.holder(address).or_else(|| {
            let held = self.store.lessee(address);
            held.inspect_err(|error| tracing::error!(%error, "leases")).ok()?
        })
    }

    /// Whether it is a machine of ours, or one that was seen asking for its start.
    #[must_use]
    pub fn has_seen(&self, mac: Mac) -> bool {
        self.store.index().get(mac).is_some() || self.trace.knows(mac)
    }

    /// Takes note of what was seen of the machine that has the address, if it is known.
    pub fn saw_at(&self, address: IpAddr, what: What) {
        if let Some(mac) = self.holder(address) {
            self.trace.note(mac, what);
        }
    }

    /// Why the machine with these hardware addresses does not start, or what is going on.
    #[must_use]
    pub fn diagnose(&self, macs: &[Mac], machine: Option<&Machine>) -> Diagnosis {
        let networks = self.config.dhcp.iter().map(|dhcp| dhcp.subnet).collect();
        let prefixes = self.config.dhcp6.iter().map(|subnet| subnet.prefix).collect();
        let (trace, now) = (self.trace.of(macs), clock::now());
        // Counted in the whole table of leases, so only where it matters.
        let in_use = if trace.iter().any(found_no_address) { self.store.in_use(now) } else { Ok(0) };
        let in_use = in_use.inspect_err(|error| tracing::error!(%error, "leases")).unwrap_or_default();
        let site = Site { networks, prefixes, loaders: loaders(&self.config.boot.loaders), in_use };
        why::why(&trace, machine, &site, now)
    }

    /// Lets jobs hear that the server starts, once it did.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub async fn started(&self) -> Result<(), AppError> {
        for node in self.store.due(None)? {
            self.apply(Key::Id(&node), &Event::ServerStarted).await?;
        }
        Ok(())
    }

    /// Lets all overdue jobs hear of it; what fails is logged, and tried at the next look.
    pub async fn look_at_deadlines(&self) {
        let due = match self.store.due(Some(clock::now())) {
            Ok(due) => due,
            // It was said when that began.
            Err(_) if self.store.is_lost() => return,
            Err(error) => return tracing::error!(%error, "deadlines"),
        };
        for node in due {
            if let Err(error) = self.deadline_passed(&node).await {
                tracing::error!(%error, node = node.as_str(), "deadline");
            }
        }
    }

    /// Lets an overdue job hear of it, and of its cause where packets show one.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub async fn deadline_passed(&self, node: &NodeId) -> Result<Applied, AppError> {
        self.apply_with(Key::Id(node), |machine| Ok(Event::DeadlinePassed { shown: self.shown(machine) }))
            .await
    }

    /// The likeliest cause, if it is more than a guess.
    fn shown(&self, machine: &Machine) -> Option<Finding> {
        let causes = self.diagnose(&machine.node.macs, Some(machine)).causes;
        causes.first().filter(|cause| cause.likelihood > Likelihood::Low).map(why::Cause::finding)
    }
}

fn found_no_address(sighting: &Sighting) -> bool {
    matches!(sighting.what, What::Dhcp(Exchange { answer: Answer::Silent { why: Drop::PoolExhausted }, .. }))
}

/// What the loaders of the directory are made for; a file that cannot be read tells nothing.
fn loaders(dir: &Path) -> BTreeMap<String, Loader> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeMap::new() };
    let described = entries.flatten().take(LOADERS_MAX).filter_map(|entry| {
        let header = header(&entry.path()).ok()?;
        Some((entry.file_name().into_string().ok()?, Loader::of(&header)))
    });
    described.collect()
}

fn header(path: &Path) -> io::Result<Vec<u8>> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    File::open(path)?.take(HEADER_BYTES as u64).read_to_end(&mut header)?;
    Ok(header)
}
