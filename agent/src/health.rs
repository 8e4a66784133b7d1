//! How a disk says it is: NVMe's health log, ATA's SMART.

use kaltstart_protocol::facts::{self, Health, Verdict};

/// Bits of NVMe's critical warning (NVM Express Base 2.0, figure 207) that tell of a failing disk.
const NVME_FAILING: [(u8, &str); 4] = [
    (0x01, "spare blocks below their threshold"),
    (0x04, "reliability degraded by media or internal errors"),
    (0x08, "read-only"),
    (0x10, "backup of volatile memory failed"),
];
/// The bit that tells of a temperature beyond its limits: of the machine more than of the disk.
const NVME_TEMPERATURE: u8 = 0x02;
/// Kelvin of 0 °C, as NVMe counts.
const ZERO_CELSIUS: i16 = 273;

/// Reads a SMART / Health Information log (NVM Express Base 2.0 §5.16.1.3); none when it is cut short.
#[must_use]
pub fn of_nvme(log: &[u8]) -> Option<Health> {
    let warning = *log.first()?;
    let kelvin = u16::from_le_bytes(*log.get(1..)?.first_chunk()?);
    let mut said: Vec<&str> =
        NVME_FAILING.iter().filter(|(bit, _)| warning & bit != 0).map(|(_, text)| *text).collect();
    let verdict = if said.is_empty() { Verdict::Good } else { Verdict::Failing };
    if warning & NVME_TEMPERATURE != 0 {
        said.push("temperature beyond its limits");
    }
    // Counters have 128 bits; the upper half of what really happens is zero.
    let counter = |offset: usize| {
        let bytes = log.get(offset..)?.first_chunk::<16>()?;
        Some(u64::try_from(u128::from_le_bytes(*bytes)).unwrap_or(u64::MAX))
    };
    Some(Health {
        verdict,
        said: said.join(", "),
        celsius: i16::try_from(kelvin).ok().filter(|kelvin| *kelvin > 0).map(|kelvin| kelvin - ZERO_CELSIUS),
        worn_percent: log.get(5).copied(),
        hours: Some(counter(128)?),
        media_errors: Some(counter(160)?),
        reallocated: None,
        pending: None,
    })
}

/// What an ATA disk says of itself (ATA8-ACS §7.16, `IDENTIFY DEVICE`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// Revision of its firmware.
    pub firmware: String,
    /// Whether SMART is there and switched on.
    pub smart: bool,
}

/// Reads 512 bytes of identification; none when they are cut short.
#[must_use]
pub fn identity(data: &[u8]) -> Option<Identity> {
    let word = |number: usize| data.get(number * 2..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes));
    // Text lies in words of two characters, the first in the upper half.
    let text: Option<Vec<u8>> = (23..27)
        .map(word)
        .collect::<Option<Vec<_>>>()
        .map(|words| words.iter().flat_map(|w| w.to_be_bytes()).collect());
    // Words 82 and 85 count where bits 15 and 14 of word 83 are 01.
    let valid = word(83)? & 0xc000 == 0x4000;
    Some(Identity { firmware: facts::text(&text?), smart: valid && word(82)? & 1 == 1 && word(85)? & 1 == 1 })
}

/// What a disk said to `SMART RETURN STATUS`, by the middle and high bytes of the LBA that it gave
/// back (ATA8-ACS §7.52.8); none for an answer that is neither.
#[must_use]
pub fn ata_verdict(middle: u8, high: u8) -> Option<Verdict> {
    match (middle, high) {
        (0x4f, 0xc2) => Some(Verdict::Good),
        (0xf4, 0x2c) => Some(Verdict::Failing),
        _ => None,
    }
}

/// Adds to `verdict` the attributes that makers agree on, from the data of `SMART READ DATA`. The
/// layout is of SFF-8035i: thirty entries of twelve bytes behind a version, and a sum over all.
#[must_use]
pub fn of_ata(verdict: Verdict, data: &[u8]) -> Health {
    let mut health = Health { verdict, ..Health::default() };
    if verdict == Verdict::Failing {
        health.said = "SMART: a threshold is exceeded".into();
    }
    let Some(data) =
        data.first_chunk::<512>().filter(|data| data.iter().fold(0_u8, |sum, b| sum.wrapping_add(*b)) == 0)
    else {
        return health;
    };
    for entry in data[2..362].chunks_exact(12) {
        let raw = entry[5..11].iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        match entry[0] {
            5 => health.reallocated = Some(raw),
            // Some makers put minutes of the last hour, or milliseconds, into the upper bytes.
            9 => health.hours = Some(raw & 0xffff_ffff),
            // The lowest byte is the temperature now; what lies above it are extremes.
            194 => health.celsius = Some(i16::from(entry[5].cast_signed())),
            197 => health.pending = Some(raw & 0xffff_ffff),
            _ => {}
        }
    }
    health
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
