//! Whether layout, image, disk and firmware fit together: the server asks before it grants anything and for
//! people who try a layout, the agent before it writes.

use super::plan::{Plan, PlanError, Planned, plan};
use super::{FileSystem, Layout, Role, subvolumes};
use crate::facts::{Disk, Firmware};
use crate::finding::{Code, Finding};
use crate::image::{Manifest, places};
use crate::select::list;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Where UEFI looks without any boot entry (UEFI 2.10 §3.5.1.1, x86-64).
pub const REMOVABLE_PATH: &str = "EFI/BOOT/BOOTX64.EFI";

/// Larger than any disk, in bytes: there a layout has the most room.
const LARGEST_DISK: u64 = 1 << 50;

/// Bytes of the only sectors that BIOS and `boot.img` know.
pub const BIOS_SECTOR: u64 = 512;

/// What `layout` makes of `disks`, which are as many as it wants. Without an `image`, or with [`Firmware::Unknown`], what depends on it is
/// not asked.
///
/// # Errors
/// [`Code::DiskTooSmall`] when layout or image need more room, [`Code::Unfit`] as [`contradiction`] says,
/// [`Code::DiskFailed`] when there is no plan for another reason, [`Code::BootloaderFailed`] with what is missing to
/// start from the disk.
pub fn fit(
    layout: &Layout,
    image: Option<&Manifest>,
    disks: &[&Disk],
    firmware: Firmware,
) -> Result<Plan, Finding> {
    let described = || list(disks.iter().copied());
    let size = disks.iter().map(|disk| disk.size).min().unwrap_or_default();
    let sector_size = disks.first().map_or(0, |disk| disk.sector_size);
    if let Some(image) = image.filter(|image| size < image.min_disk) {
        let detail = format!("{}: the image needs {} bytes", described(), image.min_disk);
        return Err(Finding::new(Code::DiskTooSmall, detail));
    }
    let plan = plan(layout, size, u64::from(sector_size)).map_err(|error| {
        let code = match error {
            PlanError::TooSmall { .. } => Code::DiskTooSmall,
            PlanError::Layout { .. } | PlanError::SectorSize(_) => Code::DiskFailed,
        };
        Finding::new(code, format!("{}: {error}", described()))
    })?;
    if let Some(image) = image {
        if let Some(problem) = contradiction(image, layout) {
            return Err(Finding::new(Code::Unfit, problem));
        }
        if let Some(shortage) = shortage(image, &plan) {
            return Err(Finding::new(Code::DiskTooSmall, format!("{}: {shortage}", described())));
        }
    }
    match missing_to_start(image, &plan, firmware) {
        Some(missing) => Err(Finding::new(Code::BootloaderFailed, missing)),
        None => Ok(plan),
    }
}

/// Why `layout` cannot take `image` on any disk, in words for people; none when it can.
#[must_use]
pub fn contradiction(image: &Manifest, layout: &Layout) -> Option<String> {
    let undivided = if image.format.is_file_system() { undivided(image, layout) } else { None };
    undivided.or_else(|| {
        let shortage = shortage(image, &plan(layout, LARGEST_DISK, BIOS_SECTOR).ok()?)?;
        Some(format!("layout {:?}, however large the disk is: {shortage}", layout.name))
    })
}

/// Why `layout` cannot take an image that is a file system, whatever its size.
fn undivided(image: &Manifest, layout: &Layout) -> Option<String> {
    let is_file_system = format!("image {} is a file system", image.name);
    let mut partitions = layout.partitions.iter();
    if let Some(other) = partitions.find(|partition| matches!(partition.role, Role::Data | Role::Boot)) {
        return Some(format!(
            "{is_file_system}: it cannot be divided, and layout {:?} has one of its own for {}; take the image's archive (tar)",
            layout.name,
            other.mount.as_ref().unwrap_or(&other.label)
        ));
    }
    let root = layout.partitions.iter().find(|partition| partition.role == Role::Root)?;
    let another = root.file_system.is_some_and(|file_system| file_system != FileSystem::Ext4);
    another
        .then(|| format!("{is_file_system}: it is ext4, and layout {:?} has another one for /", layout.name))
}

