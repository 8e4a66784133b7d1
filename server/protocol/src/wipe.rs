//! The right to lose what lies on one disk of one machine: the wipe grant.
//!
//! The server signs it for one start of one job; the agent holds it against what it measures itself
//! ([`SignedGrant::verify`]) and refuses on any difference. It is encoded once: what was signed
//! is what is checked. Whose grants an agent takes, it was told by its boot script ([`GrantTrust`]).

use crate::contents::Contents;
use crate::facts::{Disk, Facts};
use crate::finding::{Code, Finding};
use crate::ids::{JobId, Mac, PublicKey, Signature};
use crate::keep::Kept;
use crate::select::describe;
use crate::time::Millis;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};

/// No grant holds longer, whoever signed it, in milliseconds.
pub const LIFETIME_MS_MAX: u64 = 24 * 3_600_000;

/// A clock that is earlier than the grant by more than this has gone backwards, in milliseconds.
pub const CLOCK_SLACK_MS: u64 = 60_000;

/// What may be lost, by whom, until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WipeGrant {
    /// The job it is for.
    pub job: JobId,
    /// The start of the machine it is for, from 1.
    pub attempt: u32,
    /// The machine.
    pub host: HostIdentity,
    /// The disk.
    pub disk: DiskIdentity,
    /// All that may be lost: together with what is kept, all that lies on the disk. So an agent that knows nothing of
    /// keeping finds more there than this, and refuses.
    pub contents: Contents,
    /// What is kept, and never written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<Kept>,
    /// Who ordered it; empty in records of before this was noted.
    #[serde(default)]
    pub approver: String,
    /// The server's epoch, as in [`GrantTrust`].
    #[serde(default)]
    pub epoch: u64,
    /// When it was given.
    pub issued: Millis,
    /// Not valid from here on.
    pub expires: Millis,
}

/// Whose grants an agent takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantTrust {
    /// The key that signs them.
    pub key: PublicKey,
    /// When the server's database was last found to be a restored copy, in milliseconds since 1970; 0 if it
    /// never was. What was granted or ordered in another epoch counts no more: the copy does not know what became of it.
    pub epoch: u64,
}

/// Which machine, as its agent measures it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostIdentity {
    /// SMBIOS UUID.
    pub uuid: String,
    /// SMBIOS serial number.
    pub serial: String,
    /// Hardware addresses of all Ethernet interfaces, in order.
    pub macs: Vec<Mac>,
}

impl HostIdentity {
    /// That of the machine with these facts.
    #[must_use]
    pub fn of(facts: &Facts) -> Self {
        let mut macs: Vec<Mac> = facts.nics.iter().map(|nic| nic.mac).collect();
        macs.sort_unstable();
        Self { uuid: facts.system.uuid.clone(), serial: facts.system.serial.clone(), macs }
    }
}

/// Which disk, as the agent measures it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DiskIdentity {
    /// World-wide name.
    pub wwn: String,
    /// Serial number.
    pub serial: String,
    /// Model.
    pub model: String,
    /// Size in bytes.
    pub size: u64,
    /// Where it is plugged.
    pub path: String,
}

impl DiskIdentity {
    /// That of `disk`.
    #[must_use]
    pub fn of(disk: &Disk) -> Self {
        let Disk { wwn, serial, model, size, path, .. } = disk.clone();
        Self { wwn, serial, model, size, path }
    }
}

impl WipeGrant {
    /// All that lies on the disk: what may be lost, and what is kept. What is in both is there twice, and so on no disk.
    #[must_use]
    pub fn all(&self) -> Contents {
        let mut all = self.contents.clone();
        if !self.keep.is_empty() {
            all.0.extend(self.keep.iter().flat_map(Kept::areas).cloned());
            all.0.sort();
        }
        all
    }

    /// The text that is signed.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("texts, numbers and lists are always JSON")
    }
}

/// A grant as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedGrant {
    /// [`WipeGrant::encode`].
    pub grant: String,
    /// Ed25519 (RFC 8032) over its bytes.
    pub signature: Signature,
}

