//! The server under test, inside a lab, and its client.

use crate::api::{Job, NodeView};
use crate::artefacts::Artefacts;
use crate::config::{HTTP_PORT, ServerConfig, TLS_PORT};
use crate::http::{self, Request, Response};
use crate::lab::{Lab, Station};
use crate::process::{Process, run, run_to_end};
use crate::wait::{Poll, secs, wait_for};
use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// How long one request of the tests may take.
const REQUEST_LIMIT: Duration = secs(30);
/// How long the server may take to start.
const START_LIMIT: Duration = secs(30);

/// A server in a lab; killed when dropped, its journal written to the lab's directory first.
#[derive(Debug)]
pub struct Server<'a> {
    lab: &'a Lab,
    /// Where it runs, unless in the lab itself.
    station: Option<&'a Station>,
    address: Ipv4Addr,
    dir: PathBuf,
    program: PathBuf,
    process: Option<Process>,
    /// Jobs ordered here, for the journal.
    jobs: RefCell<Vec<String>>,
}

impl<'a> Server<'a> {
    /// Writes the configuration and starts the server.
    pub fn start(lab: &'a Lab, artefacts: &Artefacts, config: &ServerConfig) -> Result<Self> {
        Self::start_in(lab, None, lab.dir(), artefacts, config)
    }

    /// The same at a station, as one more of the site to which `self` belongs: with its authority and token.
    pub fn start_another(
        &self,
        station: &'a Station,
        artefacts: &Artefacts,
        config: &ServerConfig,
    ) -> Result<Self> {
        let dir = self.lab.dir().join("another");
        fs::create_dir_all(dir.join("data"))?;
        let mut copy = Command::new("cp");
        copy.arg("-a").args([self.dir.join("data/tls"), self.token_file(), dir.join("data")]);
        run(&mut copy, secs(10))?;
        Self::start_in(self.lab, Some(station), &dir, artefacts, config)
    }

    fn start_in(
        lab: &'a Lab,
        station: Option<&'a Station>,
        dir: &Path,
        artefacts: &Artefacts,
        config: &ServerConfig,
    ) -> Result<Self> {
        fs::write(dir.join("server.toml"), config.text(&dir.join("data")))?;
        symlink(artefacts.server(), dir.join("ks")).context("cannot link the client `ks`")?;
        let mut server = Self {
            lab,
            station,
            address: config.address,
            dir: dir.to_owned(),
            program: artefacts.server(),
            process: None,
            jobs: RefCell::default(),
        };
        server.restart()?;
        Ok(server)
    }

    /// Starts the server again after [`Server::kill`], on the same data.
    pub fn restart(&mut self) -> Result<()> {
        let log = self.dir.join("server.log");
        let mut command = match self.station {
            Some(station) => station.command(&self.program),
            None => self.lab.command(&self.program),
        };
        command.arg("server").arg("--config").arg(self.dir.join("server.toml")).env("NO_COLOR", "1");
        let mut process = Process::start("kaltstart server", &mut command, &log)?;
        wait_for("the server's /healthz", START_LIMIT, || {
            if let Some(status) = process.ended()? {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let last: Vec<&str> = text.lines().rev().take(5).collect();
                bail!(
                    "the server ended ({status}): {}",
                    last.into_iter().rev().collect::<Vec<_>>().join("\n")
                );
            }
            Ok(match self.get("/healthz") {
                // Also one that is not well.
                Ok(_) => Poll::Ready(()),
                Err(error) => Poll::pending(format!("{error:#}")),
            })
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills the server as a power cut would (SIGKILL).
    pub fn kill(&mut self) {
        self.process.take();
    }

    /// Whether the server runs.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(match &mut self.process {
            Some(process) => process.ended()?.is_none(),
            None => false,
        })
    }

