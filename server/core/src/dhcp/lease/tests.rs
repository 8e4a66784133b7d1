//! Promise 31 against a model: what the clients believe, by a clock that does not jump.

use super::*;
use crate::dhcp::host::{Host, HostKey, Rules};
use crate::dhcp::tests::{Server, declining, discover, extending, rebooting, releasing, selecting};
use alloc::sync::Arc;
use alloc::vec;
use kaltstart_protocol::dhcp::MessageType;
use kaltstart_protocol::dhcp::options::code;
use proptest::prelude::*;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const DAY: i64 = 24 * 3_600 * 1_000;

#[derive(Debug, Clone)]
enum Step {
    Discover(u8),
    /// Take the last offer.
    Take(u8),
    /// INIT-REBOOT with any address.
    Reboot(u8, u8),
    /// RENEW what it believes to hold.
    Renew(u8),
    /// RENEW any address.
    Claim(u8, u8),
    Decline(u8),
    Release(u8),
    /// Minutes go by.
    Wait(u16),
    /// The server restarts; the clock on the wall has moved by this many ms meanwhile.
    Restart(i64),
    /// The server restarts with this pool.
    Pool(u8, u8),
    /// From now on leases can be stored, or not.
    Storable(bool),
    /// The store fails: the next change is undone and not answered.
    Fail(u8),
}

/// The table and the time of a server that starts again with what was `stored`, which is all that is
/// left; the clock on the wall has moved by `jump` ms meanwhile.
pub(crate) fn restarted<A: Address>(
    stored: &mut BTreeMap<A, Lease>,
    now: Millis,
    jump: i64,
) -> (LeaseTable<A>, Millis) {
    let writes = core::mem::take(stored).into_iter().map(|(address, lease)| LeaseWrite { address, lease });
    let Resumed { table, now, .. } = LeaseTable::resume(writes, Millis(now.0.saturating_add_signed(jump)));
    *stored = table.iter().map(|(address, lease)| (address, lease.clone())).collect();
    (table, now)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = || 0..5_u8;
    let step = prop_oneof![
        3 => who().prop_map(Step::Discover),
        4 => who().prop_map(Step::Take),
        1 => (who(), 9..14_u8).prop_map(|(n, a)| Step::Reboot(n, a)),
        2 => who().prop_map(Step::Renew),
        1 => (who(), 9..14_u8).prop_map(|(n, a)| Step::Claim(n, a)),
        1 => who().prop_map(Step::Decline),
        1 => who().prop_map(Step::Release),
        2 => (0..90_u16).prop_map(Step::Wait),
        1 => prop_oneof![Just(-DAY), Just(0), Just(DAY), -DAY..DAY].prop_map(Step::Restart),
        1 => (9..14_u8, 0..4_u8).prop_map(|(first, more)| Step::Pool(first, first + more)),
        1 => any::<bool>().prop_map(Step::Storable),
        1 => who().prop_map(Step::Fail),
    ];
    prop::collection::vec(step, 1..120)
}

/// The message as it comes out of the switch: the first two clients are on one port.
fn wired(n: u8, mut message: Message) -> Message {
    if n < 2 {
        message.options.set(code::RELAY_INFO, [1, 1, 7]);
    }
    message
}

/// A server that keeps an address for that port.
fn server() -> Server {
    let mut rules = Rules::default();
    let host = Host { address: Some(Ipv4Addr::new(10, 77, 0, 11)), ..Host::default() };
    rules.add([HostKey::Port(Some(vec![7]), None)], host);
    let mut server = Server::new();
    server.subnets[0].rules = Arc::new(rules);
    server
}

/// The clients' side of the world.
#[derive(Default)]
struct Clients {
    /// True time, ms.
    now: u64,
    offer: BTreeMap<u8, Ipv4Addr>,
    /// Address and true end of what each client holds.
    held: BTreeMap<u8, (Ipv4Addr, u64)>,
}

