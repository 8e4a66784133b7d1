//! Keeps the boot order that the installation has left: the network, then the disk.
//!
//! An update of the system or of the firmware may put another entry first, and from then on nobody
//! can reach the machine by the network. What was written is remembered in a variable of our own
//! beside the boot order, so that it holds for every system on the machine and for the agent.

use crate::bootloader::efi::{self, Variables};
use kaltstart_protocol::node_api::BootOrder;
use std::path::Path;
use std::process::ExitCode;

/// The variable with the first entries of the boot order, as the installation has written them.
const RECORD: &str = "KaltstartBootOrder-e7d55612-12a7-4049-8ef8-099af6eb6ca4";

/// Remembers that the boot order shall begin with `first`.
///
/// # Errors
/// As the firmware says.
pub(crate) fn remember(efivars: &Path, first: &[u16]) -> std::io::Result<()> {
    efi::set(efivars, RECORD, &efi::bytes(first))
}

/// How the boot order stands; nothing is changed.
#[must_use]
pub fn look(efivars: &Path) -> BootOrder {
    let first = efi::numbers(efivars, RECORD);
    if first.is_empty() {
        return BootOrder::None;
    }
    match efi::read(efivars) {
        Ok(now) if now.order.starts_with(&first) => BootOrder::Kept,
        Ok(now) => BootOrder::Changed { found: text(&now.order) },
        Err(error) => BootOrder::Lost { why: error.to_string() },
    }
}

/// Looks, and sets the boot order again if it was changed.
#[must_use]
pub fn keep(efivars: &Path) -> BootOrder {
    let BootOrder::Changed { found } = look(efivars) else { return look(efivars) };
    let first = efi::numbers(efivars, RECORD);
    let set = || {
        let now = efi::read(efivars).map_err(|error| error.to_string())?;
        efi::set(efivars, &efi::global("BootOrder"), &efi::bytes(&restored(&now, &first)?))
            .map_err(|error| format!("it cannot be written: {error}"))
    };
    match set() {
        Ok(()) => BootOrder::Restored { found },
        Err(why) => {
            BootOrder::Lost { why: format!("it is {found}, shall begin with {}; {why}", text(&first)) }
        }
    }
}

/// The order that begins with `first`; an error when an entry of it is gone.
fn restored(now: &Variables, first: &[u16]) -> Result<Vec<u16>, String> {
    if let Some(gone) = first.iter().find(|number| !now.entries.contains_key(number)) {
        return Err(format!("the firmware has no entry {gone:04X} any more"));
    }
    let others = now.order.iter().filter(|number| !first.contains(number));
    Ok(first.iter().chain(others).copied().collect())
}

fn text(order: &[u16]) -> String {
    let entries: Vec<String> = order.iter().map(|number| format!("{number:04X}")).collect();
    entries.join(",")
}

/// `agent boot-order`: at each start of the installed system but the first, which reports.
#[must_use]
pub fn run(efivars: &Path) -> ExitCode {
    let order = keep(efivars);
    println!("boot order: {order}");
    if matches!(order, BootOrder::Lost { .. }) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Variables of a machine that was installed over the network by entry 4, to entry 0.
    fn installed() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["Boot0000", "Boot0004"] {
            efi::set(directory.path(), &efi::global(name), &[1]).expect("written");
        }
        change(directory.path(), &[4, 0]);
        remember(directory.path(), &[4, 0]).expect("written");
        directory
    }

    fn order(directory: &Path) -> Vec<u16> {
        efi::numbers(directory, &efi::global("BootOrder"))
    }

    fn change(directory: &Path, order: &[u16]) {
        let value = [&[7, 0, 0, 0], efi::bytes(order).as_slice()].concat();
        fs::write(directory.join(efi::global("BootOrder")), value).expect("written");
    }

    #[test]
    fn what_an_update_has_changed_is_set_again_and_told() {
        let directory = installed();
        let efivars = directory.path();
        assert_eq!(keep(efivars), BootOrder::Kept);
        efi::set(efivars, &efi::global("Boot0007"), &[1]).expect("written");
        change(efivars, &[7, 0, 4]);
        let found = "0007,0000,0004".to_owned();
        assert_eq!(look(efivars), BootOrder::Changed { found: found.clone() });
        assert_eq!(order(efivars), [7, 0, 4], "looking changes nothing");
        assert_eq!(keep(efivars), BootOrder::Restored { found });
        assert_eq!(order(efivars), [4, 0, 7]);
        // More entries behind ours are nobody's concern.
        change(efivars, &[4, 0, 9, 7]);
        assert_eq!(keep(efivars), BootOrder::Kept);
        assert_eq!(order(efivars), [4, 0, 9, 7]);
    }

    #[test]
    fn an_entry_that_is_gone_is_told() {
        let directory = installed();
        fs::remove_file(directory.path().join(efi::global("Boot0004"))).expect("removed");
        change(directory.path(), &[0]);
        let BootOrder::Lost { why } = keep(directory.path()) else { panic!("not lost") };
        assert!(why.contains("no entry 0004") && why.contains("0004,0000"), "{why}");
        assert_eq!(order(directory.path()), [0], "it is left as it is");
    }

    #[test]
    fn a_machine_without_a_record_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        change(directory.path(), &[1, 2]);
        for efivars in [directory.path(), Path::new("/nowhere")] {
            assert_eq!(keep(efivars), BootOrder::None);
        }
        assert_eq!(order(directory.path()), [1, 2]);
    }
}
