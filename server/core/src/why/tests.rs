//! Each cause from the packets that show it, and none from those of a good start.

use super::*;
use crate::dhcp::Drop;
use crate::dhcp::bootfile::MISSING_FILE;
use crate::dhcp::client::{Architecture, Client, Stage};
use crate::machine::Node;
use crate::trace::{
    Answer, Answer6, Exchange, Exchange6, ForeignOffer, HttpAnswer, Loading, Protocol, Start, TftpEnd,
    TftpTransfer, What,
};
use core::net::{Ipv4Addr, Ipv6Addr};
use kaltstart_protocol::agent_api::Mode;
use kaltstart_protocol::dhcp::MessageType::{self, Ack, Decline, Discover, Offer, Request};
use kaltstart_protocol::dhcp6;
use kaltstart_protocol::dhcp6::MessageType::{Advertise, Reply, Solicit};
use kaltstart_protocol::facts::{Facts, Nic};
use kaltstart_protocol::ids::NodeId;
use std::format;
use std::vec;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 50);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);
const UEFI: Client = Client { architecture: Architecture::UefiX64, stage: Stage::Pxe };
const BIOS: Client = Client { architecture: Architecture::Bios, stage: Stage::Pxe };
const IPXE: Client = Client { architecture: Architecture::UefiX64, stage: Stage::Ipxe };
const OS: Client = Client { architecture: Architecture::Bios, stage: Stage::Os };
const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
const START: u64 = 1_700_000_000_000;

/// A past in the making; time passes by itself, a second per sighting.
struct Past {
    now: u64,
    trace: Vec<Sighting>,
}

impl Past {
    fn new() -> Self {
        Self { now: START, trace: Vec::new() }
    }

    fn saw(mut self, what: What) -> Self {
        self.now += 1_000;
        self.trace.push(Sighting { at: Millis(self.now), what });
        self
    }

    fn wait(mut self, seconds: u64) -> Self {
        self.now += seconds * 1_000;
        self
    }

    fn ask(self, kind: MessageType, client: Client, answer: Answer) -> Self {
        let relay = None;
        self.saw(What::Dhcp(Exchange {
            kind,
            client,
            secs: 0,
            relay,
            server: None,
            wish: Some(ADDRESS),
            answer,
        }))
    }

    fn dropped(self, kind: MessageType, client: Client, why: Drop) -> Self {
        self.ask(kind, client, Answer::Silent { why })
    }

    fn offered(self, client: Client, file: &str) -> Self {
        self.ask(Discover, client, sent(Offer, Some(ADDRESS), file))
    }

    /// Four messages, after which the client has an address.
    fn addressed(self, client: Client, file: &str) -> Self {
        self.offered(client, file).ask(Request, client, sent(Ack, Some(ADDRESS), file))
    }

    fn ask6(self, kind: dhcp6::MessageType, client: Client, answer: Answer6) -> Self {
        self.saw(What::Dhcp6(Exchange6 { kind, client, relay: None, answer }))
    }

    /// Two messages in vain, or four after which the client has an address.
    fn asked6(self, client: Client, address: Option<Ipv6Addr>, file: &str) -> Self {
        let sent = |kind| Answer6::Sent { kind, address, file: Some(file.into()) };
        let advertised = self.ask6(Solicit, client, sent(Advertise));
        if address.is_some() {
            advertised.ask6(dhcp6::MessageType::Request, client, sent(Reply))
        } else {
            advertised
        }
    }

    fn tftp(self, file: &str, block_bytes: u32, bytes: u64, resent: u64, end: TftpEnd) -> Self {
        self.saw(What::Tftp(transfer(file, block_bytes, bytes, resent, end)))
    }

    fn fetched(self, file: &str) -> Self {
        self.tftp(file, 1468, 200_000, 0, TftpEnd::Complete)
    }

    fn http(self, path: &str, status: u16, bytes: u64) -> Self {
        self.saw(What::Http(HttpAnswer { path: path.into(), status, bytes, total: Some(1_000) }))
    }

    /// From the loader to the ramdisk.
    fn started(self) -> Self {
        self.addressed(UEFI, "snponly.efi")
            .tftp("snponly.efi", 1468, 0, 0, TftpEnd::Probed)
            .fetched("snponly.efi")
            .addressed(IPXE, "http://x/script.ipxe")
            .saw(What::Script(Start::Agent { mode: Mode::Install }))
            .http("/boot/m/vmlinuz", 200, 1_000)
            .http("/boot/m/ramdisk", 200, 1_000)
    }

