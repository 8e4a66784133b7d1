//! The database as a PostgreSQL that several servers may share.
//!
//! All of them write one after another, under an advisory lock that ends with the transaction: as
//! in the file of a single server, nobody else writes between a transaction's reads and its commit.

use super::connection::{DatabaseError, Result, Row, Value};
use super::outage::Outage;
use super::{StoreError, migrate};
use anyhow::ensure;
use bytes::BytesMut;
use futures_util::TryStreamExt as _;
use kaltstart_protocol::secret::Secret;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use std::collections::HashMap;
use std::error::Error;
use std::future::poll_fn;
use std::net::IpAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Where it is if nothing else is said.
const POSTGRES_PORT: u16 = 5432;

/// Longest wait for each of its addresses.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How long a connection that is refused takes at most; others fail because nobody is there.
const REFUSAL_MAX: Duration = Duration::from_secs(1);
/// Longest time of a statement, in which another server may be writing.
const STATEMENT_MAX: Duration = Duration::from_secs(5);
/// Longest silence; the database has told before that a statement took too long, if it can.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// When an idle connection is tried, how often, and how many times.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);
/// The advisory lock of whoever writes: "ks" in ASCII.
const WRITERS: &str = "SELECT pg_advisory_xact_lock(27507)";

/// The first version of the tables that PostgreSQL had.
const FIRST_VERSION: i64 = 5;
/// From that version on, one step each; `postgres.sql` has what they lead to.
const MIGRATIONS: [&str; migrate::SCHEMA_VERSION as usize - FIRST_VERSION as usize] = [
    // Secrets as they were sealed, each of its owner's.
    "CREATE TABLE secrets (owner TEXT COLLATE \"C\" NOT NULL, name TEXT COLLATE \"C\" NOT NULL, \
     sealed BYTEA NOT NULL, PRIMARY KEY (owner, name))",
    // Tokens of the API, by the fingerprints of their secrets.
    "CREATE TABLE tokens (name TEXT COLLATE \"C\" PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, doc TEXT NOT NULL)",
    // The audit log.
    "CREATE TABLE audit (number BIGINT PRIMARY KEY, doc JSON NOT NULL, hash BYTEA NOT NULL, seal BYTEA NOT NULL); \
     CREATE INDEX audit_by_node ON audit ((doc ->> 'node'), number)",
];

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

    /// A connection, and the task that drives it.
    async fn connect(&self) -> std::result::Result<Session, tokio_postgres::Error> {
        let told = Arc::new(Notify::new());
        let (client, driver) = match &self.tls {
            Some(tls) => {
                let (client, connection) = self.config.connect(MakeRustlsConnect::new(tls.clone())).await?;
                (client, tokio::spawn(drive(connection, told.clone())))
            }
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                (client, tokio::spawn(drive(connection, told.clone())))
            }
        };
        Ok(Session { client, driver, told, statements: HashMap::new() })
    }
}

/// Moves what is said on a connection until it ends; `told` hears of each notification, and of the end.
async fn drive<S, T>(mut connection: tokio_postgres::Connection<S, T>, told: Arc<Notify>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    // Why it ended is told to whoever waits for an answer.
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if matches!(message, AsyncMessage::Notification(_)) {
            told.notify_one();
        }
    }
    drop(connection);
    told.notify_one();
}

/// A connection that is made anew when it was lost.
pub(super) struct Postgres {
    server: Server,
    /// Where it lives; it goes on only while somebody waits for an answer. None once this is dropped.
    runtime: Option<Runtime>,
    open: Option<Session>,
    /// Who else is to know when it is out of reach.
    outage: Option<Outage>,
    /// How long the database may be silent; for ever when none.
    patience: Option<Duration>,
    /// Whether a transaction was begun: what is left of it must not go to a new connection.
    in_transaction: bool,
}

/// An open connection.
struct Session {
    client: Client,
    /// What moves its bytes.
    driver: JoinHandle<()>,
    /// Hears of notifications, and of the end.
    told: Arc<Notify>,
    statements: HashMap<&'static str, Statement>,
}

