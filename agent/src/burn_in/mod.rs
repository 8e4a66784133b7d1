//! A burn-in: memory, processors, disks and network at work at the same time, until the time is over or one of
//! them is at fault. Disks are read alone; they stay read-only in the kernel.

mod memory;
mod network;
mod processor;
mod reading;

use crate::install::{Observer, Stop};
use kaltstart_protocol::agent_api::ReportState;
use kaltstart_protocol::burn_in::BurnInTask;
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::finding::Finding;
use kaltstart_protocol::phase::{Phase, Progress, Unit};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Time between two looks at the clock and at the server's wish.
const TICK: Duration = Duration::from_millis(250);

/// What the threads share.
pub(crate) struct Watch {
    until: Instant,
    ended: AtomicBool,
    /// What is at fault.
    faults: Mutex<Vec<Finding>>,
    done: Mutex<Done>,
}

/// What the parts have done so far. Many of a kind are told together: a job keeps a few details of a phase only.
#[derive(Default)]
struct Done {
    cores: BTreeMap<usize, Core>,
    /// By their identities.
    disks: BTreeMap<String, Read>,
    network: String,
}

/// Of a core: how often it has computed, how often it went over its share of the memory, and how large that is.
struct Core {
    rounds: u64,
    passes: u64,
    mib: usize,
}

/// Of a disk: how much was read of it, and how long the slowest block took.
struct Read {
    mib: u64,
    of_mib: u64,
    slowest: Duration,
}

impl Done {
    fn details(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        let mut tell = |part: &str, text: String| all.insert(part.to_owned(), text);
        let least = |of: fn(&Core) -> u64| self.cores.values().map(of).min().unwrap_or(0);
        if !self.cores.is_empty() {
            let rounds = least(|core| core.rounds);
            tell("processors", format!("{} cores, {rounds} rounds or more", self.cores.len()));
            let mib: usize = self.cores.values().map(|core| core.mib).sum();
            tell("memory", format!("{mib} MiB, {} passes or more", least(|core| core.passes)));
        }
        if let Some((name, slow)) = self.disks.iter().max_by_key(|(_, read)| read.slowest) {
            let sum = |of: fn(&Read) -> u64| self.disks.values().map(of).sum::<u64>();
            let (count, ms) = (self.disks.len(), slow.slowest.as_millis());
            let (read, all) = (sum(|read| read.mib), sum(|read| read.of_mib));
            tell(
                "disks",
                format!("{count} disks, {read} of {all} MiB read, the slowest in {ms} ms on {name}"),
            );
        }
        if !self.network.is_empty() {
            tell("network", self.network.clone());
        }
        all
    }
}

impl Watch {
    fn new(length: Duration) -> Self {
        let (ended, faults, done) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        Self { until: Instant::now() + length, ended, faults, done }
    }

    /// Whether a part shall stop.
    fn over(&self) -> bool {
        self.ended.load(Ordering::Relaxed) || Instant::now() >= self.until
    }

