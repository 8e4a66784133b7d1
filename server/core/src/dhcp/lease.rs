//! Who holds which address: a table as a plain value, and the choice of an address.

use super::runs::Runs;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};
use kaltstart_protocol::dhcp::Message;
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};

/// How long an offered address is kept for the client, ms.
pub const OFFER_MS: u64 = 60_000;
/// How long an address rests after it was found in use, ms.
pub const DECLINED_MS: u64 = 60 * 60 * 1_000;
/// Longest client identifier that is taken: what one option holds.
pub const MAX_CLIENT_ID: usize = 255;

/// An address that can be lent.
pub trait Address: Copy + Ord {
    /// The one above it.
    fn next(self) -> Option<Self>;

    /// The one below it.
    fn previous(self) -> Option<Self>;

    /// As a number.
    fn bits(self) -> u128;
}

impl Address for Ipv4Addr {
    fn next(self) -> Option<Self> {
        self.to_bits().checked_add(1).map(Self::from_bits)
    }

    fn previous(self) -> Option<Self> {
        self.to_bits().checked_sub(1).map(Self::from_bits)
    }

    fn bits(self) -> u128 {
        self.to_bits().into()
    }
}

impl Address for Ipv6Addr {
    fn next(self) -> Option<Self> {
        self.to_bits().checked_add(1).map(Self::from_bits)
    }

    fn previous(self) -> Option<Self> {
        self.to_bits().checked_sub(1).map(Self::from_bits)
    }

    fn bits(self) -> u128 {
        self.to_bits()
    }
}

/// Who a client is (RFC 2131 §4.2): its client identifier, else hardware type and address.
///
/// Both share one form: RFC 2132 §9.14 lets identifiers be made of type and address too, so
/// firmware that sends such an identifier and a system that sends none are the same client.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientKey(Vec<u8>);

impl ClientKey {
    /// The sender of a message; none when its identifier is longer than [`MAX_CLIENT_ID`].
    #[must_use]
    pub fn of(message: &Message) -> Option<Self> {
        match message.client_id() {
            Some(id) => (id.len() <= MAX_CLIENT_ID).then(|| Self(id.into())),
            None => {
                let mut key = Vec::from([message.hardware.kind()]);
                key.extend_from_slice(message.hardware.bytes());
                Some(Self(key))
            }
        }
    }

    /// Nobody who could ask.
    #[must_use]
    pub const fn nobody() -> Self {
        Self(Vec::new())
    }

    /// An identity of a DHCPv6 client (RFC 8415 §12).
    #[must_use]
    pub fn of_identity(duid: &[u8], identity: u32) -> Self {
        Self([duid, &identity.to_be_bytes()].concat())
    }

    /// DUID and identity of the key of a DHCPv6 client.
    #[must_use]
    pub fn identity(&self) -> (&[u8], u32) {
        self.0.split_last_chunk().map_or((&[], 0), |(duid, identity)| (duid, u32::from_be_bytes(*identity)))
    }

    /// The stored form.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for ClientKey {
    fn from(stored: Vec<u8>) -> Self {
        Self(stored)
    }
}

/// How an address is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// Offered, not yet taken; never stored.
    Offered,
    /// Acknowledged.
    Bound,
    /// Given back.
    Released,
    /// Found in use by somebody else.
    Declined,
    /// Somebody answered when it was looked for; who that is shows when a lease is renewed.
    InUse,
}

/// The hold on one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The client.
    pub key: ClientKey,
    /// Its hardware address, if anything told it.
    pub mac: Option<Mac>,
    /// How.
    pub state: LeaseState,
    /// When this was decided.
    pub since: Millis,
    /// From then on the address is free; the client may still have it back.
    pub expires: Millis,
}

impl Lease {
    /// Whether nobody else may have the address.
    #[must_use]
    pub fn is_live(&self, now: Millis) -> bool {
        self.expires > now
    }
}

/// A change of the table: the address is held so from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseWrite<A = Ipv4Addr> {
    /// The address.
    pub address: A,
    /// The new hold.
    pub lease: Lease,
}

impl<A> LeaseWrite<A> {
    /// Whether it must be stored before the answer leaves: all but offers, which may be forgotten
    /// in a crash, as RFC 2131 §3.1 lets them.
    #[must_use]
    pub const fn is_durable(&self) -> bool {
        !matches!(self.lease.state, LeaseState::Offered)
    }
}

/// A table taken up again after a restart.
#[derive(Debug, Clone)]
pub struct Resumed<A = Ipv4Addr> {
    /// The table.
    pub table: LeaseTable<A>,
    /// The time from which the clock of the leases goes on.
    pub now: Millis,
    /// What must be stored before the first answer.
    pub writes: Vec<LeaseWrite<A>>,
}

/// All holds, by address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseTable<A = Ipv4Addr> {
    leases: BTreeMap<A, Lease>,
    /// The address each client held last; entries go with the hold they point to.
    by_key: BTreeMap<ClientKey, A>,
    by_expiry: BTreeSet<(Millis, A)>,
    /// The addresses in `leases`.
    used: Runs<A>,
    /// Holds since then end so many milliseconds later than is stored.
    longer: Option<(Millis, u64)>,
}

