//! A group of three consumers, one of which dies; nothing is lost.
//!
//!   consumer_group
//!
//! Three threads share the six partitions of a topic. One panics in the middle of its work, before it has committed.
//! Its partitions go to the two others, who begin where it had committed: some records are handled twice, none never.

#![allow(clippy::print_stdout, clippy::panic, reason = "a program, and one of its threads is meant to die")]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use annals::consumer::{DeliveryGuarantee, OffsetReset};
use annals::{ConsumerConfig, ProducerConfig, Record, Store, TopicConfig};

const LINES: &str = include_str!("data/nasa-http.log");

/// How often each line was handled.
type Handled = Mutex<BTreeMap<(u32, u64), u32>>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path())?;
    store.create_topic("requests", TopicConfig::new().partitions(6))?;
    let producer = store.producer(ProducerConfig::new())?;
    for line in LINES.lines() {
        producer.send("requests", &Record::new(line).key(line.split(' ').next().unwrap_or_default()))?;
    }
    producer.flush()?;
    let total = LINES.lines().count();

    let handled = Handled::default();
    // The thread that dies says why; that is part of the show.
    thread::scope(|scope| {
        let names = ["one", "two", "three"];
        let threads = names.map(|name| (name, scope.spawn(|| work(&store, name, &handled, total))));
        for (name, thread) in threads {
            match thread.join() {
                Ok(Ok(count)) => println!("{name:6} handled {count} records"),
                Ok(Err(error)) => println!("{name:6} failed: {error}"),
                Err(_) => println!("{name:6} died"),
            }
        }
    });

    let handled = handled.lock().map_err(|_| "somebody died while counting")?;
    let twice = handled.values().filter(|count| **count > 1).count();
    println!("{} of {total} records were handled, {twice} of them twice", handled.len());
    store.close()?;
    Ok(())
}

/// Polls until everything is handled, by whomever. Returns how many records it handled itself.
fn work(store: &Store, name: &str, handled: &Handled, total: usize) -> annals::Result<usize> {
    let config = ConsumerConfig::new()
        .group("workers")
        .client_id(name)
        .offset_reset(OffsetReset::Earliest)
        .delivery(DeliveryGuarantee::AtLeastOnce)
        .max_poll_records(20);
    let mut consumer = store.consumer(config)?;
    consumer.subscribe(["requests"])?;
    let mut count = 0;
    loop {
        // What the poll before returned is committed by this one.
        for record in consumer.poll(Duration::from_millis(20))? {
            if let Ok(mut handled) = handled.lock() {
                *handled.entry((record.partition(), record.offset())).or_default() += 1;
            }
            count += 1;
            if name == "two" && count == 50 {
                panic!("a bug in the second worker");
            }
        }
        if handled.lock().is_ok_and(|handled| handled.len() == total) {
            consumer.close()?;
            return Ok(count);
        }
    }
}
