use super::*;
use crate::test_server::{Server, json};
use kaltstart_protocol::recall::RecallStart;
use kaltstart_protocol::secret::Secret;
use std::os::unix::fs::PermissionsExt as _;

/// A server that gives these bytes for every request.
fn files(bytes: &str) -> Server {
    Server::start(vec![format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{bytes}", bytes.len())])
}

fn file(server: &Server, bytes: &str) -> BootFile {
    BootFile { url: server.url("/f"), size: bytes.len() as u64, digest: Digest::of(bytes.as_bytes()) }
}

fn stay(authority: Digest) -> String {
    json("200 OK", &format!(r#"{{"recall":"stay","seconds":20,"authority":"{authority}"}}"#))
}

fn start(kernel: BootFile, ramdisk: BootFile) -> String {
    let start = RecallStart { kernel, ramdisk, arguments: Secret::new("a".into()) };
    json("200 OK", &serde_json::to_string(&Recall::Start(Box::new(start))).expect("serialises"))
}

fn system<'a>(server: &Server, path: &'a Path) -> System<'a> {
    let config = ReportConfig {
        urls: vec![server.url("/node/v1/recall")],
        token: Secret::new("kst_recall_1".into()),
        job: None,
        authority: server.authority(),
        not_before: 0,
    };
    System { config, path, leave: || panic!("nothing is loaded"), refused: None }
}

#[test]
fn p14_what_has_another_digest_or_length_is_not_started_and_the_server_is_told() {
    let (good, other) = (files("kernel"), files("another"));
    for ramdisk in [file(&other, "ramdisk"), file(&other, "anothe"), file(&good, "rem")] {
        let answers = vec![start(file(&good, "kernel"), ramdisk), stay(Digest([0; 32]))];
        let server = Server::secure(answers);
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("recall.json");
        let mut system = system(&server, &path);
        system.ask().expect("answered");
        assert_eq!(system.ask(), Ok(20));
        let told = server.requests();
        assert!(told[0].contains(r#""token":"kst_recall_1""#) && !told[0].contains("refused"), "{told:?}");
        assert!(told[1].contains("is not what the server named"), "{told:?}");
        assert_eq!(system.refused, None, "it is told once");
    }
}

#[test]
fn what_the_kernel_does_not_load_is_told() {
    let good = files("no kernel");
    let server = Server::secure(vec![start(file(&good, "no kernel"), file(&good, "no kernel"))]);
    let mut system = system(&server, Path::new("/nowhere"));
    system.ask().expect("answered");
    let why = system.refused.expect("refused");
    assert!(why.contains("os error"), "{why}");
}

#[test]
fn p36_files_that_do_not_come_whole_are_asked_for_again() {
    let good = files("kernel");
    let cut_short = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nkern";
    let short = Server::start(vec![cut_short.into()]);
    let server = Server::secure(vec![start(file(&good, "kernel"), file(&short, "kernel..."))]);
    let mut system = system(&server, Path::new("/nowhere"));
    let why = system.ask().expect_err("it ended early");
    assert!(why.contains("cannot fetch"), "{why}");
    assert_eq!(system.refused, None);
}

#[test]
fn p20_the_token_goes_to_the_pinned_authority_alone_and_its_successor_is_kept() {
    let [server, other] = [0, 1].map(|_| Server::secure(vec![stay(Digest([7; 32]))]));
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("recall.json");
    let mut system = system(&server, &path);
    system.config.urls = vec![other.url("/node/v1/recall")];
    assert!(system.ask().is_err());
    assert_eq!(other.requests(), Vec::<String>::new());
    // The next one is the server.
    system.config.urls.push(server.url("/node/v1/recall"));
    assert_eq!(system.ask(), Ok(20));
    let kept: ReportConfig = serde_json::from_slice(&fs::read(&path).expect("kept")).expect("JSON");
    assert_eq!((kept.authority, kept.token.expose()), (Digest([7; 32]), "kst_recall_1"));
    assert_eq!(fs::metadata(&path).expect("kept").permissions().mode() & 0o777, 0o600);
}
