//! Counters in Prometheus' text form; never a node's name as a label.

use crate::net::{dhcp, dhcp6};
use kaltstart_core::dhcp::lease::Usage;
use kaltstart_core::dhcp::role::Role;
use kaltstart_core::dhcp::subnet::Network;
use kaltstart_core::dhcp6::subnet::Prefix;
use kaltstart_core::lifecycle::event::Happening;
use kaltstart_core::machine::{JobKind, Machine};
use kaltstart_protocol::finding::{Code, Finding};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

/// One label: what happened to something.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    /// Type of message, transfer or request.
    pub r#type: String,
    /// What became of it.
    pub result: String,
}

/// Labels of ended jobs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    kind: &'static str,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are lower case")]
enum Outcome {
    succeeded,
    failed,
    cancelled,
}

/// Labels of ended phases.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InPhase {
    phase: &'static str,
}

/// Labels of a subnet's role.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InRole {
    interface: String,
    role: &'static str,
}

/// Labels of what is on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OnInterface {
    interface: String,
}

/// All counters.
pub struct Metrics {
    registry: Registry,
    dhcp: Family<Kind, Counter>,
    dhcp_service: OnceLock<Arc<dyn dhcp::Observed>>,
    dhcp_role: Family<InRole, Gauge>,
    dhcp_other_servers: Family<OnInterface, Gauge>,
    watches: OnceLock<Arc<dhcp::Watches>>,
    dhcp_lease_store_ok: Gauge,
    /// DHCPv6 messages, by type and result.
    pub dhcp6: Family<Kind, Counter>,
    dhcp6_service: OnceLock<Arc<dyn dhcp6::Observed>>,
    /// TFTP transfers, by result.
    pub tftp: Family<Kind, Counter>,
    /// Bytes of boot files and images served over HTTP.
    pub http_bytes: Counter,
    jobs: Family<Ended, Counter>,
    wipe_grants: Family<Kind, Counter>,
    observing: Gauge,
    phases: Family<InPhase, Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("kaltstart");
        let dhcp = Family::<Kind, Counter>::default();
        registry.register("dhcp_messages", "DHCP messages by type and result", dhcp.clone());
        let dhcp_role = Family::<InRole, Gauge>::default();
        registry.register("dhcp_role", "How a subnet is served: 1 for its role", dhcp_role.clone());
        let dhcp_other_servers = Family::<OnInterface, Gauge>::default();
        registry.register(
            "dhcp_other_servers",
            "Other DHCP and boot servers seen since the start",
            dhcp_other_servers.clone(),
        );
        let dhcp_lease_store_ok = Gauge::default();
        registry.register(
            "dhcp_lease_store_ok",
            "1, or 0 while leases cannot be stored: no new dynamic leases are given",
            dhcp_lease_store_ok.clone(),
        );
        let dhcp6 = Family::<Kind, Counter>::default();
        registry.register("dhcp6_messages", "DHCPv6 messages by type and result", dhcp6.clone());
        let tftp = Family::<Kind, Counter>::default();
        registry.register("tftp_transfers", "TFTP transfers by result", tftp.clone());
        let http_bytes = Counter::default();
        registry.register_with_unit(
            "http_boot",
            "Boot files and images served",
            Unit::Bytes,
            http_bytes.clone(),
        );
        let jobs = Family::<Ended, Counter>::default();
        registry.register("jobs", "Ended jobs by kind and outcome", jobs.clone());
        let wipe_grants = Family::<Kind, Counter>::default();
        registry.register(
            "wipe_grants",
            "Wipe grants by kind of job: given, one a disk, or refused with that code",
            wipe_grants.clone(),
        );
        let observing = Gauge::default();
        registry.register(
            "observing",
            "1 while the server only observes since a copy was restored, else 0",
            observing.clone(),
        );
        let phases = Family::<InPhase, Histogram>::new_with_constructor(|| {
            Histogram::new([1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 240.0, 480.0, 900.0])
        });
        registry.register_with_unit(
            "phase_duration",
            "Time phases of jobs took",
            Unit::Seconds,
            phases.clone(),
        );
        Self {
            registry,
            dhcp,
            dhcp_service: OnceLock::new(),
            dhcp_role,
            dhcp_other_servers,
            dhcp_lease_store_ok,
            dhcp6,
            dhcp6_service: OnceLock::new(),
            watches: OnceLock::new(),
            tftp,
            http_bytes,
            jobs,
            wipe_grants,
            observing,
            phases,
        }
    }
}

