//! Services on sockets of the machine network.

pub mod dhcp;
pub mod neighbours;
pub mod ra;
pub mod syslog;
pub mod tftp;
