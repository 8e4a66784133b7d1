//! Counters in Prometheus' text form; never a node's name as a label.

use kaltstart_core::lifecycle::event::Happening;
use kaltstart_core::machine::{JobKind, Machine};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

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

/// All counters.
pub struct Metrics {
    registry: Registry,
    /// DHCP messages, by type and result.
    pub dhcp: Family<Kind, Counter>,
    /// TFTP transfers, by result.
    pub tftp: Family<Kind, Counter>,
    /// Bytes of boot files and images served over HTTP.
    pub http_bytes: Counter,
    jobs: Family<Ended, Counter>,
    phases: Family<InPhase, Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("kaltstart");
        let dhcp = Family::<Kind, Counter>::default();
        registry.register("dhcp_messages", "DHCP messages by type and result", dhcp.clone());
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
        let phases = Family::<InPhase, Histogram>::new_with_constructor(|| {
            Histogram::new([1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 240.0, 480.0, 900.0])
        });
        registry.register_with_unit(
            "phase_duration",
            "Time phases of jobs took",
            Unit::Seconds,
            phases.clone(),
        );
        Self { registry, dhcp, tftp, http_bytes, jobs, phases }
    }
}

impl Metrics {
    /// Counts one thing of a family.
    pub fn count(family: &Family<Kind, Counter>, r#type: &str, result: &str) {
        family.get_or_create(&Kind { r#type: r#type.into(), result: result.into() }).inc();
    }

    /// Counts what happened to a machine.
    pub(crate) fn happened(&self, happening: &Happening, machine: &Machine) {
        let Some(job) = &machine.job else { return };
        let outcome = match happening {
            Happening::JobSucceeded => Outcome::succeeded,
            Happening::JobFailed(_) => Outcome::failed,
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
        let kind = match job.kind {
            JobKind::Deploy => "deploy",
            JobKind::Rebuild => "rebuild",
        };
        self.jobs.get_or_create(&Ended { kind, outcome }).inc();
    }

    /// All counters as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a `String` cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
