//! The disks of a machine: how they are attached, recorded and broken.

use std::path::{Path, PathBuf};

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk.
    Virtio,
    /// NVMe.
    Nvme,
    /// SATA on the chipset's AHCI controller.
    Sata,
    /// SCSI on virtio, with a World Wide Name; disks of one name may share a file.
    Scsi(u64),
    /// A USB stick.
    Usb,
    /// A CD by USB, as management controllers show images.
    UsbCd,
}

impl Bus {
    /// The controller it needs besides what the machine has, if it needs one.
    pub(super) fn controller(self) -> Option<&'static str> {
        match self {
            Self::Virtio | Self::Nvme | Self::Sata => None,
            Self::Scsi(_) => Some("virtio-scsi-pci,id=scsi"),
            Self::Usb | Self::UsbCd => Some("qemu-xhci,id=usb"),
        }
    }

    /// QEMU's model of a disk, the `index`th of its machine, and where it is plugged.
    fn model(self, index: usize) -> String {
        match self {
            Self::Virtio => "virtio-blk-pci".to_owned(),
            Self::Nvme => "nvme".to_owned(),
            Self::Sata => format!("ide-hd,bus=ide.{index}"),
            Self::Scsi(wwn) => format!("scsi-hd,bus=scsi.0,scsi-id={index},wwn={wwn},share-rw=on"),
            Self::Usb => "usb-storage,bus=usb.0,removable=on".to_owned(),
            Self::UsbCd => "usb-storage,bus=usb.0".to_owned(),
        }
    }

    /// Further options of its file.
    fn file_options(self) -> &'static str {
        match self {
            Self::Scsi(_) => ",file.locking=off",
            Self::UsbCd => ",media=cdrom,readonly=on",
            Self::Virtio | Self::Nvme | Self::Sata | Self::Usb => "",
        }
    }
}

/// One disk.
#[derive(Debug, Clone)]
pub struct DiskConfig {
    /// Raw image.
    pub file: PathBuf,
    /// Serial number the machine sees (at most 20 bytes).
    pub serial: String,
    /// How it is attached.
    pub bus: Bus,
    /// Bytes of a sector; SATA here knows 512 alone.
    pub sector: u32,
    /// The socket where it is served and recorded, see [`Recorder`](crate::nbd::Recorder).
    pub recording: Option<PathBuf>,
    /// What is wrong with it.
    pub fault: Option<Fault>,
}

impl DiskConfig {
    /// QEMU's options for the disk, the `index`th of its machine, and their values: its file, and the device, with
    /// `order` of what firmware starts.
    pub(super) fn options(&self, index: usize, order: &str) -> [(&'static str, String); 2] {
        let (node, file) = (format!("disk{index}"), self.file.display());
        let drive = match (&self.recording, self.fault) {
            (None, Some(fault)) => fault.option(&node, &self.file),
            // The host outlives every power cut tried here, so its page cache is safe enough.
            (None, None) => (
                "-drive",
                format!(
                    "if=none,id={node},format=raw,cache=unsafe,discard=unmap,file={file}{}",
                    self.bus.file_options()
                ),
            ),
            (Some(socket), _) => (
                "-blockdev",
                format!(
                    "driver=nbd,node-name={node},discard=unmap,server.type=unix,server.path={}",
                    socket.display()
                ),
            ),
        };
        let device = format!(
            "{},id=device{index},drive={node},serial={},logical_block_size={2},physical_block_size={2}{order}",
            self.bus.model(index),
            self.serial,
            self.sector
        );
        [drive, ("-device", device)]
    }
}

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This sector of 512 bytes can neither be read nor written.
    BadSector(u64),
    /// It is as slow as a card in a slot: a hundred operations or 2 MiB in a second.
    Slow,
}

impl Fault {
    /// QEMU's option for the disk `node` in `file`, and its value.
    fn option(self, node: &str, file: &Path) -> (&'static str, String) {
        let file = file.display();
        match self {
            Self::BadSector(sector) => (
                "-blockdev",
                format!(
                    "driver=blkdebug,node-name={node},discard=unmap,image.driver=file,image.filename={file},\
                     image.cache.no-flush=on,image.discard=unmap,inject-error.0.event=none,\
                     inject-error.0.sector={sector}"
                ),
            ),
            Self::Slow => (
                "-drive",
                format!(
                    "if=none,id={node},format=raw,cache=unsafe,discard=unmap,file={file},\
                     throttling.iops-total=100,throttling.bps-total={}",
                    2 << 20
                ),
            ),
        }
    }
}
