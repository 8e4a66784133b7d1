//! Who is given the key of a machine's encrypted disks, and whose disks stay closed.

use crate::machine::{Machine, Node, State};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use kaltstart_protocol::agent_api::DiskUuids;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::wipe::HostIdentity;
use serde::{Deserialize, Serialize};

/// A system that cannot open its disks: it may not have the key, or the key opens nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locked {
    /// Why.
    pub finding: Finding,
    /// The machine that it asked from.
    pub host: HostIdentity,
    /// Its address.
    pub address: IpAddr,
}

/// The finding of a system that has asked for its key, was given it, and opens nothing with it.
#[must_use]
pub fn useless() -> Finding {
    Finding::new(
        Code::KeyRefused,
        "the key was released to its system, and does not open the disks: they are others, or the key is",
    )
}

/// The installation whose key a system is given that asks with `token` on the machine `host`: that of the job which waits
/// for its first report, or the node's verified one.
///
/// # Errors
/// [`Code::KeyRefused`] with the reason.
pub fn decide<'a>(
    machine: &'a Machine,
    token: &Digest,
    host: &HostIdentity,
) -> Result<&'a DiskUuids, Finding> {
    let refused = |why: String| Finding::new(Code::KeyRefused, why);
    let node = &machine.node;
    let job =
        machine.job.as_ref().filter(|job| !job.state.ended() && job.unlock_token.as_ref() == Some(token));
    let uuids = match job {
        Some(job) => job.order.system().filter(|_| job.installed.is_some()).map(|order| &order.uuids),
        // The first is the one that was verified.
        None => node.own.first().filter(|_| may_hold_system(machine) && node.unlock.as_ref() == Some(token)),
    };
    let uuids = uuids.ok_or_else(|| {
        refused(format!(
            "{} is {}; a key is released to the system that the node was deployed with, and for the first start",
            node.name, node.state
        ))
    })?;
    let Some(facts) = &node.facts else {
        return Err(refused(format!("nothing is known of the machine of {}", node.name)));
    };
    let known = node.board.clone().unwrap_or_else(|| HostIdentity::of(facts));
    match difference(&known, host) {
        None => Ok(uuids),
        Some(difference) => {
            let why = format!("the disk is not in the machine of {}: {difference}", node.name);
            Err(refused(format!("{why}{}", way_in(node, host))))
        }
    }
}

/// What to do where the machine is right, and its board another.
fn way_in(node: &Node, host: &HostIdentity) -> String {
    // It is the machine's own word, and people would paste it into a shell.
    let plain = |c: char| c.is_ascii_hexdigit() || c == '-';
    if host.uuid.is_empty() || !host.uuid.chars().all(plain) {
        return String::new();
    }
    format!(". If its board was replaced: `ks node accept {} --board {}`", node.name, host.uuid)
}

/// Whether a key of the node is released to anybody: its system may be on its disks, or its job waits for the system's
/// first report.
#[must_use]
pub(crate) fn releases(machine: &Machine) -> bool {
    let starting = machine.job.as_ref().is_some_and(|job| !job.state.ended() && job.installed.is_some());
    may_hold_system(machine) || starting
}

/// A system that asks is there, whatever was ordered since it was verified, and may be all that holds its data. But it
/// opens its disks no more while they may be written to, and when its node is given away.
fn may_hold_system(machine: &Machine) -> bool {
    let granted = machine.job.as_ref().is_some_and(|job| !job.state.ended() && !job.wipe.is_empty());
    matches!(machine.node.state, State::Deployed | State::Allocated | State::Broken) && !granted
}

