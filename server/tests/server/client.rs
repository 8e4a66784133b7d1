//! `ks` as people and scripts use it, against the real server.

use crate::site::{PROGRAM, Site, mac};
use kaltstart_core::dhcp::lease::{ClientKey, Lease, LeaseState, LeaseWrite};
use kaltstart_protocol::time::Millis;
use kaltstart_server::http::api::NodeView;
use kaltstart_server::http::jobs::JobView;
use kaltstart_server::store::Store;
use serde_json::json;
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

pub(crate) const DONE: i32 = 0;
pub(crate) const FAILED: i32 = 1;
const LOGIN: i32 = 4;
pub(crate) const NOT_FOUND: i32 = 5;
pub(crate) const CONFLICT: i32 = 6;
const JOB_FAILED: i32 = 7;
const WAIT_TIMED_OUT: i32 = 8;
pub(crate) const USAGE: i32 = 64;

/// How a command ended.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        let said = Self {
            code: output.status.code().expect("not killed"),
            out: text(output.stdout),
            err: text(output.stderr),
        };
        assert!(!said.out.contains('\x1b') && !said.err.contains('\x1b'), "no escapes where no terminal is");
        said
    }
}

pub(crate) fn command(program: &Path, words: &str) -> Command {
    let mut command = Command::new(program);
    command.args(words.split_whitespace()).env_remove("NO_COLOR");
    command
}

/// Runs the client against `site`.
pub(crate) async fn ks(site: &Site, words: &str) -> Said {
    let mut command = command(Path::new(PROGRAM), words);
    command.env("KS_SERVER", &site.base).env("KS_TOKEN_FILE", site.token_file());
    tokio::task::spawn_blocking(move || command.output().expect("it runs").into()).await.expect("joined")
}

/// Checks the exit code, that data and words go where they belong, and tells the words.
pub(crate) async fn refused(site: &Site, words: &str, code: i32) -> String {
    let said = ks(site, words).await;
    assert_eq!((said.code, said.out.as_str()), (code, ""), "{words}: {}", said.err);
    assert!(!said.err.trim().is_empty(), "{words}: says why");
    said.err
}

pub(crate) async fn done(site: &Site, words: &str) -> Said {
    let said = ks(site, words).await;
    assert_eq!(said.code, DONE, "{words}: {}", said.err);
    said
}

#[tokio::test]
async fn exit_codes_tell_what_happened() {
    let site = Site::start().await;
    done(&site, "node add n1 --mac 52:54:00:00:00:01").await;
    assert!(refused(&site, "node show n2", NOT_FOUND).await.contains("ks node list"));
    refused(&site, "node show a/b?c#d", NOT_FOUND).await;
    assert!(refused(&site, "deploy n1 --profile x", NOT_FOUND).await.contains("ks profile list"));
    refused(&site, "job show n1", NOT_FOUND).await;
    refused(&site, "watch", NOT_FOUND).await;
    assert!(refused(&site, "deploy n1 --profile hollow", CONFLICT).await.contains("images.dir"));
    refused(&site, "node accept n1", CONFLICT).await;
    refused(&site, "node add n1 --mac 52:54:00:00:00:02", CONFLICT).await;
    refused(&site, "node add N_1 --mac 52:54:00:00:00:02", USAGE).await;
    assert!(refused(&site, "node add n9 --mac ff:ff:ff:ff:ff:ff", USAGE).await.contains("no interface's"));
    refused(&site, "rebuild n1 --profile good --confirm n2", USAGE).await;
    for words in ["", "frobnicate", "node add n3", "node add n3 --mac zz", "node list -o xml", "server"] {
        refused(&site, words, USAGE).await;
    }
    refused(&site, "node list --token-file /nowhere", LOGIN).await;
    let wrong = site.dir.path().join("wrong.token");
    std::fs::write(&wrong, "kst_wrong").expect("written");
    let words = format!("node list --token-file {}", wrong.display());
    assert!(refused(&site, &words, LOGIN).await.contains("admin.token"));
    let why = refused(&site, "node list --server http://127.0.0.1:1", FAILED).await;
    assert!(why.contains("refused") && why.contains("KS_SERVER"), "the last cause, and what to do: {why}");
    for words in ["--help", "--version", "node --help"] {
        assert!(done(&site, words).await.err.is_empty(), "asked-for help is data");
    }
}

