//! Kernel modules: which drivers the present devices ask for, and loading them.
//!
//! A device names itself in `/sys/devices/**/modalias`; `modules.alias` says which module claims
//! such names (shell patterns); `modules.dep` says what it needs before. A driver may reveal a
//! bus with new devices, so passes are repeated until one loads nothing. What no device asks for
//! is never loaded: `bonding`, for one, would bring an interface of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sys::kernel;

/// Loaded first: nothing depends on it, but every virtual machine's devices sit behind it.
const FIRST: &str = "virtio_pci";
/// Passes over the devices; each reveals one more level of buses.
const PASSES: usize = 8;
/// Depth of `/sys/devices` that is searched.
const DEPTH: usize = 24;
/// Modules loaded at the same time, so that one slow controller does not hold up the others.
const PARALLEL: usize = 4;

/// What `depmod` wrote about a kernel's modules.
#[derive(Debug, Default)]
pub struct Index {
    /// Module name → path below the module directory.
    paths: BTreeMap<String, String>,
    /// Module name → names needed before it, in loading order.
    needs: BTreeMap<String, Vec<String>>,
    /// Bus (`pci`) → patterns and the modules that claim them. Key "" holds patterns without a
    /// fixed bus.
    aliases: BTreeMap<String, Vec<(String, String)>>,
}

impl Index {
    /// Reads the texts of `modules.dep`, `modules.alias` and `modules.softdep`.
    #[must_use]
    pub fn parse(dep: &str, alias: &str, softdep: &str) -> Self {
        let mut index = Self::default();
        for (path, needs) in dep.lines().filter_map(|line| line.split_once(':')) {
            // modules.dep lists indirect needs too, the most basic one last.
            let needs = needs.split_whitespace().rev().map(module_name).collect();
            index.needs.insert(module_name(path), needs);
            index.paths.insert(module_name(path), path.into());
        }
        for line in alias.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next()) {
                let entry = (pattern.to_owned(), module_name(module));
                index.aliases.entry(bus(pattern).into()).or_default().push(entry);
            }
        }
        for line in softdep.lines() {
            index.add_soft(line);
        }
        index
    }

    /// Reads the files of that name in `dir`; missing ones count as empty.
    #[must_use]
    pub fn read(dir: &Path) -> Self {
        let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
        Self::parse(&text("modules.dep"), &text("modules.alias"), &text("modules.softdep"))
    }

    /// `softdep MODULE pre: A B post: C`: `A` and `B` go first; `post` is left to the devices.
    fn add_soft(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let (Some("softdep"), Some(module)) = (words.next(), words.next()) else { return };
        let module = module_name(module);
        let wanted: Vec<String> = words
            .skip_while(|w| *w != "pre:")
            .skip(1)
            .take_while(|w| *w != "post:")
            .map(module_name)
            .collect();
        let mut order = Vec::new();
        for soft in wanted.iter().filter(|name| self.paths.contains_key(*name)) {
            order.extend(self.needs.get(soft).cloned().unwrap_or_default());
            order.push(soft.clone());
        }
        if let Some(needs) = self.needs.get_mut(&module) {
            order.append(needs);
            *needs = order;
        }
    }

    /// The modules that claim the device name `modalias`.
    #[must_use]
    pub fn claims(&self, modalias: &str) -> BTreeSet<&str> {
        [bus(modalias), ""]
            .iter()
            .filter_map(|key| self.aliases.get(*key))
            .flatten()
            .filter(|(pattern, _)| matches(pattern.as_bytes(), modalias.as_bytes()))
            .map(|(_, module)| module.as_str())
            .collect()
    }

    /// The names to load for `module`, in order, itself last; empty when it has no file (built in,
    /// or not in this ramdisk).
    #[must_use]
    pub fn order(&self, module: &str) -> Vec<&str> {
        let Some((module, _)) = self.paths.get_key_value(module) else { return Vec::new() };
        let mut order: Vec<&str> = Vec::new();
        for name in self.needs.get(module).into_iter().flatten().chain([module]).map(String::as_str) {
            if !order.contains(&name) && self.paths.contains_key(name) {
                order.push(name);
            }
        }
        order
    }
}

/// A kernel's modules and which of them were tried.
#[derive(Debug)]
pub struct Loader {
    dir: PathBuf,
    index: Index,
    /// Asked for, whatever came of it.
    tried: BTreeSet<String>,
    /// In the kernel.
    present: Mutex<BTreeSet<String>>,
}

