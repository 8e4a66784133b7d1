//! What Telegraf adds to all that it measures on a node.

use crate::summary::NodeSummary;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Debug, Serialize)]
struct Configuration {
    global_tags: BTreeMap<String, String>,
}

/// A file for `telegraf.d`: what is said of a node as `[global_tags]`.
///
/// # Errors
/// Never for what nodes are said to be.
pub(crate) fn tags(node: &NodeSummary) -> Result<String, toml::ser::Error> {
    let about = &node.about;
    let fixed = [("team", &about.team), ("role", &about.role), ("site", &about.site), ("rack", &about.rack)];
    let fixed = fixed.into_iter().filter_map(|(tag, word)| Some((tag.to_owned(), word.as_ref()?)));
    let mut global_tags: BTreeMap<String, String> =
        fixed.map(|(tag, word)| (tag, word.to_string())).collect();
    global_tags.insert("node".into(), node.name.clone());
    global_tags.insert("node_id".into(), node.id.to_string());
    // No value is no tag in InfluxDB's line protocol.
    let value = |value: &str| if value.is_empty() { "true".to_owned() } else { value.to_owned() };
    let labels = about.labels.iter();
    global_tags.extend(labels.map(|(label, text)| (format!("label_{label}"), value(text.as_str()))));
    toml::to_string(&Configuration { global_tags })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{hostile, node};
    use super::*;
    use toml::{Table, Value};

    #[test]
    fn p27_tags_are_read_back_as_they_were_said() {
        let text = tags(&node("web-1", "fra-1", ("app.kind", "shop_2"))).expect("TOML");
        let read: Table = text.parse().expect("TOML");
        let tags = read["global_tags"].as_table().expect("a table");
        for (tag, value) in [
            ("node", "web-1"),
            ("team", "payments"),
            ("role", "web-server"),
            ("site", "fra-1"),
            ("rack", "A12"),
            ("label_app.kind", "shop_2"),
        ] {
            assert_eq!(tags[tag].as_str(), Some(value), "{tag}");
        }
        assert_eq!((read.len(), tags.len()), (1, 7), "{text}");
        let spare: Table = super::tags(&node("n", "s", ("spare", ""))).expect("TOML").parse().expect("TOML");
        assert_eq!(spare["global_tags"]["label_spare"], Value::from("true"));
    }

    #[test]
    fn p28_hardware_and_reasons_are_no_tags() {
        assert!(!tags(&hostile("evil")).expect("TOML").contains("evil"));
    }
}
