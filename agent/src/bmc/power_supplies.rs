//! Power supplies, as the management controller's sensors tell of them (IPMI 2.0 §33, §35, §43).

use super::Ipmi;
use kaltstart_protocol::facts::PowerSupply;
use std::io;
use std::time::Instant;

/// Network functions and commands (appendix G).
const SENSOR: u8 = 0x04;
const STORAGE: u8 = 0x0a;
const GET_SENSOR_READING: u8 = 0x2d;
const RESERVE_REPOSITORY: u8 = 0x22;
const GET_RECORD: u8 = 0x23;

/// Bytes of a record's header, and most that are asked for at once: controllers give no more in one answer.
const HEADER: u8 = 5;
const PIECE: u8 = 16;
/// Records that are looked at: a list without an end must have one.
const RECORDS_MAX: usize = 1000;
/// The number behind the last record.
const LAST: u16 = 0xffff;

/// Types of records with sensors (§43.1, §43.2), and where each has its name.
const FULL: (u8, usize) = (0x01, 47);
const COMPACT: (u8, usize) = (0x02, 31);
/// The controller itself, as the owner of a sensor.
const CONTROLLER: u8 = 0x20;
/// A sensor of power supplies (table 42-3), with states of its own kind.
const POWER_SUPPLY: u8 = 0x08;
const OWN_STATES: u8 = 0x6f;

/// States of a power supply (table 42-3).
const PRESENT: u8 = 1;
const FAULTS: [(u8, &str); 6] = [
    (1 << 1, "it has failed"),
    (1 << 2, "it is about to fail"),
    (1 << 3, "its input is lost"),
    (1 << 4, "its input is lost or out of range"),
    (1 << 5, "its input is out of range"),
    (1 << 6, "it does not fit the others"),
];
/// In the second byte of a reading: it cannot be had (table 35-15).
const UNAVAILABLE: u8 = 1 << 5;

/// All power supplies of which the controller has a sensor; those that were found before `deadline`.
///
/// # Errors
/// When the controller does not answer.
pub(super) fn ask(controller: &mut dyn Ipmi, deadline: Instant) -> io::Result<Vec<PowerSupply>> {
    let mut all = Vec::new();
    let mut next = 0;
    for _ in 0..RECORDS_MAX {
        if next == LAST || Instant::now() >= deadline {
            break;
        }
        let Some((following, record)) = record(controller, next)? else { break };
        if let Some((sensor, name)) = sensor(&record)
            && let Some(answer) = controller.ask(SENSOR, GET_SENSOR_READING, &[sensor])?
            && let [_, flags, states, ..] = answer[..]
            && flags & UNAVAILABLE == 0
        {
            let faults: Vec<&str> =
                FAULTS.iter().filter(|(bit, _)| states & bit != 0).map(|(_, text)| *text).collect();
            all.push(PowerSupply { name, present: states & PRESENT != 0, fault: faults.join(", ") });
        }
        next = following;
    }
    Ok(all)
}

/// Record `id` of the repository, and the number of the one behind it; none where the controller gives none.
fn record(controller: &mut dyn Ipmi, id: u16) -> io::Result<Option<(u16, Vec<u8>)>> {
    // Parts of a record belong together only under a reservation (§33.12).
    let Some(reservation) = controller.ask(STORAGE, RESERVE_REPOSITORY, &[])? else { return Ok(None) };
    let Some(&[r0, r1]) = reservation.first_chunk() else { return Ok(None) };
    let [i0, i1] = id.to_le_bytes();
    let mut part = |offset: u8, length: u8| -> io::Result<Option<(u16, Vec<u8>)>> {
        let answer = controller.ask(STORAGE, GET_RECORD, &[r0, r1, i0, i1, offset, length])?;
        Ok(answer.and_then(|answer| {
            let (next, data) = answer.split_first_chunk()?;
            (data.len() == usize::from(length)).then(|| (u16::from_le_bytes(*next), data.to_vec()))
        }))
    };
    let Some((next, mut record)) = part(0, HEADER)? else { return Ok(None) };
    let end = HEADER.saturating_add(record[4]);
    let is_sensor = [FULL.0, COMPACT.0].contains(&record[3]);
    let mut at = HEADER;
    while is_sensor && at < end {
        let length = PIECE.min(end - at);
        let Some((_, piece)) = part(at, length)? else { return Ok(None) };
        record.extend(piece);
        at += length;
    }
    Ok(Some((next, record)))
}

