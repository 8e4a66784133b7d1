//! Which of the options a client asks for it gets.

use super::Limits;
use kaltstart_protocol::tftp::{BLKSIZE_DEFAULT, BLKSIZE_MIN, Options};

/// Shortest and longest time-out a client may ask for, in seconds (RFC 2349).
const TIMEOUT_SECS: core::ops::RangeInclusive<u64> = 1..=255;

/// Shortest and longest time-out in microseconds; the bounds are those of tftpd-hpa.
const UTIMEOUT_MICROS: core::ops::RangeInclusive<u64> = 10_000..=255_000_000;

/// What both sides hold to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreement {
    /// Bytes in every block but the last.
    pub(super) blksize: u16,
    /// Blocks per acknowledgement.
    pub(super) windowsize: u16,
    /// When the client expects a repetition.
    pub(super) timeout_ms: Option<u64>,
    /// What the client is told: options it asked for, in its order. Nothing is sent if empty.
    pub(super) oack: Options,
}

impl Agreement {
    /// Decides. An option that is unknown, repeated or out of its range is left out of the
    /// answer, which tells the client that it does not hold (RFC 2347).
    pub(super) fn on(asked: &Options, size: u64, limits: &Limits) -> Self {
        let mut agreed =
            Self { blksize: BLKSIZE_DEFAULT, windowsize: 1, timeout_ms: None, oack: Options::new() };
        for option in asked.iter() {
            let name = option.name.as_str();
            if agreed.oack.number(name).is_some() {
                continue;
            }
            let Some(wanted) = asked.number(name) else { continue };
            let granted = match name {
                // A server may answer with less than was asked for, so too much is no error.
                Options::BLKSIZE if wanted >= u64::from(BLKSIZE_MIN) => {
                    agreed.blksize = at_most(wanted, limits.blksize_max.max(BLKSIZE_MIN));
                    u64::from(agreed.blksize)
                }
                Options::WINDOWSIZE if wanted >= 1 => {
                    agreed.windowsize = at_most(wanted, limits.windowsize_max.max(1));
                    u64::from(agreed.windowsize)
                }
                // The server takes the value as it is or not at all (RFC 2349).
                Options::TIMEOUT if TIMEOUT_SECS.contains(&wanted) => {
                    agreed.expect_repetition_in(wanted * 1_000);
                    wanted
                }
                Options::UTIMEOUT if UTIMEOUT_MICROS.contains(&wanted) => {
                    agreed.expect_repetition_in(wanted / 1_000);
                    wanted
                }
                Options::TSIZE => size,
                _ => continue,
            };
            agreed.oack = agreed.oack.with(name, granted);
        }
        agreed
    }

    /// A client may name its time-out twice, in seconds and finer. The shorter one satisfies both.
    fn expect_repetition_in(&mut self, ms: u64) {
        self.timeout_ms = Some(self.timeout_ms.map_or(ms, |other| other.min(ms)));
    }
}

fn at_most(wanted: u64, max: u16) -> u16 {
    u16::try_from(wanted).unwrap_or(max).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(asked: &[(&str, u64)], told: &[(&str, u64)], blksize: u16, windowsize: u16) {
        let options = |list: &[(&str, u64)]| {
            list.iter().fold(Options::new(), |all, (name, value)| all.with(name, *value))
        };
        let agreed = Agreement::on(&options(asked), 77, &Limits::default());
        assert_eq!(agreed.oack, options(told), "asked {asked:?}");
        assert_eq!((agreed.blksize, agreed.windowsize), (blksize, windowsize), "asked {asked:?}");
    }

    #[test]
    fn p33_only_asked_and_valid_options_are_granted() {
        check(&[], &[], 512, 1);
        check(&[("multicast", 1)], &[], 512, 1);
        check(&[("tsize", 0), ("blksize", 1432)], &[("tsize", 77), ("blksize", 1432)], 1432, 1);
        check(&[("blksize", 65464), ("windowsize", 4)], &[("blksize", 1468), ("windowsize", 4)], 1468, 4);
        check(&[("blksize", 7), ("windowsize", 0)], &[], 512, 1);
        check(&[("blksize", 8), ("windowsize", 65535)], &[("blksize", 8), ("windowsize", 64)], 8, 64);
        check(&[("blksize", 70_000)], &[("blksize", 1468)], 1468, 1);
        check(&[("timeout", 1), ("timeout", 9)], &[("timeout", 1)], 512, 1);
        check(&[("timeout", 0)], &[], 512, 1);
        check(&[("timeout", 256), ("tsize", 5)], &[("tsize", 77)], 512, 1);
        check(&[("utimeout", 9_999)], &[], 512, 1);
        check(&[("utimeout", 255_000_001)], &[], 512, 1);
        let both = [("timeout", 1), ("utimeout", 50_000)];
        check(&both, &both, 512, 1);
    }
}
