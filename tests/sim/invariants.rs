//! What must hold after every turn, whatever fails: checked against what the world itself saw, not against what the
//! server says of it.

use crate::dhcp::Sent;
use kaltstart_core::dhcp::Known;
use kaltstart_core::dhcp::lease::{Lease, LeaseState, LeaseWrite};
use kaltstart_core::machine::{JobState, Machine, State};
use kaltstart_protocol::agent_api::{DiskGrant, Task};
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::finding::Code;
use kaltstart_protocol::ids::{JobId, Mac, NodeId};
use kaltstart_protocol::phase::Phase;
use kaltstart_protocol::wipe::{DiskIdentity, HostIdentity, LIFETIME_MS_MAX, WipeGrant};
use kaltstart_server::app::App;
use kaltstart_server::store::{Key, Store, StoredEvent, Versioned, Wanted};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

/// How long machines that lose data count together, in milliseconds of true time.
const LOSS_WINDOW: u64 = 3_600_000;
/// The server's hour, and a minute for the agent's clock.
const GRANT_LIFETIME: u64 = 3_660_000;

/// How long what an operator sends may be on its way, in milliseconds.
const ON_ITS_WAY: u64 = 60_000;

/// More events than there are.
const EVENTS_MAX: usize = 1_000_000;

/// With these a job fails whose agent has spoken, or whose system should have.
const LATE: [Code; 5] =
    [Code::Silent, Code::NotReported, Code::ReportDiffers, Code::GrantRefused, Code::TooManyAttempts];

/// What never happens to a locked node.
const CHANGES: [&str; 4] = ["job.queued", "node.allocated", "node.releasing", "node.broken"];

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Invariant {
    /// Promise 31: nobody is given an address that was promised to somebody else for longer.
    OneHolder,
    /// Promise 31: what is acknowledged is stored.
    AckIsStored,
    /// Promise 13: what was answered with success is there after a crash.
    NothingAcknowledgedIsLost,
    /// Promise 13: what is stored is known to each server that has caught up.
    KnownToOthers,
    /// A node has one job at a time.
    OneJob,
    /// States and jobs change as the lifecycle has it, and versions only grow.
    Lifecycle,
    /// Promise 1: a disk is written with a grant for it, its machine, its job, and what is on it, given within the hour.
    Granted,
    /// Promise 6: a locked node stays what it is, and is given no job.
    Locked,
    /// Promise 7: a grant is used once, and a job whose system is complete writes no more.
    OneInstallation,
    /// Who was told to stop writes no more.
    StopObeyed,
    /// Promise 8: after a restored copy nothing is wiped by orders of before.
    RestoreWipesNothing,
    /// Promise 8: after a restored copy nothing is ordered or granted until somebody has accepted it.
    OnlyObserves,
    /// Promise 9: no more machines lose data in an hour than may.
    Losses,
    /// Promise 12: what starts is whole.
    Bootable,
    /// Promise 36: once nothing fails any more, each job comes to its end, and its machine to its goal.
    Settled,
    /// Promise 36: no job whose agent works fails because the server was down.
    OutagesHeal,
}

/// One that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) invariant: Invariant,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.what)
    }
}

/// A disk is about to be written.
pub(crate) struct Begun<'a> {
    pub(crate) node: &'a str,
    pub(crate) boot: u64,
    pub(crate) host: &'a HostIdentity,
    pub(crate) disk: &'a Disk,
    pub(crate) start: (&'a JobId, u32),
    pub(crate) grant: Option<&'a DiskGrant>,
}

/// A grant that has left the server.
struct Issued {
    at: u64,
    /// How many copies had been restored by then.
    restores: u32,
    used: bool,
}

/// A job as the store has it.
struct Seen {
    state: JobState,
    installed: bool,
    /// How many copies had been restored when it was ordered.
    restores: u32,
}

