//! Gives up, once every socket is bound, all rights that serving does not need.
//!
//! The process becomes its own user; every thread loses its capabilities but [`KEPT`], may write
//! beneath the data directory alone (Landlock), and may neither start programs nor open raw sockets
//! nor use the kernel's administrative calls (seccomp). Capabilities, Landlock and seccomp belong to
//! threads: those of the runtime wait in [`Gate::enter`] until the sockets are bound, and
//! whatever starts later inherits them.

use crate::config::Config;
use anyhow::{Context as _, Result, anyhow};
use caps::{CapSet, Capability, CapsHashSet};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::sys::prctl;
use nix::unistd::{self, User};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use socket2::{Domain, Socket, Type};
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The user the server becomes if the configuration names none and this one exists.
const DEFAULT_USER: &str = "kaltstart";

/// What serving needs: entries in the table of neighbours for clients that have no address yet, and
/// the DHCP client port for the search for other servers.
const KEPT: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_BIND_SERVICE];

/// An address family that no kernel has. That a socket of it is forbidden, not unknown, shows that [`refused_calls`] is in
/// force, which is the last thing a thread is confined by.
const MARK: i32 = 0x4b53;

/// Landlock's version whose rights are handled, as far as the kernel knows them.
const LANDLOCK: ABI = ABI::V6;

/// Where threads wait until it is known what they may do.
#[derive(Debug, Default)]
pub(crate) struct Gate(OnceLock<Option<Confinement>>);

impl Gate {
    /// Lets the waiting threads on: confined, or as they are because the server ends anyway.
    pub(crate) fn open(&self, confinement: Option<Confinement>) {
        // A second opening (the end after the start) changes nothing.
        let _ = self.0.set(confinement);
    }

    /// Waits for [`open`](Self::open) and confines the calling thread, unless it was started by one that is. A thread
    /// that cannot be confined ends the process: it would serve with rights that all others have given up.
    pub(crate) fn enter(&self) {
        let Some(confinement) = self.0.wait() else { return };
        // The kernel stacks only so many rule sets (`LANDLOCK_MAX_NUM_LAYERS`), and threads of the runtime start others.
        if is_confined() {
            return;
        }
        if let Err(error) = confinement.confine_thread() {
            tracing::error!("cannot confine a thread: {error:#}");
            std::process::abort();
        }
    }
}

/// What every thread is confined to.
#[derive(Debug)]
pub(crate) struct Confinement {
    data_dir: PathBuf,
    /// TCP ports that may be connected to: those of a shared database.
    ports: Vec<u16>,
    filters: [BpfProgram; 2],
}

impl Confinement {
    /// Makes the process its own user and confines the calling thread, which may connect to the TCP `ports`.
    ///
    /// # Errors
    /// When the configured user does not exist, or the kernel refuses.
    pub(crate) fn begin(config: &Config, ports: Vec<u16>) -> Result<Self> {
        if unistd::geteuid().is_root() {
            match user(config.user.as_deref())? {
                Some(user) => become_user(&user, &config.data_dir)
                    .with_context(|| format!("cannot become the user {:?}", user.name))?,
                None => tracing::warn!(
                    "serving as root, with few capabilities: make a user for the server, for example by \
                     `useradd --system {DEFAULT_USER}`"
                ),
            }
        }
        let filters = [unfilterable_calls()?, refused_calls()?];
        let confinement = Self { data_dir: config.data_dir.clone(), ports, filters };
        let status = confinement.confine_thread()?;
        if status != RulesetStatus::FullyEnforced {
            tracing::warn!(landlock = ?status, "the kernel does not confine file access as far as it could");
        }
        let user = unistd::geteuid();
        tracing::info!(%user, "confined: few capabilities, writes beneath data_dir alone, no programs");
        Ok(confinement)
    }

    fn confine_thread(&self) -> Result<RulesetStatus> {
        keep_capabilities().context("capabilities")?;
        let status = confine_files(&self.data_dir, &self.ports).context("Landlock")?;
        for filter in &self.filters {
            seccompiler::apply_filter(filter).context("seccomp")?;
        }
        Ok(status)
    }
}

/// Whether the calling thread is confined.
fn is_confined() -> bool {
    let refused = Socket::new(Domain::from(MARK), Type::STREAM, None).err();
    refused.is_some_and(|refused| refused.raw_os_error() == Some(libc::EPERM))
}

/// To be called before there are threads, which take it over: capabilities outlive the change of
/// the user (until [`Confinement`] drops them), and no program started from here could have any.
pub(crate) fn prepare() -> Result<()> {
    prctl::set_keepcaps(true).context("cannot keep capabilities")?;
    // Without the right to do so there are none to have.
    let _ = caps::clear(None, CapSet::Bounding);
    Ok(())
}

