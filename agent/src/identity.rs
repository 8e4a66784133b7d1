//! Who the installed system is: files written into the mounted tree.
//!
//! Nothing from the image is run, and every file replaces what the image has under its name.

mod arrays;
mod fstab;

use crate::image::tree::Tree;
use crate::pid1::EFIVARS;
use crate::recall;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ed25519_dalek::SigningKey;
use kaltstart_protocol::agent_api::{DiskUuids, Identity};
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::layout::{ESP_MOUNT, Layout, Role};
use kaltstart_protocol::node_api::{REPORT_CONFIG, REPORTER};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes of a line of a private key file, as OpenSSH writes it.
const KEY_LINE: usize = 70;
/// The unit that sends the first report. Nothing refers to it in an image without systemd.
const REPORT_UNIT: &str = "/etc/systemd/system/kaltstart-report.service";
const REPORT_UNIT_LINK: &str = "/etc/systemd/system/multi-user.target.wants/kaltstart-report.service";

/// The unit that keeps the boot order, at each start once the report was sent.
const ORDER_UNIT: &str = "/etc/systemd/system/kaltstart-boot-order.service";
const ORDER_UNIT_LINK: &str = "/etc/systemd/system/multi-user.target.wants/kaltstart-boot-order.service";

/// What was made up here and is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// 32 hexadecimal digits.
    pub machine_id: String,
    /// Public host keys, one line each.
    pub ssh_host_keys: Vec<String>,
}

/// Writes everything. `agent` is this program's file, which sends the first report; `layout` says what
/// is mounted.
///
/// The identity must have passed [`check`].
///
/// # Errors
/// When the file system refuses.
pub fn write(
    tree: &Tree,
    identity: &Identity,
    layout: &Layout,
    uuids: &DiskUuids,
    agent: &Path,
) -> io::Result<Written> {
    let host = &identity.hostname;
    let mut random = [0; 16 + 32 + 4];
    // Unlike /dev/urandom it waits until the kernel has gathered enough for the first time.
    File::open("/dev/random")?.read_exact(&mut random)?;
    let (id, rest) = random.split_at(16);
    let (seed, check) = rest.split_at(32);

    tree.write("/etc/hostname", format!("{host}\n").as_bytes(), 0o644)?;
    tree.write("/etc/hosts", hosts(identity).as_bytes(), 0o644)?;
    tree.write("/etc/fstab", fstab::text(layout, uuids).as_bytes(), 0o644)?;
    if layout.partitions.iter().any(|partition| partition.role == Role::Esp) {
        tree.directory(ESP_MOUNT, 0o700)?;
    }
    if layout.array.is_some() {
        arrays::write(tree, layout, uuids)?;
    }
    let network = network(identity);
    tree.write("/etc/systemd/network/10-kaltstart.network", network.as_bytes(), 0o644)?;

    let machine_id = machine_id(id);
    tree.write("/etc/machine-id", format!("{machine_id}\n").as_bytes(), 0o444)?;
    let (private, public) = ssh_key(seed, check, &format!("root@{host}"));
    tree.write("/etc/ssh/ssh_host_ed25519_key", private.as_bytes(), 0o600)?;
    tree.write("/etc/ssh/ssh_host_ed25519_key.pub", format!("{public}\n").as_bytes(), 0o644)?;
    if !identity.authorized_keys.is_empty() {
        tree.directory("/root/.ssh", 0o700)?;
        let lines: String = identity.authorized_keys.iter().map(|line| format!("{line}\n")).collect();
        tree.write("/root/.ssh/authorized_keys", lines.as_bytes(), 0o600)?;
    }
    reporter(tree, identity, agent)?;
    Ok(Written { machine_id, ssh_host_keys: vec![public] })
}

