//! What is refused, and in which words.

use super::*;
use kaltstart_core::dhcp::host::HostKey;

const GOOD: &str = r#"
        data_dir = "/d"
        [http]
        listen = "10.77.0.1:8080"
        [tftp]
        listen = "10.77.0.1:69"
        [boot]
        kernel = "k"
        ramdisk = "r"
        discovery = "d"
        loaders = "l"
        [images]
        dir = "i"
        keys = ["RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"]
        [[dhcp]]
        interface = "br0"
        subnet = "10.77.0.0/24"
        address = "10.77.0.1"
        pool = ["10.77.0.100", "10.77.0.199"]
        [[profile]]
        name = "debian"
        image = "debian-12"
        [[node]]
        name = "db-07"
        mac = "52:54:00:00:00:01"
        address = "10.77.0.50"
    "#;

/// A configuration for other modules' tests.
pub(crate) fn good() -> Config {
    parse(GOOD, Path::new("c.toml")).expect("it is good")
}

fn refusal(text: &str) -> String {
    let error = parse(text, Path::new("c.toml")).expect_err("must be refused");
    format!("{:#}", anyhow::Error::from(error))
}

#[test]
fn a_good_file_is_accepted() {
    let config = good();
    assert_eq!(config.dhcp[0].subnet.mask(), Ipv4Addr::new(255, 255, 255, 0));
    assert!(config.layouts.contains_key("single"));
}

#[test]
fn the_smallest_file_of_the_documentation_is_good() {
    let documented = include_str!("../../../docs/configuration.md");
    let smallest = documented.split("```toml").nth(1).and_then(|rest| rest.split("```").next());
    let key = GOOD.lines().find_map(|line| line.trim().strip_prefix("keys = ")).expect("it has one");
    let text = smallest.expect("it begins with one").replace(r#"["RW…"]"#, key);
    let config = parse(&text, Path::new("c.toml")).expect("it is good");
    assert_eq!((config.dhcp.len(), config.profile.len()), (1, 1));
}

#[test]
fn dhcp_levels_pools_and_keys_come_out_as_they_were_meant() {
    let text = GOOD.replace(
        "[[profile]]",
        r#"exclude = ["10.77.0.100", "10.77.0.120-10.77.0.129"]
            pools = [["10.77.0.210", "10.77.0.219"]]
            router = "10.77.0.254"
            [[dhcp]]
            subnet = "10.9.0.0/16"
            address = "10.77.0.1"
            relays = ["10.1.0.1", "10.2.0.0/24"]
            lease_seconds = 600
            [dhcp_site]
            lease_seconds = 7200
            options = [{ code = 42, ips = ["10.77.0.1", "10.77.0.2"] }, { code = 26, u16 = 1500 }]
            [[dhcp_class]]
            name = "phones"
            vendor_class = "Phone"
            mac = "00:80:f0"
            options = [{ code = 150, ip = "10.77.0.9" }]
            [[node]]
            name = "rack1-port7"
            address = "10.77.0.57"
            circuit_id = "eth 1/7"
            remote_id = "0x00:ff"
            [[profile]]"#,
    );
    let config = parse(&text, Path::new("c.toml")).expect("it is good");
    let [direct, far] = config.subnets().try_into().expect("two subnets");
    let host = |n| Ipv4Addr::new(10, 77, 0, n);
    let pools: Vec<_> = direct.pools.iter().map(|pool| (pool.first, pool.last)).collect();
    assert_eq!(pools, [(host(101), host(119)), (host(130), host(199)), (host(210), host(219))]);
    assert!(direct.direct && !far.direct && far.relays.len() == 2);
    assert_eq!((direct.parameters.lease_seconds, far.parameters.lease_seconds), (Some(7200), Some(600)));
    assert_eq!(direct.parameters.options.addresses(42), [host(1), host(2)]);
    assert_eq!(far.parameters.options.get(26), Some(&[5, 220][..]));
    assert_eq!(
        (direct.parameters.options.addresses(3), far.parameters.options.get(3)),
        (vec![host(254)], None)
    );
    assert_eq!(direct.rules.classes[0].mac, [0, 0x80, 0xf0]);
    let port = HostKey::Port(Some(b"eth 1/7".to_vec()), Some(vec![0, 255]));
    assert_eq!(direct.rules.find(&port).and_then(|found| found.address), Some(host(57)));
    assert_eq!(config.node.iter().filter_map(Node::declaration).count(), 1);
}

const DHCP6: &str = r#"[[dhcp6]]
        interface = "br0"
        prefix = "fd77::/64"
        address = "fd77::1"
        pool = ["fd77::100", "fd77::1ff"]
        exclude = ["fd77::110-fd77::11f"]
        domains = ["example.org"]
        [[node]]
        name = "six"
        uuid = "6b616c74-7374-4172-9400-000000000001"
        address6 = "fd77::50"
        [[profile]]"#;

#[test]
fn dhcp6_sections_come_out_as_they_were_meant() {
    let config = parse(&GOOD.replace("[[profile]]", DHCP6), Path::new("c.toml")).expect("it is good");
    let [subnet] = config.subnets6().try_into().expect("one");
    let host = |n| Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, n);
    let pools: Vec<_> = subnet.pools.iter().map(|pool| (pool.first, pool.last)).collect();
    assert_eq!(pools, [(host(0x100), host(0x10f)), (host(0x120), host(0x1ff))]);
    assert_eq!((subnet.http.as_str(), subnet.direct), ("http://[fd77::1]:8080", true));
    assert_eq!(subnet.rules.reserved6, BTreeSet::from([host(0x50)]));
    assert!(config.names().contains("fd77::1"));
    for (from, to, named) in [
        ("fd77::/64", "fd77::1/64", "host bits"),
        ("fd77::/64", "10.0.0.0/8", "not an IPv6 network"),
        ("address = \"fd77::1\"", "address = \"fe80::1\"", "URLs"),
        ("address = \"fd77::1\"", "address = \"fd78::1\"", "its prefix"),
        ("address = \"fd77::1\"", "address = \"fd77::120\"", "own address"),
        ("fd77::1ff", "fd78::1ff", "pool"),
        ("fd77::1ff", "fd77::1:0:1ff", "more than"),
        ("example.org", "exa mple", "domains"),
        ("domains", "lease_seconds = 1\ndomains", "lease_seconds"),
        ("address6 = \"fd77::50\"", "address6 = \"fd78::50\"", "address6"),
        ("address6 = \"fd77::50\"", "duid = \"0x00\"", "duid"),
    ] {
        let text = GOOD.replace("[[profile]]", &DHCP6.replace(from, to));
        assert!(refusal(&text).contains(named), "{to:?}: {}", refusal(&text));
    }
}

