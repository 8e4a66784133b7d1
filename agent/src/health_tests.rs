use super::*;
use proptest::prelude::*;

/// A health log: critical warning, Kelvin, percentage used.
fn nvme(warning: u8, kelvin: u16, used: u8) -> Vec<u8> {
    let mut log = vec![0; 512];
    log[0] = warning;
    log[1..3].copy_from_slice(&kelvin.to_le_bytes());
    log[5] = used;
    log[128..136].copy_from_slice(&12_345_u64.to_le_bytes());
    log[160] = 7;
    log
}

#[test]
fn what_nvme_disks_say() {
    let good = of_nvme(&nvme(0, 309, 3)).expect("read");
    let expected = Health {
        verdict: Verdict::Good,
        celsius: Some(36),
        worn_percent: Some(3),
        hours: Some(12_345),
        media_errors: Some(7),
        ..Health::default()
    };
    assert_eq!(good, expected);
    for (warning, verdict, said) in [
        (0x01, Verdict::Failing, "spare blocks below their threshold"),
        (0x04, Verdict::Failing, "reliability degraded by media or internal errors"),
        (0x0a, Verdict::Failing, "read-only, temperature beyond its limits"),
        (0x10, Verdict::Failing, "backup of volatile memory failed"),
        // A hot machine, and an unreliable persistent memory region that nobody uses.
        (0x02, Verdict::Good, "temperature beyond its limits"),
        (0x20, Verdict::Good, ""),
    ] {
        let health = of_nvme(&nvme(warning, 309, 0)).expect("read");
        assert_eq!((health.verdict, health.said.as_str()), (verdict, said), "{warning:#x}");
    }
    // Worn beyond what the maker reckoned with is no failure; no temperature is not -273 °C.
    let worn = of_nvme(&nvme(0, 0, 255)).expect("read");
    assert_eq!((worn.verdict, worn.worn_percent, worn.celsius), (Verdict::Good, Some(255), None));
    assert_eq!(of_nvme(&nvme(0, 250, 0)).expect("read").celsius, Some(-23));
    let mut counted = nvme(0, 309, 0);
    counted[128..144].fill(0xff);
    assert_eq!(of_nvme(&counted).expect("read").hours, Some(u64::MAX));
    assert_eq!(of_nvme(&nvme(0, 0, 0)[..170]), None, "cut short");
}

#[test]
fn what_ata_disks_say_of_themselves() {
    let mut data = vec![0; 512];
    // "2.5+    " with its characters swapped in pairs.
    data[46..54].copy_from_slice(b".2+5    ");
    (data[164], data[167], data[170]) = (1, 0x40, 1);
    assert_eq!(identity(&data), Some(Identity { firmware: "2.5+".into(), smart: true }));
    for (offset, value) in [(164, 0), (167, 0xc0), (167, 0), (170, 0)] {
        let mut other = data.clone();
        other[offset] = value;
        assert_eq!(identity(&other).map(|identity| identity.smart), Some(false), "{offset}: {value:#x}");
    }
    assert_eq!(identity(&data[..170]), None);
    assert_eq!(ata_verdict(0x4f, 0xc2), Some(Verdict::Good));
    assert_eq!(ata_verdict(0xf4, 0x2c), Some(Verdict::Failing));
    // Bridges that keep the registers give zeroes.
    assert_eq!(ata_verdict(0, 0), None);
}

/// `SMART READ DATA` with these attributes (number, six raw bytes).
fn smart(attributes: &[(u8, [u8; 6])]) -> Vec<u8> {
    let mut data = vec![0_u8; 512];
    data[0] = 16;
    for (entry, (number, raw)) in data[2..362].chunks_exact_mut(12).zip(attributes) {
        entry[0] = *number;
        entry[5..11].copy_from_slice(raw);
    }
    data[511] = data.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
    data
}

#[test]
fn attributes_that_makers_agree_on() {
    let data = smart(&[
        (5, [8, 0, 0, 0, 0, 0]),
        // 40,000 hours, and minutes above them.
        (9, [0x40, 0x9c, 0, 0, 0x2a, 0]),
        // 31 °C now, 14 and 45 at the extremes.
        (194, [31, 0, 14, 0, 45, 0]),
        (197, [2, 0, 0, 0, 0, 0]),
        (240, [1; 6]),
    ]);
    let expected = Health {
        verdict: Verdict::Good,
        celsius: Some(31),
        hours: Some(40_000),
        reallocated: Some(8),
        pending: Some(2),
        ..Health::default()
    };
    assert_eq!(of_ata(Verdict::Good, &data), expected);
    let mut wrong = data.clone();
    wrong[100] ^= 1;
    for unreadable in [&wrong, &data[..511], &[]] {
        let bare = of_ata(Verdict::Failing, unreadable);
        assert_eq!((bare.verdict, bare.hours), (Verdict::Failing, None));
        assert!(bare.said.contains("threshold"));
    }
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = (of_nvme(&bytes), identity(&bytes));
        // Whatever the data says, the disk's own word stands.
        prop_assert_eq!(of_ata(Verdict::Failing, &bytes).verdict, Verdict::Failing);
        prop_assert_eq!(of_ata(Verdict::Good, &bytes).verdict, Verdict::Good);
    }
}
