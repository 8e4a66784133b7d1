//! The management controller (BMC), asked from inside the machine: who it is, where it is on the
//! network, and how the power supplies are (IPMI 2.0, `/dev/ipmi0`). Nothing is set.

mod power_supplies;

use crate::sys;
use kaltstart_protocol::facts::{AddressSource, Bmc, BmcLan};
use kaltstart_protocol::ids::Mac;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

/// The driver that makes the controller a device, as soon as it has found it.
const DRIVER: &str = "/sys/module/ipmi_devintf";
/// How long the controller may take to appear, once its driver is there.
const APPEAR_LIMIT: Duration = Duration::from_secs(5);
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long all sensors may take; what is not known by then is not told.
const SENSORS_LIMIT: Duration = Duration::from_secs(4);
/// Pause between looks for the device.
const LOOK: Duration = Duration::from_millis(50);

/// Network functions and commands (IPMI 2.0 appendix G).
const APP: u8 = 0x06;
const TRANSPORT: u8 = 0x0c;
const GET_DEVICE_ID: u8 = 0x01;
const GET_CHANNEL_INFO: u8 = 0x42;
const GET_LAN_PARAMETER: u8 = 0x02;

/// Channels that may be a network (§6.3), and the medium by which one says so (table 6-3).
const CHANNELS: std::ops::RangeInclusive<u8> = 1..=11;
const LAN: u8 = 4;

/// LAN parameters (table 23-4).
const ADDRESS: u8 = 3;
const SOURCE: u8 = 4;
const MAC: u8 = 5;

/// A controller that is asked: network function, command, data; what it answers behind a completion code
/// of success, none behind any other.
pub trait Ipmi {
    /// Asks once.
    ///
    /// # Errors
    /// When it does not answer.
    fn ask(&mut self, function: u8, command: u8, data: &[u8]) -> io::Result<Option<Vec<u8>>>;
}

struct Device {
    file: File,
    asked: u16,
}

impl Ipmi for Device {
    fn ask(&mut self, function: u8, command: u8, data: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.asked = self.asked.wrapping_add(1);
        let answer = sys::ipmi::ask(&self.file, self.asked, function, command, data, ANSWER_LIMIT)?;
        Ok(answer.split_first().filter(|(code, _)| **code == 0).map(|(_, data)| data.to_vec()))
    }
}

/// The controller of this machine; none where there is none, or it does not answer. Waits for it a few
/// seconds.
#[must_use]
pub fn look() -> Option<Bmc> {
    if !Path::new(DRIVER).exists() {
        return None;
    }
    match open().and_then(|file| ask(&mut Device { file, asked: 0 })) {
        Ok(bmc) => Some(bmc),
        Err(error) => {
            tracing::warn!(%error, "the management controller does not answer");
            None
        }
    }
}

fn open() -> io::Result<File> {
    let deadline = Instant::now() + APPEAR_LIMIT;
    loop {
        match OpenOptions::new().read(true).write(true).open("/dev/ipmi0") {
            Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::now() < deadline => {
                std::thread::sleep(LOOK);
            }
            done => return done,
        }
    }
}

/// Asks a controller for all that is told of it. Whoever does not know its network still says who it is.
///
/// # Errors
/// When it does not answer, or not as the specification says.
pub fn ask(controller: &mut dyn Ipmi) -> io::Result<Bmc> {
    let id = controller.ask(APP, GET_DEVICE_ID, &[])?;
    let mut bmc = id.as_deref().and_then(device).ok_or(io::ErrorKind::InvalidData)?;
    bmc.lan = lan(controller)?;
    bmc.power_supplies = power_supplies::ask(controller, Instant::now() + SENSORS_LIMIT)?;
    Ok(bmc)
}

/// `Get Device ID` (table 20-2).
fn device(data: &[u8]) -> Option<Bmc> {
    let data = data.first_chunk::<11>()?;
    // Numbers in decimal digits of four bits; that of the interface has the minor one above.
    let (major, minor, version) = (data[2] & 0x7f, data[3], data[4]);
    Some(Bmc {
        firmware: format!("{major}.{minor:02x}"),
        ipmi: format!("{:x}.{:x}", version & 0x0f, version >> 4),
        manufacturer: u32::from_le_bytes([data[6], data[7], data[8] & 0x0f, 0]),
        product: u16::from_le_bytes([data[9], data[10]]),
        lan: None,
        power_supplies: Vec::new(),
    })
}

