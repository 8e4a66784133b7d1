//! How much room a database takes.

use crate::{Place, tell};
use anyhow::Result;
use kaltstart_server::store::FILE;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;

const MB: f64 = 1e6;

/// The database's own file, or all of the database; and what waits to be put into that.
pub(crate) fn megabytes(place: &Place) -> Result<(f64, f64)> {
    match place {
        Place::Directory(dir) => {
            // What waits belongs into the file.
            Connection::open(dir.join(FILE))?.query_row("PRAGMA wal_checkpoint", [], |_| Ok(()))?;
            let of = |name: &str| dir.join(name).metadata().map_or(0.0, |file| file.len() as f64 / MB);
            Ok((of(FILE), of(&format!("{FILE}-wal"))))
        }
        Place::Server(url) => {
            let sql =
                "SELECT pg_database_size(current_database()), (SELECT sum(size)::bigint FROM pg_ls_waldir())";
            let rows = ask(url, sql)?;
            let of = |column| rows.first().map_or(0.0, |row| row.get::<_, i64>(column) as f64 / MB);
            Ok((of(0), of(1)))
        }
    }
}

/// Tells the room of each table with its indexes, and of what is free for reuse.
pub(crate) fn tell_tables(place: &Place) -> Result<()> {
    let rows = match place {
        Place::Directory(dir) => of_file(&dir.join(FILE))?,
        Place::Server(url) => {
            let sql = "SELECT relname::text, pg_total_relation_size(oid)::bigint FROM pg_class WHERE relkind = 'r' \
                       AND relnamespace = 'public'::regnamespace ORDER BY relname";
            ask(url, sql)?.iter().map(|row| (row.get(0), row.get(1))).collect()
        }
    };
    for (name, bytes) in rows {
        tell(&format!("table_{name}"), bytes as f64 / MB);
    }
    Ok(())
}

fn ask(url: &str, sql: &str) -> Result<Vec<postgres::Row>> {
    // Its client waits by itself, which the runtime's threads must not.
    tokio::task::block_in_place(|| Ok(postgres::Client::connect(url, postgres::NoTls)?.query(sql, &[])?))
}

fn of_file(file: &Path) -> Result<Vec<(String, i64)>> {
    let file = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut tables = file.prepare(
        "SELECT tbl_name, sum(pgsize) FROM dbstat JOIN sqlite_schema ON sqlite_schema.name = dbstat.name \
         WHERE aggregate = TRUE GROUP BY tbl_name",
    )?;
    let mut rows: Vec<(String, i64)> =
        tables.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    let free = "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size";
    rows.push(("free".into(), file.query_row(free, [], |row| row.get(0))?));
    Ok(rows)
}
