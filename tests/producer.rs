//! Producers: when batches are written and in what order, what holds a send up, what becomes of records, and what
//! failures and closing do to them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/hooked.rs"]
mod hooked;
#[path = "common/logs.rs"]
mod logs;
#[path = "common/producers.rs"]
mod producers;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use annals::{
    Acks, CleanupPolicy, Delivery, Durability, Error, ErrorClass, OutgoingRecord, Producer, ProducerConfig,
    ProducerInterceptor, Record, RecordMetadata, Result, SendOptions, TopicConfig,
};

use logs::{Machine, NOW, values};
use producers::{Gate, HOUR, config, contents, gated, ms, numbers, offset, send_all, send_to, start, until};

#[test]
fn records_are_written_in_order_as_one_batch_and_deliveries_say_where() {
    let (_machine, _store, log, producer) = start(config());
    let sent: Vec<_> =
        ["a", "b", "c"].iter().map(|value| producer.send("t", &Record::new(*value)).unwrap()).collect();
    assert!(sent.iter().all(|delivery| delivery.try_get().is_none()));
    assert_eq!(log.log_end(), 0);
    producer.flush().unwrap();
    for (place, delivery) in sent.iter().enumerate() {
        let metadata = delivery.try_get().unwrap().unwrap();
        assert_eq!(metadata.offset, place as u64);
        assert_eq!(metadata.timestamp, NOW);
        assert_eq!(metadata.partition.to_string(), "t-0");
    }
    assert_eq!(values(&log, 0), [(0, "a".into()), (1, "b".into()), (2, "c".into())]);
    let stats = producer.stats();
    assert_eq!((stats.records_sent, stats.records_delivered, stats.batches), (3, 3, 1));
    assert_eq!(stats.buffer_available, stats.buffer_total);
}

#[test]
fn a_batch_waits_for_linger_by_the_clock_of_the_store() {
    let (machine, _store, log, producer) = start(ProducerConfig::new().linger(ms(5)));
    let delivery = producer.send("t", &Record::new("a")).unwrap();
    machine.clock.advance(ms(4));
    assert!(matches!(delivery.wait_timeout(Duration::ZERO), Err(Error::Timeout { .. })));
    assert_eq!(log.log_end(), 0);
    machine.clock.advance(ms(1));
    assert_eq!(offset(&delivery), 0);
}

#[test]
fn a_full_batch_does_not_wait_for_linger() {
    let (_machine, _store, log, producer) = start(config().batch_size(1000));
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
    let (_machine, _store, _log, producer) = start(config());
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
    let (_machine, _store, log, producer) = start(config());
    let delivery = producer.send("t", &Record::new("a")).unwrap();
    producer.close(HOUR).unwrap();
    assert_eq!(offset(&delivery), 0);
    assert!(matches!(producer.send("t", &Record::new("b")), Err(Error::Closed { .. })));
    producer.close(Duration::ZERO).unwrap();
    assert_eq!(log.log_end(), 1);
}

#[test]
fn a_producer_that_is_dropped_writes_what_was_sent() {
    let (_machine, _store, log, producer) = start(config());
    let delivery = producer.send("t", &Record::new("a")).unwrap();
    drop(producer);
    assert_eq!(delivery.try_get().unwrap().unwrap().offset, 0);
    assert_eq!(log.log_end(), 1);
}

