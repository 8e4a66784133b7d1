//! DHCP and TFTP packets made by hand, good ones and bad ones.
//!
//! Built from bytes, not by the server's own encoder, which could not make the bad ones and would
//! share its mistakes with the good ones.

use anyhow::Result;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

/// UDP port of DHCP servers (RFC 2131 §4.1).
pub const DHCP_SERVER_PORT: u16 = 67;
/// UDP port of TFTP servers (RFC 1350 §4).
pub const TFTP_SERVER_PORT: u16 = 69;
/// Opcode of a TFTP error (RFC 1350 §5).
pub const TFTP_ERROR: [u8; 2] = [0, 5];

/// How long a socket waits for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Bytes before the options: fixed fields and magic cookie (RFC 2131 §2).
const FIXED: usize = 240;
const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
const END: u8 = 255;
const XID: [u8; 4] = [0x4b, 0x53, 0, 1];

/// A client's DHCP socket. To be called inside a namespace.
pub fn dhcp_socket() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68))?;
    socket.set_broadcast(true)?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    Ok(socket)
}

/// A UDP socket on a port of the kernel's choice. To be called inside a namespace.
pub fn udp_socket() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    Ok(socket)
}

/// A DHCPDISCOVER as UEFI firmware sends it.
#[must_use]
pub fn discover(mac: [u8; 6]) -> Vec<u8> {
    discover_as(mac, "PXEClient", 7, "")
}

/// A DHCPDISCOVER of firmware of that kind (`PXEClient` or `HTTPClient`) and architecture (option
/// 93); a loader also has a user class.
#[must_use]
pub fn discover_as(mac: [u8; 6], kind: &str, architecture: u16, user_class: &str) -> Vec<u8> {
    let mut options = vec![53, 1, 1];
    options.extend([55, 8, 1, 3, 6, 43, 60, 66, 67, 175]);
    options.extend([93, 2]);
    options.extend(architecture.to_be_bytes());
    options.extend([94, 3, 1, 3, 0]);
    options.extend([57, 2, 5, 192]);
    option(&mut options, 60, format!("{kind}:Arch:{architecture:05}:UNDI:003000").as_bytes());
    if !user_class.is_empty() {
        option(&mut options, 77, user_class.as_bytes());
    }
    packet(mac, &options)
}

/// The same packet as a message of another type (RFC 2132 §9.6), with further options of four
/// bytes: addresses.
#[must_use]
pub fn message(discover: Vec<u8>, kind: u8, addresses: &[(u8, [u8; 4])]) -> Vec<u8> {
    let mut packet = discover;
    packet[FIXED + 2] = kind;
    packet.pop();
    for (code, value) in addresses {
        option(&mut packet, *code, value);
    }
    packet.push(END);
    packet
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Message type (option 53): 2 is an offer, 5 an acknowledgement.
    pub kind: u8,
    /// The client's new address.
    pub address: Ipv4Addr,
    /// Who answers (option 54).
    pub server: Ipv4Addr,
    /// Server of the boot file (`siaddr`).
    pub boot_server: Ipv4Addr,
    /// Boot file, from option 67 or else the header.
    pub file: String,
    /// Vendor class (option 60).
    pub class: String,
    /// iPXE's own options (option 175).
    pub ipxe: Vec<u8>,
}

/// Address and boot file of an offer, if `bytes` is one for `mac`.
#[must_use]
pub fn offered(bytes: &[u8], mac: [u8; 6]) -> Option<(Ipv4Addr, String)> {
    answer(bytes, mac).filter(|answer| answer.kind == 2).map(|answer| (answer.address, answer.file))
}

/// A server's message to `mac`, if `bytes` is one.
#[must_use]
pub fn answer(bytes: &[u8], mac: [u8; 6]) -> Option<Answer> {
    if bytes.first() != Some(&2) || bytes.get(28..34)? != mac {
        return None;
    }
    let address_at = |at: usize| -> Option<Ipv4Addr> {
        let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(octets.into())
    };
    let option = |code| dhcp_option(bytes, code);
    let text = |code| option(code).map(|value| String::from_utf8_lossy(value).into_owned());
    let kind = *option(53)?.first()?;
    let mut file = text(67).unwrap_or_default().trim_end_matches('\0').to_owned();
    let class = text(60).unwrap_or_default();
    let ipxe = option(175).unwrap_or_default().to_vec();
    let server = <[u8; 4]>::try_from(option(54)?).ok()?.into();
    if file.is_empty() {
        // The header's own field (RFC 2131 §2).
        let field = bytes.get(108..236)?;
        file = field.iter().take_while(|&&byte| byte != 0).map(|&byte| char::from(byte)).collect();
    }
    Some(Answer { kind, address: address_at(16)?, server, boot_server: address_at(20)?, file, class, ipxe })
}

/// The value of the first option with that code; none also when an option before it is cut off.
#[must_use]
pub fn dhcp_option(packet: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut options = packet.get(FIXED..)?;
    loop {
        match options {
            [0, rest @ ..] => options = rest,
            [END, ..] => return None,
            [code, length, rest @ ..] => {
                let value = rest.get(..usize::from(*length))?;
                if *code == wanted {
                    return Some(value);
                }
                options = &rest[value.len()..];
            }
            _ => return None,
        }
    }
}

