//! The disk: which one, what lies where on it, and how it gets there.
//!
//! | module | subject | I/O |
//! |---|---|---|
//! | [`select`] | exactly one disk, or a finding | none |
//! | [`gpt`] | partition table as bytes | none |
//! | [`fat`] | EFI system partition as bytes | none |
//! | [`device`] | the chosen disk: clear, partitions, sync, read back | block device |
//! | [`mkfs`] | the root file system and its mount | `mke2fs`, `mount` |

pub mod device;
pub mod fat;
pub mod gpt;
pub mod mkfs;
pub mod select;

pub use select::select;
