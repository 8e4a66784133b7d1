//! Messages to the management controller: the requests of `linux/ipmi.h`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// `struct ipmi_system_interface_addr`: the controller itself.
#[repr(C)]
struct Address {
    kind: i32,
    channel: i16,
    lun: u8,
}

/// `struct ipmi_msg`.
#[repr(C)]
struct Message {
    function: u8,
    command: u8,
    length: u16,
    data: *mut u8,
}

/// `struct ipmi_req`.
#[repr(C)]
struct Request {
    address: *mut Address,
    address_length: u32,
    id: std::ffi::c_long,
    message: Message,
}

/// `struct ipmi_recv`.
#[repr(C)]
struct Received {
    kind: i32,
    address: *mut u8,
    address_length: u32,
    id: std::ffi::c_long,
    message: Message,
}

mod raw {
    nix::ioctl_read!(send_command, b'i', 13, super::Request);
    nix::ioctl_readwrite!(receive_and_cut, b'i', 11, super::Received);
}

/// Longest answer, in bytes (`IPMI_MAX_MSG_LENGTH`).
const ANSWER_MAX: usize = 272;
/// Longest address, in bytes (`struct ipmi_addr`).
const ADDRESS_MAX: usize = 64;

/// Asks the controller behind `device` (`/dev/ipmi0`): network function and command of the IPMI
/// specification, with `data`. Gives the answer, which begins with the completion code.
///
/// `id` tells this answer from a late one to an earlier question.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] when nothing is heard within `limit`; else as the kernel says.
pub fn ask(
    device: &File,
    id: u16,
    function: u8,
    command: u8,
    data: &[u8],
    limit: Duration,
) -> io::Result<Vec<u8>> {
    const SYSTEM_INTERFACE: i32 = 0x0c;
    const THE_CONTROLLER: i16 = 0x0f;
    let deadline = Instant::now() + limit;
    let id = std::ffi::c_long::from(id);
    let mut address = Address { kind: SYSTEM_INTERFACE, channel: THE_CONTROLLER, lun: 0 };
    let mut data = data.to_vec();
    let length = u16::try_from(data.len()).map_err(io::Error::other)?;
    let mut request = Request {
        address: &raw mut address,
        address_length: u32::try_from(size_of::<Address>()).map_err(io::Error::other)?,
        id,
        message: Message { function, command, length, data: data.as_mut_ptr() },
    };
    // SAFETY: the kernel reads `request`, which has the layout of linux/ipmi.h, and the address and data
    // that it points to with their lengths; all live for the call.
    unsafe { raw::send_command(device.as_raw_fd(), &raw mut request)? };
    loop {
        wait(device, deadline)?;
        if let Some(answer) = receive(device, id)? {
            return Ok(answer);
        }
    }
}

/// Waits until there is something to be received.
fn wait(device: &File, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd { fd: device.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let left_ms = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the kernel reads and writes one `pollfd`, which lives for the call.
        match unsafe { libc::poll(&raw mut poll, 1, left_ms) } {
            0 => return Err(io::ErrorKind::TimedOut.into()),
            1.. => return Ok(()),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// Receives a message; none when it is no answer to the question `id`.
fn receive(device: &File, id: std::ffi::c_long) -> io::Result<Option<Vec<u8>>> {
    const ANSWER: i32 = 1;
    let (mut answer, mut from) = ([0; ANSWER_MAX], [0; ADDRESS_MAX]);
    let mut received = Received {
        kind: 0,
        address: from.as_mut_ptr(),
        address_length: ADDRESS_MAX as u32,
        id: 0,
        message: Message { function: 0, command: 0, length: ANSWER_MAX as u16, data: answer.as_mut_ptr() },
    };
    // SAFETY: the kernel reads and writes `received`, which has the layout of linux/ipmi.h, and writes at
    // most the given lengths to the address and data that it points to; all live for the call.
    match unsafe { raw::receive_and_cut(device.as_raw_fd(), &raw mut received) } {
        // What does not fit is cut, and said so.
        Ok(_) | Err(nix::errno::Errno::EMSGSIZE) => {}
        // Another thread was quicker, or it was not for us.
        Err(nix::errno::Errno::EAGAIN) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let length = usize::from(received.message.length).min(ANSWER_MAX);
    Ok((received.kind == ANSWER && received.id == id).then(|| answer[..length].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_controller_refuses() {
        let file = tempfile::tempfile().expect("a file");
        assert!(ask(&file, 1, 6, 1, &[], Duration::from_millis(10)).is_err());
    }

    #[test]
    fn a_silent_controller_is_not_waited_for_longer_than_the_limit() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let silent = File::from(std::os::fd::OwnedFd::from(ours));
        let error = wait(&silent, Instant::now() + Duration::from_millis(20)).expect_err("silence");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
