//! What a machine was last given at each door, from what was seen of it.

use crate::trace::{Answer, HttpAnswer, Loading, Protocol, Sighting, Start, TftpEnd, TftpTransfer, What};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use kaltstart_protocol::agent_api::Mode;
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};

/// What a door gave last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// The door and what was asked for, as `dhcp pxe/uefi-x64`, `tftp snponly.efi`.
    pub door: String,
    /// When it was asked last.
    pub at: Millis,
    /// How often it was asked, as far back as is remembered.
    pub times: u32,
    /// What it gave.
    pub gave: String,
}

/// What each door gave last, in the order of that; `sightings` are oldest first.
#[must_use]
pub fn served(sightings: &[Sighting]) -> Vec<Served> {
    let mut all: Vec<Served> = Vec::new();
    for sighting in sightings {
        let Some((door, gave)) = given(&sighting.what) else { continue };
        let before = all.iter().position(|one| one.door == door).map(|index| all.remove(index));
        let times = before.map_or(0, |one| one.times).saturating_add(1);
        all.push(Served { door, at: sighting.at, times, gave });
    }
    all
}

fn given(what: &What) -> Option<(String, String)> {
    Some(match what {
        What::Dhcp(exchange) => {
            let gave = match &exchange.answer {
                Answer::NotAsked => return None,
                Answer::Sent { kind, address, file } => {
                    let address = address.map(|address| format!(" {address}")).unwrap_or_default();
                    let file =
                        file.as_ref().map_or_else(|| "no boot file".into(), |file| format!("file {file}"));
                    format!("{kind}{address}, {file}")
                }
                Answer::Silent { why } => format!("no answer: {why}"),
            };
            (format!("dhcp {}", exchange.client), gave)
        }
        What::Dhcp6(exchange) => (format!("dhcp6 {}", exchange.client), exchange.answer.to_string()),
        What::Loading(Loading { by, file }) => {
            let door = match by {
                Protocol::Tftp => "tftp",
                Protocol::Http => "http",
            };
            (format!("{door} {}", file.trim_start_matches('/')), "is being loaded".into())
        }
        What::Tftp(TftpTransfer { file, size, bytes, end, .. }) => {
            let size = size.map(|size| format!(" of {size}")).unwrap_or_default();
            let gave = match end {
                TftpEnd::Complete => format!("{bytes} bytes"),
                TftpEnd::Probed => format!("its size{size}"),
                TftpEnd::NotFound => "not found".into(),
                TftpEnd::Unreadable => format!("{bytes} bytes{size}: the server cannot read it"),
                TftpEnd::Refused { why } => format!("refused: {why}"),
                other => format!("{bytes} bytes{size}, then {other:?}"),
            };
            (format!("tftp {}", file.trim_start_matches('/')), gave)
        }
        What::Http(HttpAnswer { path, status, bytes, total }) => {
            let total = total.map(|total| format!(" of {total}")).unwrap_or_default();
            (format!("http {}", path.trim_start_matches('/')), format!("{status}, {bytes} bytes{total}"))
        }
        What::Script(start) => ("script".into(), script(*start).to_string()),
        What::ForeignOffer(_) | What::Power | What::Agent { .. } | What::Syslog { .. } => return None,
    })
}

const fn script(start: Start) -> &'static str {
    match start {
        Start::Local => "start the own disk",
        Start::Agent { mode: Mode::Discover } => "start the agent to look",
        Start::Agent { mode: Mode::Install } => "start the agent to install",
        Start::Agent { mode: Mode::Rescue } => "start the agent to stay for a person",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_door_is_shown_once_with_what_it_gave_last() {
        let transfer = |file: &str, bytes, end| {
            What::Tftp(TftpTransfer {
                file: file.into(),
                block_bytes: 1468,
                window: 4,
                size: Some(10),
                bytes,
                sent: 1,
                resent: 0,
                timeouts: 0,
                repeated_acks: 0,
                answered: true,
                duration_ms: 1,
                end,
            })
        };
        let seen: Vec<Sighting> = [
            transfer("/a.efi", 0, TftpEnd::Probed),
            What::Power,
            What::Script(Start::Local),
            transfer("a.efi", 10, TftpEnd::Complete),
        ]
        .into_iter()
        .zip(1..)
        .map(|(what, at)| Sighting { at: Millis(at), what })
        .collect();
        let lines: Vec<String> = served(&seen)
            .iter()
            .map(|one| format!("{} {} {}x {}", one.at.0, one.door, one.times, one.gave))
            .collect();
        assert_eq!(lines, ["3 script 1x start the own disk", "4 tftp a.efi 2x 10 bytes"]);
    }
}
