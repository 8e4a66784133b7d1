//! Why a machine does not start, where firmware, loader or agent are real. More of it is checked
//! where such a machine starts anyway: `grant` (KS-1021), `secure_boot` (KS-1018), `finding`.

use crate::common::{AGENT_LIMIT, NODE, config};
use crate::local::NETWORK_ASKED;
use crate::why::{self, Site, named};
use anyhow::{Result, ensure};
use kaltstart_tests::clients::{DhcpClient, Maker as ClientMaker};
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::console::Mark;
use kaltstart_tests::guest::{Firmware, Guest, GuestConfig};
use kaltstart_tests::lab::{Lab, SERVER, Station};
use kaltstart_tests::others::{Maker, OtherServer};
use kaltstart_tests::packets::TFTP_SERVER_PORT;
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, wait_for};
use std::fs;
use std::net::Ipv4Addr;

#[test]
fn ks1024_the_link_flaps() -> Result<()> {
    /// The kernel's first words, which it says while its ramdisk is in memory already.
    const KERNEL: &str = "Probing EDD";
    const LINK: &str = "(virtio_net): link";
    const NO_LINK: &str = "(virtio_net): no link";
    story("why-1024", |lab| {
        let (artefacts, config) = config()?;
        let machine = GuestConfig::new("guest", Firmware::Bios, 1);
        let server = Server::start(lab, &artefacts, &config.node(NODE, &machine.mac, None))?;
        let mut guest = Guest::new(lab, machine)?;
        guest.power_on()?;
        guest.console().wait(KERNEL, Mark::default(), AGENT_LIMIT)?;
        // Without an address the agent waits, whatever its link does.
        lab.set_forwarding(guest.tap(), false)?;
        guest.console().wait(LINK, Mark::default(), AGENT_LIMIT)?;
        for _ in 0..3 {
            for (up, words) in [(false, NO_LINK), (true, LINK)] {
                let mark = guest.console().mark();
                guest.set_link(up)?;
                guest.console().wait(words, mark, AGENT_LIMIT)?;
            }
        }
        lab.set_forwarding(guest.tap(), true)?;
        named(&server, NODE, "KS-1024", "had come or gone")?;
        let node = server.node(NODE)?;
        ensure!(node.facts["nics"][0]["carrier_changes"].as_u64() >= Some(6), "{}", node.facts["nics"]);
        Ok(())
    })
}

/// Starts the story's machine, which the server expects and will look at.
fn started(
    name: &str,
    firmware: Firmware,
    mbit: u32,
    body: impl FnOnce(&Server<'_>, &mut Guest<'_>) -> Result<()>,
) -> Result<()> {
    story(name, |lab| {
        let (artefacts, config) = config()?;
        let machine = GuestConfig::new("guest", firmware, 1);
        let server = Server::start(lab, &artefacts, &config.node(NODE, &machine.mac, None))?;
        let mut guest = Guest::new(lab, machine)?;
        // Slow enough to be caught in the middle of a file.
        lab.throttle(guest.tap(), mbit)?;
        guest.power_on()?;
        body(&server, &mut guest)
    })
}

#[test]
fn ks1014_the_machine_is_switched_off_in_the_middle_of_its_loader() -> Result<()> {
    started("why-fw-1014", Firmware::Uefi, 1, |server, guest| {
        guest.console().wait("Downloading NBP file", Mark::default(), AGENT_LIMIT)?;
        guest.power_off();
        // It may not even have acknowledged the options.
        named(server, NODE, "KS-1014", "after block")
    })
}

#[test]
fn ks1015_the_machine_starts_over_in_the_middle_of_its_kernel() -> Result<()> {
    started("why-fw-1015", Firmware::Bios, 8, |server, guest| {
        guest.console().wait("/vmlinuz...", Mark::default(), AGENT_LIMIT)?;
        guest.reset()?;
        named(server, NODE, "KS-1015", "/vmlinuz\": broken off at byte")
    })
}

#[test]
fn ks1016_the_machine_starts_over_and_over() -> Result<()> {
    started("why-fw-1016", Firmware::Bios, 8, |server, guest| {
        guest.console().wait("/vmlinuz...", Mark::default(), AGENT_LIMIT)?;
        for _ in 0..3 {
            let mark = guest.console().mark();
            guest.reset()?;
            guest.console().wait_any(&NETWORK_ASKED, mark, AGENT_LIMIT)?;
            // The progress of the start before was told until the reset.
            guest.console().wait("/vmlinuz...", guest.console().mark(), AGENT_LIMIT)?;
        }
        named(server, NODE, "KS-1016", "4 starts in")
    })
}

/// The machine that [`Site`]'s server expects, still off.
fn expected(lab: &Lab, firmware: Firmware) -> Result<Guest<'_>> {
    Guest::new(lab, GuestConfig { mac: why::mac_text(), ..GuestConfig::new("guest", firmware, 1) })
}

