//! Hears which switch and port each interface is plugged into, while the agent does its other work.
//!
//! Switches tell it every 30 s, so nobody waits: what was heard by then goes with the hello, and what
//! comes later with a message of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use kaltstart_protocol::agent_api::Neighbours;
use kaltstart_protocol::facts::{Neighbour, Nic};

use crate::link::Link;
use crate::{inventory, lldp, screen, sys};

/// Pause between looks for new interfaces.
const LOOK: Duration = Duration::from_secs(1);
/// Shortest time between two messages: some switches tell of all their ports at once, and somebody
/// could send nonsense as fast as he likes.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// News that wait; more are dropped, and come again with the switch's next frame.
const WAITING_MAX: usize = 64;
/// Longest frame's payload that is read: that of Ethernet.
const PAYLOAD: usize = 1500;

type News = (String, Neighbour);

/// What is heard on all interfaces, those that appear later included.
pub struct Listener {
    news: Receiver<News>,
    heard: BTreeMap<String, Neighbour>,
}

impl Listener {
    /// Begins to listen, on a thread of its own.
    #[must_use]
    pub fn start() -> Self {
        let (sender, news) = sync_channel(WAITING_MAX);
        std::thread::spawn(move || {
            if let Err(error) = listen(&sender) {
                tracing::warn!("switches cannot be heard (LLDP): {error}");
            }
        });
        Self { news, heard: BTreeMap::new() }
    }

    /// Adds to the interfaces what was heard of them so far.
    pub fn add_to(&mut self, nics: &mut [Nic]) {
        self.heard.extend(self.news.try_iter());
        for nic in nics {
            nic.neighbour = self.heard.get(&nic.name).cloned();
        }
    }

    /// Tells the server what is heard from now on, until it does not want to know.
    pub fn tell(mut self, link: &Link) {
        loop {
            match self.news.recv_timeout(LOOK) {
                Ok((interface, neighbour)) => self.heard.insert(interface, neighbour),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.heard.extend(self.news.try_iter());
            let message = Neighbours { heard: self.heard.clone() };
            if let Err(error) = link.insist("telling the switches", |link| link.neighbours(&message)) {
                tracing::debug!("the server does not want to know its switches: {error}");
                return;
            }
            std::thread::sleep(TELL_EVERY);
        }
    }
}

/// Passes on what is heard anew, for ever.
fn listen(sender: &SyncSender<News>) -> std::io::Result<()> {
    let socket = sys::net::LldpSocket::open(LOOK)?;
    let mut joined = BTreeMap::new();
    let mut known: BTreeMap<String, Neighbour> = BTreeMap::new();
    let mut buffer = [0; PAYLOAD];
    loop {
        for name in inventory::nic_names(Path::new("/")) {
            if !joined.values().any(|other| *other == name)
                && let Ok(index) = socket.join(&name)
            {
                joined.insert(index, name);
            }
        }
        let Some((index, payload)) = socket.receive(&mut buffer)? else { continue };
        let Some((name, neighbour)) = joined.get(&index).zip(lldp::read(payload)) else { continue };
        if known.get(name) != Some(&neighbour) {
            tracing::info!("{name}: plugged into {neighbour}");
            screen::plugged(name, neighbour.to_string());
            if sender.try_send((name.clone(), neighbour.clone())).is_ok() {
                known.insert(name.clone(), neighbour);
            }
        }
    }
}
