//! Interfaces and addresses by `ioctl` (netdevice(7), rtentry of `linux/route.h`).
#![allow(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use kaltstart_protocol::ids::Mac;
use socket2::{Domain, Protocol, Socket, Type};

/// Longest interface name, without the closing zero byte (`IFNAMSIZ - 1`).
const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// A datagram socket on the DHCP client port that speaks only on one interface.
///
/// Bound to the device, it can broadcast and hear broadcasts while the interface has no address.
///
/// # Errors
/// The kernel's refusal, as when the port is taken or the caller is not root.
pub fn dhcp_socket(interface: &str, timeout: Duration) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68).into())?;
    socket.set_read_timeout(Some(timeout))?;
    Ok(socket.into())
}

/// Switches an interface on.
///
/// # Errors
/// No such interface, not root, or the driver refuses.
pub fn set_up(interface: &str) -> io::Result<()> {
    switch(interface, |flags| flags | libc::IFF_UP as libc::c_short)
}

/// Takes an interface its address and switches it off.
///
/// # Errors
/// As [`set_up`].
#[cfg(feature = "install")]
pub fn set_down(interface: &str) -> io::Result<()> {
    let mut request = request(interface)?;
    request.ifr_ifru.ifru_addr = sockaddr(Ipv4Addr::UNSPECIFIED);
    call(&control()?, libc::SIOCSIFADDR, &mut request)?;
    switch(interface, |flags| flags & !(libc::IFF_UP as libc::c_short))
}

