//! Leases of a server that is killed, of one whose disk is full, of one whose data are old, and of one that
//! strangers flood.

use anyhow::{Context as _, Result, bail, ensure};
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::disk::SmallDisk;
use kaltstart_tests::http::{self, Request};
use kaltstart_tests::packets::{Answer, DHCP_SERVER_PORT, answer, client_message};
use kaltstart_tests::pair::{CLIENT, Pair, SERVER, SERVER_INTERFACE, SUBNET};
use kaltstart_tests::process::{Process, run, tethered};
use kaltstart_tests::server::sum_samples;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Times the server is killed.
const KILLS: u32 = 8;
/// The address that is reserved for client 1.
const RESERVED: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 50);
/// How long an answer of a server is waited for that says at once what it has to say.
const SHORTLY: Duration = Duration::from_millis(500);
/// The same where the server looks for a free address first.
const PATIENTLY: Duration = secs(2);
/// Relay of the strangers that flood the server, how many they are, and how many come at once, every few
/// milliseconds.
const STRANGERS_RELAY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 3);
const STRANGERS: u32 = 20_000;
const STRANGERS_AT_ONCE: u32 = 10;
const STRANGERS_EVERY: Duration = Duration::from_millis(5);
/// Clients that ask at once while the server gets no processor time, and the length of their messages: long
/// enough to weigh as much as what network cards hand over, which lend half a page to each packet.
const STORM: u32 = 12_000;
const STORM_MESSAGE_BYTES: usize = 1_000;
const OFFER: u8 = 2;
const ACK: u8 = 5;

fn mac(n: u32) -> [u8; 6] {
    let [a, b, c, d] = n.to_be_bytes();
    [6, 0, a, b, c, d]
}

/// A server with its data in `data`, and the log of all its runs.
struct Site<'a> {
    pair: &'a Pair,
    program: PathBuf,
    server: Option<Process>,
}

impl<'a> Site<'a> {
    fn new(pair: &'a Pair, data: &Path, ping_check: &str) -> Result<Self> {
        let dir = pair.dir();
        fs::write(
            dir.join("server.toml"),
            format!(
                "data_dir = {data:?}\n[http]\nlisten = \"{SERVER}:8080\"\n[tftp]\nlisten = \"{SERVER}:69\"\n\
                 [boot]\nkernel = \"/dev/null\"\nramdisk = \"/dev/null\"\ndiscovery = \"/dev/null\"\nloaders = {dir:?}\n[images]\ndir = {dir:?}\n\
                 [[dhcp]]\ninterface = \"{SERVER_INTERFACE}\"\nsubnet = \"{SUBNET}\"\naddress = \"{SERVER}\"\n\
                 pool = [\"10.99.1.0\", \"10.99.9.255\"]\nping_check = \"{ping_check}\"\n\
                 [[node]]\nname = \"n1\"\nmac = \"06:00:00:00:00:01\"\naddress = \"{RESERVED}\"\n"
            ),
        )?;
        let mut site = Self { pair, program: Artefacts::from_env()?.server(), server: None };
        site.start()?;
        Ok(site)
    }

    fn start(&mut self) -> Result<()> {
        let mut command = self.pair.server_command(&self.program);
        command.args(["server", "--config"]).arg(self.pair.dir().join("server.toml"));
        self.server = Some(Process::start("kaltstart", &mut command, &self.pair.dir().join("log"))?);
        Ok(())
    }

    fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill();
        }
    }

    /// DISCOVER messages that were read.
    fn discovers(&self) -> Result<f64> {
        let request = Request { method: "GET", path: "/metrics", ..Request::default() };
        let text = self.pair.in_server(|| http::send((SERVER, 8080).into(), &request, secs(10)))?.text();
        Ok(sum_samples(&text, "kaltstart_dhcp_messages", "type=\"discover\",result=\"received\""))
    }

    /// What differs from a restored copy.
    fn restored(&self) -> Result<Value> {
        let token = fs::read_to_string(self.pair.dir().join("data/admin.token"))?;
        let request =
            Request { method: "GET", path: "/v1/restored", token: Some(token.trim()), ..Request::default() };
        self.pair.in_server(|| http::send((SERVER, 8080).into(), &request, secs(10)))?.json()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.pair.dir().join("log")).unwrap_or_default()
    }
}

