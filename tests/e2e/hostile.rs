//! Packets that no client sends: refused or dropped, counted, and everybody else is still served.

use crate::common::config;
use anyhow::{Context as _, Result, bail, ensure};
use kaltstart_tests::lab::{Lab, SERVER, Station};
use kaltstart_tests::packets::{self, TFTP_ERROR};
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use std::net::Ipv4Addr;

/// Counts every DHCP packet, by type and result.
const DHCP: &str = "kaltstart_dhcp_messages";
/// Counts every TFTP request, by type and result.
const TFTP: &str = "kaltstart_tftp_transfers";

/// A client the server has never met, with hardware address and address of its own.
struct Client {
    station: Station,
    mac: [u8; 6],
}

impl Client {
    fn new(lab: &Lab) -> Result<Self> {
        Ok(Self { station: Station::new(lab)?, mac: [0x52, 0x54, 0, 0, 0xc1, 0x1e] })
    }

    /// Asks as UEFI firmware does; returns address and boot file.
    fn offer(&self) -> Result<(Ipv4Addr, String)> {
        let socket = self.station.inside(packets::dhcp_socket)?;
        let ask = packets::discover(self.mac);
        wait_for("an offer", secs(20), || {
            socket.send_to(&ask, (Ipv4Addr::BROADCAST, packets::DHCP_SERVER_PORT))?;
            let mut answer = [0; 1500];
            Ok(match socket.recv(&mut answer) {
                Ok(count) => match packets::offered(&answer[..count], self.mac) {
                    Some(offer) => Poll::Ready(offer),
                    None => Poll::pending("a packet that is no offer for us"),
                },
                Err(error) => Poll::pending(error.to_string()),
            })
        })
    }

    /// Sends a TFTP request from a new port and returns the first answer.
    fn tftp(&self, request: &[u8]) -> Result<Option<Vec<u8>>> {
        let socket = self.station.inside(packets::udp_socket)?;
        socket.send_to(request, (SERVER, packets::TFTP_SERVER_PORT))?;
        let mut answer = [0; 2000];
        Ok(socket.recv(&mut answer).ok().map(|count| answer[..count].to_vec()))
    }
}

/// Sends one bad packet and waits until the server counted it.
fn counted(
    server: &Server<'_>,
    metric: &str,
    packet: &[u8],
    send: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let before = server.metric(metric, "")?;
    send()?;
    let start: Vec<u8> = packet.iter().copied().take(16).collect();
    wait_for(&format!("the count of {} bytes {start:02x?}", packet.len()), secs(10), || {
        let now = server.metric(metric, "")?;
        Ok(if now > before { Poll::Ready(()) } else { Poll::pending(format!("{metric} is still {now}")) })
    })
}

#[test]
fn dhcp() -> Result<()> {
    story("hostile-dhcp", |lab| {
        let (artefacts, config) = config()?;
        let mut server = Server::start(lab, &artefacts, &config)?;
        let client = Client::new(lab)?;
        client.offer().context("before the attack")?;

        let socket = client.station.inside(packets::dhcp_socket)?;
        let send = |packet: &[u8]| socket.send_to(packet, (Ipv4Addr::BROADCAST, packets::DHCP_SERVER_PORT));
        for packet in packets::malformed_dhcp(client.mac) {
            counted(&server, DHCP, &packet, || Ok(send(&packet).map(drop)?))?;
        }
        for packet in packets::noise(&packets::discover(client.mac), 300) {
            send(&packet)?;
        }
        // The next question needs the port.
        drop(socket);
        client.offer().context("after the attack")?;
        ensure!(server.is_running()?, "the server ended");
        Ok(())
    })
}

#[test]
fn tftp() -> Result<()> {
    story("hostile-tftp", |lab| {
        let (artefacts, config) = config()?;
        let mut server = Server::start(lab, &artefacts, &config)?;
        let client = Client::new(lab)?;
        let (address, file) = client.offer()?;
        client.station.address(address)?;
        let serves = |when: &str| -> Result<()> {
            let answer = client.tftp(&packets::read_request(&file, "octet", &[("tsize", "0")]))?;
            match answer.as_deref() {
                Some([0, 6, ..]) => Ok(()),
                other => bail!("{when}: expected an OACK for {file:?}, got {other:02x?}"),
            }
        };
        serves("before the attack")?;

        let config_file = lab.dir().join("server.toml").display().to_string();
        for path in [
            "../server.toml",
            "../../../../../../etc/passwd",
            "/etc/passwd",
            "//etc/passwd",
            "./../etc/passwd",
            "loaders/../../server.toml",
            "..\\..\\server.toml",
            "%2e%2e/server.toml",
            ".",
            "/",
            &config_file,
        ] {
            let answer = client.tftp(&packets::read_request(path, "octet", &[]))?;
            let opcode = answer.as_deref().and_then(|bytes| bytes.get(..2));
            ensure!(opcode == Some(&TFTP_ERROR), "reading {path:?} was answered with {answer:02x?}");
        }
        let write = client.tftp(&packets::write_request("new-file"))?;
        ensure!(write.as_deref().and_then(|b| b.get(..2)) == Some(&TFTP_ERROR), "a write got {write:02x?}");

        let socket = client.station.inside(packets::udp_socket)?;
        let send = |packet: &[u8]| socket.send_to(packet, (SERVER, packets::TFTP_SERVER_PORT));
        for packet in packets::malformed_tftp(&file) {
            counted(&server, TFTP, &packet, || Ok(send(&packet).map(drop)?))?;
        }
        let request = packets::read_request(&file, "octet", &[("blksize", "1468"), ("windowsize", "4")]);
        for packet in packets::noise(&request, 300) {
            send(&packet)?;
        }
        serves("after the attack")?;
        ensure!(server.is_running()?, "the server ended");
        Ok(())
    })
}
