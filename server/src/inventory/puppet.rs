//! What Puppet asks an external node classifier (its `exec` node terminus).
//!
//! It reads YAML, and is given JSON, which YAML is too: there words like `no` and `1e3` are text in all of its versions.

use super::Told;
use crate::summary::NodeSummary;
use kaltstart_core::class::Class;
use kaltstart_core::machine::State;
use serde::Serialize;
use serde_json::Map;
use std::collections::BTreeMap;

/// The label that says in which of Puppet's environments a node is.
pub(crate) const ENVIRONMENT: &str = "environment";

/// What a node is to Puppet.
#[derive(Debug, Serialize)]
pub(crate) struct Classification<'a> {
    classes: BTreeMap<String, Map<String, serde_json::Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<&'a str>,
    parameters: Told<'a>,
}

/// Why Puppet is told nothing of a node.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoClassification {
    /// No system of its team runs there.
    #[error("the node is {0}, and gets a catalog when it is allocated or deployed, or broken after that")]
    NoSystem(State),
    /// Puppet would not take it.
    #[error(
        "the role {0:?} is no name for a class of Puppet, which begins with a small letter and goes on with such letters, \
         digits, '-' and '_'; `ks node edit --role` changes it"
    )]
    Role(String),
    /// Puppet would not take it.
    #[error(
        "the label environment={0:?} names no environment of Puppet, which is made of small letters, digits and '_'; \
         `ks node edit --label environment=` changes it"
    )]
    Environment(String),
}

/// The class `role::ROLE`, the environment of the label, and all else as parameters.
pub(crate) fn classification<'a>(
    node: &'a NodeSummary,
    classes: &[Class],
) -> Result<Classification<'a>, NoClassification> {
    // A broken node may have a system that runs on.
    if !matches!(node.state, State::Allocated | State::Deployed | State::Broken) {
        return Err(NoClassification::NoSystem(node.state));
    }
    let role = node.about.role.as_ref().map(|role| class_of(role.as_str())).transpose()?;
    let label = node.about.labels.iter().find(|(label, _)| label.as_str() == ENVIRONMENT);
    let environment = label.map(|(_, value)| value.as_str());
    if let Some(wrong) = environment.filter(|name| name.is_empty() || !name.bytes().all(is_small)) {
        return Err(NoClassification::Environment(wrong.to_owned()));
    }
    let classes_of_role = role.into_iter().map(|class| (class, Map::new())).collect();
    Ok(Classification { classes: classes_of_role, environment, parameters: Told::of(node, classes) })
}

const fn is_small(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'
}

/// The class of a role: `role::web_server` of `web-server`, as names of classes have no `-`.
fn class_of(role: &str) -> Result<String, NoClassification> {
    let name = role.replace('-', "_");
    if name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(is_small) {
        Ok(format!("role::{name}"))
    } else {
        Err(NoClassification::Role(role.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{hostile, node, word};
    use super::*;
    use serde_json::{Value, json};

    fn told(node: &NodeSummary) -> Value {
        serde_json::to_value(classification(node, &[]).expect("classified")).expect("JSON")
    }

    #[test]
    fn the_role_is_a_class_and_a_label_the_environment() {
        let all = told(&node("db-07", "fra1", ("environment", "production")));
        assert_eq!(all["classes"], json!({"role::web_server": {}}));
        assert_eq!(all["environment"], "production");
        assert_eq!(
            (&all["parameters"]["kaltstart_rack"], &all["parameters"]["kaltstart_position"]),
            (&json!("A12"), &json!(14))
        );
        let mut bare = node("db-07", "fra1", ("env", "prod"));
        bare.about.role = None;
        assert_eq!((&told(&bare)["classes"], told(&bare).get("environment")), (&json!({}), None));
    }

    #[test]
    fn p27_what_puppet_would_not_take_is_refused() {
        for wrong in ["Web", "v1.2", "9p", "web.x"] {
            let mut node = node("n", "s", ("a", "b"));
            node.about.role = Some(word(wrong));
            assert_eq!(classification(&node, &[]).expect_err(wrong), NoClassification::Role(wrong.into()));
        }
        for wrong in ["", "Prod", "a-b", "v1.2"] {
            let node = node("n", "s", (ENVIRONMENT, wrong));
            let refused = classification(&node, &[]).expect_err(wrong);
            assert_eq!(refused, NoClassification::Environment(wrong.into()));
        }
    }

    #[test]
    fn a_node_without_a_system_gets_no_catalog() {
        for state in State::ALL {
            let node = NodeSummary { state, ..node("n", "s", ("a", "b")) };
            let gets = matches!(state, State::Allocated | State::Deployed | State::Broken);
            assert_eq!(classification(&node, &[]).is_ok(), gets, "{state}");
        }
    }

    #[test]
    fn p28_hardware_and_reasons_are_not_told() {
        assert!(!told(&hostile("evil")).to_string().contains("evil"));
    }
}
