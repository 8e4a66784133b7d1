//! Which subvolumes a partition can have.

use super::plan::options_problem;
use super::{FileSystem, Partition, Role, Subvolume};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;

/// Longest name, in bytes (`BTRFS_NAME_LEN`).
const NAME_MAX: usize = 255;
/// A name in the top level of a root file system: there it leads to `/boot`, where boot loaders look.
pub const BOOT_LINK: &str = "boot";

/// The subvolume that is the root directory.
#[must_use]
pub fn root(subvolumes: &[Subvolume]) -> Option<&Subvolume> {
    subvolumes.iter().find(|subvolume| subvolume.mount == "/")
}

/// What is wrong with the subvolumes of `partition`. Where they are mounted is checked with all mounts.
pub(super) fn problem(partition: &Partition) -> Option<String> {
    let subvolumes = &partition.subvolumes;
    if subvolumes.is_empty() {
        return None;
    }
    if partition.made() != Some(FileSystem::Btrfs) {
        return Some("only a btrfs has subvolumes".into());
    }
    let roots = subvolumes.iter().filter(|subvolume| subvolume.mount == "/").count();
    if roots != usize::from(partition.role == Role::Root) {
        return Some(match partition.role {
            Role::Root => "one subvolume of the root file system must be mounted at \"/\"".into(),
            _ => "only a subvolume of the root file system is mounted at \"/\"".into(),
        });
    }
    let mut seen = BTreeSet::new();
    subvolumes.iter().find_map(|Subvolume { name, options, .. }| {
        if !is_name(name) {
            Some(format!("subvolume {name:?} is no name of letters, digits, '@', '-', '_' and '.'"))
        } else if partition.role == Role::Root && name == BOOT_LINK {
            Some(format!("a subvolume of the root file system cannot have the name {BOOT_LINK:?}"))
        } else if !seen.insert(name) {
            Some(format!("subvolume {name:?} occurs twice"))
        } else {
            options_problem(options)
        }
    })
}

/// It stands in a line of fstab(5) and among GRUB's arguments as it is.
fn is_name(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '@' | '-' | '_' | '.');
    (1..=NAME_MAX).contains(&name.len()) && name.chars().all(known) && !name.chars().all(|c| c == '.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    fn subvolume(name: &str, mount: &str) -> Subvolume {
        Subvolume { name: name.into(), mount: mount.into(), options: Vec::new() }
    }

    fn refused(role: Role, subvolumes: Vec<Subvolume>) -> Option<String> {
        let file_system = Some(FileSystem::Btrfs);
        problem(&Partition { role, file_system, subvolumes, ..Partition::default() })
    }

    #[test]
    fn subvolumes_that_cannot_work_are_refused() {
        let root = || subvolume("@", "/");
        assert_eq!(refused(Role::Root, vec![root(), subvolume("@home", "/home")]), None);
        assert_eq!(refused(Role::Data, vec![subvolume("boot", "/srv")]), None);
        assert_eq!(refused(Role::Root, vec![]), None);
        let ext4 = Partition { subvolumes: vec![subvolume("@", "/srv")], ..Partition::default() };
        assert!(problem(&ext4).is_some_and(|problem| problem.contains("only a btrfs")));
        let says = |role, subvolumes, words: &str| {
            let problem = refused(role, subvolumes).expect("refused");
            assert!(problem.contains(words), "{problem}");
        };
        says(Role::Root, vec![subvolume("@home", "/home")], "must be mounted at");
        says(Role::Root, vec![root(), subvolume("@2", "/")], "must be mounted at");
        says(Role::Data, vec![root()], "only a subvolume of the root");
        says(Role::Root, vec![root(), subvolume("@", "/home")], "\"@\" occurs twice");
        says(Role::Root, vec![root(), subvolume("boot", "/srv")], "cannot have the name \"boot\"");
        for bad in ["", ".", "..", "a/b", "a b", "a,b", "ä", "a\n"] {
            says(Role::Root, vec![root(), subvolume(bad, "/srv")], "is no name");
        }
        let ro = Subvolume { options: vec!["a,b".into()], ..root() };
        says(Role::Root, vec![ro], "no mount option");
    }
}
