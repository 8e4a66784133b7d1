//! What people say of a node: whose it is, what for, where it stands, and marks of their own; and that nobody may touch it.

use alloc::collections::BTreeMap;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Deserializer, Serialize};

/// Labels of a node.
pub const LABELS_MAX: usize = 64;

/// Characters of a lock's reason.
pub const REASON_MAX: usize = 500;

/// What is no [`Word`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoWord;

impl fmt::Display for NoWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("1 to 63 letters, digits, '-', '_' and '.', with a letter or digit first and last")
    }
}

impl core::error::Error for NoWord {}

fn is_word(text: &str) -> bool {
    let outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && outer(bytes.first())
        && outer(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// The name of a team, role, site, rack or label: 1 to 63 letters, digits, `-`, `_` and `.`, with a letter or digit first
/// and last, as values of labels are in Kubernetes. No quoting is ever needed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Word(String);

impl Word {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Word {
    type Error = NoWord;

    fn try_from(text: String) -> Result<Self, NoWord> {
        if is_word(&text) { Ok(Self(text)) } else { Err(NoWord) }
    }
}

impl FromStr for Word {
    type Err = NoWord;

    fn from_str(text: &str) -> Result<Self, NoWord> {
        Self::try_from(String::from(text))
    }
}

impl From<Word> for String {
    fn from(word: Word) -> Self {
        word.0
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The value of a label: a [`Word`], or nothing where the label alone says it all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelValue(String);

impl LabelValue {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LabelValue {
    type Error = NoWord;

    fn try_from(text: String) -> Result<Self, NoWord> {
        if text.is_empty() || is_word(&text) { Ok(Self(text)) } else { Err(NoWord) }
    }
}

impl FromStr for LabelValue {
    type Err = NoWord;

    fn from_str(text: &str) -> Result<Self, NoWord> {
        Self::try_from(String::from(text))
    }
}

impl From<LabelValue> for String {
    fn from(value: LabelValue) -> Self {
        value.0
    }
}

/// What people say of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// Who pays for it, and may order on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team: Option<Word>,
    /// What it does, for configuration management.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Word>,
    /// Where its rack stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<Word>,
    /// Its rack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rack: Option<Word>,
    /// Its lowest unit in the rack, from 1 at the bottom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u16>,
    /// Marks.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<Word, LabelValue>,
}

/// A change of [`About`], as a JSON Merge Patch (RFC 7396): what is left out stays, what is null goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Edit {
    /// Whose it is.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub team: Option<Option<Word>>,
    /// What it does.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub role: Option<Option<Word>>,
    /// Where its rack stands.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub site: Option<Option<Word>>,
    /// Its rack.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub rack: Option<Option<Word>>,
    /// Its lowest unit.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub position: Option<Option<u16>>,
    /// Marks by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<Word, Option<LabelValue>>,
}

/// What is there is given, also when it is null.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl Edit {
    /// What becomes of `about`.
    ///
    /// # Errors
    /// What stands against it, in words for whoever wants it.
    pub fn applied_to(&self, about: &About) -> Result<About, &'static str> {
        let mut about = about.clone();
        let words = [
            (&self.team, &mut about.team),
            (&self.role, &mut about.role),
            (&self.site, &mut about.site),
            (&self.rack, &mut about.rack),
        ];
        for (wanted, word) in words {
            if let Some(wanted) = wanted {
                word.clone_from(wanted);
            }
        }
        if let Some(position) = self.position {
            about.position = position;
        }
        if about.position == Some(0) {
            return Err("units of a rack are counted from 1");
        }
        for (label, wanted) in &self.labels {
            match wanted {
                Some(value) => about.labels.insert(label.clone(), value.clone()),
                None => about.labels.remove(label),
            };
        }
        if about.labels.len() > LABELS_MAX {
            return Err("a node has 64 labels at most");
        }
        Ok(about)
    }
}

/// The team that owns a node, and since when.
#[must_use]
pub fn owner(about: &About, since: Option<Millis>) -> Option<(&Word, Millis)> {
    about.team.as_ref().map(|team| (team, since.unwrap_or(Millis(0))))
}

/// Nobody may order on the node, move or change it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Why.
    pub reason: String,
    /// Who says so.
    pub by: String,
    /// Since when.
    pub at: Millis,
    /// The team that may unlock it, besides operators; none: operators alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<Word>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::vec::Vec;

    fn word(text: &str) -> Word {
        text.parse().expect("a word")
    }

    #[test]
    fn p27_words_need_no_quoting_anywhere() {
        for good in ["a", "A12", "web-01", "v1.2_x", "9", &"a".repeat(63)] {
            assert_eq!(word(good).as_str(), good);
        }
        let long = "a".repeat(64);
        for bad in ["", "-a", "a-", ".a", "a b", "a/b", "a\n", "a'b", "$(x)", "ä", "a:b", "a=b", &long] {
            assert!(bad.parse::<Word>().is_err(), "{bad:?}");
            assert!(serde_json::from_value::<Word>(json!(bad)).is_err(), "{bad:?}");
        }
        assert_eq!(serde_json::from_value::<LabelValue>(json!("")).expect("a mark"), LabelValue::default());
        assert!("a b".parse::<LabelValue>().is_err());
    }

    fn edited(about: &About, edit: Value) -> Result<About, &'static str> {
        serde_json::from_value::<Edit>(edit).expect("an edit").applied_to(about)
    }

    #[test]
    fn an_edit_is_a_merge_patch() {
        let about = edited(
            &About::default(),
            json!({"team": "payments", "rack": "A12", "position": 14, "labels": {"env": "prod", "spare": ""}}),
        );
        let about = about.expect("good");
        assert_eq!((about.team.clone(), about.position), (Some(word("payments")), Some(14)));
        assert_eq!(edited(&about, json!({})), Ok(about.clone()), "what is left out stays");
        let less = edited(&about, json!({"team": null, "labels": {"spare": null}})).expect("good");
        assert_eq!((less.team, less.rack), (None, Some(word("A12"))), "what is null goes");
        assert_eq!(less.labels.keys().map(Word::as_str).collect::<Vec<_>>(), ["env"]);
        assert_eq!(
            serde_json::to_value(&about).expect("JSON")["labels"],
            json!({"env": "prod", "spare": ""})
        );
    }

    #[test]
    fn p23_an_edit_names_what_may_be_written() {
        for refused in [
            json!({"owner": "x"}),
            json!({"state": "available"}),
            json!({"lock": null}),
            json!({"id": "node_1"}),
            json!({"team": "a b"}),
            json!({"team": 7}),
            json!({"position": -1}),
            json!({"labels": {"a b": "c"}}),
        ] {
            assert!(serde_json::from_value::<Edit>(refused.clone()).is_err(), "{refused}");
        }
        let labels: BTreeMap<_, _> = (0..=LABELS_MAX).map(|n| (std::format!("l{n}"), "")).collect();
        assert!(edited(&About::default(), json!({ "labels": labels })).is_err(), "too many");
        assert!(edited(&About::default(), json!({"position": 0})).is_err(), "no such unit");
    }
}
