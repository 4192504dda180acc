//! Producers when something fails: what is tried again and under which number, what is given up, how a batch that is
//! too large is split, what acknowledgements mean, and how a producer ends.
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

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals::fs::{Call, Fault, SimulatedDisk, When};
use annals::{
    Acks, AppendOptions, Durability, Error, ErrorClass, Producer, Record, RecordMetadata, Result,
    SendOptions, TopicConfig,
};

use hooked::Hooked;
use logs::{Machine, NOW};
use producers::{
    EIO, ENOSPC, Gate, HOUR, config, contents, decided, flush, gated, gated_at, ms, numbers, offset,
    send_all, send_to, start, until,
};

/// What may go wrong once.
const FAULTS: [(Call, Fault); 6] = [
    (Call::Write, Fault::Error(EIO)),
    (Call::Write, Fault::Late(EIO)),
    (Call::Write, Fault::Error(ENOSPC)),
    (Call::Sync, Fault::Error(EIO)),
    (Call::Sync, Fault::Forget),
    (Call::Sync, Fault::Late(EIO)),
];

#[test]
fn a_failure_that_passes_costs_neither_order_nor_a_record_nor_a_duplicate() {
    for durability in [Durability::Synced, Durability::Process] {
        for (call, fault) in FAULTS {
            for nth in 1..=6 {
                let machine = Machine::new();
                let (store, log) = machine.start(TopicConfig::new().durability(durability));
                let producer = store.producer(config().batch_size(150)).unwrap();
                machine.disk.fail(When::nth(nth).of(&[call]).under("t-0"), fault);
                let mut sent = Vec::new();
                for round in 0..4 {
                    sent.extend(send_all(&producer, &numbers(20 * round, 20 * round + 20)));
                    flush(&machine, &producer);
                }
                let what = format!("{durability:?} {call:?} {fault:?} {nth}");
                for (place, delivery) in sent.iter().enumerate() {
                    let offset = delivery.try_get().unwrap().map(|metadata| metadata.offset);
                    assert_eq!(
                        offset.unwrap_or_else(|error| panic!("{what}: {error}")),
                        place as u64,
                        "{what}"
                    );
                }
                assert_eq!(contents(&log), numbers(0, 80), "{what}");
                assert_eq!(producer.stats().records_failed, 0);
                drop((producer, store));
                let (_store, log) = machine.restart();
                assert_eq!(contents(&log), numbers(0, 80), "{what}, opened again");
            }
        }
    }
}

#[test]
fn any_number_of_failures_in_any_partition_lose_duplicate_and_reorder_nothing() {
    const PARTITIONS: u32 = 3;
    for seed in 0..40_u64 {
        let machine = Machine::new();
        let store = machine.open();
        let durability = if seed % 4 == 0 { Durability::Process } else { Durability::Synced };
        store.create_topic("t", TopicConfig::new().partitions(PARTITIONS).durability(durability)).unwrap();
        let producer = store.producer(config().batch_size(150).linger(ms(1))).unwrap();
        let mut state = seed;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..8 {
            let (call, fault) = FAULTS[random(FAULTS.len() as u64) as usize];
            let directory = format!("t-{}", random(PARTITIONS.into()));
            machine.disk.fail(When::nth(1 + random(30)).of(&[call]).under(directory), fault);
        }
        let mut sent = Vec::new();
        for (number, value) in numbers(0, 300).iter().enumerate() {
            let to = SendOptions::new().partition(number as u32 % PARTITIONS);
            sent.push(producer.send_with("t", &Record::new(value), to).unwrap());
            if random(10) == 0 {
                machine.clock.advance(ms(1));
                std::thread::yield_now();
            }
        }
        flush(&machine, &producer);
        for (number, log) in store.topic("t").unwrap().partitions().unwrap().iter().enumerate() {
            let expected: Vec<_> =
                numbers(0, 300).into_iter().skip(number).step_by(PARTITIONS as usize).collect();
            assert_eq!(contents(log), expected, "seed {seed}, partition {number}");
        }
        for (number, delivery) in sent.iter().enumerate() {
            assert_eq!(offset(delivery), number as u64 / u64::from(PARTITIONS), "seed {seed}");
        }
        assert_eq!(producer.stats().buffer_available, producer.stats().buffer_total);
    }
}

