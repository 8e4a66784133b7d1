//! A simulated machine: its hardware, and what runs on it now.

use crate::agent::Agent;
use crate::disk::Disk;
use crate::firmware::Firmware;
use crate::invariants::Audit;
use crate::mutants::Mutant;
use crate::rng::Rng;
use crate::server::{Answer, Ask};
use crate::system::Os;
use kaltstart_protocol::facts::{self, Facts, Nic};
use kaltstart_protocol::ids::Mac;
use std::net::Ipv4Addr;

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    /// DHCP.
    Dhcp,
    /// The next step of whatever goes on.
    Step,
    /// What is said on that line is said again.
    Resend(Line),
    /// The machine starts from its beginning.
    Restart,
}

/// Who of a machine talks to the server; each waits for its answer before it says more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Line {
    /// Loader, agent or system.
    Control,
    /// The agent's reporter.
    Reports,
    /// The agent's fetching of an image.
    Image,
}

/// What a machine does to the world.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Sends a DHCP packet to a server, or to all.
    Dhcp(Vec<u8>, Ipv4Addr),
    /// Asks the server.
    Ask(Line, Ask),
    /// Wants to be woken after so many milliseconds.
    Timer(u64, Timer),
    /// Something worth a line in the log.
    Say(String),
}

/// What a machine can do while it is on.
pub(crate) struct Body<'a> {
    pub(crate) hardware: &'a mut Hardware,
    pub(crate) rng: &'a mut Rng,
    pub(crate) effects: &'a mut Vec<Effect>,
    pub(crate) audit: &'a mut Audit,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) boot: u64,
}

impl Body<'_> {
    pub(crate) fn timer(&mut self, after: u64, timer: Timer) {
        self.effects.push(Effect::Timer(after, timer));
    }

    pub(crate) fn say(&mut self, text: impl Into<String>) {
        self.effects.push(Effect::Say(text.into()));
    }

    pub(crate) fn ask(&mut self, line: Line, ask: Ask) {
        self.effects.push(Effect::Ask(line, ask));
    }
}

/// What is screwed together.
#[derive(Debug)]
pub(crate) struct Hardware {
    pub(crate) name: String,
    pub(crate) mac: Mac,
    pub(crate) disks: Vec<Disk>,
    /// Whether somebody has put another disk in.
    pub(crate) changed: bool,
    /// Somebody will: one with a system, or a blank one.
    pub(crate) next_disk: Option<bool>,
}

impl Hardware {
    /// Puts in the disk that somebody has ready; tells whether there was one.
    pub(crate) fn change_disk(&mut self) -> bool {
        let Some(foreign) = self.next_disk.take() else { return false };
        let serial = format!("{}-{}", self.name, crate::time::now());
        let make = if foreign { Disk::foreign } else { Disk::blank };
        (self.disks[0], self.changed) = (make(serial, 20, "pci/0"), true);
        true
    }

    /// As an agent measures it.
    pub(crate) fn facts(&self) -> Facts {
        let nic = Nic { name: "eth0".into(), mac: self.mac, link: true, ..Nic::default() };
        let system = facts::System {
            uuid: format!("uuid-{}", self.name),
            serial: format!("serial-{}", self.name),
            ..facts::System::default()
        };
        let disks = self.disks.iter().enumerate().map(|(index, disk)| disk.measured(format!("sd{index}")));
        Facts {
            system,
            memory_bytes: 1 << 32,
            firmware: facts::Firmware::Uefi,
            nics: vec![nic],
            boot_nic: Some("eth0".into()),
            disks: disks.collect(),
            ..Facts::default()
        }
    }
}

/// What runs.
pub(crate) enum Power {
    Off,
    Firmware(Firmware),
    Agent(Box<Agent>),
    Os(Box<Os>),
    /// Nothing to start, or about to restart.
    Idle,
}

/// What becomes of what runs.
pub(crate) enum Next {
    Same,
    /// The machine starts anew after so many milliseconds.
    Restart(u64),
    /// The loader starts an agent with these kernel arguments.
    Agent(String),
    /// The firmware turns to the machine's own disk.
    OwnDisk,
}

/// A machine.
pub(crate) struct Machine {
    pub(crate) hardware: Hardware,
    pub(crate) power: Power,
    /// Grows with every start of something else: what was meant for what ran before is lost.
    pub(crate) boot: u64,
    /// Whether it has firmware and disks; else it is somebody's laptop.
    pub(crate) is_node: bool,
    rng: Rng,
}

impl Machine {
    pub(crate) fn new(hardware: Hardware, is_node: bool, rng: Rng) -> Self {
        Self { hardware, power: Power::Off, boot: 0, is_node, rng }
    }

