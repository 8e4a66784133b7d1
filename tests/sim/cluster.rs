//! The servers and their database, and the turns in which they decide.
//!
//! What is asked at the same time is decided at the same time, whichever server is asked: each request goes on to its
//! next write before any of these writes is made, so that decisions rest on what others change. Then one server after
//! the other writes. Between a write and what follows from it a server may crash, or hear no more of its database.

use crate::database::{Database, Road};
use crate::invariants::label;
use crate::mutants::{self, Mutant};
use crate::rng::Rng;
use crate::server::{Answer, Input, Open, Output, Running, Server};
use crate::site::{Rules, Site};
use kaltstart_protocol::dhcp::Message;
use kaltstart_server::net::dhcp::{Link, Packet};
use kaltstart_server::store::Store;
use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};

/// More rounds than any request needs: one that goes on hangs.
const ROUNDS_MAX: u32 = 200;
/// Port of DHCP clients.
const CLIENT_PORT: u16 = 68;
/// In so many of a hundred cases a server learns what others wrote between its own decision and its write.
const LEARNS_BETWEEN: u64 = 30;

/// What a server is to suffer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// It crashes when it has written so many times.
    pub(crate) crash_in: Option<u32>,
    /// Its way to the database is cut when it is about to write for so many times.
    pub(crate) cut_in: Option<(u32, Cut)>,
}

/// What is cut of a write and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Nothing is stored.
    Write,
    /// It is stored, and the server does not hear of it.
    Answer,
}

/// All servers, and what they remember.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
    pub(crate) database: Database,
    mutant: Option<Mutant>,
}

impl Cluster {
    /// Servers that were never started.
    pub(crate) fn new(site: &'static Site, rules: Rules, mutant: Option<Mutant>) -> Self {
        let database = Database::new(rules.servers, mutant);
        let server = |number| Server::new(number, site, rules, mutant);
        Self { servers: (0..rules.servers).map(server).collect(), database, mutant }
    }

    /// Sees what is stored; none while the only server is down.
    pub(crate) fn eye(&self) -> Option<&Store> {
        match self.database.eye() {
            Some(eye) => Some(eye),
            None => self.servers[0].app().map(|app| &app.store),
        }
    }

    /// Whether a look at deadlines would find any, or a held question may have an answer.
    pub(crate) fn has_due(&self) -> bool {
        let due = |store: &Store| !store.due(Some(crate::time::wall())).expect("readable").is_empty();
        self.eye().is_some_and(due) || self.servers.iter().any(Server::has_news)
    }

    /// Starts a server, as `serve` does; false when its database cannot be reached.
    pub(crate) fn start(&mut self, server: usize) -> bool {
        self.servers[server].start(&self.database)
    }

    /// Ends a server at once; what is stored stays.
    pub(crate) fn crash(&mut self, server: usize) {
        self.servers[server].crash(&self.database);
    }

    /// Lets `inputs` come to their servers at once. What one writes that crashes then is durable, and nothing that rests
    /// on it has left. What leaves, by the number of the server.
    pub(crate) fn turn(
        &mut self,
        inputs: BTreeMap<usize, Vec<Input>>,
        faults: &mut [Faults],
        dice: &mut Rng,
    ) -> Vec<(usize, Output)> {
        let mut turns: Vec<Turn> =
            inputs.into_iter().filter_map(|(number, inputs)| self.begin(number, inputs, faults)).collect();
        let mut outputs = Vec::new();
        let mut rounds = 0;
        loop {
            let (over, going): (Vec<_>, Vec<_>) = turns.into_iter().partition(Turn::is_over);
            outputs.extend(over.into_iter().map(|turn| (turn.number, self.end(turn))));
            turns = going;
            if turns.is_empty() {
                return outputs;
            }
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "a request is never answered");
            let decided = turns.iter_mut().map(|turn| {
                let _entered = self.servers[turn.number].runtime.enter();
                turn.decide(self.database.road(turn.number), &mut faults[turn.number])
            });
            let gates: Vec<Gate> = decided.collect();
            let mut decided: Vec<_> = turns.iter_mut().zip(gates).collect();
            let first = dice.below(decided.len() as u64) as usize;
            decided.rotate_left(first);
            let mut others_wrote = false;
            let mut hidden = Vec::new();
            for (turn, gate) in decided {
                let server = &self.servers[turn.number];
                if others_wrote && self.mutant == Some(Mutant::CountedOnce) {
                    hidden.extend(mutants::hide_losses(&server.runtime, self.database.eye()));
                }
                let _entered = server.runtime.enter();
                if others_wrote && dice.percent(LEARNS_BETWEEN) {
                    turn.up.learn();
                    turn.newest = turn.up.newest_event();
                }
                let crash_in = &mut faults[turn.number].crash_in;
                others_wrote |=
                    turn.settle(gate, server, (self.mutant, self.database.road(turn.number)), crash_in);
            }
            if !hidden.is_empty() {
                mutants::show_losses(&self.servers[0].runtime, self.database.eye(), hidden);
            }
        }
    }

    fn begin(&mut self, number: usize, inputs: Vec<Input>, faults: &[Faults]) -> Option<Turn> {
        let mut up = self.servers[number].up.take()?;
        let _entered = self.servers[number].runtime.enter();
        let loses = self.mutant == Some(Mutant::AnswerBeforeCommit) && faults[number].crash_in.is_some();
        let before = loses.then(|| self.database.files());
        let (mut open, mut packets) = (up.woken(), Vec::new());
        let mut changes = false;
        for input in inputs {
            match input {
                Input::Ask(id, ask) => {
                    changes |= ask.post;
                    open.push(up.request(id, ask));
                }
                Input::Deadlines => open.push(up.look_at_deadlines()),
                Input::Dhcp(bytes) => {
                    packets
                        .extend(Message::decode(&bytes).map(|message| Packet { message, port: CLIENT_PORT }));
                }
            }
        }
        changes |= !packets.is_empty();
        Some(Turn {
            number,
            up,
            open,
            packets,
            changes,
            newest: 0,
            answered: Vec::new(),
            output: Output::default(),
            idle: 0,
            before,
        })
    }

    fn end(&mut self, turn: Turn) -> Output {
        let Turn { number, mut up, mut open, output, before, .. } = turn;
        up.held.append(&mut open);
        self.servers[number].up = Some(up);
        if output.crashed {
            self.crash(number);
            if let Some(before) = before {
                self.database.set_back(&before);
            }
        }
        output
    }
}

