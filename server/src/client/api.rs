//! Requests to `/v1`, and what their failure means to a person.

use super::Connection;
use crate::clock;
use crate::exit::Exit;
use crate::http::REASON;
use crate::http::error::Problem;
use crate::http::idempotency::HEADER;
use crate::http::nodes::STALE;
use crate::tls;
use kaltstart_trust::authority::{Pin, client_config};
use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Longest an answer may take: longer than the server holds one back.
const ANSWER_MAX: Duration = Duration::from_secs(90);

/// Pause before a server that was away is asked again.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// On this side: a file, the terminal.
    #[error("{0}")]
    Local(String),
    /// Words of the command that contradict each other.
    #[error("{0}")]
    Usage(String),
    /// No token, or a refused one.
    #[error("{0}")]
    Login(String),
    /// What was named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The server said no.
    #[error("{}", .0.detail)]
    Server(Problem),
    /// The server could not be asked.
    #[error("cannot reach {server}: {why}; set --server or KS_SERVER, and check that it runs")]
    Unreachable {
        /// Its address.
        server: String,
        /// Why, from the whole request to the socket.
        why: String,
    },
    /// Somebody answered who is not the server that is trusted.
    #[error(
        "{server} is not believed: {why}; it is another server, or its authority or address was changed: \
         `kaltstart tls show` on the server tells what it should show, `ks explain KS-1040` more; nothing was sent"
    )]
    NotBelieved {
        /// Its address.
        server: String,
        /// Why.
        why: String,
    },
    /// Something answered, but not as a server of ours does.
    #[error("{server} does not answer as this program expects: {why}; check --server, and both versions")]
    Strange {
        /// Its address.
        server: String,
        /// Why.
        why: String,
    },
}

impl ClientError {
    /// Whether the same question may be answered later.
    fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Server(problem) => problem.status == StatusCode::SERVICE_UNAVAILABLE.as_u16(),
            _ => false,
        }
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Local(_) | Self::Unreachable { .. } | Self::NotBelieved { .. } | Self::Strange { .. } => {
                Exit::Failed
            }
            Self::Usage(_) => Exit::Usage,
            Self::Login(_) => Exit::Login,
            Self::NotFound(_) => Exit::NotFound,
            Self::Server(problem) => match problem.status {
                400 => Exit::Usage,
                401 | 403 => Exit::Login,
                404 => Exit::NotFound,
                409 | 412 | 428 => Exit::Conflict,
                _ => Exit::Failed,
            },
        }
    }
}

impl Connection {
    /// The authority that is trusted: the one that was given, else the one beside the token.
    fn pin(&self) -> Result<Pin, ClientError> {
        if let Some(fingerprint) = self.fingerprint {
            return Ok(Pin::Fingerprint(fingerprint));
        }
        let beside = || tls::dir(self.token_file.parent().unwrap_or(Path::new(""))).join(tls::CA);
        let file = self.ca.clone().unwrap_or_else(beside);
        let certificates = CertificateDer::pem_file_iter(&file).and_then(Iterator::collect).map_err(|error| {
            ClientError::Login(format!(
                "cannot read the certificate of the server's authority {}: {error}; set --ca or KS_CA to a copy \
                 of tls/ca.pem of the server's data directory, or --fingerprint to what its log tells",
                file.display()
            ))
        })?;
        Ok(Pin::Certificates(certificates))
    }
}

/// Whether a plain address is this machine's own: nothing goes over a wire then.
fn is_loopback(server: &str) -> bool {
    let Some(rest) = server.strip_prefix("http://") else { return false };
    let host = rest.split(['/', ':']).next().unwrap_or_default();
    host == "localhost" || host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
}

/// The servers of a site and the right to speak to them.
pub(crate) struct Api {
    /// Base addresses without closing slash, one at least.
    servers: Vec<String>,
    /// Which of them is asked: the next one where it cannot be reached.
    at: AtomicUsize,
    token: String,
    token_file: PathBuf,
    /// Why something is done.
    reason: Option<HeaderValue>,
    client: reqwest::Client,
}