#[test]
fn a_store_that_is_closed_sends_everybody_home() {
    let (_machine, store, _log, producer) = start(config());
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

// Accumulating.

#[test]
fn a_record_larger_than_a_batch_has_one_of_its_own() {
    let (_machine, _store, log, producer) = start(config().batch_size(200));
    let large = "x".repeat(5000);
    let sent = [&"a".to_string(), &large, &"b".to_string()]
        .map(|value| producer.send("t", &Record::new(value)).unwrap());
    // The large one closes the batch before it, and is full itself.
    assert_eq!((offset(&sent[0]), offset(&sent[1])), (0, 1));
    assert!(sent[2].try_get().is_none());
    producer.flush().unwrap();
    assert_eq!(offset(&sent[2]), 2);
    assert_eq!(producer.stats().batches, 3);
    assert_eq!(contents(&log), ["a", &large, "b"]);
}

#[test]
fn batch_size_0_gives_each_record_a_batch_of_its_own() {
    let (_machine, _store, log, producer) = start(config().batch_size(0));
    let sent = send_all(&producer, &numbers(0, 5));
    sent.iter().for_each(|delivery| assert!(delivery.wait().is_ok()));
    assert_eq!(producer.stats().batches, 5);
    assert_eq!(contents(&log), numbers(0, 5));
}

#[test]
fn a_topic_that_takes_smaller_batches_gets_them() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().set("max.message.bytes", "300").unwrap());
    let producer = store.producer(config()).unwrap();
    send_all(&producer, &numbers(0, 100));
    producer.flush().unwrap();
    assert_eq!(contents(&log), numbers(0, 100));
    assert!(producer.stats().batches >= 5);
    assert_eq!(producer.stats().splits, 0);
}

#[test]
fn a_flush_sends_what_was_sent_before_it_and_leaves_linger_as_it_was() {
    let (machine, _store, log, producer) = start(config());
    producer.flush().unwrap();
    send_all(&producer, &numbers(0, 3));
    producer.flush().unwrap();
    assert_eq!(log.log_end(), 3);
    let later = producer.send("t", &Record::new("later")).unwrap();
    machine.clock.advance(HOUR - ms(1));
    assert!(later.try_get().is_none());
    assert_eq!(log.log_end(), 3);
}

#[test]
fn linger_counts_from_the_first_record_of_each_batch() {
    let machine = Machine::new();
    let store = machine.open();
    for name in ["t", "u"] {
        store.create_topic(name, TopicConfig::new()).unwrap();
    }
    let producer = store.producer(config().linger(ms(10)).delivery_timeout(HOUR)).unwrap();
    let first = producer.send("t", &Record::new("a")).unwrap();
    machine.clock.advance(ms(6));
    let joined = producer.send("t", &Record::new("b")).unwrap();
    let other = producer.send("u", &Record::new("c")).unwrap();
    machine.clock.advance(ms(4));
    assert_eq!((offset(&first), offset(&joined)), (0, 1));
    assert!(other.try_get().is_none());
    machine.clock.advance(ms(6));
    assert_eq!(offset(&other), 0);
}

#[test]
fn the_order_of_each_thread_is_kept_in_each_partition() {
    const THREADS: usize = 4;
    const RECORDS: usize = 3000;
    let machine = Machine::new();
    let store = machine.open();
    store.create_topic("t", TopicConfig::new().partitions(3).durability(Durability::Process)).unwrap();
    let small = ProducerConfig::new().batch_size(500).linger(Duration::ZERO).buffer_memory(5000);
    let producer = store.producer(small).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let producer = &producer;
            scope.spawn(move || {
                for number in 0..RECORDS {
                    let key = format!("{}", number % 7);
                    let value = format!("{thread} {number}");
                    producer.send("t", &Record::new(&value).key(&key)).unwrap();
                }
            });
        }
    });
    producer.flush().unwrap();
    let mut total = 0;
    for log in store.topic("t").unwrap().partitions().unwrap() {
        let mut last: BTreeMap<usize, usize> = BTreeMap::new();
        for value in contents(&log) {
            let (thread, number) = value.split_once(' ').unwrap();
            let (thread, number) = (thread.parse().unwrap(), number.parse::<usize>().unwrap());
            assert!(last.insert(thread, number).is_none_or(|before| before < number));
            total += 1;
        }
    }
    assert_eq!(total, THREADS * RECORDS);
    let stats = producer.stats();
    assert_eq!((stats.records_delivered, stats.records_failed), ((THREADS * RECORDS) as u64, 0));
    assert_eq!(stats.buffer_available, 5000);
}

