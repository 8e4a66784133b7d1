//! What a machine wrote to a disk, and when all of that was on the medium, as QEMU's `blklogwrites`
//! records it; and the disk as a power cut in between leaves it.
//!
//! The format is that of Linux's dm-log-writes (drivers/md/dm-log-writes.c).

use anyhow::{Context as _, Result, bail, ensure};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Sectors of the log, and of the disks.
pub const SECTOR: u64 = 512;
/// Bytes that are compared at a time.
const PIECE: usize = 1 << 20;
/// How a log begins.
const MAGIC: u64 = 0x006a_7366_7773_6872;
/// Flags of an entry.
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// One thing that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Bytes were written.
    Write {
        /// Where, bytes from the beginning of the disk.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// Where in the log they are; none for a discard, after which zeros are read.
        data: Option<u64>,
        /// Whether they are on the medium at once.
        forced: bool,
    },
    /// All writes before it are on the medium.
    Flush,
}

/// What was recorded so far.
#[derive(Debug)]
pub struct Recording {
    log: File,
    steps: Vec<Step>,
}

/// Makes room for a recording, for QEMU does not make the file itself.
pub fn prepare(log: &Path, disk_bytes: u64) -> Result<()> {
    Ok(File::create(log)?.set_len(4 * disk_bytes)?)
}

impl Recording {
    /// Reads a log, which may still grow.
    pub fn read(log: &Path) -> Result<Self> {
        let log = File::open(log).with_context(|| format!("cannot open {}", log.display()))?;
        let (magic, entries) = (number(&log, 0)?, number(&log, 16)?);
        ensure!(magic == MAGIC || (magic, entries) == (0, 0), "no log of writes: it begins with {magic:#x}");
        let (mut steps, mut at) = (Vec::new(), SECTOR);
        for _ in 0..entries {
            let [sector, sectors, flags] = [0, 8, 16].map(|field| number(&log, at + field));
            let (offset, length, flags) = (sector? * SECTOR, sectors? * SECTOR, flags?);
            at += SECTOR;
            if length > 0 {
                let data = (flags & DISCARD == 0).then_some(at);
                at += data.map_or(0, |_| length);
                steps.push(Step::Write { offset, length, data, forced: flags & FUA != 0 });
            }
            if flags & FLUSH != 0 {
                steps.push(Step::Flush);
            }
        }
        Ok(Self { log, steps })
    }

    /// What happened, in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The steps of an installation: up to the flush after the first write that puts something into the
    /// first sector. None while that has not happened.
    #[must_use]
    pub fn installation(&self) -> Option<usize> {
        let starts =
            self.steps.iter().position(|step| self.first_sector(step).is_some_and(|bytes| bytes != ZEROS));
        let flush = self.steps.iter().skip(starts?).position(|step| *step == Step::Flush)?;
        Some(starts? + flush + 1)
    }

    /// What a step leaves in the disk's first sector, if it writes there.
    fn first_sector(&self, step: &Step) -> Option<[u8; SECTOR as usize]> {
        match step {
            Step::Write { offset: 0, data, .. } => {
                let mut bytes = ZEROS;
                if let Some(at) = data {
                    self.log.read_exact_at(&mut bytes, *at).ok()?;
                }
                Some(bytes)
            }
            _ => None,
        }
    }

    /// Proves of the first `end` steps, for a cut after any of them and whichever of the writes survive
    /// that were not flushed: the disk is what it was before, or has an empty first sector, or holds all.
    ///
    /// A sector is written whole or not at all; `before` is the disk before the first step.
    pub fn prove(&self, before: &Path, end: usize) -> Result<()> {
        let steps = &self.steps[..end];
        let writes: Vec<usize> = (0..end).filter(|at| steps[*at] != Step::Flush).collect();
        let [first, .., last] = writes[..] else { bail!("only {} writes", writes.len()) };
        let old = File::open(before)?;
        for at in writes {
            let Some(bytes) = self.first_sector(&steps[at]) else {
                ensure!(at != first, "step {at} writes elsewhere before the first sector is empty");
                ensure!(at != last, "step {at} comes after the first sector was written");
                continue;
            };
            ensure!((bytes == ZEROS) == (at != last), "step {at} of {end} writes into the first sector");
            if at != first && at != last {
                continue;
            }
            ensure!(steps.get(at + 1) == Some(&Step::Flush), "step {at} is not flushed before the next");
            ensure!(
                at == first || steps[at - 1] == Step::Flush,
                "what comes before step {at} is not flushed"
            );
            // What lies behind the first sector in the same write is what was there before.
            let Step::Write { length, .. } = steps[at] else { continue };
            let length = usize::try_from(length - SECTOR)?;
            let (mut there, mut written) = (vec![0; length], vec![0; length]);
            self.content(&old, &steps[..at], SECTOR, &mut there)?;
            self.content(&old, &steps[..=at], SECTOR, &mut written)?;
            ensure!(there == written, "step {at} changes more than the first sector");
        }
        Ok(())
    }