impl Postgres {
    /// Connects to the database of `server` under the name `me`. When it is out of reach later `outage` begins, and
    /// as long as that lasts nothing is asked; without one every question is.
    pub(super) fn connect(
        server: &Server,
        me: &str,
        outage: Option<&Outage>,
    ) -> std::result::Result<Self, StoreError> {
        if let Some(host) = server.unprotected() {
            let why = format!(
                "{host} is another machine: name the authority that vouches for it (database.authority)"
            );
            return Err(StoreError::Connect { why });
        }
        let mut server = server.clone();
        let (idle, interval, retries) = KEEPALIVE;
        server
            .config
            .application_name(me)
            .connect_timeout(CONNECT_MAX)
            .tcp_user_timeout(STATEMENT_MAX)
            .keepalives_idle(idle)
            .keepalives_interval(interval)
            .keepalives_retries(retries)
            .options(format!(
                "-c statement_timeout={} -c lock_timeout={0} -c synchronous_commit=on",
                STATEMENT_MAX.as_millis()
            ));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut postgres = Self {
            server,
            runtime: Some(runtime),
            open: None,
            // One that cannot be made at first ends whatever wants it.
            outage: None,
            patience: Some(SILENCE_MAX),
            in_transaction: false,
        };
        outside_of_the_runtime(|| postgres.session().map(drop))
            .map_err(|error| StoreError::Connect { why: error.to_string() })?;
        postgres.outage = outage.cloned();
        Ok(postgres)
    }

    /// Makes the tables if there are none, and changes those of an earlier version.
    pub(super) fn migrate(&mut self) -> std::result::Result<(), StoreError> {
        let found = self.ask(async |session| {
            let transaction = session.client.transaction().await?;
            transaction.batch_execute(WRITERS).await?;
            transaction
                .batch_execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
                .await?;
            let found = transaction.query_opt("SELECT value FROM meta WHERE key = 'version'", &[]).await?;
            let found = found.and_then(|row| row.get::<_, String>(0).parse().ok()).unwrap_or(0);
            let steps = match found {
                0 => &[include_str!("postgres.sql")][..],
                _ => usize::try_from(found - FIRST_VERSION).ok().and_then(|done| MIGRATIONS.get(done..)).unwrap_or(&[]),
            };
            for step in steps {
                transaction.batch_execute(step).await?;
            }
            if !steps.is_empty() {
                let version = migrate::SCHEMA_VERSION.to_string();
                let sql = "INSERT INTO meta VALUES ('version', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
                transaction.execute(sql, &[&version]).await?;
            }
            transaction.commit().await?;
            Ok(found)
        });
        match found.map_err(|why| StoreError::Connect { why: why.to_string() })? {
            0 | FIRST_VERSION..=migrate::SCHEMA_VERSION => Ok(()),
            found if found > migrate::SCHEMA_VERSION => {
                Err(StoreError::Newer { path: "PostgreSQL".into(), found })
            }
            found => Err(StoreError::Connect { why: format!("its tables have version {found}") }),
        }
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
        self.ask(async |session| session.client.batch_execute("SET LOCAL statement_timeout = 0").await)?;
        self.patience = None;
        Ok(())
    }

    /// Hears from now on when somebody has changed something.
    pub(super) fn listen(&mut self) -> Result<()> {
        self.ask(async |session| session.client.batch_execute("LISTEN kaltstart").await)
    }

    /// Waits until somebody has changed something, but not longer than `most`.
    pub(super) fn wait(&mut self, most: Duration) -> Result<()> {
        outside_of_the_runtime(|| {
            let (Some(runtime), Some(session)) = (&self.runtime, &self.open) else { return Err(lost()) };
            // That nothing was told is no error.
            runtime.block_on(async { timeout(most, session.told.notified()).await }).ok();
            if session.client.is_closed() { Err(lost()) } else { Ok(()) }
        })
    }

