//! What clients are told besides an address: lease times and options, by site, subnet, class and
//! node. The nearest level that says something decides.

use super::Seen;
use super::subnet::Network;
use alloc::string::String;
use alloc::vec::Vec;
use kaltstart_protocol::dhcp::options::{Options, code};

/// Length of a lease where nothing else is said, seconds.
pub const LEASE_SECONDS: u32 = 3_600;
/// The shortest lease, seconds: shorter wishes would be renewals without end.
pub const LEASE_SECONDS_MIN: u32 = 60;

/// Options that name something to start. Firmware and loaders are told by
/// [`boot::decide`](crate::boot::decide) alone; other clients, as telephones, may be told by the configuration.
const BOOT: [u8; 8] = [
    code::VENDOR_SPECIFIC,
    code::VENDOR_CLASS,
    code::TFTP_SERVER,
    code::BOOT_FILE,
    // TFTP server addresses (RFC 5859), and what PXELINUX reads (RFC 5071).
    150,
    209,
    210,
    211,
];

/// Options that the protocol, the subnet or the node decide: the configuration cannot set them.
const OWN: [u8; 21] = [
    code::PAD,
    code::SUBNET_MASK,
    code::HOST_NAME,
    code::REQUESTED_ADDRESS,
    code::LEASE_TIME,
    code::OVERLOAD,
    code::MESSAGE_TYPE,
    code::SERVER_ID,
    code::PARAMETER_LIST,
    code::TEXT,
    code::MAX_MESSAGE_SIZE,
    code::RENEWAL_TIME,
    code::REBINDING_TIME,
    code::CLIENT_ID,
    code::USER_CLASS,
    code::RELAY_INFO,
    code::ARCHITECTURE,
    code::MACHINE_ID,
    code::SUBNET_SELECTION,
    code::IPXE,
    code::END,
];

/// Whether the configuration may set an option of that number.
#[must_use]
pub fn is_settable(code: u8) -> bool {
    !OWN.contains(&code)
}

/// What one level says; nothing where it leaves the choice to the next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parameters {
    /// Length of a lease that asks for none, seconds.
    pub lease_seconds: Option<u32>,
    /// The longest lease that is granted when it is asked for, seconds; none = the usual length.
    pub max_lease_seconds: Option<u32>,
    /// When clients begin to renew (T1), seconds; none = half the lease.
    pub renew_seconds: Option<u32>,
    /// When clients ask any server (T2), seconds; none = seven eighths of the lease.
    pub rebind_seconds: Option<u32>,
    /// Further options.
    pub options: Options,
}

impl Parameters {
    /// The longest lease this level leads to, seconds; none where it leaves that to the next.
    #[must_use]
    pub fn longest_lease(&self) -> Option<u32> {
        self.lease_seconds.max(self.max_lease_seconds)
    }

    /// The same, with what `further` says where this says nothing.
    #[must_use]
    pub fn or(mut self, further: &Self) -> Self {
        let Self { lease_seconds, max_lease_seconds, renew_seconds, rebind_seconds, options } = &mut self;
        *lease_seconds = lease_seconds.or(further.lease_seconds);
        *max_lease_seconds = max_lease_seconds.or(further.max_lease_seconds);
        *renew_seconds = renew_seconds.or(further.renew_seconds);
        *rebind_seconds = rebind_seconds.or(further.rebind_seconds);
        for (code, value) in further.options.iter() {
            if options.get(code).is_none() {
                options.set(code, value);
            }
        }
        self
    }
}

/// A kind of clients. All that is given must fit; a class without conditions fits everybody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// Beginning of the vendor class (option 60).
    pub vendor_class: Option<String>,
    /// One of the user classes (option 77).
    pub user_class: Option<String>,
    /// One of the architectures (option 93).
    pub architecture: Option<u16>,
    /// Beginning of the hardware address.
    pub mac: Vec<u8>,
    /// The network of the relay (giaddr).
    pub relay: Option<Network>,
    /// What its members are told.
    pub parameters: Parameters,
}

impl Class {
    /// Whether the sender belongs to it.
    #[must_use]
    pub fn fits(&self, seen: &Seen<'_>) -> bool {
        let Self { name: _, vendor_class, user_class, architecture, mac, relay, parameters: _ } = self;
        let message = &seen.message;
        let vendor = || message.vendor_class().unwrap_or_default();
        vendor_class.as_ref().is_none_or(|class| vendor().starts_with(class.as_str()))
            && user_class.as_ref().is_none_or(|class| message.user_classes().contains(&class.as_bytes()))
            && architecture.is_none_or(|number| message.architectures().any(|one| one == number))
            && (mac.is_empty() || seen.mac.is_some_and(|own| own.0.starts_with(mac)))
            && relay
                .is_none_or(|network| !message.giaddr.is_unspecified() && network.contains(message.giaddr))
    }
}

/// What holds for one client: the levels that speak about it, the nearest first.
#[derive(Debug, Clone)]
pub(super) struct Terms<'a>(Vec<&'a Parameters>);

impl<'a> Terms<'a> {
    /// Node, classes in their order, subnet (which includes the site).
    pub(super) fn of(seen: &'a Seen<'a>, node: Option<&'a Parameters>) -> Self {
        let subnet = seen.subnet;
        let classes = subnet.rules.classes.iter().filter(|class| class.fits(seen));
        let mut levels: Vec<_> = node.into_iter().collect();
        levels.extend(classes.map(|class| &class.parameters));
        levels.push(&subnet.parameters);
        Self(levels)
    }

    fn first(&self, of: impl Fn(&Parameters) -> Option<u32>) -> Option<u32> {
        self.0.iter().find_map(|level| of(level))
    }

    /// Length of the lease, seconds: as `asked` (option 51), within limits.
    pub(super) fn lease_seconds(&self, asked: Option<u32>) -> u32 {
        let usual = self.first(|level| level.lease_seconds).unwrap_or(LEASE_SECONDS);
        let longest = self.first(|level| level.max_lease_seconds).unwrap_or(usual).max(usual);
        let shortest = LEASE_SECONDS_MIN.min(usual);
        asked.map_or(usual, |asked| asked.clamp(shortest, longest))
    }

    /// T1 and T2 of a lease of that many seconds (RFC 2131 §4.4.5).
    pub(super) fn renewal(&self, lease: u32) -> (u32, u32) {
        let rebind = self.first(|level| level.rebind_seconds).filter(|t2| *t2 < lease);
        let rebind = rebind.unwrap_or(lease - lease / 8);
        let renew = self.first(|level| level.renew_seconds).filter(|t1| *t1 < rebind);
        (renew.unwrap_or(lease / 2).min(rebind), rebind)
    }

    /// Adds the options; for clients that `boot`, none that name something to start.
    pub(super) fn fill(&self, options: &mut Options, boots: bool) {
        for (code, value) in self.0.iter().flat_map(|level| level.options.iter()) {
            if options.get(code).is_none() && !(boots && BOOT.contains(&code)) {
                options.set(code, value);
            }
        }
    }
}