/// What `ks why` says of a machine that is switched on in a network with a fault.
fn named_with_a_fault(
    name: &str,
    fault: impl FnOnce(&Lab, &Guest<'_>) -> Result<()>,
    code: &str,
    words: &str,
) -> Result<()> {
    story(name, |lab| {
        let site = Site::start(lab, |config| config)?;
        let mut guest = expected(lab, Firmware::Uefi)?;
        fault(lab, &guest)?;
        guest.power_on()?;
        site.names(code, words)
    })
}

#[test]
fn ks1002_a_firewall_keeps_its_questions_for_files_back() -> Result<()> {
    named_with_a_fault("why-fw-1002", |lab, _| lab.block(TFTP_SERVER_PORT), "KS-1002", "snponly.efi")
}

#[test]
fn ks1010_offers_do_not_reach_it() -> Result<()> {
    let fault = |lab: &Lab, guest: &Guest<'_>| lab.withhold(guest.tap(), "dport 68");
    named_with_a_fault("why-fw-1010", fault, "KS-1010", "took nothing")
}

#[test]
fn ks1012_large_packets_do_not_reach_it() -> Result<()> {
    let fault = |lab: &Lab, guest: &Guest<'_>| lab.withhold(guest.tap(), "length > 1000");
    named_with_a_fault("why-fw-1012", fault, "KS-1012", "not one was acknowledged")
}

#[test]
fn ks1020_spanning_tree_keeps_its_first_questions_back() -> Result<()> {
    let fault = |lab: &Lab, _: &Guest<'_>| lab.spanning_tree();
    named_with_a_fault("why-fw-1020", fault, "KS-1020", "it has been asking for")
}

/// The file offset of the first instruction of an EFI program (Microsoft PE Format).
fn entry_point(program: &[u8]) -> Option<usize> {
    let number = |at: usize| Some(u32::from_le_bytes(program.get(at..at + 4)?.try_into().ok()?) as usize);
    let head = number(0x3c)?;
    let (sections, optional) = (number(head + 6)? & 0xffff, number(head + 20)? & 0xffff);
    let entry = number(head + 40)?;
    (0..sections).map(|section| head + 24 + optional + section * 40).find_map(|section| {
        let (size, address, offset) = (number(section + 16)?, number(section + 12)?, number(section + 20)?);
        (address..address + size).contains(&entry).then(|| entry - address + offset)
    })
}

/// As where a driver in the loader hangs.
#[test]
fn ks1022_its_loader_hangs() -> Result<()> {
    const LOADER: &str = "shimx64.efi";
    /// `cli`, `hlt`, and back to that.
    const HANG: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfd];
    story("why-fw-1022", |lab| {
        let mut site = Site::start(lab, |config| {
            let loaders = lab.dir().join("loaders");
            let mut program = fs::read(config.loaders.join(LOADER)).expect("the loader");
            let entry = entry_point(&program).expect("an EFI program");
            program[entry..entry + HANG.len()].copy_from_slice(&HANG);
            fs::create_dir(&loaders)
                .and_then(|()| fs::write(loaders.join(LOADER), program))
                .expect("written");
            ServerConfig { uefi_loader: "signed", loaders, ..config }
        })?;
        let mut guest = expected(lab, Firmware::Uefi)?;
        guest.power_on()?;
        site.last_saw(&format!("it fetched {LOADER:?}"), AGENT_LIMIT)?;
        site.ages(40)?;
        site.names("KS-1022", "nothing came in the")
    })
}

#[test]
fn ks1001_its_switch_port_forwards_nothing() -> Result<()> {
    story("why-fw-1001", |lab| {
        let mut site = Site::start(lab, |config| config)?;
        let mut guest = expected(lab, Firmware::Bios)?;
        guest.power_on()?;
        lab.set_forwarding(guest.tap(), false)?;
        site.server.power_observed(why::NODE)?;
        guest.console().wait_any(&NETWORK_ASKED, Mark::default(), AGENT_LIMIT)?;
        site.ages(700)?;
        site.names("KS-1001", "it was switched on")
    })
}

#[test]
fn ks1006_another_machine_has_the_only_address() -> Result<()> {
    const ONLY: &str = "10.77.0.100";
    story("why-fw-1006", |lab| {
        let site = Site::start(lab, |mut config| {
            config.pool = (ONLY.into(), ONLY.into());
            config
        })?;
        let mut other = Guest::new(lab, GuestConfig::new("other", Firmware::Bios, 2))?;
        other.power_on()?;
        other.wait_serial(ONLY, AGENT_LIMIT)?;
        let mut guest = expected(lab, Firmware::Bios)?;
        guest.power_on()?;
        site.names("KS-1006", "no free address")
    })
}

#[test]
fn ks1011_its_loader_is_not_there() -> Result<()> {
    story("why-fw-1011", |lab| {
        let empty = lab.dir().join("no-loaders");
        fs::create_dir(&empty)?;
        let site = Site::start(lab, |config| ServerConfig { loaders: empty, ..config })?;
        let mut guest = expected(lab, Firmware::Uefi)?;
        guest.power_on()?;
        site.names("KS-1011", "is not there")
    })
}

