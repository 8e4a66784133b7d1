//! What of all that happens to machines is recorded.

use super::{Act, Action, Actor, disk_name};
use crate::about::Edit;
use crate::lifecycle::event::{Event, Happening, Move};
use crate::machine::{Job, Machine, Node, Order};
use alloc::format;
use alloc::string::ToString as _;
use alloc::vec::Vec;
use kaltstart_protocol::wipe::WipeGrant;

/// What is recorded of `event`, by which a machine became `after` and `happenings` are told; none for what no person and no
/// right is behind.
#[must_use]
pub fn act(by: &Actor, after: &Machine, event: &Event, happenings: &[Happening]) -> Option<Act> {
    let job = after.job.as_ref();
    let named = |action| Act {
        node: Some((after.node.id.clone(), after.node.name.clone())),
        ..Act::new(by.clone(), action)
    };
    let of_job = |action| {
        let act = named(action);
        match job {
            Some(job) => Act { job: Some(job.id.clone()), ..act }.with("kind", job.kind.name()),
            None => act,
        }
    };
    match event {
        Event::PowerSeen => Some(named(Action::PowerNoted)),
        Event::Operator(wanted) => Some(named(match wanted {
            Move::Accept => Action::NodeAccepted,
            Move::Reject => Action::NodeRejected,
            Move::Break => Action::NodeBroken,
            Move::Repair => Action::NodeRepaired,
            Move::Retire => Action::NodeRetired,
        })),
        Event::Edited(edit) => Some(edited(named(Action::NodeEdited), edit)),
        Event::Locked(lock) => {
            let mut act = named(Action::NodeLocked);
            act.by.reason.get_or_insert_with(|| lock.reason.clone());
            Some(act)
        }
        Event::Approved(approval) => {
            let act = named(Action::NodeApproved).with("kind", approval.kind.name());
            Some(match &approval.profile {
                Some(profile) => act.with("profile", profile),
                None => act,
            })
        }
        Event::Unlocked => Some(named(Action::NodeUnlocked)),
        Event::BoardAccepted { uuid, .. } => Some(named(Action::BoardAccepted).with("uuid", uuid)),
        Event::JobOrdered(_) => job.map(|job| ordered(of_job(Action::JobOrdered), job)),
        Event::JobCancelled => Some(of_job(Action::JobCancelled)),
        Event::TaskTaken { wipe, .. } if !wipe.is_empty() => {
            job.map(|job| granted(of_job(Action::WipeGranted), job, wipe))
        }
        Event::Hindered(finding) if job.is_some_and(|job| job.order.writes()) => {
            Some(of_job(Action::WipeRefused).with("code", finding.code).with("finding", &finding.detail))
        }
        Event::DisksErased(erased) => {
            let each = |act: Act, erasure: &kaltstart_protocol::erasure::Erasure| {
                act.with(disk_name(&erasure.disk), erasure.method)
            };
            Some(erased.disks.iter().fold(of_job(Action::DisksErased), each))
        }
        Event::KeyAsked { address, host, refused, .. } => {
            let asked = |action| named(action).with("address", address).with("uuid", &host.uuid);
            match refused {
                None => Some(asked(Action::DiskKeyReleased)),
                // It goes on asking as long as it is on.
                Some(_) if happenings.is_empty() => None,
                Some(finding) => Some(asked(Action::DiskKeyRefused).with("finding", &finding.detail)),
            }
        }
        Event::CodeIssued(_) => Some(of_job(Action::CodeIssued)),
        Event::CodeTried(_) => happenings.iter().find_map(|happening| match happening {
            Happening::ShellOpened => Some(of_job(Action::ShellOpened)),
            Happening::ShellRefused(left) => Some(of_job(Action::ShellRefused).with("tries_left", left)),
            _ => None,
        }),
        Event::TaskTaken { .. }
        | Event::Hindered(_)
        | Event::DhcpSeen { .. }
        | Event::AddressGiven { .. }
        | Event::ScriptServed { .. }
        | Event::SystemAsked
        | Event::Recalled { .. }
        | Event::RecallFailed(_)
        | Event::RamdiskServed { .. }
        | Event::AgentHello(_)
        | Event::NeighboursHeard(_)
        | Event::PhaseReported { .. }
        | Event::InstallDone(_)
        | Event::SystemReported(_)
        | Event::RescueAlive { .. }
        | Event::Rescued { .. }
        | Event::DeadlinePassed { .. }
        | Event::ServerStarted => happenings.iter().find_map(|happening| match happening {
            Happening::JobSucceeded => Some(of_job(Action::JobSucceeded)),
            Happening::JobCancelled => Some(of_job(Action::JobCancelled)),
            Happening::JobFailed(finding) => {
                Some(of_job(Action::JobFailed).with("code", finding.code).with("finding", &finding.detail))
            }
            _ => None,
        }),
    }
}

