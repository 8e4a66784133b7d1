//! Layouts as operators see them, and try them on nodes that have told their hardware.

use crate::agent::Agent;
use crate::client::{CONFLICT, NOT_FOUND, USAGE, done, ks, refused};
use crate::site::{Answer, Site, mac};
use kaltstart_protocol::agent_api::Mode;
use kaltstart_protocol::facts::{Disk, Facts, Firmware};
use kaltstart_protocol::layout::Layout;
use kaltstart_server::http::layout::{LayoutTrial, LayoutView, Origin};
use reqwest::StatusCode;
use serde_json::Value;
use std::io::Write as _;

const MIB: u64 = 1 << 20;

/// A layout of the site's own, another in place of a built-in one, and a profile that chooses a disk.
const OWN: &str = r#"
[[profile]]
name = "second"
image = "tiny"
layout = "halves"
disk = { serial = "S2" }

[[layout]]
name = "halves"
partitions = [
    { label = "root", role = "root", min_mib = 1024, weight = 1, options = ["noatime"] },
    { label = "d", role = "data", mount = "/srv", min_mib = 1024, weight = 1, options = ["nodev", "nosuid"] },
]

[[layout]]
name = "server"
partitions = [{ label = "root", role = "root", min_mib = 1 }]
tmpfs = [{ mount = "/tmp", options = ["size=25%"] }]
"#;

async fn site() -> Site {
    let mut site = Site::start().await;
    site.stop();
    let config = std::fs::OpenOptions::new().append(true).open(site.dir.path().join("server.toml"));
    config.expect("a configuration").write_all(OWN.as_bytes()).expect("written");
    site.power_on().await;
    site
}

/// A node whose agent has told its hardware.
async fn node_with(site: &Site, n: u32, facts: Facts) -> String {
    let name = format!("n{n}");
    site.declare(&name, mac(n)).await;
    let mut agent = Agent::boot(site, n, n, Mode::Discover).await;
    agent.facts = facts;
    assert_eq!(agent.hello().await.status, StatusCode::OK);
    name
}

fn disks<const N: usize>(disks: [(&str, u64); N]) -> Facts {
    let disk = |(serial, gib): (&str, u64)| Disk {
        name: "vda".into(),
        serial: serial.into(),
        size: gib << 30,
        sector_size: 512,
        ..Disk::default()
    };
    Facts { disks: disks.map(disk).into(), ..Facts::default() }
}

async fn tried(site: &Site, node: &str, query: &str) -> Answer {
    site.get(&format!("/v1/nodes/{node}/layout?{query}")).await
}