/// Number and name of the sensor that a record is about, if it is one of a power supply.
fn sensor(record: &[u8]) -> Option<(u8, String)> {
    let &[_, _, _, kind, _, owner, lun, number, ..] = record else { return None };
    let &[sensor, states] = record.get(12..14)? else { return None };
    let fits = (owner, lun & 3, sensor, states) == (CONTROLLER, 0, POWER_SUPPLY, OWN_STATES);
    let (_, at) = [FULL, COMPACT].into_iter().find(|(known, _)| *known == kind).filter(|_| fits)?;
    let name = record.get(at).and_then(|length| {
        // Of four ways to write a name all but two are hardly used (§43.15).
        let text = record.get(at + 1..)?.get(..usize::from(length & 0x1f))?;
        let shown = text.iter().filter(|byte| byte.is_ascii_graphic() || **byte == b' ');
        let name: String = shown.map(|byte| char::from(*byte)).collect();
        Some(name.trim().to_owned()).filter(|name| length >> 6 == 3 && !name.is_empty())
    });
    Some((number, name.unwrap_or_else(|| format!("sensor {number}"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// A repository, and what sensors say.
    #[derive(Default)]
    struct Repository {
        records: Vec<Vec<u8>>,
        readings: BTreeMap<u8, Vec<u8>>,
        asked: usize,
    }

    impl Ipmi for Repository {
        fn ask(&mut self, function: u8, command: u8, data: &[u8]) -> io::Result<Option<Vec<u8>>> {
            self.asked += 1;
            Ok(match (function, command, data) {
                (STORAGE, RESERVE_REPOSITORY, []) => Some(vec![7, 0]),
                (STORAGE, GET_RECORD, &[7, 0, id, 0, offset, length]) => {
                    let record = self.records.get(usize::from(id));
                    let (from, to) = (usize::from(offset), usize::from(offset) + usize::from(length));
                    record.and_then(|record| record.get(from..to)).map(|part| {
                        let last = usize::from(id) + 1 == self.records.len();
                        let next = if last { LAST } else { u16::from(id) + 1 };
                        [&next.to_le_bytes(), part].concat()
                    })
                }
                (SENSOR, GET_SENSOR_READING, &[sensor]) => self.readings.get(&sensor).cloned(),
                other => panic!("{other:?}"),
            })
        }
    }

    fn record((kind, at): (u8, usize), owner: u8, number: u8, sensor: u8, name: &str) -> Vec<u8> {
        let mut record = vec![0; at];
        record[3] = kind;
        (record[5], record[7], record[12], record[13]) = (owner, number, sensor, OWN_STATES);
        record.push(0xc0 | name.len() as u8);
        record.extend(name.bytes());
        record[4] = record.len() as u8 - HEADER;
        record
    }

    fn asked(repository: &mut Repository) -> Vec<(String, bool, String)> {
        let all = ask(repository, Instant::now() + Duration::from_secs(60)).expect("it answers");
        all.into_iter().map(|supply| (supply.name, supply.present, supply.fault)).collect()
    }

    #[test]
    fn supplies_are_found_among_other_sensors_with_what_is_wrong() {
        let mut repository = Repository {
            records: vec![
                record(FULL, CONTROLLER, 1, 0x01, "Inlet Temp"),
                record(COMPACT, CONTROLLER, 0x60, POWER_SUPPLY, "PS1 Status"),
                vec![0, 0, 0x51, 0x11, 3, 1, 2, 3],
                record(FULL, CONTROLLER, 0x61, POWER_SUPPLY, "PS2 Status"),
                record(COMPACT, CONTROLLER, 0x62, POWER_SUPPLY, ""),
                record(COMPACT, CONTROLLER, 0x63, POWER_SUPPLY, "not read"),
                record(COMPACT, 0x2c, 0x64, POWER_SUPPLY, "of another controller"),
            ],
            readings: BTreeMap::from([
                (0x60, vec![0, 0xc0, 0x01, 0x80]),
                (0x61, vec![0, 0xc0, 0x0b, 0x80]),
                (0x62, vec![0, 0xc0, 0x00, 0x80]),
                (0x63, vec![0, 0xe0, 0x01, 0x80]),
            ]),
            asked: 0,
        };
        let wrong = "it has failed, its input is lost";
        assert_eq!(
            asked(&mut repository),
            [
                ("PS1 Status".into(), true, String::new()),
                ("PS2 Status".into(), true, wrong.into()),
                ("sensor 98".into(), false, String::new()),
            ]
        );
    }

    #[test]
    fn p29_a_repository_without_an_end_and_one_that_is_cut_short_end() {
        let mut endless = Repository { records: vec![vec![0; 5]; 256], ..Repository::default() };
        endless.records[255] = Vec::new();
        assert_eq!(asked(&mut endless), []);
        assert_eq!(asked(&mut Repository::default()), []);
        let mut late = Repository { records: vec![vec![0; 5]; 2], ..Repository::default() };
        assert_eq!(ask(&mut late, Instant::now()).expect("it answers"), []);
        assert_eq!(late.asked, 0, "its time is over");
    }

    proptest! {
        #[test]
        fn p29_any_record_is_read_or_left_out(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some((_, name)) = sensor(&bytes) {
                prop_assert!(!name.is_empty() && name.len() < 32);
            }
        }
    }
}
