//! x
use kaltstart_protocol::agent_api::ReportState;
use kaltstart_protocol::finding::Finding;
use kaltstart_protocol::phase::{Phase, Progress};
use std::collections::BTreeMap;
/// o
pub trait Observer: Sync {
    /// p
    fn phase(
        &self,
        phase: Phase,
        state: ReportState,
        progress: Option<Progress>,
        detail: BTreeMap<String, String>,
    );
    /// c
    fn cancelled(&self) -> Option<String>;
}
/// Why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// It failed.
    Failed(Finding),
    /// Cancelled.
    Cancelled(String),
}
