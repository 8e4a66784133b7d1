use super::*;
use crate::boot::BootDecision;
use crate::dhcp::bootfile::{LocalAnswer, MISSING_FILE};
use crate::dhcp::lease::{LeaseTable, Pool};
use crate::dhcp::parameters::Parameters;
use crate::dhcp::ping_check::Looking;
use crate::dhcp::role::Role;
use crate::dhcp::subnet::{Network, Subnet};
use crate::dhcp::{Destination, View, triage};
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use kaltstart_protocol::dhcp::{CLIENT_PORT, Message};
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;
use proptest::prelude::*;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 50);
const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

fn subnet() -> Subnet {
    Subnet {
        network: Network { address: Ipv4Addr::new(10, 77, 0, 0), prefix: 24 },
        server: SERVER,
        http: "http://10.77.0.1:8080".into(),
        // A pool that was left in the configuration.
        direct: true,
        relays: Vec::new(),
        pools: Vec::from([Pool { first: Ipv4Addr::new(10, 77, 0, 10), last: Ipv4Addr::new(10, 77, 0, 99) }]),
        parameters: Parameters::default(),
        rules: Arc::default(),
        local: LocalAnswer::MissingFile,
        looking: Looking::default(),
    }
}

fn message(kind: MessageType, class: &str, architecture: u16, user_class: &str) -> Message {
    let mut message = Message::request(kind, 7, MAC);
    for (code, value) in [(code::VENDOR_CLASS, class), (code::USER_CLASS, user_class)] {
        if !value.is_empty() {
            message.options.set(code, value);
        }
    }
    message.options.set(code::ARCHITECTURE, architecture.to_be_bytes());
    message.options.set(code::MACHINE_ID, [0; 17]);
    message
}

/// What comes of a message to port 67, or to 4011.
fn decided(message: &Message, boot: BootDecision, role: Role, boot_port: bool) -> Option<Decision> {
    let message = Message::decode(&message.encode()).expect("what is written can be read");
    let subnets = [subnet()];
    let seen = triage(&subnets, message, SERVER).ok()?;
    let node = Known { reservation: Some(CLIENT), boot, ..Known::STRANGER };
    if boot_port {
        return Some(boot_server(&seen, &node, BOOT_SERVER_PORT));
    }
    let (table, reserved) = (LeaseTable::default(), BTreeSet::from([CLIENT]));
    let view = View {
        table: &table,
        reserved: &reserved,
        node: &node,
        role,
        now: Millis(1),
        running_ms: 0,
        restored_ms: None,
        port: CLIENT_PORT,
        storable: true,
    };
    Some(crate::dhcp::decide(&seen, view))
}

fn proxied(message: &Message, boot: BootDecision) -> Decision {
    decided(message, boot, Role::Proxy, false).expect("triaged")
}

fn text(message: &Message, code: u8) -> String {
    String::from_utf8_lossy(message.options.get(code).unwrap_or_default()).into_owned()
}

#[test]
fn p34_each_client_is_named_its_boot_file_and_no_address() {
    let script = "http://10.77.0.1:8080/boot/52:54:00:00:00:01/script.ipxe";
    let http = "http://10.77.0.1:8080/boot/files/";
    // (class, architecture, user class) → (file, class of the answer, whether it spares asking 4011)
    for (class, architecture, user, file, answer, direct) in [
        ("PXEClient:Arch:00000:UNDI:002001", 0, "", "undionly.kpxe".into(), "PXEClient", true),
        ("PXEClient:Arch:00007:UNDI:003000", 7, "", "snponly.efi".into(), "PXEClient", false),
        ("PXEClient:Arch:00011:UNDI:003000", 11, "", "snponly-arm64.efi".into(), "PXEClient", false),
        (
            "HTTPClient:Arch:00016:UNDI:003000",
            16,
            "",
            alloc::format!("{http}snponly.efi"),
            "HTTPClient",
            false,
        ),
        (
            "HTTPClient:Arch:00019:UNDI:003000",
            19,
            "",
            alloc::format!("{http}snponly-arm64.efi"),
            "HTTPClient",
            false,
        ),
        ("PXEClient:Arch:00000:UNDI:002001", 0, "iPXE", script.into(), "PXEClient", false),
        ("PXEClient:Arch:00007:UNDI:003010", 7, "iPXE", script.into(), "PXEClient", false),
    ] {
        let discover = message(MessageType::Discover, class, architecture, user);
        let offer = proxied(&discover, BootDecision::Discover).reply.expect("answered").expect("an offer");
        let mut asked = message(MessageType::Request, class, architecture, user);
        asked.ciaddr = CLIENT;
        let ack = decided(&asked, BootDecision::Discover, Role::Proxy, true).expect("triaged");
        let ack = ack.reply.expect("answered").expect("an acknowledgement");
        let asker = SocketAddrV4::new(CLIENT, BOOT_SERVER_PORT);
        assert_eq!((offer.kind, offer.destination), (MessageType::Offer, Destination::Broadcast));
        assert_eq!((ack.kind, ack.destination), (MessageType::Ack, Destination::Asker(asker)));
        for reply in [&offer.message, &ack.message] {
            assert_eq!(text(reply, code::BOOT_FILE), file, "{class} {user}");
            assert_eq!(reply.file, file.as_bytes(), "shim looks here");
            assert_eq!(text(reply, code::VENDOR_CLASS), answer);
            assert_eq!(
                (reply.yiaddr, reply.siaddr, reply.server_id()),
                (Ipv4Addr::UNSPECIFIED, SERVER, Some(SERVER))
            );
            assert_eq!(reply.options.get(code::VENDOR_SPECIFIC).is_some(), direct, "{class} {user}");
            assert_eq!(reply.options.get(code::MACHINE_ID), Some([0; 17].as_slice()));
            for code in [code::LEASE_TIME, code::SUBNET_MASK, code::ROUTERS, code::IPXE] {
                assert_eq!(reply.options.get(code), None, "option {code} for {class} {user}");
            }
        }
    }
}

