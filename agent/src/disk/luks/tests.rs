use super::*;
use crate::disk::gpt::Guid;
use crate::disk::md;
use kaltstart_protocol::layout::array::{self, Array, Level};
use kaltstart_protocol::time::Millis;
use proptest::prelude::*;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Output};

const PASSPHRASE: &[u8] = b"kst_disk_0123456789abcdef0123456789abcdef";
const ID: &str = "0d7a2a44-6a2b-4d6a-9f1d-0c6a5d1c2b3e";

/// Bytes that look random, and are the same in every run.
fn random() -> impl FnMut(&mut [u8]) -> io::Result<()> {
    let mut count = 0_u64;
    move |buffer| {
        for piece in buffer.chunks_mut(32) {
            count += 1;
            let hash: [u8; 32] = Sha256::digest(count.to_be_bytes()).into();
            piece.copy_from_slice(&hash[..piece.len()]);
        }
        Ok(())
    }
}

/// A file of 32 MiB with a new header, and what it was made with.
fn made(sector_size: u32) -> (tempfile::NamedTempFile, New) {
    let new = make(ID, "root", sector_size, PASSPHRASE, &mut random()).expect("made");
    let file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file().set_len(32 << 20).expect("sparse");
    write(file.as_file(), &new.writes);
    (file, new)
}

fn write(file: &File, writes: &[(u64, Vec<u8>)]) {
    writes.iter().for_each(|(offset, bytes)| file.write_all_at(bytes, *offset).expect("written"));
}

fn reader(file: &File) -> impl Fn(u64, &mut [u8]) -> io::Result<()> {
    |offset, buffer| file.read_exact_at(buffer, offset)
}

fn cryptsetup(arguments: &[&str], file: &Path) -> Output {
    Command::new("cryptsetup").args(arguments).arg(file).output().expect("cryptsetup")
}

/// What `cryptsetup` says of a key: whether it opens the file.
fn opens(file: &Path, key: &[u8]) -> bool {
    let kept = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(kept.path(), key).expect("written");
    let key_file = format!("--key-file={}", kept.path().display());
    cryptsetup(&["open", "--test-passphrase", &key_file], file).status.success()
}

#[test]
fn an_encrypted_array_is_seen_in_the_array_and_not_in_its_members() {
    let member = md::Member {
        array_uuid: Guid::parse(ID).expect("a UUID"),
        name: "any:4",
        array: Array { level: Level::Raid1, disks: 2 },
        uuid: Guid::from_u128(7),
        index: 0,
        size: 33 << 20,
        now: Millis(1_800_000_000_000),
    };
    let file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file().set_len(member.size).expect("sparse");
    write(file.as_file(), &md::encode(&member));
    let (array, new) = made(512);
    let data: Vec<_> =
        new.writes.iter().map(|(offset, bytes)| (array::DATA_OFFSET + offset, bytes.clone())).collect();
    write(file.as_file(), &data);

    assert!(matches!(Header::read(&reader(file.as_file())), Err(Locked::NoHeader)));
    assert!(!cryptsetup(&["isLuks"], file.path()).status.success());
    let blkid = Command::new("blkid").args(["--probe", "--output", "value"]).arg(file.path()).output();
    let told = String::from_utf8(blkid.expect("blkid").stdout).expect("text");
    assert!(told.contains("linux_raid_member") && !told.contains("crypto"), "{told}");
    // What the array shows of a member is what lies behind md's own.
    assert_eq!(array::data_size(member.size), 32 << 20);
    let behind =
        |offset, buffer: &mut [u8]| file.as_file().read_exact_at(buffer, array::DATA_OFFSET + offset);
    assert_eq!(Header::read(&behind).expect("a header").uuid(), ID);
    assert!(opens(array.path(), PASSPHRASE));
}