/// Refuses values that would be more than one value in the files below.
///
/// # Errors
/// [`Code::IdentityRefused`] with the value.
pub fn check(identity: &Identity) -> Result<(), Finding> {
    let bad = |what: &str, value: &str| {
        Err(Finding::new(Code::IdentityRefused, format!("{what} {value:?} is not acceptable")))
    };
    let label = |text: &str| {
        !text.is_empty()
            && text.len() <= 63
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if !label(&identity.hostname) {
        return bad("the host name", &identity.hostname);
    }
    if !identity.domain.is_empty() && !identity.domain.split('.').all(label) {
        return bad("the domain", &identity.domain);
    }
    let several = |line: &&String| line.contains(|c: char| c.is_control() && c != '\t');
    identity.authorized_keys.iter().find(several).map_or(Ok(()), |line| bad("the authorised key", line))
}

/// The first report: this program, what it says, and the units that start it. The start of the
/// system does not wait for its end: the server may be away for days.
fn reporter(tree: &Tree, identity: &Identity, agent: &Path) -> io::Result<()> {
    io::copy(&mut File::open(agent)?, &mut tree.create(REPORTER, 0o755)?)?;
    tree.write(REPORT_CONFIG, &serde_json::to_vec(&identity.report)?, 0o600)?;
    let unit = format!(
        "[Unit]\n\
         Description=Report to the Kaltstart server\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         ConditionPathExists={REPORT_CONFIG}\n\
         \n\
         [Service]\n\
         Type=exec\n\
         ExecStart={REPORTER} report\n\
         Restart=on-failure\n\
         RestartSec=10\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    );
    tree.write(REPORT_UNIT, unit.as_bytes(), 0o644)?;
    tree.symlink(REPORT_UNIT, REPORT_UNIT_LINK)?;
    let unit = format!(
        "[Unit]\n\
         Description=Keep the boot order: network, then disk\n\
         ConditionPathExists={EFIVARS}\n\
         ConditionPathExists=!{REPORT_CONFIG}\n\
         \n\
         [Service]\n\
         Type=exec\n\
         ExecStart={REPORTER} boot-order\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    );
    tree.write(ORDER_UNIT, unit.as_bytes(), 0o644)?;
    tree.symlink(ORDER_UNIT, ORDER_UNIT_LINK)?;
    identity.recall.as_ref().map_or(Ok(()), |recall| recall::leave_behind(tree, recall))
}

fn hosts(identity: &Identity) -> String {
    let Identity { hostname, domain, .. } = identity;
    let names = if domain.is_empty() { hostname.clone() } else { format!("{hostname}.{domain} {hostname}") };
    format!(
        "127.0.0.1\tlocalhost\n127.0.1.1\t{names}\n\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
    )
}

/// The hardware address as client identifier lets the DHCP server recognise the machine that
/// started over this interface.
fn network(identity: &Identity) -> String {
    format!(
        "[Match]\nMACAddress={}\n\n[Network]\nDHCP=ipv4\n\n[DHCPv4]\nClientIdentifier=mac\n",
        identity.mac
    )
}

/// 32 digits with version and variant of a random UUID, as machine-id(5) asks.
fn machine_id(random: &[u8]) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(random);
    bytes[6] = (bytes[6] & 0x0F) | 0x40;
    bytes[8] = (bytes[8] & 0x3F) | 0x80;
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// An Ed25519 key pair in OpenSSH's form (PROTOCOL.key of OpenSSH; RFC 8709 §4): the private
/// file and the public line. `check` is written twice, which lets readers notice a wrong
/// passphrase; there is none.
fn ssh_key(seed: &[u8], check: &[u8], comment: &str) -> (String, String) {
    let mut secret = [0; 32];
    secret.copy_from_slice(seed);
    let key = SigningKey::from_bytes(&secret);
    let public = key.verifying_key().to_bytes();
    let text = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes(), bytes].concat();
    let public_blob = [text(b"ssh-ed25519"), text(&public)].concat();
    let mut private = [
        check.to_vec(),
        check.to_vec(),
        public_blob.clone(),
        text(&[secret, public].concat()),
        text(comment.as_bytes()),
    ]
    .concat();
    // Padded to the block size of the cipher "none", 8, with 1, 2, 3 …
    private.extend((1..=8u8).take(private.len().next_multiple_of(8) - private.len()));
    let file = [
        b"openssh-key-v1\0".to_vec(),
        text(b"none"),
        text(b"none"),
        text(b""),
        1u32.to_be_bytes().to_vec(),
        text(&public_blob),
        text(&private),
    ]
    .concat();
    let encoded = STANDARD.encode(file);
    let mut pem = String::from("-----BEGIN OPENSSH PRIVATE KEY-----\n");
    for line in encoded.as_bytes().chunks(KEY_LINE) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END OPENSSH PRIVATE KEY-----\n");
    // 51 bytes need no padding.
    (pem, format!("ssh-ed25519 {} {comment}", STANDARD_NO_PAD.encode(public_blob)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_protocol::ids::{Digest, Mac};
    use kaltstart_protocol::layout::Partition;
    use kaltstart_protocol::node_api::ReportConfig;
    use kaltstart_protocol::secret::Secret;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    fn identity() -> Identity {
        Identity {
            hostname: "node7".into(),
            domain: "lab.example".into(),
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
        }
    }

    fn layout() -> Layout {
        let esp = Partition { role: Role::Esp, ..Partition::default() };
        Layout { name: "l".into(), partitions: vec![esp], ..Layout::default() }
    }

    fn uuids() -> DiskUuids {
        DiskUuids {
            disk: String::new(),
            partitions: vec![],
            root: String::new(),
            further: vec![],
            esp: 0x00AB_12CD,
        }
    }

    #[test]
    fn the_files_say_who_the_system_is() {
        let root = tempfile::tempdir().expect("directory");
        let agent = root.path().join("agent-file");
        std::fs::write(&agent, "binary").expect("write");
        let tree = Tree::open(root.path()).expect("open");
        let written = write(&tree, &identity(), &layout(), &uuids(), &agent).expect("writes");
        let read = |path: &str| std::fs::read_to_string(root.path().join(path)).expect(path);
        let mode = |path: &str| {
            let meta = std::fs::metadata(root.path().join(path)).expect(path);
            meta.permissions().mode() & 0o7777
        };
        assert_eq!(read("etc/hostname"), "node7\n");
        assert!(read("etc/hosts").contains("127.0.1.1\tnode7.lab.example node7\n"));
        assert!(read("etc/fstab").contains("UUID=00AB-12CD /boot/efi vfat"));
        assert!(read("etc/systemd/network/10-kaltstart.network").contains("MACAddress=52:54:00:01:02:03\n"));
        assert_eq!(read("etc/machine-id"), format!("{}\n", written.machine_id));
        assert_eq!(written.machine_id.len(), 32);
        assert_eq!(read("root/.ssh/authorized_keys"), "ssh-ed25519 AAAA a@b\n");
        assert_eq!((mode("root/.ssh"), mode("root/.ssh/authorized_keys")), (0o700, 0o600));
        assert_eq!(mode("etc/ssh/ssh_host_ed25519_key"), 0o600);
        assert_eq!((mode("usr/lib/kaltstart/agent"), mode("var/lib/kaltstart/report.json")), (0o755, 0o600));
        assert!(read("var/lib/kaltstart/report.json").contains("ksn_x"));
        let unit = read("etc/systemd/system/kaltstart-report.service");
        assert!(unit.contains("ExecStart=/usr/lib/kaltstart/agent report\n"));
        assert!(!root.path().join("var/lib/kaltstart/recall.json").exists(), "it was not to ask");
        let unit = read("etc/systemd/system/kaltstart-boot-order.service");
        assert!(unit.contains("ExecStart=/usr/lib/kaltstart/agent boot-order\n"));
        // OpenSSH reads the private key and derives the same public one.
        let key = root.path().join("etc/ssh/ssh_host_ed25519_key");
        let output = Command::new("ssh-keygen").arg("-yf").arg(&key).output().expect("ssh-keygen");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), written.ssh_host_keys[0]);
    }

    #[test]
    fn a_system_that_shall_ask_is_left_its_token_and_the_unit() {
        let root = tempfile::tempdir().expect("directory");
        let agent = root.path().join("agent-file");
        std::fs::write(&agent, "binary").expect("write");
        let tree = Tree::open(root.path()).expect("open");
        let recall = ReportConfig { token: Secret::new("ksr_y".into()), ..identity().report };
        let asking = Identity { recall: Some(recall), ..identity() };
        write(&tree, &asking, &layout(), &uuids(), &agent).expect("writes");
        let file = root.path().join("var/lib/kaltstart/recall.json");
        assert!(std::fs::read_to_string(&file).expect("written").contains("ksr_y"));
        let mode = std::fs::metadata(&file).expect("written").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let wanted = root.path().join("etc/systemd/system/multi-user.target.wants/kaltstart-recall.service");
        let unit = root.path().join("etc/systemd/system/kaltstart-recall.service");
        assert_eq!(
            std::fs::read_link(wanted).expect("a link"),
            Path::new("/etc/systemd/system/kaltstart-recall.service")
        );
        assert!(
            std::fs::read_to_string(unit)
                .expect("a unit")
                .contains("ExecStart=/usr/lib/kaltstart/agent recall\n")
        );
    }

    #[test]
    fn p27_values_that_would_be_several_are_refused() {
        let with = |change: fn(&mut Identity)| {
            let mut identity = identity();
            change(&mut identity);
            check(&identity)
        };
        assert!(with(|_| ()).is_ok());
        assert!(with(|i| i.hostname = "a b".into()).is_err());
        assert!(with(|i| i.hostname = String::new()).is_err());
        assert!(with(|i| i.hostname = "a\nb".into()).is_err());
        assert!(with(|i| i.domain = "a..b".into()).is_err());
        assert!(with(|i| i.authorized_keys.push("x\ny".into())).is_err());
    }
}
