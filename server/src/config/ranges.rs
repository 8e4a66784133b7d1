//! Ranges of addresses: pools, and what is left out of them.

use kaltstart_core::dhcp::lease::{Address, Pool};
use serde::Deserialize;
use std::fmt::Display;
use std::str::FromStr;

/// Reads `FIRST-LAST` or a single address.
pub(super) fn ranges<'de, D: serde::Deserializer<'de>, A: FromStr + Ord>(
    from: D,
) -> Result<Vec<(A, A)>, D::Error> {
    let refused = |text: &str, why| serde::de::Error::custom(format!("exclude: {text:?} {why}"));
    let read = |text: String| {
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        match first.trim().parse().ok().zip(last.trim().parse().ok()) {
            Some((first, last)) if first > last => {
                Err(refused(&text, "is reversed: write the lower address first"))
            }
            Some(range) => Ok(range),
            None => Err(refused(&text, "is neither an address nor FIRST-LAST")),
        }
    };
    Vec::<String>::deserialize(from)?.into_iter().map(read).collect()
}

/// All pools in order.
pub(super) fn sorted<A: Address>(pool: Option<(A, A)>, pools: &[(A, A)]) -> Vec<(A, A)> {
    let mut all: Vec<_> = pool.into_iter().chain(pools.iter().copied()).collect();
    all.sort_unstable();
    all
}

/// The pools without what is excluded, in order.
pub(super) fn without<A: Address>(mut left: Vec<(A, A)>, excluded: &[(A, A)]) -> Vec<Pool<A>> {
    for (from, to) in excluded {
        left = left
            .into_iter()
            .flat_map(|(first, last)| {
                let below = from.previous().map(|end| (first, last.min(end)));
                let above = to.next().map(|start| (first.max(start), last));
                [below, above].into_iter().flatten().filter(|(first, last)| first <= last)
            })
            .collect();
    }
    left.into_iter().map(|(first, last)| Pool { first, last }).collect()
}

/// Pools, in order, that are reversed, overlap, or lie `outside` of their `network`.
pub(super) fn problems<A: Address + Display>(
    whose: &str,
    network: &str,
    pools: &[(A, A)],
    outside: impl Fn(A) -> bool,
    all: &mut Vec<String>,
) {
    for (first, last) in pools {
        if first > last {
            all.push(format!("{whose}: pool {first} to {last} is reversed: write the lower address first"));
        } else if outside(*first) || outside(*last) {
            all.push(format!("{whose}: pool {first} to {last} does not lie in its {network}"));
        }
    }
    for pair in pools.windows(2).filter(|pair| pair[0].1 >= pair[1].0) {
        all.push(format!(
            "{whose}: pools {} to {} and {} to {} overlap",
            pair[0].0, pair[0].1, pair[1].0, pair[1].1
        ));
    }
}

/// What is excluded although it lies in none of the pools.
pub(super) fn exclusion_problems<A: Address + Display>(
    whose: &str,
    pools: &[(A, A)],
    excluded: &[(A, A)],
    all: &mut Vec<String>,
) {
    let hits = |(from, to): (A, A)| pools.iter().any(|(first, last)| from <= *last && to >= *first);
    for (from, to) in excluded.iter().filter(|range| !hits(**range)) {
        let range = if from == to { from.to_string() } else { format!("{from}-{to}") };
        all.push(format!("{whose}: exclude {range} lies in no pool: correct it, or leave it out"));
    }
}
