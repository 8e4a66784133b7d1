//! What stands between a store and PostgreSQL in tests: it counts the messages of the protocol, and has the connections
//! lost once so many have passed.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// How connections are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Nothing arrives any more in either direction, as when one of the two has died.
    Cut,
    /// The administrator of PostgreSQL ends them.
    Terminated,
}

/// Both ends of a connection.
type Ends = (TcpStream, UnixStream);

struct Passing {
    /// Connections of earlier runs are not counted.
    run: u32,
    /// Messages that have passed in this run.
    passed: usize,
    /// The last one that passes before the loss.
    last: usize,
    loss: Loss,
    open: Vec<Ends>,
    admin: postgres::Client,
}

/// The relay; it ends with the process.
pub(super) struct Relay {
    url: String,
    passing: Arc<Mutex<Passing>>,
}

impl Relay {
    /// Begins to relay to a database of the PostgreSQL whose socket is in `dir` for `port`.
    pub(super) fn start(dir: &str, port: &str, database: &str) -> Self {
        let socket = PathBuf::from(dir).join(format!(".s.PGSQL.{port}"));
        let admin = format!("host={dir} port={port} user=postgres dbname={database}");
        let admin = postgres::Client::connect(&admin, postgres::NoTls).expect("connected");
        let passing =
            Passing { run: 0, passed: 0, last: usize::MAX, loss: Loss::Cut, open: Vec::new(), admin };
        let passing = Arc::new(Mutex::new(passing));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("a port").port();
        let url = format!("host=127.0.0.1 port={port} user=postgres dbname={database}");
        let accepting = passing.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("a connection");
                client.set_nodelay(true).expect("set");
                let server = UnixStream::connect(&socket).expect("PostgreSQL listens");
                relay(client, server, &accepting).expect("relayed");
            }
        });
        Self { url, passing }
    }

    /// How the database is reached through it.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Counts from 0 again; after message `last` all connections that are open then are lost, and later ones are not.
    pub(super) fn lose_after(&self, last: usize, loss: Loss) {
        let mut passing = lock(&self.passing);
        let run = passing.run + 1;
        passing.open.clear();
        (passing.run, passing.passed, passing.last, passing.loss) = (run, 0, last, loss);
    }

    /// Does what administrators do to the database.
    pub(super) fn execute(&self, sql: &str) {
        lock(&self.passing).admin.batch_execute(sql).expect("done");
    }

    /// How many messages have passed since it counts.
    pub(super) fn passed(&self) -> usize {
        lock(&self.passing).passed
    }
}

fn lock(passing: &Mutex<Passing>) -> MutexGuard<'_, Passing> {
    passing.lock().unwrap_or_else(PoisonError::into_inner)
}

fn relay(client: TcpStream, server: UnixStream, passing: &Arc<Mutex<Passing>>) -> io::Result<()> {
    let ends = || io::Result::Ok((client.try_clone()?, server.try_clone()?));
    let (there, back) = (ends()?, ends()?);
    let mut now = lock(passing);
    now.open.push(ends()?);
    let run = now.run;
    drop(now);
    let (one, other) = (passing.clone(), passing.clone());
    // The first message of a client alone has no type (chapter 54.7 of PostgreSQL's manual, StartupMessage).
    thread::spawn(move || pump(there.0, there.1, 0, run, &one));
    thread::spawn(move || pump(back.1, back.0, 1, run, &other));
    Ok(())
}

/// Passes messages on until either end is closed.
fn pump(from: impl Read + Both, to: impl Write + Both, mut kind: usize, run: u32, passing: &Mutex<Passing>) {
    let (mut reading, mut writing) = (io::BufReader::new(from), to);
    while let Ok(message) = message(&mut reading, kind) {
        kind = 1;
        let mut now = lock(passing);
        if now.run != run {
            drop(now);
            if writing.write_all(&message).is_err() {
                break;
            }
            continue;
        }
        now.passed += 1;
        let is_last = now.passed == now.last;
        if is_last && now.loss == Loss::Terminated {
            let sql = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
                       WHERE application_name = 'one' AND datname = current_database()";
            now.admin.execute(sql, &[]).expect("ended");
        }
        if writing.write_all(&message).is_err() {
            break;
        }
        if is_last && now.loss == Loss::Cut {
            now.open.drain(..).for_each(|(client, server)| {
                // Either may be closed already.
                client.shutdown(Shutdown::Both).ok();
                server.shutdown(Shutdown::Both).ok();
            });
        }
    }
    reading.get_ref().close();
    writing.close();
}

/// A message whose length stands behind `kind` bytes of its type, and counts itself.
fn message(from: &mut impl Read, kind: usize) -> io::Result<Vec<u8>> {
    let mut message = vec![0; kind + 4];
    from.read_exact(&mut message)?;
    let length: [u8; 4] = message[kind..].try_into().expect("four bytes");
    let length = u32::from_be_bytes(length) as usize;
    message.resize(kind + length, 0);
    from.read_exact(&mut message[kind + 4..])?;
    Ok(message)
}

/// An end that is closed in both directions.
trait Both {
    fn close(&self);
}

impl Both for TcpStream {
    fn close(&self) {
        self.shutdown(Shutdown::Both).ok();
    }
}

impl Both for UnixStream {
    fn close(&self) {
        self.shutdown(Shutdown::Both).ok();
    }
}
