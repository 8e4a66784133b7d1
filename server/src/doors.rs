//! What the UDP doors ask of the application: who is there, what may start, what was promised.

mod dhcp;
mod dhcp6;
mod syslog;
mod tftp;

pub use dhcp::{DhcpDoor, dhcp_service};
pub(crate) use dhcp6::Dhcp6Door;
pub(crate) use syslog::SyslogDoor;
pub(crate) use tftp::{TftpCounter, TftpDoor};