/// The first channel that is a network; channel 1 where the controller tells of no channels.
fn lan(controller: &mut dyn Ipmi) -> io::Result<Option<BmcLan>> {
    let mut channel = None;
    for number in CHANNELS {
        let info = controller.ask(APP, GET_CHANNEL_INFO, &[number])?;
        if info.is_some_and(|info| info.get(1).is_some_and(|medium| medium & 0x7f == LAN)) {
            channel = Some(number);
            break;
        }
    }
    let channel = channel.unwrap_or(1);
    let mut parameter = |number: u8| -> io::Result<Option<Vec<u8>>> {
        let answer = controller.ask(TRANSPORT, GET_LAN_PARAMETER, &[channel, number, 0, 0])?;
        // The parameter's revision goes first.
        Ok(answer.and_then(|answer| answer.get(1..).map(<[u8]>::to_vec)))
    };
    let address = parameter(ADDRESS)?.and_then(|data| data.first_chunk().copied()).map(Ipv4Addr::from);
    let mac = parameter(MAC)?.and_then(|data| data.first_chunk().copied()).map(Mac);
    let source = parameter(SOURCE)?.and_then(|data| data.first().copied());
    if (address, mac, source) == (None, None, None) {
        return Ok(None);
    }
    let source = match source.map(|source| source & 0x0f) {
        Some(1) => AddressSource::Static,
        Some(2) => AddressSource::Dhcp,
        Some(3) => AddressSource::Firmware,
        _ => AddressSource::Other,
    };
    let address = address.filter(|address| !address.is_unspecified());
    let mac = mac.filter(|mac| mac.0 != [0; 6]);
    Ok(Some(BmcLan { channel, address, mac, source }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Answers by network function, command and data; a completion code of "invalid command" for all else.
    struct Table(BTreeMap<(u8, u8, Vec<u8>), Vec<u8>>);

    impl Ipmi for Table {
        fn ask(&mut self, function: u8, command: u8, data: &[u8]) -> io::Result<Option<Vec<u8>>> {
            Ok(self.0.get(&(function, command, data.to_vec())).cloned())
        }
    }

    fn table(entries: &[(u8, u8, &[u8], &[u8])]) -> Table {
        let entry = |(function, command, data, answer): &(u8, u8, &[u8], &[u8])| {
            ((*function, *command, data.to_vec()), answer.to_vec())
        };
        Table(entries.iter().map(entry).collect())
    }

    /// Device 0x20, firmware 3.45, IPMI 2.0, manufacturer 674, product 256.
    const ID: [u8; 15] = [0x20, 0x81, 0x03, 0x45, 0x02, 0xbf, 0xa2, 0x02, 0x00, 0x00, 0x01, 0, 0, 0, 0];

    #[test]
    fn a_controller_says_who_and_where_it_is() {
        let mut controller = table(&[
            (APP, GET_DEVICE_ID, &[], &ID),
            // Channel 1 is a serial line, 2 a network.
            (APP, GET_CHANNEL_INFO, &[1], &[1, 5, 1, 0, 0, 0, 0, 0, 0]),
            (APP, GET_CHANNEL_INFO, &[2], &[2, 4, 1, 0, 0, 0, 0, 0, 0]),
            (TRANSPORT, GET_LAN_PARAMETER, &[2, 3, 0, 0], &[0x11, 10, 77, 9, 5]),
            (TRANSPORT, GET_LAN_PARAMETER, &[2, 4, 0, 0], &[0x11, 0x02]),
            (TRANSPORT, GET_LAN_PARAMETER, &[2, 5, 0, 0], &[0x11, 2, 0, 0, 0, 9, 5]),
        ]);
        let bmc = ask(&mut controller).expect("a controller");
        assert_eq!((bmc.firmware.as_str(), bmc.ipmi.as_str()), ("3.45", "2.0"));
        assert_eq!((bmc.manufacturer, bmc.product), (674, 256));
        let lan = bmc.lan.expect("a network");
        assert_eq!((lan.channel, lan.source), (2, AddressSource::Dhcp));
        assert_eq!(lan.address, Some(Ipv4Addr::new(10, 77, 9, 5)));
        assert_eq!(lan.mac, Some(Mac([2, 0, 0, 0, 9, 5])));
    }

    #[test]
    fn one_that_knows_no_network_still_says_who_it_is() {
        let bmc = ask(&mut table(&[(APP, GET_DEVICE_ID, &[], &ID)])).expect("a controller");
        assert_eq!((bmc.firmware.as_str(), bmc.lan), ("3.45", None));
        // A controller that was never set up.
        let mut blank = table(&[
            (APP, GET_DEVICE_ID, &[], &ID),
            (TRANSPORT, GET_LAN_PARAMETER, &[1, 3, 0, 0], &[0x11, 0, 0, 0, 0]),
            (TRANSPORT, GET_LAN_PARAMETER, &[1, 4, 0, 0], &[0x11, 0x01]),
        ]);
        let lan = ask(&mut blank).expect("a controller").lan.expect("a network");
        assert_eq!((lan.address, lan.mac, lan.source), (None, None, AddressSource::Static));
    }

    #[test]
    fn p29_answers_that_are_cut_short_are_refused_or_left_out() {
        for length in 0..11 {
            let short = table(&[(APP, GET_DEVICE_ID, &[], &ID[..length])]);
            assert!(ask(&mut { short }).is_err(), "{length}");
        }
        assert!(ask(&mut table(&[])).is_err());
        let mut cut = table(&[
            (APP, GET_DEVICE_ID, &[], &ID),
            (APP, GET_CHANNEL_INFO, &[1], &[1]),
            (TRANSPORT, GET_LAN_PARAMETER, &[1, 3, 0, 0], &[0x11, 10, 77]),
            (TRANSPORT, GET_LAN_PARAMETER, &[1, 4, 0, 0], &[]),
            (TRANSPORT, GET_LAN_PARAMETER, &[1, 5, 0, 0], &[0x11]),
        ]);
        assert_eq!(ask(&mut cut).expect("a controller").lan, None);
    }
}
