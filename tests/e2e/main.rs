//! End-to-end stories: real firmware, real disks, the real server and agent.
//!
//! Needs root, and the directory of artefacts that `cargo xtask test` builds and names in
//! `KALTSTART_ARTEFACTS`. A story that fails says one cause and where its evidence is.

/// Disks with bad sectors, and slow ones.
mod bad_disk;
/// Beside a DHCP server of somebody else.
mod beside;
/// TPM and management controller of a machine.
mod board;
/// The parts of a machine at work before it is trusted with anything.
mod burn_in;
/// Images through a cache that dies.
mod caches;
/// What most stories start with.
mod common;
/// A damaged image is refused.
mod damage;
/// The real Debian.
mod debian;
/// A blank machine is installed, by every firmware.
mod deploy;
/// Machines that start over IPv6.
mod dhcp6;
/// DHCP clients of other makers.
mod dhcp_clients;
/// A relay of another maker.
mod dhcp_relay;
/// Hardware of physical servers.
mod discover;
/// Every door, for every state of a machine.
mod doors;
/// Encrypted disks and their keys.
mod encrypted;
/// What a machine is made of, and what is wrong with it.
mod facts;
/// Images that are file systems.
mod file_system;
/// What is wrong is named.
mod finding;
/// The lab itself: every firmware asks the network.
mod firmware;
/// Without a granted job nothing is written.
mod grant;
/// Packets that no client sends.
mod hostile;
/// HTTP clients of other makers.
mod http_clients;
/// Server or machine die in the middle.
mod interrupted;
/// A partition whose data is kept.
mod keep;
/// From the agent to the system without firmware.
mod kexec;
/// Addresses through `kill -9` and a full disk.
mod leases;
/// What asking the network adds to the start of a machine's own system.
mod local;
/// Volume groups.
mod lvm;
/// Systems on several disks.
mod mirror;
#[path = "../../server/tests/support/postgres.rs"]
mod postgres_server;
/// The power fails at any write.
mod powercut;
/// A rebuild without a start over the network.
mod recall;
/// All disks of a node are erased.
mod release;
/// A machine in the hands of a person.
mod rescue;
/// A copy of the server's data is restored that is older than the machines.
mod restored;
/// What people in front of a machine see.
mod screen;
/// Secure Boot stays on.
mod secure_boot;
mod sentinels;
/// TFTP clients of other makers.
mod tftp_clients;
/// Agent and server know each other, and nobody else.
mod trust;
/// Two servers with one database.
mod two_servers;
/// Why a machine does not start.
mod why;
/// The same with real firmware.
mod why_firmware;
/// Only what was granted may be lost.
mod wipe;