#[test]
fn cryptsetup_reads_and_opens_what_is_made() {
    for sector_size in [512, 4096] {
        let (file, new) = made(sector_size);
        let dump = cryptsetup(&["luksDump"], file.path());
        let text = String::from_utf8_lossy(&dump.stdout).into_owned();
        assert!(dump.status.success(), "{text} {}", String::from_utf8_lossy(&dump.stderr));
        for word in [ID, "Label:         \troot", "aes-xts-plain64", "16777216", "allow-discards"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(text.contains(&format!("sector: {sector_size}")), "{text}");
        assert!(opens(file.path(), PASSPHRASE));
        assert!(!opens(file.path(), b"another"));
        let read = reader(file.as_file());
        let header = Header::read(&read).expect("a header");
        assert_eq!(header.uuid(), ID);
        let opened = header.open(PASSPHRASE, &read).expect("opened");
        assert_eq!((&opened.key, opened.offset), (&new.opened.key, DATA_OFFSET));
        assert_eq!(opened.sector_size, sector_size);
        assert!(matches!(header.open(b"another", &read), Err(Locked::WrongKey)));
        // cryptsetup has the same volume key.
        let key = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(key.path(), PASSPHRASE).expect("written");
        let mut dump = Command::new("cryptsetup");
        dump.args(["luksDump", "--batch-mode", "--dump-volume-key", "--key-file"]).arg(key.path());
        let text = dump.arg(file.path()).output().expect("cryptsetup").stdout;
        let text = String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join("");
        let hex: String = opened.key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(text.contains(&hex), "another volume key");
    }
}

#[test]
fn what_cryptsetup_changes_is_read_and_stays() {
    let (file, new) = made(512);
    let (mine, theirs) = (tempfile::NamedTempFile::new(), tempfile::NamedTempFile::new());
    let (mine, theirs) = (mine.expect("a file"), theirs.expect("a file"));
    std::fs::write(mine.path(), PASSPHRASE).expect("written");
    std::fs::write(theirs.path(), "by hand").expect("written");
    let mut add = Command::new("cryptsetup");
    add.args(["luksAddKey", "--batch-mode", "--pbkdf=argon2id", "--iter-time=10", "--key-file"]);
    let added = add.arg(mine.path()).arg(file.path()).arg(theirs.path()).output().expect("cryptsetup");
    assert!(added.status.success(), "{added:?}");
    let read = reader(file.as_file());
    let mut header = Header::read(&read).expect("a header");
    assert_eq!(header.open(PASSPHRASE, &read).expect("opened").key, new.opened.key);

    // A token, and the same one anew.
    for blob in ["one", "two"] {
        header.keep_token(json!({"type": "kaltstart-test", "keyslots": ["0"], "blob": blob})).expect("room");
        write(file.as_file(), &header.next(&mut random()).expect("written"));
        let read = Header::read(&read).expect("a header");
        assert_eq!((&read.json, read.sequence()), (&header.json, header.sequence()));
        assert_eq!(read.token("kaltstart-test").expect("kept")["blob"], blob);
    }
    let dump = String::from_utf8_lossy(&cryptsetup(&["luksDump"], file.path()).stdout).into_owned();
    assert_eq!(dump.matches("kaltstart-test").count(), 1, "{dump}");
    assert!(dump.contains("argon2id") && opens(file.path(), b"by hand") && opens(file.path(), PASSPHRASE));
}

#[test]
fn one_copy_of_the_header_is_enough() {
    for (broken, name) in [(100, "first"), (SIZE as u64 + 100, "second")] {
        let (file, new) = made(512);
        let read = reader(file.as_file());
        file.as_file().write_all_at(b"broken", broken).expect("written");
        let header = Header::read(&read).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(header.open(PASSPHRASE, &read).expect("opened").key, new.opened.key);
    }
    let (file, _) = made(512);
    let mut header = Header::read(&reader(file.as_file())).expect("a header");
    header.keep_token(json!({"type": "kaltstart-test", "keyslots": []})).expect("room");
    let [first, second] = header.next(&mut random()).expect("written");
    // The power failed between the two.
    write(file.as_file(), &[first]);
    assert!(Header::read(&reader(file.as_file())).expect("a header").token("kaltstart-test").is_some());
    let (file, _) = made(512);
    write(file.as_file(), &[second]);
    assert!(Header::read(&reader(file.as_file())).expect("a header").token("kaltstart-test").is_some());
    file.as_file().write_all_at(&[0; 2 * SIZE], 0).expect("written");
    assert!(matches!(Header::read(&reader(file.as_file())), Err(Locked::NoHeader)));
}

#[test]
fn nothing_makes_a_key_or_a_salt_twice() {
    let (first, second) = (
        made(512).1,
        make(ID, "root", 512, PASSPHRASE, &mut |bytes| {
            bytes.fill(7);
            Ok(())
        }),
    );
    let second = second.expect("made");
    assert_ne!(first.opened.key, second.opened.key);
    // Without any randomness of the machine's own, the server's key is what counts.
    let third = make(ID, "root", 512, b"another", &mut |bytes| {
        bytes.fill(7);
        Ok(())
    });
    assert_ne!(second.opened.key, third.expect("made").opened.key);
    assert!(make(ID, "root", 512, PASSPHRASE, &mut |_| Err(io::ErrorKind::Other.into())).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What stands on a disk is from outside.
    #[test]
    fn p07_no_header_makes_the_agent_panic(
        place in 0_usize..3, key in "[a-z_]{1,10}", value in "[-0-9a-z\"{}\\[\\]]{0,20}", junk: Vec<u8>
    ) {
        let (file, _) = made(512);
        let mut header = Header::read(&reader(file.as_file())).expect("a header");
        let value: Value = serde_json::from_str(&value).unwrap_or(Value::String(value));
        let part = ["keyslots", "segments", "digests"][place];
        let fields: Vec<String> =
            header.json[part]["0"].as_object().expect("an object").keys().cloned().collect();
        let field = fields.get(key.len() % fields.len()).cloned().unwrap_or(key);
        header.json[part]["0"][field] = value;
        write(file.as_file(), &header.next(&mut random()).expect("written"));
        let read = reader(file.as_file());
        if let Ok(header) = Header::read(&read) {
            header.open(PASSPHRASE, &read).ok();
        }
        file.as_file().write_all_at(&junk, 0).expect("written");
        file.as_file().write_all_at(&junk, SIZE as u64).expect("written");
        Header::read(&read).ok();
    }
}
