//! Consumers in tests: what they return in short, and tasks that say whether they were woken.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking, and not every test that shares this module needs all of it"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use annals::consumer::{Consumer, ConsumerRecords};
use annals::group::OffsetAndMetadata;
use annals::{Result, TopicName, TopicPartition};

/// Longer than any test.
pub const LONG: Duration = Duration::from_secs(3600);

pub fn id(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition { topic: TopicName::new(topic).unwrap(), partition }
}

/// That position of a partition, to be committed.
pub fn at(partition: TopicPartition, offset: u64) -> (TopicPartition, OffsetAndMetadata) {
    (partition, OffsetAndMetadata::new(offset))
}

/// `topic-partition:offset=value` of each record, in the order in which they came.
pub fn short(records: ConsumerRecords) -> Vec<String> {
    let text = |value: Option<&[u8]>| String::from_utf8(value.unwrap_or(b"-").to_vec()).unwrap();
    let line = |record: annals::ConsumerRecord| {
        format!("{}:{}={}", record.topic_partition(), record.offset(), text(record.value()))
    };
    records.into_iter().map(line).collect()
}

/// What a poll returns that does not wait.
pub fn poll(consumer: &mut Consumer) -> Vec<String> {
    short(consumer.poll(Duration::ZERO).unwrap())
}

/// The values of everything that is there, poll by poll until there is nothing more.
pub fn drain(consumer: &mut Consumer) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let records = poll(consumer);
        if records.is_empty() {
            return all;
        }
        all.extend(records);
    }
}

/// A task that counts how often it was woken.
#[derive(Debug, Default)]
pub struct Task(AtomicU64);

impl Task {
    pub fn new() -> Arc<Task> {
        Arc::default()
    }

    pub fn woken(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// One step of the consumer as this task; `None` if it waits.
    pub fn poll(self: &Arc<Self>, consumer: &mut Consumer) -> Option<Result<Vec<String>>> {
        let waker = Waker::from(Arc::clone(self));
        match consumer.poll_records(&mut Context::from_waker(&waker)) {
            Poll::Ready(records) => Some(records.map(short)),
            Poll::Pending => None,
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Polls them in turn until none has anything to do any more, and brings what they returned, each its own.
pub fn settle(consumers: &mut [&mut Consumer]) -> Vec<Vec<String>> {
    let mut all = vec![Vec::new(); consumers.len()];
    let mut quiet = 0;
    while quiet < 3 {
        let before = states(consumers);
        for (consumer, all) in consumers.iter_mut().zip(&mut all) {
            all.extend(poll(consumer));
        }
        quiet = if states(consumers) == before { quiet + 1 } else { 0 };
    }
    all
}

fn states(consumers: &[&mut Consumer]) -> Vec<(u64, u64, usize)> {
    let state = |consumer: &&mut Consumer| {
        let stats = consumer.stats();
        (stats.rebalances, stats.records, stats.partitions)
    };
    consumers.iter().map(state).collect()
}

/// The numbers of the partitions that it has, of a single topic.
pub fn numbers(consumer: &Consumer) -> Vec<u32> {
    consumer.assignment().iter().map(|id| id.partition).collect()
}
