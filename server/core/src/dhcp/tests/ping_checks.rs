//! Free addresses are looked for before they are offered, and what was found is respected.

use super::*;
use ping_check::PingCheck;

#[test]
fn p31_free_addresses_are_looked_for() {
    use Check::{IfRoom, Must, None as No, Wait};
    const LONGEST: u64 = HOUR;
    // Running and restored for no time, then for the longest lease's.
    for (mode, on_wire, restored, expected) in [
        (PingCheck::Never, true, None, [No, No]),
        (PingCheck::Never, false, Some(0), [No, No]),
        (PingCheck::AfterStart, true, None, [IfRoom, No]),
        (PingCheck::AfterStart, false, None, [IfRoom, No]),
        (PingCheck::AfterStart, true, Some(0), [Must, No]),
        (PingCheck::AfterStart, false, Some(0), [Wait, No]),
        (PingCheck::Always, true, None, [IfRoom, IfRoom]),
        (PingCheck::Always, true, Some(0), [Must, IfRoom]),
        (PingCheck::Always, false, Some(0), [Wait, IfRoom]),
    ] {
        let looking = Looking { mode, longest_ms: LONGEST, on_wire };
        let checks = [0, LONGEST].map(|ago| looking.before_offer(ago, restored.map(|_: u64| ago)));
        assert_eq!(checks, expected, "{mode:?} {on_wire} {restored:?}");
        // Another start meanwhile changes nothing.
        let restarted = looking.before_offer(0, restored.map(|_| LONGEST - 1));
        assert_eq!(restarted, expected[0], "{mode:?} {on_wire} {restored:?}");
    }
}

#[test]
fn p31_only_an_address_that_is_not_known_to_be_the_client_s_is_looked_for() {
    let mut server = Server::new();
    server.subnets[0].looking = Looking { mode: PingCheck::Always, longest_ms: HOUR, on_wire: true };
    let check = |server: &Server, message: Message| {
        let seen = triage(&server.subnets, message, SERVER).expect("a client's message");
        decide(&seen, server.view()).check
    };
    server.bind(1);
    assert_eq!(check(&server, discover(1)), Check::None, "its own lease");
    assert_eq!(check(&server, discover(2)), Check::IfRoom);
    server.node.reservation = Some(ip(50));
    assert_eq!(check(&server, discover(2)), Check::None, "kept free for it");
}

#[test]
fn p31_behind_relays_a_restored_server_waits_until_all_lost_leases_have_ended() {
    let mut server = Server::new();
    let held = server.bind(1);
    server.subnets[0].looking = Looking { mode: PingCheck::AfterStart, longest_ms: 2 * HOUR, on_wire: false };
    server.restored = Some(server.now);
    assert_eq!(server.ask(&discover(2)), Err(Drop::Restored));
    assert_eq!(server.offered(1), held, "its lease is in the copy");
    assert_eq!(server.acked(&extending(3, ip(12))), ip(12), "whoever renews has the address");
    assert_eq!(server.subnets[0].looking.waits_until(server.now), Some(server.now.plus(2 * HOUR)));
    server.now = server.now.plus(2 * HOUR);
    server.offered(2);
    server.subnets[0].looking.on_wire = true;
    assert_eq!(server.subnets[0].looking.waits_until(server.now), None);
}

#[test]
fn p31_who_renews_an_address_that_answered_is_its_holder() {
    let mut server = Server::new();
    let address = server.offered(1);
    let write = server.table.found_in_use(address, server.now).expect("it was only offered");
    server.table.apply(write);
    assert_eq!(server.ask(&rebooting(2, address)), Err(Drop::NoRecord), "not refused: it may be its own");
    assert_ne!(server.offered(1), address);
    assert_eq!(server.acked(&extending(3, address)), address);
    assert_eq!(server.table.found_in_use(address, server.now), None, "it is a lease again");
    server.refused(&extending(2, address));
}

#[test]
fn p08_what_a_client_claims_that_a_restored_copy_does_not_have_is_told() {
    let mut server = Server::new();
    let (held, other) = (server.bind(1), server.bind(2));
    let claim = |server: &Server, message: Message| {
        let seen = triage(&server.subnets, message, SERVER).expect("a client's message");
        decide(&seen, server.view()).contact.claim
    };
    assert_eq!(claim(&server, extending(3, ip(12))), None, "nothing was restored");
    server.restored = Some(server.now);
    let free = Claim { address: ip(12), holder: None };
    for message in [extending(3, ip(12)), rebooting(3, ip(12)), extending(1, ip(12))] {
        assert_eq!(claim(&server, message), Some(free));
    }
    let taken = Claim { address: other, holder: Some(mac(2)) };
    assert_eq!(claim(&server, rebooting(1, other)), Some(taken));
    for own in
        [extending(1, held), rebooting(2, other), discover(3), rebooting(3, Ipv4Addr::new(192, 0, 2, 1))]
    {
        assert_eq!(claim(&server, own), None, "its own, or none here");
    }
    server.node.reservation = Some(ip(50));
    assert_eq!(claim(&server, extending(3, ip(50))), None, "kept for it");
    server.acked(&extending(4, ip(12)));
    assert_eq!(claim(&server, extending(4, ip(12))), None, "it is known from then on");
}
