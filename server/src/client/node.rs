//! `ks node …`

use super::api::{Api, ClientError};
use super::{Format, output, restored};
use crate::exit::Exit;
use crate::http::api::{Declare, NodeView, PowerState};
use crate::http::node_about::LockNode;
use crate::summary::NodeSummary;
use clap::{Args, Subcommand};
use kaltstart_core::about::{Edit, LabelValue, Word};
use kaltstart_core::boot::UefiLoader;
use kaltstart_core::lifecycle::event::Move;
use kaltstart_core::machine::State;
use kaltstart_protocol::ids::Mac;
use std::net::Ipv4Addr;

/// A word, or nothing.
type Wanted = Option<Word>;

/// What is said of a node.
#[derive(Debug, Args)]
pub struct Said {
    /// Whose it is
    #[arg(long, value_parser = word_or_nothing)]
    team: Option<Wanted>,
    /// What it does, for configuration management
    #[arg(long, value_parser = word_or_nothing)]
    role: Option<Wanted>,
    /// Where its rack stands
    #[arg(long, value_parser = word_or_nothing)]
    site: Option<Wanted>,
    /// Its rack
    #[arg(long, value_parser = word_or_nothing)]
    rack: Option<Wanted>,
    /// Its lowest unit in the rack, from 1; 0 takes it back
    #[arg(long)]
    position: Option<u16>,
    /// A mark, with or without a value; `LABEL-` takes it back
    #[arg(long = "label", value_name = "LABEL[=VALUE]", value_parser = label)]
    labels: Vec<(Word, Option<LabelValue>)>,
}

impl Said {
    fn edit(self) -> Edit {
        let Self { team, role, site, rack, position, labels } = self;
        let position = position.map(|position| (position > 0).then_some(position));
        Edit { team, role, site, rack, position, labels: labels.into_iter().collect() }
    }
}

fn word_or_nothing(text: &str) -> Result<Option<Word>, String> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|problem| format!("{problem}")) }
}

fn label(text: &str) -> Result<(Word, Option<LabelValue>), String> {
    let parsed = match (text.strip_suffix('-'), text.split_once('=')) {
        (_, Some((label, value))) => label.parse().and_then(|label| Ok((label, Some(value.parse()?)))),
        (Some(label), None) => label.parse().map(|label| (label, None)),
        (None, None) => text.parse().map(|label| (label, Some(LabelValue::default()))),
    };
    parsed.map_err(|problem| format!("{problem}"))
}

/// Which nodes are listed.
#[derive(Debug, Args)]
pub struct Filter {
    /// What they are
    #[arg(long, value_parser = state)]
    state: Option<State>,
    /// Whose they are
    #[arg(long)]
    team: Option<Word>,
    /// What they do
    #[arg(long)]
    role: Option<Word>,
    /// Where their racks stand
    #[arg(long)]
    site: Option<Word>,
    /// Their rack
    #[arg(long)]
    rack: Option<Word>,
    /// Marks they all have, with these values where values are given, as `env=prod,spare`
    #[arg(short = 'l', long)]
    label: Option<String>,
}

impl Filter {
    /// The path below which these nodes are asked for, with further words of the query.
    pub(super) fn path(&self, segments: &[&str], more: &[(&str, Option<String>)]) -> String {
        let state = self.state.map(|state| state.name().to_owned());
        let word = |word: &Option<Word>| word.as_ref().map(Word::to_string);
        let words = [
            ("state", state),
            ("team", word(&self.team)),
            ("role", word(&self.role)),
            ("site", word(&self.site)),
            ("rack", word(&self.rack)),
            ("label", self.label.clone()),
        ];
        Api::path_with(segments, &[&words[..], more].concat())
    }
}

fn state(text: &str) -> Result<State, String> {
    State::ALL.into_iter().find(|state| state.name() == text).ok_or_else(|| {
        let all: Vec<&str> = State::ALL.iter().map(|state| state.name()).collect();
        format!("a node is one of {}", all.join(", "))
    })
}

