//! A start of the agent: its own kernel arguments, DHCP client, gate and patience, around modelled disks.
//!
//! What the product's agent does with threads and sockets is a few states here: it says hello, asks for work, does it,
//! tells that it is done, and repeats each of these until there is an answer.

use crate::firmware::split;
use crate::machine::{Body, Line, Next, Timer};
use crate::server::{Answer, Ask};
use crate::system::{drive, hear};
use crate::work::{Done, Work};
use kaltstart_agent::backoff::{Policy, SERVER};
use kaltstart_agent::cmdline::{self, Settings};
use kaltstart_agent::dhcp_client::Client;
use kaltstart_agent::gate::Gate;
use kaltstart_agent::link::TASK_WAIT_SECONDS;
use kaltstart_agent::work::{JobTask, UNKNOWN_PAUSE};
use kaltstart_protocol::agent_api::{Directive, Hello, Mode, Report, Task, TaskRequest};
use kaltstart_protocol::ids::JobId;
use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::HostIdentity;
use serde::Serialize;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

/// As the agent's `work` has it: after a task that cannot be done.
const REFUSED: Policy = Policy { first: Duration::from_secs(5), cap: Duration::from_secs(60) };
/// As the agent's `work` has it, in milliseconds.
const ASK_EVERY: u64 = 1_000;
/// As the agent's `clock` has it, in milliseconds.
const CLOCK_TOLERANCE: u64 = 60_000;

/// What it talks about on its main line.
enum Stage {
    /// It has no address yet.
    Address,
    Hello,
    Ask,
    Work(Box<Work>),
    /// It tells that its work is done.
    Tell(Done),
}

/// Something that is said until it is answered.
#[derive(Clone)]
struct Saying {
    path: &'static str,
    body: Vec<u8>,
    waits: bool,
}

/// The site's servers, in the order in which they are asked.
///
/// As the agent's `link` has it, whose calls wait for their answers and so are told again.
struct Servers {
    all: Vec<Ipv4Addr>,
    /// Which of them is asked.
    at: usize,
}

/// How often what is said on a line was in vain.
#[derive(Default)]
struct Patience {
    /// The server that was asked last.
    asked: usize,
    /// Servers that were asked since the last pause.
    tried: usize,
    failures: u32,
}

impl Servers {
    /// Turns to the next server, as the last one does not answer; after how many milliseconds it is asked: at once,
    /// unless all were.
    fn turn(&mut self, patience: &mut Patience, random: u32) -> u64 {
        // The other line may have turned to it already.
        if self.at == patience.asked {
            self.at = (self.at + 1) % self.all.len();
        }
        patience.tried += 1;
        if patience.tried < self.all.len() {
            return 0;
        }
        patience.tried = 0;
        patience.failures += 1;
        u64::try_from(SERVER.delay(patience.failures, random).as_millis()).unwrap_or(u64::MAX)
    }
}

/// A started agent.
pub(crate) struct Agent {
    settings: Settings,
    servers: Servers,
    session: Secret,
    gate: Gate,
    dhcp: Client,
    stage: Stage,
    /// What is said on the main line.
    saying: Option<Saying>,
    patience: Patience,
    /// Reports that were not acknowledged, oldest first.
    reports: VecDeque<Report>,
    report_patience: Patience,
    reporting: bool,
    tried: Option<(JobId, u32)>,
    refusals: u32,
    /// What its clock shows, and when it was set to that in true time.
    clock: (Millis, u64),
    began: u64,
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("JSON")
}

