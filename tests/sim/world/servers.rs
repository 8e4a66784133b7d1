//! The servers' part of the world: what reaches them, what leaves them, and how they go and come.

use super::*;

impl World {
    pub(super) fn start_all(&mut self) {
        (0..self.plan.servers).for_each(|server| self.start_server(server));
    }

    /// What a server is called.
    fn name(&self, server: usize) -> String {
        if self.plan.servers == 1 { "the server".into() } else { format!("server {}", server + 1) }
    }

    pub(super) fn start_server(&mut self, server: usize) {
        if self.cluster.servers[server].is_up() {
            return;
        }
        self.use_addresses();
        let name = self.name(server);
        if !self.cluster.start(server) {
            // As the product's service: it ends, and is started again.
            self.say(&format!("{name} cannot start without its database"));
            return self.at(START_AGAIN, Event::ServerUp(server));
        }
        self.say(&format!("{name} starts{}", if self.restored { " with a copy" } else { "" }));
        let restored = std::mem::take(&mut self.restored);
        if let Some(store) = self.cluster.eye() {
            self.audit.started(store, restored);
        }
        self.started = true;
        self.turn(BTreeMap::from([(server, Vec::new())]));
        self.let_others_learn();
    }

    pub(super) fn crash(&mut self, server: usize) {
        self.say(&format!("{} crashes", self.name(server)));
        self.cluster.crash(server);
        let after = self.down_for[server].max(1);
        self.at(after, Event::ServerUp(server));
    }

    /// What reaches a server now, and what else reaches any at the same time.
    pub(super) fn reach_server(&mut self, server: usize, input: Input) {
        let now = crate::time::now();
        if self.stalled_until > now {
            self.at(self.stalled_until - now, Event::In(server, input));
            return;
        }
        let mut inputs = BTreeMap::from([(server, vec![input])]);
        let mut later = Vec::new();
        while let Some(Reverse((at, number))) =
            self.queue.peek().copied().filter(|Reverse((at, _))| *at <= now + AT_ONCE)
        {
            self.queue.pop();
            match self.events.remove(&number) {
                Some(Event::In(server, input)) => inputs.entry(server).or_default().push(input),
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

    /// Lets inputs come to their servers at once.
    pub(super) fn turn(&mut self, mut inputs: BTreeMap<usize, Vec<Input>>) {
        inputs.retain(|server, inputs| {
            let is_up = self.cluster.servers[*server].is_up();
            for input in inputs.iter().filter(|_| !is_up) {
                // Nobody listens: that is told at once.
                if let Input::Ask(id, _) = input {
                    let (at, number) = (crate::time::now() + 200, self.next);
                    self.next += 1;
                    self.queue.push(Reverse((at, number)));
                    self.events.insert(number, Event::GiveUp(*id));
                }
            }
            is_up
        });
        if inputs.is_empty() {
            return;
        }
        self.use_addresses();
        let mut dice = self.toss(4);
        let outputs = self.cluster.turn(inputs, &mut self.faults, &mut dice);
        let is_good = |(_, answer): &(u64, Answer)| answer.is_good();
        let success = outputs.iter().any(|(_, output)| output.answers.iter().any(is_good));
        for (server, output) in &outputs {
            for sent in &output.replies {
                self.audit.replied(sent, &locked(&self.cluster.servers[*server].neighbours.used));
            }
            for (id, answer) in &output.answers {
                if let Some((_, Caller::Machine { machine, waits: true, .. } | Caller::Echo { machine })) =
                    self.calls.get(id)
                {
                    let node = self.machines[*machine].hardware.mac.to_string();
                    self.audit.tasked(&node, &answer.body);
                }
            }
        }
        let touched = outputs.iter().any(|(_, output)| output.wrote || output.cut || output.crashed);
        if let Some(store) = self.cluster.eye() {
            // Those that are broken on purpose write past all turns.
            if touched || std::mem::take(&mut self.started) || self.mutant.is_some() {
                self.audit.look(store);
            }
            if success {
                self.audit.acknowledge();
            }
        }
        if outputs.iter().any(|(_, output)| output.wrote || output.cut) {
            self.let_others_learn();
        }
        for (server, output) in outputs {
            if output.answers.iter().any(is_good) {
                self.audit.acknowledge_at(output.answered_for);
            }
            output.answers.into_iter().for_each(|(id, answer)| self.send_answer(id, answer));
            output.replies.into_iter().for_each(|sent| self.send_reply(server, sent));
            if output.cut {
                self.say(&format!("{} loses its database within a write", self.name(server)));
                self.at(self.cut_for[server], Event::Mended(server));
            }
            if output.crashed {
                self.say(&format!("{} crashes between a write and what follows", self.name(server)));
                // Connections are reset, those of questions that it held back, too.
                let open = self.calls.iter().filter(|(_, (asked, _))| *asked == server);
                let open: Vec<u64> = open.map(|(id, _)| *id).collect();
                for id in open {
                    self.at(500, Event::GiveUp(id));
                }
                let after = self.down_for[server].max(1);
                self.at(after, Event::ServerUp(server));
            }
        }
    }

    /// Lets each server hear soon that something was stored.
    fn let_others_learn(&mut self) {
        if self.plan.servers == 1 {
            return;
        }
        let (now, mut dice) = (crate::time::now(), self.toss(5));
        for server in 0..self.plan.servers {
            if self.learning.insert(server) {
                let (until, most) = self.late[server];
                let most = if now < until { most } else { HEARS_WITHIN };
                self.at(dice.between(1, most), Event::Learn(server));
            }
        }
    }

    /// A server looks what others have stored; then it knows what they know.
    pub(super) fn learn(&mut self, number: usize) {
        self.learning.remove(&number);
        let server = &self.cluster.servers[number];
        let Some(app) = server.app() else { return };
        if !server.learn() {
            self.learning.insert(number);
            return self.at(LOOKS_AGAIN, Event::Learn(number));
        }
        if let Some(store) = self.cluster.eye()
            && let Err(what) = knows_all(app, |address| server.holder(address), store)
        {
            let what = format!("{} has caught up, and {what}", self.name(number));
            self.audit.violate(Invariant::KnownToOthers, what);
        }
        self.turn(BTreeMap::from([(number, Vec::new())]));
    }

    /// A server's way to the database is there again.
    pub(super) fn mend(&mut self, server: usize) {
        if let Some(road) = self.cluster.database.road(server).filter(|road| road.is_cut()) {
            road.mend();
            self.say(&format!("{} has its database again", self.name(server)));
        }
    }

    /// Tells who would answer for which address.
    fn use_addresses(&self) {
        let used: BTreeSet<_> = self.machines.iter().filter_map(Machine::address).collect();
        for server in &self.cluster.servers {
            locked(&server.neighbours.used).clone_from(&used);
        }
    }

    pub(super) fn send_answer(&mut self, id: u64, answer: Answer) {
        let (who, server) = self.who(id);
        if let Some(delay) = self.network.request(who, server) {
            self.at(delay, Event::Answer(id, answer));
        }
    }

    fn send_reply(&mut self, server: usize, sent: Sent) {
        let from = 1_000 + u64::from(sent.to.0[5]);
        for delay in self.network.packet(from, server) {
            self.at(delay, Event::Packet(sent.to, sent.bytes.clone()));
        }
    }
}
