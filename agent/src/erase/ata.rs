//! ATA disks erase themselves: the Security feature set (ACS-3 §4.18, §7.40 to §7.45).
//!
//! A disk erases itself only for whoever knows its password, so one is set first, and the erasure takes
//! it away again. Should the power fail in between, the disk comes back locked with [`PASSWORD`];
//! [`recover`] unlocks it at the next start of an agent that may do more than look, and by hand does
//! `hdparm --user-master u --security-unlock Kaltstart` and then `--security-disable Kaltstart`.

use super::choice::Offer;
use crate::sys;
use kaltstart_protocol::erasure::EraseMethod;
use std::fs::File;
use std::io;
use std::time::Duration;

/// The password while a disk erases itself. It is no secret: it guards nothing, and must be known to
/// whoever finds the disk locked.
const PASSWORD: &[u8] = b"Kaltstart";
/// Longest wait for anything but the erasure itself.
const ORDER_LIMIT: Duration = Duration::from_secs(30);
/// Longest wait for an erasure whose time the disk does not tell.
const ERASE_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);
/// What is waited for beyond the time that the disk tells.
const SLACK: Duration = Duration::from_secs(30 * 60);

/// Commands (ACS-3 §7.40 to §7.45).
const SET_PASSWORD: u8 = 0xf1;
const UNLOCK: u8 = 0xf2;
const ERASE_PREPARE: u8 = 0xf3;
const ERASE_UNIT: u8 = 0xf4;
const DISABLE_PASSWORD: u8 = 0xf6;

/// A disk that is spoken to in ATA.
pub(super) trait Ata {
    /// `IDENTIFY DEVICE`.
    fn identify(&mut self) -> io::Result<[u8; 512]>;
    /// Sends `order`, and waits that long for its end.
    fn send(&mut self, order: &Order, limit: Duration) -> io::Result<()>;
}

impl Ata for &File {
    fn identify(&mut self) -> io::Result<[u8; 512]> {
        sys::disk::ata_identify(self)
    }

    fn send(&mut self, order: &Order, limit: Duration) -> io::Result<()> {
        let limit = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        sys::erase::ata_order(self, &order.request, order.data.as_deref(), limit)
    }
}

/// An `ATA PASS-THROUGH (16)` (SAT-4 §12.2.3), and the sector that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    request: [u8; 16],
    data: Option<Box<[u8; 512]>>,
}

impl Order {
    /// A command without data.
    fn bare(command: u8) -> Self {
        let mut request = [0; 16];
        // Protocol 3 is a command without data.
        (request[0], request[1], request[14]) = (0x85, 3 << 1, command);
        Self { request, data: None }
    }

    /// A command with the user's password, and `control` in its first word (ACS-3 table 122, 126 and 128).
    fn with_password(command: u8, control: u16) -> Self {
        let (mut request, mut data) = ([0; 16], Box::new([0; 512]));
        // Protocol 5 sends data; one sector to the disk, counted in the sector count.
        (request[0], request[1], request[2]) = (0x85, 5 << 1, 0x06);
        (request[6], request[14]) = (1, command);
        data[..2].copy_from_slice(&control.to_le_bytes());
        data[2..2 + PASSWORD.len()].copy_from_slice(PASSWORD);
        Self { request, data: Some(data) }
    }
}

/// Security of an ATA disk, by words 82, 89, 90 and 128 of `IDENTIFY DEVICE` (ACS-3 §7.12.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Security {
    supported: bool,
    enabled: bool,
    locked: bool,
    frozen: bool,
    exhausted: bool,
    enhanced: bool,
    /// What an erasure takes, as far as the disk tells.
    time: Option<Duration>,
    enhanced_time: Option<Duration>,
}

/// Reads 512 bytes of identification.
pub(super) fn read(identity: &[u8; 512]) -> Security {
    let word = |number: usize| u16::from_le_bytes([identity[number * 2], identity[number * 2 + 1]]);
    let status = word(128);
    let has = |bit: u16| status & 1 << bit != 0;
    // Words 82 and 85 count where bits 15 and 14 of word 83 are 01.
    let supported = word(83) & 0xc000 == 0x4000 && word(82) & 0x02 != 0 && has(0);
    Security {
        supported,
        enabled: has(1),
        locked: has(2),
        frozen: has(3),
        exhausted: has(4),
        enhanced: has(5),
        time: time(word(89)),
        enhanced_time: time(word(90)),
    }
}

