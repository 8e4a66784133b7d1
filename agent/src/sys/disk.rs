//! What a disk is asked about itself: NVMe's `linux/nvme_ioctl.h`, and ATA by `scsi/sg.h`. Each
//! request is made here as a whole, and none of them changes anything on the disk.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Longest a disk may take to answer, in milliseconds.
const ANSWER_LIMIT_MS: u32 = 5_000;

/// `struct nvme_admin_cmd`.
#[repr(C)]
#[derive(Default)]
struct AdminCommand {
    opcode: u8,
    flags: u8,
    reserved1: u16,
    namespace: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    address: u64,
    metadata_length: u32,
    data_length: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

/// `struct sg_io_hdr`.
#[repr(C)]
struct SgHeader {
    interface: i32,
    direction: i32,
    command_length: u8,
    sense_length_max: u8,
    iovec_count: u16,
    data_length: u32,
    data: *mut u8,
    command: *const u8,
    sense: *mut u8,
    timeout_ms: u32,
    flags: u32,
    pack_id: i32,
    user: *mut u8,
    status: u8,
    masked_status: u8,
    message_status: u8,
    sense_length: u8,
    host_status: u16,
    driver_status: u16,
    residue: i32,
    duration: u32,
    info: u32,
}

/// The SMART / Health Information log of an NVMe disk's controller (log page 02h).
///
/// # Errors
/// When `disk` is no NVMe disk, the caller is not root, or the controller refuses.
pub fn nvme_health_log(disk: &File) -> io::Result<[u8; 512]> {
    nix::ioctl_readwrite!(admin_command, b'N', 0x41, AdminCommand);
    const GET_LOG_PAGE: u8 = 0x02;
    const HEALTH: u32 = 0x02;
    let mut log = [0_u8; 512];
    let mut command = AdminCommand {
        opcode: GET_LOG_PAGE,
        namespace: u32::MAX,
        address: log.as_mut_ptr() as u64,
        data_length: 512,
        // Double words to be given, less one, in the upper half.
        cdw10: HEALTH | (512 / 4 - 1) << 16,
        timeout_ms: ANSWER_LIMIT_MS,
        ..AdminCommand::default()
    };
    // SAFETY: the kernel reads and writes `command`, which has the layout of linux/nvme_ioctl.h, and
    // writes at most `data_length` bytes to `log`; both live for the call.
    let status = unsafe { admin_command(disk.as_raw_fd(), &raw mut command)? };
    if status == 0 { Ok(log) } else { Err(io::Error::other(format!("NVMe status {status:#x}"))) }
}

/// `IDENTIFY DEVICE` of an ATA disk.
///
/// # Errors
/// When `disk` does not pass ATA commands on, or refuses.
pub fn ata_identify(disk: &File) -> io::Result<[u8; 512]> {
    ata(disk, 0xec, 0).map(|(data, _)| data)
}

/// `SMART READ DATA` of an ATA disk.
///
/// # Errors
/// When `disk` does not pass ATA commands on, or refuses, as when SMART is off.
pub fn ata_smart_data(disk: &File) -> io::Result<[u8; 512]> {
    ata(disk, 0xb0, 0xd0).map(|(data, _)| data)
}

/// `SMART RETURN STATUS` of an ATA disk: middle and high byte of the LBA that it gives back.
///
/// # Errors
/// When `disk` does not pass ATA commands on, or refuses, or whoever passes them on keeps the answer.
pub fn ata_smart_status(disk: &File) -> io::Result<(u8, u8)> {
    let (_, sense) = ata(disk, 0xb0, 0xda)?;
    // Sense data in the form of descriptors, the first of them ATA's (SAT-4 §12.2.2.7).
    if sense[0] & 0x7f == 0x72 && sense[8] == 0x09 {
        Ok((sense[8 + 9], sense[8 + 11]))
    } else {
        Err(io::Error::other("no registers came back"))
    }
}

/// One `ATA PASS-THROUGH (16)` (SAT-4 §12.2.3) that reads a sector, or only asks for registers;
/// gives the data and the sense.
fn ata(disk: &File, command: u8, feature: u8) -> io::Result<([u8; 512], [u8; 32])> {
    const SG_IO: libc::c_ulong = 0x2285;
    const RETURN_STATUS: u8 = 0xda;
    // Protocol, then: check condition for registers; or one sector towards the host, counted in the
    // sector count.
    let (protocol, options, count, direction) =
        if feature == RETURN_STATUS { (3 << 1, 0x20, 0, -1) } else { (4 << 1, 0x0e, 1, -3) };
    let mut request = [0_u8; 16];
    (request[0], request[1], request[2]) = (0x85, protocol, options);
    (request[4], request[6], request[14]) = (feature, count, command);
    if feature != 0 {
        // What every SMART command carries, so that none is meant by mistake.
        (request[10], request[12]) = (0x4f, 0xc2);
    }
    let (mut data, mut sense) = ([0_u8; 512], [0_u8; 32]);
    let mut header = SgHeader {
        interface: i32::from(b'S'),
        direction,
        command_length: 16,
        sense_length_max: 32,
        iovec_count: 0,
        data_length: if direction == -1 { 0 } else { 512 },
        data: data.as_mut_ptr(),
        command: request.as_ptr(),
        sense: sense.as_mut_ptr(),
        timeout_ms: ANSWER_LIMIT_MS,
        flags: 0,
        pack_id: 0,
        user: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        message_status: 0,
        sense_length: 0,
        host_status: 0,
        driver_status: 0,
        residue: 0,
        duration: 0,
        info: 0,
    };
    // SAFETY: the kernel reads and writes `header`, which has the layout of scsi/sg.h, reads
    // `request`, and writes at most their lengths to `data` and `sense`; all live for the call.
    let result =
        unsafe { libc::ioctl(disk.as_raw_fd(), SG_IO as libc::Ioctl, std::ptr::from_mut(&mut header)) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // Registers come as a condition to be checked; for data, any condition is a refusal.
    let refused = direction != -1 && header.status != 0;
    if refused || header.host_status != 0 || header.residue != 0 {
        return Err(io::Error::other(format!(
            "status {:#x}, host {:#x}, {} bytes missing",
            header.status, header.host_status, header.residue
        )));
    }
    Ok((data, sense))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_disk_refuses() {
        let file = tempfile::tempfile().expect("a file");
        assert!(nvme_health_log(&file).is_err());
        assert!(ata_identify(&file).is_err() && ata_smart_status(&file).is_err());
    }
}
