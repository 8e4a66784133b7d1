//! The server's side of RFC 8415 §18.3, one function per message.

use super::subnet::Subnet;
use super::{Contact, Decision, Drop, IDENTITIES_MAX, Reply, Seen, View, reply};
use crate::dhcp::host::{Host, HostKey};
use crate::dhcp::lease::{
    Asker, ClientKey, DECLINED_MS, Lease, LeaseState, LeaseTable, LeaseWrite, OFFER_MS, Undo,
};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::net::Ipv6Addr;
use kaltstart_protocol::dhcp6::options::{Options, code};
use kaltstart_protocol::dhcp6::{Address, Identity, Message, MessageType, Status, duid};
use kaltstart_protocol::time::Millis;

/// Reservations are the configuration's alone.
static NONE: BTreeSet<Ipv6Addr> = BTreeSet::new();

/// Decides about a message, and changes the table accordingly.
#[must_use]
pub fn decide(seen: &Seen<'_>, view: View<'_>, table: &mut LeaseTable<Ipv6Addr>) -> Decision {
    let host = host_of(seen);
    let mut case = Case {
        seen,
        view,
        table,
        reservation: host.and_then(|(host, _)| host.address6).filter(|it| seen.subnet.prefix.contains(*it)),
        by_mac: host.is_some_and(|(_, by_mac)| by_mac),
        writes: Vec::new(),
        undo: Vec::new(),
        exhausted: false,
    };
    let direct = seen.packet.relays.is_empty();
    let reply = match seen.kind() {
        // What may be sent to this server alone was sorted out before.
        _ if direct && !seen.arrival.multicast => Ok(case.use_multicast()),
        MessageType::Solicit => case.solicit(),
        MessageType::Request => case.request(),
        MessageType::Confirm => case.confirm(),
        MessageType::Renew | MessageType::Rebind => case.extend(),
        MessageType::Release => case.give_up(LeaseState::Released, view.now),
        MessageType::Decline => case.give_up(LeaseState::Declined, view.now.plus(DECLINED_MS)),
        MessageType::InformationRequest => Ok(case.inform()),
        MessageType::Advertise | MessageType::Reply | MessageType::Reconfigure => Err(Drop::FromServer),
    };
    let Case { writes, undo, exhausted, .. } = case;
    let address = reply.as_ref().ok().and_then(Reply::address);
    let (client, kind) = (seen.client, seen.kind());
    let contact = seen.mac.map(|mac| Contact { mac, client, kind, address });
    Decision { reply, writes, undo, contact, exhausted }
}

/// The machine of the configuration that asks, and whether its hardware address says so.
fn host_of<'a>(seen: &'a Seen<'_>) -> Option<(&'a Host, bool)> {
    let rules = &seen.subnet.rules;
    let by_mac = seen.mac.and_then(|mac| rules.find(&HostKey::Mac(mac)));
    by_mac.map(|host| (host, true)).or_else(|| {
        let by_duid = rules.find(&HostKey::Duid(seen.duid.clone()));
        let by_uuid = || rules.find(&HostKey::Uuid(duid::uuid(&seen.duid)?));
        by_duid.or_else(by_uuid).map(|host| (host, false))
    })
}

/// One message with everything that counts for it.
struct Case<'a> {
    seen: &'a Seen<'a>,
    view: View<'a>,
    table: &'a mut LeaseTable<Ipv6Addr>,
    /// The address kept for the machine, until one of its identities has it.
    reservation: Option<Ipv6Addr>,
    /// Whether its hardware address says which machine it is.
    by_mac: bool,
    writes: Vec<LeaseWrite<Ipv6Addr>>,
    undo: Vec<Undo<Ipv6Addr>>,
    exhausted: bool,
}

