//! The server's side of RFC 2131 §4.3, one function per message.

use super::bootfile::LocalAnswer;
use super::host::Host;
use super::lease::{Asker, DECLINED_MS, Lease, LeaseState, LeaseWrite, OFFER_MS};
use super::parameters::Terms;
use super::ping_check::Check;
use super::proxy;
use super::relay;
use super::reply::{self, Grant};
use super::role::Role;
use super::{Claim, Contact, Decision, Drop, Reply, Seen, View};
use alloc::string::ToString;
use core::net::Ipv4Addr;
use kaltstart_protocol::dhcp::MessageType;
use kaltstart_protocol::time::Millis;

/// Decides about a message.
#[must_use]
pub fn decide(seen: &Seen<'_>, view: View<'_>) -> Decision {
    relay::to_its_port(decide_here(seen, view), seen, view.port)
}

/// The same, as if every relay listened at the port of servers.
fn decide_here(seen: &Seen<'_>, view: View<'_>) -> Decision {
    let host = host_of(seen, &view);
    let reservation = match host {
        Some((host, false)) => host.address,
        _ => view.node.reservation,
    };
    let case = Case {
        seen,
        view,
        asker: Asker {
            key: &seen.key,
            mac: seen.mac,
            // A reservation elsewhere is of no use here.
            reservation: reservation.filter(|address| seen.subnet.network.contains(*address)),
            reserved: [view.reserved, &seen.subnet.rules.reserved],
            pools: &seen.subnet.pools,
        },
        hostname: match host {
            Some((host, false)) => Some(host.name.as_str()),
            _ => view.node.hostname.as_deref(),
        },
        terms: Terms::of(seen, host.map(|(host, _)| &host.parameters)),
    };
    let outcome = match seen.kind {
        // What this server gave out before may still be given back.
        MessageType::Decline => case.decline(),
        MessageType::Release => case.release(),
        _ if view.role == Role::Proxy => return proxy::decide(seen, view.node),
        _ if view.role != Role::Authoritative => case.not_served(),
        MessageType::Discover => case.discover(),
        MessageType::Request => case.request(),
        MessageType::Inform => case.inform(),
        MessageType::Offer | MessageType::Ack | MessageType::Nak => Outcome::silent(Drop::Type),
    };
    let Outcome { reply, write, check } = outcome;
    let given = reply.as_ref().ok().and_then(Option::as_ref).map(|reply| reply.message.yiaddr);
    let contact = Contact {
        mac: seen.mac,
        client: seen.client,
        kind: seen.kind,
        address: given.filter(|address| !address.is_unspecified()),
        hostname: seen.message.host_name().map(ToString::to_string),
        unanswered: reply.as_ref().err().copied(),
        claim: view.restored_ms.and_then(|_| case.claim()),
    };
    Decision { reply, write, contact, check }
}

/// The machine of the configuration that asks, and whether its hardware address says so. Where a node
/// has that hardware address and a reservation, it is recognised by nothing weaker.
fn host_of<'a>(seen: &'a Seen<'_>, view: &View<'_>) -> Option<(&'a Host, bool)> {
    seen.subnet.rules.host(seen).filter(|(_, by_mac)| *by_mac || view.node.reservation.is_none())
}

/// What a message leads to.
struct Outcome {
    reply: Result<Option<Reply>, Drop>,
    write: Option<LeaseWrite>,
    check: Check,
}

impl Outcome {
    const fn silent(why: Drop) -> Self {
        Self { reply: Err(why), write: None, check: Check::None }
    }

    const fn answer(reply: Reply, write: Option<LeaseWrite>) -> Self {
        Self { reply: Ok(Some(reply)), write, check: Check::None }
    }

    const fn done(write: LeaseWrite) -> Self {
        Self { reply: Ok(None), write: Some(write), check: Check::None }
    }
}

/// One message with everything that counts for it.
struct Case<'a> {
    seen: &'a Seen<'a>,
    view: View<'a>,
    asker: Asker<'a>,
    /// The name it shall have.
    hostname: Option<&'a str>,
    terms: Terms<'a>,
}

