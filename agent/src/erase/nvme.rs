//! NVMe disks erase themselves: `Sanitize` and `Format NVM` (NVM Express Base 2.0 §5.24, §5.14).

use super::choice::Offer;
use crate::sys;
use kaltstart_protocol::erasure::EraseMethod;
use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

/// Longest wait for a format. Flash needs minutes at most.
const FORMAT_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);
/// Longest wait for a sanitize operation; the disk goes on by itself after that.
const SANITIZE_LIMIT: Duration = Duration::from_secs(12 * 60 * 60);
/// Pause between looks at the progress of a sanitize operation.
const LOOK: Duration = Duration::from_secs(1);
/// Longest wait at the agent's start for an operation that goes on since an earlier one. A job waits for its agent's
/// first words for ten minutes.
const RECOVERY_LIMIT: Duration = Duration::from_secs(5 * 60);
/// How long a controller may take to tell of an operation that it has taken.
const NOTICE_LIMIT: Duration = Duration::from_secs(10);

/// Structures of `Identify` (Base 2.0 figure 274): a namespace, the controller, the namespaces that are
/// attached to it, and all that exist.
const NAMESPACE: u8 = 0x00;
const CONTROLLER: u8 = 0x01;
const ATTACHED: u8 = 0x02;
const ALLOCATED: u8 = 0x10;

/// What an NVMe disk says that it can do, of what matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Says {
    /// `Sanitize` by block erase.
    sanitize_block: bool,
    /// `Sanitize` by crypto erase.
    sanitize_crypto: bool,
    /// `Format NVM`.
    format: bool,
    /// `Format NVM` with crypto erase.
    format_crypto: bool,
    /// A format takes all namespaces.
    format_takes_all: bool,
    /// There is no namespace but this one.
    alone: bool,
    /// The namespace's format as `Format NVM` wants it, so that it stays the same.
    settings: u32,
}

/// Reads `Identify` data of controller and namespace (Base 2.0 figures 275 and 280), and the list of
/// namespaces (§5.17.2.2), of which this is `number`. The list counts where it is that of all that exist, or where there is
/// but one controller.
pub(super) fn read(controller: &[u8; 4096], namespace: &[u8; 4096], list: &[u8; 4096], number: u32) -> Says {
    let half = |at: usize| u16::from_le_bytes([controller[at], controller[at + 1]]);
    // CMIC, OACS, SANICAP, FNA.
    let many_controllers = controller[76] & 0x02 != 0;
    let (format, manages) = (half(256) & 0x02 != 0, manages_namespaces(controller));
    let (sanitize, attributes) = (controller[328], controller[524]);
    // FLBAS and DPS.
    let (size, protection) = (u32::from(namespace[26]), u32::from(namespace[29]));
    let lists = &list[..8];
    let only = lists[..4] == number.to_le_bytes() && lists[4..] == [0; 4];
    Says {
        sanitize_crypto: sanitize & 0x01 != 0,
        sanitize_block: sanitize & 0x02 != 0,
        format,
        format_crypto: format && attributes & 0x04 != 0,
        format_takes_all: attributes & 0x03 != 0,
        alone: only && (manages || !many_controllers),
        settings: size & 0x1f
            | (protection & 0x07) << 5
            | (protection >> 3 & 0x01) << 8
            | (size >> 5 & 0x03) << 12,
    }
}

/// Whether the controller knows of all namespaces, its own or not (OACS).
fn manages_namespaces(controller: &[u8; 4096]) -> bool {
    controller[256] & 0x08 != 0
}

impl Says {
    /// Its methods, and why some of them must not be used.
    pub(super) fn offers(self) -> Vec<Offer> {
        use EraseMethod::{FormatCrypto, FormatErase, SanitizeBlock, SanitizeCrypto};
        let sanitize = if self.alone { None } else { Some("it would erase other namespaces too") };
        let format = if self.format_takes_all { sanitize } else { None };
        let all = [
            (self.sanitize_block, SanitizeBlock, sanitize),
            (self.sanitize_crypto, SanitizeCrypto, sanitize),
            (self.format, FormatErase, format),
            (self.format_crypto, FormatCrypto, format),
        ];
        all.into_iter()
            .filter(|(has, ..)| *has)
            .map(|(_, method, forbidden)| Offer { method, forbidden })
            .collect()
    }
}

/// Asks the disk what it can do.
///
/// # Errors
/// When it does not answer.
pub(super) fn ask(disk: &File) -> io::Result<Says> {
    let number = sys::disk::nvme_namespace(disk)?;
    let controller = sys::disk::nvme_identify(disk, CONTROLLER, 0)?;
    let namespace = sys::disk::nvme_identify(disk, NAMESPACE, number)?;
    let all = if manages_namespaces(&controller) { ALLOCATED } else { ATTACHED };
    let list = sys::disk::nvme_identify(disk, all, 0)?;
    Ok(read(&controller, &namespace, &list, number))
}

