//! A secret that only this TPM gives out, and only after a start like the one in which it was sealed (TPM 2.0 part 1
//! §23.1, policy of platform configuration registers).
//!
//! It is sealed beneath the storage primary key (TCG TPM v2.0 Provisioning Guidance §7.5.1), which the TPM makes again
//! from its own seed each time, so nothing is kept in it and nothing needs a password.

use super::{CREATE_PRIMARY, NO_PASSWORD, PLAIN, WITH_SESSIONS, ask, session, sized};
use std::io::{self, Read, Write};
use zeroize::Zeroizing;

/// Registers that must be as they were (TCG PC Client Platform Firmware Profile §3.3.4, and GRUB's manual, *Measuring
/// boot components*): 7 has whether Secure Boot is on and whose signatures counted, 8 what GRUB and the kernel were
/// told, 9 the files that GRUB read: kernel, ramdisks and menu.
const REGISTERS: [u8; 3] = [7, 8, 9];
/// Longest secret, in bytes (`MAX_SYM_DATA`).
const SECRET_MAX: usize = 128;

const OWNER: u32 = 0x4000_0001;
const NONE: u32 = 0x4000_0007;
const CREATE: u32 = 0x153;
const LOAD: u32 = 0x157;
const UNSEAL: u32 = 0x15e;
const FLUSH: u32 = 0x165;
const START_SESSION: u32 = 0x176;
const POLICY_PCR: u32 = 0x17f;
const POLICY_DIGEST: u32 = 0x189;
const SHA256: [u8; 2] = [0x00, 0x0b];

/// The public area of the storage primary key of NIST P-256.
const PRIMARY: [u8; 26] = [
    0x00, 0x23, 0x00, 0x0b, // ECC, named by SHA-256
    0x00, 0x03, 0x04, 0x72, // fixed to this TPM, made by it, without lockout, restricted, decrypts
    0x00, 0x00, // no policy
    0x00, 0x06, 0x00, 0x80, 0x00, 0x43, // AES 128 CFB
    0x00, 0x10, 0x00, 0x03, 0x00, 0x10, // no scheme, P-256, no derivation
    0x00, 0x00, 0x00, 0x00, // nothing chosen
];

/// The kind of session that [`policy`] starts.
#[derive(Clone, Copy)]
enum Session {
    /// It allows what its policy allows.
    Policy = 0x01,
    /// It only tells what the policy would be.
    Trial = 0x03,
}

/// Seals `secret` to this TPM and to what its registers show now; what to keep of it, which is no secret.
///
/// # Errors
/// When the TPM refuses.
pub fn seal(tpm: &mut (impl Read + Write), secret: &[u8]) -> io::Result<Vec<u8>> {
    if secret.len() > SECRET_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let trial = policy(tpm, Session::Trial)?;
    let answer = tell(tpm, PLAIN, POLICY_DIGEST, &trial.to_be_bytes());
    flush(tpm, trial);
    let answer = answer?;
    let digest = sized(&answer).ok_or(io::ErrorKind::InvalidData)?;
    let primary = primary(tpm)?;
    let mut body = Zeroizing::new(primary.to_be_bytes().to_vec());
    body.extend(session());
    // No password, and the secret.
    body.extend((4 + secret.len() as u16).to_be_bytes());
    body.extend([0, 0]);
    body.extend((secret.len() as u16).to_be_bytes());
    body.extend(secret);
    // Data by policy alone, fixed to this TPM, without lockout.
    let public =
        [&[0x00, 0x08], &SHA256[..], &[0, 0, 0x04, 0x12], &with_size(digest), &[0x00, 0x10, 0, 0]].concat();
    body.extend(with_size(&public));
    // Nothing from outside, no registers for the record.
    body.extend([0, 0, 0, 0, 0, 0]);
    let answer = tell(tpm, WITH_SESSIONS, CREATE, &body);
    flush(tpm, primary);
    let answer = answer?;
    // Behind the length of all parameters: the private part, encrypted by the primary key, and the public one.
    let rest = answer.get(4..).unwrap_or_default();
    let private = sized(rest).ok_or(io::ErrorKind::InvalidData)?;
    let public = sized(&rest[2 + private.len()..]).ok_or(io::ErrorKind::InvalidData)?;
    Ok([with_size(private), with_size(public)].concat())
}

/// The secret of what [`seal`] has given to keep.
///
/// # Errors
/// When it is another TPM's, the registers show something else now, or the TPM refuses for another reason.
pub fn unseal(tpm: &mut (impl Read + Write), kept: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
    let primary = primary(tpm)?;
    let mut body = primary.to_be_bytes().to_vec();
    body.extend(session());
    body.extend(kept);
    let loaded = tell(tpm, WITH_SESSIONS, LOAD, &body).and_then(|answer| handle(&answer));
    flush(tpm, primary);
    let sealed = loaded?;
    let answer = policy(tpm, Session::Policy).and_then(|session| {
        let mut body = sealed.to_be_bytes().to_vec();
        body.extend((NO_PASSWORD.len() as u32).to_be_bytes());
        body.extend(session.to_be_bytes());
        // No nonce, no attributes, no password: the session ends with the command.
        body.extend([0, 0, 0, 0, 0]);
        let answer = tell(tpm, WITH_SESSIONS, UNSEAL, &body);
        if answer.is_err() {
            flush(tpm, session);
        }
        answer
    });
    flush(tpm, sealed);
    let answer = Zeroizing::new(answer?);
    let secret = sized(answer.get(4..).unwrap_or_default()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Zeroizing::new(secret.to_vec()))
}

