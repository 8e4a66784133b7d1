//! Answers as tables, JSON, YAML or names.

use super::Format;
use super::api::ClientError;
use super::hardware;
use crate::exit::Exit;
use crate::http::api::{Change, DisksChanged, FindingView, NodeView, ProfileView, rfc3339};
use crate::http::jobs::JobView;
use crate::store::StoredLine;
use crate::summary::NodeSummary;
use comfy_table::{Table, presets};
use kaltstart_core::about::{About, LabelValue, Lock, Word};
use kaltstart_core::approval::Approval;
use kaltstart_core::machine::{JobKind, JobState};
use kaltstart_protocol::erasure::{Erasure, Reach};
use kaltstart_protocol::image::Manifest;
use kaltstart_protocol::keep::Kept;
use kaltstart_protocol::phase::Phase;
use kaltstart_protocol::wipe::WipeGrant;
use serde::Serialize;
use std::io::{ErrorKind, Write as _};

/// Something that can be a row of a table.
pub(super) trait Row: Serialize {
    const HEADER: &'static [&'static str];

    fn name(&self) -> String;

    fn cells(&self) -> Vec<String>;
}

impl Row for NodeSummary {
    const HEADER: &'static [&'static str] = &["NAME", "STATE", "HEADLINE", "TEAM", "PLACE", "MAC", "ADDRESS"];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self) -> Vec<String> {
        let macs: Vec<String> = self.macs.iter().map(ToString::to_string).collect();
        let address = self.address.or(self.reservation.map(Into::into));
        let address = address.map_or_else(|| "-".to_owned(), |address| address.to_string());
        let team = self.about.team.as_ref().map_or("-", Word::as_str).to_owned();
        let (state, headline) = (self.state.to_string(), self.headline.clone());
        vec![self.name.clone(), state, headline, team, place(&self.about), macs.join(","), address]
    }
}

/// Site, rack and unit, as far as they are known.
fn place(about: &About) -> String {
    let unit = about.position.map(|position| format!("U{position}"));
    let words = [&about.site, &about.rack].map(|word| word.as_ref().map(Word::to_string));
    let known: Vec<String> = words.into_iter().chain([unit]).flatten().collect();
    if known.is_empty() { "-".into() } else { known.join("/") }
}

impl Row for NodeView {
    const HEADER: &'static [&'static str] = NodeSummary::HEADER;

    fn name(&self) -> String {
        self.summary.name()
    }

    fn cells(&self) -> Vec<String> {
        self.summary.cells()
    }
}

impl Row for JobView {
    const HEADER: &'static [&'static str] = &["ID", "NODE", "KIND", "PROFILE", "STATE", "PHASE", "FINDING"];

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn cells(&self) -> Vec<String> {
        let finding =
            self.findings.last().map_or_else(String::new, |f| format!("{} {}", f.finding.code, f.title));
        vec![
            self.id.to_string(),
            self.node_name.clone(),
            word(&self.kind),
            self.profile.clone().unwrap_or_default(),
            word(&self.state),
            self.phase.name().to_owned(),
            finding,
        ]
    }
}

impl Row for ProfileView {
    const HEADER: &'static [&'static str] = &["NAME", "IMAGE", "LAYOUT"];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone(), self.image.clone(), self.layout.clone()]
    }
}

impl Row for Manifest {
    const HEADER: &'static [&'static str] = &["NAME", "VERSION", "MB", "DIGEST"];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self) -> Vec<String> {
        let megabytes = (self.size / 1_000_000).to_string();
        vec![self.name.clone(), self.version.clone(), megabytes, self.digest.to_string()]
    }
}

impl StoredLine {
    /// The line as `ks job log` prints it.
    pub(super) fn row_for_log(&self, format: Format) -> Result<String, ClientError> {
        match format {
            Format::Json => serde_json::to_string(self).map_err(|e| ClientError::Local(e.to_string())),
            // One-element lists: printed one after the other they are one list.
            Format::Yaml => structured(&[self], format).map(|text| text.trim_end().to_owned()),
            Format::Table | Format::Name => {
                let time = rfc3339(self.time);
                Ok(format!("{time} {:<5} {}", self.level, printable(&self.text)))
            }
        }
    }
}

/// What a machine said, as text only: no control characters reach the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The same of several lines.
pub(super) fn lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

/// The name a unit variant has in the API.
pub(crate) fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Prints a line.
pub(super) fn print(line: &str) -> Result<(), ClientError> {
    write(&format!("{line}\n"))
}