    fn diagnosis(&self, signed: bool, machine: u16) -> Diagnosis {
        let loader = Loader::of(&loader::tests::image(machine, signed));
        let site = Site {
            networks: vec![Network { address: Ipv4Addr::new(10, 77, 0, 0), prefix: 24 }],
            prefixes: vec![Prefix { address: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0), length: 64 }],
            loaders: BTreeMap::from([("snponly.efi".into(), loader)]),
            in_use: 7,
        };
        why(&self.trace, None, &site, Millis(self.now))
    }

    #[track_caller]
    fn shows(&self, code: Code, likelihood: Likelihood, words: &str) {
        self.shows_of(&self.diagnosis(false, AMD64), code, likelihood, words);
    }

    #[track_caller]
    fn shows_of(&self, diagnosis: &Diagnosis, code: Code, likelihood: Likelihood, words: &str) {
        let first = diagnosis.causes.first().unwrap_or_else(|| panic!("no cause: {diagnosis:?}"));
        assert_eq!((first.code, first.likelihood), (code, likelihood), "{diagnosis:#?}");
        let proof = first.finding().detail;
        assert!(proof.contains(words), "{words:?} in {proof:?}");
    }

    #[track_caller]
    fn shows_nothing(&self) -> Diagnosis {
        let diagnosis = self.diagnosis(false, AMD64);
        assert!(diagnosis.causes.is_empty(), "{diagnosis:#?}");
        diagnosis
    }
}

const AMD64: u16 = 0x8664;

fn sent(kind: MessageType, address: Option<Ipv4Addr>, file: &str) -> Answer {
    Answer::Sent { kind, address, file: Some(file.into()).filter(|file: &String| !file.is_empty()) }
}

fn with_secs(mut past: Past, secs: u16) -> Past {
    if let Some(Sighting { what: What::Dhcp(exchange), .. }) = past.trace.last_mut() {
        exchange.secs = secs;
    }
    past
}

fn transfer(file: &str, block_bytes: u32, bytes: u64, resent: u64, end: TftpEnd) -> TftpTransfer {
    TftpTransfer {
        file: file.into(),
        block_bytes,
        window: 1,
        size: Some(200_000),
        bytes,
        answered: bytes > 0 || end == TftpEnd::Probed,
        sent: bytes / u64::from(block_bytes) + resent,
        resent,
        timeouts: if end == TftpEnd::TimedOut { 5 } else { 0 },
        repeated_acks: 0,
        duration_ms: 500,
        end,
    }
}

#[test]
fn a_good_start_has_no_cause_and_says_what_is_going_on() {
    assert_eq!(Past::new().shows_nothing().now.text, "nothing was seen of it lately");
    Past::new().saw(What::Power).wait(60).shows_nothing();
    Past::new().saw(What::Power).offered(UEFI, "snponly.efi").wait(3).shows_nothing();
    let loading = Past::new().addressed(UEFI, "snponly.efi").fetched("snponly.efi").wait(5).shows_nothing();
    assert!(loading.now.text.contains("fetched \"snponly.efi\""), "{:?}", loading.now);
    assert_eq!(loading.ruled_out.len(), 2, "{:?}", loading.ruled_out);
    let up = Past::new().started().addressed(OS, "").saw(What::Agent { mode: Mode::Install }).wait(600);
    assert_eq!(up.shows_nothing().now.text, "its agent said hello (install)");
}

#[test]
fn a_machine_that_is_sent_to_its_disk_and_starts_it_has_no_cause() {
    let uefi = Past::new()
        .addressed(UEFI, MISSING_FILE)
        .tftp(MISSING_FILE, 512, 0, 0, TftpEnd::NotFound)
        .wait(20)
        .addressed(OS, "");
    assert!(uefi.shows_nothing().now.text.contains("os"));
    Past::new().addressed(IPXE, "").saw(What::Script(Start::Local)).wait(60).shows_nothing();
}