#[test]
fn a_full_disk_holds_records_up_until_there_is_room() {
    let (machine, _store, log, producer) = start(config().linger(Duration::ZERO));
    machine.disk.fail(When::next().of(&[Call::Write]).and_ever_after(), Fault::Error(ENOSPC));
    let delivery = producer.send("t", &Record::new("000")).unwrap();
    until(&machine, || producer.stats().retries > 3);
    assert!(delivery.try_get().is_none());
    let behind = producer.send("t", &Record::new("001")).unwrap();
    machine.disk.heal();
    assert_eq!(decided(&machine, &delivery).unwrap().offset, 0);
    assert_eq!(decided(&machine, &behind).unwrap().offset, 1);
    assert_eq!(contents(&log), numbers(0, 2));
}

#[test]
fn a_partition_that_fails_holds_up_no_other() {
    let machine = Machine::new();
    let store = machine.open();
    store.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    let producer = store.producer(config().linger(Duration::ZERO)).unwrap();
    machine.disk.fail(When::next().of(&[Call::Write]).under("t-0").and_ever_after(), Fault::Error(EIO));
    let stuck = send_to(&producer, 0);
    until(&machine, || producer.stats().retries > 2);
    for number in 0..5 {
        assert_eq!(decided(&machine, &send_to(&producer, 1)).unwrap().offset, number);
    }
    assert!(stuck.try_get().is_none());
    machine.disk.heal();
    assert_eq!(decided(&machine, &stuck).unwrap().offset, 0);
}

#[test]
fn what_is_not_delivered_in_time_has_failed_and_says_why() {
    let (machine, _store, log, producer) = start(config().linger(Duration::ZERO).delivery_timeout(ms(50)));
    machine.disk.fail(When::next().of(&[Call::Write]).and_ever_after(), Fault::Error(ENOSPC));
    let delivery = producer.send("t", &Record::new("lost")).unwrap();
    until_failed(&producer);
    let error = decided(&machine, &delivery).unwrap_err();
    assert!(matches!(error, Error::Timeout { waited, .. } if waited == ms(50)), "{error}");
    machine.disk.heal();
    // It is known not to be in the log, so the numbers go on.
    let next = producer.send("t", &Record::new("kept")).unwrap();
    assert_eq!(offset(&next), 0);
    assert_eq!(contents(&log), ["kept"]);
    let known = &log.producers()[0];
    assert_eq!((known.producer_epoch, known.last_sequence), (0, Some(0)));
    assert_eq!(producer.stats().records_failed, 1);
}

#[test]
fn a_batch_of_unknown_fate_ends_the_epoch() {
    let (machine, _store, log, producer) = start(config().linger(Duration::ZERO).delivery_timeout(ms(50)));
    for value in ["a", "b"] {
        producer.send("t", &Record::new(value)).unwrap().wait().unwrap();
    }
    let id = log.producers()[0].producer_id;
    machine.disk.fail(When::next().of(&[Call::Sync]).under("t-0").and_ever_after(), Fault::Error(EIO));
    let lost = producer.send("t", &Record::new("lost")).unwrap();
    until_failed(&producer);
    let error = decided(&machine, &lost).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    machine.disk.heal();
    let next = producer.send("t", &Record::new("c")).unwrap();
    assert_eq!(offset(&next), 2);
    let known = &log.producers()[0];
    assert_eq!((known.producer_id, known.producer_epoch, known.last_sequence), (id, 1, Some(0)));
    assert_eq!(contents(&log), ["a", "b", "c"]);
}

#[test]
fn a_topic_made_again_that_failed_since_is_opened_again() {
    let (machine, store, _log, producer) = start(config().delivery_timeout(HOUR));
    send_to(&producer, 0);
    producer.flush().unwrap();
    let waiting = send_to(&producer, 0);
    store.delete_topic("t").unwrap();
    let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    machine.disk.fail(When::next().of(&[Call::Sync]).under("t-0"), Fault::Error(EIO));
    log.append(&Record::new("lost")).unwrap_err();
    flush(&machine, &producer);
    assert_eq!(offset(&waiting), 0);
    assert_eq!(contents(&log), ["v"]);
}

