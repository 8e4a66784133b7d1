//! A node's life, as one function: [`step`] alone decides what a machine becomes.
//!
//! A node has a state (what it is) and at most one job (what is happening). Nothing destructive
//! follows from a packet: a job begins with an order, and only a packet that proves a grant lets
//! an agent work on it. A failed job never changes the state.

mod about;
mod assignment;
pub mod event;
mod moves;
mod orders;
pub mod phases;
mod recall;
mod report;
mod rescue;
#[cfg(test)]
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod unlock;
mod verify;

pub use assignment::{Assignment, assignment};

use crate::boot;
use crate::hardware;
use crate::losses;
use crate::machine::{Job, JobKind, JobState, Machine, Session, State, System};
use crate::wipe;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use event::{Asker, Event, Happening, Hello, Move, SystemReport, overdue};
use kaltstart_protocol::agent_api::Mode;
use kaltstart_protocol::facts::Neighbour;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::phase::Phase;
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::WipeGrant;

/// Starts of a machine for one job before the job gives up.
pub const ATTEMPTS_MAX: u32 = 5;

/// How long a boot token may be used, in milliseconds.
pub const GRANT_LIFETIME_MS: u64 = 3_600_000;

/// Keys of a phase's detail that are kept: an agent cannot make its job's record grow for ever.
const DETAILS_MAX: usize = 32;

/// Characters of a detail's key or value that are kept.
const DETAIL_CHARS_MAX: usize = 1000;

/// Characters of an agent's finding that are kept: it may list many disks.
const FINDING_CHARS_MAX: usize = 8000;

/// A machine without news that was heard by DHCP less than this ago, in milliseconds, is not
/// stored again: not every packet shall be a write.
pub const HEARD_EVERY_MS: u64 = 60_000;

/// Installations of a node that are remembered: what an older one left must be given up by name.
const OWN_MAX: usize = 8;

/// Why a node with a job takes no other order; whoever tells it adds which job that is.
pub const HAS_JOB: &str = "the node has a job; cancel it first";

/// Why a locked node takes no orders; whoever tells it adds who locked it, and why.
pub const LOCKED: &str = "the node is locked";

const NOT_GRANTED: &str = "the agent was not started for this job";

