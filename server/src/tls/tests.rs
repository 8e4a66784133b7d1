use super::*;
use kaltstart_trust::authority::{OtherAuthority, Pin, client_config};
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConnection, Error, ServerConnection};
use std::os::unix::fs::PermissionsExt as _;

const DAY: u64 = 86_400_000;

fn now() -> Millis {
    crate::clock::now()
}

fn in_days(days: u64) -> Millis {
    Millis(now().0 + days * DAY)
}

fn open(dir: &Path, at: Millis) -> Arc<Tls> {
    let names = ["10.77.0.1", "boot.example"].map(str::to_owned).into();
    Arc::new(Tls::open(dir.into(), names, at).expect("made"))
}

/// A whole handshake in memory, with a client that lives at `at`.
fn handshake(tls: &Arc<Tls>, pin: &Pin, name: &'static str, at: Millis) -> Result<(), Error> {
    let config = client_config(pin, at.0 / 1000).expect("a configuration");
    let name = ServerName::try_from(name).expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let config = tls.server_config().expect("a configuration");
    let mut server = ServerConnection::new(Arc::new(config)).expect("a server");
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("written");
        server.read_tls(&mut wire.as_slice()).expect("read");
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).expect("written");
        client.read_tls(&mut wire.as_slice()).expect("read");
        client.process_new_packets()?;
    }
    Ok(())
}

fn pin(tls: &Tls) -> Pin {
    Pin::Fingerprint(tls.authority())
}

fn file_pin(dir: &Path) -> Pin {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    Pin::Certificates(vec![CertificateDer::from_pem_file(dir.join(CA)).expect("a certificate")])
}

#[test]
fn p20_a_client_believes_its_authority_alone() {
    let [ours, other] = [0, 1].map(|_| tempfile::tempdir().expect("a directory"));
    let (tls, stranger) = (open(ours.path(), now()), open(other.path(), now()));
    for pin in [pin(&tls), file_pin(ours.path())] {
        assert_eq!(handshake(&tls, &pin, "10.77.0.1", now()), Ok(()));
        assert_eq!(handshake(&tls, &pin, "boot.example", now()), Ok(()));
        let error = handshake(&tls, &pin, "10.77.0.2", now()).expect_err("another server's name");
        assert!(format!("{error:?}").contains("NotValidForName"), "{error:?}");
        let error = handshake(&tls, &pin, "10.77.0.1", in_days(91)).expect_err("expired");
        assert!(format!("{error:?}").contains("Expired"), "{error:?}");
    }
    match handshake(&stranger, &pin(&tls), "10.77.0.1", now()) {
        Err(Error::InvalidCertificate(CertificateError::Other(other))) => {
            let Pin::Fingerprint(expected) = pin(&tls) else { panic!("a fingerprint") };
            let said = OtherAuthority { expected, seen: stranger.authority() };
            assert_eq!(other.0.downcast_ref(), Some(&said), "{other}");
        }
        other => panic!("{other:?}"),
    }
    let error = handshake(&stranger, &file_pin(ours.path()), "10.77.0.1", now());
    assert_eq!(error, Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)));
}

#[test]
fn p20_a_fingerprint_alone_does_not_make_an_authority() {
    // A stranger that sends our authority's certificate along with its own.
    let [ours, other] = [0, 1].map(|_| tempfile::tempdir().expect("a directory"));
    let (tls, stranger) = (open(ours.path(), now()), open(other.path(), now()));
    let mut chain = stranger.current().key.cert.clone();
    chain.push(tls.current().key.cert[1].clone());
    let key = CertifiedKey::new(chain, stranger.current().key.key.clone());
    let forged = Current { key: Arc::new(key), ..stranger.current() };
    *stranger.current.write().expect("not poisoned") = forged;
    let outcome = handshake(&stranger, &pin(&tls), "10.77.0.1", now());
    assert_eq!(outcome, Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)));
}

#[test]
fn certificates_are_renewed_in_time_and_only_then() {
    let dir = tempfile::tempdir().expect("a directory");
    let tls = open(dir.path(), now());
    let (authority, server) = (tls.authority(), tls.server());
    assert!(!tls.refresh(in_days(59)).expect("read"), "still good");
    assert!(tls.refresh(in_days(61)).expect("renewed"));
    assert_eq!(tls.authority(), authority, "the authority stays");
    assert_ne!(tls.server().fingerprint, server.fingerprint);
    assert_eq!(handshake(&tls, &pin(&tls), "10.77.0.1", in_days(150)), Ok(()));
    // A restart takes what is there; another name makes another certificate.
    assert_eq!(open(dir.path(), in_days(61)).server(), tls.server());
    let names = ["10.77.0.9".to_owned()].into();
    let renamed = Tls::open(dir.path().into(), names, in_days(61)).expect("made");
    assert_eq!(renamed.authority(), authority);
    assert_eq!(renamed.server().names, ["10.77.0.9".to_owned()].into());
}