    /// The address that it uses, and for which it answers.
    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        match &self.power {
            Power::Off | Power::Idle => None,
            Power::Firmware(firmware) => firmware.address(),
            Power::Agent(agent) => agent.address(),
            Power::Os(os) => os.address(),
        }
    }

    pub(crate) fn is_off(&self) -> bool {
        matches!(self.power, Power::Off)
    }

    fn with(
        &mut self,
        audit: &mut Audit,
        mutant: Option<Mutant>,
        act: impl FnOnce(&mut Power, &mut Body<'_>) -> Next,
    ) -> Vec<Effect> {
        let Self { hardware, power, boot, rng, is_node } = self;
        let mut effects = Vec::new();
        let mut body = Body { hardware, rng, effects: &mut effects, audit, mutant, boot: *boot };
        match act(power, &mut body) {
            Next::Same => {}
            next => {
                // What it had still to say or do is gone.
                body.effects.retain(|effect| matches!(effect, Effect::Say(_)));
                *boot += 1;
                body.boot = *boot;
                *power = begin(next, *is_node, &mut body);
            }
        }
        effects
    }

    /// Somebody switches it on, or resets it.
    pub(crate) fn switch_on(&mut self, audit: &mut Audit, mutant: Option<Mutant>) -> Vec<Effect> {
        let wait = self.rng.between(2_000, 20_000);
        self.with(audit, mutant, |_, _| Next::Restart(wait))
    }

    /// The power fails.
    pub(crate) fn switch_off(&mut self) {
        self.boot += 1;
        self.power = Power::Off;
    }

    pub(crate) fn timer(&mut self, timer: Timer, audit: &mut Audit, mutant: Option<Mutant>) -> Vec<Effect> {
        let is_node = self.is_node;
        self.with(audit, mutant, |power, body| match power {
            Power::Idle => {
                *power = if is_node {
                    Power::Firmware(Firmware::begin(body))
                } else {
                    Power::Os(Box::new(Os::begin(body)))
                };
                Next::Same
            }
            Power::Off => Next::Same,
            Power::Firmware(firmware) => firmware.timer(timer, body),
            Power::Agent(agent) => agent.timer(timer, body),
            Power::Os(os) => os.timer(timer, body),
        })
    }

    pub(crate) fn dhcp(&mut self, packet: &[u8], audit: &mut Audit, mutant: Option<Mutant>) -> Vec<Effect> {
        self.with(audit, mutant, |power, body| match power {
            Power::Off | Power::Idle => Next::Same,
            Power::Firmware(firmware) => firmware.dhcp(packet, body),
            Power::Agent(agent) => agent.dhcp(packet, body),
            Power::Os(os) => os.dhcp(packet, body),
        })
    }

    /// An answer to what was asked on a line; none when there was none in time.
    pub(crate) fn answer(
        &mut self,
        line: Line,
        answer: Option<&Answer>,
        audit: &mut Audit,
        mutant: Option<Mutant>,
    ) -> Vec<Effect> {
        self.with(audit, mutant, |power, body| match power {
            Power::Off | Power::Idle => Next::Same,
            Power::Firmware(firmware) => firmware.answer(answer, body),
            Power::Agent(agent) => agent.answer(line, answer, body),
            Power::Os(os) => os.answer(answer, body),
        })
    }
}

/// Starts what comes next.
fn begin(next: Next, is_node: bool, body: &mut Body<'_>) -> Power {
    match next {
        Next::Same => Power::Idle,
        Next::Restart(after) => {
            body.timer(after, Timer::Restart);
            Power::Idle
        }
        Next::Agent(arguments) => match Agent::begin(&arguments, body) {
            Some(agent) => Power::Agent(Box::new(agent)),
            None => {
                body.say("its agent cannot read its arguments");
                Power::Idle
            }
        },
        Next::OwnDisk if !is_node => Power::Idle,
        Next::OwnDisk => {
            let first = body.hardware.disks.iter().find(|disk| disk.starts);
            match first.and_then(|disk| disk.system.as_ref()) {
                Some(system) => {
                    let (root, whole) = (system.root.clone(), system.is_whole());
                    body.say(format!("starts {root}"));
                    body.audit.starts(&body.hardware.name, &root, whole);
                    Power::Os(Box::new(Os::begin(body)))
                }
                None => {
                    body.say("finds nothing to start");
                    let wait = body.rng.between(30_000, 90_000);
                    body.timer(wait, Timer::Restart);
                    Power::Idle
                }
            }
        }
    }
}
