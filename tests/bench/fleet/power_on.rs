//! A room is powered on after an outage: most of its machines have a system, some have a job, and all ask at once.
//!
//! DHCP and TFTP are real, by broadcast and from addresses of their own; what then speaks HTTP is as in [`super`].

use super::machine::Machine;
use super::{all, connect, deployed, image_of};
use crate::bench::Bench;
use crate::dhcp::machines::{self, Load, Outcome};
use crate::ours::{self, HTTP_PORT, Site};
use crate::report::{OURS, Samples, percentile};
use crate::subject::{Port, Subject};
use crate::tftp::{client::Request, load};
use anyhow::{Context as _, Result, ensure};
use kaltstart_protocol::agent_api::ARG_TOKEN;
use kaltstart_tests::packets::TFTP_SERVER_PORT;
use kaltstart_tests::pair::SERVER;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

/// Machines, and how many of them have a job.
const MACHINES: u32 = 1_000;
const WITH_A_JOB: u32 = 100;
/// The loader and the image, in bytes.
const LOADER_BYTES: usize = 200 << 10;
const IMAGE_BYTES: usize = 64 << 20;
/// Longest time for all loaders.
const TFTP_LIMIT_SECONDS: u64 = 60;

/// What the room's machines needed, by `power_on_…`.
pub(super) fn power_on(bench: &Bench, samples: &mut Samples) -> Result<()> {
    let images = bench.dir().join("images");
    let key = image_of(&images, &vec![7; IMAGE_BYTES])?;
    let more = "[[profile]]\nname = \"good\"\nimage = \"tiny\"\n".to_owned();
    let site = Site { images: &images, image_key: Some(&key), more, ..Site::new(bench) };
    fs::write(bench.dir().join("snponly.efi"), vec![9; LOADER_BYTES])?;
    let machines: Vec<_> = (0..MACHINES).map(|number| Mutex::new((number, Machine::new(number)))).collect();
    let server = started(bench, &site)?;
    let token = fs::read_to_string(site.data.join("admin.token"))?;
    let token = token.trim();
    let (with_a_job, installed) = machines.split_at(WITH_A_JOB as usize);
    let order = |number: u32, connection: &mut crate::connection::Connection| {
        let body = r#"{"kind":"deploy","profile":"good"}"#;
        connection.ask("POST", &format!("/v1/nodes/node-{number}/jobs"), token, body).map(|_| ())
    };
    bench.pair().in_server(|| {
        all(&machines, |number, machine, connection| {
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 99, 240, 0).to_bits() + number + 1);
            let body = format!(
                "{{\"name\":\"node-{number}\",\"mac\":\"{}\",\"address\":\"{address}\"}}",
                machine.mac()
            );
            connection.ask("POST", "/v1/nodes", token, &body).map(|_| ())
        })?;
        all(installed, |number, _, connection| order(number, connection))?;
        all(installed, |_, machine, connection| machine.start(connection))?;
        all(installed, |_, machine, connection| machine.install(connection))?;
        all(installed, |_, machine, connection| machine.report(connection))?;
        all(with_a_job, |number, _, connection| order(number, connection))
    })?;
    // Their addresses are known then.
    let storm = |first| Load {
        first,
        machines: MACHINES - first,
        at_once: MACHINES as usize,
        limit: secs(60),
        firmware: true,
        nodes: true,
    };
    broadcast(bench, &storm(0))?;
    drop::<Subject>(server);

    let server = started(bench, &site)?;
    let written = server.written_bytes()?;
    broadcast(bench, &storm(WITH_A_JOB))?;
    let mut add = |name: &str, value: f64| samples.add(&format!("power_on_{name}"), OURS, value);
    let scripts = bench.pair().in_server(|| installed_ask(installed))?;
    add("scripts_time", scripts);
    add("written", (server.written_bytes()? - written) as f64 / installed.len() as f64);
    let lost = server.lost_in_buffers()?;
    let outcome = broadcast(bench, &storm(0))?;
    add("dhcp_time", outcome.seconds);
    add("dhcp_failed", outcome.failed.into());
    add("dhcp_lost", (server.lost_in_buffers()? - lost) as f64);
    let request = Request { file: "snponly.efi", block_bytes: 1468, window: 4 };
    let limit = secs(TFTP_LIMIT_SECONDS);
    let clients = MACHINES as u16;
    let load = load::Load { request, file_bytes: LOADER_BYTES as u64, clients, limit };
    let loaders = bench.pair().in_client(|| load::run(&load))?;
    add("tftp_time", loaders.iter().map(|one| one.seconds).fold(0.0, f64::max));
    add("tftp_failed", loaders.iter().filter(|one| one.failed.is_some()).count() as f64);

    // Scripts once more, while as many as have a job fetch their image.
    let digest = kaltstart_protocol::ids::Digest::of(&vec![7; IMAGE_BYTES]);
    let mut scripts = Vec::new();
    let (fetched, asked) = thread::scope(|scope| {
        let images = scope.spawn(|| bench.pair().in_client(|| images_at_once(&digest.to_string())));
        let asked = bench.pair().in_server(|| installed_ask(installed));
        (images.join(), asked)
    });
    asked?;
    let seconds = fetched.ok().context("a thread panicked")??;
    for machine in installed {
        let machine = machine.lock().ok().context("a thread panicked")?;
        scripts.extend(machine.1.times.get("script").into_iter().flatten().copied());
    }
    scripts.sort_by(f64::total_cmp);
    add("images_rate", f64::from(WITH_A_JOB) * IMAGE_BYTES as f64 / 1e6 / seconds);
    add("script_p99_beside_images", percentile(&scripts, 0.99).context("no script")?);
    let began = Instant::now();
    bench.pair().in_server(|| {
        all(with_a_job, |_, machine, connection| machine.start(connection))?;
        all(with_a_job, |_, machine, connection| machine.install(connection))?;
        all(with_a_job, |_, machine, connection| machine.report(connection))?;
        let deployed = deployed(token)?;
        ensure!(deployed == MACHINES as usize, "{deployed} of {MACHINES} machines are deployed");
        Ok(())
    })?;
    add("jobs_time", began.elapsed().as_secs_f64());
    Ok(())
}

