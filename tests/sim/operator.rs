//! Operators: look at a machine, and order, take back, accept or mend what fits, as their dice say.

use crate::server::{Answer, Ask};
use crate::site::{PROFILE, address, admin};
use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// Where operators sit.
const OPERATOR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);

/// What an operator waits for.
#[derive(Debug, Clone)]
pub(crate) enum Errand {
    /// The view of a machine, to do something with it.
    Look { node: usize, roll: u64 },
    /// The same once nothing fails any more: nothing new is ordered.
    Check { node: usize },
    /// An order; then the machine is switched on, if it is to be. Where the server only observes, a restored copy is
    /// compared with the fleet, if the operator cares.
    Order { node: usize, press: bool, compares: bool },
    /// What differs between a restored copy and the fleet.
    Compare,
    /// Anything else.
    Other,
}

/// What follows from an answer.
pub(crate) enum Follow {
    Nothing,
    Ask(Errand, Ask),
    /// Somebody resets the machine, or switches it on.
    Press(usize),
}

fn ask(post: bool, path: String, body: &Value) -> Ask {
    let body = if post { body.to_string().into_bytes() } else { Vec::new() };
    let bearer = Some(admin().expose().to_owned());
    // Whoever asks chooses a server.
    let (from, to) = (OPERATOR, address(0));
    Ask { post, path, body, bearer, from, to, tls: true, waits: false }
}

/// Asks for a machine's view.
pub(crate) fn look(mac: &str) -> Ask {
    ask(false, format!("/v1/nodes/{mac}"), &Value::Null)
}

/// Declares a machine.
pub(crate) fn declare(name: &str, mac: &str, address: Option<&str>) -> Ask {
    ask(true, "/v1/nodes".into(), &json!({"name": name, "mac": mac, "address": address}))
}

/// What follows from the answer to an order for a machine: where the server only observes, the operator may look what
/// differs, and orders again some other time.
pub(crate) fn ordered(node: usize, press: bool, compares: bool, answer: &Answer, view: &Value) -> Follow {
    if view["code"] == "observing" {
        let look = ask(false, "/v1/restored".into(), &Value::Null);
        return if compares { Follow::Ask(Errand::Compare, look) } else { Follow::Nothing };
    }
    if press && answer.is_good() { Follow::Press(node) } else { Follow::Nothing }
}

/// What follows from what differs: the operator takes the copy as it is.
pub(crate) fn compared(view: &Value) -> Follow {
    let known = view["differences"].as_array().map_or(0, Vec::len);
    Follow::Ask(Errand::Other, ask(true, "/v1/restored/accept".into(), &json!({"differences": known})))
}

/// How often an operator sends the same at once.
pub(crate) fn haste(roll: u64) -> u32 {
    if (roll / 10_000).is_multiple_of(3) { 2 } else { 1 }
}

/// What an operator does with a machine that looks like this.
pub(crate) fn decide(node: usize, mac: &str, view: &Value, roll: u64) -> Follow {
    let (dice, coin) = (roll % 100, roll / 100 % 100);
    let post = |path: &str, body: &Value| ask(true, format!("/v1/{path}"), body);
    let other = |path: String| Follow::Ask(Errand::Other, post(&path, &json!({})));
    let order = |kind: &str| {
        let mut body = json!({"kind": kind});
        if kind != "release" {
            body["profile"] = PROFILE.into();
        }
        // Gives up what lies on the disks, if somebody looked.
        if coin < 50 {
            body["erase"] = view["fingerprints"].clone();
        }
        let errand = Errand::Order { node, press: coin % 10 < 8, compares: roll / 1_000_000 % 100 < 70 };
        Follow::Ask(errand, post(&format!("nodes/{mac}/jobs"), &body))
    };
    if let Some(job) = view["job"].as_str() {
        return match dice {
            0..18 => other(format!("jobs/{job}/cancel")),
            18..30 => Follow::Press(node),
            30..40 => {
                Follow::Ask(Errand::Other, post(&format!("nodes/{mac}/power"), &json!({"observed": "on"})))
            }
            _ => Follow::Nothing,
        };
    }
    let locked = view["lock"].is_object();
    match (view["state"].as_str().unwrap_or_default(), dice) {
        // At 40 to 60 somebody forgets that it is locked.
        (_, 60..) if locked => other(format!("nodes/{mac}/unlock")),
        (_, ..40) if locked => Follow::Nothing,
        ("available" | "allocated" | "deployed", 65..70) => {
            Follow::Ask(Errand::Other, post(&format!("nodes/{mac}/lock"), &json!({"reason": "dice"})))
        }
        ("expected", 0..30) => order("deploy"),
        ("expected", 30..70) => Follow::Press(node),
        ("discovered", 0..70) => other(format!("nodes/{mac}/accept")),
        ("available", 0..60) | ("allocated", 0..50) => order("deploy"),
        ("allocated", 50..65) | ("releasing", 0..70) => order("release"),
        ("deployed", 0..35) => order("rebuild"),
        ("deployed", 35..55) => order("release"),
        ("available" | "deployed", 60..64) => other(format!("nodes/{mac}/break")),
        ("broken", 0..80) => other(format!("nodes/{mac}/repair")),
        _ => Follow::Nothing,
    }
}

/// What an operator does who wants all jobs to end: their machines must be on.
pub(crate) fn check(node: usize, view: &Value) -> Follow {
    let waits = view["headline"].as_str().is_some_and(|headline| headline.starts_with("waiting"));
    if waits { Follow::Press(node) } else { Follow::Nothing }
}
