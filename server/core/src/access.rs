//! Who may do what: a role says what its bearer may do, a team with whose nodes. Whatever is not named here is refused.

use crate::about::Word;
use crate::machine::ADMINISTRATOR;
use alloc::string::String;
use core::fmt;
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};

/// Names that no token has: they stand for somebody else in what is told of orders.
pub const RESERVED: [&str; 3] = [ADMINISTRATOR, "configuration", "server"];

/// What somebody is to the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks: at all of the site, or at one team's nodes.
    Viewer,
    /// Racks machines and switches them on.
    Hands,
    /// Orders on the nodes of its team.
    Member,
    /// Orders on all nodes, declares, moves and rescues them.
    Operator,
    /// Everything, tokens and keys too.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Hands, Self::Member, Self::Operator, Self::Admin];

    /// The word in API and client.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Hands => "hands",
            Self::Member => "member",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Look at nodes, their jobs, and what may be laid down on them.
    SeeNodes,
    /// Look at what belongs to no node: addresses, other servers, strangers.
    SeeSite,
    /// Say that a machine was switched on.
    Touch,
    /// Order a system, a rebuild or a release, cancel it, lock and unlock.
    Order,
    /// Declare, edit, move, rescue.
    Operate,
    /// Tokens, keys, the record of who did what.
    Administer,
}

impl Permission {
    /// All permissions.
    pub const ALL: [Self; 6] =
        [Self::SeeNodes, Self::SeeSite, Self::Touch, Self::Order, Self::Operate, Self::Administer];

    /// Who has it.
    const fn roles(self) -> &'static [Role] {
        match self {
            Self::SeeNodes => &Role::ALL,
            Self::SeeSite => &[Role::Viewer, Role::Operator, Role::Admin],
            Self::Touch => &[Role::Hands, Role::Member, Role::Operator, Role::Admin],
            Self::Order => &[Role::Member, Role::Operator, Role::Admin],
            Self::Operate => &[Role::Operator, Role::Admin],
            Self::Administer => &[Role::Admin],
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// The name under which it is noted what they did.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// With whose nodes; none: with all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<Word>,
}

impl Principal {
    /// Whoever holds the token of the data directory.
    #[must_use]
    pub fn administrator() -> Self {
        Self { name: ADMINISTRATOR.into(), role: Role::Admin, team: None }
    }

    /// Whether they may do that, with some node at least.
    ///
    /// # Errors
    /// The roles that may.
    pub fn may(&self, permission: Permission) -> Result<(), &'static [Role]> {
        let roles = permission.roles();
        // What belongs to no node belongs to no team.
        let permitted =
            roles.contains(&self.role) && (self.team.is_none() || permission != Permission::SeeSite);
        if permitted { Ok(()) } else { Err(roles) }
    }

    /// Whether a node that is its owner's since then is there for them, in what it was and did at `at`.
    #[must_use]
    pub fn sees(&self, owner: Option<(&Word, Millis)>, at: Millis) -> bool {
        match (&self.team, owner) {
            (None, _) => true,
            (Some(mine), Some((team, since))) => mine == team && at >= since,
            (Some(_), None) => false,
        }
    }
}

/// A token of the API, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Who holds it.
    #[serde(flatten)]
    pub principal: Principal,
    /// Who made it.
    pub by: String,
    /// When it was made.
    pub at: Millis,
    /// Worth nothing from here on; none: as long as nobody revokes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Millis>,
}

impl Token {
    /// What stands against a token like this, in words for whoever wants it.
    #[must_use]
    pub fn problem(&self) -> Option<&'static str> {
        let Principal { name, role, team } = &self.principal;
        if name.parse::<Word>().is_err() {
            return Some(
                "its name is not 1 to 63 letters, digits, '-', '_' and '.', a letter or digit first and last",
            );
        }
        if RESERVED.contains(&name.as_str()) {
            return Some("that name stands for somebody else in the record of who did what");
        }
        match (role, team) {
            (Role::Member, None) => Some("a member needs a team"),
            (Role::Hands | Role::Operator | Role::Admin, Some(_)) => {
                Some("only viewers and members have a team; hands, operators and admins work with all nodes")
            }
            _ if self.expires_at.is_some_and(|end| end <= self.at) => Some("it would have expired already"),
            _ => None,
        }
    }

    /// Whether it is worth something at `now`.
    #[must_use]
    pub fn is_valid(&self, now: Millis) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn word(text: &str) -> Word {
        text.parse().expect("a word")
    }

    fn who(role: Role, team: Option<&str>) -> Principal {
        Principal { name: "p".into(), role, team: team.map(word) }
    }

    #[test]
    fn p24_each_permission_is_refused_to_some_role_and_admins_have_all() {
        use Permission::{Administer, Operate, Order, SeeNodes, SeeSite, Touch};
        let of = |role, team| -> Vec<Permission> {
            Permission::ALL.into_iter().filter(|it| who(role, team).may(*it).is_ok()).collect()
        };
        assert_eq!(of(Role::Viewer, None), [SeeNodes, SeeSite]);
        assert_eq!(of(Role::Viewer, Some("a")), [SeeNodes]);
        assert_eq!(of(Role::Hands, None), [SeeNodes, Touch]);
        assert_eq!(of(Role::Member, Some("a")), [SeeNodes, Touch, Order]);
        assert_eq!(of(Role::Operator, None), [SeeNodes, SeeSite, Touch, Order, Operate]);
        assert_eq!(of(Role::Admin, None), Permission::ALL);
        assert_eq!(who(Role::Viewer, None).may(Administer), Err(&[Role::Admin][..]));
    }

    #[test]
    fn p23_a_team_sees_its_nodes_and_only_since_they_are_its_own() {
        let (mine, other) = (word("mine"), word("other"));
        let (now, since) = (Millis(10), Millis(5));
        let member = who(Role::Member, Some("mine"));
        assert!(member.sees(Some((&mine, since)), now));
        assert!(!member.sees(Some((&mine, since)), Millis(4)), "what another owner did");
        assert!(!member.sees(Some((&other, since)), now));
        assert!(!member.sees(None, now), "nobody's");
        for owner in [None, Some((&mine, since)), Some((&other, Millis(50)))] {
            assert!(who(Role::Operator, None).sees(owner, now));
        }
    }

    #[test]
    fn p24_tokens_that_would_permit_by_mistake_are_refused() {
        let token = |role, team| Token {
            principal: who(role, team),
            by: "administrator".into(),
            at: Millis(5),
            expires_at: Some(Millis(10)),
        };
        for (role, team) in [
            (Role::Viewer, None),
            (Role::Viewer, Some("a")),
            (Role::Hands, None),
            (Role::Member, Some("a")),
            (Role::Operator, None),
            (Role::Admin, None),
        ] {
            assert_eq!(token(role, team).problem(), None);
        }
        for (role, team) in [
            (Role::Member, None),
            (Role::Hands, Some("a")),
            (Role::Operator, Some("a")),
            (Role::Admin, Some("a")),
        ] {
            assert!(token(role, team).problem().is_some(), "{role} {team:?}");
        }
        for name in ["", "a b", "administrator", "server", "configuration"] {
            let mut named = token(Role::Admin, None);
            named.principal.name = name.into();
            assert!(named.problem().is_some(), "{name:?}");
        }
        let mut old = token(Role::Admin, None);
        assert!(old.is_valid(Millis(9)) && !old.is_valid(Millis(10)));
        old.expires_at = Some(Millis(5));
        assert!(old.problem().is_some() && !old.is_valid(Millis(5)));
    }
}
