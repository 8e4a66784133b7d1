//! An installed system: has an address by the agent's DHCP client, and reports itself until that is noted.

use crate::disk::System;
use crate::firmware::split;
use crate::machine::{Body, Effect, Line, Next, Timer};
use crate::server::{Answer, Ask};
use kaltstart_agent::backoff::Policy;
use kaltstart_agent::dhcp_client::{Client, Step};
use kaltstart_protocol::node_api::{BootOrder, NodeReport};
use std::net::Ipv4Addr;
use std::time::Duration;

/// As the agent's `report` has it.
const RETRY: Policy = Policy { first: Duration::from_secs(1), cap: Duration::from_secs(60) };

/// Lets a DHCP client do what is due.
pub(crate) fn drive(client: &mut Client, body: &mut Body<'_>) {
    loop {
        let now = Duration::from_millis(crate::time::now());
        match client.poll(now, body.rng.u32()) {
            Step::Send { packet, to } => body.effects.push(Effect::Dhcp(packet, to)),
            Step::WaitUntil(then) => {
                let wait = then.saturating_sub(now).as_millis();
                body.timer(u64::try_from(wait).unwrap_or(u64::MAX).max(1), Timer::Dhcp);
                return;
            }
        }
    }
}

/// Hands a packet to a DHCP client; true when there is a new or renewed lease.
pub(crate) fn hear(client: &mut Client, packet: &[u8], body: &mut Body<'_>) -> bool {
    let is_new = client.receive(packet, Duration::from_millis(crate::time::now()), body.rng.u32());
    drive(client, body);
    is_new
}

/// What the machine has started.
fn running<'a>(body: &'a Body<'_>) -> Option<&'a System> {
    body.hardware.disks.iter().find(|disk| disk.starts)?.system.as_ref()
}

/// A running system.
pub(crate) struct Os {
    dhcp: Client,
    /// Which of the servers in its report's configuration is asked.
    at: usize,
    failures: u32,
    reporting: bool,
}

impl Os {
    pub(crate) fn begin(body: &mut Body<'_>) -> Self {
        let now = Duration::from_millis(crate::time::now());
        let mut dhcp = Client::new(body.hardware.mac, body.rng.u32(), now);
        drive(&mut dhcp, body);
        Self { dhcp, at: 0, failures: 0, reporting: false }
    }

    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        self.dhcp.lease().map(|lease| lease.address)
    }

    pub(crate) fn timer(&mut self, timer: Timer, body: &mut Body<'_>) -> Next {
        match timer {
            Timer::Dhcp => drive(&mut self.dhcp, body),
            Timer::Resend(_) => self.report(body),
            Timer::Step | Timer::Restart => {}
        }
        Next::Same
    }

    pub(crate) fn dhcp(&mut self, packet: &[u8], body: &mut Body<'_>) -> Next {
        if hear(&mut self.dhcp, packet, body) && !self.reporting {
            self.reporting = true;
            self.report(body);
        }
        Next::Same
    }

    /// Tells the server that it is up, if it still has to.
    fn report(&mut self, body: &mut Body<'_>) {
        let Some((system, config)) = running(body).and_then(|system| Some((system, system.report.as_ref()?)))
        else {
            return;
        };
        let Some(from) = self.address() else { return body.timer(1_000, Timer::Resend(Line::Control)) };
        let report = NodeReport {
            token: config.token.clone(),
            job: config.job.clone(),
            hostname: system.hostname.clone(),
            kernel: "6.1".into(),
            root_device: "/dev/sda3".into(),
            root_uuid: system.root.clone(),
            os: "Simulated".into(),
            machine_id: system.machine_id.clone(),
            boot_id: format!("boot-{}", body.boot),
            uptime_ms: 20_000,
            ssh_host_keys: Vec::new(),
            boot_order: BootOrder::None,
        };
        let sent = serde_json::to_vec(&report).expect("JSON");
        let Some((to, path)) = config.urls.get(self.at).and_then(|url| split(url)) else { return };
        body.ask(
            Line::Control,
            Ask { post: true, path, body: sent, bearer: None, from, to, tls: true, waits: false },
        );
    }

    pub(crate) fn answer(&mut self, answer: Option<&Answer>, body: &mut Body<'_>) -> Next {
        let urls =
            running(body).and_then(|system| system.report.as_ref()).map_or(0, |config| config.urls.len());
        match answer {
            Some(answer) if answer.is_good() || matches!(answer.status, 401 | 404 | 410) => {
                for disk in body.hardware.disks.iter_mut().filter(|disk| disk.starts) {
                    if let Some(system) = &mut disk.system {
                        system.report = None;
                    }
                }
                body.say(format!("its report was answered with {}", answer.status));
            }
            // As the agent's `questions` have it, told again as those wait: the next server is asked at once.
            _ if self.at + 1 < urls => {
                self.at += 1;
                self.report(body);
            }
            _ => {
                self.at = 0;
                self.failures += 1;
                let wait = RETRY.delay(self.failures, body.rng.u32()).as_millis();
                body.timer(u64::try_from(wait).unwrap_or(u64::MAX), Timer::Resend(Line::Control));
            }
        }
        Next::Same
    }
}