/// What a grant is held against.
#[derive(Debug, Clone, Copy)]
pub struct Reality<'a> {
    /// This machine.
    pub host: &'a HostIdentity,
    /// The disk that is meant, with what lies on it now.
    pub disk: &'a Disk,
    /// The job that is carried out.
    pub job: &'a JobId,
    /// The start of the machine for it.
    pub attempt: u32,
    /// The time.
    pub now: Millis,
}

impl SignedGrant {
    /// The grant, if it is of those whom `trust` names and everything is as it says.
    ///
    /// # Errors
    /// [`Code::GrantRefused`] with the first difference.
    pub fn verify(&self, trust: &GrantTrust, found: &Reality<'_>) -> Result<WipeGrant, Finding> {
        let GrantTrust { key, epoch } = trust;
        let refused = |why: String| Finding::new(Code::GrantRefused, why);
        let signature = ed25519_dalek::Signature::from_bytes(&self.signature.0);
        VerifyingKey::from_bytes(&key.0)
            .and_then(|key| key.verify_strict(self.grant.as_bytes(), &signature))
            .map_err(|_| refused(format!("its signature is not of {key}, whom this start believes")))?;
        let grant: WipeGrant = serde_json::from_str(&self.grant)
            .map_err(|error| refused(format!("it is signed, and not understood: {error}")))?;
        match grant.difference(*epoch, found) {
            None => Ok(grant),
            Some(difference) => Err(refused(difference)),
        }
    }
}

impl WipeGrant {
    /// The first thing that is not as the grant says.
    fn difference(&self, epoch: u64, found: &Reality<'_>) -> Option<String> {
        let Reality { host, disk, job, attempt, now } = *found;
        let (own, other) = (&self.host, DiskIdentity::of(disk));
        let macs = |macs: &[Mac]| macs.iter().map(|mac| format!("{mac} ")).collect::<String>();
        let texts = [
            ("the job", self.job.as_str(), job.as_str()),
            ("the machine's UUID", own.uuid.as_str(), host.uuid.as_str()),
            ("the machine's serial number", &own.serial, &host.serial),
            ("the machine's hardware addresses", macs(&own.macs).trim_end(), macs(&host.macs).trim_end()),
            ("the disk's WWN", &self.disk.wwn, &other.wwn),
            ("the disk's serial number", &self.disk.serial, &other.serial),
            ("the disk's model", &self.disk.model, &other.model),
            ("the disk's place", &self.disk.path, &other.path),
        ]
        .into_iter()
        .find(|(_, granted, found)| granted != found)
        .map(|(what, granted, found)| format!("{what}: it names {granted:?}; found {found:?}"));
        let numbers = [
            ("the server's epoch", self.epoch, epoch),
            ("the start of the machine", u64::from(self.attempt), u64::from(attempt)),
            ("the disk's size", self.disk.size, other.size),
        ]
        .into_iter()
        .find(|(_, granted, found)| granted != found)
        .map(|(what, granted, found)| format!("{what}: it names {granted}; found {found}"));
        let nobody = || self.approver.is_empty().then(|| "it names nobody who approved it".into());
        texts.or(numbers).or_else(nobody).or_else(|| self.out_of_time(now)).or_else(|| {
            let name = describe(disk);
            let Some(contents) = &disk.holds else {
                return Some(format!("what is on {name} cannot be read"));
            };
            let difference = self.all().difference(contents)?;
            Some(format!("what is on {name}: it is for {difference}"))
        })
    }

