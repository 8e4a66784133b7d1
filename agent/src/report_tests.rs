use super::*;
use crate::test_server::{Server, json};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::secret::Secret;
use std::os::unix::fs::symlink;

fn put(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("has one")).expect("directories");
    fs::write(path, bytes).expect("a file");
}

fn system() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    let mounts = "21 1 0:20 / /proc rw - proc proc rw\n\
        1 0 0:2 / / rw - rootfs rootfs rw\n\
        24 1 8:2 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
        30 24 8:1 / /boot/efi rw - vfat /dev/sda1 rw\n";
    put(root, "proc/self/mountinfo", mounts.as_bytes());
    put(root, "proc/sys/kernel/hostname", b"n1\n");
    put(root, "etc/os-release", b"NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n");
    put(root, "etc/machine-id", b"0123\n");
    put(root, "etc/ssh/ssh_host_rsa_key.pub", b"ssh-rsa B n1\n");
    put(root, "etc/ssh/ssh_host_ed25519_key.pub", b"ssh-ed25519 A n1\n");
    put(root, "etc/ssh/ssh_host_rsa_key", b"PRIVATE");
    fs::create_dir_all(root.join("sys/dev/block")).expect("directories");
    symlink("../../devices/pci/block/sda/sda2", root.join("sys/dev/block/8:2")).expect("a link");
    let mut superblock = vec![0; 4096];
    superblock[1080..1082].copy_from_slice(&[0x53, 0xef]);
    superblock[1128..1144].copy_from_slice(&(0..16).collect::<Vec<u8>>());
    put(root, "dev/sda2", &superblock);
    dir
}

fn config(url: &str) -> ReportConfig {
    ReportConfig {
        urls: vec![url.into()],
        token: Secret::new("ksr_1".into()),
        job: None,
        authority: Digest([0; 32]),
        not_before: 0,
    }
}

#[test]
fn a_system_is_described() {
    let root = system();
    let report = gather(&config("http://x"), root.path());
    assert_eq!((report.hostname.as_str(), report.machine_id.as_str()), ("n1", "0123"));
    assert_eq!(report.os, "Debian GNU/Linux 12 (bookworm)");
    assert_eq!(report.root_device, "/dev/sda2");
    assert_eq!(report.root_uuid, "00010203-0405-0607-0809-0a0b0c0d0e0f");
    assert_eq!(report.ssh_host_keys, ["ssh-ed25519 A n1", "ssh-rsa B n1"]);
    // udev's link is preferred where there is one.
    fs::create_dir_all(root.path().join("dev/disk/by-uuid")).expect("directories");
    symlink("../../sda2", root.path().join("dev/disk/by-uuid/abcd-ef")).expect("a link");
    assert_eq!(gather(&config("http://x"), root.path()).root_uuid, "abcd-ef");
}

#[test]
fn p36_the_report_is_repeated_until_it_is_noted() {
    let root = system();
    let server = Server::secure(vec![
        json("503 Service Unavailable", "{}"),
        json("409 Conflict", "{}"),
        "HTTP/1.1 204 No Content\r\n\r\n".into(),
    ]);
    let message = send_until_noted(
        &server.client(),
        &config(&server.url("/node/v1/report")),
        root.path(),
        &BootOrder::None,
        |_| {},
    );
    assert_eq!((message.as_str(), server.requests().len()), ("reported to the server", 3));
    assert!(server.requests()[2].contains(r#""token":"ksr_1""#));
}

#[test]
fn p21_a_report_nobody_waits_for_ends() {
    let root = system();
    for status in ["401 Unauthorized", "404 Not Found", "410 Gone"] {
        let server = Server::secure(vec![json(status, r#"{"title":"over"}"#)]);
        let message = send_until_noted(
            &server.client(),
            &config(&server.url("/r")),
            root.path(),
            &BootOrder::None,
            |_| {},
        );
        assert_eq!(message, "nobody waits for the report: over");
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn p20_the_report_s_token_goes_to_the_server_of_the_pinned_authority_alone() {
    let root = system();
    let [server, other] = [0, 1].map(|_| Server::secure(vec!["HTTP/1.1 204 No Content\r\n\r\n".into()]));
    let config = config(&other.url("/node/v1/report"));
    let why = send(&server.client(), &config, &gather(&config, root.path())).expect_err("not believed");
    assert!(why.starts_with("KS-1040") && why.contains(&other.authority().to_string()), "{why}");
    assert_eq!(other.requests(), Vec::<String>::new());
}
