//! Rows of the tables: documents, and the statements that write them.

use super::{Commit, EVENTS_MAX, JOBS_OF_A_NODE_MAX, Key, Versioned};
use kaltstart_core::lifecycle::event::Happening;
use kaltstart_core::machine::{Job, JobState, Machine, Node, State};
use kaltstart_protocol::ids::JobId;
use kaltstart_protocol::time::Millis;
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(super) fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn from_json<T: DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn to_json<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

pub(super) fn document<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    from_json(row.get_ref(column)?.as_str()?)
}

pub(super) fn parsed<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    row.get_ref(column)?.as_str()?.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

pub(super) fn job(connection: &Connection, id: &JobId) -> rusqlite::Result<Option<Job>> {
    connection
        .prepare_cached("SELECT doc FROM jobs WHERE id = ?1")?
        .query_row([id.as_str()], |row| document(row, 0))
        .optional()
}

pub(super) fn machine(connection: &Connection, key: Key<'_>) -> rusqlite::Result<Option<Versioned>> {
    let (kind, text) = key.columns();
    let sql = if kind == "id" {
        "SELECT doc, version FROM nodes WHERE id = :key AND :kind = 'id'"
    } else {
        "SELECT doc, version FROM nodes WHERE id = \
         (SELECT node FROM node_keys WHERE kind = :kind AND key = :key)"
    };
    let found = connection
        .prepare_cached(sql)?
        .query_row(named_params! {":kind": kind, ":key": text}, |row| {
            Ok((document::<Node>(row, 0)?, row.get(1)?))
        })
        .optional()?;
    found.map(|(node, version)| with_job(connection, node, version)).transpose()
}

/// Gives every machine to `take`.
pub(super) fn each_machine(connection: &Connection, mut take: impl FnMut(Versioned)) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("SELECT doc, version FROM nodes")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        take(with_job(connection, document(row, 0)?, row.get(1)?)?);
    }
    Ok(())
}

/// A node with its current job, or the one that has just ended.
fn with_job(connection: &Connection, node: Node, version: i64) -> rusqlite::Result<Versioned> {
    let job = match node.job.as_ref().or(node.last_job.as_ref()) {
        Some(id) => job(connection, id)?,
        None => None,
    };
    Ok(Versioned { machine: Machine { node, job }, version })
}

pub(super) fn put_machine(
    connection: &Connection,
    machine: &Machine,
    expected: i64,
) -> rusqlite::Result<Commit> {
    let node = &machine.node;
    let id = node.id.as_str();
    let doc = to_json(node)?;
    let written = if expected == 0 {
        connection
            .prepare_cached("INSERT OR IGNORE INTO nodes (id, version, doc) VALUES (?1, 1, ?2)")?
            .execute(params![id, doc])?
    } else {
        connection
            .prepare_cached(
                "UPDATE nodes SET version = version + 1, doc = ?2 WHERE id = ?1 AND version = ?3",
            )?
            .execute(params![id, doc, expected])?
    };
    if written == 0 {
        return Ok(Commit::Conflict);
    }
    connection.prepare_cached("DELETE FROM node_keys WHERE node = ?1")?.execute([id])?;
    let mut insert =
        connection.prepare_cached("INSERT INTO node_keys (kind, key, node) VALUES (?1, ?2, ?3)")?;
    for key in keys(machine) {
        let (kind, text) = key.columns();
        insert.execute(params![kind, text, id])?;
    }
    if let Some(job) = &machine.job {
        let state = job_state(job.state);
        let time = |time: Option<Millis>| time.map(|time| to_i64(time.0));
        let (deadline, loses_at) = (time(job.deadline), time(job.loses_at));
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO jobs (id, node, profile, state, deadline, loses_at, doc) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                job.id.as_str(),
                id,
                job.order.profile(),
                state,
                deadline,
                loses_at,
                to_json(job)?
            ])?;
        if job.state == JobState::Queued {
            // All before it have ended: a node has one job at a time.
            connection
                .prepare_cached(
                    "DELETE FROM jobs WHERE id IN \
                     (SELECT id FROM jobs WHERE node = ?1 ORDER BY id DESC LIMIT -1 OFFSET ?2)",
                )?
                .execute(params![id, JOBS_OF_A_NODE_MAX])?;
        }
    }
    Ok(Commit::Done)
}

/// Everything by which `machine` is found, besides its identifier.
fn keys(machine: &Machine) -> Vec<Key<'_>> {
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

const fn job_state(state: JobState) -> &'static str {
    match state {
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

pub(super) fn put_events(
    connection: &Connection,
    machine: &Machine,
    happenings: &[Happening],
    now: Millis,
) -> rusqlite::Result<Option<i64>> {
    let mut insert = connection
        .prepare_cached("INSERT INTO events (time, kind, node, job, data) VALUES (?1, ?2, ?3, ?4, ?5)")?;
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
        newest =
            Some(insert.insert(params![to_i64(now.0), happening.kind(), node, job, data.to_string()])?);
    }
    trim(connection, "events", EVENTS_MAX)?;
    Ok(newest)
}

/// Keeps the newest `max` rows of a numbered table.
pub(super) fn trim(connection: &Connection, table: &str, max: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(&format!("DELETE FROM {table} WHERE id <= (SELECT max(id) FROM {table}) - ?1"))?
        .execute([max])?;
    Ok(())
}
