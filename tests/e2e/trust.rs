//! Agent and server know each other: by the pinned authority, over TLS, whatever the machine's
//! clock shows; and what came in the clear is refused.

use crate::common::{ADDRESS, AGENT_LIMIT, DEPLOY_LIMIT, NODE, config, ensure_deployed, machine, order};
use anyhow::{Context as _, Error, Result, bail, ensure};
use kaltstart_tests::config::{HTTP_PORT, TLS_PORT};
use kaltstart_tests::guest::Firmware;
use kaltstart_tests::http::{self, Request, Response};
use kaltstart_tests::lab::{SERVER, Station};
use kaltstart_tests::process;
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::secs;
use serde_json::{Value, json};
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;

/// Every TCP port of `machine` that takes a connection; all others must refuse it.
fn open_ports(machine: Ipv4Addr) -> Result<Vec<u16>> {
    let ports: Vec<u16> = (1..=u16::MAX).collect();
    let mut open = Vec::new();
    let tries = |ports: &[u16]| -> Result<Vec<u16>> {
        let connect = |port: &u16| TcpStream::connect_timeout(&(machine, *port).into(), secs(10));
        let mut open = Vec::new();
        for port in ports {
            match connect(port) {
                Ok(_) => open.push(*port),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => bail!("port {port} neither opens nor refuses: {error}"),
            }
        }
        Ok(open)
    };
    // Together they keep the machine busy; one alone would mostly wait.
    thread::scope(|scope| {
        let parts: Vec<_> = ports.chunks(8192).map(|part| scope.spawn(move || tries(part))).collect();
        for part in parts {
            open.extend(part.join().map_err(|_| Error::msg("a thread panicked"))??);
        }
        Ok(open)
    })
}

/// The machine has its boot script when somebody with another authority takes the server's place,
/// even with its address, its database, the key of that and a certificate. Then the real one comes back.
#[test]
fn another_authority() -> Result<()> {
    story("trust-authority", |lab| {
        let (keys, aside) = (lab.dir().join("data/tls"), lab.dir().join("tls"));
        let mut ordered = order(lab, machine(lab, Firmware::Bios)?.0)?;
        let (server, job) = (&mut ordered.server, &ordered.job);
        let expected = server.authority()?;
        server.wait_job(job, "the start of the kernel", AGENT_LIMIT, |job| job.reached("kernel"))?;
        server.kill();
        fs::rename(&keys, &aside)?;
        server.new_authority()?;
        fs::copy(aside.join("secrets.key"), keys.join("secrets.key"))?;
        server.restart()?;
        let seen = server.authority()?;
        ensure!(seen != expected, "the authority is the same");

        ordered.guest.wait_serial("KS-1040", AGENT_LIMIT)?;
        ordered.guest.wait_serial(&format!("expected the authority {expected}, seen {seen}"), AGENT_LIMIT)?;
        let state = server.job(job)?;
        ensure!(!state.reached("inventory"), "the agent spoke to somebody else: {state}");
        let used = ordered.guest.disk_use(0)?;
        ensure!(used.writes == 0, "the disk was written to: {used:?}");
        let open = lab.inside(|| open_ports(ADDRESS.parse()?))?;
        ensure!(open.is_empty(), "the agent listens to {open:?}");

        server.kill();
        fs::remove_dir_all(&keys)?;
        fs::rename(&aside, &keys)?;
        server.restart()?;
        let job = server.wait_deployed(job, DEPLOY_LIMIT)?;
        ensure!(job.attempt == 1, "the machine was started {} times", job.attempt);
        ensure_deployed(&mut ordered, &job)
    })
}

/// Neither the agent nor the reporter needs the machine's clock.
#[test]
fn clock_stands_in_1970() -> Result<()> {
    story("trust-clock", |lab| {
        let mut guest = machine(lab, Firmware::Bios)?.0;
        guest.clock = Some("1970-01-01".to_owned());
        let mut ordered = order(lab, guest)?;
        let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        let log = ordered.server.get(&format!("/v1/jobs/{}/log", job.id))?.text();
        let set = "clock set to the time of the grant (+";
        ensure!(log.contains(set), "the agent's clock was right: {log}");
        ensure_deployed(&mut ordered, &job)
    })
}

