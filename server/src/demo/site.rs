//! What the demonstration's server is started with, in a directory that is removed with it: image, boot files,
//! configuration.

use crate::config::{self, Config};
use crate::confinement::Gate;
use crate::sockets::{Ports, Sockets};
use crate::{clock, data_dir, serve};
use anyhow::{Context as _, Result};
use kaltstart_demo::Machine;
use kaltstart_protocol::ids::{Digest, Mac};
use kaltstart_protocol::image::places::Places;
use kaltstart_protocol::image::{Boot, Compression, Format, Manifest};
use minisign::KeyPair;
use nix::unistd::{getegid, geteuid};
use std::fs::{self, File};
use std::io::Cursor;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use tar_core::EntryType;
use tar_core::builder::EntryBuilder;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// How many machines there are.
pub(super) const MACHINES: u8 = 6;
/// The one whose disk says that it fails.
pub(super) const DEAD_DISK: u8 = 5;
/// The one that never gets an answer to DHCP: its relay is in a network that is not served.
pub(super) const UNSERVED: u8 = 6;
/// What is ordered for all of them.
pub(super) const PROFILE: &str = "demo";

/// All of 127/8 is every Linux machine's own, so the machines have addresses like those of a network.
const SERVER: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);
const RELAY: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 2);
const OTHER_RELAY: Ipv4Addr = Ipv4Addr::new(127, 78, 0, 2);

/// Bytes of what machines fetch. What stands in them matters to nobody, as nobody runs it.
const LOADER: u64 = 300 << 10;
const KERNEL: u64 = 3 << 20;
const RAMDISK: u64 = 6 << 20;
const PAYLOAD: usize = 16 << 20;
const PIECE: usize = 4 << 10;

/// The directory with everything.
pub(super) struct Site {
    dir: TempDir,
    image_key: String,
}

/// The name of a machine.
pub(super) fn name(number: u8) -> String {
    format!("demo-{number}")
}

/// A hardware address that no maker gives.
fn mac(number: u8) -> Mac {
    Mac([0x02, 0x4b, 0x53, 0, 0, number])
}

impl Site {
    /// Makes all that a server is started with.
    pub(super) fn make() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("kaltstart-demo-").tempdir();
        let dir = dir.context("cannot make a temporary directory; TMPDIR names another place for it")?;
        for made in ["loaders", "images/demo"] {
            fs::create_dir_all(dir.path().join(made))?;
        }
        for (file, size) in [
            ("loaders/snponly.efi", LOADER),
            ("vmlinuz", KERNEL),
            ("ramdisk", RAMDISK),
            ("discovery", RAMDISK),
        ] {
            File::create(dir.path().join(file))?.set_len(size)?;
        }
        let image_key = make_image(&dir.path().join("images/demo"))?;
        Ok(Self { dir, image_key })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The administrator's token, once the server is up.
    pub(super) fn token_file(&self) -> PathBuf {
        self.path().join("data/admin.token")
    }

    /// What the server has to say.
    pub(super) fn log_file(&self) -> PathBuf {
        self.path().join("server.log")
    }

    /// What machine `number` is told of itself.
    pub(super) fn machine(&self, number: u8, ports: Ports) -> Machine {
        Machine {
            name: name(number),
            mac: mac(number),
            server: SERVER,
            ports: (ports.dhcp, ports.tftp),
            relay: if number == UNSERVED { OTHER_RELAY } else { RELAY },
            failing: number == DEAD_DISK,
            directory: self.path().join(name(number)),
        }
    }

    /// Removes it.
    pub(super) fn remove(self) -> Result<()> {
        let path = self.path().to_owned();
        self.dir.close().with_context(|| format!("cannot remove {}", path.display()))
    }

