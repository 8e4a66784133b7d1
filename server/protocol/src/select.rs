//! Which disk: exactly one, or none.

use crate::agent_api::{DiskRule, Pick};
use crate::facts::Disk;
use crate::finding::{Code, Finding};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

const GIB: u64 = 1 << 30;

/// The one disk that fits `rule`.
///
/// Removable and read-only disks, and those of size 0, never take part. The order of `disks` and
/// their kernel names do not matter: there is no "first" disk.
///
/// # Errors
/// [`Code::NoDisk`] when no disk may take part, [`Code::NoMatchingDisk`] when none of them fits,
/// [`Code::AmbiguousDisk`] when several do; the detail lists the disks in question.
pub fn select<'a>(rule: &DiskRule, disks: &'a [Disk]) -> Result<&'a Disk, Finding> {
    let usable: Vec<&Disk> = fixed(disks).filter(|disk| !disk.read_only).collect();
    if usable.is_empty() {
        let detail = if disks.is_empty() {
            "no disk was found".to_owned()
        } else {
            format!("only removable, read-only or empty ones: {}", list(disks.iter()))
        };
        return Err(Finding::new(Code::NoDisk, detail));
    }
    let fitting: Vec<&Disk> = usable.iter().copied().filter(|disk| fits(rule, disk)).collect();
    let fitting = picked(rule.pick, fitting);
    match fitting[..] {
        [one] => Ok(one),
        [] => Err(Finding::new(Code::NoMatchingDisk, list(usable.into_iter()))),
        _ => Err(Finding::new(Code::AmbiguousDisk, list(fitting.into_iter()))),
    }
}

/// The disks that stay in the machine, read-only ones included: neither removable nor without a medium.
pub fn fixed(disks: &[Disk]) -> impl Iterator<Item = &Disk> {
    disks.iter().filter(|disk| !disk.removable && disk.size > 0)
}

/// The disks of the size that is to be picked. Several of one size stay several.
fn picked(pick: Option<Pick>, mut disks: Vec<&Disk>) -> Vec<&Disk> {
    let sizes = disks.iter().map(|disk| disk.size);
    let size = match pick {
        None => return disks,
        Some(Pick::Smallest) => sizes.min(),
        Some(Pick::Largest) => sizes.max(),
    };
    disks.retain(|disk| Some(disk.size) == size);
    disks
}

/// Whether every field holds that `rule` gives of one disk by itself. Text is compared without surrounding
/// blanks, which ATA and SCSI pad with.
#[must_use]
pub fn fits(rule: &DiskRule, disk: &Disk) -> bool {
    let same = |want: &Option<String>, have: &str| {
        want.as_deref().is_none_or(|want| !want.trim().is_empty() && want.trim() == have.trim())
    };
    same(&rule.serial, &disk.serial)
        && same(&rule.wwn, &disk.wwn)
        && same(&rule.model, &disk.model)
        && same(&rule.transport, &disk.transport)
        && same(&rule.path, &disk.path)
        && rule.rotational.is_none_or(|want| want == disk.rotational)
        && rule.min_gib.is_none_or(|min| disk.size >= min.saturating_mul(GIB))
        && rule.max_gib.is_none_or(|max| disk.size <= max.saturating_mul(GIB))
}

/// The disks for people to read, in an order of their own.
fn list<'a>(disks: impl Iterator<Item = &'a Disk>) -> String {
    let mut lines: Vec<String> = disks.map(describe).collect();
    lines.sort();
    lines.join("; ")
}

