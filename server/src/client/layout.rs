//! `ks layout`: how disks are divided.

use super::Format;
use super::api::{Api, ClientError};
use super::hardware;
use super::output::{self, Row, word};
use crate::exit::Exit;
use crate::http::layout::{LayoutTrial, LayoutView, Origin, PlacedPartition};
use clap::Subcommand;
use kaltstart_protocol::finding::Code;
use kaltstart_protocol::layout::{FileSystem, Layout, Partition, Subvolume, Tmpfs};
use serde::Serialize;

/// `ks layout …`
#[derive(Debug, Subcommand)]
pub enum LayoutCommand {
    /// All layouts
    List,
    /// One layout
    Show {
        /// Layout
        layout: String,
    },
    /// How a node's disk would be divided, or why not; nothing is changed
    #[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
    Try {
        /// Name, identifier or MAC
        node: String,
        /// Layout; that of the profile when left out
        #[arg(long, group = "what")]
        layout: Option<String>,
        /// Profile whose disk rule and image are taken; when left out, any disk fits
        #[arg(long, group = "what")]
        profile: Option<String>,
    },
}

impl Row for LayoutView {
    const HEADER: &'static [&'static str] = &["NAME", "FROM", "PARTITIONS", "SMALLEST DISK"];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self) -> Vec<String> {
        let from = match self.origin {
            Origin::BuiltIn => "built in",
            Origin::Configuration => "configuration",
        };
        let gib = format!("{} GiB", self.min_disk.div_ceil(1 << 30));
        vec![self.name.clone(), from.to_owned(), self.partitions.to_string(), gib]
    }
}

impl Row for Partition {
    const HEADER: &'static [&'static str] =
        &["LABEL", "GROUP", "ROLE", "MIN MIB", "MAX MIB", "WEIGHT", "MOUNT", "OPTIONS"];

    fn name(&self) -> String {
        self.label.clone()
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.label.clone(),
            self.group.clone().unwrap_or_else(none),
            word(&self.role),
            self.min_mib.to_string(),
            self.max_mib.map_or_else(none, |max| max.to_string()),
            self.weight.to_string(),
            self.mounted_at().map_or_else(none, str::to_owned),
            self.options.join(","),
        ]
    }
}

impl Row for Tmpfs {
    const HEADER: &'static [&'static str] = &["IN MEMORY", "OPTIONS"];

    fn name(&self) -> String {
        self.mount.clone()
    }

    fn cells(&self) -> Vec<String> {
        vec![self.mount.clone(), self.options.join(",")]
    }
}

/// A subvolume, and the label of the partition that it is a part of.
#[derive(Serialize)]
struct Part<'a> {
    of: &'a str,
    subvolume: &'a Subvolume,
}

impl Row for Part<'_> {
    const HEADER: &'static [&'static str] = &["SUBVOLUME", "OF", "MOUNT", "OPTIONS"];

    fn name(&self) -> String {
        self.subvolume.name.clone()
    }

    fn cells(&self) -> Vec<String> {
        let Subvolume { name, mount, options } = self.subvolume;
        vec![name.clone(), self.of.to_owned(), mount.clone(), options.join(",")]
    }
}

fn parts<'a>(of: &'a str, subvolumes: &'a [Subvolume]) -> impl Iterator<Item = Part<'a>> {
    subvolumes.iter().map(move |subvolume| Part { of, subvolume })
}

impl PlacedPartition {
    /// What is in it, as people call it.
    fn kind(&self) -> String {
        let inside = self.file_system.map(FileSystem::name);
        let words: Vec<&str> = self.encrypted.then_some("luks2").into_iter().chain(inside).collect();
        if words.is_empty() { none() } else { words.join(" ") }
    }
}

impl Row for PlacedPartition {
    const HEADER: &'static [&'static str] =
        &["PARTITION", "LABEL", "ROLE", "SIZE", "MOUNT", "TYPE", "OPTIONS"];

    fn name(&self) -> String {
        self.label.clone()
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.group.as_ref().map_or_else(|| self.number.to_string(), |group| format!("in {group}")),
            self.label.clone(),
            word(&self.role),
            output::size(self.array_size.unwrap_or(self.size)),
            self.mount.clone().unwrap_or_else(none),
            self.kind(),
            self.options.join(","),
        ]
    }
}

fn none() -> String {
    "-".to_owned()
}

/// Carries out `command`.
pub(super) async fn run(api: &Api, command: LayoutCommand, format: Format) -> Result<Exit, ClientError> {
    match command {
        LayoutCommand::List => {
            let layouts: Vec<LayoutView> = api.get("/v1/layouts").await?;
            output::list(&layouts, format)
        }
        LayoutCommand::Show { layout } => {
            show(&api.get(&Api::path(&["v1", "layouts", &layout])).await?, format)
        }
        LayoutCommand::Try { node, layout, profile } => {
            let asked = [("layout", layout), ("profile", profile)];
            let path = Api::path_with(&["v1", "nodes", &node, "layout"], &asked);
            tried(&api.get(&path).await?, format)
        }
    }
}

fn show(layout: &Layout, format: Format) -> Result<Exit, ClientError> {
    match format {
        Format::Table => {
            if let Some(array) = layout.array {
                output::print(&format!(
                    "Arrays: {} of {} disks, each divided so:",
                    array.level.name(),
                    array.disks
                ))?;
            }
            output::list(&layout.partitions, format)?;
            let subvolumes = layout.partitions.iter().flat_map(|it| parts(&it.label, &it.subvolumes));
            further(&subvolumes.collect::<Vec<_>>())?;
            further(&layout.tmpfs)?;
        }
        Format::Name => output::print(&layout.name)?,
        Format::Json | Format::Yaml => output::print(&output::structured(layout, format)?)?,
    }
    Ok(Exit::Done)
}

/// One more table, if it has any rows.
fn further<R: Row>(rows: &[R]) -> Result<(), ClientError> {
    if !rows.is_empty() {
        output::print("")?;
        output::list(rows, Format::Table)?;
    }
    Ok(())
}

fn tried(trial: &LayoutTrial, format: Format) -> Result<Exit, ClientError> {
    match format {
        Format::Table => {
            let mut lines = vec![("NODE", trial.node.clone()), ("LAYOUT", trial.layout.clone())];
            let array = trial.array.map(|array| format!("{} of {} disks", array.level.name(), array.disks));
            lines.extend(array.map(|array| ("ARRAYS", array)));
            lines.extend(trial.disks.iter().flat_map(hardware::disk));
            output::print(&output::named(&lines))?;
            further(&trial.partitions)?;
            let subvolumes = trial.partitions.iter().flat_map(|it| parts(&it.label, &it.subvolumes));
            further(&subvolumes.collect::<Vec<_>>())?;
        }
        Format::Name => drop(output::list(&trial.partitions, format)?),
        Format::Json | Format::Yaml => output::print(&output::structured(trial, format)?)?,
    }
    Ok(match &trial.finding {
        Some(finding) => {
            output::tell(finding);
            if matches!(finding.finding.code, Code::AmbiguousDisk | Code::DiskCount)
                && trial.profile.is_none()
            {
                eprintln!("        or let a profile's disk rule choose: --profile NAME");
            }
            Exit::Conflict
        }
        None => Exit::Done,
    })
}
