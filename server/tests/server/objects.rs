//! Images out of a store of objects: `ks image export`, s3cmd, Swift, and nginx in front of it.

use crate::caches::{fetch, fetched, image, sent};
use crate::nginx::Nginx;
use crate::object_store::ObjectStore;
use crate::site::{PROGRAM, Site, put_image};
use kaltstart_protocol::ids::Digest;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Whether it exported, and its words.
fn export(site: &Site, to: &Path) -> (bool, String) {
    let mut command = Command::new(PROGRAM);
    command.args(["image", "export", "--config"]).arg(site.dir.path().join("server.toml")).arg(to);
    let output = command.output().expect("it runs");
    let words = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(words).expect("text"))
}

/// What lies in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    entries.map(|entry| entry.expect("read").file_name().into_string().expect("text")).collect()
}

#[tokio::test]
async fn images_in_a_bucket_cost_the_server_nothing() {
    let site = Site::start().await;
    let image = image();
    put_image(site.dir.path(), &image);
    let before = sent(&site).await;
    let objects = site.dir.path().join("objects");
    let (done, words) = export(&site, &objects);
    assert!(done && words.contains(&format!("1 files of {} bytes", image.len())), "{words}");

    let store = ObjectStore::start();
    store.put(&objects);
    let hall = Nginx::cache_of(&format!("{}/images/", store.base));
    let row = Nginx::cache_of(&hall.base);
    let name = format!("images/{}", Digest::of(&image));
    for base in [&store.base, &hall.base, &row.base] {
        let url = format!("{base}/{name}");
        assert!(fetched(fetch(&url, &["--fail"])) == image, "{base}: another image");
        for (from, to) in [(0, 1), (1_048_570, 1_048_580), (5_600_011, 5_600_012)] {
            let range = format!("{from}-{}", to - 1);
            assert!(
                fetched(fetch(&url, &["--fail", "--range", &range])) == image[from..to],
                "{base}: {range}"
            );
        }
    }
    // The row has it from the hall, and the bucket is asked no more.
    let asked = hall.seen().len();
    drop((store, hall));
    assert!(fetched(fetch(&format!("{}/{name}", row.base), &["--fail"])) == image);
    assert_eq!(
        asked,
        4 + image.len().div_ceil(1 << 20),
        "what was fetched from the hall, and the row's pieces"
    );
    assert_eq!(sent(&site).await, before);
}

#[tokio::test]
async fn an_export_has_the_right_bytes_of_all_usable_images_or_is_none() {
    let site = Site::start().await;
    let image = image();
    put_image(site.dir.path(), &image);
    let tiny = site.dir.path().join("images/tiny");
    let digest = Digest::of(&image).to_string();
    let to = |name: &str| site.dir.path().join(name);

    // Those that no machine is given are left out, and named.
    let unsigned = site.dir.path().join("images/unsigned");
    fs::create_dir(&unsigned).expect("made");
    fs::copy(tiny.join("manifest.json"), unsigned.join("manifest.json")).expect("copied");
    let (done, words) = export(&site, &to("objects"));
    assert!(done && words.contains("left out: image \"unsigned\""), "{words}");
    assert_eq!(
        (names(&to("objects")), names(&to("objects/images"))),
        (vec!["images".into()], vec![digest.clone()])
    );
    // It takes no room.
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).expect("there"));
    assert_eq!(inode(&to("objects/images").join(&digest)), inode(&tiny.join("tiny.tar")));

    // What is there stays as it is.
    let (done, words) = export(&site, &to("objects"));
    assert!(!done && words.contains("an export gets a place of its own"), "{words}");
    assert_eq!(names(&to("objects/images")), [digest]);

    // A file that is not what was signed.
    let mut wrong = image.clone();
    wrong[700_000] ^= 1;
    fs::remove_file(tiny.join("tiny.tar")).expect("removed");
    fs::write(tiny.join("tiny.tar"), &wrong).expect("written");
    let (done, words) = export(&site, &to("others"));
    assert!(!done && words.contains("tiny.tar is not what its manifest says"), "{words}");
    assert!(!to("others").exists());
}
