//! What a machine is made of, and what is wrong with it, from real firmware and emulated parts.

use crate::common::{AGENT_LIMIT, DEPLOY_LIMIT, IMAGE, NODE, Ordered, order_only};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::api::Job;
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Bus, Firmware, GuestConfig};
use kaltstart_tests::lab::Lab;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::secs;
use serde_json::Value;

/// A second network card.
const SECOND_MAC: &str = "52:54:00:00:01:02";

/// What the machine below should be made of.
const CLASS: &str = r#"
[[class]]
name = "small"
product = "Standard PC (Q35 + ICH9, 2009)"
memory_gib = 1
modules = 2
sockets = 1
nics = 2
disks = [{ count = 1, transport = "nvme", min_gib = 1 }, { count = 1, transport = "sata" }]
"#;

/// A machine with two memory modules, two cards, a virtio disk to start from, a SATA and an NVMe disk, all blank.
fn machine(lab: &Lab) -> Result<GuestConfig> {
    let mut machine = GuestConfig::new("guest", Firmware::Bios, 1)
        .module("DIMM-A1", 512, "MOD-1")
        .module("DIMM-B1", 512, "MOD-2");
    machine.further_nics.push(SECOND_MAC.to_owned());
    for (bus, serial) in [(Bus::Virtio, "ON-VIRTIO"), (Bus::Sata, "ON-SATA"), (Bus::Nvme, "ON-NVME")] {
        let file = lab.dir().join(format!("{serial}.raw"));
        disk::blank(&file, 2048)?;
        machine = machine.disk_on(bus, &file, serial);
    }
    Ok(machine)
}

/// An order for `disk`, with the machine still off.
fn order<'a>(lab: &'a Lab, machine: GuestConfig, disk: &str) -> Result<Ordered<'a>> {
    let artefacts = Artefacts::from_env()?;
    let mut config = ServerConfig::new(&artefacts, "generic", &[IMAGE]);
    config.profiles[0].disk_serial = Some(disk.to_owned());
    config.sections.push_str(CLASS);
    order_only(lab, machine, &artefacts, config, IMAGE)
}

/// Starts the machine for its job, which fails, and cuts the power.
fn start(ordered: &mut Ordered<'_>) -> Result<Job> {
    ordered.power_on()?;
    let job = ordered.server.wait_ended(&ordered.job, AGENT_LIMIT)?;
    ordered.guest.power_off();
    Ok(job)
}

/// The `key` of every element of a list.
fn texts<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list.as_array().into_iter().flatten().filter_map(|item| item[key].as_str()).collect()
}

/// Code and detail of all that is wrong with the node's hardware, as the API tells it.
fn findings(ordered: &Ordered<'_>) -> Result<Vec<(String, String)>> {
    let node = ordered.server.node(NODE)?;
    Ok(node.findings.into_iter().map(|finding| (finding.code, finding.detail)).collect())
}

