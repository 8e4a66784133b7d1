//! What the doors saw of a machine and did for it: the recent past, from which one can tell why a
//! machine does not start.
//!
//! Bounded in every direction, since whoever can send packets can fill it: sightings of one
//! machine, machines, and sightings of all. What was heard longest ago goes first.

mod exchange6;
mod sighting;

pub use exchange6::{Answer6, Exchange6};
pub use sighting::{
    Answer, Exchange, ForeignOffer, HttpAnswer, Loading, Protocol, Sighting, Start, TftpEnd, TftpTransfer,
    What, clean,
};

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::net::IpAddr;
use kaltstart_protocol::ids::Mac;

/// Sightings that are kept of one machine: some ten starts, or an hour of asking in vain.
pub const SIGHTINGS_MAX: usize = 200;
/// Machines of which sightings are kept.
pub const MACHINES_MAX: usize = 20_000;
/// Sightings that are kept in all; about 150 bytes each.
pub const TOTAL_MAX: usize = 200_000;

/// The recent past of all machines.
#[derive(Debug, Default)]
pub struct Trace {
    machines: BTreeMap<Mac, Recent>,
    /// The machines by their last turn, for forgetting.
    turns: BTreeMap<u64, Mac>,
    turn: u64,
    total: usize,
    addresses: BTreeMap<IpAddr, Mac>,
}

#[derive(Debug, Default)]
struct Recent {
    sightings: VecDeque<Sighting>,
    turn: u64,
    /// Its last address of either family.
    address_v4: Option<IpAddr>,
    address_v6: Option<IpAddr>,
}

impl Trace {
    /// Adds a sighting of the machine with that hardware address.
    pub fn record(&mut self, mac: Mac, sighting: Sighting) {
        self.turn += 1;
        let recent = self.machines.entry(mac).or_default();
        self.turns.remove(&recent.turn);
        recent.turn = self.turn;
        self.turns.insert(self.turn, mac);
        if let Some(address) = sighting.what.address() {
            let last = if address.is_ipv4() { &mut recent.address_v4 } else { &mut recent.address_v6 };
            if let Some(before) = last.replace(address) {
                give_up(&mut self.addresses, before, mac);
            }
            self.addresses.insert(address, mac);
        }
        // A kernel says a thousand lines: the newest stands for those before it.
        let said = |seen: &Sighting| matches!(seen.what, What::Syslog { .. });
        if said(&sighting) && recent.sightings.back().is_some_and(said) {
            recent.sightings.pop_back();
            self.total -= 1;
        }
        let ends =
            |seen: &Sighting| matches!(&seen.what, What::Loading(it) if it.is_ended_by(&sighting.what));
        if let Some(begun) = recent.sightings.iter().position(ends) {
            recent.sightings.remove(begun);
            self.total -= 1;
        }
        recent.sightings.push_back(sighting);
        self.total += 1;
        if recent.sightings.len() > SIGHTINGS_MAX {
            recent.sightings.pop_front();
            self.total -= 1;
        }
        while self.total > TOTAL_MAX || self.machines.len() > MACHINES_MAX {
            self.forget_oldest();
        }
    }

    /// The sightings of a machine with these hardware addresses, oldest first.
    #[must_use]
    pub fn of(&self, macs: &[Mac]) -> Vec<Sighting> {
        let recents = macs.iter().filter_map(|mac| self.machines.get(mac));
        let mut all: Vec<Sighting> = recents.flat_map(|recent| recent.sightings.iter().cloned()).collect();
        all.sort_by_key(|sighting| sighting.at);
        all
    }

    /// The sightings of the machine with that hardware address, newest first.
    pub fn newest_first(&self, mac: Mac) -> impl Iterator<Item = &Sighting> {
        self.machines.get(&mac).into_iter().flat_map(|recent| recent.sightings.iter().rev())
    }

    /// The machine that was last seen with the address, whichever server gave it.
    #[must_use]
    pub fn holder(&self, address: IpAddr) -> Option<Mac> {
        self.addresses.get(&address).copied()
    }

