//! What every door gives to whom: [`offer`].
//!
//! A door is DHCP (with or without an address), TFTP or HTTP. None of them decides by itself.

use super::BootDecision;
use super::file::{File, Loader, UefiLoader};
use crate::dhcp::client::{Architecture, Client, Stage};
use core::fmt;
use kaltstart_protocol::agent_api::Mode;
use serde::{Deserialize, Serialize};

/// A door, and what it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// DHCP: what shall this program start? The same whether we give the address or another server
    /// does.
    Dhcp(Client),
    /// The same question by DHCPv6.
    Dhcp6(Client),
    /// A file by TFTP.
    Tftp(File),
    /// A file by HTTP.
    Http(File),
}

/// What a machine is given besides its decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// How UEFI machines are started.
    pub uefi: UefiLoader,
    /// It was given the same loader again and again, and nothing came of it (see [`super::repeats`]).
    pub looping: bool,
}

/// What a door gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// The name of a loader, to be fetched by TFTP.
    NameByTftp(Loader),
    /// The URL of a loader.
    UrlOfLoader(Loader),
    /// The URL of the machine's iPXE script.
    UrlOfScript,
    /// The file, as it is.
    File,
    /// The ramdisk whose agent can do this, and no more.
    Ramdisk(Mode),
    /// A script or configuration that starts the agent, with a new one-time token.
    Agent(Mode),
    /// A script or configuration that starts the machine's own disk.
    OwnDisk,
    /// Nothing to start.
    Nothing(Why),
}

/// Why there is nothing to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It shall start from its own disk.
    #[error("it shall start from its own disk")]
    OwnDisk,
    /// Nobody knows which machine asks.
    #[error("no such machine is known")]
    Unknown,
    /// It is not firmware and not a loader.
    #[error("an operating system starts nothing")]
    System,
    /// There is no loader for such machines.
    #[error("there is no loader for this architecture")]
    Architecture,
    /// Debian's signed GRUB cannot go on by HTTP.
    #[error("the signed loaders cannot be started by HTTP boot: start the machine by PXE")]
    SignedByHttp,
    /// The machine is started in another way.
    #[error("this machine is started by the other kind of loader (uefi_loader)")]
    OtherLoader,
    /// The file is at another door.
    #[error("this file is not at this door")]
    OtherDoor,
}

/// What `door` gives to a machine that may start `decision`; none when nobody knows which machine
/// asks. For a file that belongs to a machine it is that machine's decision that counts.
#[must_use]
pub fn offer(decision: Option<&BootDecision>, policy: Policy, door: Door) -> Offer {
    match door {
        Door::Dhcp(client) | Door::Dhcp6(client) => start(decision, policy, client),
        Door::Tftp(file) => by_tftp(decision, policy, file),
        Door::Http(file) => by_http(decision, policy, file),
    }
}

/// Whether it may start from the network, or why not.
fn network(decision: Option<&BootDecision>) -> Result<Mode, Why> {
    let decision = decision.ok_or(Why::Unknown)?;
    decision.agent().map(|(mode, _)| mode).ok_or(Why::OwnDisk)
}

fn start(decision: Option<&BootDecision>, policy: Policy, client: Client) -> Offer {
    if client.stage == Stage::Os {
        return Offer::Nothing(Why::System);
    }
    if let Err(why) = network(decision) {
        return Offer::Nothing(why);
    }
    let loader = Loader::first(client.architecture, policy.uefi);
    match (client.stage, loader) {
        (Stage::Ipxe, _) => Offer::UrlOfScript,
        // Either an iPXE that does not say so, which can use this; or firmware, which cannot, and
        // goes on to its next boot entry. Both end the loop.
        (_, Some(_)) if policy.looping => Offer::UrlOfScript,
        (_, None) => Offer::Nothing(Why::Architecture),
        (Stage::HttpBoot, Some(loader)) if loader.is_signed() => Offer::Nothing(Why::SignedByHttp),
        (Stage::HttpBoot, Some(loader)) => Offer::UrlOfLoader(loader),
        (_, Some(loader)) => Offer::NameByTftp(loader),
    }
}

fn by_tftp(decision: Option<&BootDecision>, policy: Policy, file: File) -> Offer {
    match file {
        File::Loader(loader) => first_stage(decision, policy, loader),
        // Says only where the machine's own is.
        File::GrubStart => Offer::File,
        File::GrubConfig(_) => script(decision),
        File::Kernel(_) => granted(decision, |_| Offer::File),
        File::Ramdisk(_) => granted(decision, Offer::Ramdisk),
        File::IpxeScript(_) => Offer::Nothing(Why::OtherDoor),
    }
}

fn by_http(decision: Option<&BootDecision>, policy: Policy, file: File) -> Offer {
    match file {
        File::Loader(loader) if loader.is_signed() => Offer::Nothing(Why::SignedByHttp),
        File::Loader(loader) => first_stage(decision, policy, loader),
        File::IpxeScript(_) => script(decision),
        File::Kernel(_) => granted(decision, |_| Offer::File),
        File::Ramdisk(_) => granted(decision, Offer::Ramdisk),
        File::GrubStart | File::GrubConfig(_) => Offer::Nothing(Why::OtherDoor),
    }
}

/// Loaders are no secret, and start nothing without a script: whoever got the name from another
/// DHCP server, and so is not known, is given them.
fn first_stage(decision: Option<&BootDecision>, policy: Policy, loader: Loader) -> Offer {
    match network(decision) {
        Err(Why::Unknown) => Offer::File,
        Err(why) => Offer::Nothing(why),
        Ok(_) if loader.fits(policy.uefi) => Offer::File,
        Ok(_) => Offer::Nothing(Why::OtherLoader),
    }
}

