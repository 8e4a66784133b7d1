//! The Kaltstart agent: PID 1 of a ramdisk that lists the hardware, lays down an image, reports.
//!
//! [`run`] is a whole start: [`devices`] loads drivers and, when the machine is only looked at,
//! sets its disks read-only; [`net`] gets an address; [`link`] talks to the server; [`work`] does
//! what the server asks, and [`install`] lays down an image. [`report`] is the other face: the same program in the installed system,
//! which tells the server once that it is up.
//!
//! The agent listens to nothing, runs nothing from the image it writes, and waits for its server
//! for ever.

pub mod backoff;
pub mod boot_order;
pub mod bootloader;
pub mod clock;
pub mod cmdline;
pub mod contents;
pub mod devices;
pub mod dhcp_client;
pub mod disk;
pub mod guard;
pub mod http;
pub mod http_date;
pub mod http_source;
pub mod identity;
pub mod image;
pub mod install;
pub mod inventory;
pub mod link;
pub mod log;
pub mod log_sender;
pub mod modules;
pub mod net;
pub mod pid1;
pub mod report;
pub mod reporter;
pub mod run;
pub mod sys;
#[cfg(test)]
mod test_server;
pub mod work;
