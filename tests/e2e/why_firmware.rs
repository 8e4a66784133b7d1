//! Why a machine does not start, where firmware, loader or agent are real. More of it is checked
//! where such a machine starts anyway: `grant` (KS-1021), `secure_boot` (KS-1018), `finding`.

use crate::common::{AGENT_LIMIT, NODE, config};
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
