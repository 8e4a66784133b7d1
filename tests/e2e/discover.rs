//! The ramdisk for physical servers finds hardware that virtual machines seldom have.

use crate::common::AGENT_LIMIT;
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Bus, Firmware, Guest, GuestConfig};
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::switch::announcement;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use serde_json::Value;

#[test]
fn sata_nvme_and_e1000e() -> Result<()> {
    story("discover-hardware", |lab| {
        let artefacts = Artefacts::from_env()?;
        let server = Server::start(lab, &artefacts, &ServerConfig::new(&artefacts, "generic", &[]))?;
        let mut machine = GuestConfig::new("guest", Firmware::Bios, 1);
        machine.nic = "e1000e".to_owned();
        for (bus, serial) in [(Bus::Sata, "ON-SATA"), (Bus::Nvme, "ON-NVME")] {
            let file = lab.dir().join(format!("{serial}.raw"));
            disk::blank(&file, 64)?;
            machine = machine.disk_on(bus, &file, serial);
        }
        let mut guest = Guest::new(lab, machine)?;
        guest.power_on()?;
        let facts = wait_for("the machine's facts", AGENT_LIMIT, || {
            Ok(match server.node_by_mac(&guest.config().mac)? {
                Some(node) if node.facts.is_object() => Poll::Ready(node.facts),
                Some(node) => Poll::pending(format!("state {}, no facts", node.state)),
                None => Poll::pending("not known"),
            })
        })?;
        let texts = |list: &Value, key: &str| -> Vec<String> {
            let items = list.as_array().into_iter().flatten();
            items.filter_map(|item| item[key].as_str().map(str::to_owned)).collect()
        };
        let serials = texts(&facts["disks"], "serial");
        ensure!(["ON-NVME", "ON-SATA"].iter().all(|s| serials.iter().any(|t| t == s)), "disks: {serials:?}");
        ensure!(texts(&facts["nics"], "driver") == ["e1000e"], "network cards: {}", facts["nics"]);
        ensure!(facts["firmware"] == "bios", "firmware: {}", facts["firmware"]);
        ensure!(facts["boot_nic"].is_string(), "the agent does not know its boot interface: {facts}");

        // The switch speaks when the agent has said hello long ago; then its port is another.
        ensure!(facts["nics"][0]["neighbour"].is_null(), "nobody has spoken yet: {}", facts["nics"]);
        for (port, vlan) in [("Ethernet12", 42), ("Ethernet13", 7)] {
            let frame = announcement("leaf-3", port, vlan);
            lab.send_frame(guest.tap(), &frame)?;
            wait_for("what the switch said", AGENT_LIMIT, || {
                let node = server.node_by_mac(&guest.config().mac)?.context("the node is gone")?;
                let neighbour = &node.facts["nics"][0]["neighbour"];
                let told = neighbour["port"] == port && neighbour["vlan"] == vlan;
                Ok(if told && neighbour["switch"] == "leaf-3" {
                    Poll::Ready(())
                } else {
                    Poll::pending(format!("neighbour {neighbour}"))
                })
            })?;
        }
        let name = server.node_by_mac(&guest.config().mac)?.context("the node is gone")?.name;
        let shown = server.ks(&["node", "show", &name], secs(30))?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        ensure!(shown.contains("switch leaf-3 port Ethernet13 VLAN 7"), "ks node show tells {shown}");
        Ok(())
    })
}