/// `ks node …`
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// All nodes, or those that fit all that is given
    List(Filter),
    /// One node
    Show {
        /// Name, identifier or MAC
        node: String,
    },
    /// Declare a node before it is seen
    Add {
        /// Host name
        name: String,
        /// Hardware address of the interface it boots from
        #[arg(long)]
        mac: Mac,
        /// Reserved address
        #[arg(long)]
        address: Option<Ipv4Addr>,
        /// How it is started if it has UEFI: `ipxe` or `signed`; left out: as the site says
        #[arg(long)]
        uefi_loader: Option<UefiLoader>,
        #[command(flatten)]
        said: Said,
    },
    /// Say whose a node is, what it does and where it stands; an empty word takes back what was said
    Edit {
        /// Name, identifier or MAC
        node: String,
        #[command(flatten)]
        said: Said,
    },
    /// Let nobody order on the node, move or edit it, until it is unlocked
    Lock {
        /// Name, identifier or MAC
        node: String,
        /// Why; whoever is refused is told
        #[arg(long)]
        reason: String,
    },
    /// The node may be touched again
    Unlock {
        /// Name, identifier or MAC
        node: String,
    },
    /// Tell the server that the node was switched on
    PoweredOn {
        /// Name, identifier or MAC
        node: String,
    },
    /// A discovered node is ours; any node is as it shall be, without what it is missed for
    Accept {
        /// Name, identifier or MAC
        node: String,
        /// It is this machine now, by its UUID, since its board was replaced: its system, which was refused the key of
        /// its disks there, is given it
        #[arg(long, value_name = "UUID")]
        board: Option<String>,
    },
    /// A discovered node is not ours
    Reject {
        /// Name, identifier or MAC
        node: String,
    },
    /// The node's hardware is bad
    Break {
        /// Name, identifier or MAC
        node: String,
    },
    /// The node's hardware is good again
    Repair {
        /// Name, identifier or MAC
        node: String,
    },
    /// The node is gone
    Retire {
        /// Name, identifier or MAC
        node: String,
    },
}

/// Does one of them.
pub(super) async fn run(api: &Api, command: NodeCommand, format: Format) -> Result<Exit, ClientError> {
    let (node, wanted) = match command {
        NodeCommand::List(filter) => {
            let nodes: Vec<NodeSummary> = api.get(&filter.path(&["v1", "nodes"], &[])).await?;
            restored::warn(api).await;
            return output::list(&nodes, format);
        }
        NodeCommand::Show { node } => {
            let node: NodeView = api.get(&Api::path(&["v1", "nodes", &node])).await?;
            if format == Format::Table {
                output::print(&output::describe(&node))?;
                return Ok(Exit::Done);
            }
            return output::one(&node, format);
        }
        NodeCommand::Add { name, mac, address, uefi_loader, said } => {
            let edit = said.edit();
            let declare = Declare { name, mac, address, uefi_loader };
            let mut node: NodeView = api.post("/v1/nodes", &declare).await?;
            if edit != Edit::default() {
                node = api.patch(&Api::path(&["v1", "nodes", node.summary.id.as_str()]), &edit).await?;
            }
            return output::one(&node, format);
        }
        NodeCommand::Edit { node, said } => {
            let edit = said.edit();
            if edit == Edit::default() {
                return Err(ClientError::Usage(
                    "say what is to be edited, as --team or --label; --help tells what".into(),
                ));
            }
            let node: NodeView = api.patch(&Api::path(&["v1", "nodes", &node]), &edit).await?;
            return output::one(&node, format);
        }
        NodeCommand::Lock { node, reason } => {
            let path = Api::path(&["v1", "nodes", &node, "lock"]);
            let node: NodeView = api.post(&path, &LockNode { reason }).await?;
            return output::one(&node, format);
        }
        NodeCommand::Unlock { node } => {
            let path = Api::path(&["v1", "nodes", &node, "unlock"]);
            let node: NodeView = api.post(&path, &serde_json::json!({})).await?;
            return output::one(&node, format);
        }
        NodeCommand::PoweredOn { node } => {
            let body = crate::http::api::Power { observed: PowerState::On };
            let node: NodeView = api.post(&Api::path(&["v1", "nodes", &node, "power"]), &body).await?;
            return output::one(&node, format);
        }
        NodeCommand::Accept { node, board: Some(uuid) } => {
            let path = Api::path(&["v1", "nodes", &node, "board"]);
            let node: NodeView = api.post(&path, &crate::http::api::Board { uuid }).await?;
            return output::one(&node, format);
        }
        NodeCommand::Accept { node, board: None } => (node, Move::Accept),
        NodeCommand::Reject { node } => (node, Move::Reject),
        NodeCommand::Break { node } => (node, Move::Break),
        NodeCommand::Repair { node } => (node, Move::Repair),
        NodeCommand::Retire { node } => (node, Move::Retire),
    };
    let path = Api::path(&["v1", "nodes", &node, wanted.name()]);
    let node: NodeView = api.post(&path, &serde_json::json!({})).await?;
    output::one(&node, format)
}