/// Routes for firmware and boot loaders, which know no TLS.
const FIRMWARE: [&str; 2] = ["boot/", "images/"];

/// All other routes, read from the page they stand on.
fn unread_routes() -> Vec<(&'static str, &'static str)> {
    let page = include_str!("../../server/src/http/mod.rs");
    let route = |line: &'static str| {
        let (made, rest) = line.trim().strip_prefix('.')?.split_once("(\"/")?;
        let (path, to) = rest.split_once("\", ")?;
        let made = if made == "route" { to.split_once('(')?.0 } else { made };
        let methods = [("get", "GET"), ("post", "POST"), ("patch", "PATCH"), ("delete", "DELETE")];
        let (_, method) = methods.into_iter().find(|(word, _)| *word == made)?;
        Some((method, path))
    };
    let routes = page.lines().filter_map(route);
    routes.filter(|(_, path)| !FIRMWARE.iter().any(|start| path.starts_with(start))).collect()
}

fn plain(station: &Station, request: &Request<'_>) -> Result<Response> {
    let server = SocketAddr::from((SERVER, HTTP_PORT));
    station.inside(|| http::send(server, request, secs(10)))
}

fn hello(token: &str) -> String {
    json!({
        "token": token, "session": format!("kss_{}", "1".repeat(64)), "mode": "install", "boot_id": "b",
        "agent_version": "0", "started_uptime_ms": 1, "uptime_ms": 2, "facts": {},
    })
    .to_string()
}

#[test]
fn plain_http_from_another_machine_is_refused() -> Result<()> {
    story("trust-plain", |lab| {
        const MAC: &str = "52:54:00:00:00:01";
        let (artefacts, config) = config()?;
        let server = Server::start(lab, &artefacts, &config.node(NODE, MAC, None))?;
        server.deploy(NODE, crate::common::IMAGE)?;
        let station = Station::new(lab)?;
        station.address(Ipv4Addr::new(10, 77, 0, 60))?;
        let script =
            Request { method: "GET", path: &format!("/boot/{MAC}/script.ipxe"), ..Request::default() };
        let script = plain(&station, &script)?.text();
        let token = script.split_whitespace().find_map(|word| word.strip_prefix("kaltstart.token="));
        let token = token.with_context(|| format!("no token in {script}"))?;

        let admin = fs::read_to_string(server.token_file())?;
        let routes = unread_routes();
        ensure!(routes.len() > 20, "only {routes:?}");
        for (method, path) in routes {
            // With everything that would be right over TLS.
            let body = (method == "POST").then(|| hello(token));
            let path = &format!("/{path}");
            let request = Request { method, path, token: Some(admin.trim()), body, ..Request::default() };
            let answer = plain(&station, &request)?;
            let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            ensure!(
                answer.status == 403 && problem["code"] == "tls-required",
                "{method} {path}: {} {}",
                answer.status,
                answer.text()
            );
            let detail = problem["detail"].as_str().unwrap_or_default();
            ensure!(detail.contains(&format!("https://{SERVER}:{TLS_PORT}")), "{path}: {detail}");
        }
        // The refused words changed nothing: the token is still good where nobody can read it.
        let greeting = Request {
            method: "POST",
            path: "/agent/v1/hello",
            body: Some(hello(token)),
            ..Request::default()
        };
        let answer = server.send(&greeting)?;
        ensure!(answer.status == 200, "the token was used up: {} {}", answer.status, answer.text());

        // The same machine is heard over TLS.
        let mut ks = station.command(lab.dir().join("ks"));
        ks.args(["node", "list"]).env("KS_SERVER", format!("https://{SERVER}:{TLS_PORT}"));
        let nodes = process::run(ks.env("KS_TOKEN_FILE", server.token_file()), secs(20))?;
        ensure!(nodes.contains(NODE), "{nodes}");
        Ok(())
    })
}
