//! A node's life as the server decides it: each event goes through `lifecycle::step`, and what comes of it is committed.

use crate::hardware::facts;
use anyhow::{Context as _, Result, bail, ensure};
use kaltstart_core::dhcp::lease::{ClientKey, Lease, LeaseState, LeaseWrite};
use kaltstart_core::lifecycle::event::{Asker, Event, Hello, Move, SystemReport};
use kaltstart_core::lifecycle::{Step, step};
use kaltstart_core::machine::{Grant, Job, JobKind, Machine, Node, Order, State, SystemOrder};
use kaltstart_core::recall::Via;
use kaltstart_protocol::agent_api::{DiskRule, DiskUuids, Installed, LogLine, Mode, ReportState};
use kaltstart_protocol::contents::Contents;
use kaltstart_protocol::ids::{Digest, JobId, Mac, NodeId, PublicKey};
use kaltstart_protocol::layout::Layout;
use kaltstart_protocol::node_api::BootOrder;
use kaltstart_protocol::phase::{Phase, Progress, Unit};
use kaltstart_protocol::restart::Restart;
use kaltstart_protocol::syslog::Line;
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::{DiskIdentity, GrantTrust, HostIdentity, WipeGrant};
use kaltstart_server::store::{Commit, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::LazyLock;

/// Reports of how far the image is, one a second; and how long each other phase lasts, in ms.
const IMAGE_REPORTS: u64 = 15;
const PHASE_MS: u64 = 5_000;
/// Lines of an agent's log in an installation, how many come at once, and lines that loader and kernel say.
const AGENT_LINES: (u64, usize) = (100, 20);
const KERNEL_LINES: usize = 20;
/// An ordinary line, of which the newest are kept.
const LINE: &str = "mkfs.ext4: Writing superblocks and filesystem accounting information: 0/127, done (root)";
/// The root file system's number among the UUIDs.
const ROOT: usize = 100;
/// How long an address is lent, in ms.
const LEASE_MS: u64 = 3_600_000;

static LAYOUT: LazyLock<Layout> = LazyLock::new(|| {
    toml::from_str(include_str!("../../../templates/layouts/server.toml")).expect("a built-in layout")
});

/// A node, and the version at which it is stored.
pub(crate) struct Life {
    number: u32,
    pub(crate) machine: Machine,
    version: i64,
    installations: u32,
}

impl Life {
    /// One that somebody declares at `now`.
    pub(crate) async fn declared(store: &Store, number: u32, now: Millis) -> Result<Self> {
        let id = NodeId::new(now, u128::from(number));
        let node = Node::new(id, format!("node-{number}"), mac(number, 0), true);
        let machine = Machine { node, job: None };
        ensure!(store.commit(&machine, 0, &[], now).await? == Commit::Done, "node {number} is there already");
        Ok(Self { number, machine, version: 1, installations: 0 })
    }

    async fn happens(&mut self, store: &Store, event: Event, now: Millis) -> Result<()> {
        match step(&self.machine, &event, now) {
            Step::Changed { machine, happenings } => {
                let commit = store.commit(&machine, self.version, &happenings, now).await?;
                ensure!(commit == Commit::Done, "somebody else has changed node {}", self.number);
                (self.machine, self.version) = (machine, self.version + 1);
                Ok(())
            }
            Step::Ignored(why) | Step::Refused(why) => bail!("{event:?}: {why}"),
        }
    }

    /// Is ordered to be installed, and comes so far that its agent has its task.
    pub(crate) async fn begins(&mut self, store: &Store, now: Millis) -> Result<()> {
        let secret =
            |what: &str| Digest::of(format!("{what} {} {}", self.number, self.installations).as_bytes());
        let [token, session, report, recall] = ["boot", "session", "report", "recall"].map(secret);
        let (node, from) = (self.machine.node.id.clone(), self.machine.node.state);
        let job = JobId::new(now, u128::from(self.number));
        let kind = if from == State::Deployed { JobKind::Rebuild } else { JobKind::Deploy };
        let order = Order::System(Box::new(self.order()));
        let ordered = Job::queued(job.clone(), node, from, kind, order, now);
        let (asker, address, mode) = (Asker::Firmware, self.address().into(), Mode::Install);
        let trust = Some(GrantTrust { key: PublicKey([1; 32]), epoch: 0 });
        let grant = Grant { token, mode, job: Some(job.clone()), expires_at: now.plus(LEASE_MS), trust };
        let facts = facts(self.number);
        let wipe = WipeGrant {
            job: job.clone(),
            attempt: 1,
            host: HostIdentity::of(&facts),
            disk: DiskIdentity::of(&facts.disks[0]),
            contents: Contents::default(),
            keep: Vec::new(),
            approver: "administrator".into(),
            epoch: 0,
            issued: now,
            expires: now.plus(LEASE_MS),
        };
        let boot_id = format!("{:036}", self.installations);
        let (running_ms, uptime_ms, facts) = (10, 20_000, Box::new(facts));
        let hello = Hello { token, session, mode, boot_id, running_ms, uptime_ms, facts };
        let (report_token, recall_token, unlock_token) = (Some(report), Some(recall), None);
        let taken = Event::TaskTaken { job, report_token, recall_token, unlock_token, wipe: vec![wipe] };
        for (i, event) in (0..).zip([
            Event::JobOrdered(Box::new(ordered)),
            Event::DhcpSeen { asker },
            Event::AddressGiven { asker, address },
            Event::ScriptServed { grant },
            Event::RamdiskServed { bytes: 20 << 20 },
            Event::AgentHello(hello),
            taken,
        ]) {
            self.happens(store, event, now.plus(i * PHASE_MS)).await?;
        }
        Ok(())
    }

    /// Its agent says that the image has come on.
    pub(crate) async fn reports(&mut self, store: &Store, done: u64, now: Millis) -> Result<()> {
        self.tells(store, Phase::Image, ReportState::Running, done, now).await
    }

    async fn tells(
        &mut self,
        store: &Store,
        phase: Phase,
        state: ReportState,
        done: u64,
        now: Millis,
    ) -> Result<()> {
        let job = self.job()?;
        let progress = Some(Progress { done, total: 1 << 30, unit: Unit::Bytes });
        let detail = BTreeMap::from([("device".to_owned(), "/dev/nvme0n1".to_owned())]);
        self.happens(store, Event::PhaseReported { job, attempt: 1, phase, state, progress, detail }, now)
            .await
    }

    /// Is installed, from the order to the system's report, with all that its agent says.
    pub(crate) async fn is_installed(&mut self, store: &Store, now: Millis) -> Result<()> {
        self.begins(store, now).await?;
        let now = now.plus(60_000);
        for phase in [Phase::Disk, Phase::Image, Phase::Configure] {
            let reports = if phase == Phase::Image { IMAGE_REPORTS } else { 1 };
            for report in 0..=reports {
                let state = if report == reports { ReportState::Done } else { ReportState::Running };
                self.tells(store, phase, state, report << 24, now.plus(report * 1_000)).await?;
            }
        }
        self.says(store, now).await?;
        let (job, machine_id) = (self.job()?, format!("{:032x}", self.installations));
        let installed = Installed {
            job,
            attempt: 1,
            disk: "nvme-eui.0025388b01234567".into(),
            ssh_host_keys: keys(),
            machine_id: machine_id.clone(),
            boot_entry: true,
            restart: Restart::default(),
        };
        self.happens(store, Event::InstallDone(installed), now.plus(60_000)).await?;
        let report = SystemReport {
            hostname: self.machine.node.name.clone(),
            kernel: "6.1.0-40-amd64".into(),
            root_device: "/dev/nvme0n1p3".into(),
            root_uuid: self.uuid(ROOT),
            os: "Debian GNU/Linux 12 (bookworm)".into(),
            machine_id,
            ssh_host_keys: keys(),
            boot_order: BootOrder::Kept,
        };
        self.happens(store, Event::SystemReported(report), now.plus(120_000)).await?;
        self.installations += 1;
        ensure!(self.machine.node.state == State::Deployed, "node {} is not deployed", self.number);
        Ok(())
    }

    fn job(&self) -> Result<JobId> {
        self.machine.node.job.clone().context("no job")
    }

    fn uuid(&self, what: usize) -> String {
        format!("{:08x}-0000-4000-8000-{:04x}{:08x}", self.number, what, self.installations)
    }

    /// The log of an installation.
    async fn says(&self, store: &Store, now: Millis) -> Result<()> {
        let node = &self.machine.node;
        let session = node.session.as_ref().context("no session")?;
        let (lines, batch) = AGENT_LINES;
        for first in (0..lines).step_by(batch) {
            let line = |line| LogLine { uptime_ms: line, level: "info".into(), text: LINE.into() };
            let lines = (first..first + batch as u64).map(line).collect();
            store.put_log(node.id.clone(), session.clone(), first, lines).await?;
        }
        let lines = vec![Line { level: "info", text: LINE.into() }; KERNEL_LINES];
        Ok(store.put_syslog(node.id.clone(), self.job()?, lines, now).await?)
    }

    /// Its system renews its address, which is a sign of life, too.
    pub(crate) async fn renews(&mut self, store: &Store, now: Millis) -> Result<()> {
        store.put_leases(vec![lease(self.address(), mac(self.number, 0), now)]).await?;
        let (asker, address) = (Asker::System, self.address().into());
        self.happens(store, Event::AddressGiven { asker, address }, now).await
    }

    /// Its hardware is given away.
    pub(crate) async fn is_retired(&mut self, store: &Store, now: Millis) -> Result<()> {
        if self.machine.node.state == State::Deployed {
            self.happens(store, Event::Operator(Move::Break), now).await?;
        }
        self.happens(store, Event::Operator(Move::Retire), now).await
    }

    fn address(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + self.number)
    }

    fn order(&self) -> SystemOrder {
        let partitions = 0..LAYOUT.partitions.len();
        SystemOrder {
            profile: "debian-12-server".into(),
            image: "debian-12".into(),
            image_digest: Digest::of(b"image"),
            layout: LAYOUT.clone(),
            disk: DiskRule::default(),
            authorized_keys: keys(),
            uuids: DiskUuids {
                disk: self.uuid(0),
                partitions: partitions.clone().map(|part| self.uuid(1 + part)).collect(),
                root: self.uuid(ROOT),
                further: partitions.map(|part| self.uuid(ROOT + 1 + part)).collect(),
                esp: self.number,
            },
            restart: Restart::default(),
            via: Via::default(),
            recall: true,
            erase: BTreeMap::new(),
            keep: BTreeSet::new(),
        }
    }
}

/// The hardware address of a node's port; of a stranger's with a number that is no node's.
pub(crate) fn mac(number: u32, port: u8) -> Mac {
    let [_, a, b, c] = number.to_be_bytes();
    Mac([6, a, b, c, 0, port])
}

/// The address is lent for an hour.
pub(crate) fn lease(address: Ipv4Addr, mac: Mac, now: Millis) -> LeaseWrite {
    // As clients of systems without a MAC in it: type 255, an identity, a DUID of a UUID (RFC 4361).
    let mut key = vec![255, 0, 0, 0, 1, 0, 4];
    key.extend(mac.0.iter().cycle().take(16));
    let (key, mac, state) = (ClientKey::from(key), Some(mac), LeaseState::Bound);
    LeaseWrite { address, lease: Lease { key, mac, state, since: now, expires: now.plus(LEASE_MS) } }
}

fn keys() -> Vec<String> {
    vec![
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2nXcQ0pR4m8y1Y0m6f3Hq2r9zS4k5wVt7uP8aB1cDe operator@example"
            .into(),
    ]
}
