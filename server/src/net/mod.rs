//! Services on UDP sockets.

pub mod tftp;
