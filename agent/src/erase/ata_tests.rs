use super::*;
use std::collections::VecDeque;

/// `IDENTIFY DEVICE` with these words in it. Bits 15 and 14 of word 83 say that those around it count.
fn identity(words: &[(usize, u16)]) -> [u8; 512] {
    let mut data = [0; 512];
    for (number, word) in [(83, 0x7d01)].iter().chain(words) {
        data[number * 2..number * 2 + 2].copy_from_slice(&word.to_le_bytes());
    }
    data
}

/// What `hdparm --Istdout` showed of two real disks, a Seagate ST3160023AS and a Maxtor 6B200M0 (in a
/// mail to linux-ide, 2006).
const SEAGATE: [(usize, u16); 7] =
    [(82, 0x346b), (83, 0x7d01), (84, 0x4003), (85, 0x3468), (89, 0), (90, 0), (128, 0x0001)];
const MAXTOR: [(usize, u16); 7] =
    [(82, 0x7c6b), (83, 0x7f09), (84, 0x4063), (85, 0x7c68), (89, 0), (90, 0), (128, 0x0001)];
/// Made after the standard: an SSD after power-on behind a firmware that freezes nothing, the same frozen, and
/// a spinning disk that needs hours.
const SSD: [(usize, u16); 4] = [(82, 0x746b), (89, 0x0001), (90, 0x0001), (128, 0x0021)];
const FROZEN: [(usize, u16); 4] = [(82, 0x746b), (89, 0x0001), (90, 0x0001), (128, 0x0029)];
const SPINNING: [(usize, u16); 4] = [(82, 0x346b), (89, 0x81a9), (90, 0x81a9), (128, 0x0021)];

#[test]
fn security_is_read_as_it_is_told() {
    for real in [SEAGATE, MAXTOR] {
        let plain = Security { supported: true, ..Security::default() };
        assert_eq!(read(&identity(&real)), plain);
    }
    let ssd = read(&identity(&SSD));
    assert!(ssd.supported && ssd.enhanced && !(ssd.enabled || ssd.locked || ssd.frozen || ssd.exhausted));
    assert_eq!(ssd.time, Some(Duration::from_secs(120)));
    assert!(read(&identity(&FROZEN)).frozen);
    let spinning = read(&identity(&SPINNING));
    assert_eq!(spinning.time, Some(Duration::from_secs(0x1a9 * 120)), "850 minutes");
    // 8 bits: nothing told, and more than can be told.
    assert_eq!((time(0), time(0xff), time(0x8000)), (None, None, None));
    assert_eq!(time(0xfe), Some(Duration::from_secs(508 * 60)));
    let mut unsure = identity(&SSD);
    unsure[83 * 2 + 1] = 0;
    assert!(!read(&unsure).supported, "words around 83 that do not count");
}

#[test]
fn p10_a_disk_that_is_frozen_or_somebody_elses_is_not_erased_by_itself() {
    use EraseMethod::{SecureErase, SecureEraseEnhanced};
    let offers = |words: &[(usize, u16)]| -> Vec<(EraseMethod, Option<&str>)> {
        read(&identity(words)).offers().iter().map(|offer| (offer.method, offer.forbidden)).collect()
    };
    assert_eq!(offers(&SSD), [(SecureEraseEnhanced, None), (SecureErase, None)]);
    let frozen = offers(&FROZEN);
    assert!(frozen.iter().all(|(_, why)| why.is_some_and(|why| why.contains("frozen"))), "{frozen:?}");
    let with = |status: u16| offers(&[(82, 0x746b), (128, status)]);
    assert_eq!(with(0x01), [(SecureErase, None)], "no enhanced mode");
    assert!(with(0x23).iter().all(|(_, why)| why.is_some_and(|why| why.contains("password"))));
    assert_eq!(offers(&[(82, 0x7469), (128, 0x0021)]), [], "no such feature set");
}

#[test]
fn orders_are_what_the_standard_says() {
    let set = Order::with_password(SET_PASSWORD, 0);
    // ATA PASS-THROUGH (16), PIO out, a sector to the disk, its count of one, the command.
    assert_eq!(set.request, [0x85, 0x0a, 0x06, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xf1, 0]);
    let data = set.data.expect("a sector");
    assert_eq!(&data[..12], b"\0\0Kaltstart\0");
    assert!(data[12..].iter().all(|byte| *byte == 0));
    let prepare = Order::bare(ERASE_PREPARE);
    assert_eq!(prepare.request, [0x85, 0x06, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf3, 0]);
    assert_eq!(prepare.data, None);
    let unit = |control| Order::with_password(ERASE_UNIT, control).data.expect("a sector")[0];
    assert_eq!((unit(0), unit(2)), (0, 2), "bit 1 asks for enhanced mode");
}

/// A disk that keeps to ACS-3 §4.18.
struct Model {
    password: Option<[u8; 32]>,
    locked: bool,
    tries: u8,
    prepared: bool,
    erased: Option<bool>,
    /// Commands that it refuses, once each.
    refuses: VecDeque<u8>,
    seen: Vec<(u8, Duration)>,
}

impl Model {
    fn new(refuses: &[u8]) -> Self {
        let refuses = refuses.iter().copied().collect();
        Self {
            password: None,
            locked: false,
            tries: 5,
            prepared: false,
            erased: None,
            refuses,
            seen: Vec::new(),
        }
    }

