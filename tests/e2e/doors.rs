//! Every door of the real server, for every state of a machine: what it gives is what the core's golden
//! table says; `ks boot try` says so beforehand, and `ks boot show` afterwards.

use crate::common::{IMAGE, config};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::config::{HTTP_PORT, ServerConfig};
use kaltstart_tests::http::{self, Request, Response};
use kaltstart_tests::lab::{Lab, SERVER, Station};
use kaltstart_tests::packets::{self, Answer};
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// What `boot::offer` says, and the machine it says it of.
const GOLDEN: &str = include_str!("../../server/core/golden/doors.txt");
const GOLDEN_MAC: &str = "52:54:00:00:00:01";
/// The port of boot servers (PXE 2.1 §2.2.3).
const BOOT_SERVER_PORT: u16 = 4011;
/// After that much silence nobody answers any more.
const SILENCE: Duration = Duration::from_millis(300);
const REQUEST: u8 = 3;

/// How far a machine has come, in the words of the golden table.
const SITUATIONS: [&str; 15] = [
    "expected",
    "discovered",
    "available",
    "allocated",
    "deployed",
    "releasing",
    "broken",
    "retired",
    "allocated, job in queued",
    "allocated, job in loader, granted",
    "allocated, job in inventory",
    "allocated, job in image",
    "allocated, job in restart",
    "deployed, job succeeded",
    "allocated, job cancelled",
];

/// Each decision once: where loader or server are of another kind, nothing else may differ.
const DECISIONS: [&str; 4] =
    ["discovered", "allocated, job in queued", "allocated, job in restart", "broken"];

/// What each door gives, by its name; "nothing" without its reason.
type Doors = BTreeMap<String, String>;

/// The golden table's section, for the machine `mac`; `loader` is `ipxe` or `signed`.
fn golden(situation: &str, loader: &str, mac: &str) -> Result<Doors> {
    let start = format!("\n[{situation}]\n");
    let (_, section) = GOLDEN.split_once(&start).with_context(|| format!("no {start}"))?;
    // DHCPv6 has stories of its own, and is off here.
    let lines = section.split("\n\n").next().unwrap_or_default().lines().skip(1);
    let lines = lines.filter(|line| !line.starts_with("dhcp6 "));
    let doors = lines.map(|line| {
        let (door, gives) = line.split_once(": ").with_context(|| line.to_owned())?;
        let mut ways = gives.split("; ");
        let usual = ways.next().unwrap_or_default();
        let signed = ways.find_map(|way| way.strip_prefix("signed: ")).filter(|_| loader == "signed");
        Ok((door.replace(GOLDEN_MAC, mac), without_reason(signed.unwrap_or(usual))))
    });
    doors.collect()
}

fn without_reason(gives: &str) -> String {
    gives.split(": ").next().unwrap_or_default().to_owned()
}

/// What the ramdisks are here: their words in the table.
const LOOKS: &str = "the ramdisk that only looks";
const INSTALLS: &str = "the ramdisk that installs";

fn is_ramdisk(file: &str) -> bool {
    file.ends_with("/ramdisk")
}

/// Where a script or configuration leads.
fn leads_to(text: &str) -> &'static str {
    let words = text.split_whitespace().map(|word| word.trim_matches('\''));
    match words.into_iter().find_map(|word| word.strip_prefix("kaltstart.mode=")) {
        Some("discover") => "start the agent to look",
        Some("install") => "start the agent to install",
        _ => "start the own disk",
    }
}

/// A machine with its address, as its firmware and its loaders speak.
struct Machine {
    station: Station,
    mac: String,
}

impl Machine {
    fn new(lab: &Lab, number: u8) -> Result<Self> {
        let station = Station::new(lab)?;
        station.address(Ipv4Addr::new(10, 77, 0, number))?;
        let mac = station.mac()?;
        Ok(Self { station, mac })
    }

    fn mac_bytes(&self) -> Result<[u8; 6]> {
        let bytes: Vec<u8> =
            self.mac.split(':').map(|part| u8::from_str_radix(part, 16)).collect::<Result<_, _>>()?;
        bytes.try_into().ok().context("six bytes")
    }

