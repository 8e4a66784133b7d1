//! What an ext4 file system says of itself in its superblock (Linux: `Documentation/filesystems/ext4`).

use anyhow::{Context as _, Result, bail, ensure};
use kaltstart_protocol::image::blocks::GRAIN;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

/// Where the superblock is, and how long it is, in bytes.
const SUPERBLOCK: u64 = 1024;
const SUPERBLOCK_LENGTH: usize = 1024;
const MAGIC: u16 = 0xEF53;
/// `s_state`: cleanly unmounted.
const VALID: u16 = 1;
/// `s_feature_incompat`: the journal must be replayed; 64-bit block numbers; a seed for checksums.
const RECOVER: u32 = 0x4;
const WIDE: u32 = 0x80;
const CHECKSUM_SEED: u32 = 0x2000;
/// `s_feature_ro_compat`: group descriptors, or all metadata, have checksums made with the UUID.
const GROUP_CHECKSUMS: u32 = 0x10;
const CHECKSUMS: u32 = 0x400;

/// The fields that matter here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ext4 {
    blocks: u64,
    block_size: u64,
    state: u16,
    incompat: u32,
    ro_compat: u32,
}

impl Ext4 {
    /// Reads the superblock; none if `file` is something else.
    ///
    /// # Errors
    /// When it makes no sense.
    pub(super) fn read(file: &File) -> Result<Option<Self>> {
        let mut bytes = [0; SUPERBLOCK_LENGTH];
        if file.read_exact_at(&mut bytes, SUPERBLOCK).is_err() {
            return Ok(None);
        }
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8; SUPERBLOCK_LENGTH]) -> Result<Option<Self>> {
        let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let long = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if short(0x38) != MAGIC {
            return Ok(None);
        }
        let scale = long(0x18);
        ensure!(scale <= 6, "its blocks are of 2^{scale} KiB");
        let incompat = long(0x60);
        let high = if incompat & WIDE == 0 { 0 } else { u64::from(long(0x150)) << 32 };
        Ok(Some(Self {
            blocks: high | u64::from(long(0x4)),
            block_size: 1024 << scale,
            state: short(0x3A),
            incompat,
            ro_compat: long(0x64),
        }))
    }

    /// Whether its checksums hold for its present UUID alone.
    pub(super) fn needs_seed(&self) -> bool {
        self.ro_compat & (CHECKSUMS | GROUP_CHECKSUMS) != 0 && self.incompat & CHECKSUM_SEED == 0
    }

    /// The bytes of the file system in a file of `length` bytes, if machines can be given it.
    ///
    /// # Errors
    /// What is wrong, and how it is mended.
    pub(super) fn accept(&self, length: u64) -> Result<u64> {
        let Some(size) = self.blocks.checked_mul(self.block_size) else { bail!("its size is nonsense") };
        ensure!(size <= length, "it has {size} bytes, the file only {length}");
        ensure!(
            self.block_size == GRAIN,
            "its blocks are of {} bytes; disks with sectors of 4096 bytes need `mke2fs -b 4096`",
            self.block_size
        );
        ensure!(size > 0, "it has no blocks");
        ensure!(
            self.state == VALID && self.incompat & RECOVER == 0,
            "it was not unmounted cleanly; run `e2fsck -f` on it"
        );
        ensure!(
            !self.needs_seed(),
            "its checksums hold for its present UUID alone, and every machine gets one of its own; \
             run `tune2fs -O metadata_csum_seed` on it (with metadata_csum)"
        );
        Ok(size)
    }
}

/// Makes the checksums of the file system in `file` independent of its UUID.
///
/// # Errors
/// When `tune2fs` is missing or refuses.
pub(super) fn give_seed(file: &Path) -> Result<()> {
    let mut tune = Command::new("tune2fs");
    let output = tune.args(["-O", "metadata_csum_seed"]).arg(file).output();
    let output = output.context("cannot start tune2fs (Debian: e2fsprogs)")?;
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "tune2fs ({}): {words}", output.status);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file system of 8 MiB made with these features.
    fn made_with(block: &str, features: &str) -> (tempfile::NamedTempFile, Ext4) {
        let file = tempfile::NamedTempFile::new().expect("file");
        file.as_file().set_len(8 << 20).expect("length");
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.args(["-q", "-F", "-t", "ext4", "-b", block, "-O", features]);
        let output = mke2fs.arg(file.path()).output();
        let output = output.expect("mke2fs");
        assert!(output.status.success(), "{output:?}");
        let found = Ext4::read(file.as_file()).expect("read").expect("ext4");
        (file, found)
    }

    fn made(features: &str) -> (tempfile::NamedTempFile, Ext4) {
        made_with("4096", features)
    }

    #[test]
    fn what_machines_cannot_be_given_is_refused_with_what_to_do() {
        let (file, good) = made("metadata_csum_seed");
        assert_eq!(good.accept(8 << 20).expect("good"), 8 << 20);
        let refused = |found: &Ext4, length| found.accept(length).expect_err("refused").to_string();
        assert!(refused(&good, (8 << 20) - 1).contains("the file only"));
        let (file_without, without) = made("metadata_csum,^metadata_csum_seed");
        assert!(refused(&without, 8 << 20).contains("tune2fs -O"));
        give_seed(file_without.path()).expect("mended");
        let mended = Ext4::read(file_without.as_file()).expect("read").expect("ext4");
        assert_eq!(mended.accept(8 << 20).expect("good"), 8 << 20);
        assert!(refused(&made("uninit_bg,^metadata_csum").1, 8 << 20).contains("tune2fs -O"));
        assert_eq!(made("^metadata_csum,^uninit_bg").1.accept(8 << 20).expect("no checksums"), 8 << 20);
        assert!(refused(&made_with("1024", "metadata_csum_seed").1, 8 << 20).contains("mke2fs -b 4096"));
        file.as_file().write_all_at(&[0, 0], SUPERBLOCK + 0x3A).expect("dirty");
        assert!(
            refused(&Ext4::read(file.as_file()).expect("read").expect("ext4"), 8 << 20).contains("e2fsck")
        );
        file.as_file().write_all_at(&[0, 0], SUPERBLOCK + 0x38).expect("another kind");
        assert_eq!(Ext4::read(file.as_file()).expect("read"), None);
        file.as_file().set_len(100).expect("short");
        assert_eq!(Ext4::read(file.as_file()).expect("read"), None);
    }
}