#[test]
fn a_replaced_authority_is_believed_for_a_month() {
    let dir = tempfile::tempdir().expect("a directory");
    let tls = open(dir.path(), now());
    let (old, old_file) = (pin(&tls), file_pin(dir.path()));
    let files = Files::lock(dir.path()).expect("locked");
    let (authority, _) = complete(&files, &tls.names, now()).expect("there");
    let replaced = authority.replace(now()).expect("made");
    // As if the power went before the server's certificate was written.
    files.write(AUTHORITY, &replaced.to_pem()).expect("written");
    drop(files);
    assert!(tls.refresh(now()).expect("made"));
    let new = pin(&tls);
    assert_ne!(new, old);
    for pin in [&new, &old, &old_file, &file_pin(dir.path())] {
        assert_eq!(handshake(&tls, pin, "10.77.0.1", in_days(29)), Ok(()), "{pin:?}");
    }
    tls.refresh(in_days(31)).expect("read");
    assert_eq!(handshake(&tls, &new, "10.77.0.1", in_days(31)), Ok(()));
    for pin in [&old, &old_file] {
        assert!(handshake(&tls, pin, "10.77.0.1", in_days(31)).is_err(), "{pin:?}");
    }
}

#[test]
fn p22_keys_are_the_owners_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    open(dir.path(), now());
    for name in [AUTHORITY, SERVER] {
        let about = std::fs::metadata(dir.path().join(name)).expect("there");
        assert_eq!(about.permissions().mode() & 0o777, 0o600, "{name}");
    }
    let public = std::fs::read_to_string(dir.path().join(CA)).expect("there");
    assert!(!public.contains("PRIVATE"), "{public}");
    std::fs::write(dir.path().join(SERVER), "").expect("written");
    let error = Tls::open(dir.path().into(), BTreeSet::new(), now()).expect_err("damaged");
    assert!(error.to_string().contains("tls/"), "{error}");
}

#[test]
fn an_error_says_everything_once() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join(SERVER)).expect("made");
    let error = anyhow::Error::from(Tls::open(dir.path().into(), [].into(), now()).expect_err("no file"));
    let path = dir.path().join(SERVER);
    assert_eq!(format!("{error:#}"), format!("cannot use {}: Is a directory (os error 21)", path.display()));
}

#[test]
fn p03_the_key_of_wipe_grants_is_its_owners_alone_and_stays_when_all_else_is_made_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let tls = open(dir.path(), now());
    let key = tls.grant_key();
    let mode = dir.path().join(GRANTS).metadata().expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::remove_file(dir.path().join(AUTHORITY)).expect("removed");
    std::fs::remove_file(dir.path().join(SERVER)).expect("removed");
    assert!(tls.refresh(now()).expect("made anew"));
    assert_eq!(tls.grant_key(), key);
    std::fs::remove_file(dir.path().join(GRANTS)).expect("removed");
    assert_ne!(open(dir.path(), now()).grant_key(), key);
    let other = std::fs::read_to_string(dir.path().join(SERVER)).expect("read");
    std::fs::write(dir.path().join(GRANTS), other).expect("written");
    assert!(tls.refresh(now()).is_err(), "another kind of key");
}

#[test]
fn p03_a_replaced_key_of_wipe_grants_is_on_the_disk_and_its_predecessor_signs_nothing_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let tls = open(dir.path(), now());
    let grant = serde_json::from_value::<WipeGrant>(serde_json::json!({
        "job": kaltstart_protocol::ids::JobId::new(now(), 1), "attempt": 1,
        "host": {"uuid": "", "serial": "", "macs": []},
        "disk": {"wwn": "", "serial": "s", "model": "", "size": 1, "path": ""},
        "contents": [], "issued": 1, "expires": 2,
    }));
    let grant = grant.expect("a grant");
    let [new, old] = tls.rotate_grant_key(now()).expect("replaced");
    assert_ne!(new, old);
    assert_eq!(tls.sign(&grant, &old).expect("signed by nobody"), None);
    assert!(tls.sign(&grant, &new).expect("signed").is_some());
    assert!(!tls.refresh(now()).expect("read"), "nothing else is new");
    assert_eq!((tls.grant_key(), open(dir.path(), now()).grant_key()), (new, new));
    let [_, replaced] = tls.rotate_grant_key(now()).expect("replaced again");
    assert_eq!(replaced, new);
    let mode = dir.path().join(GRANTS).metadata().expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
