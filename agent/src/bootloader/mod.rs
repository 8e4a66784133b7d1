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

use crate::disk::disks::Boot;
use crate::disk::ext4;
use crate::disk::fat;
use crate::image::tree::Tree;
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::image::Manifest;
use kaltstart_protocol::layout::Role;
use kaltstart_protocol::layout::fit::BIOS_SECTOR;
use kaltstart_protocol::layout::plan::Plan;

/// Largest boot file, in bytes.
const BOOT_FILE_MAX: u64 = 64 << 20;
/// Where Debian's signed GRUB looks for its configuration, wherever it was started from.
const GRUB_STUBS: [&str; 2] = ["EFI/debian/grub.cfg", "EFI/BOOT/grub.cfg"];

/// Where GRUB's core image for BIOS looks on the disk that it came from. It is the file system in which the
/// kernel lies, unless that is on an array or in a volume group: then this leads there, and no other disk's system is taken for it.
const CORE_STUB: &str = "boot/grub/grub.cfg";

/// What makes one disk start: reads the boot files out of the extracted tree. Both ways of starting are prepared as far as
/// image, layout and disk allow, so that a disk also starts in another machine. `boot_uuid` is that of the file
/// system in which GRUB finds `/boot`, `volume_id` the EFI system partition's.
///
/// # Errors
/// [`Code::BootloaderFailed`] with what is missing or does not fit; as the file system says if that cannot be read.
pub fn prepare(
    tree: &Tree,
    manifest: &Manifest,
    plan: &Plan,
    boot_uuid: &str,
    volume_id: u32,
) -> Result<Boot, Finding> {
    let failed = |detail: String| Finding::new(Code::BootloaderFailed, detail);
    let read = |path: &str| {
        tree.read(path, BOOT_FILE_MAX).map_err(|error| match error.raw_os_error() {
            Some(libc::EIO | libc::EUCLEAN | libc::EBADMSG) => {
                ext4::refused(manifest.format.is_file_system(), &format!("cannot read {path}"), &error)
            }
            _ => failed(format!("{path} of the image: {error}")),
        })
    };
    let mut boot = Boot::default();
    if let (Some((boot_img, core_img)), Some(partition), BIOS_SECTOR) =
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
        let hidden = plan
            .role(Role::Boot)
            .or(plan.role(Role::Root))
            .is_some_and(|it| it.group.is_some() || plan.array.is_some());
        let core = hidden.then_some(CORE_STUB);
        for path in GRUB_STUBS.into_iter().chain(core) {
            if !files.is_empty() && !files.iter().any(|(to, _)| to.eq_ignore_ascii_case(path)) {
                files.push((path.to_owned(), grub::stub(boot_uuid).into_bytes()));
            }
        }
        let place =
            fat::Place { sector_size: plan.sector_size, first: partition.first, sectors: partition.sectors };
        let writes = fat::encode(place, volume_id, &files);
        boot.writes.extend(writes.map_err(|error| failed(format!("EFI system partition: {error}")))?);
    }
    Ok(boot)
}
