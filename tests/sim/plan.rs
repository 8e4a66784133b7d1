//! What goes wrong, and what operators do: drawn from a seed beforehand, so that parts of it can be left out.

use crate::rng::Rng;
use std::fmt;

/// How long things go wrong, in milliseconds.
pub(crate) const CHAOS: u64 = 90 * MINUTE;
/// Machines with firmware and disks.
pub(crate) const SERVERS: usize = 4;
/// Machines that only want an address.
pub(crate) const LAPTOPS: usize = 3;

pub(crate) const MINUTE: u64 = 60_000;

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// An operator looks at a machine, and does something that fits.
    Operate { server: usize, roll: u64 },
    /// Somebody resets a machine, or switches it on.
    Press { machine: usize },
    /// The power of a machine fails for so long.
    PowerCut { machine: usize, ms: u64 },
    /// For so long, packets and requests are lost, doubled and late.
    Network { ms: u64, loss: u64, double: u64, late: u64 },
    /// The server crashes, at once or when it has written so many times, before what follows from that; and is down
    /// for so long.
    Crash { writes: Option<u32>, ms: u64 },
    /// For so long the server hears nothing, and then everything at once.
    Stall { ms: u64 },
    /// Somebody sets the server's clock.
    Clock { by: i64 },
    /// Somebody copies the database: as the product does it, or its files.
    Backup { plain: bool },
    /// Somebody puts the last copy in its place.
    Restore,
    /// Somebody puts another disk into a machine, when its agent asks for work the next time.
    Disk { server: usize, foreign: bool },
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
    pub(crate) items: Vec<Item>,
}

impl What {
    /// Whether it is the server that fails, if anything does.
    fn is_of_the_server(&self) -> bool {
        matches!(self, Self::Operate { .. } | Self::Crash { .. } | Self::Stall { .. })
    }
}

impl Plan {
    /// That of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 2);
        let mut items = Vec::new();
        let machines = (SERVERS + LAPTOPS) as u64;
        let mut add = |at: u64, what: What| items.push(Item { at, what });
        for server in 0..SERVERS {
            let mut at = rng.between(1, 3 * MINUTE);
            while at < CHAOS {
                add(at, What::Operate { server, roll: rng.next() });
                at += rng.between(MINUTE, 5 * MINUTE);
            }
        }
        // A seed is calm in some ways and wild in others.
        let mut often = |rng: &mut Rng, most: u64, mut draw: Box<dyn FnMut(&mut Rng) -> What>| {
            for _ in 0..rng.below(most + 1) {
                let at = rng.below(CHAOS);
                let what = draw(rng);
                add(at, what);
            }
        };
        let machine = move |rng: &mut Rng| rng.below(machines) as usize;
        let server = |rng: &mut Rng| rng.below(SERVERS as u64) as usize;
        often(&mut rng, 8, Box::new(move |rng| What::Press { machine: machine(rng) }));
        often(
            &mut rng,
            8,
            Box::new(move |rng| What::PowerCut {
                machine: machine(rng),
                ms: rng.between(1_000, 10 * MINUTE),
            }),
        );
        often(
            &mut rng,
            5,
            Box::new(|rng| What::Network {
                ms: rng.between(MINUTE, 15 * MINUTE),
                loss: rng.below(60),
                double: rng.below(40),
                late: rng.below(20_000),
            }),
        );
        often(
            &mut rng,
            10,
            Box::new(|rng| What::Crash {
                writes: rng.percent(80).then(|| rng.between(1, 4) as u32),
                ms: if rng.percent(80) { rng.between(100, 60_000) } else { rng.between(MINUTE, 40 * MINUTE) },
            }),
        );
        often(&mut rng, 6, Box::new(|rng| What::Stall { ms: rng.between(500, 15_000) }));
        if rng.percent(40) {
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
        often(&mut rng, 3, Box::new(move |rng| What::Disk { server: server(rng), foreign: rng.percent(60) }));
        if rng.percent(35) {
            for _ in 0..rng.between(1, 2) {
                let at = rng.below(CHAOS - 20 * MINUTE);
                add(at, What::Backup { plain: rng.percent(50) });
                add(at + rng.between(MINUTE, 20 * MINUTE), What::Restore);
            }
        }
        let mut plan = Self { seed, items };
        if plan.only_the_server_fails() {
            plan.items.retain(|item| item.what.is_of_the_server());
        }
        plan.items.sort_by_key(|item| item.at);
        plan
    }

    /// Whether nothing fails but the server: then no job may fail once its agent works.
    pub(crate) fn only_the_server_fails(&self) -> bool {
        self.seed.is_multiple_of(4)
    }
}
