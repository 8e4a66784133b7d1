//! Which disks: exactly one, or as many as arrays want; else none.

use crate::agent_api::{DiskRule, Pick};
use crate::facts::Disk;
use crate::finding::{Code, Finding};
use crate::layout::array::Array;
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
/// [`Code::AmbiguousDisk`] when several do, or when the one is there by another way too: such a disk may belong to
/// other machines as well. The detail lists the disks in question.
pub fn select<'a>(rule: &DiskRule, disks: &'a [Disk]) -> Result<&'a Disk, Finding> {
    let one = match fitting(rule, disks)?[..] {
        [one] => one,
        ref several => return Err(Finding::new(Code::AmbiguousDisk, list(several.iter().copied()))),
    };
    let ways: Vec<&Disk> = disks.iter().filter(|disk| is_same(disk, one)).collect();
    if ways.len() > 1 {
        return Err(Finding::new(Code::AmbiguousDisk, format!("{BY_TWO_WAYS}: {}", list(ways.into_iter()))));
    }
    Ok(one)
}

const BY_TWO_WAYS: &str = "one disk is there by two ways";

/// Whether it is one disk by its World Wide Name; those without one are taken for different ones.
fn is_same(a: &Disk, b: &Disk) -> bool {
    core::ptr::eq(a, b) || (!a.wwn.trim().is_empty() && a.wwn.trim() == b.wwn.trim())
}

/// How much smaller than the largest disk of an array the smallest may be, in per cent: makers' sizes of one
/// capacity differ by less.
const SMALLER_MAX: u64 = 10;

/// The disks for a layout with these arrays, in the order of their places in the machine; without, the one of
/// [`select`].
///
/// # Errors
/// Those of [`select`] without arrays; with them [`Code::DiskCount`] when there are more or fewer than the arrays
/// want, and [`Code::DisksUnequal`] when they do not make an array: sectors of different sizes, a disk much
/// smaller than another, or one disk that is seen twice.
pub fn select_all<'a>(
    rule: &DiskRule,
    array: Option<Array>,
    disks: &'a [Disk],
) -> Result<Vec<&'a Disk>, Finding> {
    let Some(array) = array else { return Ok(Vec::from([select(rule, disks)?])) };
    let mut fitting = fitting(rule, disks)?;
    let found = list(fitting.iter().copied());
    if fitting.len() != array.disks as usize {
        let detail = format!("{} wants {}, {} fit: {found}", array.level.name(), array.disks, fitting.len());
        return Err(Finding::new(Code::DiskCount, detail));
    }
    let unequal = |why: &str| Err(Finding::new(Code::DisksUnequal, format!("{why}: {found}")));
    if fitting.iter().any(|disk| disk.sector_size != fitting[0].sector_size) {
        return unequal("their sectors are not of one size");
    }
    let sizes = || fitting.iter().map(|disk| disk.size);
    let (least, most) = (sizes().min().unwrap_or_default(), sizes().max().unwrap_or_default());
    if least < most - most / 100 * SMALLER_MAX {
        return unequal("their sizes differ by more than a tenth");
    }
    fitting.sort_by(|a, b| (&a.path, &a.wwn, &a.serial).cmp(&(&b.path, &b.wwn, &b.serial)));
    if fitting.iter().any(|one| disks.iter().filter(|disk| is_same(disk, one)).count() > 1) {
        return unequal(BY_TWO_WAYS);
    }
    Ok(fitting)
}

/// Every disk that may take part and fits, at least one.
fn fitting<'a>(rule: &DiskRule, disks: &'a [Disk]) -> Result<Vec<&'a Disk>, Finding> {
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
    if fitting.is_empty() {
        return Err(Finding::new(Code::NoMatchingDisk, list(usable.into_iter())));
    }
    Ok(picked(rule.pick, fitting))
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
pub(crate) fn list<'a>(disks: impl Iterator<Item = &'a Disk>) -> String {
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
    use crate::layout::array::Level;
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

    #[test]
    fn p04_a_disk_that_is_there_by_two_ways_is_not_taken_by_either() {
        let way = |path: &str, wwn: &str| Disk { path: path.into(), wwn: wwn.into(), ..disk("a", GIB) };
        let rule = DiskRule { path: Some("one".into()), ..DiskRule::default() };
        let finding = select(&rule, &[way("one", "naa.5"), way("two", " naa.5 ")]).expect_err("refused");
        assert_eq!(finding.code, Code::AmbiguousDisk);
        assert!(finding.detail.contains("by two ways"), "{}", finding.detail);
        for other in ["", "naa.6"] {
            let disks = [way("one", if other.is_empty() { "" } else { "naa.5" }), way("two", other)];
            assert_eq!(select(&rule, &disks), Ok(&disks[0]), "{other:?}");
        }
    }

    #[test]
    fn p04_arrays_take_exactly_as_many_disks_as_they_want_and_only_like_ones() {
        let array = |disks| Some(Array { level: Level::Raid1, disks });
        let placed = |serial: &str, path: &str| Disk { path: path.into(), ..disk(serial, 100 * GIB) };
        let any = DiskRule::default();
        let serials = |disks: &[Disk], count| -> Result<String, Code> {
            let chosen = select_all(&any, array(count), disks).map_err(|finding| finding.code)?;
            Ok(chosen.iter().map(|disk| disk.serial.as_str()).collect())
        };
        let (a, b) = (placed("a", "slot2"), placed("b", "slot1"));
        assert_eq!(serials(&[a.clone(), b.clone()], 2), Ok("ba".into()), "in the order of their places");
        assert_eq!(serials(&[b.clone(), a.clone()], 2), Ok("ba".into()));
        assert_eq!(serials(&[], 2), Err(Code::NoDisk));
        assert_eq!(serials(core::slice::from_ref(&a), 2), Err(Code::DiskCount));
        assert_eq!(serials(&[a.clone(), b.clone(), placed("c", "slot3")], 2), Err(Code::DiskCount));
        let removable = Disk { removable: true, ..placed("c", "slot3") };
        assert_eq!(serials(&[a.clone(), b.clone(), removable], 2), Ok("ba".into()));
        let with = |change: &dyn Fn(&mut Disk)| {
            let mut other = b.clone();
            change(&mut other);
            serials(&[a.clone(), other], 2)
        };
        assert_eq!(with(&|disk| disk.sector_size = 4096), Err(Code::DisksUnequal));
        assert_eq!(with(&|disk| disk.size = 90 * GIB), Ok("ba".into()));
        assert_eq!(with(&|disk| disk.size = 89 * GIB), Err(Code::DisksUnequal));
        let twice = |disk: &Disk| Disk { wwn: "naa.1".into(), ..disk.clone() };
        assert_eq!(serials(&[twice(&a), twice(&b)], 2), Err(Code::DisksUnequal), "one disk, by two ways");
        let rule = DiskRule { serial: Some("z".into()), ..any.clone() };
        assert_eq!(
            select_all(&rule, array(2), &[a.clone(), b]).map_err(|finding| finding.code),
            Err(Code::NoMatchingDisk)
        );
        assert_eq!(select_all(&any, None, core::slice::from_ref(&a)).map(|all| all.len()), Ok(1));
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
