//! A machine with real firmware under QEMU's software emulation.
//!
//! KVM is not used: where these tests run it is often missing or broken, and one speed everywhere
//! keeps the limits honest.

mod disks;

pub use disks::{Bus, DiskConfig, Fault};

use crate::board::BMC_PORT;
use crate::console::{Console, Mark};
use crate::lab::Lab;
use crate::process::Process;
use crate::qmp::{DiskUse, Qmp};
use crate::variables;
use crate::wait::{Poll, secs, wait_for};
use anyhow::{Context as _, Result, bail};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::time::{Duration, Instant};

/// A processor of the second generation of x86-64, and RDRAND, without which the guest's getrandom() blocks for
/// 40 s. Later instructions cost more to emulate than they save: with `max`, which has AVX2 and virtualisation,
/// Debian starts in half as much time again.
const CPU: &str = "qemu64,-svm,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand";
/// UEFI code of Debian's package `ovmf`.
const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// The same with Secure Boot, which needs a chipset with system management mode.
const OVMF_CODE_SECURE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";
/// UEFI variables with Microsoft's keys enrolled, as on most servers: Secure Boot is on.
const OVMF_VARS_SECURE: &str = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd";
/// UEFI variables of a machine that was never used.
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// How long OVMF waits for a key where it is told to wait.
const KEY_WAIT_MS: u32 = 4_000;

/// What starts the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS with iPXE as the network card's ROM.
    Bios,
    /// OVMF: PXE over IPv4, then disk.
    Uefi,
    /// The same with Secure Boot on.
    UefiSecure,
    /// OVMF: HTTP boot over IPv4, then disk.
    UefiHttp,
    /// OVMF: PXE over IPv6, then disk.
    UefiV6,
    /// The same with Secure Boot on.
    UefiSecureV6,
    /// OVMF: HTTP boot over IPv6, then disk.
    UefiHttpV6,
    /// OVMF that nobody has set up: PXE and HTTP boot over IPv4 and IPv6, then disk.
    UefiDelivered,
    /// No network boot: QEMU hands over kernel and ramdisk itself.
    Direct {
        /// Kernel.
        kernel: PathBuf,
        /// Initial ramdisk.
        ramdisk: PathBuf,
        /// Kernel command line.
        cmdline: String,
    },
}

impl Firmware {
    /// Whether it is OVMF, which has its boot order in its variables.
    #[must_use]
    pub fn is_uefi(&self) -> bool {
        !matches!(self, Self::Bios | Self::Direct { .. })
    }

    /// Whether only signed loaders start.
    fn is_secure(&self) -> bool {
        matches!(self, Self::UefiSecure | Self::UefiSecureV6)
    }

    /// Its way to start from the network.
    fn way(&self) -> variables::Way {
        variables::Way {
            http: matches!(self, Self::UefiHttp | Self::UefiHttpV6),
            v6: matches!(self, Self::UefiV6 | Self::UefiSecureV6 | Self::UefiHttpV6),
        }
    }
}

/// A management controller, on the LPC bus by KCS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BmcConfig {
    /// QEMU's own, which knows nothing of a network.
    Simple,
    /// [`Bmc`](crate::board::Bmc).
    External,
}

/// A memory module as the machine's firmware shall describe it.
#[derive(Debug, Clone)]
pub struct ModuleConfig {
    /// The slot's name.
    pub slot: String,
    /// Size in MiB.
    pub mib: u16,
    /// Serial number.
    pub serial: String,
}

impl ModuleConfig {
    /// The structure of SMBIOS (DSP0134 §7.18, type 17): 64 bits wide, and 8 more to correct errors.
    fn structure(&self, number: u8) -> Vec<u8> {
        let mut bytes = vec![0; 0x28];
        (bytes[0], bytes[1], bytes[2], bytes[3]) = (17, 0x28, number, 0x11);
        (bytes[0x08], bytes[0x0a]) = (72, 64);
        bytes[0x0c..0x0e].copy_from_slice(&self.mib.to_le_bytes());
        (bytes[0x10], bytes[0x17], bytes[0x18], bytes[0x1a]) = (1, 2, 3, 4);
        bytes[0x15..0x17].copy_from_slice(&3200_u16.to_le_bytes());
        for text in [&self.slot, "Maker", &self.serial, "PART-1", ""] {
            bytes.extend(text.as_bytes());
            bytes.push(0);
        }
        bytes
    }
}