#[test]
fn ks1001_no_packet_since_power_on() {
    Past::new().saw(What::Power).wait(200).shows(Code::NoDhcp, Likelihood::Medium, "200 s");
    let before = Past::new().started().wait(700).saw(What::Power).wait(700);
    before.shows(Code::NoDhcp, Likelihood::High, "did ask in an earlier start");
}

#[test]
fn ks1002_nothing_is_asked_for() {
    let past = Past::new().addressed(UEFI, "snponly.efi").wait(60);
    past.shows(Code::NoBootFile, Likelihood::Medium, "snponly.efi");
}

#[test]
fn a_file_that_is_being_loaded_is_no_fault() {
    let begun = |file: &str| What::Loading(Loading::begun(Protocol::Tftp, file));
    let slow = Past::new().addressed(UEFI, "snponly.efi").saw(begun("snponly.efi")).wait(25);
    let now = slow.shows_nothing().now;
    assert_eq!(now.text, "\"snponly.efi\" is being loaded by TFTP");
    // The shim is heard by what it loads.
    let shim = Past::new().addressed(UEFI, "shimx64.efi").fetched("shimx64.efi");
    shim.saw(begun("grubx64.efi")).wait(60).shows_nothing();
    // No kernel is silent before its ramdisk is there.
    let ramdisk = Past::new().started().saw(begun("m/ramdisk")).wait(300);
    ramdisk.shows_nothing();
    ramdisk.wait(1_800).shows(Code::KernelSilent, Likelihood::Medium, "no agent reported");
}

#[test]
fn ks1006_the_pool_is_empty() {
    let past = Past::new().dropped(Discover, UEFI, Drop::PoolExhausted);
    past.shows(Code::PoolExhausted, Likelihood::High, "no free address");
    past.shows(Code::PoolExhausted, Likelihood::High, "hosts unknown here: 7;");
    past.addressed(UEFI, "snponly.efi").shows_nothing();
}

#[test]
fn ks1007_a_network_that_is_not_served() {
    let mut past = Past::new().dropped(Discover, UEFI, Drop::UnknownSubnet);
    past.shows(Code::UnknownNetwork, Likelihood::Medium, "served are 10.77.0.0/24");
    if let What::Dhcp(exchange) = &mut past.trace[0].what {
        exchange.relay = Some(Ipv4Addr::new(10, 9, 0, 1));
    }
    past.shows(Code::UnknownNetwork, Likelihood::High, "relay 10.9.0.1");
    let past = Past::new().dropped(Discover, UEFI, Drop::UnknownRelay(Ipv4Addr::new(10, 9, 0, 1)));
    past.shows(Code::UnknownNetwork, Likelihood::Medium, "served are 10.77.0.0/24");
}

#[test]
fn ks1008_another_server_is_chosen() {
    let past = Past::new().offered(UEFI, "snponly.efi").dropped(Request, UEFI, Drop::OtherServer(OTHER));
    past.shows(Code::ForeignServer, Likelihood::High, "took the offer of 10.77.0.254");
    // The firmware came to us, and the loader it was given went to the other.
    let past = Past::new().addressed(UEFI, "snponly.efi").fetched("snponly.efi");
    let past = past.dropped(Request, IPXE, Drop::OtherServer(OTHER));
    past.shows(Code::ForeignServer, Likelihood::High, "took the offer of 10.77.0.254");
    past.saw(What::Agent { mode: Mode::Install }).shows_nothing();
    // A system may take whom it likes.
    Past::new().dropped(Request, OS, Drop::OtherServer(OTHER)).shows_nothing();
}

#[test]
fn ks1009_a_proxy_s_offer_is_ignored() {
    let offer = ForeignOffer { server: OTHER, mac: None, address: Some(ADDRESS), file: None };
    let past = |file: Option<&str>| {
        Past::new()
            .ask(Discover, UEFI, sent(Offer, None, "snponly.efi"))
            .saw(What::ForeignOffer(ForeignOffer { file: file.map(Into::into), ..offer.clone() }))
            .dropped(Request, UEFI, Drop::OtherServer(OTHER))
    };
    past(None).wait(60).shows(Code::ProxyIgnored, Likelihood::Medium, "asked for nothing here");
    past(Some("pxelinux.0")).wait(60).shows(Code::ProxyIgnored, Likelihood::High, "pxelinux.0");
    past(None).fetched("snponly.efi").wait(5).shows_nothing();
}

