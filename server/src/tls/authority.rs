//! The site's own certificate authority, and the server certificates it gives.
//!
//! When the authority is replaced, the old one signs the new one's key once more. The server sends
//! that certificate and the old authority's along for a month, so whoever pinned the old one (a
//! running agent, a system that has not reported yet, somebody's `--ca` file) still believes it.

use super::TlsError;
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::time::Millis;
use pem::Pem;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::CertificateDer;
use std::collections::BTreeSet;
use std::net::IpAddr;
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;

/// How long an authority is valid.
const AUTHORITY_LIFETIME: Duration = Duration::days(3650);

/// How long a server's certificate is valid: what was stolen is of no use for long.
const SERVER_LIFETIME: Duration = Duration::days(90);

/// A server's certificate that is valid for less than this is replaced.
const SERVER_RENEWAL: Duration = Duration::days(30);

/// How long a replaced authority is believed.
const OVERLAP: Duration = Duration::days(30);

/// Certificates begin so long before they are made: clocks differ.
const BACKDATED: Duration = Duration::days(1);

/// A certificate's dates, names and fingerprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// SHA-256 of its DER.
    pub fingerprint: Digest,
    /// First second, since 1970.
    pub not_before: i64,
    /// Last second.
    pub not_after: i64,
    /// Addresses and host names.
    pub names: BTreeSet<String>,
    issuer: Vec<u8>,
    subject: Vec<u8>,
}

impl About {
    pub(super) fn read(der: &[u8]) -> Result<Self, TlsError> {
        let broken = |error: String| TlsError::Certificate(error);
        let (_, read) =
            x509_parser::parse_x509_certificate(der).map_err(|error| broken(error.to_string()))?;
        let names = read.subject_alternative_name().map_err(|error| broken(error.to_string()))?;
        let names = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
                .map(IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
                .ok()
                .map(|address| address.to_string()),
            _ => None,
        });
        Ok(Self {
            fingerprint: Digest::of(der),
            not_before: read.validity().not_before.timestamp(),
            not_after: read.validity().not_after.timestamp(),
            names: names.collect(),
            issuer: read.issuer().as_raw().to_vec(),
            subject: read.subject().as_raw().to_vec(),
        })
    }

    fn expired(&self, now: Millis) -> bool {
        self.not_after < seconds(now)
    }
}

/// The authority with its key, and the one it replaced.
pub(super) struct Authority {
    key: KeyPair,
    root: CertificateDer<'static>,
    replaced: Option<Replaced>,
}

/// An authority that was replaced lately.
struct Replaced {
    /// The new authority's key, signed by the old one.
    bridge: CertificateDer<'static>,
    root: CertificateDer<'static>,
}

impl Authority {
    pub(super) fn make(now: Millis) -> Result<Self, TlsError> {
        let key = new_key()?;
        let root = params(&key, now, AUTHORITY_LIFETIME)?.self_signed(&key)?.der().clone();
        Ok(Self { key, root, replaced: None })
    }

    /// A new authority that those who believe this one will believe for a while.
    pub(super) fn replace(&self, now: Millis) -> Result<Self, TlsError> {
        let new = Self::make(now)?;
        let mut bridge = params(&new.key, now, OVERLAP)?;
        bridge.not_after = bridge.not_after.min(date(About::read(&self.root)?.not_after)?);
        let bridge = bridge.signed_by(&new.key, &self.issuer()?)?.der().clone();
        Ok(Self { replaced: Some(Replaced { bridge, root: self.root.clone() }), ..new })
    }

    /// Reads what [`to_pem`](Self::to_pem) wrote.
    pub(super) fn from_pem(text: &str, now: Millis) -> Result<Self, TlsError> {
        let (key, certificates) = read_pem(text)?;
        let mut certificates = certificates.into_iter();
        let root = certificates.next().ok_or(TlsError::Incomplete)?;
        let replaced = certificates.next().zip(certificates.next());
        let mut replaced = replaced.map(|(bridge, root)| Replaced { bridge, root });
        if let Some(old) = &replaced
            && About::read(&old.bridge)?.expired(now)
        {
            replaced = None;
        }
        Ok(Self { key, root, replaced })
    }

    pub(super) fn to_pem(&self) -> String {
        let old = self.replaced.iter().flat_map(|old| [&old.bridge, &old.root]);
        write_pem(&self.key, std::iter::once(&self.root).chain(old))
    }

    pub(super) fn about(&self) -> Result<About, TlsError> {
        About::read(&self.root)
    }