/// What is missing of the room for `image` in `plan`, in words for people; none if nothing is.
///
/// What an archive unpacks to is told as one size, the archive's own with its headers, which are less than what file systems need
/// besides. Where it is divided among several file systems, each has its part if the image tells what lies where; else
/// only all of them together are known to be too small. Where files are compressed nothing is known.
fn shortage(image: &Manifest, plan: &Plan) -> Option<String> {
    let whole = image.format.is_file_system();
    let takes = |planned: &&Planned| match planned.role {
        Role::Root => true,
        Role::Boot | Role::Data => !whole,
        Role::BiosBoot | Role::Esp | Role::Swap | Role::Lvm => false,
    };
    let taking = || plan.partitions.iter().filter(takes);
    let (name, size) = (&image.name, image.unpacked_size);
    let all: Vec<&str> = taking().flat_map(mounts).collect();
    for planned in taking().filter(|planned| !compresses(planned)) {
        let own = mounts(planned).map(|mount| places::least(&image.places, &all, mount));
        let (least, room) = (own.fold(0, u64::saturating_add), plan.room(planned));
        if room < least {
            let (label, mount) = (&planned.label, mounts(planned).next().unwrap_or_default());
            return Some(format!(
                "image {name} has files of {least} bytes for {label} ({mount}), which has {room}"
            ));
        }
    }
    if !whole && taking().any(compresses) {
        return None;
    }
    let room = taking().fold(0, |sum, planned| u64::saturating_add(sum, plan.room(planned)));
    (room < size).then(|| match whole {
        true => format!("image {name} is a file system of {size} bytes, the root file system has {room}"),
        false => format!("image {name} unpacks to {size} bytes, the file systems for it have {room}"),
    })
}

/// Where a partition, or the subvolumes in it, are mounted.
fn mounts(planned: &Planned) -> impl Iterator<Item = &str> {
    let whole = planned.mount.as_deref().filter(|_| planned.subvolumes.is_empty());
    whole.into_iter().chain(planned.subvolumes.iter().map(|subvolume| subvolume.mount.as_str()))
}

/// Whether files that are written there may take less room than they have bytes.
fn compresses(planned: &Planned) -> bool {
    let subvolumes = planned.subvolumes.iter().flat_map(|subvolume| &subvolume.options);
    planned.options.iter().chain(subvolumes).any(|option| option.starts_with("compress"))
}

fn missing_to_start(image: Option<&Manifest>, plan: &Plan, firmware: Firmware) -> Option<&'static str> {
    let lacks = |what: fn(&Manifest) -> bool| image.is_some_and(what);
    match firmware {
        Firmware::Uefi if plan.role(Role::Esp).is_none() => {
            Some("the machine starts by UEFI, and the layout has no EFI system partition")
        }
        Firmware::Uefi if lacks(|image| !image.boot.efi.iter().any(|(_, to)| is_removable_path(to))) => {
            Some("the machine starts by UEFI, and the image gives no EFI/BOOT/BOOTX64.EFI")
        }
        Firmware::Bios if plan.role(Role::BiosBoot).is_none() => {
            Some("the machine starts by BIOS, and the layout has no BIOS boot partition")
        }
        Firmware::Bios if lacks(|image| image.boot.bios.is_none()) => {
            Some("the machine starts by BIOS, and the image gives no boot.img and core.img")
        }
        Firmware::Bios if plan.sector_size != BIOS_SECTOR => {
            Some("the machine starts by BIOS, and the disk has sectors of 4096 bytes")
        }
        _ if shows_boot_alone(plan) && lacks(|image| !starts_from_boot(image)) => Some(
            "boot loaders see /boot alone in this layout, and the image has its kernel or ramdisk elsewhere",
        ),
        Firmware::Uefi | Firmware::Bios | Firmware::Unknown => None,
    }
}

/// Whether boot loaders find `/boot` at its place, but not the root directory: in the top level of a file system of
/// subvolumes, and in one that is mounted at `/boot`, a link leads there.
fn shows_boot_alone(plan: &Plan) -> bool {
    let of_subvolumes =
        plan.role(Role::Root).is_some_and(|root| subvolumes::root(&root.subvolumes).is_some());
    of_subvolumes || plan.role(Role::Boot).is_some()
}

fn starts_from_boot(image: &Manifest) -> bool {
    let boot = |path: &str| path.trim_start_matches('/').starts_with("boot/");
    boot(&image.boot.kernel) && boot(&image.boot.initrd)
}