    /// What the door gives that `name` says. All DHCP doors are asked at once.
    fn ask(&self, mode: &str, expected: &Doors) -> Result<Doors> {
        let dhcp = expected.iter().filter(|(name, _)| name.starts_with("dhcp "));
        // Who gives addresses answers everybody.
        let given = self.dhcp(dhcp.clone(), packets::DHCP_SERVER_PORT, mode != "proxy");
        let mut given = given?;
        if mode == "proxy" {
            // Firmware that has an address from elsewhere asks there for its boot file.
            let pxe = dhcp.filter(|(name, _)| name.contains("pxe/"));
            for (name, gives) in self.dhcp(pxe, BOOT_SERVER_PORT, false)? {
                ensure!(given[&name] == gives, "{name}: {} at port 67, {gives} at 4011", given[&name]);
            }
        }
        for name in expected.keys() {
            let gives = match name.split_once(' ') {
                Some(("tftp", file)) => self.tftp(file).with_context(|| name.clone())?,
                Some(("http", file)) => self.http(file)?,
                _ => continue,
            };
            given.insert(name.clone(), gives);
        }
        Ok(given)
    }

    /// Asks as each client does whose door is in `doors`, until everybody has an answer; where `all` is
    /// not set, everybody who shall be given something, and nobody else gets an answer any more.
    fn dhcp<'a>(
        &self,
        doors: impl Iterator<Item = (&'a String, &'a String)>,
        port: u16,
        all: bool,
    ) -> Result<Doors> {
        let socket = match port {
            BOOT_SERVER_PORT => self.station.inside(packets::udp_socket)?,
            _ => self.station.inside(packets::dhcp_socket)?,
        };
        socket.set_read_timeout(Some(SILENCE))?;
        let questions = doors.enumerate().map(|(number, (name, gives))| {
            let mut question = question(name, self.mac_bytes()?)?;
            question[7] = number as u8;
            if port == BOOT_SERVER_PORT {
                question = packets::message(question, REQUEST, &[]);
                question[12..16].copy_from_slice(&self.station.addresses()?[0].octets());
            }
            Ok((name.clone(), gives.as_str(), question))
        });
        let questions = questions.collect::<Result<Vec<_>>>()?;
        let mut given: Doors = questions.iter().map(|(name, ..)| (name.clone(), "nothing".into())).collect();
        let mut answered = vec![false; questions.len()];
        let to = if port == BOOT_SERVER_PORT { SERVER } else { Ipv4Addr::BROADCAST };
        wait_for("answers", secs(20), || {
            for ((.., question), _) in questions.iter().zip(&answered).filter(|(_, done)| !**done) {
                socket.send_to(question, (to, port))?;
            }
            while (!all || answered.contains(&false))
                && let Some((number, answer)) = self.answer(&socket)?
            {
                let (name, ..) = questions.get(number).context("an answer to nobody's question")?;
                answered[number] = true;
                given.insert(name.clone(), said(&answer, &self.mac));
            }
            let mut open = questions
                .iter()
                .zip(&answered)
                .filter(|((_, gives, _), done)| !**done && (all || *gives != "nothing"));
            Ok(open
                .next()
                .map_or(Poll::Ready(()), |((name, ..), _)| Poll::pending(format!("silence at {name}"))))
        })?;
        Ok(given)
    }

    /// The next answer to this machine, and the number of its question.
    fn answer(&self, socket: &UdpSocket) -> Result<Option<(usize, Answer)>> {
        let mut bytes = [0; 1500];
        while let Ok(count) = socket.recv(&mut bytes) {
            if let Some(answer) = packets::answer(&bytes[..count], self.mac_bytes()?) {
                return Ok(Some((usize::from(bytes[7]), answer)));
            }
        }
        Ok(None)
    }

    fn tftp(&self, file: &str) -> Result<String> {
        let socket = self.station.inside(packets::udp_socket)?;
        socket.send_to(&packets::read_request(file, "octet", &[]), (SERVER, packets::TFTP_SERVER_PORT))?;
        let (mut bytes, mut text) = ([0; 600], Vec::new());
        loop {
            let (count, from) = socket.recv_from(&mut bytes).context("no answer")?;
            match (bytes[1], file.contains("grub.cfg-") || is_ramdisk(file)) {
                (3, true) => text.extend(&bytes[4..count]),
                (3, false) => {
                    socket.send_to(&[0, 5, 0, 0, 0], from)?;
                    return Ok("the file".into());
                }
                _ => return Ok("nothing".into()),
            }
            socket.send_to(&[0, 4, bytes[2], bytes[3]], from)?;
            if count < 516 {
                let text = String::from_utf8(text)?;
                return Ok(if is_ramdisk(file) { text } else { leads_to(&text).into() });
            }
        }
    }

    fn http(&self, file: &str) -> Result<String> {
        let path = if file.starts_with("boot/") { format!("/{file}") } else { format!("/boot/files/{file}") };
        let whole = file.ends_with(".ipxe") || is_ramdisk(file);
        let headers: &[_] = if whole { &[] } else { &[("Range", "bytes=0-0")] };
        let answer = self.get(&path, headers)?;
        Ok(match answer.status {
            200 if is_ramdisk(file) => answer.text(),
            200 => leads_to(&answer.text()).into(),
            206 => "the file".into(),
            403 => "nothing".into(),
            other => format!("HTTP status {other}"),
        })
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
        let request = Request { method: "GET", path, headers, ..Request::default() };
        self.station.inside(|| http::send(SocketAddr::from((SERVER, HTTP_PORT)), &request, secs(20)))
    }
}