fn switch(interface: &str, change: impl Fn(libc::c_short) -> libc::c_short) -> io::Result<()> {
    let socket = control()?;
    let mut request = request(interface)?;
    call(&socket, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS has filled the `flags` member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = change(flags);
    call(&socket, libc::SIOCSIFFLAGS, &mut request)
}

/// Gives an interface its address and netmask.
///
/// # Errors
/// No such interface, or not root.
pub fn set_address(interface: &str, address: Ipv4Addr, netmask: Ipv4Addr) -> io::Result<()> {
    let socket = control()?;
    let mut request = request(interface)?;
    request.ifr_ifru.ifru_addr = sockaddr(address);
    call(&socket, libc::SIOCSIFADDR, &mut request)?;
    request.ifr_ifru.ifru_netmask = sockaddr(netmask);
    call(&socket, libc::SIOCSIFNETMASK, &mut request)
}

/// Adds the default route through `gateway`; one that is there already is no error.
///
/// # Errors
/// The gateway is not on a connected network, or not root.
pub fn add_default_route(gateway: Ipv4Addr) -> io::Result<()> {
    let socket = control()?;
    // SAFETY: `rtentry` is plain data (integers, pointers), for which zero bytes are valid.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = sockaddr(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = sockaddr(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = sockaddr(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    match call(&socket, libc::SIOCADDRT, &mut route) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Hears LLDP on the interfaces it joins.
pub struct LldpSocket(Socket);

impl LldpSocket {
    /// EtherType of LLDP (IEEE 802.1AB-2016 §7.4).
    const ETHER_TYPE: u16 = 0x88cc;
    /// The group that no bridge forwards, so that the nearest switch is heard and no other (§7.1).
    const NEAREST_BRIDGE: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 0x0e];

    /// Opens a socket that waits for `wait` at most.
    ///
    /// # Errors
    /// When the caller may not see packets.
    pub fn open(wait: Duration) -> io::Result<Self> {
        let protocol = Protocol::from(i32::from(Self::ETHER_TYPE.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
        socket.set_read_timeout(Some(wait))?;
        Ok(Self(socket))
    }

    /// Lets the interface take the frames in; gives its index.
    ///
    /// # Errors
    /// No such interface.
    pub fn join(&self, interface: &str) -> io::Result<usize> {
        let index = nix::net::if_::if_nametoindex(interface)?;
        let mut address = [0; 8];
        address[..6].copy_from_slice(&Self::NEAREST_BRIDGE);
        let membership = libc::packet_mreq {
            mr_ifindex: index.cast_signed(),
            mr_type: libc::PACKET_MR_MULTICAST as libc::c_ushort,
            mr_alen: 6,
            mr_address: address,
        };
        // SAFETY: the kernel reads one `packet_mreq` through the pointer, which lives for the call.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                std::ptr::from_ref(&membership).cast(),
                size_of::<libc::packet_mreq>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(index as usize) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits for a frame; gives the interface's index and what follows the EtherType, or nothing when
    /// none came.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<(usize, &'a [u8])>> {
        use nix::errno::Errno;
        use nix::sys::socket::{LinkAddr, recvfrom};
        match recvfrom::<LinkAddr>(self.0.as_raw_fd(), buffer) {
            Ok((length, from)) => Ok(from.map(|from| (from.ifindex(), &buffer[..length]))),
            // An interface that goes down is no end.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The hardware address the interface was made with (`ETHTOOL_GPERMADDR`); none when the driver
/// knows none, or one that is not of Ethernet.
///
/// # Errors
/// No such interface.
pub fn permanent_mac(interface: &str) -> io::Result<Option<Mac>> {
    /// `struct ethtool_perm_addr` with room for `MAX_ADDR_LEN` bytes.
    #[repr(C)]
    struct PermanentAddress {
        command: u32,
        size: u32,
        data: [u8; 32],
    }
    let mut answer = PermanentAddress { command: 0x20, size: 32, data: [0; 32] };
    ethtool(interface, &mut answer)?;
    let mac = answer.data.first_chunk().map(|octets| Mac(*octets));
    Ok(mac.filter(|mac| answer.size == 6 && mac.0 != [0; 6]))
}

/// The version of the interface's firmware as its driver tells it (`ETHTOOL_GDRVINFO`); may be empty.
///
/// # Errors
/// No such interface, or its driver tells nothing.
pub fn firmware_version(interface: &str) -> io::Result<String> {
    /// `struct ethtool_drvinfo`.
    #[repr(C)]
    struct DriverInfo {
        command: u32,
        driver: [u8; 32],
        version: [u8; 32],
        firmware: [u8; 32],
        bus: [u8; 32],
        expansion_rom: [u8; 32],
        reserved: [u8; 12],
        numbers: [u32; 5],
    }
    let (text, reserved) = ([0; 32], [0; 12]);
    let mut answer = DriverInfo {
        command: 0x03,
        driver: text,
        version: text,
        firmware: text,
        bus: text,
        expansion_rom: text,
        reserved,
        numbers: [0; 5],
    };
    ethtool(interface, &mut answer)?;
    let end = answer.firmware.iter().position(|byte| *byte == 0).unwrap_or(answer.firmware.len());
    Ok(String::from_utf8_lossy(&answer.firmware[..end]).into_owned())
}

/// One request of `linux/ethtool.h`; `argument` begins with its number.
fn ethtool<T>(interface: &str, argument: &mut T) -> io::Result<()> {
    let mut request = request(interface)?;
    request.ifr_ifru.ifru_data = std::ptr::from_mut(argument).cast();
    call(&control()?, libc::SIOCETHTOOL, &mut request)
}

fn control() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::DGRAM, None)
}

/// An `ifreq` with its name filled in and zeroes otherwise.
fn request(interface: &str) -> io::Result<libc::ifreq> {
    if interface.is_empty() || interface.len() > NAME_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an interface name"));
    }
    // SAFETY: `ifreq` is plain data (integers, unions of integers), for which zero bytes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn sockaddr(address: Ipv4Addr) -> libc::sockaddr {
    // A `sockaddr_in` laid over a `sockaddr`: family, two bytes of port, four of address.
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

/// One `ioctl` that reads and writes a structure.
fn call<T>(socket: &Socket, number: libc::c_ulong, argument: &mut T) -> io::Result<()> {
    // SAFETY: callers pair `number` with the structure the kernel expects for it; the reference
    // is valid and exclusive for the call, and the socket is open.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), number as libc::Ioctl, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_before_the_kernel_sees_them() {
        assert!(set_up("").is_err());
        assert!(set_up("an-interface-name-too-long").is_err());
        assert!(set_up("nosuch0").is_err());
    }

    #[test]
    fn the_loopback_has_no_address_of_its_maker_and_a_missing_interface_is_an_error() {
        assert_eq!(permanent_mac("lo").expect("answered"), None);
        assert!(permanent_mac("nosuch0").is_err() && firmware_version("nosuch0").is_err());
    }

    #[test]
    fn an_address_lies_where_the_kernel_looks_for_it() {
        let raw = sockaddr(Ipv4Addr::new(10, 77, 0, 1));
        assert_eq!(raw.sa_data[..6].iter().map(|b| *b as u8).collect::<Vec<_>>(), [0, 0, 10, 77, 0, 1]);
    }
}