    /// The replaced authority, and until when it is believed.
    pub(super) fn about_replaced(&self) -> Result<Option<About>, TlsError> {
        let Some(old) = &self.replaced else { return Ok(None) };
        let until = About::read(&old.bridge)?.not_after;
        Ok(Some(About { not_after: until, ..About::read(&old.root)? }))
    }

    /// The certificate alone, for clients.
    pub(super) fn certificate_pem(&self) -> String {
        pem::encode(&Pem::new("CERTIFICATE", self.root.to_vec()))
    }

    fn issuer(&self) -> Result<Issuer<'static, &KeyPair>, TlsError> {
        Ok(Issuer::from_ca_cert_der(&self.root, &self.key)?)
    }

    /// A certificate for a server of these names, with a key of its own.
    pub(super) fn issue(&self, names: &BTreeSet<String>, now: Millis) -> Result<Server, TlsError> {
        let key = new_key()?;
        let mut params = CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, "Kaltstart server");
        params.not_before = date(seconds(now))? - BACKDATED;
        params.not_after = (date(seconds(now))? + SERVER_LIFETIME).min(date(self.about()?.not_after)?);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer()?)?.der().clone();
        Ok(Server { key, certificate })
    }

    /// Whether `server` should be replaced: other names, another authority, or soon over.
    pub(super) fn should_replace(
        &self,
        server: &Server,
        names: &BTreeSet<String>,
        now: Millis,
    ) -> Result<bool, TlsError> {
        let about = server.about()?;
        let left = about.not_after - seconds(now);
        Ok(about.names != *names
            || about.issuer != self.about()?.subject
            || left < SERVER_RENEWAL.whole_seconds())
    }

    /// What a server sends: its own certificate, the bridge from a replaced authority, and the
    /// authorities, so that a client that knows a fingerprint can find them.
    pub(super) fn chain(&self, server: &Server) -> Vec<CertificateDer<'static>> {
        let mut chain = vec![server.certificate.clone(), self.root.clone()];
        chain.extend(self.replaced.iter().flat_map(|old| [old.bridge.clone(), old.root.clone()]));
        chain
    }
}

/// A server's certificate with its key.
pub(super) struct Server {
    pub(super) key: KeyPair,
    certificate: CertificateDer<'static>,
}

impl Server {
    pub(super) fn from_pem(text: &str) -> Result<Self, TlsError> {
        let (key, certificates) = read_pem(text)?;
        let certificate = certificates.into_iter().next().ok_or(TlsError::Incomplete)?;
        Ok(Self { key, certificate })
    }

    pub(super) fn to_pem(&self) -> String {
        write_pem(&self.key, std::iter::once(&self.certificate))
    }

    pub(super) fn about(&self) -> Result<About, TlsError> {
        About::read(&self.certificate)
    }
}

fn new_key() -> Result<KeyPair, TlsError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// What stands in the certificate of an authority with that key.
fn params(key: &KeyPair, now: Millis, lifetime: Duration) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::default();
    // A name of its own: clients look for issuers by name.
    let name = Digest::of(key.public_key_raw()).to_string();
    let name = format!("Kaltstart site authority {}", &name["sha256:".len()..][..8]);
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date(seconds(now))? - BACKDATED;
    params.not_after = date(seconds(now))? + lifetime;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn read_pem(text: &str) -> Result<(KeyPair, Vec<CertificateDer<'static>>), TlsError> {
    let parts = pem::parse_many(text).map_err(|error| TlsError::Certificate(error.to_string()))?;
    let key = parts.iter().find(|part| part.tag() == "PRIVATE KEY").ok_or(TlsError::Incomplete)?;
    let key = KeyPair::try_from(key.contents())?;
    let certificates = parts.into_iter().filter(|part| part.tag() == "CERTIFICATE");
    Ok((key, certificates.map(|part| part.into_contents().into()).collect()))
}

fn write_pem<'a>(key: &KeyPair, certificates: impl Iterator<Item = &'a CertificateDer<'static>>) -> String {
    let certificates = certificates.map(|der| Pem::new("CERTIFICATE", der.to_vec()));
    let parts: Vec<Pem> =
        std::iter::once(Pem::new("PRIVATE KEY", key.serialize_der())).chain(certificates).collect();
    pem::encode_many(&parts)
}

fn seconds(now: Millis) -> i64 {
    i64::try_from(now.0 / 1000).unwrap_or(i64::MAX)
}

fn date(seconds: i64) -> Result<OffsetDateTime, TlsError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| TlsError::Certificate(error.to_string()))
}
