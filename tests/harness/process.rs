//! Child processes that never outlive their owner.

use crate::wait::{self, Poll};
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::Duration;

/// Clock ticks per second in `/proc/PID/stat`; Linux shows 100 to user space whatever it uses inside.
const TICKS_PER_SECOND: f64 = 100.0;

/// `program`, to be killed by the kernel should this thread end without its destructors running.
///
/// `setpriv` asks for that signal because `pre_exec` would need unsafe code here.
#[must_use]
pub fn tethered(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A running process in a process group of its own, killed and reaped on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts `command` with both outputs appended to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = || -> Result<File> {
            File::options()
                .create(true)
                .append(true)
                .open(log)
                .with_context(|| format!("cannot open the log {}", log.display()))
        };
        Self::spawn(name, command.stdin(Stdio::null()).stdout(file()?).stderr(file()?))
    }

    /// Starts `command` with pipes for its input and output, and its errors appended to `log`.
    pub fn start_piped(
        name: &str,
        command: &mut Command,
        log: &Path,
    ) -> Result<(Self, ChildStdin, ChildStdout)> {
        let errors = File::options().create(true).append(true).open(log)?;
        let mut process =
            Self::spawn(name, command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors))?;
        let stdin = process.child.stdin.take().context("the child has no standard input")?;
        let stdout = process.child.stdout.take().context("the child has no standard output")?;
        Ok((process, stdin, stdout))
    }

    /// Starts `command` with this process' own terminal.
    pub fn start_attached(name: &str, command: &mut Command) -> Result<Self> {
        // Same process group: a background group may not draw on the terminal.
        let child = command.spawn().with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child })
    }

    fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let child =
            command.process_group(0).spawn().with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, once it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot look after {}", self.name))
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait::wait_for(&format!("the end of {name}"), limit, || {
            Ok(self.ended()?.map_or_else(|| Poll::pending("still running"), Poll::Ready))
        })
    }

    /// Kills it at once (SIGKILL) and reaps it.
    pub fn kill(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let id = Pid::from_raw(self.child.id().cast_signed());
            // An attached process shares our group and must be killed alone.
            if killpg(id, Signal::SIGKILL).is_err() {
                self.child.kill().ok();
            }
            self.child.wait().ok();
        }
    }

    /// Takes all processor time from it, as a busy machine does for a while.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        killpg(Pid::from_raw(self.child.id().cast_signed()), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// UDP packets that its network namespace has lost because a socket's buffer was full.
    pub fn lost_in_buffers(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/net/snmp", self.id()))?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
        let (names, values) = (lines.next().context("snmp")?, lines.next().context("snmp")?);
        let mut pairs = names.split(' ').zip(values.split(' '));
        let (_, value) = pairs.find(|(name, _)| *name == "RcvbufErrors").context("no RcvbufErrors")?;
        Ok(value.parse()?)
    }

    /// CPU seconds (user and system) used so far.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id()))?;
        // The command name may hold spaces; fields are counted after its closing bracket.
        let (_, rest) = stat.rsplit_once(')').context("unexpected form of /proc/PID/stat")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |index: usize| -> Result<f64> {
            Ok(fields.get(index).context("/proc/PID/stat is too short")?.parse()?)
        };
        Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs `command` to its end, at most for `limit`, whatever its exit status.
pub fn run_to_end(command: &mut Command, limit: Duration) -> Result<Output> {
    run_with(command, Stdio::null(), limit)
}

/// The same, reading from `input`.
pub fn run_with(command: &mut Command, input: Stdio, limit: Duration) -> Result<Output> {
    let text = format!("{command:?}");
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::spawn(&text, command)?;
    let stdout = collect(process.child.stdout.take());
    let stderr = collect(process.child.stderr.take());
    let status = process.wait(limit)?;
    let join = |reader: thread::JoinHandle<io::Result<Vec<u8>>>| -> Result<Vec<u8>> {
        Ok(reader.join().ok().context("a reader of a child's output panicked")??)
    };
    Ok(Output { status, stdout: join(stdout)?, stderr: join(stderr)? })
}

/// Runs `command` to its end and returns its standard output; a failure holds its errors.
pub fn run(command: &mut Command, limit: Duration) -> Result<String> {
    let output = run_to_end(command, limit)?;
    if !output.status.success() {
        bail!("{command:?} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<io::Result<Vec<u8>>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_dies_with_its_owner() {
        let log = std::env::temp_dir().join(format!("kt-process-{}", std::process::id()));
        let process = Process::start("sleep", tethered("sleep").arg("60"), &log).expect("sleep starts");
        let id = process.id();
        assert!(process.cpu_seconds().expect("it has a stat file") < 1.0);
        drop(process);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
        fs::remove_file(log).expect("the log was made");
    }

    #[test]
    fn a_failure_holds_the_programs_words() {
        let error = run(Command::new("sh").args(["-c", "echo broken >&2; exit 3"]), wait::secs(10));
        assert!(error.expect_err("exit status 3").to_string().contains("broken"));
    }
}