#[test]
fn ks1010_an_offer_is_never_requested() {
    let past = Past::new().offered(BIOS, "undionly.kpxe").wait(15);
    past.shows(Code::OfferNotRequested, Likelihood::Medium, "asked 1 times");
    let past = past.offered(BIOS, "undionly.kpxe").offered(BIOS, "undionly.kpxe");
    past.shows(Code::OfferNotRequested, Likelihood::High, "asked 3 times");
}

#[test]
fn ks1011_the_boot_file_is_not_there() {
    let past = Past::new().addressed(UEFI, "snponly.efi");
    let missing = past.tftp("snponly.efi", 512, 0, 0, TftpEnd::NotFound);
    missing.shows(Code::BootFileMissing, Likelihood::High, "snponly.efi");
    // shim asks for files that need not be there.
    let shim = Past::new().addressed(UEFI, "shimx64.efi").fetched("shimx64.efi");
    let shim = shim.tftp("revocations_sbat.efi", 512, 0, 0, TftpEnd::NotFound).fetched("grubx64.efi");
    shim.wait(2).shows_nothing();
}

#[test]
fn ks1011_the_server_cannot_read_its_own_file() {
    let begun = || Past::new().addressed(UEFI, "snponly.efi");
    let kernel = format!("/boot/{MAC}/vmlinuz");
    for (name, key) in [("snponly.efi", "boot.loaders"), (&kernel, "boot.kernel")] {
        let proof = format!("this server cannot read it: {key}");
        let by_tftp = begun().tftp(name, 512, 0, 0, TftpEnd::Unreadable);
        by_tftp.shows(Code::BootFileMissing, Likelihood::High, &proof);
    }
    for (path, proof) in [
        (kernel.as_str(), "cannot read it: boot.kernel"),
        ("/boot/files/snponly.efi", "cannot read it: boot.loaders"),
        ("/boot/files/pxelinux.0", "is not there"),
    ] {
        let answer = HttpAnswer { path: path.into(), status: 404, bytes: 0, total: None };
        begun().saw(What::Http(answer)).shows(Code::BootFileMissing, Likelihood::High, proof);
    }
}

#[test]
fn ks1012_large_packets_do_not_pass() {
    let stopped = |answered, repeated_acks| {
        let end = TftpTransfer {
            answered,
            repeated_acks,
            ..transfer("snponly.efi", 1468, 0, 8, TftpEnd::TimedOut)
        };
        Past::new().addressed(UEFI, "snponly.efi").saw(What::Tftp(end))
    };
    stopped(true, 3).shows(Code::PathMtu, Likelihood::High, "1468 bytes not one");
    stopped(true, 3).shows(Code::PathMtu, Likelihood::High, "asked 3 times for the first block");
    // One that falls silent may have been switched off.
    let silent = stopped(true, 0);
    silent.shows(Code::TransferStopped, Likelihood::High, "nothing more after block 0");
    let causes = silent.diagnosis(false, AMD64).causes;
    let second = causes.get(1).map(|cause| (cause.code, cause.likelihood));
    assert_eq!(second, Some((Code::PathMtu, Likelihood::Medium)));
    // One that was not heard at all is not stopped by the size of a packet.
    stopped(false, 0).shows(Code::TransferStopped, Likelihood::High, "answered nothing");
}

#[test]
fn ks1013_packets_are_lost() {
    let past = Past::new().addressed(UEFI, "snponly.efi");
    past.tftp("snponly.efi", 512, 100_000, 60, TftpEnd::TimedOut).shows(
        Code::PacketLoss,
        Likelihood::High,
        "60 of 255",
    );
    let past = Past::new().addressed(UEFI, "snponly.efi");
    let slow = past.tftp("snponly.efi", 512, 200_000, 60, TftpEnd::Complete).wait(2);
    slow.shows(Code::PacketLoss, Likelihood::Low, "sent again");
}

#[test]
fn ks1014_the_machine_stops_at_a_block() {
    let past = Past::new().addressed(UEFI, "snponly.efi");
    let past = past.tftp("snponly.efi", 512, 51_200, 6, TftpEnd::TimedOut);
    past.shows(Code::TransferStopped, Likelihood::High, "after block 100 of 391");
    past.fetched("snponly.efi").addressed(IPXE, "http://x/script.ipxe").shows_nothing();
}

