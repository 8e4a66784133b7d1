//! HTTP clients of other makers against the real server: curl, wget and busybox get files as they are,
//! whole and in parts, over HTTP/1.1, and over HTTP/2 with TLS.

use crate::common::config;
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::config::{HTTP_PORT, ServerConfig, TLS_PORT};
use kaltstart_tests::lab::{Lab, SERVER, Station};
use kaltstart_tests::process::{run, run_to_end};
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::unpacked::Unpacked;
use kaltstart_tests::wait::secs;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Files and their bytes: loaders by name, since the server gives out no others.
const FILES: [(&str, usize); 4] =
    [("undionly.kpxe", 0), ("snponly.efi", 1), ("snponly-arm64.efi", 1_000_003), (LARGE, 32 << 20)];
const LARGE: &str = "ipxe.efi";
const LARGE_BYTES: usize = 32 << 20;

/// A server with the files, and a client.
struct Site<'a> {
    lab: &'a Lab,
    station: Station,
    programs: Unpacked,
    source: PathBuf,
    _server: Server<'a>,
}

impl<'a> Site<'a> {
    fn start(lab: &'a Lab) -> Result<Self> {
        let (artefacts, config) = config()?;
        let source = lab.dir().join("files");
        fs::create_dir(&source)?;
        for (name, bytes) in FILES {
            let content: Vec<u8> =
                (0..bytes as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect();
            fs::write(source.join(name), content)?;
        }
        let config = ServerConfig { loaders: source.clone(), ..config };
        let server = Server::start(lab, &artefacts, &config)?;
        let station = Station::new(lab)?;
        station.address(Ipv4Addr::new(10, 77, 0, 10))?;
        Ok(Self { lab, station, programs: Unpacked::clients()?, source, _server: server })
    }

    fn got(&self) -> PathBuf {
        self.lab.dir().join("got")
    }

    /// Runs curl; returns the status and version of each answer, and how many connections it made.
    fn curl(&self, args: &[&str]) -> Result<String> {
        let mut curl = self.station.command("curl");
        curl.args(["--silent", "--show-error", "--cacert"]).arg(self.lab.dir().join("data/tls/ca.pem"));
        curl.args(["--write-out", "%{http_code} %{http_version} %{num_connects}\n"]);
        run(curl.args(args).arg("--output").arg(self.got()), secs(30)).with_context(|| format!("{args:?}"))
    }

    /// Checks that what was got is `range` of `file`.
    fn ensure_got(&self, file: &str, range: std::ops::Range<usize>) -> Result<()> {
        let (source, got) = (fs::read(self.source.join(file))?, fs::read(self.got())?);
        let wanted = source.get(range.clone()).context("no such range")?;
        let same = Sha256::digest(&got) == Sha256::digest(wanted);
        ensure!(same, "{} bytes instead of {range:?} of {file}", got.len());
        Ok(())
    }
}

/// Where a file is, in the clear and over TLS.
fn urls(file: &str) -> [String; 2] {
    [("http", HTTP_PORT), ("https", TLS_PORT)]
        .map(|(scheme, port)| format!("{scheme}://{SERVER}:{port}/boot/files/{file}"))
}

#[test]
fn curl_gets_files_whole_and_in_parts() -> Result<()> {
    story("http-curl", |lab| {
        let site = Site::start(lab)?;
        for (file, bytes) in FILES {
            let [plain, secure] = urls(file);
            for (version, args) in [
                ("1.1", vec![plain.as_str()]),
                ("1.1", vec!["--http1.1", &secure]),
                ("2", vec!["--http2", &secure]),
            ] {
                let told = site.curl(&args)?;
                ensure!(told == format!("200 {version} 1\n"), "{args:?}: {told}");
                site.ensure_got(file, 0..bytes).with_context(|| format!("{args:?}"))?;
            }
        }
        for url in urls(LARGE) {
            for (range, first, end) in [
                ("0-0", 0, 1),
                ("65530-131080", 65_530, 131_081),
                ("-500", LARGE_BYTES - 500, LARGE_BYTES),
                ("33554000-", 33_554_000, LARGE_BYTES),
                ("33554000-99999999", 33_554_000, LARGE_BYTES),
            ] {
                let told = site.curl(&["--range", range, &url])?;
                ensure!(told.starts_with("206 "), "{range} of {url}: {told}");
                site.ensure_got(LARGE, first..end).with_context(|| format!("{range} of {url}"))?;
            }
            let told = site.curl(&["--range", "99999999-", &url])?;
            ensure!(told.starts_with("416 "), "behind the end of {url}: {told}");
            // Several ranges at once are answered with the whole.
            let told = site.curl(&["--range", "0-9,20-29", &url])?;
            ensure!(told.starts_with("200 "), "{told}");
            site.ensure_got(LARGE, 0..LARGE_BYTES)?;
            // What an interrupted transfer has left is completed.
            let whole = fs::read(site.source.join(LARGE))?;
            fs::write(site.got(), &whole[..20_000_001])?;
            let told = site.curl(&["--continue-at", "-", &url])?;
            ensure!(told.starts_with("206 "), "{told}");
            site.ensure_got(LARGE, 0..LARGE_BYTES)?;
            let told = site.curl(&["--head", &url])?;
            let head = fs::read_to_string(site.got())?.to_lowercase();
            let length = format!("content-length: {LARGE_BYTES}\r\n");
            ensure!(told.starts_with("200 ") && head.contains(&length), "{told}{head}");
        }
        Ok(())
    })
}

#[test]
fn curl_gets_only_what_is_new_and_keeps_its_connection() -> Result<()> {
    story("http-conditions", |lab| {
        let site = Site::start(lab)?;
        let tag = lab.dir().join("tag").display().to_string();
        for url in urls(LARGE) {
            fs::remove_file(&tag).ok();
            let told = site.curl(&["--etag-save", &tag, &url])?;
            ensure!(told.starts_with("200 "), "{told}");
            for same in [["--etag-compare", &tag], ["--time-cond", "Thu, 31 Dec 2037 00:00:00 GMT"]] {
                fs::remove_file(site.got())?;
                let told = site.curl(&[same.as_slice(), &[url.as_str()]].concat())?;
                ensure!(told.starts_with("304 ") && !site.got().exists(), "{same:?}: {told}");
                fs::write(site.got(), "")?;
            }
            let source = site.source.join(LARGE);
            let mut content = fs::read(&source)?;
            content[7] ^= 1;
            fs::write(&source, content)?;
            let told = site.curl(&["--etag-compare", &tag, &url])?;
            ensure!(told.starts_with("200 "), "a changed file: {told}");
            site.ensure_got(LARGE, 0..LARGE_BYTES)?;
            let (again, gone) = (url.as_str(), url.replace(LARGE, "server.toml"));
            let (got, first) = (site.got().display().to_string(), FILES[2].0);
            let small = url.replace(LARGE, first);
            let told = site.curl(&[again, "--output", &got, &gone, "--output", &got, &small])?;
            let counts: Vec<_> = told.lines().map(|line| line.split(' ').collect::<Vec<_>>()).collect();
            let said: Vec<_> = counts.iter().map(|words| (words[0], words[2])).collect();
            ensure!(said == [("200", "1"), ("404", "0"), ("200", "0")], "one connection: {told}");
            site.ensure_got(first, 0..FILES[2].1)?;
        }
        Ok(())
    })
}

#[test]
fn wget_and_busybox_get_and_resume() -> Result<()> {
    story("http-wget", |lab| {
        let site = Site::start(lab)?;
        let wget =
            || site.programs.with_libraries(site.station.command(site.programs.program("usr/bin/wget")));
        let busybox = || {
            let mut command = site.station.command("busybox");
            command.arg("wget");
            command
        };
        let programs: [(&str, &dyn Fn() -> std::process::Command); 2] =
            [("wget", &wget), ("busybox", &busybox)];
        for (name, program) in programs {
            let get = |further: &[&str], file: &str| {
                let mut command = program();
                command.args(further).arg("-O").arg(site.got()).arg(&urls(file)[0]);
                let output = run_to_end(&mut command, secs(30))?;
                let told = String::from_utf8_lossy(&output.stderr).into_owned();
                ensure!(output.status.success(), "{name} {further:?} {file}: {told}");
                Ok(())
            };
            for (file, bytes) in FILES {
                fs::remove_file(site.got()).ok();
                get(&[], file)?;
                site.ensure_got(file, 0..bytes).context(name)?;
            }
            let whole = fs::read(site.source.join(LARGE))?;
            fs::write(site.got(), &whole[..9_999_999])?;
            get(&["-c"], LARGE)?;
            site.ensure_got(LARGE, 0..LARGE_BYTES).context(name)?;
        }
        Ok(())
    })
}
