//! `ks audit …`

use super::Format;
use super::api::{Api, ClientError};
use super::output::{self, Row};
use crate::exit::Exit;
use crate::http::api::rfc3339;
use crate::http::audit::{RECORDS_MAX, VerdictView};
use crate::store::Recorded;
use clap::Subcommand;

/// What can be asked of the audit log.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Who did what, when, and why, oldest first
    List {
        /// Of one node only: name, identifier or MAC
        #[arg(long)]
        node: Option<String>,
        /// Begin behind the record with that number
        #[arg(long, default_value_t = 0)]
        after: u64,
    },
    /// Whether each record is as it was written, and none is missing; fails where that is not so
    Verify,
}

pub(super) async fn run(api: &Api, command: AuditCommand, format: Format) -> Result<Exit, ClientError> {
    match command {
        AuditCommand::List { node, mut after } => {
            let mut all: Vec<Recorded> = Vec::new();
            loop {
                let query = [("after", Some(after.to_string())), ("node", node.clone())];
                let some: Vec<Recorded> = api.get(&Api::path_with(&["v1", "audit"], &query)).await?;
                let is_last = some.len() < RECORDS_MAX;
                after = some.last().map_or(after, |last| last.record.number);
                all.extend(some);
                if is_last {
                    return output::list(&all, format);
                }
            }
        }
        AuditCommand::Verify => {
            let view: VerdictView = api.get("/v1/audit/verify").await?;
            match format {
                Format::Json | Format::Yaml => output::print(&output::structured(&view, format)?)?,
                Format::Table | Format::Name => output::print(&output::lines(&view.text()))?,
            }
            Ok(if view.whole { Exit::Done } else { Exit::Failed })
        }
    }
}

impl Row for Recorded {
    const HEADER: &'static [&'static str] =
        &["NUMBER", "AT", "BY", "ACTION", "NODE", "JOB", "REASON", "PARTICULARS"];

    fn name(&self) -> String {
        self.record.number.to_string()
    }

    fn cells(&self) -> Vec<String> {
        let one = &self.record;
        let or = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let from = one.from.map(|from| format!(" at {from}")).unwrap_or_default();
        let particulars: Vec<String> =
            one.detail.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        vec![
            one.number.to_string(),
            rfc3339(one.at),
            format!("{}{from}", one.by),
            one.action.clone(),
            or(one.node_name.clone()),
            or(one.job.as_ref().map(ToString::to_string)),
            or(one.reason.clone()),
            particulars.join("; "),
        ]
    }
}
