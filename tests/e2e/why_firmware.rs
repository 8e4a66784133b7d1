//! Why a machine does not start, where firmware, loader or agent are real. More of it is checked
//! where such a machine starts anyway: `grant` (KS-1021), `secure_boot` (KS-1018), `finding`.

use crate::common::{AGENT_LIMIT, NODE, config};
use crate::local::NETWORK_ASKED;
use crate::why::named;
use anyhow::{Result, ensure};
use kaltstart_tests::console::Mark;
use kaltstart_tests::guest::{Firmware, Guest, GuestConfig};
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;

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
    body: impl FnOnce(&Server<'_>, &mut Guest<'_>) -> Result<()>,
) -> Result<()> {
    story(name, |lab| {
        let (artefacts, config) = config()?;
        let machine = GuestConfig::new("guest", firmware, 1);
        let server = Server::start(lab, &artefacts, &config.node(NODE, &machine.mac, None))?;
        let mut guest = Guest::new(lab, machine)?;
        // Slow enough to be caught in the middle of a file.
        lab.throttle(guest.tap(), 8)?;
        guest.power_on()?;
        body(&server, &mut guest)
    })
}

#[test]
fn ks1014_the_machine_is_switched_off_in_the_middle_of_its_loader() -> Result<()> {
    started("why-fw-1014", Firmware::Uefi, |server, guest| {
        guest.console().wait("Downloading NBP file", Mark::default(), AGENT_LIMIT)?;
        guest.power_off();
        named(server, NODE, "KS-1014", "acknowledged nothing more after block")
    })
}

#[test]
fn ks1015_the_machine_starts_over_in_the_middle_of_its_kernel() -> Result<()> {
    started("why-fw-1015", Firmware::Bios, |server, guest| {
        guest.console().wait("/vmlinuz...", Mark::default(), AGENT_LIMIT)?;
        guest.reset()?;
        named(server, NODE, "KS-1015", "/vmlinuz\": broken off at byte")
    })
}

#[test]
fn ks1016_the_machine_starts_over_and_over() -> Result<()> {
    started("why-fw-1016", Firmware::Bios, |server, guest| {
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