#[test]
fn records_that_can_never_be_written_are_refused_at_once() {
    let machine = Machine::new();
    let store = machine.open();
    let compact = CleanupPolicy { delete: false, compact: true };
    let strict = TopicConfig::new().set("message.timestamp.after.max.ms", "1000").unwrap();
    store.create_topic("t", TopicConfig::new()).unwrap();
    store.create_topic("keyed", TopicConfig::new().cleanup_policy(compact)).unwrap();
    store.create_topic("now", strict).unwrap();
    let producer = store.producer(config().max_request_size(1000)).unwrap();
    let large = "x".repeat(1000);
    let refused = |topic, record: Record<'_>| producer.send(topic, &record).unwrap_err();
    let error = refused("t", Record::new(&large));
    assert!(matches!(error, Error::TooLarge { setting: "max.request.size", .. }), "{error}");
    let error = refused("keyed", Record::new("no key"));
    assert!(matches!(error, Error::InvalidRecord { .. }), "{error}");
    let error = refused("now", Record::new("v").timestamp(NOW + 1001));
    assert!(matches!(error, Error::InvalidTimestamp { .. }), "{error}");
    let error = refused("t", Record::new("v").timestamp(-2));
    assert!(matches!(error, Error::InvalidTimestamp { .. }), "{error}");
    let error = refused("no such", Record::new("v"));
    assert!(matches!(error, Error::UnknownTopic { .. }), "{error}");
    let small = store.producer(config().batch_size(100).buffer_memory(500)).unwrap();
    let error = small.send("t", &Record::new(&large)).unwrap_err();
    assert!(matches!(error, Error::TooLarge { setting: "buffer.memory", .. }), "{error}");
    // None of them is in anybody's way.
    assert_eq!(producer.stats().records_sent, 0);
    assert_eq!(producer.stats().buffer_available, producer.stats().buffer_total);
    producer.send("keyed", &Record::new("v").key("k")).unwrap();
    producer.flush().unwrap();
    assert_eq!(producer.stats().records_delivered, 1);
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    let machine = Machine::new();
    let store = machine.open();
    let of = ProducerConfig::new;
    for (key, config) in [
        ("acks", of().acks(Acks::Leader).idempotence(true)),
        ("acks", of().acks(Acks::None).idempotence(true)),
        ("retries", of().retries(0).idempotence(true)),
        ("transactional.id", of().transactional_id("x").idempotence(false)),
        ("transactional.id", of().transactional_id("x").acks(Acks::Leader)),
        ("transactional.id", of().transactional_id("x").retries(0)),
        ("transactional.id", of().transactional_id("")),
        ("delivery.timeout.ms", of().delivery_timeout(ms(4))),
        ("retry.backoff.ms", of().retry_backoff(ms(2), ms(1))),
        ("buffer.memory", of().buffer_memory(1000)),
        ("transaction.timeout.ms", of().transaction_timeout(Duration::ZERO)),
        ("client.id", of().client_id("a\0b")),
    ] {
        match store.producer(config) {
            Err(Error::InvalidConfig { key: found, .. }) => assert_eq!(found, key),
            other => panic!("{key}: {other:?}"),
        }
    }
    for config in [
        of().acks(Acks::None),
        of().acks(Acks::Leader).retries(0),
        of().retries(0),
        of().delivery_timeout(ms(5)),
        of().client_id("shop"),
        of().acks(Acks::All).idempotence(true),
    ] {
        store.producer(config).unwrap();
    }
}

#[test]
fn only_idempotent_producers_leave_a_trace_of_themselves() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    for config in [config().acks(Acks::Leader), config().retries(0), config().idempotence(false)] {
        let producer = store.producer(config).unwrap();
        producer.send("t", &Record::new("a")).unwrap();
        producer.flush().unwrap();
        assert!(log.producers().is_empty());
    }
    let producer = store.producer(config()).unwrap();
    for _ in 0..3 {
        send_all(&producer, &numbers(0, 4));
        producer.flush().unwrap();
    }
    let known = log.producers();
    assert_eq!((known.len(), known[0].last_sequence), (1, Some(11)));
}

