//! A machine whose system asks for the key of its disks: what was answered is told, and changes nothing else.

use super::{Draft, No, Verdict};
use crate::lifecycle::event::Happening;
use crate::unlock;
use core::net::IpAddr;
use kaltstart_protocol::finding::Finding;

impl Draft {
    /// Its system starts, and was answered as [`crate::unlock::decide`] says.
    pub(super) fn key_asked(&mut self, address: IpAddr, refused: Option<&Finding>) -> Verdict {
        if refused.is_none() && !unlock::releases(&self.machine) {
            return Err(No::Refuse("the node's key is not released now"));
        }
        self.heard();
        self.happenings.push(match refused {
            None => Happening::KeyReleased(address),
            Some(finding) => Happening::KeyRefused(address, finding.clone()),
        });
        Ok(())
    }
}
