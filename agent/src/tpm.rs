//! The endorsement key of a TPM 2.0, by which it can be told from all others (TCG EK Credential Profile 2.5).
//!
//! Its maker's certificate lies in the TPM where the maker has put one; else the key is made again, which
//! gives the same one each time, and its public part counts. Of the commands of TPM 2.0 part 3 few are spoken; nothing is
//! kept in the TPM. [`seal`] has those that bind a secret to it.

use kaltstart_protocol::facts::{Endorsement, EndorsementSource};
use kaltstart_protocol::ids::Digest;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

#[cfg(feature = "install")]
pub mod seal;

/// Where certificates lie (EK profile table 2): for keys of RSA 2048, and of NIST P-256.
const CERTIFICATES: [(u32, EndorsementSource); 2] =
    [(0x01c0_0002, EndorsementSource::RsaCertificate), (0x01c0_000a, EndorsementSource::EccCertificate)];
/// Longest certificate that is read, in bytes.
const CERTIFICATE_MAX: usize = 8 << 10;
/// Bytes that are read at once; every TPM gives as many.
const PIECE: usize = 512;
/// Longest answer, in bytes.
const ANSWER_MAX: usize = 4 << 10;

/// Tags, commands and handles (TPM 2.0 part 2 §6).
const PLAIN: u16 = 0x8001;
const WITH_SESSIONS: u16 = 0x8002;
const NV_READ_PUBLIC: u32 = 0x169;
const NV_READ: u32 = 0x14e;
const CREATE_PRIMARY: u32 = 0x131;
const ENDORSEMENT: u32 = 0x4000_000b;

/// A session with the empty password: handle, nonce, attributes, password.
const NO_PASSWORD: [u8; 9] = [0x40, 0, 0, 0x09, 0, 0, 0, 0, 0];

/// The public area of the key of NIST P-256 (EK profile B.3.4, template L-2), up to its two coordinates.
const TEMPLATE: [u8; 54] = [
    0x00, 0x23, 0x00, 0x0b, // ECC, named by SHA-256
    0x00, 0x03, 0x00, 0xb2, // fixed to this TPM, by policy, restricted, decrypts
    0x00, 0x20, 0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7,
    0x24, 0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
    0x00, 0x06, 0x00, 0x80, 0x00, 0x43, // AES 128 CFB
    0x00, 0x10, 0x00, 0x03, 0x00, 0x10, // no scheme, P-256, no derivation
];