#[test]
fn retries_have_a_limit_if_they_are_given_one() {
    for retries in [0, 2] {
        let (machine, _store, _log, producer) = start(config().linger(Duration::ZERO).retries(retries));
        machine
            .disk
            .fail(When::next().of(&[Call::Write]).under("t-0").and_ever_after(), Fault::Error(ENOSPC));
        let delivery = producer.send("t", &Record::new("v")).unwrap();
        let error = decided(&machine, &delivery).unwrap_err();
        assert!(matches!(error, Error::StorageFull { .. }), "{error}");
        assert_eq!(producer.stats().retries, u64::from(retries));
    }
}

#[test]
fn what_fails_together_is_told_in_order() {
    for retries in [0, 1] {
        let (machine, _store, log, producer) = start(config().batch_size(0).retries(retries));
        let told = Told::default();
        let full = When::next().of(&[Call::Sync]).under("t-0").and_ever_after();
        machine.disk.fail(full, Fault::Error(EIO));
        for place in 0..20 {
            producer.send_then("t", &Record::new("v"), tell(&told, place)).unwrap();
        }
        flush(&machine, &producer);
        let expected: Vec<_> = (0..20).map(|place| (place, None)).collect();
        assert_eq!(*told.lock().unwrap(), expected);
        assert_eq!(log.log_end(), 0);
    }
}

#[test]
fn retries_wait_longer_each_time_up_to_a_limit() {
    let machine = Machine::new();
    let (store, _log) = machine.start(TopicConfig::new());
    let backoff = config().linger(Duration::ZERO).retry_backoff(ms(10), ms(40));
    let producer = store.producer(backoff).unwrap();
    machine.disk.fail(When::next().of(&[Call::Write]).under("t-0").and_ever_after(), Fault::Error(ENOSPC));
    producer.send("t", &Record::new("v")).unwrap();
    // Of each wait at least four fifths, and at most six.
    for (retry, (least, most)) in [(8, 12), (16, 24), (32, 40), (32, 40)].into_iter().enumerate() {
        let retry = retry as u64;
        // The attempt before has come to its end once the batch waits again.
        until_idle(&producer, retry);
        machine.clock.advance(ms(least - 1));
        assert_eq!(producer.stats().retries, retry);
        machine.clock.advance(ms(most - least + 1));
        while producer.stats().retries == retry {
            std::thread::yield_now();
        }
    }
}

/// Returns once an attempt has failed.
fn until_failed(producer: &Producer) {
    while producer.stats().attempts_failed == 0 {
        std::thread::yield_now();
    }
}

/// Returns once that many retries were made and the batch waits for the next.
fn until_idle(producer: &Producer, retries: u64) {
    while producer.stats().retries != retries || producer.stats().attempts_failed != retries + 1 {
        std::thread::yield_now();
    }
}

#[test]
fn a_producer_that_was_replaced_is_of_no_use_any_more() {
    let (_machine, _store, log, producer) = start(config());
    producer.send("t", &Record::new("a")).unwrap();
    producer.flush().unwrap();
    let id = log.producers()[0].producer_id;
    let options = AppendOptions::new().idempotent(id, 1, 0);
    log.append_batch_with(&[Record::new("b")], options).unwrap();
    let fenced = producer.send("t", &Record::new("c")).unwrap();
    producer.flush().unwrap();
    let error = fenced.wait().unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Fatal);
    assert!(matches!(producer.send("t", &Record::new("d")), Err(Error::Fenced { .. })));
    assert_eq!(contents(&log), ["a", "b"]);
}

#[test]
fn numbers_that_the_log_does_not_expect_begin_anew() {
    let (_machine, _store, log, producer) = start(config());
    producer.send("t", &Record::new("a")).unwrap();
    producer.flush().unwrap();
    let id = log.producers()[0].producer_id;
    let intruder = AppendOptions::new().idempotent(id, 0, 1);
    log.append_batch_with(&vec![Record::new("b"); 7], intruder).unwrap();
    let refused = producer.send("t", &Record::new("c")).unwrap();
    let refused_too = producer.send("t", &Record::new("d")).unwrap();
    producer.flush().unwrap();
    for delivery in [refused, refused_too] {
        let error = delivery.wait().unwrap_err();
        assert!(matches!(error, Error::OutOfOrderSequence { .. }), "{error}");
    }
    producer.send("t", &Record::new("e")).unwrap();
    producer.flush().unwrap();
    let known = &log.producers()[0];
    assert_eq!((known.producer_epoch, known.last_sequence), (1, Some(0)));
}

