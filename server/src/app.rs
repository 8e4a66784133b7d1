//! The server's middle: load a machine, let the core decide, commit, and only then answer.

mod boot;
mod log;
pub(crate) mod observing;
mod recall;
mod rescue;
mod told;
pub(crate) mod unlock;
mod wipe;

use crate::clock;
use crate::config::{self, Config};
use crate::disk_keys::DiskKeys;
use crate::http::api::rfc3339;
use crate::http::pace::Pace;
use crate::images::{Catalog, ImageError};
use crate::metrics::Metrics;
use crate::net::dhcp::Watches;
use crate::shell::Shells;
use crate::store::{Commit, Key, Store, StoreError, Terms, Versioned, WriteError};
use crate::tls::{self, Tls};
use crate::trace::Recorder;
use crate::vault::{Vault, VaultError};
use crate::whereabouts::Claims;
use kaltstart_core::about::Lock;
use kaltstart_core::audit::{self, Actor};
use kaltstart_core::lifecycle::event::{Event, Happening};
use kaltstart_core::lifecycle::{self, Step};
use kaltstart_core::losses;
use kaltstart_core::machine::{Job, JobKind, Machine, Node, Order, Request, SystemOrder};
use kaltstart_core::recall::Via;
use kaltstart_protocol::agent_api::DiskUuids;
use kaltstart_protocol::finding::Finding;
use kaltstart_protocol::ids::{Fingerprint, JobId, Mac, NodeId};
use kaltstart_protocol::image::Manifest;
use kaltstart_protocol::keep;
use kaltstart_protocol::layout::{Layout, fit};
use kaltstart_protocol::restart::Restart;
use kaltstart_protocol::secret::Secret;
use kaltstart_protocol::time::Millis;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
pub(crate) use told::Told;

/// Decisions on one event before the server gives up against other writers.
const TRIES_MAX: u32 = 20;

/// Machines nobody declared that are recorded: hardware addresses are free to invent, so a flood
/// of them must not fill the disk.
pub(crate) const UNDECLARED_MAX: usize = 4096;

/// Why something did not happen.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// There is no such machine, job or profile.
    #[error("{0}")]
    NotFound(String),
    /// It contradicts the state of things.
    #[error("{0}")]
    Refused(String),
    /// The node is locked.
    #[error("{0}")]
    Locked(String),
    /// An image cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A secret cannot be kept or opened.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The server only observes.
    #[error("{finding}. {next}", finding = .0, next = .0.code.next())]
    Observing(Finding),
    /// A boot file cannot be read.
    #[error("a boot file cannot be read; the server's log names it")]
    BootFile,
    /// The key of wipe grants cannot be used or replaced.
    #[error("the key of wipe grants cannot be used; the server's log says why")]
    GrantKey,
    /// What is typed and shown on a machine cannot be recorded, so it is not.
    #[error("the recording cannot be written; the server's log names why")]
    Recording,
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
    /// What subscribers are told of it.
    pub happenings: Vec<Happening>,
}

/// Everything the doors share.
pub struct App {
    /// What the server was told.
    pub config: Config,
    /// What it remembers.
    pub store: Store,
    /// Images it can lay down.
    pub images: Catalog,
    /// How fast they leave; none: as fast as they can.
    pub(crate) pace: Option<Arc<Pace>>,
    /// Counters.
    pub metrics: Metrics,
    /// What the doors saw of the machines lately.
    pub trace: Recorder,
    /// Who else serves DHCP on our networks.
    pub watches: Arc<Watches>,
    /// Who takes which address of other DHCP servers.
    pub(crate) claims: Claims,
    /// Proves an administrator; made at first start.
    pub admin: Secret,
    /// Who the server is to its clients.
    pub tls: Arc<Tls>,
    /// Since when the database is known to be a restored copy, if it is one.
    pub restored: Option<Millis>,
    /// What DHCP clients have said since.
    observed: observing::Observed,
    /// The newest events, for whoever watches.
    newest: told::Newest,
    /// What is noted of the end of the audit log.
    log_end: log::Noted,
    /// Keys of encrypted disks.
    pub(crate) disk_keys: DiskKeys,
    /// Shells on machines that people work on.
    pub shells: Shells,
    /// Whether the log has told that no more unknown machines are recorded.
    told_full: AtomicBool,
}