// Memory.

#[test]
fn a_send_waits_for_memory_and_goes_on_when_there_is_some() {
    let machine = Machine::new();
    let gate = Arc::new(Gate::default());
    let store = gated(&machine, &gate);
    let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    // Two batches of one record each.
    let narrow = config().batch_size(0).buffer_memory(250).max_block(HOUR);
    let producer = store.producer(narrow).unwrap();
    gate.shut();
    let sent = send_all(&producer, &numbers(0, 2));
    gate.wait_for_one();
    let (started, on) = mpsc::channel();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            started.send(()).unwrap();
            producer.send("t", &Record::new("002")).unwrap()
        });
        on.recv().unwrap();
        assert!(!waiting.is_finished());
        gate.open();
        assert_eq!(offset(&waiting.join().unwrap()), 2);
    });
    assert_eq!(offset(&sent[1]), 1);
    assert_eq!(contents(&log), numbers(0, 3));
}

#[test]
fn a_send_without_memory_gives_up_after_max_block_by_the_clock_of_the_store() {
    let machine = Machine::new();
    let gate = Arc::new(Gate::default());
    let store = gated(&machine, &gate);
    store.create_topic("t", TopicConfig::new()).unwrap();
    let narrow = |block| config().batch_size(0).buffer_memory(250).max_block(block);
    let producer = store.producer(narrow(Duration::ZERO)).unwrap();
    gate.shut();
    send_all(&producer, &numbers(0, 2));
    let error = producer.send("t", &Record::new("no")).unwrap_err();
    assert!(matches!(error, Error::Timeout { waited: Duration::ZERO, .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Retriable);

    let patient = store.producer(narrow(ms(50))).unwrap();
    send_all(&patient, &numbers(0, 2));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| patient.send("t", &Record::new("no")).unwrap_err());
        until(&machine, || waiting.is_finished());
        let error = waiting.join().unwrap();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
    });
    gate.open();
    producer.flush().unwrap();
    patient.flush().unwrap();
    assert_eq!(patient.stats().records_sent, 2);
}

#[test]
fn used_up_memory_ends_lingering() {
    let machine = Machine::new();
    let store = machine.open();
    store.create_topic("t", TopicConfig::new().partitions(3)).unwrap();
    let producer = store.producer(config().batch_size(1000).buffer_memory(2000)).unwrap();
    let to =
        |number| producer.send_with("t", &Record::new("v"), SendOptions::new().partition(number)).unwrap();
    let sent: Vec<_> = (0..2).map(to).collect();
    assert!(sent.iter().all(|delivery| delivery.try_get().is_none()));
    to(2);
    sent.iter().for_each(|delivery| assert!(delivery.wait().is_ok()));
}

#[test]
fn closing_sends_home_who_waits_for_memory() {
    let machine = Machine::new();
    let gate = Arc::new(Gate::default());
    let store = gated(&machine, &gate);
    store.create_topic("t", TopicConfig::new()).unwrap();
    let producer = store.producer(config().batch_size(0).buffer_memory(250).max_block(HOUR)).unwrap();
    gate.shut();
    let sent = send_all(&producer, &numbers(0, 2));
    gate.wait_for_one();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| producer.send("t", &Record::new("no")).unwrap_err());
        let closing = scope.spawn(|| producer.close(HOUR));
        assert!(matches!(waiting.join().unwrap(), Error::Closed { .. }));
        gate.open();
        closing.join().unwrap().unwrap();
    });
    assert_eq!(offset(&sent[1]), 1);
}

// Who hears of it.

/// Notes what it hears, in order.
#[derive(Debug, Default, Clone)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// A callback that notes the offset.
    fn callback(&self, name: &'static str) -> impl FnOnce(Result<RecordMetadata>) + Send + use<> {
        let heard = self.clone();
        move |result| heard.note(format!("{name} {}", result.unwrap().offset))
    }
}

