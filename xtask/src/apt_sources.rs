//! The machine's own apt sources for one Debian suite, so that no recipe
//! names a mirror.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Writes the sources of `suite` into `dir`, one file per style of the machine's
/// configuration, and returns the files. mmdebstrap takes them as its mirrors.
pub(crate) fn write(suite: &str, dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut deb822, mut one_line) = (String::new(), String::new());
    for path in configured()? {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if path.extension().is_some_and(|extension| extension == "sources") {
            deb822 += &deb822_for(&text, suite);
        } else {
            one_line += &one_line_for(&text, suite);
        }
    }
    let mut files = Vec::new();
    for (name, text) in [("image.sources", deb822), ("image.list", one_line)] {
        if !text.is_empty() {
            let path = dir.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!("the machine's apt sources have no Debian {suite}; add it under /etc/apt");
    }
    Ok(files)
}

/// The files apt reads its sources from.
fn configured() -> Result<Vec<PathBuf>> {
    let directory = Path::new("/etc/apt/sources.list.d");
    let mut paths = vec![PathBuf::from("/etc/apt/sources.list")];
    if directory.exists() {
        for entry in fs::read_dir(directory).context("cannot read /etc/apt/sources.list.d")? {
            paths.push(entry?.path());
        }
    }
    paths.retain(|path| path.is_file() && path.extension().is_some_and(|e| e == "list" || e == "sources"));
    paths.sort();
    Ok(paths)
}

/// Whether `name` is the suite, its updates or its security updates. Third
/// parties that name their suite after Debian's are told apart by component.
fn is_suite(name: &str, suite: &str) -> bool {
    let rest = name.strip_prefix(suite);
    rest.is_some_and(|rest| ["", "-updates", "-security", "/updates"].contains(&rest))
}

/// The stanzas of a `.sources` file (deb822) that serve `suite`.
fn deb822_for(text: &str, suite: &str) -> String {
    let mut stanzas = vec![String::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match (line.trim().is_empty(), stanzas.last_mut()) {
            (false, Some(stanza)) => *stanza += &format!("{line}\n"),
            _ => stanzas.push(String::new()),
        }
    }
    let has = |stanza: &str, field: &str, test: &dyn Fn(&str) -> bool| {
        stanza
            .lines()
            .filter_map(|line| line.split_once(':'))
            .any(|(name, value)| name.eq_ignore_ascii_case(field) && value.split_whitespace().any(test))
    };
    stanzas
        .iter()
        .filter(|stanza| has(stanza, "Suites", &|word| is_suite(word, suite)))
        .filter(|stanza| has(stanza, "Components", &|word| word == "main"))
        .filter(|stanza| !has(stanza, "Enabled", &|word| word == "no"))
        .map(|stanza| format!("{stanza}\n"))
        .collect()
}

/// The lines of a `.list` file that serve `suite`.
fn one_line_for(text: &str, suite: &str) -> String {
    let serves = |line: &&str| {
        let Some(rest) = line.trim().strip_prefix("deb ") else { return false };
        // Options stand in brackets before the address and may hold spaces.
        let rest = match rest.trim_start().strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
            None => rest,
        };
        let mut words = rest.split_whitespace().skip(1);
        words.next().is_some_and(|word| is_suite(word, suite)) && words.any(|word| word == "main")
    };
    text.lines().filter(serves).map(|line| format!("{}\n", line.trim())).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_of_the_suite_are_kept_whole() {
        let debian = "Types: deb\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\n\
            Components: main\nSigned-By:\n -----BEGIN KEY-----\n .\n -----END KEY-----\n";
        let other = "Types: deb\nURIs: http://other\nSuites: nodistro\nComponents: main\n";
        let named_alike = "Types: deb\nURIs: http://other\nSuites: bookworm-pgdg\nComponents: main\n";
        let disabled = format!("Enabled: no\n{debian}");
        let text = format!("# comment\n{other}\n{debian}\n\n{named_alike}\n{disabled}");
        assert_eq!(deb822_for(&text, "bookworm"), format!("{debian}\n"));
    }

    #[test]
    fn lines_of_the_suite_are_kept_with_their_options() {
        let text = "# deb http://mirror/debian bookworm main\n\
            deb [arch=amd64 signed-by=/key] http://mirror/debian bookworm main contrib\n\
            deb http://mirror/security bookworm-security main\n\
            deb-src http://mirror/debian bookworm main\n\
            deb http://other/docker bookworm stable\n\
            deb http://mirror/debian trixie main\n";
        let kept = one_line_for(text, "bookworm");
        assert_eq!(kept.lines().count(), 2);
        assert!(kept.starts_with("deb [arch=amd64 signed-by=/key] http://mirror/debian bookworm"));
    }
}