/// Writes text as it is; a reader that went away is not an error.
pub(super) fn write(text: &str) -> Result<(), ClientError> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(ClientError::Local(error.to_string())),
        _ => Ok(()),
    }
}

/// Prints many rows.
pub(super) fn list<R: Row>(rows: &[R], format: Format) -> Result<Exit, ClientError> {
    match format {
        Format::Table => print(&table(rows))?,
        Format::Name => rows.iter().try_for_each(|row| print(&row.name()))?,
        Format::Json | Format::Yaml => print(&structured(&rows, format)?)?,
    }
    Ok(Exit::Done)
}

/// Prints one row.
pub(super) fn one<R: Row>(row: &R, format: Format) -> Result<Exit, ClientError> {
    match format {
        Format::Table => print(&table(std::slice::from_ref(row)))?,
        Format::Name => print(&row.name())?,
        Format::Json | Format::Yaml => print(&structured(row, format)?)?,
    }
    Ok(Exit::Done)
}

/// Who approved a job and what it is to keep, and a line for each disk on what its agent may wipe by that and keeps.
pub(super) fn approval(job: &JobView) -> String {
    let approvers = [Some(&job.approver), job.approved_by.as_ref()].into_iter().flatten();
    let approvers: Vec<String> = approvers.map(|name| printable(name)).collect();
    let mut text = format!("approved by {}", approvers.join(" and "));
    if job.wipe.is_empty() && !job.keep.is_empty() {
        let labels: Vec<&str> = job.keep.iter().map(String::as_str).collect();
        text.push_str(&printable(&format!(", to keep {}", labels.join(", "))));
    }
    for WipeGrant { disk, contents, keep, .. } in &job.wipe {
        let name = [&disk.serial, &disk.wwn, &disk.path].into_iter().find(|name| !name.is_empty());
        let named = format!("{} {}: {contents}", disk.model, name.map_or("-", String::as_str));
        text.push_str(&format!("\nmay wipe {}", printable(named.trim_start())));
        for Kept { label, file_system, .. } in keep {
            text.push_str(&printable(&format!(", keeps {label}: {file_system}")));
        }
    }
    text
}

/// What the parts of a machine have done in its burn-in, a line each; nothing for other jobs.
pub(super) fn burned_in(job: &JobView) -> Vec<String> {
    let told =
        job.phases.iter().filter(|phase| job.kind == JobKind::BurnIn && phase.name == Phase::Inventory);
    let lines = told.flat_map(|phase| &phase.record.detail);
    lines.map(|(part, text)| printable(&format!("{part}: {text}"))).collect()
}

/// Everything worth reading about a node, a line each.
pub(super) fn describe(node: &NodeView) -> String {
    let mut lines: Vec<(&str, String)> =
        NodeView::HEADER.iter().zip(node.cells()).map(|(name, cell)| (*name, cell)).collect();
    let job = |id: &Option<kaltstart_protocol::ids::JobId>| id.as_ref().map(ToString::to_string);
    lines.extend(job(&node.summary.job).map(|id| ("JOB", id)));
    lines.extend(job(&node.summary.last_job).map(|id| ("LAST JOB", id)));
    let about = &node.summary.about;
    lines.extend(about.role.as_ref().map(|role| ("ROLE", role.to_string())));
    let label = |(label, value): (&Word, &LabelValue)| {
        format!("{label}={}", value.as_str()).trim_end_matches('=').to_owned()
    };
    lines.extend(about.labels.iter().map(|one| ("LABEL", label(one))));
    if let Some(Lock { reason, by, at, .. }) = &node.summary.lock {
        lines.push(("LOCKED", format!("by {by} since {}: {reason}", rfc3339(*at))));
    }
    if let Some(Approval { kind, profile, by, at }) = &node.approval {
        let profile = profile.as_ref().map_or_else(String::new, |profile| format!(" of {profile}"));
        lines.push((
            "APPROVED",
            format!("{}{profile} by {by} since {}, for an hour", kind.name(), rfc3339(*at)),
        ));
    }
    lines.extend(node.summary.last_seen.map(|time| ("LAST SEEN", rfc3339(time))));
    lines.extend(node.class.clone().map(|class| ("CLASS", class)));
    for view in &node.findings {
        lines.push(("FINDING", format!("{} {}: {}", view.finding.code, view.title, view.finding.detail)));
        lines.push(("  NEXT", view.next.clone()));
    }
    lines.extend(node.facts.iter().map(|_| ("LOOKED AT", looked_at(node))));
    lines.extend(node.facts.iter().flat_map(hardware::lines));
    if let Some(report) = &node.report {
        lines.push(("INSTALLED", format!("{} · kernel {}", report.os, report.kernel)));
        lines.push(("ROOT", format!("{} UUID {}", report.root_device, report.root_uuid)));
        lines.extend(report.ssh_host_keys.iter().map(|key| ("SSH HOST KEY", key.clone())));
    }
    if let Some(record) = &node.erasure {
        let when = rfc3339(record.at);
        lines.extend(record.disks.iter().flat_map(|erasure| erased(&when, erasure)));
    }
    named(&lines)
}