#[test]
fn callbacks_are_called_once_in_order_before_a_flush_returns() {
    let (_machine, _store, _log, producer) = start(config().batch_size(100));
    let heard = Heard::default();
    for name in ["a", "b", "c", "d", "e", "f"] {
        producer.send_then("t", &Record::new(name), heard.callback(name)).unwrap();
    }
    producer.flush().unwrap();
    assert_eq!(heard.take(), ["a 0", "b 1", "c 2", "d 3", "e 4", "f 5"]);
    producer.send_with_then("t", &Record::new("g"), SendOptions::new(), heard.callback("g")).unwrap();
    drop(producer);
    assert_eq!(heard.take(), ["g 6"]);
}

#[test]
fn a_callback_may_panic_and_send_but_not_wait() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let producer = Arc::new(store.producer(config()).unwrap());
    let heard = Heard::default();
    producer.send_then("t", &Record::new("a"), |_| panic!("on purpose")).unwrap();
    let (own, notes) = (Arc::clone(&producer), heard.clone());
    let again = move |result: Result<RecordMetadata>| {
        assert_eq!(result.unwrap().offset, 1);
        let sent = own.send("t", &Record::new("from a callback")).unwrap();
        let is_refused = |error: Error| matches!(error, Error::InvalidState { .. });
        assert!(is_refused(sent.wait().unwrap_err()));
        assert!(is_refused(sent.wait_timeout(HOUR).unwrap_err()));
        assert!(is_refused(own.flush().unwrap_err()));
        assert!(is_refused(own.begin_transaction().unwrap_err()));
        own.close(HOUR).unwrap();
        notes.note("all of it".into());
    };
    producer.send_then("t", &Record::new("b"), again).unwrap();
    let last = producer.send("t", &Record::new("c")).unwrap();
    producer.flush().unwrap();
    assert_eq!(offset(&last), 2);
    while log.log_end() < 4 {
        log.wait_for(3, HOUR).unwrap();
    }
    assert_eq!(contents(&log), ["a", "b", "c", "from a callback"]);
    assert_eq!(heard.take(), ["all of it"]);
}

#[test]
fn a_producer_may_end_in_its_own_callback() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let producer = Arc::new(store.producer(config().linger(ms(5))).unwrap());
    let (dropped, on) = mpsc::channel();
    let last = Arc::clone(&producer);
    let callback = move |_| {
        // Goes into a batch of its own, which nobody waits for.
        last.send("t", &Record::new("b")).unwrap();
        drop(last);
        dropped.send(()).unwrap();
    };
    producer.send_then("t", &Record::new("a"), callback).unwrap();
    drop(producer);
    machine.clock.advance(ms(5));
    on.recv().unwrap();
    log.wait_for(1, HOUR).unwrap();
    assert_eq!(contents(&log), ["a", "b"]);
}

/// Adds a header, notes what it hears, and panics if told to.
#[derive(Debug)]
struct Stamp {
    name: &'static str,
    heard: Heard,
    panics: bool,
}

impl ProducerInterceptor for Stamp {
    fn on_send(&self, record: &mut OutgoingRecord) {
        record.headers.push((self.name.into(), Some(record.headers.len().to_string().into())));
        assert!(!self.panics, "on purpose");
    }

    fn on_acknowledgement(&self, result: Result<&RecordMetadata, &Error>) {
        self.heard.note(format!("{} {:?}", self.name, result.map(|metadata| metadata.offset).ok()));
        assert!(!self.panics, "on purpose");
    }
}

