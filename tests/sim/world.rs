//! The world: one server or several, some machines, the network between them, and what is to happen next.

mod end;
mod servers;

use crate::cluster::{Cluster, Faults};
use crate::database::Copy;
use crate::dhcp::{Sent, locked};
use crate::disk::Disk;
use crate::invariants::{Audit, Invariant, Violation, knows_all};
use crate::machine::{Effect, Hardware, Line, Machine, Timer};
use crate::mutants::Mutant;
use crate::network::Network;
use crate::operator::{self, Errand, Follow};
use crate::plan::{MINUTE, Plan, Size, What, clock};
use crate::rng::Rng;
use crate::server::{Answer, Ask, Input};
use crate::site::{Rules, Site, address, server_at};
use kaltstart_protocol::ids::Mac;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::Ipv4Addr;
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
/// How soon a server hears of what others store, and how soon it looks again when its database was out of reach.
const HEARS_WITHIN: u64 = 50;
const LOOKS_AGAIN: u64 = 1_000;
/// How long a server that could not start is left alone.
const START_AGAIN: u64 = 5_000;
/// In so many of a hundred cases what a machine says reaches two servers while the network is in trouble.
const ECHO: u64 = 20;
/// Lines of the log that are kept.
const LOG_MAX: usize = 4_000;

enum Event {
    Plan(usize),
    /// A packet or request reaches a server.
    In(usize, Input),
    /// A packet reaches a machine.
    Packet(Mac, Vec<u8>),
    Answer(u64, Answer),
    /// Whoever waits for that answer waits no longer.
    GiveUp(u64),
    /// The server's patience with a question that it holds back is over.
    Held(u64),
    Timer(usize, u64, Timer),
    PowerOn(usize),
    ServerUp(usize),
    /// A server looks what others have stored.
    Learn(usize),
    /// A server's way to the database is there again.
    Mended(usize),
    Deadlines,
    /// Operators look whether all has settled.
    Check,
}

enum Caller {
    Machine {
        machine: usize,
        boot: u64,
        line: Line,
        waits: bool,
    },
    Operator(Errand),
    /// The same from a machine once more, whose answer nobody hears.
    Echo {
        machine: usize,
    },
}

