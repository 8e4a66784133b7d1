//! A machine as the server sees it while a job installs it: what its loader, its agent and its system ask.

use crate::connection::Connection;
use anyhow::{Context as _, Result, bail};
use kaltstart_protocol::agent_api::{
    ARG_TOKEN, Hello, InstallTask, Installed, Mode, Report, ReportState, Task, TaskRequest,
};
use kaltstart_protocol::contents::Contents;
use kaltstart_protocol::facts::{Disk, Facts, Nic};
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::node_api::{BootOrder, NodeReport};
use kaltstart_protocol::phase::{Phase, Progress, Unit};
use kaltstart_protocol::restart::Restart;
use kaltstart_protocol::secret::Secret;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// How often a phase is reported while it lasts.
const REPORTS: u64 = 3;

/// Times of answers in ms, by what was asked.
pub(super) type Times = BTreeMap<&'static str, Vec<f64>>;

/// A machine of a number.
pub(super) struct Machine {
    mac: Mac,
    session: String,
    task: Option<Box<InstallTask>>,
    pub(super) times: Times,
}

impl Machine {
    pub(super) fn new(number: u32) -> Self {
        let [a, b, c, d] = number.to_be_bytes();
        let session = format!("kst_session_{number:064}");
        Self { mac: Mac([6, 0, a, b, c, d]), session, task: None, times: Times::new() }
    }

    /// Its hardware address.
    pub(super) const fn mac(&self) -> Mac {
        self.mac
    }

    /// Its loader gets its script.
    pub(super) fn script(&mut self, connection: &mut Connection) -> Result<String> {
        let path = format!("/boot/{}/script.ipxe", self.mac);
        Ok(String::from_utf8(self.ask(connection, "script", "GET", &path, "")?)?)
    }

    /// Its loader gets script and ramdisk, its agent says hello and gets its task.
    pub(super) fn start(&mut self, connection: &mut Connection) -> Result<()> {
        let script = self.script(connection)?;
        let token =
            script.split_whitespace().find_map(|word| word.strip_prefix(ARG_TOKEN)?.strip_prefix('='));
        let token = token.with_context(|| format!("no token in {script}"))?.to_owned();
        self.ask(connection, "ramdisk", "GET", &format!("/boot/{}/ramdisk", self.mac), "")?;
        let disk = Disk {
            serial: "S1".into(),
            size: 1 << 40,
            sector_size: 512,
            holds: Some(Contents::new(Vec::new())),
            ..Disk::default()
        };
        let nic = Nic { mac: self.mac, ..Nic::default() };
        let hello = Hello {
            token: Secret::new(token),
            session: Secret::new(self.session.clone()),
            mode: Mode::Install,
            boot_id: "boot".into(),
            agent_version: "0".into(),
            started_uptime_ms: 5,
            uptime_ms: 10,
            facts: Facts { disks: vec![disk], nics: vec![nic], ..Facts::default() },
        };
        self.tell(connection, "hello", &hello)?;
        let task = self.tell(connection, "task", &TaskRequest { wait_seconds: 0 })?;
        match serde_json::from_slice(&task)? {
            Task::Install(task) => self.task = Some(task),
            other => bail!("{}: {other:?} instead of an installation", self.mac),
        }
        Ok(())
    }

    /// Its agent tells how it gets on.
    pub(super) fn install(&mut self, connection: &mut Connection) -> Result<()> {
        let task = self.task.as_ref().context("it has no task")?;
        let (job, attempt) = (task.job.clone(), task.attempt);
        for phase in [Phase::Inventory, Phase::Disk, Phase::Image, Phase::Configure] {
            for step in 0..=REPORTS {
                let state = if step == REPORTS { ReportState::Done } else { ReportState::Running };
                let progress = Some(Progress { done: step, total: REPORTS, unit: Unit::Bytes });
                let report =
                    Report { job: job.clone(), attempt, phase, state, progress, detail: BTreeMap::new() };
                self.tell(connection, "report", &report)?;
            }
        }
        let installed = Installed {
            job,
            attempt,
            disk: "d".into(),
            ssh_host_keys: Vec::new(),
            machine_id: "0123456789abcdef0123456789abcdef".into(),
            boot_entry: false,
            restart: Restart::default(),
        };
        self.tell(connection, "installed", &installed).map(|_| ())
    }

    /// Its system reports itself.
    pub(super) fn report(&mut self, connection: &mut Connection) -> Result<()> {
        let task = self.task.as_ref().context("it has no task")?;
        let report = NodeReport {
            token: task.identity.report.token.clone(),
            job: task.identity.report.job.clone(),
            hostname: task.identity.hostname.clone(),
            kernel: "6".into(),
            root_device: "/dev/vda3".into(),
            root_uuid: task.uuids.root.clone(),
            os: "os".into(),
            machine_id: "0123456789abcdef0123456789abcdef".into(),
            boot_id: "b".into(),
            uptime_ms: 1,
            ssh_host_keys: Vec::new(),
            boot_order: BootOrder::None,
        };
        let body = serde_json::to_string(&report)?;
        self.ask(connection, "system", "POST", "/node/v1/report", &body).map(|_| ())
    }

    fn tell(
        &mut self,
        connection: &mut Connection,
        what: &'static str,
        body: &impl Serialize,
    ) -> Result<Vec<u8>> {
        self.ask(connection, what, "POST", &format!("/agent/v1/{what}"), &serde_json::to_string(body)?)
    }

    fn ask(
        &mut self,
        connection: &mut Connection,
        what: &'static str,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<Vec<u8>> {
        let asked = Instant::now();
        let bearer = if path.starts_with("/agent/") && what != "hello" { self.session.as_str() } else { "" };
        let answer = connection.ask(method, path, bearer, body)?;
        self.times.entry(what).or_default().push(asked.elapsed().as_secs_f64() * 1000.0);
        Ok(answer)
    }
}
