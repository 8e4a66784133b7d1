//! Requests to `/v1`, and what their failure means to a person.

use crate::exit::Exit;
use crate::http::error::Problem;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::time::Duration;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// On this side: a file, the terminal, words that contradict.
    #[error("{0}")]
    Local(String),
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
    #[error("cannot reach {server}: {source}; set --server or KS_SERVER, and check that it runs")]
    Unreachable {
        /// Its address.
        server: String,
        /// Why.
        source: reqwest::Error,
    },
}

impl ClientError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Local(_) | Self::Unreachable { .. } => Exit::Failed,
            Self::Login(_) => Exit::Login,
            Self::NotFound(_) => Exit::NotFound,
            Self::Server(problem) => match problem.status {
                401 => Exit::Login,
                404 => Exit::NotFound,
                409 | 412 | 428 => Exit::Conflict,
                _ => Exit::Failed,
            },
        }
    }
}

/// A server and the right to speak to it.
pub(super) struct Api {
    server: String,
    token: String,
    client: reqwest::Client,
}

impl Api {
    pub(super) fn new(server: &str, token_file: &Path) -> Result<Self, ClientError> {
        let token = std::fs::read_to_string(token_file).map_err(|error| {
            ClientError::Login(format!(
                "cannot read the token file {}: {error}; set --token-file or KS_TOKEN_FILE",
                token_file.display()
            ))
        })?;
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .build()
            .map_err(|error| ClientError::Local(error.to_string()))?;
        let server = server.trim_end_matches('/').to_owned();
        Ok(Self { server, token: token.trim().to_owned(), client })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.server)).bearer_auth(&self.token)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let problem = response
            .json()
            .await
            .unwrap_or_else(|_| Problem::new(status, "unknown", format!("the server answered {status}")));
        match status {
            StatusCode::UNAUTHORIZED => Err(ClientError::Login(problem.detail)),
            StatusCode::NOT_FOUND => Err(ClientError::NotFound(problem.detail)),
            _ => Err(ClientError::Server(problem)),
        }
    }

    fn unreachable(&self, source: reqwest::Error) -> ClientError {
        ClientError::Unreachable { server: self.server.clone(), source: source.without_url() }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let response = self.send(self.request(Method::GET, path)).await?;
        response.json().await.map_err(|source| self.unreachable(source))
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let response = self.send(self.request(Method::POST, path).json(body)).await?;
        response.json().await.map_err(|source| self.unreachable(source))
    }

    /// Opens an event stream; its bytes are the caller's to read.
    pub(super) async fn events(&self, path: &str) -> Result<Response, ClientError> {
        self.send(self.request(Method::GET, path)).await
    }
}
