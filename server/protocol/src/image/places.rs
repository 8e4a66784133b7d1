//! How much of an archive lies where, so that each of a layout's file systems is known to have room for its part.

use crate::layout::plan::must_be_roots;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Bytes of files, by the directory that they are counted in, see [`place`].
pub type Places = BTreeMap<String, u64>;

/// Directories deeper than this are counted with those that they lie in.
const DEPTH: usize = 3;

/// Where kernels lie: the only place that must be the root's unless there is a partition for it.
const BOOT: &str = "/boot";

/// The directory in which a file is counted: the one that it lies in, or one above that if it lies deep. What can be
/// in no other file system than the root is counted in `/`.
#[must_use]
pub fn place(file: &str) -> String {
    let parts: Vec<&str> = file.trim_start_matches('/').split('/').collect();
    let deep = parts.len().saturating_sub(1).min(DEPTH);
    let place = format!("/{}", parts[..deep].join("/"));
    if must_be_roots(&place) && !is_within(&place, BOOT) { "/".into() } else { place }
}

/// Bytes that the file system at `mount` must take at least, where `mounts` are the places of all of them.
#[must_use]
pub fn least(places: &Places, mounts: &[&str], mount: &str) -> u64 {
    let holder =
        |place: &str| mounts.iter().copied().filter(|it| is_within(place, it)).max_by_key(|it| it.len());
    // What is counted here may lie in a file system further below.
    let mixed = |place: &str| {
        place.matches('/').count() == DEPTH && mounts.iter().any(|it| *it != place && is_within(it, place))
    };
    let own = places.iter().filter(|(place, _)| holder(place) == Some(mount) && !mixed(place));
    own.fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
}

fn is_within(path: &str, directory: &str) -> bool {
    let rest = path.strip_prefix(directory.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_in_directories_that_may_be_file_systems() {
        for (file, counted) in [
            ("vmlinuz", "/"),
            ("/usr/share/doc/a/b", "/"),
            ("etc/hostname", "/"),
            ("boot/vmlinuz-6.1", "/boot"),
            ("var/x", "/var"),
            ("var/log/audit/audit.log", "/var/log/audit"),
            ("srv/a/b/c/d/e", "/srv/a/b"),
            ("variable/x", "/variable"),
            ("", "/"),
        ] {
            assert_eq!(place(file), counted, "{file}");
        }
    }

    #[test]
    fn each_file_system_takes_what_no_deeper_one_does() {
        let files =
            [("usr/bin/a", 100), ("boot/k", 20), ("var/a", 3), ("var/log/b", 4), ("var/lib/x/y/z", 50)];
        let mut places = Places::new();
        for (file, bytes) in files {
            *places.entry(place(file)).or_default() += bytes;
        }
        let all =
            |mounts: &[&str]| mounts.iter().map(|mount| least(&places, mounts, mount)).collect::<Vec<_>>();
        assert_eq!(all(&["/"]), [177]);
        assert_eq!(all(&["/", "/boot"]), [157, 20]);
        assert_eq!(all(&["/", "/var", "/var/log"]), [120, 53, 4]);
        assert_eq!(all(&["/", "/var/lib/x"]), [127, 50]);
        assert_eq!(all(&["/", "/var/lib/x/y"]), [127, 0], "nobody knows whose");
        assert_eq!(all(&["/", "/va"]), [177, 0]);
    }
}
