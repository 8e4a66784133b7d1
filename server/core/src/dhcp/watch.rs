//! The watch over one subnet: which other servers are there, and how it is served therefore.
//!
//! A value that is told what was seen and when probes went out, and says when the next one is due
//! and which [`Role`] follows. Two servers never give out addresses because of a guess: the role
//! becomes authoritative only after several probes in a row that nobody answered.

use super::foreign::{Gives, Sighting};
use super::role::{Mode, Role};
use alloc::collections::BTreeMap;
use core::net::Ipv4Addr;
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};

/// Unanswered probes in a row before the role is authoritative, where no DHCP server was ever seen.
pub const QUIET_AT_START: u32 = 3;
/// The same after one was seen, in mode authoritative: a minute, in which its service may have been
/// restarted. Whoever needs longer is let back in, see [`RETURN_MS`].
pub const QUIET_AFTER_SERVER: u32 = 10;
/// The same in mode auto: five minutes, in which its machine may have been restarted. Meanwhile its
/// clients keep their addresses and get their boot files from here.
pub const QUIET_AFTER_SERVER_AUTO: u32 = 50;
/// Between probes, ms: another server is found within ten seconds, although some take three to see
/// whether the address is free (dnsmasq). Ten DISCOVERs of one client a minute are no load to it.
pub const PROBE_EVERY_MS: u64 = 6_000;
/// Between the first probes when the mode is authoritative, ms: machines wait for an answer, but a server
/// may first try whether an address is free (dnsmasq: 3 s).
pub const PROBE_SOON_MS: u64 = 1_200;
/// Between the first probes when the mode is auto, ms.
pub const PROBE_AUTO_MS: u64 = 2_000;
/// From a client's word about a server to the probe that shows it, ms.
const PROBE_PROOF_MS: u64 = 500;
/// Who answers so long after the start was there before us, ms: it is slow, and no newcomer.
pub const START_MS: u64 = 10_000;
/// A server that was there first and comes back so long after this one began in its place, ms, has it
/// again: its machine was restarted.
pub const RETURN_MS: u64 = 5 * 60 * 1_000;
/// A server that was seen again within this time is not told of again, ms.
pub const TOLD_EVERY_MS: u64 = 60 * 60 * 1_000;
/// Servers remembered per subnet; the one not seen for longest makes room.
pub const SERVERS_MAX: usize = 16;

/// Another server as it is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherServer {
    /// Hardware address its messages came from; none when only clients spoke of it.
    pub mac: Option<Mac>,
    /// What it gives.
    pub gives: Gives,
    /// When it was first seen.
    pub first_seen: Millis,
    /// When it was last seen.
    pub last_seen: Millis,
    /// When it was last told of.
    #[serde(skip)]
    told: Option<Millis>,
}

/// What is to be said and done about a sighting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct News {
    /// The operator is to be told of the server.
    pub tell: bool,
    /// The role is this from now on.
    pub role: Option<Role>,
}

/// The watch over one subnet.
#[derive(Debug, Clone)]
pub struct Watch {
    mode: Mode,
    has_pool: bool,
    others_allowed: bool,
    role: Role,
    /// When it took that role.
    since: Millis,
    started: Millis,
    servers: BTreeMap<Ipv4Addr, OtherServer>,
    /// Probes in a row that nobody answered.
    quiet: u32,
    /// Whether a DHCP server was seen since the last probe; none before the first.
    answered: Option<bool>,
    next_probe: Millis,
}

impl Watch {
    /// A watch that begins at `now`. With `others_allowed`, an authoritative subnet is served
    /// whoever else is there.
    #[must_use]
    pub const fn new(mode: Mode, has_pool: bool, others_allowed: bool, now: Millis) -> Self {
        let role = match mode {
            Mode::Off => Role::Off,
            // Boot files alone do no harm while others are looked for.
            Mode::Proxy | Mode::Auto => Role::Proxy,
            Mode::Authoritative if others_allowed => Role::Authoritative,
            Mode::Authoritative => Role::Checking,
        };
        let servers = BTreeMap::new();
        let (quiet, answered) = (0, None);
        let (since, started, next_probe) = (now, now, now);
        Self { mode, has_pool, others_allowed, role, since, started, servers, quiet, answered, next_probe }
    }

    /// How the subnet shall be served.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// How it is served.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The other servers, by address.
    #[must_use]
    pub const fn servers(&self) -> &BTreeMap<Ipv4Addr, OtherServer> {
        &self.servers
    }

