//! How the machines fare: as a waterfall in a terminal, as lines elsewhere, or as JSON.

use super::site::{DEAD_DISK, Site, UNSERVED, name};
use crate::client::output::{printable, word};
use crate::client::waterfall::{Style, figures, tenths};
use crate::http::jobs::{JobView, PhaseView};
use anyhow::Result;
use kaltstart_core::machine::{JobState, PhaseState};
use kaltstart_core::why::Likelihood;
use kaltstart_protocol::finding::Code;
use kaltstart_protocol::phase::Phase;
use kaltstart_protocol::time::Millis;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

/// Columns of the waterfall, and the time that they show at first.
const COLUMNS: u64 = 32;
const SPAN_MS: u64 = 20_000;
/// Heights of columns. Three, as of the phases some are too short to be seen between their neighbours.
const HEIGHTS: [char; 3] = ['▂', '▄', '▆'];
/// Lines of the server's log that are shown when it ends by itself.
const LAST_LINES: usize = 12;

/// What became of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its system reported in.
    Deployed,
    /// Its job failed.
    Failed(Trouble),
    /// Its packets show why it does not start.
    Stuck(Trouble),
    /// Somebody has cancelled its job.
    Cancelled,
}

/// What is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    code: Code,
    detail: String,
}

impl Outcome {
    /// None as long as it is on its way.
    fn of(job: &JobView) -> Option<Self> {
        match job.state {
            JobState::Succeeded => Some(Self::Deployed),
            JobState::Cancelled => Some(Self::Cancelled),
            JobState::Failed => {
                let finding = &job.findings.last()?.finding;
                Some(Self::Failed(Trouble { code: finding.code, detail: printable(&finding.detail) }))
            }
            JobState::Queued | JobState::Running => {
                let cause = job.why.first().filter(|cause| cause.likelihood == Likelihood::High)?;
                let proof: Vec<String> = cause.proof.iter().map(|proof| printable(&proof.text)).collect();
                Some(Self::Stuck(Trouble { code: cause.code, detail: proof.join("; ") }))
            }
        }
    }

    /// What became of machine `number` for good: on a busy machine, packets of others may look for a while as if they
    /// were stuck.
    pub(super) fn last(job: &JobView, number: u8) -> Option<Self> {
        Self::of(job).filter(|outcome| number == UNSERVED || !matches!(outcome, Self::Stuck(_)))
    }

    /// Whether it is what was promised of machine `number`.
    fn is_promised(&self, number: u8) -> bool {
        match (number, self) {
            (DEAD_DISK, Self::Failed(trouble)) => trouble.code == Code::DiskFailing,
            (UNSERVED, Self::Stuck(trouble)) => trouble.code == Code::UnknownNetwork,
            (DEAD_DISK | UNSERVED, _) => false,
            (_, outcome) => *outcome == Self::Deployed,
        }
    }