fn trial(answer: &Answer) -> LayoutTrial {
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    serde_json::from_str(&answer.text).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

#[tokio::test]
async fn layouts_are_listed_and_shown_with_where_they_come_from() {
    let site = site().await;
    let list: Vec<LayoutView> = serde_json::from_str(&site.get("/v1/layouts").await.text).expect("JSON");
    let list: Vec<_> =
        list.iter().map(|it| (it.name.as_str(), it.origin, it.partitions, it.min_disk / MIB)).collect();
    let (own, built_in) = (Origin::Configuration, Origin::BuiltIn);
    assert_eq!(
        list,
        [
            ("btrfs", built_in, 3, 1 + 512 + 3072 + 2),
            ("encrypted", built_in, 5, 1 + 512 + 512 + 1024 + 64 + 2),
            ("encrypted-mirror", built_in, 7, 1 + 512 + 512 + 3346 + 2),
            ("halves", own, 2, 2050),
            ("lvm", built_in, 10, 1 + 512 + 10_753 + 2),
            ("mirror", built_in, 4, 1 + 512 + 3072 + 256 + 2),
            ("server", own, 1, 3),
            ("single", built_in, 3, 1 + 512 + 1024 + 2)
        ]
    );
    let shown: Layout = serde_json::from_str(&site.get("/v1/layouts/halves").await.text).expect("JSON");
    assert_eq!(shown.partitions[1].options, ["nodev", "nosuid"]);
    site.get("/v1/layouts/thirds").await.problem(StatusCode::NOT_FOUND, "not-found");

    assert_eq!(
        done(&site, "layout list -o name").await.out,
        "btrfs\nencrypted\nencrypted-mirror\nhalves\nlvm\nmirror\nserver\nsingle\n"
    );
    let table = done(&site, "layout list").await.out;
    assert!(table.contains("built in") && table.contains("configuration"), "{table}");
    let table = done(&site, "layout show server").await.out;
    assert!(table.contains("root") && table.contains("/tmp") && table.contains("size=25%"), "{table}");
    let table = done(&site, "layout show btrfs").await.out;
    assert!(table.contains("SUBVOLUME") && table.contains("@var-log"), "{table}");
    assert_eq!(done(&site, "layout show halves -o name").await.out, "halves\n");
    let json = done(&site, "layout show halves -o json").await.out;
    assert_eq!(serde_json::from_str::<Layout>(&json).expect("JSON"), shown);
    let yaml = done(&site, "layout show halves -o yaml").await.out;
    assert_eq!(serde_saphyr::from_str::<Layout>(&yaml).expect("YAML"), shown);
    assert!(refused(&site, "layout show thirds", NOT_FOUND).await.contains("ks layout list"));
}

/// The node `n1` but for when it was heard: that its ramdisk was fetched is noted when it is noted.
async fn what_it_is(site: &Site) -> Value {
    let mut node = site.get("/v1/nodes/n1").await.json;
    node["last_seen"] = Value::Null;
    node
}

#[tokio::test]
async fn a_layout_is_tried_on_a_nodes_disk_and_nothing_changes() {
    let site = site().await;
    let node = node_with(&site, 1, disks([("S2", 4)])).await;
    let before = what_it_is(&site).await;
    let told = trial(&tried(&site, &node, "layout=single").await);
    assert_eq!(
        (told.disks.first().map(|disk| disk.serial.clone()), told.profile),
        (Some("S2".to_owned()), None)
    );
    let places: Vec<_> = told.partitions.iter().map(|it| (it.number, it.start, it.size)).collect();
    let (esp, root) = (2 * MIB, 514 * MIB);
    assert_eq!(places, [(1, MIB, MIB), (2, esp, 512 * MIB), (3, root, 4096 * MIB - root - MIB)]);
    let mounts: Vec<_> = told.partitions.iter().map(|it| it.mount.as_deref()).collect();
    assert_eq!(mounts, [None, Some("/boot/efi"), Some("/")]);

    let table = done(&site, "layout try n1 --layout single").await.out;
    for words in ["NODE          n1", "LAYOUT        single", "S2", "512 MiB", "3.4 GiB", "bios_boot"] {
        assert!(table.contains(words), "{words} in {table}");
    }
    let names = done(&site, "layout try n1 --layout single -o name").await.out;
    assert_eq!(names, "bios-boot\nesp\nroot\n");
    let table = done(&site, "layout try n1 --layout btrfs").await.out;
    assert!(table.contains("SUBVOLUME") && table.contains("/var/log"), "{table}");
    let table = done(&site, "layout try n1 --layout encrypted").await.out;
    assert!(table.contains("luks2 ext4") && table.contains("/boot "), "{table}");
    let two = node_with(&site, 2, disks([("A", 8), ("B", 8)])).await;
    let table = done(&site, &format!("layout try {two} --layout encrypted-mirror")).await.out;
    assert!(
        table.contains("luks2") && table.contains("in system") && !table.contains("luks2 ext4"),
        "{table}"
    );
    let yaml = done(&site, "layout try n1 --profile second -o yaml").await.out;
    let read: LayoutTrial = serde_saphyr::from_str(&yaml).expect("YAML");
    assert_eq!(read.partitions[1].options, ["nodev", "nosuid"]);
    assert_eq!(what_it_is(&site).await, before);
    assert_eq!(site.get("/v1/jobs").await.text, "[]");
}

#[tokio::test]
async fn a_profile_chooses_the_disk_as_its_order_would() {
    let site = site().await;
    let two = node_with(&site, 1, disks([("S1", 8), ("S2", 4)])).await;
    let told = trial(&tried(&site, &two, "profile=second").await);
    assert_eq!((told.layout.as_str(), told.disks[0].serial.as_str()), ("halves", "S2"));
    assert_eq!(told.partitions.iter().map(|it| it.size).collect::<Vec<_>>(), [2047 * MIB; 2]);
    // A layout that is named takes the place of the profile's layout, not of its rule.
    let told = trial(&tried(&site, &two, "profile=second&layout=single").await);
    assert_eq!((told.layout.as_str(), told.disks[0].serial.as_str()), ("single", "S2"));
}

#[tokio::test]
async fn what_does_not_fit_is_told_with_the_finding_of_the_job_that_would_fail() {
    let site = site().await;
    let bios = Facts { firmware: Firmware::Bios, ..disks([("S2", 4)]) };
    for (n, facts, query, code, words) in [
        (1, disks([("S1", 8), ("S2", 4)]), "layout=single", "KS-2102", ["serial S1", "serial S2"]),
        (2, disks([("S1", 8)]), "profile=second", "KS-2105", ["serial S1", "8589934592"]),
        (3, disks([]), "layout=single", "KS-2101", ["no disk", "found"]),
        (4, disks([("S2", 1)]), "layout=single", "KS-2103", ["serial S2", "needs 1613758464 bytes"]),
        (5, bios, "profile=second", "KS-4002", ["BIOS boot", "the layout has no"]),
    ] {
        let node = node_with(&site, n, facts).await;
        let answer = tried(&site, &node, query).await;
        let told = trial(&answer);
        let finding = told.finding.unwrap_or_else(|| panic!("{code}: {answer:?}"));
        assert_eq!(finding.finding.code.number(), code, "{answer:?}");
        assert!(words.iter().all(|word| finding.finding.detail.contains(word)), "{answer:?}");
        assert!(told.partitions.is_empty());
        let said = ks(&site, &format!("layout try {node} --{}", query.replace('=', " "))).await;
        assert_eq!(said.code, CONFLICT, "{}", said.err);
        assert!(said.err.contains(code) && said.err.contains(&finding.next), "{}", said.err);
        assert_eq!(said.err.contains("--profile NAME"), code == "KS-2102", "{}", said.err);
        // The disk that does not suffice is what a person wants to see.
        assert_eq!(said.out.contains("DISK"), !told.disks.is_empty(), "{}", said.out);
    }
}

#[tokio::test]
async fn what_cannot_be_tried_is_refused_with_what_to_do() {
    let site = site().await;
    let node = node_with(&site, 1, disks([("S1", 8)])).await;
    site.declare("unseen", mac(9)).await;
    for (node, query, status, code, word) in [
        ("nobody", "layout=single", StatusCode::NOT_FOUND, "not-found", "ks node list"),
        ("unseen", "layout=single", StatusCode::CONFLICT, "refused", "over the network"),
        (&node, "layout=thirds", StatusCode::NOT_FOUND, "not-found", "ks layout list"),
        (&node, "profile=thirds", StatusCode::NOT_FOUND, "not-found", "ks profile list"),
        (&node, "profile=hollow", StatusCode::CONFLICT, "image-unusable", "images.dir"),
        (&node, "", StatusCode::BAD_REQUEST, "bad-request", "layout=NAME"),
        (&node, "layuot=single", StatusCode::BAD_REQUEST, "bad-request", "layuot"),
    ] {
        let answer = tried(&site, node, query).await;
        answer.problem(status, code);
        assert!(answer.json["detail"].as_str().is_some_and(|detail| detail.contains(word)), "{answer:?}");
    }
    for (words, code, what) in [
        ("layout try nobody --layout single", NOT_FOUND, "nobody"),
        ("layout try n1 --layout thirds", NOT_FOUND, "thirds"),
        ("layout try unseen --layout single", CONFLICT, "unseen"),
        ("layout try n1", USAGE, "--layout"),
    ] {
        assert!(refused(&site, words, code).await.contains(what), "{words}");
    }
}
