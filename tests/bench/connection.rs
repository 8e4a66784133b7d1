//! One connection over plain HTTP that is kept, and what is asked over it.

use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::wait::secs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};

/// A connection.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(crate) fn open(server: SocketAddrV4) -> Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(secs(30)))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Asks with a bearer's token and a JSON body, if there are any; the body of an answer of success.
    pub(crate) fn ask(&mut self, method: &str, path: &str, bearer: &str, body: &str) -> Result<Vec<u8>> {
        let bearer =
            if bearer.is_empty() { String::new() } else { format!("Authorization: Bearer {bearer}\r\n") };
        let content = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: kaltstart\r\n{bearer}{content}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.get_mut().write_all(request.as_bytes())?;
        self.answer().with_context(|| format!("{method} {path}"))
    }

    fn answer(&mut self) -> Result<Vec<u8>> {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let start = head.len();
            ensure!(self.0.read_line(&mut head)? > 0, "the connection ended");
            let line = head[start..].trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        ensure!(head.starts_with("HTTP/1.1 2"), "{}: {}", head.trim_end(), String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// Asks for something that does not end, and reads until the server closes.
    pub(crate) fn watch(mut self, path: &str, bearer: &str) -> Result<()> {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: kaltstart\r\nAuthorization: Bearer {bearer}\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes())?;
        self.0.get_mut().set_read_timeout(None)?;
        let mut bytes = [0; 4096];
        while self.0.read(&mut bytes)? > 0 {}
        Ok(())
    }
}
