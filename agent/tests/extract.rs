//! Extraction compared with GNU tar's, attribute by attribute.
#![allow(unsafe_code)]

mod common;

use common::{archived, entry, root, run};
use kaltstart_agent::image::extract::{self, ExtractError};
use kaltstart_agent::sys::xattr;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

/// An access control list as the kernel has it.
fn shared_list() -> Vec<u8> {
    let none = u32::MAX;
    let entries: [(u16, u16, u32); 6] =
        [(1, 7, none), (2, 4, 54321), (4, 4, none), (8, 6, 77), (16, 6, none), (32, 0, none)];
    let entries = entries.iter().flat_map(|&(tag, rights, id)| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    });
    [2, 0, 0, 0].into_iter().chain(entries).collect()
}

/// Everything that can be seen of a tree: one line per name.
fn describe(top: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut first_names: BTreeMap<u64, String> = BTreeMap::new();
    let mut open = vec![top.to_path_buf()];
    while let Some(path) = open.pop() {
        let name = path.strip_prefix(top).expect("below").display().to_string();
        let meta = fs::symlink_metadata(&path).expect("meta");
        let kind = meta.file_type();
        let contents = if kind.is_file() {
            format!(
                "{} bytes {:?}",
                meta.size(),
                kaltstart_protocol::ids::Digest::of(&fs::read(&path).expect("read"))
            )
        } else if kind.is_symlink() {
            format!("-> {:?}", fs::read_link(&path).expect("link"))
        } else {
            format!("device {:x}", meta.rdev())
        };
        if kind.is_dir() {
            let mut names: Vec<_> =
                fs::read_dir(&path).expect("list").map(|e| e.expect("entry").path()).collect();
            names.sort();
            open.extend(names.into_iter().rev());
        } else if meta.nlink() > 1 {
            first_names.entry(meta.ino()).or_insert_with(|| name.clone());
        }
        let hole = kind.is_file() && meta.blocks() * 512 + 65536 < meta.size();
        let line = format!(
            "{:o} {}:{} {}.{:09} {contents} hole={hole} links={} same as {:?} {:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            if kind.is_dir() { 0 } else { meta.nlink() },
            first_names.get(&meta.ino()),
            attributes(&path),
        );
        found.insert(name, line);
    }
    found
}

fn attributes(path: &Path) -> BTreeMap<CString, Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let mut names = vec![0u8; 4096];
    // SAFETY: the buffer is as long as stated.
    let n = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(usize::try_from(n).expect("list"));
    let names = names.split_inclusive(|&b| b == 0).map(|name| CStr::from_bytes_with_nul(name).expect("name"));
    let value = |name: &CStr| {
        let mut value = vec![0u8; 4096];
        // SAFETY: the buffer is as long as stated.
        let n =
            unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        value.truncate(usize::try_from(n).expect("value"));
        value
    };
    names.map(|name| (name.to_owned(), value(name))).collect()
}

