use super::options::{Overrun, sub_options};
use super::samples::{self, discover, option};
use super::*;
use dhcproto::{Decodable, Decoder, Encodable, v4};
use proptest::prelude::*;
use std::vec;

fn decode(bytes: &[u8]) -> Message {
    Message::decode(bytes).expect("a valid message")
}

#[test]
fn p30_real_clients_are_understood() {
    for bytes in samples::all() {
        let message = decode(&bytes);
        assert_eq!(message.kind(), Some(MessageType::Discover));
        assert_eq!(message.mac(), Some(Mac(samples::MAC)));
        assert_eq!((message.xid, message.secs), (0xdead_beef, 4));
    }
    let ovmf = decode(&samples::ovmf_pxe());
    assert!(ovmf.broadcast && !ovmf.is_ipxe());
    assert_eq!(ovmf.vendor_class(), Some("PXEClient:Arch:00007:UNDI:003000"));
    assert_eq!(ovmf.architectures().collect::<Vec<_>>(), [7]);
    assert_eq!((ovmf.uuid(), ovmf.max_size()), (Some([0; 16]), Some(1472)));
    let ipxe = decode(&samples::ipxe_bios());
    assert!(ipxe.is_ipxe());
    let sub: Vec<_> = sub_options(ipxe.options.get(code::IPXE).expect("option 175")).collect();
    assert_eq!(sub, [(0xb1, &[1, 0x1a, 0xf4, 0x10, 0][..]), (0xeb, &[1, 21, 1][..])]);
    assert_eq!(decode(&samples::networkd()).client_id().map(<[u8]>::len), Some(19));
    let dhclient = decode(&samples::dhclient());
    assert_eq!(dhclient.requested_address(), Some(Ipv4Addr::new(10, 77, 0, 20)));
    assert_eq!((dhclient.host_name(), dhclient.client_id()), (Some("node1"), None));
    assert_eq!(dhclient.parameter_list().len(), 13);
}

#[test]
fn p29_each_precheck_refuses() {
    let good = discover(0, &[]);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Message::decode(&bytes)
    };
    assert_eq!(Message::decode(&good[..239]), Err(DecodeError::Short(239)));
    assert_eq!(Message::decode(&[1; MAX_MESSAGE + 1]), Err(DecodeError::Long(MAX_MESSAGE + 1)));
    assert_eq!(with(0, 3), Err(DecodeError::Operation(3)));
    assert_eq!(with(2, 17), Err(DecodeError::HardwareLength(17)));
    assert_eq!(with(2, 255), Err(DecodeError::HardwareLength(255)));
    assert_eq!(with(239, 0), Err(DecodeError::Cookie));
    assert_eq!(Message::decode(&discover(0, &[&[12, 9, b'x']])), Err(DecodeError::Overrun(Overrun(12))));
    assert_eq!(Message::decode(&discover(0, &[&[61]])), Err(DecodeError::Overrun(Overrun(61))));
}

#[test]
fn p29_a_malformed_option_hides_no_other() {
    let bytes = discover(0, &[&option(12, &[0xff, 0xfe]), &option(50, &[1]), &option(60, b"PXEClient")]);
    let message = decode(&bytes);
    assert_eq!((message.host_name(), message.requested_address()), (None, None));
    assert_eq!(message.vendor_class(), Some("PXEClient"));
}

#[test]
fn p29_an_option_bomb_is_read_in_bounds() {
    // As many options as fit: empty ones, all numbers, and one number over and over.
    let mut bytes = discover(0, &[]);
    bytes.pop();
    let mut code = 1_u8;
    while bytes.len() + 2 <= MAX_MESSAGE {
        bytes.extend_from_slice(&[code, 0]);
        code = code % 254 + 1;
    }
    // All but option 52, which is used up by reading.
    assert_eq!(decode(&bytes).options.iter().count(), 253);
    bytes[243..].iter_mut().step_by(2).for_each(|code| *code = 82);
    assert_eq!(decode(&bytes).relay_info(), Some(&[][..]));
}

#[test]
fn p30_parts_of_an_option_are_joined_also_across_overloaded_fields() {
    let mut bytes = discover(0, &[&option(52, &[3]), &option(61, b"a"), &option(61, b"b")]);
    bytes[108..114].copy_from_slice(&[61, 1, b'c', 12, 1, b'h']);
    bytes[44..48].copy_from_slice(&[61, 1, b'd', 255]);
    let message = decode(&bytes);
    assert_eq!((message.client_id(), message.host_name()), (Some(&b"abcd"[..]), Some("h")));
    assert!(message.file.is_empty() && message.sname.is_empty());
    bytes[108..110].copy_from_slice(&[61, 200]);
    assert_eq!(Message::decode(&bytes), Err(DecodeError::Overrun(Overrun(61))));
}

