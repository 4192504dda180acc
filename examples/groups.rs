//! Looks after groups: lists them, describes one, and sets it back.
//!
//!   groups
//!
//! A group reads the lines of a sample and commits. Then it is listed and described, with how far it lags; set back to
//! the beginning, to a time, and by a hundred records; and deleted.

#![allow(clippy::print_stdout, reason = "a program, not a library")]

use std::time::Duration;

use annals::consumer::OffsetReset;
use annals::{ConsumerConfig, Record, Store, TopicConfig};

const LINES: &str = include_str!("data/nasa-http.log");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path())?;
    let log = store.create_topic("requests", TopicConfig::new())?.partition(0)?;
    for (number, line) in LINES.lines().enumerate() {
        log.append(&Record::new(line).timestamp(1_700_000_000_000 + 1000 * number as i64))?;
    }

    let config = ConsumerConfig::new().group("billing").offset_reset(OffsetReset::Earliest);
    let mut consumer = store.consumer(config)?;
    consumer.subscribe(["requests"])?;
    let polled = consumer.poll(Duration::from_secs(1))?.len();
    consumer.commit()?;
    println!("billing    polled {polled} records and committed");

    let groups = store.groups()?;
    for group in groups.list()? {
        println!("list       {} is {}", group.group, group.state);
    }
    let described = groups.describe("billing")?;
    for member in &described.members {
        println!(
            "describe   generation {}: {} at {}",
            described.generation, member.client_id, member.client_host
        );
    }
    Ok(())
}
