use super::*;
use alloc::vec::Vec;

const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
const START: Millis = Millis(1_000_000);
const MINUTE: u64 = 60_000;

const ANSWER: Sighting = Sighting { server: OTHER, mac: Some(MAC), gives: Gives::Addresses };
const NAMED: Sighting = Sighting { server: OTHER, mac: None, gives: Gives::Addresses };
const PROXY: Sighting = Sighting { server: OTHER, mac: Some(MAC), gives: Gives::BootFiles };

/// A DHCP server that is there in these milliseconds, and answers so late.
#[derive(Clone, Copy)]
struct There {
    from: u64,
    until: u64,
    delay: u64,
}

const NOBODY: There = There { from: 0, until: 0, delay: 0 };

/// Roles, and the milliseconds when they were taken.
type Roles = &'static [(u64, Role)];

/// Lets the watch run for so long; returns the roles it took, with the milliseconds when.
fn roles(mut watch: Watch, there: There, run: u64) -> Vec<(u64, Role)> {
    let mut roles = Vec::from([(0, watch.role())]);
    let mut answers: BTreeMap<u64, ()> = BTreeMap::new();
    loop {
        let probe = watch.next_probe().since(START);
        let answer = answers.first_key_value().map(|(at, ())| *at).filter(|at| *at <= probe);
        let at = answer.unwrap_or(probe);
        if at > run {
            return roles;
        }
        let role = if answer.is_some() {
            answers.pop_first();
            watch.saw(ANSWER, START.plus(at)).role
        } else {
            if (there.from..there.until).contains(&at) {
                answers.insert(at + there.delay, ());
            }
            watch.probe_sent(START.plus(at))
        };
        roles.extend(role.map(|role| (at, role)));
    }
}

#[test]
fn p34_the_role_follows_from_who_is_there() {
    use Mode::{Authoritative, Auto, Off, Proxy};
    const A: Role = Role::Authoritative;
    const ALWAYS: There = There { from: 0, until: u64::MAX, delay: 10 };
    const SLOW: There = There { delay: 3_000, ..ALWAYS };
    const LATER: There = There { from: 20 * MINUTE, ..ALWAYS };
    const RESTARTED: There = There { until: 30 * MINUTE, ..ALWAYS };
    // (mode, has a pool, others allowed, who is there) → roles and when they were taken
    let table: &[(Mode, bool, bool, There, Roles)] = &[
        (Off, true, false, ALWAYS, &[(0, Role::Off)]),
        (Proxy, true, false, NOBODY, &[(0, Role::Proxy)]),
        (Proxy, true, false, ALWAYS, &[(0, Role::Proxy)]),
        (Authoritative, true, false, NOBODY, &[(0, Role::Checking), (3_600, A)]),
        (Authoritative, false, false, NOBODY, &[(0, Role::Checking), (3_600, A)]),
        (Authoritative, true, false, ALWAYS, &[(0, Role::Checking), (10, Role::Refused)]),
        (Authoritative, true, false, SLOW, &[(0, Role::Checking), (3_000, Role::Refused)]),
        (Authoritative, true, true, ALWAYS, &[(0, A)]),
        // A newcomer does not stop who was there first.
        (Authoritative, true, false, LATER, &[(0, Role::Checking), (3_600, A)]),
        (
            Authoritative,
            true,
            false,
            RESTARTED,
            &[(0, Role::Checking), (10, Role::Refused), (30 * MINUTE + 61_200, A)],
        ),
        (Auto, true, false, NOBODY, &[(0, Role::Proxy), (6_000, A)]),
        (Auto, false, false, NOBODY, &[(0, Role::Proxy)]),
        (Auto, true, false, ALWAYS, &[(0, Role::Proxy)]),
        (Auto, true, false, SLOW, &[(0, Role::Proxy)]),
        (Auto, true, true, ALWAYS, &[(0, Role::Proxy)]),
        (Auto, true, false, LATER, &[(0, Role::Proxy), (6_000, A), (20 * MINUTE + 10, Role::Proxy)]),
        (Auto, true, false, RESTARTED, &[(0, Role::Proxy), (30 * MINUTE + 302_000, A)]),
    ];
    for (mode, has_pool, allowed, there, expected) in table {
        let watch = Watch::new(*mode, *has_pool, *allowed, START);
        let got = roles(watch, *there, 60 * MINUTE);
        let case = (mode, has_pool, allowed, there.from, there.until, there.delay);
        assert_eq!(got, *expected, "{case:?}");
    }
}