impl App {
    /// Puts the parts together, and declares the machines of the configuration.
    ///
    /// # Errors
    /// When a machine cannot be declared, or the store fails.
    pub async fn new(config: Config, store: Store, admin: Secret, tls: Arc<Tls>) -> Result<Self, AppError> {
        let images = Catalog::new(config.images.dir.clone(), config.images.trust());
        let pace = config.images.max_mbit.map(|mbit| Arc::new(Pace::new(mbit)));
        let trace = Recorder::open(&config.data_dir);
        let vault = Vault::open(&tls::dir(&config.data_dir), &store).await?;
        let log_end = log::begin(&config.data_dir, &store, &vault);
        let restored = store.restored(clock::now()).await?;
        let disk_keys = DiskKeys::new(vault, &config.data_dir, &store).await?;
        let shells = Shells::new(&config.data_dir);
        let subjects = config.dhcp.iter().map(config::Dhcp::watched);
        let watches = Watches::new(subjects, config.siblings(), clock::now());
        let app = Self {
            config,
            store,
            images,
            pace,
            metrics: Metrics::default(),
            trace,
            watches: Arc::new(watches),
            claims: Claims::default(),
            admin,
            tls,
            restored,
            observed: observing::Observed::default(),
            newest: told::Newest::default(),
            log_end,
            disk_keys,
            shells,
            told_full: AtomicBool::new(false),
        };
        app.tell_observing();
        app.end_outdated().await?;
        for node in app.config.node.iter().filter_map(config::Node::declaration) {
            match app.declare(&Actor::configuration(), &node).await {
                // One machine must not take the others' server away.
                Err(AppError::Refused(why)) => {
                    tracing::error!(node = node.name, why, "[[node]] of the configuration is left as it was");
                }
                outcome => drop(outcome?),
            }
        }
        Ok(app)
    }

    /// The machine found by `key`.
    ///
    /// # Errors
    /// When there is none, or the store cannot be read.
    pub fn machine(&self, key: Key<'_>) -> Result<Versioned, AppError> {
        self.store.machine(key)?.ok_or_else(|| AppError::NotFound("there is no such machine".into()))
    }

    /// Lets `event` happen to the machine found by `key`, on nobody's word.
    ///
    /// # Errors
    /// When there is no such machine, the event is refused, or the store fails.
    pub async fn apply(&self, key: Key<'_>, event: &Event) -> Result<Applied, AppError> {
        self.apply_with(key, |_| Ok(event.clone())).await
    }

    /// Lets the event that `make` chooses for the machine happen to it, on nobody's word.
    ///
    /// # Errors
    /// As [`apply_by`](Self::apply_by).
    pub async fn apply_with(
        &self,
        key: Key<'_>,
        make: impl FnMut(&Machine) -> Result<Event, AppError>,
    ) -> Result<Applied, AppError> {
        self.apply_by(&Actor::server(), key, make).await
    }

