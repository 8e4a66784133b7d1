//! `kaltstart demo`: six machines, whose outcome is promised, for users without any right; nothing is left of it.

use crate::site::{LIMIT, PROGRAM};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader, Lines};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// From the command to the last machine's end; on screen it shall be within 30 s on a machine that does nothing else.
const ONCE_MAX: Duration = Duration::from_secs(120);
/// `nobody`.
const OTHER_USER: u32 = 65_534;

/// A demonstration, as somebody sees it who has no rights.
struct Demo {
    dir: TempDir,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// A directory with the program, where every user may start it, and another in it for what is temporary.
fn directory() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("kaltstart");
    fs::hard_link(PROGRAM, &program)
        .or_else(|_| fs::copy(PROGRAM, &program).map(drop))
        .expect("linked or copied");
    fs::create_dir(dir.path().join("tmp")).expect("made");
    for (path, mode) in [(dir.path().to_owned(), 0o755), (dir.path().join("tmp"), 0o1777)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its own");
    }
    dir
}

fn command(dir: &TempDir, words: &[&str]) -> Command {
    let mut command = Command::new(dir.path().join("kaltstart"));
    command.args(words).env("TMPDIR", dir.path().join("tmp"));
    if geteuid().is_root() {
        command.uid(OTHER_USER).gid(OTHER_USER);
    }
    command
}

impl Demo {
    fn start(words: &[&str]) -> Self {
        let dir = directory();
        let words = [&["demo", "--json"], words].concat();
        let mut child =
            command(&dir, &words).process_group(0).stdout(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { dir, child, lines }
    }

    fn next(&mut self) -> Option<Value> {
        let line = self.lines.next()?.expect("text");
        Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }

    /// The next of these events.
    fn wait_for(&mut self, event: &str) -> Value {
        loop {
            let told = self.next().unwrap_or_else(|| panic!("it ends before {event}"));
            if told["event"] == event {
                return told;
            }
        }
    }

    /// What `ks` says of it.
    fn ks(&self, serving: &Value, words: &str) -> String {
        let mut ks = command(&self.dir, &words.split(' ').collect::<Vec<_>>());
        for (name, key) in [("KS_SERVER", "server"), ("KS_TOKEN_FILE", "token_file")] {
            ks.env(name, serving[key].as_str().expect("text"));
        }
        let output = ks.output().expect("it starts");
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    fn group(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"))
    }

    /// Waits for its end, and until no process of it is left; tells how many files are.
    fn end(mut self) -> (ExitStatus, usize) {
        let status = self.child.wait().expect("reaped");
        let began = Instant::now();
        while killpg(self.group(), None::<Signal>) != Err(Errno::ESRCH) {
            assert!(began.elapsed() < LIMIT, "machines are left on");
            std::thread::yield_now();
        }
        (status, fs::read_dir(self.dir.path().join("tmp")).expect("readable").count())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It has ended, but in a test that failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_shows_what_it_promises_to_somebody_without_rights_several_times_at_once() {
    let began = Instant::now();
    let demos = [Demo::start(&["--once"]), Demo::start(&["--once"])];
    for mut demo in demos {
        let mut settled = Vec::new();
        let summary = loop {
            let told = demo.next().expect("a summary comes first");
            match told["event"].as_str() {
                Some("settled") => settled.push(told),
                Some("summary") => break told,
                _ => {}
            }
        };
        settled.sort_by_key(|told| told["node"].to_string());
        let outcome =
            |told: &Value| [&told["outcome"], &told["code"]].map(|it| it.as_str().map(str::to_owned));
        let good = || [Some("deployed".to_owned()), None];
        let bad = |outcome: &str, code: &str| [Some(outcome.to_owned()), Some(code.to_owned())];
        let expected = [good(), good(), good(), good(), bad("failed", "KS-2201"), bad("stuck", "KS-1007")];
        assert_eq!(settled.iter().map(outcome).collect::<Vec<_>>(), expected, "{settled:?}");
        assert!(
            settled[4]["detail"].as_str().is_some_and(|text| text.contains("DEMO-5-NVME")),
            "{settled:?}"
        );
        assert!(settled[5]["detail"].as_str().is_some_and(|text| text.contains("127.78.0.2")), "{settled:?}");
        for told in &settled[4..] {
            assert!(told["next"].as_str().is_some_and(|next| !next.is_empty()), "{told}");
        }
        assert_eq!(summary["as_promised"], true, "{summary}");
        assert_eq!(demo.end().1, 0, "files are left");
    }
    assert!(began.elapsed() < ONCE_MAX, "{:?}", began.elapsed());
}

#[test]
fn ks_sees_the_same_and_ctrl_c_removes_everything() {
    let mut demo = Demo::start(&[]);
    let serving = demo.wait_for("serving");
    let directory = PathBuf::from(serving["directory"].as_str().expect("text"));
    assert_eq!(demo.ks(&serving, "node list -o name"), "demo-1\ndemo-2\ndemo-3\ndemo-4\ndemo-5\ndemo-6\n");
    let (mut failed, mut stuck) = (false, false);
    while !(failed && stuck) {
        let told = demo.wait_for("settled");
        (failed, stuck) = (failed || told["node"] == "demo-5", stuck || told["node"] == "demo-6");
    }
    assert_eq!(demo.ks(&serving, "why demo-5 -o name"), "KS-2201\n");
    assert_eq!(demo.ks(&serving, "why demo-6 -o name"), "KS-1007\n");
    let nodes = demo.ks(&serving, "node list");
    assert!(nodes.contains("· deploy failed · KS-2201"), "{nodes}");
    // Lines travel together.
    let began = Instant::now();
    while !demo.ks(&serving, "job log demo-5").contains("the server knows this machine as demo-5") {
        assert!(began.elapsed() < LIMIT, "no log of the agent");
    }
    assert!(directory.join("demo-5/console").exists());
    // While four machines are at work; a terminal tells all processes, and an impatient hand twice.
    for _ in 0..2 {
        killpg(demo.group(), Signal::SIGINT).expect("told");
    }
    let (status, left) = demo.end();
    assert!(status.success() && left == 0, "{status}, {left} left");
    assert!(!directory.exists());
}

#[test]
fn machines_are_off_when_the_demonstration_is_killed() {
    let mut demo = Demo::start(&[]);
    demo.wait_for("phase");
    kill(demo.group(), Signal::SIGKILL).expect("told");
    let (status, _) = demo.end();
    assert!(!status.success());
}

#[test]
fn without_room_for_its_files_it_says_so_and_ends() {
    let dir = directory();
    let mut demo = command(&dir, &["demo", "--once"]);
    let output = demo.env("TMPDIR", dir.path().join("not-there")).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot make a temporary directory") && said.contains("TMPDIR"), "{said}");
    // A machine is nobody's to start.
    let machine = command(&dir, &["demo-machine"]).stdin(Stdio::null()).output().expect("it starts");
    assert_eq!(machine.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&machine.stderr).contains("started by `kaltstart demo` alone"));
}
