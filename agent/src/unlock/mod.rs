//! `agent unlock`: opens a system's encrypted partitions before it starts, from a ramdisk of its own ([`image`]).
//!
//! The key is asked of the TPM, where it was sealed after the last start that needed the server; where there is none,
//! or the machine was started differently, of the server, and then sealed anew. What is to be remembered for the next
//! start stands in the header of the first partition, in a token as LUKS2 has them.
//!
//! Nobody can start the machine otherwise, so it goes on until all are open: whatever is missing is told on the
//! console, and tried again.

pub mod image;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::unlock::{UNLOCK_CONFIG, UnlockAnswer, UnlockConfig, UnlockQuestion};
use kaltstart_protocol::wipe::HostIdentity;
use serde_json::json;

use crate::backoff::Policy;
use crate::disk::device::rewrite;
use crate::disk::luks::Header;
use crate::disk::{array, crypt};
use crate::link::CallError;
use crate::modules::Loader;
use crate::questions;
use crate::sys::kernel::{random_u32, uptime};
use crate::tpm::seal;
use crate::{http, inventory, log, net, tpm};

/// Pauses between questions without an answer.
const RETRY: Policy = Policy { first: Duration::from_secs(2), cap: Duration::from_secs(60) };
/// Pauses between keys that open nothing: only a person can change that.
const USELESS: Policy = Policy { first: Duration::from_secs(10), cap: Duration::from_secs(300) };
/// Longest time of one question.
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// Pause between looks for partitions, and after how long the console tells which are missing.
const LOOK: Duration = Duration::from_millis(100);
const MISSING_AFTER: Duration = Duration::from_secs(10);
/// After how long arrays are run without the members that are missing. Debian's ramdisk, which has assembled them by
/// then, does it only while it looks for the root file system, and that is later.
const INCOMPLETE_AFTER: Duration = Duration::from_secs(30);
/// The type of our token in a header.
const TOKEN: &str = "kaltstart";

/// Opens all of them.
pub fn run() -> ExitCode {
    log::start();
    let config = match read_config() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{UNLOCK_CONFIG} cannot be read: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut loader = Loader::new(&fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default());
    image::MODULES.iter().for_each(|module| loader.load_named(module));
    let partitions = find(&config.partitions);
    open(&config, &partitions);
    ExitCode::SUCCESS
}

fn read_config() -> io::Result<UnlockConfig> {
    Ok(serde_json::from_slice(&fs::read(UNLOCK_CONFIG)?)?)
}

/// The device nodes of the partitions, once all are there.
fn find(uuids: &[String]) -> Vec<PathBuf> {
    let (mut tell_at, mut run_at) = (uptime() + MISSING_AFTER, uptime() + INCOMPLETE_AFTER);
    loop {
        let found: Vec<Option<PathBuf>> = {
            let headers = headers();
            let node = |uuid: &String| headers.iter().find(|(_, found)| found == uuid);
            uuids.iter().map(|uuid| node(uuid).map(|(node, _)| node.clone())).collect()
        };
        if found.iter().all(Option::is_some) {
            return found.into_iter().flatten().collect();
        }
        if uptime() >= tell_at {
            let missing: Vec<&str> = uuids
                .iter()
                .zip(&found)
                .filter(|(_, found)| found.is_none())
                .map(|(uuid, _)| uuid.as_str())
                .collect();
            tracing::warn!("waiting for the disk with the encrypted partition {}", missing.join(", "));
            tell_at = uptime() + MISSING_AFTER * 3;
        }
        if uptime() >= run_at {
            for name in array::run_incomplete(Path::new("/sys")) {
                tracing::warn!("the array {name} runs without all of its members");
            }
            run_at = uptime() + INCOMPLETE_AFTER;
        }
        std::thread::sleep(LOOK);
    }
}

/// Everything on this machine that has the header of an encrypted partition, with the UUID in it.
fn headers() -> Vec<(PathBuf, String)> {
    let names = fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    let nodes = names.map(|entry| Path::new("/dev").join(entry.file_name()));
    nodes.filter_map(|node| Some((node.clone(), read_header(&node).ok()?.uuid()))).collect()
}

fn read_header(node: &Path) -> io::Result<Header> {
    let partition = File::open(node)?;
    Header::read(&|offset, buffer: &mut [u8]| partition.read_exact_at(buffer, offset))
        .map_err(io::Error::other)
}