#[test]
fn refusals_name_the_key() {
    for (from, to, named) in [
        ("[tftp]", "[tftp]\nroot = 1", "root"),
        ("[tftp]", "[tftp]\nblksize_max = 7", "tftp.blksize_max"),
        ("[tftp]", "[tftp]\nblksize_max = 65465", "tftp.blksize_max"),
        ("[tftp]", "[tftp]\nwindowsize_max = 65", "tftp.windowsize_max"),
        ("10.77.0.1:8080", "0.0.0.0:8080", "http.listen"),
        ("[tftp]", "[syslog]\nlisten = \"0.0.0.0:514\"\n[tftp]", "syslog.listen"),
        ("[tftp]", "timeout_seconds = 0\n[tftp]", "http.timeout_seconds"),
        ("[tftp]", "tls_listen = \"10.77.0.1:8080\"\n[tftp]", "http.tls_listen"),
        ("[tftp]", "names = [\"a b\"]\n[tftp]", "http.names"),
        ("10.77.0.0/24", "10.77.0.5/24", "host bits"),
        ("[[profile]]", "router = \"10.77.0.150\"\n[[profile]]", "router's"),
        ("[[profile]]", "router = \"10.78.0.1\"\n[[profile]]", "router 10.78"),
        ("[[node]]", "disk = { transport = \"nvm\" }\n[[node]]", "transport"),
        ("[[node]]", "disk = { min_gib = 9, max_gib = 8 }\n[[node]]", "min_gib"),
        ("10.77.0.199", "10.78.0.199", "pool"),
        ("\"10.77.0.100\", ", "\"10.77.0.1\", ", "own address"),
        (
            "\"10.77.0.100\", \"10.77.0.199\"",
            "\"10.77.0.199\", \"10.77.0.100\"",
            "pool 10.77.0.199 to 10.77.0.100 is reversed",
        ),
        ("\"10.77.0.50\"", "\"10.9.0.50\"", "db-07"),
        ("db-07", "DB_07", "node.name"),
        ("image = \"debian-12\"", "image = \"debian-12\"\nlayout = \"x\"", "layout \"x\""),
        (
            "[[profile]]",
            "[[layout]]\nname = \"x\"\npartitions = [\n\
             { label = \"vg\", role = \"lvm\", min_mib = 99 },\n\
             { label = \"lv\", group = \"vg\", role = \"root\", encrypted = true, min_mib = 64 },\n]\n[[profile]]",
            "encrypt \"vg\", which it lies in",
        ),
        ("52:54:00:00:00:01", "52:54", "mac"),
        ("52:54:00:00:00:01", "ff:ff:ff:ff:ff:ff", "node \"db-07\": mac ff:ff:ff:ff:ff:ff is no interface's"),
        ("52:54:00:00:00:01", "01:00:5e:00:00:01", "a group's"),
        ("52:54:00:00:00:01", "00:00:00:00:00:00", "zero"),
        ("[[node]]", "disk = { serial = \"\" }\n[[node]]", "profile \"debian\": disk.serial is empty"),
        ("[[node]]", "disk = { path = \"/dev/sda\" }\n[[node]]", "disk.path \"/dev/sda\" is a name"),
        (
            "[[profile]]",
            "[[layout]]\nname = \"x\"\npartitions = [\n\
             { label = \"a\", role = \"root\", min_mib = 99 },\n\
             { label = \"a\", role = \"swap\", min_mib = 99 },\n]\n[[profile]]",
            "layout \"x\": label \"a\" occurs twice",
        ),
        (
            "[[profile]]",
            "[[layout]]\nname = \"x\"\npartitions = [\n\
             { label = \"a\", role = \"root\", min_mib = 10737418240 },\n]\n[[profile]]",
            "min_mib 10737418240 of \"a\" is above",
        ),
        ("10.77.0.1:8080", "10.77.0.1:0", "http.listen"),
        ("\"10.77.0.50\"", "\"10.77.0.1\"", "server's own"),
        ("image = \"debian-12\"", "image = \"../debian-12\"", "image"),
        ("image = \"debian-12\"", "image = \"i\"\nauthorized_keys = [\"a\\nb\"]", "authorized_keys"),
        ("loaders = \"l\"", "loaders = \"l\"\ncmdline = \"a\\nb\"", "boot.cmdline"),
        ("loaders = \"l\"", "loaders = \"l\"\ncmdline = \"a ${x}\"", "iPXE"),
        ("loaders = \"l\"", "loaders = \"l\"\nuefi_loader = \"grub\"", "uefi_loader"),
        ("loaders = \"l\"", "loaders = \"l\"\nuefi_loader = \"signed\"\ncmdline = \"a='b'\"", "GRUB"),
        ("keys = [", "keys = [] #", "images.keys is empty"),
        ("keys = [", "keys = [\"RW\", ", "public key of minisign"),
        (
            "keys = [",
            "keys = [\"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\", \"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\", \"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\", \"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\", ",
            "more than 4",
        ),
        ("[tftp]", "[log]\nlevel = \"inof\"\n[tftp]", "log.level"),
        ("[[profile]]", "exclude = [\"10.77.0.9-10.77.0.8\"]\n[[profile]]", "reversed"),
        ("[[profile]]", "exclude = [\"10.77.0.9-\"]\n[[profile]]", "FIRST-LAST"),
        (
            "[[profile]]",
            "exclude = [\"10.77.0.98-10.77.0.99\"]\n[[profile]]",
            "exclude 10.77.0.98-10.77.0.99 lies in no pool",
        ),
        (
            "[[profile]]",
            "options = [{ code = 26, u8 = 220 }]\n[[profile]]",
            "dhcp br0: options: code 26: interface MTU",
        ),
        ("[[profile]]", "pools = [[\"10.77.0.150\", \"10.77.0.210\"]]\n[[profile]]", "overlap"),
        ("[[profile]]", "options = [{ code = 82, hex = \"00\" }]\n[[profile]]", "code 82"),
        ("[[profile]]", "options = [{ code = 42, ip = \"10.0.0.1\", u8 = 1 }]\n[[profile]]", "exactly one"),
        (
            "[[profile]]",
            "dns = [\"10.0.0.1\"]\noptions = [{ code = 6, hex = \"0a000001\" }]\n[[profile]]",
            "dns",
        ),
        ("[[profile]]", "relays = [\"10.1.0.1/16\"]\n[[profile]]", "relays"),
        ("[[profile]]", "renew_seconds = 3600\n[[profile]]", "renew_seconds"),
        ("[[profile]]", "lease_seconds = 600\nmax_lease_seconds = 300\n[[profile]]", "max_lease_seconds"),
        (
            "[[profile]]",
            "[[dhcp]]\nsubnet = \"10.77.0.0/16\"\naddress = \"10.77.0.1\"\n[[profile]]",
            "overlaps",
        ),
        ("[[profile]]", "[[dhcp_class]]\nname = \"all\"\n[[profile]]", "no condition"),
        ("[[node]]", "[[node]]\nname = \"a\"\nmac = \"52:54:00:00:00:01\"\n[[node]]", "same mac"),
        (
            "[[node]]",
            "[[node]]\nname = \"port\"\ncircuit_id = \"1\"\naddress = \"10.77.0.50\"\n[[node]]",
            "nodes \"port\" and \"db-07\" have the same address 10.77.0.50",
        ),
        ("[[node]]", "[[node]]\nname = \"a\"\naddress = \"10.77.0.51\"\n[[node]]", "give mac"),
        ("[[node]]", "[[node]]\nname = \"a\"\ncircuit_id = \"eth1\"\n[[node]]", "needs an address"),
        ("address = \"10.77.0.50\"", "uuid = \"12\"", "uuid"),
        ("address = \"10.77.0.50\"", "client_id = \"0xabc\"", "client_id"),
        ("[tftp]", "[log]\nlevel = \"a=b=c\"\n[tftp]", "log.level"),
        ("[[dhcp]]", "[dhcp]", "write [[dhcp]]: there may be several"),
        ("[[profile]]", "[profile]", "write [[profile]]"),
        (
            "[[profile]]",
            "lease_seconds = \"10m\"\n[[profile]]",
            "write lease_seconds as a number of seconds, without quotes",
        ),
        (
            "[[profile]]",
            "[[dhcp]]\ninterface = \"br0\"\nsubnet = \"10.9.0.0/16\"\naddress = \"10.9.0.1\"\n[[profile]]",
            "\"br0\" occurs twice: an interface has one [[dhcp]] section",
        ),
    ] {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD, "{from:?} stands in the good file");
        let message = refusal(&text);
        assert!(message.contains(named), "{named:?} in {message:?}");
    }
    assert!(refusal("data_dir = 3").contains("data_dir"));
}