impl Metrics {
    /// Counts one thing of a family.
    pub fn count(family: &Family<Kind, Counter>, r#type: &str, result: &str) {
        family.get_or_create(&Kind { r#type: r#type.into(), result: result.into() }).inc();
    }

    /// Counts wipe grants that are handed out.
    pub(crate) fn grants_given(&self, kind: JobKind, disks: usize) {
        let labels = Kind { r#type: kind.name().into(), result: "given".into() };
        self.wipe_grants.get_or_create(&labels).inc_by(disks as u64);
    }

    /// Counts that a job gets none.
    pub(crate) fn grants_refused(&self, kind: JobKind, why: &Finding) {
        Self::count(&self.wipe_grants, kind.name(), why.code.number());
    }

    /// Counts what happened to a machine.
    pub(crate) fn happened(&self, happening: &Happening, machine: &Machine) {
        let Some(job) = &machine.job else { return };
        let outcome = match happening {
            Happening::JobSucceeded => Outcome::succeeded,
            Happening::JobFailed(finding) => {
                // By the agent, which compares.
                if finding.code == Code::GrantRefused {
                    self.grants_refused(job.kind, finding);
                }
                Outcome::failed
            }
            Happening::JobCancelled => Outcome::cancelled,
            Happening::PhaseDone(phase) => {
                let took = job.record(*phase).and_then(|record| record.duration(record.ended_at?));
                #[expect(clippy::cast_precision_loss, reason = "2^53 ms are ages")]
                if let Some(ms) = took {
                    let labels = InPhase { phase: phase.name() };
                    self.phases.get_or_create(&labels).observe(ms as f64 / 1000.0);
                }
                return;
            }
            _ => return,
        };
        self.jobs.get_or_create(&Ended { kind: job.kind.name(), outcome }).inc();
    }

    /// Whether the server only observes.
    pub(crate) fn set_observing(&self, observing: bool) {
        self.observing.set(i64::from(observing));
    }

    /// Watches the DHCP service from now on.
    pub(crate) fn watch_dhcp(&self, service: Arc<dyn dhcp::Observed>, watches: Arc<dhcp::Watches>) {
        // Set once, when the service is opened.
        let _ = (self.dhcp_service.set(service), self.watches.set(watches));
    }

    /// Whether leases can be stored, as far as the last commit tells.
    pub(crate) fn stores_leases(&self) -> bool {
        self.dhcp_service.get().is_none_or(|service| service.stats().is_storing())
            && self.dhcp6_service.get().is_none_or(|service| service.is_storing())
    }

    /// Watches the DHCPv6 service from now on.
    pub(crate) fn watch_dhcp6(&self, service: Arc<dyn dhcp6::Observed>) {
        // Set once, when the service is opened.
        let _ = self.dhcp6_service.set(service);
    }

    /// How many addresses of each DHCPv4 subnet are lent.
    pub(crate) fn dhcp_usage(&self) -> Vec<(Network, Usage)> {
        self.dhcp_service.get().map(|service| service.usage()).unwrap_or_default()
    }

    /// How many addresses of each DHCPv6 subnet are lent.
    pub(crate) fn dhcp6_usage(&self) -> Vec<(Prefix, Usage)> {
        self.dhcp6_service.get().map(|service| service.usage()).unwrap_or_default()
    }

    /// All counters as text.
    #[must_use]
    pub fn text(&self) -> String {
        for (result, name, count) in
            self.dhcp_service.get().iter().flat_map(|service| service.stats().counts())
        {
            let labels = Kind { r#type: name.into(), result: result.into() };
            self.dhcp.get_or_create(&labels).inner().store(count, Ordering::Relaxed);
        }
        self.dhcp_lease_store_ok.set(i64::from(self.stores_leases()));
        for subnet in self.watches.get().iter().flat_map(|watches| watches.view(&[])) {
            let interface = subnet.interface;
            for role in Role::ALL {
                let labels = InRole { interface: interface.clone(), role: role.name() };
                self.dhcp_role.get_or_create(&labels).set(i64::from(role == subnet.role));
            }
            let servers = i64::try_from(subnet.servers.len()).unwrap_or(i64::MAX);
            self.dhcp_other_servers.get_or_create(&OnInterface { interface }).set(servers);
        }
        let mut text = String::new();
        // Writing to a `String` cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
