//! What the store's statements need of a database, and the two databases there are.
//!
//! Statements are written once, in the SQL that SQLite and PostgreSQL share, with parameters `?1`, `?2`, …

use super::postgres::Postgres;
use super::sqlite::Sqlite;
use kaltstart_core::document::Document;

/// Why a statement was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    /// A rule of the database or a value stands against it; others go on.
    #[error("{0}")]
    Refused(String),
    /// The database itself, its disk or the way to it fails.
    #[error("{0}")]
    Failed(String),
}

/// What comes of a statement.
pub type Result<T, E = DatabaseError> = std::result::Result<T, E>;

/// A parameter.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Null,
    Int(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(value: &'a String) -> Self {
        Self::Text(value)
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::Bytes(value)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A row of a result; columns count from 0.
pub(super) trait Row {
    /// A number; none for NULL.
    fn number(&self, column: usize) -> Result<Option<i64>>;

    /// A text; none for NULL.
    fn maybe_text(&self, column: usize) -> Result<Option<&str>>;

    /// Bytes; none for NULL.
    fn maybe_bytes(&self, column: usize) -> Result<Option<&[u8]>>;
}

fn null(column: usize) -> DatabaseError {
    DatabaseError::Refused(format!("column {column} is NULL"))
}

impl dyn Row + '_ {
    pub(super) fn int(&self, column: usize) -> Result<i64> {
        self.number(column)?.ok_or_else(|| null(column))
    }

    pub(super) fn text(&self, column: usize) -> Result<&str> {
        self.maybe_text(column)?.ok_or_else(|| null(column))
    }

    pub(super) fn bytes(&self, column: usize) -> Result<&[u8]> {
        self.maybe_bytes(column)?.ok_or_else(|| null(column))
    }

    /// A text as what it means.
    pub(super) fn parsed<T: std::str::FromStr<Err: std::error::Error>>(&self, column: usize) -> Result<T> {
        let text = self.text(column)?;
        text.parse().map_err(|error| DatabaseError::Refused(format!("{text:?}: {error}")))
    }

    /// A document.
    pub(super) fn document<T: Document>(&self, column: usize) -> Result<T> {
        from_json(self.text(column)?)
    }
}

pub(super) fn from_json<T: Document>(text: &str) -> Result<T> {
    T::from_json(text).map_err(|error| DatabaseError::Refused(format!("a stored document: {error}")))
}

pub(super) fn to_json<T: Document>(value: &T) -> Result<String> {
    value.to_json().map_err(|error| DatabaseError::Refused(format!("a document: {error}")))
}

/// A connection to a database.
pub(super) enum Connection {
    /// A file of this machine.
    Sqlite(Sqlite),
    /// A server that several of ours may share.
    Postgres(Box<Postgres>),
}

impl Connection {
    /// Carries out a statement; how many rows it changed.
    pub(super) fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<u64> {
        match self {
            Self::Sqlite(sqlite) => sqlite.execute(sql, values),
            Self::Postgres(postgres) => postgres.execute(sql, values),
        }
    }

    /// Gives each row of the result to `take`.
    pub(super) fn each(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
        take: &mut dyn FnMut(&dyn Row) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Sqlite(sqlite) => sqlite.each(sql, values, take),
            Self::Postgres(postgres) => postgres.each(sql, values, take),
        }
    }

    /// All rows of the result.
    pub(super) fn all<T>(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
        read: impl Fn(&dyn Row) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut found = Vec::new();
        self.each(sql, values, &mut |row| {
            found.push(read(row)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// The first row of the result.
    pub(super) fn first<T>(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
        read: impl Fn(&dyn Row) -> Result<T>,
    ) -> Result<Option<T>> {
        Ok(self.all(sql, values, read)?.into_iter().next())
    }

    /// Begins a transaction. Until its end nobody else writes, here or on another server.
    pub(super) fn begin(&mut self) -> Result<()> {
        match self {
            Self::Sqlite(sqlite) => sqlite.begin(),
            Self::Postgres(postgres) => postgres.begin(),
        }
    }

    /// Begins a transaction that sees one moment, however long it lasts and whoever writes meanwhile.
    pub(super) fn begin_reading(&mut self) -> Result<()> {
        match self {
            Self::Sqlite(_) => self.run("BEGIN"),
            Self::Postgres(_) => self.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
        }
    }

    /// Lets the statements of the open transaction take as long as they need.
    pub(super) fn take_long(&mut self) -> Result<()> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(postgres) => postgres.take_long(),
        }
    }

    /// Lets numbers that the database gives go on behind those of rows that came with theirs.
    pub(super) fn go_on_counting(&mut self) -> Result<()> {
        match self {
            // It looks at the rows.
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(_) => {
                for sql in [
                    "SELECT setval(pg_get_serial_sequence('events', 'id'), coalesce(max(id), 0) + 1, false) FROM events",
                    "SELECT setval(pg_get_serial_sequence('log_lines', 'id'), coalesce(max(id), 0) + 1, false) FROM log_lines",
                ] {
                    self.all(sql, &[], |_| Ok(()))?;
                }
                Ok(())
            }
        }
    }

    /// Carries out a statement without parameters.
    pub(super) fn run(&mut self, sql: &'static str) -> Result<()> {
        self.execute(sql, &[]).map(|_| ())
    }

    /// Whether a transaction is open; some failures end it.
    pub(super) fn is_in_transaction(&self) -> bool {
        match self {
            Self::Sqlite(sqlite) => sqlite.is_in_transaction(),
            Self::Postgres(postgres) => postgres.is_in_transaction(),
        }
    }
}
