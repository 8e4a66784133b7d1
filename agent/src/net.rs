//! Gets the machine onto the network: links up, DHCP on all of them at once, one is configured.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use kaltstart_protocol::dhcp::SERVER_PORT;
use kaltstart_protocol::facts::Nic;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::Mac;

use crate::dhcp_client::{Client, Lease, Step};
use crate::sys::kernel::{random_u32, uptime};
use crate::sys::net as sys;
use crate::{inventory, log};

/// How long a link may stay without carrier before the console says so.
const LINK_LIMIT: Duration = Duration::from_secs(30);
/// How long DHCP may stay unanswered on a link with carrier before the console says so.
const DHCP_LIMIT: Duration = Duration::from_secs(30);
/// The console is told again when this much has passed, twice as much, and so on up to the cap.
const REMINDER: Duration = Duration::from_secs(30);
/// Longest time between two reminders.
const REMINDER_CAP: Duration = Duration::from_secs(600);
/// How long the interface the machine booted from is waited for when another one answers first.
const BOOT_NIC_HEAD_START: Duration = Duration::from_secs(3);
/// Pause between looks at carriers and new interfaces.
const LOOK: Duration = Duration::from_millis(20);
/// Longest sleep of a client without looking whether it is still wanted.
const CLIENT_TURN: Duration = Duration::from_millis(500);
/// How long an answer to a renewal is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Longest DHCP message taken.
const PACKET: usize = 1500;

/// An interface that is in use.
#[derive(Debug, Clone)]
pub struct Network {
    /// Its name.
    pub interface: String,
    /// What it was given.
    pub lease: Lease,
}

/// What a link's thread tells.
struct Answer {
    interface: String,
    mac: Mac,
    client: Client,
    lease: Lease,
}

