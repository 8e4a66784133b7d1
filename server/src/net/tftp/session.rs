//! One request, from its first byte to its last.

use super::content::{Content, Reader};
use super::{DropReason, Event, Observer, Resolver, Service, socket};
use kaltstart_core::tftp::{Outcome, Refusal, Report, Step, Transfer};
use kaltstart_protocol::tftp::{DATA_HEADER_BYTES, Packet, Request, data_header};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::Instant;

/// Longest packet read from a client during a transfer: acknowledgements have four bytes, errors
/// have a text.
const ANSWER_BYTES_MAX: usize = 512;

/// Answers the packet `bytes` that `client` sent to `local`.
pub(super) async fn answer<R: Resolver, O: Observer>(
    service: &Service<R, O>,
    client: SocketAddrV4,
    local: Ipv4Addr,
    bytes: &[u8],
) {
    let dropped = |reason| service.observer.note(&Event::Dropped { client, reason });
    let (request, is_write) = match Packet::decode(bytes) {
        Ok(Packet::Rrq(request)) => (request, false),
        Ok(Packet::Wrq(request)) => (request, true),
        // Whoever answers garbage can be made to answer a third party.
        Ok(_) | Err(_) => return dropped(DropReason::Malformed),
    };
    let socket = match socket::connect(local, client) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(%client, %error, "no socket for a TFTP transfer");
            return dropped(DropReason::Socket);
        }
    };
    let begin = Instant::now();
    let opened = if is_write { Err(Refusal::ReadOnly) } else { open(service, client, &request).await };
    let started = opened.and_then(|content| {
        let now_ms = millis_since(begin);
        let (transfer, step) = Transfer::new(&request, content.size(), &service.limits.transfer, now_ms)?;
        Ok((content, transfer, step))
    });
    let name = request.name.as_str();
    let (content, transfer, step) = match started {
        Ok(started) => started,
        Err(reason) => {
            socket.send(&reason.packet().encode()).await.ok();
            tracing::info!(%client, file = ?name, reason = reason.label(), "TFTP request refused");
            return service.observer.note(&Event::Refused { client, name, reason });
        }
    };
    service.observer.note(&Event::Started { client, name });
    let mut session = Session::new(socket, content, transfer, begin);
    let outcome = session.run(step).await;

    let (report, duration) = (session.transfer.report(), begin.elapsed());
    log_end(client, name, &outcome, &report, duration);
    let (outcome, report) = (&outcome, &report);
    service.observer.note(&Event::Finished { client, name, outcome, report, duration });
}

fn log_end(client: SocketAddrV4, file: &str, outcome: &Outcome, report: &Report, duration: Duration) {
    let (bytes, seconds, label) = (report.confirmed_bytes(), duration.as_secs_f64(), outcome.label());
    let Report { blksize, windowsize, acked_block, last_block, resent_blocks, .. } = *report;
    if outcome.is_failure() {
        tracing::warn!(
            %client, file = ?file, bytes, seconds, blksize, windowsize, acked_block, last_block, resent_blocks,
            outcome = label, "TFTP transfer failed"
        );
    } else {
        tracing::info!(%client, file = ?file, bytes, seconds, resent_blocks, outcome = label, "TFTP transfer ended");
    }
}

async fn open<R: Resolver, O>(
    service: &Service<R, O>,
    client: SocketAddrV4,
    request: &Request,
) -> Result<Content, Refusal> {
    let opening = service.resolver.open(*client.ip(), &request.name);
    let opened = tokio::time::timeout(service.limits.resolve_time_max, opening).await;
    opened.unwrap_or(Err(Refusal::Unavailable))?.translated(request.mode).await
}

fn millis_since(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A transfer with all it needs.
struct Session {
    socket: UdpSocket,
    reader: Reader,
    transfer: Transfer,
    begin: Instant,
    /// The packet being put together.
    packet: Vec<u8>,
}

impl Session {
    fn new(socket: UdpSocket, content: Content, transfer: Transfer, begin: Instant) -> Self {
        let reader = Reader::new(content, transfer.window_bytes());
        Self { socket, reader, transfer, begin, packet: Vec::new() }
    }

    async fn run(&mut self, mut step: Step) -> Outcome {
        let mut buffer = [0; ANSWER_BYTES_MAX];
        let mut wake_ms = self.transfer.deadline_ms();
        let timer = tokio::time::sleep_until(self.begin + Duration::from_millis(wake_ms));
        tokio::pin!(timer);
        loop {
            match self.obey(step).await {
                Ok(None) => {}
                Ok(Some(outcome)) => return outcome,
                Err(error) => {
                    tracing::warn!(%error, "cannot read a file served by TFTP");
                    self.socket.send(&Refusal::Unavailable.packet().encode()).await.ok();
                    return Outcome::Unreadable;
                }
            }
            // The deadline moves with each packet, mostly further away. Setting the timer only
            // when it rings, or when it would ring too late, saves most of the work.
            let deadline_ms = self.transfer.deadline_ms();
            if deadline_ms < wake_ms || timer.is_elapsed() {
                wake_ms = deadline_ms;
                timer.as_mut().reset(self.begin + Duration::from_millis(wake_ms));
            }
            step = tokio::select! {
                biased;
                received = self.socket.recv(&mut buffer) => match received {
                    Ok(len) => match Packet::decode(&buffer[..len]) {
                        Ok(packet) => self.transfer.on_packet(&packet, millis_since(self.begin)),
                        Err(_) => Step::Wait,
                    },
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        Step::End(self.transfer.on_unreachable())
                    }
                    Err(_) => Step::Wait,
                },
                () = timer.as_mut() => self.transfer.on_timeout(millis_since(self.begin)),
            };
        }
    }

    /// Does what the transfer says. Fails when the content cannot be read.
    async fn obey(&mut self, step: Step) -> io::Result<Option<Outcome>> {
        match step {
            Step::Wait => Ok(None),
            Step::SendOack => Ok(self.send(&self.transfer.oack().encode()).await),
            Step::SendBlocks(blocks) => self.send_blocks(blocks).await,
            Step::End(outcome) => Ok(Some(outcome)),
        }
    }

    async fn send_blocks(&mut self, blocks: Range<u64>) -> io::Result<Option<Outcome>> {
        let (first, last) = (self.transfer.block(blocks.start), self.transfer.block(blocks.end - 1));
        let mut bytes = self.reader.read(first.offset..last.offset + last.len as u64).await?;
        for number in blocks {
            let block = self.transfer.block(number);
            let (content, rest) = bytes.split_at(block.len);
            bytes = rest;
            self.packet.clear();
            self.packet.reserve(DATA_HEADER_BYTES + content.len());
            self.packet.extend(data_header(block.wire));
            self.packet.extend_from_slice(content);
            if let Some(outcome) = send(&self.socket, &self.transfer, &self.packet).await {
                return Ok(Some(outcome));
            }
        }
        Ok(None)
    }

    async fn send(&self, packet: &[u8]) -> Option<Outcome> {
        send(&self.socket, &self.transfer, packet).await
    }
}

/// Sends a packet. An error of the network is a lost packet, and the transfer sends it again;
/// only the news that the client is gone ends it.
async fn send(socket: &UdpSocket, transfer: &Transfer, packet: &[u8]) -> Option<Outcome> {
    match socket.send(packet).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Some(transfer.on_unreachable()),
        Ok(_) | Err(_) => None,
    }
}
