//! UEFI firmware and iPXE: ask for an address and a file, fetch it, and do what that says. They stand for programs of
//! others, so they are written here, and kept simple.

use crate::wire::Wire;
use crate::{LOADER, LONGER, Machine, Next, SELF_TEST, stop};
use kaltstart_agent::log::console;
use kaltstart_agent::sys::kernel::{random_u32, uptime};
use kaltstart_protocol::dhcp::options::code;
use kaltstart_protocol::dhcp::{Message, MessageType};
use std::io;
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often it is asked, and how long each answer is waited for.
const TRIES: u32 = 4;
const WAIT: Duration = Duration::from_secs(4);
/// Between two starts of a script that failed, as the script says.
const AGAIN: Duration = Duration::from_secs(10);

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    /// The firmware's PXE.
    Pxe,
    /// The loader.
    Ipxe,
}

/// An address, and the file to start.
struct Given {
    address: Ipv4Addr,
    file: String,
}

/// Starts the firmware; says what it starts in the end.
pub(crate) fn start(machine: &Machine, wire: &Wire) -> Next {
    console("\nfirmware: self-test");
    let [.., last] = machine.mac.0;
    sleep(SELF_TEST + LONGER * last.into());
    let Some(given) = address(machine, wire, Program::Pxe) else {
        console("firmware: no answer to DHCP; trying its own disk");
        return Next::OwnDisk;
    };
    console(&format!("firmware: {} by DHCP, loads {:?} by TFTP", given.address, given.file));
    match wire.tftp(given.address, &given.file) {
        Ok(Some(loader)) => console(&format!("firmware: {} bytes; starts iPXE", loader.len())),
        Ok(None) => {
            console("firmware: there is no such file; on to its own disk");
            return Next::OwnDisk;
        }
        Err(error) => stop(&format!("firmware: {error}; stands still")),
    }
    sleep(LOADER);
    loop {
        let Some(given) = address(machine, wire, Program::Ipxe).filter(|given| !given.file.is_empty()) else {
            console("iPXE: nothing to start; back to the firmware, on to its own disk");
            return Next::OwnDisk;
        };
        match script(wire, &given) {
            Ok(next) => return next,
            Err(error) => console(&format!("iPXE: {error}; starting over in {} s", AGAIN.as_secs())),
        }
        sleep(AGAIN);
    }
}

/// Asks for an address (RFC 2131 §3.1); none when nobody answers.
fn address(machine: &Machine, wire: &Wire, program: Program) -> Option<Given> {
    let (began, xid) = (Instant::now(), random_u32());
    let (mut kind, mut wanted) = (MessageType::Discover, None);
    for _ in 0..TRIES {
        let mut message = Message::request(kind, xid, machine.mac);
        message.secs = u16::try_from(began.elapsed().as_secs()).unwrap_or(u16::MAX);
        message.options.set(code::VENDOR_CLASS, "PXEClient:Arch:00007:UNDI:003016");
        message.options.set(code::ARCHITECTURE, [0, 7]);
        if program == Program::Ipxe {
            message.options.set(code::USER_CLASS, "iPXE");
        }
        if let Some((address, server)) = wanted {
            message.options.set_addresses(code::REQUESTED_ADDRESS, &[address]);
            message.options.set_addresses(code::SERVER_ID, &[server]);
        }
        wire.send(&message.encode());
        let until = uptime() + WAIT;
        while let Some(reply) = wire.receive(until.saturating_sub(uptime())) {
            if reply.xid != xid {
                continue;
            }
            match (kind, reply.kind(), reply.server_id()) {
                (MessageType::Discover, Some(MessageType::Offer), Some(server)) => {
                    (kind, wanted) = (MessageType::Request, Some((reply.yiaddr, server)));
                    break;
                }
                (MessageType::Request, Some(MessageType::Ack), _) => {
                    let file = String::from_utf8_lossy(&reply.file).into_owned();
                    return Some(Given { address: reply.yiaddr, file });
                }
                (MessageType::Request, Some(MessageType::Nak), _) => {
                    (kind, wanted) = (MessageType::Discover, None);
                    break;
                }
                _ => {}
            }
        }
    }
    None
}

/// Does what iPXE's script says: kernel and ramdisk are fetched, or the machine's own disk is started.
fn script(wire: &Wire, given: &Given) -> io::Result<Next> {
    let fetch = |url: &str| {
        console(&format!("iPXE: {url}"));
        wire.http(given.address, url)?.ok_or_else(|| io::Error::other("the server does not give it"))
    };
    let text = fetch(&given.file)?;
    let text = String::from_utf8_lossy(&text);
    let command = |name: &str| {
        text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_suffix(" || goto failed"))
    };
    let Some((kernel, arguments)) = command("kernel ").and_then(|line| line.split_once(' ')) else {
        console("iPXE: back to the firmware, on to its own disk");
        return Ok(Next::OwnDisk);
    };
    fetch(kernel)?;
    fetch(command("initrd ").unwrap_or_default())?;
    Ok(Next::Agent(arguments.to_owned()))
}
