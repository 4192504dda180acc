//! Producers: when batches are written and in what order, what holds a send up, what becomes of records, and what
//! failures and closing do to them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod common;

#[path = "common/logs.rs"]
mod logs;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use annals::{Delivery, Error, ProducerConfig, Record, SendOptions, TopicConfig};

use logs::{Machine, values};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// So long that nothing is written for having waited.
const HOUR: Duration = Duration::from_secs(3600);

fn config() -> ProducerConfig {
    ProducerConfig::new().linger(HOUR).delivery_timeout(HOUR)
}

fn offset(delivery: &Delivery) -> u64 {
    delivery.wait().unwrap().offset
}

#[test]
fn records_are_written_in_order_as_one_batch_and_deliveries_say_where() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let producer = store.producer(config()).unwrap();
    let sent: Vec<_> =
        ["a", "b", "c"].iter().map(|value| producer.send("t", &Record::new(*value)).unwrap()).collect();
    assert!(sent.iter().all(|delivery| delivery.try_get().is_none()));
    assert_eq!(log.log_end(), 0);
    producer.flush().unwrap();
    for (place, delivery) in sent.iter().enumerate() {
        let metadata = delivery.try_get().unwrap().unwrap();
        assert_eq!(metadata.offset, place as u64);
        assert_eq!(metadata.timestamp, logs::NOW);
        assert_eq!(metadata.partition.to_string(), "t-0");
    }
    assert_eq!(values(&log, 0), [(0, "a".into()), (1, "b".into()), (2, "c".into())]);
    let stats = producer.stats();
    assert_eq!((stats.records_sent, stats.records_delivered, stats.batches), (3, 3, 1));
    assert_eq!(stats.buffer_available, stats.buffer_total);
}

#[test]
fn a_batch_waits_for_linger_by_the_clock_of_the_store() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let producer = store.producer(ProducerConfig::new().linger(ms(5))).unwrap();
    let delivery = producer.send("t", &Record::new("a")).unwrap();
    machine.clock.advance(ms(4));
    assert!(matches!(delivery.wait_timeout(Duration::ZERO), Err(Error::Timeout { .. })));
    assert_eq!(log.log_end(), 0);
    machine.clock.advance(ms(1));
    assert_eq!(offset(&delivery), 0);
}

#[test]
fn a_full_batch_does_not_wait_for_linger() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let producer = store.producer(config().batch_size(1000)).unwrap();
    let value = [b'v'; 100];
    let mut sent = Vec::new();
    // Enough for one batch, and the first record of the next, which closes it.
    while sent.len() < 10 {
        sent.push(producer.send("t", &Record::new(&value)).unwrap());
    }
    assert_eq!(offset(&sent[0]), 0);
    let written = log.log_end();
    assert!((6..10).contains(&written), "{written}");
    assert!(sent.last().unwrap().try_get().is_none(), "the rest lingers");
}

struct CountWakes(AtomicUsize, mpsc::Sender<()>);

impl Wake for CountWakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        self.1.send(()).unwrap();
    }
}

#[test]
fn a_delivery_is_a_future_that_wakes_its_task_once() {
    let machine = Machine::new();
    let (store, _log) = machine.start(TopicConfig::new());
    let producer = store.producer(config()).unwrap();
    let mut delivery = producer.send("t", &Record::new("a")).unwrap();
    let (sender, woken) = mpsc::channel();
    let counter = Arc::new(CountWakes(AtomicUsize::new(0), sender));
    let waker = Waker::from(Arc::clone(&counter));
    let mut context = Context::from_waker(&waker);
    for _ in 0..3 {
        assert!(Pin::new(&mut delivery).poll(&mut context).is_pending());
    }
    producer.flush().unwrap();
    woken.recv().unwrap();
    let Poll::Ready(result) = Pin::new(&mut delivery).poll(&mut context) else { panic!("not ready") };
    assert_eq!(result.unwrap().offset, 0);
    assert_eq!(counter.0.load(Ordering::SeqCst), 1);
}

#[test]
fn closing_writes_what_was_sent_and_refuses_the_rest() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let producer = store.producer(config()).unwrap();
    let delivery = producer.send("t", &Record::new("a")).unwrap();
    producer.close(HOUR).unwrap();
    assert_eq!(offset(&delivery), 0);
    assert!(matches!(producer.send("t", &Record::new("b")), Err(Error::Closed { .. })));
    producer.close(Duration::ZERO).unwrap();
    assert_eq!(log.log_end(), 1);
}

#[test]
fn a_producer_that_is_dropped_writes_what_was_sent() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let producer = store.producer(config()).unwrap();
    let delivery = producer.send("t", &Record::new("a")).unwrap();
    drop(producer);
    assert_eq!(delivery.try_get().unwrap().unwrap().offset, 0);
    assert_eq!(log.log_end(), 1);
}

#[test]
fn a_store_that_is_closed_sends_everybody_home() {
    let machine = Machine::new();
    let (store, _log) = machine.start(TopicConfig::new());
    let producer = store.producer(config()).unwrap();
    let delivery = producer.send("t", &Record::new("a")).unwrap();
    store.close().unwrap();
    // It was in time, or it was not; but it is decided.
    match delivery.wait() {
        Ok(metadata) => assert_eq!(metadata.offset, 0),
        Err(error) => assert!(matches!(error, Error::Closed { .. }), "{error}"),
    }
    assert!(matches!(producer.send("t", &Record::new("b")), Err(Error::Closed { .. })));
    producer.flush().unwrap();
    producer.close(HOUR).unwrap();
}

#[test]
fn a_partition_can_be_named_and_must_exist() {
    let machine = Machine::new();
    let store = machine.open();
    store.create_topic("t", TopicConfig::new().partitions(3)).unwrap();
    let producer = store.producer(config()).unwrap();
    let to = |number| SendOptions::new().partition(number);
    let delivery = producer.send_with("t", &Record::new("a").key("k"), to(2)).unwrap();
    producer.flush().unwrap();
    assert_eq!(delivery.wait().unwrap().partition.partition, 2);
    let refused = producer.send_with("t", &Record::new("a"), to(3));
    assert!(matches!(refused, Err(Error::UnknownPartition { partition: 3, count: 3, .. })));
    assert!(matches!(producer.send("u", &Record::new("a")), Err(Error::UnknownTopic { .. })));
    store.topic("t").unwrap().add_partitions(4).unwrap();
    producer.send_with("t", &Record::new("a"), to(3)).unwrap();
}
