//! Which module files a list of module names needs.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

/// A kernel's modules as `depmod` describes them.
pub(crate) struct Modules {
    paths: BTreeMap<String, String>,
    needs: BTreeMap<String, Vec<String>>,
    builtin: BTreeSet<String>,
}

impl Modules {
    /// Reads the texts of `modules.dep` and `modules.builtin`.
    pub(crate) fn parse(dep: &str, builtin: &str) -> Modules {
        let mut modules = Modules {
            paths: BTreeMap::new(),
            needs: BTreeMap::new(),
            builtin: builtin.lines().map(name_of).collect(),
        };
        for (path, needs) in dep.lines().filter_map(|line| line.split_once(':')) {
            modules.paths.insert(name_of(path), path.to_owned());
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            modules.needs.insert(path.to_owned(), needs);
        }
        modules
    }

    /// The paths of the named modules and all they depend on. A name built
    /// into the kernel needs no file; an unknown name is an error, so that a
    /// recipe cannot lose a driver to a spelling mistake or a new kernel.
    pub(crate) fn closure(&self, names: &[String]) -> Result<BTreeSet<String>> {
        let mut paths = BTreeSet::new();
        let mut unknown = Vec::new();
        for name in names {
            let name = name_of(name);
            match self.paths.get(&name) {
                // modules.dep lists indirect dependencies too.
                Some(path) => {
                    paths.extend(self.needs[path].iter().cloned());
                    paths.insert(path.clone());
                }
                None if self.builtin.contains(&name) => {}
                None => unknown.push(name),
            }
        }
        if !unknown.is_empty() {
            bail!("the kernel has no module {}; correct the recipe", unknown.join(", "));
        }
        Ok(paths)
    }
}

/// The kernel's name of a module file: no directory, no `.ko`, and `_` for `-`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/drivers/virtio/virtio.ko:\n\
        kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko\n\
        kernel/fs/nls/nls_iso8859-1.ko:\n\
        kernel/a/virtio_pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko\n";

    fn closure(names: &[&str]) -> Result<Vec<String>> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let modules = Modules::parse(DEP, "kernel/drivers/nvme/host/nvme.ko\n");
        Ok(modules.closure(&names)?.into_iter().collect())
    }

    #[test]
    fn dependencies_are_included_once() {
        let expected = [
            "kernel/a/virtio_pci.ko",
            "kernel/drivers/virtio/virtio.ko",
            "kernel/drivers/virtio/virtio_ring.ko",
        ];
        assert_eq!(closure(&["virtio_pci", "virtio_ring"]).unwrap(), expected);
    }

    #[test]
    fn dash_and_underscore_are_the_same() {
        assert_eq!(closure(&["nls_iso8859_1"]).unwrap(), closure(&["nls_iso8859-1"]).unwrap());
    }

    #[test]
    fn builtin_modules_need_no_file_and_unknown_ones_are_named() {
        assert!(closure(&["nvme"]).unwrap().is_empty());
        assert!(closure(&["nvmee"]).unwrap_err().to_string().contains("nvmee"));
    }
}
