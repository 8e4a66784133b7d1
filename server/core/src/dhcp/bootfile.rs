//! Which file a client is told to start.

use super::client::{Architecture, HTTP_CLIENT, PXE_CLIENT, Stage};
use crate::boot::{self, Loader, Offer, Why};
use alloc::format;
use alloc::string::String;
use core::fmt;
use core::net::Ipv4Addr;
use kaltstart_protocol::dhcp::Message;
use kaltstart_protocol::dhcp::options::code;
use kaltstart_protocol::ids::Mac;

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

/// Whether there are loaders for such machines.
pub(super) const fn is_supported(architecture: Architecture) -> bool {
    Loader::first(architecture, boot::UefiLoader::Ipxe).is_some()
}

/// What a program that asks DHCP is told to start when [`boot::offer`] says `offer`; when that is
/// nothing, firmware is answered as `local` says.
#[must_use]
pub fn choose(offer: Offer, stage: Stage, local: LocalAnswer, http: &str, mac: Mac) -> Option<BootFile> {
    match offer {
        Offer::NameByTftp(loader) => Some(BootFile::Tftp(loader.name())),
        Offer::UrlOfLoader(loader) => Some(BootFile::Http(loader_url(http, loader.name()))),
        Offer::UrlOfScript => Some(BootFile::Script(script_url(http, &mac))),
        // There may be another boot server for them.
        Offer::Nothing(Why::Architecture) => None,
        Offer::File | Offer::Ramdisk(_) | Offer::Agent(_) | Offer::OwnDisk | Offer::Nothing(_) => {
            match (local, stage) {
                (LocalAnswer::MissingFile, Stage::Pxe) => Some(BootFile::Tftp(MISSING_FILE)),
                (LocalAnswer::MissingFile, Stage::HttpBoot) => {
                    Some(BootFile::Http(loader_url(http, MISSING_FILE)))
                }
                _ => None,
            }
        }
    }
}

/// The URL of the iPXE script of the machine `mac`, which may also be text that iPXE expands itself.
#[must_use]
pub fn script_url(http: &str, mac: &dyn fmt::Display) -> String {
    format!("{http}/boot/{mac}/script.ipxe")
}

/// Where HTTP has the loaders.
fn loader_url(http: &str, name: &str) -> String {
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
    use crate::boot::{BootDecision, Door, Policy, UefiLoader};
    use crate::dhcp::client::Client;
    use kaltstart_protocol::ids::JobId;
    use kaltstart_protocol::time::Millis;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
    const IPXE: Policy = Policy { uefi: UefiLoader::Ipxe, looping: false };
    const SIGNED: Policy = Policy { uefi: UefiLoader::Signed, looping: false };

    fn choice(
        decision: &BootDecision,
        policy: Policy,
        architecture: Architecture,
        stage: Stage,
    ) -> Option<BootFile> {
        let offer = boot::offer(Some(decision), policy, Door::Dhcp(Client { architecture, stage }));
        choose(offer, stage, LocalAnswer::NoBootFile, "http://10.0.0.1:8080", MAC)
    }

    #[test]
    fn each_client_gets_the_file_it_can_start() {
        use Architecture::{Bios, UefiArm64, UefiRiscv64, UefiX64, UefiX86, Unknown};
        let script =
            || Some(BootFile::Script("http://10.0.0.1:8080/boot/52:54:00:00:00:01/script.ipxe".into()));
        let http = |name| Some(BootFile::Http(format!("http://10.0.0.1:8080/boot/files/{name}")));
        let install = BootDecision::Install { job: JobId::new(Millis(1), 1) };
        for decision in [BootDecision::Discover, install] {
            for (architecture, name, signed) in [
                (Bios, "undionly.kpxe", "undionly.kpxe"),
                (UefiX64, "snponly.efi", "shimx64.efi"),
                (UefiArm64, "snponly-arm64.efi", "shimaa64.efi"),
            ] {
                let choice = |policy, stage| choice(&decision, policy, architecture, stage);
                assert_eq!(choice(IPXE, Stage::Pxe), Some(BootFile::Tftp(name)));
                assert_eq!(choice(SIGNED, Stage::Pxe), Some(BootFile::Tftp(signed)));
                assert_eq!(choice(IPXE, Stage::HttpBoot), http(name));
                // The signed GRUB cannot go on from there.
                assert_eq!(choice(SIGNED, Stage::HttpBoot), (name == signed).then(|| http(name)).flatten());
                assert_eq!(choice(IPXE, Stage::Ipxe), script());
                assert_eq!(choice(IPXE, Stage::Os), None);
            }
            for architecture in [UefiX86, UefiRiscv64, Unknown(2)] {
                for stage in [Stage::Pxe, Stage::HttpBoot] {
                    assert_eq!(choice(&decision, IPXE, architecture, stage), None);
                }
            }
        }
    }

    #[test]
    fn firmware_that_gets_its_loader_for_ever_is_given_the_script_instead() {
        let looping = Policy { looping: true, ..IPXE };
        for stage in [Stage::Pxe, Stage::HttpBoot] {
            let choice = choice(&BootDecision::Discover, looping, Architecture::Bios, stage);
            assert!(matches!(choice, Some(BootFile::Script(_))), "{choice:?}");
        }
    }

    #[test]
    fn p01_a_local_start_is_offered_no_file_that_exists() {
        for architecture in [Architecture::Bios, Architecture::UefiX64, Architecture::UefiArm64] {
            for (stage, policy) in [Stage::Os, Stage::Pxe, Stage::HttpBoot, Stage::Ipxe]
                .into_iter()
                .flat_map(|stage| [(stage, IPXE), (stage, SIGNED)])
            {
                assert_eq!(choice(&BootDecision::Local, policy, architecture, stage), None);
                let door = Door::Dhcp(Client { architecture, stage });
                let offer = boot::offer(Some(&BootDecision::Local), policy, door);
                match choose(offer, stage, LocalAnswer::MissingFile, "", MAC) {
                    Some(BootFile::Tftp(name)) => assert_eq!((name, stage), (MISSING_FILE, Stage::Pxe)),
                    Some(BootFile::Http(url)) => assert_eq!(url, loader_url("", MISSING_FILE)),
                    Some(BootFile::Script(_)) => panic!("a script"),
                    None => assert!(matches!(stage, Stage::Os | Stage::Ipxe)),
                }
            }
        }
    }
}
