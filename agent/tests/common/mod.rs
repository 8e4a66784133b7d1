//! Loop devices, archives and watchers for the tests of installing. They need root.
// Each test binary uses another part, and nothing is public beyond it.
#![allow(dead_code, unreachable_pub)]

use ed25519_dalek::{Signer as _, SigningKey};
use kaltstart_agent::contents;
use kaltstart_agent::gate::Gate;
use kaltstart_agent::image::fetch::{FetchError, ImageSource, Part};
use kaltstart_agent::install::{self, Observer, Paths, Stop};
use kaltstart_protocol::agent_api::{
    DiskGrant, DiskRule, DiskUuids, Identity, InstallTask, Installed, ReportState,
};
use kaltstart_protocol::contents::{Area, Contents};
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::ids::{Digest, JobId, Mac, PublicKey, Signature};
use kaltstart_protocol::image::{Boot, Compression, Format, Manifest, SignedManifest};
use kaltstart_protocol::keep::Kept;
use kaltstart_protocol::layout::{Layout, Partition, Role};
use kaltstart_protocol::node_api::ReportConfig;
use kaltstart_protocol::phase::{Phase, Progress};
use kaltstart_protocol::restart::Restart;
use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::select::select_all;
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::{DiskIdentity, GrantTrust, HostIdentity, SignedGrant, WipeGrant};
use kaltstart_trust::images::ImageTrust;
use minisign::KeyPair;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::OnceLock;
use tempfile::TempDir;

/// Size of the disks.
pub const DISK_BYTES: u64 = 512 << 20;
const MIB: usize = 1 << 20;

/// Whether this thread may use loop devices; says so when a test is left out.
///
/// The thread gets its own view of the mounts: a namespace that any other program makes meanwhile
/// would copy ours, and keep the file systems of a test alive after they were unmounted.
pub fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root for loop devices and mounts");
    } else {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).expect("own mounts");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
    }
    root
}

/// The time in these tests.
pub const NOW: Millis = Millis(1_800_000_000_000);

/// A machine that believes the key of these tests.
pub fn gate() -> Gate {
    let host = HostIdentity { uuid: "u1".into(), serial: "h1".into(), macs: vec![Mac([2, 0, 0, 0, 0, 1])] };
    let images = ImageTrust { keys: vec![signer().pk.to_base64().parse().expect("a key")], since: 0 };
    let grants = GrantTrust { key: PublicKey(key().verifying_key().to_bytes()), epoch: 1 };
    Gate { grants, images, host }
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// The disks with what lies on them now.
pub fn measured(disks: &[Disk]) -> Vec<Disk> {
    let measure = |disk: &Disk| {
        let node = Path::new("/dev").join(&disk.name);
        let holds = contents::of_device(&node, disk.size, disk.sector_size).ok();
        Disk { holds, ..disk.clone() }
    };
    disks.iter().map(measure).collect()
}

/// The task with the right to lose what is now on the disks that it chooses; without one when it
/// chooses none.
pub fn granted(task: &InstallTask, disks: &[Disk]) -> InstallTask {
    granted_but(task, disks, &[])
}

/// The same where `kept` is not lost, and its UUIDs are told.
pub fn granted_but(task: &InstallTask, disks: &[Disk], kept: &[Kept]) -> InstallTask {
    let Ok(chosen) = select_all(&task.disk, task.layout.array, disks) else { return task.clone() };
    let grant = |disk: &Disk| DiskGrant {
        disk: DiskIdentity::of(disk),
        grant: grant_but(&task.job, task.attempt, disk, kept),
    };
    let uuids = task.uuids.keeping(kept);
    InstallTask { grants: chosen.into_iter().map(grant).collect(), uuids, ..task.clone() }
}

/// The right to lose what lies on that disk.
pub fn grant(job: &JobId, attempt: u32, disk: &Disk) -> SignedGrant {
    grant_but(job, attempt, disk, &[])
}

/// The right to lose what lies on that disk, but for what is kept.
fn grant_but(job: &JobId, attempt: u32, disk: &Disk, kept: &[Kept]) -> SignedGrant {
    let holds = disk.holds.clone().unwrap_or_default();
    let is_lost = |area: &Area| !kept.iter().any(|kept| kept.areas().contains(&area));
    let grant = WipeGrant {
        job: job.clone(),
        attempt,
        host: gate().host,
        disk: DiskIdentity::of(disk),
        contents: Contents::new(holds.0.into_iter().filter(is_lost).collect()),
        keep: kept.to_vec(),
        approver: "administrator".into(),
        epoch: gate().grants.epoch,
        issued: NOW,
        expires: NOW.plus(1000),
    };
    sign(grant.encode())
}

/// That text as a grant, by the key of these tests.
pub fn sign(grant: String) -> SignedGrant {
    let signature = Signature(key().sign(grant.as_bytes()).to_bytes());
    SignedGrant { grant, signature }
}

/// Installs what is granted as things are.
pub fn install(
    ordered: &Ordered,
    disks: &[Disk],
    source: &dyn ImageSource,
    paths: &Paths,
    watch: &dyn Observer,
) -> Result<Installed, Stop> {
    let disks = measured(disks);
    install::install(&gate(), &granted(&ordered.signed(), &disks), &disks, NOW, source, paths, watch)
}

/// Runs a program; its words, or a panic with them.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new("timeout").arg("60").arg(program).args(args).output().expect(program);
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text.into_owned()
}

