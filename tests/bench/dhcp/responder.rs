//! The floors: a responder that gives everybody an address and remembers nothing, with or without
//! one sync of a file per batch of packets. It runs as a process of its own.

use anyhow::{Context as _, Result};
use kaltstart_tests::packets::{DHCP_SERVER_PORT, dhcp_option};
use kaltstart_tests::pair::{SERVER, SERVER_INTERFACE};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use std::fs::File;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::Path;

/// Packets answered after one sync.
const BATCH_MAX: usize = 256;
/// Receive buffer, as ours: a storm must not be lost there.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Addresses given in turn, from 10.99.1.0 on.
const ADDRESSES: u32 = 60_000;
const POOL: u32 = u32::from_be_bytes([10, 99, 1, 0]);
/// Bytes of a message before its options.
const FIXED: usize = 240;

/// Answers until it is killed. What is synced is appended to `file`, unless that is `/dev/null`.
pub(crate) fn run(file: &Path) -> Result<()> {
    let mut file = match file.to_str() {
        Some("/dev/null") => None,
        _ => Some(File::create(file).with_context(|| format!("cannot make {}", file.display()))?),
    };
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, DHCP_SERVER_PORT))?;
    socket.set_nonblocking(true)?;
    socket.set_broadcast(true)?;
    // Without it the kernel knows no way to 255.255.255.255.
    setsockopt(&socket, sockopt::BindToDevice, &SERVER_INTERFACE.into())?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    let (mut given, mut buffer) = (0, [0; 1500]);
    loop {
        poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
        let (mut replies, mut log) = (Vec::new(), Vec::new());
        for _ in 0..BATCH_MAX {
            let bytes = match socket.recv_from(&mut buffer) {
                Ok((bytes, _)) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            if let Some(reply) = answer(&buffer[..bytes], &mut given) {
                // About as much as a lease needs.
                log.extend(&reply.0[..64]);
                replies.push(reply);
            }
        }
        if let Some(file) = &mut file {
            file.write_all(&log)?;
            file.sync_data()?;
        }
        for (reply, to) in replies {
            socket.send_to(&reply, to)?;
        }
    }
}

/// The answer to a DISCOVER or REQUEST, and where it goes.
fn answer(request: &[u8], given: &mut u32) -> Option<(Vec<u8>, SocketAddrV4)> {
    let fixed = request.get(..FIXED)?;
    let (kind, address) = match *dhcp_option(request, 53)? {
        [1] => {
            *given = (*given + 1) % ADDRESSES;
            (2, (POOL + *given).to_be_bytes())
        }
        [3] => (5, dhcp_option(request, 50)?.try_into().ok()?),
        _ => return None,
    };
    let mut reply = fixed.to_vec();
    reply[0] = 2;
    reply[16..20].copy_from_slice(&address);
    reply.extend([53, 1, kind, 54, 4]);
    reply.extend(SERVER.octets());
    reply.extend([51, 4, 0, 0, 0x0e, 0x10, 1, 4, 255, 255, 0, 0, 255]);
    let relay: [u8; 4] = fixed[24..28].try_into().ok()?;
    let to = match Ipv4Addr::from(relay) {
        Ipv4Addr::UNSPECIFIED => SocketAddrV4::new(Ipv4Addr::BROADCAST, 68),
        relay => SocketAddrV4::new(relay, DHCP_SERVER_PORT),
    };
    Some((reply, to))
}
