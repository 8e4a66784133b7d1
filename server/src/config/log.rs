//! `[log]`

use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Text for people, JSON for collectors.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives as `kaltstart_server::net=debug`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text.
    Text,
    /// One line of JSON.
    Json,
}

impl Log {
    pub(super) fn problems(&self, all: &mut Vec<String>) {
        if let Err(problem) = log_filter(&self.level) {
            all.push(format!("log.level: {problem}"));
        }
    }
}

/// What `log.level` lets through.
///
/// # Errors
/// When it is neither a level nor directives; the message tells what is expected.
pub fn log_filter(text: &str) -> Result<EnvFilter, String> {
    // A misspelt level alone would be taken for the name of a module, and silence all others.
    let misspelt = |word: &&str| !word.contains(['=', '[']) && word.parse::<LevelFilter>().is_err();
    match text.split(',').map(str::trim).find(misspelt) {
        Some(word) => Err(format!("{word:?} is none of error, warn, info, debug, trace, off")),
        None => EnvFilter::try_new(text).map_err(|error| format!("{text:?}: {error}")),
    }
}