#[test]
fn a_refusal_says_everything_once() {
    let unknown = refusal(&GOOD.replace("[tftp]", "[tftp]\nroot = 1"));
    for part in ["c.toml", "at line 6", "unknown field `root`"] {
        assert_eq!(unknown.matches(part).count(), 1, "{part:?} in {unknown}");
    }
    let missing = anyhow::Error::from(load(Path::new("/nowhere/c.toml")).expect_err("it is not there"));
    assert_eq!(format!("{missing:#}"), "cannot read /nowhere/c.toml: No such file or directory (os error 2)");
}

#[test]
fn of_several_sections_one_must_be_named() {
    let second = "[[dhcp]]\nsubnet = \"10.9.0.0/16\"\naddress = \"10.77.0.1\"\n[[profile]]";
    let two = parse(&GOOD.replace("[[profile]]", second), Path::new("c.toml")).expect("it is good");
    assert_eq!(good().dhcp_on(None).expect("the only one").title(), "br0");
    assert_eq!(two.dhcp_on(Some("10.9.0.0/16")).expect("named").title(), "10.9.0.0/16");
    let refusal = |interface| two.dhcp_on(interface).expect_err("refused").to_string();
    assert!(refusal(None).contains("choose one by --interface, of: br0, 10.9.0.0/16"), "{}", refusal(None));
    assert!(refusal(Some("br1")).contains("\"br1\": use --interface with one of: br0"));
}

