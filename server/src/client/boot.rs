//! `ks boot`: what a machine is given to start.

use super::Format;
use super::api::{Api, ClientError};
use super::output::{self, Row};
use crate::exit::Exit;
use crate::http::api::rfc3339;
use crate::http::boot_view::{DoorTrial, Trial};
use clap::Subcommand;
use kaltstart_core::boot::{Served, UefiLoader};

/// `ks boot …`
#[derive(Debug, Subcommand)]
pub enum BootCommand {
    /// What a machine would be given at each door now, and why; nothing is granted
    Try {
        /// MAC, also of a machine that nobody knows; or name or identifier of a node
        node: String,
        /// Its processor and firmware: `bios`, `uefi-x64`, `uefi-arm64`, or a number of option 93
        #[arg(long)]
        arch: Option<String>,
        /// As if it were started by this: `ipxe` or `signed`
        #[arg(long)]
        loader: Option<UefiLoader>,
    },
    /// What a machine was given last at each door
    Show {
        /// Name, identifier or MAC
        node: String,
    },
}

impl Row for DoorTrial {
    const HEADER: &'static [&'static str] = &["DOOR", "GIVES", "PROBLEM"];

    fn name(&self) -> String {
        self.door.clone()
    }

    fn cells(&self) -> Vec<String> {
        vec![self.door.clone(), self.gives.clone(), self.problem.clone().unwrap_or_default()]
    }
}

impl Row for Served {
    const HEADER: &'static [&'static str] = &["LAST", "TIMES", "DOOR", "GAVE"];

    fn name(&self) -> String {
        self.door.clone()
    }

    fn cells(&self) -> Vec<String> {
        vec![rfc3339(self.at), self.times.to_string(), self.door.clone(), self.gave.clone()]
    }
}

/// Carries out `command`.
pub(super) async fn run(api: &Api, command: BootCommand, format: Format) -> Result<Exit, ClientError> {
    match command {
        BootCommand::Show { node } => {
            let served: Vec<Served> = api.get(&Api::path(&["v1", "nodes", &node, "boot"])).await?;
            output::list(&served, format)
        }
        BootCommand::Try { node, arch, loader } => {
            let asked = [("arch", arch), ("loader", loader.map(|loader| loader.name().to_owned()))];
            let path = Api::path_with(&["v1", "boot", &node], &asked);
            let trial: Trial = api.get(&path).await?;
            match format {
                Format::Table => {
                    let node = trial.node.as_deref().unwrap_or("not known");
                    output::print(&format!(
                        "{} ({node}) boots {}: {}\n{}, uefi_loader {}{}\n",
                        trial.mac,
                        trial.decision,
                        trial.why,
                        trial.architecture,
                        trial.uefi_loader.name(),
                        if trial.looping { "; it fetches its loader again and again" } else { "" },
                    ))?;
                    output::list(&trial.doors, format)
                }
                Format::Name => output::list(&trial.doors, format),
                Format::Json | Format::Yaml => {
                    output::print(&output::structured(&trial, format)?)?;
                    Ok(Exit::Done)
                }
            }
        }
    }
}
