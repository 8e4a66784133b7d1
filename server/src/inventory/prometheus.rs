//! Targets as Prometheus discovers them (`http_sd_config`; `file_sd_config` reads the same).

use super::names::Names;
use crate::summary::NodeSummary;
use kaltstart_core::about::Word;
use kaltstart_core::machine::State;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

/// Where the node exporter listens.
pub(crate) const PORT_USUAL: NonZeroU16 = NonZeroU16::new(9100).expect("it is not 0");

/// A target with its labels.
#[derive(Debug, Serialize)]
pub(crate) struct Target {
    targets: [SocketAddr; 1],
    labels: BTreeMap<String, String>,
}

/// Of the nodes that somebody sees the deployed ones that fit and have an address. Names of labels do not depend on
/// what else is asked for.
pub(crate) fn targets(
    seen: &[Arc<NodeSummary>],
    port: NonZeroU16,
    fits: impl Fn(&NodeSummary) -> bool,
) -> Vec<Target> {
    let deployed = || seen.iter().filter(|node| node.state == State::Deployed);
    let names = Names::of(
        deployed().flat_map(|node| node.about.labels.keys().map(|label| ("label", label.to_string()))),
    );
    let target = |node: &Arc<NodeSummary>| {
        let targets = [SocketAddr::new(node.reached_at()?, port.get())];
        Some(Target { targets, labels: labels(node, &names) })
    };
    deployed().filter(|node| fits(node)).filter_map(target).collect()
}

/// What Prometheus' relabelling chooses from; what is not known is left out.
fn labels(node: &NodeSummary, names: &Names) -> BTreeMap<String, String> {
    let about = &node.about;
    let word = |word: &Option<Word>| word.as_ref().map(Word::to_string);
    let fixed = [
        ("name", Some(node.name.clone())),
        ("id", Some(node.id.to_string())),
        ("state", Some(node.state.to_string())),
        ("team", word(&about.team)),
        ("role", word(&about.role)),
        ("site", word(&about.site)),
        ("rack", word(&about.rack)),
    ];
    let fixed = fixed.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let free = about
        .labels
        .iter()
        .map(|(label, value)| (names.name("label", label.as_str()), value.as_str().to_owned()));
    fixed.chain(free).map(|(name, value)| (format!("__meta_kaltstart_{name}"), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{hostile, node};
    use super::*;
    use serde_json::{Value, json};

    fn rendered(nodes: Vec<NodeSummary>) -> Value {
        let nodes: Vec<Arc<NodeSummary>> = nodes.into_iter().map(Arc::new).collect();
        serde_json::to_value(targets(&nodes, PORT_USUAL, |_| true)).expect("JSON")
    }

    #[test]
    fn deployed_nodes_are_targets_with_all_that_is_said_of_them() {
        let mut bare = node("bare", "fra1", ("x", "y"));
        (bare.about, bare.address) = (Default::default(), Some("2001:db8::7".parse().expect("an address")));
        let mut lost = node("lost", "fra1", ("x", "y"));
        lost.address = None;
        let all = rendered(vec![bare, lost, node("web-1", "fra1", ("app.kind", "shop"))]);
        let bare = json!({
            "targets": ["[2001:db8::7]:9100"],
            "labels": {
                "__meta_kaltstart_name": "bare",
                "__meta_kaltstart_id": all[0]["labels"]["__meta_kaltstart_id"],
                "__meta_kaltstart_state": "deployed",
            },
        });
        assert_eq!((all.as_array().map(Vec::len), &all[0]), (Some(2), &bare));
        assert_eq!(all[1]["targets"], json!(["10.0.0.9:9100"]));
        for (name, value) in [
            ("team", "payments"),
            ("role", "web-server"),
            ("site", "fra1"),
            ("rack", "A12"),
            ("label_app_kind", "shop"),
        ] {
            assert_eq!(all[1]["labels"][format!("__meta_kaltstart_{name}")], value, "{name}");
        }
    }

    #[test]
    fn no_other_node_is_a_target_and_none_is_an_empty_list() {
        for state in State::ALL.into_iter().filter(|state| *state != State::Deployed) {
            assert_eq!(
                rendered(vec![NodeSummary { state, ..node("n", "s", ("a", "b")) }]),
                json!([]),
                "{state}"
            );
        }
    }

    #[test]
    fn labels_that_look_alike_keep_their_values() {
        let one = rendered(vec![node("a", "s", ("x-y", "1")), node("b", "s", ("x.y", "2"))]);
        assert_eq!(one[0]["labels"]["__meta_kaltstart_label_x_x2d_y"], "1");
        assert_eq!(one[1]["labels"]["__meta_kaltstart_label_x_x2e_y"], "2");
    }

    #[test]
    fn p28_hardware_and_reasons_are_not_told() {
        assert!(!rendered(vec![hostile("evil")]).to_string().contains("evil"));
    }
}
