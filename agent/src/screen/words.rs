//! The words of the screen.

use kaltstart_protocol::language::Language;
use kaltstart_protocol::phase::Phase;

use super::{Doing, State};

/// Everything that is said in one language; numbers stand where `{}` is.
pub(super) struct Words {
    pub(super) unnamed: &'static str,
    pub(super) looks: &'static str,
    pub(super) no_hands: &'static str,
    pub(super) to_do: &'static str,
    pub(super) seen: &'static str,
    pub(super) step: &'static str,
    pub(super) seconds_left: &'static str,
    pub(super) minutes_left: &'static str,
    pub(super) heard: &'static str,
    pub(super) not_heard: &'static str,
    pub(super) serial: &'static str,
    pub(super) address: &'static str,
    pub(super) page: &'static str,
    pub(super) keys: &'static str,
    starting: &'static str,
    network: &'static str,
    greeting: &'static str,
    waiting: &'static str,
    disk: &'static str,
    erasing: &'static str,
    image: &'static str,
    configure: &'static str,
    installed: &'static str,
    erased: &'static str,
    rescue: &'static str,
    stopped: &'static str,
    restarting: &'static str,
    stuck: &'static str,
}

const ENGLISH: Words = Words {
    unnamed: "unknown yet",
    looks: "This start only looks: nothing is written to its disks.",
    no_hands: "Nothing to do here.",
    to_do: "WHAT TO DO",
    seen: "Seen: ",
    step: "Step {} of 13",
    seconds_left: "about {} s left",
    minutes_left: "about {} min left",
    heard: "Server heard me {} s ago",
    not_heard: "Server has not heard me yet",
    serial: "Serial",
    address: "Address",
    page: "Page",
    keys: "[D] Deutsch   [Alt+F1] log",
    starting: "Starting drivers",
    network: "Waiting for the network",
    greeting: "Checking hardware, looking for the server",
    waiting: "Waiting for orders",
    disk: "Preparing the disk",
    erasing: "Erasing all disks",
    image: "Writing the system to the disk",
    configure: "Setting up boot loader and identity",
    installed: "Installed: the disk is complete and verified",
    erased: "All disks are empty; the machine may be switched off",
    rescue: "Rescue: somebody may work on this machine over the network",
    stopped: "Stopped by the server",
    restarting: "Restarting",
    stuck: "The agent stops here; restart the machine",
};

const GERMAN: Words = Words {
    unnamed: "unbekannt",
    looks: "Dieser Start sieht nur: Auf die Platten wird nichts geschrieben.",
    no_hands: "Hier ist nichts zu tun.",
    to_do: "WAS ZU TUN IST",
    seen: "Gesehen: ",
    step: "Schritt {} von 13",
    seconds_left: "noch etwa {} s",
    minutes_left: "noch etwa {} min",
    heard: "Der Server hörte mich vor {} s",
    not_heard: "Der Server hörte mich noch nicht",
    serial: "Seriennr.",
    address: "Adresse",
    page: "Seite",
    keys: "[E] English   [Alt+F1] Log",
    starting: "Lädt Treiber",
    network: "Wartet auf das Netz",
    greeting: "Prüft die Hardware, sucht den Server",
    waiting: "Wartet auf Aufträge",
    disk: "Bereitet die Platte vor",
    erasing: "Löscht alle Platten",
    image: "Schreibt das System auf die Platte",
    configure: "Richtet Bootloader und Identität ein",
    installed: "Installiert: Die Platte ist vollständig und geprüft",
    erased: "Alle Platten sind leer; die Maschine darf abgeschaltet werden",
    rescue: "Rettung: Jemand darf über das Netz an dieser Maschine arbeiten",
    stopped: "Vom Server angehalten",
    restarting: "Startet neu",
    stuck: "Der Agent hält hier an; die Maschine neu starten",
};

impl Words {
    pub(super) const fn of(language: Language) -> &'static Self {
        match language {
            Language::English => &ENGLISH,
            Language::German => &GERMAN,
        }
    }

    /// What the agent does, and why, where there is a reason.
    pub(super) fn doing<'a>(&'a self, state: &'a State) -> (&'a str, Option<&'a str>) {
        match &state.doing {
            Doing::Starting => (self.starting, None),
            Doing::Network => (self.network, None),
            Doing::Greeting => (self.greeting, None),
            Doing::Waiting => (self.waiting, None),
            Doing::Job { .. } if state.erases => (self.erasing, None),
            Doing::Job { phase: Phase::Image, .. } => (self.image, None),
            Doing::Job { phase: Phase::Configure, .. } => (self.configure, None),
            Doing::Job { .. } => (self.disk, None),
            Doing::Installed => (self.installed, None),
            Doing::Erased => (self.erased, None),
            Doing::Rescue => (self.rescue, None),
            Doing::Stopped(why) => (self.stopped, Some(why)),
            Doing::Restarting(why) => (self.restarting, Some(why)),
            Doing::Stuck(why) => (self.stuck, Some(why)),
        }
    }
}

/// `text` with `number` in its place.
pub(super) fn with(text: &str, number: u64) -> String {
    text.replace("{}", &number.to_string())
}
