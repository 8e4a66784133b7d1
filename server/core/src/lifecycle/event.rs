//! Everything that can happen to a machine, and what the server says about it afterwards.

use crate::about::{Edit, Lock};
use crate::approval::Approval;
use crate::machine::{Grant, Job, JobKind, State};
use crate::rescue::Code as OneTimeCode;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use kaltstart_protocol::agent_api::{Erased, Installed, Mode, ReportState};
use kaltstart_protocol::facts::{Facts, Neighbour};
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::{Digest, JobId};
use kaltstart_protocol::node_api::BootOrder;
use kaltstart_protocol::phase::{Phase, Progress};
use kaltstart_protocol::wipe::{HostIdentity, WipeGrant};

/// Who sent a DHCP packet, as far as the lifecycle cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// Firmware or a boot loader: the machine has just been started.
    Firmware,
    /// Any other client: an installed system, or the agent.
    System,
}

/// Something that happened to a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody says that it was switched on.
    PowerSeen,
    /// It sent a DHCP packet.
    DhcpSeen {
        /// Who.
        asker: Asker,
    },
    /// It was given an address.
    AddressGiven {
        /// To whom.
        asker: Asker,
        /// Which.
        address: IpAddr,
    },
    /// It fetched its boot script, and with it a new grant.
    ScriptServed {
        /// The grant; replaces an older one.
        grant: Grant,
    },
    /// Its installed system asked whether a job calls it back, and none does.
    SystemAsked,
    /// Its installed system asked, and was given a new grant for the job that calls it back.
    Recalled {
        /// The grant; replaces an older one.
        grant: Grant,
    },
    /// Its installed system cannot start the agent that it was given, and says why.
    RecallFailed(String),
    /// It fetched the last file it needs before the kernel starts.
    RamdiskServed {
        /// Bytes of kernel and ramdisk.
        bytes: u64,
    },
    /// Its agent said hello.
    AgentHello(Hello),
    /// Its agent heard what its interfaces, by name, are plugged into.
    NeighboursHeard(BTreeMap<String, Neighbour>),
    /// Its agent took the task of a job.
    TaskTaken {
        /// The job.
        job: JobId,
        /// Fingerprint of the token with which the installed system will report, if one is installed.
        report_token: Option<Digest>,
        /// Fingerprint of the token with which it will ask whether a job calls it back, if it shall.
        recall_token: Option<Digest>,
        /// Fingerprint of the token with which it asks for the key of its disks, if they are encrypted.
        unlock_token: Option<Digest>,
        /// What it may lose.
        wipe: Vec<WipeGrant>,
    },
    /// Its agent reported about a phase.
    PhaseReported {
        /// The job it works on.
        job: JobId,
        /// The attempt it works on.
        attempt: u32,
        /// The phase.
        phase: Phase,
        /// How it stands.
        state: ReportState,
        /// How far it is.
        progress: Option<Progress>,
        /// Keys and values worth showing.
        detail: BTreeMap<String, String>,
    },
    /// Its agent says that the disk is complete.
    InstallDone(Installed),
    /// Its agent says that all disks are erased.
    DisksErased(Erased),
    /// Its system asked for the key of its disks from an address, and the answer was decided ([`crate::unlock`]): the
    /// key, or why not.
    KeyAsked {
        /// From where.
        address: IpAddr,
        /// The machine that it says it runs on.
        host: HostIdentity,
        /// What is wrong, if the answer is no.
        refused: Option<Finding>,
        /// Whether the key that it was given before opens nothing.
        useless: bool,
    },
    /// Somebody says that the machine with that UUID, which was refused the key, is this node with another board.
    BoardAccepted {
        /// Its SMBIOS UUID.
        uuid: String,
        /// Who says so.
        approver: String,
    },
    /// The installed system reported itself.
    SystemReported(SystemReport),
    /// A one-time code was made for the shell of its rescue.
    CodeIssued(OneTimeCode),
    /// Somebody tries the one-time code with that fingerprint.
    CodeTried(Digest),
    /// Its agent asks for what was typed.
    RescueAlive {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: u32,
    },
    /// Its agent says that the shell was left.
    Rescued {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: u32,
    },
    /// Somebody ordered a job.
    JobOrdered(alloc::boxed::Box<Job>),
    /// Somebody cancelled the job.
    JobCancelled,
    /// The server itself cannot go on with the job.
    Hindered(Finding),
    /// The current phase has taken too long.
    DeadlinePassed {
        /// Why, as far as packets show it; counts only before the agent speaks for itself.
        shown: Option<Finding>,
    },
    /// The server starts: time in which nobody listened does not count against deadlines.
    ServerStarted,
    /// An operator moves the node.
    Operator(Move),
    /// Somebody says something else of the node.
    Edited(Edit),
    /// Nobody may touch the node.
    Locked(Lock),
    /// They may again.
    Unlocked,
    /// Somebody agrees to an order that somebody else may give.
    Approved(Approval),
}

