//! Texts that the agent is given: the kernel's command line, the date of an answer, access control lists
//! in an image. An agent that starts knows whom to believe.

#![no_main]

// As in `agent_dhcp`.
#[path = "../../../agent/src/image/acl.rs"]
mod acl;
#[allow(dead_code, reason = "the agent uses all of it")]
#[path = "../../../agent/src/cmdline.rs"]
mod cmdline;
#[allow(dead_code, reason = "the agent uses all of it")]
#[path = "../../../agent/src/http_date.rs"]
mod http_date;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match cmdline::parse(text) {
        Ok(settings) => {
            assert!(
                settings
                    .servers
                    .iter()
                    .all(|server| server.starts_with("https://") && !server.ends_with('/'))
            );
            assert!(!settings.token.expose().is_empty());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Ok(list) = acl::encode(text, &acl::Names::new("root:x:0:0\n", "staff:x:50:\n")) {
        assert_eq!(list.len() % 8, 4, "a version, and entries of eight bytes (linux/posix_acl_xattr.h)");
    }
    // The date of an answer.
    if let Some(seconds) = http_date::parse(text) {
        assert!((0..=253_402_300_800).contains(&seconds), "before 1970 or after 9999: {seconds}");
    }
});