// Too large.

/// What callbacks heard: of which record, and its offset or failure.
type Told = Arc<Mutex<Vec<(usize, Option<u64>)>>>;

fn tell(told: &Told, place: usize) -> impl FnOnce(Result<RecordMetadata>) + Send + use<> {
    let told = Arc::clone(told);
    move |result| told.lock().unwrap().push((place, result.ok().map(|metadata| metadata.offset)))
}

#[test]
fn a_batch_that_is_too_large_by_now_is_split_and_every_record_heard_of_once() {
    for idempotence in [true, false] {
        let (_machine, store, log, producer) = start(config().idempotence(idempotence));
        let told = Told::default();
        let values = numbers(0, 100);
        let mut sent = Vec::new();
        for (place, value) in values.iter().enumerate() {
            sent.push(producer.send_then("t", &Record::new(value), tell(&told, place)).unwrap());
        }
        store.topic("t").unwrap().configure([("max.message.bytes", Some("400"))]).unwrap();
        producer.flush().unwrap();
        for (place, delivery) in sent.iter().enumerate() {
            assert_eq!(delivery.try_get().unwrap().unwrap().offset, place as u64);
        }
        let expected: Vec<_> = (0..100).map(|place| (place, Some(place as u64))).collect();
        assert_eq!(*told.lock().unwrap(), expected);
        assert_eq!(contents(&log), values);
        let stats = producer.stats();
        assert_eq!((stats.splits, stats.records_delivered, stats.records_failed), (1, 100, 0));
        assert!(stats.batches > 3);
        assert_eq!(stats.buffer_available, stats.buffer_total);
    }
}

#[test]
fn a_record_that_is_too_large_by_now_fails_alone() {
    let (_machine, store, log, producer) = start(config());
    let values = ["a".to_string(), "b".to_string(), "x".repeat(1000), "c".to_string()];
    let sent = send_all(&producer, &values);
    store.topic("t").unwrap().configure([("max.message.bytes", Some("400"))]).unwrap();
    producer.flush().unwrap();
    let error = sent[2].wait().unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 400, .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Abortable);
    let offsets = [0, 1, 3].map(|place: usize| offset(&sent[place]));
    assert_eq!(offsets, [0, 1, 2]);
    assert_eq!(contents(&log), ["a", "b", "c"]);
    assert_eq!(log.producers()[0].last_sequence, Some(2));
}

#[test]
fn the_pieces_of_a_batch_are_tried_again_like_any_other() {
    let (machine, store, log, producer) = start(config());
    let values = numbers(0, 100);
    let sent = send_all(&producer, &values);
    store.topic("t").unwrap().configure([("max.message.bytes", Some("300"))]).unwrap();
    machine.disk.fail(When::nth(3).of(&[Call::Write]).under("t-0"), Fault::Error(EIO));
    machine.disk.fail(When::nth(2).of(&[Call::Sync]).under("t-0"), Fault::Error(EIO));
    flush(&machine, &producer);
    let offsets: Vec<_> = sent.iter().map(offset).collect();
    assert_eq!(offsets, (0..100).collect::<Vec<_>>());
    assert_eq!(contents(&log), values);
}

#[test]
#[cfg(feature = "snappy")]
fn what_compression_makes_larger_is_split_too() {
    use annals::format::Compression;
    let (_machine, store, log, producer) = start(config().compression(Compression::Snappy));
    // Values without any order in them, in a batch that is a little smaller before compression than after.
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    let values: Vec<Vec<u8>> = (0..2).map(|_| (0..200).map(|_| random()).collect()).collect();
    values.iter().for_each(|value| drop(producer.send("t", &Record::new(value)).unwrap()));
    let plain =
        annals::format::RECORD_BATCH_OVERHEAD + values.iter().map(|value| value.len() + 9).sum::<usize>();
    let limit = plain.to_string();
    store.topic("t").unwrap().configure([("max.message.bytes", Some(limit.as_str()))]).unwrap();
    producer.flush().unwrap();
    let found: Vec<_> =
        logs::records(&log, 0).iter().map(|record| record.value().unwrap().to_vec()).collect();
    assert_eq!(found, values);
    assert_eq!(producer.stats().splits, 1);
}

