//! The network: what is lost, doubled and late.
//!
//! Each sender has dice of its own, so that leaving out one fault changes little of what befalls the others.

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

/// The network between the server and all others.
pub(crate) struct Network {
    seed: u64,
    dice: BTreeMap<u64, Rng>,
    trouble: Trouble,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, dice: BTreeMap::new(), trouble: Trouble::default() }
    }

    /// Until then, so many of a hundred are lost or doubled, and all up to so many milliseconds late.
    pub(crate) fn trouble(&mut self, until: u64, loss: u64, double: u64, late: u64) {
        self.trouble = Trouble { until, loss, double, late };
    }

    pub(crate) fn calm(&mut self) {
        self.trouble = Trouble::default();
    }

    fn dice(&mut self, sender: u64) -> (&mut Rng, Trouble) {
        let seed = self.seed;
        let dice = self.dice.entry(sender).or_insert_with(|| Rng::new(seed, 10_000 + sender));
        let trouble = if crate::time::now() < self.trouble.until { self.trouble } else { Trouble::default() };
        (dice, trouble)
    }

    /// After how long each copy of a packet arrives.
    pub(crate) fn packet(&mut self, sender: u64) -> Vec<u64> {
        let (dice, trouble) = self.dice(sender);
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

    /// After how long a request or its answer arrives; none when its connection breaks.
    pub(crate) fn request(&mut self, sender: u64) -> Option<u64> {
        let (dice, trouble) = self.dice(sender);
        let delay = dice.between(1, USUAL + trouble.late);
        (!dice.percent(trouble.loss / 2)).then_some(delay)
    }
}