impl Clients {
    fn hear(&mut self, n: u8, server: &mut Server, message: &Message) {
        let Ok(Some(reply)) = server.ask(&wired(n, message.clone())) else { return };
        let address = reply.message.yiaddr;
        match reply.kind {
            MessageType::Offer => {
                self.offer.insert(n, address);
            }
            MessageType::Ack => {
                let seconds = reply.message.lease_seconds().expect("a lease has a length");
                self.held.insert(n, (address, self.now + u64::from(seconds) * 1_000));
            }
            _ => {
                self.held.remove(&n);
            }
        }
    }

    fn step(&mut self, server: &mut Server, step: Step) {
        match step {
            Step::Discover(n) => self.hear(n, server, &discover(n)),
            Step::Take(n) => {
                if let Some(address) = self.offer.remove(&n) {
                    self.hear(n, server, &selecting(n, SERVER, address));
                }
            }
            Step::Reboot(n, last) => {
                self.held.remove(&n);
                self.hear(n, server, &rebooting(n, Ipv4Addr::new(10, 77, 0, last)));
            }
            Step::Renew(n) => {
                if let Some((address, _)) = self.held.get(&n).copied() {
                    self.hear(n, server, &extending(n, address));
                }
            }
            Step::Claim(n, last) => self.hear(n, server, &extending(n, Ipv4Addr::new(10, 77, 0, last))),
            Step::Decline(n) => {
                if let Some((address, _)) = self.held.remove(&n) {
                    let _ = server.ask(&wired(n, declining(n, address)));
                }
            }
            Step::Release(n) => {
                if let Some((address, _)) = self.held.remove(&n) {
                    let _ = server.ask(&wired(n, releasing(n, address)));
                }
            }
            Step::Wait(minutes) => {
                let ms = u64::from(minutes) * 60_000;
                self.now += ms;
                server.now = server.now.plus(ms);
            }
            Step::Restart(jump) => {
                (server.table, server.now) = restarted(&mut server.stored, server.now, jump);
            }
            Step::Pool(first, last) => {
                let [first, last] = [first, last].map(|n| Ipv4Addr::new(10, 77, 0, n));
                server.subnets[0].pools = vec![Pool { first, last }];
            }
            Step::Storable(storable) => server.storable = storable,
            Step::Fail(n) => {
                let before = (server.table.clone(), server.stored.clone());
                let address = self.offer.get(&n).copied().unwrap_or(Ipv4Addr::new(10, 77, 0, 10));
                let _ = server.ask(&selecting(n, SERVER, address));
                (server.table, server.stored) = before;
            }
        }
        let now = self.now;
        self.held.retain(|_, (_, end)| *end > now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn p31_no_address_has_two_owners(steps in steps()) {
        let (mut server, mut clients) = (server(), Clients::default());
        for step in steps {
            clients.step(&mut server, step);
            let mut owners = BTreeSet::new();
            for (address, _) in clients.held.values() {
                prop_assert!(owners.insert(*address), "{address} twice: {:?}", clients.held);
            }
        }
    }
}

#[test]
fn p31_a_clock_that_jumps_at_a_restart_takes_no_lease_away() {
    for jump in [-DAY, -1, 0, 1, DAY] {
        let (mut server, mut clients) = (Server::new(), Clients::default());
        clients.step(&mut server, Step::Discover(1));
        clients.step(&mut server, Step::Take(1));
        for _ in 0..3 {
            clients.step(&mut server, Step::Restart(jump));
            let live = server.table.iter().filter(|(_, lease)| lease.is_live(server.now)).count();
            assert_eq!(live, 1, "{jump}");
        }
        // It does not live for ever either.
        clients.step(&mut server, Step::Wait(61));
        assert!(server.table.iter().all(|(_, lease)| !lease.is_live(server.now)));
    }
}

#[test]
fn p31_a_lease_survives_its_stored_form() {
    let mut server = Server::new();
    Clients::default().step(&mut server, Step::Discover(1));
    let lease = server.table.iter().next().expect("an offer").1.clone();
    let json = serde_json::to_string(&lease).expect("serialises");
    assert_eq!(serde_json::from_str::<Lease>(&json).expect("reads back"), lease);
    assert_eq!(ClientKey::from(lease.key.as_bytes().to_vec()), lease.key);
}

#[test]
fn lent_is_what_nobody_else_may_have_of_the_pools() {
    let mut table = LeaseTable::default();
    let address = |last| Ipv4Addr::new(10, 77, 0, last);
    for (last, expires) in [(9, 9), (10, 9), (11, 5), (20, 6), (21, 9)] {
        let lease = Lease {
            key: ClientKey::from(vec![last]),
            mac: None,
            state: LeaseState::Bound,
            since: Millis(1),
            expires: Millis(expires),
        };
        table.apply(LeaseWrite { address: address(last), lease });
    }
    let pool = |first, last| Pool { first: address(first), last: address(last) };
    let usage = |lent, pool| Usage { lent, pool, waits_until: None };
    assert_eq!(table.usage(&[pool(10, 14), pool(20, 20)], Millis(5)), usage(2, 6));
    assert_eq!(table.usage(&[], Millis(5)), usage(0, 0));
    let all = Pool { first: Ipv6Addr::UNSPECIFIED, last: Ipv6Addr::from_bits(u128::MAX) };
    assert_eq!(all.size(), u64::MAX, "more than can be counted");
}

#[test]
fn p31_what_is_kept_longer_after_a_start_is_not_taken_for_stored() {
    let address = Ipv4Addr::new(10, 77, 0, 9);
    let lease = |since, expires| Lease {
        key: ClientKey::from(vec![1]),
        mac: None,
        state: LeaseState::Bound,
        since: Millis(since),
        expires: Millis(expires),
    };
    let stored = [LeaseWrite { address, lease: lease(10, 30) }];
    let Resumed { mut table, .. } = LeaseTable::resume(stored, Millis(15));
    let kept = table.get(address).expect("held").clone();
    assert_eq!((kept.expires, table.stored_until(&kept)), (Millis(35), Millis(30)));
    // One that was given since is stored as it is; and so are all once the writes are.
    assert_eq!(table.stored_until(&lease(16, 36)), Millis(36));
    table.is_stored();
    assert_eq!(table.stored_until(&kept), Millis(35));
}

#[test]
fn p31_what_another_server_gave_is_learned_and_takes_back_no_later_renewal() {
    let address = Ipv4Addr::new(10, 77, 0, 9);
    let lease = |client, since| {
        let (key, since) = (ClientKey::from(vec![client]), Millis(since));
        let lease = Lease { key, mac: None, state: LeaseState::Bound, since, expires: since.plus(10) };
        LeaseWrite { address, lease }
    };
    let mut table = LeaseTable::default();
    table.learn(lease(1, 5));
    assert_eq!(table.get(address), Some(&lease(1, 5).lease));
    table.apply(lease(1, 8));
    table.learn(lease(1, 6));
    assert_eq!(table.get(address), Some(&lease(1, 8).lease), "renewed here since");
    // Another client's counts whenever it was given: it is stored, and what was believed here is not.
    table.learn(lease(2, 7));
    assert_eq!(table.get(address), Some(&lease(2, 7).lease));
    // So does one that its client was offered again before the first was heard of, and not one that had ended by then.
    let offered = |since| {
        let mut write = lease(2, since);
        write.lease.state = LeaseState::Offered;
        write
    };
    table.apply(offered(9));
    table.learn(lease(2, 7));
    assert_eq!(table.get(address), Some(&lease(2, 7).lease));
    table.apply(offered(17));
    table.learn(lease(2, 7));
    assert_eq!(table.get(address), Some(&offered(17).lease));
}