#[test]
fn what_is_sent_while_pieces_wait_comes_behind_them() {
    let (machine, store, log, producer) = start(config());
    let mut sent = send_all(&producer, &numbers(0, 40));
    store.topic("t").unwrap().configure([("max.message.bytes", Some("300"))]).unwrap();
    machine.disk.fail(When::next().of(&[Call::Write]).under("t-0").and_ever_after(), Fault::Error(ENOSPC));
    std::thread::scope(|scope| {
        let flushing = scope.spawn(|| producer.flush().unwrap());
        until(&machine, || producer.stats().splits == 1 && producer.stats().retries > 2);
        sent.extend(send_all(&producer, &numbers(40, 60)));
        machine.disk.heal();
        until(&machine, || flushing.is_finished());
    });
    flush(&machine, &producer);
    let offsets: Vec<_> = sent.iter().map(offset).collect();
    assert_eq!(offsets, (0..60).collect::<Vec<_>>());
    assert_eq!(contents(&log), numbers(0, 60));
}

#[test]
fn a_batch_against_new_settings_fails_as_a_whole_and_names_the_record() {
    let (_machine, store, log, producer) = start(config());
    let send = |record: Record<'_>| producer.send("t", &record).unwrap();
    let late = [send(Record::new("v")), send(Record::new("v").timestamp(NOW - 5000))];
    store.topic("t").unwrap().configure([("message.timestamp.before.max.ms", Some("1000"))]).unwrap();
    producer.flush().unwrap();
    for delivery in late {
        let error = delivery.wait().unwrap_err();
        assert!(matches!(error, Error::InvalidTimestamp { index: 1, .. }), "{error}");
    }
    let keyless = [send(Record::new("v").key("k")), send(Record::new("v"))];
    store.topic("t").unwrap().configure([("cleanup.policy", Some("compact"))]).unwrap();
    producer.flush().unwrap();
    let error = keyless[0].wait().unwrap_err();
    assert!(matches!(error, Error::InvalidRecord { index: 1, .. }), "{error}");
    // Numbers are not used up by what was refused.
    send(Record::new("v").key("k"));
    producer.flush().unwrap();
    let known = &log.producers()[0];
    assert_eq!((known.producer_epoch, known.last_sequence), (0, Some(0)));
}

// Acknowledgements.

#[test]
fn acks_say_what_a_delivery_waits_for() {
    let machine = Machine::new();
    let gate = Arc::new(Gate::default());
    let store = gated(&machine, &gate);
    let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    gate.shut();
    let hasty = store.producer(config().acks(Acks::None).linger(Duration::ZERO)).unwrap();
    let written = hasty.send("t", &Record::new("a")).unwrap();
    // Written, though not on disk, and so not to be read yet.
    assert_eq!(offset(&written), 0);
    assert_eq!(log.log_end(), 0);
    let careful = store.producer(config().acks(Acks::Leader).linger(Duration::ZERO)).unwrap();
    let waiting = careful.send("t", &Record::new("b")).unwrap();
    gate.wait_for_one();
    assert!(waiting.try_get().is_none());
    gate.open();
    assert_eq!(offset(&waiting), 1);
}

#[test]
fn acks_none_hears_of_no_failed_sync() {
    let (machine, _store, log, producer) = start(config().acks(Acks::None));
    machine.disk.fail(When::next().of(&[Call::Sync]).under("t-0"), Fault::Error(EIO));
    let delivery = producer.send("t", &Record::new("a")).unwrap();
    producer.flush().unwrap();
    assert_eq!(offset(&delivery), 0);
    // The next one finds the partition closed to appends, and opens it.
    let next = producer.send("t", &Record::new("b")).unwrap();
    flush(&machine, &producer);
    assert_eq!(offset(&next), 0);
    // It is told before it is synced, and read after that.
    assert!(log.wait_for(0, HOUR).unwrap());
    assert_eq!(contents(&log), ["b"]);
}

fn replicated() -> TopicConfig {
    TopicConfig::new().set("annals.replicated", "true").unwrap().set("min.insync.replicas", "2").unwrap()
}

