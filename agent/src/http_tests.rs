use super::*;
use crate::test_server::{Server, Shown, json};
use std::net::TcpListener;

fn ask(client: &ureq::Agent, url: &str) -> Result<u16, ureq::Error> {
    client.get(url).call().map(|mut answer| {
        answer.body_mut().read_to_vec().expect("a body");
        answer.status().as_u16()
    })
}

/// Why that client does not believe that server.
fn refused(client: &ureq::Agent, server: &Server) -> String {
    let error = ask(client, &server.url("/")).expect_err("it is not to be believed");
    assert_eq!(server.requests(), Vec::<String>::new(), "it was told something");
    refusal(&error).unwrap_or_else(|| panic!("not about trust: {error:?}"))
}

#[test]
fn p20_the_pinned_authority_s_server_is_believed_and_a_connection_is_kept() {
    let server = Server::secure(vec![json("200 OK", "{}")]);
    let client = server.client();
    for _ in 0..3 {
        assert_eq!(ask(&client, &server.url("/")).expect("believed"), 200);
    }
    assert_eq!((server.requests().len(), server.connections()), (3, 1));
}

#[test]
fn p20_another_authority_is_refused_and_both_fingerprints_are_told() {
    let [server, other] = [0, 1].map(|_| Server::secure(vec![json("200 OK", "{}")]));
    let why = refused(&server.client(), &other);
    let told = [server.authority(), other.authority()].map(|it| it.to_string());
    assert_eq!(why, format!("expected the authority {}, seen {}", told[0], told[1]));
}

#[test]
fn p20_a_certificate_for_another_address_or_time_is_refused() {
    for (shown, word) in [(Shown::new("10.77.0.1", 2500), "name"), (Shown::new("127.0.0.1", 2020), "expired")]
    {
        let server = Server::showing(shown, vec![json("200 OK", "{}")]);
        let why = refused(&server.client(), &server);
        assert!(why.contains(word), "{why}");
    }
}

#[test]
fn p20_plain_http_and_older_tls_are_refused() {
    // A fatal alert "protocol_version" is what a server for TLS 1.2 alone answers (RFC 8446 §6.2).
    for (answer, word) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(), "message"),
        (&[0x15, 3, 3, 0, 2, 2, 70], "ProtocolVersion"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut hello = [0; 5];
            stream.read_exact(&mut hello).expect("a hello");
            stream.write_all(answer).expect("answered");
            // Until the client has enough of it.
            io::copy(&mut stream, &mut io::sink()).ok();
        });
        let client = pinned(Digest([0; 32]), 0).expect("a client");
        let error = ask(&client, &format!("https://{address}/")).expect_err("it is not to be believed");
        let why = refusal(&error).unwrap_or_else(|| panic!("not about trust: {error:?}"));
        assert!(why.contains(word), "{why}");
        server.join().expect("no panic");
    }
}

#[test]
fn p20_the_pinned_client_speaks_to_nobody_in_the_clear() {
    let server = Server::start(vec![json("200 OK", "{}")]);
    let client = pinned(Digest([0; 32]), 0).expect("a client");
    let error = ask(&client, &server.url("/")).expect_err("it is in the clear");
    assert!(matches!(error, ureq::Error::RequireHttpsOnly(_)), "{error:?}");
    assert_eq!(server.connections(), 0);
}

#[test]
fn a_server_that_cannot_be_reached_is_another_matter() {
    let client = pinned(Digest([0; 32]), 0).expect("a client");
    let error = ask(&client, "https://127.0.0.1:1/").expect_err("nobody is there");
    assert_eq!(refusal(&error), None, "{error:?}");
}

#[test]
fn a_handshake_that_drips_for_ever_is_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        // A record of 8 KiB, byte by byte: its head, and nothing that could be refused before its end.
        stream.write_all(&[0x16, 3, 3, 0x20, 0]).expect("answered");
        while stream.write_all(&[0]).is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let client = pinned(Digest([0; 32]), 0).expect("a client");
    let request = client.get(format!("https://{address}/")).config();
    let began = std::time::Instant::now();
    let error = request.timeout_global(Some(Duration::from_millis(300))).build().call().expect_err("cut off");
    assert!(matches!(error, ureq::Error::Timeout(_)), "{error:?}");
    assert!(began.elapsed() < CONNECT_LIMIT, "{:?}", began.elapsed());
    drop(client);
    server.join().expect("no panic");
}