impl<A> Default for LeaseTable<A> {
    fn default() -> Self {
        let (leases, by_key, by_expiry) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { leases, by_key, by_expiry, used: Runs::default(), longer: None }
    }
}

impl<A: Address> LeaseTable<A> {
    /// Takes up the stored leases at the time `wall` of a clock that may have jumped.
    ///
    /// The latest decision in the table is the last moment that is certain. Before it the clock
    /// does not go back. Whoever was live then may still be, whatever the clock says now (the
    /// time in between may be a jump), so each such lease gets the rest of its time again. That
    /// keeps an address a little longer than needed and never gives it away too early.
    pub fn resume(stored: impl IntoIterator<Item = LeaseWrite<A>>, wall: Millis) -> Resumed<A> {
        let mut table = Self::default();
        let mut certain = Millis(0);
        for write in stored {
            certain = certain.max(write.lease.since);
            table.apply(write);
        }
        let gap = wall.since(certain);
        let now = wall.max(certain);
        let writes = |(address, lease): (&A, &Lease)| {
            let longest = now.plus(lease.expires.since(lease.since));
            let expires = lease.expires.plus(gap).min(longest);
            let lease = Lease { since: now, expires, ..lease.clone() };
            LeaseWrite { address: *address, lease }
        };
        let live = table.leases.iter().filter(|(_, lease)| gap > 0 && lease.is_live(certain));
        let writes: Vec<_> = live.map(writes).collect();
        for write in &writes {
            table.apply(write.clone());
        }
        table.longer = (gap > 0).then_some((now, gap));
        Resumed { table, now, writes }
    }

    /// Hears that the writes with which it was taken up are stored.
    pub const fn is_stored(&mut self) {
        self.longer = None;
    }

    /// Until when a hold is certain to be stored: others who look there may give the address away afterwards.
    #[must_use]
    pub fn stored_until(&self, lease: &Lease) -> Millis {
        let longer = self.longer.filter(|(since, _)| *since == lease.since);
        lease.expires.minus(longer.map_or(0, |(_, ms)| ms))
    }

    /// The hold on an address.
    #[must_use]
    pub fn get(&self, address: A) -> Option<&Lease> {
        self.leases.get(&address)
    }

    /// The address a client held last, if nobody has taken it since.
    #[must_use]
    pub fn last_of(&self, key: &ClientKey) -> Option<(A, &Lease)> {
        let address = *self.by_key.get(key)?;
        Some((address, self.leases.get(&address)?))
    }

    /// All holds by address.
    pub fn iter(&self) -> impl Iterator<Item = (A, &Lease)> {
        self.leases.iter().map(|(address, lease)| (*address, lease))
    }

    /// How much of these pools is lent.
    #[must_use]
    pub fn usage(&self, pools: &[Pool<A>], now: Millis) -> Usage {
        let held = pools.iter().flat_map(|pool| self.leases.range(pool.first..=pool.last));
        let lent = held.filter(|(_, lease)| lease.is_live(now)).count() as u64;
        let pool = pools.iter().map(Pool::size).fold(0, u64::saturating_add);
        Usage { lent, pool, waits_until: None }
    }

    /// The change when somebody unknown was found to use an address that is only offered.
    #[must_use]
    pub fn found_in_use(&self, address: A, now: Millis) -> Option<LeaseWrite<A>> {
        self.get(address).filter(|lease| lease.state == LeaseState::Offered)?;
        let (key, mac) = (ClientKey::nobody(), None);
        let (state, expires) = (LeaseState::InUse, now.plus(DECLINED_MS));
        Some(LeaseWrite { address, lease: Lease { key, mac, state, since: now, expires } })
    }

    /// Carries out a change. What it returns undoes it, given to [`LeaseTable::undo`]; several
    /// changes are undone in reverse order.
    pub fn apply(&mut self, write: LeaseWrite<A>) -> Undo<A> {
        let LeaseWrite { address, lease } = write;
        let key = lease.key.clone();
        let last = self.by_key.get(&key).copied();
        let before = self.take(address);
        self.put(address, lease);
        self.by_key.insert(key.clone(), address);
        Undo { address, before, key, last }
    }

    /// Takes over a hold that another server has stored, unless there is a later one from here: a stored one of the same
    /// client, or any that began when the other had ended.
    pub fn learn(&mut self, write: LeaseWrite<A>) {
        let LeaseWrite { lease, .. } = &write;
        let renewed = |held: &Lease| {
            held.state != LeaseState::Offered && held.key == lease.key && held.since > lease.since
        };
        let later = |held: &Lease| renewed(held) || held.since >= lease.expires;
        if !self.get(write.address).is_some_and(later) {
            self.apply(write);
        }
    }

