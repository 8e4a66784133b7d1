use super::*;
use kaltstart_core::boot::BootDecision;
use kaltstart_core::dhcp::Destination;
use kaltstart_core::dhcp::bootfile::LocalAnswer;
use kaltstart_core::dhcp::lease::{ClientKey, LeaseState, Pool};
use kaltstart_core::dhcp::parameters::Parameters;
use kaltstart_core::dhcp::ping_check::{Looking, PingCheck};
use kaltstart_core::dhcp::subnet::Network;
use kaltstart_protocol::dhcp::CLIENT_PORT;
use kaltstart_protocol::dhcp::options::code;
use std::collections::VecDeque;
use std::io::{Read as _, Seek as _};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
const START: Millis = Millis(1_000_000_000_000);

type Done = Box<dyn FnOnce(Result<(), BackendError>) + Send>;

/// A backend whose commits end when the test says so.
#[derive(Default)]
struct Fake {
    commits: Mutex<Vec<(Vec<LeaseWrite>, Vec<Contact>)>>,
    in_flight: Mutex<VecDeque<Done>>,
    /// The machine that has a reservation.
    reservation: Mutex<Option<(Mac, Ipv4Addr)>>,
}

impl Backend for Arc<Fake> {
    fn known(&self, asking: &[Lookup]) -> Knowledge {
        let reservation = *self.reservation.lock().expect("no panic");
        let known = |one: &Lookup| {
            let (_, address) = reservation.filter(|(mac, _)| Some(*mac) == one.mac)?;
            let boot = BootDecision::Discover;
            Some(Known { reservation: Some(address), boot, ..Known::STRANGER })
        };
        let reserved = reservation.iter().map(|(_, address)| *address).collect();
        Knowledge { nodes: asking.iter().map(known).collect(), reserved: Arc::new(reserved) }
    }

    fn heard(&self, contact: &Contact) -> bool {
        contact.client.boots()
    }

    fn commit(
        &self,
        leases: Vec<LeaseWrite>,
        contacts: Vec<Contact>,
        done: impl FnOnce(Result<(), BackendError>) + Send + 'static,
    ) -> Result<(), BackendError> {
        self.commits.lock().expect("no panic").push((leases, contacts));
        self.in_flight.lock().expect("no panic").push_back(Box::new(done));
        Ok(())
    }
}

/// Remembers what was sent.
#[derive(Default)]
struct Wire(Mutex<Vec<Reply>>);

impl Link for Wire {
    fn interface(&self) -> &str {
        "eth0"
    }

    fn address(&self) -> Ipv4Addr {
        SERVER
    }

    fn send(&self, replies: &[&Reply], _stats: &Stats) {
        self.0.lock().expect("no panic").extend(replies.iter().copied().cloned());
    }
}

/// A service with both ends in hand.
struct Site {
    fake: Arc<Fake>,
    ping: Arc<Pinged>,
    wire: Arc<Wire>,
    service: Arc<Service<Arc<Fake>>>,
}

/// Remembers what was looked for.
#[derive(Default)]
struct Pinged {
    looked_for: Mutex<Vec<Ipv4Addr>>,
    /// Whether nothing can be sent.
    fails: bool,
    /// Who answers ARP.
    on_wire: BTreeSet<Ipv4Addr>,
}

impl Ping for Pinged {
    fn ping(&self, address: Ipv4Addr) -> std::io::Result<()> {
        if self.fails {
            return Err(std::io::ErrorKind::PermissionDenied.into());
        }
        self.looked_for.lock().expect("no panic").push(address);
        Ok(())
    }

    fn on_wires(&self) -> BTreeSet<Ipv4Addr> {
        self.on_wire.clone()
    }
}

impl Site {
    fn new() -> Self {
        Self::checking(Looking { mode: PingCheck::Never, ..Looking::default() }, None, Pinged::default())
    }

