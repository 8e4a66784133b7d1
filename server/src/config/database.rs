//! `[database]`

use super::http::{Http, TLS_PORT};
use crate::store::Server;
use anyhow::{Context as _, Result, ensure};
use kaltstart_protocol::secret::Secret;
use serde::Deserialize;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

/// `[database]`: a PostgreSQL that several servers may share, in place of the file in `data_dir`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// Where it is, as libpq takes it: `postgresql://kaltstart@db.example/kaltstart`, or
    /// `host=/run/postgresql user=kaltstart dbname=kaltstart`. Without a password.
    pub url: String,
    /// The file that holds the password alone.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The file with the authorities that vouch for it, in PEM: whoever is on another machine is spoken to by
    /// TLS alone.
    #[serde(default)]
    pub authority: Option<PathBuf>,
    /// The others that share it, as machines reach them: agents and installed systems go on there when this
    /// server does not answer, in this order.
    #[serde(default, rename = "server")]
    pub servers: Vec<OtherServer>,
}

/// `[[database.server]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtherServer {
    /// Its `http.listen`.
    pub listen: SocketAddrV4,
    /// Its `http.tls_listen`.
    tls_listen: Option<SocketAddrV4>,
    /// Further addresses by which it serves DHCP: none of them is a stranger's.
    #[serde(default)]
    addresses: Vec<Ipv4Addr>,
}

impl OtherServer {
    /// Address and port of TLS, as [`Http::tls_listen`].
    #[must_use]
    pub fn tls_listen(&self) -> SocketAddrV4 {
        self.tls_listen.unwrap_or(SocketAddrV4::new(*self.listen.ip(), TLS_PORT))
    }

    /// The addresses by which it may serve DHCP.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        [*self.listen.ip()].into_iter().chain(self.addresses.iter().copied())
    }
}

impl Database {
    pub(super) fn problems(&self, own: &Http, all: &mut Vec<String>) {
        match Server::parse(&self.url) {
            Ok(server) if self.authority.is_none() => all.extend(server.unprotected().map(|host| {
                format!(
                    "database.authority: {host} is another machine; name the authority that vouches for it"
                )
            })),
            Ok(_) => {}
            Err(error) => all.push(format!("database.url: {error}")),
        }
        let others = self.servers.iter().flat_map(|server| [server.listen, server.tls_listen()]);
        let mut unusable =
            others.clone().filter(|address| address.ip().is_unspecified() || address.port() == 0);
        if let Some(wrong) = unusable.next() {
            all.push(format!("database.server: {wrong} is no address and port that machines can reach"));
        }
        let all_of_them = others.chain([own.listen, own.tls_listen()]);
        super::twice(all, "database.server", all_of_them.map(|address| address.to_string()));
    }

    /// The server, with what is in the files.
    ///
    /// # Errors
    /// When they cannot be used, or lack.
    pub fn server(&self) -> Result<Server> {
        let mut server = Server::parse(&self.url)?;
        if let Some(path) = &self.password_file {
            let text = fs::read_to_string(path);
            let text = text.with_context(|| format!("database.password_file {}", path.display()))?;
            ensure!(!text.trim().is_empty(), "database.password_file {} is empty", path.display());
            server.password(&Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()));
        }
        if let Some(path) = &self.authority {
            server.trust(path).with_context(|| format!("database.authority {}", path.display()))?;
        }
        Ok(server)
    }
}
