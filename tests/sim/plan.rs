//! What goes wrong, and what operators do: drawn from a seed beforehand, so that parts of it can be left out.

use crate::cluster::Cut;
use crate::rng::Rng;
use std::fmt;

pub(crate) const MINUTE: u64 = 60_000;
/// Machines that may lose data within an hour.
const LOSSES: u32 = 2;

/// How big a world is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// Machines with firmware and disks.
    pub(crate) nodes: usize,
    /// How many of those somebody has declared; the others are found. The first one has a reservation.
    pub(crate) declared: usize,
    /// Machines that only want an address.
    pub(crate) laptops: usize,
    /// How long things go wrong, in milliseconds.
    pub(crate) chaos: u64,
}

impl Size {
    /// That of a seed's world. Most are small: what breaks, breaks between few, and soon; so many small ones show more in
    /// the same time than a few big ones, and what they show is short. What takes long, or many, the big ones show.
    fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 5);
        let (nodes, laptops, minutes) = match rng.below(400) {
            0 => (4, 3, 90),
            1..=8 => (rng.between(2, 3), rng.between(1, 2), rng.between(25, 45)),
            _ => (rng.between(1, 2), rng.below(2), rng.between(5, 10)),
        };
        let declared = if nodes > 1 { nodes - 1 } else { rng.below(2) };
        let [nodes, declared, laptops] = [nodes, declared, laptops].map(|number| number as usize);
        Self { nodes, declared, laptops, chaos: minutes * MINUTE }
    }

    /// Addresses that are lent: as many as there are machines without a reservation, so that none is spare.
    pub(crate) const fn lent(self) -> u32 {
        let lent = self.nodes + self.laptops - if self.declared > 0 { 1 } else { 0 };
        if lent == 0 { 1 } else { lent as u32 }
    }

    const fn is_small(self) -> bool {
        self.chaos < 20 * MINUTE
    }

    /// How many things of a kind go wrong at most, of which there are `most` in a big world.
    const fn few(self, most: u64) -> u64 {
        if self.is_small() { most.div_ceil(3) } else { most }
    }

    /// How long something lasts at most, which is so many minutes in a big world.
    fn at_most(self, minutes: u64) -> u64 {
        (minutes * MINUTE).min(self.chaos * 2 / 3)
    }
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// An operator looks at a machine, and does something that fits.
    Operate { node: usize, roll: u64 },
    /// All operators do so at once.
    Rush { roll: u64 },
    /// Somebody resets a machine, or switches it on.
    Press { machine: usize },
    /// The power of a machine fails for so long.
    PowerCut { machine: usize, ms: u64 },
    /// For so long, packets and requests are lost, doubled and late.
    Network { ms: u64, loss: u64, double: u64, late: u64 },
    /// A server crashes, at once or when it has written so many times, before what follows from that; and is down
    /// for so long.
    Crash { server: usize, writes: Option<u32>, ms: u64 },
    /// For so long the servers hear nothing, and then everything at once.
    Stall { ms: u64 },
    /// For so long a server has no way to the database it shares, from now on or within the write after so many.
    Cut { server: usize, within: Option<(u32, Cut)>, ms: u64 },
    /// For so long nothing passes between a server and the machines and operators.
    Part { server: usize, ms: u64 },
    /// For so long a server hears up to so many milliseconds late of what others store.
    Lag { server: usize, ms: u64, most: u64 },
    /// Somebody sets the server's clock.
    Clock { by: i64 },
    /// Somebody copies the database: as the product does it, or its files.
    Backup { plain: bool },
    /// Somebody puts the last copy in its place.
    Restore,
    /// Somebody puts another disk into a machine, when its agent asks for work the next time.
    Disk { node: usize, foreign: bool },
}

/// One thing, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) at: u64,
    pub(crate) what: What,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", clock(self.at), self.what)
    }
}

/// Minutes and seconds of true time.
pub(crate) fn clock(ms: u64) -> String {
    format!("{:3}:{:02}.{:03}", ms / MINUTE, ms / 1000 % 60, ms % 1000)
}

/// All of it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// How many servers share a database; one has its own.
    pub(crate) servers: usize,
    pub(crate) size: Size,
    /// How many machines may lose data within an hour.
    pub(crate) losses: u32,
    pub(crate) items: Vec<Item>,
}

impl What {
    /// Whether it is a server that fails, if anything does.
    const fn is_of_a_server(&self) -> bool {
        matches!(
            self,
            Self::Operate { .. }
                | Self::Crash { .. }
                | Self::Stall { .. }
                | Self::Cut { .. }
                | Self::Lag { .. }
        )
    }
}

/// Whether the servers of that seed meet all machines at once, before they know of each other's decisions.
const fn is_rough(seed: u64, servers: usize) -> bool {
    servers > 1 && (seed / 3).is_multiple_of(2)
}

impl Plan {
    /// Within how many milliseconds the machines are switched on at first.
    pub(crate) const fn switched_on_within(&self) -> u64 {
        match (is_rough(self.seed, self.servers), self.size.is_small()) {
            (true, _) => 4_000,
            (false, true) => MINUTE,
            (false, false) => 4 * MINUTE,
        }
    }