/// A machine to be.
#[derive(Debug, Clone)]
pub struct GuestConfig {
    /// Names its files; one per lab.
    pub name: String,
    /// What starts it.
    pub firmware: Firmware,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// Hardware address of its network card.
    pub mac: String,
    /// SMBIOS UUID.
    pub uuid: String,
    /// QEMU's model of the network card: `virtio-net-pci`, `e1000e`.
    pub nic: String,
    /// Hardware addresses of further network cards (e1000e), which are plugged in nowhere.
    pub further_nics: Vec<String>,
    /// Memory modules its firmware describes; none = QEMU's own description. They need not add up.
    pub modules: Vec<ModuleConfig>,
    /// Disks, in boot order after the network.
    pub disks: Vec<DiskConfig>,
    /// The socket of its TPM, see [`Tpm`](crate::board::Tpm).
    pub tpm: Option<PathBuf>,
    /// Its management controller.
    pub bmc: Option<BmcConfig>,
    /// What its clock shows at power-on, as `1970-01-01`; none = the right time.
    pub clock: Option<String>,
    /// Whether a BIOS starts the card's ROM and asks the network first.
    pub bios_asks_network: bool,
    /// Whether it has a VGA card; firmware without one writes to the serial console.
    pub vga: bool,
}

impl GuestConfig {
    /// A machine of 1 GiB with a virtio card and no disk, number `number` of its lab.
    #[must_use]
    pub fn new(name: &str, firmware: Firmware, number: u8) -> Self {
        Self {
            name: name.to_owned(),
            firmware,
            memory_mib: 1024,
            cpus: 1,
            mac: format!("52:54:00:00:00:{number:02x}"),
            uuid: format!("6b616c74-7374-4172-9400-0000000000{number:02x}"),
            nic: "virtio-net-pci".to_owned(),
            further_nics: Vec::new(),
            modules: Vec::new(),
            disks: Vec::new(),
            tpm: None,
            bmc: None,
            clock: None,
            bios_asks_network: true,
            vga: false,
        }
    }

    /// The same with `mib` MiB of memory.
    #[must_use]
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// The same with one more memory module in the firmware's description.
    #[must_use]
    pub fn module(mut self, slot: &str, mib: u16, serial: &str) -> Self {
        self.modules.push(ModuleConfig { slot: slot.to_owned(), mib, serial: serial.to_owned() });
        self
    }

    /// The same with one more disk on virtio.
    #[must_use]
    pub fn disk(self, file: &Path, serial: &str) -> Self {
        self.disk_on(Bus::Virtio, file, serial)
    }

    /// The same with one more disk.
    #[must_use]
    pub fn disk_on(mut self, bus: Bus, file: &Path, serial: &str) -> Self {
        let (file, serial) = (file.to_owned(), serial.to_owned());
        self.disks.push(DiskConfig { file, serial, bus, sector: 512, recording: None, fault: None });
        self
    }
}

/// A machine in a lab; powered off when dropped.
#[derive(Debug)]
pub struct Guest<'a> {
    lab: &'a Lab,
    config: GuestConfig,
    tap: String,
    console: Console,
    machine: Option<Machine>,
    created: Instant,
}

/// The part that exists while the power is on.
#[derive(Debug)]
struct Machine {
    process: Process,
    qmp: Qmp,
    /// The serial console's input.
    keyboard: ChildStdin,
}

impl<'a> Guest<'a> {
    /// Plugs a machine into the lab's bridge; its power is off.
    pub fn new(lab: &'a Lab, config: GuestConfig) -> Result<Self> {
        let tap = lab.tap()?;
        let guest =
            Self { lab, config, tap, console: Console::default(), machine: None, created: Instant::now() };
        if guest.config.firmware.is_uefi() {
            let from = if guest.config.firmware.is_secure() { OVMF_VARS_SECURE } else { OVMF_VARS };
            let mut store = fs::read(from)
                .with_context(|| format!("cannot read {from}: is the package ovmf installed?"))?;
            if guest.config.firmware != Firmware::UefiDelivered {
                variables::set_boot_order(&mut store, &guest.config.mac, guest.config.firmware.way())?;
            }
            fs::write(guest.path("vars.fd"), store)?;
        }
        Ok(guest)
    }

    /// What it was made from.
    #[must_use]
    pub fn config(&self) -> &GuestConfig {
        &self.config
    }

    /// Its tap on the bridge.
    #[must_use]
    pub fn tap(&self) -> &str {
        &self.tap
    }

    /// Its serial console, over all its power cycles.
    #[must_use]
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Switches network boot on or off in the setup of a BIOS, while the machine is off.
    pub fn set_bios_asks_network(&mut self, asks: bool) {
        self.config.bios_asks_network = asks;
    }

    /// Opens the machine, while it is off, and changes what is plugged in.
    pub fn open(&mut self, change: impl FnOnce(&mut GuestConfig)) {
        change(&mut self.config);
    }

