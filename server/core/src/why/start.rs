//! Causes after the last byte of a boot file: what was fetched does not run, or starts over.

use super::Likelihood::{High, Low, Medium};
use super::boot::{Boot, Reached, file_is_for, is_sent_to_disk};
use super::{Case, Cause, Loader};
use crate::boot::{self, UefiLoader};
use crate::dhcp::client::{Architecture, Client, Stage};
use crate::machine::State;
use crate::trace::{Answer, Exchange, Exchange6, Start, TftpEnd, What};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use kaltstart_protocol::finding::Code;
use kaltstart_protocol::time::Millis;

/// A loader that was started asks for something within seconds.
const LOADER_MS: u64 = 20_000;
/// A kernel needs a minute on slow machines until its agent can speak.
const KERNEL_MS: u64 = 2 * 60_000;
/// A system on its own disk needs this long until it asks for an address.
const SYSTEM_MS: u64 = 5 * 60_000;
/// Starts that are looked at for a loop are not older.
const LOOP_MS: u64 = 30 * 60_000;
/// So many starts without a system are a loop.
const LOOP_BOOTS: usize = 3;

/// KS-1017
pub(super) fn wrong_architecture(case: &Case<'_>) -> Option<Cause> {
    no_loader(case).or_else(|| {
        let refused = refused(case)?;
        let Refused { file, client, loader: Some(loader), .. } = &refused else { return None };
        (!loader.fits(client.architecture)).then(|| {
            refused
                .cause(Code::WrongArchitecture, High)
                .seen(refused.at, format!("{file:?} is made for {}, the machine is {client}", loader.name()))
        })
    })
}

/// There is nothing to be offered to such firmware.
fn no_loader(case: &Case<'_>) -> Option<Cause> {
    if case.is_local() || case.boot.reached() > Some(Reached::Address) {
        return None;
    }
    let (at, exchange) = case.boot.firmware().next_back()?;
    let loader = |uefi| boot::Loader::first(exchange.client.architecture, uefi);
    let none = [UefiLoader::Ipxe, UefiLoader::Signed].into_iter().all(|uefi| loader(uefi).is_none());
    let offered_nothing = !matches!(exchange.answer, Answer::Sent { file: Some(_), .. });
    (none && offered_nothing).then(|| {
        let text = format!("{} of {}: there is no loader for it", exchange.kind, exchange.client);
        Cause::new(Code::WrongArchitecture, High).seen(at, text)
    })
}

/// A loader that was fetched whole, and after which nothing came that it would have asked for.
struct Refused {
    at: Millis,
    file: String,
    client: Client,
    loader: Option<Loader>,
    /// When the firmware began again; none while it is silent.
    again: Option<Millis>,
}

impl Refused {
    fn cause(&self, code: Code, likelihood: super::Likelihood) -> Cause {
        let cause = Cause::new(code, likelihood).seen(self.at, format!("{:?} was fetched whole", self.file));
        match self.again {
            Some(at) => cause.seen(at, "the firmware began again instead of the loader's next question"),
            None => cause,
        }
    }
}

fn refused(case: &Case<'_>) -> Option<Refused> {
    let last = case.boot;
    let refused = refused_in(last, case, None);
    // A start that has just begun tells what became of the one before.
    refused.or_else(|| {
        let [.., before, _] = case.boots else { return None };
        let (again, _) = last.firmware_asked().next()?;
        (last.reached() <= Some(Reached::Address)).then(|| refused_in(*before, case, Some(again)))?
    })
}

fn refused_in(boot: Boot<'_>, case: &Case<'_>, again: Option<Millis>) -> Option<Refused> {
    if boot.reached() != Some(Reached::Loader) {
        return None;
    }
    let is_loader = |file: &str| file_is_for(file) == Some(Reached::Loader);
    let by_tftp = boot.tftp().filter(|(_, t)| t.end == TftpEnd::Complete && is_loader(&t.file));
    let by_http = boot.http().filter(|(_, a)| a.status / 100 == 2 && a.bytes > 0 && is_loader(&a.path));
    let fetched = by_tftp.map(|(at, t)| (at, &t.file)).chain(by_http.map(|(at, a)| (at, &a.path)));
    let (at, file) = fetched.max_by_key(|(at, _)| *at)?;
    let spoke = boot.after(at).any(|seen| match &seen.what {
        What::Dhcp(Exchange { client, .. }) | What::Dhcp6(Exchange6 { client, .. }) => {
            client.stage == Stage::Ipxe
        }
        What::Loading(_) | What::Tftp(_) | What::Http(_) | What::Script(_) => true,
        _ => false,
    });
    // The next boot entry of the firmware may follow within the same start.
    let again = again.or_else(|| boot.firmware_asked().find(|(when, _)| *when > at).map(|(when, _)| when));
    if spoke || (again.is_none() && case.now.since(at) < LOADER_MS) {
        return None;
    }
    let (_, client) = boot.firmware_asked().next_back()?;
    let name = file.rsplit('/').next().unwrap_or(file);
    Some(Refused { at, file: file.clone(), client, loader: case.site.loaders.get(name).copied(), again })
}

/// KS-1018
pub(super) fn secure_boot_refused(case: &Case<'_>) -> Option<Cause> {
    let refused = refused(case)?;
    if refused.client.architecture == Architecture::Bios {
        return None;
    }
    match refused.loader {
        Some(loader) if !loader.fits(refused.client.architecture) => None,
        Some(Loader { signed: false, .. }) => {
            let likelihood = if refused.again.is_some() { High } else { Medium };
            let text =
                format!("{:?} carries no signature: with Secure Boot on no firmware starts it", refused.file);
            Some(refused.cause(Code::SecureBootRefused, likelihood).seen(refused.at, text))
        }
        // Firmware that refuses one goes on to its next entry.
        Some(_) if refused.again.is_none() => Some(refused.cause(Code::SecureBootRefused, Low)),
        _ => Some(refused.cause(Code::SecureBootRefused, Medium)),
    }
}

