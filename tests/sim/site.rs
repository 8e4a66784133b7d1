//! What simulated servers are started with: images, boot files, configuration.

use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::image::{Boot, Compression, Format, Manifest};
use kaltstart_protocol::secret::Secret;
use kaltstart_server::config::{self, Config};
use minisign::KeyPair;
use std::fs;
use std::io::Cursor;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::OnceLock;
use tempfile::TempDir;

/// The first and the last address that is lent: as many as there are machines without a reservation, so that none is spare.
pub(crate) const POOL: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 77, 0, 10), Ipv4Addr::new(10, 77, 0, 15));
/// How long an address is lent, in seconds.
const LEASE_SECONDS: u32 = 900;
/// Machines that may lose data within an hour.
pub(crate) const LOSSES: u32 = 2;
/// The profile that is laid down.
pub(crate) const PROFILE: &str = "system";

/// The address of a server on the simulated network.
pub(crate) const fn address(server: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 1 + server as u8)
}

/// The server with that address.
pub(crate) fn server_at(address: Ipv4Addr) -> usize {
    usize::from(address.octets()[3]) - 1
}

/// The files that all servers share, in memory where there is room.
pub(crate) struct Site {
    dir: TempDir,
    image_key: String,
}

/// A directory for databases and files: in memory if the machine has that.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary directory")
}

impl Site {
    /// The one of this process.
    pub(crate) fn get() -> &'static Self {
        static SITE: OnceLock<Site> = OnceLock::new();
        SITE.get_or_init(Self::make)
    }

    fn make() -> Self {
        let dir = directory();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("written");
        for file in ["vmlinuz", "ramdisk", "discovery"] {
            write(file, file);
        }
        let image = dir.path().join("images/tiny");
        for made in [image.clone(), dir.path().join("loaders")] {
            fs::create_dir_all(made).expect("made");
        }
        let signer = KeyPair::generate_unencrypted_keypair().expect("a pair of keys");
        let bytes = b"nobody unpacks it here";
        let boot = Boot {
            kernel: "/boot/k".into(),
            initrd: "/boot/i".into(),
            cmdline: String::new(),
            efi: vec![("/boot/l".into(), "EFI/BOOT/BOOTX64.EFI".into())],
            bios: None,
        };
        let manifest = Manifest {
            schema: 1,
            name: "tiny".into(),
            version: "1".into(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            unpacked_size: bytes.len() as u64,
            format: Format::Tar,
            compression: Compression::None,
            file: "tiny.tar".into(),
            min_disk: 1,
            boot,
            packages: Vec::new(),
            places: std::collections::BTreeMap::new(),
        };
        let text = serde_json::to_string(&manifest).expect("JSON");
        let signature = minisign::sign(None, &signer.sk, Cursor::new(&text), None, None).expect("signed");
        fs::write(image.join("tiny.tar"), bytes).expect("written");
        fs::write(image.join("manifest.json"), text).expect("written");
        fs::write(image.join("manifest.json.minisig"), signature.into_string()).expect("written");
        Self { dir, image_key: signer.pk.to_base64() }
    }

    /// The configuration of a server whose data lies in `data`, and which lets so many machines lose data in an hour.
    pub(crate) fn config(&self, data: &Path, losses: u32, server: usize) -> Config {
        let (dir, key, (first, last)) = (self.dir.path(), &self.image_key, POOL);
        let address = address(server);
        let text = format!(
            "data_dir = {data:?}\n\
             [http]\nlisten = \"{address}:8080\"\n[tftp]\nlisten = \"{address}:69\"\n\
             [boot]\nkernel = {:?}\nramdisk = {:?}\ndiscovery = {:?}\nloaders = {:?}\n\
             [images]\ndir = {:?}\nkeys = [{key:?}]\n\
             [wipe]\nmachines_per_hour = {losses}\n\
             [[dhcp]]\ninterface = \"sim0\"\nsubnet = \"10.77.0.0/24\"\naddress = \"{address}\"\n\
             pool = [\"{first}\", \"{last}\"]\nlease_seconds = {LEASE_SECONDS}\nallow_other_servers = true\n\
             [[profile]]\nname = {PROFILE:?}\nimage = \"tiny\"\ndisk = {{ pick = \"smallest\" }}\n",
            dir.join("vmlinuz"),
            dir.join("ramdisk"),
            dir.join("discovery"),
            dir.join("loaders"),
            dir.join("images"),
        );
        let file = data.join("server.toml");
        fs::write(&file, text).expect("written");
        config::load(&file).expect("a good configuration")
    }
}

/// The administrator's token.
pub(crate) fn admin() -> Secret {
    Secret::new("kst_administrator".into())
}
