//! Images through caches as sites have them: nginx of Debian, two deep.

use crate::agent::Agent;
use crate::nginx::Nginx;
use crate::site::{Site, mac, put_image};
use kaltstart_protocol::agent_api::{ImagePlace, InstallTask, Mode, Task};
use kaltstart_protocol::ids::Digest;
use reqwest::StatusCode;
use std::process::{Child, Command, Stdio};

/// Of several pieces, the last of them not whole.
pub(crate) fn image() -> Vec<u8> {
    (0..1_400_003_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

/// Starts to fetch.
pub(crate) fn fetch(url: &str, more: &[&str]) -> Child {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "60"]).args(more).arg(url);
    curl.stdout(Stdio::piped()).spawn().expect("curl")
}

pub(crate) fn fetched(child: Child) -> Vec<u8> {
    let output = child.wait_with_output().expect("curl");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// Bytes of files that the server has sent.
pub(crate) async fn sent(site: &Site) -> u64 {
    let metrics = site.get("/metrics").await.text;
    let line = metrics.lines().find_map(|line| line.strip_prefix("kaltstart_http_boot_bytes_total "));
    line.expect("a counter").parse().expect("a number")
}

#[tokio::test]
async fn many_machines_behind_two_caches_cost_the_server_one_transfer() {
    let site = Site::start().await;
    let image = image();
    put_image(site.dir.path(), &image);
    let hall = Nginx::cache_of(&site.base);
    let row = Nginx::cache_of(&hall.base);
    let path = format!("/images/{}", Digest::of(&image));
    let url = format!("{}{path}", row.base);
    let before = sent(&site).await;

    // All at once, and nothing is there yet.
    let machines: Vec<Child> = (0..12).map(|_| fetch(&url, &["--fail"])).collect();
    for machine in machines {
        assert!(fetched(machine) == image, "another image");
    }
    assert_eq!(sent(&site).await - before, image.len() as u64, "{:#?}", hall.seen());
    // The row's own cache gives what it has, whether one above it lives or not.
    drop(hall);
    for (from, to) in [(0, 1), (1_048_570, 1_048_580), (3_000_000, 5_600_012), (5_600_011, 5_600_012)] {
        let range = format!("{from}-{}", to - 1);
        assert!(fetched(fetch(&url, &["--fail", "--range", &range])) == image[from..to], "{range}");
    }
    let head = String::from_utf8(fetched(fetch(&url, &["--head"]))).expect("text").to_lowercase();
    for line in [
        "cache-control: public, max-age=31536000, immutable".to_owned(),
        format!("etag: \"{}\"", Digest::of(&image)),
        format!("content-length: {}", image.len()),
    ] {
        assert!(head.lines().any(|other| other == line), "{line} in {head}");
    }
    assert_eq!(sent(&site).await - before, image.len() as u64);
}

#[tokio::test]
async fn caches_keep_no_refusal_and_nothing_that_may_change() {
    let site = Site::start().await;
    let cache = Nginx::cache_of(&site.base);
    let image = image();
    let path = format!("/images/{}", Digest::of(&image));
    let status = |path: &str| {
        let how = ["--output", "/dev/null", "--write-out", "%{http_code}"];
        String::from_utf8(fetched(fetch(&format!("{}{path}", cache.base), &how))).expect("a status")
    };
    assert_eq!(status(&path), "404", "no such image yet");
    assert_eq!(status("/images/none"), "400");
    put_image(site.dir.path(), &image);
    assert_eq!(status(&path), "200", "a refusal was kept");
    // What has another name than its digest is asked for again, and is not in such a cache at all.
    assert_eq!(status("/boot/files/snponly.efi"), "404");
    site.declare("n1", mac(1)).await;
    let script = format!("/boot/{}/script.ipxe", mac(1));
    for (path, control) in
        [("/boot/files/snponly.efi", "no-cache"), (&script, "no-store"), ("/images/none", "no-store")]
    {
        let answer = site.http.get(format!("{}{path}", site.base)).send().await.expect("answered");
        assert_eq!(answer.headers()["cache-control"], control, "{path}");
    }
}

/// The task of a machine that was started for an installation.
async fn task(site: &Site) -> InstallTask {
    site.declare("n1", mac(1)).await;
    site.order("n1", "deploy").await;
    let agent = Agent::boot(site, 1, 1, Mode::Install).await;
    assert_eq!(agent.hello().await.status, StatusCode::OK);
    match agent.task().await {
        Task::Install(task) => *task,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_agent_is_told_the_caches_of_its_network_and_the_server_in_the_end() {
    let site = Site::start().await;
    assert_eq!(task(&site).await.caches, []);

    let mut site = Site::start().await;
    let cache = |url: &str, network: &str| {
        format!("[[images.cache]]\nurl = \"http://{url}\"\nnetworks = [\"{network}\"]\n")
    };
    let lines = [cache("10.9.0.2:8080", "10.9.0.0/16"), cache("127.0.0.2:8080/row/", "127.0.0.0/8")];
    let file = site.dir.path().join("server.toml");
    let text = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&file, text.replace("[log]", &format!("{}[log]", lines.concat()))).expect("written");
    site.stop();
    site.power_on().await;
    let task = task(&site).await;
    let path = task.image_url.strip_prefix(&site.base).expect("at the server");
    let image_url = format!("http://127.0.0.2:8080/row{path}");
    assert_eq!(task.caches, [ImagePlace { image_url, chunks_url: None }]);
}
