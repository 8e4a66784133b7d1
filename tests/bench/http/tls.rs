//! TLS by curl, which needs as much CPU as the server: GB/s are half the client's, so look at the
//! server's CPU.

use crate::bench::Bench;
use anyhow::{Result, bail};
use kaltstart_tests::pair::SERVER;
use kaltstart_tests::process::run_to_end;
use kaltstart_tests::wait::secs;
use std::fmt::Write as _;
use std::fs;
use std::time::Instant;

/// A lone connection fetches the file so often, so that starting curl does not count.
const FETCHES_MIN: usize = 4;

/// What came of it.
pub(super) struct Fetched {
    pub(super) bytes: f64,
    pub(super) seconds: f64,
    /// Connections that had heard nothing when the time was over.
    pub(super) failed: usize,
}

/// Fetches `path` until the time is over.
pub(super) fn fetch(bench: &Bench, port: u16, path: &str, at_once: usize, seconds: u64) -> Result<Fetched> {
    let mut config = String::new();
    for _ in 0..at_once.max(FETCHES_MIN) {
        // Writing to a `String` cannot fail.
        let _ = write!(config, "url = \"https://{SERVER}:{port}{path}\"\noutput = \"/dev/null\"\n");
    }
    let file = bench.dir().join("curl.conf");
    fs::write(&file, config)?;
    let mut command = bench.pair().client_command("curl");
    // The same version and cipher everywhere.
    command.args(["--silent", "--insecure", "--http1.1", "--tlsv1.3"]);
    command.args(["--tls13-ciphers", "TLS_AES_128_GCM_SHA256", "--parallel", "--parallel-immediate"]);
    command.args(["--parallel-max", &at_once.to_string(), "--max-time", &seconds.to_string()]);
    command.args(["--write-out", "%{http_code} %{size_download}\\n", "--config"]).arg(file);
    let started = Instant::now();
    // Its exit status is 28 when the time was over, as it is meant to be.
    let output = run_to_end(&mut command, secs(seconds * FETCHES_MIN as u64 + 20))?;
    let seconds = started.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&output.stdout);
    let (mut bytes, mut failed) = (0.0, 0);
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("200", size)) => bytes += size.parse::<f64>()?,
            Some(("000", _)) => failed += 1,
            _ => bail!("curl fetched {path}: {line}"),
        }
    }
    Ok(Fetched { bytes, seconds, failed })
}
