//! What kind of program on what kind of machine is asking.

pub use super::architecture::Architecture;

use super::bootfile;
use core::fmt;
use kaltstart_protocol::dhcp::Message;
use kaltstart_protocol::dhcp6;
use serde::{Deserialize, Serialize};

/// Vendor class of PXE firmware, and of the answers to it (PXE 2.1 §2.2).
pub const PXE_CLIENT: &str = "PXEClient";
/// Vendor class of UEFI HTTP boot, and of the answers to it (UEFI 2.10 §24.7.3.3).
pub const HTTP_CLIENT: &str = "HTTPClient";

/// User class of iPXE.
const IPXE: &[u8] = b"iPXE";

/// Which program is asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// An operating system, or the agent.
    Os,
    /// Firmware that loads its boot file by TFTP.
    Pxe,
    /// Firmware that loads its boot file by HTTP.
    HttpBoot,
    /// iPXE, be it in the firmware or loaded by it.
    Ipxe,
}

/// A DHCP client as it describes itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// The machine.
    pub architecture: Architecture,
    /// The program.
    pub stage: Stage,
}

impl Client {
    /// Classifies the sender of a message.
    ///
    /// The first architecture of option 93 for which there are boot files counts; clients without
    /// that option are taken by the number in their vendor class, else for BIOS, which is older
    /// than the option.
    #[must_use]
    pub fn of(message: &Message) -> Self {
        let class = message.vendor_class().unwrap_or_default();
        Self::described(message.is_ipxe(), class, || message.architectures())
    }

    /// Classifies the sender of a DHCPv6 message, likewise, by options 15, 16 and 61.
    #[must_use]
    pub fn of_v6(message: &dhcp6::Message) -> Self {
        let ipxe = message.user_classes().any(|class| class == IPXE);
        let classes = || message.vendor_classes().filter_map(|(_, class)| core::str::from_utf8(class).ok());
        let boots = |class: &&str| class.starts_with(PXE_CLIENT) || class.starts_with(HTTP_CLIENT);
        let class = classes().find(boots).unwrap_or_default();
        Self::described(ipxe, class, || message.architectures())
    }

    fn described<I: Iterator<Item = u16>>(ipxe: bool, class: &str, architectures: impl Fn() -> I) -> Self {
        let stage = if ipxe {
            Stage::Ipxe
        } else if class.starts_with(PXE_CLIENT) {
            Stage::Pxe
        } else if class.starts_with(HTTP_CLIENT) {
            Stage::HttpBoot
        } else {
            Stage::Os
        };
        let in_class = || class.split_once(":Arch:")?.1.get(..5)?.parse().ok();
        let supported = |number: &u16| bootfile::is_supported((*number).into());
        let number =
            architectures().find(supported).or_else(|| architectures().next()).or_else(in_class).unwrap_or(0);
        Self { architecture: number.into(), stage }
    }

    /// Whether it is firmware or a loader, which would start what it is told.
    #[must_use]
    pub const fn boots(self) -> bool {
        !matches!(self.stage, Stage::Os)
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Os => return f.write_str("os"),
            Stage::Pxe => "pxe",
            Stage::HttpBoot => "http-boot",
            Stage::Ipxe => "ipxe",
        };
        write!(f, "{stage}/{}", self.architecture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_protocol::dhcp::MessageType;
    use kaltstart_protocol::dhcp::options::code;
    use kaltstart_protocol::ids::Mac;
    use std::string::ToString;

    #[test]
    fn p30_clients_are_told_apart() {
        // (option 93, vendor class, user class) → display form.
        let table: [(&[u8], &str, &str, &str); 16] = [
            (&[], "", "", "os"),
            (&[], "MSFT 5.0", "", "os"),
            (&[0, 0], "PXEClient:Arch:00000:UNDI:002001", "", "pxe/bios"),
            (&[0, 0], "PXEClient:Arch:00000:UNDI:002001", "iPXE", "ipxe/bios"),
            (&[0, 7], "PXEClient:Arch:00007:UNDI:003000", "", "pxe/uefi-x64"),
            (&[0, 9], "PXEClient:Arch:00009:UNDI:003000", "\x04iPXE", "ipxe/uefi-x64"),
            (&[0, 16], "HTTPClient:Arch:00016:UNDI:003000", "", "http-boot/uefi-x64"),
            (&[0, 11], "PXEClient:Arch:00011:UNDI:003000", "", "pxe/uefi-arm64"),
            (&[0, 19], "HTTPClient:Arch:00019:UNDI:003000", "", "http-boot/uefi-arm64"),
            (&[0, 6], "PXEClient:Arch:00006:UNDI:003000", "", "pxe/uefi-x86"),
            (&[0, 20], "HTTPClient:Arch:00020:UNDI:003000", "", "http-boot/bios"),
            (&[0, 27], "PXEClient:Arch:00027:UNDI:003000", "", "pxe/uefi-riscv64"),
            (&[0, 99], "PXEClient:Arch:00099:UNDI:003000", "", "pxe/arch-99"),
            (&[0, 6, 0, 7], "PXEClient", "", "pxe/uefi-x64"),
            (&[], "PXEClient:Arch:00007:UNDI:003000", "", "pxe/uefi-x64"),
            (&[], "PXEClient", "", "pxe/bios"),
        ];
        for (architecture, vendor, user, expected) in table {
            let mut message = Message::request(MessageType::Discover, 1, Mac([2; 6]));
            for (code, value) in [
                (code::ARCHITECTURE, architecture),
                (code::VENDOR_CLASS, vendor.as_bytes()),
                (code::USER_CLASS, user.as_bytes()),
            ] {
                if !value.is_empty() {
                    message.options.set(code, value);
                }
            }
            assert_eq!(Client::of(&message).to_string(), expected, "{vendor} {user}");
        }
    }
}
