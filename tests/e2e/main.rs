//! End-to-end stories: real firmware, real disks, the real server and agent.
//!
//! Needs root, and the directory of artefacts that `cargo xtask test` builds and names in
//! `KALTSTART_ARTEFACTS`. One story fails with one cause and a folder of evidence.

#![allow(clippy::unwrap_used, reason = "a test")]

/// The lab itself: every firmware asks the network.
mod firmware;
