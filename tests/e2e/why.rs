//! Why a machine does not start: each cause is provoked at the real server by packets as firmware
//! sends them, and named by `ks why`.

use crate::common::config;
use anyhow::{Context as _, Result, bail, ensure};
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::config::{HTTP_PORT, ServerConfig};
use kaltstart_tests::disk::SmallDisk;
use kaltstart_tests::guest::Firmware::Bios;
use kaltstart_tests::guest::{Guest, GuestConfig};
use kaltstart_tests::lab::{Lab, SERVER, Station};
use kaltstart_tests::others::{Maker, OTHER, OtherServer};
use kaltstart_tests::packets::{self, Answer};
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use serde_json::Value;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::Duration;

/// The machine.
pub(crate) const NODE: &str = "db-07";
const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x77];
const OTHER_SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);

/// DHCP message types (RFC 2132 §9.6).
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const ACK: u8 = 5;
/// DHCP options.
const WISH: u8 = 50;
const SERVER_ID: u8 = 54;

/// A machine's firmware, as far as its packets go.
struct Firmware {
    station: Station,
    dhcp: UdpSocket,
    class: &'static str,
    architecture: u16,
    user_class: &'static str,
}

impl Firmware {
    fn new(lab: &Lab, architecture: u16) -> Result<Self> {
        let station = Station::new(lab)?;
        let dhcp = station.inside(packets::dhcp_socket)?;
        Ok(Self { station, dhcp, class: "PXEClient", architecture, user_class: "" })
    }

    /// The loader it has started.
    fn becomes_ipxe(&mut self) {
        self.user_class = "iPXE";
    }

    fn question(&self) -> Vec<u8> {
        packets::discover_as(MAC, self.class, self.architecture, self.user_class)
    }

    fn send(&self, packet: &[u8]) -> Result<()> {
        self.dhcp.send_to(packet, (Ipv4Addr::BROADCAST, packets::DHCP_SERVER_PORT))?;
        Ok(())
    }

    /// Sends a question until it is answered.
    fn ask(&self, packet: &[u8]) -> Result<Answer> {
        self.ask_for(packet, |_| true)
    }

    /// Sends a question until an answer fits.
    fn ask_for(&self, packet: &[u8], fits: impl Fn(&Answer) -> bool) -> Result<Answer> {
        wait_for("an answer", secs(20), || {
            self.send(packet)?;
            let (mut bytes, mut last) = ([0; 1500], "silence".to_owned());
            while let Ok(count) = self.dhcp.recv(&mut bytes) {
                match packets::answer(&bytes[..count], MAC) {
                    Some(answer) if fits(&answer) => return Ok(Poll::Ready(answer)),
                    other => last = format!("{other:?}"),
                }
            }
            Ok(Poll::pending(last))
        })
    }

    fn offer(&self) -> Result<Answer> {
        self.ask(&self.question())
    }

    /// From the first question to an address of its own.
    fn address(&self) -> Result<Answer> {
        let offer = self.offer()?;
        let options = [(SERVER_ID, SERVER.octets()), (WISH, offer.address.octets())];
        let given = self.ask(&packets::message(self.question(), REQUEST, &options))?;
        ensure!(given.kind == ACK, "refused: {given:?}");
        self.station.address(given.address)?;
        Ok(given)
    }

