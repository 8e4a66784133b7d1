//! A machine is deployed after a copy of the server's data was made, and the copy is restored.

use crate::common::{
    AGENT_LIMIT, DEPLOY_LIMIT, IMAGE, NODE, UP, config, ensure_installed, machine, order_only,
};
use anyhow::{Context as _, Result, ensure};
use kaltstart_tests::guest::Firmware;
use kaltstart_tests::process::{run, tethered};
use kaltstart_tests::server::Server;
use kaltstart_tests::story::story;
use kaltstart_tests::wait::{Poll, secs, wait_for};
use serde_json::Value;
use std::fs;

/// Waits until the server has noted such a difference of the node, and tells its words.
fn told(server: &Server<'_>, kind: &str, words: &str) -> Result<String> {
    wait_for(&format!("a difference {kind}: {words}"), AGENT_LIMIT, || {
        let view: Value = server.get("/v1/restored")?.json()?;
        let mut all = view["differences"].as_array().into_iter().flatten();
        let found = all.find(|one| {
            let detail = one["detail"].as_str().unwrap_or_default();
            one["node_name"] == NODE && one["kind"] == kind && detail.contains(words)
        });
        Ok(found.map_or_else(|| Poll::pending(view.to_string()), |one| Poll::Ready(one.to_string())))
    })
}

#[test]
fn p08_a_machine_of_which_a_copy_knows_nothing_keeps_its_system() -> Result<()> {
    story("restored", |lab| {
        let (artefacts, mut config) = config()?;
        config.profiles[0].more = "recall = true\n".to_owned();
        let (guest, file) = machine(lab, Firmware::Bios)?;
        let mut ordered = order_only(lab, guest, &artefacts, config, IMAGE)?;
        let (data, copy) = (lab.dir().join("data"), lab.dir().join("copy"));
        ordered.server.kill();
        run(tethered("cp").arg("--archive").arg(&data).arg(&copy), secs(10))?;
        ordered.server.restart()?;
        ordered.power_on()?;
        ordered.server.wait_deployed(&ordered.job, DEPLOY_LIMIT)?;

        // The copy has its order, and knows nothing of what became of it.
        ordered.server.kill();
        fs::remove_dir_all(&data)?;
        fs::rename(&copy, &data)?;
        ordered.server.restart()?;
        ordered.server.job(&ordered.job)?.failed_with("KS-2110")?;
        let deploy = ["deploy", NODE, "--profile", IMAGE];
        let refused = ordered.server.ks(&deploy, secs(10))?;
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(refused.status.code() == Some(6) && words.contains("KS-2117"), "{refused:?}");
        let asks = told(&ordered.server, "system", "whether a job calls it back")?;
        ensure!(
            asks.contains(&ordered.job) && asks.contains("KS-2110"),
            "it names the job that laid it down: {asks}"
        );

        // As nothing is known of its hardware it is looked at, and goes on with its system.
        let mark = ordered.guest.console().mark();
        ordered.guest.reset()?;
        let disks = told(&ordered.server, "disks", "KT-DISK-1")?;
        ensure!(disks.contains("gpt"), "{disks}");
        ordered.guest.console().wait(UP, mark, DEPLOY_LIMIT)?;

        // What the copy does not know stays foreign when it is accepted.
        let shown = ordered.server.ks(&["restored"], secs(10))?;
        let shown = [shown.stdout, shown.stderr].concat();
        let shown = String::from_utf8_lossy(&shown).into_owned();
        let (_, accept) =
            shown.rsplit_once("after: ks ").with_context(|| format!("no command in {shown}"))?;
        let words: Vec<&str> = accept.split_whitespace().collect();
        let accepted = ordered.server.ks(&words, secs(10))?;
        ensure!(accepted.status.success(), "{accepted:?}");
        let job = ordered.server.deploy(NODE, IMAGE)?;
        ordered.guest.reset()?;
        ordered.server.wait_ended(&job.id, AGENT_LIMIT)?.failed_with("KS-2107")?;
        ordered.guest.power_off();
        ensure_installed(&file)
    })
}