/// What the world saw.
#[derive(Default)]
pub(crate) struct Audit {
    /// The first thing that does not hold.
    pub(crate) violation: Option<Violation>,
    /// Who was promised which address, and until when.
    holders: BTreeMap<Ipv4Addr, (Mac, u64)>,
    /// Of those whom the store does not know, since a copy was restored.
    unknown: BTreeSet<Ipv4Addr>,
    /// What was answered for: machines by name with their versions.
    acknowledged: BTreeMap<String, i64>,
    versions: BTreeMap<String, i64>,
    locked: BTreeSet<String>,
    states: BTreeMap<String, State>,
    jobs: BTreeMap<JobId, Seen>,
    /// The job that each node has.
    open: BTreeMap<String, String>,
    last_event: i64,
    grants: BTreeMap<String, Issued>,
    /// Who writes to which disk, in which start of the machine.
    writing: BTreeSet<(String, u64, String)>,
    losses: Vec<(u64, String)>,
    restores: u32,
    /// Whether a copy was restored that nobody has accepted.
    observing: bool,
    /// When an operator sent word last that a copy is accepted.
    accepted: Option<u64>,
    only_one_server_fails: bool,
    losses_max: u32,
    /// Orders that reached the server.
    orders: BTreeMap<String, u32>,
    /// Jobs that the server took.
    queued: BTreeMap<String, u32>,
    /// Numbers that the summary tells.
    pub(crate) counts: BTreeMap<String, u64>,
}

impl Audit {
    pub(crate) fn new(only_one_server_fails: bool, losses_max: u32) -> Self {
        Self { only_one_server_fails, losses_max, ..Self::default() }
    }

    pub(crate) fn violate(&mut self, invariant: Invariant, what: impl Into<String>) {
        self.violation.get_or_insert(Violation { invariant, what: what.into() });
    }

    pub(crate) fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    /// A DHCP reply leaves. `reachable` are the addresses whose holders would answer for them.
    pub(crate) fn replied(&mut self, sent: &Sent, reachable: &BTreeSet<Ipv4Addr>) {
        let Some((address, seconds)) = sent.promised else { return };
        self.count("addresses acknowledged");
        if let Some(stored) = &sent.missing {
            let what = format!("{address} is acknowledged to {}, and stored is {stored}", sent.to);
            self.violate(Invariant::AckIsStored, what);
        }
        let now = crate::time::now();
        let until = now + u64::from(seconds) * 1000;
        let unknown = self.unknown.remove(&address);
        match self.holders.get(&address) {
            Some((mac, end)) if *mac != sent.to && *end > now => {
                // A restored copy does not know of it, and nobody answered who could have told.
                let unknowable = unknown && !reachable.contains(&address);
                if !unknowable {
                    let left = (end - now) / 1000;
                    let what = format!(
                        "{address} is given to {}, and was promised to {mac} for {left} s more",
                        sent.to
                    );
                    self.violate(Invariant::OneHolder, what);
                }
                self.holders.insert(address, (sent.to, until));
            }
            Some((mac, end)) if *mac == sent.to => {
                let end = until.max(*end);
                self.holders.insert(address, (sent.to, end));
            }
            _ => {
                self.holders.insert(address, (sent.to, until));
            }
        }
    }

    /// A task leaves the server.
    pub(crate) fn tasked(&mut self, node: &str, body: &[u8]) {
        let grants = match serde_json::from_slice::<Task>(body) {
            Ok(Task::Install(task)) => task.grants,
            Ok(Task::Erase(task)) => task.disks,
            _ => return,
        };
        if self.observing && !grants.is_empty() {
            self.violate(Invariant::OnlyObserves, format!("{node} is granted a disk"));
        }
        let now = crate::time::now();
        let mut loses = false;
        for granted in &grants {
            let issued = Issued { at: now, restores: self.restores, used: false };
            self.grants.entry(granted.grant.grant.clone()).or_insert(issued);
            let grant: Option<WipeGrant> = serde_json::from_str(&granted.grant.grant).ok();
            loses |= grant.is_some_and(|grant| !grant.contents.is_blank());
        }
        if loses {
            self.losses.push((now, node.to_owned()));
            let since = now.saturating_sub(LOSS_WINDOW - 60_000);
            let recent = self.losses.iter().filter(|(at, _)| *at >= since);
            let nodes: BTreeSet<&str> = recent.map(|(_, node)| node.as_str()).collect();
            if nodes.len() > self.losses_max as usize {
                let what = format!(
                    "{nodes:?} were granted to lose data within an hour, and {} may",
                    self.losses_max
                );
                self.violate(Invariant::Losses, what);
            }
        }
    }

