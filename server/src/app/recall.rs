//! Systems that ask whether a job calls them back, and what they are given to start.

use super::{App, AppError};
use crate::clock;
use crate::images::size_and_digest;
use crate::store::Key;
use kaltstart_core::boot::{self, Door};
use kaltstart_core::lifecycle::GRANT_LIFETIME_MS;
use kaltstart_core::lifecycle::event::Event;
use kaltstart_core::machine::{Grant, Machine};
use kaltstart_core::recall::{pause_secs, wanted};
use kaltstart_core::trace::{Start, What};
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::recall::{BootFile, Recall, RecallQuestion, RecallStart};
use std::io;

impl App {
    /// Answers a system's question.
    ///
    /// # Errors
    /// When nobody has that token, or the store or a boot file cannot be read.
    pub async fn recall(&self, question: &RecallQuestion) -> Result<Recall, AppError> {
        let key = Key::RecallToken(question.token.fingerprint());
        let stay = Recall::Stay {
            seconds: pause_secs(self.store.index().machines() as u64),
            authority: self.tls.authority(),
        };
        let machine = self.machine(key)?.machine;
        let node = &machine.node;
        if let Some(why) = &question.refused {
            tracing::warn!(node = node.name, why, "its system cannot start the agent");
            self.apply(key, &Event::RecallFailed(why.clone())).await?;
            return Ok(stay);
        }
        let (Some((mode, _)), Some(mac)) = (wanted(&machine), node.macs.first().copied()) else {
            self.system_asked(&machine).await?;
            return Ok(stay);
        };
        // Before the grant: a start that cannot be made is not promised.
        let kernel = self.boot_file(mac, boot::File::Kernel(mac)).await?;
        let ramdisk = self.boot_file(mac, boot::File::Ramdisk(mac)).await?;
        let (token, trust) = (clock::token("kst_boot_"), self.trust());
        let fingerprint = token.fingerprint();
        let recalled = |machine: &Machine| {
            let expires_at = clock::now().plus(GRANT_LIFETIME_MS);
            let (job, trust) = (wanted(machine).map(|(_, job)| job), Some(trust));
            let grant = Grant { token: fingerprint, mode, job, expires_at, trust };
            Ok(Event::Recalled { grant })
        };
        let granted = match self.apply_with(key, recalled).await {
            Ok(applied) => applied.machine.node.grant,
            Err(AppError::Refused(_)) => None,
            Err(error) => return Err(error),
        };
        if granted.is_none_or(|grant| grant.token != fingerprint) {
            return Ok(stay);
        }
        self.trace.note(mac, What::Script(Start::Agent { mode }));
        let arguments = self.agent_start(mac, mode, token, trust).arguments();
        Ok(Recall::Start(Box::new(RecallStart { kernel, ramdisk, arguments })))
    }

    /// Where a boot file of the machine `mac` is had, and what it is.
    async fn boot_file(&self, mac: Mac, file: boot::File) -> Result<BootFile, AppError> {
        let offer = self.offer(Some(mac), Door::Http(file));
        let path = self.config.boot.path(file, offer);
        let path = path.ok_or_else(|| AppError::Refused(format!("{file} is not given: {offer}")))?;
        let url = format!("{}/{file}", self.config.http_base());
        let read = tokio::task::spawn_blocking({
            let path = path.clone();
            move || size_and_digest(&path)
        });
        let (size, digest) = read.await.map_err(io::Error::other).and_then(|read| read).map_err(|error| {
            tracing::error!(%error, path = %path.display(), "boot file");
            AppError::BootFile
        })?;
        Ok(BootFile { url, size, digest })
    }
}