impl Case<'_> {
    /// §18.3.1, §18.3.9: offer addresses, or give them at once if both sides want that.
    fn solicit(&mut self) -> Result<Reply, Drop> {
        let rapid = self.seen.subnet.rapid_commit && self.message().options.has(code::RAPID_COMMIT);
        let kind = if rapid { MessageType::Reply } else { MessageType::Advertise };
        let state = if rapid { LeaseState::Bound } else { LeaseState::Offered };
        let mut reply = reply::start(self.seen, kind);
        if rapid {
            reply.options.push(code::RAPID_COMMIT, []);
        }
        self.give(&mut reply, state)?;
        Ok(self.finish(reply))
    }

    /// §18.3.2: give what was offered. The offer may have been forgotten in a restart; what counts is
    /// that the addresses may be given.
    fn request(&mut self) -> Result<Reply, Drop> {
        let mut reply = reply::start(self.seen, MessageType::Reply);
        self.give(&mut reply, LeaseState::Bound)?;
        Ok(self.finish(reply))
    }

    /// Gives each identity an address, or says why it gets none.
    fn give(&mut self, reply: &mut Message, state: LeaseState) -> Result<(), Drop> {
        let identities: Vec<_> = self.message().identities().collect();
        for (at, identity) in identities.iter().enumerate() {
            let mut answer = Identity::new(identity.id);
            let mut wishes = identity.addresses().map(|address| address.address).peekable();
            let elsewhere = self.seen.kind() == MessageType::Request
                && wishes.peek().is_some()
                && !identity.addresses().any(|address| self.subnet().prefix.contains(address.address));
            let key = self.key(identity.id);
            if elsewhere {
                answer.push_status(Status::NotOnLink, "");
            } else if at >= IDENTITIES_MAX {
                answer.push_status(Status::NoAddresses, "too many identities");
            } else if let Some(address) = self.asker(&key).choose(self.table, wishes.next(), self.view.now) {
                match self.term(&key, address) {
                    Some(seconds) => {
                        self.hold(key, address, state, seconds);
                        self.lend(&mut answer, address, seconds);
                    }
                    None if identities.len() == 1 => return Err(Drop::NotStored),
                    None => answer.push_status(Status::NoAddresses, "cannot be stored now"),
                }
            } else {
                self.exhausted = true;
                answer.push_status(Status::NoAddresses, "no free address");
            }
            reply.options.push(code::IA_NA, answer.encode());
        }
        self.refuse_others(reply);
        Ok(())
    }

    /// What is not given here: temporary addresses and prefixes.
    fn refuse_others(&self, reply: &mut Message) {
        for (code, header, status) in
            [(code::IA_TA, 4, Status::NoAddresses), (code::IA_PD, 12, Status::NoPrefix)]
        {
            for value in self.message().options.all(code).take(IDENTITIES_MAX) {
                let Some(id) = value.get(..4) else { continue };
                let mut answer = Vec::from(id);
                answer.resize(header, 0);
                let status = status.encode("not given here");
                let mut options = Options::default();
                options.push(code::STATUS, status);
                options.encode(&mut answer);
                reply.options.push(code, answer);
            }
        }
    }

    /// §18.3.3: do these addresses fit the link?
    fn confirm(&self) -> Result<Reply, Drop> {
        let mut addresses = self.message().identities().flat_map(|identity| {
            let addresses: Vec<_> = identity.addresses().collect();
            addresses
        });
        let prefix = self.subnet().prefix;
        let mut fits = prefix.contains(addresses.next().ok_or(Drop::Invalid)?.address);
        fits &= addresses.all(|address| prefix.contains(address.address));
        let mut reply = reply::start(self.seen, MessageType::Reply);
        reply::push_status(&mut reply, if fits { Status::Success } else { Status::NotOnLink }, "");
        Ok(self.finish(reply))
    }

    /// §18.3.4, §18.3.5: the client uses addresses and wants to keep them. A record is not asked for,
    /// as with DHCPv4: an address of ours that nobody else holds is safe to give.
    fn extend(&mut self) -> Result<Reply, Drop> {
        let mut reply = reply::start(self.seen, MessageType::Reply);
        let identities: Vec<_> = self.message().identities().collect();
        let mut answered = identities.is_empty();
        for identity in identities.iter().take(IDENTITIES_MAX) {
            let mut answer = Identity::new(identity.id);
            let key = self.key(identity.id);
            let mut kept = None;
            for Address { address, .. } in identity.addresses() {
                let may_have =
                    kept.is_none() && self.asker(&key).may_have(self.table, address, self.view.now);
                let seconds = may_have.then(|| self.term(&key, address)).flatten();
                match seconds {
                    Some(seconds) => kept = Some((address, seconds)),
                    None if may_have => return Err(Drop::NotStored),
                    // Not the client's any more; of addresses of this link another server may know.
                    None if self.is_lost(&key, address) => {
                        answer.push(&Address { address, preferred: 0, valid: 0 });
                        answered = true;
                    }
                    None => {}
                }
            }
            if let Some((address, seconds)) = kept {
                self.hold(key, address, LeaseState::Bound, seconds);
                self.lend(&mut answer, address, seconds);
                answered = true;
            } else if self.seen.kind() == MessageType::Renew {
                answer.push_status(Status::NoBinding, "not known here");
                answered = true;
            }
            reply.options.push(code::IA_NA, answer.encode());
        }
        if !answered {
            return Err(Drop::NoRecord);
        }
        self.refuse_others(&mut reply);
        Ok(self.finish(reply))
    }

    /// Whether the client cannot go on using the address: it fits no link of its, or is somebody
    /// else's.
    fn is_lost(&self, key: &ClientKey, address: Ipv6Addr) -> bool {
        let asker = self.asker(key);
        let lease = self.table.get(address).filter(|lease| lease.is_live(self.view.now));
        !self.subnet().prefix.contains(address)
            || (asker.is_reserved(address) && asker.reservation != Some(address))
            || lease.is_some_and(|lease| !asker.holds(address, lease))
    }

    /// §18.3.7, §18.3.8: the client gives addresses back, or found them in use by others. Only their
    /// holder may say so.
    fn give_up(&mut self, state: LeaseState, until: Millis) -> Result<Reply, Drop> {
        let mut reply = reply::start(self.seen, MessageType::Reply);
        let identities: Vec<_> = self.message().identities().take(IDENTITIES_MAX).collect();
        for identity in identities {
            let key = self.key(identity.id);
            let held = |case: &Self, address| {
                case.table.get(address).is_some_and(|lease| {
                    matches!(lease.state, LeaseState::Bound | LeaseState::Offered)
                        && lease.is_live(case.view.now)
                        && case.asker(&key).holds(address, lease)
                })
            };
            let addresses: Vec<_> = identity.addresses().map(|address| address.address).collect();
            let mut known = false;
            for address in addresses {
                if !held(self, address) {
                    continue;
                }
                if !self.view.storable {
                    return Err(Drop::NotStored);
                }
                known = true;
                self.put(key.clone(), address, state, until);
            }
            if !known {
                let mut answer = Identity::new(identity.id);
                answer.push_status(Status::NoBinding, "not known here");
                reply.options.push(code::IA_NA, answer.encode());
            }
        }
        reply::push_status(&mut reply, Status::Success, "");
        Ok(reply::finish(reply, self.seen))
    }

    /// §18.3.6: parameters for a client that has addresses.
    fn inform(&self) -> Reply {
        self.finish(reply::start(self.seen, MessageType::Reply))
    }

    /// §18.3.2 and others: nobody was told that this server may be asked alone.
    fn use_multicast(&self) -> Reply {
        let mut reply = reply::start(self.seen, MessageType::Reply);
        reply::push_status(&mut reply, Status::UseMulticast, "");
        reply::finish(reply, self.seen)
    }

    fn finish(&self, mut message: Message) -> Reply {
        reply::push_parameters(&mut message, self.seen, self.view.node);
        reply::finish(message, self.seen)
    }

    /// For how many seconds the client may have the address; none when that cannot be stored. While
    /// nothing can be stored it rests on what is: the reservation of a hardware address, or what
    /// is left of a stored lease.
    fn term(&self, key: &ClientKey, address: Ipv6Addr) -> Option<u32> {
        let asked = self.subnet().lease_seconds;
        if self.view.storable || (self.by_mac && self.reservation == Some(address)) {
            return Some(asked);
        }
        let lease = self.table.get(address).filter(|lease| lease.state == LeaseState::Bound)?;
        let left = self.table.stored_until(lease).since(self.view.now) / 1_000;
        let seconds = u32::try_from(left).unwrap_or(u32::MAX).min(asked);
        (seconds > 0 && self.asker(key).holds(address, lease)).then_some(seconds)
    }

    /// The identity has, or is offered, the address from now on.
    fn hold(&mut self, key: ClientKey, address: Ipv6Addr, state: LeaseState, seconds: u32) {
        let now = self.view.now;
        let (offered, until) = match state {
            LeaseState::Offered => (true, now.plus(OFFER_MS)),
            _ => (false, now.plus(u64::from(seconds) * 1_000)),
        };
        // A lease that outlasts the offer holds the address anyway, and must stay a lease.
        let held = self.table.get(address).is_some_and(|lease| {
            lease.state == LeaseState::Bound
                && lease.expires >= until
                && self.asker(&key).holds(address, lease)
        });
        if !(offered && held) && (offered || self.view.storable) {
            self.put(key, address, state, until);
        }
        if self.reservation == Some(address) {
            self.reservation = None;
        }
    }

    fn put(&mut self, key: ClientKey, address: Ipv6Addr, state: LeaseState, expires: Millis) {
        let lease = Lease { key, mac: self.seen.mac, state, since: self.view.now, expires };
        let write = LeaseWrite { address, lease };
        if write.is_durable() {
            self.writes.push(write.clone());
        }
        self.undo.push(self.table.apply(write));
    }

    /// Puts an address into an identity, with the times at which its client asks again (§21.4).
    fn lend(&self, identity: &mut Identity, address: Ipv6Addr, seconds: u32) {
        let Subnet { renew_seconds, rebind_seconds, .. } = *self.subnet();
        identity.rebind = rebind_seconds.unwrap_or(seconds - seconds / 5).min(seconds);
        identity.renew = renew_seconds.unwrap_or(seconds / 2).min(identity.rebind);
        identity.push(&Address { address, preferred: seconds, valid: seconds });
    }

    fn asker<'b>(&'b self, key: &'b ClientKey) -> Asker<'b, Ipv6Addr> {
        Asker {
            key,
            mac: self.seen.mac,
            reservation: self.reservation,
            reserved: [&self.subnet().rules.reserved6, &NONE],
            pools: &self.subnet().pools,
        }
    }

    /// Who holds an address: an identity of a client.
    fn key(&self, identity: u32) -> ClientKey {
        ClientKey::of_identity(&self.seen.duid, identity)
    }

    fn message(&self) -> &Message {
        &self.seen.packet.message
    }

    fn subnet(&self) -> &Subnet {
        self.seen.subnet
    }
}