    fn forget_oldest(&mut self) {
        let Some((_, mac)) = self.turns.pop_first() else { return };
        if let Some(recent) = self.machines.remove(&mac) {
            self.total -= recent.sightings.len();
            for address in [recent.address_v4, recent.address_v6].into_iter().flatten() {
                give_up(&mut self.addresses, address, mac);
            }
        }
    }
}

fn give_up(addresses: &mut BTreeMap<IpAddr, Mac>, address: IpAddr, mac: Mac) {
    if addresses.get(&address) == Some(&mac) {
        addresses.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::client::{Architecture, Client, Stage};
    use core::net::Ipv4Addr;
    use kaltstart_protocol::dhcp::MessageType;
    use kaltstart_protocol::time::Millis;

    fn mac(n: u32) -> Mac {
        let [a, b, c, d] = n.to_be_bytes();
        Mac([2, 0, a, b, c, d])
    }

    fn power(at: u64) -> Sighting {
        Sighting { at: Millis(at), what: What::Power }
    }

    fn taken(at: u64, address: Ipv4Addr) -> Sighting {
        let client = Client { architecture: Architecture::Bios, stage: Stage::Pxe };
        let answer = Answer::Sent { kind: MessageType::Ack, address: Some(address), file: None };
        let exchange = Exchange {
            kind: MessageType::Request,
            client,
            secs: 0,
            relay: None,
            server: None,
            wish: Some(address),
            answer,
        };
        Sighting { at: Millis(at), what: What::Dhcp(exchange) }
    }

    #[test]
    fn one_machine_keeps_its_newest_sightings() {
        let mut trace = Trace::default();
        for at in 0..300 {
            trace.record(mac(1), power(at));
        }
        let kept = trace.of(&[mac(1)]);
        assert_eq!((kept.len(), kept[0].at, trace.total), (SIGHTINGS_MAX, Millis(100), SIGHTINGS_MAX));
    }

    #[test]
    fn the_end_of_a_transfer_takes_the_place_of_its_beginning() {
        let mut trace = Trace::default();
        let begun = |by, file| What::Loading(Loading::begun(by, file));
        let ended = |file| What::Tftp(TftpTransfer::refused(file, crate::tftp::Refusal::NotFound));
        let story = [
            begun(Protocol::Tftp, "a.efi"),
            begun(Protocol::Tftp, "a.efi"),
            begun(Protocol::Http, "a.efi"),
            ended("b.efi"),
            ended("a.efi"),
        ];
        for (what, at) in story.into_iter().zip(1..) {
            trace.record(mac(1), Sighting { at: Millis(at), what });
        }
        let kept: Vec<u64> = trace.of(&[mac(1)]).iter().map(|seen| seen.at.0).collect();
        assert_eq!((kept.as_slice(), trace.total), ([2, 3, 4, 5].as_slice(), 4));
    }

    #[test]
    fn a_flood_of_machines_pushes_out_those_heard_longest_ago() {
        let mut trace = Trace::default();
        let many = u32::try_from(MACHINES_MAX).expect("it fits");
        for n in 0..many {
            trace.record(mac(n), power(1));
        }
        trace.record(mac(0), power(2));
        trace.record(mac(many), power(3));
        assert_eq!(trace.machines.len(), MACHINES_MAX);
        assert!(trace.of(&[mac(1)]).is_empty() && trace.of(&[mac(0)]).len() == 2);
        assert_eq!((trace.turns.len(), trace.total), (MACHINES_MAX, MACHINES_MAX + 1));
    }

    #[test]
    fn an_address_belongs_to_who_took_it_last() {
        let (mut trace, address) = (Trace::default(), Ipv4Addr::new(10, 0, 0, 5));
        trace.record(mac(1), taken(1, address));
        assert_eq!(trace.holder(address.into()), Some(mac(1)));
        trace.record(mac(2), taken(2, address));
        assert_eq!(trace.holder(address.into()), Some(mac(2)));
        trace.record(mac(2), taken(3, Ipv4Addr::new(10, 0, 0, 6)));
        assert_eq!(trace.holder(address.into()), None);
        trace.record(mac(1), taken(4, address));
        trace.record(mac(1), taken(5, Ipv4Addr::new(10, 0, 0, 7)));
        assert_eq!(trace.addresses.len(), 2);
    }
}
