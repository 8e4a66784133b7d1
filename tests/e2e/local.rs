//! From power-on to the machine's own system: what the question to the network adds to it, and that
//! it is asked at all.

use crate::common::{NODE, Ordered};
use crate::dhcp6;
use anyhow::{Result, ensure};
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::console::Mark;
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Firmware, Guest, GuestConfig};
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::secs;
use serde_json::json;
use std::time::{Duration, Instant};

/// A boot loader's first words, from a BIOS and from UEFI. A BIOS may lose those that come later: they
/// are drawn on a screen that is cleared.
pub(crate) const LOADER: [&str; 2] = ["GRUB loading", "Welcome to GRUB"];
/// What the firmware prints when it asks the network.
pub(crate) const NETWORK_ASKED: [&str; 3] =
    ["iPXE initialising devices", "Start PXE over IPv4", "Start HTTP Boot over IPv4"];
/// What the firmware prints when it goes on to the disk.
const DISK_TRIED: [&str; 2] = ["Booting from Hard Disk", "BdsDxe: loading"];
/// From power-on to these words takes 1 to 10 s on a quiet machine, to the system's 10 s more.
const START_LIMIT: Duration = secs(180);
/// What the network may add: 5 s is the aim and holds on a quiet machine; emulation beside other
/// programs is slower.
const ADDED_MAX: Duration = secs(8);

/// What the firmware of a machine that nobody has set up may need for all its ways over the network.
/// Without DHCPv6 they take 136 s on a quiet machine.
const ALL_WAYS_MAX: Duration = secs(100);

/// Lets a deployed machine start from its disk alone: on UEFI because an update of its system has
/// changed the boot order, which the system sets again. How long it takes.
fn start_without_network(guest: &mut Guest<'_>) -> Result<Duration> {
    guest.power_off();
    guest.ask_no_network()?;
    let (mark, begun) = (guest.console().mark(), Instant::now());
    guest.power_on()?;
    guest.console().wait_any(&LOADER, mark, START_LIMIT)?;
    let took = begun.elapsed();
    let asked = NETWORK_ASKED.iter().find(|words| guest.console().find(words, mark).is_some());
    ensure!(asked.is_none(), "the network was asked: {asked:?}");
    if guest.config().firmware.is_uefi() {
        guest.console().wait("boot order: it was changed to", mark, START_LIMIT)?;
    }
    guest.power_off();
    guest.set_bios_asks_network(true);
    Ok(took)
}

/// Lets it start with the boot order that it was left with. How long it takes, and how much of that
/// goes to asking the network.
fn start_with_network(guest: &mut Guest<'_>) -> Result<(Duration, Duration)> {
    let (mark, begun) = (guest.console().mark(), Instant::now());
    guest.power_on()?;
    guest.console().wait_any(&NETWORK_ASKED, mark, START_LIMIT)?;
    let asked = Instant::now();
    guest.console().wait_any(&DISK_TRIED, mark, START_LIMIT)?;
    let added = asked.elapsed();
    guest.console().wait_any(&LOADER, mark, START_LIMIT)?;
    let took = begun.elapsed();
    guest.power_off();
    Ok((took, added))
}

/// Checks what asking the network adds to the start of a deployed machine. It is off afterwards.
pub(crate) fn adds_little(name: &str, ordered: &mut Ordered<'_>) -> Result<()> {
    let guest = &mut ordered.guest;
    let without = start_without_network(guest)?;
    let (mut with, mut added) = start_with_network(guest)?;
    if added > ADDED_MAX {
        // Others may keep the machine busy.
        (with, added) = start_with_network(guest)?;
    }
    let [with, without, more] = [with, without, added].map(|time| time.as_secs_f64());
    eprintln!(
        "{name}: own boot loader after {with:.1} s, of which the network {more:.1} s; without it {without:.1} s"
    );
    ensure!(added <= ADDED_MAX, "asking the network adds {more:.1} s");
    let lost = guest.console().find("cannot be set again", Mark::default());
    ensure!(lost.is_none(), "{lost:?}");
    Ok(())
}

#[test]
fn uefi_as_it_is_delivered_is_sent_on_by_every_way_over_the_network() -> Result<()> {
    story("local-delivered", |lab| {
        lab.dual_stack()?;
        let (artefacts, file) = (Artefacts::from_env()?, lab.dir().join("disk.raw"));
        let config = dhcp6::config(&artefacts);
        disk::with_a_system(&file, 64, &config.loaders.join("grubx64.efi"))?;
        let machine = GuestConfig::new("guest", Firmware::UefiDelivered, 1).disk(&file, "OWN");
        let server = Server::start(lab, &artefacts, &config.node(NODE, &machine.mac, None))?;
        // It shall start from its disk without having been looked at.
        let broken = server.request("POST", &format!("/v1/nodes/{NODE}/break"), Some(&json!({})))?;
        ensure!(broken.status == 200, "{}", broken.text());
        let mut guest = Guest::new(lab, machine)?;
        guest.power_on()?;
        guest.console().wait_any(&NETWORK_ASKED, Mark::default(), START_LIMIT)?;
        let begun = Instant::now();
        guest.console().wait_any(&LOADER, Mark::default(), START_LIMIT)?;
        let asked = begun.elapsed();
        for way in ["PXE over IPv4", "PXE over IPv6", "HTTP Boot over IPv4", "HTTP Boot over IPv6"] {
            ensure!(guest.console().find(way, Mark::default()).is_some(), "it did not try {way}");
        }
        eprintln!("local-delivered: four ways over the network took {:.1} s", asked.as_secs_f64());
        ensure!(asked <= ALL_WAYS_MAX, "they took {:.1} s", asked.as_secs_f64());
        Ok(())
    })
}
