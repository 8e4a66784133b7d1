//! What a machine wrote to its disks, and when that was on the medium, in one order over all of them, as
//! [`nbd`](crate::nbd) records it; and the disks as a power cut in between leaves them.

use anyhow::{Context as _, Result, ensure};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Bytes that are compared at a time.
const PIECE: usize = 1 << 20;

/// One thing that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// To which of the disks.
    pub disk: usize,
    /// What.
    pub deed: Deed,
}

/// What happened to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Bytes were written.
    Write {
        /// Where, bytes from the beginning of the disk.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// Where in the log they are; none for zeros.
        data: Option<u64>,
        /// Whether they are on the medium at once.
        forced: bool,
    },
    /// All writes to it before are on the medium.
    Flush,
}

/// What is being recorded.
#[derive(Debug)]
pub(crate) struct Log {
    /// What was written, one piece behind the other.
    file: File,
    bytes: u64,
    sectors: Vec<u32>,
    steps: Vec<Step>,
}

impl Log {
    /// Begins a log in `file` for disks with sectors of so many bytes.
    pub(crate) fn new(file: &Path, sectors: Vec<u32>) -> Result<Self> {
        let made = File::options().read(true).write(true).create(true).truncate(true).open(file);
        let file = made.with_context(|| format!("cannot make the log {}", file.display()))?;
        Ok(Self { file, bytes: 0, sectors, steps: Vec::new() })
    }

    /// `bytes` are written to a disk.
    pub(crate) fn write(&mut self, disk: usize, offset: u64, bytes: &[u8], forced: bool) -> io::Result<()> {
        self.file.write_all_at(bytes, self.bytes)?;
        let (data, length) = (Some(self.bytes), bytes.len() as u64);
        self.bytes += length;
        self.steps.push(Step { disk, deed: Deed::Write { offset, length, data, forced } });
        Ok(())
    }

    /// A disk has zeros there from now on.
    pub(crate) fn empty(&mut self, disk: usize, offset: u64, length: u64, forced: bool) {
        self.steps.push(Step { disk, deed: Deed::Write { offset, length, data: None, forced } });
    }

    /// All that was written to a disk is on its medium.
    pub(crate) fn flush(&mut self, disk: usize) {
        self.steps.push(Step { disk, deed: Deed::Flush });
    }

    /// What happened so far.
    pub(crate) fn recording(&self) -> Result<Recording> {
        let log = self.file.try_clone().context("cannot share the log")?;
        let sectors = self.sectors.iter().map(|bytes| u64::from(*bytes)).collect();
        Ok(Recording { log, sectors, steps: self.steps.clone() })
    }
}

/// What was recorded so far.
#[derive(Debug)]
pub struct Recording {
    log: File,
    /// Bytes of a sector of each disk. A sector is written whole or not at all.
    sectors: Vec<u64>,
    steps: Vec<Step>,
}

