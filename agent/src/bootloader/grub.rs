//! GRUB's configuration as text.
//!
//! Debian's kernel packages run `update-grub` once `/boot/grub/grub.cfg` exists and overwrite it.
//! Therefore `/etc/default/grub` says the same, and that does no harm.

use crate::unlock::image as unlock;
use kaltstart_protocol::agent_api::DiskUuids;
use kaltstart_protocol::image::Boot;
use kaltstart_protocol::layout::{Layout, Role, group, subvolumes};

/// Where the configuration is in the installed system.
pub const CONFIG: &str = "/boot/grub/grub.cfg";
/// Where the settings of `update-grub` are.
pub const DEFAULTS: &str = "/etc/default/grub";

/// A value that cannot be written between single quotes of GRUB and of the shell.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} has characters that a boot configuration cannot hold")]
pub struct Unquotable(String);

/// `text` between single quotes, where neither GRUB nor the shell interprets anything.
fn quoted(text: &str) -> Result<String, Unquotable> {
    let plain = |c: char| c == ' ' || (c.is_ascii_graphic() && c != '\'');
    if text.chars().all(plain) { Ok(format!("'{text}'")) } else { Err(Unquotable(text.to_owned())) }
}

fn absolute(path: &str) -> String {
    format!("/{}", path.trim_start_matches('/'))
}

/// Where GRUB and the kernel find the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// UUID of the file system in which GRUB finds `/boot`.
    pub boot: String,
    /// Kernel arguments that name the root file system.
    pub root: Vec<String>,
    /// Whether what opens encrypted partitions is in a ramdisk of its own, which goes first.
    pub unlocks: bool,
}

impl Start {
    /// How a system of that layout starts.
    #[must_use]
    pub fn of(layout: &Layout, uuids: &DiskUuids) -> Self {
        let partition = layout.partitions.iter().find(|partition| partition.role == Role::Root);
        let volume = partition.and_then(|root| Some(group::device(root.group.as_deref()?, &root.label)));
        // A ramdisk activates a volume group by the name alone.
        let device = volume.unwrap_or_else(|| format!("UUID={}", uuids.root));
        let mut root = vec![format!("root={device}")];
        let subvolume = partition.and_then(|partition| subvolumes::root(&partition.subvolumes));
        root.extend(subvolume.map(|subvolume| format!("rootflags=subvol={}", subvolume.name)));
        let boot = layout.partitions.iter().position(|partition| partition.role == Role::Boot);
        let boot = boot.map_or(Some(&uuids.root), |at| uuids.further.get(at));
        Self { boot: boot.cloned().unwrap_or_default(), root, unlocks: unlock::is_needed(layout) }
    }
}

/// The kernel's arguments, however it is started.
#[must_use]
pub fn arguments(boot: &Boot, start: &Start) -> Vec<String> {
    let own = boot.cmdline.split_whitespace().map(str::to_owned);
    start.root.iter().cloned().chain(["ro".to_owned()]).chain(own).collect()
}

/// `grub.cfg` of a system that starts so.
///
/// # Errors
/// When a path or an argument cannot be quoted.
pub fn config(boot: &Boot, start: &Start) -> Result<String, Unquotable> {
    let (kernel, initrd) = (quoted(&absolute(&boot.kernel))?, quoted(&absolute(&boot.initrd))?);
    let first = if start.unlocks { format!("'{}' ", unlock::PATH) } else { String::new() };
    let uuid = quoted(&start.boot)?;
    let arguments = arguments(boot, start).iter().map(|word| quoted(word)).collect::<Result<Vec<_>, _>>()?;
    let arguments = arguments.join(" ");
    Ok(format!(
        "# Written by Kaltstart; update-grub may replace it and reads the same settings from\n\
         # {DEFAULTS}.\n\
         set default=0\n\
         set timeout=1\n\
         if serial --unit=0 --speed=115200; then\n\
         \x20 terminal_input console serial\n\
         \x20 terminal_output console serial\n\
         fi\n\
         search --no-floppy --fs-uuid --set=root {uuid}\n\
         menuentry 'Linux' {{\n\
         \x20 search --no-floppy --fs-uuid --set=root {uuid}\n\
         \x20 linux {kernel} {arguments}\n\
         \x20 initrd {first}{initrd}\n\
         }}\n"
    ))
}

/// Settings with which `update-grub` writes an equal configuration.
///
/// # Errors
/// When an argument cannot be quoted.
pub fn defaults(boot: &Boot, start: &Start) -> Result<String, Unquotable> {
    let cmdline = quoted(&boot.cmdline.split_whitespace().collect::<Vec<_>>().join(" "))?;
    let first = if start.unlocks {
        format!("GRUB_EARLY_INITRD_LINUX_CUSTOM={}\n", unlock::NAME)
    } else {
        String::new()
    };
    Ok(format!(
        "# Written by Kaltstart, as {CONFIG}.\n\
         GRUB_DEFAULT=0\n\
         GRUB_TIMEOUT=1\n\
         GRUB_DISTRIBUTOR=Linux\n\
         GRUB_CMDLINE_LINUX={cmdline}\n\
         GRUB_CMDLINE_LINUX_DEFAULT=''\n\
         GRUB_TERMINAL='console serial'\n\
         GRUB_SERIAL_COMMAND='serial --unit=0 --speed=115200'\n\
         GRUB_DISABLE_OS_PROBER=true\n\
         {first}"
    ))
}