/// A tree with everything that `tar::unpack` loses, and more.
fn build(tree: &Path) {
    let file = |name: &str, bytes: &[u8]| {
        let path = tree.join(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        fs::write(&path, bytes).expect("write");
        File::open(path).expect("open")
    };
    file("etc/empty", b"");
    // GNU tar writes names for ids that this host knows.
    for name in ["etc/passwd", "etc/group"] {
        file(name, &fs::read(Path::new("/").join(name)).expect("read"));
    }
    file("etc/odd", &[1; 513]);
    file("etc/even", &[2; 1024]);
    file("etc/big", &vec![3; 1_500_000]);
    file("name with\nnewline and ü", b"x");
    let (long, longer) = ("l".repeat(180), "d".repeat(200));
    file(&format!("long/{long}"), b"long");
    file(&format!("{longer}/{longer}/{long}"), b"longer");
    symlink(format!("../{longer}/{longer}"), tree.join("long/link")).expect("symlink");
    symlink("/etc/empty", tree.join("absolute")).expect("symlink");
    symlink("nowhere", tree.join("dangling")).expect("symlink");

    let setuid = file("usr/bin/su", b"#!");
    chown(tree.join("usr/bin/su"), Some(0), Some(42)).expect("chown");
    setuid.set_permissions(Permissions::from_mode(0o6755)).expect("chmod");
    chown(tree.join("etc/odd"), Some(3_000_000_000), Some(65_534)).expect("chown");
    fs::hard_link(tree.join("usr/bin/su"), tree.join("usr/bin/sudo")).expect("link");
    fs::hard_link(tree.join("usr/bin/su"), tree.join("aaa-first")).expect("link");

    let ping = file("usr/bin/ping", b"capable");
    // VFS_CAP_REVISION_2, effective; CAP_NET_RAW.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr::set(&ping, c"security.capability", &capability).expect("capability");
    xattr::set(&ping, c"user.note", b"two\nlines = \x00\xff").expect("xattr");
    let shared = shared_list();
    xattr::set(&ping, c"system.posix_acl_access", &shared).expect("acl");
    file("shared/file", b"made below a default list");
    let directory = File::open(tree.join("shared")).expect("open");
    xattr::set(&directory, c"system.posix_acl_default", &shared).expect("acl");
    xattr::set(&directory, c"user.of", b"a directory").expect("xattr");
    file("shared/later", b"inherits a list").set_permissions(Permissions::from_mode(0o640)).expect("chmod");

    let sparse = File::create(tree.join("sparse")).expect("create");
    sparse.set_len(50 << 20).expect("length");
    for at in [0, 1 << 20, 33 << 20, (50 << 20) - 3] {
        sparse.write_all_at(b"abc", at).expect("write");
    }
    File::create(tree.join("hole")).expect("create").set_len(5 << 20).expect("length");
    run("mknod", &[tree.join("null").to_str().expect("path"), "c", "1", "3"]);
    run("mknod", &[tree.join("block").to_str().expect("path"), "b", "259", "70000"]);
    run("mkfifo", &["-m", "0620", tree.join("pipe").to_str().expect("path")]);
    fs::set_permissions(tree.join("long"), Permissions::from_mode(0o1555)).expect("chmod");
    for (name, time) in
        [("etc/empty", "2001-02-03 04:05:06.123456789Z"), ("etc", "1999-01-01Z"), (".", "1998-01-01Z")]
    {
        run("touch", &["-d", time, tree.join(name).to_str().expect("path")]);
    }
    run("touch", &["-h", "-d", "2002-02-02Z", tree.join("dangling").to_str().expect("path")]);
}

fn extract_here(archive: &[u8], directory: &Path) -> Result<(), ExtractError> {
    fs::create_dir_all(directory).expect("mkdir");
    extract::run(archive, archive.len() as u64, directory)
}

#[test]
fn p11_a_tree_comes_out_as_gnu_tar_lays_it_down() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().expect("directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("path").to_owned();
    let tree = directory.path().join("tree");
    build(&tree);
    let original = describe(&tree);
    let attributes = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner"];
    for (format, sparse) in [("posix", "1.0"), ("posix", "0.1"), ("posix", "0.0"), ("gnu", "")] {
        let archive = path(&format!("{format}{sparse}.tar"));
        let version = format!("--sparse-version={sparse}");
        let format_option = format!("--format={format}");
        let mut arguments = vec!["-C", tree.to_str().expect("path"), &format_option, "--sparse"];
        if format == "posix" {
            arguments.extend(attributes);
            arguments.push(&version);
        } else {
            arguments.push("--numeric-owner");
        }
        arguments.extend(["-cf", &archive, "."]);
        run("tar", &arguments);
        let (theirs, ours) =
            (path(&format!("theirs{format}{sparse}")), path(&format!("ours{format}{sparse}")));
        fs::create_dir(&theirs).expect("mkdir");
        run("tar", &[&attributes[..], &["-C", &theirs, "-xpf", &archive]].concat());
        extract_here(&fs::read(&archive).expect("read"), Path::new(&ours)).expect("extracts");
        let (theirs, ours) = (describe(Path::new(&theirs)), describe(Path::new(&ours)));
        for (name, line) in &theirs {
            assert_eq!(ours.get(name), Some(line), "{format} {sparse}: {name}");
        }
        assert_eq!(ours.len(), theirs.len(), "{format} {sparse}");
        if format == "posix" {
            assert_eq!(ours, original, "{sparse}");
        }
        assert!(ours.len() > 30);
    }
}

#[test]
fn p11_a_sparse_map_without_an_end_is_refused() {
    let records = ["major=1", "minor=0", "name=z", "realsize=9"].map(|record| {
        let record = format!(" GNU.sparse.{record}\n");
        // Two digits of its own length count, too.
        format!("{}{record}", record.len() + 2)
    });
    let header = entry("h", b'x', "", records.concat().as_bytes());
    let directory = tempfile::tempdir().expect("directory");
    for map in [&[b'1'; 4096][..], b"1\n", &[b"1\n0\n".to_vec(), vec![b'7'; 2000]].concat()] {
        let archive = archived(&[header.clone(), entry("f", b'0', "", map)]);
        let refused = extract_here(&archive, directory.path());
        assert!(matches!(refused, Err(ExtractError::Archive { .. })), "{refused:?}");
    }
}

#[test]
fn p11_hostile_archives_touch_nothing_outside() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().expect("directory");
    let outside = directory.path().join("outside");
    fs::write(&outside, "safe").expect("write");
    let target = directory.path().to_str().expect("path");
    let refused: &[(&str, Vec<Vec<u8>>)] = &[
        ("dots", vec![entry("a/../../outside", b'0', "", b"x")]),
        ("absolute", vec![entry(&format!("{target}/outside"), b'0', "", b"x")]),
        ("through", vec![entry("l", b'2', "..", b""), entry("l/outside", b'0', "", b"x")]),
        ("directory over link", vec![entry("l", b'2', "..", b""), entry("l/", b'5', "", b"")]),
        ("hard link out", vec![entry("h", b'1', "../outside", b""), entry("h", b'0', "", b"x")]),
        ("hard link through", vec![entry("l", b'2', "..", b""), entry("h", b'1', "l/outside", b"")]),
        ("file over directory", vec![entry("d", b'5', "", b""), entry("d", b'0', "", b"x")]),
        ("below a file", vec![entry("f", b'0', "", b""), entry("f/g", b'0', "", b"x")]),
        ("unknown type", vec![entry("x", b'M', "", b"x")]),
        ("no end", vec![entry("x", b'0', "", &[0; 2000])[..1024].to_vec()]),
        ("global record", vec![entry("g", b'g', "", b"12 path=abc\n"), entry("x", b'0', "", b"")]),
        ("broken record", vec![entry("p", b'x', "", b"zz path=abc\n"), entry("x", b'0', "", b"")]),
    ];
    for (what, entries) in refused {
        let result = extract_here(&archived(entries), &directory.path().join(what.replace(' ', "-")));
        assert!(matches!(result, Err(ExtractError::Archive { .. })), "{what}: {result:?}");
        assert_eq!(fs::read(&outside).expect("read"), b"safe", "{what}");
    }
    // A link is replaced, not written through; what it pointed to stays.
    let replacing = [entry("l", b'2', "../outside", b""), entry("l", b'0', "", b"new")];
    let root = directory.path().join("replacing");
    extract_here(&archived(&replacing), &root).expect("extracts");
    assert_eq!(fs::read(root.join("l")).expect("read"), b"new");
    assert_eq!(fs::read(&outside).expect("read"), b"safe");
    // Directories that no entry names are made.
    extract_here(&archived(&[entry("a/b/c", b'0', "", b"x")]), &root).expect("extracts");
    assert_eq!(fs::metadata(root.join("a/b")).expect("made").permissions().mode() & 0o7777, 0o755);
}