#[test]
fn p30_user_classes_in_both_forms() {
    let of = |value: &[u8]| {
        let message = decode(&discover(0, &[&option(77, value)]));
        (message.user_classes().len(), message.is_ipxe())
    };
    assert_eq!(of(b"iPXE"), (1, true));
    assert_eq!(of(b"\x04iPXE"), (1, true));
    assert_eq!(of(b"\x03foo\x04iPXE"), (2, true));
    assert_eq!(of(b"iPXE2"), (1, false));
    assert_eq!(of(b"\x03foo\x00"), (1, false));
}

#[test]
fn hardware_that_is_no_single_ethernet_address_has_no_mac() {
    let mut bytes = discover(0, &[]);
    bytes[1] = 32;
    assert_eq!(decode(&bytes).mac(), None);
    bytes[1] = 1;
    bytes[28] = 0xff;
    assert_eq!(decode(&bytes).mac(), None);
    bytes[28..34].fill(0);
    assert_eq!(decode(&bytes).mac(), None);
    bytes[2] = 16;
    assert_eq!(decode(&bytes).hardware.bytes().len(), 16);
}

#[test]
fn a_missing_end_mark_is_tolerated() {
    let mut bytes = samples::networkd();
    assert_eq!(bytes.pop(), Some(255));
    assert_eq!(decode(&bytes), decode(&samples::networkd()));
}

#[test]
fn replies_copy_what_they_must_and_are_padded() {
    let mut asked = Message::request(MessageType::Discover, 7, Mac(samples::MAC));
    (asked.broadcast, asked.giaddr, asked.secs) = (true, Ipv4Addr::new(10, 1, 0, 1), 9);
    let reply = asked.reply(MessageType::Offer);
    assert_eq!((reply.xid, reply.broadcast, reply.giaddr), (7, true, asked.giaddr));
    assert_eq!((reply.hardware, reply.secs), (asked.hardware, 0));
    let bytes = reply.encode();
    assert_eq!(bytes.len(), MIN_ENCODED);
    assert_eq!(decode(&bytes), reply);
}

#[test]
fn a_file_name_that_does_not_fit_is_left_out_and_long_options_are_split() {
    let mut message = Message::request(MessageType::Discover, 7, Mac(samples::MAC));
    message.file = vec![b'f'; 128];
    message.sname = vec![b's'; 63];
    message.options.set(code::RELAY_INFO, vec![7; 300]);
    let decoded = decode(&message.encode());
    assert!(decoded.file.is_empty());
    assert_eq!(decoded.sname, message.sname);
    assert_eq!(decoded.relay_info(), Some(&[7; 300][..]));
}

#[test]
fn p30_an_independent_codec_reads_what_is_written() {
    let mut ours = Message::request(MessageType::Offer, 0x1234_5678, Mac(samples::MAC));
    ours.operation = Operation::Reply;
    ours.yiaddr = Ipv4Addr::new(10, 77, 0, 9);
    ours.siaddr = Ipv4Addr::new(10, 77, 0, 1);
    ours.file = b"snponly.efi".to_vec();
    ours.options.set_addresses(code::ROUTERS, &[Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)]);
    ours.options.set_u32(code::LEASE_TIME, 3600);
    ours.options.set(code::BOOT_FILE, *b"snponly.efi");
    let theirs = v4::Message::decode(&mut Decoder::new(&ours.encode())).expect("dhcproto reads it");
    assert_eq!((theirs.xid(), theirs.yiaddr(), theirs.siaddr()), (ours.xid, ours.yiaddr, ours.siaddr));
    assert_eq!(theirs.fname(), Some(&b"snponly.efi\0"[..]));
    let opts = theirs.opts();
    assert_eq!(opts.msg_type(), Some(v4::MessageType::Offer));
    let routers = v4::DhcpOption::Router(ours.options.addresses(code::ROUTERS));
    assert_eq!(opts.get(v4::OptionCode::Router), Some(&routers));
    let file = v4::DhcpOption::BootfileName(b"snponly.efi".to_vec());
    assert_eq!(opts.get(v4::OptionCode::BootfileName), Some(&file));
    let again = decode(&theirs.to_vec().expect("dhcproto writes it"));
    assert_eq!((again.lease_seconds(), again.mac()), (Some(3600), ours.mac()));
}

