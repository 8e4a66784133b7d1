//! Tokens of the API: by the fingerprint of a secret that is nowhere stored.

use super::connection::{Row, to_json};
use super::{Store, StoreError};
use kaltstart_core::access::Token;
use kaltstart_core::audit::Act;
use kaltstart_protocol::ids::Digest;
use kaltstart_protocol::time::Millis;

impl Store {
    /// Stores a token, unless there is one of that name, and records it as `act`; whether it was.
    ///
    /// # Errors
    /// When the database cannot be written, or takes no record.
    pub async fn add_token(&self, fingerprint: Digest, token: Token, act: Act) -> Result<bool, StoreError> {
        self.transact(move |transaction| {
            let (fingerprint, name, doc) = (fingerprint.to_string(), &token.principal.name, to_json(&token)?);
            let sql =
                "INSERT INTO tokens (name, fingerprint, doc) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
            let values = [name.into(), (&fingerprint).into(), (&doc).into()];
            let is_new = transaction.connection().execute(sql, &values)? == 1;
            if is_new {
                transaction.record(&act, token.at)?;
            }
            Ok(is_new)
        })
        .await
    }

    /// The token with that fingerprint.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn token(&self, fingerprint: &Digest) -> Result<Option<Token>, StoreError> {
        let fingerprint = fingerprint.to_string();
        self.read(|connection| {
            let sql = "SELECT doc FROM tokens WHERE fingerprint = ?1";
            connection.first(sql, &[(&fingerprint).into()], |row| row.document(0))
        })
    }

    /// All tokens, by name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        let read = |row: &dyn Row| row.document(0);
        self.read(|connection| connection.all("SELECT doc FROM tokens ORDER BY name", &[], read))
    }

    /// Forgets the token of that name, and records it as `act`; whether there was one.
    ///
    /// # Errors
    /// When the database cannot be written, or takes no record.
    pub async fn remove_token(&self, name: String, act: Act, now: Millis) -> Result<bool, StoreError> {
        self.transact(move |transaction| {
            let sql = "DELETE FROM tokens WHERE name = ?1";
            let was_there = transaction.connection().execute(sql, &[name.as_str().into()])? == 1;
            if was_there {
                transaction.record(&act, now)?;
            }
            Ok(was_there)
        })
        .await
    }
}
