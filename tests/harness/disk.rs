//! Disk files: made, filled with known content, looked into from outside.

use crate::process::run;
use crate::wait::secs;
use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One MiB.
pub const MIB: u64 = 1 << 20;
/// Sector size of the tables made here.
const SECTOR: u64 = 512;

/// Makes an empty, sparse disk.
pub fn blank(path: &Path, mib: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot make the disk {}", path.display()))?;
    file.set_len(mib * MIB).with_context(|| format!("cannot size the disk {}", path.display()))
}

/// Makes a disk full of a pattern that no installer writes, and returns its digest.
pub fn sentinel(path: &Path, mib: u64) -> Result<String> {
    let mut file = File::create(path).with_context(|| format!("cannot make the disk {}", path.display()))?;
    let mut block = vec![0; MIB as usize];
    for number in 0..mib {
        // A small generator (splitmix64): different in every block, the same in every run.
        let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for word in block.chunks_exact_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word.copy_from_slice(&(mixed ^ (mixed >> 27)).to_le_bytes());
        }
        file.write_all(&block)?;
    }
    drop(file);
    digest(path)
}

/// What the system on a [`with_a_system`] disk says when a BIOS starts it.
pub const SYSTEM: &str = "KALTSTART-OWN-SYSTEM";

/// Makes a disk with a system of its own that nobody here has installed, and returns its digest: a
/// boot sector that says [`SYSTEM`], and `efi` at UEFI's removable path.
pub fn with_a_system(path: &Path, mib: u64, efi: &Path) -> Result<String> {
    /// Where the code of a FAT16 boot sector begins; BIOS loads the sector to 0x7c00.
    const CODE: u64 = 0x3e;
    // xor ax,ax; mov ds,ax; mov si,text; cld; next: lodsb; test al,al; jz end; mov ah,14;
    // mov bx,7; int 16 (teletype); jmp next; end: hlt; jmp end
    let mut code = vec![
        0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x58, 0x7c, 0xfc, 0xac, 0x84, 0xc0, 0x74, 0x09, 0xb4, 0x0e, 0xbb, 7, 0,
        0xcd, 0x10, 0xeb, 0xf2, 0xf4, 0xeb, 0xfd, 0,
    ];
    code.extend(format!("\r\n{SYSTEM}\r\n\0").as_bytes());
    blank(path, mib)?;
    run(Command::new("mkfs.vfat").args(["-F", "16", "--invariant"]).arg(path), secs(30))?;
    for directory in ["::/EFI", "::/EFI/BOOT"] {
        run(Command::new("mmd").arg("-i").arg(path).arg(directory), secs(30))?;
    }
    run(Command::new("mcopy").arg("-i").arg(path).arg(efi).arg("::/EFI/BOOT/BOOTX64.EFI"), secs(30))?;
    File::options().write(true).open(path)?.write_all_at(&code, CODE)?;
    digest(path)
}

/// SHA-256 of a whole file, as hexadecimal text.
pub fn digest(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; MIB as usize];
    loop {
        match file.read(&mut block)? {
            0 => break,
            count => hasher.update(&block[..count]),
        }
    }
    let mut text = String::new();
    for byte in hasher.finalize() {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}

/// Checks that nothing on the disk can start: its first and last MiB (both copies of the partition
/// table, the BIOS boot sector) hold zeros only.
pub fn ensure_not_bootable(path: &Path) -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let size = file.metadata()?.len();
    let mut block = vec![0; MIB as usize];
    for (what, offset) in [("first", 0), ("last", size - MIB)] {
        file.read_exact_at(&mut block, offset)?;
        let used = block.iter().position(|&byte| byte != 0);
        ensure!(
            used.is_none(),
            "the {what} MiB of {} is not empty: byte {} is not 0",
            path.display(),
            offset + used.unwrap_or(0) as u64
        );
    }
    Ok(())
}

