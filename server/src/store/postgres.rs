//! The database as a PostgreSQL that several servers may share.
//!
//! All of them write one after another, under an advisory lock that ends with the transaction: as
//! in the file of a single server, nobody else writes between a transaction's reads and its commit.

use super::connection::{DatabaseError, Result, Row, Value};
use super::{StoreError, migrate};
use anyhow::ensure;
use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use kaltstart_protocol::secret::Secret;
use postgres::config::{Host, SslMode};
use postgres::types::{FromSql, IsNull, ToSql, Type};
use postgres::{Client, Config, NoTls, Statement};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use std::collections::HashMap;
use std::error::Error;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Where it is if nothing else is said.
const POSTGRES_PORT: u16 = 5432;

/// Longest wait for a connection, and pause after one that failed: callers must not wait for a dead server.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Longest time of a statement, in which another server may be writing.
const STATEMENT_MAX: Duration = Duration::from_secs(5);
/// The advisory lock of whoever writes: "ks" in ASCII.
const WRITERS: &str = "SELECT pg_advisory_xact_lock(27507)";
/// That of whoever counts before it stores.
const TURN: &str = "SELECT pg_advisory_lock(27508)";

/// Where a shared database is, and how it is spoken to.
#[derive(Clone)]
pub struct Server {
    config: Config,
    /// With whom these authorities vouch for.
    tls: Option<ClientConfig>,
}

impl Server {
    /// Reads parameters as libpq takes them: a URL or `key=value`.
    ///
    /// # Errors
    /// Says what is wrong with them.
    pub fn parse(parameters: &str) -> anyhow::Result<Self> {
        let mut config: Config = parameters.parse()?;
        ensure!(config.get_password().is_none(), "a password does not belong here, but into password_file");
        ensure!(!config.get_hosts().is_empty(), "it names no host");
        config.ssl_mode(SslMode::Disable);
        Ok(Self { config, tls: None })
    }

    /// Proves itself by `password`.
    pub fn password(&mut self, password: &Secret) {
        self.config.password(password.expose());
    }

    /// Speaks TLS, and with whom an authority in the file `path` vouches for alone.
    ///
    /// # Errors
    /// When the file cannot be read or names none.
    pub fn trust(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path)? {
            roots.add(certificate?)?;
        }
        ensure!(!roots.is_empty(), "there is no certificate in it");
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        self.tls = Some(tls);
        self.config.ssl_mode(SslMode::Require);
        Ok(())
    }

    /// The TCP ports at which it is.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        let ports = self.config.get_ports();
        if ports.is_empty() { vec![POSTGRES_PORT] } else { ports.to_vec() }
    }

    /// The first of its hosts that is neither a socket nor this machine, if nothing protects what is said.
    pub(crate) fn unprotected(&self) -> Option<String> {
        if self.tls.is_some() {
            return None;
        }
        let is_here =
            |name: &str| name == "localhost" || name.parse().is_ok_and(|it: IpAddr| it.is_loopback());
        let far = self.config.get_hosts().iter().find_map(|host| match host {
            Host::Tcp(name) => (!is_here(name)).then(|| name.clone()),
            Host::Unix(_) => None,
        });
        // Addresses take the place of the names beside them.
        let address = self.config.get_hostaddrs().iter().find(|address| !address.is_loopback());
        far.or_else(|| address.map(IpAddr::to_string))
    }

    fn connect(&self) -> std::result::Result<Client, postgres::Error> {
        match &self.tls {
            Some(tls) => self.config.connect(MakeRustlsConnect::new(tls.clone())),
            None => self.config.connect(NoTls),
        }
    }
}

/// A connection that is made anew when it was lost.
pub(super) struct Postgres {
    server: Server,
    open: Option<Open>,
    /// When it last could not be made, and why.
    failed: Option<(Instant, DatabaseError)>,
    /// Whether a transaction was begun: what is left of it must not go to a new connection.
    in_transaction: bool,
}

struct Open {
    client: Client,
    statements: HashMap<&'static str, Statement>,
}

