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
use std::sync::{Mutex, PoisonError};
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
    /// What each part has done so far, by its name.
    told: Mutex<BTreeMap<String, String>>,
}

impl Watch {
    fn new(length: Duration) -> Self {
        let (ended, faults, told) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        Self { until: Instant::now() + length, ended, faults, told }
    }

    /// Whether a part shall stop.
    fn over(&self) -> bool {
        self.ended.load(Ordering::Relaxed) || Instant::now() >= self.until
    }

    fn fault(&self, finding: Finding) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(finding);
        self.ended.store(true, Ordering::Relaxed);
    }

    fn tell(&self, part: &str, text: String) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(part.to_owned(), text);
    }

    fn details(&self) -> BTreeMap<String, String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
            None => watch.tell("network", "not tested: the server has no image to fetch".to_owned()),
        }
        let started = Instant::now();
        while !watch.over() {
            let progress =
                Progress { done: started.elapsed().as_secs(), total: length.as_secs(), unit: Unit::Items };
            observer.phase(Phase::Inventory, ReportState::Running, Some(progress), watch.details());
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
    let details = watch.details();
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
        watch.tell(&format!("core {core}"), format!("{rounds} rounds, {}", share.told()));
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
        let first = told.iter().find(|(part, _)| part.starts_with("core ")).expect("a core");
        assert!(first.1.contains("rounds") && told["network"].contains("not tested"), "{told:?}");
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
