//! What simulated servers are started with: images, boot files, configuration.

use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::image::{Boot, Compression, Format, Manifest};
use kaltstart_protocol::secret::Secret;
use kaltstart_server::config::{self, Config};
use kaltstart_server::tls::{self, Tls};
use minisign::KeyPair;
use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tempfile::TempDir;

/// The first address that is lent.
const POOL: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
/// How long an address is lent, in seconds.
const LEASE_SECONDS: u32 = 900;
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

/// By what all servers of a world go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rules {
    pub(crate) servers: usize,
    /// Addresses that are lent.
    pub(crate) lent: u32,
    /// Machines that may lose data within an hour.
    pub(crate) losses: u32,
}

/// The files that all servers share, in memory where there is room.
pub(crate) struct Site {
    dir: TempDir,
    image_key: String,
    /// The keys of all servers, copied from the first one to the others, as the product's documentation says.
    pub(crate) tls: Arc<Tls>,
    /// What was read already: the same for all worlds that go by the same.
    configs: Mutex<BTreeMap<(usize, Rules), Config>>,
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
        let names = [String::from("localhost")].into();
        let tls = Arc::new(Tls::open(tls::dir(dir.path()), names, crate::time::wall()).expect("keys"));
        Self { dir, image_key: signer.pk.to_base64(), tls, configs: Mutex::default() }
    }

    /// The configuration of a server whose data lies in `data`.
    pub(crate) fn config(&self, data: &Path, server: usize, rules: Rules) -> Config {
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut config = configs.entry((server, rules)).or_insert_with(|| self.read(server, rules)).clone();
        config.data_dir = data.into();
        config
    }

    fn read(&self, server: usize, rules: Rules) -> Config {
        let (dir, key) = (self.dir.path(), &self.image_key);
        let (own, Rules { servers, lent, losses }) = (address(server), rules);
        let last = Ipv4Addr::from_bits(POOL.to_bits() + lent - 1);
        let mut others = String::new();
        if servers > 1 {
            // Nobody is asked there: the store is opened by the simulation.
            others += "[database]\nurl = \"host=/nowhere user=kaltstart\"\n";
            for other in (0..servers).filter(|other| *other != server) {
                others += &format!("[[database.server]]\nlisten = \"{}:8080\"\n", address(other));
            }
        }
        let text = format!(
            "data_dir = {dir:?}\n\
             [http]\nlisten = \"{own}:8080\"\n[tftp]\nlisten = \"{own}:69\"\n\
             [boot]\nkernel = {:?}\nramdisk = {:?}\ndiscovery = {:?}\nloaders = {:?}\n\
             [images]\ndir = {:?}\nkeys = [{key:?}]\n\
             [wipe]\nmachines_per_hour = {losses}\n\
             [[dhcp]]\ninterface = \"sim0\"\nsubnet = \"10.77.0.0/24\"\naddress = \"{own}\"\n\
             pool = [\"{POOL}\", \"{last}\"]\nlease_seconds = {LEASE_SECONDS}\nallow_other_servers = true\n\
             [[profile]]\nname = {PROFILE:?}\nimage = \"tiny\"\ndisk = {{ pick = \"smallest\" }}\n{others}",
            dir.join("vmlinuz"),
            dir.join("ramdisk"),
            dir.join("discovery"),
            dir.join("loaders"),
            dir.join("images"),
        );
        let file = dir.join("server.toml");
        fs::write(&file, text).expect("written");
        config::load(&file).expect("a good configuration")
    }
}

/// The administrator's token.
pub(crate) fn admin() -> Secret {
    Secret::new("kst_administrator".into())
}
