//! The key that signs wipe grants: ed25519, made at first start, apart from the authority's, which
//! agents do not need to know whole.

use super::TlsError;
use kaltstart_protocol::ids::{PublicKey, Signature};
use kaltstart_protocol::wipe::{SignedGrant, WipeGrant};
use pem::Pem;
use rcgen::{KeyPair, PKCS_ED25519, SigningKey as _};
use std::fmt;

/// The key with its public half.
pub(super) struct Signer {
    key: KeyPair,
    public: PublicKey,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.public, f)
    }
}

impl Signer {
    pub(super) fn make() -> Result<Self, TlsError> {
        Self::of(KeyPair::generate_for(&PKCS_ED25519)?)
    }

    /// Reads what [`to_pem`](Self::to_pem) wrote.
    pub(super) fn from_pem(text: &str) -> Result<Self, TlsError> {
        let part = pem::parse(text).map_err(|error| TlsError::Certificate(error.to_string()))?;
        Self::of(KeyPair::try_from(part.contents())?)
    }

    fn of(key: KeyPair) -> Result<Self, TlsError> {
        let other = |_| TlsError::Certificate("grants.pem holds another kind of key than ed25519".into());
        let public = PublicKey(key.public_key_raw().try_into().map_err(other)?);
        Ok(Self { key, public })
    }

    pub(super) fn to_pem(&self) -> String {
        pem::encode(&Pem::new("PRIVATE KEY", self.key.serialize_der()))
    }

    pub(super) fn public(&self) -> PublicKey {
        self.public
    }

    pub(super) fn sign(&self, grant: &WipeGrant) -> Result<SignedGrant, TlsError> {
        let grant = grant.encode();
        let signature = self.key.sign(grant.as_bytes())?;
        let other = |_| TlsError::Certificate("an ed25519 signature has 64 bytes".into());
        Ok(SignedGrant { signature: Signature(signature.try_into().map_err(other)?), grant })
    }
}