    /// Proves that whatever was written to `length` bytes from `offset` on is what `before` has there.
    pub fn ensure_left(&self, before: &Path, offset: u64, length: u64) -> Result<()> {
        let old = File::open(before)?;
        for (at, step) in self.steps.iter().enumerate() {
            let Step::Write { offset: start, length: bytes, .. } = *step else { continue };
            let (from, to) = (start.max(offset), (start + bytes).min(offset + length));
            for place in (from..to).step_by(PIECE) {
                let size = usize::try_from((to - place).min(PIECE as u64))?;
                let (mut there, mut written) = (vec![0; size], vec![0; size]);
                old.read_exact_at(&mut there, place)?;
                self.content(&old, std::slice::from_ref(step), place, &mut written)?;
                ensure!(there == written, "step {at} changes what is at byte {place}");
            }
        }
        Ok(())
    }

    /// Reads from the disk as it was after `steps`.
    fn content(&self, before: &File, steps: &[Step], offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        before.read_exact_at(bytes, offset)?;
        let end = offset + bytes.len() as u64;
        for step in steps {
            let Step::Write { offset: start, length, data, .. } = *step else { continue };
            let (from, to) = (start.max(offset), (start + length).min(end));
            if from >= to {
                continue;
            }
            let piece = &mut bytes[(from - offset) as usize..(to - offset) as usize];
            match data {
                Some(at) => self.log.read_exact_at(piece, at + from - start)?,
                None => piece.fill(0),
            }
        }
        Ok(())
    }

    /// Makes of `disk`, which is as it was before the first step, what a power cut after `cut` steps leaves:
    /// all that was flushed, and of the other writes those that `survives` chooses, sector by sector.
    pub fn cut(&self, cut: usize, mut survives: impl FnMut() -> bool, disk: &Path) -> Result<()> {
        let file = File::options().write(true).open(disk)?;
        let flushed = self.steps[..cut].iter().rposition(|step| *step == Step::Flush).unwrap_or(0);
        let mut sector = [0; SECTOR as usize];
        for (at, step) in self.steps[..cut].iter().enumerate() {
            let Step::Write { offset, length, data, forced } = *step else { continue };
            for piece in (0..length).step_by(SECTOR as usize) {
                if at < flushed || forced || survives() {
                    match data {
                        Some(at) => self.log.read_exact_at(&mut sector, at + piece)?,
                        None => sector.fill(0),
                    }
                    file.write_all_at(&sector, offset + piece)?;
                }
            }
        }
        Ok(())
    }
}

const ZEROS: [u8; SECTOR as usize] = [0; SECTOR as usize];

