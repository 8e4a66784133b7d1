//! DHCP clients of other makers against the real server: dhclient, dhcpcd and udhcpc.

use crate::common::config;
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::clients::{DhcpClient, Event, Heard, Maker};
use kaltstart_tests::config::ServerConfig;
use kaltstart_tests::lab::{Lab, SERVER, Station};
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::net::Ipv4Addr;

const ALL: [Maker; 3] = [Maker::Dhclient, Maker::Dhcpcd, Maker::Udhcpc];
/// A client renews after two seconds, and asks anybody after five.
const SOON: &str = "renew_seconds = 2\nrebind_seconds = 5\n";

fn start<'a>(lab: &'a Lab, change: impl FnOnce(ServerConfig) -> ServerConfig) -> Result<Server<'a>> {
    let (artefacts, config) = config()?;
    Server::start(lab, &artefacts, &change(config))
}

/// How many messages of that type were `received` or `sent`.
fn counted(server: &Server<'_>, direction: &str, kind: &str) -> Result<u64> {
    let label = format!("type=\"{kind}\",result=\"{direction}\"");
    Ok(server.metric("kaltstart_dhcp_messages", &label)? as u64)
}

fn wait_received(server: &Server<'_>, kind: &str, count: u64) -> Result<()> {
    wait_for(&format!("{count} {kind} messages"), secs(20), || {
        let received = counted(server, "received", kind)?;
        Ok(if received >= count { Poll::Ready(()) } else { Poll::pending(received.to_string()) })
    })
}

/// Checks that all have an address, each another one.
fn ensure_distinct(heard: &[Heard]) -> Result<()> {
    for (nth, one) in heard.iter().enumerate() {
        let twice = heard[..nth].iter().any(|other| other.address == one.address);
        ensure!(!twice, "{} was given twice", one.address);
    }
    Ok(())
}

/// An address with its parameters, longer leases, a server that is dead past T2, the same address from
/// the next one, and the address given back.
#[test]
fn p30_p31_clients_renew_rebind_and_release() -> Result<()> {
    story("dhcp-clients", |lab| {
        let mut server = start(lab, |config| ServerConfig {
            dhcp: format!(
                "{SOON}router = \"10.77.0.254\"\ndns = [\"10.77.0.53\", \"10.77.0.54\"]\noptions = [\
                 {{ code = 15, text = \"example.org\" }}, {{ code = 42, ips = [\"10.77.0.5\", \"10.77.0.6\"] }}]\n"
            ),
            ..config
        })?;
        let clients = ALL.map(|maker| DhcpClient::start(lab, maker, &[]));
        let clients = clients.into_iter().collect::<Result<Vec<_>>>()?;
        let bound = clients.iter().map(|client| client.hears(Event::Bound)).collect::<Result<Vec<_>>>()?;
        ensure_distinct(&bound)?;
        for one in &bound {
            for wanted in [
                "router=10.77.0.254",
                "dns=10.77.0.53,10.77.0.54",
                "ntp=10.77.0.5,10.77.0.6",
                "domain=example.org",
                "lease=3600",
                "server=10.77.0.1",
            ] {
                ensure!(one.parameters.iter().any(|word| word == wanted), "no {wanted} in {one:?}");
            }
        }
        ensure!(lent(&server)? == 3, "three clients hold addresses");
        for (client, Heard { address, .. }) in clients.iter().zip(&bound) {
            let leases: Value = server.get(&format!("/v1/dhcp/leases?of={address}"))?.json()?;
            let lease = &leases["leases"][0];
            let told = (&lease["address"], &lease["state"], &lease["live"], &lease["mac"]);
            let expected = (&json!(address), &json!("bound"), &json!(true), &json!(client.station().mac()?));
            ensure!(told == expected && leases["truncated"] == false, "{leases}");
        }
        let [dhclient, dhcpcd, udhcpc] = &clients[..] else { unreachable!("three were started") };
        udhcpc.renew()?;
        for (client, bound) in clients.iter().zip(&bound) {
            ensure!(client.hears(Event::Renewed)? == *bound, "a renewal changes {bound:?}");
        }
        server.kill();
        let told = [dhclient, dhcpcd].map(DhcpClient::told);
        // Past T2 a client asks by broadcast (RFC 2131 §4.4.5): then the next server may answer.
        let read = |client: &DhcpClient| fs::read_to_string(client.file("log")).unwrap_or_default();
        let broadcasts = || {
            let log = read(dhclient);
            log.matches("DHCPREQUEST for ").count() - log.matches("to 10.77.0.1 port").count()
        };
        let before = broadcasts();
        wait_for("clients that ask all servers", secs(40), || {
            let asks = broadcasts() > before && read(dhcpcd).contains("rebinding");
            Ok(if asks { Poll::Ready(()) } else { Poll::pending(read(dhclient) + &read(dhcpcd)) })
        })?;
        server.restart()?;
        // dhclient calls it a renewal, whomever it asked.
        for (nth, event) in [Event::Renewed, Event::Rebound].into_iter().enumerate() {
            let heard = clients[nth].hears_after(told[nth], event)?;
            ensure!(heard == bound[nth], "a rebinding changes {:?}", bound[nth]);
        }
        let told = udhcpc.told();
        udhcpc.renew()?;
        ensure!(udhcpc.hears_after(told, Event::Renewed)? == bound[2], "the restart changes {:?}", bound[2]);
        for (client, count) in clients.iter().zip(1..) {
            client.release()?;
            wait_received(&server, "release", count)?;
        }
        ensure!(lent(&server)? == 0, "all addresses were given back");
        ensure!(counted(&server, "sent", "nak")? == 0, "somebody was refused");
        Ok(())
    })
}

