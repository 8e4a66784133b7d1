//! A machine whose system asks for the key of its disks: what was answered is told once, as long as nothing else comes of
//! it, and whose another board is.

use super::{Draft, No, Verdict};
use crate::lifecycle::event::Happening;
use crate::unlock::{self, Locked};
use alloc::borrow::ToOwned;
use core::net::IpAddr;
use kaltstart_protocol::finding::Finding;
use kaltstart_protocol::wipe::HostIdentity;

impl Draft {
    /// Its system starts, and was answered as [`crate::unlock::decide`] says.
    pub(super) fn key_asked(
        &mut self,
        address: IpAddr,
        host: &HostIdentity,
        refused: Option<&Finding>,
        useless: bool,
    ) -> Verdict {
        if refused.is_none() && !unlock::releases(&self.machine) {
            return Err(No::Refuse("the node's key is not released now"));
        }
        self.heard();
        let finding = refused.cloned().or_else(|| useless.then(unlock::useless));
        let locked = finding.map(|finding| Locked { finding, host: host.clone(), address });
        let before = core::mem::replace(&mut self.machine.node.shut_out, locked.clone());
        match locked {
            None => self.happenings.push(Happening::KeyReleased(address)),
            // It goes on asking as long as it is on.
            same if same == before => {}
            Some(Locked { finding, .. }) => self.happenings.push(match refused {
                Some(_) => Happening::KeyRefused(address, finding),
                None => Happening::KeyUseless(address, finding),
            }),
        }
        Ok(())
    }

    /// The machine that was refused the key is this node with another board.
    pub(super) fn board_accepted(&mut self, uuid: &str, approver: &str) -> Verdict {
        let node = &mut self.machine.node;
        let asked = node.shut_out.take_if(|locked| !uuid.is_empty() && locked.host.uuid == uuid);
        let Some(Locked { host, .. }) = asked else {
            return Err(No::Refuse(
                "no machine with that UUID was refused the key of this node's disks last; `ks node show` tells which was",
            ));
        };
        node.board = Some(host.clone());
        self.happenings.push(Happening::BoardAccepted { host, approver: approver.to_owned() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::event::{Event, Move};
    use crate::lifecycle::table::{NOW, idle};
    use crate::lifecycle::{Step, step};
    use crate::machine::{Machine, State};
    use alloc::string::String;
    use alloc::vec::Vec;
    use kaltstart_protocol::finding::Code;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn host(uuid: &str) -> HostIdentity {
        HostIdentity { uuid: uuid.to_owned(), ..HostIdentity::default() }
    }

    fn asks(uuid: &str, last: u8, refused: Option<&str>, useless: bool) -> Event {
        let refused = refused.map(|why| Finding::new(Code::KeyRefused, why));
        Event::KeyAsked { address: address(last), host: host(uuid), refused, useless }
    }

    /// What `events` in a row, a minute apart, make subscribers hear.
    fn told(machine: &mut Machine, events: &[Event]) -> Vec<&'static str> {
        let mut told = Vec::new();
        for (minute, event) in (0..).zip(events) {
            match step(machine, event, NOW.plus(minute * 60_000)) {
                Step::Changed { machine: next, happenings } => {
                    told.extend(happenings.iter().map(Happening::kind));
                    *machine = next;
                }
                Step::Ignored(_) => {}
                Step::Refused(_) => told.push("refused"),
            }
        }
        told
    }

    #[test]
    fn what_stays_as_it_is_is_told_once() {
        let mut machine = idle(State::Deployed);
        let (refused, given) =
            (|| asks("V", 9, Some("another machine"), false), || asks("U", 9, None, false));
        let useless = || asks("U", 9, None, true);
        let all = [refused(), refused(), refused(), given(), useless(), useless(), useless(), given()];
        let kinds = ["node.key_refused", "node.key_released", "node.key_useless", "node.key_released"];
        assert_eq!(told(&mut machine, &all), kinds);
        assert_eq!(machine.node.shut_out, None);
        let all = [
            refused(),
            asks("V", 10, Some("another machine"), false),
            asks("V", 10, Some("other words"), false),
        ];
        assert_eq!(told(&mut machine, &all), ["node.key_refused"; 3], "each is news");
        assert_eq!(machine.node.shut_out.as_ref().map(|locked| locked.address), Some(address(10)));
        assert_eq!(told(&mut machine, &[Event::Operator(Move::Accept), refused()]), ["node.key_refused"]);
    }

    #[test]
    fn p19_a_board_is_accepted_that_was_refused_and_named() {
        let mut machine = idle(State::Deployed);
        let accept =
            |uuid: &str| Event::BoardAccepted { uuid: uuid.to_owned(), approver: String::from("me") };
        let refused = || asks("V", 9, Some("another machine"), false);
        assert_eq!(
            told(&mut machine, &[accept("V"), refused(), accept("W"), accept("")]),
            ["refused", "node.key_refused", "refused", "refused"]
        );
        assert_eq!(told(&mut machine, &[asks("", 9, Some("nobody"), false), accept("")])[1], "refused");
        assert_eq!(
            told(&mut machine, &[refused(), accept("V"), accept("V")]),
            ["node.key_refused", "node.board_accepted", "refused"]
        );
        assert_eq!((machine.node.board, machine.node.shut_out), (Some(host("V")), None));
    }
}