/// Leaves the calling thread those of [`KEPT`] that it has.
fn keep_capabilities() -> Result<(), caps::errors::CapsError> {
    let had = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = KEPT.into_iter().filter(|one| had.contains(one)).collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

/// The user to become; none when none is configured and the default one does not exist.
///
/// # Errors
/// When the configured one does not exist, or users cannot be looked up.
pub(crate) fn user(configured: Option<&str>) -> Result<Option<User>> {
    let name = configured.unwrap_or(DEFAULT_USER);
    let found = User::from_name(name).with_context(|| format!("cannot look up the user {name:?}"))?;
    match (found, configured) {
        (None, Some(_)) => {
            Err(anyhow!("user: there is no user {name:?}; make it, for example by `useradd --system {name}`"))
        }
        (found, _) => Ok(found),
    }
}

/// Changes user and group of all threads at once; the data directory goes along.
fn become_user(user: &User, data_dir: &Path) -> Result<()> {
    give(data_dir, (user.uid.as_raw(), user.gid.as_raw()))
        .with_context(|| format!("cannot give {} away", data_dir.display()))?;
    unistd::setgroups(&[]).context("setgroups")?;
    unistd::setresgid(user.gid, user.gid, user.gid).context("setresgid")?;
    unistd::setresuid(user.uid, user.uid, user.uid).context("setresuid")?;
    Ok(())
}

/// Gives `path` and all below it to `user`; links are not followed.
pub(crate) fn give(path: &Path, owner: (u32, u32)) -> std::io::Result<()> {
    let found = path.symlink_metadata()?;
    if found.is_dir() {
        for entry in path.read_dir()? {
            give(&entry?.path(), owner)?;
        }
    }
    if (found.uid(), found.gid()) != owner {
        lchown(path, Some(owner.0), Some(owner.1))?;
    }
    Ok(())
}

/// Files are read where their permissions allow it and written beneath `data_dir` alone; nothing
/// is executed; no TCP port is bound, and none but `ports` connected to. As far as the kernel knows how.
fn confine_files(data_dir: &Path, ports: &[u16]) -> Result<RulesetStatus> {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let handled = AccessFs::from_all(LANDLOCK) & !reading;
    let in_data_dir: BitFlags<AccessFs> = handled & !BitFlags::from(AccessFs::Execute);
    let status = Ruleset::default()
        .handle_access(handled)?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new(data_dir)?, in_data_dir))?
        .add_rules(
            ports.iter().map(|port| Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::ConnectTcp))),
        )?
        .restrict_self()?;
    Ok(status.ruleset)
}

/// The calls that fail with EPERM.
fn refused_calls() -> Result<BpfProgram> {
    const ALWAYS: &[libc::c_long] = &[
        // programs, other processes
        libc::SYS_execve,
        libc::SYS_execveat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_kcmp,
        libc::SYS_pidfd_getfd,
        // file systems and namespaces
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_fsmount,
        libc::SYS_mount_setattr,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_mknodat,
        libc::SYS_open_by_handle_at,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_quotactl,
        // the kernel itself
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_kexec_file_load,
        libc::SYS_reboot,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_syslog,
        libc::SYS_acct,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_adjtimex,
        libc::SYS_clock_adjtime,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_personality,
    ];
    let mut rules: Vec<(libc::c_long, Vec<SeccompRule>)> =
        ALWAYS.iter().map(|call| (*call, vec![])).collect();
    // Threads may be made, processes not.
    let threads = libc::CLONE_THREAD as u64;
    rules.push((libc::SYS_clone, vec![rule(&[(0, SeccompCmpOp::MaskedEq(threads), 0)])?]));
    let raw = |family: libc::c_int| {
        // The type is in the low bits; flags as SOCK_CLOEXEC above them.
        let kind = (1, SeccompCmpOp::MaskedEq(0xf), libc::SOCK_RAW as u64);
        rule(&[(0, SeccompCmpOp::Eq, family as u64), kind])
    };
    let packet = rule(&[(0, SeccompCmpOp::Eq, libc::AF_PACKET as u64)])?;
    let mark = rule(&[(0, SeccompCmpOp::Eq, MARK as u64)])?;
    rules.push((libc::SYS_socket, vec![packet, raw(libc::AF_INET)?, raw(libc::AF_INET6)?, mark]));
    compile(rules, libc::EPERM)
}

/// `clone3` hides its flags from filters: the C library falls back to `clone` when there is none.
fn unfilterable_calls() -> Result<BpfProgram> {
    compile(vec![(libc::SYS_clone3, vec![])], libc::ENOSYS)
}

