//! A machine in the hands of a person: a shell on a terminal whose other end is at the server.
//!
//! The agent connects out, as ever: it asks for what was typed, and tells what is shown. Disks are read-only in
//! the kernel but those that the server named; what somebody does who is root is up to him, and is recorded.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kaltstart_protocol::rescue::{
    Input, InputQuestion, OUTPUT_MAX, Octets, Output, RescueTask, Rescued, Size,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::devices::Devices;
use crate::link::{CallError, Link, SHELL_WAIT_SECONDS};
use crate::screen::{self, Doing};
use crate::sys::pty;
use crate::work::End;
use crate::{log, pid1};

/// The only program of the ramdisk that people use.
const BUSYBOX: &str = "/bin/busybox";

/// How long what is shown gathers before it travels together.
const GATHER: Duration = Duration::from_millis(5);
/// Pause between two looks at a silent shell, in milliseconds.
const LOOK_MS: u16 = 200;
/// How long a program may take for what was typed; then the rest of it is lost.
const TAKE_MS: u16 = 2_000;
/// Shortest time between two questions that are answered with nothing.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Holds the machine until the rescue is over.
pub(crate) fn carry_out(link: &Arc<Link>, task: &RescueTask, devices: &Devices) -> Option<End> {
    let lifted = devices.lift(&task.writable);
    let disks = match &lifted[..] {
        [] => "All disks are read-only.".to_owned(),
        names => format!("All disks are read-only but {}.", names.join(", ")),
    };
    log::console(&format!("\n==== rescue: people may work on this machine over the network ====\n{disks}\n"));
    tracing::info!("{} attempt {}: {disks}", task.job, task.attempt);
    screen::doing(Doing::Rescue);
    pid1::mount_terminals();
    if let Err(error) = Command::new(BUSYBOX).args(["--install", "-s", "/bin"]).status() {
        tracing::error!("{BUSYBOX} does not start: {error}");
    }
    let end = serve(link, task, &shell, &disks, std::thread::sleep);
    pid1::end_all_work();
    Some(end)
}

/// The shell of the ramdisk.
fn shell() -> Command {
    let mut shell = Command::new(BUSYBOX);
    shell.arg("sh").current_dir(Path::new("/")).env_clear().envs([
        ("PATH", "/bin:/sbin:/usr/bin:/usr/sbin"),
        ("HOME", "/"),
        ("TERM", "xterm-256color"),
        ("PS1", "rescue:\\w# "),
    ]);
    shell
}

/// Passes on what is typed until the rescue is over; the program that `program` names runs from the server's
/// word on.
pub(crate) fn serve(
    link: &Arc<Link>,
    task: &RescueTask,
    program: &dyn Fn() -> Command,
    disks: &str,
    pause: fn(Duration),
) -> End {
    let mut shell: Option<Shell> = None;
    let mut after = 0;
    loop {
        let asked = Instant::now();
        let (job, attempt) = (task.job.clone(), task.attempt);
        let size = shell.as_ref().map(|shell| shell.size);
        let question = InputQuestion { job, attempt, after, shell: size, wait_seconds: SHELL_WAIT_SECONDS };
        let input = match link.insist("asking for input", |link| link.shell_input(&question)) {
            Ok(Input { over: Some(why), .. }) => return End::Restart(why),
            Ok(input) => input,
            Err(CallError::Unauthorized(text)) => return End::Unknown(text),
            Err(error) => {
                tracing::warn!("the server gives no input: {error}");
                Input::default()
            }
        };
        if !input.open {
            pause(ASK_EVERY.saturating_sub(asked.elapsed()));
            continue;
        }
        if shell.is_none() {
            shell = Shell::start(link, task, program(), input.size, disks)
                .inspect_err(|error| tracing::error!("no shell: {error}"))
                .ok();
        }
        let Some(shell) = &mut shell else {
            pause(ASK_EVERY);
            continue;
        };
        shell.resize(input.size);
        let known = usize::try_from(after.saturating_sub(input.first)).unwrap_or(usize::MAX);
        let new = input.bytes.0.get(known..).unwrap_or_default();
        shell.take(new);
        after = after.max(input.first + input.bytes.0.len() as u64);
    }
}

/// A shell that runs. It ends when this is dropped.
struct Shell {
    master: File,
    child: Arc<Mutex<Child>>,
    size: Size,
}

