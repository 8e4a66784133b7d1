//! Classes of machines: what those of a kind should be made of, compared with what their agents saw.

use crate::hardware::describe;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use kaltstart_protocol::agent_api::DiskRule;
use kaltstart_protocol::facts::{Disk, Facts};
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::select;

const GIB: u64 = 1 << 30;
/// The part of installed memory that firmware and kernel may keep for themselves, where only the kernel's
/// count is known: one of so many.
const KEPT: u64 = 16;

/// What machines of a kind should be made of. Only what is given is compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Class {
    /// Name.
    pub name: String,
    /// Its machines, by SMBIOS' maker and model; both must fit that are given.
    pub vendor: Option<String>,
    /// See `vendor`.
    pub product: Option<String>,
    /// Its machines by name; that counts more than maker and model.
    pub nodes: Vec<String>,
    /// Memory in GiB.
    pub memory_gib: Option<u64>,
    /// Memory modules.
    pub modules: Option<usize>,
    /// Processors that are plugged in.
    pub sockets: Option<usize>,
    /// Cores of all processors together.
    pub cores: Option<u32>,
    /// Network interfaces.
    pub nics: Option<usize>,
    /// Version of the system's firmware, or a newer one.
    pub firmware: Option<String>,
    /// Disks; a disk counts in each group whose rule it fits.
    pub disks: Vec<DiskGroup>,
}

/// Disks of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskGroup {
    /// How many there should be.
    pub count: usize,
    /// Which.
    pub rule: DiskRule,
}

/// The class of a machine: one that names it, else the first whose maker and model fit, once they are known.
#[must_use]
pub fn of<'a>(classes: &'a [Class], name: &str, model: Option<(&str, &str)>) -> Option<&'a Class> {
    let same = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is);
    let named = classes.iter().find(|class| class.nodes.iter().any(|node| node == name));
    named.or_else(|| {
        let (vendor, product) = model?;
        classes.iter().find(|class| {
            (class.vendor.is_some() || class.product.is_some())
                && same(&class.vendor, vendor)
                && same(&class.product, product)
        })
    })
}

/// What of a machine is not as its class says; one finding for each kind of part.
#[must_use]
pub fn findings(class: &Class, facts: &Facts) -> Vec<Finding> {
    let differs = [memory(class, facts), modules(class, facts), processors(class, facts), nics(class, facts)];
    let disks = class.disks.iter().map(|group| disks(group, facts));
    let texts = differs.into_iter().chain(disks).flatten();
    let finding = |code: Code| {
        let name = &class.name;
        move |text: String| Finding::new(code, format!("class {name}: {text}"))
    };
    texts
        .map(finding(Code::ClassDiffers))
        .chain(firmware(class, facts).map(finding(Code::FirmwareOld)))
        .collect()
}

fn memory(class: &Class, facts: &Facts) -> Option<String> {
    let wanted = class.memory_gib?;
    let told: u64 = facts.modules.iter().map(|module| module.size).sum();
    if told == 0 {
        // Without a table of modules only what the kernel has is known, which is a little less.
        let wanted_bytes = wanted.saturating_mul(GIB);
        let too_little = facts.memory_bytes < wanted_bytes - wanted_bytes / KEPT;
        return too_little.then(|| {
            format!("{wanted} GiB of memory are expected, the system has {} MiB", facts.memory_bytes >> 20)
        });
    }
    (told != wanted.saturating_mul(GIB)).then(|| {
        let mut sizes: Vec<u64> = facts.modules.iter().map(|module| module.size).collect();
        sizes.sort_unstable();
        // Where one size is the rule, those of another are the ones to look at.
        let usual = sizes.get(sizes.len() / 2).copied().unwrap_or_default();
        let odd: Vec<String> =
            facts.modules.iter().filter(|module| module.size != usual).map(describe).collect();
        let odd =
            if odd.is_empty() { String::new() } else { format!("; unlike the others: {}", odd.join(", ")) };
        format!("{wanted} GiB of memory are expected, {} MiB are plugged in{odd}", told >> 20)
    })
}

