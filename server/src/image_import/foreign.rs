//! Images of disks in formats of virtual machines become raw ones, by `qemu-img` in a sandbox: it reads
//! that one file, the system's libraries, and writes one other file; it has no network, no capability and no
//! other program. What a header names besides, such as the file it is based on, cannot be opened.

use anyhow::{Context as _, Result, bail, ensure};
use caps::CapSet;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Landlock's version whose rights are handled, as far as the kernel knows them.
const LANDLOCK: ABI = ABI::V6;
/// Programs and libraries.
const SYSTEM: [&str; 4] = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache"];
/// Address space in bytes and processor time in seconds.
const LIMITS: [&str; 3] = ["--as=4294967296", "--cpu=7200", "--core=0"];

/// What `qemu-img check` says of a whole image with space that nothing uses.
const LEAKS: i32 = 3;

/// A format that is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    Qcow2,
    Vmdk,
    Vhdx,
    Vhd,
}

impl Foreign {
    /// The format of `file`, by its first bytes.
    pub(super) fn of(file: &File) -> Option<Self> {
        let mut magic = [0; 8];
        file.read_exact_at(&mut magic, 0).ok()?;
        match &magic {
            [b'Q', b'F', b'I', 0xFB, ..] => Some(Self::Qcow2),
            [b'K', b'D', b'M', b'V', ..] => Some(Self::Vmdk),
            b"vhdxfile" => Some(Self::Vhdx),
            b"conectix" => Some(Self::Vhd),
            _ => None,
        }
    }

    /// qemu's name.
    fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Vhd => "vpc",
        }
    }

    /// Writes the disk in `source` to `target`, which is made.
    ///
    /// # Errors
    /// When `qemu-img` is missing or refuses, or the sandbox cannot be made.
    pub(super) fn convert(self, source: &Path, target: &Path) -> Result<()> {
        if self == Self::Qcow2 {
            self_contained(&File::open(source)?)?;
        }
        File::create_new(target).with_context(|| format!("cannot make {}", target.display()))?;
        // What lies behind the end of a file that was cut off would be converted to zeros. Of VHD there is no check:
        // its conversion sees that.
        if self != Self::Vhd {
            let checked = qemu_img(&["check", "-f", self.name(), "--"], &[source], (source, target))?;
            let sound = matches!(checked.status.code(), Some(0 | LEAKS));
            ensure!(sound, "it is damaged or cut off: {}", words(&checked));
        }
        let convert = ["convert", "-f", self.name(), "-O", "raw", "--"];
        let converted = qemu_img(&convert, &[source, target], (source, target))?;
        ensure!(converted.status.success(), "qemu-img ({}): {}", converted.status, words(&converted));
        Ok(())
    }
}

/// Runs `qemu-img` where it reads `source` and writes `target` alone.
fn qemu_img(options: &[&str], files: &[&Path], (source, target): (&Path, &Path)) -> Result<Output> {
    let mut command = Command::new("prlimit");
    command.args(LIMITS).arg("qemu-img").args(options).args(files);
    command.stdin(Stdio::null()).env_clear().env("PATH", "/usr/bin:/bin");
    confined(&mut command, source, target)
}

/// The first of what a program complained of.
fn words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

/// Refuses a QCOW2 image that needs other files or a password (QEMU: `docs/interop/qcow2.txt`).
fn self_contained(file: &File) -> Result<()> {
    /// Features without which it cannot be read: dirty, corrupt, another file with the data, another
    /// compression, longer entries of tables.
    const KNOWN: u64 = 0b1_1111;
    const DATA_FILE: u64 = 0b100;
    let mut header = [0; 104];
    file.read_exact_at(&mut header, 0).context("it is cut off in its header")?;
    let long = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().unwrap_or([0; 8]));
    let short = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap_or([0; 4]));
    let version = short(4);
    ensure!(version == 2 || version == 3, "it is QCOW of version {version}");
    ensure!(long(8) == 0, "it is based on another file; make it one: `qemu-img convert -O qcow2`");
    ensure!(short(32) == 0, "it is encrypted");
    let features = if version == 3 { long(72) } else { 0 };
    ensure!(features & DATA_FILE == 0, "its data lies in another file; make it one: `qemu-img convert`");
    ensure!(features & !KNOWN == 0, "it has features that are not known ({features:#x})");
    Ok(())
}

/// Runs `command` in a thread that has given up what it does not need.
fn confined(command: &mut Command, source: &Path, target: &Path) -> Result<Output> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            confine(source, target).context("cannot make the sandbox")?;
            command.output().context("cannot start qemu-img (Debian: qemu-utils)")
        });
        match thread.join() {
            Ok(output) => output,
            Err(_) => bail!("the sandbox failed"),
        }
    })
}

