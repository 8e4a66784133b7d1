//! The TFTP service over loopback.

mod bounds;
mod files;
mod lossy;
mod refusals;
mod support;