#[test]
fn p34_other_clients_hear_nothing() {
    let drop = |class, architecture, boot| {
        let discover = message(MessageType::Discover, class, architecture, "");
        proxied(&discover, boot).reply.expect_err("silence")
    };
    assert_eq!(drop("", 0, BootDecision::Discover), Drop::Proxy);
    assert_eq!(drop("MSFT 5.0", 0, BootDecision::Discover), Drop::Proxy);
    assert_eq!(drop("PXEClient", 2, BootDecision::Discover), Drop::NoBootFile);
    let ipxe = message(MessageType::Discover, "PXEClient", 0, "iPXE");
    assert_eq!(
        proxied(&ipxe, BootDecision::Local).reply,
        Err(Drop::NoBootFile),
        "its own disk is next anyway"
    );
}

#[test]
fn firmware_that_starts_from_its_disk_is_sent_there() {
    let discover = message(MessageType::Discover, "PXEClient", 7, "");
    let offer = proxied(&discover, BootDecision::Local).reply.expect("answered").expect("an offer");
    assert_eq!(offer.message.file, MISSING_FILE.as_bytes());
}

#[test]
fn what_the_client_takes_elsewhere_is_learned() {
    let mut request = message(MessageType::Request, "PXEClient", 7, "");
    request.options.set_addresses(code::SERVER_ID, &[OTHER]);
    request.options.set_addresses(code::REQUESTED_ADDRESS, &[CLIENT]);
    let decision = proxied(&request, BootDecision::Discover);
    assert_eq!((decision.reply, decision.contact.address), (Ok(None), Some(CLIENT)));
    // Not from a request of an address that another server may refuse, nor of one from elsewhere.
    request.options.remove(code::SERVER_ID);
    assert_eq!(proxied(&request, BootDecision::Discover).contact.address, None);
    request.options.set_addresses(code::SERVER_ID, &[OTHER]);
    request.options.set_addresses(code::REQUESTED_ADDRESS, &[Ipv4Addr::new(192, 168, 0, 1)]);
    assert_eq!(proxied(&request, BootDecision::Discover).contact.address, None);
}

#[test]
fn p34_a_subnet_that_is_not_served_is_silent() {
    for role in [Role::Checking, Role::Refused, Role::Off] {
        for kind in [MessageType::Discover, MessageType::Request, MessageType::Inform] {
            let mut message = message(kind, "PXEClient", 7, "");
            message.ciaddr = CLIENT;
            let decision = decided(&message, BootDecision::Discover, role, false).expect("triaged");
            assert_eq!((decision.reply, decision.write), (Err(Drop::NotServed), None), "{role} {kind}");
        }
        let mut taken = message(MessageType::Request, "PXEClient", 7, "");
        taken.options.set_addresses(code::SERVER_ID, &[OTHER]);
        let decision = decided(&taken, BootDecision::Discover, role, false).expect("triaged");
        assert_eq!((decision.reply, decision.write), (Err(Drop::OtherServer(OTHER)), None), "{role}");
    }
}

proptest! {
    #[test]
    fn p34_a_proxy_never_gives_or_refuses_an_address(
        kind in 0..9_u8,
        class in prop_oneof![Just(""), Just("PXEClient"), Just("HTTPClient"), Just("udhcp")],
        user_class in prop_oneof![Just(""), Just("iPXE")],
        architecture in 0..22_u16,
        (ciaddr, requested, server) in (0..4_u8, 0..4_u8, 0..4_u8),
        local: bool,
        boot_port: bool,
    ) {
        const ADDRESSES: [Option<Ipv4Addr>; 4] = [None, Some(SERVER), Some(OTHER), Some(CLIENT)];
        let mut message = message(MessageType::Discover, class, architecture, user_class);
        message.options.set(code::MESSAGE_TYPE, [kind]);
        message.ciaddr = ADDRESSES[usize::from(ciaddr)].unwrap_or(Ipv4Addr::UNSPECIFIED);
        for (code, value) in [(code::REQUESTED_ADDRESS, requested), (code::SERVER_ID, server)] {
            if let Some(address) = ADDRESSES[usize::from(value)] {
                message.options.set_addresses(code, &[address]);
            }
        }
        let boot = if local { BootDecision::Local } else { BootDecision::Discover };
        if let Some(decision) = decided(&message, boot, Role::Proxy, boot_port) {
            prop_assert_eq!(&decision.write, &None);
            if let Ok(Some(reply)) = decision.reply {
                prop_assert!(!class.is_empty() && class != "udhcp" || user_class == "iPXE");
                prop_assert!(matches!(reply.kind, MessageType::Offer | MessageType::Ack));
                prop_assert_eq!(reply.message.yiaddr, Ipv4Addr::UNSPECIFIED);
                prop_assert_eq!(reply.message.options.get(code::LEASE_TIME), None);
            }
        }
    }
}
