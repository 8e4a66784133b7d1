//! One transfer as a client sees it (RFC 1350, 2347, 2348, 7440); no sockets, no clock.
//!
//! It answers a repeated last block with its last acknowledgement, as it must: otherwise a lost
//! acknowledgement is never made good when both sides' timers are equal.

const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) file: &'static str,
    pub(crate) block_bytes: usize,
    pub(crate) window: u16,
}

impl Request {
    /// The read request.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let (block, window) = (self.block_bytes.to_string(), self.window.to_string());
        let mut options = vec![("blksize", block.as_str())];
        if self.window > 1 {
            options.push(("windowsize", &window));
        }
        kaltstart_tests::packets::read_request(self.file, "octet", &options)
    }
}

/// How far a transfer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing but an answer to the request has arrived, if that.
    Waiting,
    /// Data comes.
    Receiving,
    /// All of it is here.
    Done,
    /// The server said no, or something that is not TFTP.
    Failed(String),
}

/// A transfer.
#[derive(Debug)]
pub(crate) struct Transfer {
    block_bytes: usize,
    window: u64,
    /// Blocks that have arrived, all in order.
    blocks: u64,
    /// The last one that was acknowledged; none before the first acknowledgement.
    acked: Option<u64>,
    /// Whether the gap that is open was told of.
    gap_told: bool,
    pub(crate) bytes: u64,
    pub(crate) progress: Progress,
}

impl Transfer {
    pub(crate) fn new() -> Self {
        // Without options, RFC 1350 holds.
        Self {
            block_bytes: 512,
            window: 1,
            blocks: 0,
            acked: None,
            gap_told: false,
            bytes: 0,
            progress: Progress::Waiting,
        }
    }

    /// Takes a packet; the acknowledgement to send, if any.
    pub(crate) fn receive(&mut self, packet: &[u8]) -> Option<[u8; 4]> {
        let field = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
        match field(0) {
            Some(DATA) => self.data(field(2)?, packet.len() - 4),
            Some(OACK) if self.blocks == 0 => {
                self.options(&packet[2..]);
                Some(self.acknowledge())
            }
            // A repeated one, after data has come.
            Some(OACK) => None,
            Some(ERROR) => {
                let text = String::from_utf8_lossy(packet.get(4..).unwrap_or_default());
                self.progress = Progress::Failed(text.trim_end_matches('\0').to_owned());
                None
            }
            kind => {
                self.progress = Progress::Failed(format!("unexpected packet {kind:?}"));
                None
            }
        }
    }

    /// The acknowledgement to repeat when nothing comes; none: repeat the request.
    pub(crate) fn repeat(&mut self) -> Option<[u8; 4]> {
        self.acked.map(|_| self.acknowledge())
    }

    fn data(&mut self, number: u16, bytes: usize) -> Option<[u8; 4]> {
        let distance = number.wrapping_sub((self.blocks + 1) as u16).cast_signed();
        if distance != 0 {
            return if distance > 0 { self.gap() } else { self.repeated(distance) };
        }
        if self.progress == Progress::Done {
            return None;
        }
        self.progress = Progress::Receiving;
        self.gap_told = false;
        self.blocks += 1;
        self.bytes += bytes as u64;
        let last = bytes < self.block_bytes;
        if last {
            self.progress = Progress::Done;
        }
        (last || self.blocks - self.acked.unwrap_or(0) >= self.window).then(|| self.acknowledge())
    }

    /// A block was lost: tell the last one before it, once (RFC 7440 §4).
    fn gap(&mut self) -> Option<[u8; 4]> {
        if std::mem::replace(&mut self.gap_told, true) || self.progress == Progress::Done {
            return None;
        }
        Some(self.acknowledge())
    }

    /// A block comes again. When it is the last one we acknowledged, that was lost.
    fn repeated(&mut self, distance: i16) -> Option<[u8; 4]> {
        (distance == -1 && self.acked == Some(self.blocks)).then(|| self.acknowledge())
    }

    fn acknowledge(&mut self) -> [u8; 4] {
        self.acked = Some(self.blocks);
        let [high, low] = (self.blocks as u16).to_be_bytes();
        let [kind_high, kind_low] = ACK.to_be_bytes();
        [kind_high, kind_low, high, low]
    }

    fn options(&mut self, text: &[u8]) {
        let words: Vec<String> =
            text.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).to_lowercase()).collect();
        for pair in words.chunks_exact(2) {
            match (pair[0].as_str(), pair[1].parse()) {
                ("blksize", Ok(bytes)) => self.block_bytes = bytes,
                ("windowsize", Ok(blocks)) => self.window = blocks as u64,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(number: u16, bytes: usize) -> Vec<u8> {
        let mut packet = vec![0, 3];
        packet.extend(number.to_be_bytes());
        packet.resize(4 + bytes, 0);
        packet
    }

    fn windowed() -> Transfer {
        let mut transfer = Transfer::new();
        let ack = transfer.receive(b"\0\x06blksize\x0010\0windowsize\x004\0");
        assert_eq!(ack, Some([0, 4, 0, 0]));
        transfer
    }

    #[test]
    fn a_window_is_acknowledged_once() {
        let mut transfer = windowed();
        for number in 1..=3 {
            assert_eq!(transfer.receive(&block(number, 10)), None);
        }
        assert_eq!(transfer.receive(&block(4, 10)), Some([0, 4, 0, 4]));
        assert_eq!(transfer.receive(&block(5, 3)), Some([0, 4, 0, 5]));
        assert_eq!((transfer.bytes, &transfer.progress), (43, &Progress::Done));
        assert_eq!(transfer.receive(&block(5, 3)), Some([0, 4, 0, 5]), "the last acknowledgement again");
        assert_eq!(transfer.bytes, 43);
    }

    #[test]
    fn a_gap_is_told_once() {
        let mut transfer = windowed();
        transfer.receive(&block(1, 10));
        assert_eq!(transfer.receive(&block(3, 10)), Some([0, 4, 0, 1]));
        assert_eq!(transfer.receive(&block(4, 10)), None);
        assert_eq!(transfer.receive(&block(2, 10)), None);
        assert_eq!(transfer.repeat(), Some([0, 4, 0, 2]));
    }

    #[test]
    fn without_options_every_block_is_acknowledged_and_numbers_roll_over() {
        let mut transfer = Transfer::new();
        assert_eq!(transfer.repeat(), None, "the request is to be repeated");
        for number in 1..=65_537_u32 {
            let number = number as u16;
            let [high, low] = number.to_be_bytes();
            assert_eq!(transfer.receive(&block(number, 512)), Some([0, 4, high, low]));
        }
        assert_eq!(transfer.receive(&block(1, 512)), Some([0, 4, 0, 1]), "a repeated block");
        assert_eq!(transfer.bytes, 65_537 * 512);
    }
}