#[test]
fn ks1015_a_transfer_by_http_is_broken_off() {
    let past = Past::new().addressed(IPXE, "http://x/script.ipxe");
    let past = past.saw(What::Script(Start::Agent { mode: Mode::Install }));
    let past = past.http("/boot/m/vmlinuz", 200, 400);
    past.shows(Code::HttpAborted, Likelihood::High, "byte 400 of 1000");
    past.http("/boot/m/vmlinuz", 200, 1_000).shows_nothing();
}

#[test]
fn ks1016_it_starts_over_and_over() {
    let past = Past::new().started().wait(60).started().wait(60).started().wait(30);
    past.shows(Code::BootLoop, Likelihood::Medium, "3 starts in 3 min");
    let past = past.started().wait(30);
    past.shows(Code::BootLoop, Likelihood::High, "came as far as the kernel");
    past.saw(What::Agent { mode: Mode::Install }).shows_nothing();
}

#[test]
fn ks1017_no_loader_fits() {
    let riscv = Client { architecture: Architecture::UefiRiscv64, stage: Stage::Pxe };
    let past = Past::new().ask(Discover, riscv, sent(Offer, Some(ADDRESS), ""));
    past.shows(Code::WrongArchitecture, Likelihood::High, "there is no loader for it");
    let x86 = Client { architecture: Architecture::UefiX86, stage: Stage::Pxe };
    let past = Past::new().ask(Discover, x86, sent(Offer, Some(ADDRESS), ""));
    past.shows(Code::WrongArchitecture, Likelihood::High, "pxe/uefi-x86");
    let past = Past::new().addressed(UEFI, "snponly.efi").fetched("snponly.efi").wait(30);
    let diagnosis = past.diagnosis(false, 0xaa64);
    past.shows_of(&diagnosis, Code::WrongArchitecture, Likelihood::High, "made for UEFI on ARM64");
}

#[test]
fn ks1018_secure_boot_refuses_the_loader() {
    let past = Past::new().addressed(UEFI, "snponly.efi").fetched("snponly.efi");
    past.offered(UEFI, "snponly.efi").shows(Code::SecureBootRefused, Likelihood::High, "no signature");
    let past = Past::new().addressed(UEFI, "snponly.efi").fetched("snponly.efi").wait(40);
    past.shows(Code::SecureBootRefused, Likelihood::Medium, "fetched whole");
    // A loader whose signature is not believed: the firmware goes on; a silent one hangs.
    let past = past.offered(UEFI, "snponly.efi");
    let signed = past.diagnosis(true, AMD64);
    past.shows_of(&signed, Code::SecureBootRefused, Likelihood::Medium, "began again");
}

#[test]
fn ks1019_the_address_is_taken() {
    let past = Past::new().addressed(UEFI, "snponly.efi").ask(Decline, UEFI, Answer::NotAsked);
    past.shows(Code::AddressConflict, Likelihood::High, "10.77.0.50");
}

#[test]
fn ks1020_the_first_questions_are_lost() {
    let past = with_secs(Past::new().offered(UEFI, "snponly.efi"), 28);
    past.shows(Code::LinkDelay, Likelihood::Medium, "asking for 28 s");
    with_secs(Past::new().offered(UEFI, "snponly.efi"), 4).shows_nothing();
}

#[test]
fn ks1021_its_own_disk_does_not_start() {
    let sent = |past: Past| {
        past.addressed(UEFI, MISSING_FILE).tftp(MISSING_FILE, 512, 0, 0, TftpEnd::NotFound).wait(20)
    };
    sent(Past::new()).shows_nothing();
    let past = sent(sent(Past::new()));
    past.shows(Code::DiskNotBootable, Likelihood::High, "came back");
    let bios = |past: Past| past.addressed(IPXE, "").wait(20);
    bios(bios(Past::new())).shows(Code::DiskNotBootable, Likelihood::High, "came back");
    // Its system ran in between.
    sent(sent(Past::new()).addressed(OS, "")).shows_nothing();
}

