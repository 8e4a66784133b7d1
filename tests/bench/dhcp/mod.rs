//! `dhcp`: sustained exchanges, their cost and latency, and storms, beside Kea, ISC dhcpd, dnsmasq,
//! and a responder that does nothing, with and without sync.

pub(crate) mod machines;
pub(crate) mod peers;
mod perfdhcp;
pub(crate) mod responder;

use crate::bench::Bench;
use crate::report::{Aim, Better, Metric, OURS, Report, Samples, percentile};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::wait::secs;
use machines::Load;
use peers::{DNSMASQ, ISC, KEA, KEA_2, NULL, NULL_FSYNC, Reach};
use std::time::Duration;

/// Everybody, with the rate the search begins at.
const SUBJECTS: [(&str, f64); 7] = [
    (OURS, 4000.0),
    (KEA, 2700.0),
    (KEA_2, 4000.0),
    (NULL_FSYNC, 5000.0),
    (NULL, 8000.0),
    (ISC, 400.0),
    (DNSMASQ, 120.0),
];
/// Step of the search.
const STEP: f64 = 1.12;
/// Steps of one search, at most.
const STEPS_MAX: usize = 24;
/// Seconds at each rate of the search.
const SEARCH_SECONDS: u32 = 3;
/// A rate with this share of requests unanswered, or more, is not sustained.
const DROPPED_MAX: f64 = 0.001;
/// Rates at which everybody's, and the fast ones', cost and latency are compared.
const RATES: [(f64, u32, &[&str]); 3] = [
    (60.0, 8, &[OURS, KEA, KEA_2, NULL_FSYNC, ISC, DNSMASQ]),
    (1000.0, 5, &[OURS, KEA, KEA_2, NULL_FSYNC, NULL]),
    (4000.0, 4, &[OURS, KEA, KEA_2, NULL_FSYNC, NULL]),
];
/// Storms, and who goes through them. ISC needs 98 s for the larger one, and dnsmasq writes its
/// whole lease file for each client.
const STORMS: [(u32, &[&str]); 2] =
    [(1_000, &[OURS, KEA, KEA_2, NULL_FSYNC, ISC, DNSMASQ]), (10_000, &[OURS, KEA, KEA_2, NULL_FSYNC])];
/// A storm that takes longer counts as that long.
const STORM_LIMIT: Duration = secs(90);

pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut samples = Samples::default();
    sustained(bench, &mut samples)?;
    at_rates(bench, &mut samples)?;
    storms(bench, &mut samples)?;
    bench.pair().unaddress_client()?;
    let broadcast = broadcast(bench, &mut samples);
    bench.pair().address_client()?;
    tell(report, &samples);
    broadcast
}

/// Finds the highest rate that everybody sustains.
fn sustained(bench: &Bench, samples: &mut Samples) -> Result<()> {
    for round in 0..bench.repeats(3) {
        for (subject, guess) in SUBJECTS {
            // Those that are not near the aim are measured once.
            if round > 0 && [ISC, DNSMASQ].contains(&subject) {
                continue;
            }
            let start = samples.median("dhcp_sustained", subject).unwrap_or(guess);
            let rate = search(bench, subject, start)?;
            samples.add("dhcp_sustained", subject, rate);
        }
    }
    Ok(())
}

/// Goes up from a rate that is sustained, or down from one that is not, until the next one differs.
fn search(bench: &Bench, subject: &str, start: f64) -> Result<f64> {
    let (mut rate, mut best) = (start, None);
    for _ in 0..STEPS_MAX {
        bench.ensure_wanted()?;
        match (sustains(bench, subject, rate)?, best) {
            (Some(seen), _) => {
                best = Some((rate, seen));
                rate *= STEP;
            }
            (None, None) => rate /= STEP,
            (None, Some(_)) => break,
        }
        // Went down to this one: the one above it was refused before.
        if best.is_some_and(|(good, _)| good < start) {
            break;
        }
    }
    best.map(|(_, seen)| seen).with_context(|| format!("{subject} sustains no rate near {start:.0}/s"))
}

