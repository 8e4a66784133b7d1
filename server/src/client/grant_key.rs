//! `ks grant-key …`

use super::Format;
use super::api::{Api, ClientError};
use super::output::{self, Row};
use crate::exit::Exit;
use crate::http::grant_key::GrantKeyView;
use clap::Subcommand;

/// What can be done with the key.
#[derive(Debug, Subcommand)]
pub enum GrantKeyCommand {
    /// Its public half, and the server's epoch: what agents are told to believe
    Show,
    /// Replace it; machines whose agents believe the old one and were granted nothing yet start again
    Rotate,
}

pub(super) async fn run(api: &Api, command: GrantKeyCommand, format: Format) -> Result<Exit, ClientError> {
    let key: GrantKeyView = match command {
        GrantKeyCommand::Show => api.get("/v1/grant-key").await?,
        GrantKeyCommand::Rotate => api.post("/v1/grant-key/rotate", &serde_json::json!({})).await?,
    };
    output::one(&key, format)
}

impl Row for GrantKeyView {
    const HEADER: &'static [&'static str] = &["KEY", "REPLACED", "EPOCH"];

    fn name(&self) -> String {
        self.key.to_string()
    }

    fn cells(&self) -> Vec<String> {
        let replaced = self.replaced.map_or_else(|| "-".to_owned(), |key| key.to_string());
        vec![self.key.to_string(), replaced, self.epoch.to_string()]
    }
}
