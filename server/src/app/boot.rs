//! Starts over the network: what a machine may start, and its one-time grant.

use super::{App, AppError};
use crate::clock;
use crate::render::AgentStart;
use crate::store::Key;
use kaltstart_core::boot::{self, Door, Offer, Policy};
use kaltstart_core::dhcp::Known;
use kaltstart_core::lifecycle::GRANT_LIFETIME_MS;
use kaltstart_core::lifecycle::event::Event;
use kaltstart_core::machine::Grant;
use kaltstart_core::trace::{Start, What};
use kaltstart_protocol::agent_api::Mode;
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::wipe::GrantTrust;

impl App {
    /// Adds to what is known of a machine what the site says, and what was seen of its interface
    /// `mac`.
    #[must_use]
    pub fn in_this_site(&self, mut known: Known, mac: Mac) -> Known {
        known.uefi_loader.get_or_insert(self.config.boot.uefi_loader);
        known.looping = known.boot.is_network() && self.trace.is_looping(mac);
        known
    }

    /// What `door` gives to the machine with that hardware address, whose a file must be; none
    /// when nobody knows which machine asks.
    #[must_use]
    pub fn offer(&self, mac: Option<Mac>, door: Door) -> Offer {
        let known = mac.and_then(|mac| {
            let known = self.store.index().get(mac)?.known.clone();
            Some(self.in_this_site(known, mac))
        });
        match known {
            Some(known) => boot::offer(Some(&known.boot), known.policy(), door),
            None => boot::offer(None, Policy::default(), door),
        }
    }

    /// Grants the machine with that hardware address the start it may have, and tells what its
    /// agent has to know; none when it shall start from its own disk. Every script and configuration that
    /// starts an agent is made from this.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn grant(&self, mac: Mac) -> Result<Option<AgentStart<'_>>, AppError> {
        let (token, trust) = (clock::token("kst_boot_"), self.trust());
        let fingerprint = token.fingerprint();
        let mut granted = None;
        let outcome = self
            .apply_with(Key::Mac(mac), |machine| {
                let decision = boot::decide(machine);
                let Some((mode, job)) = decision.agent() else {
                    return Err(AppError::Refused("own disk".into()));
                };
                granted = Some(mode);
                let expires_at = clock::now().plus(GRANT_LIFETIME_MS);
                let (job, trust) = (job.cloned(), Some(trust));
                let grant = Grant { token: fingerprint, mode, job, expires_at, trust };
                Ok(Event::ScriptServed { grant })
            })
            .await;
        let granted = match outcome {
            Ok(_) => granted.map(|mode| self.agent_start(mac, mode, token, trust)),
            Err(AppError::Refused(_) | AppError::NotFound(_)) => None,
            // Its own disk is nothing that would have to be stored.
            Err(_) if self.store.is_lost() && self.may_start_its_disk_alone(mac) => None,
            Err(error) => return Err(error),
        };
        let start = granted.as_ref().map_or(Start::Local, |start| Start::Agent { mode: start.mode });
        self.trace.note(mac, What::Script(start));
        Ok(granted)
    }

    /// Whether nothing but its own disk is what a known machine may start, as far as this server has heard.
    fn may_start_its_disk_alone(&self, mac: Mac) -> bool {
        self.store.index().get(mac).is_some_and(|node| !node.known.boot.is_network())
    }

    /// What an agent that may do that, with that boot token and those wipe grants, has to know.
    pub(super) fn agent_start(
        &self,
        mac: Mac,
        mode: Mode,
        token: Secret,
        grants: GrantTrust,
    ) -> AgentStart<'_> {
        AgentStart {
            servers: self.config.https_bases(),
            authority: self.tls.authority(),
            grants,
            images: self.config.images.trust(),
            now: clock::now(),
            mac,
            mode,
            token,
            cmdline: &self.config.boot.cmdline,
        }
    }

    /// Hears that a machine has the whole ramdisk: its kernel starts now.
    pub async fn ramdisk_served(&self, mac: Mac, bytes: u64) {
        if let Err(error) = self.apply(Key::Mac(mac), &Event::RamdiskServed { bytes }).await {
            tracing::debug!(%mac, %error, "ramdisk served");
        }
    }
}
