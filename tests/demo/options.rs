//! Arguments of the demonstration.

use crate::Firmware;
use anyhow::{Context as _, Result, bail};
use std::path::PathBuf;
use std::time::Duration;

/// From power-on to deployed. Usually two minutes; a busy computer needs longer.
const DEPLOY_LIMIT: Duration = Duration::from_secs(1200);

/// How it is called.
pub(crate) const USAGE: &str = "\
usage: cargo xtask demo [OPTIONS]
  --firmware uefi|bios|uefi-http|uefi-secure   how the machine starts (default uefi)
  --memory MB                      memory of the machine, at least 128 (default 1024)
  --image NAME                     what is installed (default debian-12; e2e is minute)
  --ramdisk cloud|generic          the agent's drivers (default generic: physical servers too)
  --limit SECONDS                  from power-on to deployed, at most (default 1200)
  --keep                           stay up afterwards; print how to reach it
  --json FILE                      write every phase with start, end, bytes, and the result";

/// What was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Directory of everything that was built.
    pub(crate) artefacts: PathBuf,
    /// How the machine starts.
    pub(crate) firmware: Firmware,
    /// Its memory in MiB.
    pub(crate) memory_mib: u32,
    /// What is installed.
    pub(crate) image: String,
    /// Which ramdisk.
    pub(crate) ramdisk: String,
    /// From power-on to deployed, at most.
    pub(crate) limit: Duration,
    /// Whether to stay up.
    pub(crate) keep: bool,
    /// Whether only to check the arguments.
    pub(crate) check: bool,
    /// Where figures go.
    pub(crate) json: Option<PathBuf>,
}

impl Options {
    /// Reads the arguments; `--artefacts DIR` and `--check` come from `cargo xtask`.
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self {
            artefacts: PathBuf::new(),
            firmware: Firmware::Uefi,
            memory_mib: 1024,
            image: "debian-12".to_owned(),
            ramdisk: "generic".to_owned(),
            limit: DEPLOY_LIMIT,
            keep: false,
            check: false,
            json: None,
        };
        let mut args = args.iter();
        while let Some(name) = args.next() {
            let mut value = || args.next().with_context(|| format!("{name} needs a value"));
            match name.as_str() {
                "--artefacts" => options.artefacts = PathBuf::from(value()?),
                "--firmware" => options.firmware = firmware(value()?)?,
                "--memory" => {
                    let mib: Option<u32> = value()?.parse().ok().filter(|mib| (128..=65_536).contains(mib));
                    options.memory_mib = mib.context("--memory is a number of MiB from 128 to 65536")?;
                }
                "--image" => options.image = value()?.clone(),
                "--ramdisk" => options.ramdisk = value()?.clone(),
                "--limit" => {
                    let seconds: u64 = value()?.parse().context("--limit is a number of seconds")?;
                    options.limit = Duration::from_secs(seconds);
                }
                "--check" => options.check = true,
                "--keep" => options.keep = true,
                "--json" => options.json = Some(PathBuf::from(value()?)),
                other => bail!("unknown argument {other:?}"),
            }
        }
        if options.artefacts.as_os_str().is_empty() && !options.check {
            bail!("--artefacts DIR is missing: start this with `cargo xtask demo`");
        }
        Ok(options)
    }

    /// The firmware as it was asked for.
    #[must_use]
    pub(crate) fn firmware_name(&self) -> &'static str {
        match self.firmware {
            Firmware::Bios => "bios",
            Firmware::Uefi => "uefi",
            Firmware::UefiHttp => "uefi-http",
            Firmware::UefiSecure => "uefi-secure",
            Firmware::UefiV6 => "uefi-v6",
            Firmware::UefiSecureV6 => "uefi-secure-v6",
            Firmware::UefiHttpV6 => "uefi-http-v6",
            Firmware::UefiDelivered => "uefi-delivered",
            Firmware::Direct { .. } => "direct",
        }
    }
}

fn firmware(name: &str) -> Result<Firmware> {
    Ok(match name {
        "bios" => Firmware::Bios,
        "uefi" => Firmware::Uefi,
        "uefi-http" => Firmware::UefiHttp,
        "uefi-secure" => Firmware::UefiSecure,
        other => bail!("--firmware is uefi, bios, uefi-http or uefi-secure, not {other:?}"),
    })
}