impl Case<'_> {
    /// §4.3.1: offer an address and keep it for a while.
    fn discover(&self) -> Outcome {
        if self.keeps_silent() {
            return Outcome::silent(Drop::LocalStart);
        }
        let View { table, now, .. } = self.view;
        let wish = self.seen.message.requested_address();
        let Some(address) = self.asker.choose(table, wish, now) else {
            return Outcome::silent(Drop::PoolExhausted);
        };
        let Some(seconds) = self.term(address) else {
            return Outcome::silent(Drop::NotStored);
        };
        // A lease that outlasts the offer holds the address anyway, and must stay a lease: the
        // client may go on using it without taking the offer.
        let until = now.plus(OFFER_MS);
        let own = table.get(address).filter(|lease| self.asker.holds(address, lease));
        let held = own.is_some_and(|lease| lease.state == LeaseState::Bound && lease.expires >= until);
        let write = (!held).then(|| self.lease(address, LeaseState::Offered, until));
        let known = own.is_some_and(|lease| lease.is_live(now)) || self.asker.reservation == Some(address);
        let View { running_ms, restored_ms, .. } = self.view;
        let check =
            if known { Check::None } else { self.seen.subnet.looking.before_offer(running_ms, restored_ms) };
        if check == Check::Wait {
            return Outcome::silent(Drop::Restored);
        }
        let reply = self.grant(seconds).address(MessageType::Offer, address);
        Outcome { check, ..Outcome::answer(reply, write) }
    }

    /// Not answered; but a client that takes another server's offer says who answers here.
    fn not_served(&self) -> Outcome {
        match self.seen.message.server_id() {
            Some(server) if self.seen.kind == MessageType::Request && server != self.seen.server => {
                self.chose_another(server)
            }
            _ => Outcome::silent(Drop::NotServed),
        }
    }

    /// §4.3.2: which of the four requests is it?
    fn request(&self) -> Outcome {
        let message = &self.seen.message;
        match (message.server_id(), message.requested_address()) {
            (Some(server), _) if server != self.seen.server => self.chose_another(server),
            (Some(_), Some(wish)) => self.selecting(wish),
            (None, Some(wish)) if message.ciaddr.is_unspecified() => self.rebooting(wish),
            _ if !message.ciaddr.is_unspecified() => self.extending(message.ciaddr),
            _ => Outcome::silent(Drop::Incomplete),
        }
    }

    /// The client took another server's offer: ours is free again.
    fn chose_another(&self, server: Ipv4Addr) -> Outcome {
        let View { table, now, .. } = self.view;
        let ours = table.last_of(&self.seen.key);
        let write = ours
            .filter(|(_, lease)| lease.state == LeaseState::Offered && lease.is_live(now))
            .map(|(address, _)| self.lease(address, LeaseState::Offered, now));
        Outcome { write, ..Outcome::silent(Drop::OtherServer(server)) }
    }

    /// SELECTING: the client takes our offer. The offer itself may have been forgotten in a
    /// restart; what counts is that the address may be given.
    fn selecting(&self, address: Ipv4Addr) -> Outcome {
        if self.may_have(address) { self.acknowledge(address) } else { self.refuse("not offered") }
    }

    /// INIT-REBOOT: the client remembers an address.
    fn rebooting(&self, address: Ipv4Addr) -> Outcome {
        if self.keeps_silent() {
            return Outcome::silent(Drop::LocalStart);
        }
        if !self.seen.subnet.network.contains(address) {
            return self.refuse("wrong network");
        }
        let last = self.view.table.last_of(&self.seen.key).map(|(address, _)| address);
        match self.asker.reservation.filter(|reserved| self.may_have(*reserved)).or(last) {
            Some(known) if known == address && self.may_have(address) => self.acknowledge(address),
            Some(_) => self.refuse("not your address"),
            None if self.is_taken(address) => self.refuse("not your address"),
            // "If the DHCP server has no record of this client, then it MUST remain silent".
            None => Outcome::silent(Drop::NoRecord),
        }
    }

    /// RENEWING or REBINDING: the client uses the address and wants to keep it. A record is not
    /// asked for: an address of ours that nobody else holds is safe to give, and a server that
    /// lost its table finds its clients again.
    fn extending(&self, address: Ipv4Addr) -> Outcome {
        if self.may_have(address) || self.has_its_place(address) || self.is_the_unknown_holder(address) {
            self.acknowledge(address)
        } else if !self.seen.subnet.network.contains(address) {
            self.refuse("wrong network")
        } else if self.is_taken(address) || self.view.table.last_of(&self.seen.key).is_some() {
            self.refuse("not your address")
        } else {
            Outcome::silent(Drop::NoRecord)
        }
    }

    /// What the client asks to keep (§4.3.2: INIT-REBOOT, RENEWING, REBINDING), and is not its own by the table.
    fn claim(&self) -> Option<Claim> {
        let Seen { message, kind, subnet, .. } = self.seen;
        if *kind != MessageType::Request || message.server_id().is_some() {
            return None;
        }
        let used = Some(message.ciaddr).filter(|address| !address.is_unspecified());
        let address = used.or_else(|| message.requested_address())?;
        let lease = self.view.table.get(address);
        let own = self.asker.reservation == Some(address)
            || lease.is_some_and(|lease| self.asker.holds(address, lease));
        let holder = lease.filter(|lease| lease.is_live(self.view.now)).and_then(|lease| lease.mac);
        (!own && subnet.network.contains(address)).then_some(Claim { address, holder })
    }

    /// §4.3.3: the client found the address in use, so it rests. Only its holder may say so.
    fn decline(&self) -> Outcome {
        let message = &self.seen.message;
        match message.requested_address() {
            None => Outcome::silent(Drop::Incomplete),
            Some(address) => self.give_up(address, LeaseState::Declined, self.view.now.plus(DECLINED_MS)),
        }
    }

    /// §4.3.4: the client gives the address back; the record stays, so it can have it again.
    fn release(&self) -> Outcome {
        self.give_up(self.seen.message.ciaddr, LeaseState::Released, self.view.now)
    }

    fn give_up(&self, address: Ipv4Addr, state: LeaseState, until: Millis) -> Outcome {
        if let Some(server) = self.seen.message.server_id().filter(|id| *id != self.seen.server) {
            return Outcome::silent(Drop::OtherServer(server));
        }
        let lease = self.view.table.get(address);
        let held = lease.is_some_and(|lease| {
            matches!(lease.state, LeaseState::Bound | LeaseState::Offered)
                && lease.is_live(self.view.now)
                && self.asker.holds(address, lease)
        });
        if !held {
            Outcome::silent(Drop::NoRecord)
        } else if !self.view.storable {
            Outcome::silent(Drop::NotStored)
        } else {
            Outcome::done(self.lease(address, state, until))
        }
    }

    /// §4.3.5: parameters for a client that has an address.
    fn inform(&self) -> Outcome {
        let address = self.seen.message.ciaddr;
        if address.is_unspecified() {
            return Outcome::silent(Drop::Incomplete);
        }
        if !self.seen.subnet.network.contains(address) {
            // What holds in its network is not known here.
            return Outcome::silent(Drop::UnknownSubnet);
        }
        Outcome::answer(self.grant(0).parameters_only(), None)
    }

    fn acknowledge(&self, address: Ipv4Addr) -> Outcome {
        let Some(seconds) = self.term(address) else {
            return Outcome::silent(Drop::NotStored);
        };
        let until = self.view.now.plus(u64::from(seconds) * 1_000);
        let write = self.view.storable.then(|| self.lease(address, LeaseState::Bound, until));
        Outcome::answer(self.grant(seconds).address(MessageType::Ack, address), write)
    }

    /// For how many seconds the client may have the address. While nothing can be stored, that
    /// rests on what is: the reservation of a hardware address keeps the address free of others, and
    /// a lease has the rest of its stored time. (On the port of a switch there may be two machines.)
    fn term(&self, address: Ipv4Addr) -> Option<u32> {
        let View { table, now, node, storable, .. } = self.view;
        let asked = self.terms.lease_seconds(self.seen.message.lease_seconds());
        if storable || node.reservation == Some(address) && self.asker.reservation == Some(address) {
            return Some(asked);
        }
        let lease = table.get(address).filter(|lease| lease.state == LeaseState::Bound)?;
        let seconds =
            u32::try_from(table.stored_until(lease).since(now) / 1_000).unwrap_or(u32::MAX).min(asked);
        (seconds > 0 && self.asker.holds(address, lease)).then_some(seconds)
    }

    fn refuse(&self, reason: &'static str) -> Outcome {
        Outcome::answer(reply::nak(self.seen, reason), None)
    }

    fn may_have(&self, address: Ipv4Addr) -> bool {
        self.asker.may_have(self.view.table, address, self.view.now)
    }

    /// Whether the address is kept for a place and the client, whose lease runs, is not seen there only
    /// because renewals go past the relay that would say where it is.
    fn has_its_place(&self, address: Ipv4Addr) -> bool {
        let Seen { subnet, message, key, .. } = self.seen;
        let lease = self.view.table.get(address).filter(|lease| lease.is_live(self.view.now));
        message.relay_info().is_none()
            && subnet.rules.reserved.contains(&address)
            && !self.view.reserved.contains(&address)
            && lease.is_some_and(|lease| lease.state == LeaseState::Bound && lease.key == *key)
    }

    /// Whether the address was given before this table begins, to whoever uses it now.
    fn is_the_unknown_holder(&self, address: Ipv4Addr) -> bool {
        let lease = self.view.table.get(address).filter(|lease| lease.state == LeaseState::InUse);
        lease.is_some() && !self.asker.is_reserved(address) && self.seen.subnet.network.contains(address)
    }

    /// Whether somebody else holds the address, or it is kept for somebody else.
    fn is_taken(&self, address: Ipv4Addr) -> bool {
        let lease = self.view.table.get(address).filter(|lease| lease.is_live(self.view.now));
        let reserved = self.asker.is_reserved(address) && self.asker.reservation != Some(address);
        let known = lease.filter(|lease| lease.state != LeaseState::InUse);
        reserved || known.is_some_and(|lease| !self.asker.holds(address, lease))
    }

    fn keeps_silent(&self) -> bool {
        let firmware = self.seen.client.boots() && !self.view.node.boot.is_network();
        firmware && self.seen.subnet.local == LocalAnswer::NoOffer
    }

    fn lease(&self, address: Ipv4Addr, state: LeaseState, expires: Millis) -> LeaseWrite {
        let Seen { key, mac, .. } = self.seen;
        let lease = Lease { key: key.clone(), mac: *mac, state, since: self.view.now, expires };
        LeaseWrite { address, lease }
    }

    fn grant(&self, seconds: u32) -> Grant<'_> {
        let Self { seen, view, hostname, terms, .. } = self;
        Grant { seen, node: view.node, hostname: *hostname, terms, seconds }
    }
}
