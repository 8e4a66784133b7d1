//! Everything out of one database into another: how a backup of a shared one is made and restored.

use super::connection::{Connection, DatabaseError, Result, Row, Value};
use super::copied::{RESTORED, get, put};
use super::postgres::{Postgres, Server};
use super::secrets::SEALED_BY;
use super::sqlite::{self, Sqlite};
use super::{Snapshot, StoreError, make, migrate};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::path::Path;

/// A table: its rows in the order of its key, how one is written, and what its columns hold: a number, a text or bytes.
struct Table {
    name: &'static str,
    read: &'static str,
    write: &'static str,
    columns: &'static str,
}

macro_rules! table {
    ($name:literal, $columns:literal, $values:literal, $order:literal, $kinds:literal) => {
        Table {
            name: $name,
            read: concat!("SELECT ", $columns, " FROM ", $name, " ORDER BY ", $order),
            write: concat!("INSERT INTO ", $name, " (", $columns, ") VALUES (", $values, ")"),
            columns: $kinds,
        }
    };
}

/// In an order in which what is referred to comes first.
const TABLES: [Table; 11] = [
    table!("nodes", "id, version, doc", "?1, ?2, ?3", "id", "tnt"),
    table!("node_keys", "kind, key, node", "?1, ?2, ?3", "kind, key", "ttt"),
    table!(
        "jobs",
        "id, node, profile, state, deadline, loses_at, doc",
        "?1, ?2, ?3, ?4, ?5, ?6, ?7",
        "id",
        "ttttnnt"
    ),
    table!(
        "leases",
        "address, client, mac, state, since, expires",
        "?1, ?2, ?3, ?4, ?5, ?6",
        "address",
        "nbbnnn"
    ),
    table!(
        "leases6",
        "address, duid, identity, mac, state, since, expires",
        "?1, ?2, ?3, ?4, ?5, ?6, ?7",
        "address",
        "bbnbnnn"
    ),
    table!("secrets", "owner, name, sealed", "?1, ?2, ?3", "owner, name", "ttb"),
    table!("tokens", "name, fingerprint, doc", "?1, ?2, ?3", "name", "ttt"),
    table!("audit", "number, doc, hash, seal", "?1, ?2, ?3, ?4", "number", "ntbb"),
    table!("dhcp6_server", "uuid", "?1", "uuid", "b"),
    table!("events", "id, time, kind, node, job, data", "?1, ?2, ?3, ?4, ?5, ?6", "id", "nntttt"),
    table!(
        "log_lines",
        "id, node, job, boot, line, time, level, text",
        "?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8",
        "id",
        "ntttnntt"
    ),
];

/// A value out of a row.
#[derive(Debug)]
enum Owned {
    Number(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

impl Owned {
    fn value(&self) -> Value<'_> {
        match self {
            Self::Number(number) => (*number).into(),
            Self::Text(text) => text.as_ref().into(),
            Self::Bytes(bytes) => bytes.as_deref().into(),
        }
    }
}

impl Table {
    fn values(&self, row: &dyn Row) -> Result<Vec<Owned>> {
        let read = |(column, kind)| {
            Ok(match kind {
                'n' => Owned::Number(row.number(column)?),
                't' => Owned::Text(row.maybe_text(column)?.map(str::to_owned)),
                _ => Owned::Bytes(row.maybe_bytes(column)?.map(<[u8]>::to_vec)),
            })
        };
        self.columns.chars().enumerate().map(read).collect()
    }