/// What the client sends that comes to the door `name`.
fn question(name: &str, mac: [u8; 6]) -> Result<Vec<u8>> {
    let (stage, architecture) = name.trim_start_matches("dhcp ").split_once('/').unwrap_or(("os", ""));
    // Numbers of option 93 for PXE and for HTTP boot.
    let [pxe, http] = match architecture {
        "bios" => [0, 20],
        "uefi-x64" => [7, 16],
        "uefi-x86" => [6, 15],
        _ => [0, 0],
    };
    Ok(match stage {
        "pxe" => packets::discover_as(mac, "PXEClient", pxe, ""),
        "ipxe" => packets::discover_as(mac, "PXEClient", pxe, "iPXE"),
        "http-boot" => packets::discover_as(mac, "HTTPClient", http, ""),
        "os" => packets::discover_as(mac, "udhcp", 0, ""),
        _ => anyhow::bail!("no client for {name}"),
    })
}

/// An answer in the words of the golden table.
fn said(answer: &Answer, mac: &str) -> String {
    let http = format!("http://{SERVER}:{HTTP_PORT}/boot");
    let file = answer.file.as_str();
    if file.is_empty() || file.ends_with("start-from-local-disk") {
        // A name that no server has is nothing to start.
        "nothing".into()
    } else if file == format!("{http}/{mac}/script.ipxe") {
        "start the iPXE script".into()
    } else if let Some(loader) = file.strip_prefix(&format!("{http}/files/")) {
        format!("start {loader} by HTTP")
    } else {
        format!("start {file} by TFTP")
    }
}

/// A scripted agent, and an operator: they bring a node where it shall be.
struct Life<'a> {
    server: &'a Server<'a>,
    machine: &'a Machine,
    name: &'a str,
}

