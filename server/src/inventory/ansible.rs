//! The inventory that Ansible reads (the contract of inventory scripts, with `_meta`).
//!
//! Ansible takes strings of an inventory for templates and evaluates them: nothing is told that could hold a `{`.

use super::names::Names;
use super::{Told, class, is_ours, labels};
use crate::summary::NodeSummary;
use kaltstart_core::class::Class;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What `--list` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Inventory<'a> {
    _meta: Meta<'a>,
    #[serde(flatten)]
    groups: BTreeMap<String, Group<'a>>,
}

#[derive(Debug, Serialize)]
struct Meta<'a> {
    hostvars: BTreeMap<&'a str, Host<'a>>,
}

#[derive(Debug, Serialize)]
struct Host<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    ansible_host: Option<IpAddr>,
    #[serde(flatten)]
    told: Told<'a>,
}

#[derive(Debug, Default, Serialize)]
struct Group<'a> {
    hosts: Vec<&'a str>,
}

/// Of the nodes that somebody sees those that fit. What others there are decides about names alone, so that a group
/// has the same one whichever part of the inventory is asked for.
pub(crate) fn inventory<'a>(
    seen: &'a [Arc<NodeSummary>],
    classes: &[Class],
    fits: impl Fn(&NodeSummary) -> bool,
) -> Inventory<'a> {
    let ours = || seen.iter().filter(|node| is_ours(node.state));
    let names = Names::of(ours().flat_map(|node| groups(node, classes)));
    let (mut hostvars, mut all) = (BTreeMap::new(), BTreeMap::<String, Group<'a>>::new());
    for node in ours().filter(|node| fits(node)) {
        let told = Told::of(node, classes);
        hostvars.insert(&*node.name, Host { ansible_host: node.reached_at(), told });
        for (kind, text) in groups(node, classes) {
            all.entry(names.name(kind, &text)).or_default().hosts.push(&node.name);
        }
    }
    Inventory { _meta: Meta { hostvars }, groups: all }
}

/// The groups that a node is in, by kind and word.
fn groups(node: &NodeSummary, classes: &[Class]) -> Vec<(&'static str, String)> {
    let about = &node.about;
    let words = [("site", &about.site), ("rack", &about.rack), ("role", &about.role), ("team", &about.team)];
    let words = words.into_iter().filter_map(|(kind, word)| Some((kind, word.as_ref()?.to_string())));
    let labels = labels(node).map(|label| ("label", label));
    let class = class(node, classes).map(|class| ("class", class.to_string()));
    words.chain([("state", node.state.to_string())]).chain(class).chain(labels).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{hostile, node, word};
    use super::*;
    use kaltstart_core::machine::State;
    use serde_json::{Value, json};

    fn rendered(nodes: Vec<NodeSummary>, classes: &[Class], fits: impl Fn(&NodeSummary) -> bool) -> Value {
        let nodes: Vec<Arc<NodeSummary>> = nodes.into_iter().map(Arc::new).collect();
        serde_json::to_value(inventory(&nodes, classes, fits)).expect("JSON")
    }

    #[test]
    fn a_node_is_in_a_group_for_each_word_of_it() {
        let mut other = node("db-07", "muc.1", ("spare", ""));
        (other.reservation, other.about.team) = (Some([10, 0, 0, 7].into()), None);
        let class = |name: &str, node: &str| Class {
            name: name.into(),
            nodes: vec![node.into()],
            ..Class::default()
        };
        let classes = [class("r650", "web-1"), class("{{ no word }}", "db-07")];
        let all = rendered(vec![other, node("web-1", "fra-1", ("env", "prod"))], &classes, |_| true);
        let groups = [
            ("class_r650", json!(["web-1"])),
            ("label_env_prod", json!(["web-1"])),
            ("label_spare", json!(["db-07"])),
            ("rack_A12", json!(["db-07", "web-1"])),
            ("role_web_server", json!(["db-07", "web-1"])),
            ("site_fra_1", json!(["web-1"])),
            ("site_muc_1", json!(["db-07"])),
            ("state_deployed", json!(["db-07", "web-1"])),
            ("team_payments", json!(["web-1"])),
        ];
        let mut found = all.as_object().expect("an object").clone();
        let meta = found.remove("_meta").expect("_meta");
        let expected = groups.map(|(group, hosts)| (group.to_owned(), json!({ "hosts": hosts })));
        assert_eq!(found, expected.into_iter().collect());
        let web = &meta["hostvars"]["web-1"];
        for (name, value) in [
            ("ansible_host", json!("10.0.0.9")),
            ("kaltstart_class", json!("r650")),
            ("kaltstart_position", json!(14)),
            ("kaltstart_labels", json!({"env": "prod"})),
            ("kaltstart_macs", json!(["02:00:00:00:00:07"])),
            ("kaltstart_locked", json!(false)),
        ] {
            assert_eq!(web[name], value, "{name}");
        }
        let db = &meta["hostvars"]["db-07"];
        assert_eq!(db["ansible_host"], "10.0.0.7", "what is reserved counts more");
        assert_eq!((&db["kaltstart_team"], &db["kaltstart_class"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn what_is_gone_or_was_never_accepted_is_left_out() {
        for state in State::ALL {
            let one = NodeSummary { state, address: None, ..node("n1", "fra1", ("a", "b")) };
            let all = rendered(vec![one], &[], |_| true);
            let there = all["_meta"]["hostvars"].get("n1");
            assert_eq!(there.is_none(), matches!(state, State::Discovered | State::Retired), "{state}");
            assert!(there.is_none_or(|host| host.get("ansible_host").is_none()), "{state}: no address");
        }
        assert_eq!(rendered(Vec::new(), &[], |_| true), json!({"_meta": {"hostvars": {}}}));
    }

    #[test]
    fn words_that_look_alike_are_not_merged_and_no_part_names_them_otherwise_than_the_whole() {
        let nodes = || vec![node("a", "fra-1", ("x", "y")), node("b", "fra.1", ("x", "y"))];
        let all = rendered(nodes(), &[], |_| true);
        assert_eq!(all["site_fra_x2d_1"]["hosts"], json!(["a"]));
        assert_eq!(all["site_fra_x2e_1"]["hosts"], json!(["b"]));
        assert_eq!(all.get("site_fra_1"), None, "whoever means one must not get the other");
        let part = rendered(nodes(), &[], |node| node.about.site == Some(word("fra-1")));
        assert_eq!(part["site_fra_x2d_1"]["hosts"], json!(["a"]));
        assert_eq!(part["_meta"]["hostvars"].as_object().map(serde_json::Map::len), Some(1));
    }

    #[test]
    fn p27_p28_nothing_that_was_written_freely_becomes_a_template() {
        for text in ["{{ lookup('pipe', 'id') }}", "{% raw %}", "!unsafe x", "$(id)", "\u{1b}[2J"] {
            let all = rendered(vec![hostile(text)], &[], |_| true).to_string();
            assert!(!all.contains("lookup") && !all.contains("unsafe") && !all.contains("id)"), "{all}");
            let quiet = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:,\"{}[]".contains(&byte);
            assert!(all.bytes().all(quiet) && !all.contains("{{") && !all.contains("{%"), "{all}");
        }
    }
}
