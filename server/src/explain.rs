//! `ks explain`: a page for each code, in English and German, without a server.

use crate::cli::say;
use crate::exit::Exit;
use clap::{Args, ValueEnum};

/// A code's page in all languages.
struct Page {
    number: &'static str,
    english: &'static str,
    german: &'static str,
}

macro_rules! pages {
    ($($number:literal,)+) => {
        /// All pages, in the order of the codes.
        const PAGES: &[Page] = &[$(Page {
            number: $number,
            english: include_str!(concat!("../../docs/findings/", $number, ".en.md")),
            german: include_str!(concat!("../../docs/findings/", $number, ".de.md")),
        }),+];
    };
}

pages! {
    "KS-1001",
    "KS-1002",
    "KS-1003",
    "KS-1004",
    "KS-1005",
    "KS-1006",
    "KS-1007",
    "KS-1008",
    "KS-1009",
    "KS-1010",
    "KS-1011",
    "KS-1012",
    "KS-1013",
    "KS-1014",
    "KS-1015",
    "KS-1016",
    "KS-1017",
    "KS-1018",
    "KS-1019",
    "KS-1020",
    "KS-1021",
    "KS-1022",
    "KS-1023",
    "KS-1024",
    "KS-1025",
    "KS-1026",
    "KS-1027",
    "KS-1028",
    "KS-1030",
    "KS-1031",
    "KS-1040",
    "KS-2101",
    "KS-2102",
    "KS-2103",
    "KS-2105",
    "KS-2106",
    "KS-2107",
    "KS-2108",
    "KS-2109",
    "KS-2110",
    "KS-2111",
    "KS-2112",
    "KS-2113",
    "KS-2114",
    "KS-2115",
    "KS-2116",
    "KS-2117",
    "KS-2201",
    "KS-2202",
    "KS-2203",
    "KS-2204",
    "KS-2205",
    "KS-2206",
    "KS-2207",
    "KS-2208",
    "KS-2209",
    "KS-2210",
    "KS-2211",
    "KS-3001",
    "KS-3002",
    "KS-3003",
    "KS-3004",
    "KS-3005",
    "KS-4001",
    "KS-4002",
    "KS-4003",
    "KS-4004",
    "KS-4005",
    "KS-4006",
    "KS-4007",
    "KS-4008",
    "KS-5001",
    "KS-5002",
    "KS-5003",
    "KS-5004",
}

/// Languages of the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// English
    En,
    /// Deutsch
    De,
}

impl Language {
    /// The language of the user, by the variables that programs go by (POSIX, Environment
    /// Variables, 8.2).
    fn of_environment() -> Self {
        let set = ["LC_ALL", "LC_MESSAGES", "LANG"]
            .into_iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        if set.is_some_and(|value| value.starts_with("de")) { Self::De } else { Self::En }
    }
}

/// What is to be explained.
#[derive(Debug, Args)]
pub struct Explain {
    /// Code, as KS-1012; the number alone will do
    #[arg(required_unless_present = "list", conflicts_with = "list")]
    code: Option<String>,
    /// All codes, each with the test that provokes it
    #[arg(long)]
    list: bool,
    /// Language of the page; the environment's if left out
    #[arg(long, value_enum)]
    language: Option<Language>,
}

/// Prints a page, or the list of all.
#[must_use]
pub fn run(explain: &Explain) -> Exit {
    let language = explain.language.unwrap_or_else(Language::of_environment);
    let text = match &explain.code {
        Some(code) => page(code, language).map(str::to_owned),
        None => Some(list(language)),
    };
    match text {
        Some(text) => say(&text),
        None => {
            eprintln!("error: there is no such code; `ks explain --list` shows all");
            Exit::NotFound
        }
    }
}

fn page(code: &str, language: Language) -> Option<&'static str> {
    let digits = code.trim_start_matches(|c: char| !c.is_ascii_digit());
    let page = PAGES.iter().find(|page| page.number.trim_start_matches("KS-") == digits)?;
    Some(page.text(language))
}

fn list(language: Language) -> String {
    let line = |page: &Page| {
        let text = page.text(language);
        let title = text.lines().next().unwrap_or_default().trim_start_matches("# ");
        format!("{title}\n         {}", test(text))
    };
    PAGES.iter().map(line).collect::<Vec<_>>().join("\n")
}

impl Page {
    const fn text(&self, language: Language) -> &'static str {
        match language {
            Language::En => self.english,
            Language::De => self.german,
        }
    }
}

/// Where the test stands that provokes the code: the last line of its page.
fn test(text: &str) -> String {
    let last = text.trim_end().lines().next_back().unwrap_or_default();
    let quoted: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
    quoted.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_core::boot::Loader;
    use kaltstart_protocol::finding::Code;
    use kaltstart_protocol::language::Language as Spoken;
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_code_has_a_page_in_both_languages() {
        let numbers: Vec<&str> = Code::ALL.iter().map(|code| code.number()).collect();
        assert_eq!(PAGES.iter().map(|page| page.number).collect::<Vec<_>>(), numbers);
        for (page, code) in PAGES.iter().zip(Code::ALL) {
            for (text, language) in [(page.english, Spoken::English), (page.german, Spoken::German)] {
                let title = format!("# {code}: {}\n", code.title_in(language));
                assert!(text.starts_with(&title), "{code}: the page is titled otherwise than the code");
            }
            for (text, headings) in [
                (page.english, ["**How it is noticed.**", "**What to do**"]),
                (page.german, ["**Woran man es merkt.**", "**Was zu tun ist**"]),
            ] {
                assert!(text.starts_with(&format!("# {code}: ")), "{code}: {text}");
                assert!(headings.iter().all(|heading| text.contains(heading)), "{code}: {text}");
                assert!(text.lines().count() <= 40, "{code}: more than a screen");
            }
            assert_ne!(page.english, page.german, "{code}");
        }
    }

    #[test]
    fn every_code_has_a_test_that_provokes_it() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (page, code) in PAGES.iter().zip(Code::ALL) {
            let named = test(page.english);
            assert_eq!(named, test(page.german), "{code}");
            let (file, name) = named.split_once(' ').unwrap_or_else(|| panic!("{code}: names no test"));
            let source =
                fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{code}: {file}: {e}"));
            let function = source.split_once(&format!("fn {name}(")).map(|(_, rest)| rest);
            assert!(function.is_some(), "{code}: {file} has no {name}");
            let said = [code.number().to_owned(), format!("{code:?}")];
            assert!(said.iter().any(|word| source.contains(word)), "{code}: {file} never names it");
        }
    }

    #[test]
    fn the_page_on_missing_files_lists_all_loaders() {
        for language in [Language::En, Language::De] {
            let text = page("KS-1011", language).expect("a page");
            for loader in Loader::ALL {
                assert!(text.contains(&format!("`{}`", loader.name())), "{}: {text}", loader.name());
            }
        }
    }

    #[test]
    fn a_code_is_found_however_it_is_typed() {
        for typed in ["KS-1012", "ks-1012", "1012", "KS1012"] {
            let text = page(typed, Language::De).expect(typed);
            assert!(text.starts_with("# KS-1012: große Pakete"), "{text}");
        }
        assert!(page("KS-9999", Language::En).is_none() && page("", Language::En).is_none());
        assert!(list(Language::En).lines().count() == 2 * PAGES.len());
    }
}