/// Words 89 and 90: units of two minutes, of 15 bits where the uppermost says so. The largest of 8 bits
/// stands for all that is longer.
fn time(word: u16) -> Option<Duration> {
    let units = if word & 0x8000 == 0 { word & 0xff } else { word & 0x7fff };
    let is_known = units != 0 && !(word & 0x8000 == 0 && units == 0xff);
    is_known.then(|| Duration::from_secs(u64::from(units) * 120))
}

impl Security {
    /// Its methods, and why they cannot be used.
    pub(super) fn offers(self) -> Vec<Offer> {
        if !self.supported {
            return Vec::new();
        }
        let forbidden = if self.frozen {
            Some("the firmware has frozen the disk's security")
        } else if self.enabled {
            Some("the disk has somebody's password")
        } else {
            None
        };
        let enhanced = self.enhanced.then_some(Offer { method: EraseMethod::SecureEraseEnhanced, forbidden });
        enhanced.into_iter().chain([Offer { method: EraseMethod::SecureErase, forbidden }]).collect()
    }
}

/// Asks the disk what it can do.
///
/// # Errors
/// When it does not answer.
pub(super) fn ask(mut disk: &File) -> io::Result<Security> {
    disk.identify().map(|identity| read(&identity))
}

/// Lets the disk erase itself, and leaves it without a password.
///
/// # Errors
/// When it refuses, fails, or is not done within the time that it told; and when it keeps the password.
pub(super) fn erase(disk: &mut impl Ata, enhanced: bool) -> io::Result<()> {
    let security = read(&disk.identify()?);
    let told = if enhanced { security.enhanced_time } else { security.time };
    let limit = told.map_or(ERASE_LIMIT, |time| time * 2 + SLACK);
    let step = |what: &'static str| move |error: io::Error| io::Error::other(format!("{what}: {error}"));
    // Bit 8 would be the level at which the maker's password only erases; high is enough.
    disk.send(&Order::with_password(SET_PASSWORD, 0), ORDER_LIMIT).map_err(step("setting a password"))?;
    let erased =
        disk.send(&Order::bare(ERASE_PREPARE), ORDER_LIMIT).map_err(step("preparing")).and_then(|()| {
            // Nothing may come between the two (ACS-3 §7.42).
            let unit = Order::with_password(ERASE_UNIT, u16::from(enhanced) << 1);
            disk.send(&unit, limit).map_err(step("erasing"))
        });
    let cleared = disk.identify().and_then(|identity| open(disk, read(&identity)));
    match (erased, cleared) {
        (Ok(()), Ok(_)) => Ok(()),
        (Err(error), Ok(_)) => Err(error),
        (erased, Err(kept)) => {
            let erased = erased.map_or_else(|error| format!("{error}; "), |()| String::new());
            Err(io::Error::other(format!("{erased}it keeps the password Kaltstart: {kept}")))
        }
    }
}

/// Takes the password away that an interrupted erasure has left; says whether there was one. A disk with
/// somebody else's password stays as it is, with one of its five tries until power-off used up.
///
/// # Errors
/// When it does not answer, or the password is not ours.
pub(super) fn recover(disk: &mut impl Ata) -> io::Result<bool> {
    let security = read(&disk.identify()?);
    if security.frozen || security.exhausted {
        return Ok(false);
    }
    open(disk, security)
}

/// Unlocks a disk and takes our password away; says whether there was one.
fn open(disk: &mut impl Ata, security: Security) -> io::Result<bool> {
    if !security.enabled {
        return Ok(false);
    }
    if security.locked {
        disk.send(&Order::with_password(UNLOCK, 0), ORDER_LIMIT)?;
    }
    disk.send(&Order::with_password(DISABLE_PASSWORD, 0), ORDER_LIMIT)?;
    if read(&disk.identify()?).enabled {
        return Err(io::Error::other("it was taken away, and is still there"));
    }
    Ok(true)
}

#[cfg(test)]
#[path = "ata_tests.rs"]
mod tests;
