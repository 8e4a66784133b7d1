//! Names of groups and the like, which may hold letters, digits and `_` alone, for words that may hold more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Names for things of several kinds, no two of which have the same name.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    /// For exactly these things, each of a kind (letters alone) and with a text.
    pub(super) fn of<'a>(things: impl Iterator<Item = (&'a str, String)>) -> Self {
        let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (kind, text) in things {
            texts.entry(plain(kind, &text)).or_default().insert(text);
        }
        Self(texts.into_iter().filter(|(_, texts)| texts.len() > 1).map(|(name, _)| name).collect())
    }

    /// `KIND_TEXT` with `_` for whatever a name may not hold, as everybody expects it. Where several texts would get
    /// that name none does: what is meant for one must not reach the other. They are spelt out then, `_x2d_` for `-`.
    pub(super) fn name(&self, kind: &str, text: &str) -> String {
        let name = plain(kind, text);
        if self.0.contains(&name) || looks_spelt_out(&name) { spelt_out(kind, text) } else { name }
    }
}

fn plain(kind: &str, text: &str) -> String {
    let text = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
    format!("{kind}_{}", text.collect::<String>())
}

fn spelt_out(kind: &str, text: &str) -> String {
    let mut name = format!("{kind}_");
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            name.push(char::from(byte));
        } else {
            // Writing to a `String` cannot fail.
            let _ = write!(name, "_x{byte:02x}_");
        }
    }
    name
}

/// Whether it might be taken for the name of another text that is spelt out.
fn looks_spelt_out(name: &str) -> bool {
    name.as_bytes().windows(5).any(|at| at.starts_with(b"_x") && at[4] == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(texts: &[&str]) -> Vec<String> {
        let names = Names::of(texts.iter().map(|text| ("site", (*text).to_owned())));
        texts.iter().map(|text| names.name("site", text)).collect()
    }

    #[test]
    fn names_are_as_expected_and_never_stand_for_two_texts() {
        assert_eq!(named(&["fra-1", "muc.2", "v1"]), ["site_fra_1", "site_muc_2", "site_v1"]);
        assert_eq!(named(&["a-b", "a-b", "c"]), ["site_a_b", "site_a_b", "site_c"], "one text twice");
        assert_eq!(
            named(&["a-b", "a.b", "a_b", "c-d"]),
            ["site_a_x2d_b", "site_a_x2e_b", "site_a_x5f_b", "site_c_d"]
        );
        let all = named(&["a_x2d_b", "a-b", "a.b"]);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 3, "{all:?}");
        let labels = [("label", "a=b-c".to_owned()), ("label", "a-b=c".to_owned())];
        let names = Names::of(labels.iter().cloned());
        assert_ne!(names.name("label", &labels[0].1), names.name("label", &labels[1].1));
    }

    proptest! {
        #[test]
        fn p27_every_text_has_a_name_that_is_valid_and_its_own(
            texts in prop::collection::btree_set("[a-b0-2x_.=-]{1,7}|\\PC{0,4}", 0..40)
        ) {
            let names = Names::of(texts.iter().map(|text| ("label", text.clone())));
            let given: BTreeSet<String> = texts.iter().map(|text| names.name("label", text)).collect();
            prop_assert_eq!(given.len(), texts.len());
            for name in given {
                prop_assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{}", name);
            }
        }
    }
}
