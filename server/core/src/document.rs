//! What is stored, as a document of JSON.
//!
//! It is read and written in this crate, as builds for tests optimise it, and do not optimise the store: a simulated fleet does
//! little else.

use crate::access::Token;
use crate::audit::Record;
use crate::machine::{Job, Node};
use crate::observing::{Difference, Restored};
use alloc::string::String;
use serde_json::Error;

/// Something that is stored as a document.
pub trait Document: Sized {
    /// Reads one.
    ///
    /// # Errors
    /// When `text` is none of that kind.
    fn from_json(text: &str) -> Result<Self, Error>;

    /// Writes it.
    ///
    /// # Errors
    /// When it cannot be said in JSON.
    fn to_json(&self) -> Result<String, Error>;
}

macro_rules! documents {
    ($($kind:ty),*) => {$(
        impl Document for $kind {
            fn from_json(text: &str) -> Result<Self, Error> {
                serde_json::from_str(text)
            }

            fn to_json(&self) -> Result<String, Error> {
                serde_json::to_string(self)
            }
        }
    )*};
}

documents!(Node, Job, Difference, Restored, Token, Record);