    /// Gives the values of each row to `take`; how many rows there are, and a digest of all of them.
    fn each(
        &self,
        connection: &mut Connection,
        mut take: impl FnMut(&[Value<'_>]) -> Result<()>,
    ) -> Result<(u64, [u8; 32])> {
        let (mut count, mut hash) = (0, Sha256::new());
        connection.each(self.read, &[], &mut |row| {
            let values = self.values(row)?;
            count += 1;
            hash.update(format!("{values:?}"));
            take(&values.iter().map(Owned::value).collect::<Vec<_>>())
        })?;
        Ok((count, hash.finalize().into()))
    }
}

/// Copies a shared database to the file `to`, which must not exist, as it is at one moment while servers write to it.
///
/// # Errors
/// When one cannot be read or the other not be written. Then `to` is not to be used.
pub fn export(from: &Server, to: &Path) -> std::result::Result<Snapshot, StoreError> {
    let open = |source| StoreError::Open { path: to.to_owned(), source };
    let access = |source| StoreError::Access { path: to.to_owned(), source };
    let mut from = Postgres::connect(from, "kaltstart backup", None)?;
    from.migrate()?;
    make(to).map_err(access)?;
    let mut file = sqlite::connect(to).map_err(open)?;
    if let Err(found) = migrate::migrate(&mut file).map_err(open)? {
        return Err(StoreError::Newer { path: to.to_owned(), found });
    }
    let mut to_file = Connection::Sqlite(Sqlite::new(file));
    let copied = copy(&mut Connection::Postgres(Box::new(from)), &mut to_file);
    drop(to_file);
    let snapshot = copied.map_err(|error| StoreError::Read(error.to_string()))?;
    File::open(to).and_then(|file| file.sync_all()).map_err(access)?;
    Ok(snapshot)
}

/// Fills an empty shared database with what is in the file `from`.
///
/// # Errors
/// When one cannot be read, or the other is not empty or cannot be written; then nothing is in it. Everything is if the
/// connection was lost in the moment of the commit.
pub fn import(from: &Path, to: &Server) -> std::result::Result<Snapshot, StoreError> {
    let open = |source| StoreError::Open { path: from.to_owned(), source };
    let mut file = sqlite::connect(from).map_err(open)?;
    if let Err(found) = migrate::migrate(&mut file).map_err(open)? {
        return Err(StoreError::Newer { path: from.to_owned(), found });
    }
    let mut to = Postgres::connect(to, "kaltstart restore", None)?;
    to.migrate()?;
    let copied = copy(&mut Connection::Sqlite(Sqlite::new(file)), &mut Connection::Postgres(Box::new(to)));
    copied.map_err(|error| match error {
        DatabaseError::Refused(why) => StoreError::Copy { why },
        DatabaseError::Failed(why) => StoreError::Connect { why },
    })
}

/// All rows of all tables in one transaction, which are read back before it ends.
fn copy(from: &mut Connection, to: &mut Connection) -> Result<Snapshot> {
    from.begin_reading()?;
    to.begin()?;
    let copied = from.take_long().and_then(|()| to.take_long()).and_then(|()| copy_tables(from, to));
    to.run(if copied.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    copied
}

fn copy_tables(from: &mut Connection, to: &mut Connection) -> Result<Snapshot> {
    // The identifier of DHCPv6 servers is made with the tables.
    to.run("DELETE FROM dhcp6_server")?;
    let mut counts = Vec::new();
    for table in &TABLES {
        let refused = |why: &str| DatabaseError::Refused(format!("table {}: {why}", table.name));
        let (there, _) = table.each(to, |_| Ok(()))?;
        if there > 0 {
            return Err(refused(
                "there is something in it already; a copy goes into an empty database alone: make one \
                 (`createdb --owner`), and name it in database.url",
            ));
        }
        let (count, sent) = table.each(from, |values| to.execute(table.write, values).map(|_| ()))?;
        if table.each(to, |_| Ok(()))? != (count, sent) {
            return Err(refused("what was written is read back differently"));
        }
        counts.push(count);
    }
    to.go_on_counting()?;
    // A server that opens it notices that it is a copy.
    to.run("DELETE FROM meta WHERE key IN ('file', 'restored', 'sealed_by')")?;
    to.run("INSERT INTO meta (key, value) VALUES ('file', 'a copy')")?;
    for key in [RESTORED, SEALED_BY] {
        if let Some(value) = get(from, key)? {
            put(to, key, &value)?;
        }
    }
    Ok(Snapshot { nodes: counts[0], jobs: counts[2] })
}
