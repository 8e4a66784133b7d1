//! What operators may do with a node that has no job.

use super::event::Move;
use crate::machine::{Node, State};

/// The state that `node` comes to.
///
/// # Errors
/// Why it may not, in words for the operator.
pub(super) fn target(wanted: Move, node: &Node) -> Result<State, &'static str> {
    let state = node.state;
    Ok(match (wanted, state) {
        (Move::Accept, State::Discovered) => State::Available,
        // Without the parts that it had it is as it shall be, and whoever wanted its key is known.
        (Move::Accept, _) if !node.missing.is_empty() || node.shut_out.is_some() => state,
        (Move::Reject, State::Discovered) => State::Retired,
        (Move::Break, State::Broken | State::Retired) => {
            return Err("the node is broken or retired already");
        }
        (Move::Break, _) => State::Broken,
        // No job writes to the disks of a broken node.
        (Move::Repair, State::Broken) if node.broken_from == Some(State::Deployed) => State::Deployed,
        // Nobody else gets it while somebody's system may be on its disks.
        (Move::Repair, State::Broken) if !node.own.is_empty() => State::Allocated,
        // It is looked at again at its next start, before anybody relies on it.
        (Move::Repair, State::Broken) => State::Discovered,
        (
            Move::Retire,
            State::Expected | State::Discovered | State::Available | State::Releasing | State::Broken,
        ) => State::Retired,
        (Move::Accept | Move::Reject, _) => return Err("only a discovered node can be accepted or rejected"),
        (Move::Repair, _) => return Err("only a broken node can be repaired"),
        (Move::Retire, State::Allocated | State::Deployed) => return Err("`ks release` the node first"),
        (Move::Retire, State::Retired) => return Err("the node is retired already"),
    })
}
