//! Who may write to disks: only who holds a wipe grant for what is really there.
//!
//! Without a [`Permit`] no disk is opened for writing, and with one only its disk.

use kaltstart_protocol::agent_api::{DiskGrant, EraseTask, InstallTask};
use kaltstart_protocol::contents::Contents;
use kaltstart_protocol::facts::Disk;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::JobId;
use kaltstart_protocol::image::Manifest;
use kaltstart_protocol::keep::Kept;
use kaltstart_protocol::select::{describe, fixed, select_all};
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::{DiskIdentity, GrantTrust, HostIdentity, Reality};
use kaltstart_trust::images::ImageTrust;

/// The right to write to one disk, as long as nothing is on it but what may be lost and what is kept.
#[derive(Debug)]
pub struct Permit {
    disk: Disk,
    contents: Contents,
    kept: Vec<Kept>,
}

impl Permit {
    /// The only disk it is for.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// All that lies on it.
    #[must_use]
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// What of that is kept, and not to be written.
    #[must_use]
    pub fn kept(&self) -> &[Kept] {
        &self.kept
    }
}

/// Whose grants and images count here, and who this machine is.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Whose grants they are, as the boot script told.
    pub grants: GrantTrust,
    /// Whose images are laid down, as the boot script told.
    pub images: ImageTrust,
    /// The machine, as this agent measured it.
    pub host: HostIdentity,
}

impl Gate {
    /// The right to carry out `task` on the disks that its rule and layout choose of `disks`, in their order: on
    /// all of them, or on none.
    ///
    /// # Errors
    /// Those of [`select_all`], and [`Code::GrantRefused`] with what is not as the grants say.
    pub fn admit(&self, task: &InstallTask, disks: &[Disk], now: Millis) -> Result<Vec<Permit>, Finding> {
        let start = (&task.job, task.attempt, now);
        let chosen = select_all(&task.disk, task.layout.array, disks)?;
        if let ([disk], [only]) = (&chosen[..], &task.grants[..]) {
            return Ok(vec![self.verify(only, disk, start)?]);
        }
        chosen.into_iter().map(|disk| self.permit(&task.grants, disk, start)).collect()
    }

    /// The right to write to `disk`, by the grant that is for it.
    fn permit(
        &self,
        grants: &[DiskGrant],
        disk: &Disk,
        start: (&JobId, u32, Millis),
    ) -> Result<Permit, Finding> {
        let identity = DiskIdentity::of(disk);
        let granted = grants.iter().find(|granted| granted.disk == identity).ok_or_else(|| {
            Finding::new(Code::GrantRefused, format!("{}: there is none for it", describe(disk)))
        })?;
        self.verify(granted, disk, start)
    }

    /// That right, if the grant holds. There is no other way to get one.
    fn verify(
        &self,
        granted: &DiskGrant,
        disk: &Disk,
        (job, attempt, now): (&JobId, u32, Millis),
    ) -> Result<Permit, Finding> {
        let reality = Reality { host: &self.host, disk, job, attempt, now };
        let grant = granted.grant.verify(&self.grants, &reality)?;
        Ok(Permit { disk: disk.clone(), contents: grant.all(), kept: grant.keep })
    }

    /// The right to erase every disk of `disks` that stays in the machine.
    ///
    /// # Errors
    /// [`Code::GrantRefused`] with what is not as the grants say: a disk without one, one without its disk, or one of which
    /// something is kept, included.
    pub fn admit_all(&self, task: &EraseTask, disks: &[Disk], now: Millis) -> Result<Vec<Permit>, Finding> {
        let mut permits = Vec::new();
        for disk in fixed(disks) {
            permits.push(self.permit(&task.disks, disk, (&task.job, task.attempt, now))?);
        }
        if let Some(permit) = permits.iter().find(|permit| !permit.kept.is_empty()) {
            let detail = format!("{}: a part of it is kept", describe(&permit.disk));
            return Err(Finding::new(Code::GrantRefused, detail));
        }
        let there =
            |granted: &DiskGrant| permits.iter().any(|one| DiskIdentity::of(&one.disk) == granted.disk);
        match task.disks.iter().find(|granted| !there(granted)) {
            Some(DiskGrant { disk, .. }) => {
                let detail = format!("the disk {} with serial {} is not there", disk.model, disk.serial);
                Err(Finding::new(Code::GrantRefused, detail))
            }
            None => Ok(permits),
        }
    }

    /// The image of `task`.
    ///
    /// # Errors
    /// [`Code::ImageUntrusted`] when nobody who is believed has signed it.
    pub fn image(&self, task: &InstallTask) -> Result<Manifest, Finding> {
        self.images.manifest(&task.image).map_err(|why| Finding::new(Code::ImageUntrusted, why.to_string()))
    }
}
