//! Lines of `authorized_keys`: whoever writes rubbish there is locked out of every machine.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// Why this is no line of `authorized_keys` (sshd(8)): options, type, key, comment. The line itself,
/// which may be a secret, is not repeated.
pub(super) fn problem(line: &str) -> Option<&'static str> {
    if line.contains("PRIVATE KEY") {
        return Some(
            "is a private key: write the line of its .pub file, and give the key up if others could read this",
        );
    }
    if line.contains(char::is_control) {
        return Some("is not one line");
    }
    let with_options = || is_key(without_word(line));
    (!is_key(line) && !with_options()).then_some(
        "is not an OpenSSH public key, as \"ssh-ed25519 AAAA… name\": copy the whole line of a .pub file",
    )
}

/// The line behind its first word, which spaces between double quotes do not end.
fn without_word(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    let end = line.find(|c: char| {
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        c == ' ' && !quoted
    });
    end.map_or("", |end| line[end..].trim_start())
}

/// Whether the text begins with the type of a key and the key (RFC 4253 §6.6): strings with their
/// lengths, of which the first is the type again.
fn is_key(text: &str) -> bool {
    let mut words = text.split_ascii_whitespace();
    let (Some(kind), Some(key)) = (words.next(), words.next()) else { return false };
    let Ok(key) = BASE64_STANDARD.decode(key) else { return false };
    let Some((first, mut rest)) = split_string(&key) else { return false };
    let mut parts = 0;
    while let Some((part, further)) = split_string(rest) {
        parts += usize::from(!part.is_empty());
        rest = further;
    }
    first == kind.as_bytes() && parts > 0 && rest.is_empty()
}

/// The first string (RFC 4251 §5), and what follows it.
fn split_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJJcFxHq4KFLEGyQjfKayuEkkSLlqOsx4d0N4c5p9Pvf admin of all";
    const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBKZ/dhhI84ifialXiOsxp\
         ls648yOc6vM+0VgHtfXEAqs85NFY0wjrGhEd/5QTtIB2OsOP8sTSdn5LArZvZHz+Zo=";

    #[test]
    fn keys_are_public_keys() {
        for good in [
            ED25519.to_owned(),
            ECDSA.to_owned(),
            format!("restrict {ECDSA}"),
            format!(r#"restrict,command="echo \"a b\" c",pty {ED25519}"#),
        ] {
            assert_eq!(problem(&good), None, "{good}");
        }
        for (bad, named) in [
            (String::new(), "not an OpenSSH public key"),
            ("hello".into(), "not an OpenSSH public key"),
            ("ssh-ed25519 AAAA".into(), "not an OpenSSH public key"),
            (ED25519.replace("ssh-ed25519", "ssh-rsa"), "not an OpenSSH public key"),
            (ED25519[..60].into(), "not an OpenSSH public key"),
            (format!(r#"command="a b {ED25519}"#), "not an OpenSSH public key"),
            (format!("{ED25519}\n{ED25519}"), "not one line"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk".into(), "private key"),
        ] {
            assert!(problem(&bad).is_some_and(|problem| problem.contains(named)), "{bad:?}");
        }
    }
}