fn number(log: &File, at: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    log.read_exact_at(&mut bytes, at)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// Disk and log of a machine that does that: writes of whole sectors with one byte all over, and flushes.
    struct Machine {
        dir: PathBuf,
        log: Vec<u8>,
        entries: u64,
    }

    impl Machine {
        /// Its disk begins with an old system.
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("kt-recording-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&dir).expect("a directory");
            let mut disk = vec![0; 64 * SECTOR as usize];
            disk[..2 * SECTOR as usize].fill(0xee);
            std::fs::write(dir.join("disk"), disk).expect("a disk");
            Self { dir, log: vec![0; SECTOR as usize], entries: 0 }
        }

        fn entry(mut self, sector: u64, sectors: u64, flags: u64) -> Self {
            self.log.extend([sector, sectors, flags, 0].map(u64::to_le_bytes).concat());
            self.log.resize(self.log.len().next_multiple_of(SECTOR as usize), 0);
            self.entries += 1;
            self
        }

        fn write(self, sector: u64, sectors: u64, byte: u8) -> Self {
            let mut machine = self.entry(sector, sectors, 0);
            let length = machine.log.len() + (sectors * SECTOR) as usize;
            machine.log.resize(length, byte);
            machine
        }

        fn flush(self) -> Self {
            self.entry(0, 0, FLUSH)
        }

        fn disk(&self) -> PathBuf {
            self.dir.join("disk")
        }

        fn recording(&mut self) -> Recording {
            for (at, number) in [MAGIC, 1, self.entries].into_iter().enumerate() {
                self.log[at * 8..at * 8 + 8].copy_from_slice(&number.to_le_bytes());
            }
            let log = self.dir.join("log");
            std::fs::write(&log, &self.log).expect("a log");
            Recording::read(&log).expect("a log of writes")
        }

        fn problem(mut self) -> Option<String> {
            let recording = self.recording();
            let end = recording.installation().unwrap_or(recording.steps().len());
            recording.prove(&self.disk(), end).err().map(|error| error.to_string())
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.dir).ok();
        }
    }

    #[test]
    fn an_order_is_proven_or_its_gap_is_named() {
        let cleared = |name| Machine::new(name).write(0, 1, 0).flush();
        let filled = |name| cleared(name).write(0, 8, 0).write(9, 2, 7).flush();
        assert_eq!(filled("safe").write(0, 1, 9).flush().problem(), None);
        for (what, machine) in [
            (
                "step 0 is not flushed",
                Machine::new("a").write(0, 1, 0).write(9, 2, 7).flush().write(0, 1, 9).flush(),
            ),
            ("step 0 writes elsewhere", Machine::new("b").write(9, 1, 7).flush().write(0, 1, 0).flush()),
            ("step 2 of 5 writes into the first", cleared("c").write(0, 1, 9).write(9, 1, 7).flush()),
            ("before step 3 is not flushed", cleared("d").write(9, 1, 7).write(0, 1, 9).flush()),
            (
                "step 0 changes more",
                Machine::new("e").write(0, 2, 0).flush().write(9, 1, 7).flush().write(0, 1, 9).flush(),
            ),
            ("step 5 changes more", filled("f").write(0, 2, 9).flush()),
            ("step 2 of 5 writes into the first", cleared("g").write(0, 1, 8).write(0, 1, 9).flush()),
        ] {
            let problem = machine.problem().unwrap_or_default();
            assert!(problem.contains(what), "{what:?} is not in {problem:?}");
        }
    }

    #[test]
    fn what_is_left_alone_is_proven_or_the_write_is_named() {
        let mut machine = Machine::new("left").write(0, 2, 0xee).flush().write(9, 2, 7).entry(12, 1, DISCARD);
        let (recording, disk) = (machine.recording(), machine.disk());
        let problem = |sector: u64, sectors: u64| {
            let left = recording.ensure_left(&disk, sector * SECTOR, sectors * SECTOR);
            left.err().map(|error| error.to_string()).unwrap_or_default()
        };
        // The same bytes once more, places beside the writes, and zeros that were zeros.
        for (sector, sectors) in [(0, 2), (2, 7), (11, 53)] {
            assert_eq!(problem(sector, sectors), "", "{sector}");
        }
        assert_eq!(problem(0, 64), "step 2 changes what is at byte 4608");
        assert_eq!(problem(10, 1), "step 2 changes what is at byte 5120");
    }

    #[test]
    fn a_cut_keeps_what_was_flushed_and_what_survives() {
        let mut machine = Machine::new("cut")
            .write(0, 2, 1)
            .flush()
            .write(1, 1, 2)
            .entry(2, 1, DISCARD)
            .write(3, 1, 4)
            .flush();
        let (recording, disk) = (machine.recording(), machine.disk());
        let bytes = |cut, survives: bool| {
            recording.cut(cut, || survives, &disk).expect("written");
            let disk = std::fs::read(&disk).expect("a disk");
            disk.chunks(SECTOR as usize).take(4).map(|sector| sector[0]).collect::<Vec<_>>()
        };
        assert_eq!(bytes(1, false), [0xee, 0xee, 0, 0]);
        assert_eq!(bytes(4, false), [1, 1, 0, 0]);
        assert_eq!(bytes(4, true), [1, 2, 0, 0]);
        assert_eq!(bytes(6, false), [1, 2, 0, 4]);
    }
}
