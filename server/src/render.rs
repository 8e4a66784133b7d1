//! Boot scripts: a template and typed parameters become text.

use kaltstart_protocol::agent_api::{ARG_BOOT_MAC, ARG_MODE, ARG_SERVER, ARG_TOKEN, Mode};
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::secret::Secret;
use minijinja::{Environment, UndefinedBehavior, context};
use std::net::Ipv4Addr;

/// The script that starts the agent on `mac`; iPXE says what it does to the syslog receiver at
/// `syslog`.
///
/// # Errors
/// When the template is broken.
pub fn agent_script(
    base: &str,
    mac: Mac,
    mode: Mode,
    token: &Secret,
    cmdline: &str,
    syslog: Option<Ipv4Addr>,
) -> Result<String, minijinja::Error> {
    let mode = match mode {
        Mode::Discover => "discover",
        Mode::Install => "install",
    };
    // The kernel's own chatter stays off the console: the agent's words are for people, and the
    // kernel would print the token with its command line.
    let arguments = format!(
        "initrd=ramdisk loglevel=4 {ARG_SERVER}={base} {ARG_BOOT_MAC}={mac} {ARG_MODE}={mode} {ARG_TOKEN}={} {cmdline}",
        token.expose(),
    );
    text(
        include_str!("../../templates/boot/agent.ipxe"),
        context! {
            mac => mac.to_string(),
            kernel => format!("{base}/boot/{mac}/vmlinuz"),
            ramdisk => format!("{base}/boot/{mac}/ramdisk"),
            arguments => arguments.trim_end(),
            syslog => syslog.map(|address| address.to_string()),
        },
    )
}

/// The script that sends `mac` to its own disk.
///
/// # Errors
/// When the template is broken.
pub fn local_script(mac: Mac) -> Result<String, minijinja::Error> {
    text(include_str!("../../templates/boot/local.ipxe"), context! { mac => mac.to_string() })
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

    #[test]
    fn scripts_are_as_their_golden_files_say() {
        let mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
        let token = Secret::new("kst_boot_1".into());
        let agent = agent_script(
            "http://10.77.0.1:8080",
            mac,
            Mode::Install,
            &token,
            "console=ttyS0",
            Some(Ipv4Addr::new(10, 77, 0, 1)),
        )
        .expect("rendered");
        assert_eq!(agent.trim_end(), include_str!("../../templates/golden/agent.ipxe").trim_end());
        let local = local_script(mac).expect("rendered");
        assert_eq!(local.trim_end(), include_str!("../../templates/golden/local.ipxe").trim_end());
    }
}
