//! How the installed disk starts, without running anything from the image: its boot files are
//! read out of the tree and put where firmware looks.
//!
//! | module | subject |
//! |---|---|
//! | [`grub`] | GRUB's configuration as text |
//! | [`bios`] | GRUB's `boot.img` and `core.img`, patched to find each other |
//! | [`efi`] | UEFI boot entry and boot order |

pub mod bios;
pub mod efi;
pub mod grub;

use crate::disk::fat;
use crate::image::tree::Tree;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::image::Manifest;
use kaltstart_protocol::layout::Role;
use kaltstart_protocol::layout::plan::Plan;

/// Largest boot file, in bytes.
const BOOT_FILE_MAX: u64 = 64 << 20;
/// Where UEFI looks without any boot entry (UEFI 2.10 §3.5.1.1, x86-64).
pub const REMOVABLE_PATH: &str = "EFI/BOOT/BOOTX64.EFI";
/// Where Debian's signed GRUB looks for its configuration, wherever it was started from.
const GRUB_STUBS: [&str; 2] = ["EFI/debian/grub.cfg", "EFI/BOOT/grub.cfg"];

/// What makes a disk start.
#[derive(Debug, Default)]
pub struct Boot {
    /// What to write where: bytes from the start of the disk.
    pub writes: Vec<(u64, Vec<u8>)>,
    /// First bytes of the master boot record; empty without BIOS support.
    pub boot_code: Vec<u8>,
}

/// Whether manifest, layout and firmware fit together, before anything is written. `uefi` says
/// how this machine was started, and so how it will start the disk.
///
/// # Errors
/// [`Code::BootloaderFailed`] with what is missing.
pub fn check(manifest: &Manifest, plan: &Plan, uefi: bool) -> Result<(), Finding> {
    let missing = if uefi {
        if plan.role(Role::Esp).is_none() {
            Some("the machine starts by UEFI, and the layout has no EFI system partition")
        } else if !manifest.boot.efi.iter().any(|(_, to)| is_removable_path(to)) {
            Some("the machine starts by UEFI, and the image gives no EFI/BOOT/BOOTX64.EFI")
        } else {
            None
        }
    } else if plan.role(Role::BiosBoot).is_none() {
        Some("the machine starts by BIOS, and the layout has no BIOS boot partition")
    } else if manifest.boot.bios.is_none() {
        Some("the machine starts by BIOS, and the image gives no boot.img and core.img")
    } else if plan.sector_size != bios::SECTOR {
        Some("the machine starts by BIOS, and the disk has sectors of 4096 bytes")
    } else {
        None
    };
    missing.map_or(Ok(()), |detail| Err(Finding::new(Code::BootloaderFailed, detail)))
}

/// Whether `path` is [`REMOVABLE_PATH`]; FAT knows neither case nor direction of slashes.
fn is_removable_path(path: &str) -> bool {
    path.replace('\\', "/").trim_start_matches('/').eq_ignore_ascii_case(REMOVABLE_PATH)
}

/// Reads the boot files out of the extracted tree. Both ways of starting are prepared as far as
/// image, layout and disk allow, so that a disk also starts in another machine.
///
/// # Errors
/// [`Code::BootloaderFailed`] with what is missing or does not fit.
pub fn prepare(
    tree: &Tree,
    manifest: &Manifest,
    plan: &Plan,
    root_uuid: &str,
    volume_id: u32,
) -> Result<Boot, Finding> {
    let failed = |detail: String| Finding::new(Code::BootloaderFailed, detail);
    let read = |path: &str| {
        tree.read(path, BOOT_FILE_MAX).map_err(|error| failed(format!("{path} of the image: {error}")))
    };
    let mut boot = Boot::default();
    if let (Some((boot_img, core_img)), Some(partition), bios::SECTOR) =
        (&manifest.boot.bios, plan.role(Role::BiosBoot), plan.sector_size)
    {
        let room = partition.sectors * plan.sector_size;
        let patched = bios::patch(&read(boot_img)?, &read(core_img)?, partition.first, room);
        let (code, core) = patched.map_err(|problem| failed(problem.to_string()))?;
        boot.boot_code = code;
        boot.writes.push((partition.first * plan.sector_size, core));
    }
    if let Some(partition) = plan.role(Role::Esp) {
        let mut files = Vec::new();
        for (from, to) in &manifest.boot.efi {
            files.push((to.clone(), read(from)?));
        }
        for path in GRUB_STUBS {
            if !files.is_empty() && !files.iter().any(|(to, _)| to.eq_ignore_ascii_case(path)) {
                files.push((path.to_owned(), grub::stub(root_uuid).into_bytes()));
            }
        }
        let place =
            fat::Place { sector_size: plan.sector_size, first: partition.first, sectors: partition.sectors };
        let writes = fat::encode(place, volume_id, &files);
        boot.writes.extend(writes.map_err(|error| failed(format!("EFI system partition: {error}")))?);
    }
    Ok(boot)
}
