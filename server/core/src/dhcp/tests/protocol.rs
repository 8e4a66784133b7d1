//! The cases of the DHCPv4 protocol suite of ISC Forge (`tests/dhcp/protocol`) as tables: who says what, and
//! what comes back.
//!
//! Of its 84 cases (`test_v4_*`) 75 hold, two of them in `p30_rfc5107_…` and `p34_only_served_networks_…`.
//! Three are skipped by Forge itself (DECLINE without server identifier; INIT-REBOOT without a wish,
//! directly and by relay). Six do not apply: `siaddr` is whoever serves the boot file and no setting (4),
//! nor is a relay's link selection ignored (1), and an INFORM must name its address, by relay too (RFC 2131
//! Table 5) (1). Where Forge wants a NAK for a relay in no subnet of ours there is silence, as its clients
//! may be another server's (promise 34).

use super::*;
use Is::{Ack, Nak, Nothing, Offer};
use Says::{Decline, DeclineNothing, Discover, Extend, Reboot, Release, Select, Wait};

const RELAY: Ipv4Addr = ip(200);

/// A client: the last byte of its hardware address, and its identifier (option 61) if it has one.
#[derive(Debug, Clone, Copy)]
struct Who(u8, Option<u8>);

/// Two clients without identifier, and two with.
const A: Who = Who(1, None);
const B: Who = Who(2, None);
const X: Who = Who(1, Some(7));
const Y: Who = Who(2, Some(8));
/// One client's hardware address with the other's identifier.
const XY: Who = Who(1, Some(8));
const YX: Who = Who(2, Some(7));