/// The storage primary key's handle.
fn primary(tpm: &mut (impl Read + Write)) -> io::Result<u32> {
    let mut body = OWNER.to_be_bytes().to_vec();
    body.extend(session());
    // No password for the key, and no data to seal.
    body.extend([0, 4, 0, 0, 0, 0]);
    body.extend(with_size(&PRIMARY));
    body.extend([0, 0, 0, 0, 0, 0]);
    handle(&tell(tpm, WITH_SESSIONS, CREATE_PRIMARY, &body)?)
}

/// A session whose policy is that the registers are as they are now.
fn policy(tpm: &mut (impl Read + Write), kind: Session) -> io::Result<u32> {
    // What travels is neither encrypted nor signed, so nobody counts on the nonce.
    let mut body = [NONE.to_be_bytes(), NONE.to_be_bytes()].concat();
    body.extend(with_size(&[0; 16]));
    body.extend([0, 0, kind as u8, 0x00, 0x10]);
    body.extend(SHA256);
    let session = handle(&tell(tpm, PLAIN, START_SESSION, &body)?)?;
    let mut chosen = [0_u8; 3];
    for register in REGISTERS {
        chosen[usize::from(register / 8)] |= 1 << (register % 8);
    }
    let mut body = session.to_be_bytes().to_vec();
    // No digest: what they show. One choice, of three bytes.
    body.extend([0, 0, 0, 0, 0, 1]);
    body.extend(SHA256);
    body.push(3);
    body.extend(chosen);
    match tell(tpm, PLAIN, POLICY_PCR, &body) {
        Ok(_) => Ok(session),
        Err(error) => {
            flush(tpm, session);
            Err(error)
        }
    }
}

/// Has the TPM forget what it loaded or began.
fn flush(tpm: &mut (impl Read + Write), handle: u32) {
    // What it keeps nonetheless goes when the device is closed.
    tell(tpm, PLAIN, FLUSH, &handle.to_be_bytes()).ok();
}

fn tell(tpm: &mut (impl Read + Write), tag: u16, command: u32, body: &[u8]) -> io::Result<Vec<u8>> {
    ask(tpm, tag, command, body)?
        .ok_or_else(|| io::Error::other(format!("the TPM refuses command {command:#x}")))
}

fn handle(answer: &[u8]) -> io::Result<u32> {
    Ok(u32::from_be_bytes(*answer.first_chunk().ok_or(io::ErrorKind::InvalidData)?))
}

/// The bytes behind their length (`TPM2B_…`).
fn with_size(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    const PCR_EXTEND: u32 = 0x182;

    /// An emulated TPM that was just switched on.
    struct Tpm(Child);

    impl Tpm {
        fn start(state: &Path) -> (Self, UnixStream) {
            let socket = state.join("socket");
            std::fs::remove_file(&socket).ok();
            let mut command = Command::new("swtpm");
            command.args(["socket", "--tpm2", "--flags", "startup-clear,not-need-init", "--tpmstate"]);
            command.arg(format!("dir={}", state.display())).arg("--server");
            command.arg(format!("type=unixio,path={}", socket.display()));
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("swtpm");
            let tpm = Self(child);
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                match UnixStream::connect(&socket) {
                    Ok(stream) => return (tpm, stream),
                    Err(error) => assert!(Instant::now() < deadline, "swtpm: {error}"),
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    impl Drop for Tpm {
        fn drop(&mut self) {
            self.0.kill().and_then(|()| self.0.wait()).ok();
        }
    }

    fn extend(tpm: &mut UnixStream, register: u32) {
        let mut body = register.to_be_bytes().to_vec();
        body.extend(session());
        body.extend([0, 0, 0, 1]);
        body.extend(SHA256);
        body.extend([7; 32]);
        tell(tpm, WITH_SESSIONS, PCR_EXTEND, &body).expect("extended");
    }

    #[test]
    fn p19_a_tpm_gives_a_secret_only_after_the_same_start() {
        let secret = b"kst_disk_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let (state, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let kept = {
            let (_running, mut tpm) = Tpm::start(state.path());
            extend(&mut tpm, 7);
            let kept = seal(&mut tpm, secret).expect("sealed");
            assert!(!kept.windows(secret.len()).any(|part| part == secret), "in the clear");
            // More often than there is room for what was loaded.
            for _ in 0..5 {
                assert_eq!(*unseal(&mut tpm, &kept).expect("the same start"), secret);
            }
            extend(&mut tpm, 4);
            assert_eq!(*unseal(&mut tpm, &kept).expect("a register that does not count"), secret);
            extend(&mut tpm, 9);
            assert!(unseal(&mut tpm, &kept).is_err(), "another kernel");
            kept
        };
        let (_running, mut tpm) = Tpm::start(state.path());
        assert!(unseal(&mut tpm, &kept).is_err(), "nothing was measured yet");
        extend(&mut tpm, 7);
        assert_eq!(*unseal(&mut tpm, &kept).expect("the same start again"), secret);
        for length in 0..kept.len() {
            assert!(unseal(&mut tpm, &kept[..length]).is_err(), "cut off at {length}");
        }
        assert!(seal(&mut tpm, &[0; 129]).is_err());
        let (_running, mut tpm) = Tpm::start(other.path());
        extend(&mut tpm, 7);
        assert!(unseal(&mut tpm, &kept).is_err(), "another TPM");
    }
}