impl Postgres {
    /// Connects to the database of `server` under the name `me`.
    pub(super) fn connect(server: &Server, me: &str) -> std::result::Result<Self, StoreError> {
        if let Some(host) = server.unprotected() {
            let why = format!(
                "{host} is another machine: name the authority that vouches for it (database.authority)"
            );
            return Err(StoreError::Connect { why });
        }
        let mut server = server.clone();
        server
            .config
            .application_name(me)
            .connect_timeout(CONNECT_MAX)
            .tcp_user_timeout(STATEMENT_MAX)
            .keepalives_idle(Duration::from_secs(10))
            .options(&format!(
                "-c statement_timeout={} -c lock_timeout={0} -c synchronous_commit=on",
                STATEMENT_MAX.as_millis()
            ));
        let mut postgres = Self { server, open: None, failed: None, in_transaction: false };
        outside_of_the_runtime(|| postgres.client().map(drop))
            .map_err(|error| StoreError::Connect { why: error.to_string() })?;
        Ok(postgres)
    }

    /// Makes the tables if there are none.
    pub(super) fn migrate(&mut self) -> std::result::Result<(), StoreError> {
        let failed = |why: DatabaseError| StoreError::Connect { why: why.to_string() };
        outside_of_the_runtime(|| {
            let open = self.client().map_err(failed)?;
            let mut work = || -> std::result::Result<i64, postgres::Error> {
                let mut transaction = open.client.transaction()?;
                transaction.batch_execute(WRITERS)?;
                transaction.batch_execute(
                    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
                )?;
                let found = transaction.query_opt("SELECT value FROM meta WHERE key = 'version'", &[])?;
                let found = found.and_then(|row| row.get::<_, String>(0).parse().ok()).unwrap_or(0);
                if found == 0 {
                    transaction.batch_execute(include_str!("postgres.sql"))?;
                    transaction.execute(
                        "INSERT INTO meta VALUES ('version', $1)",
                        &[&migrate::SCHEMA_VERSION.to_string()],
                    )?;
                }
                transaction.commit()?;
                Ok(found)
            };
            match work().map_err(|error| failed(error.into()))? {
                0 | migrate::SCHEMA_VERSION => Ok(()),
                found if found > migrate::SCHEMA_VERSION => {
                    Err(StoreError::Newer { path: "PostgreSQL".into(), found })
                }
                // The first version that PostgreSQL had; a change of its tables belongs here.
                found => Err(StoreError::Connect { why: format!("its tables have version {found}") }),
            }
        })
    }

    /// What tells the database from every other, and from its copies.
    pub(super) fn identity(&mut self) -> std::result::Result<String, StoreError> {
        let sql = "SELECT (SELECT system_identifier FROM pg_control_system()) || ' ' || \
                   (SELECT oid FROM pg_database WHERE datname = current_database())";
        let mut identity = String::new();
        let read = self.each(sql, &[], &mut |row| {
            identity = row.text(0)?.to_owned();
            Ok(())
        });
        read.map_err(|error| StoreError::Connect { why: error.to_string() })?;
        Ok(identity)
    }

    /// Lets the statements of the open transaction take as long as they need: they are about everything there is.
    pub(super) fn take_long(&mut self) -> Result<()> {
        outside_of_the_runtime(|| {
            Ok(self.client()?.client.batch_execute("SET LOCAL statement_timeout = 0")?)
        })
    }

    /// Waits for the lock of who counts before it stores; it ends with the connection.
    pub(super) fn lock_turn(&mut self) -> Result<()> {
        outside_of_the_runtime(|| Ok(self.client()?.client.batch_execute(TURN)?))
    }

    /// Hears from now on when somebody has changed something.
    pub(super) fn listen(&mut self) -> Result<()> {
        outside_of_the_runtime(|| Ok(self.client()?.client.batch_execute("LISTEN kaltstart")?))
    }

    /// Waits until somebody has changed something, but not longer than `most`.
    pub(super) fn wait(&mut self, most: Duration) -> Result<()> {
        outside_of_the_runtime(|| {
            let open = self.open.as_mut().ok_or_else(|| DatabaseError::Failed("no connection".into()))?;
            let mut told = open.client.notifications();
            told.timeout_iter(most).next()?;
            // Several are one reason to look.
            while told.iter().next()?.is_some() {}
            Ok(())
        })
    }

    /// The open connection; a lost one is made anew, but not at once after that has failed.
    fn client(&mut self) -> Result<&mut Open> {
        if self.open.as_ref().is_some_and(|open| open.client.is_closed()) {
            if self.in_transaction {
                return Err(DatabaseError::Failed("the connection was lost".into()));
            }
            self.open = None;
        }
        if self.open.is_none() {
            if let Some((at, why)) = &self.failed
                && at.elapsed() < CONNECT_MAX
            {
                return Err(why.clone());
            }
            match self.server.connect() {
                Ok(client) => self.open = Some(Open { client, statements: HashMap::new() }),
                Err(error) => {
                    let why = DatabaseError::from(error);
                    self.failed = Some((Instant::now(), why.clone()));
                    return Err(why);
                }
            }
        }
        self.open.as_mut().ok_or_else(|| DatabaseError::Failed("no connection".into()))
    }

