//! `kaltstart tls`: what the server shows, and new keys for it.

use super::authority::{About, Authority, Server};
use super::files::Files;
use super::{AUTHORITY, CA, SERVER, TlsError, complete, dir};
use crate::config::Config;
use jiff::Timestamp;
use kaltstart_protocol::time::Millis;
use std::fmt::Write as _;

/// Fingerprints, validity and names, as text.
///
/// # Errors
/// When there is nothing yet, or a file cannot be read or understood; nothing is made here.
pub fn show(config: &Config, now: Millis) -> Result<String, TlsError> {
    let dir = dir(&config.data_dir);
    let exists = |name: &str| {
        let path = dir.join(name);
        path.try_exists().map_err(|source| TlsError::File { path, source })
    };
    if !exists(AUTHORITY)? && !exists(SERVER)? {
        return Err(TlsError::NotStarted(config.data_dir.clone()));
    }
    let files = Files::lock(&dir)?;
    let missing = || TlsError::Incomplete;
    let authority = Authority::from_pem(&files.read(AUTHORITY)?.ok_or_else(missing)?, now)?;
    let server = Server::from_pem(&files.read(SERVER)?.ok_or_else(missing)?)?;
    describe(&authority, &server)
}

/// Makes a new key and certificate for the server, and with `new_authority` a new authority before that.
///
/// # Errors
/// When a file cannot be read, written or understood.
pub fn rotate(config: &Config, new_authority: bool, now: Millis) -> Result<String, TlsError> {
    let files = Files::lock(&dir(&config.data_dir))?;
    let names = config.names();
    let (mut authority, _) = complete(&files, &names, now)?;
    if new_authority {
        authority = authority.replace(now)?;
        files.write(AUTHORITY, &authority.to_pem())?;
        files.write(CA, &authority.certificate_pem())?;
    }
    let server = authority.issue(&names, now)?;
    files.write(SERVER, &server.to_pem())?;
    describe(&authority, &server)
}

fn describe(authority: &Authority, server: &Server) -> Result<String, TlsError> {
    let mut text = String::new();
    let mut line = |name: &str, about: &About, until: &str| {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "{name:<10} {}", about.fingerprint);
        let _ = writeln!(text, "           {until} {}", day(about.not_after));
    };
    line("authority", &authority.about()?, "valid until");
    if let Some(old) = authority.about_replaced()? {
        line("replaced", &old, "still believed until");
    }
    let about = server.about()?;
    line("server", &about, "valid until");
    let names: Vec<&str> = about.names.iter().map(String::as_str).collect();
    let _ = writeln!(text, "           for {}", names.join(" "));
    Ok(text)
}

fn day(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}
