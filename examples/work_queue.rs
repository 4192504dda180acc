//! A work queue: more workers than partitions, each record to one of them, until somebody has done it.
//!
//!   work_queue
//!
//! Four threads are one share group on a topic with a single partition. One of them dies with work in its hands, which
//! others get again at once; one record is poison, given back each time, until it has been tried five times and is
//! put aside.

#![allow(clippy::print_stdout, clippy::panic, reason = "a program, and one of its threads is meant to die")]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use annals::share::{Acknowledge, AcknowledgementMode, ShareConfig, ShareOffsetReset};
use annals::{ProducerConfig, Record, Store, TopicConfig};

const LINES: &str = include_str!("data/nasa-http.log");
const POISON: u64 = 123;

/// Who did which record.
type Done = Mutex<BTreeMap<u64, &'static str>>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path())?;
    store.create_topic("tasks", TopicConfig::new())?;
    let producer = store.producer(ProducerConfig::new())?;
    LINES.lines().try_for_each(|line| producer.send("tasks", &Record::new(line)).map(drop))?;
    producer.flush()?;

    let done = Done::default();
    thread::scope(|scope| {
        let names = ["one", "two", "three", "four"];
        let threads = names.map(|name| (name, scope.spawn(|| work(&store, name, &done))));
        for (name, thread) in threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => println!("{name} failed: {error}"),
                Err(_) => println!("{name} died"),
            }
        }
    });

    let done = done.into_inner().map_err(|_| "somebody died while counting")?;
    let total = LINES.lines().count();
    for name in ["one", "two", "three", "four"] {
        println!("{name:5} did {} records", done.values().filter(|by| **by == name).count());
    }
    println!("{} of {total} records are done; the poisonous one is put aside", done.len());
    store.close()?;
    Ok(())
}

/// Works until there is nothing left.
fn work(store: &Store, name: &'static str, done: &Done) -> annals::Result<()> {
    let config = ShareConfig::new()
        .group("workers")
        .offset_reset(ShareOffsetReset::Earliest)
        .acknowledgement_mode(AcknowledgementMode::Explicit)
        .max_poll_records(10);
    let mut consumer = store.share_consumer(config)?;
    consumer.subscribe(["tasks"])?;
    for polls in 1.. {
        let records = consumer.poll(Duration::from_millis(100))?;
        if records.is_empty() {
            break;
        }
        if name == "two" && polls == 3 {
            panic!("a bug in the second worker");
        }
        for record in &records {
            if record.offset() == POISON {
                println!("{name} cannot do record {POISON}, try {}", record.delivery_count());
                consumer.acknowledge(record, Acknowledge::Release)?;
                continue;
            }
            consumer.acknowledge(record, Acknowledge::Accept)?;
            if let Ok(mut done) = done.lock() {
                done.insert(record.offset(), name);
            }
        }
        consumer.commit()?;
    }
    consumer.close()
}