fn script(decision: Option<&BootDecision>) -> Offer {
    network(decision).map_or(Offer::OwnDisk, Offer::Agent)
}

fn granted(decision: Option<&BootDecision>, given: impl FnOnce(Mode) -> Offer) -> Offer {
    network(decision).map_or_else(Offer::Nothing, given)
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameByTftp(loader) => write!(f, "start {} by TFTP", loader.name()),
            Self::UrlOfLoader(loader) => write!(f, "start {} by HTTP", loader.name()),
            Self::UrlOfScript => f.write_str("start the iPXE script"),
            Self::File => f.write_str("the file"),
            Self::Ramdisk(Mode::Discover) => f.write_str("the ramdisk that only looks"),
            Self::Ramdisk(Mode::Install | Mode::Rescue) => f.write_str("the ramdisk that installs"),
            Self::Agent(Mode::Discover) => f.write_str("start the agent to look"),
            Self::Agent(Mode::Install) => f.write_str("start the agent to install"),
            Self::Agent(Mode::Rescue) => f.write_str("start the agent to stay for a person"),
            Self::OwnDisk => f.write_str("start the own disk"),
            Self::Nothing(why) => write!(f, "nothing: {why}"),
        }
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dhcp(client) => write!(f, "dhcp {client}"),
            Self::Dhcp6(client) => write!(f, "dhcp6 {client}"),
            Self::Tftp(file) => write!(f, "tftp {file}"),
            Self::Http(file) => write!(f, "http {file}"),
        }
    }
}

/// Every door that a machine with that firmware can come to, in the order of a start.
#[must_use]
pub fn doors(architecture: Architecture, mac: kaltstart_protocol::ids::Mac) -> alloc::vec::Vec<Door> {
    let stages = [Stage::Pxe, Stage::HttpBoot, Stage::Ipxe, Stage::Os];
    let loaders: alloc::vec::Vec<Loader> =
        Loader::ALL.into_iter().filter(|loader| loader.architecture() == architecture).collect();
    let own = [
        Door::Tftp(File::GrubConfig(mac)),
        Door::Tftp(File::Kernel(mac)),
        Door::Tftp(File::Ramdisk(mac)),
        Door::Http(File::IpxeScript(mac)),
        Door::Http(File::Kernel(mac)),
        Door::Http(File::Ramdisk(mac)),
    ];
    let dhcp = stages.map(|stage| Door::Dhcp(Client { architecture, stage }));
    // No BIOS speaks IPv6 before a loader does.
    let dhcp6 = stages
        .into_iter()
        .filter(|stage| architecture != Architecture::Bios || matches!(stage, Stage::Ipxe | Stage::Os))
        .map(|stage| Door::Dhcp6(Client { architecture, stage }));
    let by_tftp = loaders.iter().map(|loader| Door::Tftp(File::Loader(*loader)));
    let by_http = loaders.iter().map(|loader| Door::Http(File::Loader(*loader)));
    dhcp.into_iter().chain(dhcp6).chain(by_tftp).chain(by_http).chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::judge;
    use crate::lifecycle::table;
    use alloc::collections::BTreeSet;
    use kaltstart_protocol::ids::Mac;
    use std::format;
    use std::string::String;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

    fn policies() -> [Policy; 3] {
        use UefiLoader::{Ipxe, Signed};
        [(Ipxe, false), (Signed, false), (Ipxe, true)].map(|(uefi, looping)| Policy { uefi, looping })
    }

    #[test]
    fn p01_every_door_gives_every_machine_what_the_golden_table_says() {
        let mut text = String::new();
        let situations = table::situations();
        let judged = situations.iter().map(|(name, machine)| {
            let (decision, why) = judge(machine);
            (name.as_str(), Some(decision), why)
        });
        let unknown = ("not known", None, "nobody knows which machine asks");
        for (name, decision, why) in core::iter::once(unknown).chain(judged) {
            text.push_str(&format!("\n[{name}]\nwhy: {why}\n"));
            let mut listed = BTreeSet::new();
            for architecture in [Architecture::Bios, Architecture::UefiX64, Architecture::UefiX86] {
                for door in doors(architecture, MAC) {
                    if !listed.insert(format!("{door}")) {
                        continue;
                    }
                    let offers =
                        policies().map(|policy| format!("{}", offer(decision.as_ref(), policy, door)));
                    let [ipxe, signed, looping] = offers;
                    text.push_str(&format!("{door}: {ipxe}"));
                    if signed != ipxe {
                        text.push_str(&format!("; signed: {signed}"));
                    }
                    if looping != ipxe {
                        text.push_str(&format!("; looping: {looping}"));
                    }
                    text.push('\n');
                }
            }
        }
        table::compare("doors.txt", &text);
    }

    #[test]
    fn p01_no_door_starts_anything_for_a_machine_that_may_not() {
        for decision in [None, Some(BootDecision::Local)] {
            for policy in policies() {
                for architecture in [Architecture::Bios, Architecture::UefiX64, Architecture::UefiArm64] {
                    for door in doors(architecture, MAC) {
                        let given = offer(decision.as_ref(), policy, door);
                        let loader =
                            matches!(door, Door::Tftp(File::Loader(_)) | Door::Http(File::Loader(_)));
                        match given {
                            Offer::Nothing(_) | Offer::OwnDisk => {}
                            Offer::File if loader && decision.is_none() => {}
                            other => panic!("{door}: {other}"),
                        }
                    }
                }
            }
        }
    }
}