fn modules(class: &Class, facts: &Facts) -> Option<String> {
    let (wanted, is) = (class.modules?, facts.modules.len());
    // No table is no news of modules.
    (is != 0 && is != wanted).then(|| {
        let list: Vec<String> = facts.modules.iter().map(describe).collect();
        format!("{wanted} memory modules are expected, {is} are seen: {}", list.join("; "))
    })
}

fn processors(class: &Class, facts: &Facts) -> Option<String> {
    let is = facts.processors.len();
    let cores: u32 = facts.processors.iter().map(|processor| u32::from(processor.cores)).sum();
    let sockets = class.sockets.filter(|wanted| is != 0 && is != *wanted);
    let too_few_or_many = class.cores.filter(|wanted| cores != 0 && cores != *wanted);
    let list: Vec<String> = facts
        .processors
        .iter()
        .map(|processor| format!("{} in {}, {} cores", processor.model, processor.socket, processor.cores))
        .collect();
    let expected = match (sockets, too_few_or_many) {
        (None, None) => return None,
        (Some(sockets), None) => format!("{sockets} processors are expected, {is} are seen"),
        (None, Some(wanted)) => format!("{wanted} cores are expected, {cores} are seen"),
        (Some(sockets), Some(wanted)) => {
            format!("{sockets} processors with {wanted} cores are expected, {is} with {cores} are seen")
        }
    };
    Some(format!("{expected}: {}", list.join("; ")))
}

fn nics(class: &Class, facts: &Facts) -> Option<String> {
    let (wanted, is) = (class.nics?, facts.nics.len());
    (is != wanted).then(|| {
        let list: Vec<String> =
            facts.nics.iter().map(|nic| format!("{} ({}, {})", nic.mac, nic.name, nic.driver)).collect();
        format!("{wanted} network interfaces are expected, {is} are seen: {}", list.join("; "))
    })
}

fn disks(group: &DiskGroup, facts: &Facts) -> Option<String> {
    let place = |disk: &&Disk| format!("{} at {}", select::describe(disk), disk.path);
    let (fitting, others): (Vec<&Disk>, Vec<&Disk>) =
        select::fixed(&facts.disks).partition(|disk| select::fits(&group.rule, disk));
    (fitting.len() != group.count).then(|| {
        let list = |disks: &[&Disk]| match disks {
            [] => "none".to_owned(),
            some => some.iter().map(place).collect::<Vec<_>>().join("; "),
        };
        format!(
            "{} disks ({}) are expected, {} are seen: {}; other disks: {}",
            group.count,
            rule(&group.rule),
            fitting.len(),
            list(&fitting),
            list(&others)
        )
    })
}

/// A rule for people to read.
fn rule(rule: &DiskRule) -> String {
    let text = |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name} {value}"));
    let kind = rule.rotational.map(|spins| if spins { "spinning" } else { "not spinning" }.to_owned());
    let all = [
        rule.transport.clone(),
        text("model", &rule.model),
        kind,
        rule.min_gib.map(|gib| format!("at least {gib} GiB")),
        rule.max_gib.map(|gib| format!("at most {gib} GiB")),
    ];
    let words: Vec<String> = all.into_iter().flatten().collect();
    if words.is_empty() { "of any kind".to_owned() } else { words.join(", ") }
}

fn firmware(class: &Class, facts: &Facts) -> Option<String> {
    let (wanted, is) = (class.firmware.as_ref()?, &facts.system.bios_version);
    (numbers(is) < numbers(wanted)).then(|| {
        let is = if is.is_empty() { "none is told".to_string() } else { format!("{is} is there") };
        format!("firmware {wanted} or newer is expected, {is}")
    })
}

/// The numbers in a version, in their order: makers put letters, points and dates between them.
#[must_use]
pub fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .map(|digits| digits.parse().unwrap_or(u64::MAX))
        .collect()
}

#[cfg(test)]
#[path = "class/tests.rs"]
mod tests;
