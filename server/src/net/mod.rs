//! Services on sockets of the machine network.

pub mod dhcp;
pub mod dhcp6;
pub mod interfaces;
pub mod neighbours;
pub mod ra;
pub(crate) mod rarely;
mod storm;
pub mod syslog;
pub mod tftp;