#[tokio::test]
async fn waiting_ends_with_the_job_or_the_time() {
    let site = Site::start().await;
    done(&site, "node add n1 --mac 52:54:00:00:00:01").await;
    refused(&site, "deploy n1 --profile good --wait --timeout 1", WAIT_TIMED_OUT).await;
    let job = done(&site, "job show n1 -o name").await.out;
    let job = job.trim();
    assert!(done(&site, &format!("job show {job}")).await.out.contains("waiting for the machine"));
    let (words, path) = (format!("watch {job}"), format!("/v1/jobs/{job}/cancel"));
    let nothing = json!({});
    let (watched, _) = tokio::join!(ks(&site, &words), site.post(&path, &nothing));
    assert_eq!(watched.code, JOB_FAILED, "{}", watched.err);
    assert!(watched.err.contains("cancelled"), "{}", watched.err);
    refused(&site, &format!("job cancel {job}"), CONFLICT).await;
}

#[tokio::test]
async fn p36_a_watch_outlives_a_restart_of_the_server() {
    let mut site = Site::start().await;
    done(&site, "node add n1 --mac 52:54:00:00:00:01").await;
    site.order("n1", "deploy").await;
    let mut command = command(Path::new(PROGRAM), "watch n1");
    command.env("KS_SERVER", &site.base).env("KS_TOKEN_FILE", site.token_file());
    let mut watch = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped"));
    site.post("/v1/nodes/n1/power", &json!({"observed": "on"})).await;
    let mut first = String::new();
    lines.read_line(&mut first).expect("read");
    assert!(first.starts_with("queued"), "a line for each ended phase: {first:?}");
    site.kill();
    site.power_on().await;
    done(&site, "job cancel n1").await;
    let said: Said = watch.wait_with_output().expect("it ends").into();
    assert_eq!(said.code, JOB_FAILED, "{}", said.err);
    assert!(said.err.contains("cancelled"), "{}", said.err);
}

#[tokio::test]
async fn every_form_of_output_can_be_read_back() {
    let site = Site::start().await;
    site.declare("n1", mac(1)).await;
    site.declare("n2", mac(2)).await;
    let job = site.order("n1", "deploy").await;
    let nodes: Vec<NodeView> =
        serde_json::from_str(&done(&site, "node list -o json").await.out).expect("JSON");
    let yaml: Vec<NodeView> =
        serde_saphyr::from_str(&done(&site, "node list -o yaml").await.out).expect("YAML");
    assert_eq!(nodes.len(), 2);
    assert_eq!(serde_json::to_value(&nodes).ok(), serde_json::to_value(&yaml).ok());
    assert_eq!(done(&site, "node list -o name").await.out, "n1\nn2\n");
    let table = done(&site, "node list").await.out;
    assert!(table.starts_with("NAME") && table.lines().count() == 3, "{table}");
    let shown: JobView = serde_json::from_str(&done(&site, "job show n1 -o json").await.out).expect("JSON");
    assert_eq!((shown.id.to_string(), shown.phases.len()), (job.clone(), 13));
    let shown: JobView = serde_saphyr::from_str(&done(&site, "job show n1 -o yaml").await.out).expect("YAML");
    assert_eq!(shown.id.to_string(), job);
    for (words, name) in
        [("profile list", "good\nhollow\nasking\nsealed\n"), ("image list", "tiny\n"), ("job list", &job)]
    {
        let names = done(&site, &format!("{words} -o name")).await.out;
        assert_eq!(names.trim_end(), name.trim_end());
        let json: serde_json::Value =
            serde_json::from_str(&done(&site, &format!("{words} -o json")).await.out).expect("JSON");
        assert!(json.is_array());
    }
    assert_eq!(done(&site, "job log n1").await.out, "", "nothing was said yet");
}

