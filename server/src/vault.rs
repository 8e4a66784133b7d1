//! The key that seals secrets which are stored: it lies apart from the database, whose copies may lie where nobody may
//! open anything. All servers of a site have the same one.

use crate::clock::{random, token};
use crate::store::{Sealer, Store, StoreError, sealed_in};
use crate::tls::{Files, TlsError};
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::secret::Secret;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Its file, beside the other keys that the servers of a site have in common.
pub(crate) const FILE: &str = "secrets.key";

/// Why secrets cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The file of the key cannot be read or made.
    #[error(transparent)]
    File(#[from] TlsError),
    /// There are secrets that it did not seal.
    #[error(
        "{} {what} the secrets in the database, keys of encrypted disks among them: copy it from the server that made \
         it, or out of a backup",
        path.display()
    )]
    Another {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A secret was changed, or belongs elsewhere.
    #[error("the secret {name:?} of {owner} is damaged")]
    Damaged {
        /// Whose it is.
        owner: String,
        /// Which it is.
        name: String,
    },
    /// There is no such secret.
    #[error("there is no secret {name:?} of {owner}")]
    Missing {
        /// Whose it would be.
        owner: String,
        /// Which it would be.
        name: String,
    },
    /// A key that an earlier version left in a file cannot be moved.
    #[error("key of a disk, {}: {source}", path.display())]
    Earlier {
        /// The file or its directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Seals and opens secrets, each of which is bound to its owner and name.
pub(crate) struct Vault {
    key: LessSafeKey,
    /// What tells the key from others, and nothing of it.
    id: String,
    /// What records of the audit log are sealed by is made of it.
    records: Zeroizing<[u8; 32]>,
}

impl Vault {
    /// Takes the key out of the directory of keys, and makes one if there never was one.
    ///
    /// # Errors
    /// When it cannot be read or made, or another one has sealed what `store` has.
    pub(crate) async fn open(keys: &Path, store: &Store) -> Result<Self, VaultError> {
        let files = Files::lock(keys)?;
        if files.read(FILE)?.is_none() && store.sealed_by()?.is_some() {
            return Err(missing(keys));
        }
        let vault = Self::first(&files)?;
        let by = store.seal_by(vault.id.clone()).await?;
        vault.checked(keys, &by)
    }

    /// Takes the key out of the directory of keys, whatever it has sealed, and makes one if there is none: for when all
    /// that the one of before has sealed is given up.
    ///
    /// # Errors
    /// When it cannot be read or made.
    pub(crate) fn anew(keys: &Path) -> Result<Self, VaultError> {
        Self::first(&Files::lock(keys)?)
    }

    fn first(files: &Files) -> Result<Self, VaultError> {
        if let Some(text) = files.read(FILE)? {
            return Ok(Self::of(&text));
        }
        let text = format!("{}\n", token("kst_secrets_").expose());
        files.write(FILE, &text)?;
        Ok(Self::of(&text))
    }

    /// What seals records of the audit log: all servers of the site have it, and nobody who has the database alone.
    pub(crate) fn sealer(&self) -> Sealer {
        Sealer::new(&*self.records)
    }

    /// Takes the key that has sealed what `store` has, which a server may be using.
    ///
    /// # Errors
    /// When it cannot be read, or there is none.
    pub(crate) fn existing(keys: &Path, store: &Store) -> Result<Self, VaultError> {
        let text = Files::lock(keys)?.read(FILE)?.ok_or_else(|| missing(keys))?;
        Self::of(&text).checked(keys, &store.sealed_by()?.ok_or_else(|| missing(keys))?)
    }

    /// Makes sure that the key among the files of a backup opens all secrets of its database, which is at `file`.
    ///
    /// # Errors
    /// When it is missing, is another one, or something is damaged.
    pub(crate) fn check(keys: &Path, file: &Path) -> Result<(), VaultError> {
        let (Some(by), sealed) = sealed_in(file)? else { return Ok(()) };
        let text = fs::read_to_string(keys.join(FILE)).map_err(|_| missing(keys))?;
        let vault = Self::of(&text).checked(keys, &by)?;
        sealed.iter().try_for_each(|one| vault.unseal(&one.owner, &one.name, &one.bytes).map(drop))
    }

    fn of(text: &str) -> Self {
        let derived =
            |purpose: &str| Sha256::new().chain_update(purpose).chain_update(text.trim()).finalize();
        let key = UnboundKey::new(&CHACHA20_POLY1305, &derived("kaltstart seals by "));
        let id = Digest(derived("kaltstart tells keys apart by ").into()).to_string();
        let records = Zeroizing::new(derived("kaltstart seals records by ").into());
        Self { key: LessSafeKey::new(key.expect("a digest is as long as a key")), id, records }
    }

    fn checked(self, keys: &Path, sealed_by: &str) -> Result<Self, VaultError> {
        if self.id == sealed_by {
            return Ok(self);
        }
        Err(VaultError::Another { path: keys.join(FILE), what: "is another key than the one that sealed" })
    }

    fn seal(&self, owner: &str, name: &str, secret: &Secret) -> Vec<u8> {
        let nonce: [u8; NONCE_LEN] = random();
        let mut text = Zeroizing::new(secret.expose().as_bytes().to_vec());
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        let tag = self.key.seal_in_place_separate_tag(nonce_used, subject(owner, name), &mut text);
        let tag = tag.expect("secrets are shorter than 256 GiB");
        [&nonce[..], &text, tag.as_ref()].concat()
    }

    fn unseal(&self, owner: &str, name: &str, sealed: &[u8]) -> Result<Secret, VaultError> {
        let open = || {
            let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut text = Zeroizing::new(text.to_vec());
            let text = self.key.open_in_place(nonce, subject(owner, name), &mut text).ok()?;
            Some(Secret::new(String::from_utf8(text.to_vec()).ok()?))
        };
        open().ok_or_else(|| VaultError::Damaged { owner: owner.into(), name: name.into() })
    }

    /// Stores the secret that `make` makes unless there is one already; the one that is stored then.
    ///
    /// # Errors
    /// See [`VaultError`].
    pub(crate) async fn keep(
        &self,
        store: &Store,
        owner: &str,
        name: &str,
        make: impl FnOnce() -> Secret,
    ) -> Result<Secret, VaultError> {
        let sealed = match store.secret(owner, name)? {
            Some(sealed) => sealed,
            None => store.keep_secret(owner.into(), name.into(), self.seal(owner, name, &make())).await?,
        };
        self.unseal(owner, name, &sealed)
    }

    /// A secret that was kept.
    ///
    /// # Errors
    /// See [`VaultError`].
    pub(crate) fn read(&self, store: &Store, owner: &str, name: &str) -> Result<Secret, VaultError> {
        let missing = || VaultError::Missing { owner: owner.into(), name: name.into() };
        self.unseal(owner, name, &store.secret(owner, name)?.ok_or_else(missing)?)
    }
}

fn missing(keys: &Path) -> VaultError {
    VaultError::Another { path: keys.join(FILE), what: "is missing, the key that sealed" }
}

/// What a sealed secret is bound to.
fn subject(owner: &str, name: &str) -> Aad<Vec<u8>> {
    Aad::from([owner.as_bytes(), b"\0", name.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn p22_a_secret_is_opened_for_its_owner_and_by_the_key_that_sealed_it_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let (keys, other) = (dir.path().join("keys"), dir.path().join("other"));
        let store = Store::open(dir.path()).expect("a store");
        let vault = Vault::open(&keys, &store).await.expect("made");
        let secret = || Secret::new("kst_disk_canary".into());
        vault.keep(&store, "node_1", "disk a", secret).await.expect("kept");
        let again = vault.keep(&store, "node_1", "disk a", || panic!("there is one")).await.expect("kept");
        assert_eq!(again.expose(), secret().expose());
        let found = |vault: &Vault, name| vault.read(&store, "node_1", name).map(|it| it.expose().to_owned());
        assert!(matches!(found(&vault, "disk b"), Err(VaultError::Missing { .. })));
        // What lies in the database opens nothing, and neither at another place nor changed.
        let sealed = store.secret("node_1", "disk a").expect("read").expect("there");
        assert!(!sealed.windows(6).any(|part| part == b"canary"));
        for (owner, name) in [("node_1", "disk b"), ("node_2", "disk a"), ("node_1disk", " a")] {
            assert!(matches!(vault.unseal(owner, name, &sealed), Err(VaultError::Damaged { .. })));
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(vault.unseal("node_1", "disk a", &changed).is_err(), "byte {at}");
            assert!(vault.unseal("node_1", "disk a", &sealed[..at]).is_err(), "{at} bytes");
        }
        assert_ne!(vault.seal("node_1", "disk a", &secret()), vault.seal("node_1", "disk a", &secret()));

        // The same key again, none, and another.
        let same = Vault::existing(&keys, &store).expect("it is there");
        assert_eq!(found(&same, "disk a").expect("opened"), secret().expose());
        assert!(matches!(Vault::open(&other, &store).await, Err(VaultError::Another { .. })));
        assert!(!other.join(FILE).exists(), "none is made that seals nothing");
        fs::write(other.join(FILE), "another").expect("written");
        let error = Vault::open(&other, &store).await.err().expect("refused").to_string();
        assert!(error.contains("is another key than the one that sealed"), "{error}");
        store.remove_secrets("node_1".into()).await.expect("removed");
        assert!(matches!(found(&vault, "disk a"), Err(VaultError::Missing { .. })));
    }
}
