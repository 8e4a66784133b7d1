//! Sees what DHCP servers send to clients on one interface, whoever it is meant for.
//!
//! A packet socket, because it tells the sender's hardware address, shows answers that are not for
//! this machine, and takes port 68 from no DHCP client here.

use kaltstart_protocol::dhcp::{CLIENT_PORT, MAX_MESSAGE, SERVER_PORT};
use kaltstart_protocol::ids::Mac;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

/// EtherType of IPv4.
const IPV4: u16 = 0x0800;
/// IP protocol number of UDP.
const UDP: u8 = 17;
/// Longest packet: a message with the longest IP header and the UDP header.
const PACKET_MAX: usize = MAX_MESSAGE + 60 + 8;
/// Where the kernel has the interface's index in its packet filter (`SKF_AD_OFF + SKF_AD_IFINDEX`).
const INTERFACE_INDEX: u32 = 0xffff_f000 + 8;

/// A socket that is shown IPv4 packets from UDP port 67 to 68.
#[derive(Debug)]
pub(super) struct PacketSocket {
    socket: Socket,
    interface_index: usize,
}

/// A packet that was seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    /// The sender's hardware address, if it is one of Ethernet.
    pub(super) mac: Option<Mac>,
    /// The sender's address.
    pub(super) source: Ipv4Addr,
    /// What it holds.
    pub(super) payload: &'a [u8],
}

impl PacketSocket {
    /// Opens the interface; a receiver waits for `wait` at most. Needs the capability `NET_RAW`.
    ///
    /// # Errors
    /// When there is no such interface, or rights are missing.
    pub(super) fn open(interface: &str, wait: Duration) -> io::Result<Self> {
        let index = if_nametoindex(interface)?;
        let protocol = Protocol::from(i32::from(IPV4.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
        socket.attach_filter(&filter(index))?;
        socket.set_read_timeout(Some(wait))?;
        Ok(Self { socket, interface_index: index as usize })
    }

    /// Waits for a packet; none when none came, or not such a one.
    pub(super) fn receive<'a>(&self, buffer: &'a mut Vec<u8>) -> io::Result<Option<Packet<'a>>> {
        buffer.resize(PACKET_MAX, 0);
        let (length, from) = match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), buffer) {
            Ok(received) => received,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Packets that came before the filter was there may be any.
        let Some(from) = from.filter(|from| from.ifindex() == self.interface_index) else { return Ok(None) };
        let mac = from.addr().map(Mac);
        Ok(datagram(&buffer[..length]).map(|(source, payload)| Packet { mac, source, payload }))
    }
}

/// A filter for the classic BPF machine: IPv4 from the interface, UDP, no later fragment, 67 to 68.
fn filter(interface_index: u32) -> [SockFilter; 13] {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF_AT_X: u16 = 0x48;
    const LOAD_X_IP_HEADER: u16 = 0xb1;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    let op = |code, k| SockFilter::new(code, 0, 0, k);
    // Goes on if the condition holds, else skips `to_drop` operations.
    let expect = |k, to_drop| SockFilter::new(JUMP_EQUAL, 0, to_drop, k);
    [
        op(LOAD_WORD, INTERFACE_INDEX),
        expect(interface_index, 10),
        op(LOAD_BYTE, 9),
        expect(u32::from(UDP), 8),
        op(LOAD_HALF, 6),
        SockFilter::new(JUMP_ANY_BIT, 6, 0, 0x1fff),
        op(LOAD_X_IP_HEADER, 0),
        op(LOAD_HALF_AT_X, 0),
        expect(u32::from(SERVER_PORT), 3),
        op(LOAD_HALF_AT_X, 2),
        expect(u32::from(CLIENT_PORT), 1),
        op(RETURN, u32::MAX),
        op(RETURN, 0),
    ]
}

/// Sender and payload of an IPv4 packet (RFC 791 §3.1) with a UDP datagram (RFC 768) from the
/// server's to the client's port; none for anything else.
fn datagram(packet: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let header = packet.first_chunk::<20>()?;
    let header_length = usize::from(header[0] & 0xf) * 4;
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    if header[0] >> 4 != 4 || header_length < 20 || header[9] != UDP || fragment != 0 {
        return None;
    }
    let (udp, data) = packet.get(header_length..)?.split_first_chunk::<8>()?;
    let word = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    if (word(0), word(2)) != (SERVER_PORT, CLIENT_PORT) {
        return None;
    }
    let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
    Some((source, data.get(..usize::from(word(4)).checked_sub(8)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(options: usize, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 20 + options];
        bytes[0] = 0x40 | ((20 + options) / 4) as u8;
        bytes[9] = UDP;
        bytes[12..16].copy_from_slice(&[10, 77, 0, 2]);
        let length = 8 + payload.len() as u16;
        for word in [ports.0, ports.1, length, 0] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(payload);
        // Ethernet pads short frames.
        bytes.extend([0; 9]);
        bytes
    }

    #[test]
    fn only_servers_messages_to_clients_are_read() {
        let source = Ipv4Addr::new(10, 77, 0, 2);
        for options in [0, 4, 40] {
            assert_eq!(datagram(&packet(options, (67, 68), b"hello")), Some((source, &b"hello"[..])));
        }
        assert_eq!(datagram(&packet(0, (68, 67), b"hello")), None);
        let mut fragment = packet(0, (67, 68), b"hello");
        fragment[7] = 1;
        assert_eq!(datagram(&fragment), None);
        let mut long = packet(0, (67, 68), b"hello");
        long[25] = 200;
        assert_eq!(datagram(&long), None);
    }

    proptest! {
        #[test]
        fn p29_any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = datagram(&bytes);
        }
    }
}