    /// Undoes a change.
    pub fn undo(&mut self, undo: Undo<A>) {
        let Undo { address, before, key, last } = undo;
        self.take(address);
        if let Some((lease, was_last)) = before {
            if was_last {
                self.by_key.insert(lease.key.clone(), address);
            }
            self.put(address, lease);
        }
        if let Some(last) = last {
            self.by_key.insert(key, last);
        }
    }

    /// Adds a hold where there is none.
    fn put(&mut self, address: A, lease: Lease) {
        self.by_expiry.insert((lease.expires, address));
        self.used.insert(address);
        self.leases.insert(address, lease);
    }

    /// Takes a hold out, and says whether it was its client's last.
    fn take(&mut self, address: A) -> Option<(Lease, bool)> {
        let lease = self.leases.remove(&address)?;
        self.by_expiry.remove(&(lease.expires, address));
        self.used.remove(address);
        let was_last = self.by_key.get(&lease.key) == Some(&address);
        if was_last {
            self.by_key.remove(&lease.key);
        }
        Some((lease, was_last))
    }
}

/// How many addresses of a subnet are lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Addresses of the pools that nobody else may have now.
    pub lent: u64,
    /// Addresses of the pools.
    pub pool: u64,
    /// Until then no new address is given: the leases are an older copy, see
    /// [`Looking`](super::ping_check::Looking).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_until: Option<Millis>,
}

/// How to undo a change of the table.
#[derive(Debug, Clone)]
pub struct Undo<A = Ipv4Addr> {
    address: A,
    /// The hold before, and whether it was its client's last.
    before: Option<(Lease, bool)>,
    key: ClientKey,
    last: Option<A>,
}

/// Addresses for clients without a reservation, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool<A = Ipv4Addr> {
    /// The first.
    pub first: A,
    /// The last.
    pub last: A,
}

impl<A: Address> Pool<A> {
    /// Whether the address belongs to it.
    #[must_use]
    pub fn contains(&self, address: A) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// How many addresses it has.
    #[must_use]
    pub fn size(&self) -> u64 {
        let between = self.last.bits().saturating_sub(self.first.bits());
        u64::try_from(between).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// Who asks for an address, and what may be given.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a, A = Ipv4Addr> {
    /// The client.
    pub key: &'a ClientKey,
    /// Its hardware address: reservations go by it.
    pub mac: Option<Mac>,
    /// The address reserved for it.
    pub reservation: Option<A>,
    /// The addresses reserved for anybody: nodes, and places in the configuration.
    pub reserved: [&'a BTreeSet<A>; 2],
    /// The pools of its subnet.
    pub pools: &'a [Pool<A>],
}

impl<A: Address> Asker<'_, A> {
    /// Whether it is the holder: by its key, and on its reserved address by its hardware address,
    /// because firmware, loader and system of one machine may use different identifiers.
    #[must_use]
    pub fn holds(&self, address: A, lease: &Lease) -> bool {
        lease.key == *self.key
            || (self.reservation == Some(address) && self.mac.is_some() && lease.mac == self.mac)
    }

    /// Whether it may have this address now.
    #[must_use]
    pub fn may_have(&self, table: &LeaseTable<A>, address: A, now: Millis) -> bool {
        let reserved_for_it = self.reservation == Some(address);
        if !reserved_for_it && (!self.in_pools(address) || self.is_reserved(address)) {
            return false;
        }
        table.get(address).is_none_or(|lease| {
            !lease.is_live(now) || (lease.state != LeaseState::Declined && self.holds(address, lease))
        })
    }

    /// Chooses an address (RFC 2131 §4.3.1): the reserved one, the last one, the wished one, the
    /// first that was never given away, the one that has been free for the longest time.
    #[must_use]
    pub fn choose(&self, table: &LeaseTable<A>, wish: Option<A>, now: Millis) -> Option<A> {
        let last = table.last_of(self.key).map(|(address, _)| address);
        let known = [self.reservation, last, wish].into_iter().flatten();
        let mut known = known.filter(|address| self.may_have(table, *address, now));
        known.next().or_else(|| self.never_given(table)).or_else(|| {
            let free = table.by_expiry.iter().take_while(|(expires, _)| *expires <= now);
            free.map(|(_, address)| *address).find(|address| self.may_have(table, *address, now))
        })
    }

    /// Whether it is kept for anybody.
    #[must_use]
    pub fn is_reserved(&self, address: A) -> bool {
        self.reserved.iter().any(|reserved| reserved.contains(&address))
    }

    fn in_pools(&self, address: A) -> bool {
        self.pools.iter().any(|pool| pool.contains(address))
    }

    /// The first address of the pools that is neither in the table nor reserved.
    fn never_given(&self, table: &LeaseTable<A>) -> Option<A> {
        self.pools.iter().find_map(|pool| {
            let mut address = table.used.first_outside(pool.first)?;
            while self.is_reserved(address) && address <= pool.last {
                address = table.used.first_outside(address.next()?)?;
            }
            (address <= pool.last).then_some(address)
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
