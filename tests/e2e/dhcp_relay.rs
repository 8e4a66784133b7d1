//! ISC's relay before the real server, with two networks behind it.

use crate::common::config;
use crate::why::{Site, named};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::clients::{DhcpClient, Event, Maker};
use kaltstart_tests::lab::{Lab, SERVER, Station};
use kaltstart_tests::process::{Process, run, tethered};
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::unpacked::Unpacked;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use serde_json::Value;
use std::fs;
use std::net::Ipv4Addr;

/// The relay on the server's bridge.
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Its ports, which are its circuit ids: networks that only it reaches.
const PORTS: [(&str, &str); 2] = [("hall", "10.9.0"), ("rack", "10.10.0")];

/// A relay between the lab's bridge and its [`PORTS`]; it ends when dropped.
fn relay(lab: &Lab, station: &Station) -> Result<Process> {
    let programs = Unpacked::clients()?;
    let mut command = programs.with_libraries(station.command(programs.program("usr/sbin/dhcrelay")));
    // Adds option 82, as switches do.
    command.args(["-4", "-d", "-a", "--no-pid", "-iu", Station::INTERFACE]);
    for (port, _) in PORTS {
        command.args(["-id", port]);
    }
    Process::start("dhcrelay", command.arg(SERVER.to_string()), &lab.dir().join("dhcrelay.log"))
}

#[test]
fn ks1007_a_machine_behind_a_relay_in_a_network_that_is_not_served() -> Result<()> {
    story("why-relay-1007", |lab| {
        let station = Station::new(lab)?;
        station.address(RELAY)?;
        let [hall, _rack] = PORTS.map(|(port, network)| station.behind(port, &format!("{network}.1/24")));
        let (hall, name) = (hall?, "hall-1");
        let mac = hall.mac()?;
        let site = Site::start(lab, |config| config.node(name, &mac, None))?;
        let _relay = relay(lab, &station)?;
        let class = ["-V", "PXEClient:Arch:00007:UNDI:003016", "-x", "0x5d:0007"];
        let _client = DhcpClient::start_at(lab, hall, Maker::Udhcpc, &class)?;
        named(&site.server, name, "KS-1007", "through the relay 10.9.0.1")
    })
}

/// Who was given an address after the copy was made, is silent and sits behind a relay cannot be seen; once
/// its lease must have ended its address is free.
#[test]
fn ks1027_old_data_were_restored() -> Result<()> {
    story("why-relay-1027", |lab| {
        let station = Station::new(lab)?;
        station.address(RELAY)?;
        let (_, network) = PORTS[0];
        let [hall, _rack] = PORTS.map(|(port, network)| station.behind(port, &format!("{network}.1/24")));
        let hall = hall?;
        lab.route(&format!("{network}.0/24"), RELAY)?;
        let (name, mac) = ("hall-1", hall.mac()?);
        let mut site = Site::start(lab, |mut config| {
            config.sections += &format!(
                "\n[[dhcp]]\nsubnet = \"{network}.0/24\"\naddress = \"{SERVER}\"\n\
                 pool = [\"{network}.100\", \"{network}.110\"]\nlease_seconds = 60\n"
            );
            config.node(name, &mac, None)
        })?;
        site.server.kill();
        let (database, copy) = (lab.dir().join("data/kaltstart.db"), lab.dir().join("copy.db"));
        run(tethered("cp").arg("--archive").arg(&database).arg(&copy), secs(10))?;
        fs::rename(&copy, &database)?;
        site.server.restart()?;
        let _relay = relay(lab, &station)?;
        let class = ["-V", "PXEClient:Arch:00007:UNDI:003016", "-x", "0x5d:0007"];
        let client = DhcpClient::start_at(lab, hall, Maker::Udhcpc, &class)?;
        named(&site.server, name, "KS-1027", "through the relay 10.9.0.1")?;
        let status = site.server.ks(&["dhcp", "status"], secs(10))?;
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        ensure!(status.contains("(KS-1027)"), "{status}");
        client.hears(Event::Bound)?;
        let causes = &site.server.get(&format!("/v1/nodes/{name}/diagnosis"))?.json::<Value>()?["causes"];
        ensure!(causes[0]["code"] != "KS-1027", "it has an address: {causes}");
        Ok(())
    })
}

/// Each network behind a relay has its addresses, and a machine on a switch port has the port's; they
/// renew past the relay, rebind through it, and give back.
#[test]
fn p30_p31_clients_behind_a_relay() -> Result<()> {
    story("dhcp-relay", |lab| {
        let (artefacts, mut config) = config()?;
        for (_, network) in PORTS {
            config.sections += &format!(
                "\n[[dhcp]]\nsubnet = \"{network}.0/24\"\naddress = \"{SERVER}\"\nrouter = \"{network}.1\"\n\
                 pool = [\"{network}.100\", \"{network}.110\"]\nrenew_seconds = 2\nrebind_seconds = 4\n"
            );
        }
        config.sections += "\n[[node]]\nname = \"rack-1\"\naddress = \"10.10.0.57\"\ncircuit_id = \"rack\"\n";
        let server = Server::start(lab, &artefacts, &config)?;
        let station = Station::new(lab)?;
        station.address(RELAY)?;
        let mut behind = Vec::new();
        for (port, network) in PORTS {
            lab.route(&format!("{network}.0/24"), RELAY)?;
            behind.push(station.behind(port, &format!("{network}.1/24"))?);
        }
        let [hall, rack] = <[Station; 2]>::try_from(behind).ok().context("two networks")?;
        let relaying = relay(lab, &station)?;
        let in_hall = DhcpClient::start_at(lab, hall, Maker::Dhclient, &[])?;
        let in_rack = DhcpClient::start_at(lab, rack, Maker::Dhcpcd, &[])?;
        for (client, address) in [(&in_hall, "10.9.0.100"), (&in_rack, "10.10.0.57")] {
            let bound = client.hears(Event::Bound)?;
            ensure!(bound.address.to_string() == address, "{} instead of {address}", bound.address);
            let router = format!("router={}1", address.trim_end_matches(|c: char| c.is_ascii_digit()));
            ensure!(bound.parameters.contains(&router), "no {router} in {bound:?}");
            ensure!(client.hears(Event::Renewed)? == bound, "a renewal changes {bound:?}");
        }
        // dhcrelay listens to what is routed too; without it renewals go past.
        drop(relaying);
        for client in [&in_hall, &in_rack] {
            client.hears_after(client.told(), Event::Renewed)?;
        }
        // With no way past it, clients ask all servers in the end (RFC 2131 §4.4.5), through the relay.
        station.forward(false)?;
        let told = in_rack.told();
        wait_for("a client that asks all servers", secs(20), || {
            let log = fs::read_to_string(in_rack.file("log"))?;
            Ok(if log.contains("rebinding") { Poll::Ready(()) } else { Poll::pending(log) })
        })?;
        let relaying = relay(lab, &station)?;
        in_rack.hears_after(told, Event::Rebound)?;
        station.forward(true)?;
        drop(relaying);
        for (client, releases) in [(&in_hall, 1.0), (&in_rack, 2.0)] {
            client.release()?;
            wait_for("its address back", secs(20), || {
                let count =
                    server.metric("kaltstart_dhcp_messages", "type=\"release\",result=\"received\"")?;
                Ok(if count == releases { Poll::Ready(()) } else { Poll::pending(count.to_string()) })
            })?;
        }
        let label = "type=\"nak\",result=\"sent\"";
        ensure!(server.metric("kaltstart_dhcp_messages", label)? == 0.0, "somebody was refused");
        Ok(())
    })
}
