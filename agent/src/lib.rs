//! The Kaltstart agent: PID 1 of a ramdisk that lists the hardware, lays down an image, reports.
//!
//! [`run`] is a whole start: [`devices`] loads drivers and, when the machine is only looked at,
//! sets its disks read-only; [`net`] gets an address; [`link`] talks to the server; [`screen`] shows people in front of the machine how it goes; [`work`] does
//! what the server asks: with the feature `install`, [`job`] and [`install`] lay down an image, [`erase`] empties disks, and `rescue` holds the machine for a person. [`report`] is the other face: the same
//! program in the installed system, which tells the server once that it is up.
//!
//! Without that feature it is the program for machines that are only looked at. Nothing in it opens a disk
//! for writing.
//!
//! The agent listens to nothing, runs nothing from the image it writes, and waits for its server
//! for ever.

pub mod aside;
pub mod backoff;
pub mod bmc;
#[cfg(feature = "install")]
pub mod boot_order;
#[cfg(feature = "install")]
pub mod bootloader;
#[cfg(feature = "install")]
mod burn_in;
pub mod clock;
pub mod cmdline;
pub mod contents;
pub mod devices;
pub mod dhcp_client;
#[cfg(feature = "install")]
pub mod disk;
#[cfg(feature = "install")]
pub mod erase;
#[cfg(feature = "install")]
pub mod esp;
#[cfg(feature = "install")]
pub mod gate;
pub mod guard;
pub mod health;
pub mod http;
pub mod http_date;
#[cfg(feature = "install")]
pub mod http_source;
#[cfg(feature = "install")]
pub mod identity;
#[cfg(feature = "install")]
pub mod image;
#[cfg(feature = "install")]
pub mod install;
#[cfg(feature = "install")]
mod installer;
pub mod inventory;
#[cfg(feature = "install")]
pub mod job;
#[cfg(feature = "install")]
pub mod kexec;
pub mod link;
pub mod lldp;
pub mod log;
pub mod log_sender;
pub mod modules;
pub mod neighbours;
pub mod net;
pub mod pid1;
#[cfg(feature = "install")]
mod questions;
#[cfg(feature = "install")]
pub mod recall;
#[cfg(feature = "install")]
pub mod report;
#[cfg(feature = "install")]
pub mod reporter;
#[cfg(feature = "install")]
mod rescue;
pub mod run;
pub mod screen;
pub mod smbios;
pub mod sys;
#[cfg(test)]
mod test_server;
pub mod tpm;
#[cfg(feature = "install")]
pub mod unlock;
pub mod work;