impl Drop for Cluster {
    /// The parts of a server know each other, and would stay for ever.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            (0..self.servers.len()).for_each(|server| self.crash(server));
        }
    }
}

/// What one server does in a turn.
struct Turn {
    number: usize,
    up: Running,
    open: Vec<Open>,
    packets: Vec<Packet>,
    /// Whether it was asked for anything that may change what is stored.
    changes: bool,
    /// The newest event that it knew before it wrote.
    newest: i64,
    /// Answers that have not left yet.
    answered: Vec<(u64, Answer)>,
    output: Output,
    idle: u32,
    before: Option<Vec<(String, Vec<u8>)>>,
}

impl Turn {
    fn is_over(&self) -> bool {
        let asked = !(self.open.is_empty() && self.packets.is_empty());
        !asked || self.idle >= 2 || self.output.crashed
    }

    /// Goes on to the next writes, which wait as long as the gate lives: none is made so early that more could follow.
    fn decide(&mut self, road: Option<&Arc<Road>>, faults: &mut Faults) -> Gate {
        self.newest = self.up.newest_event();
        let mut cut = None;
        if let (Some(road), Some((left, what)), true) = (road, &mut faults.cut_in, self.changes) {
            *left = left.saturating_sub(1);
            cut = (*left == 0).then_some((road, *what));
        }
        let gate = Gate::close(&self.up.app.store, road);
        if !self.packets.is_empty() {
            let link = self.up.wire.clone() as Arc<dyn Link>;
            self.up.dhcp.process(std::mem::take(&mut self.packets), &link);
            self.up.door.tell_early();
        }
        self.answered = answers(&mut self.open);
        if let Some((road, cut)) = cut {
            faults.cut_in = None;
            match cut {
                Cut::Write => road.cut(),
                Cut::Answer => road.cut_before_the_answer(),
            }
            self.output.cut = true;
        }
        gate
    }

    /// Opens the gate, waits until what was decided is durable, and lets go what rests on it; tells whether anything was
    /// written.
    fn settle(
        &mut self,
        gate: Gate,
        server: &Server,
        (mutant, road): (Option<Mutant>, Option<&Arc<Road>>),
        crash_in: &mut Option<u32>,
    ) -> bool {
        let Self { up, open, answered, output, newest, .. } = self;
        drop(gate);
        up.settle(&server.runtime, &server.neighbours, road);
        let writes = *newest != up.newest_event() || up.wire.promises();
        if let Some(left) = crash_in.as_mut().filter(|_| writes) {
            *left = left.saturating_sub(1);
        }
        if writes && *crash_in == Some(0) {
            *crash_in = None;
            output.crashed = true;
            if mutant == Some(Mutant::AnswerBeforeCommit) {
                answered.append(&mut answers(open));
                output.answers.append(answered);
                let machines = up.app.store.machines().expect("readable");
                output.answered_for =
                    machines.iter().map(|found| (label(&found.machine), found.version)).collect();
            }
            return true;
        }
        output.answers.append(answered);
        output.replies.append(&mut up.wire.take());
        self.idle = if open.iter().all(|request| request.waits) { self.idle + 1 } else { 0 };
        output.wrote |= writes;
        writes
    }
}

/// The answers that are there now; their requests are open no more.
fn answers(open: &mut Vec<Open>) -> Vec<(u64, Answer)> {
    let mut answered = Vec::new();
    open.retain_mut(|request| {
        let answer = request.poll();
        let is_open = answer.is_none();
        answered.extend(answer.map(|answer| (request.id, answer)));
        is_open
    });
    answered
}

/// Holds up the store: what is handed to it waits.
pub(crate) enum Gate {
    /// Within a transaction of its own.
    Store(mpsc::Sender<()>),
    /// Before one, in which it would keep others waiting.
    Road(Arc<Road>),
}

impl Gate {
    pub(crate) fn close(store: &Store, road: Option<&Arc<Road>>) -> Self {
        if let Some(road) = road {
            road.close();
            store.submit(|_| Ok(()), |_| ()).expect("the store takes it");
            // What comes later comes as one.
            road.wait_for_writer();
            return Self::Road(road.clone());
        }
        let (open, opened) = mpsc::channel::<()>();
        // Ends when the gate is dropped.
        store.submit(move |_| Ok(opened.recv().ok()), |_| ()).expect("the store takes it");
        Self::Store(open)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        match self {
            Self::Store(open) => drop(open.send(())),
            Self::Road(road) => road.open(),
        }
    }
}
