//! The screen for people in front of a machine: who it is, how far it is, what they have to do.

use crate::common::{
    AGENT_LIMIT, DEPLOY_LIMIT, DISK_MIB, IMAGE, NODE, Ordered, config, in_the_image_phase, machine,
    order_from,
};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::config::TLS_PORT;
use kaltstart_tests::console::Mark;
use kaltstart_tests::disk;
use kaltstart_tests::guest::{Bus, Firmware, Guest, GuestConfig};
use kaltstart_tests::lab::{Lab, SERVER};
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use std::time::Duration;

/// From a change to its place on the screen, on a busy machine.
const DRAWN: Duration = secs(30);

/// A machine with a VGA card, ordered, whose kernel writes to both its consoles.
fn watched<'a>(lab: &'a Lab, mut machine: GuestConfig) -> Result<Ordered<'a>> {
    let (artefacts, mut config) = config()?;
    config.cmdline = "console=tty0 console=ttyS0".to_owned();
    machine.vga = true;
    order_from(lab, machine, &artefacts, config, IMAGE)
}

/// Where a machine is found.
fn page(node: &str) -> String {
    format!("https://{SERVER}:{TLS_PORT}/v1/nodes/{node}")
}

#[test]
fn the_screen_tells_how_far_a_job_is_in_two_languages() -> Result<()> {
    story("screen-job", |lab| {
        let mut ordered = watched(lab, machine(lab, Firmware::Bios)?.0)?;
        in_the_image_phase(lab, &ordered)?;
        let guest = &mut ordered.guest;
        let words = ["Step 9 of 13", "WRITING THE SYSTEM TO THE DISK", "about ", "Server heard me "];
        let shown = guest.wait_screen(&words, DRAWN)?;
        ensure!(shown.contains("█▀▀▀▀ ▄▀▀▀▄ █▀▀▀▀"), "not its name in large letters:\n{shown}");
        ensure!(guest.screen_code()? == page(NODE), "the code says {:?}", guest.screen_code()?);

        let mark = guest.console().mark();
        guest.alarm_kernel()?;
        guest.console().wait("NMI received for unknown reason", mark, AGENT_LIMIT)?;
        let shown = guest.wait_screen(&words, DRAWN)?;
        ensure!(!shown.contains("NMI") && !shown.contains("unknown reason"), "torn:\n{shown}");

        guest.press("d")?;
        let german =
            ["Schritt 9 von 13", "SCHREIBT DAS SYSTEM AUF DIE PLATTE", "noch etwa", "Der Server hörte"];
        guest.wait_screen(&german, DRAWN)?;
        guest.press("e")?;
        guest.wait_screen(&words, DRAWN)?;
        // What is drawn does not reach the serial console.
        ensure!(guest.console().find("?????", Mark::default()).is_none(), "{}", guest.console().last(20));
        lab.unthrottle(guest.tap())?;
        ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT).map(drop)
    })
}

#[test]
fn the_screen_tells_what_is_wrong_and_what_to_do() -> Result<()> {
    story("screen-finding", |lab| {
        let mut machine = GuestConfig::new("guest", Firmware::Bios, 1);
        for (index, bus) in [Bus::Virtio, Bus::Nvme].into_iter().enumerate() {
            let file = lab.dir().join(format!("disk{index}.raw"));
            disk::blank(&file, DISK_MIB)?;
            machine = machine.disk_on(bus, &file, &format!("KT-DISK-{index}"));
        }
        let mut ordered = watched(lab, machine)?;
        ordered.server.wait_ended(&ordered.job, AGENT_LIMIT)?.failed_with("KS-2102")?;
        let guest = &mut ordered.guest;
        let seen = ["several disks fit and no rule", "WHAT TO DO", "Add a disk rule", "serial KT-DISK-0"];
        guest.wait_screen(&seen, DRAWN)?;
        ensure!(guest.screen_code()? == page(NODE), "the code says {:?}", guest.screen_code()?);
        let mark = guest.console().mark();
        guest.press("d")?;
        guest.wait_screen(&["WAS ZU TUN IST", "mehrere Platten passen", "Im Profil eine Regel"], DRAWN)?;
        guest.console().wait("KS-2102  mehrere Platten passen", mark, DRAWN).map(drop)
    })
}

/// A machine that nobody knows, with a VGA card, and its server.
fn unknown(lab: &Lab, firmware: Firmware) -> Result<(Guest<'_>, Server<'_>)> {
    let mut machine = GuestConfig::new("guest", firmware, 1);
    machine.vga = true;
    let (artefacts, config) = config()?;
    let server = Server::start(lab, &artefacts, &config)?;
    let mut guest = Guest::new(lab, machine)?;
    guest.power_on()?;
    Ok((guest, server))
}

#[test]
fn the_agent_that_only_looks_has_a_screen_too() -> Result<()> {
    story("screen-looking", |lab| {
        let (mut guest, server) = unknown(lab, Firmware::Bios)?;
        guest.wait_screen(&["WAITING FOR ORDERS", "This start only looks"], AGENT_LIMIT)?;
        let said = guest.screen_code()?;
        let name = said.strip_prefix(&page("")).context("another page")?;
        ensure!(server.node(name)?.state == "discovered");
        guest.type_serial("d")?;
        guest.wait_screen(&["WARTET AUF AUFTRÄGE", "Dieser Start sieht nur"], DRAWN).map(drop)
    })
}

#[test]
fn the_screen_is_drawn_on_the_framebuffer_of_uefi() -> Result<()> {
    story("screen-uefi", |lab| {
        let (mut guest, server) = unknown(lab, Firmware::Uefi)?;
        let page = page("");
        let name = wait_for("the code of a page", AGENT_LIMIT, || {
            let said = guest.screen_code();
            let name = said.as_ref().ok().and_then(|said| said.strip_prefix(&page));
            Ok(name.map_or_else(|| Poll::pending(format!("{said:?}")), |name| Poll::Ready(name.to_owned())))
        })?;
        ensure!(server.node(&name)?.state == "discovered");
        Ok(())
    })
}
