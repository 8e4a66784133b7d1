//! POSIX access control lists: from tar's text to the kernel's bytes.
//!
//! Text as GNU tar and star write it into `SCHILY.acl.access` and `SCHILY.acl.default`
//! (acl(5), short or long form); bytes as in `linux/posix_acl_xattr.h`.

use std::collections::BTreeMap;

/// Version of the kernel's form.
const VERSION: u32 = 2;
/// Id of entries that have none.
const NO_ID: u32 = u32::MAX;

/// Ids of names. GNU tar writes names into lists even when told to write numbers, so they are
/// looked up in the image's own files, as the installed system will.
#[derive(Debug, Default)]
pub struct Names {
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
}

impl Names {
    /// From the text of `passwd(5)` and `group(5)`; both have name and id in the same places.
    #[must_use]
    pub fn new(passwd: &str, group: &str) -> Self {
        let parse = |text: &str| {
            let line = |line: &str| {
                let mut fields = line.split(':');
                Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
            };
            text.lines().filter_map(line).collect()
        };
        Self { users: parse(passwd), groups: parse(group) }
    }
}

/// The kernel's bytes of a list.
///
/// # Errors
/// What is wrong with the text; also a name that `names` does not have.
pub fn encode(text: &str, names: &Names) -> Result<Vec<u8>, String> {
    let mut entries = Vec::new();
    for line in text.split(['\n', ',']) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        entries.push(
            entry(line, names).ok_or_else(|| format!("access control entry {line:?} is not understood"))?,
        );
    }
    if entries.is_empty() {
        return Err("access control list is empty".to_owned());
    }
    // The kernel wants them by tag, then by id.
    entries.sort_unstable_by_key(|&(tag, _, id)| (tag, id));
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    Ok(bytes)
}

/// Tag, permissions and id of `user:1000:rw-`, or of star's `user:name:rw-:1000`.
fn entry(line: &str, names: &Names) -> Option<(u16, u16, u32)> {
    let mut fields = line.split(':').map(str::trim);
    let (kind, who, rights) = (fields.next()?, fields.next()?, fields.next()?);
    let who = fields.next().unwrap_or(who);
    let tag = match (kind, who.is_empty()) {
        ("user" | "u", true) => 0x01,
        ("user" | "u", false) => 0x02,
        ("group" | "g", true) => 0x04,
        ("group" | "g", false) => 0x08,
        ("mask" | "m", true) => 0x10,
        ("other" | "o", true) => 0x20,
        _ => return None,
    };
    let known = if tag == 0x02 { &names.users } else { &names.groups };
    let id = match who {
        "" => NO_ID,
        who => who.parse().ok().or_else(|| known.get(who).copied())?,
    };
    let mut permissions = 0;
    for letter in rights.chars() {
        permissions |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return None,
        };
    }
    Some((tag, permissions, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_image() {
        let names = Names::new("root:x:0:0::/:\njoe:x:1000:5::/:\nbad\n", "adm:x:4:\njoe:x:1001:\n");
        let bytes = encode("user:joe:r--,group:joe:r--", &names).expect("known");
        assert_eq!((&bytes[8..12], &bytes[16..20]), (&[0xE8, 3, 0, 0][..], &[0xE9, 3, 0, 0][..]));
        assert!(encode("group:root:r--", &names).is_err());
    }

    #[test]
    fn lists_become_the_kernels_bytes() {
        let want = [
            &[2, 0, 0, 0][..],
            &[1, 0, 7, 0, 255, 255, 255, 255],
            &[2, 0, 4, 0, 0xE8, 3, 0, 0],
            &[4, 0, 5, 0, 255, 255, 255, 255],
            &[16, 0, 5, 0, 255, 255, 255, 255],
            &[32, 0, 0, 0, 255, 255, 255, 255],
        ]
        .concat();
        let long = "user::rwx\nuser:1000:r--\t#effective:r--\ngroup::r-x\nmask::r-x\nother::---\n";
        assert_eq!(encode(long, &Names::default()), Ok(want.clone()));
        assert_eq!(encode("o::---,m::rx,g::r-x,u:joe:r--:1000,u::rwx", &Names::default()), Ok(want));
        for bad in ["", "user::rwx\nuser:joe:r--", "user::rwz", "what::r", "user"] {
            assert!(encode(bad, &Names::default()).is_err(), "{bad:?}");
        }
    }
}