#[test]
fn acks_all_waits_for_the_high_watermark_of_a_replicated_topic_alone() {
    let machine = Machine::new();
    let (store, log) = machine.start(replicated());
    let quick = config().linger(Duration::ZERO);
    let leader = store.producer(quick.clone().acks(Acks::Leader)).unwrap();
    assert_eq!(offset(&leader.send("t", &Record::new("000")).unwrap()), 0);
    let all = store.producer(quick.batch_size(0)).unwrap();
    let sent = send_all(&all, &numbers(1, 4));
    log.wait_for_with(3, annals::Isolation::LogEnd, HOUR).unwrap();
    assert!(sent.iter().all(|delivery| delivery.try_get().is_none()));
    // Later batches do not wait for earlier ones to be written, only to be told.
    log.set_high_watermark(3).unwrap();
    assert_eq!((offset(&sent[0]), offset(&sent[1])), (1, 2));
    assert!(sent[2].try_get().is_none());
    log.set_high_watermark(4).unwrap();
    assert_eq!(offset(&sent[2]), 3);
}

#[test]
fn a_batch_that_is_not_replicated_in_time_fails_and_stays_in_the_log() {
    let machine = Machine::new();
    let (store, log) = machine.start(replicated());
    let producer = store.producer(config().linger(Duration::ZERO).delivery_timeout(ms(50))).unwrap();
    let delivery = producer.send("t", &Record::new("a")).unwrap();
    log.wait_for_with(0, annals::Isolation::LogEnd, HOUR).unwrap();
    let error = decided(&machine, &delivery).unwrap_err();
    assert!(matches!(error, Error::NotEnoughReplicas { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Retriable);
    assert_eq!(log.log_end(), 1);
    // Numbers go on: it is known to be there.
    let next = producer.send("t", &Record::new("b")).unwrap();
    log.wait_for_with(1, annals::Isolation::LogEnd, HOUR).unwrap();
    log.set_high_watermark(2).unwrap();
    assert_eq!(offset(&next), 1);
    assert_eq!((log.producers()[0].producer_epoch, log.producers()[0].last_sequence), (0, Some(1)));
    // A drop does not wait for replicas.
    let last = producer.send("t", &Record::new("c")).unwrap();
    drop(producer);
    assert!(matches!(last.try_get().unwrap(), Err(Error::NotEnoughReplicas { .. })));
}

#[test]
fn a_batch_that_was_truncated_is_not_delivered_by_what_takes_its_place() {
    let machine = Machine::new();
    let (store, log) = machine.start(replicated());
    let producer = store.producer(config().linger(Duration::ZERO)).unwrap();
    let lost = producer.send("t", &Record::new("lost")).unwrap();
    while producer.stats().batches == 0 {
        std::thread::yield_now();
    }
    log.truncate_to(0).unwrap();
    log.append(&Record::new("other")).unwrap();
    log.set_high_watermark(1).unwrap();
    let error = lost.wait().unwrap_err();
    assert!(matches!(error, Error::NotEnoughReplicas { .. }), "{error}");
    let next = producer.send("t", &Record::new("next")).unwrap();
    log.wait_for_with(1, annals::Isolation::LogEnd, HOUR).unwrap();
    log.set_high_watermark(2).unwrap();
    assert_eq!(offset(&next), 1);
}

#[test]
fn what_was_truncated_before_the_sender_came_to_it_is_not_delivered_either() {
    let machine = Machine::new();
    let gate = Arc::new(Gate::default());
    let store = gated_at(&machine, &gate, "u-");
    let quick = replicated().durability(Durability::Process);
    let log = store.create_topic("t", quick).unwrap().partition(0).unwrap();
    store.create_topic("u", TopicConfig::new()).unwrap();
    let producer = store.producer(config()).unwrap();
    let held = producer.send("u", &Record::new("held")).unwrap();
    machine.clock.advance(ms(1));
    let lost = producer.send("t", &Record::new("lost")).unwrap();
    gate.shut();
    std::thread::scope(|scope| {
        scope.spawn(|| producer.flush().unwrap());
        gate.wait_for_one();
        log.wait_for_with(0, annals::Isolation::LogEnd, HOUR).unwrap();
        log.truncate_to(0).unwrap();
        log.append(&Record::new("other")).unwrap();
        log.set_high_watermark(1).unwrap();
        gate.open();
    });
    assert_eq!(offset(&held), 0);
    let error = lost.wait().unwrap_err();
    assert!(matches!(error, Error::NotEnoughReplicas { .. }), "{error}");
}

#[test]
fn a_batch_to_a_topic_made_anew_does_not_wait_for_replicas_of_the_one_before() {
    let machine = Machine::new();
    let gate = Arc::new(Gate::default());
    let store = Arc::new(gated_at(&machine, &gate, "u-"));
    let two = replicated().partitions(2);
    let before = store.create_topic("t", two.clone()).unwrap();
    store.create_topic("u", TopicConfig::new()).unwrap();
    for _ in 0..3 {
        before.partition(0).unwrap().append(&Record::new("v")).unwrap();
    }
    before.partition(0).unwrap().set_high_watermark(3).unwrap();
    let producer = store.producer(config().linger(Duration::ZERO)).unwrap();
    let again = {
        let store = Arc::clone(&store);
        move |_: Result<RecordMetadata>| {
            store.delete_topic("t").unwrap();
            store.create_topic("t", two).unwrap();
        }
    };
    let to = |number| SendOptions::new().partition(number);
    let old = producer.send_with("t", &Record::new("old"), to(0)).unwrap();
    producer.send_with_then("t", &Record::new("v"), to(1), again).unwrap();
    until(&machine, || producer.stats().batches == 2);
    // While the sender waits for the disk, one comes that it is to write behind the callback, in the same round.
    gate.shut();
    let held = producer.send("u", &Record::new("held")).unwrap();
    gate.wait_for_one();
    let new = producer.send_with("t", &Record::new("new"), to(0)).unwrap();
    before.partition(1).unwrap().set_high_watermark(1).unwrap();
    gate.open();
    assert_eq!(offset(&held), 0);
    assert!(matches!(old.wait(), Err(Error::Closed { .. })));
    until(&machine, || producer.stats().batches == 4);
    let after = store.topic("t").unwrap().partition(0).unwrap();
    assert_eq!((after.log_end(), new.try_get().is_some()), (1, false));
    after.set_high_watermark(1).unwrap();
    assert_eq!(offset(&new), 0);
}

// The end.

#[test]
fn a_close_that_takes_too_long_gives_up_what_is_not_in_hand() {
    let machine = Machine::new();
    let gate = Arc::new(Gate::default());
    let store = gated(&machine, &gate);
    let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    let producer = store.producer(config().batch_size(0)).unwrap();
    gate.shut();
    let in_hand = producer.send("t", &Record::new("a")).unwrap();
    gate.wait_for_one();
    let waiting = producer.send("t", &Record::new("b")).unwrap();
    let error = producer.close(Duration::ZERO).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(matches!(waiting.try_get().unwrap(), Err(Error::Closed { .. })));
    assert!(in_hand.try_get().is_none());
    gate.open();
    assert_eq!(offset(&in_hand), 0);
    producer.close(HOUR).unwrap();
    assert_eq!(contents(&log), ["a"]);
}

#[test]
fn a_close_tries_again_what_fails_and_a_drop_does_not() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let fail_once = || machine.disk.fail(When::next().of(&[Call::Write]).under("t-0"), Fault::Error(ENOSPC));
    let producer = store.producer(config()).unwrap();
    let delivery = producer.send("t", &Record::new("a")).unwrap();
    fail_once();
    std::thread::scope(|scope| {
        let closing = scope.spawn(|| producer.close(HOUR * 100));
        until(&machine, || closing.is_finished());
        closing.join().unwrap().unwrap();
    });
    assert_eq!(offset(&delivery), 0);

    let producer = store.producer(config()).unwrap();
    let delivery = producer.send("t", &Record::new("b")).unwrap();
    fail_once();
    drop(producer);
    assert!(matches!(delivery.try_get().unwrap(), Err(Error::StorageFull { .. })));

    // One that waits to be tried again has its last chance now.
    let producer = store.producer(config().linger(Duration::ZERO).retry_backoff(HOUR, HOUR)).unwrap();
    fail_once();
    let delivery = producer.send("t", &Record::new("c")).unwrap();
    until_failed(&producer);
    drop(producer);
    assert_eq!(delivery.try_get().unwrap().unwrap().offset, 1);
    assert_eq!(contents(&log), ["a", "c"]);
}

#[test]
fn a_store_that_is_closed_decides_what_waits_for_disk_memory_or_replicas() {
    let machine = Machine::new();
    let (store, _log) = machine.start(replicated());
    let producer = store.producer(config().linger(Duration::ZERO)).unwrap();
    let replicating = producer.send("t", &Record::new("a")).unwrap();
    let full = store.create_topic("u", TopicConfig::new()).unwrap();
    machine.disk.fail(When::next().of(&[Call::Write]).under("u-0").and_ever_after(), Fault::Error(ENOSPC));
    let failing = producer.send(full.name().as_str(), &Record::new("b")).unwrap();
    until_failed(&producer);
    let narrow = store.producer(config().batch_size(0).buffer_memory(150).max_block(HOUR)).unwrap();
    narrow.send("t", &Record::new("c")).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| narrow.send("t", &Record::new("d")));
        store.close().unwrap();
        // It had the memory just in time, or it had not.
        if let Err(error) = waiting.join().unwrap() {
            assert!(matches!(error, Error::Closed { .. }), "{error}");
        }
    });
    assert!(matches!(replicating.wait(), Err(Error::Closed { .. })));
    let error = decided(&machine, &failing).unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
    producer.close(HOUR).unwrap();
    narrow.close(HOUR).unwrap();
}