#[test]
fn ks1013_its_acknowledgements_are_lost() -> Result<()> {
    story("why-fw-1013", |lab| {
        let site = Site::start(lab, |config| config)?;
        let mut guest = expected(lab, Firmware::Uefi)?;
        lab.throttle(guest.tap(), 1)?;
        guest.power_on()?;
        guest.console().wait("NBP filename", Mark::default(), AGENT_LIMIT)?;
        lab.lose(20)?;
        site.names("KS-1013", "had to be sent again")
    })
}

#[test]
fn ks1028_nobody_gives_it_an_address() -> Result<()> {
    story("why-fw-1028", |lab| {
        let site = Site::start_as(lab, "proxy", |config| config.mode("proxy"))?;
        let mut guest = expected(lab, Firmware::Uefi)?;
        guest.power_on()?;
        site.names("KS-1028", "nobody was seen to offer an address")
    })
}

#[test]
fn ks1023_its_ramdisk_holds_no_agent() -> Result<()> {
    story("why-fw-1023", |lab| {
        let empty = lab.dir().join("ramdisk");
        fs::write(&empty, [0; 512])?;
        let mut site = Site::start(lab, |config| ServerConfig { discovery: empty, ..config })?;
        let mut guest = expected(lab, Firmware::Bios)?;
        guest.power_on()?;
        guest.console().wait("Kernel panic", Mark::default(), AGENT_LIMIT)?;
        site.ages(200)?;
        site.names("KS-1023", "no agent reported")
    })
}

#[test]
fn ks1025_its_subnet_is_another_server_s() -> Result<()> {
    story("why-fw-1025", |lab| {
        let _other = OtherServer::start(lab, Maker::Dnsmasq, "")?;
        let site = Site::start_as(lab, "refused", |config| config)?;
        let mut guest = expected(lab, Firmware::Bios)?;
        guest.power_on()?;
        site.names("KS-1025", "is not served now")
    })
}

#[test]
fn ks1008_it_takes_another_server_s_offer() -> Result<()> {
    story("why-fw-1008", |lab| {
        let _other =
            OtherServer::start(lab, Maker::Dnsmasq, "dhcp-boot=x\ndhcp-option-force=60,PXEClient\n")?;
        let dhcp = "allow_other_servers = true\n";
        let site = Site::start(lab, |config| ServerConfig { dhcp: dhcp.into(), ..config })?;
        let mut guest = expected(lab, Firmware::Uefi)?;
        // Firmware takes what it has first; ours is slower than any other.
        lab.withhold(guest.tap(), &format!("dport 68 ip saddr {SERVER}"))?;
        guest.power_on()?;
        site.names("KS-1008", "it took the offer of 10.77.0.")
    })
}

#[test]
fn ks1009_it_starts_what_another_server_names() -> Result<()> {
    story("why-fw-1009", |lab| {
        let _other = OtherServer::start(lab, Maker::Dnsmasq, "dhcp-boot=other.efi\n")?;
        let mut site = Site::start_as(lab, "proxy", |config| config.mode("proxy"))?;
        let mut guest = expected(lab, Firmware::Uefi)?;
        guest.power_on()?;
        guest.console().wait("other.efi", Mark::default(), AGENT_LIMIT)?;
        site.ages(15)?;
        site.names("KS-1009", "names a boot file itself: \"other.efi\"")
    })
}

/// What `ks why` says of udhcpc, which asks as that firmware does.
fn udhcpc_names(
    lab: &Lab,
    server: &Server<'_>,
    class: &str,
    further: &[&str],
    code: &str,
    words: &str,
) -> Result<()> {
    let client = DhcpClient::start(lab, ClientMaker::Udhcpc, &[&["-V", class], further].concat())?;
    let mac = client.station().mac()?;
    let node = wait_for("the client's machine", AGENT_LIMIT, || {
        Ok(server.node_by_mac(&mac)?.map_or_else(|| Poll::pending("not known"), Poll::Ready))
    })?;
    named(server, &node.name, code, words)
}

#[test]
fn ks1017_a_client_without_a_loader_for_it() -> Result<()> {
    story("why-fw-1017", |lab| {
        let site = Site::start(lab, |config| config)?;
        // 64-bit RISC-V.
        let (class, option) = ("PXEClient:Arch:00027:UNDI:003016", ["-x", "0x5d:001b"]);
        udhcpc_names(lab, &site.server, class, &option, "KS-1017", "there is no loader for it")
    })
}

#[test]
fn ks1019_a_client_finds_its_address_taken() -> Result<()> {
    story("why-fw-1019", |lab| {
        let taken = Ipv4Addr::new(10, 77, 0, 100);
        let site = Site::start(lab, |mut config| {
            config.dhcp = "ping_check = \"never\"\n".into();
            config.pool = (taken.to_string(), taken.to_string());
            config
        })?;
        let holder = Station::new(lab)?;
        holder.address(taken)?;
        let (class, options) = ("PXEClient:Arch:00007:UNDI:003016", ["-a", "-x", "0x5d:0007"]);
        udhcpc_names(lab, &site.server, class, &options, "KS-1019", "found 10.77.0.100 in use")
    })
}