/// A disk that holds an old table and old data; detached on drop.
pub struct Loop {
    pub disk: Disk,
    pub file: PathBuf,
    pub node: String,
    pub directory: TempDir,
}

impl Loop {
    pub fn new(sector_size: u32) -> Self {
        Self::within(&std::env::temp_dir(), sector_size)
    }

    /// A disk that is a file below that directory.
    pub fn within(place: &Path, sector_size: u32) -> Self {
        let directory = tempfile::tempdir_in(place).expect("directory");
        let file = directory.path().join("disk");
        let disk = File::create(&file).expect("file");
        disk.set_len(DISK_BYTES).expect("sparse");
        run("sgdisk", &["-n", "1:2048:+100M", "-n", "2:0:0", file.to_str().expect("path")]);
        disk.write_all_at(&[0xEB; 440], 0).expect("old boot code");
        drop(disk);
        let path = file.to_str().expect("path");
        let size = sector_size.to_string();
        let node = run("losetup", &["-P", "-b", &size, "--show", "-f", path]).trim().to_owned();
        let name = node.trim_start_matches("/dev/").to_owned();
        let disk = Disk { name, serial: "S1".into(), size: DISK_BYTES, sector_size, ..Disk::default() };
        Self { disk, file, node, directory }
    }

    /// Whether nothing can start from it: both ends are zero.
    pub fn is_blank(&self) -> bool {
        let disk = File::open(&self.file).expect("open");
        [0, DISK_BYTES - MIB as u64].into_iter().all(|at| {
            let mut bytes = vec![0; MIB];
            disk.read_exact_at(&mut bytes, at).expect("read");
            bytes.iter().all(|&byte| byte == 0)
        })
    }

    pub fn paths(&self) -> Paths {
        let agent = self.directory.path().join("agent");
        std::fs::write(&agent, "the agent").expect("write");
        Paths { mount: self.directory.path().join("mount"), agent, ..Paths::default() }
    }

    /// Whether installing left a mount or a partition behind.
    pub fn is_tidy(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/thread-self/mounts").expect("mounts");
        let is_ours =
            |line: &str| [" ", "p"].iter().any(|end| line.starts_with(&format!("{}{end}", self.node)));
        !mounts.lines().any(is_ours) && !Path::new(&format!("{}p3", self.node)).exists()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Loop devices keep the read-only flag for their next user.
        Command::new("blockdev").args(["--setrw", &self.node]).status().expect("blockdev");
        Command::new("losetup").args(["-d", &self.node]).status().expect("losetup");
    }
}

/// An image in memory, served as given.
pub struct Served(pub Vec<u8>);

impl ImageSource for Served {
    fn open(&self, part: Part, offset: u64, end: Option<u64>) -> Result<Box<dyn Read + Send>, FetchError> {
        assert_eq!(part, Part::Image, "an archive has no list of chunks");
        let end = end.map_or(self.0.len(), |end| end as usize);
        let rest = self.0.get(offset as usize..end).ok_or(FetchError::PastEnd)?;
        Ok(Box::new(Cursor::new(rest.to_vec())))
    }
}

/// What is done at each word.
pub type Look<'a> = dyn Fn(Phase, &ReportState) + Sync + 'a;

/// Keeps what was said and may cancel, or look, at each word.
#[derive(Default)]
pub struct Watch<'a> {
    pub seen: Mutex<Vec<(Phase, ReportState)>>,
    /// What was counted when a phase was done.
    pub at_end: Mutex<Vec<(Phase, Progress)>>,
    pub cancel_in: Option<Phase>,
    pub look: Option<&'a Look<'a>>,
}

impl Observer for Watch<'_> {
    fn phase(
        &self,
        phase: Phase,
        state: ReportState,
        progress: Option<Progress>,
        _: BTreeMap<String, String>,
    ) {
        if let Some(look) = self.look {
            look(phase, &state);
        }
        if let (ReportState::Done, Some(progress)) = (&state, progress) {
            self.at_end.lock().expect("lock").push((phase, progress));
        }
        let mut seen = self.seen.lock().expect("lock");
        if seen.last() != Some(&(phase, state.clone())) {
            seen.push((phase, state));
        }
    }

    fn cancelled(&self) -> Option<String> {
        let seen = self.seen.lock().expect("lock");
        let now = seen.last().map(|(phase, _)| *phase);
        (self.cancel_in.is_some() && now == self.cancel_in).then(|| "by hand".to_owned())
    }
}