#[test]
fn a_disk_that_says_it_fails_is_refused_and_no_other() -> Result<()> {
    /// Reliability degraded.
    const DEGRADED: u8 = 0x04;
    story("facts-failing", |lab| {
        let artefacts = Artefacts::from_env()?;
        let mut config = ServerConfig::new(&artefacts, "generic", &[IMAGE]);
        config.profiles[0].disk_serial = Some("ON-NVME".to_owned());
        let mut other = config.profiles[0].clone();
        (other.name, other.disk_serial) = ("on-virtio".to_owned(), Some("ON-VIRTIO".to_owned()));
        config.profiles.push(other);
        let mut ordered = order_only(lab, machine(lab)?, &artefacts, config, IMAGE)?;
        ordered.power_on()?;
        ordered.guest.set_critical_warning(2, DEGRADED)?;
        let job = ordered.server.wait_ended(&ordered.job, AGENT_LIMIT)?;
        job.failed_with("KS-2201")?;
        let told = job.findings.first().map(|finding| finding.detail.clone()).unwrap_or_default();
        ensure!(told.contains("serial ON-NVME") && told.contains("reliability degraded"), "{told}");
        ordered.guest.wait_serial("KS-2201", AGENT_LIMIT)?;
        let used = ordered.guest.disk_use(2)?;
        ensure!(used.writes == 0 && used.reads > 0, "the disk's use: {used:?}");
        let node = ordered.server.node(NODE)?;
        let disks = node.facts["disks"].as_array().cloned().unwrap_or_default();
        let of = |serial: &str| disks.iter().find(|disk| disk["serial"] == serial).context("no such disk");
        let (nvme, sata) = (of("ON-NVME")?, of("ON-SATA")?);
        ensure!(nvme["health"]["verdict"] == "failing" && nvme["health"]["celsius"].is_i64(), "{nvme}");
        // QEMU's SATA disks keep SMART data, and call their firmware by QEMU's version.
        ensure!(sata["health"]["verdict"] == "good" && sata["health"]["hours"].is_u64(), "{sata}");
        ensure!(sata["firmware"].as_str().is_some_and(|text| text.contains('.')), "{sata}");
        let shown = ordered.server.ks(&["node", "show", NODE], secs(30))?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        ensure!(shown.contains("FAILING reliability degraded") && shown.contains("KS-2201"), "{shown}");

        // An order cannot give it up, and a job for the other disk goes on beside it.
        let print: Value = ordered.server.get(&format!("/v1/nodes/{NODE}"))?.json()?;
        let print = print["fingerprints"]["ON-NVME"].as_str().context("no fingerprint")?;
        ordered.guest.power_off();
        ordered.job = ordered.server.order_and_erase(NODE, "deploy", IMAGE, &[("ON-NVME", print)])?.id;
        ordered.power_on()?;
        ordered.guest.set_critical_warning(2, DEGRADED)?;
        ordered.server.wait_ended(&ordered.job, AGENT_LIMIT)?.failed_with("KS-2201")?;
        ordered.guest.power_off();
        ordered.job = ordered.server.deploy(NODE, "on-virtio")?.id;
        ordered.power_on()?;
        ordered.guest.set_critical_warning(2, DEGRADED)?;
        ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        let used = ordered.guest.disk_use(2)?;
        ensure!(used.writes == 0, "the failing disk's use: {used:?}");
        let (code, _) = findings(&ordered)?.pop().context("the failing disk is forgotten")?;
        ensure!(code == "KS-2201", "{code}");
        Ok(())
    })
}