    /// Lets the firmware start from its disk without asking the network before, while the machine is off: in the
    /// setup of a BIOS, and in UEFI's boot order, as an update of its system may have done.
    pub fn ask_no_network(&mut self) -> Result<()> {
        if !self.config.firmware.is_uefi() {
            self.set_bios_asks_network(false);
            return Ok(());
        }
        let path = self.path("vars.fd");
        let mut store = fs::read(&path).context("the machine has no UEFI variables")?;
        variables::put_network_last(&mut store)?;
        fs::write(path, store).context("cannot write the UEFI variables")
    }

    /// Presses the power button.
    pub fn power_on(&mut self) -> Result<()> {
        if self.machine.is_some() {
            bail!("{} is on already", self.config.name);
        }
        let socket = self.path("qmp");
        fs::remove_file(&socket).ok();
        for (number, module) in (0..).zip(&self.config.modules) {
            fs::write(self.path(&format!("module{number}")), module.structure(number))?;
        }
        let (mut process, keyboard, screen) =
            Process::start_piped(&self.config.name, &mut self.command(&socket), &self.path("qemu.log"))?;
        self.console.follow(screen, &self.path("serial.log"), self.created)?;
        let log = self.path("qemu.log");
        let qmp = wait_for("QEMU's monitor", secs(30), || {
            if let Some(status) = process.ended()? {
                bail!("QEMU ended ({status}): {}", fs::read_to_string(&log).unwrap_or_default().trim());
            }
            Ok(if socket.exists() {
                Qmp::connect(&socket).map_or_else(|e| Poll::pending(format!("{e:#}")), Poll::Ready)
            } else {
                Poll::pending("no socket")
            })
        })?;
        self.machine = Some(Machine { process, qmp, keyboard });
        Ok(())
    }

    /// Cuts the power. What QEMU has taken as written stays written.
    pub fn power_off(&mut self) {
        if let Some(mut machine) = self.machine.take() {
            // Asked first, so that QEMU flushes its disk files; killed on drop if it does not hear.
            machine.qmp.call("quit", &json!({})).ok();
            machine.process.wait(secs(20)).ok();
        }
    }

    /// Presses the reset button.
    pub fn reset(&mut self) -> Result<()> {
        self.qmp()?.call("system_reset", &json!({})).map(drop)
    }

    /// Pulls the cable of its network card, or plugs it in.
    pub fn set_link(&mut self, up: bool) -> Result<()> {
        self.qmp()?.call("set_link", &json!({"name": "net0", "up": up})).map(drop)
    }

    /// Lets its NVMe disk `index` say what is wrong with it: the critical warning of its health log.
    pub fn set_critical_warning(&mut self, index: usize, warning: u8) -> Result<()> {
        let (path, property) = (format!("/machine/peripheral/device{index}"), "smart_critical_warning");
        self.qmp()?.call("qom-set", &json!({"path": path, "property": property, "value": warning})).map(drop)
    }

    /// Freezes its processors.
    pub fn stop(&mut self) -> Result<()> {
        self.qmp()?.call("stop", &json!({})).map(drop)
    }

    /// Lets frozen processors run again.
    pub fn cont(&mut self) -> Result<()> {
        self.qmp()?.call("cont", &json!({})).map(drop)
    }

    /// What happened on disk `index` since power-on.
    pub fn disk_use(&mut self, index: usize) -> Result<DiskUse> {
        self.qmp()?.disk_use(&format!("disk{index}"))
    }

    /// CPU seconds of the emulator since power-on: the figure that other load does not change.
    pub fn cpu_seconds(&self) -> Result<f64> {
        self.machine.as_ref().context("the machine is off")?.process.cpu_seconds()
    }

    /// Says so when the emulator has ended though nobody powered the machine off.
    pub fn ensure_running(&mut self) -> Result<()> {
        let name = &self.config.name;
        let machine = self.machine.as_mut().with_context(|| format!("{name} is off"))?;
        match machine.process.ended()? {
            Some(status) => bail!("the emulator of {name} ended by itself: {status}"),
            None => Ok(()),
        }
    }

    /// Types at the serial console.
    pub fn type_serial(&mut self, keys: &str) -> Result<()> {
        let name = &self.config.name;
        let machine = self.machine.as_mut().with_context(|| format!("{name} is off"))?;
        machine.keyboard.write_all(keys.as_bytes()).context("the serial console takes no keys")
    }

    /// Waits for `pattern` anywhere on the console.
    pub fn wait_serial(&self, pattern: &str, limit: Duration) -> Result<String> {
        self.console.wait(pattern, Mark::default(), limit)
    }

    pub(crate) fn qmp(&mut self) -> Result<&mut Qmp> {
        let name = &self.config.name;
        self.machine.as_mut().map(|machine| &mut machine.qmp).with_context(|| format!("{name} is off"))
    }

    pub(crate) fn path(&self, what: &str) -> PathBuf {
        self.lab.dir().join(format!("{}.{what}", self.config.name))
    }

