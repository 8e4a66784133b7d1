//! The world: one server, some machines, the network between them, and what is to happen next.

mod end;

use crate::dhcp::{Sent, locked};
use crate::disk::Disk;
use crate::invariants::{Audit, Invariant, Violation};
use crate::machine::{Effect, Hardware, Line, Machine, Timer};
use crate::mutants::Mutant;
use crate::network::Network;
use crate::operator::{self, Errand, Follow};
use crate::plan::{CHAOS, LAPTOPS, MINUTE, Plan, SERVERS, What, clock};
use crate::rng::Rng;
use crate::server::{Answer, Ask, Copy, Input, Server};
use kaltstart_protocol::ids::Mac;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Once nothing fails any more, all must be settled after so long.
const SETTLED_AFTER: u64 = 240 * MINUTE;
/// What reaches the server within so many milliseconds is decided at once.
const AT_ONCE: u64 = 20;
/// How often the server looks at deadlines.
const DEADLINES_EVERY: u64 = 20_000;
/// How long a client waits for an answer that is not held back, and for one that is.
const CALL_LIMIT: u64 = 20_000;
const TASK_LIMIT: u64 = 50_000;
/// How long a server may hold an answer back.
const TASK_WAIT: u64 = 30_000;
/// How long the server takes when somebody is in haste, in milliseconds.
const HASTE: u64 = 4_000;
/// Lines of the log that are kept.
const LOG_MAX: usize = 4_000;

enum Event {
    Plan(usize),
    /// A packet or request reaches the server.
    In(Input),
    /// A packet reaches a machine.
    Packet(Mac, Vec<u8>),
    Answer(u64, Answer),
    /// Whoever waits for that answer waits no longer.
    GiveUp(u64),
    /// The server's patience with a question that it holds back is over.
    Held(u64),
    Timer(usize, u64, Timer),
    PowerOn(usize),
    ServerUp,
    Deadlines,
    /// Operators look whether all has settled.
    Check,
}

enum Caller {
    Machine { machine: usize, boot: u64, line: Line, waits: bool },
    Operator(Errand),
}

/// Everything there is.
pub(crate) struct World {
    plan: Plan,
    mutant: Option<Mutant>,
    server: Server,
    machines: Vec<Machine>,
    network: Network,
    audit: Audit,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    next: u64,
    timers: BTreeMap<(usize, u8), u64>,
    /// Which start of each machine its timers are of.
    boots: Vec<u64>,
    calls: BTreeMap<u64, Caller>,
    crash_in: Option<u32>,
    down_for: u64,
    stalled_until: u64,
    copy: Option<Copy>,
    restored: bool,
    calm: bool,
    log: Vec<String>,
    verbose: bool,
    _alone: MutexGuard<'static, ()>,
}

/// What came of a world.
pub(crate) struct Report {
    pub(crate) violation: Option<Violation>,
    pub(crate) log: Vec<String>,
    pub(crate) counts: BTreeMap<String, u64>,
    /// True time when it ended.
    pub(crate) ended: u64,
}

/// Lives through a plan.
pub(crate) fn live(plan: &Plan, mutant: Option<Mutant>, verbose: bool) -> Report {
    // The clock is the process's.
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    World::new(plan.clone(), mutant, verbose, alone).run()
}

fn mac(index: usize) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, index as u8 + 1])
}

impl World {
    fn new(plan: Plan, mutant: Option<Mutant>, verbose: bool, alone: MutexGuard<'static, ()>) -> Self {
        let seed = plan.seed;
        crate::time::begin(seed);
        let mut rng = Rng::new(seed, 3);
        let mut machine = |index: usize| {
            let is_server = index < SERVERS;
            let name = if is_server { format!("n{}", index + 1) } else { format!("laptop-{index}") };
            let serial = format!("S{index}-0");
            let first = match rng.below(3) {
                0 => Disk::foreign(serial, 20, "pci/0"),
                _ => Disk::blank(serial, 20, "pci/0"),
            };
            let second = (index == 1).then(|| Disk::blank(format!("S{index}-1"), 40, "pci/1"));
            let disks = if is_server { std::iter::once(first).chain(second).collect() } else { Vec::new() };
            let hardware = Hardware { name, mac: mac(index), disks, changed: false, next_disk: None };
            Machine::new(hardware, is_server, Rng::new(seed, 100 + index as u64))
        };
        let machines = (0..SERVERS + LAPTOPS).map(&mut machine).collect();
        Self {
            server: Server::new(mutant),
            machines,
            network: Network::new(seed),
            audit: Audit::new(plan.only_the_server_fails()),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next: 0,
            timers: BTreeMap::new(),
            boots: vec![0; SERVERS + LAPTOPS],
            calls: BTreeMap::new(),
            crash_in: None,
            down_for: 0,
            stalled_until: 0,
            copy: None,
            restored: false,
            calm: false,
            log: Vec::new(),
            verbose,
            plan,
            mutant,
            _alone: alone,
        }
    }

