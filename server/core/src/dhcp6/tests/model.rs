//! Promise 31 against a model: what the clients believe, by a clock that does not jump.

use super::*;
use crate::dhcp::lease::tests::restarted;
use alloc::collections::BTreeSet;
use proptest::prelude::*;

const DAY: i64 = 24 * 3_600 * 1_000;

#[derive(Debug, Clone)]
enum Step {
    Solicit(u8),
    /// Ask for the last offer, or for any address.
    Request(u8, u16),
    /// Extend what it believes to hold, with its server or with any.
    Renew(u8, bool),
    /// Extend any address.
    Claim(u8, u16),
    Decline(u8),
    Release(u8),
    /// Minutes go by.
    Wait(u16),
    /// The server restarts; the clock on the wall has moved by this many ms meanwhile.
    Restart(i64),
    /// The server restarts with this pool.
    Pool(u16, u16),
    /// From now on leases can be stored, or not.
    Storable(bool),
    /// The store fails: the next change is undone and not answered.
    Fail(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // One of them has a reservation.
    let who = || prop_oneof![1..5_u8, Just(50)];
    let any_address = || prop_oneof![0xf..0x15_u16, Just(0x50)];
    let step = prop_oneof![
        3 => who().prop_map(Step::Solicit),
        4 => (who(), any_address()).prop_map(|(n, a)| Step::Request(n, a)),
        2 => (who(), any::<bool>()).prop_map(|(n, any)| Step::Renew(n, any)),
        1 => (who(), any_address()).prop_map(|(n, a)| Step::Claim(n, a)),
        1 => who().prop_map(Step::Decline),
        1 => who().prop_map(Step::Release),
        2 => (0..90_u16).prop_map(Step::Wait),
        1 => prop_oneof![Just(-DAY), Just(0), Just(DAY), -DAY..DAY].prop_map(Step::Restart),
        1 => (0xf..0x15_u16, 0..4_u16).prop_map(|(first, more)| Step::Pool(first, first + more)),
        1 => any::<bool>().prop_map(Step::Storable),
        1 => who().prop_map(Step::Fail),
    ];
    prop::collection::vec(step, 1..120)
}

/// The clients' side of the world.
#[derive(Default)]
struct Clients {
    /// True time, ms.
    now: u64,
    offer: BTreeMap<u8, Ipv6Addr>,
    /// Addresses that each client holds, and their true ends.
    held: BTreeMap<(u8, Ipv6Addr), u64>,
}

impl Clients {
    fn hear(&mut self, n: u8, server: &mut Server, message: Message) {
        let Ok(reply) = server.ask(n, message) else { return };
        for Address { address, valid, .. } in
            reply.packet.message.identities().flat_map(|it| it.addresses().collect::<Vec<_>>())
        {
            if reply.packet.message.kind == MessageType::Advertise {
                self.offer.insert(n, address);
            } else if valid == 0 {
                self.held.remove(&(n, address));
            } else {
                self.held.insert((n, address), self.now + u64::from(valid) * 1_000);
            }
        }
    }

    fn holding(&self, n: u8) -> Option<Ipv6Addr> {
        self.held.keys().find(|(owner, _)| *owner == n).map(|(_, address)| *address)
    }

    fn step(&mut self, server: &mut Server, step: Step) {
        match step {
            Step::Solicit(n) => self.hear(n, server, solicit(n)),
            Step::Request(n, any) => {
                let address = self.offer.remove(&n).unwrap_or(ip(any));
                self.hear(n, server, request(n, address));
            }
            Step::Renew(n, any_server) => {
                let Some(address) = self.holding(n) else { return };
                let renew = if any_server {
                    with_identity(message(MessageType::Rebind, n), 1, &[address])
                } else {
                    to_server(MessageType::Renew, n, address)
                };
                self.hear(n, server, renew);
            }
            Step::Claim(n, any) => self.hear(n, server, to_server(MessageType::Renew, n, ip(any))),
            Step::Decline(n) | Step::Release(n) => {
                let kind = if matches!(step, Step::Decline(_)) {
                    MessageType::Decline
                } else {
                    MessageType::Release
                };
                let Some(address) = self.holding(n) else { return };
                self.held.remove(&(n, address));
                let _ = server.ask(n, to_server(kind, n, address));
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
                server.subnets[0].pools = vec![Pool { first: ip(first), last: ip(last) }];
            }
            Step::Storable(storable) => server.storable = storable,
            Step::Fail(n) => {
                let before = (server.table.clone(), server.stored.clone());
                let address = self.offer.get(&n).copied().unwrap_or(ip(0x10));
                let _ = server.ask(n, request(n, address));
                (server.table, server.stored) = before;
            }
        }
        let now = self.now;
        self.held.retain(|_, end| *end > now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn p31_no_ipv6_address_has_two_owners(steps in steps()) {
        let (mut server, mut clients) = (Server::new(), Clients::default());
        for step in steps {
            clients.step(&mut server, step);
            let mut owners = BTreeSet::new();
            for (_, address) in clients.held.keys() {
                prop_assert!(owners.insert(*address), "{address} twice: {:?}", clients.held);
            }
        }
    }
}
