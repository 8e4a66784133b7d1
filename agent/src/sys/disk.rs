//! What a disk is asked about itself, in NVMe and ATA. Each request is made here as a whole, and none of
//! them changes anything on the disk.

use super::passthrough::{self, AdminCommand, Data};
use std::fs::File;
use std::io;

/// Longest a disk may take to answer, in milliseconds.
pub(super) const ANSWER_LIMIT_MS: u32 = 5_000;
/// For all namespaces, or the controller itself.
const ALL: u32 = u32::MAX;

/// The SMART / Health Information log of an NVMe disk's controller (log page 02h).
///
/// # Errors
/// When `disk` is no NVMe disk, the caller is not root, or the controller refuses.
pub fn nvme_health_log(disk: &File) -> io::Result<[u8; 512]> {
    nvme_log(disk, 0x02)
}

/// The Sanitize Status log of an NVMe disk's controller (log page 81h).
///
/// # Errors
/// As [`nvme_health_log`]; a controller that cannot sanitize refuses.
pub fn nvme_sanitize_log(disk: &File) -> io::Result<[u8; 512]> {
    nvme_log(disk, 0x81)
}

/// `Get Log Page` (NVM Express Base 2.0 §5.16) for 512 bytes.
fn nvme_log(disk: &File, page: u32) -> io::Result<[u8; 512]> {
    const GET_LOG_PAGE: u8 = 0x02;
    let mut log = [0; 512];
    let command = AdminCommand {
        opcode: GET_LOG_PAGE,
        namespace: ALL,
        // Double words to be given, less one, in the upper half.
        cdw10: page | (512 / 4 - 1) << 16,
        timeout_ms: ANSWER_LIMIT_MS,
    };
    passthrough::nvme(disk, command, &mut log)?;
    Ok(log)
}

/// `Identify` (NVM Express Base 2.0 §5.17): the structure `what` (CNS) of that namespace.
///
/// # Errors
/// As [`nvme_health_log`].
pub fn nvme_identify(disk: &File, what: u8, namespace: u32) -> io::Result<Box<[u8; 4096]>> {
    const IDENTIFY: u8 = 0x06;
    let mut data = Box::new([0; 4096]);
    let command =
        AdminCommand { opcode: IDENTIFY, namespace, cdw10: what.into(), timeout_ms: ANSWER_LIMIT_MS };
    passthrough::nvme(disk, command, &mut *data)?;
    Ok(data)
}

/// The number of the namespace that an NVMe disk is.
///
/// # Errors
/// When `disk` is no NVMe disk.
pub fn nvme_namespace(disk: &File) -> io::Result<u32> {
    passthrough::nvme_namespace(disk)
}

/// `IDENTIFY DEVICE` of an ATA disk.
///
/// # Errors
/// When `disk` does not pass ATA commands on, or refuses.
pub fn ata_identify(disk: &File) -> io::Result<[u8; 512]> {
    ata_read(disk, 0xec, 0)
}

/// `SMART READ DATA` of an ATA disk.
///
/// # Errors
/// When `disk` does not pass ATA commands on, or refuses, as when SMART is off.
pub fn ata_smart_data(disk: &File) -> io::Result<[u8; 512]> {
    ata_read(disk, 0xb0, 0xd0)
}

/// `SMART RETURN STATUS` of an ATA disk: middle and high byte of the LBA that it gives back.
///
/// # Errors
/// When `disk` does not pass ATA commands on, or refuses, or whoever passes them on keeps the answer.
pub fn ata_smart_status(disk: &File) -> io::Result<(u8, u8)> {
    // No data; the registers shall come back, as a condition to be checked.
    let sense = passthrough::scsi(disk, &ata(3, 0x20, 0xb0, 0xda, 0), Data::None, ANSWER_LIMIT_MS)?.sense;
    // Sense data in the form of descriptors, the first of them ATA's (SAT-4 §12.2.2.7).
    if sense[0] & 0x7f == 0x72 && sense[8] == 0x09 {
        Ok((sense[8 + 9], sense[8 + 11]))
    } else {
        Err(io::Error::other("no registers came back"))
    }
}

/// A command that reads one sector.
fn ata_read(disk: &File, command: u8, feature: u8) -> io::Result<[u8; 512]> {
    let mut data = [0; 512];
    // One sector towards the host, counted in the sector count.
    let request = ata(4, 0x0e, command, feature, 1);
    match passthrough::scsi(disk, &request, Data::In(&mut data), ANSWER_LIMIT_MS)?.status {
        0 => Ok(data),
        status => Err(io::Error::other(format!("status {status:#x}"))),
    }
}

/// An `ATA PASS-THROUGH (16)` (SAT-4 §12.2.3).
fn ata(protocol: u8, options: u8, command: u8, feature: u8, count: u8) -> [u8; 16] {
    let mut request = [0; 16];
    (request[0], request[1], request[2]) = (0x85, protocol << 1, options);
    (request[4], request[6], request[14]) = (feature, count, command);
    if feature != 0 {
        // What every SMART command carries, so that none is meant by mistake.
        (request[10], request[12]) = (0x4f, 0xc2);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_disk_refuses() {
        let file = tempfile::tempfile().expect("a file");
        assert!(nvme_health_log(&file).is_err() && nvme_namespace(&file).is_err());
        assert!(ata_identify(&file).is_err() && ata_smart_status(&file).is_err());
    }
}