    /// Sends a request of the administrator.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Response> {
        let token = fs::read_to_string(self.token_file()).unwrap_or_default();
        let request = Request {
            method,
            path,
            token: Some(token.trim()).filter(|token| !token.is_empty()),
            body: body.map(Value::to_string),
            ..Request::default()
        };
        self.send(&request)
    }

    /// Sends any request.
    pub fn send(&self, request: &Request<'_>) -> Result<Response> {
        let address = SocketAddr::from((self.address, HTTP_PORT));
        // In the clear the administrator is believed on the server's own machine alone.
        let send = || http::send(address, request, REQUEST_LIMIT);
        match self.station {
            Some(station) => station.inside(send),
            None => self.lab.inside(send),
        }
    }

    /// `GET` as the administrator.
    pub fn get(&self, path: &str) -> Result<Response> {
        self.request("GET", path, None)
    }

    /// The machine with that name or id.
    pub fn node(&self, name: &str) -> Result<NodeView> {
        self.get(&format!("/v1/nodes/{name}"))?.json().with_context(|| format!("cannot read node {name}"))
    }

    /// The machine with that hardware address, if the server knows it.
    pub fn node_by_mac(&self, mac: &str) -> Result<Option<NodeView>> {
        let found = self.get(&format!("/v1/nodes/{mac}"))?;
        if found.status == 404 {
            return Ok(None);
        }
        found.json().map(Some).with_context(|| format!("cannot read node {mac}"))
    }

    /// Waits until it serves DHCP in that role: for other servers it looks before it answers, and some clients
    /// ask only once.
    pub fn wait_dhcp(&self, role: &str) -> Result<()> {
        wait_for("the DHCP service", secs(20), || {
            let subnets: Value = self.get("/v1/dhcp")?.json()?;
            let now = &subnets[0]["role"];
            Ok(if now == role { Poll::Ready(()) } else { Poll::pending(subnets.to_string()) })
        })
    }

    /// Orders a deploy and returns the job.
    pub fn deploy(&self, node: &str, profile: &str) -> Result<Job> {
        self.order(node, "deploy", profile)
    }

    /// Orders a job and returns it.
    pub fn order(&self, node: &str, kind: &str, profile: &str) -> Result<Job> {
        self.order_and_erase(node, kind, profile, &[])
    }

    /// The same, giving up what lies on disks: identity and fingerprint.
    pub fn order_and_erase(
        &self,
        node: &str,
        kind: &str,
        profile: &str,
        erase: &[(&str, &str)],
    ) -> Result<Job> {
        let erase: Map<String, Value> =
            erase.iter().map(|(disk, fingerprint)| ((*disk).to_owned(), json!(fingerprint))).collect();
        self.order_as(node, &json!({"kind": kind, "profile": profile, "erase": erase}))
    }

    /// Orders that all disks of a node be erased, and returns the job.
    pub fn release(&self, node: &str) -> Result<Job> {
        self.order_as(node, &json!({"kind": "release"}))
    }

    fn order_as(&self, node: &str, body: &Value) -> Result<Job> {
        let response = self.request("POST", &format!("/v1/nodes/{node}/jobs"), Some(body))?;
        if response.status != 202 {
            bail!("{body} for {node} was refused: {} {}", response.status, response.text());
        }
        let location = response.header("location").context("the answer to an order has no Location")?;
        let id = location.rsplit('/').next().unwrap_or(location).to_owned();
        self.jobs.borrow_mut().push(id.clone());
        self.job(&id)
    }

    /// What its doors have seen of the machine lately, oldest first.
    pub fn trace(&self, node: &str) -> Result<Vec<Value>> {
        self.get(&format!("/v1/nodes/{node}/trace"))?.json()
    }

    /// Tells the server that the machine was switched on by hand.
    pub fn power_observed(&self, node: &str) -> Result<()> {
        let body = json!({"observed": "on"});
        let response = self.request("POST", &format!("/v1/nodes/{node}/power"), Some(&body))?;
        if !(200..300).contains(&response.status) {
            bail!("the power note for {node} was refused: {} {}", response.status, response.text());
        }
        Ok(())
    }

    /// The job with that id.
    pub fn job(&self, id: &str) -> Result<Job> {
        self.get(&format!("/v1/jobs/{id}"))?.json().with_context(|| format!("cannot read job {id}"))
    }

    /// Waits until `done` holds for the job. A job that ended before is an error.
    pub fn wait_job(
        &self,
        id: &str,
        what: &str,
        limit: Duration,
        done: impl Fn(&Job) -> bool,
    ) -> Result<Job> {
        wait_for(what, limit, || {
            let job = self.job(id)?;
            if done(&job) {
                return Ok(Poll::Ready(job));
            }
            if job.ended() {
                bail!("waiting for {what}, but the job ended as {job}");
            }
            Ok(Poll::pending(job.to_string()))
        })
    }

    /// Waits until the job ended, however it did.
    pub fn wait_ended(&self, id: &str, limit: Duration) -> Result<Job> {
        self.wait_job(id, "the end of the job", limit, Job::ended)
    }

    /// Waits until the job succeeded.
    pub fn wait_deployed(&self, id: &str, limit: Duration) -> Result<Job> {
        self.wait_ended(id, limit)?.succeeded()
    }

    /// Sum of all samples of `metric` whose labels contain `label`.
    pub fn metric(&self, metric: &str, label: &str) -> Result<f64> {
        let response = self.get("/metrics")?;
        if response.status != 200 {
            bail!("/metrics: status {}", response.status);
        }
        Ok(sum_samples(&response.text(), metric, label))
    }

    /// The client with `args`, to be run inside the lab.
    #[must_use]
    pub fn ks_command(&self, args: &[&str]) -> Command {
        let mut command = self.lab.command(self.dir.join("ks"));
        command
            .args(args)
            .env("KS_SERVER", format!("https://{}:{TLS_PORT}", self.address))
            .env("KS_TOKEN_FILE", self.token_file());
        command
    }

    /// Runs the client to its end.
    pub fn ks(&self, args: &[&str], limit: Duration) -> Result<Output> {
        run_to_end(&mut self.ks_command(args), limit)
    }

    /// The fingerprint of the server's authority; it need not run.
    pub fn authority(&self) -> Result<String> {
        authority(&self.tls(&["show"])?)
    }

    /// Makes a new authority and keys; a running server takes them up within seconds.
    pub fn new_authority(&self) -> Result<()> {
        self.tls(&["rotate", "--authority"]).map(drop)
    }

    fn tls(&self, args: &[&str]) -> Result<String> {
        self.on_its_machine(&[&["tls"], args].concat())
    }

    /// Runs one of the server's own commands, which know its configuration, and tells what it says.
    pub fn on_its_machine(&self, args: &[&str]) -> Result<String> {
        let mut command = self.lab.command(&self.program);
        command.args(args).arg("--config").arg(self.dir.join("server.toml"));
        run(&mut command, secs(10))
    }

    /// The file with the administrator's token.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.dir.join("data/admin.token")
    }

    /// Writes state and log of each job and the list of nodes to the lab's directory.
    fn write_journal(&self) {
        let mut outputs = vec![("nodes.json".to_owned(), vec!["node", "list", "-o", "json"])];
        let jobs = self.jobs.borrow();
        for job in jobs.iter() {
            outputs.push((format!("{job}.json"), vec!["job", "show", job, "-o", "json"]));
            outputs.push((format!("{job}.log"), vec!["job", "log", job]));
        }
        for (file, args) in outputs {
            // A server that cannot answer any more is a finding of its own: leave its words.
            let text = match self.ks(&args, secs(10)) {
                Ok(output) => [output.stdout, output.stderr].concat(),
                Err(error) => format!("{error:#}").into_bytes(),
            };
            fs::write(self.dir.join(file), text).ok();
        }
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if self.is_running().unwrap_or(false) {
            self.write_journal();
        }
    }
}

/// The authority's line of `kaltstart tls`.
fn authority(text: &str) -> Result<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("authority"));
    Ok(line.with_context(|| format!("no authority in {text}"))?.trim().to_owned())
}

/// Sums samples of the text format of metrics; `metric` without a `_total` ending fits both.
#[must_use]
pub fn sum_samples(text: &str, metric: &str, label: &str) -> f64 {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(series, _)| {
            let name = series.split('{').next().unwrap_or(series);
            (name == metric || name.strip_suffix("_total") == Some(metric)) && series.contains(label)
        })
        .filter_map(|(_, value)| value.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_name_and_label() {
        let text = "# TYPE a counter\na_total{r=\"x\"} 2\na_total{r=\"y\"} 3\nab_total 9\n";
        assert_eq!(sum_samples(text, "a", ""), 5.0);
        assert_eq!(sum_samples(text, "a_total", "\"y\""), 3.0);
    }
}
