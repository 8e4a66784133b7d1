//! Lines of the logs of agents, loaders and kernels.

use super::connection::{Connection, Result};
use super::rows::to_i64;
use super::{Store, StoreError, Transaction};
use kaltstart_core::machine::Session;
use kaltstart_protocol::agent_api::LogLine;
use kaltstart_protocol::ids::{JobId, NodeId};
use kaltstart_protocol::syslog::Line;
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};

/// Log lines that are kept.
const LOG_LINES_MAX: i64 = 1_000_000;

/// A stored line of an agent's log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredLine {
    /// Ascending number.
    pub id: i64,
    /// When it was said, by the server's clock.
    pub time: Millis,
    /// `error`, `warn`, `info`, `debug`.
    pub level: String,
    /// The text.
    pub text: String,
}

impl Store {
    /// Stores lines of the log of a session's agent; lines that are there already are left alone.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn put_log(
        &self,
        node: NodeId,
        session: Session,
        first: u64,
        lines: Vec<LogLine>,
    ) -> Result<(), StoreError> {
        let write = move |transaction: &mut Transaction<'_>| {
            let connection = transaction.connection();
            let (job, boot) = (session.job.as_ref().map(JobId::as_str), session.secret.to_string());
            for (i, line) in lines.iter().enumerate() {
                connection.execute(
                    "INSERT INTO log_lines (node, job, boot, line, time, level, text) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (boot, line) DO NOTHING",
                    &[
                        node.as_str().into(),
                        job.into(),
                        (&boot).into(),
                        to_i64(first.saturating_add(i as u64)).into(),
                        to_i64(session.booted_at.plus(line.uptime_ms).0).into(),
                        (&line.level).into(),
                        (&line.text).into(),
                    ],
                )?;
            }
            trim(connection)
        };
        self.transact(write).await
    }

    /// Stores lines that a machine's loader or kernel said during a job.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn put_syslog(
        &self,
        node: NodeId,
        job: JobId,
        lines: Vec<Line>,
        now: Millis,
    ) -> Result<(), StoreError> {
        let write = move |transaction: &mut Transaction<'_>| {
            let connection = transaction.connection();
            for line in &lines {
                // Nobody repeats such lines, so each gets a number of its own.
                connection.execute(
                    "INSERT INTO log_lines (node, job, boot, line, time, level, text) VALUES (?1, ?2, 'syslog', \
                     (SELECT coalesce(max(line), 0) + 1 FROM log_lines WHERE boot = 'syslog'), ?3, ?4, ?5)",
                    &[
                        node.as_str().into(),
                        job.as_str().into(),
                        to_i64(now.0).into(),
                        line.level.into(),
                        (&line.text).into(),
                    ],
                )?;
            }
            trim(connection)
        };
        self.transact(write).await
    }

    /// At most `limit` lines of a job's log after number `after`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn job_log(&self, job: &JobId, after: i64, limit: usize) -> Result<Vec<StoredLine>, StoreError> {
        self.read(|connection| {
            connection.all(
                "SELECT id, time, level, text FROM log_lines WHERE job = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
                &[job.as_str().into(), after.into(), (limit as i64).into()],
                |row| {
                    Ok(StoredLine {
                        id: row.int(0)?,
                        time: Millis(row.int(1)?.unsigned_abs()),
                        level: row.text(2)?.to_owned(),
                        text: row.text(3)?.to_owned(),
                    })
                },
            )
        })
    }
}

/// Keeps the newest lines.
fn trim(connection: &mut Connection) -> Result<()> {
    let sql = "DELETE FROM log_lines WHERE id <= (SELECT max(id) FROM log_lines) - ?1";
    connection.execute(sql, &[LOG_LINES_MAX.into()]).map(|_| ())
}
