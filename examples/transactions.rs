//! Consume, transform, produce: exactly once, though the process dies in the middle.
//!
//!   transactions
//!
//! Reads requests and writes a hit for the host of each to another topic: each poll, what is made of it, and the
//! positions behind it are one transaction. The first run is cut off in the middle of a transaction, after its records
//! are written; the second begins behind the last one that was committed. In the end readers of committed data find
//! each request counted once.

#![allow(clippy::print_stdout, reason = "a program, not a library")]

use std::collections::BTreeMap;
use std::time::Duration;

use annals::consumer::{DeliveryGuarantee, OffsetReset};
use annals::{ConsumerConfig, Isolation, ProducerConfig, Record, Store, TopicConfig};

const LINES: &str = include_str!("data/nasa-http.log");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path())?;
    store.create_topic("requests", TopicConfig::new().partitions(3))?;
    store.create_topic("hits", TopicConfig::new())?;
    let producer = store.producer(ProducerConfig::new())?;
    for line in LINES.lines() {
        producer.send("requests", &Record::new(line).key(line.split(' ').next().unwrap_or_default()))?;
    }
    producer.flush()?;
    let total = LINES.lines().count();

    println!("first run  counted {} of {total}, then was cut off", count(&store, Some(4))?);
    // Nothing is closed in order: as if the process had been killed.
    println!("second run counted {} of {total}", count(&store, None)?);

    let mut hits = BTreeMap::new();
    for record in store.topic("hits")?.partition(0)?.read_from_with(0, Isolation::ReadCommitted)? {
        *hits.entry(record?.key().unwrap_or_default().to_vec()).or_insert(0) += 1;
    }
    let all = store.topic("hits")?.partition(0)?.read_from(0)?.count();
    println!("committed  {} hits of {} hosts; {all} were written", hits.values().sum::<usize>(), hits.len());
    assert_eq!(hits.values().sum::<usize>(), total, "each request is counted once");
    store.close()?;
    Ok(())
}

/// Counts what is left, a transaction for each poll. With `dies_in`, returns in the middle of that transaction.
fn count(store: &Store, dies_in: Option<usize>) -> annals::Result<usize> {
    // The transactional id fences off whoever had it before, and aborts what that left open.
    let producer = store.producer(ProducerConfig::new().transactional_id("counter"))?;
    let config = ConsumerConfig::new()
        .group("counter")
        .offset_reset(OffsetReset::Earliest)
        .delivery(DeliveryGuarantee::ExactlyOnce)
        .max_poll_records(100);
    let mut consumer = store.consumer(config)?;
    consumer.subscribe(["requests"])?;
    let (mut counted, mut transaction) = (0, 0);
    loop {
        let records = consumer.poll(Duration::from_millis(100))?;
        if records.is_empty() {
            consumer.close()?;
            return Ok(counted);
        }
        transaction += 1;
        producer.begin_transaction()?;
        for (_, record) in records.iter() {
            producer.send("hits", &Record::new("1").key(record.key().unwrap_or_default()))?;
        }
        producer.send_offsets_to_transaction(consumer.positions_to_commit(), &consumer.group_metadata()?)?;
        if Some(transaction) == dies_in {
            producer.flush()?;
            std::mem::forget(producer);
            return Ok(counted);
        }
        producer.commit_transaction()?;
        counted += records.len();
    }
}