    /// That of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, [1, 2, 3][(seed % 3) as usize])
    }

    /// That of a seed, with so many servers.
    pub(crate) fn with(seed: u64, servers: usize) -> Self {
        let size = Size::of(seed);
        let Size { nodes, laptops, chaos, .. } = size;
        let mut rng = Rng::new(seed, 2);
        let mut items = Vec::new();
        let machines = (nodes + laptops) as u64;
        let mut add = |at: u64, what: What| items.push(Item { at, what });
        let (soon, late) = if size.is_small() { (MINUTE / 2, 3 * MINUTE) } else { (MINUTE, 5 * MINUTE) };
        for node in 0..nodes {
            let mut at = rng.between(1, late);
            while at < chaos {
                add(at, What::Operate { node, roll: rng.next() });
                at += rng.between(soon, late);
            }
        }
        if is_rough(seed, servers) {
            for server in 0..servers {
                add(0, What::Lag { server, ms: 10 * MINUTE, most: 20_000 });
            }
            add(0, What::Network { ms: 5 * MINUTE, loss: 30, double: 30, late: 4_000 });
            if rng.percent(40) {
                add(0, What::Cut { server: 0, within: None, ms: 10 * MINUTE });
            }
        }
        if servers > 1 {
            // Who has a system orders another one, or gives it up.
            let rush = |rng: &mut Rng| What::Rush { roll: rng.below(100) * 100 + rng.below(55) };
            for _ in 0..rng.below(size.few(4) + 1) {
                add(rng.below(chaos), rush(&mut rng));
            }
            if is_rough(seed, servers) {
                // All want a system, and soon after another one.
                let (first, second) = if size.is_small() { (3, 7) } else { (6, 14) };
                add(first * MINUTE, What::Rush { roll: 10 });
                add(second * MINUTE, What::Rush { roll: 10 });
            }
        }
        // A seed is calm in some ways and wild in others.
        let mut often = |rng: &mut Rng, most: u64, mut draw: Box<dyn FnMut(&mut Rng) -> What>| {
            for _ in 0..rng.below(size.few(most) + 1) {
                let at = rng.below(chaos);
                let what = draw(rng);
                add(at, what);
            }
        };
        let machine = move |rng: &mut Rng| rng.below(machines) as usize;
        let server = move |rng: &mut Rng| if servers > 1 { rng.below(servers as u64) as usize } else { 0 };
        let node = move |rng: &mut Rng| rng.below(nodes as u64) as usize;
        let lasts = move |rng: &mut Rng, least: u64, minutes: u64| rng.between(least, size.at_most(minutes));
        often(&mut rng, 8, Box::new(move |rng| What::Press { machine: machine(rng) }));
        often(
            &mut rng,
            8,
            Box::new(move |rng| What::PowerCut { machine: machine(rng), ms: lasts(rng, 1_000, 10) }),
        );
        often(
            &mut rng,
            5,
            Box::new(move |rng| What::Network {
                ms: lasts(rng, MINUTE, 15),
                loss: rng.below(60),
                double: rng.below(40),
                late: rng.below(20_000),
            }),
        );
        often(
            &mut rng,
            10,
            Box::new(move |rng| What::Crash {
                server: server(rng),
                writes: rng.percent(80).then(|| rng.between(1, 4) as u32),
                ms: if rng.percent(80) { rng.between(100, 60_000) } else { lasts(rng, MINUTE, 40) },
            }),
        );
        often(&mut rng, 6, Box::new(|rng| What::Stall { ms: rng.between(500, 15_000) }));
        // Several servers want one clock: if theirs were set, it would be at once, and on all.
        if rng.percent(40) && servers == 1 {
            const DAY: u64 = 24 * 60 * MINUTE;
            often(
                &mut rng,
                2,
                Box::new(|rng| {
                    let by = rng.between(1_000, DAY).cast_signed();
                    What::Clock { by: if rng.percent(50) { by } else { -by } }
                }),
            );
        }
        if servers > 1 {
            often(
                &mut rng,
                8,
                Box::new(move |rng| What::Cut {
                    server: server(rng),
                    within: rng.percent(75).then(|| {
                        let cut = if rng.percent(60) { Cut::Answer } else { Cut::Write };
                        (rng.between(1, 5) as u32, cut)
                    }),
                    ms: if rng.percent(70) { rng.below(20_000) } else { lasts(rng, MINUTE, 20) },
                }),
            );
            often(
                &mut rng,
                4,
                Box::new(move |rng| What::Part { server: server(rng), ms: lasts(rng, 1_000, 20) }),
            );
            often(
                &mut rng,
                4,
                Box::new(move |rng| What::Lag {
                    server: server(rng),
                    ms: lasts(rng, MINUTE, 20),
                    most: rng.between(50, 30_000),
                }),
            );
        }
        often(&mut rng, 3, Box::new(move |rng| What::Disk { node: node(rng), foreign: rng.percent(60) }));
        if rng.percent(35) {
            for _ in 0..rng.between(1, 2) {
                let most = size.at_most(20);
                let at = rng.below(chaos - most);
                add(at, What::Backup { plain: rng.percent(50) });
                add(at + rng.between(MINUTE, most), What::Restore);
            }
        }
        // Of servers that meet all machines at once, fewer than there are of them.
        let losses = if is_rough(seed, servers) || nodes == 2 && rng.percent(50) { 1 } else { LOSSES };
        let mut plan = Self { seed, servers, size, losses, items };
        if plan.only_servers_fail() {
            plan.items.retain(|item| item.what.is_of_a_server());
        }
        plan.items.sort_by_key(|item| item.at);
        plan
    }

    /// Whether nothing fails but servers: then no job may fail once its agent works, if there is one that all wait for.
    pub(crate) fn only_servers_fail(&self) -> bool {
        self.seed.is_multiple_of(4)
    }
}