    /// The server's clock was set, or its past lost: what it counts within an hour is another hour.
    pub(crate) fn hour_is_lost(&mut self) {
        self.losses.clear();
    }

    /// A copy is put in the database's place; all servers are down.
    pub(crate) fn restored(&mut self) {
        // What was meant for the copy before may still come.
        let comes = |at| crate::time::now() < at + ON_ITS_WAY;
        self.observing = !self.accepted.is_some_and(comes);
    }

    /// An operator sends word that the copy is accepted.
    pub(crate) fn accepts(&mut self) {
        (self.observing, self.accepted) = (false, Some(crate::time::now()));
    }

    /// An agent is about to write to a disk.
    pub(crate) fn begins(&mut self, begun: &Begun<'_>) {
        self.count("jobs begun on disks");
        let Begun { node, boot, host, disk, start: (job, attempt), grant } = begun;
        self.writing.insert((node.to_string(), *boot, disk.serial.clone()));
        if let Err((invariant, why)) = self.judge(host, disk, job, *attempt, *grant) {
            self.violate(invariant, format!("{node} writes to {} for {job}: {why}", disk.serial));
        }
    }

    fn judge(
        &mut self,
        host: &HostIdentity,
        disk: &Disk,
        job: &JobId,
        attempt: u32,
        grant: Option<&DiskGrant>,
    ) -> Result<(), (Invariant, String)> {
        let bad = |why: &str| Err((Invariant::Granted, why.to_owned()));
        let Some(granted) = grant else { return bad("there is no grant") };
        let text = &granted.grant.grant;
        let Ok(grant) = serde_json::from_str::<WipeGrant>(text) else { return bad("its grant is none") };
        let Some(issued) = self.grants.get_mut(text) else { return bad("its grant was never given") };
        let again = std::mem::replace(&mut issued.used, true);
        let (age, restores) = (crate::time::now() - issued.at, issued.restores);
        if &grant.host != host {
            return bad("its grant is for another machine");
        }
        if grant.disk != DiskIdentity::of(disk) {
            return bad("its grant is for another disk");
        }
        if Some(&grant.all()) != disk.holds.as_ref() {
            return bad("its grant is for other contents");
        }
        if (&grant.job, grant.attempt) != (job, attempt) {
            return bad("its grant is for another job or start");
        }
        if age > GRANT_LIFETIME || grant.expires.since(grant.issued) > LIFETIME_MS_MAX {
            return bad("its grant is too old");
        }
        if again {
            return Err((Invariant::OneInstallation, "its grant was used before".into()));
        }
        // Who was granted before the copy was put in place holds what it needs, and goes on.
        let ordered = self.jobs.get(job).map_or(self.restores, |seen| seen.restores);
        if restores == self.restores && ordered < self.restores {
            return Err((Invariant::RestoreWipesNothing, "it was ordered before a copy was restored".into()));
        }
        Ok(())
    }

    /// An agent has written to a disk; `stopped` when it was told not to.
    pub(crate) fn writes(&mut self, node: &str, boot: u64, serial: &str, job: &JobId, stopped: bool) {
        self.count("writes");
        if !self.writing.contains(&(node.to_owned(), boot, serial.to_owned())) {
            self.violate(Invariant::Granted, format!("{node} writes to {serial} unasked"));
        }
        if stopped {
            self.violate(
                Invariant::StopObeyed,
                format!("{node} writes to {serial} after it was told to stop"),
            );
        }
        if self.jobs.get(job).is_some_and(|seen| seen.installed) {
            let what = format!("{node} writes to {serial} for {job}, whose system is complete");
            self.violate(Invariant::OneInstallation, what);
        }
    }

