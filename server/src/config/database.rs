//! `[database]`

use crate::store::Server;
use anyhow::{Context as _, Result, ensure};
use kaltstart_protocol::secret::Secret;
use serde::Deserialize;
use std::fs;
use std::path::PathBuf;

/// `[database]`: a PostgreSQL that several servers may share, in place of the file in `data_dir`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// Where it is, as libpq takes it: `postgresql://kaltstart@db.example/kaltstart`, or
    /// `host=/run/postgresql user=kaltstart dbname=kaltstart`. Without a password.
    pub url: String,
    /// The file that holds the password alone.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The file with the authorities that vouch for it, in PEM: whoever is on another machine is spoken to by
    /// TLS alone.
    #[serde(default)]
    pub authority: Option<PathBuf>,
}

impl Database {
    pub(super) fn problems(&self, all: &mut Vec<String>) {
        if let Err(error) = Server::parse(&self.url) {
            all.push(format!("database.url: {error}"));
        }
    }

    /// The server, with what is in the files.
    ///
    /// # Errors
    /// When they cannot be used, or lack.
    pub fn server(&self) -> Result<Server> {
        let mut server = Server::parse(&self.url)?;
        if let Some(path) = &self.password_file {
            let text = fs::read_to_string(path);
            let text = text.with_context(|| format!("database.password_file {}", path.display()))?;
            ensure!(!text.trim().is_empty(), "database.password_file {} is empty", path.display());
            server.password(&Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()));
        }
        if let Some(path) = &self.authority {
            server.trust(path).with_context(|| format!("database.authority {}", path.display()))?;
        }
        Ok(server)
    }
}
