//! Secrets as they were sealed: what is stored opens nothing without the key of the site's servers, which is elsewhere.

use super::connection::{Connection, DatabaseError, Row};
use super::copied::{get, put};
use super::sqlite::{self, Sqlite};
use super::{Store, StoreError};
use kaltstart_core::audit::Act;
use kaltstart_protocol::time::Millis;
use std::path::Path;

/// Key in the table `meta`: which key seals.
pub(super) const SEALED_BY: &str = "sealed_by";

/// A secret as it is stored.
#[derive(Debug)]
pub struct Sealed {
    /// Whose it is.
    pub owner: String,
    /// Its name.
    pub name: String,
    /// What was made of it.
    pub bytes: Vec<u8>,
}

/// What sealed the secrets of a database that is a file, and all of them.
///
/// # Errors
/// When it cannot be read.
pub fn sealed_in(file: &Path) -> Result<(Option<String>, Vec<Sealed>), StoreError> {
    let opened =
        sqlite::connect(file).map_err(|source| StoreError::Open { path: file.to_owned(), source })?;
    let mut connection = Connection::Sqlite(Sqlite::new(opened));
    let mut read = || {
        let by = get(&mut connection, SEALED_BY)?;
        if by.is_none() {
            // Also of versions that had no secrets.
            return Ok((None, Vec::new()));
        }
        let sql = "SELECT owner, name, sealed FROM secrets";
        let read = |row: &dyn Row| {
            let text = |column| row.text(column).map(str::to_owned);
            Ok(Sealed { owner: text(0)?, name: text(1)?, bytes: row.bytes(2)?.to_vec() })
        };
        Ok((by, connection.all(sql, &[], read)?))
    };
    read().map_err(|error: DatabaseError| StoreError::Read(error.to_string()))
}

impl Store {
    /// How many secrets there are.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn count_secrets(&self) -> Result<i64, StoreError> {
        self.read(count)
    }

    /// Forgets all secrets, and what sealed them, and records it as `act`. How many there were.
    ///
    /// # Errors
    /// When the database cannot be read or written, or takes no record.
    pub async fn forget_secrets(&self, act: Act, now: Millis) -> Result<i64, StoreError> {
        self.transact(move |transaction| {
            let connection = transaction.connection();
            let found = count(connection)?;
            connection.run("DELETE FROM secrets")?;
            connection.execute("DELETE FROM meta WHERE key = ?1", &[SEALED_BY.into()])?;
            transaction.record(&act, now)?;
            Ok(found)
        })
        .await
    }

    /// Notes that the key `id` seals secrets, unless another does; the one that does.
    ///
    /// # Errors
    /// When the database cannot be read or written.
    pub async fn seal_by(&self, id: String) -> Result<String, StoreError> {
        self.transact(move |transaction| {
            let connection = transaction.connection();
            if let Some(other) = get(connection, SEALED_BY)? {
                return Ok(other);
            }
            put(connection, SEALED_BY, &id)?;
            Ok(id)
        })
        .await
    }

    /// Which key seals secrets; none when there never was one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn sealed_by(&self) -> Result<Option<String>, StoreError> {
        self.read(|connection| get(connection, SEALED_BY))
    }

    /// Stores a sealed secret of `owner` unless it has one of that name already; the one that is stored then.
    ///
    /// # Errors
    /// When the database cannot be read or written.
    pub async fn keep_secret(
        &self,
        owner: String,
        name: String,
        sealed: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        self.transact(move |transaction| {
            let connection = transaction.connection();
            connection.execute(
                "INSERT INTO secrets (owner, name, sealed) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
                &[owner.as_str().into(), name.as_str().into(), sealed.as_slice().into()],
            )?;
            Ok(read(connection, &owner, &name)?.unwrap_or(sealed))
        })
        .await
    }

    /// A sealed secret.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn secret(&self, owner: &str, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|connection| read(connection, owner, name))
    }

    /// The names of all secrets of `owner`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn secrets_of(&self, owner: &str) -> Result<Vec<String>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT name FROM secrets WHERE owner = ?1 ORDER BY name";
            connection.all(sql, &[owner.into()], |row| row.text(0).map(str::to_owned))
        })
    }

    /// Removes all secrets of `owner`.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn remove_secrets(&self, owner: String) -> Result<(), StoreError> {
        self.transact(move |transaction| {
            let connection = transaction.connection();
            connection.execute("DELETE FROM secrets WHERE owner = ?1", &[owner.as_str().into()]).map(|_| ())
        })
        .await
    }
}

fn count(connection: &mut Connection) -> super::Result<i64> {
    Ok(connection.first("SELECT count(*) FROM secrets", &[], |row| row.int(0))?.unwrap_or(0))
}

fn read(connection: &mut Connection, owner: &str, name: &str) -> super::Result<Option<Vec<u8>>> {
    let sql = "SELECT sealed FROM secrets WHERE owner = ?1 AND name = ?2";
    connection.first(sql, &[owner.into(), name.into()], |row| Ok(row.bytes(0)?.to_vec()))
}
