//! Processors and memory modules, as the firmware describes them (SMBIOS, DSP0134 3.7).
//!
//! The table is written by the firmware's maker and often wrong: what is cut short or says nothing
//! is left out, the rest is kept. (The crate `dmidecode` panics on such tables, and gives up a
//! structure for one bad string.)

use kaltstart_protocol::facts::{self, Module, Processor};

/// Structures that are looked at: the largest servers have some hundreds.
const STRUCTURES_MAX: usize = 4096;
/// Texts with which makers say that they have nothing to say, in lower case.
const NOTHING: [&str; 13] = [
    "not specified",
    "not provided",
    "not available",
    "no dimm",
    "none",
    "n/a",
    "unknown",
    "undefined",
    "to be filled by o.e.m.",
    "default string",
    "serialnum",
    "[empty]",
    "empty",
];

/// What the table says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Smbios {
    /// Processors in their sockets.
    pub processors: Vec<Processor>,
    /// Memory modules in their slots.
    pub modules: Vec<Module>,
}

/// Reads the structure table (`/sys/firmware/dmi/tables/DMI`).
#[must_use]
pub fn read(table: &[u8]) -> Smbios {
    let mut found = Smbios::default();
    for structure in Structures(table).take(STRUCTURES_MAX) {
        match structure.kind {
            4 => found.processors.extend(processor(&structure)),
            17 => found.modules.extend(module(&structure)),
            _ => {}
        }
    }
    found
}

/// One structure (§6.1): the formatted area with its header, and the strings behind it.
struct Structure<'a> {
    kind: u8,
    formatted: &'a [u8],
    strings: &'a [u8],
}

/// Walks the table until its end, or until lengths make no sense.
struct Structures<'a>(&'a [u8]);

impl<'a> Iterator for Structures<'a> {
    type Item = Structure<'a>;

    fn next(&mut self) -> Option<Structure<'a>> {
        const END_OF_TABLE: u8 = 127;
        let (kind, length) = (*self.0.first()?, usize::from(*self.0.get(1)?));
        if kind == END_OF_TABLE || length < 4 {
            return None;
        }
        let (formatted, rest) = self.0.split_at_checked(length)?;
        // Two zero bytes end the strings, also where there are none (§6.1.3).
        let end = rest.windows(2).position(|pair| pair == [0, 0])?;
        let (strings, rest) = rest.split_at_checked(end + 2)?;
        self.0 = rest;
        Some(Structure { kind, formatted, strings })
    }
}

impl Structure<'_> {
    fn byte(&self, offset: usize) -> Option<u8> {
        self.formatted.get(offset).copied()
    }

    fn word(&self, offset: usize) -> Option<u16> {
        self.formatted.get(offset..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
    }

    fn double_word(&self, offset: usize) -> Option<u32> {
        self.formatted.get(offset..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// The string whose number stands at `offset`; empty when there is none, or it says nothing.
    fn text(&self, offset: usize) -> String {
        let number = usize::from(self.byte(offset).unwrap_or(0));
        let string = number.checked_sub(1).and_then(|index| self.strings.split(|byte| *byte == 0).nth(index));
        let text = facts::text(string.unwrap_or_default());
        if NOTHING.contains(&text.to_ascii_lowercase().as_str()) { String::new() } else { text }
    }
}

/// §7.5; none for an empty socket.
fn processor(structure: &Structure<'_>) -> Option<Processor> {
    const CENTRAL: u8 = 3;
    const POPULATED: u8 = 0x40;
    if structure.byte(0x05) != Some(CENTRAL) || structure.byte(0x18)? & POPULATED == 0 {
        return None;
    }
    // A byte until version 3.0; 255 then means that the word tells.
    let count = |byte: usize, word: usize| match structure.byte(byte) {
        Some(0xff) => structure.word(word).filter(|count| *count != 0xffff).unwrap_or(0),
        other => u16::from(other.unwrap_or(0)),
    };
    Some(Processor {
        socket: structure.text(0x04),
        model: structure.text(0x10),
        cores: count(0x23, 0x2a),
        threads: count(0x25, 0x2e),
        mhz: structure.word(0x16).unwrap_or(0),
    })
}

/// §7.18; none for an empty slot, or a module whose size is not known.
fn module(structure: &Structure<'_>) -> Option<Module> {
    const UNKNOWN: u16 = 0xffff;
    let size = match structure.word(0x0c)? {
        0 | UNKNOWN => return None,
        // MiB, in a double word whose highest bit is reserved (§7.18.5).
        0x7fff => u64::from(structure.double_word(0x1c)? & 0x7fff_ffff) << 20,
        kib if kib & 0x8000 != 0 => u64::from(kib & 0x7fff) << 10,
        mib => u64::from(mib) << 20,
    };
    let width = |offset| structure.word(offset).filter(|width| !matches!(*width, 0 | UNKNOWN));
    // The speed it is run at is newer than the one it could be run at; 0xffff sends on to a double
    // word (§7.18.4).
    let speed = |word, double_word| match structure.word(word) {
        Some(UNKNOWN) => structure.double_word(double_word).map(|speed| speed & 0x7fff_ffff),
        other => other.map(u32::from),
    };
    let known = |speed: Option<u32>| speed.filter(|speed| *speed != 0);
    let (locator, bank) = (structure.text(0x10), structure.text(0x11));
    (size > 0).then(|| Module {
        slot: if locator.is_empty() { bank } else { locator },
        size,
        speed: known(speed(0x20, 0x58)).or_else(|| known(speed(0x15, 0x54))).unwrap_or(0),
        maker: structure.text(0x17),
        part: structure.text(0x1a),
        serial: structure.text(0x18),
        ecc: width(0x08).zip(width(0x0a)).map(|(total, data)| total > data),
    })
}

#[cfg(test)]
#[path = "smbios_tests.rs"]
mod tests;