/// How `found` is another machine than the one that is `known`. A card may have been added or have failed since.
fn difference(known: &HostIdentity, found: &HostIdentity) -> Option<String> {
    let same_card = known.macs.is_empty() || known.macs.iter().any(|mac| found.macs.contains(mac));
    if known.uuid != found.uuid {
        Some(format!("its UUID is {:?} and not {:?}", found.uuid, known.uuid))
    } else if known.serial != found.serial {
        Some(format!("its serial number is {:?} and not {:?}", found.serial, known.serial))
    } else if !same_card {
        let macs: Vec<String> = found.macs.iter().map(|mac| format!("{mac}")).collect();
        Some(format!("it has none of its network cards, but {}", macs.join(", ")))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::table::{idle, job};
    use crate::machine::{JobKind, JobState};
    use kaltstart_protocol::agent_api::Installed;
    use kaltstart_protocol::facts::{Facts, Nic, System};
    use kaltstart_protocol::ids::Mac;
    use kaltstart_protocol::restart::Restart;

    fn facts(uuid: &str, macs: &[u8]) -> Facts {
        let system = System { uuid: uuid.into(), serial: "S".into(), ..System::default() };
        let nic = |last: &u8| Nic { mac: Mac([2, 0, 0, 0, 0, *last]), ..Nic::default() };
        Facts { system, nics: macs.iter().map(nic).collect(), ..Facts::default() }
    }

    fn token() -> Digest {
        Digest::of(b"token")
    }

    fn host() -> HostIdentity {
        HostIdentity::of(&facts("U", &[1, 2]))
    }

    /// A deployed node whose system asks with [`token`].
    fn deployed() -> Machine {
        let mut machine = idle(State::Deployed);
        let order = job(JobKind::Deploy).order;
        machine.node.own = Vec::from([order.system().expect("a system").uuids.clone()]);
        machine.node.unlock = Some(token());
        machine.node.facts = Some(facts("U", &[1, 2]));
        machine
    }

    fn refused(machine: &Machine, token: &Digest, host: &HostIdentity) -> String {
        let finding = decide(machine, token, host).expect_err("refused");
        assert_eq!(finding.code, Code::KeyRefused);
        finding.detail
    }

    #[test]
    fn p19_a_key_is_released_to_the_machine_and_the_system_it_was_made_for() {
        let machine = deployed();
        assert_eq!(decide(&machine, &token(), &host()), Ok(&machine.node.own[0]));
        for macs in [&[1][..], &[2, 3]] {
            let changed = HostIdentity::of(&facts("U", macs));
            assert!(decide(&machine, &token(), &changed).is_ok(), "a card was changed: {macs:?}");
        }
        for (other, words) in [
            (HostIdentity::of(&facts("V", &[1, 2])), "UUID"),
            (HostIdentity::of(&facts("U", &[3])), "none of its network cards"),
            (HostIdentity { serial: "T".into(), ..host() }, "serial number"),
            (HostIdentity::default(), "UUID"),
        ] {
            let why = refused(&machine, &token(), &other);
            assert!(why.contains(words), "{why}");
        }
        assert!(refused(&machine, &Digest::of(b"another"), &host()).contains("deployed"));
        let moved = HostIdentity::of(&facts("ad-1", &[3]));
        assert!(refused(&machine, &token(), &moved).ends_with("--board ad-1`"));
        for odd in ["", "a;reboot", "$(a)"] {
            let odd = HostIdentity { uuid: odd.into(), ..moved.clone() };
            assert!(!refused(&machine, &token(), &odd).contains("--board"), "p28: {odd:?} is a shell's");
        }
        let mut replaced = machine.clone();
        replaced.node.board = Some(moved.clone());
        assert!(decide(&replaced, &token(), &moved).is_ok(), "somebody has accepted it");
        assert!(refused(&replaced, &token(), &host()).contains("UUID"), "the old board is nobody's");
        let unknown =
            Machine { node: crate::machine::Node { facts: None, ..machine.node.clone() }, job: None };
        assert!(refused(&unknown, &token(), &host()).contains("nothing is known"));
    }

    #[test]
    fn p19_a_node_that_is_given_away_releases_no_key() {
        let keeps = [State::Deployed, State::Allocated, State::Broken];
        for state in State::ALL {
            let mut machine = deployed();
            machine.node.state = state;
            assert_eq!(decide(&machine, &token(), &host()).is_ok(), keeps.contains(&state), "{state}");
        }
        // What was begun since is not its own.
        let mut machine = deployed();
        machine.node.own.push(DiskUuids { disk: "another".into(), ..machine.node.own[0].clone() });
        assert_eq!(decide(&machine, &token(), &host()), Ok(&machine.node.own[0]));
        // The first start, which nobody has verified yet.
        let mut machine = deployed();
        (machine.node.state, machine.node.unlock) = (State::Allocated, None);
        let mut running = job(JobKind::Deploy);
        (running.state, running.unlock_token) = (JobState::Running, Some(token()));
        machine.job = Some(running);
        assert!(decide(&machine, &token(), &host()).is_err(), "its disk is not complete");
        if let Some(job) = &mut machine.job {
            job.installed = Some(Installed {
                job: job.id.clone(),
                attempt: 1,
                disk: "d".into(),
                ssh_host_keys: Vec::new(),
                machine_id: "m".into(),
                boot_entry: false,
                restart: Restart::default(),
            });
        }
        assert!(decide(&machine, &token(), &host()).is_ok());
        if let Some(job) = &mut machine.job {
            job.state = JobState::Failed;
        }
        assert!(decide(&machine, &token(), &host()).is_err(), "the job has failed");
    }
}
