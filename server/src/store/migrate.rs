//! The schema, and how an older database becomes one of this program's.
//!
//! A new database goes the same way as an old one: through all migrations, in one transaction, so
//! that a crash in between leaves what was there before.

use rusqlite::{Connection, Row, TransactionBehavior, params};

/// Brings a database from one version to the next.
pub(super) type Migration = fn(&Connection) -> rusqlite::Result<()>;

/// From version 0, an empty database, on.
pub(super) const MIGRATIONS: [Migration; 8] =
    [tables, lease_columns, dhcp6, losses, jobs_by_node, secrets, tokens, audit];

/// Version of the schema this program reads and writes.
pub(super) const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// Brings the database to [`SCHEMA_VERSION`]; tells the version of one that is newer, and leaves it.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<Result<(), i64>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(found).unwrap_or_default();
    let Some(missing) = MIGRATIONS.get(done..) else { return Ok(Err(found)) };
    for migration in missing {
        migration(&transaction)?;
    }
    if !missing.is_empty() {
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        transaction.commit()?;
    }
    Ok(Ok(()))
}

fn tables(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(include_str!("schema.sql"))
}

/// Leases in columns instead of documents: a third of the bytes, and nothing to parse.
fn lease_columns(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "ALTER TABLE leases RENAME TO lease_documents;
         CREATE TABLE leases (
             address INTEGER PRIMARY KEY,
             client BLOB NOT NULL,
             mac BLOB NOT NULL,
             state INTEGER NOT NULL,
             since INTEGER NOT NULL,
             expires INTEGER NOT NULL
         ) STRICT;",
    )?;
    {
        let mut documents = connection.prepare(
            "SELECT doc ->> 'address', doc ->> '$.lease.key', doc ->> '$.lease.mac', \
             doc ->> '$.lease.state', doc ->> '$.lease.since', doc ->> '$.lease.expires' \
             FROM lease_documents",
        )?;
        let mut insert = connection.prepare("INSERT INTO leases VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        let mut rows = documents.query([])?;
        while let Some(row) = rows.next()? {
            let address: std::net::Ipv4Addr = parsed(row, 0)?;
            let client: Vec<u8> = serde_json::from_str(row.get_ref(1)?.as_str()?).map_err(unreadable)?;
            let mac: kaltstart_protocol::ids::Mac = parsed(row, 2)?;
            let state = match row.get_ref(3)?.as_str()? {
                "released" => 2,
                "declined" => 3,
                _ => 1,
            };
            let (since, expires): (i64, i64) = (row.get(4)?, row.get(5)?);
            insert.execute(params![address.to_bits(), client, mac.0, state, since, expires])?;
        }
    }
    connection.execute_batch("DROP TABLE lease_documents;")
}

fn parsed<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    row.get_ref(column)?.as_str()?.parse().map_err(unreadable)
}

fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
}

/// DHCPv6: leases, and the UUID of which this server's DUID is made.
fn dhcp6(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE leases6 (
             address BLOB PRIMARY KEY,
             duid BLOB NOT NULL,
             identity INTEGER NOT NULL,
             mac BLOB,
             state INTEGER NOT NULL,
             since INTEGER NOT NULL,
             expires INTEGER NOT NULL
         ) STRICT, WITHOUT ROWID;
         CREATE TABLE dhcp6_server (uuid BLOB NOT NULL) STRICT;
         INSERT INTO dhcp6_server VALUES (randomblob(16));",
    )
}

/// When the machine of a job was last ordered or granted to lose data; of older jobs that is not known.
fn losses(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "ALTER TABLE jobs ADD COLUMN loses_at INTEGER;
         CREATE INDEX jobs_by_loss ON jobs (loses_at) WHERE loses_at IS NOT NULL;",
    )
}

/// A node's jobs, of which the newest are kept.
fn jobs_by_node(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("CREATE INDEX jobs_by_node ON jobs (node, id);")
}

/// Secrets as they were sealed, each of its owner's.
fn secrets(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE secrets (
             owner TEXT NOT NULL,
             name TEXT NOT NULL,
             sealed BLOB NOT NULL,
             PRIMARY KEY (owner, name)
         ) STRICT, WITHOUT ROWID;",
    )
}

/// Tokens of the API, by the fingerprints of their secrets.
fn tokens(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE tokens (
             name TEXT PRIMARY KEY,
             fingerprint TEXT NOT NULL UNIQUE,
             doc TEXT NOT NULL
         ) STRICT, WITHOUT ROWID;",
    )
}

/// The audit log: the text of each record, the hash that chains it to the one before, and the seal of the site's servers.
fn audit(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE audit (
             number INTEGER PRIMARY KEY,
             doc TEXT NOT NULL,
             hash BLOB NOT NULL,
             seal BLOB NOT NULL
         ) STRICT;
         CREATE INDEX audit_by_node ON audit (doc ->> 'node', number);",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p37_a_database_of_version_1_keeps_its_leases() {
        let mut connection = Connection::open_in_memory().expect("opened");
        tables(&connection).expect("version 1");
        connection.pragma_update(None, "user_version", 1).expect("written");
        for (address, state) in [("10.0.0.9", "bound"), ("10.0.0.10", "released"), ("10.0.0.11", "declined")]
        {
            let doc = format!(
                r#"{{"address":"{address}","lease":{{"key":[1,2,3],"mac":"52:54:00:00:00:01","state":"{state}","since":7,"expires":9}}}}"#
            );
            connection.execute("INSERT INTO leases VALUES (?1, ?2)", [address, &doc]).expect("written");
        }
        migrate(&mut connection).expect("migrated").expect("not newer");
        let rows: Vec<String> = connection
            .prepare(
                "SELECT address || ' ' || hex(client) || ' ' || hex(mac) || ' ' || state || ' ' || since \
                 || ' ' || expires FROM leases ORDER BY address",
            )
            .expect("a table")
            .query_map([], |row| row.get(0))
            .expect("read")
            .collect::<rusqlite::Result<_>>()
            .expect("read");
        let row = |last: u32, state| format!("{} 010203 525400000001 {state} 7 9", 0x0a00_0000 + last);
        assert_eq!(rows, [row(9, 1), row(10, 2), row(11, 3)]);
        migrate(&mut connection).expect("nothing to do").expect("not newer");
    }
}