    /// The power fails and comes back.
    fn power_cycle(&mut self) {
        (self.locked, self.tries, self.prepared) = (self.password.is_some(), 5, false);
    }

    fn commands(&self) -> Vec<u8> {
        self.seen.iter().map(|(command, _)| *command).collect()
    }
}

impl Ata for Model {
    fn identify(&mut self) -> io::Result<[u8; 512]> {
        let bit = |is: bool, bit: u16| u16::from(is) << bit;
        let status = 0x21 | bit(self.password.is_some(), 1) | bit(self.locked, 2) | bit(self.tries == 0, 4);
        Ok(identity(&[(82, 0x746b), (89, 30), (90, 2), (128, status)]))
    }

    fn send(&mut self, order: &Order, limit: Duration) -> io::Result<()> {
        let command = order.request[14];
        self.seen.push((command, limit));
        let refused = || Err(io::Error::other("refused"));
        let was_prepared = std::mem::take(&mut self.prepared);
        if self.refuses.front() == Some(&command) {
            self.refuses.pop_front();
            return refused();
        }
        let given: [u8; 32] = order.data.as_ref().map_or([0; 32], |data| data[2..34].try_into().expect("32"));
        let right = self.password == Some(given);
        match command {
            SET_PASSWORD if !self.locked => self.password = Some(given),
            UNLOCK if self.locked && self.tries > 0 && right => self.locked = false,
            UNLOCK => {
                self.tries = self.tries.saturating_sub(1);
                return refused();
            }
            ERASE_PREPARE => self.prepared = true,
            ERASE_UNIT if was_prepared && right => {
                self.erased = Some(order.data.as_ref().is_some_and(|data| data[0] & 2 != 0));
                (self.password, self.locked) = (None, false);
            }
            DISABLE_PASSWORD if !self.locked && right => self.password = None,
            _ => return refused(),
        }
        Ok(())
    }
}

#[test]
fn p10_a_disk_is_erased_and_left_without_a_password() {
    for enhanced in [false, true] {
        let mut disk = Model::new(&[]);
        erase(&mut disk, enhanced).expect("erased");
        assert_eq!((disk.erased, disk.password), (Some(enhanced), None));
        assert_eq!(disk.commands(), [SET_PASSWORD, ERASE_PREPARE, ERASE_UNIT]);
        let minutes = if enhanced { 2 * 2 } else { 30 * 2 };
        assert_eq!(disk.seen[2].1, Duration::from_secs(minutes * 60 * 2) + SLACK);
    }
}

#[test]
fn p10_a_disk_that_refuses_is_left_without_a_password_and_says_where_it_refused() {
    for (refused, told) in
        [(SET_PASSWORD, "setting a password"), (ERASE_PREPARE, "preparing"), (ERASE_UNIT, "erasing")]
    {
        let mut disk = Model::new(&[refused]);
        let error = erase(&mut disk, true).expect_err("refused").to_string();
        assert!(error.contains(told), "{error}");
        assert_eq!((disk.erased, disk.password), (None, None), "{told}");
    }
    let mut stubborn = Model::new(&[ERASE_UNIT, DISABLE_PASSWORD]);
    let error = erase(&mut stubborn, false).expect_err("refused").to_string();
    assert!(error.contains("erasing") && error.contains("keeps the password Kaltstart"), "{error}");
    assert!(stubborn.password.is_some());
}

#[test]
fn p10_after_a_power_cut_the_next_start_opens_the_disk_again() {
    // Cut after each of the commands; before the first and after the last there is nothing to do.
    for cut in [&[SET_PASSWORD][..], &[SET_PASSWORD, ERASE_PREPARE]] {
        let mut disk = Model::new(&[]);
        for command in cut {
            let order = if *command == ERASE_PREPARE {
                Order::bare(*command)
            } else {
                Order::with_password(*command, 0)
            };
            disk.send(&order, ORDER_LIMIT).expect("taken");
        }
        disk.power_cycle();
        assert!(disk.locked && erase(&mut disk, true).is_err(), "a locked disk erases nothing so");
        disk.power_cycle();
        assert!(recover(&mut disk).expect("opened"));
        assert_eq!((disk.password, disk.locked), (None, false));
        erase(&mut disk, true).expect("erased");
    }
    // A restart without a loss of power leaves it open, with the password.
    let mut warm = Model::new(&[]);
    warm.send(&Order::with_password(SET_PASSWORD, 0), ORDER_LIMIT).expect("taken");
    assert!(recover(&mut warm).expect("opened") && warm.password.is_none());
    assert!(!recover(&mut Model::new(&[])).expect("nothing to do"));
}

#[test]
fn a_disk_with_somebody_elses_password_stays_as_it_is() {
    let mut disk = Model::new(&[]);
    disk.password = Some([b'x'; 32]);
    disk.power_cycle();
    assert!(recover(&mut disk).is_err());
    assert_eq!((disk.tries, disk.locked, disk.commands()), (4, true, vec![UNLOCK]));
    disk.tries = 0;
    assert!(!recover(&mut disk).expect("no more tries"));
    assert_eq!(disk.commands(), [UNLOCK]);
}
