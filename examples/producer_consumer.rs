//! A producer and a consumer in one process.
//!
//!   producer_consumer
//!
//! The producer sends the lines of a sample: each `send` returns at once with a delivery, the records are written in
//! batches behind it. The consumer, alone in its group, polls them and commits where it is.

#![allow(clippy::print_stdout, reason = "a program, not a library")]

use std::time::Duration;

use annals::consumer::OffsetReset;
use annals::{ConsumerConfig, ProducerConfig, Record, Store, TopicConfig};

const LINES: &str = include_str!("data/nasa-http.log");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path())?;
    store.create_topic("requests", TopicConfig::new().partitions(3))?;

    let producer = store.producer(ProducerConfig::new())?;
    let mut deliveries = Vec::new();
    for line in LINES.lines() {
        let host = line.split(' ').next().unwrap_or_default();
        deliveries.push(producer.send("requests", &Record::new(line).key(host))?);
    }
    println!("sent       {} records, {} of them written so far", deliveries.len(), written(&deliveries));
    producer.flush()?;
    println!("flushed    {} are on disk, in {} batches", written(&deliveries), producer.stats().batches);
    if let Some(last) = deliveries.last() {
        let placed = last.wait()?;
        println!("last       is in {} at offset {}", placed.partition, placed.offset);
    }

    let config = ConsumerConfig::new().group("reports").offset_reset(OffsetReset::Earliest);
    let mut consumer = store.consumer(config)?;
    consumer.subscribe(["requests"])?;
    let mut seen = 0;
    while seen < deliveries.len() {
        let records = consumer.poll(Duration::from_secs(1))?;
        seen += records.len();
        for (partition, records) in records.by_partition() {
            println!("polled     {:3} records of {partition}", records.len());
        }
    }
    consumer.commit()?;
    for (partition, position) in consumer.committed(&consumer.assignment())? {
        println!("committed  {partition} up to offset {}", position.offset);
    }
    consumer.close()?;
    producer.close(Duration::from_secs(10))?;
    store.close()?;
    Ok(())
}

fn written(deliveries: &[annals::Delivery]) -> usize {
    deliveries.iter().filter(|delivery| matches!(delivery.try_get(), Some(Ok(_)))).count()
}