#[test]
fn p30_what_has_no_room_goes_into_the_free_fields_or_is_left_out() {
    let mut message = Message::request(MessageType::Offer, 7, Mac(samples::MAC));
    for code in 200..212 {
        message.options.set(code, vec![code; 60]);
    }
    message.options.set(code::RELAY_INFO, vec![7; 40]);
    let codes = |bytes: &[u8]| -> Vec<u8> { decode(bytes).options.iter().map(|(code, _)| code).collect() };
    assert_eq!(codes(&message.encode()).len(), 14);
    // 548 bytes (RFC 2131 §2) leave 308: four options, two in `file`, one in `sname`.
    let bytes = message.encode_within(548);
    assert_eq!(codes(&bytes), [53, 200, 201, 202, 203, 82, 204, 205, 206]);
    assert!(bytes.len() <= 548 + 42 && bytes.contains(&code::OVERLOAD));
    assert_eq!(decode(&bytes).options.get(206), Some(&[206; 60][..]));
    // Not over a file name, which old firmware looks for in its field.
    message.file = b"undionly.kpxe".to_vec();
    let named = decode(&message.encode_within(548));
    assert_eq!(codes(&message.encode_within(548)), [53, 200, 201, 202, 203, 82]);
    assert_eq!(named.file, message.file);
    let (theirs, bytes) = (v4::Message::decode(&mut Decoder::new(&bytes)), named);
    assert!(theirs.is_ok() && bytes.relay_info() == Some(&[7; 40][..]), "an independent codec reads it too");
}

/// Touches everything an accessor could trip over.
fn read_all(message: &Message) {
    let _ = (message.kind(), message.mac(), message.requested_address(), message.server_id());
    let _ = (message.lease_seconds(), message.client_id(), message.host_name(), message.vendor_class());
    let _ = (message.user_classes(), message.architectures().count(), message.uuid(), message.max_size());
    let _ = (message.parameter_list(), message.relay_info(), message.is_ipxe(), message.hardware.bytes());
    let _ = message.options.addresses(code::ROUTERS);
    let _ = sub_options(message.relay_info().unwrap_or_default()).count();
}

/// The message as it is written: relay information is the last option.
fn relay_last(mut message: Message) -> Message {
    if let Some(information) = message.relay_info().map(Vec::from) {
        message.options.remove(code::RELAY_INFO);
        message.options.set(code::RELAY_INFO, information);
    }
    message
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn p29_random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(message) = Message::decode(&bytes) {
            read_all(&message);
        }
    }

    #[test]
    fn p29_random_options_never_panic(options in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(message) = Message::decode(&discover(0, &[&options])) {
            read_all(&message);
            let again = relay_last(message);
            prop_assert_eq!(decode(&again.encode()).options, again.options);
        }
    }

    #[test]
    fn p29_mutated_real_packets_never_panic(
        which in 0..5_usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..16),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = samples::all()[which].clone();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(240 + cut.index(bytes.len() - 239));
        if let Ok(message) = Message::decode(&bytes) {
            read_all(&message);
            let mut again = relay_last(message.clone());
            // Reserved flag bits are dropped and a text filling its whole field is left out.
            again.file.truncate(127);
            again.sname.truncate(63);
            prop_assert_eq!(decode(&again.encode()), again);
        }
    }

    #[test]
    fn p30_nothing_is_cut_to_fit(
        values in prop::collection::vec((1..=254_u8, prop::collection::vec(any::<u8>(), 0..300)), 0..20),
        size in 300..1500_usize,
    ) {
        let mut message = Message::request(MessageType::Offer, 7, Mac(samples::MAC));
        values.into_iter().filter(|(code, _)| !matches!(*code, code::OVERLOAD | code::RELAY_INFO | code::MESSAGE_TYPE))
            .for_each(|(code, value)| message.options.set(code, value));
        let bytes = message.encode_within(size);
        prop_assert!(bytes.len() <= size);
        let read = decode(&bytes);
        prop_assert!(read.options.iter().all(|(code, value)| message.options.get(code) == Some(value)));
        prop_assert_eq!(read.kind(), Some(MessageType::Offer));
        if message.encode().len() <= size {
            prop_assert_eq!(read.options, relay_last(message).options);
        }
    }
}
