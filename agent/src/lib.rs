//! The Kaltstart agent: PID 1 of a ramdisk that lists the hardware and lays down an image.
//!
//! Synchronous, and of this project's crates it knows only `kaltstart-protocol`. It runs nothing
//! from the image it writes.

pub mod bootloader;
pub mod disk;
pub mod identity;
pub mod image;
pub mod install;
pub mod sys;
