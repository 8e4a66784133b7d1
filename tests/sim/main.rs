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
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use world::live;

/// Seeds that every run of the tests lives through.
const SEEDS: u64 = 3_000;
/// Seeds within which a mutant must be seen.
const MUTANT_SEEDS: u64 = 1_000;
/// Longest time a failure is made smaller.
const SHRINK_MAX: Duration = Duration::from_secs(60);
/// Lines of the log that a failure shows.
const LINES: usize = 60;

/// What `cargo xtask sim` wants: `seed N`, or `seeds FIRST COUNT SECONDS`; and of each process that does so much of that,
/// `share FIRST STEP COUNT SECONDS`.
const VARIABLE: &str = "KALTSTART_SIM";
/// Longest time of the tests' seeds, in seconds.
const SECONDS_MAX: u64 = 1_800;
/// Before what a share tells of its seeds.
const TOLD: &str = "share: ";

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

type Counts = BTreeMap<String, u64>;

/// Lives through seeds until they are over, or the time is; tells what they came to.
fn live_through(seeds: impl Iterator<Item = u64>, limit: Duration) {
    let began = Instant::now();
    let mut counts = Counts::from([("seeds".into(), 0)]);
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
        *counts.entry("seeds".into()).or_insert(0) += 1;
        if began.elapsed() > limit {
            break;
        }
    }
    println!("\n{TOLD}{}", serde_json::to_string(&counts).expect("JSON"));
}

/// The same on all processors: a process has one clock, so one for each.
fn live_through_all(first: u64, count: u64, seconds: u64) {
    let began = Instant::now();
    let program = std::env::current_exe().expect("this program");
    let shares = std::thread::available_parallelism().map_or(1, |all| all.get() as u64);
    let share = |number: u64| {
        let count = (count + shares - 1 - number) / shares;
        let share = Command::new(&program)
            .args(["--exact", "p36_a_simulated_fleet_keeps_its_promises", "--nocapture"])
            .env(VARIABLE, format!("share {} {shares} {count} {seconds}", first + number))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        share.expect("this program runs")
    };
    let shares: Vec<Child> = (0..shares).map(share).collect();
    let mut counts = Counts::new();
    for share in shares {
        let output = share.wait_with_output().expect("it ends");
        let [text, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        let told = text.lines().find_map(|line| line.strip_prefix(TOLD));
        let Some(told) = told.filter(|_| output.status.success()) else { panic!("{text}\n{errors}") };
        for (what, count) in serde_json::from_str::<Counts>(told).expect("JSON") {
            *counts.entry(what).or_insert(0) += count;
        }
    }
    println!("{:.0} s: {counts:?}", began.elapsed().as_secs_f64());
    let count = |what| counts.get(what).copied().unwrap_or_default();
    assert!(3 * count("jobs succeeded") > count("jobs"), "in such a world little can go wrong");
}

#[test]
fn p36_a_simulated_fleet_keeps_its_promises() {
    let wanted = std::env::var(VARIABLE).unwrap_or_else(|_| format!("seeds 1 {SEEDS} {SECONDS_MAX}"));
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
            live_through_all(number(first), number(count), number(seconds));
        }
        ["share", first, step, count, seconds] => {
            let seeds = (0..number(count)).map(|n| number(first) + n * number(step));
            live_through(seeds, Duration::from_secs(number(seconds)));
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
