//! The server's middle: load a machine, let the core decide, commit, and only then answer.

use crate::clock;
use crate::config::Config;
use crate::images::{Catalog, ImageError};
use crate::metrics::Metrics;
use crate::store::{Commit, Key, Store, StoreError, Versioned};
use kaltstart_core::boot;
use kaltstart_core::lifecycle::event::{Event, Happening};
use kaltstart_core::lifecycle::{self, GRANT_LIFETIME_MS, Step, phases};
use kaltstart_core::machine::{Grant, Job, JobKind, JobState, Machine, Node, Order};
use kaltstart_protocol::agent_api::{DiskUuids, Mode};
use kaltstart_protocol::ids::{JobId, Mac, NodeId};
use kaltstart_protocol::phase::Phase;
use kaltstart_protocol::secret::Secret;

/// Decisions on one event before the server gives up against other writers.
const TRIES_MAX: u32 = 20;

/// Why something did not happen.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// There is no such machine, job or profile.
    #[error("{0} not found")]
    NotFound(String),
    /// It contradicts the state of things.
    #[error("{0}")]
    Refused(String),
    /// An image cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Others kept changing the machine.
    #[error("the machine keeps changing; try again")]
    Busy,
}

/// What became of an event that was not refused.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The machine as it is stored now.
    pub machine: Machine,
    /// Whether the event changed it.
    pub changed: bool,
}

/// Everything the doors share.
pub struct App {
    /// What the server was told.
    pub config: Config,
    /// What it remembers.
    pub store: Store,
    /// Images it can lay down.
    pub images: Catalog,
    /// Counters.
    pub metrics: Metrics,
    /// Proves an administrator; made at first start.
    pub admin: Secret,
}

impl App {
    /// The machine found by `key`.
    ///
    /// # Errors
    /// When there is none, or the store cannot be read.
    pub fn machine(&self, key: Key<'_>) -> Result<Versioned, AppError> {
        self.store.machine(key)?.ok_or_else(|| AppError::NotFound("the machine was".into()))
    }

    /// Lets `event` happen to the machine found by `key`.
    ///
    /// # Errors
    /// When there is no such machine, the event is refused, or the store fails.
    pub async fn apply(&self, key: Key<'_>, event: &Event) -> Result<Applied, AppError> {
        self.apply_with(key, |_| Ok(event.clone())).await
    }

    /// Lets the event that `make` chooses for the machine happen to it.
    ///
    /// # Errors
    /// As [`apply`](Self::apply), and what `make` says.
    pub async fn apply_with(
        &self,
        key: Key<'_>,
        mut make: impl FnMut(&Machine) -> Result<Event, AppError>,
    ) -> Result<Applied, AppError> {
        for _ in 0..TRIES_MAX {
            let found = self.machine(key)?;
            let event = make(&found.machine)?;
            let now = clock::now();
            match lifecycle::step(&found.machine, &event, now) {
                Step::Ignored(why) => {
                    tracing::debug!(node = found.machine.node.name, why, "event ignored");
                    return Ok(Applied { machine: found.machine, changed: false });
                }
                Step::Refused(why) => return Err(AppError::Refused(why.into())),
                Step::Changed { machine, happenings } => {
                    if self.store.commit(&machine, found.version, &happenings, now).await? == Commit::Done {
                        self.tell(&machine, &happenings);
                        return Ok(Applied { machine, changed: true });
                    }
                }
            }
        }
        Err(AppError::Busy)
    }

    /// Logs and counts what was committed.
    fn tell(&self, machine: &Machine, happenings: &[Happening]) {
        let node = machine.node.name.as_str();
        let job = machine.job.as_ref().map(|job| job.id.as_str());
        for happening in happenings {
            self.metrics.happened(happening, machine);
            let kind = happening.kind();
            match happening {
                Happening::Progressed(phase) => tracing::debug!(node, job, phase = phase.name(), "{kind}"),
                Happening::PhaseStarted(phase) | Happening::PhaseDone(phase) => {
                    tracing::info!(node, job, phase = phase.name(), "{kind}");
                }
                Happening::JobFailed(finding) => {
                    tracing::warn!(node, job, code = finding.code.number(), %finding, "{kind}");
                }
                _ => tracing::info!(node, job, "{kind}"),
            }
        }
    }

