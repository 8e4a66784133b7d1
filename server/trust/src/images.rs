//! Which images are believed: those whose manifest is signed by a key of the site.
//!
//! Signatures are minisign's (<https://jedisct1.github.io/minisign/>): Ed25519 over the BLAKE2b-512
//! of the manifest, and a comment with the time of signing under the same key. The manifest names
//! the digest of the image, so whoever checks both has the bytes that were signed.

use kaltstart_protocol::image::{Manifest, SignedManifest};
use minisign_verify::{PublicKey, Signature};
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;

/// Most keys of a site: they travel on a kernel command line.
pub const KEYS_MAX: usize = 4;

/// A public key of minisign, as the second line of its `.pub` file: 56 characters.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ImageKey {
    text: String,
    key: PublicKey,
}

/// A text is no public key of minisign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAKey;

impl fmt::Display for NotAKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a public key of minisign: 56 characters that begin with RW, the second line of its .pub file")
    }
}

impl std::error::Error for NotAKey {}

impl FromStr for ImageKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let key = PublicKey::from_base64(text).map_err(|_| NotAKey)?;
        Ok(Self { text: text.to_owned(), key })
    }
}

impl TryFrom<String> for ImageKey {
    type Error = NotAKey;

    fn try_from(text: String) -> Result<Self, NotAKey> {
        text.parse()
    }
}

impl fmt::Display for ImageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whose images are believed, and from when on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageTrust {
    /// Any of these may have signed.
    pub keys: Vec<ImageKey>,
    /// What was signed before is refused: seconds since 1970; 0 = nothing is too old.
    pub since: u64,
}

/// Why a manifest is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Untrusted {
    /// The signature is no text of minisign's.
    Signature,
    /// It is of another key than those that are believed, or of another text.
    Key,
    /// It does not say when it was made.
    NoTime,
    /// It was made before images are believed.
    Old {
        /// When, in seconds since 1970.
        signed: u64,
        /// What is asked for.
        since: u64,
    },
    /// The signed text is no manifest; with the parser's words.
    Manifest(String),
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature => f.write_str("its signature is not one of minisign's"),
            Self::Key => f.write_str("no key of this site has signed this manifest"),
            Self::NoTime => f.write_str("its signature does not say when it was made (timestamp:SECONDS)"),
            Self::Old { signed, since } => {
                write!(
                    f,
                    "it was signed at {signed}, and nothing older than {since} is believed (seconds since 1970)"
                )
            }
            Self::Manifest(why) => write!(f, "what was signed is no manifest: {why}"),
        }
    }
}

impl std::error::Error for Untrusted {}

impl ImageTrust {
    /// The manifest, if its signature is good.
    ///
    /// # Errors
    /// See [`Untrusted`]. Nothing of the text is interpreted before the signature was found good.
    pub fn manifest(&self, signed: &SignedManifest) -> Result<Manifest, Untrusted> {
        let signature = Signature::decode(&signed.signature).map_err(|_| Untrusted::Signature)?;
        let text = signed.manifest.as_bytes();
        if !self.keys.iter().any(|key| key.key.verify(text, &signature, false).is_ok()) {
            return Err(Untrusted::Key);
        }
        let time = signature
            .trusted_comment()
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix("timestamp:"));
        let signed_at = time.and_then(|text| text.parse().ok()).ok_or(Untrusted::NoTime)?;
        if signed_at < self.since {
            return Err(Untrusted::Old { signed: signed_at, since: self.since });
        }
        serde_json::from_str(&signed.manifest).map_err(|error| Untrusted::Manifest(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisign::KeyPair;
    use std::io::Cursor;

    const MANIFEST: &str = r#"{"schema":1,"name":"tiny","version":"1","size":1,"unpacked_size":1,"format":"tar",
        "digest":"sha256:0707070707070707070707070707070707070707070707070707070707070707",
        "compression":"none","file":"tiny.tar","min_disk":1,"boot":{"kernel":"/k","initrd":"/i","cmdline":"","efi":[]}}"#;
    const SIGNED: u64 = 1_800_000_000;

    fn sign(pair: &KeyPair, text: &str, comment: &str) -> SignedManifest {
        let signature =
            minisign::sign(None, &pair.sk, Cursor::new(text), Some(comment), None).expect("signed");
        SignedManifest { manifest: text.to_owned(), signature: signature.into_string() }
    }

    fn pair() -> (KeyPair, ImageTrust) {
        let pair = KeyPair::generate_unencrypted_keypair().expect("a pair");
        let trust = ImageTrust { keys: vec![pair.pk.to_base64().parse().expect("a key")], since: 0 };
        (pair, trust)
    }

    #[test]
    fn p14_a_manifest_signed_by_one_of_the_keys_is_believed() {
        let ((first, mut trust), (second, other)) = (pair(), pair());
        trust.keys.extend(other.keys);
        for signer in [first, second] {
            let signed = sign(&signer, MANIFEST, &format!("timestamp:{SIGNED}\tfile:manifest.json\thashed"));
            assert_eq!(trust.manifest(&signed).expect("believed").name, "tiny");
        }
        assert_eq!(trust.keys[0].to_string().len(), 56);
    }

    #[test]
    fn p14_unsigned_foreign_changed_and_old_manifests_are_refused() {
        let ((signer, trust), (stranger, _)) = (pair(), pair());
        let comment = format!("timestamp:{SIGNED}");
        let good = sign(&signer, MANIFEST, &comment);
        let refused = |signed: &SignedManifest| trust.manifest(signed).expect_err("refused");
        assert_eq!(
            refused(&SignedManifest { signature: String::new(), ..good.clone() }),
            Untrusted::Signature
        );
        assert_eq!(refused(&sign(&stranger, MANIFEST, &comment)), Untrusted::Key);
        assert_eq!(refused(&sign(&signer, MANIFEST, "tiny")), Untrusted::NoTime);
        assert!(matches!(refused(&sign(&signer, "{}", &comment)), Untrusted::Manifest(_)));
        let later = good.signature.replace(&SIGNED.to_string(), &(SIGNED + 1).to_string());
        assert_eq!(refused(&SignedManifest { signature: later, ..good.clone() }), Untrusted::Key);
        assert_eq!(
            ImageTrust::default().manifest(&good),
            Err(Untrusted::Key),
            "nobody is believed by default"
        );
        let since = |since| ImageTrust { since, ..trust.clone() }.manifest(&good);
        assert!(since(SIGNED).is_ok());
        assert_eq!(since(SIGNED + 1), Err(Untrusted::Old { signed: SIGNED, since: SIGNED + 1 }));
    }

    #[test]
    fn p11_a_manifest_with_any_bit_flipped_is_refused() {
        let (signer, trust) = pair();
        let good = sign(&signer, MANIFEST, &format!("timestamp:{SIGNED}"));
        for at in 0..MANIFEST.len() {
            for bit in 0..7 {
                let mut bytes = MANIFEST.as_bytes().to_vec();
                bytes[at] ^= 1 << bit;
                let manifest = String::from_utf8(bytes).expect("ASCII");
                let changed = SignedManifest { manifest, ..good.clone() };
                assert_eq!(trust.manifest(&changed), Err(Untrusted::Key), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "RW", "untrusted comment: minisign public key", &"A".repeat(56)] {
            assert!(text.parse::<ImageKey>().is_err(), "{text}");
        }
    }
}