    fn configuration(&self, ports: Ports) -> Result<Config> {
        let Ports { http, https, tftp, .. } = ports;
        let (dir, key) = (self.path(), &self.image_key);
        // Root stays root: what is in the directory must be removed in the end.
        let user = if geteuid().is_root() { "user = \"root\"\n" } else { "" };
        let nodes = (1..=MACHINES).map(|number| {
            let (name, mac, address) = (name(number), mac(number), Ipv4Addr::new(127, 77, 0, 10 + number));
            format!("\n[[node]]\nname = {name:?}\nmac = \"{mac}\"\naddress = \"{address}\"\n")
        });
        let text = format!(
            "# Of a demonstration, which removes it in the end. No other server can be started with it: DHCP has a free\n\
             # port there.\n\
             data_dir = {:?}\n{user}\n\
             [http]\nlisten = \"{SERVER}:{http}\"\ntls_listen = \"{SERVER}:{https}\"\n\n\
             [tftp]\nlisten = \"{SERVER}:{tftp}\"\n\n\
             [boot]\nkernel = {:?}\nramdisk = {:?}\ndiscovery = {:?}\nloaders = {:?}\n\n\
             [images]\ndir = {:?}\nkeys = [{key:?}]\n\n\
             [[dhcp]]\nsubnet = \"127.77.0.0/24\"\naddress = \"{SERVER}\"\nping_check = \"never\"\n\n\
             [[profile]]\nname = {PROFILE:?}\nimage = \"demo\"\n{}",
            dir.join("data"),
            dir.join("vmlinuz"),
            dir.join("ramdisk"),
            dir.join("discovery"),
            dir.join("loaders"),
            dir.join("images"),
            nodes.collect::<String>(),
        );
        let file = dir.join("kaltstart.toml");
        fs::write(&file, text)?;
        Ok(config::load(&file)?)
    }

    /// Serves, confined as every server is, until `stop`; `ready` hears the ports when all doors are open.
    pub(super) async fn serve(
        &self,
        gate: &Gate,
        ready: oneshot::Sender<Ports>,
        stop: CancellationToken,
    ) -> Result<()> {
        let (sockets, ports) = Sockets::bind_free(SERVER)
            .await
            .with_context(|| format!("cannot listen on {SERVER}: is the interface lo up?"))?;
        let config = self.configuration(ports)?;
        data_dir::make(&config.data_dir)?;
        let _alone = data_dir::lock(&config.data_dir)?;
        let told = async {
            // Who is not waiting any more stops it at once.
            let _ = ready.send(ports);
            stop.cancelled().await;
        };
        serve::serve_on(sockets, config, gate, told).await
    }
}

/// An image of the few files that an installed system shows, signed by a key that nobody keeps; gives the public one.
fn make_image(dir: &Path) -> Result<String> {
    // What cannot be compressed takes its time.
    let payload: Vec<u8> = (0..PAYLOAD / PIECE).flat_map(|_| clock::random::<PIECE>()).collect();
    let release = b"PRETTY_NAME=\"Simulated system\"\n";
    let files: [(&str, &[u8]); 5] = [
        ("boot/vmlinuz", b"a kernel"),
        ("boot/initrd.img", b"its ramdisk"),
        ("boot/loader.efi", b"a loader"),
        ("etc/os-release", release),
        ("usr/lib/payload", &payload),
    ];
    let mut archive = Vec::with_capacity(PAYLOAD + (64 << 10));
    for (path, contents) in files {
        let mut entry = EntryBuilder::new_ustar();
        entry.path(path).entry_type(EntryType::Regular);
        // Who is not root can give files to nobody else.
        entry.mode(0o644)?.size(contents.len() as u64)?.mtime(0)?;
        entry.uid(geteuid().as_raw().into())?.gid(getegid().as_raw().into())?;
        archive.extend(entry.finish_bytes());
        archive.extend_from_slice(contents);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.extend([0; 1024]);
    let bytes = zstd::bulk::compress(&archive, 1)?;
    let boot = Boot {
        kernel: "/boot/vmlinuz".into(),
        initrd: "/boot/initrd.img".into(),
        cmdline: String::new(),
        efi: vec![("/boot/loader.efi".into(), "EFI/BOOT/BOOTX64.EFI".into())],
        bios: None,
    };
    let manifest = Manifest {
        schema: 1,
        name: "demo".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
        unpacked_size: archive.len() as u64,
        format: Format::Tar,
        compression: Compression::Zstd,
        file: "rootfs.tar.zst".into(),
        min_disk: 2 << 30,
        boot,
        packages: Vec::new(),
        places: Places::new(),
    };
    let text = serde_json::to_string_pretty(&manifest)?;
    let signer = KeyPair::generate_unencrypted_keypair()?;
    let signature = minisign::sign(None, &signer.sk, Cursor::new(&text), None, None)?;
    fs::write(dir.join(&manifest.file), bytes)?;
    fs::write(dir.join("manifest.json"), text)?;
    fs::write(dir.join("manifest.json.minisig"), signature.into_string())?;
    Ok(signer.pk.to_base64())
}
