//! The fleet in a box: a simulated world of machines, servers made of the product's own code, and faults.
//!
//! A seed determines all that happens, so each failure can be seen again: `cargo xtask sim --seed N`.

mod agent;
mod cluster;
mod database;
mod dhcp;
mod disk;
mod firmware;
mod invariants;
mod machine;
mod mutants;
mod network;
mod operator;
mod plan;
mod rng;
mod server;
mod shrink;
mod site;
mod system;
mod time;
mod work;
mod world;

use invariants::Invariant;
use mutants::Mutant;
use plan::Plan;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use world::live;

/// Seeds that every run of the tests lives through.
const SEEDS: u64 = 20;
/// Seeds within which a mutant must be seen.
const MUTANT_SEEDS: u64 = 200;
/// Longest time a failure is made smaller.
const SHRINK_MAX: Duration = Duration::from_secs(60);
/// Lines of the log that a failure shows.
const LINES: usize = 60;

/// What `cargo xtask sim` wants: `seed N`, or `seeds FIRST COUNT SECONDS`.
const VARIABLE: &str = "KALTSTART_SIM";

/// What a failing seed is told with.
fn failure(plan: &Plan, mutant: Option<Mutant>) -> Option<String> {
    let report = live(plan, mutant, false);
    let violation = report.violation?;
    let (small, report) = shrink::shrink(plan, mutant, violation.invariant, SHRINK_MAX);
    let mut text = format!(
        "seed {}: {violation}\n\nWhat it takes ({} of {} things):\n",
        plan.seed,
        small.items.len(),
        plan.items.len()
    );
    text.extend(small.items.iter().map(|item| format!("  {item}\n")));
    text += "\nHow it ends:\n";
    let skipped = report.log.len().saturating_sub(LINES);
    text.extend(report.log[skipped..].iter().map(|line| format!("  {line}\n")));
    text += &format!("\nAll of it: cargo xtask sim --seed {}\n", plan.seed);
    Some(text)
}

/// Lives through seeds until they are over, or the time is.
fn live_through(seeds: impl Iterator<Item = u64>, limit: Duration) {
    let (began, mut lived) = (Instant::now(), 0);
    let mut counts = BTreeMap::new();
    for seed in seeds {
        let plan = Plan::new(seed);
        let report = live(&plan, None, false);
        if report.violation.is_some() {
            let text = failure(&plan, None);
            panic!("{}", text.unwrap_or_else(|| format!("seed {seed} failed once, and then no more")));
        }
        for (what, count) in report.counts {
            *counts.entry(what).or_insert(0) += count;
        }
        lived += 1;
        if began.elapsed() > limit {
            break;
        }
    }
    println!("{lived} seeds held in {:.0} s: {counts:?}", began.elapsed().as_secs_f64());
    let count = |what| counts.get(what).copied().unwrap_or_default();
    assert!(2 * count("jobs succeeded") > count("jobs"), "in such a world little can go wrong");
}

#[test]
fn p36_a_simulated_fleet_keeps_its_promises() {
    let wanted = std::env::var(VARIABLE).unwrap_or_else(|_| format!("seeds 1 {SEEDS} 600"));
    let words: Vec<&str> = wanted.split(' ').collect();
    let number = |word: &str| word.parse::<u64>().expect("a number");
    match words[..] {
        ["seed", seed] => {
            let plan = Plan::new(number(seed));
            plan.items.iter().for_each(|item| println!("planned {item}"));
            let report = live(&plan, None, true);
            println!("{:?}", report.counts);
            if let Some(text) = report.violation.and_then(|_| failure(&plan, None)) {
                panic!("{text}");
            }
        }
        ["seeds", first, count, seconds] => {
            let first = number(first);
            live_through(first..first + number(count), Duration::from_secs(number(seconds)));
        }
        _ => panic!("{VARIABLE} is `seed N` or `seeds FIRST COUNT SECONDS`"),
    }
}

#[test]
fn a_seed_determines_all_that_happens() {
    for seed in [6, 7, 14] {
        let lives = [(); 2].map(|()| live(&Plan::new(seed), None, false));
        let differs = lives[0].log.iter().zip(&lives[1].log).find(|(one, other)| one != other);
        assert_eq!(differs, None);
        assert_eq!(lives[0].counts, lives[1].counts);
    }
}

#[test]
fn each_invariant_sees_what_is_broken_on_purpose() {
    for (mutant, invariant) in Mutant::ALL {
        let plans =
            (mutant.first_seed()..=MUTANT_SEEDS).map(|seed| (seed, Plan::with(seed, mutant.servers())));
        let mut fit =
            plans.filter(|(_, plan)| invariant != Invariant::OutagesHeal || plan.only_servers_fail());
        let seen = fit.find(|(_, plan)| {
            let report = live(plan, Some(mutant), false);
            report.violation.is_some_and(|found| found.invariant == invariant)
        });
        match seen {
            Some((seed, _)) => println!("{mutant:?} breaks {invariant:?} at seed {seed}"),
            None => panic!("{mutant:?} is not seen by {invariant:?} within {MUTANT_SEEDS} seeds"),
        }
    }
}