    /// Something of a disk has changed.
    pub(crate) fn bootable(&mut self, node: &str, starts: bool, whole: bool) {
        if starts && !whole {
            self.violate(
                Invariant::Bootable,
                format!("a disk of {node} starts, and its system is not whole"),
            );
        }
    }

    /// A machine starts from its disk.
    pub(crate) fn starts(&mut self, node: &str, root: &str, whole: bool) {
        self.count("starts from disk");
        if !whole {
            self.violate(Invariant::Bootable, format!("{node} starts {root}, which is not whole"));
        }
    }

    /// An order has reached the server; what becomes of it is not known yet.
    pub(crate) fn ordered(&mut self, node: &str) {
        *self.orders.entry(node.to_owned()).or_default() += 1;
    }

    /// Compares what is stored now with what was.
    pub(crate) fn look(&mut self, store: &Store) {
        if !store.is_shared() && *store.newest_event().borrow() == self.last_event {
            return;
        }
        let events = store.events(self.last_event, None, 10_000).expect("readable");
        let ids: BTreeSet<NodeId> = events.iter().filter_map(|event| event.node.parse().ok()).collect();
        for id in ids {
            let Some(found) = store.machine(Key::Id(&id)).expect("readable") else { continue };
            let (name, state) = (label(&found.machine), found.machine.node.state);
            for event in events.iter().filter(|event| event.node == id.as_str()) {
                self.happened(event, &name, found.machine.job.as_ref().map(|job| job.phase));
            }
            if let Some(before) = self.versions.insert(name.clone(), found.version)
                && before > found.version
            {
                let what = format!("{name} went from version {before} to {}", found.version);
                self.violate(Invariant::Lifecycle, what);
            }
            if self.states.insert(name.clone(), state).is_some_and(|told| told != state) {
                self.violate(Invariant::Lifecycle, format!("{name} became {state}, and nobody was told"));
            }
            if let Some(job) = found.machine.job {
                self.job(job.id.clone(), job.state, job.installed.is_some());
            }
        }
        if store.is_shared() && events.iter().any(|event| event.kind == "job.queued") {
            self.count_losses(store);
        }
        self.last_event = events.last().map_or(self.last_event, |event| event.id);
    }

    /// Of several servers, each counts what all have let happen.
    fn count_losses(&mut self, store: &Store) {
        let since = crate::time::wall().minus(LOSS_WINDOW);
        let machines = store.machines().expect("readable");
        let lose = machines.iter().filter(|found| {
            found.machine.job.as_ref().and_then(|job| job.loses_at).is_some_and(|at| at > since)
        });
        let nodes: BTreeSet<String> = lose.map(|found| label(&found.machine)).collect();
        if nodes.len() > self.losses_max as usize {
            let what = format!(
                "{nodes:?} were ordered or granted to lose data within an hour, and {} may",
                self.losses_max
            );
            self.violate(Invariant::Losses, what);
        }
    }

    /// Whether no copy was restored since the job was ordered.
    pub(crate) fn is_of_now(&self, job: &JobId) -> bool {
        self.jobs.get(job).is_some_and(|seen| seen.restores == self.restores)
    }

    /// Jobs that go on.
    pub(crate) fn open_jobs(&self) -> impl Iterator<Item = &JobId> {
        self.jobs.iter().filter(|(_, seen)| !seen.state.ended()).map(|(id, _)| id)
    }

    fn job(&mut self, id: JobId, state: JobState, installed: bool) {
        let restores = self.restores;
        let seen = self.jobs.entry(id.clone()).or_insert(Seen { state, installed, restores });
        let (before, was_installed) = (seen.state, seen.installed);
        (seen.state, seen.installed) = (state, installed);
        if before.ended() && before != state {
            self.violate(Invariant::Lifecycle, format!("{id} had ended as {before:?} and is {state:?}"));
        }
        if was_installed && !installed {
            self.violate(Invariant::Lifecycle, format!("{id} was complete and is not"));
        }
    }

