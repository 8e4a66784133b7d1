//! Conditions and ranges of a request: a part lies within the file.

#![no_main]

use kaltstart_core::http_file::{Answer, Conditions, Version, answer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, [Option<&str>; 4], [Option<u64>; 4], bool)| {
    let (len, [if_match, if_none_match, if_range, range], times, get) = input;
    let [modified, if_modified_since, if_unmodified_since, if_range_date] = times;
    let file = Version { etag: "\"tag\"", modified, len };
    let asked = Conditions {
        get,
        if_match,
        if_none_match,
        if_modified_since,
        if_unmodified_since,
        if_range,
        if_range_date,
        range,
    };
    if let Answer::Part { first, last } = answer(file, asked) {
        assert!(get && first <= last && last < len);
    }
});
