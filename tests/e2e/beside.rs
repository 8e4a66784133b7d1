//! Beside a DHCP server of somebody else: the options it is told, proxy, and being no rogue.

use crate::common::{DEPLOY_LIMIT, IMAGE, UP, config, ensure_deployed, machine, order_from};
use anyhow::{Context as _, Result, bail, ensure};
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::console::Mark;
use kaltstart_tests::guest::Firmware;
use kaltstart_tests::lab::{Lab, SERVER, Station};
use kaltstart_tests::others::{Maker, OTHER, OtherServer};
use kaltstart_tests::packets::{self, Answer};
use kaltstart_tests::process::run;
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use serde_json::Value;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

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

/// What `kaltstart dhcp-options` prints for that maker.
fn options(lab: &Lab, artefacts: &Artefacts, maker: Maker, config: &Path) -> Result<String> {
    let mut print = lab.command(artefacts.server());
    run(print.args(["dhcp-options", maker.name(), "--config"]).arg(config), secs(10))
}

/// The printed options make a real server of that maker point every kind of client here.
fn options_point_here(maker: Maker) -> Result<()> {
    story(&format!("dhcp-options-{}", maker.name()), |lab: &Lab| {
        let (artefacts, config) = config()?;
        let file = lab.dir().join("server.toml");
        fs::write(&file, config.text(&lab.dir().join("data")))?;
        let _other = OtherServer::start(lab, maker, &options(lab, &artefacts, maker, &file)?)?;
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

/// A machine is installed, and starts from its own disk, though its address is another server's.
fn deploys(name: &str, firmware: Firmware, mode: &str, maker: Maker) -> Result<()> {
    story(name, |lab| {
        let (artefacts, config) = config()?;
        let config = config.mode(mode);
        let options = if mode == "off" {
            let file = lab.dir().join("options.toml");
            fs::write(&file, config.text(&lab.dir().join("data")))?;
            options(lab, &artefacts, maker, &file)?
        } else {
            String::new()
        };
        let _other = OtherServer::start(lab, maker, &options)?;
        let mut ordered = order_from(lab, machine(lab, firmware)?.0, &artefacts, config, IMAGE)?;
        let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        ensure!(job.attempt == 1, "it took {} attempts", job.attempt);
        ordered.guest.wait_serial(UP, DEPLOY_LIMIT)?;
        // Otherwise the firmware came here by another of its boot entries, a minute later.
        let refused = ordered.guest.console().find("No valid offer", Mark::default());
        ensure!(refused.is_none(), "the firmware refused the offer: {refused:?}");
        eprintln!("{name}: {:.1} CPU seconds", ordered.guest.cpu_seconds()?);
        ensure_deployed(&mut ordered, &job)
    })
}

#[test]
fn p34_bios_beside_another_server() -> Result<()> {
    deploys("proxy-bios", Firmware::Bios, "proxy", Maker::Udhcpd)
}

#[test]
fn p34_uefi_beside_another_server() -> Result<()> {
    deploys("proxy-uefi", Firmware::Uefi, "proxy", Maker::Kea)
}

#[test]
fn p34_uefi_http_beside_another_server() -> Result<()> {
    deploys("proxy-uefi-http", Firmware::UefiHttp, "proxy", Maker::Udhcpd)
}

#[test]
fn p34_uefi_by_the_options_of_another_server() -> Result<()> {
    deploys("off-uefi", Firmware::Uefi, "off", Maker::Dnsmasq)
}

/// Waits until `ks dhcp status` shows this role and these other servers.
fn wait_status(server: &Server<'_>, role: &str, others: &[(&str, &str)], limit: Duration) -> Result<Value> {
    wait_for(&format!("role {role} beside {others:?}"), limit, || {
        let output = server.ks(&["dhcp", "status", "-o", "json"], secs(10))?;
        let status: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let subnet = &status[0];
        let fits = subnet["servers"].as_array().is_some_and(|servers| {
            servers.len() == others.len()
                && servers
                    .iter()
                    .zip(others)
                    .all(|(one, (code, mac))| one["code"] == *code && one["mac"] == *mac)
        });
        let ready = subnet["role"] == role && fits;
        Ok(if ready { Poll::Ready(subnet.clone()) } else { Poll::pending(status.to_string()) })
    })
}

/// All answers within two seconds to a client that is new to every server.
fn answers(station: &Station, ask: &[u8]) -> Result<Vec<Answer>> {
    let socket = station.inside(packets::dhcp_socket)?;
    socket.send_to(ask, (Ipv4Addr::BROADCAST, packets::DHCP_SERVER_PORT))?;
    let (mut bytes, mut all) = ([0; 1500], Vec::new());
    while let Ok(count) = socket.recv(&mut bytes) {
        all.extend(packets::answer(&bytes[..count], MAC));
    }
    Ok(all)
}

/// A DISCOVER of a system that starts nothing.
fn system() -> Vec<u8> {
    packets::discover_as(MAC, "udhcp", 0, "")
}

#[test]
fn p34_a_newcomer_is_named_within_ten_seconds() -> Result<()> {
    story("foreign-newcomer", |lab| {
        let (artefacts, config) = config()?;
        let server = Server::start(lab, &artefacts, &config)?;
        let started = Instant::now();
        let station = Station::new(lab)?;
        wait_status(&server, "authoritative", &[], secs(20))?;
        // Who answers sooner counts as having been there first.
        wait_for("the end of the start", secs(20), || {
            let since = started.elapsed();
            Ok(if since > secs(11) { Poll::Ready(()) } else { Poll::pending(format!("{since:?}")) })
        })?;
        // No client asks it for anything.
        let other = OtherServer::start(lab, Maker::Udhcpd, "")?;
        let began = Instant::now();
        let mac = other.mac()?;
        let status = wait_status(&server, "authoritative", &[("KS-1030", &mac)], secs(10))?;
        eprintln!("foreign-newcomer: named within {:.1} s of its start", began.elapsed().as_secs_f64());
        ensure!(status["servers"][0]["address"] == OTHER.to_string(), "{status}");
        ensure!(server.metric("kaltstart_dhcp_other_servers", "")? == 1.0, "the metric does not show it");
        let log = fs::read_to_string(lab.dir().join("server.log"))?;
        let told = log.lines().any(|line| line.contains("KS-1030") && line.contains(&mac));
        ensure!(told, "the log does not name it");
        // It was here first, and goes on.
        answered(&station, &system(), |answer| answer.server == SERVER && !answer.address.is_unspecified())?;
        Ok(())
    })
}

#[test]
fn p34_a_subnet_of_another_server_is_refused() -> Result<()> {
    story("foreign-first", |lab| {
        let (artefacts, config) = config()?;
        let other = OtherServer::start(lab, Maker::Udhcpd, "")?;
        let station = Station::new(lab)?;
        answered(&station, &system(), |answer| answer.server == OTHER)?;
        let mut server = Server::start(lab, &artefacts, &config)?;
        wait_status(&server, "refused", &[("KS-1030", &other.mac()?)], secs(20))?;
        for ask in [system(), packets::discover(MAC)] {
            // While it looks whether an address is free, it answers nobody.
            let answers = wait_for("the other server's answer", secs(20), || {
                let all = answers(&station, &ask)?;
                Ok(if all.is_empty() { Poll::pending("silence") } else { Poll::Ready(all) })
            })?;
            ensure!(answers.iter().all(|one| one.server == OTHER), "{answers:?}");
        }
        let ours = |answer: &Answer| answer.server == SERVER && !answer.address.is_unspecified();
        let configure = |config: &ServerConfig| {
            fs::write(lab.dir().join("server.toml"), config.text(&lab.dir().join("data")))
        };
        server.kill();
        configure(&ServerConfig { dhcp: "allow_other_servers = true\n".into(), ..config.clone() })?;
        server.restart()?;
        answered(&station, &system(), ours)?;
        server.kill();
        configure(&config)?;
        server.restart()?;
        let mac = other.mac()?;
        wait_status(&server, "refused", &[("KS-1030", &mac)], secs(20))?;
        drop(other);
        let gone = Instant::now();
        wait_status(&server, "authoritative", &[("KS-1030", &mac)], secs(75))?;
        eprintln!("foreign-first: served {:.0} s after the other was gone", gone.elapsed().as_secs_f64());
        answered(&station, &system(), ours)?;
        Ok(())
    })
}

#[test]
fn p34_auto_steps_back_when_another_server_appears() -> Result<()> {
    story("foreign-auto", |lab| {
        let (artefacts, config) = config()?;
        let server = Server::start(lab, &artefacts, &config.mode("auto"))?;
        let station = Station::new(lab)?;
        wait_status(&server, "authoritative", &[], secs(30))?;
        answered(&station, &system(), |answer| answer.server == SERVER && !answer.address.is_unspecified())?;
        let other = OtherServer::start(lab, Maker::Dnsmasq, "")?;
        answered(&station, &system(), |answer| answer.server == OTHER)?;
        wait_status(&server, "proxy", &[("KS-1030", &other.mac()?)], secs(10))?;
        let to_system = answers(&station, &system())?;
        ensure!(!to_system.is_empty() && to_system.iter().all(|one| one.server == OTHER), "{to_system:?}");
        let to_firmware = answers(&station, &packets::discover(MAC))?;
        let ours: Vec<_> = to_firmware.iter().filter(|one| one.server == SERVER).collect();
        let [proxy] = ours[..] else { bail!("expected one offer of a boot file, got {to_firmware:?}") };
        ensure!(proxy.address.is_unspecified() && proxy.file == "snponly.efi", "{proxy:?}");
        Ok(())
    })
}

#[test]
fn p34_options_for_kea() -> Result<()> {
    options_point_here(Maker::Kea)
}

#[test]
fn p34_options_for_dnsmasq() -> Result<()> {
    options_point_here(Maker::Dnsmasq)
}

#[test]
fn p34_options_for_isc() -> Result<()> {
    options_point_here(Maker::Isc)
}