    fn happened(&mut self, event: &StoredEvent, node: &str, phase: Option<Phase>) {
        let job = event.job.clone().unwrap_or_default();
        match event.kind.as_str() {
            "node.locked" => {
                self.locked.insert(node.to_owned());
                self.count("nodes locked");
            }
            "node.unlocked" => drop(self.locked.remove(node)),
            kind if self.locked.contains(node) && CHANGES.contains(&kind) => {
                self.violate(Invariant::Locked, format!("{kind} of {node}, which is locked"));
            }
            _ => {}
        }
        if matches!(event.kind.as_str(), "job.succeeded" | "job.failed" | "job.cancelled") {
            self.open.remove(node);
        }
        if event.kind == "job.queued" {
            if let Some(before) = self.open.insert(node.to_owned(), job.clone()) {
                self.violate(Invariant::OneJob, format!("{node} is given {job} while it has {before}"));
            }
            let queued = self.queued.entry(node.to_owned()).or_default();
            *queued += 1;
            let queued = *queued;
            self.count("jobs");
            if self.observing {
                self.violate(Invariant::OnlyObserves, format!("{node} is given {job}"));
            }
            if queued > self.orders.get(node).copied().unwrap_or_default() {
                self.violate(Invariant::Granted, format!("{node} has a job that nobody ordered"));
            }
        }
        if event.kind == "job.succeeded" {
            self.count("jobs succeeded");
        } else if event.kind == "job.failed" {
            let data: serde_json::Value = serde_json::from_str(&event.data).expect("JSON");
            let code = data["finding"]["code"].as_str().unwrap_or_default();
            self.count(format!("jobs failed by {code}"));
            let agent_works = phase > Some(Phase::Kernel);
            if self.only_one_server_fails && agent_works && LATE.iter().any(|late| late.number() == code) {
                let what = format!("a job of {node} failed by {}, and only the server did", data["finding"]);
                self.violate(Invariant::OutagesHeal, what);
            }
        }
        let Some(to) = State::ALL.into_iter().find(|state| event.kind == format!("node.{state}")) else {
            return;
        };
        if let Some(from) = self.states.insert(node.to_owned(), to)
            && !may_become(from, to)
        {
            self.violate(Invariant::Lifecycle, format!("{node} became {to} from {from}"));
        }
    }

    /// Answers of success have left: what they rest on, as it was seen last, must be there for ever.
    pub(crate) fn acknowledge(&mut self) {
        self.acknowledged.clone_from(&self.versions);
    }

    /// The same of machines at these versions.
    pub(crate) fn acknowledge_at(&mut self, versions: Vec<(String, i64)>) {
        self.acknowledged.extend(versions);
    }

