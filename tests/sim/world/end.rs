//! How a world ends: nothing fails any more, and each job and each machine must come to its goal.

use super::{Event, World};
use crate::cluster::Faults;
use crate::invariants::{Invariant, label};
use crate::operator::{self, Errand};
use crate::plan::MINUTE;
use kaltstart_core::machine::{JobKind, JobState, State};

/// How often operators look whether a machine has to be switched on.
const CHECK_EVERY: u64 = 10 * MINUTE;

impl World {
    /// From now on nothing fails.
    pub(super) fn check(&mut self) {
        if !self.calm {
            self.say("nothing fails any more");
            self.calm = true;
            self.faults.fill(Faults::default());
            self.late.fill((0, 0));
            self.stalled_until = 0;
            self.network.calm();
            (0..self.plan.servers).for_each(|server| self.mend(server));
            self.start_all();
            for machine in 0..self.machines.len() {
                self.happen(Event::PowerOn(machine));
            }
        }
        for node in 0..self.plan.size.nodes {
            self.operate(Errand::Check { node }, operator::look(&super::mac(node).to_string()));
        }
        self.at(CHECK_EVERY, Event::Check);
    }

    /// Jobs that go on.
    pub(super) fn unsettled(&self) -> Vec<String> {
        let Some(store) = self.cluster.eye() else { return vec!["the server is down".into()] };
        let machines = store.machines().expect("readable");
        let open = machines.iter().filter_map(|found| {
            let job = found.machine.job.as_ref().filter(|job| !job.state.ended())?;
            Some(format!(
                "{} of {} is {:?} in {}",
                job.id,
                label(&found.machine),
                job.state,
                job.phase.name()
            ))
        });
        open.collect()
    }

    pub(super) fn has_settled(&self) -> bool {
        self.calm && self.audit.open_jobs().next().is_none()
    }

    /// What each machine came to is what its last job says.
    pub(super) fn check_goals(&mut self) {
        let machines = self.cluster.eye().map(|store| store.machines().expect("readable"));
        for found in machines.unwrap_or_default() {
            let (node, Some(job)) = (&found.machine.node, &found.machine.job) else { continue };
            // A restored copy tells what was once; what differs is an operator's business.
            if !self.audit.is_of_now(&job.id) {
                continue;
            }
            if job.state == JobState::Failed && job.findings.is_empty() {
                self.audit.violate(Invariant::Settled, format!("{} failed, and nobody knows why", job.id));
            }
            let machine = self.machines.iter().find(|machine| node.macs.contains(&machine.hardware.mac));
            // Somebody who changes disks under a server's feet changes the goal.
            let Some(hardware) =
                machine.map(|machine| &machine.hardware).filter(|hardware| !hardware.changed)
            else {
                continue;
            };
            let systems =
                hardware.disks.iter().filter(|disk| disk.starts).filter_map(|disk| disk.system.as_ref());
            let roots: Vec<&str> = systems.map(|system| system.root.as_str()).collect();
            let wrong = match (job.state, node.state) {
                (JobState::Succeeded, State::Deployed) => {
                    let root = node.system.as_ref().map(|system| system.root_uuid.as_str());
                    !roots.iter().any(|found| Some(*found) == root)
                }
                (JobState::Succeeded, State::Available) if job.kind == JobKind::Release => {
                    hardware.disks.iter().any(|disk| disk.starts || !disk.contents().is_blank())
                }
                _ => false,
            };
            if wrong {
                let what = format!(
                    "{} is {} after {}, and its disks start {roots:?}",
                    hardware.name, node.state, job.id
                );
                self.audit.violate(Invariant::Settled, what);
            }
        }
    }
}
