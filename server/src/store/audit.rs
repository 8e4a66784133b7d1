//! The audit log: records that are written with what they tell of, and never removed.

use super::connection::{Connection, DatabaseError, Result, Row, from_json};
use super::{Store, StoreError, Transaction};
use kaltstart_core::audit::{self, Act, Action, Actor, Chain, Head, Record, Verdict};
use kaltstart_protocol::ids::{Digest, NodeId};
use kaltstart_protocol::time::Millis;
use ring::hmac;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Records that are looked at in one go; everybody else's reads wait meanwhile.
const BATCH: i64 = 500;

/// Seals records, and tells which were sealed by the same key. HMAC with SHA-256 (RFC 2104) over their hash.
pub struct Sealer(hmac::Key);

impl Sealer {
    /// One with a secret `key`.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    fn seal(&self, hash: &Digest) -> hmac::Tag {
        hmac::sign(&self.0, &hash.0)
    }

    fn has_sealed(&self, hash: &Digest, seal: &[u8]) -> bool {
        hmac::verify(&self.0, &hash.0, seal).is_ok()
    }
}

/// What a server knows of the log besides what is stored.
#[derive(Default)]
pub(super) struct Audit {
    sealer: OnceLock<Sealer>,
    /// Where the log ended when this server last wrote to it or saw it.
    seen: Mutex<Option<Head>>,
}

impl Audit {
    fn seen(&self) -> MutexGuard<'_, Option<Head>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A record is durable.
    pub(super) fn wrote(&self, head: Head) {
        *self.seen() = Some(head);
    }
}

/// A record as it is stored.
#[derive(Debug)]
struct Stored {
    number: u64,
    text: String,
    hash: Digest,
    seal: Vec<u8>,
}

/// A record, and the hash by which the next one is chained to it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Recorded {
    /// The record.
    #[serde(flatten)]
    pub record: Record,
    /// SHA-256 of the hash before it and the record's text.
    pub hash: Digest,
}

fn stored(row: &dyn Row) -> Result<Stored> {
    // What is no hash fits no record.
    let hash = <[u8; 32]>::try_from(row.bytes(2)?).unwrap_or_default();
    let number = u64::try_from(row.int(0)?).unwrap_or(0);
    Ok(Stored { number, text: row.text(1)?.to_owned(), hash: Digest(hash), seal: row.bytes(3)?.to_vec() })
}

impl Stored {
    fn head(&self) -> Head {
        // One that somebody changed is found by whoever looks at the whole log; this one goes on behind it.
        let epoch = from_json(&self.text).map_or(0, |record: Record| record.epoch);
        Head { number: self.number, hash: self.hash, epoch }
    }
}

fn newest(connection: &mut Connection) -> Result<Option<Stored>> {
    connection.first("SELECT number, doc, hash, seal FROM audit ORDER BY number DESC LIMIT 1", &[], stored)
}

/// Whether records are missing that were `seen`.
fn is_cut(connection: &mut Connection, newest: Option<&Head>, seen: &Head) -> Result<bool> {
    let sql = "SELECT number, doc, hash, seal FROM audit WHERE number = ?1";
    let there = connection.first(sql, &[(seen.number as i64).into()], stored)?;
    Ok(audit::is_cut(newest, seen, there.map(|there| there.hash).as_ref()))
}

impl Transaction<'_> {
    /// Records `act`, which is stored with the rest of the transaction or not at all. What the server does again within
    /// a moment is recorded once.
    ///
    /// # Errors
    /// When it cannot be recorded. Then it must not be done either.
    pub fn record(&mut self, act: &Act, now: Millis) -> Result<()> {
        self.append(act, now).map_err(|error| {
            let say = |why| {
                format!("the audit log takes no record of {}, so it is not done: {why}", act.action.name())
            };
            match error {
                DatabaseError::Refused(why) => DatabaseError::Refused(say(why)),
                DatabaseError::Failed(why) => DatabaseError::Failed(say(why)),
            }
        })
    }

    fn append(&mut self, act: &Act, now: Millis) -> Result<()> {
        let audit = self.audit.clone();
        let no_key = || DatabaseError::Refused("there is no key to seal it with".into());
        let sealer = audit.sealer.get().ok_or_else(no_key)?;
        if self.repeats(act, now)? {
            return Ok(());
        }
        let mut end = newest(self.connection())?.map(|stored| stored.head());
        let seen = *audit.seen();
        if let Some(seen) = seen.filter(|_| act.action != Action::RestoredFound)
            && is_cut(self.connection(), end.as_ref(), &seen)?
        {
            let missing = "records of the audit log that this server has seen are missing: `ks audit verify` tells more";
            tracing::error!(%seen, found = end.as_ref().map(tracing::field::display), "{missing}");
            // That is told for ever, also once this server's own memory of it is replaced.
            let cut = audit::log_cut(&seen, end.as_ref());
            end = Some(self.write(sealer, end.as_ref(), &cut, now)?);
        }
        self.recorded = Some(self.write(sealer, end.as_ref(), act, now)?);
        Ok(())
    }

    fn write(&mut self, sealer: &Sealer, end: Option<&Head>, act: &Act, now: Millis) -> Result<Head> {
        let entry = audit::append(end, act, now);
        let seal = sealer.seal(&entry.head.hash);
        self.connection().execute(
            "INSERT INTO audit (number, doc, hash, seal) VALUES (?1, ?2, ?3, ?4)",
            &[
                (entry.head.number as i64).into(),
                (&entry.text).into(),
                entry.head.hash.0.as_slice().into(),
                seal.as_ref().into(),
            ],
        )?;
        Ok(entry.head)
    }

    /// Whether the server did this of the node a moment ago, and nothing since.
    fn repeats(&mut self, act: &Act, now: Millis) -> Result<bool> {
        let Some((node, _)) = act.node.as_ref().filter(|_| act.by == Actor::server()) else {
            return Ok(false);
        };
        let sql = "SELECT doc FROM audit WHERE doc ->> 'node' = ?1 ORDER BY number DESC LIMIT 1";
        let last = self.connection().first(sql, &[node.as_str().into()], |row| row.document::<Record>(0))?;
        Ok(last.is_some_and(|last| act.repeats(&last, now)))
    }

    /// Tells that the log is that of a copy which was restored.
    pub(super) fn record_restored(&mut self, since: Millis, copied: Millis, now: Millis) -> Result<()> {
        let found = newest(self.connection())?.map(|stored| stored.head());
        let seen = *self.audit.seen();
        self.record(&audit::restored(since, copied, seen.as_ref(), found.as_ref()), now)
    }

    /// The epoch of the log that this server has seen.
    pub(super) fn seen_epoch(&self) -> Millis {
        Millis(self.audit.seen().map_or(0, |head| head.epoch))
    }
}