/// When an agent saw the hardware that follows, and whether its disks hold something else by now.
fn looked_at(node: &NodeView) -> String {
    let when = node.facts_at.map_or_else(|| "at a time that is not known".into(), rfc3339);
    let Some(DisksChanged { by, at }) = &node.changed_since else { return when };
    let change = match by {
        Change::Installed => "its system was installed",
        Change::Erased => "they were erased",
    };
    format!("{when}; what its disks hold is told as of before {change} ({})", rfc3339(*at))
}

/// How a disk was erased, and what was tried before.
fn erased(when: &str, erasure: &Erasure) -> Vec<(&'static str, String)> {
    let Erasure { disk, method, reach, samples, changed, instead_of, .. } = erasure;
    let disk = format!("{} serial {} ({} bytes)", disk.model, disk.serial, disk.size);
    let reach = match reach {
        Reach::Sectors => "all sectors",
        Reach::Everything => "all sectors and what lies beside them",
    };
    let seen = match changed {
        0 => format!("{samples} samples read back empty"),
        _ => format!("{samples} samples read back, {changed} of them scrambled, the others empty"),
    };
    let others = instead_of.iter().map(|unused| ("  NOT BY", unused.to_string()));
    [("ERASED", format!("{when} {disk} by {method}: {reach}; {seen}"))].into_iter().chain(others).collect()
}

/// Names and texts, a line each.
pub(super) fn named(lines: &[(&str, String)]) -> String {
    let line = |(name, text): &(&str, String)| format!("{name:<13} {}", printable(text));
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A size for people: MiB below one GiB, else GiB.
pub(super) fn size(bytes: u64) -> String {
    match bytes >> 20 {
        mib @ ..1024 => format!("{mib} MiB"),
        // Cut, not rounded: nobody is promised what is not there.
        mib => format!("{}.{} GiB", mib / 1024, mib % 1024 * 10 / 1024),
    }
}

pub(super) fn structured(value: &impl Serialize, format: Format) -> Result<String, ClientError> {
    if format == Format::Yaml {
        serde_saphyr::to_string(value).map_err(|e| ClientError::Local(e.to_string()))
    } else {
        serde_json::to_string_pretty(value).map_err(|e| ClientError::Local(e.to_string()))
    }
}

fn table<R: Row>(rows: &[R]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(R::HEADER.iter().copied());
    for row in rows {
        table.add_row(row.cells().iter().map(|cell| printable(cell)));
    }
    for column in table.column_iter_mut() {
        // Rows begin at the margin, as scripts and eyes expect.
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Says on stderr what is wrong and what to do.
pub(super) fn tell(view: &FindingView) {
    eprintln!("{}", finding(view));
}

/// What is wrong, and what to do next.
pub(super) fn finding(view: &FindingView) -> String {
    let (code, detail) = (view.finding.code, printable(&view.finding.detail));
    format!("{code} {}: {detail}\n  next: {}\n        ks explain {code}", view.title, view.next)
}

/// Says on stderr how a job ended, and chooses the exit code.
pub(super) fn explain(job: &JobView) -> Exit {
    job.findings.iter().for_each(tell);
    eprintln!("{} on {}: {}", job.id, job.node_name, word(&job.state));
    match job.state {
        JobState::Succeeded => Exit::Done,
        _ => Exit::JobFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_never_told_larger_than_they_are() {
        let told = [0, (1 << 20) - 1, 1023 << 20, 1 << 30, (2 << 30) - 1, 1500 << 30].map(size);
        assert_eq!(told, ["0 MiB", "0 MiB", "1023 MiB", "1.0 GiB", "1.9 GiB", "1500.0 GiB"]);
    }
}