/// This machine's TPM, through the kernel's resource manager: what is made in it is gone when this is closed. None where
/// there is none.
///
/// # Errors
/// When it cannot be opened.
pub fn open() -> io::Result<Option<File>> {
    match OpenOptions::new().read(true).write(true).open("/dev/tpmrm0") {
        Ok(tpm) => Ok(Some(tpm)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// That of this machine; none where there is no TPM 2.0, or it does not answer.
#[must_use]
pub fn look() -> Option<Endorsement> {
    let told = open().and_then(|tpm| tpm.map(|mut tpm| endorsement(&mut tpm)).transpose());
    told.unwrap_or_else(|error| {
        tracing::warn!(%error, "the TPM does not tell its endorsement key");
        None
    })
}

/// Asks a TPM for the certificate of its endorsement key, else for the key.
///
/// # Errors
/// When it does not answer, or has neither.
pub fn endorsement(tpm: &mut (impl Read + Write)) -> io::Result<Endorsement> {
    for (index, source) in CERTIFICATES {
        if let Some(certificate) = certificate(tpm, index)? {
            return Ok(Endorsement { source, digest: Digest::of(&certificate) });
        }
    }
    let public = key(tpm)?;
    Ok(Endorsement { source: EndorsementSource::EccKey, digest: Digest::of(&public) })
}

/// The certificate at an index; none when nothing that looks like one is there.
fn certificate(tpm: &mut (impl Read + Write), index: u32) -> io::Result<Option<Vec<u8>>> {
    let Some(public) = ask(tpm, PLAIN, NV_READ_PUBLIC, &index.to_be_bytes())? else { return Ok(None) };
    let Some(size) = area_size(&public).filter(|size| *size <= CERTIFICATE_MAX) else { return Ok(None) };
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        let length = PIECE.min(size - bytes.len());
        let mut body = [index.to_be_bytes(), index.to_be_bytes()].concat();
        body.extend(session());
        body.extend((length as u16).to_be_bytes());
        body.extend((bytes.len() as u16).to_be_bytes());
        let Some(answer) = ask(tpm, WITH_SESSIONS, NV_READ, &body)? else { return Ok(None) };
        // Behind the length of all parameters.
        let Some(piece) = sized(answer.get(4..).unwrap_or_default()).filter(|piece| piece.len() == length)
        else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        bytes.extend(piece);
    }
    Ok(der(&bytes).map(<[u8]>::to_vec))
}

/// The public area of the endorsement key.
fn key(tpm: &mut (impl Read + Write)) -> io::Result<Vec<u8>> {
    let mut public = TEMPLATE.to_vec();
    for _ in ["x", "y"] {
        public.extend(32_u16.to_be_bytes());
        public.extend([0; 32]);
    }
    let mut body = ENDORSEMENT.to_be_bytes().to_vec();
    body.extend(session());
    // No password for the key, and no data to seal.
    body.extend([0, 4, 0, 0, 0, 0]);
    body.extend((public.len() as u16).to_be_bytes());
    body.extend(public);
    // Nothing from outside, no registers.
    body.extend([0, 0, 0, 0, 0, 0]);
    let answer = ask(tpm, WITH_SESSIONS, CREATE_PRIMARY, &body)?
        .ok_or_else(|| io::Error::other("it makes no endorsement key"))?;
    // Behind its handle and the length of all parameters.
    let public = sized(answer.get(8..).unwrap_or_default()).filter(|public| !public.is_empty());
    public.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Sends a command; what comes back behind the answer's head, none when the TPM refuses.
fn ask(tpm: &mut (impl Read + Write), tag: u16, command: u32, body: &[u8]) -> io::Result<Option<Vec<u8>>> {
    const HEAD: usize = 10;
    let mut bytes = tag.to_be_bytes().to_vec();
    bytes.extend(((HEAD + body.len()) as u32).to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(body);
    // A command is one write.
    tpm.write_all(&bytes)?;
    let mut head = [0; HEAD];
    tpm.read_exact(&mut head)?;
    let [_, _, a, b, c, d, code @ ..] = head;
    let size = u32::from_be_bytes([a, b, c, d]) as usize;
    let rest = size.checked_sub(HEAD).filter(|_| size <= ANSWER_MAX).ok_or(io::ErrorKind::InvalidData)?;
    let mut answer = vec![0; rest];
    tpm.read_exact(&mut answer)?;
    Ok((code == [0; 4]).then_some(answer))
}

/// The area of one session with the empty password, its length first.
fn session() -> Vec<u8> {
    [&(NO_PASSWORD.len() as u32).to_be_bytes()[..], &NO_PASSWORD].concat()
}

/// The bytes behind their length (`TPM2B_…`).
fn sized(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

/// The size of an area, by its description (`TPM2B_NV_PUBLIC`, part 2 §13.6): index, algorithm, attributes,
/// policy, size.
fn area_size(answer: &[u8]) -> Option<usize> {
    let public = sized(answer)?.get(10..)?;
    let policy = sized(public)?.len();
    let size = public.get(2 + policy..)?.first_chunk()?;
    Some(usize::from(u16::from_be_bytes(*size)))
}

/// The certificate within an area that may be longer: a DER sequence whose length has two bytes.
fn der(bytes: &[u8]) -> Option<&[u8]> {
    let [0x30, 0x82, high, low, ..] = bytes else { return None };
    bytes.get(..4 + usize::from(u16::from_be_bytes([*high, *low])))
}

#[cfg(test)]
#[path = "tpm_tests.rs"]
mod tests;
