//! The Kaltstart boot server and its client.
//!
//! The server is a thin shell around `kaltstart-core`: [`net`] and [`http`] are its doors,
//! [`app`] loads a machine, lets the core decide, commits through [`store`], and only then the
//! door answers. [`client`] is `ks`, which speaks to the server's `/v1`.
#![forbid(unsafe_code)]

pub mod app;
mod audit;
mod backup;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
mod confinement;
mod data_dir;
mod demo;
pub mod dhcp_options;
mod disk_keys;
pub mod doors;
pub mod exit;
pub mod explain;
pub mod http;
pub mod image_export;
pub mod image_import;
pub mod images;
mod inventory;
pub mod metrics;
pub mod net;
pub mod render;
pub mod serve;
pub mod shell;
mod sockets;
pub mod store;
pub mod summary;
pub mod tls;
pub mod trace;
pub mod usage;
mod vault;
mod whereabouts;
