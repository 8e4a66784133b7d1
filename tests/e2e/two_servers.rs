//! Two servers with one PostgreSQL on one wire, of which one dies; and both when the database falls silent.

use crate::common::machine;
use crate::common::{
    ADDRESS, DEPLOY_LIMIT, IMAGE, NODE, Ordered, config, ensure_deployed, half_of_the_image,
};
use crate::postgres_server::Own;
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::artefacts::Artefacts;
use kaltstart_tests::clients::{DhcpClient, Event, Maker};
use kaltstart_tests::config::{HTTP_PORT, ServerConfig};
use kaltstart_tests::console::Mark;
use kaltstart_tests::guest::{Firmware, Guest};
use kaltstart_tests::lab::{Lab, SERVER, Station};
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use serde_json::Value;
use std::fs;
use std::mem::swap;
use std::net::Ipv4Addr;

/// The second server's address.
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Clients renew after two seconds, and ask anybody after five.
const SOON: &str = "renew_seconds = 2\nrebind_seconds = 5\n";

/// Two servers of one site.
struct Site<'a> {
    first: Server<'a>,
    second: Server<'a>,
    database: Own,
}

impl<'a> Site<'a> {
    fn start(
        lab: &'a Lab,
        station: &'a Station,
        (artefacts, config): (Artefacts, ServerConfig),
    ) -> Result<Self> {
        let database = Own::start(lab.name());
        let url = database.url();
        let sharing = |address: Ipv4Addr, other: Ipv4Addr| {
            let sections = format!(
                "\n[database]\nurl = {url:?}\n[[database.server]]\nlisten = \"{other}:{HTTP_PORT}\"\n{}",
                config.sections
            );
            ServerConfig { address, sections, ..config.clone() }
        };
        let first = Server::start(lab, &artefacts, &sharing(SERVER, SECOND))?;
        station.address(SECOND)?;
        let config = ServerConfig { interface: Station::INTERFACE, ..sharing(SECOND, SERVER) };
        let second = first.start_another(station, &artefacts, &config)?;
        let site = Self { first, second, database };
        site.ensure_both_serve()?;
        Ok(site)
    }

    /// Both give addresses, and neither takes the other for a stranger.
    fn ensure_both_serve(&self) -> Result<()> {
        for server in [&self.first, &self.second] {
            server.wait_dhcp("authoritative")?;
            let subnets: Value = server.get("/v1/dhcp")?.json()?;
            ensure!(subnets[0]["servers"].as_array().is_some_and(Vec::is_empty), "a stranger: {subnets}");
        }
        Ok(())
    }
}

/// The server that started a machine dies in the middle of the image: agent and installed system go on at the
/// other, and it comes back as one of two.
#[test]
fn p36_a_machine_is_deployed_though_the_server_that_started_it_dies() -> Result<()> {
    story("two-servers", |lab| {
        let station = Station::new(lab)?;
        let (guest, disk) = machine(lab, Firmware::Bios)?;
        let (artefacts, config) = config()?;
        let config = config.node(NODE, &guest.mac, Some(ADDRESS));
        let Site { mut first, mut second, database } = Site::start(lab, &station, (artefacts, config))?;
        let job = first.deploy(NODE, IMAGE)?.id;
        let mut ordered = Ordered { guest: Guest::new(lab, guest)?, server: second, job, disk };
        ordered.power_on()?;
        half_of_the_image(lab, &ordered)?;
        let named = ordered.guest.console().find("server https://", Mark::default());
        let named = named.context("the agent names no server")?;
        // Whoever answered first; the other is asked from now on.
        if named.contains(&format!("server https://{SECOND}")) {
            swap(&mut first, &mut ordered.server);
        }
        first.kill();
        lab.unthrottle(ordered.guest.tap())?;
        let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        let log = ordered.server.get(&format!("/v1/jobs/{}/log", job.id))?.text();
        ensure!(log.contains("is asked from now on"), "the log does not say so: {log}");
        ensure_deployed(&mut ordered, &job)?;
        first.restart()?;
        second = ordered.server;
        Site { first, second, database }.ensure_both_serve()
    })
}

/// A client keeps its address when the server dies that gave it, and while the database is silent; who is new then
/// gets one when it is back.
#[test]
fn p31_clients_keep_their_addresses_without_the_server_that_gave_them_and_without_the_database() -> Result<()>
{
    story("two-servers-dhcp", |lab| {
        let station = Station::new(lab)?;
        let (artefacts, config) = config()?;
        let config = ServerConfig { dhcp: SOON.into(), ..config };
        let mut site = Site::start(lab, &station, (artefacts, config))?;
        let client = DhcpClient::start(lab, Maker::Dhcpcd, &[])?;
        let bound = client.hears(Event::Bound)?;
        let by_first = bound.parameters.contains(&format!("server={SERVER}"));
        let (dead, left) = if by_first { (&mut site.first, SECOND) } else { (&mut site.second, SERVER) };
        dead.kill();
        let told = client.told();
        let rebound = client.hears_after(told, Event::Rebound)?;
        let by = format!("server={left}");
        ensure!(
            rebound.address == bound.address && rebound.parameters.contains(&by),
            "{bound:?} {rebound:?}"
        );
        dead.restart()?;
        site.ensure_both_serve()?;

        let frozen = site.database.freeze();
        for server in [&site.first, &site.second] {
            wait_for("a server that misses its database", secs(20), || {
                let health = server.get("/healthz")?;
                Ok(if health.status == 200 { Poll::pending(health.text()) } else { Poll::Ready(()) })
            })?;
        }
        let told = client.told();
        let kept = client.hears_after(told, Event::Renewed)?;
        ensure!(kept.address == bound.address, "{bound:?} {kept:?}");
        let newcomer = DhcpClient::start(lab, Maker::Udhcpc, &[])?;
        wait_for("a newcomer that asks twice for what is offered", secs(20), || {
            let log = fs::read_to_string(newcomer.file("log")).unwrap_or_default();
            Ok(if log.matches("select for").count() > 1 { Poll::Ready(()) } else { Poll::pending(log) })
        })?;
        ensure!(!newcomer.has_heard(Event::Bound), "an address was promised that nobody remembers");
        drop(frozen);
        for server in [&site.first, &site.second] {
            wait_for("a server that has its database again", secs(20), || {
                let health = server.get("/healthz")?;
                Ok(if health.status == 200 { Poll::Ready(()) } else { Poll::pending(health.text()) })
            })?;
        }
        let given = newcomer.hears(Event::Bound)?;
        ensure!(given.address != bound.address, "{given:?} is somebody else's");
        Ok(())
    })
}