    /// A site that looks for free addresses, whose leases may be an older copy.
    fn checking(looking: Looking, restored: Option<Millis>, ping: Pinged) -> Self {
        let subnet = Subnet {
            network: Network { address: SERVER, prefix: 24 },
            server: SERVER,
            http: "http://10.77.0.1:8080".into(),
            direct: true,
            relays: vec![],
            pools: vec![Pool { first: FIRST, last: Ipv4Addr::new(10, 77, 0, 200) }],
            parameters: Parameters::default(),
            rules: Arc::default(),
            local: LocalAnswer::default(),
            looking,
        };
        let (fake, ping) = (Arc::new(Fake::default()), Arc::new(ping));
        let service = Service::new(
            fake.clone(),
            vec![subnet],
            Arc::new(Watches::new([], [], START)),
            LeaseTable::default(),
            START,
            restored,
            Some(ping.clone()),
        );
        Self { fake, ping, wire: Arc::default(), service }
    }

    fn arrive(&self, messages: impl IntoIterator<Item = Message>) {
        let link: Arc<dyn Link> = self.wire.clone();
        let packets = messages.into_iter().map(|message| Packet { message, port: CLIENT_PORT });
        self.service.process(packets.collect(), &link);
    }

    /// Ends the oldest commit in flight.
    fn land(&self, outcome: Result<(), BackendError>) {
        let done = self.fake.in_flight.lock().expect("no panic").pop_front();
        done.expect("a commit is in flight")(outcome);
    }

    /// What was sent since the last call.
    fn sent(&self) -> Vec<Reply> {
        std::mem::take(&mut *self.wire.0.lock().expect("no panic"))
    }

    fn kinds(&self) -> Vec<MessageType> {
        self.sent().iter().map(|reply| reply.kind).collect()
    }
}

fn full() -> Result<(), BackendError> {
    Err(BackendError("disk full".into()))
}

fn discover(n: u8) -> Message {
    Message::request(MessageType::Discover, u32::from(n), Mac([2, 0, 0, 0, 0, n]))
}

fn key(n: u8) -> ClientKey {
    ClientKey::of(&discover(n)).expect("short")
}

fn request(n: u8, address: Ipv4Addr) -> Message {
    let mut message = Message::request(MessageType::Request, u32::from(n), Mac([2, 0, 0, 0, 0, n]));
    message.options.set_addresses(code::REQUESTED_ADDRESS, &[address]);
    message.options.set_addresses(code::SERVER_ID, &[SERVER]);
    message
}

#[test]
fn p31_a_batch_is_one_commit_and_its_acks_wait_for_it() {
    let site = Site::new();
    site.arrive((1..=50).map(discover));
    let offers = site.sent();
    assert!(offers.iter().all(|offer| offer.kind == MessageType::Offer));
    assert!(offers.iter().all(|offer| matches!(offer.destination, Destination::Hardware(..))));
    assert!(site.fake.commits.lock().expect("no panic").is_empty(), "offers bind nobody");
    let takes = (1..=50).map(|n| request(n, offers[usize::from(n) - 1].message.yiaddr));
    site.arrive(takes.chain([discover(51)]));
    assert_eq!(site.kinds(), [MessageType::Offer], "which rests on nothing new");
    site.land(Ok(()));
    let acks = site.sent();
    assert!(acks.len() == 50 && acks.iter().all(|ack| ack.kind == MessageType::Ack));
    let commits = site.fake.commits.lock().expect("no panic");
    assert_eq!((commits.len(), commits[0].0.len()), (1, 50));
    let bound = commits[0].0.iter().all(|write| write.lease.state == LeaseState::Bound);
    let usage = Usage { lent: 51, pool: 191, waits_until: None };
    assert_eq!(site.service.usage()[0].1, usage, "the offer is kept for its client too");
    assert!(bound && commits[0].0.iter().zip(&acks).all(|(w, ack)| w.address == ack.message.yiaddr));
}