    fn say(&mut self, text: &str) {
        let line = format!("{} {text}", clock(crate::time::now()));
        if self.verbose {
            println!("{line}");
        }
        if self.log.len() >= LOG_MAX {
            self.log.drain(..LOG_MAX / 2);
        }
        self.log.push(line);
    }

    fn at(&mut self, after: u64, event: Event) {
        let (at, number) = (crate::time::now() + after, self.next);
        self.next += 1;
        self.queue.push(Reverse((at, number)));
        self.events.insert(number, event);
    }

    fn run(mut self) -> Report {
        self.start_server();
        for index in 0..SERVERS - 1 {
            let address = (index == 0).then_some("10.77.0.50");
            let name = self.machines[index].hardware.name.clone();
            self.operate(Errand::Other, operator::declare(&name, &mac(index).to_string(), address));
        }
        let items = self.plan.items.clone();
        for (index, item) in items.iter().enumerate() {
            self.at(item.at, Event::Plan(index));
        }
        for machine in 0..self.machines.len() {
            let after = Rng::new(self.plan.seed, 200 + machine as u64).between(500, 4 * MINUTE);
            self.at(after, Event::PowerOn(machine));
        }
        self.at(DEADLINES_EVERY, Event::Deadlines);
        self.at(CHAOS, Event::Check);
        while self.audit.violation.is_none() && !self.has_settled() {
            let Some(Reverse((at, number))) = self.queue.pop() else { break };
            crate::time::advance(at.max(crate::time::now()));
            if let Some(event) = self.events.remove(&number) {
                self.happen(event);
            }
            if crate::time::now() > CHAOS + SETTLED_AFTER {
                let open = self.unsettled().join("; ");
                self.audit.violate(Invariant::Settled, format!("hours after the last fault: {open}"));
            }
        }
        if self.audit.violation.is_none() {
            self.check_goals();
        }
        if let Some(violation) = self.audit.violation.clone() {
            self.say(&format!("VIOLATION {violation}"));
        }
        let ended = crate::time::now();
        Report { violation: self.audit.violation.take(), log: self.log, counts: self.audit.counts, ended }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Plan(index) => self.planned(self.plan.items[index].what),
            Event::In(input) => self.reach_server(input),
            Event::Packet(to, bytes) => self.reach_machine(to, &bytes),
            Event::Answer(id, answer) => self.answered(id, Some(answer)),
            Event::GiveUp(id) => {
                self.server.hang_up(id);
                self.answered(id, None);
            }
            Event::Held(id) => {
                if matches!(self.calls.get(&id), Some(Caller::Machine { waits: true, .. }))
                    && self.server.is_up()
                {
                    self.server.hang_up(id);
                    let body = br#"{"kind":"wait"}"#.to_vec();
                    self.send_answer(id, Answer { status: 200, body });
                }
            }
            Event::Timer(machine, number, timer) => {
                if self.timers.get(&(machine, slot(timer))) == Some(&number) {
                    let effects = self.machines[machine].timer(timer, &mut self.audit, self.mutant);
                    self.effects(machine, effects);
                }
            }
            Event::PowerOn(machine) => {
                if self.machines[machine].is_off() {
                    self.press(machine);
                }
            }
            Event::ServerUp => self.start_server(),
            Event::Deadlines => {
                self.at(DEADLINES_EVERY, Event::Deadlines);
                self.server.look_at_deadlines();
                self.server.meddle();
                self.turn(Vec::new());
            }
            Event::Check => self.check(),
        }
    }

    fn planned(&mut self, what: What) {
        if self.calm {
            return;
        }
        if !matches!(what, What::Operate { .. }) {
            self.say(&format!("{what:?}"));
        }
        match what {
            What::Operate { server, roll } => {
                self.operate(Errand::Look { server, roll }, operator::look(&mac(server).to_string()));
            }
            What::Press { machine } => self.press(machine),
            What::PowerCut { machine, ms } => {
                self.machines[machine].switch_off();
                self.effects(machine, Vec::new());
                self.at(ms, Event::PowerOn(machine));
            }
            What::Network { ms, loss, double, late } => {
                self.network.trouble(crate::time::now() + ms, loss, double, late);
            }
            What::Crash { writes, ms } => {
                self.down_for = ms;
                match writes {
                    Some(writes) => self.crash_in = Some(writes),
                    None => self.crash(),
                }
            }
            What::Stall { ms } => self.stalled_until = crate::time::now() + ms,
            What::Clock { by } => {
                crate::time::set_wall_clock(by);
                self.audit.hour_is_lost();
            }
            What::Backup { plain } => {
                if self.server.is_up() {
                    self.copy = Some(self.server.back_up(plain));
                }
            }
            What::Restore => {
                if let Some(copy) = self.copy.clone() {
                    self.server.crash();
                    self.server.restore(&copy);
                    self.restored = true;
                    self.at(5_000, Event::ServerUp);
                }
            }
            What::Disk { server, foreign } => self.machines[server].hardware.next_disk = Some(foreign),
        }
    }

    // The server.

    fn start_server(&mut self) {
        if self.server.is_up() {
            return;
        }
        self.use_addresses();
        self.server.start();
        self.say(if self.restored { "the server starts with a copy" } else { "the server starts" });
        let restored = std::mem::take(&mut self.restored);
        if let Some(app) = self.server.app() {
            self.audit.started(app, restored);
        }
        self.turn(Vec::new());
    }

    fn crash(&mut self) {
        self.say("the server crashes");
        self.server.crash();
        let after = self.down_for.max(1);
        self.at(after, Event::ServerUp);
    }

    /// What reaches the server now, and what else does at the same time.
    fn reach_server(&mut self, input: Input) {
        let now = crate::time::now();
        if self.stalled_until > now {
            self.at(self.stalled_until - now, Event::In(input));
            return;
        }
        let mut inputs = vec![input];
        let mut later = Vec::new();
        while let Some(Reverse((at, number))) =
            self.queue.peek().copied().filter(|Reverse((at, _))| *at <= now + AT_ONCE)
        {
            self.queue.pop();
            match self.events.remove(&number) {
                Some(Event::In(input)) => inputs.push(input),
                Some(other) => {
                    self.events.insert(number, other);
                    later.push(Reverse((at, number)));
                }
                None => {}
            }
        }
        self.queue.extend(later);
        self.turn(inputs);
    }

    fn turn(&mut self, inputs: Vec<Input>) {
        let ids: Vec<u64> = inputs
            .iter()
            .filter_map(|input| if let Input::Ask(id, _) = input { Some(*id) } else { None })
            .collect();
        if !self.server.is_up() {
            // Nobody listens: that is told at once.
            for id in ids {
                self.at(200, Event::GiveUp(id));
            }
            return;
        }
        self.use_addresses();
        let output = self.server.turn(inputs, &mut self.crash_in);
        let success = output.answers.iter().any(|(_, answer)| answer.is_good());
        for sent in &output.replies {
            self.audit.replied(sent, &locked(&self.server.neighbours.used));
        }
        for (id, answer) in &output.answers {
            if let Some(Caller::Machine { machine, waits: true, .. }) = self.calls.get(id) {
                let node = self.machines[*machine].hardware.mac.to_string();
                self.audit.tasked(&node, &answer.body);
            }
        }
        if let Some(app) = self.server.app() {
            self.audit.look(app);
            if success {
                self.audit.acknowledge();
            }
        }
        if success {
            self.audit.acknowledge_at(output.answered_for);
        }
        output.answers.into_iter().for_each(|(id, answer)| self.send_answer(id, answer));
        output.replies.into_iter().for_each(|sent| self.send_reply(sent));
        if output.crashed {
            self.say("the server crashes between a write and what follows");
            // Connections are reset, those of questions that it held back, too.
            let open: Vec<u64> = self.calls.keys().copied().collect();
            for id in open {
                self.at(500, Event::GiveUp(id));
            }
            let after = self.down_for.max(1);
            self.at(after, Event::ServerUp);
        }
    }

    /// Tells who would answer for which address.
    fn use_addresses(&self) {
        let used: BTreeSet<_> = self.machines.iter().filter_map(Machine::address).collect();
        *locked(&self.server.neighbours.used) = used;
    }

    fn send_answer(&mut self, id: u64, answer: Answer) {
        let who = self.who(id);
        if let Some(delay) = self.network.request(who) {
            self.at(delay, Event::Answer(id, answer));
        }
    }

    fn send_reply(&mut self, sent: Sent) {
        let from = 1_000 + u64::from(sent.to.0[5]);
        for delay in self.network.packet(from) {
            self.at(delay, Event::Packet(sent.to, sent.bytes.clone()));
        }
    }

    /// Whose request that is, as the network tells them apart.
    fn who(&self, id: u64) -> u64 {
        match self.calls.get(&id) {
            Some(Caller::Machine { machine, .. }) => *machine as u64,
            _ => 500,
        }
    }

    // Machines.

    fn press(&mut self, machine: usize) {
        let effects = self.machines[machine].switch_on(&mut self.audit, self.mutant);
        self.effects(machine, effects);
    }

    fn reach_machine(&mut self, to: Mac, bytes: &[u8]) {
        let Some(machine) = self.machines.iter().position(|machine| machine.hardware.mac == to) else {
            return;
        };
        let effects = self.machines[machine].dhcp(bytes, &mut self.audit, self.mutant);
        self.effects(machine, effects);
    }

    fn effects(&mut self, machine: usize, effects: Vec<Effect>) {
        let boot = self.machines[machine].boot;
        if std::mem::replace(&mut self.boots[machine], boot) != boot {
            self.timers.retain(|(of, _), _| *of != machine);
        }
        for effect in effects {
            match effect {
                Effect::Say(text) => {
                    let name = self.machines[machine].hardware.name.clone();
                    self.say(&format!("{name} {text}"));
                }
                Effect::Dhcp(bytes) => {
                    for delay in self.network.packet(machine as u64) {
                        self.at(delay, Event::In(Input::Dhcp(bytes.clone())));
                    }
                }
                Effect::Timer(after, timer) => {
                    let number = self.next;
                    self.at(after, Event::Timer(machine, number, timer));
                    self.timers.insert((machine, slot(timer)), number);
                }
                Effect::Ask(line, ask) => {
                    if ask.waits && self.machines[machine].hardware.change_disk() {
                        self.say(&format!(
                            "{} has another disk",
                            self.machines[machine].hardware.name.clone()
                        ));
                    }
                    let boot = self.machines[machine].boot;
                    let caller = Caller::Machine { machine, boot, line, waits: ask.waits };
                    self.call(caller, ask);
                }
            }
        }
    }

    // Requests.

    fn operate(&mut self, errand: Errand, ask: Ask) {
        self.call(Caller::Operator(errand), ask);
    }

    fn call(&mut self, caller: Caller, ask: Ask) {
        let (id, waits) = (self.next, ask.waits);
        self.next += 1;
        self.calls.insert(id, caller);
        let who = self.who(id);
        if let Some(delay) = self.network.request(who) {
            if waits {
                self.at(delay + TASK_WAIT, Event::Held(id));
            }
            self.at(delay, Event::In(Input::Ask(id, ask)));
        }
        self.at(if waits { TASK_LIMIT } else { CALL_LIMIT }, Event::GiveUp(id));
    }

    fn answered(&mut self, id: u64, answer: Option<Answer>) {
        match self.calls.remove(&id) {
            Some(Caller::Machine { machine, boot, line, .. }) if self.machines[machine].boot == boot => {
                let effects =
                    self.machines[machine].answer(line, answer.as_ref(), &mut self.audit, self.mutant);
                self.effects(machine, effects);
            }
            Some(Caller::Operator(errand)) => {
                if let Some(answer) = answer {
                    self.operated(errand, &answer);
                }
            }
            _ => {}
        }
    }

    fn operated(&mut self, errand: Errand, answer: &Answer) {
        let view: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let haste = match errand {
            Errand::Look { roll, .. } => operator::haste(roll),
            _ => 1,
        };
        let follow = match errand {
            Errand::Look { server, roll } if answer.is_good() => {
                operator::decide(server, &mac(server).to_string(), &view, roll)
            }
            Errand::Check { server } if answer.is_good() => operator::check(server, &view),
            Errand::Order { server, press } => {
                let what = view["kind"].as_str().or(view["detail"].as_str()).unwrap_or_default().to_owned();
                self.say(&format!("order for n{}: {} {what}", server + 1, answer.status));
                operator::ordered(server, press, answer, &view)
            }
            _ => Follow::Nothing,
        };
        match follow {
            Follow::Nothing => {}
            Follow::Press(machine) => self.press(machine),
            Follow::Ask(errand, ask) => {
                for _ in 0..haste {
                    if let Errand::Order { server, .. } = errand {
                        self.audit.ordered(&mac(server).to_string());
                    } else {
                        self.say(&format!("operator: {}", ask.path));
                    }
                    self.operate(errand.clone(), ask.clone());
                }
                if haste > 1 && !self.calm {
                    // The server is slow just now: what the machine says meanwhile comes with it.
                    self.stalled_until = self.stalled_until.max(crate::time::now() + HASTE);
                }
            }
        }
    }
}

/// Timers of the same slot take each other's place.
fn slot(timer: Timer) -> u8 {
    match timer {
        Timer::Dhcp => 0,
        Timer::Step => 1,
        Timer::Resend(Line::Control) => 2,
        Timer::Resend(Line::Reports) => 3,
        Timer::Restart => 4,
    }
}