    /// The open session; a lost one is made anew.
    fn session(&mut self) -> Result<&mut Session> {
        if let Some(why) = self.outage.as_ref().and_then(Outage::why) {
            return Err(why);
        }
        if self.open.as_ref().is_some_and(|open| open.client.is_closed()) {
            if self.in_transaction {
                return Err(lost());
            }
            self.open = None;
        }
        if self.open.is_none() {
            let Some(runtime) = &self.runtime else { return Err(lost()) };
            let began = Instant::now();
            let connected = runtime.block_on(async { timeout(SILENCE_MAX, self.server.connect()).await });
            let connected = connected.map_err(|_| silent()).and_then(|connected| Ok(connected?));
            self.open = Some(connected.inspect_err(|why| {
                // To be refused costs nobody any time.
                if began.elapsed() >= REFUSAL_MAX {
                    self.is_out_of_reach(why);
                }
            })?);
            self.patience = Some(SILENCE_MAX);
        }
        self.open.as_mut().ok_or_else(lost)
    }

    /// What comes of `work`. A database that stays silent is left: its connection is closed, and an outage begins.
    fn ask<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Session) -> std::result::Result<T, tokio_postgres::Error>,
    ) -> Result<T> {
        outside_of_the_runtime(|| {
            self.session()?;
            let (Some(runtime), Some(session)) = (&self.runtime, &mut self.open) else { return Err(lost()) };
            let answer = match self.patience {
                Some(patience) => runtime.block_on(async { timeout(patience, work(session)).await }),
                None => Ok(runtime.block_on(work(session))),
            };
            if let Ok(answer) = answer {
                return Ok(answer?);
            }
            // What it may still say belongs to a question that nobody waits for.
            session.driver.abort();
            runtime.block_on(&mut session.driver).ok();
            self.is_out_of_reach(&silent());
            Err(silent())
        })
    }

    fn is_out_of_reach(&self, why: &DatabaseError) {
        if let Some(outage) = &self.outage {
            outage.begin(why);
        }
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
        self.ask(async |session| session.client.batch_execute(&format!("BEGIN; {WRITERS}")).await)
    }

    pub(super) fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<u64> {
        if values.is_empty() && is_control(sql) {
            let done = self.ask(async |session| session.client.batch_execute(sql).await);
            if matches!(sql, "COMMIT" | "ROLLBACK") {
                // Over, also when the connection was lost before: the next call may have a new one.
                (self.in_transaction, self.patience) = (false, Some(SILENCE_MAX));
            } else {
                self.in_transaction |= sql.starts_with("BEGIN");
            }
            return done.map(|()| 0);
        }
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
        self.ask(async |session| {
            let statement = session.prepared(sql).await?;
            session.client.execute(&statement, &values).await
        })
    }

    pub(super) fn each(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
        take: &mut dyn FnMut(&dyn Row) -> Result<()>,
    ) -> Result<()> {
        outside_of_the_runtime(|| {
            let rows = self.ask(async |session| {
                let statement = session.prepared(sql).await?;
                session.client.query_raw(&statement, values).await
            })?;
            let mut rows = pin!(rows);
            while let Some(row) = self.ask(async |_| rows.try_next().await)? {
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
        self.open = None;
        if let Some(runtime) = self.runtime.take() {
            // It may be dropped where nobody may wait, and the look for a name may still be under way.
            runtime.shutdown_background();
        }
    }
}

impl Session {
    async fn prepared(&mut self, sql: &'static str) -> std::result::Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(&sql.replace('?', "$")).await?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }
}

fn lost() -> DatabaseError {
    DatabaseError::Failed("the connection was lost".into())
}

fn silent() -> DatabaseError {
    let seconds = SILENCE_MAX.as_secs();
    DatabaseError::Failed(format!("the database server has not answered for {seconds} s"))
}

/// Whether it is no statement that is planned.
fn is_control(sql: &str) -> bool {
    ["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE"].iter().any(|word| sql.starts_with(word))
}

/// Does what waits for the network. The runtime's other tasks go on meanwhile.
pub(super) fn outside_of_the_runtime<T>(work: impl FnOnce() -> T) -> T {
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

impl Row for tokio_postgres::Row {
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

impl From<tokio_postgres::Error> for DatabaseError {
    fn from(error: tokio_postgres::Error) -> Self {
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
