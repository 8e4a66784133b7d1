//! Kernel arguments in the languages of boot loaders: they arrive as they are, or are refused.

use alloc::string::String;
use alloc::vec::Vec;

/// Kernel arguments that a loader would not pass on as they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{loader} would not pass {word:?} on as it is: {why}")]
pub struct Unspeakable {
    /// Which loader.
    pub loader: &'static str,
    /// The argument.
    pub word: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// `arguments` as part of a line of an iPXE script. iPXE expands `${…}` anywhere, and takes some
/// words for the end of the command; it has no quotes.
///
/// # Errors
/// When an argument would not arrive as it is.
pub fn for_ipxe(arguments: &str) -> Result<String, Unspeakable> {
    let why = |word: &str| {
        if word.contains("${") {
            Some("iPXE would expand it")
        } else if ["||", "&&", ";"].contains(&word) || word.starts_with('#') {
            Some("it ends the command")
        } else {
            None
        }
    };
    words("iPXE", arguments, why).map(|words| words.join(" "))
}

/// `arguments` as part of a line of a GRUB script: each between single quotes, where GRUB
/// interprets nothing. Its `linux` command puts a backslash before quotes and backslashes, so
/// those cannot be passed at all.
///
/// # Errors
/// When an argument would not arrive as it is.
pub fn for_grub(arguments: &str) -> Result<String, Unspeakable> {
    let why = |word: &str| {
        let bad = |c: char| matches!(c, '\'' | '"' | '\\');
        word.contains(bad).then_some("GRUB passes no quotes and no backslashes")
    };
    let words = words("GRUB", arguments, why)?;
    Ok(words.iter().map(|word| alloc::format!("'{word}'")).collect::<Vec<_>>().join(" "))
}

fn words<'a>(
    loader: &'static str,
    arguments: &'a str,
    why: impl Fn(&str) -> Option<&'static str>,
) -> Result<Vec<&'a str>, Unspeakable> {
    let words = arguments.split(' ').filter(|word| !word.is_empty());
    words
        .map(|word| {
            let plain = word.bytes().all(|byte| byte.is_ascii_graphic());
            let why = if plain { why(word) } else { Some("not plain ASCII") };
            why.map_or(Ok(word), |why| Err(Unspeakable { loader, word: word.into(), why }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What iPXE makes of a line that has no more settings to expand: words up to an end.
    fn ipxe_reads(line: &str) -> Option<Vec<String>> {
        if line.contains("${") || line.contains(['\n', '\r']) {
            return None;
        }
        let words = line.split_ascii_whitespace();
        Some(
            words
                .take_while(|w| !["||", "&&", ";"].contains(w) && !w.starts_with('#'))
                .map(Into::into)
                .collect(),
        )
    }

    /// What GRUB's script makes of a line, and its `linux` of the words.
    fn grub_reads(line: &str) -> Option<Vec<String>> {
        let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
        for c in line.chars() {
            match c {
                '\'' => (quoted, begun) = (!quoted, true),
                ' ' if !quoted => {
                    if begun {
                        words.push(core::mem::take(&mut word));
                    }
                    begun = false;
                }
                c if quoted => match c {
                    '"' | '\\' | '\n' => return None,
                    c => word.push(c),
                },
                // Outside of quotes many characters mean something.
                _ => return None,
            }
        }
        if begun {
            words.push(word);
        }
        (!quoted).then_some(words)
    }

    proptest! {
        #[test]
        fn p27_arguments_read_back_as_they_were_or_are_refused(text in "\\PC{0,60}|[ -~\n]{0,60}|([$#{;|&'a=\" ]){0,20}") {
            let wanted: Vec<String> = text.split(' ').filter(|word| !word.is_empty()).map(Into::into).collect();
            if let Ok(line) = for_ipxe(&text) {
                prop_assert_eq!(ipxe_reads(&line), Some(wanted.clone()));
            }
            if let Ok(line) = for_grub(&text) {
                prop_assert_eq!(grub_reads(&line), Some(wanted));
            }
        }
    }

    #[test]
    fn p27_code_is_refused_and_ordinary_arguments_pass() {
        let usual = "console=tty0 console=ttyS0,115200 net.ifnames=0 a=$b {c} k;l";
        assert_eq!(for_ipxe(usual).as_deref(), Ok(usual));
        assert_eq!(for_grub("a=$b ;reboot").as_deref(), Ok("'a=$b' ';reboot'"));
        for bad in ["a ${net0/mac}", "a || shell", "a && b", "a ; b", "a #b", "a\nb", "ä"] {
            assert!(for_ipxe(bad).is_err(), "{bad:?}");
        }
        for bad in ["a'b", "a\"b c\"", "a\\b", "a\nb", "ä"] {
            assert!(for_grub(bad).is_err(), "{bad:?}");
        }
    }
}
