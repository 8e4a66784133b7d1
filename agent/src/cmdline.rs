//! The kernel command line: what the boot server tells a starting agent.

use kaltstart_protocol::agent_api::{
    ARG_BOOT_MAC, ARG_EPOCH, ARG_IMAGE_KEYS, ARG_IMAGES_SINCE, ARG_KEY, ARG_MODE, ARG_PIN, ARG_SERVER,
    ARG_TIME, ARG_TOKEN, Mode,
};
use kaltstart_protocol::ids::{Digest, Mac};
use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::wipe::GrantTrust;
use kaltstart_trust::images::ImageTrust;

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Base addresses of the site's servers without a closing slash, in the order in which they are asked:
    /// `https://10.77.0.1:8443`.
    pub servers: Vec<String>,
    /// Fingerprint of the authority whose certificate the server shows.
    pub authority: Digest,
    /// Whose wipe grants are taken.
    pub grants: GrantTrust,
    /// Whose images are laid down; without the arguments nobody's.
    pub images: ImageTrust,
    /// The server's clock when it granted this start, in seconds since 1970.
    pub time: u64,
    /// The one-time boot token.
    pub token: Secret,
    /// What the agent may do; without the argument only look.
    pub mode: Mode,
    /// Hardware address of the interface the boot loader used.
    pub boot_mac: Option<Mac>,
}

/// Why a command line does not start an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// A needed argument is not there.
    #[error("the kernel command line has no {0}=…; start this machine through the Kaltstart server")]
    Missing(&'static str),
    /// An argument has a value that means nothing.
    #[error("the kernel command line has {argument}={value:?}: expected {expected}")]
    Bad {
        /// Which argument.
        argument: &'static str,
        /// Its value.
        value: String,
        /// What would do.
        expected: &'static str,
    },
}

/// Reads a kernel command line (`/proc/cmdline`).
///
/// Of a repeated argument the last one counts, as for the kernel's own.
///
/// # Errors
/// Server, fingerprint, key, epoch, time or token is missing, or a value is of no use. The token never shows in the error.
pub fn parse(line: &str) -> Result<Settings, CmdlineError> {
    let words = words(line);
    let find = |name: &str| {
        words
            .iter()
            .rev()
            .find_map(|word| word.split_once('=').filter(|(key, _)| *key == name))
            .map(|(_, v)| v)
    };
    let bad = |argument, value: &str, expected| CmdlineError::Bad { argument, value: value.into(), expected };

    let named = find(ARG_SERVER).ok_or(CmdlineError::Missing(ARG_SERVER))?;
    let servers: Vec<String> =
        named.split(',').map(|server| server.trim_end_matches('/').to_owned()).collect();
    if servers.iter().any(|server| server.strip_prefix("https://").is_none_or(str::is_empty)) {
        return Err(bad(ARG_SERVER, named, "addresses such as https://10.77.0.1:8443, separated by commas"));
    }
    let authority = find(ARG_PIN).ok_or(CmdlineError::Missing(ARG_PIN))?;
    let authority =
        authority.parse().map_err(|_| bad(ARG_PIN, authority, "sha256: and 64 hexadecimal digits"))?;
    let key = find(ARG_KEY).ok_or(CmdlineError::Missing(ARG_KEY))?;
    let key = key.parse().map_err(|_| bad(ARG_KEY, key, "ed25519: and 64 hexadecimal digits"))?;
    let epoch = find(ARG_EPOCH).ok_or(CmdlineError::Missing(ARG_EPOCH))?;
    let epoch = epoch.parse().map_err(|_| bad(ARG_EPOCH, epoch, "milliseconds since 1970, or 0"))?;
    let time = find(ARG_TIME).ok_or(CmdlineError::Missing(ARG_TIME))?;
    let time = time.parse().map_err(|_| bad(ARG_TIME, time, "seconds since 1970"))?;
    let keys = find(ARG_IMAGE_KEYS).unwrap_or_default();
    let keys = keys.split(',').filter(|key| !key.is_empty()).map(str::parse).collect::<Result<_, _>>();
    let keys = keys.map_err(|_| bad(ARG_IMAGE_KEYS, "…", "public keys of minisign, separated by commas"))?;
    let since = find(ARG_IMAGES_SINCE).unwrap_or("0");
    let since = since.parse().map_err(|_| bad(ARG_IMAGES_SINCE, since, "seconds since 1970"))?;
    let images = ImageTrust { keys, since };
    let token = find(ARG_TOKEN).filter(|token| !token.is_empty()).ok_or(CmdlineError::Missing(ARG_TOKEN))?;
    let mode = match find(ARG_MODE) {
        None | Some("discover") => Mode::Discover,
        Some("install") => Mode::Install,
        Some("rescue") => Mode::Rescue,
        Some(other) => return Err(bad(ARG_MODE, other, "discover, install or rescue")),
    };
    let boot_mac = match find(ARG_BOOT_MAC) {
        None | Some("") => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| bad(ARG_BOOT_MAC, text, "six hexadecimal bytes, as 52:54:00:12:34:56"))?,
        ),
    };
    Ok(Settings {
        servers,
        authority,
        grants: GrantTrust { key, epoch },
        images,
        time,
        token: Secret::new(token.into()),
        mode,
        boot_mac,
    })
}