#[test]
fn p34_whenever_another_server_comes_it_is_asked_in_time_to_be_found_within_ten_seconds() {
    for mode in [Mode::Authoritative, Mode::Proxy, Mode::Auto] {
        let mut watch = Watch::new(mode, true, false, START);
        while watch.next_probe().since(START) < 20 * MINUTE {
            let before = watch.next_probe();
            watch.probe_sent(before);
            let answered = before.plus(10);
            if before.since(START) > 10 * MINUTE {
                watch.saw(ANSWER, answered);
            }
            assert!(watch.next_probe().since(before) <= 6_000, "{mode}");
        }
    }
}

#[test]
fn p34_a_server_that_is_gone_frees_its_subnet_within_a_minute_and_has_it_again_when_it_is_back_soon() {
    let newcomer = Sighting { server: Ipv4Addr::new(10, 77, 0, 3), ..ANSWER };
    for (returns, after, expected) in [
        (ANSWER, RETURN_MS - 1, Some(Role::Refused)),
        (ANSWER, RETURN_MS, None),
        (newcomer, RETURN_MS - 1, None),
    ] {
        let mut watch = Watch::new(Mode::Authoritative, true, false, START);
        watch.probe_sent(START);
        assert_eq!(watch.saw(ANSWER, START.plus(10)).role, Some(Role::Refused));
        let mut now = START;
        while watch.role() == Role::Refused {
            now = watch.next_probe();
            watch.probe_sent(now);
        }
        assert!(now.since(START) < 70_000, "{} ms", now.since(START));
        assert_eq!(watch.saw(returns, now.plus(after)).role, expected, "{returns:?} after {after} ms");
    }
}

#[test]
fn p34_a_clients_word_counts_and_asks_for_proof() {
    let mut watch = Watch::new(Mode::Auto, true, false, START);
    let mut now = START;
    while watch.role() != Role::Authoritative {
        now = watch.next_probe();
        watch.probe_sent(now);
    }
    let next = watch.next_probe();
    let seen = now.plus(1_000);
    assert_eq!(watch.saw(NAMED, seen), News { tell: true, role: Some(Role::Proxy) });
    assert!(watch.next_probe() < next, "a probe finds its hardware address");
    assert_eq!(watch.saw(NAMED, seen.plus(1)), News::default(), "told once");
    assert_eq!(watch.saw(ANSWER, seen.plus(2)), News { tell: true, role: None }, "its address is news");
    assert_eq!(watch.servers()[&OTHER].mac, Some(MAC));
    assert_eq!(watch.saw(NAMED, seen.plus(3)), News::default());
    assert_eq!(watch.servers()[&OTHER].mac, Some(MAC), "and is kept");
    assert_eq!(watch.servers()[&OTHER].first_seen, seen);
    let hour = seen.plus(2 + TOLD_EVERY_MS);
    assert!(watch.saw(ANSWER, hour).tell, "told again after an hour");
}

#[test]
fn a_boot_server_is_told_of_and_changes_no_role() {
    let mut watch = Watch::new(Mode::Authoritative, true, false, START);
    assert_eq!(watch.saw(PROXY, START), News { tell: true, role: None });
    let mut now = START;
    for _ in 0..=QUIET_AT_START {
        now = watch.next_probe();
        watch.probe_sent(now);
    }
    assert_eq!(watch.role(), Role::Authoritative);
    assert!(watch.saw(PROXY, now).role.is_none());
    assert_eq!(watch.servers()[&OTHER].gives, Gives::BootFiles);
    watch.saw(ANSWER, now);
    watch.saw(PROXY, now);
    assert_eq!(watch.servers()[&OTHER].gives, Gives::Addresses, "who gives both gives addresses");
}

#[test]
fn the_memory_is_bounded() {
    let mut watch = Watch::new(Mode::Proxy, false, false, START);
    for n in 0..100_u8 {
        let sighting = Sighting { server: Ipv4Addr::new(10, 77, 0, n), ..ANSWER };
        watch.saw(sighting, START.plus(u64::from(n)));
    }
    assert_eq!(watch.servers().len(), SERVERS_MAX);
    assert!(watch.servers().contains_key(&Ipv4Addr::new(10, 77, 0, 99)));
}
