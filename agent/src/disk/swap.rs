//! Swap space as bytes: its first page (`include/linux/swap.h`, `union swap_header`).

use super::gpt::Guid;

/// Bytes of a page, in which the kernel counts.
pub const PAGE: u64 = 4096;
/// Bytes of the name.
const NAME: usize = 16;

/// The first page of swap space of `bytes` bytes, which are more than that page.
#[must_use]
pub fn encode(bytes: u64, uuid: Guid, name: &str) -> [u8; PAGE as usize] {
    let last = u32::try_from(bytes / PAGE - 1).unwrap_or(u32::MAX);
    let mut page = [0; PAGE as usize];
    // Version, last page, number of bad pages.
    for (slot, value) in page[1024..1036].chunks_exact_mut(4).zip([1, last, 0_u32]) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
    page[1036..1052].copy_from_slice(&uuid.0);
    for (slot, byte) in page[1052..1052 + NAME].iter_mut().zip(name.bytes()) {
        *slot = byte;
    }
    page[PAGE as usize - 10..].copy_from_slice(b"SWAPSPACE2");
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn swaplabel_reads_it() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let uuid = "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0";
        let page = encode(64 << 20, Guid::parse(uuid).expect("a UUID"), "swap");
        std::fs::write(file.path(), page).expect("written");
        file.as_file().set_len(64 << 20).expect("sparse");
        let output = Command::new("swaplabel").arg(file.path()).output().expect("swaplabel");
        let words = String::from_utf8_lossy(&output.stdout);
        assert!(words.contains(uuid) && words.contains("LABEL: swap"), "{words} {output:?}");
    }
}