    pub(super) fn begin(&mut self) -> Result<()> {
        self.in_transaction = false;
        let had_one = self.open.is_some();
        let mut outcome = self.begin_once();
        if outcome.is_err() && had_one && self.open.as_ref().is_some_and(|open| open.client.is_closed()) {
            // It was lost while nobody used it, and nothing was begun.
            outcome = self.begin_once();
        }
        self.in_transaction = outcome.is_ok();
        outcome
    }

    fn begin_once(&mut self) -> Result<()> {
        Ok(self.client()?.client.batch_execute(&format!("BEGIN; {WRITERS}"))?)
    }

    pub(super) fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<u64> {
        outside_of_the_runtime(|| {
            if values.is_empty() && is_control(sql) {
                let done = self.client().and_then(|open| Ok(open.client.batch_execute(sql)?));
                self.in_transaction = match sql {
                    // Over, also when the connection was lost before: the next call may have a new one.
                    "COMMIT" | "ROLLBACK" => false,
                    _ => self.in_transaction || sql.starts_with("BEGIN"),
                };
                return done.map(|()| 0);
            }
            let open = self.client()?;
            let statement = open.prepared(sql)?;
            let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
            Ok(open.client.execute(&statement, &values)?)
        })
    }

    pub(super) fn each(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
        take: &mut dyn FnMut(&dyn Row) -> Result<()>,
    ) -> Result<()> {
        outside_of_the_runtime(|| {
            let open = self.client()?;
            let statement = open.prepared(sql)?;
            let mut rows = open.client.query_raw(&statement, values)?;
            while let Some(row) = rows.next()? {
                take(&row)?;
            }
            Ok(())
        })
    }

    pub(super) fn is_in_transaction(&self) -> bool {
        self.in_transaction && self.open.as_ref().is_some_and(|open| !open.client.is_closed())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        outside_of_the_runtime(|| self.open = None);
    }
}

impl Open {
    fn prepared(&mut self, sql: &'static str) -> Result<Statement> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(&sql.replace('?', "$"))?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }
}

/// Whether it is no statement that is planned.
fn is_control(sql: &str) -> bool {
    ["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE"].iter().any(|word| sql.starts_with(word))
}

/// Does what waits for the network. The runtime's other tasks go on meanwhile.
fn outside_of_the_runtime<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(work)
        }
        _ => work(),
    }
}

impl ToSql for Value<'_> {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(number) => number.to_sql(kind, out),
            Self::Text(text) => {
                out.extend_from_slice(text.as_bytes());
                Ok(IsNull::No)
            }
            Self::Bytes(bytes) => {
                out.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn Error + Sync + Send>> {
        let fits = match self {
            Self::Null => true,
            Self::Int(_) => *kind == Type::INT8,
            Self::Text(_) => matches!(*kind, Type::TEXT | Type::JSON | Type::VARCHAR),
            Self::Bytes(_) => *kind == Type::BYTEA,
        };
        if fits { self.to_sql(kind, out) } else { Err(format!("{self:?} is no {kind}").into()) }
    }
}

/// A column as the server sent it; of the types that the tables have.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> std::result::Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl Row for postgres::Row {
    fn number(&self, column: usize) -> Result<Option<i64>> {
        Ok(self.try_get(column)?)
    }

    fn maybe_text(&self, column: usize) -> Result<Option<&str>> {
        let raw: Option<Raw<'_>> = self.try_get(column)?;
        raw.map(|raw| std::str::from_utf8(raw.0).map_err(|error| DatabaseError::Refused(error.to_string())))
            .transpose()
    }

    fn maybe_bytes(&self, column: usize) -> Result<Option<&[u8]>> {
        Ok(self.try_get::<_, Option<Raw<'_>>>(column)?.map(|raw| raw.0))
    }
}

impl From<postgres::Error> for DatabaseError {
    fn from(error: postgres::Error) -> Self {
        let Some(told) = error.as_db_error() else {
            // The way to it, or a value that does not fit its column.
            let text =
                error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
            return Self::Failed(text);
        };
        // Class 22: a value; 23: a rule (appendix A of PostgreSQL's manual).
        let own = ["22", "23"].iter().any(|class| told.code().code().starts_with(class));
        if own { Self::Refused(told.message().to_owned()) } else { Self::Failed(told.message().to_owned()) }
    }
}