    fn trouble(&self) -> Option<&Trouble> {
        match self {
            Self::Deployed | Self::Cancelled => None,
            Self::Failed(trouble) | Self::Stuck(trouble) => Some(trouble),
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Deployed => "deployed",
            Self::Failed(_) => "failed",
            Self::Stuck(_) => "stuck",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How it is shown.
enum Form {
    /// Drawn anew in a terminal; so many lines were drawn.
    Live(usize),
    Lines,
    Json,
}

pub(super) struct Show {
    form: Form,
    /// Of each machine, phases and the outcome that were told.
    told: Vec<(usize, bool)>,
}

impl Show {
    /// Says what will be seen, and how to see it in another terminal.
    pub(super) fn begin(json: bool, site: &Site, server: &str) -> Result<Self> {
        let token = site.token_file();
        if json {
            print(
                &json!({"event": "serving", "server": server, "token_file": token, "directory": site.path()}),
            )?;
            return Ok(Self { form: Form::Json, told: Vec::new() });
        }
        let program = std::env::current_exe()?;
        let ca = site.path().join("data/tls/ca.pem");
        line(&format!(
            "6 simulated nodes: four good, one with a dead disk, one that never gets an answer to DHCP.\n\
             The server is a real one, with its API at {server}. In a second terminal:\n\n  \
             export KS_SERVER={server} KS_TOKEN_FILE={token}\n  \
             alias ks={program}\n  \
             ks node list; ks watch demo-1; ks job log demo-1; ks why demo-{UNSERVED}\n  \
             curl --cacert {ca} -H \"Authorization: Bearer $(cat {token})\" {server}/v1/nodes\n\n\
             Consoles, disks and the server's log are in {directory}. Ctrl-C removes everything.\n",
            token = token.display(),
            program = program.display(),
            ca = ca.display(),
            directory = site.path().display(),
        ))?;
        let form = if std::io::stdout().is_terminal() { Form::Live(0) } else { Form::Lines };
        Ok(Self { form, told: Vec::new() })
    }

    /// Shows how they fare now.
    pub(super) fn draw(&mut self, jobs: &[JobView]) -> Result<()> {
        let Form::Live(drawn) = &mut self.form else { return self.tell(jobs) };
        let text = frame(jobs, Style::of_terminal());
        // Lines wider than the terminal are cut: wrapped ones would be drawn over wrongly.
        let mut all = String::from("\x1b[?7l");
        if *drawn > 0 {
            let _ = write!(all, "\x1b[{drawn}A");
        }
        for line in text.lines() {
            let _ = writeln!(all, "\x1b[2K{line}");
        }
        all.push_str("\x1b[?7h");
        *drawn = text.lines().count();
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(all.as_bytes())?;
        Ok(stdout.flush()?)
    }

    /// Tells what has come to an end since.
    fn tell(&mut self, jobs: &[JobView]) -> Result<()> {
        self.told.resize(jobs.len(), (0, false));
        for ((job, number), (told, is_over)) in jobs.iter().zip(1..).zip(&mut self.told) {
            let name = &job.node_name;
            let over =
                |phase: &&PhaseView| !matches!(phase.record.state, PhaseState::Pending | PhaseState::Running);
            while let Some(phase) = job.phases.get(*told).filter(over) {
                *told += 1;
                if matches!(self.form, Form::Json) {
                    let seconds = phase.record.duration(job.now).map(seconds);
                    print(
                        &json!({"event": "phase", "node": name, "phase": phase.name.name(), "state": word(&phase.record.state), "seconds": seconds}),
                    )?;
                } else {
                    line(&format!("{name}  {:<10} {}", phase.name.name(), figures(phase, job.now)))?;
                }
            }
            let Some(outcome) = Outcome::last(job, number).filter(|_| !*is_over) else { continue };
            *is_over = true;
            match (&self.form, outcome.trouble()) {
                (Form::Json, None) => {
                    print(&json!({"event": "settled", "node": name, "outcome": outcome.word()}))?;
                }
                (Form::Json, Some(Trouble { code, detail })) => print(&json!({
                    "event": "settled", "node": name, "outcome": outcome.word(), "code": code,
                    "title": code.title(), "detail": detail, "next": code.next(),
                }))?,
                (_, None) => line(&format!("{name}  {}", headline(job, &outcome)))?,
                (_, Some(trouble)) => {
                    line(&format!("{name}  {}\n{}", headline(job, &outcome), advice(trouble)))?;
                }
            }
        }
        Ok(())
    }

    /// Says what became of all; true when that is as promised.
    pub(super) fn end(&self, outcomes: &[Outcome], elapsed: Duration, once: bool) -> Result<bool> {
        let count = |word: &str| outcomes.iter().filter(|outcome| outcome.word() == word).count();
        let (deployed, failed, stuck) = (count("deployed"), count("failed"), count("stuck"));
        let kept = outcomes.iter().zip(1..).all(|(outcome, number)| outcome.is_promised(number));
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        if matches!(self.form, Form::Json) {
            let event = json!({
                "event": "summary", "deployed": deployed, "failed": failed, "stuck": stuck,
                "seconds": seconds(ms), "as_promised": kept,
            });
            print(&event)?;
            return Ok(kept);
        }
        if matches!(self.form, Form::Live(_)) {
            for (outcome, number) in outcomes.iter().zip(1..) {
                if let Some(trouble) = outcome.trouble() {
                    let Trouble { code, .. } = trouble;
                    line(&format!("\n{}  {code} {}\n{}", name(number), code.title(), advice(trouble)))?;
                }
            }
        }
        let promised = if kept { "as promised" } else { "NOT as promised" };
        let then = if once { "" } else { " Ctrl-C removes everything." };
        line(&format!(
            "\n{deployed} deployed, {failed} failed, {stuck} without an answer, in {} s: {promised}.{then}",
            tenths(ms)
        ))?;
        Ok(kept)
    }
}

fn seconds(ms: u64) -> Value {
    // Thousandths, as they are.
    json!(std::time::Duration::from_millis(ms).as_secs_f64())
}

/// All machines: a bar of time, how it stands, and seconds by phase.
fn frame(jobs: &[JobView], style: Style) -> String {
    let start = jobs.iter().map(|job| job.created_at).min().unwrap_or_default();
    let now = jobs.iter().map(|job| job.ended_at.unwrap_or(job.now)).max().unwrap_or_default();
    let span = now.since(start).max(SPAN_MS);
    let mut text = format!("{:8}0 s{:>width$} s\n", "", span / 1_000, width = COLUMNS as usize - 4);
    for job in jobs {
        let outcome = Outcome::of(job);
        let (symbol, colour, said) = match &outcome {
            None => ("▸", "36", running(job)),
            Some(outcome @ Outcome::Deployed) => ("✔", "32", headline(job, outcome)),
            Some(outcome @ Outcome::Failed(_)) => ("✖", "31", headline(job, outcome)),
            Some(outcome @ Outcome::Stuck(_)) => ("▲", "33", headline(job, outcome)),
            Some(outcome @ Outcome::Cancelled) => ("-", "2", headline(job, outcome)),
        };
        let bar = style.paint(colour, &bar(job, start, span));
        let _ = writeln!(text, "{}  {bar}  {symbol} {said}", job.node_name);
        let took = |phase: &PhaseView| {
            let ms = phase.record.duration(job.now).filter(|_| phase.name != Phase::Queued)?;
            (ms >= 100).then(|| format!("{} {}", phase.name.name(), tenths(ms)))
        };
        let all: Vec<String> = job.phases.iter().filter_map(took).collect();
        let _ = writeln!(text, "{}", style.paint("2", &format!("{:8}{}", "", all.join("  "))));
    }
    text
}

/// One column for each part of `span`, of another height from phase to phase.
fn bar(job: &JobView, start: Millis, span: u64) -> String {
    let end = job.ended_at.unwrap_or(job.now);
    let column = |column: u64| {
        let at = start.plus(span * column / COLUMNS);
        let begun = |phase: &&PhaseView| {
            phase.name != Phase::Queued
                && phase.record.started_at.is_some_and(|began| began <= at)
                && at < end
        };
        job.phases.iter().rfind(begun).map_or(' ', |phase| HEIGHTS[phase.name.index() % HEIGHTS.len()])
    };
    (0..COLUMNS).map(column).collect()
}

fn running(job: &JobView) -> String {
    let phase = job.phases.get(job.phase.index());
    let figures = phase.map(|phase| figures(phase, job.now)).unwrap_or_default();
    format!("{} {}", job.phase.name(), figures.trim_start())
}

fn headline(job: &JobView, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Deployed => {
            format!("deployed in {} s", tenths(job.ended_at.unwrap_or(job.now).since(job.created_at)))
        }
        Outcome::Cancelled => "cancelled".into(),
        Outcome::Failed(trouble) | Outcome::Stuck(trouble) => {
            format!("{} {}", trouble.code, trouble.code.title())
        }
    }
}

fn advice(Trouble { code, detail }: &Trouble) -> String {
    format!("        seen  {detail}\n        next  {}", code.next())
}

fn print(value: &Value) -> Result<()> {
    line(&value.to_string())
}

fn line(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

/// Shows the end of the server's log, which is removed next.
pub(super) fn last_words(log: &Path) {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
        eprintln!("server: {}", printable(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::waterfall::tests::job;
    use crate::http::diagnosis::CauseView;
    use kaltstart_core::why::Proof;
    use kaltstart_protocol::finding::Finding;

    /// One that is on its way, and one for each end.
    fn jobs() -> [JobView; 4] {
        let now = job().now;
        let named = |number, job| JobView { node_name: name(number), ..job };
        let ended = |state| JobView { state, ended_at: Some(Millis(now.0 - 1_000)), ..job() };
        let finding = Finding::new(Code::DiskFailing, "disk d at slot 3");
        let cause = CauseView {
            code: Code::UnknownNetwork,
            title: String::new(),
            likelihood: Likelihood::High,
            proof: vec![Proof { at: now, text: "through the relay\u{1b}[2J".into() }],
            next: String::new(),
            commands: Vec::new(),
        };
        [
            named(1, job()),
            named(2, ended(JobState::Succeeded)),
            named(DEAD_DISK, JobView { findings: vec![finding.into()], ..ended(JobState::Failed) }),
            named(UNSERVED, JobView { why: vec![cause], ..job() }),
        ]
    }

    #[test]
    fn machines_stand_below_each_other_as_the_golden_file_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/demo.txt");
        let text = frame(&jobs(), Style::plain());
        if std::env::var_os("KALTSTART_GOLDEN").is_some() {
            std::fs::write(path, &text).expect("the golden file is written");
        }
        assert_eq!(text, std::fs::read_to_string(path).expect("the golden file is there"));
    }

    #[test]
    fn only_what_was_promised_of_a_machine_is_as_promised() {
        let [running, good, failed, stuck] = jobs();
        assert_eq!(Outcome::last(&running, 1), None);
        // Whoever may still get on is waited for.
        assert_eq!(Outcome::last(&stuck, 1), None);
        let ends = [(&good, 1), (&failed, DEAD_DISK), (&stuck, UNSERVED)];
        for (job, number) in ends {
            let outcome = Outcome::last(job, number).expect("its end");
            let as_promised: Vec<u8> =
                [1, DEAD_DISK, UNSERVED].into_iter().filter(|number| outcome.is_promised(*number)).collect();
            assert_eq!(as_promised, [number], "{outcome:?}");
            assert!(
                outcome.trouble().is_none_or(|trouble| !trouble.detail.contains('\u{1b}')),
                "{outcome:?}"
            );
        }
        let cancelled = JobView { state: JobState::Cancelled, ..running };
        assert!((1..=UNSERVED).all(|number| !Outcome::Cancelled.is_promised(number)));
        assert_eq!(Outcome::last(&cancelled, 1), Some(Outcome::Cancelled));
    }
}