/// DHCP packets that each break a rule; a server drops every one.
#[must_use]
pub fn malformed_dhcp(mac: [u8; 6]) -> Vec<Vec<u8>> {
    let good = discover(mac);
    let with = |position: usize, value: u8| {
        let mut packet = good.clone();
        packet[position] = value;
        packet
    };
    let mut all = vec![
        Vec::new(),
        vec![1],
        good[..27].to_vec(),
        good[..FIXED - 5].to_vec(),
        // Cut in the middle of an option's value.
        good[..FIXED + 2].to_vec(),
        // Answers are not for servers.
        with(0, 2),
        // No such operation.
        with(0, 0),
        // Hardware addresses that are longer than their field.
        with(2, 17),
        with(2, 255),
        // Not the magic cookie.
        with(236, 0),
        // Message types that do not exist.
        with(FIXED + 2, 0),
        with(FIXED + 2, 99),
        // The length of the first option reaches beyond the packet.
        with(FIXED + 1, 255),
        // No message type at all.
        packet(mac, &[55, 1, 1]),
        packet(mac, &[]),
    ];
    // Option bombs: as many options as a datagram holds, empty, full, and nested relay options.
    let bomb = |option: &[u8]| {
        let mut options = vec![53, 1, 1];
        while options.len() + option.len() < 64_000 {
            options.extend(option);
        }
        packet(mac, &options)
    };
    all.push(bomb(&[12, 0]));
    all.push(bomb(&[43; 45]));
    let mut relay = vec![82, 255];
    relay.extend([1; 255]);
    all.push(bomb(&relay));
    all
}

/// A TFTP read request (RFC 1350 §5, options RFC 2347).
#[must_use]
pub fn read_request(file: &str, mode: &str, options: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = vec![0, 1];
    let texts = [file, mode].into_iter().chain(options.iter().flat_map(|(name, value)| [*name, *value]));
    for text in texts {
        packet.extend(text.as_bytes());
        packet.push(0);
    }
    packet
}

/// A TFTP write request.
#[must_use]
pub fn write_request(file: &str) -> Vec<u8> {
    let mut packet = read_request(file, "octet", &[]);
    packet[1] = 2;
    packet
}

/// TFTP packets to the well-known port that each break a rule.
#[must_use]
pub fn malformed_tftp(file: &str) -> Vec<Vec<u8>> {
    let good = read_request(file, "octet", &[]);
    let options: Vec<(&str, &str)> = std::iter::repeat_n(("blksize", "512"), 3000).collect();
    let long = "a".repeat(60_000);
    vec![
        Vec::new(),
        vec![0],
        vec![0, 1],
        vec![0, 9, 1, 2, 3],
        vec![255; 600],
        // Data, acknowledgement and error belong to transfers, which have ports of their own.
        vec![0, 3, 0, 1, 1, 2, 3],
        vec![0, 4, 0, 1],
        // Without the last NUL, without mode, with an unknown mode.
        good[..good.len() - 1].to_vec(),
        good[..2 + file.len() + 1].to_vec(),
        read_request(file, "telepathy", &[]),
        read_request("", "octet", &[]),
        // An option without value.
        [good.as_slice(), b"blksize\0"].concat(),
        read_request(file, "octet", &options),
        read_request(&long, "octet", &[]),
    ]
}

/// `count` copies of `packet`, each with some bytes changed or its end cut off; the same ones in
/// every run.
#[must_use]
pub fn noise(packet: &[u8], count: u64) -> Vec<Vec<u8>> {
    let mut state = 0x4b53_u64;
    let mut random = move |below: usize| {
        // A linear congruential generator (Knuth's MMIX constants): its upper bits are good enough.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut all = Vec::new();
    for _ in 0..count {
        let mut copy = packet.to_vec();
        for _ in 0..=random(8) {
            let position = random(copy.len());
            copy[position] = random(256) as u8;
        }
        if random(4) == 0 {
            copy.truncate(random(packet.len()));
        }
        all.push(copy);
    }
    all
}

/// A client's DHCP message with the options `options`, their end not included.
#[must_use]
pub fn client_message(xid: [u8; 4], mac: [u8; 6], options: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; FIXED];
    packet[..4].copy_from_slice(&[1, 1, 6, 0]);
    packet[4..8].copy_from_slice(&xid);
    // Broadcast flag: this client has no address to be reached at yet.
    packet[10] = 0x80;
    packet[28..34].copy_from_slice(&mac);
    packet[236..FIXED].copy_from_slice(&COOKIE);
    packet.extend(options);
    packet.push(END);
    packet
}

fn packet(mac: [u8; 6], options: &[u8]) -> Vec<u8> {
    client_message(XID, mac, options)
}

fn option(options: &mut Vec<u8>, code: u8, value: &[u8]) {
    options.push(code);
    options.push(value.len() as u8);
    options.extend(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_read_and_a_question_is_not() {
        let mac = [2, 0, 0, 0, 0, 1];
        assert!(offered(&discover(mac), mac).is_none());
        // A server names itself (RFC 2131 §4.3.1).
        let mut offer = message(discover(mac), 2, &[(54, [10, 77, 0, 1])]);
        offer[0] = 2;
        offer[16..20].copy_from_slice(&[10, 77, 0, 100]);
        offer[108..113].copy_from_slice(b"x.efi");
        assert_eq!(offered(&offer, mac), Some((Ipv4Addr::new(10, 77, 0, 100), "x.efi".to_owned())));
        assert!(offered(&offer, [2; 6]).is_none());
    }

    #[test]
    fn noise_repeats_and_differs_from_its_source() {
        let source = discover([2; 6]);
        assert_eq!(noise(&source, 20), noise(&source, 20));
        assert!(noise(&source, 20).iter().any(|packet| *packet != source));
    }
}