impl Agent {
    /// Starts with these kernel arguments; none when they are no good.
    pub(crate) fn begin(arguments: &str, body: &mut Body<'_>) -> Option<Self> {
        let settings = cmdline::parse(arguments).ok()?;
        let all = settings.servers.iter().map(|url| Some(split(url)?.0)).collect::<Option<Vec<_>>>()?;
        let mut random = [0; Secret::RANDOM_BYTES];
        body.rng.fill(&mut random);
        let host = HostIdentity::of(&body.hardware.facts());
        let gate = Gate { grants: settings.grants, images: settings.images.clone(), host };
        let began = crate::time::now();
        // The kernel takes some seconds to start.
        let mut dhcp = Client::new(body.hardware.mac, body.rng.u32(), Duration::from_millis(began + 5_000));
        drive(&mut dhcp, body);
        body.say(format!("starts its agent to {}", settings.mode.name()));
        Some(Self {
            session: Secret::from_random("kss_", &random),
            clock: (Millis(settings.time * 1000), began),
            settings,
            servers: Servers { all, at: 0 },
            gate,
            dhcp,
            stage: Stage::Address,
            saying: None,
            patience: Patience::default(),
            reports: VecDeque::new(),
            report_patience: Patience::default(),
            reporting: false,
            tried: None,
            refusals: 0,
            began,
        })
    }

    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        self.dhcp.lease().map(|lease| lease.address)
    }

    /// What its clock shows.
    fn now(&self) -> Millis {
        self.clock.0.plus(crate::time::now() - self.clock.1)
    }

    fn uptime(&self) -> u64 {
        crate::time::now() - self.began
    }

    fn send(&mut self, line: Line, saying: Saying, body: &mut Body<'_>) {
        let bearer = (saying.path != "hello").then(|| self.session.expose().to_owned());
        let path = format!("/agent/v1/{}", saying.path);
        let Some(from) = self.address() else {
            // Between two leases: later.
            return body.timer(1_000, Timer::Resend(line));
        };
        let (to, waits) = (self.servers.all[self.servers.at], saying.waits);
        let patience = if line == Line::Reports { &mut self.report_patience } else { &mut self.patience };
        patience.asked = self.servers.at;
        body.ask(line, Ask { post: true, path, body: saying.body, bearer, from, to, tls: true, waits });
    }

    /// Says something on the main line, until it is answered.
    fn insist(&mut self, path: &'static str, message: Vec<u8>, body: &mut Body<'_>) {
        let saying = Saying { path, body: message, waits: path == "task" };
        self.patience = Patience::default();
        self.saying = Some(saying.clone());
        self.send(Line::Control, saying, body);
    }

    fn hello(&mut self, body: &mut Body<'_>) {
        self.stage = Stage::Hello;
        let hello = Hello {
            token: self.settings.token.clone(),
            session: self.session.clone(),
            mode: self.settings.mode,
            boot_id: format!("boot-{}", body.boot),
            agent_version: "simulated".into(),
            started_uptime_ms: 0,
            uptime_ms: self.uptime(),
            facts: body.hardware.facts(),
        };
        self.insist("hello", json(&hello), body);
    }

    fn ask_for_work(&mut self, body: &mut Body<'_>) {
        self.stage = Stage::Ask;
        self.insist("task", json(&TaskRequest { wait_seconds: TASK_WAIT_SECONDS }), body);
    }

    /// Asks for work after a pause.
    fn ask_later(&mut self, wait: u64, body: &mut Body<'_>) {
        self.stage = Stage::Ask;
        self.saying = None;
        body.timer(wait, Timer::Step);
    }

    /// A task that cannot be done, or an answer that is none.
    fn useless(&mut self, why: &str, body: &mut Body<'_>) {
        self.refusals += 1;
        body.say(format!("cannot go on: {why}"));
        let wait = REFUSED.delay(self.refusals, body.rng.u32()).as_millis();
        self.ask_later(u64::try_from(wait).unwrap_or(u64::MAX), body);
    }

    /// The server does not know this start.
    fn unknown(body: &mut Body<'_>) -> Next {
        body.say("is not known to the server, and starts anew");
        let pause = u64::try_from(UNKNOWN_PAUSE.as_millis()).unwrap_or(u64::MAX);
        Next::Restart(pause + body.rng.below(15_000))
    }

    pub(crate) fn timer(&mut self, timer: Timer, body: &mut Body<'_>) -> Next {
        match timer {
            Timer::Dhcp => drive(&mut self.dhcp, body),
            Timer::Resend(Line::Control) => {
                if let Some(saying) = self.saying.clone() {
                    self.send(Line::Control, saying, body);
                }
            }
            Timer::Resend(Line::Reports) => self.report(body),
            Timer::Resend(Line::Image) => self.fetch(body),
            Timer::Restart => {}
            Timer::Step => match &mut self.stage {
                Stage::Ask => self.ask_for_work(body),
                Stage::Work(work) => {
                    self.reports.extend(work.step(body));
                    self.fetch(body);
                    self.go_on(body);
                }
                Stage::Address | Stage::Hello | Stage::Tell(_) => {}
            },
        }
        Next::Same
    }

    pub(crate) fn dhcp(&mut self, packet: &[u8], body: &mut Body<'_>) -> Next {
        let is_new = hear(&mut self.dhcp, packet, body);
        if is_new && matches!(self.stage, Stage::Address) {
            self.hello(body);
        }
        Next::Same
    }

    /// Sends the first report that waits.
    fn report(&mut self, body: &mut Body<'_>) {
        if let Some(report) = self.reports.front() {
            self.reporting = true;
            let (path, message) = ("report", json(report));
            self.send(Line::Reports, Saying { path, body: message, waits: false }, body);
        }
    }

    /// Fetches what the next write needs, if it needs anything.
    fn fetch(&mut self, body: &mut Body<'_>) {
        let from = self.address();
        let Stage::Work(work) = &mut self.stage else { return };
        match (work.place(), from) {
            (None, _) => {}
            (Some(_), None) => body.timer(1_000, Timer::Resend(Line::Image)),
            (Some((to, path)), Some(from)) => {
                let (bearer, sent) = (None, Vec::new());
                let ask = Ask { post: false, path, body: sent, bearer, from, to, tls: false, waits: false };
                body.ask(Line::Image, ask);
            }
        }
    }

    /// After a step of its work, or a report: what comes next.
    fn go_on(&mut self, body: &mut Body<'_>) {
        if !self.reporting {
            self.report(body);
        }
        let Stage::Work(work) = &mut self.stage else { return };
        if !work.is_over() {
            return;
        }
        if !self.reports.is_empty() {
            return;
        }
        match work.outcome() {
            Some(done) => {
                let (path, message) = match &done {
                    Done::Installed(installed) => ("installed", json(installed)),
                    Done::Erased(erased) => ("erased", json(erased)),
                };
                self.stage = Stage::Tell(done);
                self.insist(path, message, body);
            }
            // It failed, or was told to stop.
            None => self.ask_for_work(body),
        }
    }

    pub(crate) fn answer(&mut self, line: Line, answer: Option<&Answer>, body: &mut Body<'_>) -> Next {
        if answer.is_some() {
            let (server, own) = (crate::time::wall(), self.now());
            if server.since(own).max(own.since(server)) > CLOCK_TOLERANCE {
                self.clock = (server, crate::time::now());
            }
        }
        // Later, by the agent's `link`: no answer, and what says so.
        let answer = answer.filter(|answer| answer.status < 500 && !matches!(answer.status, 408 | 425 | 429));
        match line {
            Line::Control => self.control(answer, body),
            Line::Reports => self.reported(answer, body),
            Line::Image => {
                if let Stage::Work(work) = &mut self.stage {
                    self.reports.extend(work.fetched(answer, body));
                    self.go_on(body);
                }
                Next::Same
            }
        }
    }

    fn control(&mut self, answer: Option<&Answer>, body: &mut Body<'_>) -> Next {
        if self.saying.is_none() {
            return Next::Same;
        }
        let Some(answer) = answer else {
            let wait = self.servers.turn(&mut self.patience, body.rng.u32());
            body.timer(wait, Timer::Resend(Line::Control));
            return Next::Same;
        };
        if answer.status == 401 {
            return Self::unknown(body);
        }
        self.saying = None;
        match &mut self.stage {
            Stage::Address | Stage::Work(_) => Next::Same,
            Stage::Hello if answer.is_good() => {
                self.ask_for_work(body);
                Next::Same
            }
            Stage::Hello => Self::unknown(body),
            Stage::Ask => self.tasked(answer, body),
            Stage::Tell(done) => {
                let directive = serde_json::from_slice(&answer.body).ok();
                match (&done, directive) {
                    (Done::Installed(_), Some(Directive::Continue)) => {
                        done.again(body);
                        body.say("is installed");
                        return Next::Restart(5_000);
                    }
                    (Done::Erased(_), Some(Directive::Continue)) => body.say("is erased"),
                    _ => body.say("is told that its work does not count"),
                }
                self.ask_for_work(body);
                Next::Same
            }
        }
    }

    fn tasked(&mut self, answer: &Answer, body: &mut Body<'_>) -> Next {
        let task = match serde_json::from_slice::<Task>(&answer.body) {
            Ok(task) if answer.is_good() => task,
            _ => {
                self.useless(&format!("status {}", answer.status), body);
                return Next::Same;
            }
        };
        let task = match task {
            Task::Wait => {
                self.refusals = 0;
                self.ask_later(ASK_EVERY, body);
                return Next::Same;
            }
            Task::Failed { finding } => {
                body.say(format!("is told {finding}"));
                self.refusals = 0;
                self.ask_later(ASK_EVERY, body);
                return Next::Same;
            }
            Task::Reboot { .. } => {
                body.say("is told to start again");
                return Next::Restart(5_000);
            }
            Task::Install(task) => JobTask::Install(task),
            Task::Erase(task) => JobTask::Erase(task),
            Task::Rescue(_) | Task::BurnIn(_) => {
                self.useless("a task that is not simulated", body);
                return Next::Same;
            }
        };
        let (job, attempt) = task.start();
        if self.settings.mode != Mode::Install {
            self.useless("this start may only look", body);
        } else if self.tried.as_ref().is_some_and(|(tried, times)| (tried, *times) == (job, attempt)) {
            self.useless("it was tried already", body);
        } else {
            self.refusals = 0;
            self.tried = Some((job.clone(), attempt));
            let (work, reports) = Work::begin(task, &self.gate, self.now(), body);
            self.reports.extend(reports);
            self.stage = Stage::Work(Box::new(work));
            self.go_on(body);
        }
        Next::Same
    }

    fn reported(&mut self, answer: Option<&Answer>, body: &mut Body<'_>) -> Next {
        self.reporting = false;
        let Some(answer) = answer else {
            let wait = self.servers.turn(&mut self.report_patience, body.rng.u32());
            body.timer(wait, Timer::Resend(Line::Reports));
            self.reporting = true;
            return Next::Same;
        };
        self.report_patience = Patience::default();
        self.reports.pop_front();
        let directive = serde_json::from_slice::<Directive>(&answer.body).ok();
        let stop = match (answer.status, directive) {
            (401, _) => {
                if let Stage::Work(work) = &mut self.stage {
                    work.stop(body);
                }
                return Self::unknown(body);
            }
            (200..300, Some(Directive::Continue)) => None,
            (_, Some(Directive::Stop { reason })) => Some(reason),
            (status, _) => Some(format!("status {status}")),
        };
        if let Some(reason) = stop {
            body.say(format!("is told to stop: {reason}"));
            self.reports.clear();
            if let Stage::Work(work) = &mut self.stage {
                work.stop(body);
            }
        }
        self.go_on(body);
        Next::Same
    }
}
