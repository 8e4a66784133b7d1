//! What another DHCP server is told, so that its clients boot from here.

use crate::config::{Config, Dhcp};
use crate::render;
use clap::ValueEnum;
use kaltstart_core::boot::{self, BootDecision, Door, Policy};
use kaltstart_core::dhcp::bootfile::{self, BootFile, LocalAnswer};
use kaltstart_core::dhcp::client::{Client, Stage};
use kaltstart_protocol::ids::Mac;
use minijinja::{Value, context};
use serde::{Deserialize, Serialize};

/// A DHCP server of somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OtherServer {
    /// Kea
    Kea,
    /// dnsmasq
    Dnsmasq,
    /// ISC dhcpd
    Isc,
}

impl OtherServer {
    /// Its word on the command line and in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kea => "kea",
            Self::Dnsmasq => "dnsmasq",
            Self::Isc => "isc",
        }
    }
}

/// iPXE's own setting: the hardware address of the interface it boots from.
const IPXE_MAC: &str = "${netX/mac}";

/// Who is told what: name, program, architectures (RFC 4578 §2.1 and IANA's list).
const RULES: [(&str, Stage, &[u16]); 5] = [
    ("kt-bios", Stage::Pxe, &[0]),
    ("kt-uefi-x64", Stage::Pxe, &[7, 9]),
    ("kt-uefi-arm64", Stage::Pxe, &[11]),
    ("kt-http-x64", Stage::HttpBoot, &[16]),
    ("kt-http-arm64", Stage::HttpBoot, &[19]),
];

/// The part of the other server's configuration that makes the clients of `subnet` boot from here.
///
/// # Errors
/// When the template is broken.
pub fn text(other: OtherServer, config: &Config, subnet: &Dhcp) -> Result<String, minijinja::Error> {
    let http = config.http_base();
    // Other servers know nothing of single machines.
    let policy = Policy { uefi: config.boot.uefi_loader, looping: false };
    let rules: Vec<Value> =
        RULES.iter().filter_map(|(name, stage, codes)| rule(name, *stage, codes, &http, policy)).collect();
    let template = match other {
        OtherServer::Kea => include_str!("../../templates/dhcp/kea.json"),
        OtherServer::Dnsmasq => include_str!("../../templates/dhcp/dnsmasq.conf"),
        OtherServer::Isc => include_str!("../../templates/dhcp/dhcpd.conf"),
    };
    let script = bootfile::script_url(&http, &IPXE_MAC);
    render::text(template, context! { server => subnet.address.to_string(), script, rules })
}

fn rule(name: &str, stage: Stage, codes: &[u16], http: &str, policy: Policy) -> Option<Value> {
    let client = Client { architecture: (*codes.first()?).into(), stage };
    // Whatever machine it is: only its boot script names one.
    let nobody = Mac([0; 6]);
    let offer = boot::offer(Some(&BootDecision::Discover), policy, Door::Dhcp(client));
    let file = match bootfile::choose(offer, stage, LocalAnswer::default(), http, nobody)? {
        BootFile::Tftp(name) => name.to_owned(),
        BootFile::Http(url) | BootFile::Script(url) => url,
    };
    Some(context! { name, codes => codes.to_vec(), file, http => stage == Stage::HttpBoot })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn options_are_as_their_golden_files_say() {
        let config = crate::config::tests::good();
        for (other, golden) in [
            (OtherServer::Kea, "kea.json"),
            (OtherServer::Dnsmasq, "dnsmasq.conf"),
            (OtherServer::Isc, "dhcpd.conf"),
        ] {
            let text = text(other, &config, &config.dhcp[0]).expect("rendered");
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates/golden").join(golden);
            let expected = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(text.trim_end(), expected.trim_end(), "{}", path.display());
        }
    }
}