/// The partition table as `sgdisk` prints it, after `sgdisk` found no problem in it.
pub fn partitions(path: &Path) -> Result<String> {
    let verdict = run(Command::new("sgdisk").arg("-v").arg(path), secs(30))?;
    ensure!(verdict.contains("No problems found"), "{} has a damaged table:\n{verdict}", path.display());
    run(Command::new("sgdisk").arg("-p").arg(path), secs(30))
}

/// The same of a disk with sectors of 4096 bytes.
pub fn partitions_of_4096(path: &Path) -> Result<String> {
    let device = run(Command::new("losetup").args(["-b", "4096", "--show", "-f"]).arg(path), secs(30))?;
    let device = Path::new(device.trim());
    let table = partitions(device);
    run(Command::new("losetup").arg("-d").arg(device), secs(30))?;
    table
}

/// The ext4 file system on a partition of a machine that is off, mounted.
///
/// The kernel replays its journal, as the next start of the machine would: a machine whose plug
/// was pulled leaves work there.
pub struct FileSystem {
    mounted: PathBuf,
}

impl FileSystem {
    /// Mounts the ext4 in partition `number` of the disk in `file`, beside that file.
    pub fn mount(file: &Path, number: u32) -> Result<Self> {
        Self::mount_as(file, number, 0, "ext4", "rw")
    }

    /// Mounts a file system of that kind, which begins `behind` bytes behind the start of the partition, with these mount options.
    pub fn mount_as(file: &Path, number: u32, behind: u64, kind: &str, options: &str) -> Result<Self> {
        let info = run(Command::new("sgdisk").arg("-i").arg(number.to_string()).arg(file), secs(30))?;
        let first = info
            .lines()
            .find_map(|line| line.strip_prefix("First sector: "))
            .and_then(|rest| rest.split_whitespace().next())
            .with_context(|| format!("{} has no partition {number}:\n{info}", file.display()))?;
        let offset = first.parse::<u64>()? * SECTOR + behind;
        let mounted = file.with_extension("mounted");
        fs::create_dir_all(&mounted)?;
        let options = format!("loop,offset={offset},{options}");
        let mut mount = Command::new("mount");
        run(mount.args(["-t", kind, "-o", &options]).arg(file).arg(&mounted), secs(60))?;
        Ok(Self { mounted })
    }

    /// The contents of a file.
    pub fn read(&self, file: &str) -> Result<String> {
        let path = self.mounted.join(file.trim_start_matches('/'));
        fs::read_to_string(&path).with_context(|| format!("cannot read {file} of the disk"))
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// Its size in bytes.
    pub fn size(&self) -> Result<u64> {
        let told = run(Command::new("stat").args(["-f", "-c", "%S %b"]).arg(&self.mounted), secs(10))?;
        let numbers: Vec<u64> = told.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        Ok(numbers.iter().product())
    }

    /// Replaces the contents of a file.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.mounted.join(file.trim_start_matches('/'));
        fs::write(&path, text).with_context(|| format!("cannot write {file} of the disk"))
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg(&self.mounted), secs(60)) {
            eprintln!("cannot unmount {}: {error:#}", self.mounted.display());
        }
    }
}

/// A small file system for a server's data; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts it at `path`, which is made.
    pub fn at(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(path), secs(10))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves no space on it.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.filler())?;
        loop {
            match file.write(&[0; 4096]) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Undoes that.
    pub fn make_room(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(&self.path), secs(10)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentinel_is_the_same_each_time_and_no_blank_disk() {
        let path = std::env::temp_dir().join(format!("kt-disk-{}", std::process::id()));
        let first = sentinel(&path, 3).expect("room for 3 MiB");
        assert_eq!(sentinel(&path, 3).expect("room for 3 MiB"), first);
        assert!(ensure_not_bootable(&path).is_err());
        blank(&path, 3).expect("sparse");
        ensure_not_bootable(&path).expect("all zero");
        fs::remove_file(path).expect("it was made");
    }
}