/// What is recorded of a node that was declared with `edit`, and had the name `before` if it was known.
#[must_use]
pub fn declared(by: &Actor, node: &Node, before: Option<&str>, edit: &Edit) -> Act {
    let about = Some((node.id.clone(), node.name.clone()));
    let mut act = edited(Act { node: about, ..Act::new(by.clone(), Action::NodeDeclared) }, edit);
    if let Some(mac) = node.macs.first() {
        act = act.with("mac", mac);
    }
    if let Some(address) = node.reservation {
        act = act.with("address", address);
    }
    if let Some(loader) = node.uefi_loader {
        act = act.with("uefi_loader", loader.name());
    }
    match before.filter(|before| *before != node.name) {
        Some(before) => act.with("before", before),
        None => act,
    }
}

/// What people say of a node now; `-` for what they say no more.
fn edited(mut act: Act, edit: &Edit) -> Act {
    const GONE: &str = "-";
    let words = [("team", &edit.team), ("role", &edit.role), ("site", &edit.site), ("rack", &edit.rack)];
    for (name, wanted) in words {
        if let Some(wanted) = wanted {
            act = act.with(name, wanted.as_ref().map_or(GONE, |word| word.as_str()));
        }
    }
    if let Some(position) = edit.position {
        act = act.with("position", position.map_or_else(|| GONE.into(), |unit| unit.to_string()));
    }
    for (label, wanted) in &edit.labels {
        act = act.with(format!("label {label}"), wanted.as_ref().map_or(GONE, |value| value.as_str()));
    }
    act
}

/// What was ordered: what comes onto the disks, what is given up, and what is kept.
fn ordered(mut act: Act, job: &Job) -> Act {
    let erase = match &job.order {
        Order::System(order) => {
            act = act.with("profile", &order.profile).with("image", &order.image);
            act = act.with("image_digest", order.image_digest).with("via", order.via.name());
            Some(&order.erase)
        }
        Order::Release(order) => Some(&order.erase),
        Order::Rescue(order) => {
            act = act.with("writable", order.writable.join(", ")).with("via", order.via.name());
            None
        }
        Order::BurnIn(order) => {
            act = act.with("minutes", order.minutes);
            None
        }
    };
    if let Some(approver) = &job.approved_by {
        act = act.with("approved_by", approver);
    }
    let keep: Vec<&str> = job.order.keep().collect();
    if !keep.is_empty() {
        act = act.with("keep", keep.join(", "));
    }
    let given_up = erase.into_iter().flatten();
    given_up.fold(act, |act, (disk, fingerprint)| act.with(format!("erase {disk}"), fingerprint))
}

/// What an agent may lose, disk by disk: the fingerprint of what lies there, and what of it is kept.
fn granted(act: Act, job: &Job, wipe: &[WipeGrant]) -> Act {
    let act = act.with("approver", job.approvers()).with("attempt", job.attempt).with("job_epoch", job.epoch);
    wipe.iter().fold(act, |act, grant| {
        let kept: Vec<&str> = grant.keep.iter().map(|kept| kept.label.as_str()).collect();
        let mut lost = format!("{} {}", grant.all().fingerprint(), grant.contents);
        if !kept.is_empty() {
            lost = format!("{lost}, keeps {}", kept.join(", "));
        }
        act.with(disk_name(&grant.disk), lost)
    })
}
