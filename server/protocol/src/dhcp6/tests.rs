use super::options::with_length;
use super::*;
use crate::ids::Mac;
use proptest::prelude::*;
use std::vec;

const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

fn solicit() -> Message {
    let mut message = Message::new(MessageType::Solicit, [1, 2, 3]);
    message.options.push(code::CLIENT_ID, duid::of_uuid([7; 16]));
    let mut identity = Identity::new(9);
    identity.push(&Address { address: Ipv6Addr::LOCALHOST, preferred: 1, valid: 2 });
    message.options.push(code::IA_NA, identity.encode());
    message.options.push(code::OPTION_REQUEST, [0, 59, 0, 23]);
    message.options.push(code::CLIENT_ARCHITECTURE, [0, 7]);
    message.options.push(code::USER_CLASS, with_length(b"iPXE"));
    let class = [&343_u32.to_be_bytes()[..], &with_length(b"HTTPClient:Arch:00016:UNDI:003000")].concat();
    message.options.push(code::VENDOR_CLASS, class);
    message
}

fn relay(n: u8) -> Relay {
    let mut options = Options::default();
    options.push(code::INTERFACE_ID, [n]);
    let link = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, n.into());
    Relay { hops: n, link, peer: Ipv6Addr::LOCALHOST, options }
}

#[test]
fn p30_what_is_written_is_read_back_with_and_without_relays() {
    for relays in [vec![], vec![relay(1)], (0..8).map(relay).collect()] {
        let packet = Packet { relays, message: solicit() };
        assert_eq!(Packet::decode(&packet.encode()), Ok(packet.clone()));
        assert_eq!(Packet::decode_reply(&packet.encode_reply()), Ok(packet));
    }
    // Of two messages in a relay's, the first counts.
    let mut twice = relay(1);
    twice.options.push(code::RELAY_MESSAGE, [1]);
    let inner = [&[0, 9, 0, 4][..], &[1, 0, 0, 0]].concat();
    let [header, more] = [&[12, 0][..], &[0; 32]];
    let mut bytes = [header, more, &inner].concat();
    twice.options.encode(&mut bytes);
    let read = Packet::decode(&bytes).expect("readable");
    assert_eq!(Packet::decode(&read.encode()), Ok(read));
    let packet = Packet { relays: (0..9).map(relay).collect(), message: solicit() };
    assert_eq!(Packet::decode(&packet.encode()), Err(DecodeError::Hops));
}

#[test]
fn p30_options_are_read_as_their_rfcs_say() {
    let message = solicit();
    let identity = message.identities().next().expect("one");
    assert_eq!((identity.id, identity.addresses().count()), (9, 1));
    assert!(message.asks_for(59) && message.asks_for(23) && !message.asks_for(24));
    assert_eq!(message.architectures().collect::<Vec<_>>(), [7]);
    assert_eq!(message.user_classes().collect::<Vec<_>>(), [b"iPXE"]);
    let (number, class) = message.vendor_classes().next().expect("one");
    assert_eq!((number, class), (343, &b"HTTPClient:Arch:00016:UNDI:003000"[..]));
}

#[test]
fn duids_tell_of_their_machine_what_they_are_made_of() {
    assert_eq!(duid::mac(&duid::of_mac(MAC)), Some(MAC));
    let with_time = [&[0, 1, 0, 1, 9, 9, 9, 9][..], &MAC.0].concat();
    assert_eq!(duid::mac(&with_time), Some(MAC));
    assert_eq!(duid::uuid(&duid::of_uuid([5; 16])), Some([5; 16]));
    let infiniband = [&[0, 3, 0, 32][..], &MAC.0].concat();
    for other in [&b""[..], &[0, 3], &[0, 3, 0, 1, 2], &infiniband, &[0, 4, 1]] {
        assert_eq!((duid::mac(other), duid::uuid(other)), (None, None));
    }
    assert!(duid::is_valid(&[0, 2, 0]) && !duid::is_valid(&[0, 2]) && !duid::is_valid(&[0; 131]));
}

#[test]
fn p29_what_ends_too_early_is_refused() {
    let whole = Packet { relays: vec![relay(1)], message: solicit() }.encode();
    for end in 0..whole.len() {
        assert!(Packet::decode(&whole[..end]).is_err(), "{end}");
    }
    assert_eq!(Packet::decode(&[99, 0, 0, 0]), Err(DecodeError::Type(99)));
    assert_eq!(Packet::decode(&[0; MAX_PACKET + 1]), Err(DecodeError::Long(MAX_PACKET + 1)));
}

#[test]
fn p30_a_peer_reads_what_we_write() {
    use dhcproto::{Decodable as _, Decoder, v6};
    let bytes = Packet { relays: vec![], message: solicit() }.encode();
    let theirs = v6::Message::decode(&mut Decoder::new(&bytes)).expect("dhcproto reads it");
    assert_eq!((theirs.msg_type(), theirs.xid()), (v6::MessageType::Solicit, [1, 2, 3]));
    let Some(v6::DhcpOption::IANA(identity)) = theirs.opts().get(v6::OptionCode::IANA) else {
        panic!("no identity");
    };
    assert_eq!(identity.id, 9);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn p29_any_bytes_are_read_or_refused(
        start in prop_oneof![Just(vec![1, 0, 0, 0]), Just(vec![12; 34]), Just(vec![])],
        rest in prop::collection::vec(prop_oneof![0..4_u8, any::<u8>()], 0..200),
    ) {
        let bytes = [start, rest].concat();
        if let Ok(packet) = Packet::decode(&bytes) {
            prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet.clone()));
            let message = &packet.message;
            for identity in message.identities() {
                identity.addresses().for_each(drop);
                let _ = identity.status();
            }
            message.user_classes().chain(message.vendor_classes().map(|(_, class)| class)).for_each(drop);
            message.architectures().for_each(drop);
            let duid = message.client_id().unwrap_or_default();
            let _ = (duid::mac(duid), duid::uuid(duid));
        }
    }
}
