//! What to type next, when something is missing from a command.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::path::Path;

/// Where to find what is missing.
const FOUND: [(&str, &str); 7] = [
    ("<NODE>", "`ks node list` shows the nodes"),
    ("--profile", "`ks profile list` shows the profiles"),
    ("--confirm <NODE>", "--confirm takes the node's name once more"),
    ("--confirm <NUMBER>", "--confirm takes the number of differences that `ks restored` shows"),
    ("--mac", "the MAC is that of the interface it boots from, as 52:54:00:12:34:56"),
    ("--config", "the file is the one that the server is started with, as /etc/kaltstart/kaltstart.toml"),
    ("--about", "images/README.md has such a file"),
];

/// The command that was `typed`, with what it lacks; none if it is wrong in another way.
#[must_use]
pub fn next(error: &clap::Error, typed: &[String]) -> Option<String> {
    let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg) else { return None };
    let (program, words) =
        typed.split_first().filter(|_| error.kind() == ErrorKind::MissingRequiredArgument)?;
    let program = Path::new(program).file_name()?.to_string_lossy().into_owned();
    let words = words.iter().map(|word| quoted(word)).chain(missing.iter().cloned());
    let command = [program].into_iter().chain(words).collect::<Vec<_>>().join(" ");
    let hints = FOUND.iter().filter(|(name, _)| missing.iter().any(|argument| argument.starts_with(name)));
    let hints: Vec<&str> = hints.map(|(_, hint)| *hint).collect();
    let hints = if hints.is_empty() { String::new() } else { format!("\n({})", hints.join("; ")) };
    Some(format!("Type next: {command}{hints}"))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser as _;

    fn told(typed: &[&str]) -> Option<String> {
        let error = Cli::try_parse_from(typed).expect_err("refused");
        let typed: Vec<String> = typed.iter().map(|word| (*word).to_owned()).collect();
        next(&error, &typed)
    }

    #[test]
    fn a_command_that_lacks_something_is_told_whole() {
        let next = |typed: &[&str]| told(typed).expect("something is missing");
        assert_eq!(
            next(&["/usr/bin/ks", "deploy", "db-07"]),
            "Type next: ks deploy db-07 --profile <PROFILE>\n(`ks profile list` shows the profiles)"
        );
        let both = next(&["ks", "rebuild", "db-07", "--keep", "a b"]);
        assert!(
            both.starts_with("Type next: ks rebuild db-07 --keep 'a b' --profile <PROFILE> --confirm <NODE>"),
            "{both}"
        );
        assert!(both.contains("the node's name once more"), "{both}");
        assert!(next(&["ks", "why"]).contains("ks why <NODE>\n(`ks node list`"));
        assert_eq!(told(&["ks", "deploy", "n1", "--profil", "x"]), None, "a slip of the hand");
    }
}