    /// The server is up again, after a crash; with another database if a copy was restored.
    pub(crate) fn started(&mut self, store: &Store, restored: bool) {
        if restored {
            self.restores += 1;
            self.count("copies restored");
            self.hour_is_lost();
            self.last_event =
                store.events(0, None, EVENTS_MAX).expect("readable").last().map_or(0, |event| event.id);
            (self.versions, self.acknowledged) = (BTreeMap::new(), BTreeMap::new());
            let machines = store.machines().expect("readable");
            let locked = machines.iter().filter(|found| found.machine.node.lock.is_some());
            self.locked = locked.map(|found| label(&found.machine)).collect();
            self.states =
                machines.iter().map(|found| (label(&found.machine), found.machine.node.state)).collect();
            (self.jobs, self.open) = (BTreeMap::new(), BTreeMap::new());
            for found in machines {
                let Some(job) = found.machine.job else { continue };
                let before = self.restores - 1;
                let seen = Seen { state: job.state, installed: job.installed.is_some(), restores: before };
                if !job.state.ended() {
                    self.open
                        .insert(label(&Machine { node: found.machine.node, job: None }), job.id.to_string());
                }
                self.jobs.insert(job.id, seen);
            }
        }
        let now = crate::time::now();
        for (name, version) in self.acknowledged.clone() {
            let mac = name.parse().expect("a label is a hardware address");
            let found = store.machine(Key::Mac(mac)).expect("readable").map_or(0, |found| found.version);
            if found < version {
                let what =
                    format!("{name} was answered for at version {version} and is at {found} after a crash");
                self.violate(Invariant::NothingAcknowledgedIsLost, what);
            }
        }
        for (address, (mac, until)) in self.holders.clone() {
            let stored = store.find_leases(Wanted::Address(address.into()), 1).expect("readable");
            // Of several servers another may have given the client another address since, and renewals are lost, too.
            let left = if restored && store.is_shared() { until.saturating_sub(now) } else { 0 };
            let knows =
                |lease: &Lease| lease.mac == Some(mac) && lease.expires.since(crate::time::wall()) >= left;
            if until <= now || stored.iter().any(|write| knows(&write.lease)) {
                continue;
            }
            // What is reserved is nobody else's: one of several servers acknowledges that without its database, too.
            let holder = store.machine(Key::Mac(mac)).expect("readable");
            let reserved = holder.and_then(|found| found.machine.node.reservation);
            if store.is_shared() && reserved == Some(address) {
                continue;
            }
            if restored {
                self.count("addresses that a copy did not know");
                self.unknown.insert(address);
            } else if !self.unknown.contains(&address) {
                let what = format!("{address} was acknowledged to {mac} and is not stored after a crash");
                self.violate(Invariant::NothingAcknowledgedIsLost, what);
            }
        }
    }
}

/// Whether a server that has just caught up knows the machines and leases of `store`.
pub(crate) fn knows_all(
    app: &App,
    held: impl Fn(Ipv4Addr) -> Option<Lease>,
    store: &Store,
) -> Result<(), String> {
    let index = app.store.index();
    for Versioned { machine, .. } in store.machines().expect("readable") {
        let known = index.get(machine.node.macs[0]).map(|brief| &brief.known);
        if machine.node.state != State::Retired && known != Some(&Known::of(&machine)) {
            return Err(format!("{} is {:?}, and known as {known:?}", label(&machine), Known::of(&machine)));
        }
    }
    let now = crate::time::wall();
    for LeaseWrite { address, lease } in store.leases().expect("readable") {
        let known = held(address);
        // It may have offered the client the same address since, and ended that when another server's offer was taken.
        let fits = known.as_ref().is_some_and(|known| {
            let offered = known.state == LeaseState::Offered && lease.state == LeaseState::Bound;
            known.key == lease.key
                && (offered || known.state == lease.state && known.expires >= lease.expires)
        });
        if lease.is_live(now) && !fits {
            return Err(format!("{address} is {lease:?}, and known as {known:?}"));
        }
    }
    Ok(())
}

/// What a node is called here: by what never changes, even in a restored copy.
pub(crate) fn label(machine: &Machine) -> String {
    machine.node.macs.first().map_or_else(String::new, Mac::to_string)
}

/// Whether a node may go from one state to the other: product's list, written out a second time.
fn may_become(from: State, to: State) -> bool {
    use State::{Allocated, Available, Broken, Deployed, Discovered, Expected, Releasing, Retired};
    matches!(
        (from, to),
        (Expected, Discovered | Allocated | Broken | Retired)
            | (Discovered, Available | Broken | Retired)
            | (Available, Allocated | Broken | Retired)
            | (Allocated, Deployed | Releasing | Broken | Expected | Available)
            | (Deployed, Allocated | Releasing | Broken)
            | (Releasing, Available | Allocated | Deployed | Broken | Retired)
            | (Broken, Discovered | Allocated | Deployed | Retired)
    )
}
