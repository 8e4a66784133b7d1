//! Named problems: a stable code, what it means, what to do next.

use crate::language::Language;
use alloc::string::String;
use core::fmt;
use serde::{Deserialize, Serialize};

mod german;

/// A problem seen on one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which problem.
    pub code: Code,
    /// What was seen this time: numbers, names, the peer's answer.
    pub detail: String,
}

impl Finding {
    /// A finding with its proof.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code, self.code.title(), self.detail)
    }
}

/// Declares the codes once: variant, number, title, what to do next.
macro_rules! codes {
    ($($variant:ident = $number:literal, $title:literal, $next:literal;)+) => {
        /// A problem's stable name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Code {
            $(
                #[doc = concat!("`", $number, "`: ", $title, ". ", $next)]
                #[serde(rename = $number)]
                $variant,
            )+
        }

        impl Code {
            /// All codes, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The stable text form.
            #[must_use]
            pub const fn number(self) -> &'static str {
                match self { $(Self::$variant => $number),+ }
            }

            /// What it means, as a short clause.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),+ }
            }

            /// What to do next.
            #[must_use]
            pub const fn next(self) -> &'static str {
                match self { $(Self::$variant => $next),+ }
            }
        }
    };
}

codes! {
    NoDhcp = "KS-1001", "switched on, but no DHCP packet was seen",
        "Check the cable, that network boot is in the boot order, the switch port's VLAN, and the relay.";
    NoBootFile = "KS-1002", "address given, but no boot file was fetched",
        "Check that UDP 69 and the HTTP port of this server reach the machine, and that no other DHCP server answers first.";
    AgentNoLink = "KS-1003", "no network interface has a link",
        "Check the cable; if an interface is missing, its driver may not be in the ramdisk.";
    AgentNoDhcp = "KS-1004", "the agent got no answer to DHCP",
        "Check that the DHCP server or relay serves this VLAN on this port.";
    ServerUnreachable = "KS-1005", "the agent cannot reach the server",
        "Check the address in the message, routes and firewalls; the agent goes on trying.";
    PoolExhausted = "KS-1006", "no free address in the pool",
        "See in `ks dhcp leases` who has the addresses. Those that are `in_use` were not given by this server: hosts unknown here answered for them; find these hosts, or `exclude` their addresses. Otherwise enlarge the pool, or reserve an address for this machine.";
    UnknownNetwork = "KS-1007", "it asks from a network that is not served",
        "Add the network to the configuration, or correct the relay's address; the relay is in the proof.";
    ForeignServer = "KS-1008", "another DHCP server answered first",
        "Find the server in the proof; switch it off, take this network from it, or let it name this server.";
    ProxyIgnored = "KS-1009", "the firmware ignored the boot offer beside the other DHCP server's",
        "Update the firmware, or enter this server and its boot file at the other DHCP server.";
    OfferNotRequested = "KS-1010", "an address was offered, but never requested",
        "Answers do not reach the machine: check the relay, the VLAN and DHCP snooping on the way back.";
    BootFileMissing = "KS-1011", "a boot file was asked for that is not there, or cannot be read",
        "If the proof names a key of the configuration, the file is this server's own: put it there and let the server's user read it; `ks boot try` names it. If the name in the proof is one of the loaders that docs/configuration.md lists, put that file into `boot.loaders`; under another name nothing of that directory is given out: correct who names it.";
    PathMtu = "KS-1012", "large packets do not reach the machine",
        "Check the MTU of every link on the way, and firewalls that drop ICMP; small packets do pass.";
    PacketLoss = "KS-1013", "packets are lost on the way",
        "Check cable, port counters and duplex of the machine's link.";
    TransferStopped = "KS-1014", "the machine stopped in the middle of a boot file",
        "Look at its console: it reset, ran out of memory, or lost its link at the block in the proof.";
    HttpAborted = "KS-1015", "an HTTP transfer of a boot file was broken off",
        "Look at its console and at proxies and firewalls on the way; the byte is in the proof.";
    BootLoop = "KS-1016", "it starts over and over",
        "Look at its console; the proof tells how far each start came.";
    WrongArchitecture = "KS-1017", "there is no boot file for its architecture",
        "Switch the firmware to BIOS, or to UEFI on x86-64 or 64-bit ARM: there are loaders for these alone. If the proof names a loader made for another machine, put the right one into `boot.loaders` under that name.";
    SecureBootRefused = "KS-1018", "Secure Boot refused the loader",
        "Use the signed loader for this machine, enrol the loader's key, or switch Secure Boot off.";
    AddressConflict = "KS-1019", "its address is in use by another machine",
        "Find who uses the address in the proof, and take the address out of the pool or the other machine.";
    LinkDelay = "KS-1020", "its first questions did not arrive",
        "Let the switch port forward at once: edge port (portfast), no spanning tree, no slow LACP.";
    DiskNotBootable = "KS-1021", "its own disk does not start",
        "Check that the disk is there and first after the network; `ks rebuild` lays the system down anew.";
    LoaderSilent = "KS-1022", "the loader was fetched, but did nothing",
        "Look at its console; try the other loader, or update the firmware.";
    KernelSilent = "KS-1023", "kernel and ramdisk were fetched, but no agent reported",
        "Look at its console: the kernel needs a driver, more memory, or arguments for this hardware.";
    LinkFlaps = "KS-1024", "its link comes and goes",
        "Replace cable or transceiver, and compare speed and duplex at both ends; the switch port's log shows the same changes.";
    SubnetNotServed = "KS-1025", "this server does not serve the machine's subnet now",
        "`ks dhcp status` shows its role: if it is `refused`, another DHCP server was there first; unplug that one, or set `mode = \"proxy\"` or `allow_other_servers = true` for the subnet.";
    LeaseNotStored = "KS-1026", "this server cannot store leases",
        "Make room on the disk of `data_dir`, or see in the server's log why nothing can be written; leases are stored again by themselves.";
    LeasesRestored = "KS-1027", "new addresses wait since the database was restored",
        "Wait until the longest lease time has passed since the restore, reserve an address for the machine, or set `ping_check = \"never\"` for the subnet if no lease was given after the copy was made.";
    NoAddressServer = "KS-1028", "nobody gives it an address",
        "Start the DHCP server that gives addresses on this subnet, or let this one give them: `mode = \"auto\"` or `\"authoritative\"` and a `pool`.";
    ForeignDhcpServer = "KS-1030", "another DHCP server answers on this subnet",
        "If it does not belong there, find its hardware address on the switches and unplug it. If it does, nothing is to be done where the subnet's mode is `auto` or `proxy`; where it is `authoritative`, set `mode = \"proxy\"` or `allow_other_servers = true`.";
    ForeignBootServer = "KS-1031", "another boot server answers on this subnet",
        "Take one of the two away: machines start what the quicker one names.";
    ServerNotTrusted = "KS-1040", "the server cannot prove that it is this site's",
        "Compare the fingerprints in the message with `kaltstart tls show` on the server: restart the machine if it tells the one that was seen; if not, somebody else answers at the server's address. Nothing secret was sent.";
    NoDisk = "KS-2101", "no usable disk",
        "Check that the controller sees a disk, and that its driver is in the ramdisk; removable and read-only disks are never used.";
    AmbiguousDisk = "KS-2102", "several disks fit and no rule chooses",
        "Add a disk rule (serial, wwn, model, size) to the profile; the candidates are in the message. Restart the server, try it (`ks layout try NODE --profile PROFILE`), and order again.";
    DiskTooSmall = "KS-2103", "the disk is too small",
        "Use a larger disk, or a smaller layout or image. After a change of the configuration restart the server, try it (`ks layout try NODE --profile PROFILE`), and order again.";
    NoMatchingDisk = "KS-2105", "no disk fits the rule",
        "Correct the rule of the profile; the disks are in the message. Restart the server, try it (`ks layout try NODE --profile PROFILE`), and order again.";
    DiskFailed = "KS-2106", "the disk refused an operation",
        "Look at the agent's log; test or replace the disk.";
    ForeignData = "KS-2107", "the disk holds what nobody gave up",
        "If all that the message names may be lost, order again with the `--erase` it tells. If not: to lay a profile down choose another disk by its rule, for a release take the disk out. Nothing was written.";
    GrantRefused = "KS-2108", "the wipe grant is not for what is there",
        "Compare the message with the machine: a disk was changed or moved, something was formatted, or the grant is another machine's or too old. Order again. Nothing was written.";
    NotErased = "KS-2109", "a disk could not be erased",
        "Nobody gets the node. Take the disk out by the serial number in the message and destroy it, `ks node accept` the machine without it, and release it again; or release it again as it is, if the reason has gone.";
    OrderOutdated = "KS-2110", "the order is older than the restored database",
        "Look whose machine it is now: the copy that was restored does not know what became of the order. If it shall still be done, order again.";
    OtherMachine = "KS-2111", "the agent runs on another machine than the node",
        "Compare the addresses in the message with the machine: a network card was changed or is not seen by the agent, or another machine uses the node's address. Declare the node with the address it has now. Nothing was written.";
    TooManyLosses = "KS-2112", "too many machines would lose data at once",
        "Find out who orders so much: `ks job list` shows what, `ks job show` who approved it. If it is meant so, wait until an hour has passed, or raise `machines_per_hour` in section `wipe` of the configuration and restart the server; then order again. Nothing was written.";
    DiskCount = "KS-2113", "not as many disks as the layout wants",
        "Compare the disks in the message with the profile's rule and the layout's `array`: the rule must fit exactly so many; seat or replace a disk that is missing. Nothing was written.";
    DisksUnequal = "KS-2114", "the disks do not make an array",
        "Use disks of one size and kind, and let the profile's rule choose only them; of a disk that is there by two ways unplug one. Nothing was written.";
    CannotKeep = "KS-2115", "a partition that is to be kept is not as the layout has it",
        "Compare the message with `ks layout try NODE --profile PROFILE`: order with a profile whose layout has the partition where it is, or without `--keep` if its data may be lost. Nothing was written.";
    Unfit = "KS-2116", "image and layout do not fit together",
        "As the message says: let the profile take the image as an archive (tar), a layout with one ext4 for `/`, or one with larger partitions; then restart the server and order again. Nothing was written.";
    OnlyObserving = "KS-2117", "the server only observes since a copy was restored",
        "See what differs with `ks restored`, and take the copy as it is with `ks restored accept`; then order. Nothing was written.";
    DiskFailing = "KS-2201", "a disk says that it is failing",
        "Save what is on the disk and replace it: slot and serial number are in the message. No job writes to it; another disk is chosen by the profile's rule.";
    PartMissing = "KS-2202", "a part that was there is gone",
        "Seat the part in the message anew or replace it; the machine's next job looks again. If it was taken out on purpose, `ks node accept` the machine as it is.";
    MemoryUneven = "KS-2203", "memory modules differ in size",
        "Compare the modules in the message with the order: one is wrong, badly seated, or partly switched off by the firmware.";
    ClassDiffers = "KS-2204", "the machine is not made as its class says",
        "Compare the parts in the message with the order: seat or replace what is missing or wrong, by slot and serial number; the machine's next job looks again. If it is meant to be so, correct its `[[class]]`.";
    FirmwareOld = "KS-2205", "the firmware is older than its class says",
        "Update the machine's firmware by its maker's tool or from its management controller; the next job looks again.";
    MemoryFaulty = "KS-2206", "memory gives back other than was written",
        "Replace memory modules until a burn-in passes: exchange half of them at a time. If it follows none of them, the board or the processor is at fault.";
    ProcessorFaulty = "KS-2207", "a processor computes wrongly",
        "Take the machine out of service: no result of it can be trusted. Check cooling and clock settings in the firmware, then replace the processor in the message and burn in again.";
    DiskUnreadable = "KS-2208", "a disk cannot be read everywhere",
        "Save what is on the disk and replace it: its serial number is in the message. A cable or backplane can be at fault if several disks of one controller are named.";
    NetworkFaulty = "KS-2209", "the network gave other bytes, or none",
        "Replace the cable and look at the error counters of the switch port in the message's interface; then replace the network card. Burn in again.";
    RestartedUnderLoad = "KS-2210", "the machine started again during its burn-in",
        "Nobody should have switched it off: look at power supplies, cooling and the event log of its management controller, then burn in again.";
    PowerSupplyFaulty = "KS-2211", "a power supply is faulty, or has no input",
        "Look at the power supply in the message: plug its cable in, or replace it; the machine's next job looks again. Until then it runs without a spare.";
    ImageMismatch = "KS-3001", "the image's digest is wrong",
        "The stored image is damaged: build or import it again. Nothing bootable was written.";
    ImageTruncated = "KS-3002", "the image ended early",
        "The stored image is damaged: build or import it again. Nothing bootable was written.";
    ImageInvalid = "KS-3003", "the image cannot be unpacked",
        "Build or import the image again; the message names the entry. Nothing bootable was written.";
    ImageMissing = "KS-3004", "the image is not on the server",
        "Put the image into the server's image directory and check its name in the profile.";
    ImageUntrusted = "KS-3005", "the image is not signed by a key of this site",
        "Sign its manifest with a key of `images.keys`: `minisign -S -m manifest.json`; if somebody else changed it, find out who. No disk was touched.";
    Silent = "KS-4001", "the machine fell silent",
        "Look at its console; the job's log holds what it said last. `ks deploy` starts again.";
    BootloaderFailed = "KS-4002", "the boot loader could not be installed",
        "The message says what was missing; check the boot section of the image's manifest.";
    ToolFailed = "KS-4003", "a program of the ramdisk failed",
        "Look at the agent's log; the message holds the program's own words.";
    TooManyAttempts = "KS-4004", "the machine came back for its job too often",
        "It resets during the job: look at its console and hardware, then order again.";
    ImageUnfetched = "KS-4005", "the image cannot be fetched",
        "Check the server's HTTP port and log; the agent tried again until its limit.";
    AgentDefect = "KS-4006", "the agent has a defect",
        "Report the message with the job's log; `ks deploy` starts again.";
    IdentityRefused = "KS-4007", "host name, domain or keys cannot be written",
        "Correct what the message names in the node or its profile. The disk was not touched.";
    RecallFailed = "KS-4008", "the installed system could not start the agent",
        "The message says why. Its disk was not touched: order again without `--via kexec` (`ks deploy`) and start the machine over the network.";
    NotReported = "KS-5001", "the installed system did not report in",
        "Look at its console: it must boot from its own disk and get an address.";
    ReportDiffers = "KS-5002", "the installed system is not what was ordered",
        "Compare the message with the order; another disk or an older system may have started.";
    BootOrderChanged = "KS-5003", "something has changed the boot order",
        "If the message says that it is set again, nothing; if it comes back, find the update that does it, or lock the order in the firmware's setup.";
    KeyRefused = "KS-5004", "its disks stay closed: their key is not released, or opens nothing",
        "The message says why. If the disk was moved, put it back into its machine; if the machine got another board, `ks node accept NODE --board UUID`; if the key opens nothing, put the right disk in. Nothing was changed.";
}

impl Code {
    /// [`Code::title`] in that language.
    #[must_use]
    pub const fn title_in(self, language: Language) -> &'static str {
        match language {
            Language::English => self.title(),
            Language::German => german::title(self),
        }
    }

    /// [`Code::next`] in that language.
    #[must_use]
    pub const fn next_in(self, language: Language) -> &'static str {
        match language {
            Language::English => self.next(),
            Language::German => german::next(self),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend_and_every_code_says_what_to_do() {
        assert!(Code::ALL.windows(2).all(|pair| pair[0].number() < pair[1].number()));
        for language in [Language::English, Language::German] {
            assert!(Code::ALL.iter().all(|code| code.next_in(language).ends_with('.')), "{language:?}");
        }
        assert!(Code::ALL.iter().all(|code| german::next(*code) != code.next()));
    }
}
