//! Who the server is: its certificate, of the site's own authority, made at first start.
//!
//! Everything stands in `tls/` of the data directory: `authority.pem` and `server.pem` hold keys,
//! `ca.pem` the authority's certificate for clients, `grants.pem` the key that signs wipe grants. [`Tls::refresh`] makes what is missing,
//! renews what is soon over, and takes up what [`rotate`] changed while the server ran.

mod authority;
mod command;
mod files;
mod signer;

pub use authority::About;
pub use command::{rotate, show};

use authority::{Authority, Server};
pub(crate) use files::Files;
use kaltstart_protocol::ids::{Digest, PublicKey};
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::{SignedGrant, WipeGrant};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use signer::Signer;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

pub(crate) const AUTHORITY: &str = "authority.pem";
const SERVER: &str = "server.pem";
const GRANTS: &str = "grants.pem";
/// What clients may have: the authority's certificate.
pub const CA: &str = "ca.pem";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of the directory.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are no keys and no certificates.
    #[error(
        "there are no certificates yet: no server was started with data_dir {0}; \
         its first start makes them, and so does `kaltstart tls rotate`"
    )]
    NotStarted(PathBuf),
    /// A file lacks its key or its certificate.
    #[error(
        "a key or a certificate is missing in a file of tls/ in data_dir; restore it, or remove both files"
    )]
    Incomplete,
    /// A certificate or key that cannot be read.
    #[error("a certificate cannot be read: {0}")]
    Certificate(String),
    /// A certificate that cannot be made.
    #[error("a certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// What the TLS library refuses.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// Where keys and certificates of a data directory lie.
#[must_use]
pub fn dir(data_dir: &Path) -> PathBuf {
    data_dir.join("tls")
}

/// The server's identity while it runs.
#[derive(Debug)]
pub struct Tls {
    dir: PathBuf,
    names: BTreeSet<String>,
    current: RwLock<Current>,
}

#[derive(Debug, Clone)]
struct Current {
    /// What the files say, to see a change.
    text: [String; 3],
    authority: Digest,
    server: About,
    key: Arc<CertifiedKey>,
    signer: Arc<Signer>,
}

impl Tls {
    /// Reads or makes authority and certificate for a server of these addresses and host names.
    ///
    /// # Errors
    /// When a file cannot be read, written or understood.
    pub fn open(dir: PathBuf, names: BTreeSet<String>, now: Millis) -> Result<Self, TlsError> {
        let current = RwLock::new(load(&Files::lock(&dir)?, &names, now)?);
        Ok(Self { dir, names, current })
    }

    /// Renews what is soon over, and takes up what was changed from outside; tells whether
    /// anything is new.
    ///
    /// # Errors
    /// As [`open`](Self::open); the server goes on with what it had.
    pub fn refresh(&self, now: Millis) -> Result<bool, TlsError> {
        self.take_up(&Files::lock(&self.dir)?, now)
    }

    /// Takes up what the files hold. The files stay locked meanwhile: nothing older takes the place of what was just
    /// written.
    fn take_up(&self, files: &Files, now: Millis) -> Result<bool, TlsError> {
        let new = load(files, &self.names, now)?;
        let changed = new.text != self.current().text;
        if changed {
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        }
        Ok(changed)
    }

    /// Replaces the key that signs wipe grants; tells the new one and the old one. It is on the disk then, and the
    /// old one signs nothing more.
    ///
    /// # Errors
    /// As [`open`](Self::open); the server goes on with what it had.
    pub fn rotate_grant_key(&self, now: Millis) -> Result<[PublicKey; 2], TlsError> {
        let files = Files::lock(&self.dir)?;
        let old = self.grant_key();
        files.write(GRANTS, &Signer::make()?.to_pem())?;
        self.take_up(&files, now)?;
        Ok([self.grant_key(), old])
    }

    fn current(&self) -> Current {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The fingerprint of the authority, which clients pin.
    #[must_use]
    pub fn authority(&self) -> Digest {
        self.current().authority
    }

    /// The certificate the server shows.
    #[must_use]
    pub fn server(&self) -> About {
        self.current().server
    }

    /// The key that agents believe about wipe grants.
    #[must_use]
    pub fn grant_key(&self) -> PublicKey {
        self.current().signer.public()
    }

    /// Signs a wipe grant for an agent that believes `key`; none when that is not the key any more.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn sign(&self, grant: &WipeGrant, key: &PublicKey) -> Result<Option<SignedGrant>, TlsError> {
        // Held while it is signed: a key that is replaced meanwhile is not given up before.
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        (current.signer.public() == *key).then(|| current.signer.sign(grant)).transpose()
    }

    /// How connections are accepted: TLS 1.3 alone, HTTP/2 or HTTP/1.1.
    ///
    /// # Errors
    /// When the TLS library refuses.
    pub fn server_config(self: &Arc<Self>) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ResolvesServerCert for Tls {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current().key)
    }
}

fn load(files: &Files, names: &BTreeSet<String>, now: Millis) -> Result<Current, TlsError> {
    let (authority, server) = complete(files, names, now)?;
    let signer = match files.read(GRANTS)? {
        Some(text) => Signer::from_pem(&text)?,
        None => {
            let signer = Signer::make()?;
            files.write(GRANTS, &signer.to_pem())?;
            signer
        }
    };
    let key = PrivatePkcs8KeyDer::from(server.key.serialize_der());
    let key = ring::sign::any_ecdsa_type(&key.into())?;
    Ok(Current {
        text: [authority.to_pem(), server.to_pem(), signer.to_pem()],
        authority: authority.about()?.fingerprint,
        server: server.about()?,
        key: Arc::new(CertifiedKey::new(authority.chain(&server), key)),
        signer: Arc::new(signer),
    })
}

/// What the files hold; what is missing, or soon over, is made.
fn complete(files: &Files, names: &BTreeSet<String>, now: Millis) -> Result<(Authority, Server), TlsError> {
    let authority = match files.read(AUTHORITY)? {
        Some(text) => Authority::from_pem(&text, now)?,
        None => {
            let authority = Authority::make(now)?;
            files.write(AUTHORITY, &authority.to_pem())?;
            authority
        }
    };
    if files.read(CA)? != Some(authority.certificate_pem()) {
        files.write(CA, &authority.certificate_pem())?;
    }
    let server = files.read(SERVER)?.map(|text| Server::from_pem(&text)).transpose()?;
    let server = match server {
        Some(server) if !authority.should_replace(&server, names, now)? => server,
        _ => {
            let server = authority.issue(names, now)?;
            files.write(SERVER, &server.to_pem())?;
            server
        }
    };
    Ok((authority, server))
}

#[cfg(test)]
mod tests;
