//! What a switch says on a machine's cable (LLDP, IEEE 802.1AB).

use crate::lab::Lab;
use anyhow::{Context as _, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, sendto, socket};
use std::os::fd::AsRawFd as _;

/// The frame in which the switch `name` tells of its port, whose untagged frames are in `vlan`.
#[must_use]
pub fn announcement(name: &str, port: &str, vlan: u16) -> Vec<u8> {
    // To the nearest bridge, from the port, with LLDP's EtherType.
    let mut frame = vec![0x01, 0x80, 0xc2, 0, 0, 0x0e, 0x02, 0, 0, 0, 0, 0xaa, 0x88, 0xcc];
    let port_id = [&[5], port.as_bytes()].concat();
    let vlan = [&[0x00, 0x80, 0xc2, 1], &vlan.to_be_bytes()[..]].concat();
    let values: [(u8, &[u8]); 6] = [
        (1, &[4, 0x02, 0, 0, 0, 0, 0xaa]),
        (2, &port_id),
        (3, &[0, 120]),
        (5, name.as_bytes()),
        (127, &vlan),
        (0, &[]),
    ];
    for (kind, value) in values {
        frame.extend([kind << 1, value.len() as u8]);
        frame.extend(value);
    }
    frame
}

impl Lab {
    /// Sends a frame to the machine behind `tap`, past the bridge.
    pub fn send_frame(&self, tap: &str, frame: &[u8]) -> Result<()> {
        self.inside(|| {
            let mut addresses = getifaddrs().context("cannot list the interfaces")?;
            let to = addresses
                .find_map(|found| {
                    found.address.filter(|_| found.interface_name == tap)?.as_link_addr().copied()
                })
                .with_context(|| format!("there is no interface {tap}"))?;
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None)?;
            sendto(socket.as_raw_fd(), frame, &to, MsgFlags::empty())
                .with_context(|| format!("cannot send on {tap}"))?;
            Ok(())
        })
    }
}
