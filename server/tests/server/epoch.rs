//! A restored copy of the database: what was ordered and granted before counts no more.

use crate::agent::{Agent, installed, script, stopped, system_report, tell, token};
use crate::site::{Site, mac};
use kaltstart_protocol::agent_api::{Directive, InstallTask, Mode, ReportState, Task};
use kaltstart_protocol::finding::Code;
use kaltstart_protocol::node_api::NodeReport;
use kaltstart_protocol::phase::Phase;
use kaltstart_protocol::time::Millis;
use kaltstart_protocol::wipe::{GrantTrust, HostIdentity, Reality};
use reqwest::StatusCode;
use std::path::{Path, PathBuf};

/// Files of the database.
fn database(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).expect("read").map(|entry| entry.expect("read").path());
    files.filter(|path| path.to_string_lossy().contains("kaltstart.db")).collect()
}

/// Puts copies of the files of `from` in place of those of `to`.
fn copy(from: &Path, to: &Path) {
    for old in database(to) {
        std::fs::remove_file(old).expect("removed");
    }
    for file in database(from) {
        std::fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("copied");
    }
}

/// The task of an agent that is granted to install.
async fn task(agent: &Agent<'_>) -> Box<InstallTask> {
    match agent.task().await {
        Task::Install(task) => task,
        other => panic!("{other:?}"),
    }
}

/// Why an agent with that `trust` refuses the grant of `task`; none when it takes it.
fn refusal(agent: &Agent<'_>, task: &InstallTask, trust: &GrantTrust) -> Option<String> {
    let (host, disk) = (HostIdentity::of(&agent.facts), &agent.facts.disks[0]);
    let now = Millis(jiff::Timestamp::now().as_millisecond().unsigned_abs());
    let reality = Reality { host: &host, disk, job: &task.job, attempt: task.attempt, now };
    task.grants[0].grant.verify(trust, &reality).err().map(|finding| {
        assert_eq!(finding.code, Code::GrantRefused);
        finding.detail
    })
}

#[tokio::test]
async fn p08_orders_and_grants_of_before_a_restored_copy_count_no_more() {
    let mut site = Site::start().await;
    let mut jobs = Vec::new();
    for n in 1..=5 {
        site.declare(&format!("n{n}"), mac(n)).await;
        jobs.push(site.order(&format!("n{n}"), "deploy").await);
    }
    // Ordered, started, heard, granted, complete: a copy is made of all of them.
    script(&site, 2).await;
    let [heard, granted, complete] = [3, 4, 5].map(|n| Agent::boot(&site, n, n, Mode::Install));
    let (heard, granted, complete) = tokio::join!(heard, granted, complete);
    for agent in [&heard, &granted, &complete] {
        assert_eq!(agent.hello().await.status, StatusCode::OK);
    }
    let (old, last) = (task(&granted).await, task(&complete).await);
    assert_eq!(complete.twice("installed", &installed(&last.job, 1)).await, Directive::Continue);
    assert_eq!(refusal(&granted, &old, &granted.trust), None);
    let before = granted.trust;
    let kept = tempfile::tempdir().expect("a directory");
    site.kill();
    copy(&site.data(), kept.path());

    // The fleet moves on.
    site.power_on().await;
    let going = Agent::running(&site, 4);
    assert_eq!(going.twice("installed", &installed(&old.job, 1)).await, Directive::Continue);
    let report = system_report(&old.identity.report.token, &old.uuids.root);
    let report = NodeReport { hostname: "n4".into(), ..report };
    assert_eq!(tell(&site, &report).await, StatusCode::NO_CONTENT);
    site.post(&format!("/v1/jobs/{}/cancel", jobs[0]), &serde_json::json!({})).await;

    let mut epochs = vec![before.epoch];
    for _ in 0..2 {
        site.kill();
        copy(kept.path(), &site.data());
        site.power_on().await;
        for (n, job) in (1..).zip(&jobs[..4]) {
            let ended = site.get(&format!("/v1/jobs/{job}")).await.json;
            assert_eq!(
                (&ended["state"], &ended["findings"][0]["code"]),
                (&"failed".into(), &"KS-2110".into()),
                "{ended}"
            );
            let given = script(&site, n).await;
            // One of which nothing is known yet is looked at.
            let looks = n <= 2 && given.contains("kaltstart.mode=discover");
            assert!(looks || token(&given).is_none(), "n{n} starts from its own disk: {given}");
        }
        for session in [3, 4] {
            let agent = Agent::running(&site, session);
            assert!(matches!(agent.task().await, Task::Wait));
            let job = old.job.clone();
            assert!(stopped(&agent.report(&job, 1, Phase::Image, ReportState::Running).await));
        }
        // What is ordered now is granted, by grants that are not those of before.
        site.order("n4", "deploy").await;
        let agent = Agent::boot(&site, 4, 9, Mode::Install).await;
        agent.hello().await;
        let new = task(&agent).await;
        assert_eq!(refusal(&agent, &new, &agent.trust), None);
        let moved_on = InstallTask { job: old.job.clone(), ..(*old).clone() };
        assert!(refusal(&agent, &moved_on, &agent.trust).is_some_and(|why| why.contains("epoch")));
        assert!(refusal(&agent, &new, &before).is_some_and(|why| why.contains("epoch")));
        epochs.push(agent.trust.epoch);
        // The same database goes on.
        site.kill();
        site.power_on().await;
        assert_eq!(site.get(&format!("/v1/jobs/{}", new.job)).await.json["state"], "running");
    }
    assert!(epochs.windows(2).all(|pair| pair[0] < pair[1]), "{epochs:?}");
    // Nothing more is lost on a disk that is complete.
    let report = system_report(&last.identity.report.token, &last.uuids.root);
    let report = NodeReport { hostname: "n5".into(), ..report };
    assert_eq!(tell(&site, &report).await, StatusCode::NO_CONTENT);
    assert_eq!(site.get("/v1/nodes/n5").await.json["state"], "deployed");
}
