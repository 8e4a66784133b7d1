//! A job's phases as a waterfall of time, in a terminal.

use super::api::{Api, ClientError};
use super::output;
use crate::exit::Exit;
use crate::http::jobs::{JobView, PhaseView};
use kaltstart_core::machine::PhaseState;
use kaltstart_protocol::phase::{Phase, Progress, Unit};
use kaltstart_protocol::time::Millis;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

/// How often a running job is drawn anew.
const REDRAW_EVERY: Duration = Duration::from_millis(500);

/// Characters of a bar.
const BAR_WIDTH: u64 = 40;

/// Whether colours may be used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    colour: bool,
}

impl Style {
    /// No colours.
    pub(crate) const fn plain() -> Self {
        Self { colour: false }
    }

    pub(crate) fn of_terminal() -> Self {
        Self { colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    pub(crate) fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Follows a job until it ends: redrawn in a terminal, a line per ended phase elsewhere.
pub(super) async fn watch(api: &Api, id: &str) -> Result<Exit, ClientError> {
    let mut screen = Screen { drawn: 0, told: 0, live: std::io::stdout().is_terminal() };
    let path = format!("/v1/jobs/{id}/events");
    let mut events = api.events(&path).await?;
    loop {
        let job: JobView = api.get_patiently(&format!("/v1/jobs/{id}")).await?;
        screen.show(&job)?;
        if job.state.ended() {
            return Ok(output::explain(&job));
        }
        // An event or half a second, whichever comes first; a broken stream is opened again.
        match tokio::time::timeout(REDRAW_EVERY, events.chunk()).await {
            Ok(Ok(Some(_))) | Err(_) => {}
            Ok(Ok(None) | Err(_)) => {
                tokio::time::sleep(REDRAW_EVERY).await;
                // The job is asked for next, and waits for a server that is away.
                if let Ok(again) = api.events(&path).await {
                    events = again;
                }
            }
        }
    }
}

struct Screen {
    /// Lines drawn last time.
    drawn: usize,
    /// Phases already told of, where nothing can be redrawn.
    told: usize,
    live: bool,
}

impl Screen {
    fn show(&mut self, job: &JobView) -> Result<(), ClientError> {
        if !self.live {
            return self.tell(job);
        }
        let text = text(job, Style::of_terminal());
        // Lines wider than the terminal are cut: wrapped ones would be drawn over wrongly.
        let mut frame = String::from("\x1b[?7l");
        if self.drawn > 0 {
            let _ = write!(frame, "\x1b[{}A", self.drawn);
        }
        for line in text.lines() {
            let _ = writeln!(frame, "\x1b[2K{line}");
        }
        frame.push_str("\x1b[?7h");
        self.drawn = text.lines().count();
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(frame.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(|error| ClientError::Local(error.to_string()))
    }

    fn tell(&mut self, job: &JobView) -> Result<(), ClientError> {
        let over =
            |phase: &PhaseView| !matches!(phase.record.state, PhaseState::Pending | PhaseState::Running);
        // A restarted job has fewer ended phases than were told.
        self.told = self.told.min(job.phase.index());
        while let Some(phase) = job.phases.get(self.told).filter(|phase| over(phase)) {
            output::print(&format!("{:<10} {}", phase.name.name(), figures(phase, job.now)))?;
            self.told += 1;
        }
        Ok(())
    }
}

/// The waterfall as text, one line of heading and one for each phase.
pub(super) fn text(job: &JobView, style: Style) -> String {
    let end = job.ended_at.unwrap_or(job.now);
    // The wait for the machine is no work: bars begin when it was first heard of.
    let start = job
        .phases
        .iter()
        .skip(Phase::Power.index())
        .find_map(|phase| phase.record.started_at)
        .unwrap_or(job.created_at);
    let total = end.since(start).saturating_add(job.eta_seconds.unwrap_or(0) * 1000).max(1);
    let state = match job.state {
        kaltstart_core::machine::JobState::Queued => "waiting for the machine".to_owned(),
        kaltstart_core::machine::JobState::Running => match job.eta_seconds {
            Some(left) => format!("running, left ~{}", clock(left)),
            None => "running".to_owned(),
        },
        kaltstart_core::machine::JobState::Succeeded => style.paint("32", "succeeded"),
        kaltstart_core::machine::JobState::Failed => style.paint("31", "FAILED"),
        kaltstart_core::machine::JobState::Cancelled => "cancelled".to_owned(),
    };
    let attempt = if job.attempt > 1 { format!("   attempt {}", job.attempt) } else { String::new() };
    let mut text = format!(
        "{} {} -> {}   elapsed {}   {state}{attempt}\n",
        job.id,
        job.node_name,
        job.profile.as_deref().unwrap_or(job.kind.name()),
        clock(end.since(start) / 1000),
    );
    for phase in &job.phases {
        let bar = bar(phase, start, total, job.now);
        let (symbol, colour) = match phase.record.state {
            PhaseState::Pending => ("·", "2"),
            PhaseState::Running if phase.overdue => ("▲", "33"),
            PhaseState::Running => ("▸", "36"),
            PhaseState::Done => ("✔", "32"),
            PhaseState::Failed => ("✖", "31"),
            PhaseState::Skipped => ("-", "2"),
        };
        let line = format!("{symbol} {:<10} {bar} {}", phase.name.name(), figures(phase, job.now));
        let _ = writeln!(text, "{}", style.paint(colour, line.trim_end()));
    }
    if let Some(cause) = job.why.first() {
        let line = format!("▲ {} {} ({})", cause.code, cause.title, cause.likelihood.name());
        let _ = writeln!(text, "{}   ks why {}", style.paint("33", &line), job.node_name);
    }
    text
}

fn bar(phase: &PhaseView, start: Millis, total: u64, now: Millis) -> String {
    let place = |time: Millis| (time.since(start).saturating_mul(BAR_WIDTH) / total).min(BAR_WIDTH) as usize;
    let (from, to) = match phase.record.started_at {
        Some(began) if phase.name != Phase::Queued => {
            (place(began), place(phase.record.ended_at.unwrap_or(now)))
        }
        _ => (0, 0),
    };
    let shown = if phase.record.started_at.is_some() && phase.name != Phase::Queued { "▏" } else { " " };
    let filled = "▆".repeat(to - from.min(to));
    let body = if filled.is_empty() { shown.to_owned() } else { filled };
    let used = from + body.chars().count();
    format!("{}{body}{}", " ".repeat(from), " ".repeat((BAR_WIDTH as usize + 1).saturating_sub(used)))
}

/// Seconds, what was usual, and what was moved at which rate.
pub(crate) fn figures(phase: &PhaseView, now: Millis) -> String {
    let record = &phase.record;
    let mut parts = Vec::new();
    match (record.state, record.duration(now)) {
        (PhaseState::Skipped, _) => parts.push("not seen".to_owned()),
        (_, Some(ms)) => {
            parts.push(format!("{:>7} s", tenths(ms)));
            if let Some(Progress { done, total, unit: Unit::Bytes }) = record.progress {
                parts.push(bytes(done, total, ms));
            }
            if phase.usual.sample > 0 {
                parts.push(format!("usual {} s", tenths(phase.usual.p50_ms)));
            }
        }
        (_, None) => {}
    }
    parts.join("   ")
}

fn bytes(done: u64, total: u64, ms: u64) -> String {
    let rate = done.saturating_mul(1000) / ms.max(1);
    let percent = if total > done { format!(" of {} MB", total / 1_000_000) } else { String::new() };
    format!("{} MB{percent} · {} MB/s", done / 1_000_000, tenths(rate / 1000))
}

/// A number of thousandths with one decimal.
pub(crate) fn tenths(thousandths: u64) -> String {
    format!("{}.{}", thousandths / 1000, thousandths % 1000 / 100)
}

fn clock(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use kaltstart_core::machine::{JobKind, JobState, PhaseRecord};
    use kaltstart_core::usual::Usual;
    use kaltstart_protocol::ids::{Digest, JobId, NodeId};
    use std::collections::BTreeSet;

    pub(crate) fn job() -> JobView {
        let times = [(0, 100), (100, 100), (100, 6_100), (6_100, 6_200), (6_200, 10_200), (10_200, 15_000)];
        let phases = Phase::ALL.iter().map(|name| {
            let mut record = PhaseRecord::default();
            if let Some((from, to)) = times.get(name.index()) {
                record.state = PhaseState::Done;
                record.started_at = Some(Millis(*from));
                record.ended_at = Some(Millis(*to));
            }
            if *name == Phase::Inventory {
                record.state = PhaseState::Running;
                record.started_at = Some(Millis(15_000));
            }
            if *name == Phase::Loader {
                record.progress = Some(Progress { done: 40_000_000, total: 40_000_000, unit: Unit::Bytes });
            }
            PhaseView {
                name: *name,
                record,
                usual: Usual { p50_ms: 5_000, p95_ms: 9_000, sample: 3 },
                overdue: false,
            }
        });
        JobView {
            why: Vec::new(),
            approver: "administrator".into(),
            approved_by: None,
            wipe: Vec::new(),
            keep: BTreeSet::new(),
            id: JobId::new(Millis(1), 1),
            node: NodeId::new(Millis(1), 1),
            node_name: "demo-1".into(),
            kind: JobKind::Deploy,
            state: JobState::Running,
            profile: Some("debian-12".into()),
            image: Some("debian-12".into()),
            image_digest: Some(Digest::of(b"")),
            writable: None,
            until: None,
            attempt: 1,
            phase: Phase::Inventory,
            phases: phases.collect(),
            findings: Vec::new(),
            created_at: Millis(0),
            ended_at: None,
            eta_seconds: Some(65),
            now: Millis(17_000),
        }
    }

    #[test]
    fn the_waterfall_is_as_its_golden_file_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/waterfall.txt");
        let text = text(&job(), Style::plain());
        if std::env::var_os("KALTSTART_GOLDEN").is_some() {
            std::fs::write(path, &text).expect("the golden file is written");
        }
        assert_eq!(text, std::fs::read_to_string(path).expect("the golden file is there"));
    }
}
