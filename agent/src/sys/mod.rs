//! System calls for which no safe wrapper exists: the only unsafe code of the agent.

pub mod block;
#[cfg(feature = "install")]
pub mod btrfs;
pub mod disk;
#[cfg(feature = "install")]
pub mod dm;
#[cfg(feature = "install")]
pub mod erase;
pub mod ipmi;
pub mod kernel;
pub mod kexec;
pub mod net;
mod passthrough;
#[cfg(feature = "install")]
pub mod pty;
pub mod vt;
pub mod xattr;
