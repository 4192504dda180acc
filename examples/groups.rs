//! Looks after groups: lists them, describes one, and sets it back.
//!
//!   groups
//!
//! A group reads the lines of a sample and commits. It is listed and described, with how far it lags; then it is set
//! back to the beginning, to a time, and by a hundred records, and deleted.

#![allow(clippy::print_stdout, reason = "a program, not a library")]

use std::time::Duration;

use annals::consumer::OffsetReset;
use annals::format::consumer_protocol::Assignment;
use annals::group::{self, ResetTo};
use annals::{ConsumerConfig, Record, Store, TopicConfig};

const LINES: &str = include_str!("data/nasa-http.log");
const FIRST: i64 = 1_700_000_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path())?;
    let log = store.create_topic("requests", TopicConfig::new())?.partition(0)?;
    let lines: Vec<Record<'_>> = LINES
        .lines()
        .zip(0..)
        .map(|(line, second)| Record::new(line).timestamp(FIRST + 1000 * second))
        .collect();
    log.append_batch(&lines)?;

    let config =
        ConsumerConfig::new().group("billing").client_id("till-1").offset_reset(OffsetReset::Earliest);
    let mut consumer = store.consumer(config)?;
    consumer.subscribe(["requests"])?;
    println!("polled    {} records", consumer.poll(Duration::from_secs(1))?.len());
    consumer.commit()?;

    let groups = store.groups()?;
    for listed in groups.list()? {
        println!("list      {}: {}", listed.group, listed.state);
    }
    let described = groups.describe("billing")?;
    for member in &described.members {
        let assignment = Assignment::decode(&member.assignment)?;
        println!(
            "describe  generation {}: {} has {:?}",
            described.generation, member.client_id, assignment.partitions
        );
    }
    show_lag(&store)?;

    if let Err(refused) = group::reset_offsets(&store, &*groups, "billing", None, &ResetTo::Earliest) {
        println!("reset     while it has members: {refused}");
    }
    consumer.close()?;
    for to in [ResetTo::Earliest, ResetTo::Timestamp(FIRST + 900_000), ResetTo::Shift(-100)] {
        group::reset_offsets(&store, &*groups, "billing", None, &to)?;
        println!("reset     to {to:?}");
        show_lag(&store)?;
    }

    groups.delete("billing")?;
    println!("deleted   {} groups are left", groups.list()?.len());
    store.close()?;
    Ok(())
}

fn show_lag(store: &Store) -> annals::Result<()> {
    for (partition, lag) in group::group_lag(store, &*store.groups()?, "billing")? {
        let behind = lag.lag.map_or("gone".into(), |lag| format!("{lag} behind"));
        println!("lag       {partition} at {}, {behind}", lag.committed.offset);
    }
    Ok(())
}
