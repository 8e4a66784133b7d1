//! What a good configuration names and this machine does not have (yet).

use super::{Config, Database, layout};
use crate::confinement;
use crate::images::{Catalog, ImageError};
use kaltstart_core::dhcp::role::Mode;
use kaltstart_protocol::image::Manifest;
use kaltstart_protocol::layout::fit;
use nix::net::if_::if_nametoindex;
use nix::unistd::{User, geteuid};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io;
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Permission to read a file, and to pass a directory, of others.
const READ: u32 = 0o4;
const PASS: u32 = 0o1;

impl Config {
    /// Files that cannot be read now, and images and layouts that cannot be laid down or start nothing, with what follows.
    /// Files may come later: every one is opened when it is asked for.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        self.missing_for(|path| File::open(path).map(drop))
    }

    /// The same for the user that the server becomes, and what this machine does not have and the server
    /// does not start without.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut all = self.absent_interfaces();
        all.extend(self.absent_addresses());
        if let Some(Err(error)) = self.database.as_ref().map(Database::server) {
            all.push(format!("{error:#}, and the server does not start without it"));
        }
        let loaders = &self.boot.loaders;
        if !loaders.is_dir() {
            all.push(format!(
                "boot.loaders: {} is no directory, and the server does not start without it",
                loaders.display()
            ));
        }
        let becomes = confinement::user(self.user.as_deref());
        all.extend(becomes.as_ref().err().map(|error| format!("{error:#}")));
        // Root reads everything; anybody else cannot become another user.
        all.extend(match becomes.ok().flatten().filter(|_| geteuid().is_root()) {
            Some(user) => self.missing_for(|path| readable_for(&user, path)),
            None => self.missing(),
        });
        all
    }

    fn missing_for(&self, read: impl Fn(&Path) -> io::Result<()>) -> Vec<String> {
        let mut all = self.boot.missing(&self.node, &read);
        all.extend(self.own_layouts.iter().filter_map(layout::starts_nothing));
        let dir = &self.images.dir;
        if let Err(error) = fs::read_dir(dir) {
            all.push(format!("images.dir: {} cannot be read, so no image is there: {error}", dir.display()));
            return all;
        }
        let catalog = Catalog::new(dir.clone(), self.images.trust());
        let mut wanted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for profile in &self.profile {
            wanted.entry(&profile.image).or_default().push(&profile.name);
        }
        let there = catalog.names();
        let names: BTreeSet<&str> = wanted.keys().copied().chain(there.iter().map(String::as_str)).collect();
        for name in names {
            let found = catalog.find(name).and_then(|image| {
                all.extend(self.contradictions(name, &image.manifest));
                let path = image.file;
                read(&path).map_err(|source| ImageError::Read { name: name.into(), path, source })
            });
            if let Err(error) = found {
                let profiles = wanted.get(name).map(|profiles| profiles.join(", "));
                let whose = profiles.map(|names| format!(" (profile {names})")).unwrap_or_default();
                all.push(format!("images.dir{whose}: {error}"));
            }
        }
        all
    }

    /// Profiles whose layout cannot take the image of that name.
    fn contradictions(&self, name: &str, image: &Manifest) -> Vec<String> {
        let profiles = self.profile.iter().filter(|profile| profile.image == name);
        let problems = profiles.filter_map(|profile| {
            let problem = fit::contradiction(image, self.layouts.get(&profile.layout)?)?;
            Some(format!("profile {}: {problem}", profile.name))
        });
        problems.collect()
    }

    fn absent_addresses(&self) -> impl Iterator<Item = String> {
        let own = [
            ("http.listen", *self.http.listen.ip()),
            ("http.tls_listen", *self.http.tls_listen().ip()),
            ("tftp.listen", *self.tftp.listen.ip()),
        ];
        // Any port will do: what is asked for is the address.
        let absent = own.into_iter().filter(|(_, address)| {
            UdpSocket::bind((*address, 0)).is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
        });
        absent.map(|(key, address)| {
            format!(
                "{key}: this machine has no address {address}, and the server does not start without it; \
                 `ip address` shows all"
            )
        })
    }

    fn absent_interfaces(&self) -> Vec<String> {
        let of_v4 = self.dhcp.iter().filter(|dhcp| dhcp.mode != Mode::Off);
        let of_v4 = of_v4.filter_map(|dhcp| Some(("dhcp", dhcp.interface.as_deref()?)));
        let of_v6 = self.dhcp6.iter().filter_map(|dhcp6| Some(("dhcp6", dhcp6.interface.as_deref()?)));
        let absent = of_v4.chain(of_v6).filter(|(_, name)| if_nametoindex(*name).is_err());
        absent
            .map(|(section, name)| {
                format!("{section} {name}: this machine has no interface {name:?}; `ip link` shows all")
            })
            .collect()
    }
}

