//! Does a machine fetch its loader again and again, and nothing comes of it?

use super::file::Loader;
use crate::dhcp::client::Stage;
use crate::trace::{Answer, Answer6, Exchange, Exchange6, Sighting, What};
use kaltstart_protocol::dhcp::MessageType;
use kaltstart_protocol::dhcp6;
use kaltstart_protocol::time::Millis;

/// So many times the same loader may be named to a machine within [`WINDOW_MS`] without the
/// loader being heard. An operator who resets a machine by hand stays below it.
pub const REPEATS_MAX: usize = 5;

/// Milliseconds that count.
pub const WINDOW_MS: u64 = 600_000;

/// Whether firmware, or an iPXE that looks like it, was told to start a loader too often, and no
/// loader was heard since.
#[must_use]
pub fn is_looping<'a>(newest_first: impl Iterator<Item = &'a Sighting>, now: Millis) -> bool {
    let recent = newest_first.take_while(|sighting| now.since(sighting.at) < WINDOW_MS);
    // What follows from a loader that runs: after it everything starts anew.
    let unheard = recent.take_while(|sighting| match &sighting.what {
        What::Script(_) | What::Agent { .. } => false,
        What::Dhcp(Exchange { client, .. }) | What::Dhcp6(Exchange6 { client, .. }) => {
            client.stage != Stage::Ipxe
        }
        _ => true,
    });
    let told = unheard.filter(|sighting| {
        let (client, file) = match &sighting.what {
            What::Dhcp(Exchange {
                client,
                answer: Answer::Sent { kind: MessageType::Ack, file: Some(file), .. },
                ..
            }) => (client, file),
            What::Dhcp6(Exchange6 {
                client,
                answer: Answer6::Sent { kind: dhcp6::MessageType::Reply, file: Some(file), .. },
                ..
            }) => (client, file),
            _ => return false,
        };
        matches!(client.stage, Stage::Pxe | Stage::HttpBoot)
            && Loader::ALL.iter().any(|loader| file.ends_with(loader.name()))
    });
    told.take(REPEATS_MAX).count() == REPEATS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::client::{Architecture, Client};
    use crate::trace::Start;
    use std::vec::Vec;

    fn told(at: u64, stage: Stage) -> Sighting {
        let exchange = Exchange {
            kind: MessageType::Request,
            client: Client { architecture: Architecture::Bios, stage },
            secs: 0,
            relay: None,
            server: None,
            wish: None,
            answer: Answer::Sent {
                kind: MessageType::Ack,
                address: None,
                file: Some("undionly.kpxe".into()),
            },
        };
        Sighting { at: Millis(at), what: What::Dhcp(exchange) }
    }

    fn loops(oldest_first: &[Sighting], now: u64) -> bool {
        is_looping(oldest_first.iter().rev(), Millis(now))
    }

    #[test]
    fn a_loader_that_is_fetched_for_ever_is_noticed_and_one_that_works_is_not() {
        let mut seen: Vec<Sighting> = (0..4).map(|n| told(n * 1_000, Stage::Pxe)).collect();
        assert!(!loops(&seen, 5_000), "four times");
        seen.push(told(4_000, Stage::Pxe));
        assert!(loops(&seen, 5_000), "five times");
        assert!(!loops(&seen, 4_000 + WINDOW_MS), "long ago");
        for proof in [told(4_500, Stage::Ipxe).what, What::Script(Start::Local)] {
            seen.push(Sighting { at: Millis(4_500), what: proof });
            assert!(!loops(&seen, 5_000), "a loader was heard");
            seen.pop();
        }
        // A system with an address is no proof, and counts for nothing.
        seen.push(told(4_600, Stage::Os));
        assert!(loops(&seen, 5_000));
    }
}
