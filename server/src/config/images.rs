//! `[images]`

use super::dhcp::networks;
use jiff::Timestamp;
use kaltstart_core::dhcp::subnet::Network;
use kaltstart_trust::images::{ImageKey, ImageTrust, KEYS_MAX};
use reqwest::Url;
use serde::Deserialize;
use std::net::{IpAddr, SocketAddrV4};
use std::num::NonZeroU32;
use std::path::PathBuf;

/// `[images]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    /// Directory with `NAME/manifest.json`, its signature and the file it names.
    pub dir: PathBuf,
    /// Public keys of minisign; images that none of them has signed are refused.
    #[serde(default)]
    pub keys: Vec<ImageKey>,
    /// Images that were signed before are refused.
    pub signed_since: Option<Timestamp>,
    /// Million bits a second that all images together may take of the server's network; none: what there is.
    pub max_mbit: Option<NonZeroU32>,
    /// Where agents look for the files of images before they ask the server, in this order.
    #[serde(default, rename = "cache")]
    pub caches: Vec<Cache>,
}

/// `[[images.cache]]`: a cache of plain HTTP in front of this server. It needs no trust, as manifests are signed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// What stands before `/images/` there.
    url: String,
    /// The machines that ask it, by their addresses; empty: all.
    #[serde(default, deserialize_with = "networks")]
    networks: Vec<Network>,
}

impl Cache {
    fn is_asked_by(&self, machine: IpAddr) -> bool {
        let within = |machine| self.networks.iter().any(|network| network.contains(machine));
        self.networks.is_empty() || matches!(machine, IpAddr::V4(machine) if within(machine))
    }

    fn base(&self) -> &str {
        self.url.trim_end_matches('/')
    }

    fn problem(&self, server: SocketAddrV4) -> Option<String> {
        let wrong = |what: &str| Some(format!("images.cache {:?}: {what}", self.url));
        let Ok(url) = Url::parse(&self.url) else {
            return wrong("is no URL; write it as \"http://10.9.0.2:8080\"");
        };
        let is_server = url.host_str() == Some(&server.ip().to_string())
            && url.port_or_known_default() == Some(server.port());
        if url.scheme() != "http" {
            return wrong("agents speak plain HTTP to caches, as images are signed; write http://");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return wrong("agents tell no name or password there");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return wrong("nothing may stand behind its path, as /images/ follows");
        }
        if is_server {
            return wrong("is http.listen, which is asked in the end anyway");
        }
        None
    }
}

impl Images {
    /// Whose images are believed.
    #[must_use]
    pub fn trust(&self) -> ImageTrust {
        let since = self.signed_since.map_or(0, |time| u64::try_from(time.as_second()).unwrap_or(0));
        ImageTrust { keys: self.keys.clone(), since }
    }

    /// What stands before `/images/` at the caches that a machine with this address asks.
    #[must_use]
    pub fn caches_of(&self, machine: IpAddr) -> Vec<&str> {
        self.caches.iter().filter(|cache| cache.is_asked_by(machine)).map(Cache::base).collect()
    }

    pub(super) fn problems(&self, is_used: bool, server: SocketAddrV4, all: &mut Vec<String>) {
        all.extend(self.caches.iter().filter_map(|cache| cache.problem(server)));
        super::twice(all, "images.cache.url", self.caches.iter().map(|cache| cache.base().to_owned()));
        if self.keys.is_empty() && is_used {
            all.push(
                "images.keys is empty, so no image is believed: name the public key that signs yours \
                 (`minisign -G` makes a pair, `minisign -S -m manifest.json` signs)"
                    .to_owned(),
            );
        }
        if self.keys.len() > KEYS_MAX {
            all.push(format!("images.keys: more than {KEYS_MAX} do not fit on a kernel command line"));
        }
    }
}
