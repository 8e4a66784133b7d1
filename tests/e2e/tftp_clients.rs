//! TFTP clients of other makers against the real server: curl, tftp-hpa, atftp and busybox get every
//! file as it is, with the options each of them can ask for, over good links and bad ones.

use crate::common::config;
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::lab::{Lab, SERVER, Station};
use kaltstart_tests::process::{run, run_to_end};
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::unpacked::Unpacked;
use kaltstart_tests::wait::secs;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

/// A file that the server gives out: by its name a loader, since it gives out no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct File {
    name: &'static str,
    bytes: usize,
    /// Whether it is of lines that end in LF, CR LF and CR: such a file survives netascii.
    is_text: bool,
}

const fn binary(name: &'static str, bytes: usize) -> File {
    File { name, bytes, is_text: false }
}

const fn text(name: &'static str, bytes: usize) -> File {
    File { name, bytes, is_text: true }
}

const FILES: [File; 7] = [
    binary("undionly.kpxe", 0),
    binary("snponly.efi", 1),
    // Whole blocks: the transfer ends with an empty one (RFC 1350 §6).
    binary("ipxe.efi", 512 * 200),
    binary("shimx64.efi", 1_468 * 500),
    binary("grubx64.efi", 65_464 * 3),
    binary("grubaa64.efi", 1_000_001),
    text("shimaa64.efi", 300_000),
];
/// In blocks of 512 bytes their numbers roll over twice, in blocks of 1468 bytes three times.
const LARGE: [File; 2] = [binary("snponly.efi", 64 << 20), binary("snponly-arm64.efi", 300_000_000)];
/// What is fetched at a loss of so many percent: the more is lost, the less, since most clients wait
/// seconds for an answer that does not come.
const LOSSES: [(u32, [File; 2]); 3] = [
    (1, [binary("shimx64.efi", 1_468 * 500), text("shimaa64.efi", 300_000)]),
    (5, [binary("ipxe.efi", 512 * 200), text("grubaa64.efi", 100_000)]),
    (20, [binary("snponly.efi", 512 * 20), text("undionly.kpxe", 10_000)]),
];
/// How long one transfer may take.
const LIMIT: Duration = secs(180);
/// How often atftp may fail by its own fault.
const ATFTP_FAULTS_MAX: u32 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Curl,
    Hpa,
    Atftp,
    Busybox,
}

/// A client with what it is told to ask for.
#[derive(Debug, Clone, Copy)]
struct Way {
    client: Client,
    args: &'static [&'static str],
}

const fn way(client: Client, args: &'static [&'static str]) -> Way {
    Way { client, args }
}

/// Each client in all its ways.
const WAYS: [Way; 14] = [
    way(Client::Curl, &[]),
    way(Client::Curl, &["--tftp-no-options"]),
    way(Client::Curl, &["--tftp-blksize", "1468"]),
    way(Client::Curl, &["--tftp-blksize", "65464"]),
    way(Client::Hpa, &["-m", "binary"]),
    way(Client::Hpa, &["-m", "ascii"]),
    way(Client::Atftp, &[]),
    way(Client::Atftp, &["--tftp-timeout", "1"]),
    way(Client::Atftp, &["--option", "blksize 1468", "--option", "tsize 0"]),
    way(Client::Atftp, &["--option", "blksize 1468", "--option", "windowsize 4", "--option", "timeout 1"]),
    way(Client::Atftp, &["--tftp-timeout", "1", "--option", "blksize 1428", "--option", "windowsize 64"]),
    way(Client::Busybox, &[]),
    way(Client::Busybox, &["-b", "1468"]),
    way(Client::Busybox, &["-b", "65464"]),
];

impl Way {
    /// Whether `file` arrives as it is.
    fn fits(self, file: &File) -> bool {
        // curl ends with "illegal TFTP operation" (71) when it is told that a file has 0 bytes, though it
        // has asked for the size (RFC 2349).
        let asks_size = self.client == Client::Curl && !self.args.contains(&"--tftp-no-options");
        file.is_text == self.args.contains(&"ascii") && !(asks_size && file.bytes == 0)
    }

    fn command(self, station: &Station, file: &str, to: &Path) -> Result<Command> {
        let (server, unpacked) = (SERVER.to_string(), Unpacked::clients()?);
        Ok(match self.client {
            Client::Curl => {
                let mut command = station.command("curl");
                command.args(["--silent", "--show-error"]).args(self.args).arg("--output").arg(to);
                command.arg(format!("tftp://{server}/{file}"));
                command
            }
            Client::Hpa => {
                let mut command = station.command(unpacked.program("usr/bin/tftp"));
                command.args(self.args).args([&server, "-c", "get", file]).arg(to);
                command
            }
            Client::Atftp => {
                let mut command = station.command(unpacked.program("usr/bin/atftp"));
                command.args(self.args).args(["--get", "--remote-file", file, "--local-file"]).arg(to);
                unpacked.with_libraries({
                    command.arg(server);
                    command
                })
            }
            Client::Busybox => {
                let mut command = station.command("busybox");
                command.args(["tftp", "-g"]).args(self.args).args(["-r", file, "-l"]).arg(to).arg(server);
                command
            }
        })
    }
}

/// A machine that fetches files.
struct Machine {
    station: Station,
    dir: PathBuf,
    source: PathBuf,
}