    fn out_of_time(&self, now: Millis) -> Option<String> {
        if self.expires.since(self.issued) > LIFETIME_MS_MAX {
            Some("it holds for more than 24 hours".into())
        } else if now >= self.expires {
            Some(format!("it expired {} s ago", now.since(self.expires) / 1000))
        } else if now.plus(CLOCK_SLACK_MS) < self.issued {
            Some(format!("it was given {} s after now: the clock is wrong", self.issued.since(now) / 1000))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::Area;
    use alloc::string::ToString;
    use alloc::vec;
    use ed25519_dalek::{Signer as _, SigningKey};
    use proptest::prelude::*;

    const NOW: Millis = Millis(1_800_000_000_000);
    const EPOCH: u64 = 1_790_000_000_000;

    fn signed(grant: &WipeGrant, key: &SigningKey) -> SignedGrant {
        let grant = grant.encode();
        let signature = Signature(key.sign(grant.as_bytes()).to_bytes());
        SignedGrant { grant, signature }
    }

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn disk() -> Disk {
        let ext4 = Area { partition: Some(1), kind: "ext4".into(), id: "A".into(), label: "old".into() };
        Disk {
            name: "sda".into(),
            wwn: "naa.1".into(),
            serial: "S1".into(),
            model: "M1".into(),
            size: 1 << 30,
            path: "pci/1".into(),
            holds: Some(Contents::new(vec![ext4])),
            ..Disk::default()
        }
    }

    fn host() -> HostIdentity {
        HostIdentity { uuid: "u1".into(), serial: "h1".into(), macs: vec![Mac([2, 0, 0, 0, 0, 1])] }
    }

    fn job() -> JobId {
        JobId::new(Millis(1), 1)
    }

    fn grant() -> WipeGrant {
        WipeGrant {
            job: job(),
            attempt: 1,
            host: host(),
            disk: DiskIdentity::of(&disk()),
            contents: disk().holds.expect("it was read"),
            keep: Vec::new(),
            approver: "administrator".into(),
            epoch: EPOCH,
            issued: NOW,
            expires: NOW.plus(3_600_000),
        }
    }

    fn trust() -> GrantTrust {
        GrantTrust { key: PublicKey(key().verifying_key().to_bytes()), epoch: EPOCH }
    }

    /// What a grant is answered on the machine of these tests.
    fn answer(signed: &SignedGrant) -> Result<WipeGrant, Finding> {
        let (host, disk, job) = (host(), disk(), job());
        signed.verify(&trust(), &Reality { host: &host, disk: &disk, job: &job, attempt: 1, now: NOW })
    }

    type Change = fn(&mut WipeGrant);

    /// Each field changed, and what the refusal names.
    const CHANGES: [(&str, Change); 19] = [
        ("the job", |g| g.job = JobId::new(Millis(2), 1)),
        ("the start of the machine", |g| g.attempt = 2),
        ("UUID", |g| g.host.uuid = "u2".into()),
        ("the machine's serial number", |g| g.host.serial = "h2".into()),
        ("hardware addresses", |g| g.host.macs.push(Mac([2, 0, 0, 0, 0, 2]))),
        ("hardware addresses", |g| g.host.macs.clear()),
        ("WWN", |g| g.disk.wwn = "naa.2".into()),
        ("the disk's serial number", |g| g.disk.serial = "S2".into()),
        ("model", |g| g.disk.model = "M2".into()),
        ("size", |g| g.disk.size += 512),
        ("place", |g| g.disk.path = "pci/2".into()),
        ("found ext4 in partition 1 A (old)", |g| g.contents.0[0].id = "B".into()),
        ("nothing; found ext4", |g| g.contents.0.clear()),
        ("nobody who approved", |g| g.approver.clear()),
        ("epoch", |g| g.epoch += 1),
        ("epoch", |g| g.epoch = 0),
        ("24 hours", |g| g.expires = NOW.plus(LIFETIME_MS_MAX + 1)),
        ("expired", |g| g.expires = NOW),
        ("the clock is wrong", |g| {
            g.issued = NOW.plus(CLOCK_SLACK_MS + 1);
            g.expires = g.issued.plus(1);
        }),
    ];

    #[test]
    fn p03_a_grant_with_any_field_changed_is_refused_and_the_field_is_named() {
        assert_eq!(answer(&signed(&grant(), &key())), Ok(grant()));
        for (named, change) in CHANGES {
            let mut other = grant();
            change(&mut other);
            let finding = answer(&signed(&other, &key())).expect_err(named);
            assert_eq!(finding.code, Code::GrantRefused);
            assert!(finding.detail.contains(named), "{named}: {finding}");
            // Changed on the way: the signature is of another text.
            let forged = SignedGrant { grant: other.encode(), ..signed(&grant(), &key()) };
            assert!(answer(&forged).expect_err(named).detail.contains("signature"));
        }
    }

    #[test]
    fn p03_grants_of_another_key_and_disks_that_cannot_be_read_are_refused() {
        let other = signed(&grant(), &SigningKey::from_bytes(&[8; 32]));
        assert!(answer(&other).expect_err("another key").detail.contains("signature"));
        let mut text = signed(&grant(), &key());
        text.grant = "{}".to_string();
        text.signature = Signature(key().sign(b"{}").to_bytes());
        assert!(answer(&text).expect_err("no grant").detail.contains("not understood"));

        let disk = Disk { holds: None, ..disk() };
        let (host, job) = (host(), job());
        let reality = Reality { host: &host, disk: &disk, job: &job, attempt: 1, now: NOW };
        let finding = signed(&grant(), &key()).verify(&trust(), &reality).expect_err("not read");
        assert!(finding.detail.contains("cannot be read"), "{finding}");
    }

    #[test]
    fn p05_what_is_kept_is_not_among_what_may_be_lost_and_an_agent_that_does_not_know_keeping_refuses() {
        let area = disk().holds.expect("it was read").0[0].clone();
        let entry = Area { kind: Area::PARTITION.into(), ..area.clone() };
        let kept = Kept { number: 1, label: "data".into(), entry: entry.clone(), file_system: area };
        let keeping = WipeGrant { contents: Contents::default(), keep: vec![kept], ..grant() };
        let both = [entry, disk().holds.expect("it was read").0.remove(0)];
        let with = Disk { holds: Some(Contents::new(both.to_vec())), ..disk() };
        let answer = |signed: &SignedGrant| {
            let (host, job) = (host(), job());
            let reality = Reality { host: &host, disk: &with, job: &job, attempt: 1, now: NOW };
            signed.verify(&trust(), &reality)
        };
        assert_eq!(answer(&signed(&keeping, &key())), Ok(keeping.clone()));
        // An older agent reads the same text without what it does not know.
        let older = WipeGrant { keep: Vec::new(), ..keeping.clone() };
        let refused = answer(&signed(&older, &key())).expect_err("it would be lost");
        assert!(refused.detail.contains("found ext4 in partition 1 A (old)"), "{refused}");
        let twice = WipeGrant { contents: Contents::new(both.to_vec()), ..keeping.clone() };
        assert!(answer(&signed(&twice, &key())).is_err(), "it may be lost, and is kept");
        let gone = WipeGrant { contents: grant().contents, ..keeping };
        let mut other = disk();
        other.holds = Some(Contents::default());
        let (host, job) = (host(), job());
        let reality = Reality { host: &host, disk: &other, job: &job, attempt: 1, now: NOW };
        let refused = signed(&gone, &key()).verify(&trust(), &reality).expect_err("it is gone");
        assert_eq!(refused.code, Code::GrantRefused);
        assert_eq!(grant().encode().find("keep"), None, "who keeps nothing says nothing of it");
    }

    proptest! {
        #[test]
        fn p03_no_changed_byte_of_a_signed_grant_passes(at in 0_usize..10_000, bit in 0_u8..8) {
            let good = signed(&grant(), &key());
            let mut bytes = good.grant.clone().into_bytes();
            let at_text = at % bytes.len();
            bytes[at_text] ^= 1 << bit;
            if let Ok(text) = String::from_utf8(bytes) {
                let changed = SignedGrant { grant: text, ..good.clone() };
                prop_assert!(answer(&changed).is_err());
            }
            let mut signature = good.signature;
            signature.0[at % 64] ^= 1 << bit;
            let changed = SignedGrant { signature, ..good };
            prop_assert!(answer(&changed).is_err());
        }
    }
}