impl Recording {
    /// What happened, in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The steps of an installation: up to the flush after the first write that puts something into the
    /// first sector, of each disk. None while that has not happened.
    #[must_use]
    pub fn installation(&self) -> Option<usize> {
        let of_disk = |disk: usize| {
            let filled = self
                .steps
                .iter()
                .position(|step| step.disk == disk && self.first_sector(step) == Some(First::Filled))?;
            let flush =
                self.steps.iter().skip(filled).position(|step| *step == Step { disk, deed: Deed::Flush });
            Some(filled + flush? + 1)
        };
        (0..self.sectors.len()).map(of_disk).collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// What a step leaves in its disk's first sector, if it writes there.
    fn first_sector(&self, step: &Step) -> Option<First> {
        let Deed::Write { offset: 0, data, .. } = step.deed else { return None };
        let mut bytes = vec![0; self.sectors[step.disk] as usize];
        if let Some(at) = data {
            self.log.read_exact_at(&mut bytes, at).ok()?;
        }
        Some(if is_empty(&bytes) { First::Empty } else { First::Filled })
    }

    /// Proves of the first `end` steps, for a cut after any of them and whichever of the writes survive
    /// that were not flushed: each disk is what it was before, or has an empty first sector, or holds all. None is
    /// what it was before, or holds all, while another one holds a part.
    ///
    /// `before` are the disks before the first step.
    pub fn prove(&self, before: &[&Path], end: usize) -> Result<()> {
        let steps = &self.steps[..end];
        let ends: Option<Vec<_>> = (0..before.len()).map(|disk| self.first_and_last(disk, end)).collect();
        let ends = ends.context("a disk has not two writes")?;
        // From there on all first sectors are empty, and until there no disk has all.
        let (mut cleared, mut complete) = (0, end);
        for (disk, (first, last)) in ends.iter().enumerate() {
            for at in [*first, *last] {
                let next = (at + 1..end).find(|at| steps[*at].disk == disk);
                let flushed = next.filter(|at| steps[*at].deed == Deed::Flush);
                let flushed = flushed.with_context(|| format!("step {at} is not flushed before the next"))?;
                cleared = if at == *first { cleared.max(flushed) } else { cleared };
                self.ensure_nothing_behind_first_sector(before[disk], at)?;
            }
            complete = complete.min(*last);
        }
        for (at, step) in steps.iter().enumerate().filter(|(_, step)| step.deed != Deed::Flush) {
            let (first, last) = ends[step.disk];
            let left = self.first_sector(step);
            ensure!(
                at != first || left.is_some(),
                "step {at} writes elsewhere before the first sector is empty"
            );
            ensure!(at != last || left.is_some(), "step {at} comes after the first sector was written");
            let right = left.is_none_or(|left| (left == First::Empty) == (at != last));
            ensure!(right, "step {at} of {end} writes into the first sector");
            if at != first && at != last {
                ensure!(cleared < at, "step {at} comes before all first sectors are empty");
                ensure!(at < complete, "step {at} comes after another disk's first sector was written");
            }
        }
        for disk in 0..before.len() {
            let latest = steps[..complete].iter().rfind(|step| step.disk == disk);
            let flushed = latest.is_some_and(|step| step.deed == Deed::Flush);
            ensure!(flushed, "what comes before step {complete} is not flushed");
        }
        Ok(())
    }

    /// The first and the last of the first `end` steps that write to a disk.
    fn first_and_last(&self, disk: usize, end: usize) -> Option<(usize, usize)> {
        let written = |at: &usize| self.steps[*at].disk == disk && self.steps[*at].deed != Deed::Flush;
        let (first, last) = ((0..end).find(written)?, (0..end).rfind(written)?);
        (first < last).then_some((first, last))
    }

    /// Proves that what step `at` writes behind the first sector is what was there before.
    fn ensure_nothing_behind_first_sector(&self, before: &Path, at: usize) -> Result<()> {
        let Step { disk, deed: Deed::Write { offset: 0, length, .. } } = self.steps[at] else {
            return Ok(());
        };
        let (old, sector) = (File::open(before)?, self.sectors[disk]);
        let length = usize::try_from(length - sector)?;
        let (mut there, mut written) = (vec![0; length], vec![0; length]);
        self.content(&old, (disk, &self.steps[..at]), sector, &mut there)?;
        self.content(&old, (disk, &self.steps[..=at]), sector, &mut written)?;
        ensure!(there == written, "step {at} changes more than the first sector");
        Ok(())
    }

    /// Proves that whatever was written to `length` bytes from `offset` on, of the only disk, is what `before` has
    /// there.
    pub fn ensure_left(&self, before: &Path, offset: u64, length: u64) -> Result<()> {
        let old = File::open(before)?;
        for (at, step) in self.steps.iter().enumerate() {
            let Deed::Write { offset: start, length: bytes, .. } = step.deed else { continue };
            let (from, to) = (start.max(offset), (start + bytes).min(offset + length));
            for place in (from..to).step_by(PIECE) {
                let size = usize::try_from((to - place).min(PIECE as u64))?;
                let (mut there, mut written) = (vec![0; size], vec![0; size]);
                old.read_exact_at(&mut there, place)?;
                self.content(&old, (step.disk, std::slice::from_ref(step)), place, &mut written)?;
                ensure!(there == written, "step {at} changes what is at byte {place}");
            }
        }
        Ok(())
    }

    /// Reads from a disk as it was after `steps`.
    fn content(
        &self,
        before: &File,
        (disk, steps): (usize, &[Step]),
        offset: u64,
        bytes: &mut [u8],
    ) -> io::Result<()> {
        before.read_exact_at(bytes, offset)?;
        let end = offset + bytes.len() as u64;
        for step in steps.iter().filter(|step| step.disk == disk) {
            let Deed::Write { offset: start, length, data, .. } = step.deed else { continue };
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

    /// Makes of `disks`, which are as they were before the first step, what a power cut after `cut` steps leaves:
    /// all that was flushed, and of the other writes those that `survives` chooses, sector by sector.
    pub fn cut(&self, cut: usize, mut survives: impl FnMut() -> bool, disks: &[&Path]) -> Result<()> {
        for (disk, file) in disks.iter().enumerate() {
            let file = File::options().write(true).open(file)?;
            let flush = Step { disk, deed: Deed::Flush };
            let flushed = self.steps[..cut].iter().rposition(|step| *step == flush).unwrap_or(0);
            let mut sector = vec![0; self.sectors[disk] as usize];
            for (at, step) in self.steps[..cut].iter().enumerate().filter(|(_, step)| step.disk == disk) {
                let Deed::Write { offset, length, data, forced } = step.deed else { continue };
                for piece in (0..length).step_by(sector.len()) {
                    if at < flushed || forced || survives() {
                        match data {
                            Some(at) => self.log.read_exact_at(&mut sector, at + piece)?,
                            None => sector.fill(0),
                        }
                        file.write_all_at(&sector, offset + piece)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// What is in the first sector of a disk after a write to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    /// Zeros: nothing starts.
    Empty,
    /// Something.
    Filled,
}

/// Whether these bytes are zeros.
#[must_use]
pub fn is_empty(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// The sectors of most disks here.
    const SECTOR: u32 = 512;

    /// A machine that does that to its disks: writes of whole sectors with one byte all over, and flushes.
    struct Machine {
        dir: PathBuf,
        log: Log,
    }

    impl Machine {
        /// Its disks begin with an old system.
        fn new(name: &str, disks: usize, sector: u32) -> Self {
            let dir = std::env::temp_dir().join(format!("kt-recording-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&dir).expect("a directory");
            let log = Log::new(&dir.join("log"), vec![sector; disks]).expect("a log");
            let machine = Self { dir, log };
            for disk in machine.disks() {
                let mut bytes = vec![0; 64 * sector as usize];
                bytes[..2 * sector as usize].fill(0xee);
                std::fs::write(disk, bytes).expect("a disk");
            }
            machine
        }

        fn write_to(mut self, disk: usize, sector: u64, sectors: u64, byte: u8) -> Self {
            let size = u64::from(self.log.sectors[disk]);
            let bytes = vec![byte; (sectors * size) as usize];
            self.log.write(disk, sector * size, &bytes, false).expect("a log");
            self
        }

        fn flush_of(mut self, disk: usize) -> Self {
            self.log.flush(disk);
            self
        }

        /// To its first disk.
        fn write(self, sector: u64, sectors: u64, byte: u8) -> Self {
            self.write_to(0, sector, sectors, byte)
        }

        fn flush(self) -> Self {
            self.flush_of(0)
        }

        fn discard(mut self, sector: u64) -> Self {
            let size = u64::from(self.log.sectors[0]);
            self.log.empty(0, sector * size, size, false);
            self
        }

        fn disks(&self) -> Vec<PathBuf> {
            (0..self.log.sectors.len()).map(|disk| self.dir.join(disk.to_string())).collect()
        }

        fn problem(&self) -> Option<String> {
            let recording = self.log.recording().expect("a recording");
            let end = recording.installation().unwrap_or(recording.steps().len());
            let disks = self.disks();
            let before: Vec<&Path> = disks.iter().map(PathBuf::as_path).collect();
            recording.prove(&before, end).err().map(|error| error.to_string())
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.dir).ok();
        }
    }

    #[test]
    fn an_order_is_proven_or_its_gap_is_named() {
        let new = |name| Machine::new(name, 1, SECTOR);
        let cleared = |name| new(name).write(0, 1, 0).flush();
        let filled = |name| cleared(name).write(0, 8, 0).write(9, 2, 7).flush();
        assert_eq!(filled("safe").write(0, 1, 9).flush().problem(), None);
        for (what, machine) in [
            ("step 0 is not flushed", new("a").write(0, 1, 0).write(9, 2, 7).flush().write(0, 1, 9).flush()),
            ("step 0 writes elsewhere", new("b").write(9, 1, 7).flush().write(0, 1, 0).flush()),
            ("step 2 of 5 writes into the first", cleared("c").write(0, 1, 9).write(9, 1, 7).flush()),
            ("before step 3 is not flushed", cleared("d").write(9, 1, 7).write(0, 1, 9).flush()),
            (
                "step 0 changes more",
                new("e").write(0, 2, 0).flush().write(9, 1, 7).flush().write(0, 1, 9).flush(),
            ),
            ("step 5 changes more", filled("f").write(0, 2, 9).flush()),
            ("step 2 of 5 writes into the first", cleared("g").write(0, 1, 8).write(0, 1, 9).flush()),
        ] {
            let problem = machine.problem().unwrap_or_default();
            assert!(problem.contains(what), "{what:?} is not in {problem:?}");
        }
    }

    #[test]
    fn of_two_disks_none_has_a_part_while_the_other_starts() {
        let new = |name| Machine::new(name, 2, SECTOR);
        let cleared = |name| new(name).write_to(0, 0, 1, 0).flush_of(0).write_to(1, 0, 1, 0).flush_of(1);
        let filled =
            |machine: Machine| machine.write_to(0, 9, 1, 7).write_to(1, 9, 1, 7).flush_of(1).flush_of(0);
        let ends =
            |machine: Machine| machine.write_to(1, 0, 1, 9).flush_of(1).write_to(0, 0, 1, 9).flush_of(0);
        assert_eq!(ends(filled(cleared("pair"))).problem(), None);
        for (what, machine) in [
            (
                "step 2 comes before all first sectors are empty",
                ends(filled(
                    new("h")
                        .write_to(0, 0, 1, 0)
                        .flush_of(0)
                        .write_to(0, 5, 1, 7)
                        .write_to(1, 0, 1, 0)
                        .flush_of(1),
                )),
            ),
            (
                "step 3 comes before all first sectors are empty",
                ends(filled(
                    new("i")
                        .write_to(0, 0, 1, 0)
                        .write_to(1, 0, 1, 0)
                        .flush_of(1)
                        .write_to(1, 5, 1, 7)
                        .flush_of(0),
                )),
            ),
            ("before step 6 is not flushed", ends(cleared("j").write_to(0, 9, 1, 7).flush_of(1))),
            (
                "step 10 comes after another disk's first sector was written",
                filled(cleared("k"))
                    .write_to(1, 0, 1, 9)
                    .flush_of(1)
                    .write_to(0, 5, 1, 7)
                    .flush_of(0)
                    .write_to(0, 0, 1, 9)
                    .flush_of(0),
            ),
        ] {
            let problem = machine.problem().unwrap_or_default();
            assert!(problem.contains(what), "{what:?} is not in {problem:?}");
        }
    }

    #[test]
    fn the_first_sector_is_as_large_as_the_disks_sectors_are() {
        let machine =
            Machine::new("large", 1, 4096).write(0, 1, 0).flush().write(1, 2, 7).flush().write(0, 1, 9);
        let machine = machine.flush();
        assert_eq!(machine.problem(), None);
        let disk = &machine.disks()[0];
        let recording = machine.log.recording().expect("a recording");
        recording.cut(4, || false, &[disk]).expect("written");
        let bytes = std::fs::read(disk).expect("a disk");
        assert!(is_empty(&bytes[..4096]) && bytes[4096..3 * 4096].iter().all(|byte| *byte == 7));
    }

    #[test]
    fn what_is_left_alone_is_proven_or_the_write_is_named() {
        let machine = Machine::new("left", 1, SECTOR);
        let machine = machine.write(0, 2, 0xee).flush().write(9, 2, 7).discard(12);
        let (recording, disk) = (machine.log.recording().expect("a recording"), &machine.disks()[0]);
        let problem = |sector: u64, sectors: u64| {
            let [offset, length] = [sector, sectors].map(|sectors| sectors * u64::from(SECTOR));
            let left = recording.ensure_left(disk, offset, length);
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
        let machine = Machine::new("cut", 2, SECTOR).write(0, 2, 1).flush().write(1, 1, 2).flush_of(1);
        let machine = machine.discard(2).write(3, 1, 4).flush();
        let (recording, disks) = (machine.log.recording().expect("a recording"), machine.disks());
        let before = std::fs::read(&disks[1]).expect("a disk");
        let bytes = |cut, survives: bool| {
            recording.cut(cut, || survives, &[&disks[0], &disks[1]]).expect("written");
            assert!(std::fs::read(&disks[1]).expect("a disk") == before, "nothing was written to it");
            let disk = std::fs::read(&disks[0]).expect("a disk");
            disk.chunks(SECTOR as usize).take(4).map(|sector| sector[0]).collect::<Vec<_>>()
        };
        assert_eq!(bytes(1, false), [0xee, 0xee, 0, 0]);
        assert_eq!(bytes(5, false), [1, 1, 0, 0]);
        assert_eq!(bytes(5, true), [1, 2, 0, 0]);
        assert_eq!(bytes(7, false), [1, 2, 0, 4]);
    }
}