/// Everything there is.
pub(crate) struct World {
    plan: Plan,
    mutant: Option<Mutant>,
    cluster: Cluster,
    machines: Vec<Machine>,
    network: Network,
    audit: Audit,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    next: u64,
    timers: BTreeMap<(usize, u8), u64>,
    /// Which start of each machine its timers are of.
    boots: Vec<u64>,
    /// Who asked, and which server.
    calls: BTreeMap<u64, (usize, Caller)>,
    faults: Vec<Faults>,
    /// How long each server is down after its next crash, and cut off after its next cut.
    down_for: Vec<u64>,
    cut_for: Vec<u64>,
    stalled_until: u64,
    /// Servers that will learn of what others stored, and until when each does how late.
    learning: BTreeSet<usize>,
    late: Vec<(u64, u64)>,
    copy: Option<Copy>,
    restored: bool,
    /// A server has started, and may have written something.
    started: bool,
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
        let (seed, servers) = (plan.seed, plan.servers);
        let Size { nodes, laptops, .. } = plan.size;
        let rules = Rules { servers, lent: plan.size.lent(), losses: plan.losses };
        // What all worlds share is made before the first one has its time.
        let site = Site::get();
        crate::time::begin(seed);
        let mut rng = Rng::new(seed, 3);
        let mut machine = |index: usize| {
            let is_node = index < nodes;
            let name = if is_node { format!("n{}", index + 1) } else { format!("laptop-{index}") };
            let serial = format!("S{index}-0");
            let first = match rng.below(3) {
                0 => Disk::foreign(serial, 20, "pci/0"),
                _ => Disk::blank(serial, 20, "pci/0"),
            };
            let second = (index == 1).then(|| Disk::blank(format!("S{index}-1"), 40, "pci/1"));
            let disks = if is_node { std::iter::once(first).chain(second).collect() } else { Vec::new() };
            let hardware = Hardware { name, mac: mac(index), disks, changed: false, next_disk: None };
            Machine::new(hardware, is_node, Rng::new(seed, 100 + index as u64))
        };
        let machines = (0..nodes + laptops).map(&mut machine).collect();
        Self {
            cluster: Cluster::new(site, rules, mutant),
            machines,
            network: Network::new(seed),
            audit: Audit::new(servers == 1 && plan.only_servers_fail(), plan.losses),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next: 0,
            timers: BTreeMap::new(),
            boots: vec![0; nodes + laptops],
            calls: BTreeMap::new(),
            faults: vec![Faults::default(); servers],
            down_for: vec![0; servers],
            cut_for: vec![0; servers],
            stalled_until: 0,
            learning: BTreeSet::new(),
            late: vec![(0, 0); servers],
            copy: None,
            restored: false,
            started: false,
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
        self.start_all();
        for index in 0..self.plan.size.declared {
            let address = (index == 0).then_some("10.77.0.50");
            let name = self.machines[index].hardware.name.clone();
            self.operate(Errand::Other, operator::declare(&name, &mac(index).to_string(), address));
        }
        let items = self.plan.items.clone();
        for (index, item) in items.iter().enumerate() {
            self.at(item.at, Event::Plan(index));
        }
        for machine in 0..self.machines.len() {
            let after =
                Rng::new(self.plan.seed, 200 + machine as u64).between(500, self.plan.switched_on_within());
            self.at(after, Event::PowerOn(machine));
        }
        self.at(DEADLINES_EVERY, Event::Deadlines);
        let chaos = self.plan.size.chaos;
        self.at(chaos, Event::Check);
        while self.audit.violation.is_none() && !self.has_settled() {
            let Some(Reverse((at, number))) = self.queue.pop() else { break };
            crate::time::advance(at.max(crate::time::now()));
            if let Some(event) = self.events.remove(&number) {
                self.happen(event);
            }
            if crate::time::now() > chaos + SETTLED_AFTER {
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
            Event::In(server, input) => self.reach_server(server, input),
            Event::Packet(to, bytes) => self.reach_machine(to, &bytes),
            Event::Answer(id, answer) => self.answered(id, Some(answer)),
            Event::GiveUp(id) => {
                if let Some((server, _)) = self.calls.get(&id) {
                    self.cluster.servers[*server].hang_up(id);
                }
                self.answered(id, None);
            }
            Event::Held(id) => {
                if let Some((server, Caller::Machine { waits: true, .. })) = self.calls.get(&id)
                    && self.cluster.servers[*server].is_up()
                {
                    self.cluster.servers[*server].hang_up(id);
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
            Event::ServerUp(server) => self.start_server(server),
            Event::Learn(server) => self.learn(server),
            Event::Mended(server) => self.mend(server),
            Event::Deadlines => {
                self.at(DEADLINES_EVERY, Event::Deadlines);
                self.cluster.servers[0].meddle();
                if !self.cluster.has_due() {
                    // There is nothing to be found.
                    return;
                }
                let look = || {
                    if self.mutant == Some(Mutant::DeadlinesIgnored) {
                        vec![]
                    } else {
                        vec![Input::Deadlines]
                    }
                };
                self.turn((0..self.plan.servers).map(|server| (server, look())).collect());
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
            What::Operate { node, roll } => {
                self.operate(Errand::Look { node, roll }, operator::look(&mac(node).to_string()));
            }
            What::Rush { roll } => {
                for node in 0..self.plan.size.nodes {
                    self.operate(Errand::Look { node, roll }, operator::look(&mac(node).to_string()));
                }
                self.stalled_until = self.stalled_until.max(crate::time::now() + HASTE);
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
            What::Crash { server, writes, ms } => {
                self.down_for[server] = ms;
                match writes {
                    Some(writes) => self.faults[server].crash_in = Some(writes),
                    None => self.crash(server),
                }
            }
            What::Cut { server, within, ms } => {
                self.cut_for[server] = ms;
                self.faults[server].cut_in = within;
                if let Some(road) = self.cluster.database.road(server).filter(|_| within.is_none()) {
                    road.cut();
                    self.at(ms, Event::Mended(server));
                }
            }
            What::Part { server, ms } => self.network.part(server, crate::time::now() + ms),
            What::Lag { server, ms, most } => self.late[server] = (crate::time::now() + ms, most),
            What::Stall { ms } => self.stalled_until = crate::time::now() + ms,
            What::Clock { by } => {
                crate::time::set_wall_clock(by);
                self.audit.hour_is_lost();
            }
            What::Backup { plain } => {
                if self.cluster.eye().is_some() {
                    self.copy = Some(self.cluster.database.back_up(plain));
                }
            }
            What::Restore => {
                if let Some(copy) = self.copy.clone() {
                    self.audit.restored();
                    if self.mutant == Some(Mutant::OrdersOutliveCopy) {
                        // Somebody accepts it at once.
                        self.audit.accepts();
                    }
                    (0..self.plan.servers).for_each(|server| self.cluster.crash(server));
                    self.cluster.database.restore(&copy);
                    self.restored = true;
                    for server in 0..self.plan.servers {
                        self.at(5_000 * (server as u64 + 1), Event::ServerUp(server));
                    }
                }
            }
            What::Disk { node, foreign } => self.machines[node].hardware.next_disk = Some(foreign),
        }
    }

    /// Whose request that is, as the network tells them apart, and to which server.
    fn who(&self, id: u64) -> (u64, usize) {
        match self.calls.get(&id) {
            Some((server, Caller::Machine { machine, .. } | Caller::Echo { machine })) => {
                (*machine as u64, *server)
            }
            Some((server, Caller::Operator(_))) => (500, *server),
            None => (500, 0),
        }
    }

    /// Dice for now: what happened before says nothing about them.
    fn toss(&self, purpose: u64) -> Rng {
        Rng::new(self.plan.seed ^ (crate::time::now() << 20), purpose)
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
                Effect::Dhcp(bytes, to) => {
                    for server in 0..self.plan.servers {
                        if !to.is_broadcast() && to != address(server) {
                            continue;
                        }
                        for delay in self.network.packet(machine as u64, server) {
                            self.at(delay, Event::In(server, Input::Dhcp(bytes.clone())));
                        }
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
        let to = self.chosen(&errand, 0);
        self.call(Caller::Operator(errand), Ask { to, ..ask });
    }

    /// The server that an operator asks; a second time at once, another.
    fn chosen(&self, errand: &Errand, time: usize) -> Ipv4Addr {
        let node = match errand {
            Errand::Look { node, .. } | Errand::Check { node } | Errand::Order { node, .. } => *node,
            Errand::Other | Errand::Compare => self.plan.size.nodes,
        };
        let servers = self.plan.servers;
        let first = self.toss(6 + 10 * node as u64).below(servers as u64) as usize;
        address((first + time) % servers)
    }

    fn call(&mut self, caller: Caller, ask: Ask) {
        let (id, waits, server) = (self.next, ask.waits, server_at(ask.to));
        self.next += 1;
        if let Caller::Machine { machine, .. } = caller
            && ask.post
            && self.plan.servers > 1
            && self.network.is_in_trouble()
            && self.toss(7).percent(ECHO)
        {
            let to = address((server + 1) % self.plan.servers);
            self.call(Caller::Echo { machine }, Ask { to, ..ask.clone() });
        }
        self.calls.insert(id, (server, caller));
        let (who, _) = self.who(id);
        if let Some(delay) = self.network.request(who, server) {
            if waits {
                self.at(delay + TASK_WAIT, Event::Held(id));
            }
            self.at(delay, Event::In(server, Input::Ask(id, ask)));
        }
        self.at(if waits { TASK_LIMIT } else { CALL_LIMIT }, Event::GiveUp(id));
    }

    fn answered(&mut self, id: u64, answer: Option<Answer>) {
        match self.calls.remove(&id) {
            Some((_, Caller::Machine { machine, boot, line, .. })) if self.machines[machine].boot == boot => {
                let effects =
                    self.machines[machine].answer(line, answer.as_ref(), &mut self.audit, self.mutant);
                self.effects(machine, effects);
            }
            Some((_, Caller::Operator(errand))) => {
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
            Errand::Look { node, roll } if answer.is_good() => {
                operator::decide(node, &mac(node).to_string(), &view, roll)
            }
            Errand::Check { node } if answer.is_good() => operator::check(node, &view),
            Errand::Order { node, press, compares } => {
                let what = view["kind"].as_str().or(view["detail"].as_str()).unwrap_or_default().to_owned();
                self.say(&format!("order for n{}: {} {what}", node + 1, answer.status));
                operator::ordered(node, press, compares, answer, &view)
            }
            Errand::Compare if answer.is_good() => {
                self.audit.accepts();
                operator::compared(&view)
            }
            _ => Follow::Nothing,
        };
        match follow {
            Follow::Nothing => {}
            Follow::Press(machine) => self.press(machine),
            Follow::Ask(errand, ask) => {
                for time in 0..haste as usize {
                    if let Errand::Order { node, .. } = errand {
                        self.audit.ordered(&mac(node).to_string());
                    } else {
                        self.say(&format!("operator: {}", ask.path));
                    }
                    let ask = Ask { to: self.chosen(&errand, time), ..ask.clone() };
                    self.call(Caller::Operator(errand.clone()), ask);
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
        Timer::Resend(Line::Image) => 5,
    }
}