/// Splits at white space outside double quotes and drops the quotes, as the kernel does.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_protocol::ids::PublicKey;

    /// The key of minisign's own manual page.
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const BASE: &str = "console=ttyS0 kaltstart.server=https://10.77.0.1:8443/ kaltstart.token=kst_1 \
        kaltstart.pin=sha256:0707070707070707070707070707070707070707070707070707070707070707 \
        kaltstart.key=ed25519:0909090909090909090909090909090909090909090909090909090909090909 \
        kaltstart.epoch=1790000000000 kaltstart.time=1800000000";

    #[test]
    fn all_arguments_are_read_and_the_last_one_counts() {
        let line = format!(
            "{BASE} kaltstart.image_keys={KEY} kaltstart.images_since=1790000000 kaltstart.mode=discover \"kaltstart.mode=install\" kaltstart.mac=52-54-00-00-00-01\n"
        );
        let settings = parse(&line).expect("complete");
        assert_eq!(settings.servers, ["https://10.77.0.1:8443"]);
        assert_eq!((settings.authority, settings.time), (Digest([7; 32]), 1_800_000_000));
        assert_eq!(settings.grants, GrantTrust { key: PublicKey([9; 32]), epoch: 1_790_000_000_000 });
        assert_eq!(
            settings.images,
            ImageTrust { keys: vec![KEY.parse().expect("a key")], since: 1_790_000_000 }
        );
        assert_eq!(settings.token.expose(), "kst_1");
        assert_eq!(settings.mode, Mode::Install);
        assert_eq!(settings.boot_mac, Some(Mac([0x52, 0x54, 0, 0, 0, 1])));
    }

    #[test]
    fn quotes_keep_spaces_together_and_prefixes_do_not_match() {
        assert_eq!(words("a \"b c\"=d  e=\"f g\""), ["a", "b c=d", "e=f g"]);
        assert!(parse(&BASE.replace(ARG_SERVER, "xkaltstart.server")).is_err());
    }

    #[test]
    fn p36_all_servers_of_the_site_are_named() {
        let named = |servers: &str| parse(&format!("{BASE} kaltstart.server={servers}"));
        let servers = named("https://10.77.0.1:8443,https://10.77.0.2:443/").expect("complete").servers;
        assert_eq!(servers, ["https://10.77.0.1:8443", "https://10.77.0.2:443"]);
        for wrong in ["https://10.77.0.1:8443,", ",https://10.77.0.1:8443", "https://a,http://b"] {
            assert!(named(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn p02_without_a_mode_the_agent_only_looks() {
        assert_eq!(parse(BASE).expect("complete").mode, Mode::Discover);
    }

    #[test]
    fn p14_without_keys_no_image_is_believed() {
        assert_eq!(parse(BASE).expect("complete").images, ImageTrust::default());
        assert!(parse(&format!("{BASE} kaltstart.image_keys={KEY},RWQ")).is_err());
    }

    #[test]
    fn p20_without_knowing_whom_to_believe_no_agent_starts() {
        for name in [ARG_SERVER, ARG_PIN, ARG_KEY, ARG_EPOCH, ARG_TIME, ARG_TOKEN] {
            let error = parse(&BASE.replace(name, "other")).expect_err(name);
            assert_eq!(error, CmdlineError::Missing(name));
        }
    }

    #[test]
    fn p22_errors_say_what_is_missing_and_never_show_the_token() {
        let error = parse("kaltstart.token=kst_secret").expect_err("no server").to_string();
        assert!(error.contains(ARG_SERVER) && !error.contains("kst_secret"));
        for (extra, word) in [
            ("kaltstart.mode=wipe", "discover, install or rescue"),
            ("kaltstart.mac=1", "six"),
            ("kaltstart.server=http://10.77.0.1:8080", "https://"),
            ("kaltstart.pin=07", "64"),
            ("kaltstart.key=ed25519:09", "64"),
            ("kaltstart.epoch=-1", "milliseconds since 1970"),
            ("kaltstart.time=soon", "seconds since 1970"),
            ("kaltstart.token=", ARG_TOKEN),
        ] {
            let error = parse(&format!("{BASE} {extra}")).expect_err(extra).to_string();
            assert!(error.contains(word) && !error.contains("kst_1"), "{error}");
        }
    }
}
