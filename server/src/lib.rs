//! The Kaltstart boot server: what touches sockets, disks and the clock.
//!
//! Decisions are made in `kaltstart-core`, which this crate feeds with what it reads; here is
//! how packets come in and bytes go out.
#![forbid(unsafe_code)]

pub mod net;
