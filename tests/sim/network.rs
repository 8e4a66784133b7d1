//! The network: what is lost, doubled and late, and who is parted from all others.
//!
//! Each sender has dice of its own for each server, so that leaving out one fault changes little of what befalls the others.

use crate::rng::Rng;
use std::collections::BTreeMap;

/// Longest time that something takes when all is well, in milliseconds.
const USUAL: u64 = 5;

#[derive(Debug, Clone, Copy, Default)]
struct Trouble {
    until: u64,
    loss: u64,
    double: u64,
    late: u64,
}

/// The network between the servers and all others.
pub(crate) struct Network {
    seed: u64,
    dice: BTreeMap<u64, Rng>,
    trouble: Trouble,
    /// Servers whom nothing reaches until then.
    parted: BTreeMap<usize, u64>,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, dice: BTreeMap::new(), trouble: Trouble::default(), parted: BTreeMap::new() }
    }

    /// Until then, so many of a hundred are lost or doubled, and all up to so many milliseconds late.
    pub(crate) fn trouble(&mut self, until: u64, loss: u64, double: u64, late: u64) {
        self.trouble = Trouble { until, loss, double, late };
    }

    /// Until then, nothing passes between that server and anybody.
    pub(crate) fn part(&mut self, server: usize, until: u64) {
        self.parted.insert(server, until);
    }

    pub(crate) fn calm(&mut self) {
        self.trouble = Trouble::default();
        self.parted.clear();
    }

    pub(crate) fn is_in_trouble(&self) -> bool {
        crate::time::now() < self.trouble.until
    }

    /// Whether a server and all others are parted.
    fn is_parted(&self, server: usize) -> bool {
        self.parted.get(&server).is_some_and(|until| crate::time::now() < *until)
    }

    fn dice(&mut self, sender: u64, server: usize) -> (&mut Rng, Trouble) {
        let (seed, sender) = (self.seed, sender + 2_000 * server as u64);
        let dice = self.dice.entry(sender).or_insert_with(|| Rng::new(seed, 10_000 + sender));
        let trouble = if crate::time::now() < self.trouble.until { self.trouble } else { Trouble::default() };
        (dice, trouble)
    }

    /// After how long each copy of a packet to or from a server arrives.
    pub(crate) fn packet(&mut self, sender: u64, server: usize) -> Vec<u64> {
        if self.is_parted(server) {
            return Vec::new();
        }
        let (dice, trouble) = self.dice(sender, server);
        let copies = 1 + usize::from(dice.percent(trouble.double));
        let mut arrivals = Vec::new();
        for _ in 0..copies {
            let delay = dice.between(1, USUAL + trouble.late);
            if !dice.percent(trouble.loss) {
                arrivals.push(delay);
            }
        }
        arrivals
    }

    /// After how long a request to a server or its answer arrives; none when its connection breaks.
    pub(crate) fn request(&mut self, sender: u64, server: usize) -> Option<u64> {
        if self.is_parted(server) {
            return None;
        }
        let (dice, trouble) = self.dice(sender, server);
        let delay = dice.between(1, USUAL + trouble.late);
        (!dice.percent(trouble.loss / 2)).then_some(delay)
    }
}
