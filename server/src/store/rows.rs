//! Machines, jobs and events: the statements that read and write them. Documents are JSON.

use super::connection::{Connection, DatabaseError, Result, Row, from_json, to_json};
use super::{Commit, EVENTS_MAX, EVENTS_REMOVED_AT_ONCE, JOBS_OF_A_NODE_MAX, Key, Versioned};
use kaltstart_core::lifecycle::LOCKED;
use kaltstart_core::lifecycle::event::Happening;
use kaltstart_core::machine::{Job, JobState, Machine, Node, State};
use kaltstart_protocol::ids::JobId;
use kaltstart_protocol::time::Millis;

/// A node with its current job, or the one that has just ended.
macro_rules! machines {
    ($condition:literal) => {
        concat!(
            "SELECT nodes.doc, nodes.version, jobs.doc FROM nodes LEFT JOIN jobs \
             ON jobs.id = coalesce(nodes.doc ->> 'job', nodes.doc ->> 'last_job')",
            $condition
        )
    };
}
pub(super) use machines;

pub(super) fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn job(connection: &mut Connection, id: &JobId) -> Result<Option<Job>> {
    connection.first("SELECT doc FROM jobs WHERE id = ?1", &[id.as_str().into()], |row| row.document(0))
}

pub(super) fn machine(connection: &mut Connection, key: Key<'_>) -> Result<Option<Versioned>> {
    let (kind, text) = key.columns();
    if kind == "id" {
        return connection.first(machines!(" WHERE nodes.id = ?1"), &[(&text).into()], versioned);
    }
    let sql = machines!(" WHERE nodes.id = (SELECT node FROM node_keys WHERE kind = ?1 AND key = ?2)");
    connection.first(sql, &[kind.into(), (&text).into()], versioned)
}

/// Gives every machine to `take`.
pub(super) fn each_machine(connection: &mut Connection, mut take: impl FnMut(Versioned)) -> Result<()> {
    connection.each(machines!(""), &[], &mut |row| {
        take(versioned(row)?);
        Ok(())
    })
}

pub(super) fn versioned(row: &dyn Row) -> Result<Versioned> {
    let node: Node = row.document(0)?;
    let job = row.maybe_text(2)?.map(from_json).transpose()?;
    Ok(Versioned { machine: Machine { node, job }, version: row.int(1)? })
}

pub(super) fn put_machine(connection: &mut Connection, machine: &Machine, expected: i64) -> Result<Commit> {
    let node = &machine.node;
    if node.lock.is_some() && node.job.is_some() {
        // Whatever a door forgets: nothing can happen to a locked node without a job.
        return Err(DatabaseError::Refused(LOCKED.into()));
    }
    let id = node.id.as_str();
    let doc = to_json(node)?;
    let written = if expected == 0 {
        let sql = "INSERT INTO nodes (id, version, doc) VALUES (?1, 1, ?2) ON CONFLICT DO NOTHING";
        connection.execute(sql, &[id.into(), (&doc).into()])?
    } else {
        let sql = "UPDATE nodes SET version = version + 1, doc = ?2 WHERE id = ?1 AND version = ?3";
        connection.execute(sql, &[id.into(), (&doc).into(), expected.into()])?
    };
    if written == 0 {
        return Ok(Commit::Conflict);
    }
    put_keys(connection, id, machine)?;
    if let Some(job) = &machine.job {
        put_job(connection, id, job)?;
    }
    Ok(Commit::Done)
}

/// Stores by what `machine` is found; most changes leave all of it as it is.
fn put_keys(connection: &mut Connection, id: &str, machine: &Machine) -> Result<()> {
    let read = |row: &dyn Row| Ok((row.text(0)?.to_owned(), row.text(1)?.to_owned()));
    let before = connection.all("SELECT kind, key FROM node_keys WHERE node = ?1", &[id.into()], read)?;
    let now: Vec<(&str, String)> = keys(machine).iter().map(Key::columns).collect();
    let is = |(kind, key): &(&str, String), (other_kind, other): &(String, String)| {
        kind == other_kind && key == other
    };
    for old in before.iter().filter(|old| !now.iter().any(|new| is(new, old))) {
        let sql = "DELETE FROM node_keys WHERE kind = ?1 AND key = ?2";
        connection.execute(sql, &[old.0.as_str().into(), old.1.as_str().into()])?;
    }
    for new in now.iter().filter(|new| !before.iter().any(|old| is(new, old))) {
        let sql = "INSERT INTO node_keys (kind, key, node) VALUES (?1, ?2, ?3)";
        connection.execute(sql, &[new.0.into(), new.1.as_str().into(), id.into()])?;
    }
    Ok(())
}