/// The exchanges per second that were completed, if the server sustains `rate`. All clients are
/// new to it.
fn sustains(bench: &Bench, subject: &str, rate: f64) -> Result<Option<f64>> {
    let _server = peers::start(bench, subject, Reach::Relayed)?;
    let outcome = perfdhcp::load(bench, rate, SEARCH_SECONDS)?;
    let seen = outcome.completed / f64::from(SEARCH_SECONDS);
    // Also not sustained if the load program did not ask so often.
    Ok((outcome.dropped < DROPPED_MAX && seen >= 0.95 * rate).then_some(seen))
}

/// CPU time and latency at common rates.
fn at_rates(bench: &Bench, samples: &mut Samples) -> Result<()> {
    for (rate, seconds, subjects) in RATES {
        for _ in 0..bench.repeats(3) {
            for subject in subjects {
                bench.ensure_wanted()?;
                let server = peers::start(bench, subject, Reach::Relayed)?;
                let cpu = server.cpu_seconds()?;
                let outcome = perfdhcp::load(bench, rate, seconds)?;
                let cpu = server.cpu_seconds()? - cpu;
                let name = |what: &str| format!("dhcp_{rate}ps_{what}");
                samples.add(&name("dropped"), subject, outcome.dropped * 100.0);
                samples.add(&name("cpu"), subject, cpu * 1000.0 / outcome.completed);
                latency(samples, &name("ack"), subject, &outcome.ack_ms);
            }
        }
    }
    Ok(())
}

fn latency(samples: &mut Samples, name: &str, subject: &str, sorted_ms: &[f64]) {
    for (what, share) in [("p50", 0.5), ("p99", 0.99)] {
        if let Some(value) = percentile(sorted_ms, share) {
            samples.add(&format!("{name}_{what}"), subject, value);
        }
    }
}

fn storms(bench: &Bench, samples: &mut Samples) -> Result<()> {
    for (clients, subjects) in STORMS {
        for round in 0..bench.repeats(3) {
            for subject in subjects {
                // Kea needs a minute for the larger one.
                if round > 0 && clients > 1_000 && [KEA, KEA_2].contains(subject) {
                    continue;
                }
                bench.ensure_wanted()?;
                let server = peers::start(bench, subject, Reach::Relayed)?;
                let lost = server.lost_in_buffers()?;
                let seconds = perfdhcp::avalanche(bench, clients, STORM_LIMIT)?;
                let lost = server.lost_in_buffers()? - lost;
                let limit = STORM_LIMIT.as_secs_f64();
                samples.add(&format!("dhcp_storm_{clients}_time"), subject, seconds.unwrap_or(limit));
                samples.add(&format!("dhcp_storm_{clients}_lost"), subject, lost as f64);
            }
        }
    }
    Ok(())
}

