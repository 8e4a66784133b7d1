//! Orders to a disk to erase itself. All that was on it, or on one of its namespaces, is lost.

use super::disk::ANSWER_LIMIT_MS;
use super::passthrough::{self, AdminCommand, Data};
use std::fs::File;
use std::io;

/// `Sanitize` (NVM Express Base 2.0 §5.24) with command dword 10 as given. The controller goes on by
/// itself after this returns, over a loss of power too.
///
/// # Errors
/// When `disk` is no NVMe disk, or the controller refuses.
pub fn nvme_sanitize(disk: &File, cdw10: u32) -> io::Result<()> {
    const SANITIZE: u8 = 0x84;
    let command = AdminCommand { opcode: SANITIZE, namespace: 0, cdw10, timeout_ms: ANSWER_LIMIT_MS };
    passthrough::nvme(disk, command, &mut [])
}

/// `Format NVM` (NVM Express Base 2.0 §5.14) of one namespace with command dword 10 as given; returns
/// when it is done.
///
/// # Errors
/// When `disk` is no NVMe disk, the controller refuses, or it took longer than `timeout_ms`.
pub fn nvme_format(disk: &File, namespace: u32, cdw10: u32, timeout_ms: u32) -> io::Result<()> {
    const FORMAT: u8 = 0x80;
    let command = AdminCommand { opcode: FORMAT, namespace, cdw10, timeout_ms };
    passthrough::nvme(disk, command, &mut [])
}

/// An `ATA PASS-THROUGH (16)` as given, with the sector of data that goes with it; returns when it is done.
///
/// # Errors
/// When `disk` does not pass ATA commands on, refuses, or took longer than `timeout_ms`.
pub fn ata_order(
    disk: &File,
    command: &[u8; 16],
    data: Option<&[u8; 512]>,
    timeout_ms: u32,
) -> io::Result<()> {
    let data = data.map_or(Data::None, Data::Out);
    match passthrough::scsi(disk, command, data, timeout_ms)?.status {
        0 => Ok(()),
        status => Err(io::Error::other(format!("the disk refused it (SCSI status {status:#x})"))),
    }
}
