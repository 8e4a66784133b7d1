//! `ks restored …`

use super::Format;
use super::api::{Api, ClientError};
use super::output::{self, Row, named};
use crate::exit::Exit;
use crate::http::api::rfc3339;
use crate::http::restored::{AcceptCopy, DifferenceView, RestoredView};
use clap::Subcommand;
use serde::Deserialize;

/// Names of nodes that were not heard of, in a table.
const NAMES_MAX: usize = 20;

/// What can be done with a restored copy.
#[derive(Debug, Subcommand)]
pub enum RestoredCommand {
    /// Take the copy as it is: orders are carried out again
    Accept {
        /// How many differences there are, as `ks restored` tells them: proof that they were looked at
        #[arg(long, value_name = "NUMBER")]
        confirm: u64,
    },
}

pub(super) async fn run(
    api: &Api,
    command: Option<RestoredCommand>,
    format: Format,
) -> Result<Exit, ClientError> {
    let view: RestoredView = match command {
        None => api.get("/v1/restored").await?,
        Some(RestoredCommand::Accept { confirm }) => {
            api.post("/v1/restored/accept", &AcceptCopy { differences: confirm }).await?
        }
    };
    match format {
        Format::Json | Format::Yaml => output::print(&output::structured(&view, format)?)?,
        Format::Name => return output::list(&view.differences, format),
        Format::Table => {
            output::print(&head(&view))?;
            if !view.differences.is_empty() {
                output::print("")?;
                output::list(&view.differences, format)?;
            }
            if view.truncated {
                eprintln!("there may be more: of machines that are no nodes only so many are listed");
            }
            if view.observing {
                if !view.not_heard.is_empty() {
                    eprintln!(
                        "{} nodes were not heard of yet: the list grows as systems start and renew their addresses",
                        view.not_heard.len()
                    );
                }
                eprintln!(
                    "orders are carried out again after: ks restored accept --confirm {}",
                    view.differences.len()
                );
            }
        }
    }
    Ok(Exit::Done)
}

fn head(view: &RestoredView) -> String {
    let (Some(since), copied) = (view.since.map(rfc3339), view.copied.map(rfc3339)) else {
        return "the database is no restored copy".into();
    };
    let mut lines = vec![(
        "RESTORED",
        format!("{since}, a copy whose newest entry is of {}", copied.as_deref().unwrap_or("-")),
    )];
    match &view.accepted {
        None => {
            let heard = view.nodes.saturating_sub(view.not_heard.len());
            lines.push((
                "OBSERVING",
                "nothing is ordered or granted that may lose data, and no burn-in".into(),
            ));
            lines.push(("HEARD OF", format!("{heard} of {} nodes since then", view.nodes)));
            if !view.not_heard.is_empty() {
                let mut names = view.not_heard.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>().join(" ");
                if view.not_heard.len() > NAMES_MAX {
                    names += &format!(" and {} more (-o json)", view.not_heard.len() - NAMES_MAX);
                }
                lines.push(("NOT YET", names));
            }
        }
        Some(accepted) => lines.push((
            "ACCEPTED",
            format!(
                "{} by {}, when {} differences were known and {} nodes not heard of",
                rfc3339(accepted.at),
                accepted.by,
                accepted.differences,
                accepted.not_heard
            ),
        )),
    }
    lines.push(("DIFFERENCES", view.differences.len().to_string()));
    named(&lines)
}

/// Says on stderr that the server only observes, if it does: what it knows of nodes may be old.
pub(super) async fn warn(api: &Api) {
    #[derive(Deserialize)]
    struct Health {
        /// Left out by servers that do not know it.
        #[serde(default)]
        observing: bool,
    }
    // One that is not well says so elsewhere, and has answered what was asked.
    if let Ok(Health { observing: true }) = api.get("/healthz").await {
        eprintln!(
            "the server only observes since a copy was restored, and lists what that has: `ks restored` shows what differs"
        );
    }
}

impl Row for DifferenceView {
    const HEADER: &'static [&'static str] = &["NODE", "KIND", "MAC", "ADDRESS", "TOLD AT", "WHAT"];

    fn name(&self) -> String {
        self.node_name.clone().unwrap_or_else(|| self.difference.subject())
    }

    fn cells(&self) -> Vec<String> {
        let one = &self.difference;
        let or = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let job = one.job.as_ref().map(|job| format!("{job}: ")).unwrap_or_default();
        vec![
            or(self.node_name.clone()),
            one.kind.to_string(),
            or(one.mac.map(|mac| mac.to_string())),
            or(one.address.map(|address| address.to_string())),
            rfc3339(one.at),
            format!("{job}{}", one.detail),
        ]
    }
}