#[test]
fn what_is_gone_is_named() -> Result<()> {
    story("facts-gone", |lab| {
        let mut ordered = order(lab, machine(lab)?, "NO-SUCH")?;
        start(&mut ordered)?.failed_with("KS-2105")?;
        let facts = ordered.server.node(NODE)?.facts;
        let modules = &facts["modules"];
        ensure!(texts(modules, "slot") == ["DIMM-A1", "DIMM-B1"], "modules: {modules}");
        ensure!(texts(modules, "serial") == ["MOD-1", "MOD-2"], "modules: {modules}");
        ensure!(modules[0]["size"] == 512 << 20 && modules[0]["ecc"] == true, "modules: {modules}");
        ensure!(modules[0]["speed"] == 3200 && modules[0]["part"] == "PART-1", "modules: {modules}");
        let processors = &facts["processors"];
        ensure!(texts(processors, "socket") == ["CPU 0"], "processors: {processors}");
        let nics = &facts["nics"];
        let macs = [ordered.guest.config().mac.as_str(), SECOND_MAC];
        let permanent = texts(nics, "permanent_mac");
        ensure!(macs.iter().all(|mac| texts(nics, "mac").contains(mac)), "network cards: {nics}");
        ensure!(permanent.contains(&SECOND_MAC), "network cards: {nics}");
        let devices = &facts["devices"];
        for driver in ["nvme", "ahci", "e1000e"] {
            ensure!(texts(devices, "driver").contains(&driver), "{driver} is not in {devices}");
        }
        ensure!(texts(devices, "id").contains(&"8086:2922"), "the controller of the chipset: {devices}");
        let disks = &facts["disks"];
        let revisions = texts(disks, "firmware").iter().filter(|text| !text.is_empty()).count();
        ensure!(revisions == 2, "SATA and NVMe have firmware: {disks}");
        ensure!(findings(&ordered)?.is_empty(), "nothing is wrong: {:?}", findings(&ordered)?);

        // A module, a card and a disk are pulled out; the module that stays is a smaller one's neighbour.
        ordered.guest.open(|machine| {
            machine.modules.pop();
            machine.further_nics.clear();
            machine.disks.pop();
        });
        ordered.job = ordered.server.deploy(NODE, IMAGE)?.id;
        start(&mut ordered)?.failed_with("KS-2105")?;
        let (found, differs): (Vec<_>, Vec<_>) =
            findings(&ordered)?.into_iter().partition(|(code, _)| code != "KS-2204");
        let named = ["slot DIMM-B1", "serial ON-NVME", SECOND_MAC];
        ensure!(found.len() == named.len(), "{found:?}");
        for name in named {
            let told = found.iter().any(|(code, detail)| code == "KS-2202" && detail.contains(name));
            ensure!(told, "{name} is not told as gone: {found:?}");
        }
        let expected = [
            "class small: 1 GiB of memory are expected, 512 MiB are plugged in",
            "class small: 2 memory modules are expected, 1 are seen: in slot DIMM-A1",
            "class small: 2 network interfaces are expected, 1 are seen",
            "class small: 1 disks (nvme, at least 1 GiB) are expected, 0 are seen: none; other disks: sda",
        ];
        let all = expected.iter().all(|text| differs.iter().any(|(_, detail)| detail.starts_with(text)));
        ensure!(all && differs.len() == expected.len(), "{differs:?}");
        let shown = ordered.server.ks(&["node", "show", NODE], secs(30))?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        ensure!(shown.contains("KS-2202") && shown.contains("serial MOD-2"), "ks node show tells {shown}");

        // Two come back in other places, and one is given up.
        ordered.guest.open(|machine| {
            machine.modules.insert(0, machine.modules[0].clone());
            machine.modules[0].slot = "DIMM-C1".to_owned();
            machine.modules[0].serial = "MOD-2".to_owned();
            machine.modules[0].mib = 256;
            machine.further_nics.push(SECOND_MAC.to_owned());
        });
        ordered.job = ordered.server.deploy(NODE, IMAGE)?.id;
        start(&mut ordered)?.failed_with("KS-2105")?;
        let found = findings(&ordered)?;
        let codes: Vec<&str> = found.iter().map(|(code, _)| code.as_str()).collect();
        ensure!(codes == ["KS-2202", "KS-2203", "KS-2204", "KS-2204"], "{found:?}");
        ensure!(
            found[2].1.contains("768 MiB are plugged in; unlike the others: in slot DIMM-C1"),
            "{found:?}"
        );
        ensure!(found[0].1.contains("ON-NVME") && found[1].1.contains("DIMM-C1 (256 MiB"), "{found:?}");
        let before = ordered.server.node(NODE)?.state;
        let accepted = ordered.server.ks(&["node", "accept", NODE], secs(30))?;
        ensure!(accepted.status.success(), "{}", String::from_utf8_lossy(&accepted.stderr));
        // What differs from its class goes on differing.
        let found = findings(&ordered)?;
        let codes: Vec<&str> = found.iter().map(|(code, _)| code.as_str()).collect();
        ensure!(codes == ["KS-2203", "KS-2204", "KS-2204"], "{found:?}");
        ensure!(ordered.server.node(NODE)?.state == before, "accepting changed the node's state");
        Ok(())
    })
}
