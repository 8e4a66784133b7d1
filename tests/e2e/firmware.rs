//! The lab itself: each firmware asks the network, in its own way, with no server there.

use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::guest::{Firmware, Guest, GuestConfig};
use kaltstart_tests::story::story;
use kaltstart_tests::wait::secs;
use std::net::UdpSocket;

/// Checks the vendor class (option 60) of the first DHCP packet.
fn asks_as(name: &str, firmware: Firmware, class: &str) -> Result<()> {
    story(name, |lab| {
        let socket = lab.inside(|| UdpSocket::bind("0.0.0.0:67").context("cannot bind the DHCP port"))?;
        socket.set_read_timeout(Some(secs(60)))?;
        let mut guest = Guest::new(lab, GuestConfig::new("guest", firmware, 1))?;
        guest.power_on()?;
        let mut packet = [0; 1500];
        let count = socket.recv(&mut packet).context("no DHCP packet within 60 s")?;
        let text = String::from_utf8_lossy(&packet[..count]).into_owned();
        ensure!(packet[28..34] == [0x52, 0x54, 0, 0, 0, 1], "not our machine: {:02x?}", &packet[28..34]);
        ensure!(text.contains(class), "the vendor class is not {class}");
        eprintln!("{name}: first packet after {:.1} CPU seconds", guest.cpu_seconds()?);
        Ok(())
    })
}

#[test]
fn bios_asks_as_pxe_client() -> Result<()> {
    asks_as("firmware-bios", Firmware::Bios, "PXEClient:Arch:00000")
}

#[test]
fn uefi_asks_as_pxe_client() -> Result<()> {
    asks_as("firmware-uefi", Firmware::Uefi, "PXEClient:Arch:00007")
}

#[test]
fn uefi_http_asks_as_http_client() -> Result<()> {
    asks_as("firmware-uefi-http", Firmware::UefiHttp, "HTTPClient:Arch:00016")
}
