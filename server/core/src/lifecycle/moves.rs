//! What operators may do with a node that has no job.

use super::event::Move;
use crate::machine::State;

/// The state a node comes to; `parts_missing` says whether it has lost parts that it had before.
///
/// # Errors
/// Why it may not, in words for the operator.
pub(super) fn target(wanted: Move, state: State, parts_missing: bool) -> Result<State, &'static str> {
    Ok(match (wanted, state) {
        (Move::Accept, State::Discovered) => State::Available,
        // Without them it is as it shall be.
        (Move::Accept, _) if parts_missing => state,
        (Move::Reject, State::Discovered) => State::Retired,
        (Move::Release, State::Allocated | State::Deployed) => State::Releasing,
        (Move::Break, State::Broken | State::Retired) => {
            return Err("the node is broken or retired already");
        }
        (Move::Break, _) => State::Broken,
        // It is looked at again at its next start, before anybody relies on it.
        (Move::Repair, State::Broken) => State::Discovered,
        (
            Move::Retire,
            State::Expected | State::Discovered | State::Available | State::Releasing | State::Broken,
        ) => State::Retired,
        (Move::Accept | Move::Reject, _) => return Err("only a discovered node can be accepted or rejected"),
        (Move::Release, _) => return Err("only an allocated or deployed node can be released"),
        (Move::Repair, _) => return Err("only a broken node can be repaired"),
        (Move::Retire, State::Allocated | State::Deployed) => return Err("release the node first"),
        (Move::Retire, State::Retired) => return Err("the node is retired already"),
    })
}