    /// Asks for a file by TFTP and acknowledges so many blocks, then falls silent; tells how many
    /// there were. None of them: large packets do not arrive. Every `lose`th block is taken for lost once.
    fn tftp(&self, file: &str, block_bytes: &str, blocks: u64, lose: u64) -> Result<u64> {
        let socket = self.station.inside(packets::udp_socket)?;
        let request = packets::read_request(file, "octet", &[("blksize", block_bytes)]);
        socket.send_to(&request, (SERVER, packets::TFTP_SERVER_PORT))?;
        let (mut buffer, mut taken, mut lost) = ([0; 2_000], 0, 0);
        let size: usize = block_bytes.parse()?;
        loop {
            let (count, from) = socket.recv_from(&mut buffer).context("the server is silent")?;
            let number = u16::from_be_bytes([buffer[2], buffer[3]]);
            match buffer[1] {
                6 => drop(socket.send_to(&[0, 4, 0, 0], from)?),
                5 => return Ok(0),
                // The first block was too large for the way: the client goes on waiting for it.
                3 if blocks == 0 => {
                    socket.send_to(&[0, 4, 0, 0], from)?;
                    return Ok(0);
                }
                3 if u64::from(number) == taken + 1 => {
                    if lose > 0 && u64::from(number) % lose == 0 && lost != number {
                        lost = number;
                        continue;
                    }
                    if taken == blocks {
                        return Ok(taken);
                    }
                    taken += 1;
                    socket.send_to(&[0, 4, buffer[2], buffer[3]], from)?;
                    if count < size + 4 {
                        return Ok(taken);
                    }
                }
                3 => {}
                other => bail!("an unexpected packet of type {other}"),
            }
        }
    }

    fn http(&self, path: &str) -> Result<String> {
        self.station.inside(|| {
            let mut stream = TcpStream::connect((SERVER, HTTP_PORT))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        })
    }
}

/// Waits until `ks why` begins with that cause, and checks its words.
pub(crate) fn named(server: &Server<'_>, node: &str, code: &str, words: &str) -> Result<()> {
    wait_for(code, secs(60), || {
        let diagnosis: Value = server.get(&format!("/v1/nodes/{node}/diagnosis"))?.json()?;
        let first = &diagnosis["causes"][0]["code"];
        Ok(if first == code { Poll::Ready(()) } else { Poll::pending(diagnosis.to_string()) })
    })?;
    let output = server.ks(&["why", node], secs(10))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains(&format!("Most likely  {code}")) && text.contains(words), "{words:?}: {text}");
    Ok(())
}

/// A server that expects the machine.
pub(crate) struct Site<'a> {
    lab: &'a Lab,
    pub(crate) server: Server<'a>,
}

impl<'a> Site<'a> {
    pub(crate) fn start(lab: &'a Lab, change: impl FnOnce(ServerConfig) -> ServerConfig) -> Result<Self> {
        Self::start_as(lab, "authoritative", change)
    }

    pub(crate) fn start_as(
        lab: &'a Lab,
        wanted: &str,
        change: impl FnOnce(ServerConfig) -> ServerConfig,
    ) -> Result<Self> {
        let (artefacts, config): (Artefacts, _) = config()?;
        let config = change(config.node(NODE, &mac_text(), None));
        let server = Server::start(lab, &artefacts, &config)?;
        server.wait_dhcp(wanted)?;
        Ok(Self { lab, server })
    }

    fn diagnosis(&self) -> Result<Value> {
        self.server.get(&format!("/v1/nodes/{NODE}/diagnosis"))?.json()
    }

    pub(crate) fn names(&self, code: &str, words: &str) -> Result<()> {
        named(&self.server, NODE, code, words)
    }

    /// Waits until what the server saw last of the machine is told with these words.
    pub(crate) fn last_saw(&self, words: &str, limit: Duration) -> Result<()> {
        wait_for(words, limit, || {
            let diagnosis = self.diagnosis()?;
            let told = diagnosis["last"]["text"].as_str().is_some_and(|text| text.contains(words));
            Ok(if told { Poll::Ready(()) } else { Poll::pending(diagnosis.to_string()) })
        })
    }

