//! Chips of a server's board beside a machine: a TPM (swtpm) and a management controller (OpenIPMI's
//! `ipmi_sim`).

use crate::lab::Lab;
use crate::process::{Process, run};
use crate::unpacked::Unpacked;
use crate::wait::{Poll, secs, wait_for};
use anyhow::{Context as _, Result, bail};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the controller listens for its machine, within the lab.
pub const BMC_PORT: u16 = 9002;

/// A TPM 2.0.
#[derive(Debug)]
pub struct Tpm {
    /// Where QEMU finds it.
    pub socket: PathBuf,
    /// The certificate of its endorsement key (RSA 2048), if its maker has put one into it.
    pub certificate: Option<Vec<u8>>,
    _process: Process,
}

impl Tpm {
    /// Makes a TPM, with a certificate if wanted, and switches it on; one that went off with its machine keeps what it
    /// knew.
    pub fn start(lab: &Lab, certified: bool) -> Result<Self> {
        let programs = Unpacked::clients()?;
        let dir = lab.dir().join("tpm");
        fs::create_dir_all(&dir)?;
        let certificate = if certified { Some(manufacture(&programs, &dir)?) } else { None };
        let socket = dir.join("socket");
        // That of a TPM that was switched off with its machine.
        fs::remove_file(&socket).ok();
        let mut command = programs.with_libraries(lab.command(programs.program("usr/bin/swtpm")));
        command
            .args(["socket", "--tpm2", "--tpmstate"])
            .arg(format!("dir={}", dir.display()))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}", socket.display()));
        let log = dir.join("log");
        let mut process = Process::start("swtpm", &mut command, &log)?;
        wait_for("the TPM's socket", secs(30), || {
            if let Some(status) = process.ended()? {
                bail!("swtpm ended ({status}): {}", fs::read_to_string(&log).unwrap_or_default().trim());
            }
            Ok(if socket.exists() { Poll::Ready(()) } else { Poll::pending("no socket") })
        })?;
        Ok(Self { socket, certificate, _process: process })
    }
}

/// Does what a maker does: a key, a certificate of it by an authority made for this, and both into the TPM.
fn manufacture(programs: &Unpacked, dir: &Path) -> Result<Vec<u8>> {
    let path = |name: &str| dir.join(name).display().to_string();
    let program = |name: &str| programs.program(&format!("usr/bin/{name}")).display().to_string();
    let authority = ["statedir", "signingkey", "issuercert", "certserial"];
    let files = [String::new(), "signing.pem".into(), "issuer.pem".into(), "serial".into()];
    let mut text = String::new();
    for (key, file) in authority.iter().zip(&files) {
        writeln!(text, "{key} = {}", path(file))?;
    }
    fs::write(dir.join("authority.conf"), text)?;
    fs::write(
        dir.join("options"),
        "--platform-manufacturer Maker\n--platform-version 1\n--platform-model M\n",
    )?;
    let setup = format!(
        "create_certs_tool = {}\ncreate_certs_tool_config = {}\ncreate_certs_tool_options = {}\n\
         active_pcr_banks = sha256\n",
        program("swtpm_localca"),
        path("authority.conf"),
        path("options")
    );
    fs::write(dir.join("setup.conf"), setup)?;
    let mut command = programs.with_libraries(Command::new(program("swtpm_setup")));
    command.args(["--tpm2", "--create-ek-cert", "--config", &path("setup.conf")]);
    command.args(["--tpmstate", &path(""), "--write-ek-cert-files", &path("")]);
    command.args(["--tpm", &format!("{} socket", program("swtpm"))]);
    // It starts programs by their names.
    let search = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{search}", programs.program("usr/bin").display()));
    run(&mut command, secs(120)).context("cannot make a TPM with a certificate")?;
    fs::read(dir.join("ek-rsa2048.crt")).context("swtpm_setup has written no certificate")
}

/// What a controller says of its network.
#[derive(Debug, Clone, Copy)]
pub struct BmcLan<'a> {
    /// Its address.
    pub address: &'a str,
    /// How it got it: `static`, `dhcp`.
    pub source: &'a str,
    /// Its hardware address.
    pub mac: &'a str,
}

/// Compact sensor record (IPMI 2.0 §43.2) of a power supply's sensor `number`, as bytes for the simulator.
fn power_supply_record(number: u8, name: &str) -> String {
    let mut record = vec![0_u8; 31];
    (record[0], record[2], record[3]) = (number, 0x51, 0x02);
    // Owner, sensor, entity (a power supply), kind of sensor and states.
    (record[5], record[7], record[8], record[9]) = (0x20, number, 0x0a, number);
    (record[12], record[13]) = (0x08, 0x6f);
    record.push(0xc0 | name.len() as u8);
    record.extend(name.bytes());
    record[4] = record.len() as u8 - 5;
    record.iter().fold(String::new(), |text, byte| text + &format!(" {byte:#04x}"))
}

/// A management controller that its machine reaches at [`BMC_PORT`].
#[derive(Debug)]
pub struct Bmc {
    _process: Process,
}

impl Bmc {
    /// Switches on a controller: firmware 9.08, IPMI 2.0, its network as given; of two power supplies the second
    /// has no input.
    pub fn start(lab: &Lab, lan: BmcLan<'_>) -> Result<Self> {
        let programs = Unpacked::clients()?;
        let dir = lab.dir().join("bmc");
        fs::create_dir_all(dir.join("state"))?;
        let path = |name: &str| dir.join(name);
        // It is run as `get NAME…`, and answers each name with a line.
        let script = format!(
            "#!/bin/sh\nshift\nfor name in \"$@\"; do case $name in\nip_addr) echo ip_addr:{} ;;\n\
             ip_addr_src) echo ip_addr_src:{} ;;\nmac_addr) echo mac_addr:{} ;;\nesac; done\n",
            lan.address, lan.source, lan.mac
        );
        fs::write(path("lan.sh"), script)?;
        fs::set_permissions(path("lan.sh"), fs::Permissions::from_mode(0o755))?;
        let config = format!(
            "name \"bmc\"\nset_working_mc 0x20\nstartlan 1\n  addr 127.0.0.1 9623\n  priv_limit admin\n  \
             allowed_auths_admin none md5\n  guid a123456789abcdefa123456789abcdef\n  \
             lan_config_program \"{}\"\nendlan\nserial 15 127.0.0.1 {BMC_PORT} codec VM\n",
            path("lan.sh").display()
        );
        fs::write(path("lan.conf"), config)?;
        let mut commands =
            "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\n".to_owned();
        for (number, name, states) in [(1, "PS1 Status", [0].as_slice()), (2, "PS2 Status", &[0, 3])] {
            writeln!(commands, "sensor_add 0x20 0 {number} 0x08 0x6f")?;
            for state in states {
                writeln!(commands, "sensor_set_bit 0x20 0 {number} {state} 1 0")?;
            }
            writeln!(commands, "main_sdr_add 0x20{}", power_supply_record(number, name))?;
        }
        commands += "mc_enable 0x20\n";
        fs::write(path("commands"), commands)?;
        let mut command = programs.with_libraries(lab.command(programs.program("usr/bin/ipmi_sim")));
        command.args(["-n", "-c"]).arg(path("lan.conf")).arg("-f").arg(path("commands"));
        command.arg("-s").arg(path("state"));
        Ok(Self { _process: Process::start("ipmi_sim", &mut command, &path("log"))? })
    }
}