/// All of the conditions on arguments: number, comparison, value.
fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule> {
    let conditions = conditions.iter().map(|(argument, compare, value)| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, compare.clone(), *value)
    });
    Ok(SeccompRule::new(conditions.collect::<Result<_, _>>()?)?)
}

fn compile(rules: Vec<(libc::c_long, Vec<SeccompRule>)>, errno: libc::c_int) -> Result<BpfProgram> {
    let refuse = SeccompAction::Errno(errno.unsigned_abs());
    let rules = rules.into_iter().collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, std::env::consts::ARCH.try_into()?)?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use socket2::Protocol;
    use std::fs;
    use std::io::ErrorKind;

    fn confinement(data_dir: &Path) -> Confinement {
        let filters = [unfilterable_calls().expect("compiles"), refused_calls().expect("compiles")];
        Confinement { data_dir: data_dir.to_owned(), ports: vec![], filters }
    }

    /// What a thread that is confined to `data_dir` says of what it tries.
    fn confined<T: Send>(data_dir: &Path, attempt: impl FnOnce() -> T + Send) -> T {
        let confinement = confinement(data_dir);
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                confinement.confine_thread().expect("the kernel confines");
                attempt()
            });
            thread.join().expect("the attempt returns")
        })
    }

    #[test]
    fn p35_a_confined_thread_writes_beneath_the_data_directory_alone() {
        let (own, foreign) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
        confined(own.path(), || {
            let file = own.path().join("file");
            fs::write(&file, "text").expect("its own directory");
            fs::rename(&file, own.path().join("renamed")).expect("its own directory");
            assert_eq!(fs::read(own.path().join("renamed")).expect("readable"), b"text");
            let refused = fs::write(foreign.path().join("file"), "").expect_err("not its directory");
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
            let linked = fs::hard_link(own.path().join("renamed"), foreign.path().join("file"));
            linked.expect_err("not its directory");
        });
        assert_eq!(fs::read_dir(foreign.path()).expect("readable").count(), 0);
    }

    #[test]
    fn p35_threads_are_confined_however_many_started_one_another() {
        fn start(gate: &Gate, more: u32) {
            gate.enter();
            assert!(is_confined());
            if more > 0 {
                std::thread::scope(|scope| scope.spawn(|| start(gate, more - 1)).join().expect("it goes on"));
            }
        }
        let dir = tempfile::tempdir().expect("made");
        assert!(!is_confined());
        let gate = Gate::default();
        gate.open(Some(confinement(dir.path())));
        // More than the kernel stacks rule sets.
        std::thread::scope(|scope| scope.spawn(|| start(&gate, 40)).join().expect("it goes on"));
    }

    #[test]
    fn p35_a_confined_thread_starts_no_program_and_opens_no_raw_socket() {
        let dir = tempfile::tempdir().expect("made");
        confined(dir.path(), || {
            let refused = std::process::Command::new("/bin/true").spawn().expect_err("no programs");
            assert_eq!(refused.raw_os_error(), Some(Errno::EPERM as i32), "{refused}");
            for (domain, kind, protocol) in [
                (Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)),
                (Domain::IPV6, Type::RAW.nonblocking().cloexec(), Some(Protocol::ICMPV6)),
                (Domain::PACKET, Type::DGRAM, None),
            ] {
                let refused = Socket::new(domain, kind, protocol).expect_err("no raw sockets");
                assert_eq!(refused.raw_os_error(), Some(Errno::EPERM as i32), "{refused}");
            }
            Socket::new(Domain::IPV4, Type::DGRAM, None).expect("ordinary sockets");
            std::thread::spawn(|| ()).join().expect("threads");
        });
    }

    #[test]
    fn p35_a_confined_thread_has_few_capabilities_and_gets_none_back() {
        let dir = tempfile::tempdir().expect("made");
        confined(dir.path(), || {
            for set in [CapSet::Effective, CapSet::Permitted] {
                let mut left = caps::read(None, set).expect("readable");
                left.retain(|one| !KEPT.contains(one));
                assert!(left.is_empty(), "{set:?}: {left:?}");
            }
            caps::raise(None, CapSet::Permitted, Capability::CAP_SYS_ADMIN).expect_err("not any more");
            unistd::chroot(dir.path()).expect_err("not the server's business");
        });
    }

    #[test]
    fn a_configured_user_must_exist() {
        let error = user(Some("no-such-user")).expect_err("it does not exist");
        assert!(error.to_string().contains("useradd"), "{error}");
        assert!(user(Some("root")).expect("it exists").is_some());
    }
}
