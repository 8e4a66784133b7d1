//! A server that only observes: what it refuses meanwhile, and what it hears that its restored copy does not know.

use super::{App, AppError};
use crate::clock;
use crate::http::api::rfc3339;
use crate::store::{Key, OF_STRANGERS_MAX};
use kaltstart_core::audit::{Act, Action, Actor};
use kaltstart_core::dhcp::{Claim, Contact};
use kaltstart_core::lifecycle::event::Event;
use kaltstart_core::machine::{JobKind, Machine, Node, Order, State};
use kaltstart_core::observing::{self, Accepted, DETAIL_CHARS_MAX, Difference, Kind, Restored};
use kaltstart_protocol::finding::{Code, Finding};
use kaltstart_protocol::ids::{JobId, Mac, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};

/// A restored copy beside what the fleet says.
pub(crate) struct Comparison {
    /// The copy.
    pub(crate) restored: Restored,
    /// Nodes that could be heard of.
    pub(crate) nodes: usize,
    /// Those that were not heard of since the copy was restored, by name; none once it was accepted.
    pub(crate) not_heard: Vec<String>,
    /// What differs, each with the node's name if it is one.
    pub(crate) differences: Vec<(Option<String>, Difference)>,
    /// Whether there may be more, of machines that are no nodes.
    pub(crate) truncated: bool,
}

/// Who says something.
#[derive(Debug, Default)]
pub(crate) struct Speaker {
    node: Option<NodeId>,
    mac: Option<Mac>,
    address: Option<IpAddr>,
}

impl Speaker {
    /// That node.
    pub(crate) fn node(node: &Node) -> Self {
        let mac = node.macs.first().copied();
        Self { node: Some(node.id.clone()), mac, address: node.address }
    }

    fn says(self, kind: Kind, job: Option<JobId>, detail: &str) -> Difference {
        let Self { node, mac, address } = self;
        let detail = detail.chars().take(DETAIL_CHARS_MAX).collect();
        Difference { kind, node, mac, address, job, detail, at: clock::now() }
    }
}

/// The finding of a server that only observes.
fn only_observes(copy: &Restored) -> Finding {
    let (since, copied) = (rfc3339(copy.since), rfc3339(copy.copied));
    let detail = format!(
        "since {since} the server goes on from a restored copy whose newest entry is of {copied}; until somebody has \
         compared it with the fleet nothing is ordered or granted that may lose data, and no burn-in"
    );
    Finding::new(Code::OnlyObserving, detail)
}

impl App {
    /// Says in the log that the server only observes, if it does.
    pub(super) fn tell_observing(&self) {
        if let Some(copy) = self.store.observing() {
            tracing::warn!(
                code = Code::OnlyObserving.number(),
                since = rfc3339(copy.since),
                copied = rfc3339(copy.copied),
                "the server only observes: its database is a restored copy that nobody has compared with the fleet; \
                 `ks restored` shows what differs, `ks restored accept` ends it"
            );
        }
    }

    /// Why `order` is not carried out now, if the server only observes and the order does more than look.
    pub(super) fn withheld(&self, kind: JobKind, order: &Order) -> Result<(), Finding> {
        let Some(copy) = self.store.observing().filter(|_| !observing::permits(order)) else { return Ok(()) };
        let finding = only_observes(&copy);
        self.metrics.grants_refused(kind, &finding);
        Err(finding)
    }

    /// Whether the machine, which has no job, shall start from its own disk instead of waiting in its agent for one.
    pub(crate) fn goes_on(&self, machine: &Machine) -> bool {
        self.store.observing().is_some() && observing::goes_on(&machine.node)
    }

