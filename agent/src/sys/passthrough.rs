//! Commands that go to a disk as they are: NVMe's by `linux/nvme_ioctl.h`, ATA's by `scsi/sg.h`. What is
//! sent is made beside this file, by questions ([`super::disk`]) and by orders to erase.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// A command to an NVMe controller, as far as ours use it.
#[derive(Debug, Clone, Copy)]
pub(super) struct AdminCommand {
    pub(super) opcode: u8,
    /// For which namespace; 0 for none, `u32::MAX` for all.
    pub(super) namespace: u32,
    pub(super) cdw10: u32,
    pub(super) timeout_ms: u32,
}

/// `struct nvme_admin_cmd`.
#[repr(C)]
#[derive(Default)]
struct NvmeAdmin {
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

/// Data of an ATA command.
pub(super) enum Data<'a> {
    /// There is none.
    None,
    /// From the disk.
    In(&'a mut [u8; 512]),
    /// To the disk.
    #[cfg(feature = "install")]
    Out(&'a [u8; 512]),
}

/// What came back of an ATA command.
pub(super) struct Answer {
    /// The SCSI status.
    pub(super) status: u8,
    /// Sense data.
    pub(super) sense: [u8; 32],
}

/// Sends a command to the controller of an NVMe disk, and reads what it gives into `data`.
///
/// # Errors
/// When `disk` is no NVMe disk, the caller is not root, or the controller refuses.
pub(super) fn nvme(disk: &File, command: AdminCommand, data: &mut [u8]) -> io::Result<()> {
    nix::ioctl_readwrite!(admin_command, b'N', 0x41, NvmeAdmin);
    let AdminCommand { opcode, namespace, cdw10, timeout_ms } = command;
    let mut command = NvmeAdmin { opcode, namespace, cdw10, timeout_ms, ..NvmeAdmin::default() };
    if !data.is_empty() {
        command.address = data.as_mut_ptr() as u64;
        command.data_length = u32::try_from(data.len()).map_err(io::Error::other)?;
    }
    // SAFETY: the kernel reads and writes `command`, which has the layout of linux/nvme_ioctl.h, and
    // writes at most `data_length` bytes to `data`; both live for the call.
    let status = unsafe { admin_command(disk.as_raw_fd(), &raw mut command)? };
    if status == 0 { Ok(()) } else { Err(io::Error::other(format!("NVMe status {status:#x}"))) }
}

/// The number of the namespace that an NVMe disk is.
///
/// # Errors
/// When `disk` is no NVMe disk.
pub(super) fn nvme_namespace(disk: &File) -> io::Result<u32> {
    nix::ioctl_none!(namespace_id, b'N', 0x40);
    // SAFETY: takes no argument; the number is what it gives back.
    let number = unsafe { namespace_id(disk.as_raw_fd())? };
    u32::try_from(number).map_err(io::Error::other)
}

/// Sends a SCSI command of 16 bytes.
///
/// # Errors
/// When `disk` does not pass such commands on, or the way to it fails; a refusal is the answer's status.
pub(super) fn scsi(disk: &File, command: &[u8; 16], data: Data<'_>, timeout_ms: u32) -> io::Result<Answer> {
    const SG_IO: libc::c_ulong = 0x2285;
    const NONE: i32 = -1;
    #[cfg(feature = "install")]
    const TO_DISK: i32 = -2;
    const FROM_DISK: i32 = -3;
    let mut sense = [0_u8; 32];
    let (direction, data_length, data) = match data {
        Data::None => (NONE, 0, std::ptr::null_mut()),
        Data::In(bytes) => (FROM_DISK, 512, bytes.as_mut_ptr()),
        #[cfg(feature = "install")]
        Data::Out(bytes) => (TO_DISK, 512, bytes.as_ptr().cast_mut()),
    };
    let mut header = SgHeader {
        interface: i32::from(b'S'),
        direction,
        command_length: 16,
        sense_length_max: 32,
        iovec_count: 0,
        data_length,
        data,
        command: command.as_ptr(),
        sense: sense.as_mut_ptr(),
        timeout_ms,
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
    // `command`, and reads or, where the direction is from the disk alone, writes at most their lengths of
    // `data` and `sense`; all live for the call.
    let result =
        unsafe { libc::ioctl(disk.as_raw_fd(), SG_IO as libc::Ioctl, std::ptr::from_mut(&mut header)) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if header.host_status != 0 || header.residue != 0 {
        let (host, residue) = (header.host_status, header.residue);
        return Err(io::Error::other(format!("host status {host:#x}, {residue} bytes missing")));
    }
    Ok(Answer { status: header.status, sense })
}