    /// The machine with that hardware address; one nobody declared is recorded as discovered.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn meet(&self, mac: Mac) -> Result<Machine, AppError> {
        for _ in 0..TRIES_MAX {
            if let Some(found) = self.store.machine(Key::Mac(mac))? {
                return Ok(found.machine);
            }
            let now = clock::now();
            let name = format!("node-{}", mac.to_string().replace(':', ""));
            let node = Node::new(NodeId::new(now, clock::random_bits()), name, mac, false);
            let machine = Machine { job: None, node };
            let told = [Happening::NodeMoved(machine.node.state)];
            match self.store.commit(&machine, 0, &told, now).await {
                Ok(Commit::Done) => {
                    self.tell(&machine, &told);
                    return Ok(machine);
                }
                // Another packet of the same machine was quicker: it is there now.
                Ok(Commit::Conflict) | Err(StoreError::Write(crate::store::WriteError::Refused(_))) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(AppError::Busy)
    }

    /// Declares a machine: makes it, or adopts one that was only seen.
    ///
    /// # Errors
    /// When name or address belong to another machine, or the store fails.
    pub async fn declare(&self, wanted: &crate::config::Node) -> Result<Machine, AppError> {
        let now = clock::now();
        let found = self.store.machine(Key::Mac(wanted.mac))?;
        let (mut machine, version) = match found {
            Some(found) => (found.machine, found.version),
            None => {
                let id = NodeId::new(now, clock::random_bits());
                let node = Node::new(id, wanted.name.clone(), wanted.mac, true);
                (Machine { node, job: None }, 0)
            }
        };
        let before = machine.node.clone();
        machine.node.declared = true;
        machine.node.name.clone_from(&wanted.name);
        machine.node.reservation = wanted.address;
        if version != 0 && machine.node == before {
            return Ok(machine);
        }
        let told = if version == 0 { vec![Happening::NodeMoved(machine.node.state)] } else { Vec::new() };
        match self.store.commit(&machine, version, &told, now).await {
            Ok(Commit::Done) => {
                self.tell(&machine, &told);
                Ok(machine)
            }
            Ok(Commit::Conflict) => Err(AppError::Busy),
            Err(StoreError::Write(crate::store::WriteError::Refused(_))) => {
                Err(AppError::Refused(format!("the name {:?} belongs to another machine", wanted.name)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Orders a job.
    ///
    /// # Errors
    /// When profile or image are missing, the machine takes no such order, or the store fails.
    pub async fn order(&self, key: Key<'_>, kind: JobKind, profile: &str) -> Result<Machine, AppError> {
        let profile = self
            .config
            .profile(profile)
            .ok_or_else(|| AppError::NotFound(format!("the profile {profile:?} was")))?;
        let (image, _) = self.images.find(&profile.image)?;
        let layout = self
            .config
            .layouts
            .get(&profile.layout)
            .ok_or_else(|| AppError::NotFound(format!("the layout {:?} was", profile.layout)))?;
        let now = clock::now();
        let uuids = DiskUuids {
            disk: clock::uuid(),
            partitions: layout.partitions.iter().map(|_| clock::uuid()).collect(),
            root: clock::uuid(),
            esp: u32::from_be_bytes(clock::random()),
        };
        let order = Order {
            profile: profile.name.clone(),
            image: image.name,
            image_digest: image.digest,
            layout: layout.clone(),
            disk: profile.disk.clone(),
            authorized_keys: profile.authorized_keys.clone(),
            uuids,
        };
        let id = JobId::new(now, clock::random_bits());
        let applied = self
            .apply_with(key, |machine| {
                Ok(Event::JobOrdered(Box::new(Job {
                    id: id.clone(),
                    node: machine.node.id.clone(),
                    kind,
                    order: order.clone(),
                    state: JobState::Queued,
                    attempt: 1,
                    phase: Phase::Queued,
                    phases: phases::queued(now),
                    deadline: None,
                    created_at: now,
                    ended_at: None,
                    findings: Vec::new(),
                    report_token: None,
                    installed: None,
                })))
            })
            .await?;
        Ok(applied.machine)
    }

    /// Grants the machine with that hardware address the start it may have, and tells its mode
    /// and token; none when it shall start from its own disk.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn grant(&self, mac: Mac) -> Result<Option<(Mode, Secret)>, AppError> {
        let token = clock::token("kst_boot_");
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
                let grant = Grant { token: fingerprint, mode, job: job.cloned(), expires_at };
                Ok(Event::ScriptServed { grant })
            })
            .await;
        match outcome {
            Ok(_) => Ok(granted.map(|mode| (mode, token))),
            Err(AppError::Refused(_) | AppError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
