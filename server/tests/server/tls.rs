//! TLS as curl and `ks` meet it.

use crate::site::{LIMIT, PROGRAM, Site};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Instant;

fn ca(site: &Site) -> PathBuf {
    site.data().join("tls/ca.pem")
}

fn curl(site: &Site, args: &[&str]) -> Output {
    Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20", "--write-out", "%{http_version} %{http_code}"])
        .args(args)
        .arg("--output")
        .arg("/dev/null")
        .arg(format!("{}/healthz", site.tls_base))
        .output()
        .expect("curl runs")
}

fn trusting<'a>(ca: &'a str, args: &[&'a str]) -> Vec<&'a str> {
    [&["--cacert", ca], args].concat()
}

#[tokio::test]
async fn tls_speaks_http_2_and_1_1_and_only_tls_1_3() {
    let site = Site::start().await;
    let path = ca(&site);
    let ca = path.to_str().expect("text");
    for (args, expect) in
        [(vec!["--http2"], "2 200"), (vec!["--http1.1"], "1.1 200"), (vec!["--tlsv1.3"], "2 200")]
    {
        let output = curl(&site, &trusting(ca, &args));
        assert_eq!(String::from_utf8_lossy(&output.stdout), expect, "{args:?} {output:?}");
    }
    let old = curl(&site, &trusting(ca, &["--tls-max", "1.2"]));
    assert!(!old.status.success(), "TLS 1.2: {old:?}");
    let stranger = curl(&site, &[]);
    assert_eq!(stranger.status.code(), Some(60), "an authority the client does not know: {stranger:?}");
}

#[tokio::test]
async fn files_over_tls_are_the_same_files() {
    let site = Site::start().await;
    let content: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_be_bytes).collect();
    std::fs::write(site.dir.path().join("loaders/snponly.efi"), &content).expect("written");
    for version in ["--http1.1", "--http2"] {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", version, "--cacert"])
            .arg(ca(&site))
            .arg(format!("{}/boot/files/snponly.efi", site.tls_base))
            .args(["--range", "5-"])
            .output()
            .expect("curl runs");
        assert!(output.status.success() && output.stdout == content[5..], "{version}");
    }
}

/// Runs the client with these words.
fn ks(site: &Site, args: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(["node", "list"])
        .args(args)
        .env("KS_TOKEN_FILE", site.token_file())
        .env("KS_SERVER", &site.tls_base)
        .env_remove("KS_CA")
        .output()
        .expect("it runs")
}

fn tls_command(site: &Site, args: &[&str]) -> String {
    let output = Command::new(PROGRAM)
        .arg("tls")
        .args(args)
        .arg("--config")
        .arg(site.dir.path().join("server.toml"))
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn fingerprint(text: &str, what: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(what)).expect("a line");
    line.trim().to_owned()
}

#[tokio::test]
async fn p20_ks_believes_the_site_s_authority_alone() {
    let site = Site::start().await;
    let other = Site::start().await;
    let told = tls_command(&site, &["show"]);
    let authority = fingerprint(&told, "authority");
    assert!(site.log().contains(&authority), "the server tells its fingerprint at start");
    assert!(told.contains("127.0.0.1") && told.contains("localhost"), "{told}");
    assert!(ks(&site, &[]).status.success(), "found beside the token");
    assert!(ks(&site, &["--fingerprint", &authority]).status.success());
    let others = fingerprint(&tls_command(&other, &["show"]), "authority");
    let (both, other_ca) = (format!("expected the authority {others}, seen {authority}"), ca(&other));
    for (args, why) in [
        (["--fingerprint", others.as_str()], both.as_str()),
        (["--ca", other_ca.to_str().expect("text")], "not signed by the authority that was expected"),
        (["--server", &site.tls_base.replace("127.0.0.1", "127.0.0.2")], "cannot reach"),
    ] {
        let output = ks(&site, &args);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && words.contains(why), "{words}");
        if why != "cannot reach" {
            assert!(words.contains(&site.tls_base) && words.contains("KS-1040"), "{words}");
            assert!(!words.contains("OtherAuthority") && !words.contains("UnknownIssuer"), "{words}");
        }
    }
    let output = ks(&site, &["--server", "http://10.77.0.1:8080"]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(64) && words.contains("https://"), "{words}");
    assert!(!site.log().contains("PRIVATE KEY") && !told.contains("PRIVATE"));
}

#[tokio::test]
async fn before_the_first_start_tls_show_makes_nothing_and_says_so() {
    let site = Site::start().await;
    let config = std::fs::read_to_string(site.dir.path().join("server.toml")).expect("read");
    let (data, fresh) = (site.data(), site.dir.path().join("fresh"));
    let (before, after) = (data.to_str().expect("text"), fresh.to_str().expect("text"));
    assert!(config.contains(before), "{config}");
    let path = site.dir.path().join("fresh.toml");
    std::fs::write(&path, config.replace(before, after)).expect("written");
    let tls = |word| {
        let mut command = Command::new(PROGRAM);
        command.args(["tls", word, "--config"]).arg(&path).output().expect("it runs")
    };
    let shown = tls("show");
    let words = String::from_utf8_lossy(&shown.stderr);
    assert!(!shown.status.success() && !fresh.exists(), "{words}");
    assert!(words.contains("no server was started") && words.contains(after), "{words}");
    assert!(tls("rotate").status.success() && tls("show").status.success());
    std::fs::remove_file(fresh.join("tls/authority.pem")).expect("removed");
    let words = String::from_utf8(tls("show").stderr).expect("text");
    assert!(words.contains("missing") && words.contains("restore"), "{words}");
}

#[tokio::test]
async fn new_keys_are_taken_up_without_a_restart() {
    let site = Site::start().await;
    let first = tls_command(&site, &["show"]);
    let old_ca = std::fs::read(ca(&site)).expect("read");
    let old = site.dir.path().join("old.pem");
    std::fs::write(&old, old_ca).expect("written");
    let second = tls_command(&site, &["rotate"]);
    assert_eq!(fingerprint(&second, "authority"), fingerprint(&first, "authority"));
    let third = tls_command(&site, &["rotate", "--authority"]);
    assert_ne!(fingerprint(&third, "authority"), fingerprint(&first, "authority"));
    assert_eq!(fingerprint(&third, "replaced"), fingerprint(&first, "authority"));
    let began = Instant::now();
    while !ks(&site, &[]).status.success() {
        assert!(began.elapsed() < LIMIT, "the new authority does not show\n{}", site.log());
    }
    assert!(ks(&site, &["--ca", old.to_str().expect("text")]).status.success(), "the old one still counts");
    assert!(site.log().contains(&fingerprint(&third, "authority")), "the log tells it");
}