    /// Lets the event that `make` chooses for the machine happen to it, on the word of `actor`. What is to be recorded is,
    /// or it does not happen.
    ///
    /// # Errors
    /// As [`apply`](Self::apply), and what `make` says.
    pub async fn apply_by(
        &self,
        actor: &Actor,
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
                    return Ok(Applied { machine: found.machine, changed: false, happenings: Vec::new() });
                }
                Step::Refused(why) => return Err(refused(why, &found.machine)),
                Step::Changed { machine, happenings } => {
                    let losses_max = losses::begins(&found.machine, &machine)
                        .then_some(self.config.wipe.machines_per_hour);
                    let act = audit::act(actor, &machine, &event, &happenings);
                    let terms = Terms { losses_max, act };
                    let commit =
                        self.store.commit_on(&machine, found.version, &happenings, now, terms).await?;
                    if commit == Commit::Done {
                        self.tell(&machine, &happenings);
                        return Ok(Applied { machine, changed: true, happenings });
                    }
                }
            }
        }
        Err(AppError::Busy)
    }

    /// Logs and counts what was committed.
    pub(crate) fn tell(&self, machine: &Machine, happenings: &[Happening]) {
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
                Happening::KeyReleased(address) => tracing::info!(node, %address, "{kind}"),
                Happening::KeyRefused(address, finding) | Happening::KeyUseless(address, finding) => {
                    tracing::warn!(node, %address, code = finding.code.number(), %finding, "{kind}");
                }
                Happening::BoardAccepted { host, approver } => {
                    tracing::warn!(node, uuid = host.uuid, approver, "{kind}");
                }
                Happening::JobFailed(finding) => {
                    tracing::warn!(node, job, code = finding.code.number(), %finding, "{kind}");
                }
                _ => tracing::info!(node, job, "{kind}"),
            }
        }
    }

    /// Whether a machine that is not known, and boots, shall be recorded.
    pub(crate) fn records_unknown(&self) -> bool {
        let room = self.store.index().undeclared() < UNDECLARED_MAX;
        if self.config.boot.discover_unknown && !room && !self.told_full.swap(true, Ordering::Relaxed) {
            tracing::error!(
                limit = UNDECLARED_MAX,
                "unknown machines are no longer recorded: declare yours (`ks node add`), look \
                 for the source of so many addresses, or set boot.discover_unknown = false"
            );
        }
        self.config.boot.discover_unknown && room
    }

    /// Declares a machine: makes it, or adopts one that was only seen.
    ///
    /// # Errors
    /// When name or addresses belong to another machine, a job depends on them, or the store fails.
    pub async fn declare(&self, actor: &Actor, wanted: &config::Declaration) -> Result<Machine, AppError> {
        let mut last = None;
        for _ in 0..TRIES_MAX {
            let now = clock::now();
            let (mut machine, version) = match self.store.machine(Key::Mac(wanted.mac))? {
                Some(found) => (found.machine, found.version),
                None => {
                    let id = NodeId::new(now, clock::random_bits());
                    let node = Node::new(id, wanted.name.clone(), wanted.mac, true);
                    (Machine { node, job: None }, 0)
                }
            };
            let before = machine.node.clone();
            if before.declared && before.name != wanted.name && !wanted.renames {
                return Err(AppError::Refused(format!(
                    "{} belongs to {1}; retire that node first (`ks node retire {1}`), or choose another MAC",
                    wanted.mac, before.name
                )));
            }
            if before.job.is_some() && before.name != wanted.name {
                return Err(AppError::Refused(format!(
                    "{0} has a job and cannot become {1} now; wait for the job's end or cancel it (`ks job cancel {0}`)",
                    before.name, wanted.name
                )));
            }
            machine.node.edit(&wanted.about, now).map_err(|why| refused(why, &machine))?;
            machine.node.declared = true;
            machine.node.name.clone_from(&wanted.name);
            machine.node.reservation = wanted.address;
            machine.node.uefi_loader = wanted.uefi_loader;
            if version != 0 && machine.node == before {
                return Ok(machine);
            }
            if before.lock.is_some() {
                return Err(refused(lifecycle::LOCKED, &machine));
            }
            let told = if version == 0 { vec![Happening::NodeMoved(machine.node.state)] } else { Vec::new() };
            let known = (version != 0).then_some(before.name.as_str());
            let act = audit::declared(actor, &machine.node, known, &wanted.about);
            let terms = Terms { losses_max: None, act: Some(act) };
            match self.store.commit_on(&machine, version, &told, now, terms).await {
                Ok(Commit::Done) => {
                    self.tell(&machine, &told);
                    return Ok(machine);
                }
                Ok(Commit::Conflict) => {}
                Err(error @ StoreError::Write(WriteError::Refused(_))) => {
                    self.refuse_taken(wanted)?;
                    last = Some(error);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.map_or(AppError::Busy, AppError::Store))
    }

    /// Refuses what another machine has; nothing when none has it (any more).
    fn refuse_taken(&self, wanted: &config::Declaration) -> Result<(), AppError> {
        let name = (Key::Name(&wanted.name), format!("the name {:?}", wanted.name));
        let address =
            wanted.address.map(|address| (Key::Reservation(address), format!("the address {address}")));
        for (key, what) in [Some(name), address].into_iter().flatten() {
            let Some(found) = self.store.machine(key)? else { continue };
            let node = found.machine.node;
            if !node.macs.contains(&wanted.mac) {
                let macs: Vec<String> = node.macs.iter().map(Mac::to_string).collect();
                return Err(AppError::Refused(format!(
                    "{what} belongs to {} ({}); choose another",
                    node.name,
                    macs.join(", ")
                )));
            }
        }
        Ok(())
    }

    /// The profile of that name, and its image.
    ///
    /// # Errors
    /// When there is no such profile, or its image cannot be used.
    pub fn profile(&self, name: &str) -> Result<(&config::Profile, Manifest), AppError> {
        let profile = self.config.profile(name).ok_or_else(|| {
            AppError::NotFound(format!("there is no profile {name:?}; `ks profile list` shows all"))
        })?;
        Ok((profile, self.images.find(&profile.image)?.manifest))
    }

    /// The layout of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn layout(&self, name: &str) -> Result<&Layout, AppError> {
        self.config.layouts.get(name).ok_or_else(|| {
            AppError::NotFound(format!("there is no layout {name:?}; `ks layout list` shows all"))
        })
    }

    /// The order of a profile as it stands now; it gives up what lies on the disks that `erase` names by
    /// identity and fingerprint, keeps the partitions with the labels in `keep`, comes to the agent by `via`, and starts
    /// the system by `restart` instead of as the profile says.
    ///
    /// # Errors
    /// When profile, image or layout are missing, or no such partition can be kept.
    pub fn system_order(
        &self,
        profile: &str,
        via: Via,
        restart: Option<Restart>,
        (erase, keep): (BTreeMap<String, Fingerprint>, BTreeSet<String>),
    ) -> Result<Order, AppError> {
        let (profile, image) = self.profile(profile)?;
        let layout = self.layout(&profile.layout)?;
        let kept = keep::problem(layout, keep.iter().map(String::as_str));
        if let Some(why) = kept.or_else(|| fit::contradiction(&image, layout)) {
            return Err(AppError::Refused(why));
        }
        let uuids = DiskUuids {
            disk: clock::uuid(),
            partitions: layout.partitions.iter().map(|_| clock::uuid()).collect(),
            root: clock::uuid(),
            further: layout.partitions.iter().map(|_| clock::uuid()).collect(),
            esp: u32::from_be_bytes(clock::random()),
        };
        Ok(Order::System(Box::new(SystemOrder {
            profile: profile.name.clone(),
            image: image.name,
            image_digest: image.digest,
            layout: layout.clone(),
            disk: profile.disk.clone(),
            authorized_keys: profile.authorized_keys.clone(),
            uuids,
            restart: restart.unwrap_or(profile.restart),
            via,
            recall: profile.recall,
            erase,
            keep,
        })))
    }

    /// Orders a job on the word of `actor`; a `request` whose key the node's newest job has is carried out no second
    /// time.
    ///
    /// # Errors
    /// When the machine takes no such order, the server only observes, too many others lose data already, or the store
    /// fails.
    pub async fn order(
        &self,
        actor: &Actor,
        key: Key<'_>,
        kind: JobKind,
        order: Order,
        request: Option<Request>,
    ) -> Result<Machine, AppError> {
        self.withheld(kind, &order).map_err(AppError::Observing)?;
        let now = clock::now();
        let id = JobId::new(now, clock::random_bits());
        let loses = losses::is_ordered(kind, &order);
        let mut repeated = None;
        let applied = self
            .apply_by(actor, key, |machine| {
                let node = &machine.node;
                let before = machine.job.as_ref().and_then(|job| job.request.as_ref());
                if request
                    .as_ref()
                    .is_some_and(|request| before.is_some_and(|before| before.key == request.key))
                {
                    repeated = Some(machine.clone());
                    return Err(AppError::Busy);
                }
                let job = Job {
                    approver: actor.name.clone(),
                    request: request.clone(),
                    epoch: self.epoch(),
                    ..Job::queued(id.clone(), node.id.clone(), node.state, kind, order.clone(), now)
                };
                if loses {
                    self.admit_order(&job, now)?;
                }
                Ok(Event::JobOrdered(Box::new(job)))
            })
            .await;
        repeated.map_or_else(|| applied.map(|applied| applied.machine), Ok)
    }
}

/// Why a machine does not let something happen; if its job is in the way, with how to take that away.
fn refused(why: &str, machine: &Machine) -> AppError {
    let node = &machine.node;
    match (&node.job, &node.lock) {
        (Some(job), _) if why == lifecycle::HAS_JOB => {
            AppError::Refused(format!("{why}: `ks job cancel {job}`"))
        }
        (_, Some(Lock { reason, by, at, .. })) if why == lifecycle::LOCKED => {
            let since = rfc3339(*at);
            let name = &node.name;
            AppError::Locked(format!(
                "{name} is locked by {by} since {since}: {reason:?}; `ks node unlock {name}`"
            ))
        }
        _ => AppError::Refused(why.into()),
    }
}

mod diagnosis;
#[cfg(test)]
pub(crate) mod tests;