/// Clients behind a relay.
struct Clients {
    socket: UdpSocket,
    patience: Duration,
}

impl Clients {
    fn new(pair: &Pair, patience: Duration) -> Result<Self> {
        let socket = pair.in_client(|| Ok(UdpSocket::bind((CLIENT, DHCP_SERVER_PORT))?))?;
        socket.set_read_timeout(Some(patience))?;
        Ok(Self { socket, patience })
    }

    /// Sends a message of client `n` and waits a moment for its answer.
    fn ask(&self, n: u32, options: &[u8]) -> Result<Option<Answer>> {
        self.ask_from(n, Ipv4Addr::UNSPECIFIED, options)
    }

    /// The same of a client that has an address.
    fn ask_from(&self, n: u32, address: Ipv4Addr, options: &[u8]) -> Result<Option<Answer>> {
        let mut message = client_message(n.to_be_bytes(), mac(n), options);
        message[12..16].copy_from_slice(&address.octets());
        message[24..28].copy_from_slice(&CLIENT.octets());
        self.socket.send_to(&message, (SERVER, DHCP_SERVER_PORT))?;
        let (begun, mut bytes) = (Instant::now(), [0; 1500]);
        while begun.elapsed() < self.patience {
            let Ok(count) = self.socket.recv(&mut bytes) else { break };
            if let Some(answer) = answer(&bytes[..count], mac(n)) {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    fn discover(&self, n: u32) -> Result<Option<Ipv4Addr>> {
        let answer = self.ask(n, &[53, 1, 1])?;
        Ok(answer.filter(|answer| answer.kind == OFFER).map(|answer| answer.address))
    }

    /// Takes an offer, or asks for the address as after a reboot; whether it is acknowledged.
    fn request(&self, n: u32, address: Ipv4Addr, selecting: bool) -> Result<bool> {
        let mut options = vec![53, 1, 3, 50, 4];
        options.extend(address.octets());
        if selecting {
            options.extend([54, 4]);
            options.extend(SERVER.octets());
        }
        Ok(self.ask(n, &options)?.is_some_and(|answer| answer.kind == ACK && answer.address == address))
    }

    /// Asks for more time; whether it is acknowledged.
    fn renew(&self, n: u32, address: Ipv4Addr) -> Result<bool> {
        let answer = self.ask_from(n, address, &[53, 1, 3])?;
        Ok(answer.is_some_and(|answer| answer.kind == ACK && answer.address == address))
    }

    /// A whole exchange; none when it is broken off.
    fn lease(&self, n: u32) -> Result<Option<Ipv4Addr>> {
        let Some(address) = self.discover(n)? else { return Ok(None) };
        Ok(self.request(n, address, true)?.then_some(address))
    }

    fn lease_soon(&self, n: u32) -> Result<Ipv4Addr> {
        wait_for("a lease", secs(20), || {
            Ok(self.lease(n)?.map_or_else(|| Poll::pending("silence"), Poll::Ready))
        })
    }
}

#[test]
fn p31_no_two_clients_get_one_address_through_kill_9() -> Result<()> {
    let pair = Pair::new()?;
    let mut site = Site::new(&pair, &pair.dir().join("data"), "never")?;
    let clients = Clients::new(&pair, SHORTLY)?;
    let mut owners: BTreeMap<Ipv4Addr, u32> = BTreeMap::new();
    let mut next = 2;
    for kill in 0..KILLS {
        clients.lease_soon(1)?;
        let pid = site.server.as_ref().map_or(0, Process::id).to_string();
        // Somewhere within the next exchanges.
        let mut killer = tethered("sh");
        killer.args(["-c", &format!("sleep 0.0{}; exec kill -9 {pid}", 1 + (kill * 37) % 90)]);
        let mut killer = Process::start("killer", &mut killer, &pair.dir().join("killer"))?;
        while let Some(address) = clients.lease(next)? {
            if let Some(owner) = owners.insert(address, next) {
                bail!("{address} was acknowledged to {owner} and then to {next}");
            }
            next += 1;
        }
        // The one that was broken off may have been stored.
        next += 1;
        killer.wait(secs(10))?;
        site.kill();
        site.start()?;
    }
    ensure!(clients.lease_soon(1)? == RESERVED, "the reserved address");
    ensure!(owners.len() > 20, "only {} leases were acknowledged", owners.len());
    for (address, owner) in &owners {
        ensure!(clients.request(*owner, *address, false)?, "{address} of client {owner} is lost");
    }
    Ok(())
}

#[test]
fn p31_a_full_disk_stops_new_leases_and_no_old_ones() -> Result<()> {
    let pair = Pair::new()?;
    let data = SmallDisk::at(&pair.dir().join("small"))?;
    let mut site = Site::new(&pair, data.path(), "never")?;
    let clients = Clients::new(&pair, SHORTLY)?;
    let old = clients.lease_soon(2)?;
    ensure!(clients.lease_soon(1)? == RESERVED, "the reserved address");
    data.fill()?;
    let mut next = 3;
    wait_for("silence for new clients", secs(30), || {
        next += 1;
        Ok(match clients.lease(next)? {
            None => Poll::Ready(()),
            Some(address) => Poll::pending(format!("{address} was given")),
        })
    })?;
    ensure!(site.log().contains("leases cannot be stored"), "no alarm");
    ensure!(clients.request(2, old, false)?, "a stored lease is still acknowledged");
    ensure!(clients.lease(1)? == Some(RESERVED), "the reserved address is still given");
    ensure!(clients.lease(next)?.is_none(), "still full");
    data.make_room()?;
    let new = clients.lease_soon(next)?;
    ensure!(site.log().contains("leases are stored again"), "the alarm is not cleared");
    site.kill();
    site.start()?;
    ensure!(clients.lease_soon(1)? == RESERVED, "the reserved address");
    ensure!(clients.request(2, old, false)? && clients.request(next, new, false)?, "all are remembered");
    Ok(())
}

#[test]
fn p31_addresses_in_use_are_not_given_again_after_old_data_were_restored() -> Result<()> {
    old_data_were_restored(false)
}

#[test]
fn p31_nor_are_those_of_holders_that_are_silent_to_ping() -> Result<()> {
    old_data_were_restored(true)
}

fn old_data_were_restored(silent_to_ping: bool) -> Result<()> {
    let pair = Pair::new()?;
    let (data, copy) = (pair.dir().join("data"), pair.dir().join("copy"));
    let mut site = Site::new(&pair, &data, "after-start")?;
    let clients = Clients::new(&pair, PATIENTLY)?;
    clients.lease_soon(2)?;
    site.kill();
    run(tethered("cp").arg("--archive").arg(&data).arg(&copy), secs(10))?;
    site.start()?;
    let held = [clients.lease_soon(3)?, clients.lease_soon(4)?];
    for address in held {
        pair.also_address_client(address)?;
    }
    if silent_to_ping {
        pair.in_client(|| Ok(fs::write("/proc/sys/net/ipv4/icmp_echo_ignore_all", "1")?))?;
    }
    site.kill();
    fs::remove_dir_all(&data)?;
    fs::rename(&copy, &data)?;
    site.start()?;
    let new = clients.lease_soon(5)?;
    ensure!(!held.contains(&new), "{new} belongs to somebody who answers");
    ensure!(clients.renew(3, held[0])?, "its holder may go on using {}", held[0]);
    let next = clients.lease_soon(6)?;
    ensure!(!held.contains(&next) && next != new, "{next} was given twice");
    ensure!(site.log().contains("the database is a restored copy"), "the log does not say so");
    let differs = site.restored()?;
    ensure!(differs["observing"] == true && differs["not_heard"] == json!(["n1"]), "{differs}");
    let claimed = |n: u32| {
        let said = differs["differences"].as_array().into_iter().flatten();
        let mac = mac(n).map(|byte| format!("{byte:02x}")).join(":");
        said.filter(|one| one["kind"] == "address" && one["mac"] == mac.as_str()).count()
    };
    ensure!(
        (claimed(3), claimed(4), claimed(5)) == (1, 0, 0),
        "who goes on is listed, and nobody else: {differs}"
    );
    Ok(())
}

/// A system's network that is restarted may take an interface away and make it anew.
#[test]
fn p36_an_interface_that_is_made_anew_ends_the_server_and_the_next_one_serves_it() -> Result<()> {
    const WIRE: &str = "wire0";
    let pair = Pair::new()?;
    let ip = |words: &[&str]| run(pair.server_command("ip").args(words), secs(10)).map(drop);
    let make = || {
        ip(&["link", "add", WIRE, "type", "bridge"])?;
        ip(&["address", "add", "10.98.0.1/24", "dev", WIRE])?;
        ip(&["link", "set", WIRE, "up"])
    };
    make()?;
    let mut site = Site::new(&pair, &pair.dir().join("data"), "never")?;
    site.kill();
    let file = pair.dir().join("server.toml");
    let section = format!(
        "[[dhcp]]\ninterface = \"{WIRE}\"\nsubnet = \"10.98.0.0/24\"\naddress = \"10.98.0.1\"\n\
         pool = [\"10.98.0.10\", \"10.98.0.20\"]\n"
    );
    fs::write(&file, fs::read_to_string(&file)? + &section)?;
    site.start()?;
    let clients = Clients::new(&pair, PATIENTLY)?;
    let address = clients.lease_soon(2)?;
    ip(&["link", "delete", WIRE])?;
    ensure!(clients.renew(2, address)?, "the other interface is served on");
    make()?;
    let server = site.server.as_mut().context("it was started")?;
    let status = server.wait(secs(30))?;
    ensure!(!status.success(), "who supervises it must see that it failed: {status}");
    ensure!(site.log().contains("the interface wire0 was made anew"), "the log does not say why");
    site.start()?;
    clients.lease_soon(3)?;
    Ok(())
}

#[test]
fn p32_a_reserved_host_gets_its_address_while_strangers_empty_the_pool() -> Result<()> {
    let pair = Pair::new()?;
    let _site = Site::new(&pair, &pair.dir().join("data"), "never")?;
    let clients = Clients::new(&pair, PATIENTLY)?;
    clients.lease_soon(1)?;
    pair.also_address_client(STRANGERS_RELAY)?;
    let relay = pair.in_client(|| Ok(UdpSocket::bind((STRANGERS_RELAY, DHCP_SERVER_PORT))?))?;
    let flood = std::thread::spawn(move || {
        for n in 0..STRANGERS {
            let mut options = vec![53, 1, 1];
            if n % 2 == 0 {
                options.extend(b"\x3c\x09PXEClient");
            }
            let mut message = client_message(n.to_be_bytes(), mac(1_000_000 + n), &options);
            message[24..28].copy_from_slice(&STRANGERS_RELAY.octets());
            relay.send_to(&message, (SERVER, DHCP_SERVER_PORT))?;
            if n % STRANGERS_AT_ONCE == 0 {
                std::thread::sleep(STRANGERS_EVERY);
            }
        }
        Ok::<(), std::io::Error>(())
    });
    let (mut leases, mut slowest) = (0, Duration::ZERO);
    while !flood.is_finished() {
        let begun = Instant::now();
        let address = clients.lease(1)?;
        ensure!(address == Some(RESERVED), "{address:?} after {leases} exchanges");
        leases += 1;
        slowest = slowest.max(begun.elapsed());
    }
    println!("{leases} exchanges of the reserved host, the slowest in {slowest:?}");
    ensure!(flood.join().is_ok_and(|sent| sent.is_ok()), "the flood broke off");
    ensure!(clients.lease(2)?.is_none(), "the pool is empty");
    ensure!(leases > 10, "only {leases} exchanges within the flood");
    Ok(())
}

#[test]
fn p32_a_storm_waits_for_a_server_without_processor_time() -> Result<()> {
    let pair = Pair::new()?;
    let site = Site::new(&pair, &pair.dir().join("data"), "never")?;
    let clients = Clients::new(&pair, PATIENTLY)?;
    clients.lease_soon(1)?;
    let server = site.server.as_ref().context("it was started")?;
    let (before, lost) = (site.discovers()?, server.lost_in_buffers()?);
    server.pause()?;
    for n in 0..STORM {
        let mut message = client_message(n.to_be_bytes(), mac(1_000_000 + n), &[53, 1, 1]);
        message[24..28].copy_from_slice(&CLIENT.octets());
        message.resize(STORM_MESSAGE_BYTES, 0);
        clients.socket.send_to(&message, (SERVER, DHCP_SERVER_PORT))?;
    }
    server.resume()?;
    wait_for("every message to be read", secs(60), || {
        let (read, lost) = (site.discovers()? - before, server.lost_in_buffers()? - lost);
        ensure!(lost == 0, "{lost} messages of {STORM} are lost");
        Ok(if read >= f64::from(STORM) { Poll::Ready(()) } else { Poll::pending(format!("{read}")) })
    })
}
