//! Which file a client is told to start.

use super::client::{Architecture, Client, HTTP_CLIENT, PXE_CLIENT, Stage};
use crate::boot::BootDecision;
use alloc::format;
use alloc::string::String;
use core::fmt;
use core::net::Ipv4Addr;
use kaltstart_protocol::dhcp::Message;
use kaltstart_protocol::dhcp::options::code;
use kaltstart_protocol::ids::Mac;

/// Boot file of BIOS machines: iPXE on the firmware's own network driver.
pub const BIOS_FILE: &str = "undionly.kpxe";
/// Boot file of x86-64 UEFI machines: iPXE on the firmware's own network driver.
pub const UEFI_X64_FILE: &str = "snponly.efi";
/// Boot file of 64-bit ARM UEFI machines.
pub const UEFI_ARM64_FILE: &str = "snponly-arm64.efi";
/// A name no server has a file for: the quick "not found" sends firmware to its next boot entry.
pub const MISSING_FILE: &str = "start-from-local-disk";

/// PXE discovery control (PXE 2.1 table 2-1, tag 6), bit 3: use the boot file of this answer, look
/// for no other boot servers.
const PXE_USE_BOOT_FILE: [u8; 4] = [6, 1, 8, code::END];
/// iPXE's `no-pxedhcp` setting (encapsulated option 176): do not wait for a proxyDHCP offer.
const IPXE_NO_PROXY: [u8; 3] = [176, 1, 1];

/// What firmware is answered when its machine shall start from its own disk.
///
/// OVMF asks again and again, for about a minute, as long as no offer names a boot file; it goes
/// on to its next boot entry at once when the named file does not exist. iPXE goes on at once in
/// both cases, so it is never given a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalAnswer {
    /// An address, and the name of a file that does not exist.
    #[default]
    MissingFile,
    /// An address, and nothing to boot.
    NoBootFile,
    /// Nothing at all.
    NoOffer,
}

/// What a client is told to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootFile {
    /// PXE: a name to be asked for by TFTP.
    Tftp(&'static str),
    /// UEFI HTTP boot: the URL of a loader.
    Http(String),
    /// iPXE: the URL of a script.
    Script(String),
}

/// Chooses the boot file; for a local start none that exists; none for programs that would not use it, and for
/// machines there is none for.
#[must_use]
pub fn choose(
    decision: &BootDecision,
    client: Client,
    local: LocalAnswer,
    http: &str,
    mac: Mac,
) -> Option<BootFile> {
    if !decision.is_network() {
        return match (local, client.stage) {
            (LocalAnswer::MissingFile, Stage::Pxe) => Some(BootFile::Tftp(MISSING_FILE)),
            (LocalAnswer::MissingFile, Stage::HttpBoot) => Some(BootFile::Http(file_url(http, MISSING_FILE))),
            _ => None,
        };
    }
    let name = match client.architecture {
        Architecture::Bios => Some(BIOS_FILE),
        Architecture::UefiX64 => Some(UEFI_X64_FILE),
        Architecture::UefiArm64 => Some(UEFI_ARM64_FILE),
        Architecture::Unknown(_) => None,
    };
    match client.stage {
        Stage::Os => None,
        Stage::Pxe => name.map(BootFile::Tftp),
        Stage::HttpBoot => name.map(|name| BootFile::Http(file_url(http, name))),
        Stage::Ipxe => Some(BootFile::Script(script_url(http, &mac))),
    }
}

/// The URL of the iPXE script of the machine `mac`, which may also be text that iPXE expands itself.
#[must_use]
pub fn script_url(http: &str, mac: &dyn fmt::Display) -> String {
    format!("{http}/boot/{mac}/script.ipxe")
}

fn file_url(http: &str, name: &str) -> String {
    format!("{http}/boot/files/{name}")
}

/// Writes the boot file into a reply.
///
/// The name goes into the header and into options 66 and 67: firmware looks here or there, and
/// shim takes the directory of its second stage from the header alone. A URL too long for the
/// header is in option 67 only.
pub(super) fn fill(reply: &mut Message, file: &BootFile, server: Ipv4Addr) {
    let name = match file {
        BootFile::Tftp(name) => {
            reply.options.set(code::VENDOR_CLASS, PXE_CLIENT);
            reply.options.set(code::VENDOR_SPECIFIC, PXE_USE_BOOT_FILE);
            name
        }
        BootFile::Http(url) => {
            // Without the vendor class the firmware takes this for a plain DHCP answer.
            reply.options.set(code::VENDOR_CLASS, HTTP_CLIENT);
            url.as_str()
        }
        BootFile::Script(url) => url.as_str(),
    };
    reply.siaddr = server;
    reply.file = name.into();
    reply.options.set(code::TFTP_SERVER, format!("{server}"));
    reply.options.set(code::BOOT_FILE, name);
}

/// Tells iPXE that no second offer will come: it would wait for one.
pub(super) fn fill_ipxe(reply: &mut Message) {
    reply.options.set(code::IPXE, IPXE_NO_PROXY);
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_protocol::ids::JobId;
    use kaltstart_protocol::time::Millis;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

    fn choice(decision: &BootDecision, architecture: Architecture, stage: Stage) -> Option<BootFile> {
        choose(decision, Client { architecture, stage }, LocalAnswer::NoBootFile, "http://10.0.0.1:8080", MAC)
    }

    #[test]
    fn each_client_gets_the_file_it_can_start() {
        use Architecture::{Bios, UefiArm64, UefiX64, Unknown};
        let script =
            || Some(BootFile::Script("http://10.0.0.1:8080/boot/52:54:00:00:00:01/script.ipxe".into()));
        let http = |name| Some(BootFile::Http(format!("http://10.0.0.1:8080/boot/files/{name}")));
        let install = BootDecision::Install { job: JobId::new(Millis(1), 1) };
        for decision in [BootDecision::Discover, install] {
            for (architecture, name) in
                [(Bios, BIOS_FILE), (UefiX64, UEFI_X64_FILE), (UefiArm64, UEFI_ARM64_FILE)]
            {
                assert_eq!(choice(&decision, architecture, Stage::Pxe), Some(BootFile::Tftp(name)));
                assert_eq!(choice(&decision, architecture, Stage::HttpBoot), http(name));
                assert_eq!(choice(&decision, architecture, Stage::Ipxe), script());
                assert_eq!(choice(&decision, architecture, Stage::Os), None);
            }
            assert_eq!(choice(&decision, Unknown(6), Stage::Pxe), None);
            assert_eq!(choice(&decision, Unknown(6), Stage::HttpBoot), None);
        }
    }

    #[test]
    fn p01_a_local_start_is_offered_no_file_that_exists() {
        for architecture in [Architecture::Bios, Architecture::UefiX64, Architecture::UefiArm64] {
            for stage in [Stage::Os, Stage::Pxe, Stage::HttpBoot, Stage::Ipxe] {
                assert_eq!(choice(&BootDecision::Local, architecture, stage), None);
                let client = Client { architecture, stage };
                match choose(&BootDecision::Local, client, LocalAnswer::MissingFile, "", MAC) {
                    Some(BootFile::Tftp(name)) => assert_eq!((name, stage), (MISSING_FILE, Stage::Pxe)),
                    Some(BootFile::Http(url)) => assert_eq!(url, file_url("", MISSING_FILE)),
                    Some(BootFile::Script(_)) => panic!("a script"),
                    None => assert!(matches!(stage, Stage::Os | Stage::Ipxe)),
                }
            }
        }
    }
}