#[test]
fn a_disk_that_panics_fails_the_batch_and_not_the_producer() {
    let machine = Machine::new();
    let left = Arc::new(AtomicUsize::new(0));
    let hook = {
        let left = Arc::clone(&left);
        move |call: Call, name: &Path| {
            let struck = call == Call::Sync && name.starts_with("t-0");
            let one_less = |left: usize| left.checked_sub(1);
            if struck && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
                panic!("on purpose");
            }
        }
    };
    let disk = Hooked::new(SimulatedDisk::clone(&machine.disk), hook);
    let store = machine.options().open_in(disk).unwrap();
    let topic = store.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    let producer: Producer = store.producer(config().sync_threads(1)).unwrap();
    left.store(1, Ordering::SeqCst);
    let lost = send_to(&producer, 0);
    producer.flush().unwrap();
    assert_eq!(lost.wait().unwrap_err().class(), ErrorClass::Abortable);
    let (again, other) = (send_to(&producer, 0), send_to(&producer, 1));
    flush(&machine, &producer);
    again.wait().unwrap();
    other.wait().unwrap();
    // As another epoch: nobody knows about the first.
    assert_eq!(topic.partition(0).unwrap().producers()[0].producer_epoch, 1);
    assert_eq!(producer.stats().buffer_available, producer.stats().buffer_total);
}

