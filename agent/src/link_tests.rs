use super::*;
use crate::test_server::{HANG_UP, Server, json};
use kaltstart_protocol::ids::Digest;

fn link(server: &Server) -> Link {
    Link::new(&[server.url("")], server.client(), Secret::new("kss_session".into())).with_pause(|_| {})
}

#[test]
fn p36_an_outage_is_waited_out() {
    let down = ["503 Service Unavailable", "500 Internal Server Error", "429 Too Many Requests"];
    let mut answers: Vec<String> = down.iter().map(|status| json(status, "{}")).collect();
    answers.push(HANG_UP.into());
    answers.push("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".into());
    answers.push(json("200 OK", "<html>a captive portal</html>"));
    answers.push(json("200 OK", r#"{"kind":"wait"}"#));
    let server = Server::secure(answers);
    let answer = link(&server).insist("asking for work", Link::task);
    assert!(matches!(answer, Ok(Task::Wait)), "{answer:?}");
    // The broken connection may be tried twice by the HTTP client itself.
    assert!(server.requests().len() >= 7);
}

#[test]
fn p20_the_session_goes_only_to_the_server_and_hello_carries_it_in_the_body() {
    let server = Server::secure(vec![json("302 Found", "{}"), json("200 OK", r#"{"kind":"wait"}"#)]);
    let link = link(&server);
    assert!(matches!(link.task(), Err(CallError::Unreachable(_))), "a redirect is not followed");
    assert!(link.task().is_ok());
    for request in server.requests() {
        assert!(request.starts_with("POST /agent/v1/task HTTP/1.1"), "{request}");
        assert!(request.to_ascii_lowercase().contains("authorization: bearer kss_session"));
        assert!(request.ends_with(r#"{"wait_seconds":30}"#));
    }
}

#[test]
fn refusals_are_shown_and_not_repeated() {
    let problem = r#"{"title":"Node is retired","detail":"take it back first","status":409}"#;
    let server = Server::secure(vec![
        json("401 Unauthorized", r#"{"title":"Token used up"}"#),
        json("409 Conflict", problem),
    ]);
    let link = link(&server);
    assert_eq!(link.insist("t", Link::task).err(), Some(CallError::Unauthorized("Token used up".into())));
    let text = "Node is retired: take it back first".to_owned();
    assert_eq!(link.insist("t", Link::task).err(), Some(CallError::Refused { status: 409, text }));
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn an_unreachable_server_is_told_apart() {
    let http = crate::http::pinned(Digest([0; 32]), 0).expect("a client");
    let link = Link::new(&["https://127.0.0.1:1".into()], http, Secret::new("s".into()));
    assert!(matches!(link.task(), Err(CallError::Unreachable(_))));
}

#[test]
fn p20_somebody_else_in_the_server_s_place_is_waited_out_and_told_nothing() {
    let [server, other] = [0, 1].map(|_| Server::secure(vec![json("200 OK", r#"{"kind":"wait"}"#)]));
    // The machine was told of `server`, and `other` answers at its address.
    let link = Link::new(&[other.url("")], server.client(), Secret::new("kss_session".into()));
    let Err(CallError::Untrusted(why)) = link.task() else { panic!("believed") };
    for authority in [server.authority(), other.authority()] {
        assert!(why.contains(&authority.to_string()), "{why}");
    }
    let mut calls = 0;
    let answer = link.with_pause(|_| {}).insist("asking for work", |link| {
        calls += 1;
        if calls <= 3 { link.task() } else { Err(CallError::Unauthorized("the real one".into())) }
    });
    assert!(matches!(answer, Err(CallError::Unauthorized(_))), "{answer:?}");
    assert_eq!(other.requests(), Vec::<String>::new());
}

#[test]
fn a_log_batch_needs_no_answer_body() {
    let server = Server::secure(vec!["HTTP/1.1 204 No Content\r\n\r\n".into()]);
    assert_eq!(link(&server).log(&LogBatch { first: 0, lines: Vec::new() }), Ok(()));
}

#[test]
fn problems_are_read_or_shown_as_they_are() {
    assert_eq!(problem(br#"{"title":"No"}"#), "No");
    assert_eq!(problem(b" plain text\n"), "plain text");
    assert_eq!(problem(&[b'x'; 900]).len(), 200);
}

/// Where nobody listens.
const NOBODY: &str = "https://127.0.0.1:1";

#[test]
fn p36_the_next_server_is_asked_at_once_when_one_does_not_answer_and_stays_the_one() {
    let wait = || json("200 OK", r#"{"kind":"wait"}"#);
    let server = Server::secure(vec![wait(), wait(), json("503 Service Unavailable", "{}"), wait()]);
    let servers = [NOBODY.to_owned(), server.url("")];
    let session = || Secret::new("kss_session".into());
    let link =
        Link::new(&servers, server.client(), session()).with_pause(|_| panic!("nothing is waited for"));
    assert_eq!(link.server(), NOBODY);
    for _ in 0..2 {
        let answer = link.insist("asking for work", Link::task);
        assert!(matches!(answer, Ok(Task::Wait)), "{answer:?}");
        assert_eq!(link.server(), server.url(""));
    }
    assert_eq!(server.requests().len(), 2);
    // When all of them fail they are asked again after a pause.
    let answer = link.with_pause(|_| {}).insist("asking for work", Link::task);
    assert!(matches!(answer, Ok(Task::Wait)), "{answer:?}");
    assert_eq!(server.requests().len(), 4);
}

#[test]
fn p20_a_stranger_in_one_server_s_place_is_told_nothing_and_another_is_asked() {
    let [server, other] = [0, 1].map(|_| Server::secure(vec![json("200 OK", r#"{"kind":"wait"}"#)]));
    let servers = [other.url(""), server.url("")];
    let link = Link::new(&servers, server.client(), Secret::new("kss_session".into()));
    let answer = link.with_pause(|_| panic!("nothing is waited for")).insist("asking for work", Link::task);
    assert!(matches!(answer, Ok(Task::Wait)), "{answer:?}");
    assert_eq!(other.requests(), Vec::<String>::new());
}

#[test]
fn a_refusal_is_every_server_s() {
    let server = Server::secure(vec![json("401 Unauthorized", r#"{"title":"Token used up"}"#)]);
    let servers = [server.url(""), NOBODY.to_owned()];
    let link = Link::new(&servers, server.client(), Secret::new("kss_session".into()));
    let answer = link.insist("asking for work", Link::task);
    assert_eq!(answer.err(), Some(CallError::Unauthorized("Token used up".into())));
    assert_eq!(link.server(), server.url(""));
}
