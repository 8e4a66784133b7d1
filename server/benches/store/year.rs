//! Months of a fleet's life, and how much the database weighs after each of them.

use crate::life::{Life, lease, mac};
use crate::size::{megabytes, tell_tables};
use crate::{Place, tell};
use anyhow::{Result, ensure};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use kaltstart_core::machine::Session;
use kaltstart_core::observing::{Difference, Kind};
use kaltstart_protocol::agent_api::{LogLine, Mode};
use kaltstart_protocol::ids::{Digest, JobId, NodeId};
use kaltstart_protocol::time::Millis;
use kaltstart_server::store::{FILE, OF_STRANGERS_MAX, Store, copy};
use std::net::Ipv4Addr;
use std::time::Instant;

/// What is done at once: so much shares a commit.
const AT_ONCE: usize = 256;
const MONTH_MS: u64 = 30 * 24 * 3_600_000;
/// Every node is installed once in so many months.
const INSTALLED_EVERY: u32 = 3;
/// Of a month's renewals of each address so many are carried out: they change rows that are there. At half an hour
/// each there would be 1,440.
const RENEWALS: u64 = 2;
/// Addresses that are lent to other strangers in each month, who make up their hardware addresses.
const STRANGERS: u32 = 4_096;
/// One in so many nodes is retired in a month, and another takes its place.
const REPLACED: usize = 400;
/// The month in which the fleet is compared with a restored copy.
const RESTORED_MONTH: u32 = 6;

/// Lives that many months of so many nodes, and tells what the database weighs after each.
pub(crate) async fn run(place: &Place, nodes: u32, months: u32) -> Result<()> {
    let store = place.open()?;
    let start = Millis(1_800_000_000_000);
    let mut fleet: Vec<Life> = stream::iter((0..nodes).map(|number| Life::declared(&store, number, start)))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let mut next = nodes;
    for month in 1..=months {
        let (began, now) = (Instant::now(), start.plus(MONTH_MS * u64::from(month)));
        fleet = live(&store, fleet, month, now).await?;
        strangers(&store, month, now).await?;
        let (mut retired, stay): (Vec<_>, Vec<_>) =
            fleet.into_iter().enumerate().partition(|(i, _)| (i + month as usize).is_multiple_of(REPLACED));
        fleet = stay.into_iter().map(|(_, life)| life).collect();
        for (_, life) in &mut retired {
            life.is_retired(&store, now.plus(1)).await?;
            fleet.push(Life::declared(&store, next, now.plus(2)).await?);
            next += 1;
        }
        if month == RESTORED_MONTH {
            differences(&store, &fleet, now).await?;
        }
        if let Place::Directory(dir) = place {
            back_up(&store, dir, &mut fleet, now).await?;
        }
        let (size, beside) = megabytes(place)?;
        tell(&format!("month_{month:02}"), size);
        tell(&format!("beside_{month:02}"), beside);
        eprintln!("  month {month}: {:.0} s", began.elapsed().as_secs_f64());
    }
    tell_tables(place)
}

/// A month of each node, many of them at once.
async fn live(store: &Store, fleet: Vec<Life>, month: u32, now: Millis) -> Result<Vec<Life>> {
    let month = async |(i, mut life): (usize, Life)| {
        for renewal in 1..=RENEWALS {
            life.renews(store, now.minus(MONTH_MS).plus(MONTH_MS * renewal / (RENEWALS + 1))).await?;
        }
        if (i as u32 + month).is_multiple_of(INSTALLED_EVERY) {
            life.is_installed(store, now.minus(LIFE_MS)).await?;
        }
        Ok(life)
    };
    stream::iter(fleet.into_iter().enumerate().map(month)).buffer_unordered(AT_ONCE).try_collect().await
}

/// Longer than an installation takes.
const LIFE_MS: u64 = 3_600_000;

/// Others than before have the addresses of a pool.
async fn strangers(store: &Store, month: u32, now: Millis) -> Result<()> {
    let first = Ipv4Addr::new(10, 200, 0, 0).to_bits();
    let leases = (0..STRANGERS).map(|i| {
        let who = mac(0x0080_0000 + month * STRANGERS + i, 0);
        lease(Ipv4Addr::from_bits(first + i), who, now)
    });
    let leases: Vec<_> = leases.collect();
    for some in leases.chunks(AT_ONCE) {
        store.put_leases(some.to_vec()).await?;
    }
    Ok(())
}

/// Each node, and more strangers than are noted, say something that the copy does not know.
async fn differences(store: &Store, fleet: &[Life], at: Millis) -> Result<()> {
    let of = |node: Option<NodeId>, number: u32| Difference {
        kind: Kind::System,
        node,
        mac: Some(mac(number, 0)),
        address: None,
        job: None,
        detail: "a system runs that the copy does not know; it reports job 01JABCDEFGHJKMNPQRSTVWXYZ0".into(),
        at,
    };
    let nodes = fleet.iter().map(|life| of(Some(life.machine.node.id.clone()), 0));
    let strangers = (0..2 * OF_STRANGERS_MAX as u32).map(|number| of(None, 0x00c0_0000 + number));
    let notes = nodes.chain(strangers).map(|difference| store.note(difference));
    let noted: Vec<bool> = stream::iter(notes).buffer_unordered(AT_ONCE).try_collect().await?;
    let kept = noted.iter().filter(|noted| **noted).count();
    ensure!(kept == fleet.len() + OF_STRANGERS_MAX, "{kept} differences are kept");
    Ok(())
}

/// Copies the database while its nodes renew their addresses, and throws the copy away.
async fn back_up(store: &Store, dir: &std::path::Path, fleet: &mut [Life], now: Millis) -> Result<()> {
    let (from, to) = (dir.join(FILE), dir.join("backup"));
    let copied = tokio::task::spawn_blocking({
        let to = to.clone();
        move || copy(&from, &to)
    });
    let mut at = now.plus(3);
    while !copied.is_finished() {
        at = at.plus(60_000);
        let renewals = fleet.iter_mut().take(AT_ONCE).map(|life| life.renews(store, at));
        stream::iter(renewals).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    }
    copied.await??;
    std::fs::remove_file(to)?;
    Ok(())
}

/// Tells how many bytes a line takes that is as long as any that is kept: 1,000 characters of three bytes, by syslog.
pub(crate) async fn worst(place: &Place) -> Result<()> {
    const LINES: u64 = 20_000;
    const AT_A_TIME: u64 = 100;
    let store = place.open()?;
    let (node, job) = (NodeId::new(Millis(1), 1), JobId::new(Millis(1), 1));
    let (secret, mode) = (Digest::of(b"worst"), Mode::Install);
    let session =
        Session { secret, mode, job: Some(job), boot_id: String::new(), booted_at: Millis(1), trust: None };
    let (before, _) = megabytes(place)?;
    // No database makes these smaller.
    let mut chance: u32 = 1;
    let mut character = move || {
        chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from_u32(0x4e00 + (chance >> 16) % 0x5000).unwrap_or('x')
    };
    for first in (0..LINES).step_by(AT_A_TIME as usize) {
        let mut line = |uptime_ms| {
            let text = (0..1_000).map(|_| character()).collect();
            LogLine { uptime_ms, level: "info".into(), text }
        };
        let lines = (0..AT_A_TIME).map(&mut line).collect();
        store.put_log(node.clone(), session.clone(), first, lines).await?;
    }
    let (after, _) = megabytes(place)?;
    tell("worst_line", (after - before) * 1e6 / LINES as f64);
    Ok(())
}
