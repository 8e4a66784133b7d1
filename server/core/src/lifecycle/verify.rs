//! Whether an installed system is the one that was ordered.

use super::event::SystemReport;
use crate::machine::{Job, SystemOrder};
use alloc::format;
use alloc::string::String;

/// What is wrong with an installed system's report, if anything.
pub(super) fn difference(
    name: &str,
    job: &Job,
    order: &SystemOrder,
    report: &SystemReport,
) -> Option<String> {
    let machine_id = job.installed.as_ref().map_or("", |installed| &installed.machine_id);
    [
        ("host name", report.hostname.split('.').next().unwrap_or(""), name),
        ("root file system", report.root_uuid.as_str(), order.uuids.root.as_str()),
        ("machine id", report.machine_id.as_str(), machine_id),
    ]
    .into_iter()
    .find(|(_, got, want)| got != want)
    .map(|(what, got, want)| format!("{what} is {got:?}, ordered was {want:?}"))
}