    /// When the next probe is due.
    #[must_use]
    pub const fn next_probe(&self) -> Millis {
        self.next_probe
    }

    /// A probe is sent now; judges the one before. Returns the new role, if it changes.
    pub fn probe_sent(&mut self, now: Millis) -> Option<Role> {
        match self.answered.replace(false) {
            Some(true) => self.quiet = 0,
            Some(false) => self.quiet = self.quiet.saturating_add(1),
            None => {}
        }
        let changed = self.become_role(self.after_quiet(), now);
        // Also just after a change, when another server may have had the same thought.
        let searching = self.quiet < QUIET_AT_START && !self.knows_dhcp_server();
        let pause = match (searching, self.mode) {
            (true, Mode::Authoritative) => PROBE_SOON_MS,
            (true, _) => PROBE_AUTO_MS,
            (false, _) => PROBE_EVERY_MS,
        };
        self.next_probe = now.plus(pause);
        changed
    }

    /// Another server was seen.
    pub fn saw(&mut self, sighting: Sighting, now: Millis) -> News {
        let tell = self.remember(sighting, now);
        if sighting.gives == Gives::BootFiles {
            return News { tell, role: None };
        }
        self.answered = self.answered.map(|_| true);
        self.quiet = 0;
        if sighting.mac.is_none() && self.servers.get(&sighting.server).is_some_and(|one| one.mac.is_none()) {
            // Its hardware address is not known yet: it answers a probe.
            self.next_probe = self.next_probe.min(now.plus(PROBE_PROOF_MS));
        }
        News { tell, role: self.become_role(self.after_server(sighting.server, now), now) }
    }

    fn remember(&mut self, Sighting { server, mac, gives }: Sighting, now: Millis) -> bool {
        if self.servers.len() >= SERVERS_MAX && !self.servers.contains_key(&server) {
            let oldest = self.servers.iter().min_by_key(|(_, one)| one.last_seen);
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                self.servers.remove(&oldest);
            }
        }
        let fresh = OtherServer { mac, gives, first_seen: now, last_seen: now, told: None };
        let one = self.servers.entry(server).or_insert(fresh);
        one.last_seen = now;
        // Who gives addresses may give boot files as well.
        if gives == Gives::Addresses {
            one.gives = gives;
        }
        let found_mac = one.mac.is_none() && mac.is_some();
        one.mac = mac.or(one.mac);
        let tell = found_mac || one.told.is_none_or(|told| now.0 >= told.plus(TOLD_EVERY_MS).0);
        if tell {
            one.told = Some(now);
        }
        tell
    }

    fn knows_dhcp_server(&self) -> bool {
        self.servers.values().any(|one| one.gives == Gives::Addresses)
    }

    /// The role after so many unanswered probes.
    fn after_quiet(&self) -> Role {
        let enough = match (self.knows_dhcp_server(), self.mode) {
            (false, _) => QUIET_AT_START,
            (true, Mode::Auto) => QUIET_AFTER_SERVER_AUTO,
            (true, _) => QUIET_AFTER_SERVER,
        };
        match (self.mode, self.role) {
            (Mode::Auto, Role::Proxy) if self.has_pool && self.quiet >= enough => Role::Authoritative,
            (Mode::Authoritative, Role::Checking | Role::Refused) if self.quiet >= enough => {
                Role::Authoritative
            }
            (_, role) => role,
        }
    }

    /// The role once this other DHCP server was seen.
    fn after_server(&self, server: Ipv4Addr, now: Millis) -> Role {
        match (self.mode, self.role) {
            (Mode::Auto, _) => Role::Proxy,
            (Mode::Authoritative, Role::Checking) => Role::Refused,
            // A newcomer is told of, and does not stop us.
            (Mode::Authoritative, Role::Authoritative)
                if !self.others_allowed && self.was_first(server, now) =>
            {
                Role::Refused
            }
            (_, role) => role,
        }
    }

    /// Whether the server was there before this one served: it is slow to answer, or was away.
    fn was_first(&self, server: Ipv4Addr, now: Millis) -> bool {
        let known = self.servers.get(&server).is_some_and(|one| one.first_seen.0 < self.since.0);
        now.0 < self.started.plus(START_MS).0 || (known && now.0 < self.since.plus(RETURN_MS).0)
    }

    fn become_role(&mut self, role: Role, now: Millis) -> Option<Role> {
        if role == self.role {
            return None;
        }
        // The next change is judged by what is seen from now on.
        self.quiet = 0;
        (self.role, self.since) = (role, now);
        Some(role)
    }
}

#[cfg(test)]
mod tests;