#[test]
fn p31_what_rests_on_a_failed_commit_is_undone_and_not_sent() {
    let site = Site::new();
    site.arrive([request(1, FIRST)]);
    // Decided while the first is in flight, and upon it.
    let mut release = Message::request(MessageType::Release, 1, Mac([2, 0, 0, 0, 0, 1]));
    release.ciaddr = FIRST;
    site.arrive([release, request(2, FIRST)]);
    assert_eq!(site.service.table().last_of(&key(2)).map(|(address, _)| address), Some(FIRST));
    site.land(full());
    assert_eq!(*site.service.table(), LeaseTable::default());
    assert!(!site.service.stats().is_storing());
    // Even if what came later could be stored.
    site.land(Ok(()));
    assert_eq!(site.sent(), []);
    assert!(site.service.stats().counts().any(|count| count == ("dropped", "not-stored", 2)));
    site.arrive([request(2, FIRST), request(1, FIRST)]);
    assert_eq!(site.kinds(), [MessageType::Nak], "it is the second one's now");
    site.land(Ok(()));
    assert_eq!(site.kinds(), [MessageType::Ack]);
    assert!(site.service.stats().is_storing());
}

#[test]
fn p31_reserved_addresses_and_stored_leases_are_given_while_nothing_can_be_stored() {
    let site = Site::new();
    let reserved = Ipv4Addr::new(10, 77, 0, 5);
    *site.fake.reservation.lock().expect("no panic") = Some((Mac([2, 0, 0, 0, 0, 5]), reserved));
    site.arrive([request(1, FIRST)]);
    site.land(Ok(()));
    assert_eq!(site.kinds(), [MessageType::Ack]);
    let before = site.service.table().clone();
    site.arrive([request(1, FIRST), request(2, Ipv4Addr::new(10, 77, 0, 11)), request(5, reserved)]);
    site.land(full());
    let mut given: Vec<_> = site.sent().iter().map(|reply| (reply.kind, reply.message.yiaddr)).collect();
    given.sort();
    assert_eq!(given, [(MessageType::Ack, reserved), (MessageType::Ack, FIRST)]);
    assert_eq!(*site.service.table(), before);
}

#[test]
fn p32_machines_that_are_known_come_before_a_flood_of_strangers() {
    let site = Site::new();
    *site.fake.reservation.lock().expect("no panic") = Some((Mac([2, 0, 0, 0, 0, 250]), FIRST));
    site.arrive((1..=250).map(discover));
    let offers = site.sent();
    assert_eq!(offers[0].message.yiaddr, FIRST);
    assert_eq!(offers.len(), 191, "the pool without the reserved address, and that");
}

#[test]
fn an_offer_waits_when_its_machine_must_be_stored_first() {
    let site = Site::new();
    let mut firmware = discover(1);
    firmware.options.set(code::VENDOR_CLASS, *b"PXEClient:Arch:00007");
    site.arrive([firmware]);
    assert_eq!(site.sent(), []);
    site.land(Ok(()));
    assert_eq!(site.kinds(), [MessageType::Offer]);
}

#[test]
fn what_is_not_for_us_reaches_no_backend() {
    let site = Site::new();
    let mut foreign = discover(1);
    foreign.giaddr = Ipv4Addr::new(192, 168, 0, 1);
    site.arrive([foreign, discover(1).reply(MessageType::Offer)]);
    assert_eq!(site.sent(), []);
    assert!(site.fake.commits.lock().expect("no panic").is_empty());
    let counted: Vec<_> = site.service.stats().counts().filter(|(_, _, count)| *count > 0).collect();
    assert_eq!(counted, [("dropped", "from-server", 1), ("dropped", "unknown-subnet", 1)]);
}

/// What the log is told while something is done.
fn told(what: impl FnOnce()) -> String {
    let mut file = tempfile::tempfile().expect("a file");
    let writer = Arc::new(file.try_clone().expect("the same file"));
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
    tracing::subscriber::with_default(log, what);
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("readable");
    text
}

#[test]
fn the_log_hears_of_a_declined_address_and_of_a_strange_relay_but_not_of_every_packet() {
    let site = Site::new();
    site.arrive([request(1, FIRST)]);
    site.land(Ok(()));
    let mut decline = Message::request(MessageType::Decline, 1, Mac([2, 0, 0, 0, 0, 1]));
    decline.options.set_addresses(code::REQUESTED_ADDRESS, &[FIRST]);
    let relayed = |last| Message { giaddr: Ipv4Addr::new(192, 168, 0, last), ..discover(2) };
    let log = told(|| {
        site.arrive([decline.clone()]);
        site.land(Ok(()));
        site.arrive([decline, relayed(1), relayed(1), relayed(2)]);
    });
    let lines: Vec<_> = log.lines().collect();
    let [declined, first, second] = lines[..] else { panic!("{log}") };
    for part in ["WARN", "02:00:00:00:00:01", "declines", "10.77.0.10"] {
        assert!(declined.contains(part), "{part:?} in {declined}");
    }
    assert!(first.contains("WARN") && first.contains("relay=192.168.0.1 ") && first.contains("`relays`"));
    assert!(second.contains("relay=192.168.0.2 "), "{second}");
}