/// Addresses are given by their last byte; that of another network is 0.
#[derive(Debug, Clone, Copy)]
enum Says {
    Discover,
    Select(u8),
    Reboot(u8),
    Extend(u8),
    Release(u8),
    Decline(u8),
    DeclineNothing,
    /// Nothing for so many milliseconds.
    Wait(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Offer(u8),
    Ack(u8),
    Nak,
    Nothing,
}

type Step = (Who, Says, Is);

/// What it takes to have address 10.
const fn bound(who: Who) -> [Step; 2] {
    [(who, Discover, Offer(10)), (who, Select(10), Ack(10))]
}

fn address(last: u8) -> Ipv4Addr {
    if last == 0 { Ipv4Addr::new(185, 0, 50, 0) } else { ip(last) }
}

fn message(Who(n, id): Who, says: Says) -> Option<Message> {
    let mut message = match says {
        Discover => discover(n),
        Select(last) => selecting(n, SERVER, address(last)),
        Reboot(last) => rebooting(n, address(last)),
        Extend(last) => extending(n, address(last)),
        Release(last) => releasing(n, address(last)),
        Decline(last) => declining(n, address(last)),
        DeclineNothing => {
            let mut message = declining(n, address(10));
            message.options.remove(code::REQUESTED_ADDRESS);
            message
        }
        Wait(_) => return None,
    };
    id.into_iter().for_each(|id| message.options.set(code::CLIENT_ID, [0, id]));
    Some(message)
}

/// Takes one step, and looks at all that any answer must have.
fn step(server: &mut Server, relayed: bool, (who, says, _): Step) -> Is {
    let Some(mut message) = message(who, says) else {
        if let Wait(ms) = says {
            server.now = server.now.plus(ms);
        }
        return Nothing;
    };
    if relayed {
        message.giaddr = RELAY;
    }
    let Ok(Some(reply)) = server.ask(&message) else { return Nothing };
    let answer = &reply.message;
    assert_eq!((answer.xid, answer.mac(), answer.giaddr), (message.xid, message.mac(), message.giaddr));
    assert_eq!(answer.server_id(), Some(SERVER));
    // RFC 6842 §3
    assert_eq!(answer.client_id(), message.client_id());
    if relayed {
        assert_eq!(reply.destination, Destination::Relay(RELAY));
    }
    let last = answer.yiaddr.octets()[3];
    if reply.kind == MessageType::Nak {
        assert!(answer.yiaddr.is_unspecified() && answer.ciaddr.is_unspecified());
        return Nak;
    }
    assert_eq!(answer.options.address(code::SUBNET_MASK), Some(Ipv4Addr::new(255, 255, 255, 0)));
    if reply.kind == MessageType::Offer { Offer(last) } else { Ack(last) }
}

/// Goes through `cases` with pools of so many single addresses; each directly and by way of a relay.
fn run(pools: u8, cases: &[(&str, &str, Vec<Step>)]) {
    for (section, what, steps) in cases {
        for relayed in [false, true] {
            let mut server = Server::new();
            let single = |n| Pool { first: ip(n), last: ip(n) };
            server.subnets[0].pools = (10..10 + pools).map(single).collect();
            for (at, taken) in steps.iter().enumerate() {
                let is = step(&mut server, relayed, *taken);
                assert_eq!(is, taken.2, "{what} ({section}), relayed: {relayed}, step {at}: {taken:?}");
            }
        }
    }
}

#[test]
fn p30_requests_as_in_forge() {
    let then = |who, steps: &[Step]| [&bound(who)[..], steps].concat();
    run(
        1,
        &[
            ("RFC 2131 §4.3.1, §4.3.2", "an offer is taken", then(A, &[])),
            ("§4.3.1", "no address is left", then(A, &[(B, Discover, Nothing)])),
            ("§4.2", "a client is known by its identifier", then(X, &[])),
            ("§4.2", "another identifier is another client", then(X, &[(XY, Discover, Nothing)])),
            (
                "§4.2",
                "another client altogether, then its identifier",
                then(X, &[(Y, Discover, Nothing), (XY, Discover, Nothing)]),
            ),
            ("§4.3.2", "the address is somebody else's", then(A, &[(B, Select(10), Nak)])),
            ("§4.3.2 INIT-REBOOT", "the address is remembered", then(A, &[(A, Reboot(10), Ack(10))])),
            ("§4.3.2 INIT-REBOOT", "it is of another network", then(A, &[(A, Reboot(0), Nak)])),
            ("§4.3.2 INIT-REBOOT", "nobody knows the client", vec![(A, Reboot(10), Nothing)]),
            (
                "§4.3.2 RENEWING",
                "past T1",
                then(A, &[(A, Wait(HOUR / 2), Nothing), (A, Extend(10), Ack(10))]),
            ),
            (
                "§4.3.2 REBINDING",
                "past T2",
                then(A, &[(A, Wait(HOUR - HOUR / 10), Nothing), (A, Extend(10), Ack(10))]),
            ),
        ],
    );
    let all = |who, n| [(who, Discover, Offer(n)), (who, Select(n), Ack(n))];
    let third = Who(3, None);
    let steps = [all(A, 10), all(B, 11), all(third, 12)].concat();
    run(3, &[("§4.3.1", "one pool after another", steps)]);
}

#[test]
fn p30_releases_as_in_forge() {
    let then = |who, steps: &[Step]| [&bound(who)[..], steps].concat();
    run(
        1,
        &[
            (
                "RFC 2131 §4.3.4",
                "the address is free",
                then(A, &[(A, Release(10), Nothing), (Y, Discover, Offer(10))]),
            ),
            (
                "§4.3.4",
                "somebody asked in vain before",
                then(A, &[(Y, Discover, Nothing), (A, Release(10), Nothing), (Y, Discover, Offer(10))]),
            ),
            (
                "§4.3.4",
                "a stranger gives it back",
                then(X, &[(Y, Release(10), Nothing), (Y, Discover, Nothing)]),
            ),
            (
                "§4.2",
                "another identifier is a stranger's",
                then(X, &[(XY, Release(10), Nothing), (Y, Discover, Nothing)]),
            ),
            (
                "§4.2",
                "the identifier counts, not the hardware address",
                then(X, &[(YX, Release(10), Nothing), (Y, Discover, Offer(10))]),
            ),
            (
                "§4.2",
                "the hardware address counts where there is no identifier",
                then(A, &[(A, Release(10), Nothing), (B, Discover, Offer(10))]),
            ),
            (
                "§4.2",
                "and another one is a stranger's",
                then(A, &[(B, Release(10), Nothing), (B, Discover, Nothing)]),
            ),
            ("§4.3.1", "the lease is over", then(A, &[(A, Wait(HOUR), Nothing), (Y, Discover, Offer(10))])),
        ],
    );
}

#[test]
fn p30_declines_as_in_forge() {
    let then = |who, steps: &[Step]| [&bound(who)[..], steps].concat();
    let kept = |who| (who, Extend(10), Ack(10));
    run(
        1,
        &[
            (
                "RFC 2131 §4.3.3",
                "the address rests",
                then(X, &[(X, Decline(10), Nothing), (Y, Discover, Nothing)]),
            ),
            (
                "§4.3.3",
                "for a while",
                then(
                    X,
                    &[
                        (X, Decline(10), Nothing),
                        (Y, Wait(lease::DECLINED_MS), Nothing),
                        (Y, Discover, Offer(10)),
                    ],
                ),
            ),
            ("Table 5", "no address is named", then(X, &[(X, DeclineNothing, Nothing), kept(X)])),
            ("§4.2", "another identifier is a stranger's", then(X, &[(XY, Decline(10), Nothing), kept(X)])),
            ("§4.2", "another hardware address is, too", then(A, &[(B, Decline(10), Nothing), kept(A)])),
        ],
    );
}

/// RFC 2131 Table 3: `chaddr` is the client's, `ciaddr` of an OFFER or NAK and `siaddr` of a NAK are 0, and
/// nothing of it is what the client wrote there.
#[test]
fn p30_fields_as_in_forge() {
    let none = Ipv4Addr::UNSPECIFIED;
    for written in [none, ip(77), SERVER, Ipv4Addr::BROADCAST] {
        let mut server = Server::new();
        server.subnets[0].pools = vec![Pool { first: ip(10), last: ip(10) }];
        let mut ask = discover(1);
        (ask.ciaddr, ask.siaddr) = (written, written);
        let offer = server.answer(&ask);
        assert_eq!((offer.kind, offer.message.mac()), (MessageType::Offer, Some(mac(1))));
        assert_eq!((offer.message.ciaddr, offer.message.siaddr), (none, none), "{written}");
        server.bind(1);
        let mut other = selecting(2, SERVER, ip(10));
        (other.ciaddr, other.siaddr) = (written, written);
        // Of firmware, whose other answers name a server.
        other.options.set(code::VENDOR_CLASS, *b"PXEClient:Arch:00007");
        let nak = server.refused(&other).message;
        assert_eq!((nak.ciaddr, nak.siaddr, nak.mac()), (none, none, Some(mac(2))), "{written}");
    }
}

/// RFC 2131 §4.3.5, and §4.3.1: options that are set reach who informs itself, also where there is no pool,
/// and who asks for an address, whether it names them or not. Those that the configuration cannot set
/// are the protocol's own.
#[test]
fn p30_options_as_in_forge() {
    /// RFC 2132 §3 to §8, RFC 3442, RFC 3925, RFC 4388, RFC 9463, and three of nobody's.
    const SET: [u8; 67] = [
        2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29,
        30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 62, 64, 65, 67, 68,
        69, 70, 71, 72, 73, 74, 75, 76, 91, 92, 121, 125, 162, 176, 189,
    ];
    const OWN: [u8; 10] = [0, 1, 12, 50, 52, 56, 57, 58, 59, 118];
    assert!(OWN.iter().all(|code| !parameters::is_settable(*code)));
    let mut server = Server::new();
    server.subnets[0].pools.clear();
    server.node.reservation = Some(ip(50));
    server.node.hostname = Some("node1".into());
    let mut inform = extending(1, ip(99));
    inform.options.set(code::MESSAGE_TYPE, [MessageType::Inform as u8]);
    for code in SET {
        assert!(parameters::is_settable(code));
        server.subnets[0].parameters.options = Options::default();
        server.subnets[0].parameters.options.set(code, [code, 1, 2, 3]);
        for wished in [&[code][..], &[]] {
            let ask = |message: &Message| {
                let mut message = message.clone();
                if !wished.is_empty() {
                    message.options.set(code::PARAMETER_LIST, wished);
                }
                message
            };
            for message in [ask(&inform), ask(&discover(1))] {
                let answer = server.answer(&message).message;
                assert_eq!(answer.options.get(code), Some(&[code, 1, 2, 3][..]), "{code}, wished {wished:?}");
                assert_eq!(answer.options.text(code::HOST_NAME), Some("node1"));
                assert_eq!(answer.options.address(code::SUBNET_MASK), Some(Ipv4Addr::new(255, 255, 255, 0)));
            }
        }
    }
    // Table 5: a server identifier has no place there, and does no harm; the client's address has.
    inform.options.set_addresses(code::SERVER_ID, &[SERVER]);
    assert_eq!(server.answer(&inform).kind, MessageType::Ack);
    inform.ciaddr = Ipv4Addr::UNSPECIFIED;
    assert_eq!(server.ask(&inform), Err(Drop::Incomplete));
}