impl Store {
    /// Seals records by `sealer` from now on, without which none are written. `seen` is where the log ended when this
    /// server last saw it.
    pub fn seal_records(&self, sealer: Sealer, seen: Option<Head>) {
        *self.audit.seen() = seen;
        // All callers have the one key of the site.
        drop(self.audit.sealer.set(sealer));
    }

    /// Records something that changes nothing else that is stored.
    ///
    /// # Errors
    /// When it cannot be recorded. Then it must not be done.
    pub async fn record(&self, act: Act, now: Millis) -> Result<(), StoreError> {
        self.transact(move |transaction| transaction.record(&act, now)).await
    }

    /// Where the log ended when this server last wrote to it or [looked](Self::look_at_log).
    #[must_use]
    pub fn log_seen(&self) -> Option<Head> {
        *self.audit.seen()
    }

    /// Takes note of what others have recorded; whether nothing is missing that was seen before.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn look_at_log(&self) -> Result<bool, StoreError> {
        let Some(sealer) = self.audit.sealer.get() else { return Ok(true) };
        let before = self.log_seen();
        self.read(|connection| {
            let newest = newest(connection)?;
            let head = newest.as_ref().map(Stored::head);
            if let Some(before) = &before
                && is_cut(connection, head.as_ref(), before)?
            {
                return Ok(false);
            }
            // Nobody else than the site's servers tells where it ends.
            let theirs = newest.is_some_and(|newest| sealer.has_sealed(&newest.hash, &newest.seal));
            let mut seen = self.audit.seen();
            // Unless this server has written meanwhile.
            if theirs && *seen == before {
                *seen = head;
            }
            Ok(true)
        })
    }

    /// At most `limit` records behind number `after`; of one node only, when given.
    ///
    /// # Errors
    /// When the database cannot be read, or one is no record.
    pub fn records(
        &self,
        after: u64,
        node: Option<&NodeId>,
        limit: usize,
    ) -> Result<Vec<Recorded>, StoreError> {
        let read = |row: &dyn Row| {
            let Stored { number, text, hash, .. } = stored(row)?;
            let record = from_json(&text).map_err(|error| {
                DatabaseError::Refused(format!("record {number} of the audit log is damaged: {error}"))
            })?;
            Ok(Recorded { record, hash })
        };
        let (after, limit) = ((after as i64).into(), (limit as i64).into());
        self.read(|connection| match node {
            Some(node) => {
                let sql = "SELECT number, doc, hash, seal FROM audit WHERE number > ?1 AND doc ->> 'node' = ?3 \
                           ORDER BY number LIMIT ?2";
                connection.all(sql, &[after, limit, node.as_str().into()], read)
            }
            None => {
                let sql = "SELECT number, doc, hash, seal FROM audit WHERE number > ?1 ORDER BY number LIMIT ?2";
                connection.all(sql, &[after, limit], read)
            }
        })
    }

    /// Looks at the whole log. Records that are written meanwhile may be left out.
    ///
    /// # Errors
    /// When the database cannot be read, or there is no key to check seals with.
    pub fn verify_log(&self) -> Result<Verdict, StoreError> {
        let no_key = || StoreError::Read("there is no key to check the seals of the audit log with".into());
        let sealer = self.audit.sealer.get().ok_or_else(no_key)?;
        // What was seen before is stored by now.
        let mut chain = Chain::new(self.log_seen());
        let mut after = i64::MIN;
        loop {
            let batch = self.read(|connection| {
                let sql =
                    "SELECT number, doc, hash, seal FROM audit WHERE number > ?1 ORDER BY number LIMIT ?2";
                connection.all(sql, &[after.into(), BATCH.into()], |row| Ok((row.int(0)?, stored(row)?)))
            })?;
            let Some((last, _)) = batch.last() else { return Ok(chain.end()) };
            after = *last;
            for (_, Stored { number, text, hash, seal }) in &batch {
                if !chain.look(*number, text, hash, sealer.has_sealed(hash, seal)) {
                    return Ok(chain.end());
                }
            }
        }
    }
}