    fn command(&self, socket: &Path) -> Command {
        let config = &self.config;
        let mut command = self.lab.command("qemu-system-x86_64");
        let mut add = |name: &str, value: String| {
            command.arg(name).arg(value);
        };
        for (name, value) in [("-accel", "tcg"), ("-cpu", CPU), ("-display", "none"), ("-monitor", "none")] {
            add(name, value.to_owned());
        }
        add("-m", config.memory_mib.to_string());
        add("-smp", config.cpus.to_string());
        add("-uuid", config.uuid.clone());
        if let Some(clock) = &config.clock {
            add("-rtc", format!("base={clock}"));
        }
        add("-qmp", format!("unix:{},server=on,wait=off", socket.display()));
        add("-chardev", "stdio,id=console,signal=off".to_owned());
        add("-serial", "chardev:console".to_owned());
        add("-device", "virtio-rng-pci".to_owned());
        add("-netdev", format!("tap,id=net0,ifname={},script=no,downscript=no", self.tap));
        let nic = format!("{},netdev=net0,mac={}", config.nic, config.mac);
        // Without graphics the text of SeaBIOS and iPXE goes to the serial console.
        let machine = if config.vga { "q35" } else { "q35,graphics=off" };
        if config.vga {
            add("-device", "VGA".to_owned());
        }
        match &config.firmware {
            Firmware::Bios => {
                add("-machine", machine.to_owned());
                let start = if config.bios_asks_network { "bootindex=1" } else { "romfile=" };
                add("-device", format!("{nic},{start}"));
            }
            Firmware::Direct { kernel, ramdisk, cmdline } => {
                add("-machine", machine.to_owned());
                add("-device", format!("{nic},romfile="));
                add("-kernel", kernel.display().to_string());
                add("-initrd", ramdisk.display().to_string());
                add("-append", cmdline.clone());
            }
            uefi => {
                let secure = uefi.is_secure();
                if secure {
                    // Only code in system management mode may write the variables (OVMF's README).
                    add("-machine", "q35,smm=on".to_owned());
                    add("-global", "driver=cfi.pflash01,property=secure,value=on".to_owned());
                    add("-global", "ICH9-LPC.disable_s3=1".to_owned());
                } else {
                    add("-machine", "q35".to_owned());
                }
                if *uefi == Firmware::UefiHttpV6 {
                    // It gives up at once while its own address is still being looked for elsewhere
                    // (edk2's HttpBootDhcp6Sarr does not wait). So it waits for a key first, as most
                    // machines do.
                    add("-boot", format!("menu=on,splash-time={KEY_WAIT_MS}"));
                }
                let code = if secure { OVMF_CODE_SECURE } else { OVMF_CODE };
                // No ROM on the card: OVMF's own driver and PXE stack, as on most servers.
                let order = if *uefi == Firmware::UefiDelivered { ",bootindex=1" } else { "" };
                add("-device", format!("{nic},romfile=,addr={:#x}{order}", variables::NIC_SLOT));
                add("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={code}"));
                add("-drive", format!("if=pflash,unit=1,format=raw,file={}", self.path("vars.fd").display()));
            }
        }
        for mac in &config.further_nics {
            add("-device", format!("e1000e,mac={mac},romfile="));
        }
        for number in 0..config.modules.len() {
            add("-smbios", format!("file={}", self.path(&format!("module{number}")).display()));
        }
        if let Some(socket) = &config.tpm {
            add("-chardev", format!("socket,id=tpm,path={}", socket.display()));
            add("-tpmdev", "emulator,id=tpm0,chardev=tpm".to_owned());
            add("-device", "tpm-crb,tpmdev=tpm0".to_owned());
        }
        match config.bmc {
            None => {}
            Some(BmcConfig::Simple) => add("-device", "ipmi-bmc-sim,id=bmc0".to_owned()),
            Some(BmcConfig::External) => {
                add("-chardev", format!("socket,id=bmc,host=127.0.0.1,port={BMC_PORT},reconnect=1"));
                add("-device", "ipmi-bmc-extern,id=bmc0,chardev=bmc".to_owned());
            }
        }
        if config.bmc.is_some() {
            add("-device", "isa-ipmi-kcs,bmc=bmc0".to_owned());
        }
        let controllers: BTreeSet<_> = config.disks.iter().filter_map(|disk| disk.bus.controller()).collect();
        for controller in controllers {
            add("-device", controller.to_owned());
        }
        for (index, disk) in config.disks.iter().enumerate() {
            // UEFI machines that were set up have their order in their variables.
            let set_up = config.firmware.is_uefi() && config.firmware != Firmware::UefiDelivered;
            let order = if set_up { String::new() } else { format!(",bootindex={}", index + 2) };
            for (name, value) in disk.options(index, &order) {
                add(name, value);
            }
        }
        command.arg("-nodefaults");
        command
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.power_off();
    }
}