#[test]
fn a_hard_link_into_another_file_system_becomes_a_copy() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().expect("directory");
    let at = |name: &str| directory.path().join(name);
    fs::create_dir_all(at("tree/usr")).expect("mkdir");
    fs::create_dir_all(at("tree/var")).expect("mkdir");
    fs::write(at("tree/usr/tool"), b"#!tool").expect("write");
    let tool = File::open(at("tree/usr/tool")).expect("open");
    chown(at("tree/usr/tool"), Some(7), Some(42)).expect("chown");
    tool.set_permissions(Permissions::from_mode(0o4755)).expect("chmod");
    xattr::set(&tool, c"user.note", b"of the tool").expect("xattr");
    xattr::set(&tool, c"system.posix_acl_access", &shared_list()).expect("acl");
    run("touch", &["-d", "2001-02-03 04:05:06.5Z", at("tree/usr/tool").to_str().expect("path")]);
    fs::hard_link(at("tree/usr/tool"), at("tree/var/tool")).expect("link");
    let [tree, tar, got] =
        ["tree", "tree.tar", "got"].map(|name| at(name).to_str().expect("path").to_owned());
    run(
        "tar",
        &["-C", &tree, "--numeric-owner", "--xattrs", "--acls", "--format=posix", "-cf", &tar, "usr", "var"],
    );
    fs::create_dir_all(at("got/var")).expect("mkdir");
    run("mount", &["-t", "tmpfs", "tmpfs", at("got/var").to_str().expect("path")]);
    let extracted = extract_here(&fs::read(&tar).expect("read"), Path::new(&got));
    let described = describe(Path::new(&got));
    let links = fs::metadata(at("got/var/tool")).map(|about| about.nlink()).ok();
    run("umount", &[at("got/var").to_str().expect("path")]);
    extracted.expect("extracts");
    assert_eq!(links, Some(1));
    assert!(described["usr/tool"].contains("of the tool") || described["usr/tool"].contains("user.note"));
    assert_eq!(described["usr/tool"], described["var/tool"]);
}
