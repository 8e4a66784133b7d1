//! TLS as the server's own clients speak it, the agent and `ks`: version 1.3 and nothing else,
//! one authority, known by its fingerprint or its certificate.
//!
//! The server sends its authority's certificate along, so a fingerprint is enough: it fits on a
//! kernel command line, and nothing has to be fetched before it can be trusted.

use kaltstart_protocol::ids::Digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The authority a client trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// The SHA-256 of its certificate (DER), which the server has to send.
    Fingerprint(Digest),
    /// The certificates of a file: any of them.
    Certificates(Vec<CertificateDer<'static>>),
}

/// No certificate that the server sent is the pinned authority's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherAuthority {
    /// The fingerprint that is pinned.
    pub expected: Digest,
    /// That of the authority the server sent, or of its own certificate if it sent none.
    pub seen: Digest,
}

impl fmt::Display for OtherAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expected, seen } = self;
        write!(f, "expected the authority {expected}, seen {seen}")
    }
}

impl std::error::Error for OtherAuthority {}

/// Why a server was not believed, in words; none when the error is not about its certificate.
#[must_use]
pub fn refusal(error: &Error) -> Option<String> {
    let Error::InvalidCertificate(why) = error else { return None };
    Some(match why {
        CertificateError::Other(other) => other.0.to_string(),
        CertificateError::UnknownIssuer => {
            "its certificate is not signed by the authority that was expected".to_owned()
        }
        why => format!("its certificate is not valid: {why}"),
    })
}

/// A configuration that talks to servers of `pin`'s authority alone, whatever the system trusts.
///
/// No time before `not_before` (seconds since 1970) is believed: clocks of machines without
/// battery stand still in the past, where every certificate lies in the future.
///
/// # Errors
/// When a certificate of the pin cannot be an authority.
pub fn client_config(pin: &Pin, not_before: u64) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    let fingerprint = match pin {
        Pin::Fingerprint(fingerprint) => Some(*fingerprint),
        Pin::Certificates(certificates) => {
            certificates.iter().try_for_each(|certificate| roots.add(certificate.clone()))?;
            None
        }
    };
    let verifier = Pinned { fingerprint, roots, provider: provider.clone() };
    let clock = Arc::new(NotBefore(not_before));
    let config = ClientConfig::builder_with_details(provider, clock)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}

/// The system's clock, but never earlier than this (seconds since 1970).
#[derive(Debug)]
struct NotBefore(u64);

impl TimeProvider for NotBefore {
    fn current_time(&self) -> Option<UnixTime> {
        let now = DefaultTimeProvider.current_time()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().max(self.0))))
    }
}

#[derive(Debug)]
struct Pinned {
    fingerprint: Option<Digest>,
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let sent;
        let roots = match self.fingerprint {
            None => &self.roots,
            Some(fingerprint) => {
                let is_pinned = |certificate: &&CertificateDer<'_>| Digest::of(certificate) == fingerprint;
                let authority = intermediates.iter().find(is_pinned).ok_or_else(|| {
                    let seen = Digest::of(intermediates.first().unwrap_or(end_entity));
                    let other = OtherAuthority { expected: fingerprint, seen };
                    CertificateError::Other(OtherError(Arc::new(other)))
                })?;
                let mut roots = RootCertStore::empty();
                roots.add(authority.clone().into_owned())?;
                sent = roots;
                &sent
            }
        };
        let algorithms = self.provider.signature_verification_algorithms.all;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        verify_server_name(&certificate, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
