//! System calls for which no safe wrapper exists: the only unsafe code of the agent.

pub mod block;
pub mod disk;
pub mod kernel;
pub mod kexec;
pub mod net;
pub mod xattr;
