//! Every decision the server makes, as functions from values to values.
//!
//! The crate performs no I/O, reads no clock and makes no randomness: it is `no_std`, so the
//! compiler refuses all three. Callers pass what they read, the time, and random numbers.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod about;
pub mod access;
pub mod approval;
pub mod audit;
pub mod boot;
pub mod class;
pub mod dhcp;
pub mod dhcp6;
pub mod document;
pub mod hardware;
pub mod http_file;
pub mod http_head;
pub mod lifecycle;
pub mod losses;
pub mod machine;
pub mod observing;
pub mod placement;
pub mod recall;
pub mod rescue;
pub mod tftp;
pub mod trace;
pub mod unlock;
pub mod usual;
pub mod why;
pub mod wipe;
