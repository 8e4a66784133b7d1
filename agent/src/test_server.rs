//! An HTTP server for tests: gives prepared answers in order and notes what was asked.

use kaltstart_protocol::ids::Digest;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// An answer that breaks the connection without a word.
pub(crate) const HANG_UP: &str = "";

/// Listens on loopback until the test ends. When the answers are used up the last one is repeated.
pub(crate) struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    /// Of a server with TLS.
    authority: Option<Digest>,
}

/// A certificate for a server, of an authority made for it.
pub(crate) struct Shown {
    pub(crate) authority: Digest,
    config: ServerConfig,
}

impl Shown {
    /// Valid for `name`, until the beginning of `year`.
    pub(crate) fn new(name: &str, year: i32) -> Self {
        let root_key = KeyPair::generate().expect("a key");
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = root.self_signed(&root_key).expect("signed").der().clone();
        let key = KeyPair::generate().expect("a key");
        let mut server = CertificateParams::new([name.to_owned()]).expect("a name");
        server.not_after = rcgen::date_time_ymd(year, 1, 1);
        let server = server.signed_by(&key, &Issuer::new(root, &root_key)).expect("signed").der().clone();
        let authority = Digest::of(&certificate);
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![server, certificate], key.into())
            .expect("a certificate with its key");
        Self { authority, config }
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Server {
    /// Starts a server with these answers (head and body as they go over the wire).
    pub(crate) fn start(answers: Vec<String>) -> Self {
        let count = answers.len();
        Self::serve(None, move |index, _| answers[index.min(count - 1)].clone())
    }

    /// The same over TLS.
    pub(crate) fn secure(answers: Vec<String>) -> Self {
        Self::showing(Shown::new("127.0.0.1", 2500), answers)
    }

    /// The same with that certificate.
    pub(crate) fn showing(shown: Shown, answers: Vec<String>) -> Self {
        let count = answers.len();
        Self::serve(Some(shown), move |index, _| answers[index.min(count - 1)].clone())
    }

    /// Starts a server with TLS that answers what `answer` makes of a request's number and text.
    pub(crate) fn with(answer: impl Fn(usize, &str) -> String + Send + 'static) -> Self {
        Self::serve(Some(Shown::new("127.0.0.1", 2500)), answer)
    }

    fn serve(shown: Option<Shown>, answer: impl Fn(usize, &str) -> String + Send + 'static) -> Self {
        let authority = shown.as_ref().map(|shown| shown.authority);
        let tls = shown.map(|shown| Arc::new(shown.config));
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (noted, connections) = (requests.clone(), Arc::new(AtomicUsize::new(0)));
        let counted = connections.clone();
        let answer = Arc::new(Mutex::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (noted, answer, tls) = (noted.clone(), answer.clone(), tls.clone());
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(dressed(stream, tls));
                    while let Some(request) = read_request(&mut reader) {
                        let text = {
                            let mut noted = noted.lock().expect("not poisoned");
                            noted.push(request.clone());
                            answer.lock().expect("not poisoned")(noted.len() - 1, &request)
                        };
                        let closes = text.is_empty() || text.contains("Connection: close");
                        if reader.get_mut().write_all(text.as_bytes()).is_err() || closes {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, requests, connections, authority }
    }

    /// A client that believes this server alone.
    pub(crate) fn client(&self) -> ureq::Agent {
        crate::http::pinned(self.authority(), 0).expect("a client")
    }

    /// The authority of its certificate.
    pub(crate) fn authority(&self) -> Digest {
        self.authority.expect("it has TLS")
    }

    /// How often somebody connected.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The address of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }

    /// What was asked so far: head and body.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("not poisoned").clone()
    }
}

fn dressed(stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> Box<dyn Stream> {
    match tls {
        Some(tls) => Box::new(StreamOwned::new(ServerConnection::new(tls).expect("a connection"), stream)),
        None => Box::new(stream),
    }
}

/// A complete answer with a JSON body.
pub(crate) fn json(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn read_request(reader: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(head + &String::from_utf8_lossy(&body))
}
