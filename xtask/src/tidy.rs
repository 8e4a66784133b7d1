//! The repository's own rules, checked as tests.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Crates that decide: what they may depend on has no clock, no files, no network, no randomness.
const PURE: [(&str, &[&str]); 2] = [
    ("server/protocol", &["ed25519-dalek", "serde", "serde_json", "sha2", "subtle", "thiserror", "zeroize"]),
    ("server/core", &["httparse", "kaltstart-protocol", "serde", "serde_json", "thiserror"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_path_buf()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn dependencies(package: &str) -> Vec<String> {
    let manifest: Value = toml::from_str(&read(Path::new(package).join("Cargo.toml"))).expect("TOML");
    manifest["dependencies"].as_object().map(|table| table.keys().cloned().collect()).unwrap_or_default()
}

/// All Rust files of the repository, as path and text.
fn sources(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(dir).expect("a readable directory").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("UTF-8");
            found.push((path, text));
        }
    }
}

#[test]
fn the_deciding_crates_cannot_do_io_read_clocks_or_draw_random_numbers() {
    for (package, allowed) in PURE {
        for dependency in dependencies(package) {
            assert!(allowed.contains(&dependency.as_str()), "{package} must not depend on {dependency}");
        }
        let library = read(Path::new(package).join("src/lib.rs"));
        for attribute in ["#![no_std]", "#![forbid(unsafe_code)]"] {
            assert!(library.contains(attribute), "{package}/src/lib.rs lacks {attribute}");
        }
        let mut files = Vec::new();
        sources(&root().join(package), &mut files);
        for (path, text) in files {
            let with_std = text.matches("extern crate std;").count();
            let for_tests = text.matches("#[cfg(test)]\nextern crate std;").count();
            assert_eq!(with_std, for_tests, "{} takes std in besides tests", path.display());
        }
    }
}

#[test]
fn xtask_depends_on_no_other_member() {
    assert!(!dependencies("xtask").iter().any(|name| name.starts_with("kaltstart")));
}

/// All that opens files for writing in the agent that only looks: its log, its names' servers, two chips
/// that are asked in writing, and its screen.
const LOOKING_WRITES: [&str; 5] =
    ["\"/dev/kmsg\"", "\"/etc/resolv.conf\"", "\"/dev/ipmi0\"", "\"/dev/tpmrm0\"", "\"/dev/tty2\""];

#[test]
fn p02_the_agent_that_only_looks_opens_no_disk_for_writing_and_starts_nothing() {
    let library = read("agent/src/lib.rs");
    let lines: Vec<&str> = library.lines().collect();
    let gated =
        lines.windows(2).filter(|pair| pair[0] == "#[cfg(feature = \"install\")]").filter_map(|pair| {
            let name = pair[1].trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';')?;
            Some(root().join("agent/src").join(name))
        });
    let gated: Vec<PathBuf> = gated.collect();
    assert!(gated.iter().any(|module| module.ends_with("disk")), "{gated:?}");
    let mut files = Vec::new();
    sources(&root().join("agent/src"), &mut files);
    let mut seen = 0;
    for (path, text) in files {
        let module = path.with_extension("");
        let is_gated = gated.iter().any(|gated| module == *gated || path.starts_with(gated));
        if is_gated || path.ends_with("main.rs") || path.to_string_lossy().ends_with("tests.rs") {
            continue;
        }
        let program = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in program.lines() {
            let writes = ["OpenOptions::", "File::create", "fs::write", "O_RDWR", "O_WRONLY", "Command::new"];
            if writes.iter().any(|word| line.contains(word)) {
                let allowed = LOOKING_WRITES.iter().any(|file| line.contains(file));
                assert!(allowed, "{}: {line}", path.display());
                seen += 1;
            }
        }
    }
    assert_eq!(seen, LOOKING_WRITES.len(), "the agent that only looks writes elsewhere");
}

#[test]
fn unsafe_code_stands_in_the_corner_of_the_agent_alone() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let corner = root().join("agent/src/sys");
    let tests = root().join("agent/tests");
    let here = root().join("xtask/src/tidy.rs");
    for (path, text) in files {
        let allowed = path.starts_with(&corner) || path.starts_with(&tests) || path == here;
        let mentions = ["allow(unsafe_code)", "expect(unsafe_code)"].iter().any(|word| text.contains(word));
        assert!(allowed || !mentions, "{} allows unsafe code", path.display());
    }
}