impl Loader {
    /// The modules of the running kernel release, below `/lib/modules`.
    #[must_use]
    pub fn new(release: &str) -> Self {
        let dir = Path::new("/lib/modules").join(release);
        let index = Index::read(&dir);
        Self { dir, index, tried: BTreeSet::new(), present: Mutex::default() }
    }

    /// Loads what the present devices ask for, until a pass finds nothing new; calls `after` when
    /// a pass has ended, before the next one. Gives the number of modules asked for.
    pub fn load_for_devices(&mut self, mut after: impl FnMut()) -> usize {
        let mut loaded = self.load([FIRST.to_owned()].into());
        for _ in 0..PASSES {
            let mut names = BTreeSet::new();
            for modalias in modaliases(Path::new("/sys/devices")) {
                names.extend(self.index.claims(&modalias).into_iter().map(str::to_owned));
            }
            let count = self.load(names);
            after();
            if count == 0 {
                break;
            }
            loaded += count;
        }
        loaded
    }

    /// Loads one module by name with its needs, whether or not a device asks for it.
    pub fn load_named(&mut self, name: &str) {
        self.load([module_name(name)].into());
    }

    /// Loads those of `names` that have a file and were not tried before; gives their number.
    fn load(&mut self, names: BTreeSet<String>) -> usize {
        let wanted: Vec<&String> = names
            .iter()
            .filter(|name| !self.tried.contains(*name) && self.index.paths.contains_key(*name))
            .collect();
        let next = AtomicUsize::new(0);
        let workers =
            std::thread::available_parallelism().map_or(1, |n| n.get().min(PARALLEL)).min(wanted.len());
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while let Some(name) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                        self.load_one(name);
                    }
                });
            }
        });
        let count = wanted.len();
        self.tried.extend(wanted.into_iter().cloned().collect::<Vec<_>>());
        count
    }

    /// Loads one module after its needs. Two threads may load the same one: the kernel lets the
    /// second wait for the first.
    fn load_one(&self, name: &str) {
        let lock = || self.present.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for step in self.index.order(name) {
            if lock().contains(step) {
                continue;
            }
            let path = self.dir.join(&self.index.paths[step]);
            match kernel::load_module(&path) {
                Ok(()) => tracing::debug!("module {step} loaded"),
                // A driver that finds no device of its own says so: normal.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                    tracing::debug!("module {step}: no device");
                }
                Err(error) => {
                    tracing::warn!("module {step} cannot be loaded: {error}");
                    return;
                }
            }
            lock().insert(step.to_owned());
        }
    }
}

/// The kernel's name of a module: no directory, no `.ko…`, and `_` for `-`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// The text before the first colon when it holds no pattern character, else "".
fn bus(alias: &str) -> &str {
    match alias.split_once(':') {
        Some((bus, _)) if !bus.contains(['*', '?', '[']) => bus,
        _ => "",
    }
}

/// Shell pattern matching as `fnmatch(3)` without flags: `*`, `?`, `[a-f]`, `[!a-f]`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go back to: after the last star, and the text it has swallowed so far.
    let mut back: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            back = Some((p + 1, t));
            p += 1;
            continue;
        }
        if t == text.len() && p == pattern.len() {
            return true;
        }
        if let Some(length) = text.get(t).and_then(|byte| one(&pattern[p..], *byte)) {
            p += length;
            t += 1;
            continue;
        }
        match back {
            Some((star, swallowed)) if swallowed < text.len() => {
                back = Some((star, swallowed + 1));
                (p, t) = (star, swallowed + 1);
            }
            _ => return false,
        }
    }
}

/// Whether the first element of `pattern` fits `byte`; its length if so.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'[' => {
            let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
            let start = if negated { 2 } else { 1 };
            // A closing bracket right after the opening one stands for itself.
            let end = start + 1 + pattern.get(start + 1..)?.iter().position(|b| *b == b']')?;
            let mut set = &pattern[start..end];
            let mut found = false;
            while let [low, rest @ ..] = set {
                (found, set) = match rest {
                    [b'-', high, rest @ ..] => (found || (low..=high).contains(&&byte), rest),
                    _ => (found || *low == byte, rest),
                };
            }
            (found != negated).then_some(end + 1)
        }
        literal => (*literal == byte).then_some(1),
    }
}

