//! `cargo xtask bench NAME [--json FILE]`: figures of the product, measured in one run.

mod agent;
mod boot;
mod deploy;

use anyhow::{Result, bail};

/// `cargo xtask bench NAME …`
pub(crate) fn task(args: &[String]) -> Result<()> {
    match args {
        [name, rest @ ..] if name == "deploy" => deploy::task(rest),
        [name, rest @ ..] if name == "boot" => boot::task(rest),
        [name, rest @ ..] if name == "fleet" => boot::task(&[&["--fleet".to_owned()], rest].concat()),
        [name, rest @ ..] if name == "agent" => agent::task(rest),
        _ => bail!("usage: cargo xtask bench agent|boot|deploy|fleet [--json FILE]"),
    }
}