/// What perfdhcp cannot: clients without relay and address.
fn broadcast(bench: &Bench, samples: &mut Samples) -> Result<()> {
    let steady =
        Load { first: 1, machines: 40_000, at_once: 64, limit: secs(4), firmware: false, nodes: false };
    for _ in 0..bench.repeats(3) {
        for subject in [OURS, KEA, KEA_2, NULL_FSYNC, NULL, ISC, DNSMASQ] {
            bench.ensure_wanted()?;
            let server = peers::start(bench, subject, Reach::Broadcast)?;
            let cpu = server.cpu_seconds()?;
            let outcome = bench.pair().in_client(|| machines::run(&steady))?;
            let cpu = server.cpu_seconds()? - cpu;
            ensure!(outcome.done > 0, "{subject} lends no addresses to clients without relay");
            samples.add("dhcp_broadcast_rate", subject, f64::from(outcome.done) / outcome.seconds);
            samples.add("dhcp_broadcast_cpu", subject, cpu * 1000.0 / f64::from(outcome.done));
            samples.add("dhcp_broadcast_failed", subject, outcome.failed.into());
            latency(samples, "dhcp_broadcast_ack", subject, &outcome.ack_ms);
        }
    }
    let storm =
        Load { first: 1, machines: 1_000, at_once: 1_000, limit: secs(60), firmware: true, nodes: false };
    for _ in 0..bench.repeats(3) {
        let server = peers::start(bench, OURS, Reach::Broadcast)?;
        let lost = server.lost_in_buffers()?;
        let outcome = bench.pair().in_client(|| machines::run(&storm))?;
        samples.add("dhcp_firmware_storm_1000_time", OURS, outcome.seconds);
        samples.add("dhcp_firmware_storm_1000_failed", OURS, outcome.failed.into());
        samples.add("dhcp_firmware_storm_1000_repeated", OURS, outcome.repeated.into());
        samples.add("dhcp_firmware_storm_1000_lost", OURS, (server.lost_in_buffers()? - lost) as f64);
    }
    Ok(())
}

fn tell(report: &mut Report, samples: &Samples) {
    use Better::{Higher, Lower};
    let mut row = |name: &str, unit, better, floor, peer, aim| {
        report.against(samples, &Metric::new(name, unit, better).floor(floor), peer, aim);
    };
    for peer in [KEA, KEA_2, ISC, DNSMASQ] {
        let aim = if peer == KEA_2 { Aim::Times(1.0) } else { Aim::None };
        row("dhcp_sustained", "1/s", Higher, NULL_FSYNC, peer, aim);
        let aim = if [KEA, KEA_2].contains(&peer) { Aim::Times(0.4) } else { Aim::None };
        for (rate, _, subjects) in RATES {
            if subjects.contains(&peer) {
                row(&format!("dhcp_{rate}ps_cpu"), "s/1000", Lower, NULL_FSYNC, peer, aim);
                row(&format!("dhcp_{rate}ps_dropped"), "%", Lower, NULL_FSYNC, peer, Aim::None);
                row(&format!("dhcp_{rate}ps_ack_p50"), "ms", Lower, NULL_FSYNC, peer, Aim::None);
                row(&format!("dhcp_{rate}ps_ack_p99"), "ms", Lower, NULL_FSYNC, peer, Aim::None);
            }
        }
        for (clients, subjects) in STORMS {
            if subjects.contains(&peer) {
                let time = match (clients, peer) {
                    (10_000, KEA) => Aim::Times(0.35),
                    _ => Aim::None,
                };
                row(&format!("dhcp_storm_{clients}_time"), "s", Lower, NULL_FSYNC, peer, time);
                let lost = format!("dhcp_storm_{clients}_lost");
                row(&lost, "packets", Lower, NULL_FSYNC, peer, Aim::Value(0.0));
            }
        }
        row("dhcp_broadcast_rate", "1/s", Higher, NULL_FSYNC, peer, Aim::None);
        row("dhcp_broadcast_cpu", "s/1000", Lower, NULL_FSYNC, peer, Aim::None);
        row("dhcp_broadcast_ack_p99", "ms", Lower, NULL_FSYNC, peer, Aim::None);
    }
    for (rate, _, _) in RATES {
        // The floor is the peer here: what a synced answer takes at least.
        row(&format!("dhcp_{rate}ps_ack_p99"), "ms", Lower, NULL, NULL_FSYNC, Aim::Times(1.2));
    }
    row("dhcp_sustained", "1/s", Higher, NULL, NULL_FSYNC, Aim::None);
    for (what, unit) in [("time", "s"), ("failed", "machines"), ("repeated", "messages"), ("lost", "packets")]
    {
        let aim = if what == "time" { Aim::None } else { Aim::Value(0.0) };
        let metric = Metric::new(format!("dhcp_firmware_storm_1000_{what}"), unit, Lower);
        report.alone(samples, &metric, aim);
    }
}