/// The device names below `devices`, each once.
fn modaliases(devices: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![(devices.to_owned(), 0)];
    while let Some((dir, depth)) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            match entry.file_type() {
                // Links lead out of the tree or around in it.
                Ok(kind) if kind.is_dir() && depth < DEPTH => open.push((entry.path(), depth + 1)),
                Ok(kind) if kind.is_file() && entry.file_name() == "modalias" => {
                    let text = fs::read_to_string(entry.path()).unwrap_or_default();
                    found.extend(Some(text.trim().to_owned()).filter(|text| !text.is_empty()));
                }
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/virtio.ko:\n\
        kernel/virtio_ring.ko: kernel/virtio.ko\n\
        kernel/net/virtio-net.ko: kernel/net_failover.ko kernel/failover.ko kernel/virtio_ring.ko kernel/virtio.ko\n\
        kernel/failover.ko:\n\
        kernel/net_failover.ko: kernel/failover.ko\n\
        kernel/crc.ko: kernel/virtio.ko\n\
        kernel/e1000e.ko:\n";
    const ALIAS: &str = "# Aliases\n\
        alias virtio:d00000001v* virtio_net\n\
        alias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e\n\
        alias usb:v0B95p1790d*dc*dsc*dp*ic[0-8a]isc*ip*in* e1000e\n\
        alias acpi*:PNP0C0A:* battery\n";

    fn index() -> Index {
        Index::parse(DEP, ALIAS, "softdep e1000e pre: crc missing post: virtio_net\n")
    }

    #[test]
    fn patterns_match_as_the_shell_does() {
        for (pattern, text, fits) in [
            ("a*c", "abbbc", true),
            ("a*c", "abbbcd", false),
            ("*a*b*", "xxaxxbxx", true),
            ("a?c", "ac", false),
            ("[0-9a-f]x", "bx", true),
            ("[!0-9]x", "5x", false),
            ("[]x]y", "]y", true),
            ("[-a]", "-", true),
            ("[a", "[a", false),
            ("*", "", true),
            ("", "a", false),
            ("a", "", false),
            ("pci:v*d*bc02*", "pci:v00001AF4d00001000sv0sd1bc02sc00i00", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_end_in_time() {
        // Naive recursion would need 2^30 steps.
        assert!(!matches(
            "a*".repeat(30).as_bytes(),
            format!("{}b", "a".repeat(40)).replace('b', "").as_bytes()[..20].as_ref()
        ));
        assert!(!matches(format!("{}b", "*a".repeat(20)).as_bytes(), "a".repeat(200).as_bytes()));
    }

    #[test]
    fn devices_are_claimed_by_their_drivers() {
        let index = index();
        assert_eq!(index.claims("virtio:d00000001v00001AF4"), ["virtio_net"].into());
        assert_eq!(index.claims("pci:v00008086d000010D3sv1sd2bc02sc00i00"), ["e1000e"].into());
        assert_eq!(index.claims("usb:v0B95p1790d01dc02dsc03dp04ic0aisc00ip00in00"), BTreeSet::new());
        assert_eq!(index.claims("acpi:PNP0C0A:"), ["battery"].into());
        assert_eq!(index.claims("platform:rtc"), BTreeSet::new());
    }

    #[test]
    fn needs_come_first_and_once() {
        let index = index();
        assert_eq!(
            index.order("virtio_net"),
            ["virtio", "virtio_ring", "failover", "net_failover", "virtio_net"]
        );
        assert_eq!(index.order("e1000e"), ["virtio", "crc", "e1000e"], "soft needs too, if present");
        assert!(index.order("battery").is_empty(), "no file: built in or left out");
    }

    #[test]
    fn device_names_are_found_below_and_links_are_not_followed() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("pci0000:00/0000:00:01.0/virtio0");
        fs::create_dir_all(&dir).expect("directories");
        fs::write(dir.join("modalias"), "virtio:d1v2\n").expect("file");
        fs::write(dir.parent().expect("parent").join("modalias"), "\n").expect("file");
        std::os::unix::fs::symlink(root.path(), dir.join("loop")).expect("link");
        assert_eq!(modaliases(root.path()), [String::from("virtio:d1v2")].into());
    }
}
