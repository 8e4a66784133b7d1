//! Chips of a server's board tell who the machine is, and where its management controller is.

use crate::common::AGENT_LIMIT;
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::board::{Bmc, BmcLan, Tpm};
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::guest::{BmcConfig, Firmware, Guest, GuestConfig};
use kaltstart_tests::lab::Lab;
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// What is known of an unknown machine with these chips, and how `ks` shows it.
fn look(lab: &Lab, tpm: &Tpm, bmc: BmcConfig) -> Result<(Value, String)> {
    let artefacts = Artefacts::from_env()?;
    let server = Server::start(lab, &artefacts, &ServerConfig::new(&artefacts, "generic", &[]))?;
    let mut machine = GuestConfig::new("guest", Firmware::Bios, 1);
    (machine.tpm, machine.bmc) = (Some(tpm.socket.clone()), Some(bmc));
    let mut guest = Guest::new(lab, machine)?;
    guest.power_on()?;
    let node = wait_for("the machine's facts", AGENT_LIMIT, || {
        guest.ensure_running()?;
        Ok(match server.node_by_mac(&guest.config().mac)? {
            Some(node) if node.facts.is_object() => Poll::Ready(node),
            Some(node) => Poll::pending(format!("state {}, no facts", node.state)),
            None => Poll::pending("not known"),
        })
    })?;
    let shown = server.ks(&["node", "show", &node.name], secs(30))?;
    Ok((node.facts, String::from_utf8_lossy(&shown.stdout).into_owned()))
}

#[test]
fn certificate_of_the_tpm_and_network_of_the_controller_are_told() -> Result<()> {
    story("board", |lab| {
        let tpm = Tpm::start(lab, true)?;
        let lan = BmcLan { address: "10.99.0.7", source: "dhcp", mac: "52:54:00:0b:0c:07" };
        let _bmc = Bmc::start(lab, lan)?;
        let (facts, shown) = look(lab, &tpm, BmcConfig::External)?;
        let certificate = tpm.certificate.as_ref().context("no certificate")?;
        let mut print = "sha256:".to_owned();
        for byte in Sha256::digest(certificate) {
            write!(print, "{byte:02x}")?;
        }
        let (key, bmc) = (&facts["endorsement"], &facts["bmc"]);
        ensure!(
            key["source"] == "rsa_certificate" && key["digest"] == print.as_str(),
            "{key} is not {print}"
        );
        ensure!(bmc["firmware"] == "9.08" && bmc["ipmi"] == "2.0", "{bmc}");
        let told = &bmc["lan"];
        ensure!(
            told["address"] == lan.address && told["mac"] == lan.mac && told["source"] == lan.source,
            "{bmc}"
        );
        let supply = |name: &str, fault: &str| json!({"name": name, "present": true, "fault": fault});
        let supplies = json!([supply("PS1 Status", ""), supply("PS2 Status", "its input is lost")]);
        ensure!(bmc["power_supplies"] == supplies, "{bmc}");
        ensure!(shown.contains("KS-2211") && shown.contains("PS2 Status its input is lost"), "{shown}");
        ensure!(shown.contains(&print) && shown.contains("10.99.0.7 (dhcp) 52:54:00:0b:0c:07"), "{shown}");
        Ok(())
    })
}

#[test]
fn a_tpm_without_certificate_and_a_controller_without_network_are_told_as_such() -> Result<()> {
    story("board-bare", |lab| {
        let tpm = Tpm::start(lab, false)?;
        let (facts, shown) = look(lab, &tpm, BmcConfig::Simple)?;
        let (key, bmc) = (&facts["endorsement"], &facts["bmc"]);
        let digest = key["digest"].as_str().unwrap_or_default();
        ensure!(key["source"] == "ecc_key" && digest.starts_with("sha256:"), "{key}");
        ensure!(bmc["ipmi"] == "2.0" && bmc["lan"].is_null(), "{bmc}");
        ensure!(shown.contains(digest) && shown.contains("network not known"), "{shown}");
        Ok(())
    })
}
