use super::*;
use kaltstart_core::boot::BootDecision;
use kaltstart_core::dhcp::Destination;
use kaltstart_core::dhcp::bootfile::LocalAnswer;
use kaltstart_core::dhcp::lease::{LeaseState, Pool};
use kaltstart_core::dhcp::subnet::Network;
use kaltstart_protocol::dhcp::options::code;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicBool, Ordering};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
const START: Millis = Millis(1_000_000_000_000);
const DAY: u64 = 24 * 3_600 * 1_000;

/// Remembers what was committed, and can refuse.
#[derive(Default)]
struct Fake {
    commits: StdMutex<Vec<(Vec<LeaseWrite>, Vec<Contact>)>>,
    full: AtomicBool,
}

impl Backend for Arc<Fake> {
    async fn known(&self, asking: &[Lookup]) -> Result<Knowledge, BackendError> {
        let known = Known { reservation: None, hostname: None, boot: BootDecision::Discover };
        Ok(Knowledge { nodes: vec![known; asking.len()], reserved: Arc::default() })
    }

    async fn commit(&self, leases: &[LeaseWrite], contacts: &[Contact]) -> Result<(), BackendError> {
        if self.full.load(Ordering::Relaxed) {
            return Err(BackendError("disk full".into()));
        }
        self.commits.lock().expect("no panic").push((leases.to_vec(), contacts.to_vec()));
        Ok(())
    }
}

async fn service(stored: Vec<LeaseWrite>) -> (Arc<Fake>, Service<Arc<Fake>>) {
    let subnet = Subnet {
        network: Network { address: SERVER, prefix: 24 },
        server: SERVER,
        http: "http://10.77.0.1:8080".into(),
        pool: Pool { first: FIRST, last: Ipv4Addr::new(10, 77, 0, 200) },
        routers: vec![],
        name_servers: vec![],
        domain: None,
        lease_seconds: 3_600,
        local: LocalAnswer::default(),
    };
    let fake = Arc::new(Fake::default());
    let service = Service::new(Arc::clone(&fake), vec![subnet], stored, START).await;
    (fake, service.expect("the fake commits"))
}

fn discover(n: u8) -> Message {
    Message::request(MessageType::Discover, u32::from(n), Mac([2, 0, 0, 0, 0, n]))
}

fn request(n: u8, address: Ipv4Addr) -> Message {
    let mut message = Message::request(MessageType::Request, u32::from(n), Mac([2, 0, 0, 0, 0, n]));
    message.options.set_addresses(code::REQUESTED_ADDRESS, &[address]);
    message.options.set_addresses(code::SERVER_ID, &[SERVER]);
    message
}

fn kinds(replies: &[Reply]) -> Vec<MessageType> {
    replies.iter().map(|reply| reply.kind).collect()
}

#[tokio::test]
async fn p31_a_batch_is_one_commit_and_only_leases_are_stored() {
    let (fake, service) = service(vec![]).await;
    let replies = service.process((1..=50).map(discover), "eth0", SERVER).await;
    assert_eq!(kinds(&replies), [MessageType::Offer; 50]);
    assert!(replies.iter().all(|reply| reply.destination == Destination::Broadcast));
    let takes = (1..=50).map(|n| request(n, replies[usize::from(n) - 1].message.yiaddr));
    let replies = service.process(takes, "eth0", SERVER).await;
    assert_eq!(kinds(&replies), [MessageType::Ack; 50]);
    let commits = fake.commits.lock().expect("no panic");
    let sizes: Vec<_> = commits.iter().map(|(leases, contacts)| (leases.len(), contacts.len())).collect();
    assert_eq!(sizes, [(0, 50), (50, 50)]);
    let bound = commits[1].0.iter().all(|write| write.lease.state == LeaseState::Bound);
    assert!(bound && commits[1].0.iter().zip(&replies).all(|(w, reply)| w.address == reply.message.yiaddr));
}

#[tokio::test]
async fn p31_a_failed_commit_answers_nobody_and_changes_nothing() {
    let (fake, service) = service(vec![]).await;
    fake.full.store(true, Ordering::Relaxed);
    let batch = || [discover(1), request(2, FIRST), discover(3)];
    assert_eq!(service.process(batch(), "eth0", SERVER).await, []);
    assert_eq!(*service.table.lock().await, LeaseTable::default());
    assert!(service.stats().counts().any(|count| count == ("dropped", "backend", 3)));
    fake.full.store(false, Ordering::Relaxed);
    // The second client is refused, for the first now holds that address.
    let replies = service.process(batch(), "eth0", SERVER).await;
    assert_eq!(kinds(&replies), [MessageType::Offer, MessageType::Nak, MessageType::Offer]);
}

#[tokio::test]
async fn p31_leases_live_on_after_a_restart_with_a_jumped_clock() {
    let (fake, first) = service(vec![]).await;
    assert_eq!(kinds(&first.process([request(1, FIRST)], "eth0", SERVER).await), [MessageType::Ack]);
    let mut stored = fake.commits.lock().expect("no panic")[0].0.clone();
    // As if it had been written a day ago.
    for moment in stored.iter_mut().flat_map(|w| [&mut w.lease.since, &mut w.lease.expires]) {
        *moment = moment.minus(DAY);
    }
    let (fake, second) = service(stored).await;
    assert_eq!(
        fake.commits.lock().expect("no panic")[0].0[0].address,
        FIRST,
        "the prolonged lease is stored"
    );
    assert_eq!(kinds(&second.process([request(2, FIRST)], "eth0", SERVER).await), [MessageType::Nak]);
}

#[tokio::test]
async fn what_is_not_for_us_reaches_no_backend() {
    let (fake, service) = service(vec![]).await;
    let mut foreign = discover(1);
    foreign.giaddr = Ipv4Addr::new(192, 168, 0, 1);
    assert_eq!(service.process([foreign, discover(1).reply(MessageType::Offer)], "eth0", SERVER).await, []);
    assert!(fake.commits.lock().expect("no panic").is_empty());
    let counted: Vec<_> = service.stats().counts().filter(|(_, _, count)| *count > 0).collect();
    assert_eq!(counted, [("dropped", "from-server", 1), ("dropped", "unknown-subnet", 1)]);
}
