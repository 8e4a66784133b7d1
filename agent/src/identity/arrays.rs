//! What a system on arrays needs: mdadm.conf(5), and what keeps its EFI system partitions alike.

use crate::disk::disks::array_name;
use crate::esp;
use crate::image::tree::Tree;
use kaltstart_protocol::agent_api::DiskUuids;
use kaltstart_protocol::layout::{Layout, Role};
use std::fmt::Write as _;
use std::io;

/// Where the configuration of mdadm is.
const CONFIG: &str = "/etc/mdadm/mdadm.conf";

/// Writes all of it.
pub(super) fn write(tree: &Tree, layout: &Layout, uuids: &DiskUuids) -> io::Result<()> {
    tree.write(CONFIG, mdadm(layout, uuids).as_bytes(), 0o644)?;
    let Some(at) = layout.partitions.iter().position(|partition| partition.role == Role::Esp) else {
        return Ok(());
    };
    let partition = |index| uuids.on_disk(index).partitions.get(at).cloned();
    esp::leave_behind(tree, (0..layout.disks() as u32).filter_map(partition).collect())
}

/// The file: each array by its UUID, which is that of its partition on the first disk.
fn mdadm(layout: &Layout, uuids: &DiskUuids) -> String {
    let mut text = "# Written by Kaltstart.\nHOMEHOST <ignore>\nMAILADDR root\n".to_owned();
    let arrays = (1..).zip(layout.partitions.iter().zip(&uuids.partitions));
    for (number, (_, uuid)) in
        arrays.filter(|(_, (partition, _))| partition.role.in_arrays() && partition.group.is_none())
    {
        let digits = uuid.replace('-', "");
        let words: Vec<&str> = (0..4).filter_map(|word| digits.get(8 * word..8 * word + 8)).collect();
        let (name, uuid) = (array_name(number), words.join(":"));
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "ARRAY /dev/md{number} metadata=1.2 UUID={uuid} name={name}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaltstart_protocol::layout::Partition;
    use std::process::Command;

    #[test]
    fn mdadm_understands_its_file() {
        let partition = |role| Partition { role, ..Partition::default() };
        let roles = [Role::BiosBoot, Role::Esp, Role::Root, Role::Swap];
        let layout = Layout { partitions: roles.map(partition).into(), ..Layout::default() };
        let uuid = |n: u8| format!("0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1{n:02x}");
        let uuids = DiskUuids {
            disk: uuid(0),
            partitions: (1..5).map(uuid).collect(),
            root: uuid(9),
            further: Vec::new(),
            esp: 1,
        };
        let text = mdadm(&layout, &uuids);
        let root = "ARRAY /dev/md3 metadata=1.2 UUID=0f1e2d3c:4b5a4978:8796a5b4:c3d2e103 name=any:3\n";
        assert!(text.contains(root) && text.contains("/dev/md4") && !text.contains("/dev/md2"), "{text}");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        let output =
            Command::new("mdadm").arg("--detail").arg("--scan").arg("--config").arg(file.path()).output();
        let output = output.expect("mdadm");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}