/// `text` as part of a URL (RFC 3986 §2.1).
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a `String` cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

impl Api {
    pub(crate) fn new(connection: &Connection) -> Result<Self, ClientError> {
        let Connection { servers, token_file, .. } = connection;
        let token = std::fs::read_to_string(token_file).map_err(|error| {
            ClientError::Login(format!(
                "cannot read the token file {}: {error}; set --token-file or KS_TOKEN_FILE",
                token_file.display()
            ))
        })?;
        let token = token.trim().to_owned();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ClientError::Login(format!(
                "the token file {} holds something else than a token alone on its line",
                token_file.display()
            )));
        }
        let secure = |server: &String| server.starts_with("https://");
        if let Some(server) = servers.iter().find(|server| !secure(server) && !is_loopback(server)) {
            let say = format!(
                "--server {server}: must start with https://, as https://10.77.0.1:8443; \
                 plain http:// would show the token to everybody on the way"
            );
            return Err(ClientError::Usage(say));
        }
        // Where nothing is secured nobody has to be believed.
        let pin = if servers.iter().any(secure) { connection.pin()? } else { Pin::Certificates(Vec::new()) };
        let config = client_config(&pin, 0).map_err(|error| ClientError::Local(error.to_string()))?;
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .tls_backend_preconfigured(config);
        let client = client.build().map_err(|error| ClientError::Local(chain(&error)))?;
        let servers = servers.iter().map(|server| server.trim_end_matches('/').to_owned()).collect();
        let token_file = token_file.clone();
        let reason = connection.reason.as_ref().map(|reason| {
            let value = HeaderValue::from_bytes(reason.as_bytes());
            value.map_err(|_| ClientError::Usage("--reason: one line of text, please".into()))
        });
        let (at, reason) = (AtomicUsize::new(0), reason.transpose()?);
        Ok(Self { servers, at, token, token_file, reason, client })
    }

    /// A path below the server's base; `segments` may hold what a person typed.
    pub(crate) fn path(segments: &[&str]) -> String {
        segments.iter().map(|segment| format!("/{}", encoded(segment))).collect()
    }

    /// The same with what stands behind the question mark; what is none is left out.
    pub(super) fn path_with(segments: &[&str], query: &[(&str, Option<String>)]) -> String {
        let given = query.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let query: Vec<String> = given.map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        format!("{}?{}", Self::path(segments), query.join("&"))
    }

    fn server(&self) -> &str {
        &self.servers[self.at.load(Ordering::Relaxed)]
    }

    /// Asks one server after another until one can be reached: what was not sent was not done. Where nothing is done by
    /// asking, also until one answers, and has its database.
    async fn send(
        &self,
        method: Method,
        path: &str,
        more: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, ClientError> {
        let repeatable = method == Method::GET;
        self.send_again(method, path, repeatable, more).await
    }

    /// As [`send`](Self::send), where a `repeatable` request does nothing when it comes a second time.
    async fn send_again(
        &self,
        method: Method,
        path: &str,
        repeatable: bool,
        more: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, ClientError> {
        let mut left = self.servers.len();
        loop {
            let mut request = self.client.request(method.clone(), format!("{}{path}", self.server()));
            if let Some(reason) = &self.reason {
                request = request.header(REASON, reason);
            }
            let sent = more(request.bearer_auth(&self.token)).send().await;
            left -= 1;
            let passes_on = match &sent {
                Err(error) => error.is_connect() || repeatable,
                Ok(response) => repeatable && response.status() == StatusCode::SERVICE_UNAVAILABLE,
            };
            if left == 0 || !passes_on {
                return self.succeeded(sent.map_err(|error| self.unreachable(error))?).await;
            }
            let before = self.server();
            let next = (self.at.load(Ordering::Relaxed) + 1) % self.servers.len();
            self.at.store(next, Ordering::Relaxed);
            let why = if sent.is_ok() { "cannot say now" } else { "does not answer" };
            eprintln!("{before} {why}; {} is asked", self.server());
        }
    }

    async fn succeeded(&self, response: Response) -> Result<Response, ClientError> {
        let status = response.status();
        if status.is_success() {
            if let Some(why) = response.headers().get(STALE).and_then(|why| why.to_str().ok()) {
                eprintln!("this may be old: {why}");
            }
            return Ok(response);
        }
        let problem = response
            .json()
            .await
            .unwrap_or_else(|_| Problem::new(status, "unknown", format!("the server answered {status}")));
        match status {
            StatusCode::UNAUTHORIZED => Err(ClientError::Login(format!(
                "{} refused the token of {}: {}",
                self.server(),
                self.token_file.display(),
                problem.detail
            ))),
            StatusCode::NOT_FOUND => Err(ClientError::NotFound(problem.detail)),
            _ => Err(ClientError::Server(problem)),
        }
    }

    pub(super) fn unreachable(&self, error: reqwest::Error) -> ClientError {
        let server = self.server().to_owned();
        match refusal(&error) {
            Some(why) => ClientError::NotBelieved { server, why },
            None => ClientError::Unreachable { server, why: chain(&error.without_url()) },
        }
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        response.json().await.map_err(|error| {
            let (server, strange) = (self.server().to_owned(), error.is_decode());
            let why = chain(&error.without_url());
            if strange {
                ClientError::Strange { server, why }
            } else {
                ClientError::Unreachable { server, why }
            }
        })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.read(self.send(Method::GET, path, |request| request.timeout(ANSWER_MAX)).await?).await
    }

    /// As [`get`](Self::get), what is no JSON.
    pub(super) async fn text(&self, path: &str) -> Result<String, ClientError> {
        let response = self.send(Method::GET, path, |request| request.timeout(ANSWER_MAX)).await?;
        response.text().await.map_err(|error| self.unreachable(error))
    }

    /// As [`get`](Self::get), but asks for ever while the server is away: what is waited for goes
    /// on without it, or after its restart.
    pub(super) async fn get_patiently<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let mut told = false;
        loop {
            match self.get(path).await {
                Err(error) if error.may_pass() => {
                    if !told {
                        eprintln!("{error}; trying on");
                        told = true;
                    }
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                outcome => return outcome,
            }
        }
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.read(self.send(Method::POST, path, |request| request.timeout(ANSWER_MAX).json(body)).await?)
            .await
    }

    /// As [`post`](Self::post), and it is carried out once however often it must be sent.
    pub(super) async fn order<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let key = clock::uuid();
        let order = |request: RequestBuilder| request.timeout(ANSWER_MAX).header(HEADER, &key).json(body);
        self.read(self.send_again(Method::POST, path, true, order).await?).await
    }

    pub(super) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.read(self.send(Method::PATCH, path, |request| request.timeout(ANSWER_MAX).json(body)).await?)
            .await
    }

    /// Removes what is at `path`.
    pub(super) async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.send(Method::DELETE, path, |request| request.timeout(ANSWER_MAX)).await.map(drop)
    }

    /// As [`post`](Self::post), where nothing is answered.
    pub(super) async fn tell(&self, path: &str, body: &impl Serialize) -> Result<(), ClientError> {
        self.send(Method::POST, path, |request| request.timeout(ANSWER_MAX).json(body)).await.map(drop)
    }

    /// Opens an event stream; its bytes are the caller's to read.
    pub(super) async fn events(&self, path: &str) -> Result<Response, ClientError> {
        self.send(Method::GET, path, |request| request).await
    }
}

/// Why the server's certificate was not believed, if that is the cause.
fn refusal(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut causes =
        std::iter::successors(Some(error), |error| match error.downcast_ref::<std::io::Error>() {
            // An error of input and output does not count what it holds as its cause.
            Some(error) => error.get_ref().map(|held| held as _),
            None => error.source(),
        });
    causes.find_map(|cause| cause.downcast_ref().and_then(kaltstart_trust::authority::refusal))
}

/// An error with all its causes: the last one is what a person can mend.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