    fn fault(&self, finding: Finding) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(finding);
        self.ended.store(true, Ordering::Relaxed);
    }

    fn done(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets all parts work as `task` says. `disks` are read.
///
/// # Errors
/// What is at fault first; the text names the others. Or that the server wants no more of it.
pub(crate) fn run(task: &BurnInTask, disks: &[Disk], observer: &dyn Observer) -> Result<(), Stop> {
    let length = Duration::from_secs(60 * u64::from(task.minutes));
    run_for(length, memory::share(), task, disks, observer)
}

/// The same for so long, where each core has so many words of memory.
fn run_for(
    length: Duration,
    words: usize,
    task: &BurnInTask,
    disks: &[Disk],
    observer: &dyn Observer,
) -> Result<(), Stop> {
    let watch = Watch::new(length);
    let cancelled = thread::scope(|scope| {
        for core in processor::cores() {
            let watch = &watch;
            scope.spawn(move || work_core(core, words, watch));
        }
        for disk in disks.iter().filter(|disk| !disk.removable) {
            let watch = &watch;
            scope.spawn(move || reading::run(disk, Path::new("/dev"), watch));
        }
        match &task.network {
            Some(load) => drop(scope.spawn(|| network::run(load, &watch))),
            None => watch.done().network = "not tested: the server has no image to fetch".to_owned(),
        }
        let started = Instant::now();
        while !watch.over() {
            let progress =
                Progress { done: started.elapsed().as_secs(), total: length.as_secs(), unit: Unit::Items };
            observer.phase(Phase::Inventory, ReportState::Running, Some(progress), watch.done().details());
            if let Some(reason) = observer.cancelled() {
                watch.ended.store(true, Ordering::Relaxed);
                return Some(reason);
            }
            thread::sleep(TICK);
        }
        None
    });
    if let Some(reason) = cancelled {
        return Err(Stop::Cancelled(reason));
    }
    let details = watch.done().details();
    let mut faults = watch.faults.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter();
    match faults.next() {
        None => {
            observer.phase(Phase::Inventory, ReportState::Done, None, details);
            Ok(())
        }
        Some(mut first) => {
            for other in faults {
                first.detail += &format!("; {} {}", other.code, other.detail);
            }
            Err(first.into())
        }
    }
}

/// Lets one core compute, and write and read its share of the memory, in turns.
fn work_core(core: usize, words: usize, watch: &Watch) {
    if let Err(error) = processor::stay_on(core) {
        tracing::warn!("core {core} cannot be chosen: {error}");
    }
    let mut share = memory::Share::new(words);
    let mut rounds = 0_u64;
    while !watch.over() {
        if let Err(finding) = processor::round(core) {
            watch.fault(finding);
        }
        if let Err(finding) = share.pass(core, watch) {
            watch.fault(finding);
        }
        rounds += 1;
        let (passes, mib) = share.told();
        watch.done().cores.insert(core, Core { rounds, passes, mib });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_protocol::finding::Code;
    use kaltstart_protocol::ids::JobId;
    use kaltstart_protocol::time::Millis;

    const WORDS: usize = 1 << 16;

    /// Keeps the last words, and may want no more.
    #[derive(Default)]
    struct Listening {
        last: Mutex<Option<(ReportState, BTreeMap<String, String>)>>,
        ends: bool,
    }

    impl Observer for Listening {
        fn phase(
            &self,
            phase: Phase,
            state: ReportState,
            _: Option<Progress>,
            detail: BTreeMap<String, String>,
        ) {
            assert_eq!(phase, Phase::Inventory);
            *self.last.lock().expect("lock") = Some((state, detail));
        }

        fn cancelled(&self) -> Option<String> {
            self.ends.then(|| "by hand".to_owned())
        }
    }

    fn task() -> BurnInTask {
        BurnInTask { job: JobId::new(Millis(1), 1), attempt: 1, minutes: 1, network: None }
    }

    #[test]
    fn parts_that_hold_out_are_told_with_what_they_did() {
        let observer = Listening::default();
        assert_eq!(run_for(Duration::from_millis(600), WORDS, &task(), &[], &observer), Ok(()));
        let (state, told) = observer.last.into_inner().expect("lock").expect("told");
        assert_eq!(state, ReportState::Done);
        let cores = format!("{} cores, ", processor::cores().len());
        assert!(told["processors"].starts_with(&cores) && told["network"].contains("not tested"), "{told:?}");
    }

    #[test]
    fn a_server_with_many_parts_is_told_in_a_few_words() {
        let mut done = Done::default();
        for core in 0..256 {
            done.cores.insert(core, Core { rounds: 1000 - core as u64, passes: 7, mib: 4096 });
        }
        for disk in 0..60 {
            let slowest = Duration::from_millis(if disk == 17 { 900 } else { 20 });
            done.disks.insert(format!("S{disk}"), Read { mib: 10, of_mib: 100, slowest });
        }
        let told = done.details();
        assert_eq!(told["processors"], "256 cores, 745 rounds or more");
        assert_eq!(told["memory"], "1048576 MiB, 7 passes or more");
        assert_eq!(told["disks"], "60 disks, 600 of 6000 MiB read, the slowest in 900 ms on S17");
        assert_eq!(told.len(), 3);
    }

    #[test]
    fn a_disk_that_cannot_be_read_ends_it_and_is_named() {
        let disk =
            Disk { name: "no-such-disk".into(), serial: "S1".into(), size: 1 << 20, ..Disk::default() };
        let observer = Listening::default();
        let Err(Stop::Failed(finding)) = run_for(Duration::from_secs(60), WORDS, &task(), &[disk], &observer)
        else {
            panic!("it passed")
        };
        assert_eq!(finding.code, Code::DiskUnreadable);
        assert!(finding.detail.contains("S1"), "{finding}");
    }

    #[test]
    fn the_servers_wish_ends_it() {
        let observer = Listening { ends: true, ..Listening::default() };
        let stopped = run_for(Duration::from_secs(60), WORDS, &task(), &[], &observer);
        assert_eq!(stopped, Err(Stop::Cancelled("by hand".into())));
    }
}
