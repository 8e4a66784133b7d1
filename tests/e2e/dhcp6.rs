//! DHCPv6: machines that start over IPv6, and clients and relays of other makers.

use crate::common::{DEPLOY_LIMIT, IMAGE, NODE, Ordered, ensure_deployed, machine, order_from};
use anyhow::{Result, ensure};
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::clients6::{Dhcp6Client, Maker6};
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::guest::Firmware;
use kaltstart_tests::lab::{BRIDGE, SERVER6, Station};
use kaltstart_tests::process::Process;
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::unpacked::Unpacked;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use std::net::Ipv6Addr;

/// A server with DHCPv6 on the lab's bridge, beside its DHCPv4.
pub(crate) fn config(artefacts: &Artefacts) -> ServerConfig {
    let mut config = ServerConfig::new(artefacts, "cloud", &[IMAGE]);
    config.sections = format!(
        "\n[[dhcp6]]\ninterface = \"{BRIDGE}\"\nprefix = \"fd77::/64\"\naddress = \"{SERVER6}\"\n\
         pool = [\"fd77::1000\", \"fd77::1fff\"]\ndns = [\"fd77::53\"]\ndomains = [\"lab.example\"]\n"
    );
    config
}

fn deploys(name: &str, firmware: Firmware, uefi_loader: &'static str, file: &str) -> Result<()> {
    story(name, |lab| {
        lab.dual_stack()?;
        let artefacts = Artefacts::from_env()?;
        let config = ServerConfig { uefi_loader, ..config(&artefacts) };
        let mut ordered = order_from(lab, machine(lab, firmware)?.0, &artefacts, config, IMAGE)?;
        let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        ensure!(job.attempt == 1, "it took {} attempts", job.attempt);
        eprintln!("{name}: {:.1} CPU seconds", ordered.guest.cpu_seconds()?);
        ensure_started_over_ipv6(&ordered, file)?;
        ensure_deployed(&mut ordered, &job)
    })
}

/// Checks that firmware was told `file` by DHCPv6, and that nobody asked for it by DHCPv4.
fn ensure_started_over_ipv6(ordered: &Ordered<'_>, file: &str) -> Result<()> {
    let shown = ordered.server.get(&format!("/v1/nodes/{}/boot", NODE))?.text();
    ensure!(shown.contains(file), "{file} was not given: {shown}");
    ensure!(
        !shown.contains("dhcp pxe") && !shown.contains("dhcp http-boot"),
        "firmware used DHCPv4: {shown}"
    );
    Ok(())
}

#[test]
fn uefi_pxe_over_ipv6_deploys() -> Result<()> {
    deploys("deploy-uefi-v6", Firmware::UefiV6, "ipxe", "tftp://[fd77::1]/snponly.efi")
}

#[test]
fn uefi_http_boot_over_ipv6_deploys() -> Result<()> {
    deploys(
        "deploy-uefi-http-v6",
        Firmware::UefiHttpV6,
        "ipxe",
        "http://[fd77::1]:8080/boot/files/snponly.efi",
    )
}

#[test]
fn p15_the_signed_chain_over_ipv6_deploys() -> Result<()> {
    deploys("deploy-secure-v6", Firmware::UefiSecureV6, "signed", "tftp://[fd77::1]/shimx64.efi")
}

/// Waits until so many messages of a type were received.
fn wait_received(server: &Server<'_>, kind: &str, count: f64) -> Result<()> {
    wait_for(&format!("{count} {kind}"), secs(20), || {
        let label = format!("type=\"{kind}\",result=\"received\"");
        let received = server.metric("kaltstart_dhcp6_messages", &label)?;
        Ok(if received >= count { Poll::Ready(()) } else { Poll::pending(received.to_string()) })
    })
}

/// Each asks, is told what it asked for, renews, keeps its address while the server is killed, and gives
/// it back.
#[test]
fn p30_p31_clients_of_other_makers() -> Result<()> {
    story("dhcp6-clients", |lab| {
        lab.dual_stack()?;
        let artefacts = Artefacts::from_env()?;
        let mut config = config(&artefacts);
        // Longer than clients look whether somebody else has the address.
        config.sections += "renew_seconds = 5\nrebind_seconds = 10\n";
        let reserved = Station::new(lab)?;
        config.sections +=
            &format!("\n[[node]]\nname = \"six\"\nmac = {:?}\naddress6 = \"fd77::50\"\n", reserved.mac()?);
        let mut server = Server::start(lab, &artefacts, &config)?;
        let clients = [
            (Dhcp6Client::start(lab, Station::new(lab)?, Maker6::Dhclient)?, "fd77::1000"),
            (Dhcp6Client::start(lab, reserved, Maker6::Dhcpcd)?, "fd77::50"),
        ];
        for (client, address) in &clients {
            let expected = format!("address={address} dns=fd77::53 domains=lab.example");
            for event in ["BOUND6", "RENEW6"] {
                let heard = client.hears(event)?.replace("lab.example.", "lab.example");
                ensure!(heard == expected, "{event}: {heard} instead of {expected}");
            }
        }
        server.kill();
        server.restart()?;
        // One of the two is outside the pool. A server that has just started counts leases after a while.
        let lent = |count: u32| {
            wait_for("the leases of the pool", secs(20), || {
                let told = server.get("/v1/dhcp")?.text();
                let expected = format!(r#""leases":{{"lent":{count},"pool":4096}}"#);
                Ok(if told.contains(&expected) { Poll::Ready(()) } else { Poll::pending(told) })
            })
        };
        lent(1)?;
        let late = Dhcp6Client::start(lab, Station::new(lab)?, Maker6::Dhclient)?.hears("BOUND6")?;
        ensure!(late.starts_with("address=fd77::1001 "), "a third client has {late}");
        for ((client, _), count) in clients.iter().zip([1.0, 2.0]) {
            client.release()?;
            wait_received(&server, "release", count)?;
        }
        lent(1)
    })
}

/// A client behind a relay of another maker gets an address of its own network.
#[test]
fn p30_a_client_behind_a_relay() -> Result<()> {
    story("dhcp6-relay", |lab| {
        lab.dual_stack()?;
        let artefacts = Artefacts::from_env()?;
        let mut config = config(&artefacts);
        config.sections += &format!(
            "\n[[dhcp6]]\nprefix = \"fd99::/64\"\naddress = \"{SERVER6}\"\n\
             pool = [\"fd99::1000\", \"fd99::1fff\"]\ndns = [\"fd77::53\"]\nrenew_seconds = 5\n"
        );
        let server = Server::start(lab, &artefacts, &config)?;
        let relay = Station::new(lab)?;
        let behind = relay.behind("far", "10.99.0.1/24")?;
        relay.address6(Station::INTERFACE, Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2))?;
        relay.address6("far", Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1))?;
        let programs = Unpacked::clients()?;
        let mut command = programs.with_libraries(relay.command(programs.program("usr/sbin/dhcrelay")));
        command.args(["-6", "-d", "--no-pid", "-I", "-l", "far"]);
        command.args(["-u", &format!("{SERVER6}%{}", Station::INTERFACE)]);
        let _relaying = Process::start("dhcrelay6", &mut command, &lab.dir().join("dhcrelay6.log"))?;
        let client = Dhcp6Client::start(lab, behind, Maker6::Dhclient)?;
        let expected = "address=fd99::1000 dns=fd77::53 domains=";
        for event in ["BOUND6", "RENEW6"] {
            let heard = client.hears(event)?;
            ensure!(heard == expected, "{event}: {heard} instead of {expected}");
        }
        client.release()?;
        wait_received(&server, "release", 1.0)
    })
}
