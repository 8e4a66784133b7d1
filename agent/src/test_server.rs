//! An HTTP server for tests: gives prepared answers in order and notes what was asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

/// An answer that breaks the connection without a word.
pub(crate) const HANG_UP: &str = "";

/// Listens on loopback until the test ends. When the answers are used up the last one is repeated.
pub(crate) struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts a server with these answers (head and body as they go over the wire).
    pub(crate) fn start(answers: Vec<String>) -> Self {
        let count = answers.len();
        Self::with(move |index, _| answers[index.min(count - 1)].clone())
    }

    /// Starts a server that answers what `answer` makes of a request's number and text.
    pub(crate) fn with(answer: impl Fn(usize, &str) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let noted = requests.clone();
        let answer = Arc::new(Mutex::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (noted, answer) = (noted.clone(), answer.clone());
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream);
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
        Self { address, requests }
    }

    /// The address of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What was asked so far: head and body.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("not poisoned").clone()
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
