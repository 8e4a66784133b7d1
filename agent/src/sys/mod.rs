//! Thin safe functions over the kernel's interfaces: the only corner with `unsafe`.

pub mod kernel;
pub mod net;