/// KS-1022
pub(super) fn loader_silent(case: &Case<'_>) -> Option<Cause> {
    let refused = refused(case)?;
    let bios = refused.client.architecture == Architecture::Bios;
    let signed = refused.loader.is_some_and(|loader| loader.signed);
    let likely = bios || (signed && refused.again.is_none());
    let mut cause = refused.cause(Code::LoaderSilent, if likely { Medium } else { Low });
    if refused.again.is_none() {
        cause = cause
            .seen(case.now, format!("nothing came in the {} s since", case.now.since(refused.at) / 1_000));
    }
    Some(cause)
}

/// KS-1023
pub(super) fn kernel_silent(case: &Case<'_>) -> Option<Cause> {
    let boot = case.boot;
    if boot.reached() != Some(Reached::Kernel) || boot.is_loading(case.now) {
        return None;
    }
    let fetched = boot.seen().iter().rev().find(|seen| match &seen.what {
        What::Tftp(t) => file_is_for(&t.file) == Some(Reached::Kernel),
        What::Http(a) => file_is_for(&a.path) == Some(Reached::Kernel) && !a.is_aborted(),
        _ => false,
    })?;
    let waited = case.now.since(fetched.at);
    (waited >= KERNEL_MS).then(|| {
        let mut cause = Cause::new(Code::KernelSilent, Medium).seen(fetched.at, "it has kernel and ramdisk");
        let said = boot.after(fetched.at).filter_map(|seen| match &seen.what {
            What::Syslog { text } => Some((seen.at, text)),
            _ => None,
        });
        if let Some((at, text)) = said.last() {
            cause = cause.seen(at, format!("it said last: {text}"));
        }
        cause.seen(case.now, format!("no agent reported in the {} s since", waited / 1_000))
    })
}

/// When it was sent to its own disk in that start.
fn sent_to_disk(boot: &Boot<'_>) -> Option<Millis> {
    let sent = |what: &What| match what {
        What::Script(Start::Local) => true,
        What::Dhcp(exchange) => is_sent_to_disk(exchange),
        What::Tftp(t) => file_is_for(&t.file) == Some(Reached::Disk),
        What::Http(a) => file_is_for(&a.path) == Some(Reached::Disk),
        _ => false,
    };
    boot.seen().iter().rev().find(|seen| sent(&seen.what)).map(|seen| seen.at)
}

/// KS-1021
pub(super) fn disk_not_bootable(case: &Case<'_>) -> Option<Cause> {
    let came_back: Vec<(Millis, Millis)> = case
        .boots
        .windows(2)
        .filter_map(|pair| {
            let [sent, next] = pair else { return None };
            let at = sent_to_disk(sent).filter(|_| sent.reached() == Some(Reached::Disk))?;
            let (again, _) = next.began().next()?;
            // Somebody switched it off and on, or it was in its system for long: no failure.
            let by_itself = next.seen().iter().all(|seen| seen.what != What::Power);
            (by_itself && again.since(at) < SYSTEM_MS && case.now.since(at) < LOOP_MS).then_some((at, again))
        })
        .collect();
    if let (Some((at, again)), true) = (came_back.last(), case.boot.reached() != Some(Reached::System)) {
        let count = came_back.len();
        let cause = Cause::new(Code::DiskNotBootable, High)
            .seen(*at, "it was sent to its own disk")
            .seen(*again, "it came back and asked the network again, without having started its system");
        return Some(if count > 1 {
            cause.seen(case.now, format!("that happened {count} times"))
        } else {
            cause
        });
    }
    let installed = case.machine.is_some_and(|machine| {
        machine.node.state == State::Deployed
            || machine.job.as_ref().is_some_and(|job| job.installed.is_some())
    });
    let at = sent_to_disk(&case.boot).filter(|_| installed && case.boot.reached() == Some(Reached::Disk))?;
    let waited = case.now.since(at);
    (waited >= SYSTEM_MS).then(|| {
        Cause::new(Code::DiskNotBootable, Low)
            .seen(at, "it was sent to its own disk")
            .seen(case.now, format!("its system asked for no address in the {} s since", waited / 1_000))
    })
}

/// KS-1016
pub(super) fn boot_loop(case: &Case<'_>) -> Option<Cause> {
    let failed = |boot: &&Boot<'_>| boot.began().next().is_some() && boot.reached() != Some(Reached::System);
    let recent = |boot: &&Boot<'_>| boot.first().is_some_and(|first| case.now.since(first.at) < LOOP_MS);
    let starts: Vec<&Boot<'_>> = case.boots.iter().rev().take_while(failed).take_while(recent).collect();
    if starts.len() < LOOP_BOOTS {
        return None;
    }
    let first = starts.last()?.first()?.at;
    let minutes = case.now.since(first).div_ceil(60_000);
    let cause = Cause::new(Code::BootLoop, if starts.len() > LOOP_BOOTS { High } else { Medium });
    let cause = cause.seen(first, format!("{} starts in {minutes} min", starts.len()));
    // The last one is still under way.
    let ended = starts.get(1)?;
    let far = ended.reached().map_or("nothing", Reached::name);
    Some(cause.seen(ended.last()?.at, format!("the one before the last came as far as {far}")))
}