impl Machine {
    fn new(lab: &Lab, source: &Path, number: u8) -> Result<Self> {
        let station = Station::new(lab)?;
        station.address(Ipv4Addr::new(10, 77, 0, number))?;
        let dir = lab.dir().join(format!("machine-{number}"));
        fs::create_dir(&dir)?;
        Ok(Self { station, dir, source: source.to_owned() })
    }

    /// Fetches a file and compares it.
    fn fetch(&self, way: Way, file: File) -> Result<()> {
        let to = self.dir.join("got");
        let what = format!("{:?} {} of {file:?}", way.client, way.args.join(" "));
        let mut faults = 0;
        loop {
            fs::remove_file(&to).ok();
            let output =
                run_to_end(&mut way.command(&self.station, file.name, &to)?, LIMIT).context(what.clone())?;
            let told = [output.stdout, output.stderr].concat();
            let told = format!("{what}: {}: {}", output.status, String::from_utf8_lossy(&told).trim());
            // When its acknowledgement of the options is lost, they come again (RFC 2347), and atftp gives up.
            if told.contains("unexpected OACK") && faults < ATFTP_FAULTS_MAX {
                faults += 1;
                continue;
            }
            ensure!(output.status.success(), "{told}");
            return run(Command::new("cmp").arg(self.source.join(file.name)).arg(&to), LIMIT)
                .map(drop)
                .context(told);
        }
    }
}

/// Text, and bytes without a pattern that could hide a block taken for another.
fn write_files(dir: &Path, files: &[File]) -> Result<()> {
    fs::create_dir(dir)?;
    let mut state = 0x4b53_u64;
    for file in files {
        let mut bytes = Vec::with_capacity(file.bytes + 8);
        while bytes.len() < file.bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend(state.to_be_bytes());
        }
        bytes.truncate(file.bytes);
        if file.is_text {
            let alphabet = b"text\n of lines\r\n and \r of others\n";
            bytes.iter_mut().for_each(|byte| *byte = alphabet[usize::from(*byte) % alphabet.len()]);
        }
        fs::write(dir.join(file.name), bytes)?;
    }
    Ok(())
}

/// A server with `files`, and a machine for each way.
fn site<'a>(lab: &'a Lab, files: &[File], ways: &[Way]) -> Result<(Server<'a>, Vec<Machine>)> {
    let (artefacts, config) = config()?;
    let source = lab.dir().join("files");
    write_files(&source, files)?;
    let tftp = "blksize_max = 65464\n".into();
    let config = ServerConfig { loaders: source.clone(), tftp, ..config };
    let server = Server::start(lab, &artefacts, &config)?;
    let machines = (10..).zip(ways).map(|(number, _)| Machine::new(lab, &source, number));
    Ok((server, machines.collect::<Result<_>>()?))
}

/// Lets all machines fetch at the same time.
fn fetch_all(
    machines: &[Machine],
    ways: &[Way],
    fetch: impl Fn(&Machine, Way) -> Result<()> + Sync,
) -> Result<()> {
    let fetch = &fetch;
    thread::scope(|scope| {
        let both = machines.iter().zip(ways);
        let fetching: Vec<_> = both.map(|(machine, way)| scope.spawn(|| fetch(machine, *way))).collect();
        let fetched: Vec<_> = fetching.into_iter().map(thread::ScopedJoinHandle::join).collect();
        fetched.into_iter().try_for_each(|one| one.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[test]
fn p33_clients_get_every_file_as_it_is() -> Result<()> {
    story("tftp-clients", |lab| {
        let (_server, machines) = site(lab, &FILES, &WAYS)?;
        fetch_all(&machines, &WAYS, |machine, way| {
            FILES.iter().filter(|file| way.fits(file)).try_for_each(|file| machine.fetch(way, *file))
        })
    })
}

#[test]
fn p33_clients_get_a_large_file() -> Result<()> {
    story("tftp-large", |lab| {
        // The first has blocks of 512 bytes alone.
        let ways = [
            way(Client::Hpa, &["-m", "binary"]),
            way(Client::Curl, &["--tftp-blksize", "1468"]),
            way(Client::Atftp, &["--option", "blksize 1468", "--option", "windowsize 16"]),
            way(Client::Busybox, &["-b", "1468"]),
        ];
        let (_server, machines) = site(lab, &LARGE, &ways)?;
        fetch_all(&machines, &ways, |machine, way| {
            machine.fetch(way, LARGE[usize::from(way.client != Client::Hpa)])
        })
    })
}

#[test]
fn p33_clients_get_files_over_bad_links() -> Result<()> {
    story("tftp-loss", |lab| {
        let ways: Vec<Way> = WAYS.into_iter().filter(|way| !way.args.contains(&"65464")).collect();
        let (_server, machines) = site(lab, &LOSSES.map(|(_, files)| files).concat(), &ways)?;
        for (percent, files) in LOSSES {
            lab.lose(percent)?;
            machines.iter().try_for_each(|machine| machine.station.lose(percent))?;
            fetch_all(&machines, &ways, |machine, way| {
                // When an acknowledgement is lost twice, atftp speaks again after five seconds of silence:
                // long waits by itself, and never where it has asked for repetitions each second.
                let hangs = way.args.contains(&"timeout 1") || (percent == 20 && way.args.is_empty());
                if percent > 1 && way.client == Client::Atftp && hangs {
                    return Ok(());
                }
                files.iter().filter(|file| way.fits(file)).try_for_each(|file| machine.fetch(way, *file))
            })
            .with_context(|| format!("at {percent} % loss"))?;
        }
        Ok(())
    })
}
