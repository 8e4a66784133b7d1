//! What the installed system mounts: fstab(5).

use kaltstart_protocol::agent_api::DiskUuids;
use kaltstart_protocol::layout::{ESP_MOUNT, FileSystem, Layout, Partition, Role, Tmpfs};
use std::collections::BTreeMap;

/// Slow controllers and emulators exceed systemd's 90 seconds.
const PATIENCE: &str = "x-systemd.device-timeout=600s";

/// The same where another disk has what this one has.
const LITTLE_PATIENCE: &str = "x-systemd.device-timeout=90s";

/// The file. The outer mounts come first, as mount(8) takes the lines in their order. A missing EFI system
/// partition or swap space shall not keep a system down that has already started.
pub(super) fn text(layout: &Layout, uuids: &DiskUuids) -> String {
    let mut lines = BTreeMap::new();
    let mut swap = String::new();
    for (at, partition) in layout.partitions.iter().enumerate() {
        let further = uuids.further.get(at).map_or("", String::as_str);
        match partition.role {
            Role::Root => mounts(partition, &format!("UUID={}", uuids.root), &mut lines),
            Role::Boot | Role::Data => mounts(partition, &format!("UUID={further}"), &mut lines),
            Role::Esp => {
                let id = format!("{:04X}-{:04X}", uuids.esp >> 16, uuids.esp & 0xFFFF);
                let patience = if layout.array.is_some() { LITTLE_PATIENCE } else { PATIENCE };
                let line = format!("UUID={id} {ESP_MOUNT} vfat umask=0077,nofail,{patience} 0 2\n");
                lines.insert(ESP_MOUNT, line);
            }
            Role::Swap => swap += &format!("UUID={further} none swap nofail 0 0\n"),
            Role::BiosBoot | Role::Lvm => {}
        }
    }
    for Tmpfs { mount, options } in &layout.tmpfs {
        let options = if options.is_empty() { "defaults".into() } else { options.join(",") };
        lines.insert(mount, format!("tmpfs {mount} tmpfs {options} 0 0\n"));
    }
    lines.into_values().collect::<String>() + &swap
}

/// A line for each place where the file system on `device` is mounted.
fn mounts<'a>(partition: &'a Partition, device: &str, lines: &mut BTreeMap<&'a str, String>) {
    let kind = partition.file_system.unwrap_or_default();
    let mut line = |mount: &'a str, options: Vec<&str>| {
        // The others repair themselves when they are mounted; their fsck does nothing.
        let pass = match (kind, mount) {
            (FileSystem::Ext4, "/") => 1,
            (FileSystem::Ext4, _) => 2,
            (FileSystem::Xfs | FileSystem::Btrfs, _) => 0,
        };
        let options = [options, vec![PATIENCE]].concat().join(",");
        lines.insert(mount, format!("{device} {mount} {} {options} 0 {pass}\n", kind.name()));
    };
    let common: Vec<&str> = partition.options.iter().map(String::as_str).collect();
    if let (true, Some(mount)) = (partition.subvolumes.is_empty(), partition.mounted_at()) {
        line(mount, common.clone());
    }
    for subvolume in &partition.subvolumes {
        let name = format!("subvol={}", subvolume.name);
        let own = subvolume.options.iter().map(String::as_str);
        line(
            &subvolume.mount,
            [name.as_str()].into_iter().chain(common.iter().copied()).chain(own).collect(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_protocol::layout::Subvolume;

    fn uuids() -> DiskUuids {
        let further = ["u1", "u2", "u3", "log-uuid", "var-uuid", "swap-uuid"].map(Into::into).into();
        DiskUuids {
            disk: String::new(),
            partitions: vec![],
            root: "r-uuid".into(),
            further,
            esp: 0x00AB_12CD,
        }
    }

    fn partition(role: Role, mount: Option<&str>, options: &[&str]) -> Partition {
        let options = options.iter().map(|&option| option.into()).collect();
        Partition { role, mount: mount.map(Into::into), options, ..Partition::default() }
    }

    fn layout() -> Layout {
        Layout {
            name: "l".into(),
            partitions: vec![
                partition(Role::BiosBoot, None, &[]),
                partition(Role::Esp, None, &[]),
                partition(Role::Root, None, &[]),
                partition(Role::Data, Some("/var/log"), &["nodev", "noexec"]),
                partition(Role::Data, Some("/var"), &["nodev"]),
                partition(Role::Swap, None, &[]),
            ],
            tmpfs: vec![Tmpfs { mount: "/tmp".into(), options: vec!["nosuid".into()] }],
            ..Layout::default()
        }
    }

    #[test]
    fn file_systems_are_mounted_from_the_outside_in() {
        let lines = [
            format!("UUID=r-uuid / ext4 {PATIENCE} 0 1\n"),
            format!("UUID=00AB-12CD /boot/efi vfat umask=0077,nofail,{PATIENCE} 0 2\n"),
            "tmpfs /tmp tmpfs nosuid 0 0\n".into(),
            format!("UUID=var-uuid /var ext4 nodev,{PATIENCE} 0 2\n"),
            format!("UUID=log-uuid /var/log ext4 nodev,noexec,{PATIENCE} 0 2\n"),
            "UUID=swap-uuid none swap nofail 0 0\n".into(),
        ];
        assert_eq!(text(&layout(), &uuids()), lines.concat());
        let mut other = layout();
        other.partitions[4].file_system = Some(FileSystem::Xfs);
        let var = format!("UUID=var-uuid /var xfs nodev,{PATIENCE} 0 0\n");
        assert!(text(&other, &uuids()).contains(&var));
    }

    #[test]
    fn each_subvolume_is_mounted_with_the_options_of_all() {
        let subvolume = |name: &str, mount: &str, options: &[&str]| Subvolume {
            name: name.into(),
            mount: mount.into(),
            options: options.iter().map(|&option| option.into()).collect(),
        };
        let root = Partition {
            file_system: Some(FileSystem::Btrfs),
            subvolumes: vec![subvolume("@", "/", &[]), subvolume("@home", "/home", &["nodev"])],
            ..partition(Role::Root, None, &["compress=zstd:1"])
        };
        let layout = Layout { name: "l".into(), partitions: vec![root], ..Layout::default() };
        let lines = [
            format!("UUID=r-uuid / btrfs subvol=@,compress=zstd:1,{PATIENCE} 0 0\n"),
            format!("UUID=r-uuid /home btrfs subvol=@home,compress=zstd:1,nodev,{PATIENCE} 0 0\n"),
        ];
        assert_eq!(text(&layout, &uuids()), lines.concat());
    }
}