/// An agent's first words, checked against the grant by [`step`](super::step).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Fingerprint of the boot token.
    pub token: Digest,
    /// Fingerprint of the session secret.
    pub session: Digest,
    /// The mode it was started in.
    pub mode: Mode,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Milliseconds the agent has been running.
    pub running_ms: u64,
    /// Milliseconds the kernel has been running.
    pub uptime_ms: u64,
    /// What it saw.
    pub facts: alloc::boxed::Box<Facts>,
}

/// An installed system's report, without its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemReport {
    /// Host name.
    pub hostname: String,
    /// Kernel release.
    pub kernel: String,
    /// Device of the root file system.
    pub root_device: String,
    /// UUID of the root file system.
    pub root_uuid: String,
    /// `PRETTY_NAME`.
    pub os: String,
    /// Machine id.
    pub machine_id: String,
    /// Public SSH host keys.
    pub ssh_host_keys: Vec<String>,
    /// How it found the boot order.
    pub boot_order: BootOrder,
}

/// What an operator may do to a node besides ordering jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// It is ours, as it is: may be ordered, and what it had once is not missed any more.
    Accept,
    /// It is not ours.
    Reject,
    /// Its hardware is bad.
    Break,
    /// Its hardware is good again.
    Repair,
    /// It is gone.
    Retire,
}

impl Move {
    /// All moves.
    pub const ALL: [Self; 5] = [Self::Accept, Self::Reject, Self::Break, Self::Repair, Self::Retire];

    /// The word in API and client.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Reject => "reject",
            Self::Break => "break",
            Self::Repair => "repair",
            Self::Retire => "retire",
        }
    }
}

/// What subscribers are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// The node is now in this state.
    NodeMoved(State),
    /// People say something else of the node.
    NodeEdited,
    /// Nobody may touch the node.
    NodeLocked,
    /// They may again.
    NodeUnlocked,
    /// Somebody agrees to an order that somebody else may give.
    NodeApproved,
    /// A job was ordered.
    JobQueued,
    /// Its machine was heard.
    JobStarted,
    /// The machine started over within a job.
    JobRestarted {
        /// The new attempt.
        attempt: u32,
    },
    /// A phase began.
    PhaseStarted(Phase),
    /// A phase ended.
    PhaseDone(Phase),
    /// The running phase came on.
    Progressed(Phase),
    /// The job is done and verified.
    JobSucceeded,
    /// The job ended with a finding.
    JobFailed(Finding),
    /// The job was cancelled.
    JobCancelled,
    /// The key of its disks was released to this address.
    KeyReleased(IpAddr),
    /// This address asked for the key of its disks, and was refused.
    KeyRefused(IpAddr, Finding),
    /// The key of its disks was released to this address before, and opens nothing there.
    KeyUseless(IpAddr, Finding),
    /// Another board was accepted for its system.
    BoardAccepted {
        /// The machine as it is now.
        host: HostIdentity,
        /// Who accepted it.
        approver: String,
    },
    /// A one-time code for the shell was made.
    CodeIssued,
    /// The shell was opened, or taken over, by a right code.
    ShellOpened,
    /// A code was wrong; that many tries are left.
    ShellRefused(u32),
}

