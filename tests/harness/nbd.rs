//! The disks of a machine, served to it by NBD, so that all it writes to them is recorded in one order.
//!
//! Of the protocol (NetworkBlockDevice/nbd, doc/proto.md) there is what QEMU's driver needs: the fixed newstyle
//! handshake, `NBD_OPT_GO` and simple replies, one after the other.

use crate::recording::{Log, Recording};
use anyhow::{Context as _, Result};
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// The server is fixed newstyle, and puts no zeros behind an export.
const HANDSHAKE: u16 = 1 | 2;
/// How an option begins, and a reply to it.
const OPTION: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// The option that begins the work on a disk.
const GO: u32 = 7;
/// Replies to an option.
const ACK: u32 = 1;
const INFO: u32 = 3;
const UNSUPPORTED: u32 = 0x8000_0001;
/// What is told of a disk: size and flags; shortest, best and longest request.
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;
/// It has flags, and takes flushes, forced writes, trims and zeros.
const EXPORT: u16 = 1 | 4 | 8 | 32 | 64;
/// How a request begins, and the reply to it.
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
/// Flag of a request: what it writes is on the medium when it is answered.
const FORCED: u16 = 1;
/// Longest request in bytes.
const REQUEST_MAX: u32 = 32 << 20;
/// Answers to a request: done, failed, not known.
const DONE: u32 = 0;
const FAILED: u32 = 5;
const UNKNOWN: u32 = 22;

/// The disks of one start of a machine.
#[derive(Debug)]
pub struct Recorder {
    log: Arc<Mutex<Log>>,
    sockets: Vec<PathBuf>,
}

impl Recorder {
    /// Serves these disks, given as files and bytes of a sector, at a socket each in `dir`, to one machine.
    pub fn new(dir: &Path, disks: &[(&Path, u32)]) -> Result<Self> {
        let sectors = disks.iter().map(|(_, sector)| *sector).collect();
        let log = Arc::new(Mutex::new(Log::new(&dir.join("writes"), sectors)?));
        let mut sockets = Vec::new();
        for (index, (file, sector)) in disks.iter().enumerate() {
            let socket = dir.join(format!("recorded{index}"));
            fs::remove_file(&socket).ok();
            let listener = UnixListener::bind(&socket)
                .with_context(|| format!("cannot listen at {}", socket.display()))?;
            let file = File::options().read(true).write(true).open(file)?;
            let bytes = file.metadata()?.len();
            let disk = Disk { index, file, bytes, sector: *sector, log: Arc::clone(&log) };
            thread::spawn(move || {
                let served = listener.accept().and_then(|(machine, _)| disk.serve(machine));
                // It hangs up when its power is cut.
                if let Err(error) = served
                    && error.kind() != io::ErrorKind::UnexpectedEof
                {
                    eprintln!("recorded disk {index}: {error}");
                }
            });
            sockets.push(socket);
        }
        Ok(Self { log, sockets })
    }

    /// Where QEMU finds disk `index`.
    #[must_use]
    pub fn socket(&self, index: usize) -> &Path {
        &self.sockets[index]
    }

    /// What happened so far.
    pub fn recording(&self) -> Result<Recording> {
        lock(&self.log).recording()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Who waits for a machine that never came has waited long enough.
        for socket in &self.sockets {
            UnixStream::connect(socket).ok();
        }
    }
}

/// A reader that panicked leaves a whole log behind: its poison says nothing here.
fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One disk.
struct Disk {
    index: usize,
    file: File,
    bytes: u64,
    sector: u32,
    log: Arc<Mutex<Log>>,
}

impl Disk {
    /// Serves it until the machine hangs up.
    fn serve(&self, mut machine: UnixStream) -> io::Result<()> {
        let mut from = BufReader::with_capacity(1 << 20, machine.try_clone()?);
        machine.write_all(&[b"NBDMAGIC", &OPTION.to_be_bytes()[..], &HANDSHAKE.to_be_bytes()].concat())?;
        // Its flags: those of the server.
        bytes::<4>(&mut from)?;
        while !self.option(&mut from, &mut machine)? {}
        while self.request(&mut from, &mut machine)? {}
        Ok(())
    }

    /// Answers an option; whether it was the last.
    fn option(&self, from: &mut impl Read, machine: &mut UnixStream) -> io::Result<bool> {
        if u64::from_be_bytes(bytes(from)?) != OPTION {
            return Err(io::Error::other("no option of NBD"));
        }
        let (option, length) = (u32::from_be_bytes(bytes(from)?), u32::from_be_bytes(bytes(from)?));
        io::copy(&mut from.take(length.into()), &mut io::sink())?;
        let mut reply = |kind: u32, data: &[u8]| {
            let length = (data.len() as u32).to_be_bytes();
            let head = [&OPTION_REPLY.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes(), &length];
            machine.write_all(&[&head.concat(), data].concat())
        };
        if option != GO {
            reply(UNSUPPORTED, &[])?;
            return Ok(false);
        }
        let size = [&INFO_EXPORT.to_be_bytes()[..], &self.bytes.to_be_bytes(), &EXPORT.to_be_bytes()];
        let requests = [self.sector, self.sector.max(4096), REQUEST_MAX].map(u32::to_be_bytes);
        reply(INFO, &size.concat())?;
        reply(INFO, &[&INFO_BLOCK_SIZE.to_be_bytes()[..], &requests.concat()].concat())?;
        reply(ACK, &[])?;
        Ok(true)
    }

    /// Answers a request; whether another may follow.
    fn request(&self, from: &mut impl Read, machine: &mut UnixStream) -> io::Result<bool> {
        if u32::from_be_bytes(bytes(from)?) != REQUEST {
            return Err(io::Error::other("no request of NBD"));
        }
        let (flags, kind) = (u16::from_be_bytes(bytes(from)?), u16::from_be_bytes(bytes(from)?));
        let (handle, offset) = (bytes::<8>(from)?, u64::from_be_bytes(bytes(from)?));
        let (length, forced) = (u32::from_be_bytes(bytes(from)?), flags & FORCED != 0);
        if length > REQUEST_MAX && matches!(kind, 0 | 1) {
            return Err(io::Error::other(format!("a request of {length} bytes")));
        }
        let mut data = vec![0; if matches!(kind, 0 | 1) { length as usize } else { 0 }];
        let done = match kind {
            0 => self.file.read_exact_at(&mut data, offset),
            1 => {
                from.read_exact(&mut data)?;
                let mut log = lock(&self.log);
                let written = self.file.write_all_at(&data, offset);
                written.and_then(|()| log.write(self.index, offset, &data, forced))
            }
            // What was trimmed reads as zeros too.
            4 | 6 => {
                let mut log = lock(&self.log);
                let (start, bytes) = (offset as i64, i64::from(length));
                let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let emptied = fallocate(&self.file, hole, start, bytes).map_err(io::Error::from);
                emptied.map(|()| log.empty(self.index, offset, length.into(), forced))
            }
            2 => return Ok(false),
            3 => {
                lock(&self.log).flush(self.index);
                Ok(())
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        let answer = match &done {
            Ok(()) => DONE,
            Err(error) if error.kind() == io::ErrorKind::Unsupported => UNKNOWN,
            Err(_) => FAILED,
        };
        machine.write_all(&[&REPLY.to_be_bytes()[..], &answer.to_be_bytes(), &handle].concat())?;
        if kind == 0 && answer == DONE { machine.write_all(&data).map(|()| true) } else { Ok(true) }
    }
}

/// So many bytes, in the order of the network.
fn bytes<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).map(|()| bytes)
}