/// A small tree with everything an image needs, as a tar archive.
pub fn archive(directory: &Path) -> Vec<u8> {
    let tree = directory.join("tree");
    let put = |path: &str, bytes: &[u8]| {
        let path = tree.join(path);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        std::fs::write(path, bytes).expect("write");
    };
    let noise: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    put("boot/vmlinuz-6.1", &noise);
    put("boot/initrd.img-6.1", b"initrd");
    put("etc/hostname", b"old\n");
    put("var/lib/state", b"state");
    put("var/log/first", b"first");
    put("usr/lib/shim/shimx64.efi", &noise[..1_000_000]);
    put("usr/lib/grub/grubx64.efi", &noise[..500_000]);
    let mut boot = vec![0x90; 512];
    boot[510..].copy_from_slice(&[0x55, 0xAA]);
    put("usr/lib/grub/boot.img", &boot);
    put("usr/lib/grub/core.img", &noise[..100_000]);
    std::os::unix::fs::symlink("boot/vmlinuz-6.1", tree.join("vmlinuz")).expect("symlink");
    std::os::unix::fs::symlink("/boot/initrd.img-6.1", tree.join("initrd.img")).expect("symlink");
    let file = directory.join("tree.tar");
    run("tar", &["-C", tree.to_str().expect("path"), "-cf", file.to_str().expect("path"), "."]);
    std::fs::read(file).expect("read")
}

/// What is ordered: a task, and the image of which it has the signed manifest in the end.
#[derive(Clone)]
pub struct Ordered {
    pub task: InstallTask,
    pub image: Manifest,
}

impl Ordered {
    /// The task with its image signed.
    pub fn signed(&self) -> InstallTask {
        let manifest = serde_json::to_string(&self.image).expect("it serialises");
        let signature =
            minisign::sign(None, &signer().sk, Cursor::new(&manifest), None, None).expect("signed");
        let image = SignedManifest { manifest, signature: signature.into_string() };
        InstallTask { image, ..self.task.clone() }
    }
}

/// Who signs the tests' images.
fn signer() -> &'static KeyPair {
    static SIGNER: OnceLock<KeyPair> = OnceLock::new();
    SIGNER.get_or_init(|| KeyPair::generate_unencrypted_keypair().expect("a pair"))
}

/// An order of an image served as `packed`, which decompresses to `unpacked_size` bytes.
pub fn order(packed: &[u8], unpacked_size: u64, compression: Compression) -> Ordered {
    let partition = |label: &str, role, min_mib, weight| Partition {
        label: label.into(),
        role,
        min_mib,
        weight,
        ..Partition::default()
    };
    let uuid = |n: u8| format!("0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1{n:02x}");
    let task = InstallTask {
        job: JobId::new(Millis(1), 1),
        attempt: 1,
        disk: DiskRule::default(),
        grants: Vec::new(),
        layout: Layout {
            name: "test".into(),
            partitions: vec![
                partition("bios", Role::BiosBoot, 1, 0),
                partition("esp", Role::Esp, 261, 0),
                partition("root", Role::Root, 64, 1),
            ],
            ..Layout::default()
        },
        image: SignedManifest { manifest: String::new(), signature: String::new() },
        image_url: "http://unused".into(),
        chunks_url: None,
        others: Vec::new(),
        caches: Vec::new(),
        uuids: DiskUuids {
            disk: uuid(0),
            partitions: (1..4).map(uuid).collect(),
            root: uuid(9),
            further: (10..13).map(uuid).collect(),
            esp: 0x1234_ABCD,
        },
        identity: Identity {
            hostname: "node7".into(),
            domain: String::new(),
            mac: Mac([0x52, 0x54, 0, 1, 2, 3]),
            authorized_keys: vec!["ssh-ed25519 AAAA a@b".into()],
            report: ReportConfig {
                urls: vec!["https://10.77.0.1:8443/node/v1/report".into()],
                token: Secret::new("ksn_x".into()),
                job: None,
                authority: Digest([7; 32]),
                not_before: 1_800_000_000,
            },
            recall: None,
        },
        restart: Restart::default(),
        encryption: None,
    };
    let image = Manifest {
        schema: 1,
        name: "debian-12".into(),
        version: "1".into(),
        digest: Digest::of(packed),
        size: packed.len() as u64,
        unpacked_size,
        format: Format::Tar,
        compression,
        file: "x".into(),
        min_disk: 400 << 20,
        boot: Boot {
            kernel: "/vmlinuz".into(),
            initrd: "/initrd.img".into(),
            cmdline: "console=ttyS0,115200".into(),
            efi: vec![
                ("/usr/lib/shim/shimx64.efi".into(), "EFI/BOOT/BOOTX64.EFI".into()),
                ("/usr/lib/grub/grubx64.efi".into(), "EFI/BOOT/grubx64.efi".into()),
            ],
            bios: Some(("/usr/lib/grub/boot.img".into(), "/usr/lib/grub/core.img".into())),
        },
        packages: vec![],
        places: std::collections::BTreeMap::new(),
    };
    Ordered { task, image }
}

/// A ustar entry, and its contents.
pub fn entry(name: &str, kind: u8, link: &str, contents: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", contents.len()).as_bytes());
    header[136..148].copy_from_slice(b"14000000000\0");
    header[148..156].fill(b' ');
    header[156] = kind;
    header[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.extend(contents);
    header.resize(header.len().next_multiple_of(512), 0);
    header
}

/// Entries with the end that an archive has.
pub fn archived(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}