/// Formats the namespace as it is formatted already, with its data erased.
///
/// # Errors
/// When the controller refuses, or is not done within [`FORMAT_LIMIT`].
pub(super) fn format(disk: &File, crypto: bool) -> io::Result<()> {
    let says = ask(disk)?;
    let number = sys::disk::nvme_namespace(disk)?;
    let limit = u32::try_from(FORMAT_LIMIT.as_millis()).map_err(io::Error::other)?;
    sys::erase::nvme_format(disk, number, format_command(says, crypto), limit)
}

/// Command dword 10 of `Format NVM` (Base 2.0 figure 188).
fn format_command(says: Says, crypto: bool) -> u32 {
    let erase = if crypto { 2 } else { 1 };
    says.settings | erase << 9
}

/// Sanitizes the whole disk; tells of each step how far it is, of 65,536.
///
/// Whatever `step` answers with an error ends the wait alone: the disk goes on.
///
/// # Errors
/// When the controller refuses or fails, or is not done within [`SANITIZE_LIMIT`].
pub(super) fn sanitize<E: From<io::Error>>(
    disk: &File,
    crypto: bool,
    mut step: impl FnMut(u16) -> Result<(), E>,
) -> Result<(), E> {
    let order = sanitize_command(crypto);
    sys::erase::nvme_sanitize(disk, order)?;
    let began = Instant::now();
    loop {
        match sanitize_status(&sys::disk::nvme_sanitize_log(disk)?, order) {
            Status::Done => return Ok(()),
            Status::Running(progress) => step(progress)?,
            Status::Failed => {
                // The mode in which it does nothing but sanitize ends only so.
                sys::erase::nvme_sanitize(disk, EXIT_FAILURE_MODE)?;
                return Err(io::Error::other("the disk says that it failed").into());
            }
            Status::Unknown if began.elapsed() > NOTICE_LIMIT => {
                return Err(io::Error::other("the disk does not tell how it stands").into());
            }
            Status::Unknown => {}
        }
        if began.elapsed() > SANITIZE_LIMIT {
            return Err(io::Error::other("it is not done after twelve hours").into());
        }
        std::thread::sleep(LOOK);
    }
}

/// Waits for the end of a sanitize operation that goes on since an earlier start: until then the disk can be neither
/// read nor written. Says whether there was one.
///
/// # Errors
/// When the disk does not answer, as one that cannot sanitize does not, or is not done within [`RECOVERY_LIMIT`].
pub(super) fn recover(disk: &File) -> io::Result<bool> {
    let began = Instant::now();
    let mut waited = false;
    while is_sanitizing(&sys::disk::nvme_sanitize_log(disk)?) {
        if began.elapsed() > RECOVERY_LIMIT {
            return Err(io::Error::other("it is still sanitizing"));
        }
        waited = true;
        std::thread::sleep(LOOK);
    }
    Ok(waited)
}

/// `SANACT`: leave the failure mode (Base 2.0 figure 299).
const EXIT_FAILURE_MODE: u32 = 1;

/// Command dword 10 of `Sanitize`: the action, and that a failure may be left without another try
/// (`AUSE`). Sectors are deallocated afterwards.
fn sanitize_command(crypto: bool) -> u32 {
    let action = if crypto { 4 } else { 2 };
    action | 1 << 3
}

/// How a sanitize operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    /// So many of 65,536 parts are done.
    Running(u16),
    /// It succeeded.
    Done,
    /// It failed.
    Failed,
    /// The log is of another operation, or says nothing.
    Unknown,
}

fn is_sanitizing(log: &[u8; 512]) -> bool {
    log[2] & 0x07 == 2
}

