//! Boot scripts: a template and typed parameters become text.

use kaltstart_core::boot::arguments::Unspeakable;
use kaltstart_core::boot::{self, File};
use kaltstart_protocol::agent_api::{
    ARG_BOOT_MAC, ARG_EPOCH, ARG_IMAGE_KEYS, ARG_IMAGES_SINCE, ARG_KEY, ARG_MODE, ARG_PIN, ARG_SERVER,
    ARG_TIME, ARG_TOKEN, Mode,
};
use kaltstart_protocol::ids::{Digest, Mac};
use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::GrantTrust;
use kaltstart_trust::images::ImageTrust;
use minijinja::{Environment, UndefinedBehavior, context};
use std::net::Ipv4Addr;

/// Why there is no script.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A template is broken.
    #[error("the template is broken: {0}")]
    Template(#[from] minijinja::Error),
    /// The loader would change an argument.
    #[error("boot.cmdline: {0}")]
    Arguments(#[from] Unspeakable),
}

/// What a starting agent is told by its loader.
#[derive(Debug)]
pub struct AgentStart<'a> {
    /// Base addresses of the site's servers, over TLS, in the order in which they are asked.
    pub servers: Vec<String>,
    /// Fingerprint of the authority whose certificate the server shows.
    pub authority: Digest,
    /// Whose wipe grants it takes.
    pub grants: GrantTrust,
    /// Whose images it lays down.
    pub images: ImageTrust,
    /// The server's clock.
    pub now: Millis,
    /// The interface the machine starts over.
    pub mac: Mac,
    /// What the agent may do.
    pub mode: Mode,
    /// The one-time boot token.
    pub token: Secret,
    /// Further kernel arguments.
    pub cmdline: &'a str,
}

impl AgentStart<'_> {
    /// The agent's kernel arguments. The kernel's own chatter stays off the console: the agent's
    /// words are for people, and the kernel would print the token with its command line.
    #[must_use]
    pub fn arguments(&self) -> Secret {
        let Self { servers, authority, grants, images, now, mac, mode, token, cmdline } = self;
        let GrantTrust { key, epoch } = grants;
        let keys: Vec<String> = images.keys.iter().map(ToString::to_string).collect();
        let (servers, mode) = (servers.join(","), mode.name());
        Secret::new(format!(
            "loglevel=4 {ARG_SERVER}={servers} {ARG_PIN}={authority} {ARG_KEY}={key} {ARG_EPOCH}={epoch} {ARG_TIME}={} \
             {ARG_IMAGE_KEYS}={} {ARG_IMAGES_SINCE}={} {ARG_BOOT_MAC}={mac} {ARG_MODE}={mode} {ARG_TOKEN}={} {cmdline}",
            now.0 / 1000,
            keys.join(","),
            images.since,
            token.expose(),
        ))
    }
}

/// iPXE's script for that start. Kernel and ramdisk come from `files`; iPXE says what it does to
/// the syslog receiver at `syslog`.
///
/// # Errors
/// When the template is broken, or iPXE would change an argument.
pub fn agent_script(
    start: &AgentStart<'_>,
    files: &str,
    syslog: Option<Ipv4Addr>,
) -> Result<String, RenderError> {
    let (mac, arguments) = (start.mac, format!("initrd=ramdisk {}", start.arguments().expose()));
    Ok(text(
        include_str!("../../templates/boot/agent.ipxe"),
        context! {
            mac => mac.to_string(),
            kernel => format!("{files}/{}", File::Kernel(mac)),
            ramdisk => format!("{files}/{}", File::Ramdisk(mac)),
            arguments => boot::arguments::for_ipxe(&arguments)?,
            syslog => syslog.map(|address| address.to_string()),
        },
    )?)
}

/// GRUB's configuration for that start; kernel and ramdisk come from where GRUB came from.
///
/// # Errors
/// When the template is broken, or GRUB would change an argument.
pub fn agent_grub(start: &AgentStart<'_>) -> Result<String, RenderError> {
    let mac = start.mac;
    Ok(text(
        include_str!("../../templates/boot/agent.grub"),
        context! {
            mac => mac.to_string(),
            kernel => format!("/{}", File::Kernel(mac)),
            ramdisk => format!("/{}", File::Ramdisk(mac)),
            arguments => boot::arguments::for_grub(start.arguments().expose())?,
        },
    )?)
}

/// GRUB's configuration that sends `mac` to its own disk.
///
/// # Errors
/// When the template is broken.
pub fn local_grub(mac: Mac) -> Result<String, RenderError> {
    Ok(text(include_str!("../../templates/boot/local.grub"), context! { mac => mac.to_string() })?)
}

/// GRUB's configuration that leads to the one of its machine.
#[must_use]
pub const fn start_grub() -> &'static str {
    include_str!("../../templates/boot/start.grub")
}

/// iPXE's script that sends `mac` to its own disk.
///
/// # Errors
/// When the template is broken.
pub fn local_script(mac: Mac) -> Result<String, RenderError> {
    Ok(text(include_str!("../../templates/boot/local.ipxe"), context! { mac => mac.to_string() })?)
}

/// A template of ours with its parameters filled in. Besides minijinja's own filters it has
/// `hex_word` (`0x0007`) and `hex_bytes` (`00:07`) for 16-bit numbers.
///
/// # Errors
/// When the template is broken.
pub fn text(template: &str, parameters: minijinja::Value) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_filter("hex_word", |number: u16| format!("0x{number:04x}"));
    environment.add_filter("hex_bytes", |number: u16| format!("{:02x}:{:02x}", number >> 8, number & 255));
    environment.set_fuel(Some(10_000));
    environment.render_str(template, parameters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_protocol::ids::PublicKey;

    const FILES: &str = "http://10.77.0.1:8080";
    /// The key of minisign's own manual page.
    const IMAGE_KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

    fn start(cmdline: &str) -> AgentStart<'_> {
        AgentStart {
            servers: vec!["https://10.77.0.1:8443".into()],
            authority: Digest([0xab; 32]),
            grants: GrantTrust { key: PublicKey([0xcd; 32]), epoch: 0 },
            images: ImageTrust { keys: vec![IMAGE_KEY.parse().expect("a key")], since: 1_790_000_000 },
            now: Millis(1_800_000_000_999),
            mac: MAC,
            mode: Mode::Install,
            token: Secret::new("kst_boot_1".into()),
            cmdline,
        }
    }

    #[test]
    fn scripts_are_as_their_golden_files_say() {
        let start = start("console=ttyS0 a=$b");
        for (text, golden) in [
            (
                agent_script(&start, FILES, Some(Ipv4Addr::new(10, 77, 0, 1))),
                include_str!("../../templates/golden/agent.ipxe"),
            ),
            (agent_grub(&start), include_str!("../../templates/golden/agent.grub")),
            (local_script(MAC), include_str!("../../templates/golden/local.ipxe")),
            (local_grub(MAC), include_str!("../../templates/golden/local.grub")),
        ] {
            assert_eq!(text.expect("rendered").trim_end(), golden.trim_end());
        }
    }

    #[test]
    fn p27_arguments_that_are_code_make_no_script() {
        assert!(agent_script(&start("a ${net0/mac}"), FILES, None).is_err());
        assert!(agent_grub(&start("a='b'")).is_err());
    }
}