#[test]
fn ks1024_the_link_comes_and_goes() {
    let mut machine =
        Machine { job: None, node: Node::new(NodeId::new(Millis(1), 1), "n".into(), MAC, true) };
    let nic = |name: &str, carrier_changes| Nic {
        name: name.into(),
        mac: MAC,
        link: true,
        carrier_changes,
        ..Nic::default()
    };
    let up = Past::new().started().saw(What::Agent { mode: Mode::Install });
    let site = Site { networks: vec![], prefixes: vec![], loaders: BTreeMap::new(), in_use: 0 };
    let mut diagnosis = |boot_nic: &str| {
        let facts = Facts { nics: vec![nic("eth0", 7), nic("eth1", 2)], ..Facts::default() };
        machine.node.facts = Some(Facts { boot_nic: Some(boot_nic.into()), ..facts });
        why(&up.trace, Some(&machine), &site, Millis(up.now))
    };
    up.shows_of(&diagnosis("eth0"), Code::LinkFlaps, Likelihood::Medium, "come or gone 7 times");
    assert_eq!(diagnosis("eth1").causes, []);
}

#[test]
fn ks1025_its_subnet_is_not_served() {
    let once = Past::new().dropped(Discover, UEFI, Drop::NotServed);
    once.shows(Code::SubnetNotServed, Likelihood::Medium, "the subnet is not served now");
    let again = once.wait(3).dropped(Discover, UEFI, Drop::NotServed);
    again.shows(Code::SubnetNotServed, Likelihood::High, "from this wire was not answered, 2 in all");
    let taken = again.dropped(Request, UEFI, Drop::OtherServer(OTHER));
    taken.shows(Code::SubnetNotServed, Likelihood::High, "took the offer of 10.77.0.254");
    // The other server sent it here.
    taken.fetched("snponly.efi").wait(2).shows_nothing();
    let checking = Past::new().dropped(Discover, UEFI, Drop::NotServed);
    checking.addressed(UEFI, "snponly.efi").wait(2).shows_nothing();
    assert_eq!(commands(Code::SubnetNotServed, "db-07", None)[0], "ks dhcp status");
}

#[test]
fn ks1026_a_lease_cannot_be_stored() {
    let past = Past::new().dropped(Discover, UEFI, Drop::NotStored);
    past.shows(Code::LeaseNotStored, Likelihood::High, "discover (pxe/uefi-x64) was not answered");
    let offered = past.offered(UEFI, "snponly.efi");
    offered.shows(Code::LeaseNotStored, Likelihood::High, "its lease cannot be stored now");
    offered.addressed(UEFI, "snponly.efi").wait(2).shows_nothing();
    let past = Past::new().ask6(Solicit, UEFI, Answer6::Silent { why: crate::dhcp6::Drop::NotStored });
    past.shows(Code::LeaseNotStored, Likelihood::High, "DHCPv6");
}

#[test]
fn ks1028_nobody_gives_it_an_address() {
    let asked = || Past::new().ask(Discover, UEFI, sent(Offer, None, "snponly.efi")).wait(12);
    asked().shows(Code::NoAddressServer, Likelihood::Medium, "without an address");
    let again = asked().ask(Discover, UEFI, sent(Offer, None, "snponly.efi"));
    again.shows(Code::NoAddressServer, Likelihood::High, "asked 2 times");
    let offer = ForeignOffer { server: OTHER, mac: None, address: Some(ADDRESS), file: None };
    asked().saw(What::ForeignOffer(offer)).shows_nothing();
}

#[test]
fn ks1027_the_leases_are_an_older_copy() {
    let past = Past::new().dropped(Discover, UEFI, Drop::Restored);
    past.shows(Code::LeasesRestored, Likelihood::High, "after the restored database was copied");
}

#[test]
fn ks1022_a_loader_does_nothing() {
    let past = Past::new().addressed(BIOS, "undionly.kpxe").fetched("undionly.kpxe").wait(30);
    past.shows(Code::LoaderSilent, Likelihood::Medium, "nothing came in the 30 s");
    let past = Past::new().addressed(UEFI, "snponly.efi").fetched("snponly.efi").wait(40);
    let signed = past.diagnosis(true, AMD64);
    past.shows_of(&signed, Code::LoaderSilent, Likelihood::Medium, "nothing came in the 40 s");
}

#[test]
fn ks1023_no_agent_reports() {
    let past = Past::new().started().saw(What::Syslog { text: "Kernel panic".into() }).wait(200);
    past.shows(Code::KernelSilent, Likelihood::Medium, "Kernel panic");
}

