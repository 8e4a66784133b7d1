//! What two Kaltstart programs must agree on.
//!
//! The server, the agent and the installed system share the types of this crate: identifiers,
//! packets ([`dhcp`], [`dhcp6`], [`tftp`]), what a machine is ([`facts`]) and what is on its disks ([`contents`]),
//! which disk is meant ([`select`]), how it shall look ([`layout`]), what is written to it ([`image`]), what may be lost for it ([`wipe`]) and what is kept ([`keep`]), how it was erased ([`erasure`]), and what agent and server tell each other ([`agent_api`],
//! [`node_api`], and [`rescue`] while a person works on the machine).
//!
//! The crate performs no I/O, reads no clock and makes no randomness: it is `no_std`, so the
//! compiler refuses all three.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod agent_api;
pub mod burn_in;
pub mod contents;
pub mod dhcp;
pub mod dhcp6;
pub mod erasure;
pub mod facts;
pub mod finding;
pub mod ids;
pub mod image;
pub mod keep;
pub mod language;
pub mod layout;
pub mod node_api;
pub mod phase;
pub mod recall;
pub mod rescue;
pub mod restart;
pub mod secret;
pub mod select;
pub mod syslog;
pub mod tftp;
pub mod time;
pub mod unlock;
pub mod wipe;