/// Lets machines ask by DHCP that have no address yet.
fn broadcast(bench: &Bench, load: &Load) -> Result<Outcome> {
    bench.pair().unaddress_client()?;
    let outcome = bench.pair().in_client(|| machines::run(load));
    bench.pair().address_client()?;
    outcome
}

/// Seconds until all machines with a system were told to start it.
fn installed_ask(installed: &[Mutex<(u32, Machine)>]) -> Result<f64> {
    let began = Instant::now();
    all(installed, |_, machine, connection| {
        machine.times.clear();
        let script = machine.script(connection)?;
        ensure!(!script.contains(ARG_TOKEN), "an installed machine shall start an agent: {script}");
        Ok(())
    })?;
    Ok(began.elapsed().as_secs_f64())
}

/// A server that answers by DHCP, TFTP and HTTP.
fn started(bench: &Bench, site: &Site<'_>) -> Result<Subject> {
    let mut server = ours::start(bench, site, Port::Tcp(HTTP_PORT))?;
    server.wait_bound(Port::Udp(TFTP_SERVER_PORT))?;
    // It looks for other servers before it answers by DHCP.
    bench.pair().in_server(|| {
        wait_for("the DHCP service", secs(20), || {
            let token = fs::read_to_string(site.data.join("admin.token")).unwrap_or_default();
            let role = connect().and_then(|mut one| one.ask("GET", "/v1/dhcp", token.trim(), ""));
            let text =
                role.map_or_else(|error| error.to_string(), |role| String::from_utf8_lossy(&role).into());
            Ok(if text.contains("\"role\":\"authoritative\"") {
                Poll::Ready(())
            } else {
                Poll::pending(text)
            })
        })
    })?;
    Ok(server)
}

/// Seconds until all machines with a job have the image.
fn images_at_once(digest: &str) -> Result<f64> {
    let began = Instant::now();
    thread::scope(|scope| {
        let fetch = || -> Result<()> {
            let mut stream = TcpStream::connect((SERVER, HTTP_PORT))?;
            stream.set_read_timeout(Some(secs(30)))?;
            let request =
                format!("GET /images/{digest} HTTP/1.1\r\nHost: kaltstart\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes())?;
            let (mut bytes, mut piece) = (0, vec![0; 256 << 10]);
            loop {
                match stream.read(&mut piece)? {
                    0 => break,
                    count => bytes += count,
                }
            }
            ensure!(bytes > IMAGE_BYTES, "only {bytes} bytes of the image came");
            Ok(())
        };
        let fetches: Vec<_> = (0..WITH_A_JOB).map(|_| scope.spawn(fetch)).collect();
        for fetch in fetches {
            fetch.join().ok().context("a thread panicked")??;
        }
        Ok(began.elapsed().as_secs_f64())
    })
}