/// The configuration on the EFI system partition: finds the real one in the file system with that UUID, which is the
/// server's and was checked to be one, so it needs no quotes.
pub fn stub(uuid: &str) -> String {
    format!(
        "search --no-floppy --fs-uuid --set=root {uuid}\n\
         set prefix=($root)/boot/grub\n\
         configfile $prefix/grub.cfg\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_protocol::layout::{Partition, Subvolume};

    fn boot(cmdline: &str) -> Boot {
        let (kernel, initrd) = ("vmlinuz".into(), "/initrd.img".into());
        Boot { kernel, initrd, cmdline: cmdline.into(), efi: vec![], bios: None }
    }

    fn start() -> Start {
        Start { boot: "11-22".into(), root: vec!["root=UUID=11-22".into()], unlocks: false }
    }

    fn unlocking() -> Start {
        Start { unlocks: true, ..start() }
    }

    #[test]
    fn grub_and_the_shell_accept_the_texts() {
        let boot = boot("quiet console=ttyS0,115200 a=$(b);}");
        for (program, text) in [
            ("grub-script-check", config(&boot, &start()).expect("quotable")),
            ("grub-script-check", stub("11-22")),
            ("grub-script-check", config(&boot, &unlocking()).expect("quotable")),
            ("sh", defaults(&boot, &start()).expect("quotable")),
            ("sh", defaults(&boot, &unlocking()).expect("quotable")),
        ] {
            let file = tempfile::NamedTempFile::new().expect("file");
            std::fs::write(file.path(), &text).expect("write");
            let output = std::process::Command::new(program).arg(file.path()).output().expect(program);
            assert!(output.status.success() && output.stderr.is_empty(), "{text}\n{output:?}");
        }
    }

    #[test]
    fn the_kernel_is_told_the_subvolume_that_is_the_root_directory() {
        let subvolume =
            |name: &str, mount: &str| Subvolume { name: name.into(), mount: mount.into(), options: vec![] };
        let mut root = Partition { role: Role::Root, ..Partition::default() };
        let uuids = DiskUuids {
            disk: String::new(),
            partitions: vec![],
            root: "33-44".into(),
            further: vec![],
            esp: 0,
        };
        let start = |root: &Partition| {
            let partitions = vec![Partition::default(), root.clone()];
            Start::of(&Layout { name: "l".into(), partitions, ..Layout::default() }, &uuids)
        };
        let plain = Start { boot: "33-44".into(), root: vec!["root=UUID=33-44".into()], unlocks: false };
        assert_eq!(start(&root), plain);
        let volume = Partition { label: "my-root".into(), group: Some("sys".into()), ..root.clone() };
        let named = start(&volume);
        assert_eq!(
            (named.boot.as_str(), &named.root[..]),
            ("33-44", &["root=/dev/mapper/sys-my--root".to_owned()][..])
        );
        root.subvolumes = vec![subvolume("@home", "/home"), subvolume("@", "/")];
        assert_eq!(start(&root).root, ["root=UUID=33-44", "rootflags=subvol=@"]);
    }

    #[test]
    fn an_encrypted_system_starts_from_the_partition_that_boot_loaders_read() {
        let root = Partition { role: Role::Root, encrypted: true, ..Partition::default() };
        let partitions = vec![Partition { role: Role::Boot, ..Partition::default() }, root];
        let uuids = DiskUuids {
            disk: String::new(),
            partitions: vec![],
            root: "33-44".into(),
            further: vec!["55-66".into(), "77-88".into()],
            esp: 0,
        };
        let start = Start::of(&Layout { name: "l".into(), partitions, ..Layout::default() }, &uuids);
        let expected = Start { boot: "55-66".into(), root: vec!["root=UUID=33-44".into()], unlocks: true };
        assert_eq!(start, expected);
        let text = config(&boot("quiet"), &start).expect("quotable");
        assert!(text.contains("  initrd '/boot/kaltstart-unlock.img' '/initrd.img'\n"), "{text}");
        let text = defaults(&boot("quiet"), &start).expect("quotable");
        assert!(text.contains("GRUB_EARLY_INITRD_LINUX_CUSTOM=kaltstart-unlock.img\n"), "{text}");
    }

    #[test]
    fn p27_arguments_stay_arguments() {
        let text = config(&boot("quiet  console=ttyS0,115200 x=$(y);}"), &start()).expect("quotable");
        let line = "  linux '/vmlinuz' 'root=UUID=11-22' 'ro' 'quiet' 'console=ttyS0,115200' 'x=$(y);}'\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("  initrd '/initrd.img'\n"));
        let text = defaults(&boot(" quiet  splash "), &start()).expect("quotable");
        assert!(text.contains("GRUB_CMDLINE_LINUX='quiet splash'\n"));
        for bad in ["it's", "a\u{1}b", "größe"] {
            assert!(
                config(&boot(bad), &start()).is_err() && defaults(&boot(bad), &start()).is_err(),
                "{bad:?}"
            );
        }
    }
}