#[test]
fn interceptors_change_records_hear_of_them_and_may_panic() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let heard = Heard::default();
    let stamp = |name, panics| Stamp { name, heard: heard.clone(), panics };
    let intercepted = config()
        .interceptor(stamp("one", false))
        .interceptor(stamp("two", true))
        .interceptor(stamp("three", false));
    let producer = store.producer(intercepted).unwrap();
    let record = Record::new("v").key("k").timestamp(7).header("h", "x").null_header("n");
    producer.send_then("t", &record, heard.callback("callback")).unwrap();
    producer.flush().unwrap();
    assert_eq!(heard.take(), ["one Some(0)", "two Some(0)", "three Some(0)", "callback 0"]);
    let stored = &logs::records(&log, 0)[0];
    let headers: Vec<_> = stored.headers().map(|header| (header.key, header.value)).collect();
    let expected: [(&str, Option<&[u8]>); 4] =
        [("h", Some(b"x")), ("n", None), ("one", Some(b"2")), ("three", Some(b"3"))];
    assert_eq!(headers, expected);
    assert_eq!((stored.key(), stored.value(), stored.timestamp()), (Some(&b"k"[..]), Some(&b"v"[..]), 7));
    assert_eq!(producer.stats().panics, 2);
}

/// Sends everything to partition 1 of topic `u`.
#[derive(Debug)]
struct Redirect;

impl ProducerInterceptor for Redirect {
    fn on_send(&self, record: &mut OutgoingRecord) {
        record.topic = "u".into();
        record.partition = Some(1);
        record.value = None;
    }
}

#[test]
fn an_interceptor_may_send_a_record_elsewhere() {
    let machine = Machine::new();
    let store = machine.open();
    store.create_topic("u", TopicConfig::new().partitions(2)).unwrap();
    let producer = store.producer(config().interceptor(Redirect)).unwrap();
    let delivery = producer.send("t", &Record::new("v")).unwrap();
    producer.flush().unwrap();
    assert_eq!(delivery.wait().unwrap().partition.to_string(), "u-1");
    let log = store.topic("u").unwrap().partition(1).unwrap();
    assert_eq!(logs::records(&log, 0)[0].value(), None);
}

// What a topic makes of it.

#[test]
fn timestamps_are_the_senders_or_the_topics() {
    let machine = Machine::new();
    let store = machine.open();
    store.create_topic("t", TopicConfig::new()).unwrap();
    let stamping = TopicConfig::new().set("message.timestamp.type", "LogAppendTime").unwrap();
    store.create_topic("u", stamping).unwrap();
    let producer = store.producer(config()).unwrap();
    let send = |topic, record: Record<'_>| producer.send(topic, &record).unwrap();
    let sent = [
        send("t", Record::new("v")),
        send("t", Record::new("v").timestamp(7)),
        send("t", Record::new("v").timestamp(-1)),
        send("u", Record::new("v").timestamp(7)),
    ];
    machine.clock.advance(ms(3));
    producer.flush().unwrap();
    let times = sent.map(|delivery| delivery.wait().unwrap().timestamp);
    assert_eq!(times, [NOW, 7, -1, NOW + 3]);
    let stored = |topic: &str| {
        let log = store.topic(topic).unwrap().partition(0).unwrap();
        logs::records(&log, 0).iter().map(|record| record.timestamp()).collect::<Vec<_>>()
    };
    assert_eq!(stored("t"), [NOW, 7, -1]);
    assert_eq!(stored("u"), [NOW + 3]);
}

#[test]
#[cfg(all(feature = "gzip", feature = "zstd"))]
fn batches_are_compressed_as_the_producer_says_unless_the_topic_does() {
    use annals::format::{Codec, Compression};
    let machine = Machine::new();
    let store = machine.open();
    store.create_topic("t", TopicConfig::new()).unwrap();
    store.create_topic("u", TopicConfig::new().set("compression.type", "gzip").unwrap()).unwrap();
    let codec = Codec { compression: Compression::Zstd, level: Some(9) };
    let producer = store.producer(config().codec(codec)).unwrap();
    let found = |topic: &str| {
        let log = store.topic(topic).unwrap().partition(0).unwrap();
        let last = log.log_end() - 1;
        let fetched = log.fetch(last, annals::FetchOptions::new()).unwrap();
        fetched.batches[0].header().compression
    };
    let send = |topic: &str| {
        (0..100).for_each(|_| drop(producer.send(topic, &Record::new("the same")).unwrap()));
    };
    send("t");
    send("u");
    producer.flush().unwrap();
    assert_eq!((found("t"), found("u")), (Compression::Zstd, Compression::Gzip));
    assert!(producer.stats().bytes < 1000, "{:?}", producer.stats());
    // The topic changes its mind while a batch is being filled.
    send("t");
    store.topic("t").unwrap().configure([("compression.type", Some("gzip"))]).unwrap();
    producer.flush().unwrap();
    assert_eq!(found("t"), Compression::Gzip);
    let log = store.topic("t").unwrap().partition(0).unwrap();
    assert_eq!(contents(&log), vec!["the same"; 200]);
}

