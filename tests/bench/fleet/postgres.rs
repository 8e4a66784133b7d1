//! A PostgreSQL of Debian beside the server under test, as it comes: what is committed is on the disk.

use crate::bench::Bench;
use crate::subject::Subject;
use anyhow::{Context as _, Result, bail};
use kaltstart_tests::process::run;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A running one, and where it is.
pub(crate) struct Postgres {
    pub(super) server: Subject,
    /// How the server under test connects to it.
    pub(crate) url: String,
    /// Where Debian has its programs, and where its socket is.
    programs: PathBuf,
    dir: PathBuf,
}

impl Postgres {
    /// Starts one with `settings` besides its own.
    pub(crate) fn start(bench: &Bench, settings: &[&str]) -> Result<Self> {
        let programs = fs::read_dir("/usr/lib/postgresql").context("the package postgresql")?;
        let mut programs: Vec<PathBuf> = programs.flatten().map(|entry| entry.path().join("bin")).collect();
        programs.sort();
        let Some(programs) = programs.pop() else { bail!("the package postgresql is not installed") };
        let dir = bench.dir().join("postgres");
        fs::remove_dir_all(&dir).ok();
        fs::create_dir(&dir)?;
        let user = nix::unistd::User::from_name("postgres")?.context("no user postgres")?;
        chown(&dir, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        let as_user = |mut command: Command| {
            command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
            command
        };
        let mut initdb = as_user(Command::new("setpriv"));
        initdb.arg(programs.join("initdb")).arg("-D").arg(dir.join("data")).args([
            "--auth=trust",
            "-E",
            "UTF8",
        ]);
        run(&mut initdb, secs(60))?;
        let mut command = as_user(bench.pair().server_command("setpriv"));
        command.arg(programs.join("postgres")).arg("-D").arg(dir.join("data")).arg("-k").arg(&dir);
        command.args(["-c", "listen_addresses="]).args(settings);
        let server = Subject::spawn("postgres", &command, &bench.log("postgres"))?;
        let mut ready = Command::new(programs.join("pg_isready"));
        ready.arg("-q").arg("-h").arg(&dir);
        wait_for("PostgreSQL", secs(30), || {
            Ok(if ready.status()?.success() { Poll::Ready(()) } else { Poll::pending("not ready") })
        })?;
        let url = format!("host={} user=postgres dbname=postgres", dir.display());
        Ok(Self { server, url, programs, dir })
    }

    /// One of its programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// The directory of its socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.dir
    }

    /// Takes away all tables.
    pub(crate) fn empty(&self) -> Result<()> {
        self.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    }

    /// Carries out statements.
    pub(crate) fn run(&self, sql: &str) -> Result<()> {
        let mut psql = Command::new(self.program("psql"));
        psql.arg("-h").arg(&self.dir).args([
            "-U",
            "postgres",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
            "postgres",
        ]);
        run(&mut psql, secs(60)).map(|_| ())
    }
}
