//! The screen for people in front of the machine: who it is, how far it is, what they have to do.
//!
//! | module | subject |
//! |---|---|
//! | [`render`] | what is shown, as text: pure |
//! | [`words`] | its words, in English and German |
//! | [`blocks`] | letters and QR codes out of half blocks, which every console's font has |
//! | [`terminal`] | a console of its own, and the keys |
//!
//! The rest of the agent tells the board what is new ([`tell`] and its like), and waits for nobody.

mod blocks;
mod render;
mod terminal;
mod words;

use kaltstart_protocol::agent_api::Welcome;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::language::Language;
use kaltstart_protocol::phase::{Phase, Progress};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sys::kernel::uptime_ms;

pub use terminal::start;

/// What the agent is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "install"), expect(dead_code, reason = "jobs alone tell some of them"))]
pub(crate) enum Doing {
    /// Loading drivers.
    Starting,
    /// Waiting for a link and an address.
    Network,
    /// Listing the hardware, and greeting the server.
    Greeting,
    /// Waiting for the server's orders.
    Waiting,
    /// A phase of a job.
    Job {
        /// Which.
        phase: Phase,
        /// When it began, in milliseconds since the kernel started.
        since: u64,
        /// How far it is.
        progress: Option<Progress>,
    },
    /// The system is laid down.
    Installed,
    /// All disks are empty.
    Erased,
    /// People work on the machine over the network.
    Rescue,
    /// The server stopped the job, for this reason.
    Stopped(String),
    /// The machine restarts, for this reason.
    Restarting(String),
    /// The agent can do no more, for this reason.
    Stuck(String),
}

/// What is known of the machine, for the screen.
#[derive(Debug, Clone)]
pub(crate) struct State {
    doing: Doing,
    /// Whether this start writes to no disk.
    looks: bool,
    /// The name the server has for it.
    name: String,
    /// Where people find it.
    page: String,
    serial: String,
    /// The interface in use, and its address.
    interface: String,
    address: String,
    /// What each interface is plugged into.
    plugged: BTreeMap<String, String>,
    server: String,
    /// When the server last answered, in milliseconds since the kernel started.
    heard: Option<u64>,
    /// What each phase usually takes, in milliseconds.
    usual: BTreeMap<Phase, u64>,
    /// Whether the job erases all disks.
    erases: bool,
    /// What is wrong with machine or job.
    finding: Option<Finding>,
    /// What keeps the agent from its server, as long as it does.
    trouble: Option<Finding>,
}

impl State {
    const fn new() -> Self {
        Self {
            doing: Doing::Starting,
            looks: false,
            name: String::new(),
            page: String::new(),
            serial: String::new(),
            interface: String::new(),
            address: String::new(),
            plugged: BTreeMap::new(),
            server: String::new(),
            heard: None,
            usual: BTreeMap::new(),
            erases: false,
            finding: None,
            trouble: None,
        }
    }

    /// What needs hands.
    fn alarm(&self) -> Option<&Finding> {
        self.trouble.as_ref().or(self.finding.as_ref())
    }
}

static BOARD: Mutex<State> = Mutex::new(State::new());
static IS_GERMAN: AtomicBool = AtomicBool::new(false);

/// The board; what a thread left that panicked is as good as before.
fn board() -> MutexGuard<'static, State> {
    BOARD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The language that was chosen by a key.
pub(crate) fn language() -> Language {
    if IS_GERMAN.load(Ordering::Relaxed) { Language::German } else { Language::English }
}

/// What the agent does now.
pub(crate) fn doing(doing: Doing) {
    board().doing = doing;
}

/// The server's address, and whether this start only looks.
pub(crate) fn started(server: &str, looks: bool) {
    let mut board = board();
    (board.server, board.looks, board.doing) = (server.into(), looks, Doing::Network);
}

/// The network is up.
pub(crate) fn addressed(interface: &str, address: String) {
    let mut board = board();
    (board.interface, board.address, board.doing, board.trouble) =
        (interface.into(), address, Doing::Greeting, None);
}

/// The machine's own serial number.
pub(crate) fn serial(serial: &str) {
    board().serial = serial.into();
}

/// What an interface is plugged into.
pub(crate) fn plugged(interface: &str, into: String) {
    board().plugged.insert(interface.into(), into);
}

/// The server knows the machine.
pub(crate) fn welcomed(welcome: &Welcome) {
    let mut board = board();
    (board.name, board.page) = (welcome.name.clone(), welcome.page.clone());
    (board.usual, board.doing) = (welcome.usual.clone(), Doing::Waiting);
}

/// The server answered.
pub(crate) fn heard() {
    board().heard = Some(uptime_ms());
}

/// Nothing keeps the agent from its server any more.
pub(crate) fn reached() {
    board().trouble = None;
}

/// A job begins, which erases all disks or lays down a system: what was wrong before does not matter to it.
#[cfg(feature = "install")]
pub(crate) fn job_begins(erases: bool) {
    let mut board = board();
    (board.erases, board.finding) = (erases, None);
}

/// A phase of a job runs.
#[cfg(feature = "install")]
pub(crate) fn phase(running: Phase, progress: Option<Progress>) {
    let mut board = board();
    let since = match board.doing {
        Doing::Job { phase, since, .. } if phase == running => since,
        _ => uptime_ms(),
    };
    board.doing = Doing::Job { phase: running, since, progress };
}

/// Something is wrong.
pub(crate) fn found(finding: &Finding) {
    let mut board = board();
    let of_the_way = [Code::AgentNoLink, Code::AgentNoDhcp, Code::ServerUnreachable, Code::ServerNotTrusted];
    if of_the_way.contains(&finding.code) {
        board.trouble = Some(finding.clone());
    } else {
        board.finding = Some(finding.clone());
    }
}