#[test]
fn servers_that_share_the_database_are_named_once_and_by_addresses_nobody_else_has() {
    let shared = |lines: &str| {
        GOOD.replace(
            "[tftp]",
            &format!("[database]\nurl = \"host=/run dbname=k\"\n[[database.server]]\n{lines}\n[tftp]"),
        )
    };
    let config =
        parse(&shared("listen = \"10.77.0.2:8080\"\naddresses = [\"10.78.0.2\"]"), Path::new("c.toml"));
    let config = config.expect("it is good");
    assert_eq!(config.https_bases(), ["https://10.77.0.1:8443", "https://10.77.0.2:8443"]);
    let siblings: Vec<String> = config.siblings().map(|address| address.to_string()).collect();
    assert_eq!(siblings, ["10.77.0.2", "10.78.0.2"]);
    let wrong = config.reservable(Ipv4Addr::new(10, 77, 0, 2)).expect_err("taken");
    assert!(wrong.contains("another server's"), "{wrong}");
    for (lines, words) in [
        ("listen = \"0.0.0.0:8080\"", "machines can reach"),
        ("listen = \"10.77.0.1:8080\"", "occurs twice"),
        ("listen = \"10.77.0.2:8080\"\ntls_listen = \"10.77.0.1:8443\"", "occurs twice"),
        ("listen = \"10.77.0.2:8080\"\naddresses = [\"10.77.0.1\"]", "an address of this server"),
        ("listen = \"10.77.0.150:8080\"", "the pool contains 10.77.0.150"),
        ("tls_listen = \"10.77.0.2:8443\"", "listen"),
    ] {
        let refused = refusal(&shared(lines));
        assert!(refused.contains(words), "{lines}: {refused}");
    }
}