#[tokio::test]
async fn the_program_answers_to_its_short_name() {
    let site = Site::start().await;
    let short = site.dir.path().join("ks");
    std::os::unix::fs::symlink(PROGRAM, &short).expect("linked");
    let mut help = command(&short, "--help");
    let help: Said = help.output().expect("it runs").into();
    assert!(help.code == DONE && help.out.contains("Usage: ks "), "{}", help.out);
    let version: Said = command(&short, "--version").output().expect("it runs").into();
    assert_eq!(version.out.trim(), format!("kaltstart {}", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_bad_configuration_is_refused_with_its_key() {
    let site = Site::start().await;
    let file = site.dir.path().join("server.toml");
    let check = |config: &Path| {
        let mut command = command(Path::new(PROGRAM), "check-config --config");
        Said::from(command.arg(config).output().expect("it runs"))
    };
    let good = check(&file);
    assert_eq!(good.code, DONE);
    // What is not there yet is told, here and when the server starts.
    for (told, who) in [(&good.err, "check-config"), (&site.log(), "server")] {
        let loaders: Vec<_> = told.lines().filter(|line| line.contains("boot.loaders")).collect();
        assert!(
            matches!(loaders[..], [one] if one.contains("undionly.kpxe cannot be read")),
            "{who}: {told}"
        );
        assert!(told.contains("images.dir (profile hollow): image \"none\": cannot read"), "{who}: {told}");
        assert!(!told.contains("image \"tiny\""), "{who}: {told}");
    }
    let bad = site.dir.path().join("bad.toml");
    let text = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&bad, text.replace("level = \"debug\"", "levle = \"debug\"")).expect("written");
    let said = check(&bad);
    assert!(said.code == USAGE && said.err.contains("levle") && said.out.is_empty(), "{}", said.err);
    assert_eq!(check(Path::new("/nowhere.toml")).code, USAGE);
}

#[test]
fn who_stops_reading_has_read_enough() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = std::process::Command::new(PROGRAM).args(["explain", "--list"]).stdout(writer).output();
    let output = output.expect("the program starts");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[tokio::test]
async fn ks_dhcp_leases_tells_who_has_an_address() {
    let site = Site::start().await;
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).expect("after 1970");
    let lease = |key, mac, expires| Lease {
        key,
        mac,
        state: LeaseState::Bound,
        since: Millis(now),
        expires: Millis(expires),
    };
    let v4 = |last: u8, expires| LeaseWrite {
        address: Ipv4Addr::new(10, 77, 0, last),
        lease: lease(ClientKey::from(vec![1, 2, 0xab]), Some(mac(last.into())), expires),
    };
    let v6 = LeaseWrite {
        address: "fd77::1000".parse().expect("an address"),
        lease: lease(ClientKey::of_identity(&[0, 4, 0xcd], 7), Some(mac(100)), now + 3_600_000),
    };
    let store = Store::open(&site.data()).expect("beside the server");
    store.put_leases(vec![v4(101, now - 1), v4(100, now + 3_600_000)]).await.expect("stored");
    store.put_leases6(vec![v6]).await.expect("stored");
    let all = done(&site, "dhcp leases").await;
    let rows: Vec<&str> = all.out.lines().collect();
    assert!(rows.len() == 4 && all.err.is_empty(), "{}{}", all.out, all.err);
    for (row, words) in rows[1..].iter().zip([
        ["10.77.0.100", "bound", "0102ab"],
        ["10.77.0.101", "expired", "0102ab"],
        ["fd77::1000", "bound", "0004cd"],
    ]) {
        assert!(words.iter().all(|word| row.contains(word)), "{row}");
    }
    for (who, names) in [
        ("10.77.0.100".to_owned(), "10.77.0.100\n"),
        ("fd77::1000".to_owned(), "fd77::1000\n"),
        (mac(100).to_string(), "10.77.0.100\nfd77::1000\n"),
    ] {
        assert_eq!(done(&site, &format!("dhcp leases {who} -o name")).await.out, names, "{who}");
    }
    site.declare("db-64", mac(100)).await;
    let by_name = done(&site, "dhcp leases db-64 -o name").await.out;
    assert_eq!(by_name, "10.77.0.100\nfd77::1000\n");
    for limit in [1, 2] {
        let some = done(&site, &format!("dhcp leases --limit {limit} -o name")).await;
        assert!(some.out.lines().count() == limit && some.err.contains("more"), "{}", some.err);
    }
    assert!(done(&site, "dhcp leases --limit 3").await.err.is_empty(), "there are no more");
    refused(&site, "dhcp leases 10.77.0.99", NOT_FOUND).await;
    assert!(refused(&site, "dhcp leases somebody", USAGE).await.contains("MAC"));
    assert!(refused(&site, "dhcp leases --limit 0", USAGE).await.contains("limit"));
}
