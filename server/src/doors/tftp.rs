//! The TFTP door: loaders, GRUB's configuration, kernel and ramdisk, for machines that may start
//! from the network.

use crate::app::{App, AppError};
use crate::metrics::Metrics;
use crate::net::tftp::{Content, Directory, Event, Observer, Outcome, Refusal, Resolver};
use crate::render::{self, RenderError};
use crate::store::StoreError;
use kaltstart_core::boot::{Door, File, Offer};
use kaltstart_core::trace::{Loading, Protocol, TftpTransfer, What};
use kaltstart_protocol::ids::Mac;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Serves what [`File`] lists, and nothing else.
pub(crate) struct TftpDoor {
    pub(crate) app: Arc<App>,
    pub(crate) loaders: Directory,
}

impl TftpDoor {
    /// The interface whose machine's decision counts for `file`; none when it is not known.
    fn subject(&self, client: IpAddr, file: File) -> Result<Option<Mac>, Refused> {
        let holder = self.app.who_has(client)?;
        let Some(named) = file.mac() else { return Ok(holder) };
        if let Some(holder) = holder.filter(|holder| *holder != named) {
            let index = self.app.store.index();
            if let Some(theirs) = index.get(holder)
                && index.get(named).is_none_or(|node| !Arc::ptr_eq(node, theirs))
            {
                return Err(Refused::Another(holder));
            }
        }
        Ok(Some(named))
    }

    async fn content(&self, client: IpAddr, file: File) -> Result<Content, Refused> {
        let offer = self.app.offer(self.subject(client, file)?, Door::Tftp(file));
        match (offer, file) {
            (Offer::File, File::Loader(loader)) => Ok(self.loaders.open(client, loader.name()).await?),
            (Offer::File, File::GrubStart) => Ok(Content::Memory(render::start_grub().into())),
            (Offer::Agent(_) | Offer::OwnDisk, File::GrubConfig(mac)) => self.config(mac).await,
            (offer, file) => match self.app.config.boot.path(file, offer) {
                Some(path) => open(path).await,
                None => Err(Refused::NotOffered(offer)),
            },
        }
    }

    async fn config(&self, mac: Mac) -> Result<Content, Refused> {
        let text = match self.app.grant(mac).await? {
            Some(start) => render::agent_grub(&start)?,
            None => render::local_grub(mac)?,
        };
        Ok(Content::Memory(text.into()))
    }
}

/// Why a file is not served.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the machine is given {0}")]
    NotOffered(Offer),
    #[error("the file is another machine's; the address is that of {0}")]
    Another(Mac),
    #[error("it cannot be opened: {}", .0.label())]
    Files(Refusal),
    #[error("{path}: {source}")]
    Unreadable { path: String, source: std::io::Error },
    #[error(transparent)]
    Render(#[from] RenderError),
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Files(refusal)
    }
}

impl Resolver for TftpDoor {
    async fn open(&self, client: IpAddr, name: &str) -> Result<Content, Refusal> {
        let Some(file) = File::named(name) else { return Err(Refusal::NotFound) };
        let outcome = self.content(client, file).await;
        outcome.map_err(|why| match why {
            Refused::NotOffered(_) | Refused::Files(Refusal::NotFound) => {
                tracing::info!(%client, file = name, %why, "not served");
                Refusal::NotFound
            }
            // The name is one of ours, so it is the file that is at fault.
            Refused::Files(Refusal::Denied) => {
                tracing::error!(%client, file = name, "boot.loaders: the server's user cannot read it");
                Refusal::Unreadable
            }
            Refused::Files(refusal) => {
                tracing::info!(%client, file = name, %why, "not served");
                refusal
            }
            Refused::Another(_) => {
                tracing::warn!(%client, file = name, %why, "not served");
                Refusal::Denied
            }
            Refused::Unreadable { .. } => {
                tracing::error!(%client, file = name, %why, "not served");
                Refusal::Unreadable
            }
            Refused::Render(_) | Refused::App(_) | Refused::Store(_) => {
                tracing::error!(%client, file = name, %why, "not served");
                Refusal::Unavailable
            }
        })
    }
}

/// A file of the configuration.
async fn open(path: PathBuf) -> Result<Content, Refused> {
    let name = path.display().to_string();
    let opened = tokio::task::spawn_blocking(move || {
        let file = std::fs::File::open(path)?;
        let size = file.metadata()?.len();
        Ok::<_, std::io::Error>(Content::File { file: Arc::new(file), size })
    });
    let opened = opened.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    opened.map_err(|source| Refused::Unreadable { path: name, source })
}

/// Counts TFTP transfers, and takes note of them for the machine that asked. Its ramdisk is the last file
/// before its kernel starts.
pub(crate) struct TftpCounter(pub(crate) Arc<App>);

impl Observer for TftpCounter {
    fn note(&self, event: &Event<'_>) {
        if let Some((client, what)) = sighting(event) {
            self.0.saw_at(client, what);
        }
        let (kind, result) = match event {
            Event::Started { .. } => return,
            Event::Finished { outcome, .. } => ("transfer", outcome.label()),
            Event::Refused { reason, .. } => ("refused", reason.label()),
            Event::Dropped { reason, .. } => ("dropped", reason.label()),
        };
        Metrics::count(&self.0.metrics.tftp, kind, result);
        if let Event::Finished { name, outcome: Outcome::Complete | Outcome::Unconfirmed, report, .. } = event
            && let Some(File::Ramdisk(mac)) = File::named(name)
        {
            let (app, bytes) = (self.0.clone(), report.size);
            tokio::spawn(async move { app.ramdisk_served(mac, bytes).await });
        }
    }
}

/// How a transfer began or ended, and for whom.
fn sighting(event: &Event<'_>) -> Option<(IpAddr, What)> {
    match event {
        Event::Started { client, name } => {
            Some((client.ip(), What::Loading(Loading::begun(Protocol::Tftp, name))))
        }
        Event::Finished { client, name, outcome, report, duration } => {
            let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            Some((client.ip(), What::Tftp(TftpTransfer::ended(name, outcome, report, duration_ms))))
        }
        Event::Refused { client, name, reason } => {
            Some((client.ip(), What::Tftp(TftpTransfer::refused(name, *reason))))
        }
        Event::Dropped { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_noted_when_it_begins() {
        let client = "10.77.0.50:2070".parse().expect("an address");
        let begun = sighting(&Event::Started { client, name: "snponly.efi" });
        let loading = What::Loading(Loading::begun(Protocol::Tftp, "snponly.efi"));
        assert_eq!(begun, Some((client.ip(), loading)));
    }
}