impl Happening {
    /// The event's type in the API, without the common prefix.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NodeMoved(State::Expected) => "node.expected",
            Self::NodeMoved(State::Discovered) => "node.discovered",
            Self::NodeMoved(State::Available) => "node.available",
            Self::NodeMoved(State::Allocated) => "node.allocated",
            Self::NodeMoved(State::Deployed) => "node.deployed",
            Self::NodeMoved(State::Releasing) => "node.releasing",
            Self::NodeMoved(State::Broken) => "node.broken",
            Self::NodeMoved(State::Retired) => "node.retired",
            Self::NodeEdited => "node.edited",
            Self::NodeLocked => "node.locked",
            Self::NodeUnlocked => "node.unlocked",
            Self::NodeApproved => "node.approved",
            Self::JobQueued => "job.queued",
            Self::JobStarted => "job.started",
            Self::JobRestarted { .. } => "job.restarted",
            Self::PhaseStarted(_) => "job.phase_started",
            Self::PhaseDone(_) => "job.phase_done",
            Self::Progressed(_) => "job.progress",
            Self::JobSucceeded => "job.succeeded",
            Self::JobFailed(_) => "job.failed",
            Self::JobCancelled => "job.cancelled",
            Self::KeyReleased(_) => "node.key_released",
            Self::KeyRefused(..) => "node.key_refused",
            Self::KeyUseless(..) => "node.key_useless",
            Self::BoardAccepted { .. } => "node.board_accepted",
            Self::CodeIssued => "job.code_issued",
            Self::ShellOpened => "job.shell_opened",
            Self::ShellRefused(_) => "job.shell_refused",
        }
    }

    /// The phase it is about.
    #[must_use]
    pub const fn phase(&self) -> Option<Phase> {
        match self {
            Self::PhaseStarted(phase) | Self::PhaseDone(phase) | Self::Progressed(phase) => Some(*phase),
            _ => None,
        }
    }

    /// The problem it is about.
    #[must_use]
    pub const fn finding(&self) -> Option<&Finding> {
        match self {
            Self::JobFailed(finding) | Self::KeyRefused(_, finding) | Self::KeyUseless(_, finding) => {
                Some(finding)
            }
            _ => None,
        }
    }

    /// The address it is about.
    #[must_use]
    pub const fn address(&self) -> Option<IpAddr> {
        match self {
            Self::KeyReleased(address) | Self::KeyRefused(address, _) | Self::KeyUseless(address, _) => {
                Some(*address)
            }
            _ => None,
        }
    }

    /// Who did it, where that is told.
    #[must_use]
    pub const fn approver(&self) -> Option<&str> {
        match self {
            Self::BoardAccepted { approver, .. } => Some(approver.as_str()),
            _ => None,
        }
    }

    /// The machine it is about, where it is another than before.
    #[must_use]
    pub const fn host(&self) -> Option<&HostIdentity> {
        match self {
            Self::BoardAccepted { host, .. } => Some(host),
            _ => None,
        }
    }
}

/// The finding for a phase of such a job that took too long.
#[must_use]
pub fn overdue(kind: JobKind, phase: Phase) -> Code {
    match phase {
        _ if kind == JobKind::Rescue && phase > Phase::Kernel => Code::Silent,
        Phase::Queued | Phase::Power | Phase::Firmware => Code::NoDhcp,
        Phase::Dhcp | Phase::Loader => Code::NoBootFile,
        Phase::Kernel | Phase::Inventory | Phase::Disk | Phase::Image | Phase::Configure => Code::Silent,
        Phase::Restart | Phase::Handoff | Phase::Verify => Code::NotReported,
    }
}