impl Shell {
    /// Starts `program` on a terminal of that size, and tells the server what it shows.
    fn start(
        link: &Arc<Link>,
        task: &RescueTask,
        mut program: Command,
        size: Size,
        disks: &str,
    ) -> io::Result<Self> {
        let (master, slave) = pty::open(size)?;
        pty::run_on(&mut program, slave)?;
        let child = Arc::new(Mutex::new(program.spawn()?));
        // It holds the programs' end open: nobody would hear that the last of them has closed it.
        drop(program);
        tracing::info!("a shell was opened");
        let shown = master.try_clone()?;
        let (link, task, watched) = (link.clone(), task.clone(), child.clone());
        let hello = format!(
            "\r\n{disks} Mount one so: mount -o ro,noload /dev/vda3 /mnt\r\n\
             All of this is recorded. `exit` ends the rescue, and the machine restarts from its own disk.\r\n\r\n"
        );
        std::thread::spawn(move || {
            let mut teller = Teller { link: &link, task: &task, told: 0 };
            if teller.tell(hello.into_bytes()) {
                teller.follow(shown, &watched);
            }
            end(&watched);
            tracing::info!("the shell has ended");
            let Teller { link, task, .. } = teller;
            let rescued = Rescued { job: task.job.clone(), attempt: task.attempt };
            if let Err(error) = link.insist("reporting the end of the rescue", |link| link.rescued(&rescued))
            {
                tracing::warn!("the server does not take the end of the rescue: {error}");
            }
        });
        Ok(Self { master, child, size })
    }

    fn resize(&mut self, size: Size) {
        if self.size != size && pty::resize(&self.master, size).is_ok() {
            self.size = size;
        }
    }

    /// Types; what nobody takes in time is lost.
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let ready = await_event(&self.master, PollFlags::POLLOUT, TAKE_MS);
            match self.master.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready => {}
                Err(error) => {
                    tracing::warn!("{} typed bytes are lost: {error}", bytes.len());
                    return;
                }
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        end(&self.child);
    }
}

/// Ends a shell, if it has not ended by itself; its programs hear that their terminal has gone.
fn end(child: &Mutex<Child>) -> Option<ExitStatus> {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    // It may have ended already.
    let _ = child.kill();
    child.wait().ok()
}

fn has_ended(child: &Mutex<Child>) -> bool {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    !matches!(child.try_wait(), Ok(None))
}

/// Whether the event came in time, or anything that makes waiting useless.
fn await_event(file: &File, event: PollFlags, limit_ms: u16) -> bool {
    let mut asked = [PollFd::new(file.as_fd(), event)];
    poll(&mut asked, PollTimeout::from(limit_ms)).is_ok_and(|count| count > 0)
}

/// Tells the server what is shown.
struct Teller<'a> {
    link: &'a Link,
    task: &'a RescueTask,
    told: u64,
}

impl Teller<'_> {
    /// Says whether more may follow: what the server does not take is not recorded, and must not happen.
    fn tell(&mut self, bytes: Vec<u8>) -> bool {
        let length = bytes.len() as u64;
        let (job, attempt) = (self.task.job.clone(), self.task.attempt);
        let output = Output { job, attempt, first: self.told, bytes: Octets(bytes) };
        match self.link.insist("showing the shell", |link| link.shell_output(&output)) {
            Ok(()) => {
                self.told += length;
                true
            }
            Err(error) => {
                tracing::warn!("the shell ends, as the server takes no more of what it shows: {error}");
                false
            }
        }
    }

    /// Tells all that is shown, until the shell has ended or the server takes no more.
    fn follow(&mut self, mut shown: File, child: &Mutex<Child>) {
        loop {
            // Asked first: what was shown before the end is then surely told.
            let ended = has_ended(child);
            if !await_event(&shown, PollFlags::POLLIN, LOOK_MS) {
                if ended {
                    return;
                }
                continue;
            }
            std::thread::sleep(GATHER);
            let mut bytes = vec![0; OUTPUT_MAX];
            match shown.read(&mut bytes) {
                Ok(count) if count > 0 => {
                    bytes.truncate(count);
                    if !self.tell(bytes) {
                        return;
                    }
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                // The last program has closed its end (EIO), whether or not the shell has been waited for.
                Ok(_) | Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
#[path = "rescue_tests.rs"]
mod tests;
