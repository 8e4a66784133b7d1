//! Durable changes a second, by so many callers of whom each waits for its own.

use crate::life::{Life, lease, mac};
use crate::{Place, tell};
use anyhow::Result;
use futures_util::future::try_join_all;
use kaltstart_protocol::time::Millis;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Lets `callers` commit for so long: the renewal of an address, or what an agent reports of its job.
pub(crate) async fn run(place: &Place, leases: bool, callers: u32, limit: Duration) -> Result<()> {
    let store = place.open()?;
    let start = Millis(1_800_000_000_000);
    let mut lives = Vec::new();
    for number in 0..if leases { 0 } else { callers } {
        let mut life = Life::declared(&store, number, start).await?;
        life.begins(&store, start).await?;
        lives.push(life);
    }
    let began = Instant::now();
    let first = Ipv4Addr::new(10, 0, 0, 0).to_bits();
    let done: Vec<u64> = if leases {
        let store = &store;
        try_join_all((0..callers).map(async |caller| {
            let mut done = 0;
            while began.elapsed() < limit {
                // Sixteen machines for each caller, in turn.
                let number = caller * 16 + (done % 16) as u32;
                let now = start.plus(done * 1_000);
                store
                    .put_leases(vec![lease(Ipv4Addr::from_bits(first + number), mac(number, 0), now)])
                    .await?;
                done += 1;
            }
            anyhow::Ok(done)
        }))
        .await?
    } else {
        let store = &store;
        try_join_all(lives.iter_mut().map(async |life| {
            let mut done = 0;
            while began.elapsed() < limit {
                done += 1;
                life.reports(store, done, start.plus(60_000 + done)).await?;
            }
            anyhow::Ok(done)
        }))
        .await?
    };
    tell("rate", done.iter().sum::<u64>() as f64 / began.elapsed().as_secs_f64());
    Ok(())
}