impl Life<'_> {
    fn post(&self, path: &str, bearer: Option<&str>, body: &Value) -> Result<Value> {
        let request = Request {
            method: "POST",
            path,
            token: bearer,
            body: Some(body.to_string()),
            ..Request::default()
        };
        let answer = self.server.send(&request)?;
        ensure!((200..300).contains(&answer.status), "{path}: {} {}", answer.status, answer.text());
        Ok(serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    fn operator(&self, word: &str) -> Result<()> {
        let answer =
            self.server.request("POST", &format!("/v1/nodes/{}/{word}", self.name), Some(&json!({})))?;
        ensure!((200..300).contains(&answer.status), "{word}: {}", answer.text());
        Ok(())
    }

    /// From the boot script to the agent's first words; returns its session.
    fn hello(&self, mode: &str) -> Result<String> {
        let script = self.machine.get(&format!("/boot/{}/script.ipxe", self.machine.mac), &[])?.text();
        let token = script.split_whitespace().find_map(|word| word.strip_prefix("kaltstart.token="));
        let token = token.with_context(|| format!("no token in {script}"))?;
        let session = format!("kss_{}", "1".repeat(60 - self.name.len()) + self.name);
        let facts = json!({
            "disks": [{"serial": "BLANK", "size": 1_u64 << 40, "sector_size": 512, "holds": []}],
            "nics": [{"name": "eth0", "mac": self.machine.mac.to_string()}],
        });
        let words = json!({
            "token": token, "session": session, "mode": mode, "boot_id": "b", "agent_version": "0",
            "started_uptime_ms": 1, "uptime_ms": 2, "facts": facts,
        });
        self.post("/agent/v1/hello", None, &words)?;
        Ok(session)
    }

    fn report(&self, session: &str, task: &Value, phase: &str, state: Value) -> Result<()> {
        let words = json!({"job": task["job"], "attempt": 1, "phase": phase, "state": state});
        self.post("/agent/v1/report", Some(session), &words).map(drop)
    }

    /// A deploy up to the end of `last`.
    fn deploy(&self, last: &str) -> Result<()> {
        let job = self.server.deploy(self.name, IMAGE)?;
        if last == "queued" {
            return Ok(());
        }
        if last == "cancelled" {
            let answer =
                self.server.request("POST", &format!("/v1/jobs/{}/cancel", job.id), Some(&json!({})))?;
            ensure!((200..300).contains(&answer.status), "{}", answer.text());
            return Ok(());
        }
        if last == "granted" {
            self.machine.get(&format!("/boot/{}/script.ipxe", self.machine.mac), &[])?;
            return Ok(());
        }
        let session = self.hello("install")?;
        if last == "inventory" {
            return Ok(());
        }
        let task = self.post("/agent/v1/task", Some(&session), &json!({"wait_seconds": 0}))?;
        if last == "failed" {
            let finding = json!({"code": "KS-2101", "detail": "none"});
            return self.report(&session, &task, "disk", json!({"is": "failed", "finding": finding}));
        }
        self.report(&session, &task, "image", json!({"is": "running"}))?;
        if last == "image" {
            return Ok(());
        }
        let machine_id = "0123456789abcdef0123456789abcdef";
        let installed = json!({
            "job": task["job"], "attempt": 1, "disk": "d", "ssh_host_keys": [], "machine_id": machine_id,
            "boot_entry": false,
        });
        self.post("/agent/v1/installed", Some(&session), &installed)?;
        if last == "restart" {
            return Ok(());
        }
        let system = json!({
            "token": task["identity"]["report"]["token"], "hostname": self.name, "kernel": "6",
            "root_device": "/dev/vda3", "root_uuid": task["uuids"]["root"], "os": "os",
            "machine_id": machine_id, "boot_id": "b", "uptime_ms": 1, "ssh_host_keys": [],
        });
        self.post("/node/v1/report", None, &system).map(drop)
    }

    /// A release of a deployed node up to `last`.
    fn release(&self, last: &str) -> Result<()> {
        self.deploy("reported")?;
        self.server.release(self.name)?;
        if last == "queued" {
            return Ok(());
        }
        let session = self.hello("install")?;
        let task = self.post("/agent/v1/task", Some(&session), &json!({"wait_seconds": 0}))?;
        match last {
            "failed" => {
                let finding = json!({"code": "KS-2105", "detail": "none"});
                self.report(&session, &task, "disk", json!({"is": "failed", "finding": finding}))
            }
            "erased" => {
                let disk = &task["disks"][0]["disk"];
                let erased = json!({"disk": disk, "method": "overwrite", "duration_ms": 1, "samples": 1});
                let words = json!({"job": task["job"], "attempt": 1, "disks": [erased]});
                self.post("/agent/v1/erased", Some(&session), &words).map(drop)
            }
            _ => Ok(()),
        }
    }

    fn reach(&self, situation: &str) -> Result<()> {
        if situation != "discovered" {
            let node = json!({"name": self.name, "mac": self.machine.mac});
            let answer = self.server.request("POST", "/v1/nodes", Some(&node))?;
            ensure!(answer.status == 201, "{} {}", answer.status, answer.text());
        }
        match situation {
            "expected" | "discovered" => Ok(()),
            "available" => self.hello("discover").map(drop),
            "allocated" => self.deploy("failed"),
            "deployed" | "deployed, job succeeded" => self.deploy("reported"),
            "releasing" => self.release("failed"),
            "releasing, job release in queued" => self.release("queued"),
            "releasing, job release in disk" => self.release("disk"),
            "available, job release succeeded" => self.release("erased"),
            "allocated, job cancelled" => self.hello("discover").and_then(|_| self.deploy("cancelled")),
            "broken" => self.operator("break"),
            "retired" => self.operator("retire"),
            job => self.deploy(job.rsplit(' ').next().unwrap_or_default()),
        }
    }

    /// Checks that it is shown what DHCP clients and those that named their machine were given.
    fn ensure_shown(&self, given: &Doors) -> Result<()> {
        let shown: Vec<Value> = self.server.get(&format!("/v1/nodes/{}/boot", self.machine.mac))?.json()?;
        // What an operating system asks is not kept of strangers.
        let named =
            |door: &str| door.starts_with("http boot/") || door.starts_with("dhcp ") && door != "dhcp os";
        for (door, gives) in given.iter().filter(|(door, _)| named(door)) {
            let place = if door.ends_with("script.ipxe") { "script" } else { door };
            let gave = shown.iter().find(|one| one["door"] == place).and_then(|one| one["gave"].as_str());
            let gave = gave.with_context(|| format!("nothing of {door} in {shown:?}"))?;
            let words: &[&str] = match gives.as_str() {
                "nothing" => &["no boot file", "start-from-local-disk", "no answer", "403"],
                "the file" => &["206"],
                LOOKS | INSTALLS => &["200"],
                "start the iPXE script" => &["/script.ipxe"],
                start if place == "script" => &[start],
                loader => &[loader.split(' ').nth(1).unwrap_or_default()],
            };
            let fits = words.iter().any(|word| gave.contains(word));
            ensure!(fits, "{door} gave {gives:?} and is shown as {gave:?}");
        }
        Ok(())
    }

    /// What is said beforehand of all doors.
    fn tried(&self) -> Result<Doors> {
        let mut doors = Doors::new();
        for architecture in ["bios", "uefi-x64", "uefi-x86"] {
            let path = format!("/v1/boot/{}?arch={architecture}", self.machine.mac);
            let trial: Value = self.server.get(&path)?.json()?;
            for door in trial["doors"].as_array().context("no doors")? {
                let word = |key: &str| door[key].as_str().unwrap_or_default().to_owned();
                doors.insert(word("door"), without_reason(&word("gives")));
            }
        }
        Ok(doors)
    }

    /// Checks that `ks boot try` and `ks boot show` say the same as the API.
    fn ensure_client_says_so(&self) -> Result<()> {
        let mac = self.machine.mac.as_str();
        for (words, path) in [
            (vec!["try", mac, "--arch", "uefi-x64"], format!("/v1/boot/{mac}?arch=uefi-x64")),
            (
                vec!["try", mac, "--arch", "bios", "--loader", "signed"],
                format!("/v1/boot/{mac}?arch=bios&loader=signed"),
            ),
            (vec!["show", self.name], format!("/v1/nodes/{}/boot", self.name)),
        ] {
            let args = [&["boot"], words.as_slice(), &["-o", "json"]].concat();
            let output = self.server.ks(&args, secs(20))?;
            let said: Value = serde_json::from_slice(&output.stdout)
                .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
            let api: Value = self.server.get(&path)?.json()?;
            ensure!(said == api, "{args:?}: {said} instead of {api}");
        }
        let output = self.server.ks(&["boot", "try", mac, "--arch", "uefi-x64"], secs(20))?;
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = [format!("{mac} ({}) boots install:", self.name), format!("http boot/{mac}/script.ipxe")];
        let missing: Vec<_> = lines.iter().filter(|line| !table.contains(line.as_str())).collect();
        ensure!(missing.is_empty(), "no {missing:?} in {table}");
        Ok(())
    }
}

fn differing(expected: &Doors, given: &Doors) -> Vec<String> {
    let nothing = "no such door".to_owned();
    let differs = |(door, gives): (&String, &String)| {
        let given = given.get(door).unwrap_or(&nothing);
        (given != gives).then(|| format!("{door}: {given}, not {gives}"))
    };
    expected.iter().filter_map(differs).collect()
}

/// Asks every door in each situation.
fn doors(mode: &str, loader: &'static str, situations: &[&str]) -> Result<()> {
    story(&format!("doors-{mode}-{loader}"), |lab| {
        let (artefacts, config) = config()?;
        let [ramdisk, discovery] = [INSTALLS, LOOKS].map(|words| lab.dir().join(words));
        fs::write(&ramdisk, INSTALLS)?;
        fs::write(&discovery, LOOKS)?;
        let config = ServerConfig { uefi_loader: loader, ramdisk, discovery, ..config };
        let server = Server::start(lab, &artefacts, &config.mode(mode))?;
        for (number, situation) in (10..).zip(situations.iter().copied()) {
            let machine = Machine::new(lab, number)?;
            let name = format!("n{number}");
            let life = Life { server: &server, machine: &machine, name: &name };
            life.reach(situation).with_context(|| situation.to_owned())?;
            // Its name and hardware are free again: it comes back as a stranger.
            let counts_as = if situation == "retired" { "discovered" } else { situation };
            let expected = golden(counts_as, loader, &machine.mac)?;
            let differs = differing(&expected, &life.tried()?);
            ensure!(differs.is_empty(), "{situation}: beforehand it was said {differs:#?}");
            let given = machine.ask(mode, &expected).with_context(|| situation.to_owned())?;
            let differs = differing(&expected, &given);
            ensure!(differs.is_empty(), "{situation}: {differs:#?}");
            life.ensure_shown(&given).with_context(|| situation.to_owned())?;
            if situation == "allocated, job in queued" {
                life.ensure_client_says_so()?;
            }
        }
        Ok(())
    })
}

#[test]
fn p01_every_door_gives_what_the_table_says() -> Result<()> {
    doors("authoritative", "ipxe", &SITUATIONS)
}

#[test]
fn p01_every_door_gives_what_the_table_says_to_signed_loaders() -> Result<()> {
    doors("authoritative", "signed", &DECISIONS)
}

#[test]
fn p01_every_door_gives_what_the_table_says_beside_another_server() -> Result<()> {
    doors("proxy", "ipxe", &DECISIONS)
}

/// Where unknown machines are not looked at, no door starts anything for one.
#[test]
fn p01_no_door_starts_anything_for_a_stranger() -> Result<()> {
    story("doors-stranger", |lab| {
        let (artefacts, config) = config()?;
        let boot = "discover_unknown = false\n".into();
        let server = Server::start(lab, &artefacts, &ServerConfig { boot, ..config })?;
        let machine = Machine::new(lab, 10)?;
        let expected = golden("not known", "ipxe", &machine.mac)?;
        let life = Life { server: &server, machine: &machine, name: "n10" };
        let differs = differing(&expected, &life.tried()?);
        ensure!(differs.is_empty(), "beforehand it was said {differs:#?}");
        let differs = differing(&expected, &machine.ask("authoritative", &expected)?);
        ensure!(differs.is_empty(), "{differs:#?}");
        ensure!(server.node_by_mac(&machine.mac)?.is_none(), "it was recorded");
        Ok(())
    })
}
