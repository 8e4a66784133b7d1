//! The database: one server's own, or one that several share, each by a way that can be cut.
//!
//! A shared one is a file in the place of a PostgreSQL. The store in front of it is the product's own: its numbers of
//! changes, its looks for what others wrote. Told again are the ways, which fail as connections do.

use crate::mutants::Mutant;
use crate::site::directory;
use kaltstart_server::store::{self, Store, StoreError, Way};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest time for what takes a moment.
const LIMIT: Duration = Duration::from_secs(30);

/// The database, and copies of it.
pub(crate) struct Database {
    dir: TempDir,
    /// Where it lies; another place after each restored copy.
    data: PathBuf,
    copies: u32,
    /// Of each server, if several share it.
    roads: Vec<Arc<Road>>,
    /// Sees what is stored, whichever server is cut off; if several share it.
    eye: Option<Arc<Store>>,
    mutant: Option<Mutant>,
}

/// A copy of the database.
#[derive(Debug, Clone)]
pub(crate) enum Copy {
    /// Its files.
    Files(Vec<(String, Vec<u8>)>),
    /// Where the product has put it.
    Made(PathBuf),
}

impl Database {
    /// An empty one for so many servers.
    pub(crate) fn new(servers: usize, mutant: Option<Mutant>) -> Self {
        let dir = directory();
        let data = dir.path().join("data-0");
        fs::create_dir(&data).expect("made");
        let roads = if servers > 1 { (0..servers).map(|_| Arc::default()).collect() } else { Vec::new() };
        let mut database = Self { dir, data, copies: 0, roads, eye: None, mutant };
        database.look();
        database
    }

    fn look(&mut self) {
        if !self.roads.is_empty() {
            let eye = Store::open_simulated(&self.data, "eye", Arc::new(Road::default()));
            self.eye = Some(Arc::new(eye.expect("a database")));
        }
    }

    /// A directory for a server's own files.
    pub(crate) fn directory_of(&self, server: usize) -> PathBuf {
        if self.roads.is_empty() {
            return self.data.clone();
        }
        let data = self.dir.path().join(format!("server-{server}"));
        fs::create_dir_all(&data).expect("made");
        data
    }

    /// Opens it for a server that starts.
    pub(crate) fn open(&self, server: usize) -> Result<Store, StoreError> {
        match self.roads.get(server) {
            // As the product's `serve` has it: another name at each start.
            Some(road) => {
                let me = format!("kaltstart {}", kaltstart_server::clock::uuid());
                Store::open_simulated(&self.data, &me, road.clone())
            }
            None => Store::open(&self.data),
        }
    }

    /// Waits until a server that has crashed has let go of it.
    pub(crate) fn is_left_by(&self, server: usize) {
        let log = self.data.join("kaltstart.db-wal");
        let is_open = || match self.roads.get(server) {
            Some(road) => Arc::strong_count(road) > 1,
            // The last to close it removes its log, and that is the store's own thread.
            None => log.exists(),
        };
        let began = Instant::now();
        while is_open() {
            assert!(began.elapsed() < LIMIT, "the database is still open");
            std::thread::yield_now();
        }
    }

    /// What sees all that is stored, of a shared one.
    pub(crate) const fn eye(&self) -> Option<&Arc<Store>> {
        self.eye.as_ref()
    }

    /// The way of a server to a shared one.
    pub(crate) fn road(&self, server: usize) -> Option<&Arc<Road>> {
        self.roads.get(server)
    }

    /// Copies it while it is in use, as `kaltstart backup` does; `plain`ly, file by file, as somebody may
    /// who makes a copy of a whole machine.
    pub(crate) fn back_up(&mut self, plain: bool) -> Copy {
        if plain {
            return Copy::Files(self.files());
        }
        self.copies += 1;
        let to = self.dir.path().join(format!("copy-{}.db", self.copies));
        store::copy(&self.data.join(store::FILE), &to).expect("copied");
        Copy::Made(to)
    }

