use super::*;
use kaltstart_core::about::Edit;
use std::path::Path;

/// An application with a store in `dir`, and no machine.
pub(crate) async fn app(dir: &Path) -> App {
    let text = format!(
        "data_dir = {dir:?}\n[http]\nlisten = \"127.0.0.1:1\"\n[tftp]\nlisten = \"127.0.0.1:1\"\n\
         [boot]\nkernel = \"k\"\nramdisk = \"r\"\ndiscovery = \"d\"\nloaders = \"l\"\n[images]\ndir = {dir:?}\n"
    );
    let file = dir.join("c.toml");
    std::fs::write(&file, text).expect("written");
    let config = config::load(&file).expect("it is good");
    let store = Store::open(dir).expect("a new database");
    let tls = Tls::open(crate::tls::dir(dir), config.names(), clock::now()).expect("made");
    App::new(config, store, Secret::new("kst_admin".into()), Arc::new(tls)).await.expect("started")
}

pub(crate) fn mac(n: u32) -> Mac {
    let [a, b, c, d] = n.to_be_bytes();
    Mac([2, 0, a, b, c, d])
}

fn wanted(name: &str, n: u32, address: Option<[u8; 4]>) -> config::Declaration {
    config::Declaration {
        about: Edit::default(),
        name: name.into(),
        mac: mac(n),
        address: address.map(Into::into),
        uefi_loader: None,
        renames: false,
    }
}

#[tokio::test]
async fn p31_names_and_reserved_addresses_belong_to_one_machine() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let app = app(dir.path()).await;
    app.declare(&Actor::server(), &wanted("n1", 1, Some([10, 0, 0, 1]))).await.expect("declared");
    let (by_name, by_address) = (
        app.declare(&Actor::server(), &wanted("n1", 2, None)).await,
        app.declare(&Actor::server(), &wanted("n2", 2, Some([10, 0, 0, 1]))).await,
    );
    for (refused, what) in [(by_name, "the name \"n1\""), (by_address, "the address 10.0.0.1")] {
        let message = refused.expect_err("taken").to_string();
        assert!(message.contains(what) && message.contains("02:00:00:00:00:01"), "{message}");
    }
    app.declare(&Actor::server(), &wanted("n1", 1, Some([10, 0, 0, 1])))
        .await
        .expect("a repeated declaration is harmless");
    let index = app.store.index();
    assert_eq!((index.machines(), index.undeclared(), index.reserved().len()), (1, 0, 1));
}

#[tokio::test]
async fn p31_a_declared_machine_is_renamed_by_the_configuration_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let app = app(dir.path()).await;
    let address = Some([10, 0, 0, 8]);
    app.declare(&Actor::server(), &wanted("db-08", 8, address)).await.expect("declared");
    let refused =
        app.declare(&Actor::server(), &wanted("db-09", 8, None)).await.expect_err("declared as db-08");
    assert!(matches!(&refused, AppError::Refused(why) if why.contains("ks node retire db-08")), "{refused}");
    let kept = app.machine(Key::Mac(mac(8))).expect("still there").machine.node;
    assert_eq!((kept.name.as_str(), kept.reservation), ("db-08", address.map(Into::into)));
    let by_file = config::Declaration { renames: true, ..wanted("db-09", 8, address) };
    assert_eq!(app.declare(&Actor::server(), &by_file).await.expect("the operator's word").node.id, kept.id);
    // One that was only seen is adopted.
    let seen = Node::new(NodeId::new(clock::now(), 1), "seen".into(), mac(9), false);
    let machine = Machine { node: seen, job: None };
    assert_eq!(app.store.commit(&machine, 0, &[], clock::now()).await.expect("stored"), Commit::Done);
    let adopted = app.declare(&Actor::server(), &wanted("db-10", 9, None)).await.expect("adopted").node;
    assert_eq!((adopted.id, adopted.declared), (machine.node.id, true));
}

/// The same of a copy of the database in `dir` that was put in its place.
pub(crate) async fn restored_app(dir: &Path) -> App {
    drop(app(dir).await);
    // The writing thread ends by itself; with the last connection SQLite takes the log away.
    let (wal, began) = (dir.join("kaltstart.db-wal"), std::time::Instant::now());
    while wal.exists() {
        assert!(began.elapsed().as_secs() < 10, "the database is not closed");
        std::thread::yield_now();
    }
    let (file, copy) = (dir.join("kaltstart.db"), dir.join("copy"));
    std::fs::copy(&file, &copy).expect("copied");
    std::fs::rename(&copy, &file).expect("restored");
    app(dir).await
}
