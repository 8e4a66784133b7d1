//! Whom our own programs believe: which servers, and which images.
#![forbid(unsafe_code)]

pub mod authority;
pub mod images;
