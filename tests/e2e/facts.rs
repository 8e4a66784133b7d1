//! What a machine is made of, and what is wrong with it, from real firmware and emulated parts.

use crate::common::{AGENT_LIMIT, IMAGE, NODE, Ordered, order_only};
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

/// A machine with two memory modules, two cards, an NVMe and a SATA disk, both blank.
fn machine(lab: &Lab) -> Result<GuestConfig> {
    let mut machine = GuestConfig::new("guest", Firmware::Bios, 1)
        .module("DIMM-A1", 512, "MOD-1")
        .module("DIMM-B1", 512, "MOD-2");
    machine.further_nics.push(SECOND_MAC.to_owned());
    for (bus, serial) in [(Bus::Nvme, "ON-NVME"), (Bus::Sata, "ON-SATA")] {
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
        ensure!(texts(disks, "firmware").iter().all(|text| !text.is_empty()), "disks: {disks}");
        ensure!(findings(&ordered)?.is_empty(), "nothing is wrong: {:?}", findings(&ordered)?);

        // A module, a card and a disk are pulled out; the module that stays is a smaller one's neighbour.
        ordered.guest.open(|machine| {
            machine.modules.pop();
            machine.further_nics.clear();
            machine.disks.pop();
        });
        ordered.job = ordered.server.deploy(NODE, IMAGE)?.id;
        start(&mut ordered)?.failed_with("KS-2105")?;
        let found = findings(&ordered)?;
        let named = ["slot DIMM-B1", "serial ON-SATA", SECOND_MAC];
        ensure!(found.len() == named.len(), "{found:?}");
        for name in named {
            let told = found.iter().any(|(code, detail)| code == "KS-2202" && detail.contains(name));
            ensure!(told, "{name} is not told as gone: {found:?}");
        }
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
        ensure!(codes == ["KS-2202", "KS-2203"], "{found:?}");
        ensure!(found[0].1.contains("ON-SATA") && found[1].1.contains("DIMM-C1 (256 MiB"), "{found:?}");
        let accepted = ordered.server.ks(&["node", "accept", NODE], secs(30))?;
        ensure!(accepted.status.success(), "{}", String::from_utf8_lossy(&accepted.stderr));
        let (code, _) = findings(&ordered)?.pop().context("the uneven modules are forgotten")?;
        ensure!(code == "KS-2203" && findings(&ordered)?.len() == 1, "{:?}", findings(&ordered)?);
        ensure!(ordered.server.node(NODE)?.state == "allocated", "accepting changed the node's state");
        Ok(())
    })
}
