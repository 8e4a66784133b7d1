//! Which disk: exactly one, or none.

use crate::agent_api::DiskRule;
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

/// Whether every field that `rule` gives holds. Text is compared without surrounding blanks,
/// which ATA and SCSI pad with.
#[must_use]
pub fn fits(rule: &DiskRule, disk: &Disk) -> bool {
    let same = |want: &Option<String>, have: &str| {
        want.as_deref().is_none_or(|want| !want.trim().is_empty() && want.trim() == have.trim())
    };
    same(&rule.serial, &disk.serial)
        && same(&rule.wwn, &disk.wwn)
        && same(&rule.model, &disk.model)
        && same(&rule.transport, &disk.transport)
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
        (text("s"), text("m"), prop::option::of(any::<bool>()), size(), size()).prop_map(
            |(serial, model, rotational, min_gib, max_gib)| DiskRule {
                serial,
                model,
                rotational,
                min_gib,
                max_gib,
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
            let fitting = disks.iter().filter(usable).filter(|d| fits(&rule, d)).count();
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
