//! TLS by curl, which needs as much CPU as the server: GB/s are half the client's, so look at the
//! server's CPU.

use crate::bench::Bench;
use anyhow::{Context as _, Result};
use kaltstart_tests::pair::SERVER;
use kaltstart_tests::process::run_to_end;
use kaltstart_tests::wait::secs;
use std::fmt::Write as _;
use std::fs;
use std::time::Instant;

/// A lone connection fetches the file so often, so that starting curl does not count.
const FETCHES_MIN: usize = 4;

/// Bytes that arrived, and the seconds that took.
pub(super) fn fetch(
    bench: &Bench,
    port: u16,
    path: &str,
    at_once: usize,
    seconds: u64,
) -> Result<(f64, f64)> {
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
    let elapsed = started.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&output.stdout);
    let mut bytes = 0.0;
    for line in text.lines() {
        let size = line.strip_prefix("200 ").with_context(|| format!("curl fetched {path}: {line}"))?;
        bytes += size.parse::<f64>()?;
    }
    Ok((bytes, elapsed))
}
