//! HTTP clients: one for the server, over TLS and believing nobody else, and one for what anybody
//! may read.
//!
//! ureq would bring its own TLS with the authorities of the web; [`Pinned`] is the few lines that
//! let it use [`kaltstart_trust::authority`] instead.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use kaltstart_protocol::ids::Digest;
use kaltstart_trust::authority::{Pin, client_config};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use ureq::config::{Config, ConfigBuilder};
use ureq::typestate::AgentScope;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, TcpConnector, Transport,
    TransportAdapter,
};

/// Longest time to set up a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A client that talks to servers of that authority alone, over TLS 1.3. No time before
/// `not_before` (seconds since 1970) is believed.
///
/// # Errors
/// When the TLS library refuses.
pub fn pinned(authority: Digest, not_before: u64) -> Result<ureq::Agent, rustls::Error> {
    let tls = client_config(&Pin::Fingerprint(authority), not_before)?;
    let connector = TcpConnector::default().chain(Pinned(Arc::new(tls)));
    Ok(ureq::Agent::with_parts(config().https_only(true).build(), connector, DefaultResolver::default()))
}

/// A client for what is no secret, and is checked by other means.
#[must_use]
pub fn plain() -> ureq::Agent {
    config().build().into()
}

/// No proxy, no redirects: credentials go nowhere else.
fn config() -> ConfigBuilder<AgentScope> {
    Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("kaltstart-agent/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(CONNECT_LIMIT))
}

/// Why whoever answered was not believed; none when a call failed for another reason.
#[must_use]
pub fn refusal(error: &ureq::Error) -> Option<String> {
    let ureq::Error::Io(error) = error else { return None };
    let error: &rustls::Error = error.get_ref()?.downcast_ref()?;
    // Else it speaks no TLS, or an older one.
    Some(kaltstart_trust::authority::refusal(error).unwrap_or_else(|| error.to_string()))
}

/// Speaks TLS over a connection.
#[derive(Debug)]
struct Pinned(Arc<ClientConfig>);

impl<In: Transport> Connector<In> for Pinned {
    type Out = Secured;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        tcp: Option<In>,
    ) -> Result<Option<Secured>, ureq::Error> {
        let Some(tcp) = tcp else { return Ok(None) };
        let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| ureq::Error::Tls("the server's address is neither an address nor a host name"))?;
        let mut tls = ClientConnection::new(self.0.clone(), name).map_err(io::Error::other)?;
        let mut wire = TransportAdapter::new(tcp.boxed(), details.current_time.clone());
        wire.set_timeout(details.timeout);
        tls.complete_io(&mut wire)?;
        let buffers =
            LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Secured { buffers, stream: StreamOwned::new(tls, wire) }))
    }
}

/// A connection to a server that has proved itself.
struct Secured {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl std::fmt::Debug for Secured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secured").finish_non_exhaustive()
    }
}

impl Transport for Secured {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        Ok(self.stream.write_all(&self.buffers.output()[..amount])?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