/// How many addresses of the pool are lent.
fn lent(server: &Server<'_>) -> Result<u64> {
    let subnets: Value = server.get("/v1/dhcp")?.json()?;
    subnets[0]["leases"]["lent"].as_u64().with_context(|| format!("no count of leases: {subnets}"))
}

/// An address that somebody has on the wire is declined by each client, rests, and is not given again.
#[test]
fn p30_p31_clients_decline_an_address_in_use() -> Result<()> {
    addresses_in_use("dhcp-decline", "never", 3)
}

/// The server finds it first, if it looks for it.
#[test]
fn p30_p31_an_address_in_use_is_not_offered() -> Result<()> {
    addresses_in_use("dhcp-in-use", "always", 0)
}

/// All clients get addresses although somebody has the first three, after so many of them were declined.
fn addresses_in_use(name: &str, ping_check: &str, declined: u64) -> Result<()> {
    story(name, |lab| {
        let dhcp = format!("ping_check = {ping_check:?}\n");
        let server = start(lab, |config| ServerConfig { dhcp, ..config })?;
        // The first three are offered first.
        let squatters = [100, 101, 102].map(|last| Ipv4Addr::new(10, 77, 0, last));
        let mut stations = Vec::new();
        for address in squatters {
            let station = Station::new(lab)?;
            station.address(address)?;
            stations.push(station);
        }
        let checks = |maker| if maker == Maker::Udhcpc { &["-a"][..] } else { &[] };
        let clients = ALL.map(|maker| DhcpClient::start(lab, maker, checks(maker)));
        let clients = clients.into_iter().collect::<Result<Vec<_>>>()?;
        wait_received(&server, "decline", declined)?;
        let mut given = Vec::new();
        for client in &clients {
            let address = wait_for(&format!("a free address at {:?}", client.station()), secs(40), || {
                let address = client.station().addresses()?.into_iter().find(|one| !squatters.contains(one));
                Ok(address.map_or_else(|| Poll::pending("none"), Poll::Ready))
            })?;
            given.push(address);
        }
        given.sort();
        given.dedup();
        ensure!(given.len() == clients.len(), "{given:?}");
        let seen = counted(&server, "received", "decline")?;
        ensure!(seen == declined, "{seen} addresses were declined, not {declined}");
        Ok(())
    })
}

/// A client that starts again asks for the address it remembers (INIT-REBOOT): it is given, also by a
/// server that has been started anew; one from another network is refused at once.
#[test]
fn p30_p31_clients_remember_their_address() -> Result<()> {
    story("dhcp-reboot", |lab| {
        let mut server = start(lab, |config| config)?;
        let makers = [Maker::Dhclient, Maker::Dhcpcd];
        let clients = makers.map(|maker| DhcpClient::start(lab, maker, &[]));
        let mut clients = clients.into_iter().collect::<Result<Vec<_>>>()?;
        let bound = clients.iter().map(|client| client.hears(Event::Bound)).collect::<Result<Vec<_>>>()?;
        ensure_distinct(&bound)?;
        clients.iter_mut().for_each(DhcpClient::kill);
        server.kill();
        server.restart()?;
        server.wait_dhcp("authoritative")?;
        for (client, bound) in clients.iter_mut().zip(&bound) {
            client.restart(&[])?;
            ensure!(client.hears(Event::Rebooted)? == *bound, "a restart changes {bound:?}");
        }
        let discovers = counted(&server, "received", "discover")?;
        ensure!(discovers == 0, "{discovers} DISCOVER messages: a client has forgotten");
        let dhclient = &mut clients[0];
        dhclient.kill();
        let leases = fs::read_to_string(dhclient.file("leases"))?;
        let elsewhere = leases.replace(&bound[0].address.to_string(), "10.88.0.5");
        fs::write(dhclient.file("leases"), elsewhere)?;
        let told = dhclient.told();
        dhclient.restart(&[])?;
        let again = dhclient.hears_after(told, Event::Bound)?;
        ensure!(again.address == bound[0].address, "{} instead of {}", again.address, bound[0].address);
        ensure!(counted(&server, "sent", "nak")? == 1, "the address of another network was not refused");
        Ok(())
    })
}

/// A client with an address of its own is told the parameters, and is given no lease (RFC 2131 §3.4).
#[test]
fn p30_a_client_informs_itself() -> Result<()> {
    story("dhcp-inform", |lab| {
        let server = start(lab, |config| ServerConfig { dhcp: "dns = [\"10.77.0.53\"]\n".into(), ..config })?;
        let client = DhcpClient::start(lab, Maker::Dhcpcd, &["--inform=10.77.0.70/24"])?;
        let heard = client.hears(Event::Informed)?;
        for wanted in ["dns=10.77.0.53", "lease=", &format!("server={SERVER}")] {
            ensure!(heard.parameters.iter().any(|word| word == wanted), "no {wanted} in {heard:?}");
        }
        ensure!(counted(&server, "received", "inform")? > 0, "no INFORM came");
        ensure!(counted(&server, "sent", "offer")? == 0, "it was offered an address");
        Ok(())
    })
}