    /// The copy beside what the fleet says; none if there is no copy.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn comparison(&self) -> Result<Option<Comparison>, AppError> {
        let Some(restored) = self.store.copied() else { return Ok(None) };
        let (mut differences, truncated) = self.store.differences()?;
        let machines = self.store.machines()?;
        let nodes = machines.iter().map(|found| &found.machine.node);
        let nodes: Vec<&Node> = nodes.filter(|node| node.state != State::Retired).collect();
        let mut not_heard = Vec::new();
        // What machines show after that is nobody's difference any more.
        if restored.accepted.is_none() {
            differences.extend(nodes.iter().filter_map(|node| observing::shown(node, &restored)));
            let silent = nodes.iter().filter(|node| !observing::is_heard(node, &restored));
            not_heard.extend(silent.map(|node| node.name.clone()));
        }
        let names: BTreeMap<_, _> =
            machines.iter().map(|found| (&found.machine.node.id, &found.machine.node.name)).collect();
        let name = |one: &Difference| Some((*names.get(one.node.as_ref()?)?).clone());
        let mut differences: Vec<_> = differences.into_iter().map(|one| (name(&one), one)).collect();
        differences.sort_by(|(a, one), (b, other)| (a, one.mac, one.kind).cmp(&(b, other.mac, other.kind)));
        Ok(Some(Comparison { restored, nodes: nodes.len(), not_heard, differences, truncated }))
    }

    /// Takes the copy as it is on the word of `actor`, who knows of exactly so many differences: from now on orders are carried out.
    ///
    /// # Errors
    /// When the server does not only observe, the number of differences is another, or the store fails.
    pub(crate) async fn accept_copy(&self, actor: &Actor, known: u64) -> Result<(), AppError> {
        let refused = || {
            AppError::Refused(
                "nobody has to compare anything: the database is no restored copy, or one that was accepted"
                    .into(),
            )
        };
        let Some(comparison) = self.comparison()?.filter(|it| it.restored.accepted.is_none()) else {
            return Err(refused());
        };
        let differences = comparison.differences.len() as u64;
        if differences != known {
            return Err(AppError::Refused(format!(
                "there are {differences} differences, and not {known}: look at them (`ks restored`), then accept all of them \
                 (`ks restored accept --confirm {differences}`)"
            )));
        }
        let not_heard = comparison.not_heard.len() as u64;
        let shown = comparison.differences.into_iter().map(|(_, difference)| difference).collect();
        let accepted = Accepted { at: clock::now(), by: actor.name.clone(), differences, not_heard };
        let act = Act::new(actor.clone(), Action::RestoredAccepted);
        let act = act.with("differences", differences).with("not_heard", not_heard);
        self.store.accept(accepted, shown, act).await?.ok_or_else(refused)?;
        tracing::warn!(
            by = actor.name,
            differences,
            not_heard,
            "the restored copy was accepted as it is: orders are carried out again"
        );
        Ok(())
    }

    /// Notes what somebody says, perhaps of a job, of which the copy knows nothing, or something else.
    pub(crate) async fn unknown(&self, kind: Kind, said: impl FnOnce() -> (Speaker, Option<JobId>, String)) {
        if self.store.observing().is_none() {
            return;
        }
        let (who, job, does) = said();
        let has = match job.as_ref().map(|job| self.store.job(job)) {
            None => "the copy does not know it".into(),
            Some(Ok(None)) => "the copy does not know that job".into(),
            // It was ordered since, and has ended since.
            Some(Ok(Some(known))) if known.epoch == self.epoch() => return,
            Some(Ok(Some(known))) => {
                let code = known.findings.last().map(|finding| format!(" ({})", finding.code));
                format!("the copy has that job as {}{}", known.state.name(), code.unwrap_or_default())
            }
            Some(Err(error)) => return tracing::error!(%error, "what differs from the copy"),
        };
        self.note(who.says(kind, job, &format!("{does}; {has}"))).await;
    }

    async fn note(&self, difference: Difference) {
        match self.store.note(difference.clone()).await {
            Ok(true) => tell(&difference),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "what differs from the copy is not stored"),
        }
    }

    /// Who speaks from `address`: the machine with the hardware address `mac`, as far as anybody knows it.
    pub(crate) fn speaker(&self, mac: Option<Mac>, address: Option<IpAddr>) -> Speaker {
        let node =
            mac.and_then(|mac| self.store.machine(Key::Mac(mac)).ok()?).map(|found| found.machine.node.id);
        Speaker { node, mac, address }
    }

    /// Notes that the system of `machine` is heard, which is all it tells: only once after a copy was restored.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn system_asked(&self, machine: &Machine) -> Result<(), AppError> {
        match self.store.observing() {
            Some(copy) if !observing::is_heard(&machine.node, &copy) => {
                self.apply(Key::Id(&machine.node.id), &Event::SystemAsked).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Hears a DHCP client: of what it has that it does not have by the copy, and of a system where there is none by it.
    /// Before its lease is stored, since it is its own by the copy, too, from then on.
    pub(crate) fn observe_contact(&self, mac: Mac, contact: &Contact) {
        if self.store.observing().is_none() {
            return;
        }
        let (is_node, has_no_system) = match self.store.index().get(mac) {
            Some(node) => (true, node.has_no_system),
            None => (false, false),
        };
        let (kind, address, detail) = match (contact.claim, contact.address, &contact.hostname) {
            (Some(Claim { address, holder }), ..) => {
                let has = match holder {
                    Some(other) => format!("the copy has it for {other}"),
                    None => "the copy has no lease of it".into(),
                };
                (Kind::Address, address, format!("it goes on using the address {address}; {has}"))
            }
            // Agents tell no name.
            (None, Some(address), Some(name)) if has_no_system && !contact.client.boots() => {
                let detail =
                    format!("a system runs that calls itself {name:?}; by the copy none was installed");
                (Kind::System, address, detail)
            }
            _ => return,
        };
        if !self.observed.is_new(mac, kind, address, is_node) {
            return;
        }
        let noted = self.store.submit(
            move |transaction| {
                let node = transaction.machine(Key::Mac(mac))?.map(|found| found.machine.node.id);
                let who = Speaker { node, mac: Some(mac), address: Some(address.into()) };
                let difference = who.says(kind, None, &detail);
                Ok(transaction.note(&difference)?.then_some(difference))
            },
            |outcome| match outcome {
                Ok(news) => news.iter().for_each(tell),
                Err(error) => tracing::error!(%error, "what differs from the copy is not stored"),
            },
        );
        if let Err(error) = noted {
            tracing::error!(%error, "what differs from the copy is not stored");
        }
    }
}

/// What DHCP clients have said already: not every packet shall be a write.
#[derive(Debug, Default)]
pub(super) struct Observed(Mutex<BTreeSet<(bool, Mac, Kind, Ipv4Addr)>>);

impl Observed {
    /// Whether that was not said before; it counts as said then. Of strangers, who can be made up, so many things are
    /// heard.
    fn is_new(&self, mac: Mac, kind: Kind, address: Ipv4Addr, is_node: bool) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let strangers = said.iter().take_while(|(is_node, ..)| !is_node).count();
        (is_node || strangers < OF_STRANGERS_MAX) && said.insert((is_node, mac, kind, address))
    }
}

