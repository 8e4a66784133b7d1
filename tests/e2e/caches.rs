//! An image through a cache in front of the server: nginx as Debian has it, with the configuration that sites are given.

use crate::common::{DEPLOY_LIMIT, config, ensure_deployed, half_of_the_image, machine, order_from};
use crate::common::{IMAGE, Ordered};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::config::HTTP_PORT;
use kaltstart_tests::guest::Firmware;
use kaltstart_tests::lab::{Lab, SERVER};
use kaltstart_tests::process::Process;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What sites are told to write.
const SAMPLE: &str = include_str!("../../server/nginx/images.conf");
/// Port of the cache, on the server's machine.
const PORT: u16 = 8088;

/// A cache in the lab; it ends when dropped.
fn cache(lab: &Lab) -> Result<Process> {
    let dir = lab.dir();
    let at = dir.display();
    let servers = SAMPLE
        .replace("/var/cache/nginx/kaltstart", &format!("{at}/cache"))
        .replace("listen 8080;", &format!("listen {SERVER}:{PORT};"))
        .replace("http://10.77.0.1:8080;", &format!("http://{SERVER}:{HTTP_PORT};"));
    let text = format!(
        "daemon off; master_process off; user root; pid {at}/nginx.pid; error_log {at}/nginx.log;\n\
         events {{ }}\nhttp {{\n\
         access_log off;\n\
         client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;\n\
         uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n{servers}\n}}\n"
    );
    fs::write(dir.join("nginx.conf"), text)?;
    let mut command = lab.command("nginx");
    command.arg("-c").arg(dir.join("nginx.conf")).arg("-e").arg(dir.join("nginx.log"));
    let process = Process::start("nginx", &mut command, &dir.join("nginx.out"))?;
    let address = SocketAddr::from((SERVER, PORT));
    wait_for("the cache", secs(10), || {
        let connected = lab.inside(|| Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1))?));
        Ok(match connected {
            Ok(_) => Poll::Ready(()),
            Err(error) => Poll::pending(format!("{error:#}")),
        })
    })?;
    Ok(process)
}

/// A machine with a job, on a server that names the cache.
fn ordered(lab: &Lab) -> Result<Ordered<'_>> {
    let (artefacts, mut config) = config()?;
    config.sections += &format!("\n[[images.cache]]\nurl = \"http://{SERVER}:{PORT}\"\n");
    order_from(lab, machine(lab, Firmware::Bios)?.0, &artefacts, config, IMAGE)
}

/// What the server has sent of boot files and images, in bytes.
fn sent(ordered: &Ordered<'_>) -> Result<u64> {
    let metrics = ordered.server.get("/metrics")?.text();
    let line = metrics.lines().find_map(|line| line.strip_prefix("kaltstart_http_boot_bytes_total "));
    Ok(line.unwrap_or_default().parse()?)
}

/// The cache dies in the middle of the image: the server gives the rest, the log says so, and the disk is right.
#[test]
fn p36_an_image_goes_on_at_the_server_where_its_cache_dies() -> Result<()> {
    story("caches", |lab| {
        let mut nginx = cache(lab)?;
        let mut ordered = ordered(lab)?;
        half_of_the_image(lab, &ordered)?;
        let before = sent(&ordered)?;
        nginx.kill();
        lab.unthrottle(ordered.guest.tap())?;
        let job = ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;
        ensure!(sent(&ordered)? > before, "the server has sent nothing more");
        let log = ordered.server.get(&format!("/v1/jobs/{}/log", job.id))?.text();
        let told = log.split("does not serve: byte ").nth(1);
        let told = told.with_context(|| format!("the log does not say so: {log}"))?;
        ensure!(!told.starts_with("0:"), "the cache gave nothing: {told}");
        ensure_deployed(&mut ordered, &job)
    })
}
