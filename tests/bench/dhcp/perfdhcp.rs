//! Kea's load program. It always plays a relay: its address is `giaddr`, and it wants its answers
//! at port 67 there. Every call uses the same hardware addresses in the same order.

use crate::bench::Bench;
use anyhow::{Context as _, Result};
use kaltstart_tests::pair::{CLIENT_INTERFACE, SERVER};
use kaltstart_tests::process::run_to_end;
use kaltstart_tests::wait::secs;
use std::time::{Duration, Instant};

/// Distinct clients of a load.
const CLIENTS: &str = "40000";
/// Microseconds that the last answers may take. Longer than any sync, too short for what a server
/// has piled up that is a tenth too slow.
const STRAGGLERS: &str = "200000";

/// What a load at a fixed rate showed.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Exchanges of four messages that were completed.
    pub(super) completed: f64,
    /// Share of the requests of either kind without an answer; the larger one.
    pub(super) dropped: f64,
    /// Milliseconds from each REQUEST to its ACK, ascending.
    pub(super) ack_ms: Vec<f64>,
}

/// Asks for `rate` exchanges per second.
pub(super) fn load(bench: &Bench, rate: f64, seconds: u32) -> Result<Outcome> {
    let mut command = bench.load_program("usr/sbin/perfdhcp");
    command.args(["-4", "-l", CLIENT_INTERFACE, "-R", CLIENTS, "-W", STRAGGLERS, "-x", "t"]);
    command.args(["-r", &format!("{rate:.0}"), "-p", &seconds.to_string(), &SERVER.to_string()]);
    // Its exit status is 3 when there were drops.
    let output = run_to_end(&mut command, secs(u64::from(seconds) + 20))?;
    let text = String::from_utf8_lossy(&output.stdout);
    read(&text).with_context(|| format!("perfdhcp: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

fn read(text: &str) -> Result<Outcome> {
    let section = |name: &str| text.split_once(&format!("***{name}***")).map(|(_, rest)| rest);
    let value = |section: Option<&str>, key: &str| -> Result<f64> {
        let line = section.and_then(|text| text.lines().find_map(|line| line.strip_prefix(key)));
        Ok(line.with_context(|| format!("no {key:?}"))?.trim().parse()?)
    };
    let mut dropped = 0.0_f64;
    for kind in ["Statistics for: DISCOVER-OFFER", "Statistics for: REQUEST-ACK"] {
        let sent = value(section(kind), "sent packets:")?;
        let received = value(section(kind), "received packets:")?;
        dropped = dropped.max(if sent > 0.0 { (sent - received) / sent } else { 1.0 });
    }
    let stamps = section("Timestamps for packets: REQUEST-ACK").unwrap_or_default();
    let mut ack_ms: Vec<f64> = stamps
        .lines()
        .filter_map(|line| line.strip_prefix("sent / received: ")?.split_once(" / "))
        .filter_map(|(sent, received)| {
            Some((received.trim().parse::<f64>().ok()? - sent.parse::<f64>().ok()?) * 1000.0)
        })
        .collect();
    ack_ms.sort_by(f64::total_cmp);
    let completed = value(section("Statistics for: REQUEST-ACK"), "received packets:")?;
    Ok(Outcome { completed, dropped, ack_ms })
}

/// Lets `clients` ask at the same time; the seconds until all have an address, none if that needs
/// more than `limit`.
pub(super) fn avalanche(bench: &Bench, clients: u32, limit: Duration) -> Result<Option<f64>> {
    let mut command = bench.load_program("usr/sbin/perfdhcp");
    command.args(["-4", "-l", CLIENT_INTERFACE, "--scenario", "avalanche", "-R", &clients.to_string()]);
    command.arg(SERVER.to_string());
    let started = Instant::now();
    let output = match run_to_end(&mut command, limit) {
        Err(_) if started.elapsed() >= limit => return Ok(None),
        output => output?,
    };
    let text = String::from_utf8_lossy(&output.stdout);
    provisioned(&text).with_context(|| format!("perfdhcp: {text}")).map(Some)
}

/// Reads `It took 00:00:01.802999 to provision 300 clients.`
fn provisioned(text: &str) -> Option<f64> {
    let time = text.lines().find_map(|line| line.strip_prefix("It took "))?.split(' ').next()?;
    let parts: Vec<f64> = time.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
    parts.into_iter().reduce(|sum, part| sum * 60.0 + part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_perfdhcp_are_read() {
        let text = "***Statistics for: DISCOVER-OFFER***\nsent packets: 400\nreceived packets: 399\n\
            ***Statistics for: REQUEST-ACK***\nsent packets: 399\nreceived packets: 399\n\
            ***Timestamps for packets: DISCOVER-OFFER***\n\
            sent / received: 000000.000097 / 000000.900000\n\
            ***Timestamps for packets: REQUEST-ACK***\n\
            sent / received: 000000.010000 / 000000.012500\nsent / received: 000000.010000 / -\n";
        let outcome = read(text).expect("it is whole");
        assert_eq!((outcome.completed, outcome.dropped), (399.0, 0.0025));
        assert_eq!(outcome.ack_ms.len(), 1);
        assert!((outcome.ack_ms[0] - 2.5).abs() < 1e-9);
        assert!(read("nothing").is_err());
        let took = provisioned("It took 00:01:01.500000 to provision 300 clients. ");
        assert_eq!(took, Some(61.5));
    }
}