    /// Puts a copy in its place; all servers are down.
    pub(crate) fn restore(&mut self, copy: &Copy) {
        self.eye = None;
        let before = self.data.clone();
        self.copies += 1;
        self.data = self.dir.path().join(format!("data-{}", self.copies));
        fs::create_dir(&self.data).expect("made");
        match copy {
            Copy::Files(files) => write_files(&self.data, files),
            Copy::Made(made) => {
                store::copy(made, &self.data.join(store::FILE)).expect("copied");
            }
        }
        if self.mutant == Some(Mutant::RestoreUnnoticed) {
            // Into the same file, as a file system is that was set back.
            let files = self.files();
            self.data = before;
            write_files(&self.data, &files);
        }
        self.look();
    }

    /// Its files; nobody writes to them now.
    pub(crate) fn files(&self) -> Vec<(String, Vec<u8>)> {
        let files = fs::read_dir(&self.data).expect("readable").map(|entry| entry.expect("readable"));
        let named = files.map(|file| (file.file_name().into_string().expect("a name"), file.path()));
        // The index beside the log is made anew from it.
        let wanted = named.filter(|(name, _)| name == "kaltstart.db" || name == "kaltstart.db-wal");
        wanted.map(|(name, path)| (name, fs::read(path).expect("readable"))).collect()
    }

    /// Sets it back to these files; nobody has them open.
    pub(crate) fn set_back(&self, files: &[(String, Vec<u8>)]) {
        write_files(&self.data, files);
    }
}

/// Writes them into the files that are there, or new ones.
fn write_files(dir: &Path, files: &[(String, Vec<u8>)]) {
    for beside in ["kaltstart.db-wal", "kaltstart.db-shm"] {
        fs::remove_file(dir.join(beside)).ok();
    }
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).expect("written");
    }
}

/// The way of one server to a shared database.
#[derive(Default)]
pub(crate) struct Road {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Whoever wants to write waits, and whether somebody does.
    closed: bool,
    waiting: bool,
    cut: bool,
    /// It is cut when so many commits more are durable, before the server hears of the last of them.
    deaf_after: Option<u32>,
}

impl Road {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets nothing more through until it is [mended](Self::mend).
    pub(crate) fn cut(&self) {
        let mut state = self.state();
        (state.cut, state.deaf_after) = (true, None);
    }

    /// The next writes of the gated server become durable, but it does not hear of that, and nothing more comes through.
    pub(crate) fn cut_before_the_answer(&self) {
        // The first commit is that of the gate.
        self.state().deaf_after = Some(2);
    }

    pub(crate) fn mend(&self) {
        let mut state = self.state();
        (state.cut, state.deaf_after) = (false, None);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.state().cut
    }

    /// Holds back who writes from now on.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        (state.closed, state.waiting) = (true, false);
    }

    /// Waits until somebody is held back.
    pub(crate) fn wait_for_writer(&self) {
        let waiting = |state: &mut State| !state.waiting;
        let (state, waited) = self
            .changed
            .wait_timeout_while(self.state(), LIMIT, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out() && state.waiting, "nobody writes");
    }

    pub(crate) fn open(&self) {
        self.state().closed = false;
        self.changed.notify_all();
    }
}

impl Way for Road {
    fn begins(&self) {
        let mut state = self.state();
        state.waiting = state.closed;
        self.changed.notify_all();
        let closed = |state: &mut State| state.closed;
        drop(self.changed.wait_while(state, closed).unwrap_or_else(PoisonError::into_inner));
    }

    fn is_open(&self) -> bool {
        !self.is_cut()
    }

    fn hears_commit(&self) -> bool {
        let mut state = self.state();
        state.deaf_after = state.deaf_after.map(|left| left - 1);
        if state.deaf_after == Some(0) {
            (state.cut, state.deaf_after) = (true, None);
        }
        !state.cut
    }
}