/// Opens all partitions, of which there is at least one. Comes back when they are open.
fn open(config: &UnlockConfig, partitions: &[PathBuf]) {
    let Some(first) = partitions.first() else { return };
    let known = read_header(first).ok().and_then(|header| Remembered::of(&header)).unwrap_or_default();
    if let Some(key) = from_tpm(&known) {
        match open_with(partitions, &key) {
            Ok(()) => {
                tracing::info!("the TPM has released the key");
                return;
            }
            Err(why) => tracing::warn!("the key of the TPM does not open {why}"),
        }
    }
    net::bring_up(Some(config.mac));
    let (mut failures, mut useless) = (0, None);
    let UnlockAnswer { key, authority } = loop {
        let answer = ask(config, known.authority, useless);
        tracing::info!("the server has released the key");
        let Err(why) = open_with(partitions, &answer.key) else { break answer };
        (failures, useless) = (failures + 1, Some(answer.key.fingerprint()));
        let pause = USELESS.delay(failures, random_u32());
        log::show(&Finding::new(Code::KeyRefused, format!("the key of the server does not open {why}")));
        tracing::info!("perhaps the server gets another; asking again in {} s", pause.as_secs());
        std::thread::sleep(pause);
    };
    let sealed = seal_to_tpm(&key);
    let news = Remembered { authority: Some(authority), sealed };
    if news != known
        && let Err(error) = news.keep(first)
    {
        tracing::warn!(%error, "nothing can be remembered for the next start");
    }
    // The system gets itself an address anew.
    net::take_down();
}

/// Opens all of them, or says which it does not and why.
fn open_with(partitions: &[PathBuf], key: &Secret) -> Result<(), String> {
    partitions.iter().try_for_each(|node| {
        crypt::open(node, key.expose().as_bytes())
            .map(drop)
            .map_err(|error| format!("{}: {error}", node.display()))
    })
}

/// What the last start has left in the header of the first partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Remembered {
    /// Fingerprint of the authority that servers show, once one has told it.
    authority: Option<Digest>,
    /// The key, sealed to the TPM.
    sealed: Option<Vec<u8>>,
}

impl Remembered {
    fn of(header: &Header) -> Option<Self> {
        let token = header.token(TOKEN)?;
        Some(Self {
            authority: token["authority"].as_str().and_then(|text| text.parse().ok()),
            sealed: token["sealed"].as_str().and_then(|text| STANDARD.decode(text).ok()),
        })
    }

    fn keep(&self, node: &Path) -> io::Result<()> {
        let mut header = read_header(node)?;
        header.keep_token(json!({
            "type": TOKEN,
            "keyslots": ["0"],
            "authority": self.authority.map(|authority| authority.to_string()),
            "sealed": self.sealed.as_ref().map(|sealed| STANDARD.encode(sealed)),
        }))?;
        let source = File::open("/dev/urandom")?;
        rewrite(node, &header.next(&mut |buffer| (&source).read_exact(buffer))?)
    }
}

/// The key, if the TPM has it and the machine was started as it was then.
fn from_tpm(known: &Remembered) -> Option<Secret> {
    let sealed = known.sealed.as_ref()?;
    let unsealed = tpm::open().and_then(|tpm| tpm.map(|mut tpm| seal::unseal(&mut tpm, sealed)).transpose());
    match unsealed {
        Ok(key) => Some(Secret::new(String::from_utf8(key?.to_vec()).ok()?)),
        Err(error) => {
            tracing::warn!(
                "the TPM does not release the key: {error}; the machine was started differently, and the server is asked"
            );
            None
        }
    }
}

fn seal_to_tpm(key: &Secret) -> Option<Vec<u8>> {
    let sealed = tpm::open()
        .and_then(|tpm| tpm.map(|mut tpm| seal::seal(&mut tpm, key.expose().as_bytes())).transpose());
    match sealed {
        Ok(sealed) => {
            if sealed.is_some() {
                tracing::info!("the key is sealed to the TPM: the next start like this one needs no server");
            }
            sealed
        }
        Err(error) => {
            tracing::warn!("the key cannot be sealed to the TPM: {error}");
            None
        }
    }
}

/// The server's answer, for which it is asked until it gives it; `useless` is the key of the one before.
fn ask(config: &UnlockConfig, authority: Option<Digest>, useless: Option<Digest>) -> UnlockAnswer {
    let host = HostIdentity::of(&inventory::facts(Path::new("/"), None));
    let question =
        UnlockQuestion { token: config.ask.token.clone(), job: config.ask.job.clone(), host, useless };
    let mut failures = 0;
    loop {
        let finding = match ask_once(config, authority, &question) {
            Ok(answer) => return answer,
            Err(finding) => finding,
        };
        log::show(&finding);
        failures += 1;
        let pause = RETRY.delay(failures, random_u32());
        tracing::info!("the system waits for the key of its disks; asking again in {} s", pause.as_secs());
        std::thread::sleep(pause);
    }
}

fn ask_once(
    config: &UnlockConfig,
    authority: Option<Digest>,
    question: &UnlockQuestion,
) -> Result<UnlockAnswer, Finding> {
    let unreachable = |why: String| Finding::new(Code::ServerUnreachable, why);
    let authority = authority.unwrap_or(config.ask.authority);
    let http =
        http::pinned(authority, config.ask.not_before).map_err(|error| unreachable(error.to_string()))?;
    let answer = questions::ask(&http, &config.ask, question, CALL_LIMIT).map_err(|error| match error {
        CallError::Untrusted(why) => Finding::new(Code::ServerNotTrusted, why),
        CallError::Unauthorized(why) | CallError::Refused { text: why, .. } => {
            Finding::new(Code::KeyRefused, why)
        }
        CallError::Unreachable(why) => unreachable(why),
    })?;
    serde_json::from_slice(&answer).map_err(|error| unreachable(format!("unusable answer: {error}")))
}
