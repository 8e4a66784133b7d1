use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

/// A TPM that has these answers, one for each command, and keeps the commands.
#[derive(Default)]
struct Scripted {
    answers: VecDeque<Vec<u8>>,
    commands: Vec<Vec<u8>>,
    ready: VecDeque<u8>,
}

impl Write for Scripted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.commands.push(bytes.to_vec());
        self.ready = self.answers.pop_front().unwrap_or_default().into();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Scripted {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.ready.read(bytes)
    }
}

fn scripted(answers: &[Vec<u8>]) -> Scripted {
    Scripted { answers: answers.iter().cloned().collect(), ..Scripted::default() }
}

/// An answer with that code and body.
fn answer(code: u32, body: &[u8]) -> Vec<u8> {
    let size = 10 + body.len() as u32;
    [&[0x80, 0x01][..], &size.to_be_bytes(), &code.to_be_bytes(), body].concat()
}

/// `TPM_RC_HANDLE`: nothing is at that index.
fn nothing() -> Vec<u8> {
    answer(0x18b, &[])
}

/// The description of an area of that size, without and with a policy.
fn area(size: u16, policy: usize) -> Vec<u8> {
    let mut public = [&0x01c0_0002_u32.to_be_bytes()[..], &[0, 0x0b], &[0x62, 0x07, 0x20, 0x01]].concat();
    public.extend((policy as u16).to_be_bytes());
    public.extend(vec![7; policy]);
    public.extend(size.to_be_bytes());
    answer(0, &[&(public.len() as u16).to_be_bytes()[..], &public, &[0, 2, 9, 9]].concat())
}

fn piece(bytes: &[u8]) -> Vec<u8> {
    let size = bytes.len() as u16;
    answer(0, &[&(u32::from(size) + 2).to_be_bytes()[..], &size.to_be_bytes(), bytes, &[0; 5]].concat())
}

#[test]
fn a_certificate_is_read_in_pieces_and_cut_to_its_length() {
    let mut certificate = vec![0x30, 0x82, 0x02, 0x54];
    certificate.extend((0..596).map(|at| at as u8));
    // Makers fill the rest of the area.
    let stored = [&certificate[..], &[0xff; 100]].concat();
    for policy in [0, 32] {
        let mut tpm = scripted(&[area(700, policy), piece(&stored[..512]), piece(&stored[512..])]);
        let endorsement = endorsement(&mut tpm).expect("a certificate");
        assert_eq!(endorsement.source, EndorsementSource::RsaCertificate);
        assert_eq!(endorsement.digest, Digest::of(&certificate));
        let read = &tpm.commands[2];
        assert_eq!(read[..10], [0x80, 0x02, 0, 0, 0, 35, 0, 0, 0x01, 0x4e]);
        assert_eq!(read[read.len() - 4..], [0, 188, 2, 0], "188 bytes from byte 512");
    }
}

#[test]
fn the_certificate_of_the_other_key_counts_and_else_the_key_itself() {
    let certificate = [0x30, 0x82, 0, 1, 9];
    let mut tpm = scripted(&[nothing(), area(5, 0), piece(&certificate)]);
    let other = endorsement(&mut tpm).expect("a certificate");
    assert_eq!((other.source, other.digest), (EndorsementSource::EccCertificate, Digest::of(&certificate)));

    let public = [5; 122];
    let mut made = vec![0x80, 0, 0, 0, 0, 0, 1, 0, 0, 122];
    made.extend(public);
    made.extend([0; 40]);
    let mut tpm = scripted(&[nothing(), nothing(), answer(0, &made)]);
    let key = endorsement(&mut tpm).expect("a key");
    assert_eq!((key.source, key.digest), (EndorsementSource::EccKey, Digest::of(&public)));
    let command = &tpm.commands[2];
    assert_eq!(command.len(), usize::from(command[5]), "its head tells its length");
    assert_eq!(command[10..14], ENDORSEMENT.to_be_bytes());
    // No certificate, and somebody has set a password.
    let mut owned = scripted(&[nothing(), nothing(), answer(0x9a2, &[])]);
    assert!(endorsement(&mut owned).expect_err("no key").to_string().contains("endorsement key"));
}

#[test]
fn an_area_that_holds_no_certificate_is_passed_over() {
    let mut tpm = scripted(&[area(4, 0), piece(&[0xff; 4]), area(0xffff, 0), answer(0x101, &[])]);
    assert!(endorsement(&mut tpm).is_err());
    assert_eq!(tpm.commands.len(), 4, "an area that is too long is not read");
}

proptest! {
    #[test]
    fn p29_no_answer_of_a_tpm_stops_the_agent(answers in prop::collection::vec(
        prop::collection::vec(any::<u8>(), 0..80), 0..6), head in any::<bool>())
    {
        let framed = |body: Vec<u8>| if head { answer(0, &body) } else { body };
        let answers: Vec<Vec<u8>> = answers.into_iter().map(framed).collect();
        endorsement(&mut scripted(&answers)).ok();
    }
}
