//! Beside a DHCP server of somebody else: the options it is told, proxy, and being no rogue.

use crate::common::config;
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::lab::{Lab, SERVER, Station};
use kaltstart_tests::others::{Maker, OtherServer};
use kaltstart_tests::packets::{self, Answer};
use kaltstart_tests::process::run;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use std::fs;
use std::net::Ipv4Addr;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0xc1, 0x1e];

/// Repeats `ask` from `station` until an answer fits.
fn answered(station: &Station, ask: &[u8], fits: impl Fn(&Answer) -> bool) -> Result<Answer> {
    let socket = station.inside(packets::dhcp_socket)?;
    wait_for("an answer", secs(20), || {
        socket.send_to(ask, (Ipv4Addr::BROADCAST, packets::DHCP_SERVER_PORT))?;
        let mut bytes = [0; 1500];
        let mut last = "silence".to_owned();
        while let Ok(count) = socket.recv(&mut bytes) {
            match packets::answer(&bytes[..count], MAC) {
                Some(answer) if fits(&answer) => return Ok(Poll::Ready(answer)),
                other => last = format!("{other:?}"),
            }
        }
        Ok(Poll::pending(last))
    })
}

/// The printed options make a real server of that maker point every kind of client here.
fn options_point_here(maker: Maker, name: &str) -> Result<()> {
    story(&format!("dhcp-options-{name}"), |lab: &Lab| {
        let (artefacts, config) = config()?;
        let file = lab.dir().join("server.toml");
        fs::write(&file, config.text(&lab.dir().join("data")))?;
        let mut print = lab.command(artefacts.server());
        let options = run(print.args(["dhcp-options", name, "--config"]).arg(&file), secs(10))?;
        let _other = OtherServer::start(lab, maker, &options)?;
        let station = Station::new(lab)?;
        let http = "http://10.77.0.1:8080/boot/";
        for (class, architecture, user_class, expected) in [
            ("PXEClient", 0, "", "undionly.kpxe".to_owned()),
            ("PXEClient", 7, "", "snponly.efi".to_owned()),
            ("PXEClient", 9, "", "snponly.efi".to_owned()),
            ("PXEClient", 11, "", "snponly-arm64.efi".to_owned()),
            ("HTTPClient", 16, "", format!("{http}files/snponly.efi")),
            ("HTTPClient", 19, "", format!("{http}files/snponly-arm64.efi")),
            ("PXEClient", 0, "iPXE", format!("{http}${{netX/mac}}/script.ipxe")),
            ("PXEClient", 7, "\x04iPXE", format!("{http}${{netX/mac}}/script.ipxe")),
            ("PXEClient", 6, "", String::new()),
        ] {
            let who = format!("{class} {architecture} {user_class:?}");
            let ask = packets::discover_as(MAC, class, architecture, user_class);
            let answer = answered(&station, &ask, |answer| answer.kind == 2).context(who.clone())?;
            ensure!(answer.file == expected, "{who}: expected {expected:?}, got {answer:?}");
            ensure!(!answer.address.is_unspecified(), "{who}: no address in {answer:?}");
            if class == "HTTPClient" {
                ensure!(answer.class == "HTTPClient", "{who}: the answer's vendor class in {answer:?}");
            } else if user_class.is_empty() && !expected.is_empty() {
                ensure!(answer.boot_server == SERVER, "{who}: the boot server in {answer:?}");
            } else if !expected.is_empty() {
                // iPXE's `no-pxedhcp`: it need not wait for another offer.
                ensure!(answer.ipxe.starts_with(&[176, 1, 1]), "{who}: option 175 in {answer:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn p34_options_for_kea() -> Result<()> {
    options_point_here(Maker::Kea, "kea")
}

#[test]
fn p34_options_for_dnsmasq() -> Result<()> {
    options_point_here(Maker::Dnsmasq, "dnsmasq")
}

#[test]
fn p34_options_for_isc() -> Result<()> {
    options_point_here(Maker::Isc, "isc")
}
