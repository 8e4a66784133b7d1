use super::*;
use kaltstart_core::boot::BootDecision;
use kaltstart_core::dhcp::bootfile::LocalAnswer;
use kaltstart_core::dhcp::host::{Host, HostKey, Rules};
use kaltstart_core::dhcp::lease::{LeaseState, Pool};
use kaltstart_protocol::dhcp6::options::code;
use kaltstart_protocol::dhcp6::{Address, Identity, Message, MessageType, duid};

const SERVER: Ipv6Addr = ip(1);
const RESERVED: Ipv6Addr = ip(0x50);
const START: Millis = Millis(1_000_000_000_000);
const DUID: [u8; 4] = [0, 4, 9, 9];

const fn ip(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last)
}

const fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

/// What happened, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Happened {
    Committed(Vec<LeaseWrite<Ipv6Addr>>),
    Sent(MessageType, Option<Ipv6Addr>),
}

/// Backend and wire at once.
#[derive(Default)]
struct Fake {
    happened: Mutex<Vec<Happened>>,
    broken: AtomicBool,
}

impl Fake {
    fn happened(&self) -> Vec<Happened> {
        std::mem::take(&mut *self.happened.lock().expect("no panic"))
    }
}

impl Backend for Arc<Fake> {
    fn known(&self, _: Mac, _: Client) -> Option<Known> {
        Some(Known { boot: BootDecision::Discover, ..Known::STRANGER })
    }

    fn heard(&self, _: &Contact) -> bool {
        false
    }

    fn commit(
        &self,
        leases: Vec<LeaseWrite<Ipv6Addr>>,
        _: Vec<Contact>,
        done: impl FnOnce(Result<(), BackendError>) + Send + 'static,
    ) -> Result<(), BackendError> {
        if self.broken.load(Ordering::Relaxed) {
            done(Err(BackendError("full".into())));
            return Ok(());
        }
        // Later than the service goes on, if it did not wait.
        let fake = self.clone();
        std::thread::spawn(move || {
            std::thread::yield_now();
            fake.happened.lock().expect("no panic").push(Happened::Committed(leases));
            done(Ok(()));
        });
        Ok(())
    }
}

impl Link for Arc<Fake> {
    fn interface(&self) -> &str {
        "eth0"
    }

    fn send(&self, reply: &Reply) -> std::io::Result<()> {
        let sent = Happened::Sent(reply.packet.message.kind, reply.address());
        self.happened.lock().expect("no panic").push(sent);
        Ok(())
    }
}

fn site() -> (Arc<Fake>, Arc<Service<Arc<Fake>>>) {
    let mut rules = Rules::default();
    rules.add([HostKey::Mac(mac(9))], Host { address6: Some(RESERVED), ..Host::default() });
    let subnet = Subnet {
        prefix: Prefix { address: ip(0), length: 64 },
        server: SERVER,
        http: "http://[fd77::1]:8080".into(),
        direct: true,
        relays: vec![],
        pools: vec![Pool { first: ip(0x10), last: ip(0x1f) }],
        lease_seconds: 3_600,
        renew_seconds: None,
        rebind_seconds: None,
        rapid_commit: false,
        name_servers: vec![],
        domains: vec![],
        rules: Arc::new(rules),
        local: LocalAnswer::default(),
    };
    let fake = Arc::new(Fake::default());
    let service = Service::new(fake.clone(), vec![subnet], DUID.into(), LeaseTable::default(), START);
    (fake, service)
}

fn packet(kind: MessageType, n: u8, address: Option<Ipv6Addr>) -> (Packet, Arrival) {
    let mut message = Message::new(kind, [0, 0, n]);
    message.options.push(code::CLIENT_ID, duid::of_mac(mac(n)));
    if kind != MessageType::Solicit {
        message.options.push(code::SERVER_ID, DUID);
    }
    let mut identity = Identity::new(1);
    if let Some(address) = address {
        identity.push(&Address { address, preferred: 0, valid: 0 });
    }
    message.options.push(code::IA_NA, identity.encode());
    let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 1, 2, 3, n.into());
    (Packet { relays: vec![], message }, Arrival { source, address: SERVER, multicast: true })
}

#[test]
fn p13_a_reply_leaves_after_its_lease_is_durable_and_a_batch_is_one_commit() {
    let (fake, service) = site();
    service.process(vec![packet(MessageType::Solicit, 1, None)], &fake);
    assert_eq!(
        fake.happened(),
        [Happened::Sent(MessageType::Advertise, Some(ip(0x10)))],
        "offers wait for nothing"
    );
    let batch = (1..4).map(|n| packet(MessageType::Request, n, None)).collect();
    service.process(batch, &fake);
    let happened = fake.happened();
    let Some((Happened::Committed(leases), sent)) = happened.split_first() else {
        panic!("not committed first: {happened:?}")
    };
    let bound: Vec<_> = leases.iter().map(|write| (write.address, write.lease.state)).collect();
    let addresses = [ip(0x10), ip(0x11), ip(0x12)];
    assert_eq!(bound, addresses.map(|address| (address, LeaseState::Bound)));
    assert_eq!(sent, addresses.map(|address| Happened::Sent(MessageType::Reply, Some(address))));
    assert_eq!(service.usage()[0].1, Usage { lent: 3, pool: 16, waits_until: None });
}

#[test]
fn p31_what_cannot_be_stored_is_not_given() {
    let (fake, service) = site();
    fake.broken.store(true, Ordering::Relaxed);
    let batch = vec![packet(MessageType::Request, 1, None), packet(MessageType::Request, 9, None)];
    service.process(batch, &fake);
    assert_eq!(fake.happened(), [Happened::Sent(MessageType::Reply, Some(RESERVED))]);
    assert!(!service.is_storing());
    assert_eq!(service.usage()[0].1.lent, 0, "all of it was undone");
    fake.broken.store(false, Ordering::Relaxed);
    service.process(vec![packet(MessageType::Request, 2, None)], &fake);
    assert!(service.is_storing());
    assert_eq!(fake.happened().last(), Some(&Happened::Sent(MessageType::Reply, Some(ip(0x10)))));
}
