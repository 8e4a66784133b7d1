//! `ks enc CERTNAME`: Puppet's external node classifier. Where it fails no catalog is made, so the last answer is kept
//! and given again while the server is away.

use super::api::{Api, ClientError};
use super::output;
use crate::exit::Exit;
use crate::http::api::rfc3339;
use clap::Args;
use kaltstart_protocol::time::Millis;
use serde_json::Value;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use tempfile::NamedTempFile;

/// Longest a catalog waits for the server before the last answer is taken.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// `ks enc`
#[derive(Debug, Args)]
pub struct Enc {
    /// The name in the machine's certificate
    certname: String,
    /// The domain of our nodes, which their certificates have behind their names; names in other domains are not ours
    #[arg(long)]
    domain: Vec<String>,
    /// Directory of the last answers, one for each node; made if it is not there
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

impl Enc {
    /// The node that the certificate is for; a name of many parts is no node's.
    fn node(&self) -> &str {
        let ours = self
            .domain
            .iter()
            .find_map(|domain| self.certname.strip_suffix(domain.trim_start_matches('.'))?.strip_suffix('.'));
        ours.unwrap_or(&self.certname)
    }

    /// The file of the last answer. Two certificates of one node have one each.
    fn kept(&self) -> Result<Option<PathBuf>, ClientError> {
        let name = &self.certname;
        let good = name.len() <= 253
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !good {
            return Err(ClientError::Usage(format!("{name:?} is no name of a machine")));
        }
        Ok(self.cache.as_ref().map(|dir| dir.join(format!("{name}.yaml"))))
    }
}

/// Whether it is the server that cannot be asked; else it has answered, and says no.
const fn is_away(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } | ClientError::NotBelieved { .. } | ClientError::Strange { .. } => {
            true
        }
        ClientError::Server(problem) => problem.status >= 500,
        ClientError::Local(_) | ClientError::Usage(_) | ClientError::Login(_) | ClientError::NotFound(_) => {
            false
        }
    }
}

/// Asks, and prints what is to be believed.
pub(super) async fn run(api: &Api, enc: &Enc) -> Result<Exit, ClientError> {
    let kept = enc.kept()?;
    let path = Api::path(&["v1", "enc", enc.node()]);
    let late =
        || ClientError::Local(format!("the server has not answered within {} s", ANSWER_MAX.as_secs()));
    let (error, away) = match tokio::time::timeout(ANSWER_MAX, api.get::<Value>(&path)).await {
        Ok(Ok(answer)) => {
            let text = answer.to_string();
            if let Some(Err(error)) = kept.as_deref().map(|file| keep(file, &text)) {
                eprintln!("warning: the answer is not kept: {error}");
            }
            output::print(&text)?;
            return Ok(Exit::Done);
        }
        Ok(Err(error)) => {
            let away = is_away(&error);
            (error, away)
        }
        Err(_) => (late(), true),
    };
    let Some(file) = kept else { return Err(error) };
    if !away {
        if matches!(error, ClientError::NotFound(_)) {
            // It gets no catalog again because the server is away later.
            forget(&file);
        }
        return Err(error);
    }
    let Some((text, at)) = last(&file) else { return Err(error) };
    eprintln!("{error}; the answer of {at} is given again");
    output::print(&text)?;
    Ok(Exit::Done)
}

/// Puts an answer in the place of the last one, as a whole or not at all.
fn keep(file: &Path, text: &str) -> std::io::Result<()> {
    let dir = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let mut new = NamedTempFile::new_in(dir)?;
    new.write_all(text.as_bytes())?;
    new.as_file().sync_all()?;
    new.persist(file)?;
    Ok(())
}

fn forget(file: &Path) {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            eprintln!("warning: {} cannot be removed: {error}", file.display());
        }
        _ => {}
    }
}

/// The last answer, and of when it is.
fn last(file: &Path) -> Option<(String, String)> {
    let text = fs::read_to_string(file).ok()?;
    let at = fs::metadata(file).and_then(|about| about.modified()).ok()?;
    let at = at.duration_since(UNIX_EPOCH).ok()?.as_millis();
    serde_json::from_str::<Value>(&text).ok()?;
    Some((text, rfc3339(Millis(u64::try_from(at).ok()?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enc(certname: &str) -> Enc {
        let domain = vec!["fra1.example".into(), ".muc1.example".into()];
        Enc { certname: certname.into(), domain, cache: Some("/cache".into()) }
    }

    #[test]
    fn certificates_are_our_nodes_in_our_domains_alone() {
        for (certname, node) in [
            ("db-07", "db-07"),
            ("db-07.fra1.example", "db-07"),
            ("db-07.muc1.example", "db-07"),
            ("db-07.example", "db-07.example"),
            ("db-07fra1.example", "db-07fra1.example"),
            ("fra1.example", "fra1.example"),
            ("x.db-07.fra1.example", "x.db-07"),
        ] {
            assert_eq!(enc(certname).node(), node, "{certname}");
        }
    }

    #[test]
    fn p27_no_name_leads_out_of_the_directory() {
        let kept = enc("db-07.fra1.example").kept().expect("good");
        assert_eq!(kept, Some("/cache/db-07.fra1.example.yaml".into()));
        for bad in ["", "..", "../x", "a/b", ".hidden", "/etc/passwd", "a b", "a\n", "-x", &"a".repeat(254)] {
            assert!(enc(bad).kept().is_err(), "{bad:?}");
        }
    }
}
