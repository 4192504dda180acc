//! The most urgent first: what arrives later overtakes what waits.
//!
//!   priority
//!
//! Requests wait in a topic, their key says how urgent they are. A consumer takes one after the other, the lowest key
//! first. While it works, an urgent one arrives and is the next. Then it stops half way: a second run gets what the
//! first has not done, and nothing else.

#![allow(clippy::print_stdout, reason = "a program, not a library")]

use std::time::Duration;

use annals::share::{LowestKeyFirst, ShareConfig, ShareConsumer, ShareOffsetReset};
use annals::{ProducerConfig, Record, Store, TopicConfig};

const LINES: &str = include_str!("data/nasa-http.log");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path())?;
    let topic = store.create_topic("requests", TopicConfig::new())?;
    let producer = store.producer(ProducerConfig::new())?;
    for line in LINES.lines() {
        producer.send("requests", &Record::new(line).key(urgency(line)))?;
    }
    producer.flush()?;

    println!("first run:");
    let mut consumer = consumer(&store)?;
    for number in 0..8 {
        let Some(record) = consumer.next(Duration::from_secs(1))? else { break };
        show(record.offset(), record.key(), record.value());
        if number == 3 {
            topic.append(&Record::new("the house is on fire").key("0 at once"))?;
        }
    }
    // What was handed out last is done, too.
    consumer.close()?;

    println!("second run:");
    let mut consumer = self::consumer(&store)?;
    let mut left = 0;
    while let Some(record) = consumer.next(Duration::from_millis(10))? {
        left += 1;
        if left <= 3 {
            show(record.offset(), record.key(), record.value());
        }
    }
    consumer.close()?;
    println!("{left} were left, of {}", LINES.lines().count() + 1);
    store.close()?;
    Ok(())
}

fn consumer(store: &Store) -> annals::Result<ShareConsumer> {
    let config = ShareConfig::new()
        .group("desk")
        .offset_reset(ShareOffsetReset::Earliest)
        .priority(LowestKeyFirst)
        // Whatever has waited for a minute goes before all others.
        .max_wait(Duration::from_secs(60));
    let mut consumer = store.share_consumer(config)?;
    consumer.subscribe(["requests"])?;
    Ok(consumer)
}

/// What failed is more urgent than what was found elsewhere, and that than what went well.
fn urgency(line: &str) -> &'static str {
    let status = line.rsplit(' ').nth(1).unwrap_or_default();
    match status.chars().next() {
        Some('4' | '5') => "1 failed",
        Some('3') => "2 moved",
        _ => "3 fine",
    }
}

fn show(offset: u64, key: Option<&[u8]>, value: Option<&[u8]>) {
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let value: String = text(value).chars().take(70).collect();
    println!("  {offset:4} {:9} {value}", text(key));
}