#[test]
fn logs_of_many_partitions_are_synced_at_once() {
    const PARTITIONS: u32 = 4;
    let machine = Machine::new();
    // Each sync waits for all the others to have begun.
    let together = Arc::new(std::sync::Barrier::new(PARTITIONS as usize));
    let armed = Arc::new(AtomicUsize::new(0));
    let hook = {
        let (together, armed) = (Arc::clone(&together), Arc::clone(&armed));
        move |call: Call, name: &Path| {
            let log = name.extension().is_some_and(|extension| extension == "log");
            if call == Call::Sync && log && armed.load(Ordering::SeqCst) == 1 {
                together.wait();
            }
        }
    };
    let disk = Hooked::new(SimulatedDisk::clone(&machine.disk), hook);
    let store = machine.options().open_in(disk).unwrap();
    store.create_topic("t", TopicConfig::new().partitions(PARTITIONS)).unwrap();
    let producer = store.producer(config()).unwrap();
    let sent: Vec<_> = (0..PARTITIONS).map(|number| send_to(&producer, number)).collect();
    armed.store(1, Ordering::SeqCst);
    producer.flush().unwrap();
    armed.store(0, Ordering::SeqCst);
    assert!(sent.iter().all(|delivery| offset(delivery) == 0));
}

#[test]
fn a_durable_delivery_survives_a_power_cut_and_any_a_kill() {
    for durability in [Durability::Synced, Durability::Process] {
        let machine = Machine::new();
        let (store, _log) = machine.start(TopicConfig::new().durability(durability));
        let producer = store.producer(config()).unwrap();
        send_all(&producer, &numbers(0, 10));
        producer.flush().unwrap();
        let killed = machine.killed();
        assert_eq!(contents(&killed.restart().1), numbers(0, 10));
        if durability == Durability::Synced {
            assert_eq!(contents(&machine.cut_off().restart().1), numbers(0, 10));
        }
    }
}
