//! Room for a storm: what clients ask while the server has no time for it waits in the kernel.

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use socket2::Socket;
use std::io;

/// Bytes of a receive buffer. When power comes back, all machines of a site ask at the same moment. The
/// kernel takes twice as much (socket(7)) and counts for each packet the network card's whole buffer, up to
/// 4 KiB: room for 16,000 clients at least, where its default holds some 170. Only what waits takes memory.
const BYTES: usize = 32 << 20;

/// Gives `socket`, which serves `on`, that room. Beyond the system's limit only with the capability
/// `NET_ADMIN`; without it as much as the limit allows, and the log says so.
///
/// # Errors
/// When the socket has no receive buffer.
pub(super) fn make_room(socket: &Socket, on: &str) -> io::Result<()> {
    let Err(error) = setsockopt(socket, RcvBufForce, &BYTES) else { return Ok(()) };
    socket.set_recv_buffer_size(BYTES)?;
    let (has, wants) = (socket.recv_buffer_size()?, 2 * BYTES);
    if has < wants {
        tracing::warn!(
            on,
            has,
            wants,
            %error,
            "DHCP: a storm of clients will lose packets; start as root, or raise net.core.rmem_max to {BYTES}"
        );
    }
    Ok(())
}