fn tell(difference: &Difference) {
    let Difference { kind, mac, address, job, detail, .. } = difference;
    let (mac, address) = (mac.map(tracing::field::display), address.map(tracing::field::display));
    let job = job.as_ref().map(JobId::as_str);
    tracing::info!(%kind, mac, address, job, detail, "the fleet differs from the restored copy");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::tests::{app, mac, restored_app};
    use kaltstart_core::dhcp::client::{Architecture, Client, Stage};
    use kaltstart_core::lifecycle::{Step, step};
    use kaltstart_core::machine::{RescueOrder, System};
    use kaltstart_protocol::dhcp::MessageType;
    use kaltstart_protocol::ids::Digest;
    use kaltstart_protocol::time::Millis;
    use std::path::Path;

    /// A system that asks for an address, and goes on using that of the claim.
    fn contact(n: u32, claim: Option<Claim>) -> Contact {
        Contact {
            mac: Some(mac(n)),
            client: Client { architecture: Architecture::Bios, stage: Stage::Os },
            kind: MessageType::Request,
            address: Some([10, 0, 0, 9].into()),
            hostname: Some("web".into()),
            unanswered: None,
            claim,
        }
    }

    fn claim(last: u8, holder: Option<u32>) -> Option<Claim> {
        Some(Claim { address: [10, 0, 0, last].into(), holder: holder.map(mac) })
    }

    /// A node of that name is stored in the state that `make` leaves it in.
    async fn node(dir: &Path, n: u32, make: impl FnOnce(&mut Node)) {
        let app = app(dir).await;
        let id = NodeId::new(clock::now(), n.into());
        let mut node = Node::new(id, format!("n{n}"), mac(n), true);
        make(&mut node);
        app.store.commit(&Machine { node, job: None }, 0, &[], clock::now()).await.expect("stored");
    }

    fn system() -> System {
        System {
            reported_at: Millis(1),
            image: Digest::of(b"image"),
            hostname: "n".into(),
            os: String::new(),
            kernel: String::new(),
            root_device: String::new(),
            root_uuid: String::new(),
            machine_id: String::new(),
            ssh_host_keys: Vec::new(),
        }
    }

    /// What is noted, once there is nothing left to be written.
    async fn noted(app: &App) -> Vec<(Option<String>, Kind, String)> {
        let shown = Kind::Agent;
        app.unknown(shown, || (Speaker::default(), None, "last".into())).await;
        let all = app.comparison().expect("readable").map_or_else(Vec::new, |it| it.differences);
        let all = all.into_iter().filter(|(_, one)| one.kind != shown);
        all.map(|(name, one)| (name, one.kind, one.detail)).collect()
    }

    #[tokio::test]
    async fn p08_what_dhcp_clients_have_that_a_copy_does_not_is_noted_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        node(dir.path(), 1, |node| node.system = Some(system())).await;
        node(dir.path(), 2, |_| {}).await;
        let app = restored_app(dir.path()).await;
        for _ in 0..2 {
            app.observe_contact(mac(1), &contact(1, None));
            app.observe_contact(mac(1), &contact(1, claim(12, Some(7))));
            app.observe_contact(mac(2), &contact(2, None));
            app.observe_contact(mac(3), &contact(3, None));
            app.observe_contact(mac(3), &contact(3, claim(13, None)));
        }
        let found = noted(&app).await;
        let [stranger, moved, unknown] = &found[..] else { panic!("{found:?}") };
        assert_eq!((&stranger.0, stranger.1), (&None, Kind::Address));
        assert!(stranger.2.contains("10.0.0.13; the copy has no lease of it"), "{stranger:?}");
        assert_eq!((moved.0.as_deref(), moved.1), (Some("n1"), Kind::Address));
        assert!(moved.2.contains(&format!("10.0.0.12; the copy has it for {}", mac(7))), "{moved:?}");
        assert_eq!((unknown.0.as_deref(), unknown.1), (Some("n2"), Kind::System));
        assert!(unknown.2.contains("calls itself \"web\"; by the copy none"), "{unknown:?}");
        assert_eq!(app.comparison().expect("readable").expect("a copy").not_heard, ["n1", "n2"]);
    }

    #[tokio::test]
    async fn p08_strangers_cannot_fill_the_list() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        node(dir.path(), 1, |node| node.system = Some(system())).await;
        let app = restored_app(dir.path()).await;
        let most = u32::try_from(OF_STRANGERS_MAX).expect("small");
        for n in 0..most + 50 {
            app.observe_contact(mac(100 + n), &contact(100 + n, claim(20, None)));
        }
        app.observe_contact(mac(1), &contact(1, claim(21, None)));
        let found = noted(&app).await;
        assert_eq!(found.len(), OF_STRANGERS_MAX + 1);
        assert!(found.iter().any(|(name, ..)| name.as_deref() == Some("n1")), "those that are known count");
        assert!(app.comparison().expect("readable").expect("a copy").truncated);
    }

    #[tokio::test]
    async fn p08_a_grant_is_withheld_from_a_job_that_was_ordered_all_the_same() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let app = restored_app(dir.path()).await;
        let rescue = |writable: &[&str]| {
            let writable = writable.iter().map(|disk| (*disk).to_owned()).collect();
            Order::Rescue(RescueOrder { writable, ..RescueOrder::default() })
        };
        assert_eq!(app.withheld(JobKind::Rescue, &rescue(&[])), Ok(()));
        let refused = app.withheld(JobKind::Rescue, &rescue(&["S1"])).expect_err("withheld");
        assert_eq!(refused.code, Code::OnlyObserving);
        app.accept_copy(&Actor::named("me"), 0).await.expect("accepted");
        assert_eq!(app.withheld(JobKind::Rescue, &rescue(&["S1"])), Ok(()));
        assert!(noted(&app).await.is_empty(), "nothing is noted any more");
    }

    #[tokio::test]
    async fn p08_a_system_that_only_asks_is_heard_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        node(dir.path(), 1, |node| node.system = Some(system())).await;
        let app = restored_app(dir.path()).await;
        let asks = || async {
            let found = app.machine(Key::Mac(mac(1))).expect("there");
            app.system_asked(&found.machine).await.expect("stored");
            app.machine(Key::Mac(mac(1))).expect("there").version
        };
        let first = asks().await;
        assert_eq!(asks().await, first, "not a second write");
        assert!(app.comparison().expect("readable").expect("a copy").not_heard.is_empty());
        let machine = app.machine(Key::Mac(mac(1))).expect("there").machine;
        assert!(matches!(step(&machine, &Event::SystemAsked, clock::now()), Step::Ignored(_)));
    }
}