const ADDRESS6: Option<Ipv6Addr> = Some(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x50));
const TFTP6: &str = "tftp://[fd77::1]/snponly.efi";
const HTTP6: &str = "http://[fd77::1]:8080/boot/files/snponly.efi";
const HTTP_BOOT: Client = Client { architecture: Architecture::UefiX64, stage: Stage::HttpBoot };

#[test]
fn over_ipv6_no_address_is_a_cause_where_the_other_family_gives_none_either() {
    let full = Past::new().asked6(UEFI, None, "").asked6(UEFI, None, "");
    full.shows(
        Code::PoolExhausted,
        Likelihood::High,
        "DHCPv6 solicit (pxe/uefi-x64) from this wire found no",
    );
    full.addressed(UEFI, "snponly.efi").shows_nothing();
    Past::new().asked6(UEFI, None, "").asked6(UEFI, ADDRESS6, TFTP6).shows_nothing();
    // A system that asks for parameters alone.
    let parameters = Answer6::Sent { kind: Reply, address: None, file: None };
    Past::new().ask6(dhcp6::MessageType::InformationRequest, UEFI, parameters).shows_nothing();

    let strange = Answer6::Silent { why: crate::dhcp6::Drop::UnknownSubnet };
    let past = Past::new().ask6(Solicit, UEFI, strange);
    past.shows(Code::UnknownNetwork, Likelihood::High, "served by DHCPv6 are fd77::/64");
    past.addressed(UEFI, "snponly.efi").shows_nothing();
}

#[test]
fn over_ipv6_a_boot_file_that_was_told_is_asked_for_and_is_there() {
    let past = Past::new().asked6(UEFI, ADDRESS6, TFTP6);
    past.shows_nothing();
    let silent = past.wait(30);
    silent.shows(Code::NoBootFile, Likelihood::Medium, "told to start \"tftp://[fd77::1]/snponly.efi\"");
    let by_tftp = Past::new().asked6(UEFI, ADDRESS6, TFTP6);
    let missing = by_tftp.tftp("snponly.efi", 512, 0, 0, TftpEnd::NotFound);
    missing.shows(Code::BootFileMissing, Likelihood::High, "told to start \"tftp://");
    let by_http = Past::new().asked6(HTTP_BOOT, ADDRESS6, HTTP6).http("/boot/files/snponly.efi", 404, 0);
    by_http.shows(Code::BootFileMissing, Likelihood::High, "told to start \"http://");
    let stopped = Past::new().asked6(UEFI, ADDRESS6, TFTP6);
    let stopped = stopped.tftp("snponly.efi", 512, 51_200, 0, TftpEnd::TimedOut);
    stopped.shows(Code::TransferStopped, Likelihood::High, "after block 100");
}

#[test]
fn over_ipv6_what_was_fetched_does_not_run_or_starts_over() {
    let once = |past: Past| past.asked6(UEFI, ADDRESS6, TFTP6).fetched("snponly.efi");
    let refused = once(Past::new()).asked6(UEFI, ADDRESS6, TFTP6);
    refused.shows(Code::SecureBootRefused, Likelihood::High, "carries no signature");
    assert_eq!(boots(&refused.trace).len(), 2, "the firmware began again");
    let four = (0..4).fold(Past::new(), |past, _| once(past));
    let diagnosis = four.wait(1).diagnosis(true, AMD64);
    let again = diagnosis.causes.iter().find(|cause| cause.code == Code::BootLoop).expect("it loops");
    assert!(again.finding().detail.contains("4 starts"), "{again:?}");
}

#[test]
fn every_code_of_a_start_has_a_test_here() {
    let source = include_str!("tests.rs");
    for code in Code::ALL.iter().filter(|code| code.number().starts_with("KS-10")) {
        let elsewhere = matches!(
            code,
            Code::AgentNoLink
                | Code::AgentNoDhcp
                | Code::ServerUnreachable
                | Code::ServerNotTrusted
                | Code::ForeignDhcpServer
                | Code::ForeignBootServer
        );
        let name = format!("fn {}_", code.number().replace('-', "").to_lowercase());
        assert!(elsewhere || source.contains(&name), "{code}");
    }
}