#[test]
fn caches_of_images_are_asked_by_the_machines_of_their_networks() {
    let with = |lines: &str| GOOD.replace("[[dhcp]]", &format!("{lines}\n[[dhcp]]"));
    let row = "[[images.cache]]\nurl = \"http://10.9.0.2:8080/\"\nnetworks = [\"10.9.0.0/16\"]\n";
    let all = "[[images.cache]]\nurl = \"http://cache.example/site\"\n";
    let config = parse(&with(&[row, all].concat()), Path::new("c.toml")).expect("it is good");
    let of = |machine: &str| config.images.caches_of(machine.parse().expect("an address"));
    assert_eq!(of("10.9.3.4"), ["http://10.9.0.2:8080", "http://cache.example/site"]);
    assert_eq!(of("10.77.0.100"), ["http://cache.example/site"]);
    assert_eq!(of("fd77::1"), ["http://cache.example/site"]);
    assert!(good().images.caches_of(Ipv4Addr::LOCALHOST.into()).is_empty());
    for (url, named) in [
        ("cache.example", "is no URL"),
        ("https://cache.example", "write http://"),
        ("http://name:word@cache.example", "no name or password"),
        ("http://cache.example/?key=1", "nothing may stand behind"),
        ("http://10.77.0.1:8080", "is http.listen"),
    ] {
        let message = refusal(&with(&format!("[[images.cache]]\nurl = {url:?}")));
        assert!(message.contains(named) && message.contains(url), "{named:?} in {message}");
    }
    assert!(refusal(&with(&[all, all].concat())).contains("images.cache.url: \"http://cache.example/site\""));
    let odd = row.replace("10.9.0.0/16", "10.9.0.2/16");
    assert!(refusal(&with(&odd)).contains("has host bits set"));
}

#[test]
fn classes_come_out_as_they_were_meant_and_those_that_mean_nothing_are_refused() {
    let class = |body: &str| format!("{GOOD}\n[[class]]\nname = \"c\"\n{body}\n");
    let disks = "disks = [{ count = 2, transport = \"nvme\", min_gib = 800 }]";
    let good = class(&format!("vendor = \"V\"\nmodules = 4\nfirmware = \"2.10\"\n{disks}"));
    let config = parse(&good, Path::new("c.toml")).expect("it is good");
    let [found] = &config.classes[..] else { panic!("{:?}", config.classes) };
    assert_eq!((found.vendor.as_deref(), found.modules, found.memory_gib), (Some("V"), Some(4), None));
    assert_eq!((found.disks[0].count, found.disks[0].rule.min_gib), (2, Some(800)));

    assert!(refusal(&class("modules = 4")).contains("it fits no machine"));
    assert!(refusal(&class("product = \"P\"\nfirmware = \"new\"")).contains("no number"));
    let odd =
        class("product = \"P\"\ndisks = [{ count = 1, transport = \"ide\", min_gib = 2, max_gib = 1 }]");
    let told = refusal(&odd);
    assert!(
        told.contains("disks.transport \"ide\" is none of") && told.contains("disks.min_gib is above"),
        "{told}"
    );
    let twice = format!("{}\n[[class]]\nname = \"c\"\nnodes = [\"a\"]", class("nodes = [\"a\"]"));
    let told = refusal(&twice);
    assert!(
        told.contains("class.name: \"c\" occurs twice") && told.contains("node \"a\" is in class"),
        "{told}"
    );
    assert!(refusal(&class("product = \"P\"\ndimms = 4")).contains("dimms"));
}
