//! What agents, installed systems and their server say to each other: read, and said again unchanged.

#![no_main]

use kaltstart_protocol::agent_api::{Directive, Hello, Installed, LogBatch, Report, Task, TaskRequest, Welcome};
use kaltstart_protocol::image::Manifest;
use kaltstart_protocol::node_api::{NodeReport, ReportConfig};
use kaltstart_protocol::recall::{Recall, RecallQuestion};
use libfuzzer_sys::fuzz_target;
use serde_json::{from_slice, to_vec};

macro_rules! unchanged {
    ($bytes:ident: $($kind:ty),+) => {
        $(if let Ok(value) = from_slice::<$kind>($bytes) {
            let said = to_vec(&value).expect("what was read can be said again");
            let again: $kind = from_slice(&said).expect("our own words");
            assert_eq!(to_vec(&again).expect("said once already"), said);
        })+
    };
}

fuzz_target!(|bytes: &[u8]| {
    unchanged!(bytes: Hello, TaskRequest, Report, Installed, LogBatch, NodeReport, RecallQuestion);
    unchanged!(bytes: Welcome, Task, Directive, Manifest, ReportConfig, Recall);
});