/// What becomes of a machine.
#[expect(clippy::large_enum_variant, reason = "one at a time, taken apart at once")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It changes; nobody may be told before it is stored.
    Changed {
        /// The machine from now on.
        machine: Machine,
        /// What subscribers are told.
        happenings: Vec<Happening>,
    },
    /// The event means nothing now: late, repeated, not concerned.
    Ignored(&'static str),
    /// Whoever caused the event must be told no.
    Refused(&'static str),
}

/// What `event` at `now` makes of `machine`.
#[must_use]
pub fn step(machine: &Machine, event: &Event, now: Millis) -> Step {
    let mut draft = Draft { machine: machine.clone(), happenings: Vec::new(), now };
    let verdict = match event {
        Event::PowerSeen => draft.power_seen(),
        Event::DhcpSeen { asker } => draft.dhcp_seen(*asker).and_then(|()| draft.is_news(machine)),
        Event::AddressGiven { asker, address } => {
            draft.machine.node.address = Some(*address);
            draft.address_given(*asker).and_then(|()| draft.is_news(machine))
        }
        Event::ScriptServed { grant } => draft.script_served(grant),
        Event::SystemAsked => {
            draft.heard();
            draft.is_news(machine)
        }
        Event::Recalled { grant } => draft.recalled(grant),
        Event::RecallFailed(why) => draft.recall_failed(why),
        Event::RamdiskServed { bytes } => draft.ramdisk_served(*bytes),
        Event::AgentHello(hello) => draft.hello(hello),
        Event::NeighboursHeard(heard) => draft.neighbours_heard(heard),
        Event::TaskTaken { job, report_token, recall_token, unlock_token, wipe } => {
            draft.task_taken(job, [*report_token, *recall_token, *unlock_token], wipe)
        }
        Event::DisksErased(erased) => draft.disks_erased(erased),
        Event::PhaseReported { .. } => draft.phase_reported(event),
        Event::InstallDone(installed) => draft.install_done(installed),
        Event::KeyAsked { address, host, refused, useless } => {
            draft.key_asked(*address, host, refused.as_ref(), *useless).and_then(|()| draft.is_news(machine))
        }
        Event::BoardAccepted { uuid, approver } => {
            draft.is_open().and_then(|()| draft.board_accepted(uuid, approver))
        }
        Event::SystemReported(report) => draft.system_reported(report),
        Event::CodeIssued(code) => draft.code_issued(code),
        Event::CodeTried(fingerprint) => draft.code_tried(fingerprint),
        Event::RescueAlive { job, attempt } => draft.rescue_alive(job, *attempt),
        Event::Rescued { job, attempt } => draft.rescued(job, *attempt),
        Event::JobOrdered(job) => draft.is_open().and_then(|()| draft.ordered(job)),
        Event::JobCancelled => draft.cancelled(),
        Event::Hindered(finding) => draft.hindered(finding),
        Event::DeadlinePassed { shown } => draft.deadline_passed(shown.as_ref()),
        Event::ServerStarted => draft.server_started(),
        Event::Operator(wanted) => draft.is_open().and_then(|()| draft.moved(*wanted)),
        Event::Edited(edit) => draft.is_open().and_then(|()| draft.edited(edit)),
        Event::Locked(lock) => draft.is_open().and_then(|()| draft.locked(lock)),
        Event::Unlocked => draft.unlocked(),
        Event::Approved(approval) => draft.is_open().and_then(|()| draft.approved(approval)),
    };
    match verdict {
        Ok(()) => Step::Changed { machine: draft.machine, happenings: draft.happenings },
        Err(No::Ignore(why)) => Step::Ignored(why),
        Err(No::Refuse(why)) => Step::Refused(why),
    }
}

/// Why nothing changes.
enum No {
    Ignore(&'static str),
    Refuse(&'static str),
}

type Verdict = Result<(), No>;

/// A machine while it is being decided upon.
struct Draft {
    machine: Machine,
    happenings: Vec<Happening>,
    now: Millis,
}

impl Draft {
    /// The job that is queued or running.
    fn live(&mut self) -> Option<&mut Job> {
        self.machine.job.as_mut().filter(|job| !job.state.ended())
    }

    fn phase(&mut self) -> Option<Phase> {
        self.live().map(|job| job.phase)
    }

    /// Begins `to` if the live job has not come so far yet.
    fn reach(&mut self, to: Phase) {
        let now = self.now;
        if let Some(job) = self.machine.job.as_mut().filter(|job| !job.state.ended() && job.phase < to) {
            phases::advance(job, to, now, &mut self.happenings);
        }
    }

    /// Lets the live job begin again at `from`, unless it did so too often.
    fn start_over(&mut self, from: Phase) {
        let now = self.now;
        let Some(job) = self.live() else { return };
        if job.attempt >= ATTEMPTS_MAX {
            let detail = format!("started {} times, last seen in phase {}", job.attempt, job.phase.name());
            self.fail(Finding::new(Code::TooManyAttempts, detail));
        } else if let Some(job) = self.machine.job.as_mut() {
            phases::rewind(job, from, now, &mut self.happenings);
        }
    }

    fn set_state(&mut self, state: State) {
        self.machine.node.state = state;
        self.happenings.push(Happening::NodeMoved(state));
    }

    fn heard(&mut self) {
        self.machine.node.last_seen = Some(self.now);
    }

    /// Ignores an event that tells nothing but that the machine, heard of lately, is still there.
    fn is_news(&self, before: &Machine) -> Verdict {
        let lately = before.node.last_seen.is_some_and(|last| self.now.since(last) < HEARD_EVERY_MS);
        let mut heard = before.clone();
        heard.node.last_seen = self.machine.node.last_seen;
        if lately && heard == self.machine && self.happenings.is_empty() {
            Err(No::Ignore("nothing new"))
        } else {
            Ok(())
        }
    }

    /// Ends the live job; the node keeps its state.
    fn close(&mut self, state: JobState) {
        let now = self.now;
        if let Some(job) = self.live() {
            phases::close(job, state, now);
            if job.wipe.is_empty() {
                job.loses_at = None;
            }
            let id = job.id.clone();
            self.machine.node.job = None;
            self.machine.node.last_job = Some(id);
        }
    }

    /// Ends the live job, which did not come to its end. As long as no agent was granted to write, the disks are what
    /// they were before the order, and so is the node; but one whose agent has told its hardware is expected no more.
    fn give_up(&mut self, state: JobState, happening: Happening) {
        let untouched = self.live().filter(|job| job.wipe.is_empty()).map(|job| job.from);
        self.close(state);
        self.happenings.push(happening);
        let Some(before) = untouched.filter(|before| *before != self.machine.node.state) else { return };
        self.set_state(before);
        let node = &self.machine.node;
        if node.facts.as_ref().is_some_and(|facts| before == State::Expected && wipe::is_of_node(node, facts))
        {
            self.inspected();
        }
    }

    /// Ends the live job, which was verified; the node becomes `state`.
    fn succeed(&mut self, state: State) {
        self.happenings.push(Happening::PhaseDone(Phase::Verify));
        self.close(JobState::Succeeded);
        self.happenings.push(Happening::JobSucceeded);
        self.set_state(state);
    }

    fn fail(&mut self, finding: Finding) {
        if let Some(job) = self.live() {
            job.findings.push(finding.clone());
        }
        self.give_up(JobState::Failed, Happening::JobFailed(finding));
    }

    fn power_seen(&mut self) -> Verdict {
        match self.phase() {
            Some(Phase::Queued) => {
                self.reach(Phase::Power);
                self.reach(Phase::Firmware);
                Ok(())
            }
            Some(_) => Err(No::Ignore("the machine is already running")),
            None => Err(No::Ignore("no job waits for the machine")),
        }
    }

    fn dhcp_seen(&mut self, asker: Asker) -> Verdict {
        self.heard();
        let Some(job) = self.live() else { return Ok(()) };
        let (phase, installed) = (job.phase, job.installed.is_some());
        let record = &job.phases[phase.index()];
        let (burns_in, began) =
            (job.kind == JobKind::BurnIn && record.progress.is_some(), record.started_at.unwrap_or_default());
        match (asker, phase) {
            (Asker::Firmware, _) if installed => {}
            (Asker::Firmware, Phase::Queued | Phase::Power | Phase::Firmware) => self.reach(Phase::Dhcp),
            (Asker::Firmware, Phase::Dhcp | Phase::Loader) => {}
            (Asker::Firmware, Phase::Inventory) if burns_in => {
                let detail = format!("after {} s", self.now.since(began) / 1000);
                self.fail(Finding::new(Code::RestartedUnderLoad, detail));
            }
            (Asker::Firmware, _) => self.start_over(Phase::Dhcp),
            (Asker::System, Phase::Restart) => self.reach(Phase::Handoff),
            (Asker::System, _) => {}
        }
        Ok(())
    }

    fn address_given(&mut self, asker: Asker) -> Verdict {
        self.heard();
        if asker == Asker::Firmware && self.phase() == Some(Phase::Dhcp) {
            self.reach(Phase::Loader);
        }
        Ok(())
    }

    fn script_served(&mut self, grant: &crate::machine::Grant) -> Verdict {
        let decision = boot::decide(&self.machine);
        if decision.agent() != Some((grant.mode, grant.job.as_ref())) {
            return Err(No::Refuse("the machine may not start from the network"));
        }
        self.heard();
        self.machine.node.grant = Some(grant.clone());
        self.reach(Phase::Loader);
        Ok(())
    }

    fn ramdisk_served(&mut self, bytes: u64) -> Verdict {
        use kaltstart_protocol::phase::{Progress, Unit};
        self.heard();
        match self.live() {
            Some(job) if job.phase == Phase::Loader => {
                job.phases[Phase::Loader.index()].progress =
                    Some(Progress { done: bytes, total: bytes, unit: Unit::Bytes });
                self.reach(Phase::Kernel);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn hello(&mut self, hello: &Hello) -> Verdict {
        let session = self.machine.node.session.as_ref();
        let known = session.is_some_and(|s| s.secret == hello.session && s.mode == hello.mode);
        if !known {
            let now = self.now;
            let granted = self.machine.node.grant.take().filter(|grant| {
                grant.token == hello.token && grant.mode == hello.mode && now < grant.expires_at
            });
            let Some(grant) = granted else {
                return Err(No::Refuse("the boot token is unknown, used or expired"));
            };
            let live = self.live().map(|job| job.id.clone());
            if grant.job.is_some() && grant.job != live {
                return Err(No::Refuse("the job of this start has ended"));
            }
            self.machine.node.session = Some(Session {
                secret: hello.session,
                mode: hello.mode,
                job: grant.job,
                boot_id: hello.boot_id.clone(),
                booted_at: now.minus(hello.uptime_ms),
                trust: grant.trust,
            });
            self.machine.node.facts_at = Some(self.now);
        }
        self.heard();
        self.machine.node.missing = hardware::missing(&self.machine.node, &hello.facts);
        let mut facts = (*hello.facts).clone();
        hardware::keep_neighbours(self.machine.node.facts.as_ref(), &mut facts);
        self.machine.node.facts = Some(facts);
        (self.machine.node.board, self.machine.node.shut_out) = (None, None);
        match hello.mode {
            Mode::Discover => self.inspected(),
            Mode::Install | Mode::Rescue => self.agent_started(hello.running_ms),
        }
        Ok(())
    }

    fn neighbours_heard(&mut self, heard: &BTreeMap<String, Neighbour>) -> Verdict {
        let nics = self.machine.node.facts.iter_mut().flat_map(|facts| &mut facts.nics);
        let mut news = false;
        for nic in nics {
            if let Some(neighbour) = heard.get(&nic.name)
                && nic.neighbour.as_ref() != Some(neighbour)
            {
                nic.neighbour = Some(neighbour.clone());
                news = true;
            }
        }
        if !news {
            return Err(No::Ignore("nothing new"));
        }
        self.heard();
        Ok(())
    }

    /// Facts are there: an expected machine that matched is accepted by itself.
    fn inspected(&mut self) {
        if self.machine.node.state == State::Expected {
            self.set_state(State::Discovered);
        }
        if self.machine.node.state == State::Discovered && self.machine.node.declared {
            self.set_state(State::Available);
        }
    }

    /// The kernel phase ended when the agent began to run, not when it could say so.
    fn agent_started(&mut self, running_ms: u64) {
        let Some(job) = self.live().filter(|job| job.phase < Phase::Inventory) else { return };
        let began = job.phases[job.phase.index()].started_at.unwrap_or_default();
        let now = self.now;
        self.now = now.minus(running_ms).max(began);
        self.reach(Phase::Inventory);
        self.now = now;
        if let Some(job) = self.live() {
            phases::renew(job, now);
        }
    }

    fn task_taken(
        &mut self,
        id: &kaltstart_protocol::ids::JobId,
        [report_token, recall_token, unlock_token]: [Option<kaltstart_protocol::ids::Digest>; 3],
        wipe: &[WipeGrant],
    ) -> Verdict {
        let (granted, now) = (self.granted(id), self.now);
        match self.live() {
            Some(job)
                if granted
                    && job.id == *id
                    && job.installed.is_none()
                    && wipe.iter().all(|wipe| (&wipe.job, wipe.attempt) == (id, job.attempt)) =>
            {
                (job.report_token, job.recall_token) = (report_token, recall_token);
                job.unlock_token = unlock_token;
                job.wipe = wipe.to_vec();
                if losses::is_granted(wipe) {
                    job.loses_at = Some(now);
                }
                if let Some(uuids) = job.order.system().map(|order| order.uuids.clone()) {
                    let own = &mut self.machine.node.own;
                    own.retain(|other| *other != uuids);
                    own.push(uuids);
                    if own.len() > OWN_MAX {
                        // Never the verified one, whose system may still be there and ask for its key.
                        own.remove(usize::from(self.machine.node.system.is_some()));
                    }
                }
                self.heard();
                self.begin_work();
                Ok(())
            }
            _ => Err(No::Refuse(NOT_GRANTED)),
        }
    }

    /// The agent has its task: it works on disks, or a person may come.
    fn begin_work(&mut self) {
        match self.live().map(|job| job.kind) {
            Some(JobKind::Rescue) => self.hand_over(),
            // It is told as part of what the agent learns of the hardware.
            Some(JobKind::BurnIn) => self.reach(Phase::Inventory),
            _ => self.reach(Phase::Disk),
        }
    }

    /// Whether the agent that runs was started for the job `id`.
    fn granted(&self, id: &kaltstart_protocol::ids::JobId) -> bool {
        let Some((session, job)) = self.machine.node.session.as_ref().zip(self.machine.job.as_ref()) else {
            return false;
        };
        session.mode == job.mode() && session.job.as_ref() == Some(id)
    }

    fn system_reported(&mut self, report: &SystemReport) -> Verdict {
        match &self.machine.job {
            Some(job) if job.state == JobState::Succeeded => return Err(No::Ignore("already known")),
            Some(job) if !job.state.ended() && job.installed.is_some() => {}
            Some(_) | None => return Err(No::Refuse("no job waits for this report")),
        }
        self.heard();
        self.reach(Phase::Handoff);
        self.reach(Phase::Verify);
        let (node, now) = (&mut self.machine.node, self.now);
        node.session = None;
        let order = self.machine.job.as_ref().and_then(|job| Some((job, job.order.system()?)));
        let Some((job, order)) = order else { return Err(No::Refuse("no job waits for this report")) };
        if let Some(difference) = verify::difference(&node.name, job, order, report) {
            self.fail(Finding::new(Code::ReportDiffers, difference));
            return Ok(());
        }
        node.system = Some(System {
            reported_at: now,
            image: order.image_digest,
            hostname: report.hostname.clone(),
            os: report.os.clone(),
            kernel: report.kernel.clone(),
            root_device: report.root_device.clone(),
            root_uuid: report.root_uuid.clone(),
            machine_id: report.machine_id.clone(),
            ssh_host_keys: report.ssh_host_keys.clone(),
        });
        (node.recall, node.unlock) = (job.recall_token, job.unlock_token);
        // Until now what it keeps was not its own: if the job had failed, no order without `keep` would have lost it unasked.
        node.own = Vec::from([order.uuids.keeping(&job.kept())]);
        if let (Some(finding), Some(job)) = (report.boot_order.finding(), self.machine.job.as_mut()) {
            job.findings.push(Finding::new(finding.code, cut(&finding.detail, FINDING_CHARS_MAX)));
        }
        self.succeed(State::Deployed);
        Ok(())
    }

    fn hindered(&mut self, finding: &Finding) -> Verdict {
        if self.live().is_none() {
            return Err(No::Ignore("the job has ended"));
        }
        self.fail(finding.clone());
        Ok(())
    }

    fn deadline_passed(&mut self, shown: Option<&Finding>) -> Verdict {
        let now = self.now;
        let Some(job) = self.live().filter(|job| job.deadline.is_some_and(|deadline| deadline <= now)) else {
            return Err(No::Ignore("nothing is overdue"));
        };
        if job.rescue.until.is_some_and(|until| until <= now) {
            // Nothing went wrong: its time is over.
            return self.cancelled();
        }
        let (kind, phase) = (job.kind, job.phase);
        let minutes = phases::limit(phase).unwrap_or(0) / 60_000;
        let detail = format!("no news in phase {} for {minutes} minutes", phase.name());
        let finding = match shown.filter(|_| phase <= Phase::Kernel) {
            Some(shown) => {
                Finding::new(shown.code, format!("{}; {detail}", cut(&shown.detail, FINDING_CHARS_MAX)))
            }
            None => Finding::new(overdue(kind, phase), detail),
        };
        self.fail(finding);
        Ok(())
    }

    fn server_started(&mut self) -> Verdict {
        let now = self.now;
        match self.live().filter(|job| job.deadline.is_some()) {
            Some(job) => {
                phases::renew(job, now);
                Ok(())
            }
            None => Err(No::Ignore("nothing has a deadline")),
        }
    }

    fn moved(&mut self, wanted: Move) -> Verdict {
        if self.live().is_some() {
            return Err(No::Refuse(HAS_JOB));
        }
        let node = &mut self.machine.node;
        let to = moves::target(wanted, node).map_err(No::Refuse)?;
        if matches!(wanted, Move::Accept | Move::Repair) {
            node.missing.clear();
            node.shut_out = None;
        }
        if wanted == Move::Repair && to != State::Deployed {
            (node.facts, node.facts_at) = (None, None);
        }
        node.broken_from = (wanted == Move::Break).then_some(node.state);
        if to != node.state {
            node.grant = None;
            self.set_state(to);
        }
        Ok(())
    }
}

/// The first `max` characters of a text from outside.
fn cut(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}
