//! What the end-to-end tests and the demonstration share: a laboratory in one machine.
//!
//! | part | what it is |
//! |---|---|
//! | [`lab`] | a network namespace with a bridge, thrown away afterwards |
//! | [`guest`] | a machine with real firmware (QEMU, software emulation), [`console`] and [`qmp`] |
//! | [`pair`] | two namespaces joined by a cable, for benchmarks |
//! | [`server`] | the server under test and its client `ks`, inside the namespace |
//! | [`others`] | DHCP servers of other makers |
//! | [`clients`] | DHCP clients of other makers |
//! | [`disk`] | disk files: made, filled, looked into |
//! | [`screen`] | the screen and the keyboard of a machine with a VGA card |
//! | [`nbd`] | disks that record what a machine does to them |
//! | [`recording`] | what a machine wrote to its disks, and what a power cut leaves of them |
//! | [`ssh`] | logins to installed machines |
//! | [`story`] | one test: runs in a lab of its own, keeps evidence when it fails |
//! | [`wait`] | waiting for a state, with a limit, saying what was seen last |
//!
//! Nothing here touches the host's network: traffic stays in namespaces made here. Every process
//! is killed when its owner is dropped, and by the kernel when this process dies.

pub mod api;
pub mod artefacts;
pub mod board;
pub mod clients;
pub mod clients6;
pub mod config;
pub mod console;
pub mod disk;
pub mod guest;
pub mod http;
pub mod lab;
pub mod nbd;
pub mod others;
pub mod packets;
pub mod pair;
pub mod process;
pub mod qmp;
pub mod recording;
pub mod screen;
pub mod server;
pub mod signing;
pub mod ssh;
pub mod story;
pub mod switch;
pub mod unpacked;
pub mod variables;
pub mod wait;