/// Whether `path` is [`REMOVABLE_PATH`]; FAT knows neither case nor direction of slashes.
fn is_removable_path(path: &str) -> bool {
    path.replace('\\', "/").trim_start_matches('/').eq_ignore_ascii_case(REMOVABLE_PATH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use crate::image::blocks::DataMap;
    use crate::image::places::Places;
    use crate::image::{Boot, Compression, Format};
    use crate::layout::{Partition, Subvolume};
    use alloc::string::ToString;
    use alloc::vec;

    fn layout(roles: &[Role]) -> Layout {
        let partition = |role: &Role| Partition {
            label: "p".into(),
            role: *role,
            min_mib: 300,
            weight: 0,
            ..Partition::default()
        };
        Layout { name: "l".into(), partitions: roles.iter().map(partition).collect(), ..Layout::default() }
    }

    /// An image that starts both ways.
    fn image() -> Manifest {
        Manifest {
            schema: 1,
            name: "i".into(),
            version: "1".into(),
            digest: Digest::of(b""),
            size: 1,
            unpacked_size: 1,
            format: Format::Tar,
            compression: Compression::None,
            file: "i.tar".into(),
            min_disk: 2 << 30,
            boot: Boot {
                kernel: "/k".into(),
                initrd: "/i".into(),
                cmdline: String::new(),
                efi: vec![("/shim".into(), "efi\\boot\\bootx64.efi".into())],
                bios: Some(("/boot.img".into(), "/core.img".into())),
            },
            packages: Vec::new(),
            places: Places::new(),
        }
    }

    #[test]
    fn an_image_that_is_a_file_system_fills_one_partition() {
        let fits = |roles: &[Role], change: fn(&mut Layout), unpacked_size| {
            let mut layout = layout(roles);
            change(&mut layout);
            let format = Format::Raw(DataMap { data: Vec::new() });
            let image = Manifest { format, unpacked_size, ..image() };
            let disk = Disk { size: 2 << 30, sector_size: 512, ..Disk::default() };
            fit(&layout, Some(&image), &[&disk], Firmware::Unknown)
                .map(|_| ())
                .map_err(|finding| (finding.code, finding.detail))
        };
        let keep = |_: &mut Layout| {};
        assert_eq!(fits(&[Role::Root, Role::Swap], keep, 300 << 20), Ok(()));
        let (code, detail) = fits(&[Role::Root], keep, (300 << 20) + 1).expect_err("too large");
        assert!(code == Code::Unfit && detail.contains("the root file system has 314572800"), "{detail}");
        let grows = |layout: &mut Layout| layout.partitions[0].weight = 1;
        let (code, detail) = fits(&[Role::Root], grows, 2 << 30).expect_err("too large for this disk");
        assert!(code == Code::DiskTooSmall && detail.contains("the root file system has"), "{detail}");
        let data = |layout: &mut Layout| layout.partitions[1].mount = Some("/var".into());
        let (code, detail) = fits(&[Role::Root, Role::Data], data, 1).expect_err("divided");
        assert!(code == Code::Unfit && detail.contains("for /var; take"), "{detail}");
        let btrfs = |layout: &mut Layout| layout.partitions[0].file_system = Some(FileSystem::Btrfs);
        let (code, detail) = fits(&[Role::Root], btrfs, 1).expect_err("another file system");
        assert!(code == Code::Unfit && detail.contains("another one for /"), "{detail}");
    }

    #[test]
    fn an_archive_needs_room_for_what_it_unpacks_to() {
        let mut layout = layout(&[Role::Esp, Role::Root, Role::Data, Role::Swap]);
        layout.partitions[2].mount = Some("/var".into());
        let fits = |layout: &Layout, size| {
            let image = Manifest { unpacked_size: size, ..image() };
            let disk = Disk { size: 2 << 30, sector_size: 512, ..Disk::default() };
            let fitted = fit(layout, Some(&image), &[&disk], Firmware::Unknown);
            (fitted.map(|_| ()).map_err(|finding| finding.code), contradiction(&image, layout))
        };
        assert_eq!(fits(&layout, 600 << 20), (Ok(()), None));
        let (on_disk, on_any) = fits(&layout, (600 << 20) + 1);
        assert_eq!(on_disk, Err(Code::Unfit));
        let told = on_any.expect("neither grows");
        assert!(
            told.contains("unpacks to 629145601 bytes, the file systems for it have 629145600"),
            "{told}"
        );
        layout.partitions[1].weight = 1;
        assert_eq!(fits(&layout, 1 << 30), (Ok(()), None));
        // There is room enough, but not where it is needed.
        let places = Places::from([("/".into(), 1), ("/var/lib".into(), (300 << 20) + 1)]);
        let told = contradiction(&Manifest { places, ..image() }, &layout).expect("/var does not grow");
        assert!(told.contains("files of 314572801 bytes for p (/var), which has 314572800"), "{told}");
        assert_eq!(fits(&layout, 2 << 30), (Err(Code::DiskTooSmall), None), "there are larger disks");
        layout.partitions[1].max_mib = Some(700);
        assert!(fits(&layout, 1 << 30).1.is_some());
        layout.partitions[1].file_system = Some(FileSystem::Btrfs);
        layout.partitions[1].options = vec!["compress=zstd:1".into()];
        assert_eq!(fits(&layout, 1 << 30), (Ok(()), None), "nobody knows");
    }

    #[test]
    fn what_does_not_fit_together_is_refused_before_anything_is_written() {
        let roles = [Role::BiosBoot, Role::Esp, Role::Root];
        let disk = |gib: u64, sector_size| Disk { size: gib << 30, sector_size, ..Disk::default() };
        let outcome = |roles: &[Role], image: Option<&Manifest>, disk: &Disk, firmware| {
            let outcome = fit(&layout(roles), image, &[disk], firmware);
            outcome.map(|plan| plan.partitions.len()).map_err(|finding| (finding.code, finding.detail))
        };
        let refused = |roles: &[Role], image: &Manifest, disk: &Disk, firmware, code, word: &str| {
            let (got, detail) = outcome(roles, Some(image), disk, firmware).expect_err("refused");
            assert!(got == code && detail.contains(word), "{got} {detail}");
        };
        for firmware in [Firmware::Uefi, Firmware::Bios, Firmware::Unknown] {
            assert_eq!(outcome(&roles, Some(&image()), &disk(2, 512), firmware), Ok(3));
            assert_eq!(outcome(&roles, None, &disk(1, 512), firmware), Ok(3), "nobody asks for 2 GiB");
            refused(
                &roles,
                &image(),
                &disk(1, 512),
                firmware,
                Code::DiskTooSmall,
                "the image needs 2147483648",
            );
        }
        refused(&roles, &image(), &disk(2, 520), Firmware::Unknown, Code::DiskFailed, "sector size 520");
        let without = |change: fn(&mut Boot)| {
            let mut image = image();
            change(&mut image.boot);
            image
        };
        let (no_efi, no_bios) = (without(|boot| boot.efi.clear()), without(|boot| boot.bios = None));
        let failed = Code::BootloaderFailed;
        refused(&roles[2..], &image(), &disk(2, 512), Firmware::Uefi, failed, "no EFI system partition");
        refused(&roles, &no_efi, &disk(2, 512), Firmware::Uefi, failed, REMOVABLE_PATH);
        refused(&roles[1..], &image(), &disk(2, 512), Firmware::Bios, failed, "no BIOS boot partition");
        refused(&roles, &no_bios, &disk(2, 512), Firmware::Bios, failed, "core.img");
        refused(&roles, &image(), &disk(2, 4096), Firmware::Bios, failed, &4096.to_string());
        assert_eq!(outcome(&roles, Some(&no_bios), &disk(2, 4096), Firmware::Uefi), Ok(3));
    }

    #[test]
    fn a_kernel_outside_of_boot_does_not_start_from_a_subvolume() {
        let mut layout = layout(&[Role::BiosBoot, Role::Esp, Role::Root]);
        let subvolume = Subvolume { name: "@".into(), mount: "/".into(), options: Vec::new() };
        layout.partitions[2].file_system = Some(FileSystem::Btrfs);
        layout.partitions[2].subvolumes = vec![subvolume];
        let disk = Disk { size: 2 << 30, sector_size: 512, ..Disk::default() };
        let mut image = image();
        for firmware in [Firmware::Uefi, Firmware::Bios, Firmware::Unknown] {
            let finding = fit(&layout, Some(&image), &[&disk], firmware).expect_err("refused");
            assert_eq!(finding.code, Code::BootloaderFailed);
            assert!(finding.detail.contains("/boot alone"), "{finding}");
        }
        (image.boot.kernel, image.boot.initrd) = ("/boot/vmlinuz".into(), "boot/initrd.img".into());
        assert!(fit(&layout, Some(&image), &[&disk], Firmware::Uefi).is_ok());
    }
}