/// One disk for people to read: what tells it from the others.
#[must_use]
pub fn describe(disk: &Disk) -> String {
    let or = |text: &str| if text.trim().is_empty() { "-".to_owned() } else { text.trim().to_owned() };
    format!(
        "{} (model {}, serial {}, wwn {}, {}, {} bytes)",
        or(&disk.name),
        or(&disk.model),
        or(&disk.serial),
        or(&disk.wwn),
        or(&disk.transport),
        disk.size
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn disk(serial: &str, size: u64) -> Disk {
        Disk { name: format!("x{serial}"), serial: serial.into(), size, ..Disk::default() }
    }

    fn code(rule: &DiskRule, disks: &[Disk]) -> Code {
        select(rule, disks).expect_err("refused").code
    }

    #[test]
    fn p04_nothing_is_guessed() {
        let any = DiskRule::default();
        assert_eq!(code(&any, &[]), Code::NoDisk);
        assert_eq!(code(&any, &[Disk { removable: true, ..disk("a", GIB) }]), Code::NoDisk);
        assert_eq!(code(&any, &[Disk { read_only: true, ..disk("a", GIB) }]), Code::NoDisk);
        let two = [disk("a", GIB), disk("b", GIB)];
        let finding = select(&any, &two).expect_err("two fit");
        assert_eq!(finding.code, Code::AmbiguousDisk);
        assert!(finding.detail.contains("serial a") && finding.detail.contains("serial b"));
        let rule = DiskRule { serial: Some("b".into()), ..any.clone() };
        assert_eq!(select(&rule, &two).map(|disk| disk.serial.as_str()), Ok("b"));
        let rule = DiskRule { serial: Some("c".into()), ..any.clone() };
        assert_eq!(code(&rule, &two), Code::NoMatchingDisk);
        // Two disks that claim the same serial number are two disks.
        assert_eq!(
            code(&DiskRule { serial: Some("a".into()), ..any.clone() }, &[disk("a", GIB), disk("a", GIB)]),
            Code::AmbiguousDisk
        );
        // An empty wish is not a wish for an empty serial number.
        let rule = DiskRule { serial: Some(String::new()), ..any };
        assert_eq!(code(&rule, &[disk("", GIB)]), Code::NoMatchingDisk);
    }

    #[test]
    fn p04_the_smallest_or_largest_is_one_disk_or_none() {
        let of = |pick| DiskRule { pick: Some(pick), ..DiskRule::default() };
        let serial = |rule: &DiskRule, disks: &[Disk]| {
            select(rule, disks).map(|disk| disk.serial.clone()).map_err(|finding| finding.code)
        };
        let disks = [disk("a", 2 * GIB), disk("b", GIB), disk("c", 3 * GIB)];
        assert_eq!(serial(&of(Pick::Smallest), &disks), Ok("b".into()));
        assert_eq!(serial(&of(Pick::Largest), &disks), Ok("c".into()));
        // Of those that fit, and not of all; and two of the smallest are one too many.
        let rule = DiskRule { min_gib: Some(2), ..of(Pick::Smallest) };
        assert_eq!(serial(&rule, &disks), Ok("a".into()));
        let two = [disk("a", GIB), disk("b", GIB), disk("c", 3 * GIB)];
        assert_eq!(serial(&of(Pick::Smallest), &two), Err(Code::AmbiguousDisk));
        assert_eq!(serial(&of(Pick::Largest), &two), Ok("c".into()));
        assert_eq!(serial(&of(Pick::Largest), &[]), Err(Code::NoDisk));
    }

    #[test]
    fn p04_a_slot_is_a_disk_whoever_is_in_it() {
        let slots = ["pci0000:00/0000:00:04.0/nvme", "pci0000:00/0000:00:05.0/nvme"];
        let disks = slots.map(|path| Disk { path: path.into(), ..disk("a", GIB) });
        let rule = |path: &str| DiskRule { path: Some(path.into()), ..DiskRule::default() };
        assert_eq!(select(&rule(slots[1]), &disks), Ok(&disks[1]));
        assert_eq!(code(&rule("pci0000:00"), &disks), Code::NoMatchingDisk, "the whole path");
    }

    fn disks() -> impl Strategy<Value = Vec<Disk>> {
        let one = (0u8..4, 0u8..3, 0u64..4, any::<bool>(), 0u8..6, 0u8..6).prop_map(
            |(serial, model, gib, rotational, removable, read_only)| Disk {
                serial: if serial == 0 { String::new() } else { format!("s{serial}") },
                model: format!("m{model}"),
                size: gib * GIB,
                rotational,
                removable: removable == 0,
                read_only: read_only == 0,
                ..Disk::default()
            },
        );
        prop::collection::vec(one, 0..8).prop_map(|mut disks| {
            for (i, disk) in disks.iter_mut().enumerate() {
                disk.path = format!("slot{i}");
            }
            disks
        })
    }

    fn rules() -> impl Strategy<Value = DiskRule> {
        let text =
            |prefix: &'static str| prop::option::of((0u8..4).prop_map(move |n| format!("{prefix}{n}")));
        let size = || prop::option::of(0u64..4);
        let pick = prop::option::of(prop_oneof![Just(Pick::Smallest), Just(Pick::Largest)]);
        (text("s"), text("m"), prop::option::of(any::<bool>()), size(), size(), pick).prop_map(
            |(serial, model, rotational, min_gib, max_gib, pick)| DiskRule {
                serial,
                model,
                rotational,
                min_gib,
                max_gib,
                pick,
                ..DiskRule::default()
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn p04_selection_is_exact_and_independent_of_order(
            (disks, shuffled) in disks().prop_flat_map(|d| (Just(d.clone()), Just(d).prop_shuffle())),
            rule in rules(),
        ) {
            let usable = |d: &&Disk| !d.removable && !d.read_only && d.size > 0;
            let fitting: Vec<u64> =
                disks.iter().filter(usable).filter(|d| fits(&rule, d)).map(|d| d.size).collect();
            let size = match rule.pick {
                Some(Pick::Smallest) => fitting.iter().min(),
                Some(Pick::Largest) => fitting.iter().max(),
                None => None,
            };
            let fitting = fitting.iter().filter(|one| size.is_none_or(|size| size == *one)).count();
            let got = select(&rule, &disks);
            prop_assert_eq!(&got, &select(&rule, &shuffled));
            match got {
                Ok(disk) => {
                    prop_assert_eq!(fitting, 1);
                    prop_assert!(usable(&disk) && fits(&rule, disk));
                }
                Err(finding) => {
                    let want = match (disks.iter().any(|d| usable(&d)), fitting) {
                        (false, _) => Code::NoDisk,
                        (true, 0) => Code::NoMatchingDisk,
                        (true, _) => Code::AmbiguousDisk,
                    };
                    prop_assert_eq!(finding.code, want);
                }
            }
        }
    }
}