fn put_job(connection: &mut Connection, node: &str, job: &Job) -> Result<()> {
    let time = |time: Option<Millis>| time.map(|time| to_i64(time.0));
    connection.execute(
        "INSERT INTO jobs (id, node, profile, state, deadline, loses_at, doc) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO UPDATE SET \
         node = excluded.node, profile = excluded.profile, state = excluded.state, \
         deadline = excluded.deadline, loses_at = excluded.loses_at, doc = excluded.doc",
        &[
            job.id.as_str().into(),
            node.into(),
            job.order.profile().into(),
            job.state.name().into(),
            time(job.deadline).into(),
            time(job.loses_at).into(),
            (&to_json(job)?).into(),
        ],
    )?;
    if job.state == JobState::Queued {
        // All before it have ended: a node has one job at a time.
        let oldest = "SELECT id FROM jobs WHERE node = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2";
        let values = [node.into(), JOBS_OF_A_NODE_MAX.into()];
        let oldest = connection.first(oldest, &values, |row| row.text(0).map(str::to_owned))?;
        if let Some(oldest) = oldest {
            let sql = "DELETE FROM jobs WHERE node = ?1 AND id <= ?2";
            connection.execute(sql, &[node.into(), (&oldest).into()])?;
        }
    }
    Ok(())
}

/// Everything by which `machine` is found, besides its identifier.
pub(super) fn keys(machine: &Machine) -> Vec<Key<'_>> {
    let node = &machine.node;
    if node.state == State::Retired {
        // Kept for the record; its name, addresses and hardware are free again.
        return Vec::new();
    }
    let mut keys = vec![Key::Name(&node.name)];
    keys.extend(node.macs.iter().map(|mac| Key::Mac(*mac)));
    keys.extend(node.reservation.map(Key::Reservation));
    keys.extend(node.grant.iter().map(|grant| Key::BootToken(grant.token)));
    keys.extend(node.session.iter().map(|session| Key::Session(session.secret)));
    keys.extend(machine.job.iter().filter_map(|job| job.report_token).map(Key::ReportToken));
    keys.extend(node.recall.map(Key::RecallToken));
    // That of a job which was verified is the node's.
    let unlock =
        machine.job.iter().filter_map(|job| job.unlock_token).find(|token| Some(*token) != node.unlock);
    keys.extend(node.unlock.into_iter().chain(unlock).map(Key::UnlockToken));
    keys
}

pub(super) fn put_events(
    connection: &mut Connection,
    machine: &Machine,
    happenings: &[Happening],
    now: Millis,
) -> Result<Option<i64>> {
    let mut newest = None;
    for happening in happenings {
        let job = machine.job.as_ref().filter(|_| happening.kind().starts_with("job."));
        let data = serde_json::json!({
            "node": machine.node.name,
            "state": machine.node.state,
            "phase": happening.phase(),
            "finding": happening.finding(),
            "address": happening.address(),
            "host": happening.host(),
            "approver": happening.approver(),
            "progress": happening.phase().and_then(|phase| job?.record(phase)?.progress),
        });
        let (node, job) = (machine.node.id.as_str(), job.map(|job| job.id.as_str()));
        newest = put_event(connection, now, happening.kind(), (node, job), &data)?;
    }
    let (told, most) = (happenings.len() as i64, EVENTS_REMOVED_AT_ONCE);
    if newest.is_some_and(|newest| newest / most != (newest - told) / most) {
        let sql = "DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?1";
        connection.execute(sql, &[EVENTS_MAX.into()])?;
    }
    Ok(newest)
}

/// Stores an event about a node, and perhaps a job of it; its number.
pub(super) fn put_event(
    connection: &mut Connection,
    now: Millis,
    kind: &str,
    (node, job): (&str, Option<&str>),
    data: &serde_json::Value,
) -> Result<Option<i64>> {
    let data = data.to_string();
    let values = [to_i64(now.0).into(), kind.into(), node.into(), job.into(), (&data).into()];
    let sql = "INSERT INTO events (time, kind, node, job, data) VALUES (?1, ?2, ?3, ?4, ?5) RETURNING id";
    connection.first(sql, &values, |row| row.int(0))
}