    /// Lets time pass: what was seen so far lies so many seconds further back, as an earlier
    /// server would have left it.
    pub(crate) fn ages(&mut self, seconds: u64) -> Result<()> {
        let file = self.lab.dir().join("data/trace.jsonl");
        let newest = self.server.trace(NODE)?.pop().context("nothing was seen of it")?;
        wait_for("the newest sighting on the disk", secs(20), || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let told =
                text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).any(|mut line| {
                    line.as_object_mut().is_some_and(|line| line.remove("mac").is_some()) && line == newest
                });
            Ok(if told { Poll::Ready(()) } else { Poll::pending(format!("{text}; wanted {newest}")) })
        })?;
        self.server.kill();
        let mut older = String::new();
        for line in fs::read_to_string(&file)?.lines() {
            let mut line: Value = serde_json::from_str(line)?;
            let at = line["at"].as_u64().context("no time")?;
            line["at"] = (at - seconds * 1_000).into();
            older += &format!("{line}\n");
        }
        fs::write(&file, older)?;
        self.server.restart()
    }
}

/// Its hardware address.
pub(crate) fn mac_text() -> String {
    MAC.map(|byte| format!("{byte:02x}")).join(":")
}

/// Runs `body` with a server and firmware of that architecture (option 93).
fn why(
    name: &str,
    architecture: u16,
    body: impl FnOnce(&mut Site<'_>, &mut Firmware) -> Result<()>,
) -> Result<()> {
    story(name, |lab| {
        let mut site = Site::start(lab, |config| config)?;
        body(&mut site, &mut Firmware::new(lab, architecture)?)
    })
}

const UEFI: u16 = 7;
const BIOS: u16 = 0;

#[test]
fn ks1001_no_packet_since_power_on() -> Result<()> {
    why("why-1001", UEFI, |site, _| {
        site.server.power_observed(NODE)?;
        let causes = site.diagnosis()?["causes"].clone();
        ensure!(causes == Value::Array(vec![]), "too early: {causes}");
        site.ages(700)?;
        site.names("KS-1001", "it was switched on")
    })
}

#[test]
fn ks1002_nothing_is_asked_for() -> Result<()> {
    why("why-1002", UEFI, |site, firmware| {
        firmware.address()?;
        site.ages(60)?;
        site.names("KS-1002", "snponly.efi")
    })
}

#[test]
fn ks1006_the_pool_is_empty() -> Result<()> {
    story("why-1006", |lab| {
        let site = Site::start(lab, |mut config| {
            config.pool = ("10.77.0.100".into(), "10.77.0.100".into());
            config
        })?;
        let firmware = Firmware::new(lab, UEFI)?;
        let mut other = firmware.question();
        // Another machine takes the only address.
        other[33] ^= 1;
        wait_for("the other's offer", secs(20), || {
            firmware.send(&other)?;
            let mut bytes = [0; 1500];
            let count = firmware.dhcp.recv(&mut bytes).unwrap_or(0);
            Ok(if count > 0 { Poll::Ready(()) } else { Poll::pending("silence") })
        })?;
        firmware.send(&firmware.question())?;
        site.names("KS-1006", "no free address")
    })
}

#[test]
fn ks1007_a_network_that_is_not_served() -> Result<()> {
    why("why-1007", UEFI, |site, firmware| {
        let mut relayed = firmware.question();
        relayed[24..28].copy_from_slice(&[10, 9, 0, 1]);
        firmware.send(&relayed)?;
        site.names("KS-1007", "through the relay 10.9.0.1")
    })
}

#[test]
fn ks1008_another_server_is_chosen() -> Result<()> {
    why("why-1008", UEFI, |site, firmware| {
        let offer = firmware.offer()?;
        let options = [(SERVER_ID, OTHER_SERVER.octets()), (WISH, offer.address.octets())];
        firmware.send(&packets::message(firmware.question(), REQUEST, &options))?;
        site.names("KS-1008", "it took the offer of 10.77.0.254")
    })
}

#[test]
fn ks1009_the_offer_beside_another_server_s_is_ignored() -> Result<()> {
    story("why-1009", |lab| {
        let _other = OtherServer::start(lab, Maker::Dnsmasq, "dhcp-boot=other.efi\n")?;
        let mut site = Site::start_as(lab, "proxy", |config| config.mode("proxy"))?;
        let firmware = Firmware::new(lab, UEFI)?;
        let offer = firmware.ask_for(&firmware.question(), |answer| answer.server == OTHER)?;
        let options = [(SERVER_ID, OTHER.octets()), (WISH, offer.address.octets())];
        let request = packets::message(firmware.question(), REQUEST, &options);
        firmware.ask_for(&request, |answer| answer.kind == ACK)?;
        site.ages(15)?;
        site.names("KS-1009", "names a boot file itself: \"other.efi\"")?;
        let first = site.diagnosis()?["causes"][0].clone();
        ensure!(first["likelihood"] == "high", "{first}");
        Ok(())
    })
}

#[test]
fn ks1010_an_offer_is_never_requested() -> Result<()> {
    why("why-1010", UEFI, |site, firmware| {
        for _ in 0..3 {
            firmware.offer()?;
        }
        site.ages(15)?;
        site.names("KS-1010", "took nothing")
    })
}

#[test]
fn ks1011_the_boot_file_is_not_there() -> Result<()> {
    story("why-1011", |lab| {
        let empty = lab.dir().join("no-loaders");
        fs::create_dir(&empty)?;
        let site = Site::start(lab, |config| ServerConfig { loaders: empty, ..config })?;
        let firmware = Firmware::new(lab, UEFI)?;
        let file = firmware.address()?.file;
        firmware.tftp(&file, "512", 1, 0)?;
        site.names("KS-1011", "is not there")
    })
}

#[test]
fn ks1012_large_packets_do_not_pass() -> Result<()> {
    why("why-1012", UEFI, |site, firmware| {
        let file = firmware.address()?.file;
        firmware.tftp(&file, "1468", 0, 0)?;
        site.names("KS-1012", "blocks of 1468 bytes not one was acknowledged")
    })
}

#[test]
fn ks1013_packets_are_lost() -> Result<()> {
    why("why-1013", UEFI, |site, firmware| {
        let file = firmware.address()?.file;
        firmware.tftp(&file, "1024", 60, 4)?;
        site.names("KS-1013", "had to be sent again")
    })
}

#[test]
fn ks1014_the_machine_stops_at_a_block() -> Result<()> {
    why("why-1014", UEFI, |site, firmware| {
        let file = firmware.address()?.file;
        ensure!(firmware.tftp(&file, "512", 100, 0)? == 100, "the file is shorter");
        site.names("KS-1014", "after block 100 of")
    })
}

/// A whole start up to the ramdisk, without an agent.
fn start(firmware: &mut Firmware) -> Result<()> {
    firmware.user_class = "";
    let file = firmware.address()?.file;
    firmware.tftp(&file, "1468", u64::MAX, 0)?;
    firmware.becomes_ipxe();
    firmware.address()?;
    for name in ["script.ipxe", "vmlinuz", "ramdisk"] {
        let answer = firmware.http(&format!("/boot/{}/{name}", mac_text()))?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{name}: {}", answer.lines().next().unwrap_or_default());
    }
    Ok(())
}

#[test]
fn ks1016_it_starts_over_and_over() -> Result<()> {
    why("why-1016", UEFI, |site, firmware| {
        for _ in 0..4 {
            start(firmware)?;
        }
        site.names("KS-1016", "4 starts in")
    })
}

#[test]
fn ks1017_no_loader_fits() -> Result<()> {
    // 32-bit UEFI.
    why("why-1017", 6, |site, firmware| {
        firmware.send(&firmware.question())?;
        site.names("KS-1017", "there is no loader for it")
    })
}

#[test]
fn ks1018_secure_boot_refuses_the_loader() -> Result<()> {
    why("why-1018", UEFI, |site, firmware| {
        let file = firmware.address()?.file;
        firmware.tftp(&file, "1468", u64::MAX, 0)?;
        // As firmware does that went on to its next boot entry.
        firmware.send(&firmware.question())?;
        site.names("KS-1018", "carries no signature")
    })
}

#[test]
fn ks1019_the_address_is_taken() -> Result<()> {
    why("why-1019", UEFI, |site, firmware| {
        let given = firmware.address()?.address;
        let options = [(SERVER_ID, SERVER.octets()), (WISH, given.octets())];
        firmware.send(&packets::message(firmware.question(), DECLINE, &options))?;
        site.names("KS-1019", &format!("found {given} in use"))
    })
}

#[test]
fn ks1020_the_first_questions_are_lost() -> Result<()> {
    why("why-1020", UEFI, |site, firmware| {
        let mut late = firmware.question();
        late[8..10].copy_from_slice(&28_u16.to_be_bytes());
        firmware.send(&late)?;
        site.names("KS-1020", "asking for 28 s")
    })
}

#[test]
fn ks1021_its_own_disk_does_not_start() -> Result<()> {
    why("why-1021", UEFI, |site, firmware| {
        site.server.request("POST", &format!("/v1/nodes/{NODE}/break"), Some(&serde_json::json!({})))?;
        for _ in 0..2 {
            let file = firmware.address()?.file;
            firmware.tftp(&file, "512", 1, 0)?;
        }
        site.names("KS-1021", "it came back")
    })
}

#[test]
fn ks1022_a_loader_does_nothing() -> Result<()> {
    why("why-1022", BIOS, |site, firmware| {
        let file = firmware.address()?.file;
        firmware.tftp(&file, "1468", u64::MAX, 0)?;
        site.ages(40)?;
        site.names("KS-1022", "nothing came in the")
    })
}

#[test]
fn ks1023_no_agent_reports() -> Result<()> {
    why("why-1023", UEFI, |site, firmware| {
        start(firmware)?;
        site.ages(200)?;
        site.names("KS-1023", "no agent reported")
    })
}

#[test]
fn ks1025_the_subnet_is_another_server_s() -> Result<()> {
    story("why-1025", |lab| {
        let _other = OtherServer::start(lab, Maker::Dnsmasq, "")?;
        let site = Site::start_as(lab, "refused", |config| config)?;
        let firmware = Firmware::new(lab, UEFI)?;
        for _ in 0..2 {
            let offer = firmware.offer()?;
            ensure!(offer.server == OTHER, "this server must not answer: {offer:?}");
        }
        site.names("KS-1025", "is not served now")?;
        let first = site.diagnosis()?["causes"][0].clone();
        ensure!(first["likelihood"] == "high", "{first}");
        Ok(())
    })
}

#[test]
fn ks1026_the_disk_of_the_leases_is_full() -> Result<()> {
    story("why-1026", |lab| {
        let data = SmallDisk::at(&lab.dir().join("data"))?;
        let site = Site::start(lab, |config| config)?;
        let firmware = Firmware::new(lab, UEFI)?;
        data.fill()?;
        let mut others = 0;
        wait_for("silence for others", secs(40), || {
            others += 1;
            let mut other = firmware.question();
            other[32] = others;
            let wish = Ipv4Addr::new(10, 77, 0, 100 + others);
            let options = [(SERVER_ID, SERVER.octets()), (WISH, wish.octets())];
            firmware.send(&packets::message(other, REQUEST, &options))?;
            let answered = firmware.dhcp.recv(&mut [0; 1500]).is_ok();
            Ok(if answered { Poll::pending(format!("{wish} was given")) } else { Poll::Ready(()) })
        })?;
        let mut guest =
            Guest::new(lab, GuestConfig { mac: mac_text(), ..GuestConfig::new("guest", Bios, 1) })?;
        guest.power_on()?;
        site.names("KS-1026", "cannot be stored now")?;
        guest.power_off();
        data.make_room()?;
        firmware.address()?;
        let causes = site.diagnosis()?["causes"].clone();
        ensure!(causes[0]["code"] != "KS-1026", "there is room again: {causes}");
        Ok(())
    })
}
