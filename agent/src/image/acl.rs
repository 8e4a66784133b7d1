//! POSIX access control lists: from tar's text to the kernel's bytes.
//!
//! Text as GNU tar and star write it into `SCHILY.acl.access` and `SCHILY.acl.default`
//! (acl(5), short or long form); bytes as in `linux/posix_acl_xattr.h`.

/// Version of the kernel's form.
const VERSION: u32 = 2;
/// Id of entries that have none.
const NO_ID: u32 = u32::MAX;

/// The kernel's bytes of a list.
///
/// # Errors
/// What is wrong with the text; also when it names users, which only the image's own
/// `/etc/passwd` could resolve: images are made with numeric owners.
pub fn encode(text: &str) -> Result<Vec<u8>, String> {
    let mut entries = Vec::new();
    for line in text.split(['\n', ',']) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        entries.push(entry(line).ok_or_else(|| format!("access control entry {line:?} is not understood"))?);
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
fn entry(line: &str) -> Option<(u16, u16, u32)> {
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
    let id = if who.is_empty() { NO_ID } else { who.parse().ok()? };
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
        assert_eq!(encode(long), Ok(want.clone()));
        assert_eq!(encode("o::---,m::rx,g::r-x,u:joe:r--:1000,u::rwx"), Ok(want));
        for bad in ["", "user::rwx\nuser:joe:r--", "user::rwz", "what::r", "user"] {
            assert!(encode(bad).is_err(), "{bad:?}");
        }
    }
}