/// Reads a Sanitize Status log (Base 2.0 §5.16.1.25) after the operation with that command dword 10.
fn sanitize_status(log: &[u8; 512], order: u32) -> Status {
    if log[4..8] != order.to_le_bytes() {
        return Status::Unknown;
    }
    match log[2] & 0x07 {
        1 | 4 => Status::Done,
        2 => Status::Running(u16::from_le_bytes([log[0], log[1]])),
        3 => Status::Failed,
        _ => Status::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use EraseMethod::{FormatCrypto, FormatErase, SanitizeBlock, SanitizeCrypto};

    /// What a disk offers, and what of it is forbidden, by these bytes of its controller and these
    /// namespaces.
    fn offers(bytes: &[(usize, u8)], namespaces: &[u32]) -> (Vec<EraseMethod>, Vec<EraseMethod>) {
        let (mut controller, mut list) = ([0; 4096], [0; 4096]);
        for (at, byte) in bytes {
            controller[*at] = *byte;
        }
        for (place, number) in list.chunks_exact_mut(4).zip(namespaces) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let all = read(&controller, &[0; 4096], &list, 1).offers();
        let of = |forbidden: bool| {
            let some = all.iter().filter(|offer| offer.forbidden.is_some() == forbidden);
            some.map(|offer| offer.method).collect()
        };
        (of(false), of(true))
    }

    const FORMAT: (usize, u8) = (256, 0x02);
    const FORMAT_AND_MANAGEMENT: (usize, u8) = (256, 0x0a);
    const SANITIZES: (usize, u8) = (328, 0x03);
    const MANY_CONTROLLERS: (usize, u8) = (76, 0x02);

    #[test]
    fn p10_a_disk_offers_what_it_has() {
        assert_eq!(offers(&[], &[1]), (vec![], vec![]));
        assert_eq!(offers(&[FORMAT], &[1]), (vec![FormatErase], vec![]));
        assert_eq!(offers(&[(524, 0x04)], &[1]), (vec![], vec![]), "crypto erase is a part of format");
        assert_eq!(offers(&[(328, 0x04)], &[1]), (vec![], vec![]), "sanitize by overwriting wears the disk");
        let all = vec![SanitizeBlock, SanitizeCrypto, FormatErase, FormatCrypto];
        assert_eq!(offers(&[FORMAT, SANITIZES, (524, 0x04)], &[1]), (all, vec![]));
    }

    #[test]
    fn p05_what_would_take_other_namespaces_is_forbidden() {
        let sanitize = vec![SanitizeBlock, SanitizeCrypto];
        assert_eq!(offers(&[FORMAT, SANITIZES], &[1, 2]), (vec![FormatErase], sanitize.clone()));
        for takes_all in [0x01, 0x02, 0x03] {
            let (free, forbidden) = offers(&[FORMAT, (524, takes_all)], &[1, 2]);
            assert_eq!((free, forbidden), (vec![], vec![FormatErase]), "{takes_all}");
            assert_eq!(offers(&[FORMAT, (524, takes_all)], &[1]).0, [FormatErase]);
        }
        // Another controller may have namespaces that this one's list does not show.
        assert_eq!(offers(&[SANITIZES, MANY_CONTROLLERS], &[1]), (vec![], sanitize.clone()));
        let knows_all = [SANITIZES, MANY_CONTROLLERS, FORMAT_AND_MANAGEMENT];
        assert_eq!(offers(&knows_all, &[1]).1, []);
        assert_eq!(offers(&[SANITIZES], &[2]), (vec![], sanitize.clone()), "a list without this one");
        assert_eq!(offers(&[SANITIZES], &[]), (vec![], sanitize), "no list");
    }

    #[test]
    fn a_format_keeps_sectors_metadata_and_protection() {
        let settings = |flbas: u8, dps: u8| {
            let mut namespace = [0; 4096];
            (namespace[26], namespace[29]) = (flbas, dps);
            read(&[0; 4096], &namespace, &[0; 4096], 1)
        };
        assert_eq!(format_command(settings(0, 0), false), 0x200);
        assert_eq!(format_command(settings(0, 0), true), 0x400);
        // Format 3 with metadata at the end of the data, protection of type 1 in its first bytes.
        assert_eq!(format_command(settings(0x13, 0x09), false), 0x200 | 0x13 | 1 << 5 | 1 << 8);
        // Format 17 has its upper bit apart.
        assert_eq!(format_command(settings(0x21, 0), false), 0x200 | 0x01 | 1 << 12);
    }

    #[test]
    fn the_status_log_is_read_and_one_of_another_operation_is_not() {
        let order = sanitize_command(false);
        assert_eq!((order, sanitize_command(true)), (0x0a, 0x0c));
        let status = |status: u8, of: u32| {
            let mut log = [0; 512];
            (log[0], log[1], log[2], log[3]) = (0x34, 0x12, status, 0x01);
            log[4..8].copy_from_slice(&of.to_le_bytes());
            assert_eq!(is_sanitizing(&log), status == 2);
            sanitize_status(&log, order)
        };
        assert_eq!(status(0, order), Status::Unknown);
        // The count of finished passes of an overwrite lies above the status.
        assert_eq!(status(0x09, order), Status::Done);
        assert_eq!(status(2, order), Status::Running(0x1234));
        assert_eq!((status(3, order), status(4, order)), (Status::Failed, Status::Done));
        assert_eq!(status(1, sanitize_command(true)), Status::Unknown);
    }
}