/// Whether a process of `user`, in no group but its own, may read the file, as far as the permission bits
/// tell.
fn readable_for(user: &User, path: &Path) -> io::Result<()> {
    let real = path.canonicalize()?;
    let refused = |at: &Path| {
        let what = if at == real { "read it".to_owned() } else { format!("enter {}", at.display()) };
        let text = format!("the user {:?} may not {what}", user.name);
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    };
    for at in real.ancestors() {
        if !may(user, &fs::metadata(at)?, if at == real { READ } else { PASS }) {
            return refused(at);
        }
    }
    Ok(())
}

fn may(user: &User, about: &Metadata, wanted: u32) -> bool {
    let shift = match (about.uid() == user.uid.as_raw(), about.gid() == user.gid.as_raw()) {
        (true, _) => 6,
        (false, true) => 3,
        (false, false) => 0,
    };
    user.uid.is_root() || about.mode() >> shift & wanted != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::good;
    use kaltstart_protocol::layout::{Layout, Partition, Role};
    use nix::unistd::{Gid, Uid};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_this_machine_does_not_have_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = good();
        config.dhcp[0].interface = Some("no-such-if".into());
        config.user = Some("no-such-user".into());
        config.images.dir = dir.path().join("images");
        let told = |config: &Config, part: &str| config.warnings().iter().any(|line| line.contains(part));
        for part in ["dhcp no-such-if", "no user \"no-such-user\"", "images.dir: "] {
            assert!(told(&config, part), "{part}");
        }
        let root = Partition { label: "root".into(), role: Role::Root, min_mib: 1, ..Partition::default() };
        let layout = Layout { name: "bare".into(), partitions: vec![root], ..Layout::default() };
        config.own_layouts = vec![layout];
        assert!(told(&config, "layout \"bare\": no machine starts from it"));
        let esp = Partition { label: "esp".into(), role: Role::Esp, min_mib: 512, ..Partition::default() };
        config.own_layouts[0].partitions.push(esp);
        assert!(!told(&config, "layout \"bare\""));
        config.http.listen = "192.0.2.1:80".parse().expect("an address");
        config.database =
            Some(toml::from_str("url = \"host=/run/x user=u\"\npassword_file = \"/none\"").expect("good"));
        assert!(told(&config, "http.listen: this machine has no address 192.0.2.1"));
        assert!(told(&config, "database.password_file /none"));
        config.http.listen = "127.0.0.1:80".parse().expect("an address");
        assert!(!told(&config, "http.listen"));
        config.database = None;
        // Nothing is bound where nothing is served.
        config.dhcp[0].mode = Mode::Off;
        assert!(!told(&config, "no-such-if"));
        config.dhcp[0].interface = Some("lo".into());
        config.dhcp[0].mode = Mode::Authoritative;
        config.user = Some("root".into());
        fs::create_dir_all(config.images.dir.join("unsigned")).expect("made");
        fs::write(config.images.dir.join("unsigned/manifest.json"), "{}").expect("written");
        assert!(!told(&config, "dhcp lo") && !told(&config, "no user"));
        assert!(told(&config, "images.dir: image \"unsigned\"") && told(&config, "sign the manifest"));
        assert!(told(&config, "images.dir (profile debian): image \"debian-12\": cannot read"));
    }

    #[test]
    fn what_a_user_may_read_follows_from_the_bits_of_the_file_and_all_above_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let inner = dir.path().join("inner");
        let file = inner.join("vmlinuz");
        fs::create_dir(&inner).expect("made");
        fs::write(&file, "kernel").expect("written");
        let us = fs::metadata(&file).expect("there");
        let user = |uid, gid| User {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            ..User::from_uid(Uid::from_raw(0)).expect("readable").expect("root is a user")
        };
        let stranger = user(us.uid() + 4711, us.gid() + 4711);
        let check = |dir_mode, inner_mode, mode, user: &User| {
            for (path, mode) in [(dir.path(), dir_mode), (&inner, inner_mode), (&file, mode)] {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
            }
            let outcome = readable_for(user, &file).map_err(|error| error.to_string());
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).expect("ours");
            outcome
        };
        assert_eq!(check(0o755, 0o711, 0o644, &stranger), Ok(()));
        assert!(check(0o755, 0o755, 0o600, &stranger).expect_err("its owner's alone").contains("read it"));
        assert!(check(0o755, 0o744, 0o644, &stranger).expect_err("a closed directory").contains("/inner"));
        let of_group = user(us.uid() + 4711, us.gid());
        assert_eq!(check(0o755, 0o755, 0o640, &of_group), Ok(()));
        check(0o755, 0o755, 0o604, &of_group).expect_err("its group is worse off than others");
    }
}