fn confine(source: &Path, target: &Path) -> Result<()> {
    let reading = AccessFs::from_read(LANDLOCK);
    let writing = AccessFs::WriteFile | AccessFs::ReadFile | AccessFs::Truncate;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new(source)?, AccessFs::ReadFile))?
        .add_rule(PathBeneath::new(PathFd::new(target)?, writing))?
        .add_rule(PathBeneath::new(PathFd::new("/dev/null")?, writing))?;
    for path in SYSTEM.into_iter().filter(|path| Path::new(path).exists()) {
        let rights = if Path::new(path).is_dir() { reading } else { AccessFs::ReadFile.into() };
        rules = rules.add_rule(PathBeneath::new(PathFd::new(path)?, rights))?;
    }
    // A program that root starts would have them again otherwise.
    for set in [CapSet::Bounding, CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted]
    {
        // Without the right to give up any there are none.
        let _ = caps::clear(None, set);
    }
    let status = rules.restrict_self()?;
    ensure!(
        status.ruleset != RulesetStatus::NotEnforced,
        "the kernel has no Landlock; convert the image to raw elsewhere"
    );
    seccompiler::apply_filter(&no_network()?)?;
    Ok(())
}

fn no_network() -> Result<BpfProgram> {
    let rules = [(libc::SYS_socket, vec![]), (libc::SYS_io_uring_setup, vec![])].into();
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn qemu_img(words: &[&str]) {
        let output = Command::new("qemu-img").args(words).output().expect("qemu-img");
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    #[test]
    fn p16_foreign_formats_give_their_disk_and_nothing_of_this_machine() {
        let dir = tempfile::tempdir().expect("directory");
        let path = |name: &str| dir.path().join(name).to_str().expect("a path").to_owned();
        let plain: Vec<u8> = (0..3u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        fs::write(path("plain"), &plain).expect("written");
        for (format, kind) in [
            ("qcow2", Foreign::Qcow2),
            ("vmdk", Foreign::Vmdk),
            ("vhdx", Foreign::Vhdx),
            ("vpc", Foreign::Vhd),
        ] {
            let (made, raw) = (path(format), path(&format!("{format}.raw")));
            qemu_img(&["convert", "-f", "raw", "-O", format, &path("plain"), &made]);
            assert_eq!(Foreign::of(&File::open(&made).expect("open")), Some(kind));
            kind.convert(Path::new(&made), Path::new(&raw)).expect("converts");
            // VHD rounds up to whole cylinders.
            let found = fs::read(&raw).expect("read");
            assert!(found[..plain.len()] == plain, "{format} gives another disk");
            assert!(found[plain.len()..].iter().all(|byte| *byte == 0), "{format}");
            let whole = fs::read(&made).expect("read");
            // Of VHDX QEMU does not see what the last block lacks.
            let little = if kind == Foreign::Vhdx { 9 << 20 } else { 256 << 10 };
            for left in [whole.len() / 2, whole.len() - little] {
                let (cut, raw) = (path(&format!("{format}.{left}")), path(&format!("{format}.{left}.raw")));
                fs::write(&cut, &whole[..left]).expect("written");
                let refused = kind.convert(Path::new(&cut), Path::new(&raw));
                assert!(refused.is_err(), "{format}: {left} bytes of {} are taken for all", whole.len());
            }
        }
        assert_eq!(Foreign::of(&File::open(path("plain")).expect("open")), None);

        // Based on a file of this machine: refused by its header, and not readable in the sandbox.
        qemu_img(&["create", "-f", "qcow2", "-F", "raw", "-b", &path("plain"), &path("thief")]);
        let (thief, raw) = (path("thief"), path("stolen"));
        let refused = Foreign::Qcow2.convert(Path::new(&thief), Path::new(&raw)).expect_err("refused");
        assert!(refused.to_string().contains("based on another file"), "{refused}");
        fs::write(&raw, b"").expect("written");
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "qcow2", "-O", "raw", &thief, &raw]);
        let output = confined(&mut command, Path::new(&thief), Path::new(&raw)).expect("it runs");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && words.contains("Permission denied"), "{words}");
        assert!(fs::read(&raw).expect("read").is_empty());

        let encrypted = path("secret");
        let secret = ["--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s"];
        qemu_img(&[&["create", "-f", "qcow2"], &secret[..], &[&encrypted, "1M"]].concat());
        let refused =
            Foreign::Qcow2.convert(Path::new(&encrypted), Path::new(&path("x"))).expect_err("refused");
        assert!(refused.to_string().contains("encrypted"), "{refused}");
    }

    #[test]
    fn p16_in_the_sandbox_nothing_else_is_read_written_or_reached() {
        let dir = tempfile::tempdir().expect("directory");
        let (source, target, other) =
            (dir.path().join("source"), dir.path().join("target"), dir.path().join("other"));
        for path in [&source, &target, &other] {
            fs::write(path, "text").expect("written");
        }
        let attempt = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh"]).args([&source, &target, &other]);
            confined(&mut command, &source, &target).expect("it runs").status.success()
        };
        assert!(attempt("cat \"$1\" > \"$2\""), "what it is for");
        for script in [
            "cat \"$3\"",
            "echo x > \"$3\"",
            "echo x > \"$1\"",
            "cat /etc/passwd",
            "rm \"$2\"",
            "echo x > \"$2.new\"",
            "exec 3<> /dev/tcp/127.0.0.1/1",
            "chown 1 \"$2\"",
            "mount -t tmpfs x /mnt",
        ] {
            assert!(!attempt(script), "{script}");
        }
        let mut python = Command::new("python3");
        python.args(["-c", "import socket; socket.socket()"]);
        let output = confined(&mut python, &source, &target).expect("it runs");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(words.contains("PermissionError"), "{words}");
    }
}