/// Brings up the network and returns when one interface has an address. Tries for ever, telling
/// the console what is missing.
pub fn bring_up(boot_mac: Option<Mac>) -> Network {
    let (sender, answers) = mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let mut links: BTreeMap<String, Nic> = BTreeMap::new();
    let mut carrier_since = None;
    let mut first: Option<(Answer, Duration)> = None;
    let start = uptime();
    let mut reminder = Reminder::new(start + LINK_LIMIT);
    loop {
        for nic in inventory::nics(Path::new("/")) {
            if links.get(&nic.name).is_none_or(|known| known.link != nic.link) {
                tracing::info!(
                    "{} {} ({}): {}",
                    nic.name,
                    nic.mac,
                    nic.driver,
                    if nic.link { "link" } else { "no link" }
                );
            }
            if links.insert(nic.name.clone(), nic.clone()).is_none() {
                start_link(nic, sender.clone(), stop.clone());
            }
        }
        let now = uptime();
        if carrier_since.is_none() && links.values().any(|nic| nic.link) {
            carrier_since = Some(now);
            reminder = Reminder::new(now + DHCP_LIMIT);
        }
        if let Some((answer, _)) =
            first.take_if(|(answer, until)| Some(answer.mac) == boot_mac || now >= *until)
        {
            stop.store(true, Ordering::Relaxed);
            match configure(&answer.interface, &answer.lease) {
                Ok(()) => {
                    let network =
                        Network { interface: answer.interface.clone(), lease: answer.lease.clone() };
                    std::thread::spawn(move || keep(answer));
                    return network;
                }
                Err(error) => tracing::error!("{} cannot be given its address: {error}", answer.interface),
            }
            // The links' threads were stopped: begin again with all of them.
            links.clear();
            std::thread::sleep(Duration::from_secs(1));
            stop.store(false, Ordering::Relaxed);
        }
        if reminder.due(now) {
            remind(&links, now.saturating_sub(carrier_since.unwrap_or(start)));
        }
        match answers.recv_timeout(LOOK) {
            Ok(answer) => {
                let answer: Answer = answer;
                let boot_is_there = links.values().any(|nic| Some(nic.mac) == boot_mac && nic.link);
                let wait = if boot_is_there { BOOT_NIC_HEAD_START } else { Duration::ZERO };
                let better = Some(answer.mac) == boot_mac;
                if better || first.is_none() {
                    first = Some((answer, uptime() + wait));
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}

/// Switches all interfaces off that [`bring_up`] has switched on: the system that starts now finds them as after
/// power-on, and can still rename them.
#[cfg(feature = "install")]
pub fn take_down() {
    for nic in inventory::nics(Path::new("/")) {
        if let Err(error) = sys::set_down(&nic.name) {
            tracing::warn!("{} cannot be switched off: {error}", nic.name);
        }
    }
}

/// When the console is told again: after doubling times up to a cap.
struct Reminder {
    next: Duration,
    step: Duration,
}

impl Reminder {
    fn new(next: Duration) -> Self {
        Self { next, step: REMINDER }
    }

    fn due(&mut self, now: Duration) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + self.step;
            self.step = (self.step * 2).min(REMINDER_CAP);
        }
        due
    }
}

/// Shows on the console what keeps the machine off the network.
fn remind(links: &BTreeMap<String, Nic>, waited: Duration) {
    let list = links
        .values()
        .map(|nic| format!("{} {} {}", nic.name, nic.mac, if nic.link { "link" } else { "no link" }))
        .collect::<Vec<_>>()
        .join(", ");
    let seen = if list.is_empty() { "no network interface at all".to_owned() } else { list };
    let code = if links.values().any(|nic| nic.link) { Code::AgentNoDhcp } else { Code::AgentNoLink };
    let finding = Finding::new(code, format!("{} s without success; {seen}; trying on", waited.as_secs()));
    log::finding(&finding);
}

/// Starts the thread of one link: up, wait for carrier, DHCP.
fn start_link(nic: Nic, sender: mpsc::Sender<Answer>, stop: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        if let Err(error) = sys::set_up(&nic.name) {
            tracing::warn!("{} cannot be switched on: {error}", nic.name);
        }
        while !stop.load(Ordering::Relaxed) {
            if !has_carrier(&nic.name) {
                std::thread::sleep(LOOK);
                continue;
            }
            match lease_on(&nic, &stop) {
                Ok(Some((client, lease))) => {
                    // The receiver is gone only when another link has won.
                    let _ = sender.send(Answer { interface: nic.name.clone(), mac: nic.mac, client, lease });
                    return;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!("DHCP on {}: {error}", nic.name);
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        }
    });
}

fn has_carrier(interface: &str) -> bool {
    fs::read_to_string(format!("/sys/class/net/{interface}/carrier")).is_ok_and(|text| text.trim() == "1")
}

/// Runs the client until it has a lease, the link is lost or nobody wants it any more.
fn lease_on(nic: &Nic, stop: &AtomicBool) -> io::Result<Option<(Client, Lease)>> {
    let socket = sys::dhcp_socket(&nic.name, CLIENT_TURN)?;
    let mut running = Client::new(nic.mac, random_u32(), uptime());
    loop {
        if stop.load(Ordering::Relaxed) || !has_carrier(&nic.name) {
            return Ok(None);
        }
        if turn(&socket, &mut running)?
            && let Some(lease) = running.lease().cloned()
        {
            return Ok(Some((running, lease)));
        }
    }
}

/// Sends what is due or receives one packet; true when there is a new lease.
fn turn(socket: &UdpSocket, client: &mut Client) -> io::Result<bool> {
    match client.poll(uptime(), random_u32()) {
        Step::Send { packet, to } => {
            socket.send_to(&packet, (to, SERVER_PORT))?;
            Ok(false)
        }
        Step::WaitUntil(time) => {
            let wait = time.saturating_sub(uptime()).clamp(Duration::from_millis(1), CLIENT_TURN);
            socket.set_read_timeout(Some(wait))?;
            let mut packet = [0; PACKET];
            match socket.recv(&mut packet) {
                Ok(length) => Ok(client.receive(&packet[..length], uptime(), random_u32())),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
                {
                    Ok(false)
                }
                Err(error) => Err(error),
            }
        }
    }
}

/// Gives the interface its address, sets the default route, and tells the resolver.
fn configure(interface: &str, lease: &Lease) -> io::Result<()> {
    sys::set_address(interface, lease.address, lease.netmask)?;
    if let Some(router) = lease.router
        && let Err(error) = sys::add_default_route(router)
    {
        // The server may be on this very network: go on.
        tracing::warn!("no default route through {router}: {error}");
    }
    if let Err(error) = write_resolver(lease) {
        tracing::warn!("/etc/resolv.conf cannot be written: {error}");
    }
    let prefix = u32::from(lease.netmask).count_ones();
    tracing::info!(
        "{interface}: {}/{prefix} from {} for {} s",
        lease.address,
        lease.server,
        lease.end.as_secs()
    );
    Ok(())
}

fn write_resolver(lease: &Lease) -> io::Result<()> {
    fs::create_dir_all("/etc")?;
    let mut file = fs::File::create("/etc/resolv.conf")?;
    if !lease.domain.is_empty() {
        writeln!(file, "search {}", lease.domain)?;
    }
    lease.dns.iter().try_for_each(|server: &Ipv4Addr| writeln!(file, "nameserver {server}"))
}

/// Renews the lease for ever. An address is kept when it cannot be renewed: better than none.
///
/// The socket is open only while an answer is expected: the agent listens to nothing.
fn keep(answer: Answer) {
    let Answer { interface, mut client, lease, .. } = answer;
    let mut used = lease;
    loop {
        match client.poll(uptime(), random_u32()) {
            Step::WaitUntil(time) => std::thread::sleep(time.saturating_sub(uptime())),
            Step::Send { packet, to } => {
                if let Err(error) = exchange(&interface, &mut client, &packet, to) {
                    tracing::debug!("DHCP on {interface}: {error}");
                }
            }
        }
        let Some(lease) = client.lease().filter(|lease| **lease != used) else { continue };
        tracing::debug!("{interface}: lease of {} renewed", lease.address);
        if (lease.address, lease.netmask, lease.router) != (used.address, used.netmask, used.router) {
            tracing::warn!("{interface}: address changes from {} to {}", used.address, lease.address);
            if let Err(error) = configure(&interface, lease) {
                tracing::error!("{interface} cannot be given its address: {error}");
            }
        }
        used = lease.clone();
    }
}

/// Sends a packet and listens until the client has something to do or the answer is late.
fn exchange(interface: &str, client: &mut Client, packet: &[u8], to: Ipv4Addr) -> io::Result<()> {
    let socket = sys::dhcp_socket(interface, CLIENT_TURN)?;
    socket.send_to(packet, (to, SERVER_PORT))?;
    let late = uptime() + ANSWER_LIMIT;
    while uptime() < late && !client.is_due(uptime()) {
        let mut packet = [0; PACKET];
        match socket.recv(&mut packet) {
            Ok(length) => {
                if client.receive(&packet[..length], uptime(), random_u32()) {
                    return Ok(());
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
