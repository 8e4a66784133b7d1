//! A machine's hardware, a line for each part.

use kaltstart_protocol::facts::{AddressSource, Bmc, Disk, EndorsementSource, Facts, Health, Nic, Verdict};

/// What the agent saw, as names and texts.
pub(super) fn lines(facts: &Facts) -> Vec<(&'static str, String)> {
    let system = &facts.system;
    let mut lines = vec![
        ("SYSTEM", words(&[&system.vendor, &system.product, &named("serial", &system.serial)])),
        ("FIRMWARE", system.bios_version.clone()),
        ("CHASSIS", words(&[&named("serial", &system.chassis_serial), &named("asset", &system.asset_tag)])),
        ("BOARD", words(&[&system.board, &named("serial", &system.board_serial)])),
        ("TPM", tpm(facts)),
        ("BMC", facts.bmc.as_ref().map(bmc).unwrap_or_default()),
    ];
    lines.retain(|(_, text)| !text.is_empty());
    for supply in facts.bmc.iter().flat_map(|bmc| &bmc.power_supplies) {
        let present = if supply.present { "" } else { "not plugged in" };
        lines.push(("  POWER", words(&[&supply.name, present, &supply.fault])));
    }
    lines.push(("CPU", format!("{} x {}", facts.cpu.threads, facts.cpu.model)));
    for processor in &facts.processors {
        let cores =
            format!("{} cores, {} threads, {} MHz", processor.cores, processor.threads, processor.mhz);
        lines.push(("  SOCKET", words(&[&processor.socket, &processor.model, &cores])));
    }
    lines.push(("MEMORY", format!("{} MiB", facts.memory_bytes >> 20)));
    for module in &facts.modules {
        let size = format!("{} MiB", module.size >> 20);
        let speed = if module.speed > 0 { format!("{} MT/s", module.speed) } else { String::new() };
        let ecc = if module.ecc == Some(true) { "ECC" } else { "" };
        let serial = named("serial", &module.serial);
        lines.push((
            "  MODULE",
            words(&[&module.slot, &size, &speed, ecc, &module.maker, &module.part, &serial]),
        ));
    }
    lines.extend(facts.nics.iter().flat_map(nic));
    lines.extend(facts.disks.iter().flat_map(disk));
    for device in &facts.devices {
        lines.push(("PCI", words(&[&device.address, &device.class, &device.id, &device.driver])));
    }
    lines
}

fn tpm(facts: &Facts) -> String {
    let version = facts.tpm.clone().unwrap_or_default();
    let key = facts.endorsement.as_ref().map_or_else(String::new, |key| {
        let source = match key.source {
            EndorsementSource::RsaCertificate => "endorsement certificate (RSA 2048)",
            EndorsementSource::EccCertificate => "endorsement certificate (P-256)",
            EndorsementSource::EccKey => "endorsement key (P-256) without certificate",
        };
        format!("{source} {}", key.digest)
    });
    words(&[&version, &key])
}

fn bmc(bmc: &Bmc) -> String {
    let lan = bmc.lan.as_ref().map_or_else(
        || "network not known".to_owned(),
        |lan| {
            let address = lan.address.map_or_else(|| "no address".to_owned(), |address| address.to_string());
            let source = match lan.source {
                AddressSource::Static => "(static)",
                AddressSource::Dhcp => "(dhcp)",
                AddressSource::Firmware => "(by firmware)",
                AddressSource::Other => "",
            };
            words(&[&address, source, &lan.mac.map(|mac| mac.to_string()).unwrap_or_default()])
        },
    );
    let maker = format!("maker {} product {}", bmc.manufacturer, bmc.product);
    words(&[&lan, &named("firmware", &bmc.firmware), &named("IPMI", &bmc.ipmi), &maker])
}

fn nic(nic: &Nic) -> Vec<(&'static str, String)> {
    let speed = match nic.speed_mbit {
        _ if !nic.link => "no link".to_owned(),
        Some(speed) => format!("{speed} Mbit/s"),
        None => "link".to_owned(),
    };
    let firmware = named("firmware", &nic.firmware);
    let mut lines = vec![("NIC", words(&[&nic.name, &nic.mac.to_string(), &nic.driver, &speed, &firmware]))];
    lines.extend(nic.neighbour.as_ref().map(|neighbour| ("  PLUGGED INTO", neighbour.to_string())));
    lines
}

/// A disk: what it is, how it is, and what lies on it.
pub(super) fn disk(disk: &Disk) -> Vec<(&'static str, String)> {
    let size = format!("{} GB", disk.size / 1_000_000_000);
    let (firmware, at) = (named("firmware", &disk.firmware), named("at", &disk.path));
    let told = words(&[&disk.transport, &size, &disk.model, disk.identity(), &firmware, &at]);
    let mut lines = vec![("DISK", told)];
    lines.push(("  HEALTH", disk.health.as_ref().map_or_else(|| "not known".into(), health)));
    match &disk.holds {
        None => lines.push(("  HOLDS", "not known: it could not be read".into())),
        Some(contents) if contents.is_blank() => lines.push(("  HOLDS", "nothing".into())),
        Some(contents) => {
            lines.extend(contents.0.iter().map(|area| ("  HOLDS", area.to_string())));
            lines.push(("  FINGERPRINT", contents.fingerprint().to_string()));
        }
    }
    lines
}

fn health(health: &Health) -> String {
    let verdict = match health.verdict {
        Verdict::Good => "good",
        Verdict::Failing => "FAILING",
    };
    let told = |number: Option<u64>, unit: &str| {
        number.map_or_else(String::new, |number| format!("{number} {unit}"))
    };
    words(&[
        verdict,
        &health.said,
        &health.celsius.map_or_else(String::new, |celsius| format!("{celsius} °C")),
        &told(health.hours, "hours"),
        &told(health.worn_percent.map(u64::from), "% worn"),
        &told(health.media_errors, "media errors"),
        &told(health.reallocated, "reallocated"),
        &told(health.pending, "pending"),
    ])
}

/// The words that are not empty.
fn words(all: &[&str]) -> String {
    let some: Vec<&str> = all.iter().copied().filter(|word| !word.is_empty()).collect();
    some.join(" ")
}

/// `name value`, or nothing where there is no value.
fn named(name: &str, value: &str) -> String {
    if value.is_empty() { String::new() } else { format!("{name} {value}") }
}
