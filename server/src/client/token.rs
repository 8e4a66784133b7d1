//! `ks token …`, `ks whoami`

use super::Format;
use super::api::{Api, ClientError};
use super::output::{self, Row};
use crate::exit::Exit;
use crate::http::api::rfc3339;
use crate::http::tokens::{DAYS_USUAL, MadeToken, NewToken};
use clap::Subcommand;
use kaltstart_core::about::Word;
use kaltstart_core::access::{Principal, Role, Token};

/// `ks token …`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// All tokens, without their secrets
    List,
    /// Make a token, and print its secret, which is told this once
    Create {
        /// Who will hold it; unique, and told wherever it is told who did something
        name: String,
        /// What they may do: `viewer` looks, `hands` racks and switches on, `member` orders on its team's nodes,
        /// `operator` on all and declares, moves and rescues them, `admin` does everything
        #[arg(long, value_parser = role)]
        role: Role,
        /// With whose nodes: of a member, or of a viewer who sees no others
        #[arg(long)]
        team: Option<Word>,
        /// How long it is valid; 0: until it is revoked
        #[arg(long, default_value_t = DAYS_USUAL)]
        days: u32,
    },
    /// A token is worth nothing any more
    Revoke {
        /// Its name
        name: String,
    },
}

fn role(text: &str) -> Result<Role, String> {
    Role::ALL.into_iter().find(|role| role.name() == text).ok_or_else(|| {
        let all: Vec<&str> = Role::ALL.iter().map(|role| role.name()).collect();
        format!("a role is one of {}", all.join(", "))
    })
}

impl Row for Token {
    const HEADER: &'static [&'static str] = &["NAME", "ROLE", "TEAM", "MADE BY", "EXPIRES"];

    fn name(&self) -> String {
        self.principal.name.clone()
    }

    fn cells(&self) -> Vec<String> {
        let [name, role, team] = cells(&self.principal);
        vec![name, role, team, self.by.clone(), self.expires_at.map_or_else(|| "never".into(), rfc3339)]
    }
}

impl Row for Principal {
    const HEADER: &'static [&'static str] = &["NAME", "ROLE", "TEAM"];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self) -> Vec<String> {
        cells(self).into()
    }
}

fn cells(principal: &Principal) -> [String; 3] {
    let team = principal.team.as_ref().map_or("-", Word::as_str);
    [principal.name.clone(), principal.role.to_string(), team.to_owned()]
}

pub(super) async fn run(api: &Api, command: TokenCommand, format: Format) -> Result<Exit, ClientError> {
    match command {
        TokenCommand::List => output::list(&api.get::<Vec<Token>>("/v1/tokens").await?, format),
        TokenCommand::Create { name, role, team, days } => {
            let wanted = NewToken { name, role, team, days: Some(days) };
            let made: MadeToken = api.post("/v1/tokens", &wanted).await?;
            match format {
                Format::Json | Format::Yaml => output::print(&output::structured(&made, format)?)?,
                // Alone on its line: `ks token create … > FILE` is what KS_TOKEN_FILE names.
                Format::Table | Format::Name => output::print(made.token.expose())?,
            }
            eprintln!(
                "keep it in a file that only its holder can read, and name that by KS_TOKEN_FILE; it is not told again"
            );
            Ok(Exit::Done)
        }
        TokenCommand::Revoke { name } => {
            api.delete(&Api::path(&["v1", "tokens", &name])).await?;
            eprintln!("revoked");
            Ok(Exit::Done)
        }
    }
}

pub(super) async fn whoami(api: &Api, format: Format) -> Result<Exit, ClientError> {
    output::one(&api.get::<Principal>("/v1/whoami").await?, format)
}