#[test]
fn a_topic_that_is_made_again_is_found_again() {
    let machine = Machine::new();
    let store = machine.open();
    store.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    let producer = store.producer(config()).unwrap();
    (0..2).for_each(|number| drop(send_to(&producer, number)));
    producer.flush().unwrap();
    let waiting: Vec<_> = (0..2).map(|number| send_to(&producer, number)).collect();
    store.delete_topic("t").unwrap();
    store.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    producer.flush().unwrap();
    assert!(waiting.iter().all(|delivery| offset(delivery) == 0));
    let next: Vec<_> = (0..2).map(|number| send_to(&producer, number)).collect();
    producer.flush().unwrap();
    assert!(next.iter().all(|delivery| offset(delivery) == 1));

    let lost = send_to(&producer, 1);
    store.delete_topic("t").unwrap();
    producer.flush().unwrap();
    assert!(matches!(lost.wait(), Err(Error::UnknownTopic { .. })));
    // Smaller than it was.
    store.create_topic("t", TopicConfig::new()).unwrap();
    let late = producer.send("t", &Record::new("v").key("k")).unwrap();
    producer.flush().unwrap();
    late.wait().unwrap();
}

#[test]
fn a_topic_that_was_deleted_and_made_again_has_the_partitions_that_it_has_now() {
    let by_name: Way = |producer, number, count| send_to(producer, number % count);
    let by_key: Way =
        |producer, number, _| producer.send("t", &Record::new("v").key(&number.to_string())).unwrap();
    let by_nothing: Way = |producer, _, _| producer.send("t", &Record::new("v")).unwrap();
    for way in [by_name, by_key, by_nothing] {
        let (_machine, store, _log, producer) = start(config().batch_size(0));
        send_to(&producer, 0);
        producer.flush().unwrap();
        for count in [3, 1, 2] {
            store.delete_topic("t").unwrap();
            assert!(matches!(producer.send("t", &Record::new("v")), Err(Error::UnknownTopic { .. })));
            store.create_topic("t", TopicConfig::new().partitions(count)).unwrap();
            let sent: Vec<_> = (0..40).map(|number| way(&producer, number, count)).collect();
            producer.flush().unwrap();
            let found = sent.iter().map(|delivery| delivery.wait().unwrap().partition.partition);
            assert_eq!(found.collect::<BTreeSet<_>>(), (0..count).collect());
        }
    }
}

/// Sends a record, of so many to a topic of so many partitions.
type Way = fn(&Producer, u32, u32) -> Delivery;

#[test]
fn a_callback_may_send_in_the_memory_of_what_it_hears_of() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let producer = Arc::new(store.producer(config().batch_size(0).buffer_memory(150)).unwrap());
    let (told, heard) = mpsc::channel();
    let again = Arc::clone(&producer);
    let callback = move |result: Result<RecordMetadata>| {
        let next = result.and_then(|_| again.send("t", &Record::new("next")));
        told.send(next.map(drop)).unwrap();
    };
    producer.send_then("t", &Record::new("first"), callback).unwrap();
    heard.recv().unwrap().unwrap();
    producer.flush().unwrap();
    assert_eq!(contents(&log), ["first", "next"]);
}