const ALWAYS: Looking = Looking { mode: PingCheck::Always, longest_ms: 3_600_000, on_wire: true };

/// Later than any wait for somebody's answer.
fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[test]
fn p31_a_free_address_is_looked_for_before_it_is_offered() {
    let site = Site::checking(ALWAYS, None, Pinged::default());
    site.arrive([discover(1)]);
    let again = Message { xid: 77, ..discover(1) };
    site.arrive([again]);
    site.service.release_due(Instant::now());
    assert_eq!(site.kinds(), [], "somebody may still answer");
    assert_eq!(
        *site.ping.looked_for.lock().expect("no panic"),
        [FIRST],
        "asked once, however often the client asks"
    );
    site.service.release_due(later());
    let offers = site.sent();
    assert_eq!(
        offers.iter().map(|offer| (offer.message.yiaddr, offer.message.xid)).collect::<Vec<_>>(),
        [(FIRST, 77)]
    );
    site.arrive([discover(1)]);
    assert_eq!(site.kinds(), [MessageType::Offer], "what it holds needs no second look");
}

#[test]
fn p31_an_address_that_answers_rests_and_the_client_gets_another() {
    let site = Site::checking(ALWAYS, None, Pinged::default());
    site.arrive([discover(1)]);
    site.service.heard_from(Ipv4Addr::new(10, 77, 0, 99));
    site.service.heard_from(FIRST);
    let commits = std::mem::take(&mut *site.fake.commits.lock().expect("no panic"));
    let [(leases, _)] = commits.as_slice() else { panic!("{commits:?}") };
    assert_eq!((leases[0].address, leases[0].lease.state), (FIRST, LeaseState::InUse), "durable");
    site.land(Ok(()));
    site.service.release_due(later());
    let second = Ipv4Addr::new(10, 77, 0, 11);
    assert_eq!(*site.ping.looked_for.lock().expect("no panic"), [FIRST, second]);
    assert_eq!(site.sent().iter().map(|offer| offer.message.yiaddr).collect::<Vec<_>>(), [second]);
}

#[test]
fn p31_a_client_that_takes_its_address_while_that_is_looked_for_may_answer_for_it() {
    let site = Site::checking(ALWAYS, None, Pinged::default());
    site.arrive([discover(1)]);
    site.arrive([request(1, FIRST)]);
    site.land(Ok(()));
    assert_eq!(site.kinds(), [MessageType::Ack]);
    site.service.heard_from(FIRST);
    assert_eq!(site.service.held(FIRST).map(|lease| lease.state), Some(LeaseState::Bound));
    site.arrive([discover(2)]);
    assert_eq!(site.ping.looked_for.lock().expect("no panic").len(), 2, "others are served");
}

#[test]
fn p31_who_answers_arp_alone_has_the_address_too() {
    let second = Ipv4Addr::new(10, 77, 0, 11);
    let site = Site::checking(ALWAYS, None, Pinged { on_wire: [FIRST].into(), ..Pinged::default() });
    site.arrive([discover(1)]);
    site.service.release_due(later());
    site.land(Ok(()));
    assert_eq!(site.kinds(), []);
    site.service.release_due(later());
    assert_eq!(site.sent().iter().map(|offer| offer.message.yiaddr).collect::<Vec<_>>(), [second]);
}

#[test]
fn p31_what_cannot_be_looked_for_is_not_offered_after_a_restore() {
    for (restored, offers) in [(None, vec![MessageType::Offer]), (Some(START), vec![])] {
        let site = Site::checking(ALWAYS, restored, Pinged { fails: true, ..Pinged::default() });
        site.arrive([discover(1)]);
        assert_eq!(site.kinds(), offers, "{restored:?}");
    }
}
