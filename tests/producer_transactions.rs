//! Transactions of producers: all of what is sent between `begin` and `commit` counts, or nothing; what may be called
//! when; what failures, other producers of the same name and crashes make of an open one.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/coordinated.rs"]
mod coordinated;
#[path = "common/hooked.rs"]
mod hooked;
#[path = "common/logs.rs"]
mod logs;
#[path = "common/producers.rs"]
mod producers;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use annals::fs::{Call, Crash, Fault, SimulatedDisk, When};
use annals::group::{GroupMetadata, OffsetAndMetadata};
use annals::{
    Delivery, Error, ErrorClass, Isolation, Partition, Producer, ProducerConfig, Record, Result, SendOptions,
    Store, TopicConfig,
};

use coordinated::{MINUTE, Offsets, coordinator};
use hooked::Hooked;
use logs::Machine;
use producers::{EIO, ENOSPC, Gate, HOUR, config, decided, gated, gated_at, ms, send_to, until};

const ID: &str = "billing";

fn transactional() -> ProducerConfig {
    config().transactional_id(ID).max_block(ms(50)).transaction_timeout(10 * MINUTE)
}

/// A store with a topic `t` of two partitions and a coordinator of few, and a producer.
fn start(config: ProducerConfig) -> (Machine, Store, Producer) {
    let machine = Machine::new();
    let store = prepare(machine.open());
    let producer = store.producer(config).unwrap();
    (machine, store, producer)
}

fn prepare(store: Store) -> Store {
    coordinator(&store);
    store.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    store
}

fn log(store: &Store, number: u32) -> Partition {
    store.topic("t").unwrap().partition(number).unwrap()
}

/// What readers of committed data get of a partition of `t`.
fn committed(store: &Store, number: u32) -> Vec<String> {
    let log = log(store, number);
    let records = log.read_from_with(log.log_start(), Isolation::ReadCommitted).unwrap();
    let text = |record: annals::StoredRecord| String::from_utf8(record.value().unwrap().to_vec()).unwrap();
    records.map(Result::unwrap).map(text).collect()
}

/// Sends a value to both partitions.
fn send_both(producer: &Producer, value: &str) {
    for number in 0..2 {
        let to = SendOptions::new().partition(number);
        producer.send_with("t", &Record::new(value), to).unwrap();
    }
}

fn open_transactions(store: &Store) -> usize {
    (0..2).map(|number| log(store, number).open_transactions().len()).sum()
}

#[test]
fn a_commit_counts_in_every_partition_and_an_abort_in_none() {
    let (_machine, store, producer) = start(transactional());
    for (value, commit) in [("a", true), ("b", false), ("c", true), ("d", false), ("e", true)] {
        producer.begin_transaction().unwrap();
        send_both(&producer, value);
        if commit {
            producer.commit_transaction().unwrap();
        } else {
            producer.flush().unwrap();
            producer.abort_transaction().unwrap();
        }
    }
    for number in 0..2 {
        assert_eq!(committed(&store, number), ["a", "c", "e"]);
        // Two offsets each: its record, and its marker.
        assert_eq!(log(&store, number).log_end(), 10);
        let known = log(&store, number).producers();
        assert_eq!((known[0].producer_epoch, known[0].last_sequence), (0, Some(4)));
    }
    assert_eq!(open_transactions(&store), 0);
}

#[test]
fn an_empty_transaction_leaves_no_trace() {
    let (_machine, store, producer) = start(transactional());
    for _ in 0..2 {
        producer.begin_transaction().unwrap();
        producer.commit_transaction().unwrap();
        producer.begin_transaction().unwrap();
        producer.abort_transaction().unwrap();
    }
    assert_eq!((log(&store, 0).log_end(), log(&store, 1).log_end()), (0, 0));
    let described = store.transactions().unwrap().describe(ID).unwrap();
    assert_eq!(described.state.to_string(), "Empty");
}

#[test]
fn an_abort_drops_what_is_not_written_yet() {
    let (_machine, store, producer) = start(transactional());
    producer.begin_transaction().unwrap();
    let waiting = send_to(&producer, 0);
    producer.abort_transaction().unwrap();
    let error = waiting.try_get().unwrap().unwrap_err();
    assert!(matches!(error, Error::TransactionAborted { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Abortable);
    // Not even a marker: the coordinator was never told of the partition.
    assert_eq!(log(&store, 0).log_end(), 0);
    producer.begin_transaction().unwrap();
    send_both(&producer, "next");
    producer.commit_transaction().unwrap();
    assert_eq!(committed(&store, 0), ["next"]);
}

#[test]
fn without_a_transactional_id_there_are_no_transactions() {
    let (_machine, _store, producer) = start(config());
    let member = GroupMetadata::simple("g");
    for refused in [
        producer.begin_transaction(),
        producer.commit_transaction(),
        producer.abort_transaction(),
        producer.send_offsets_to_transaction([], &member),
    ] {
        assert!(matches!(refused, Err(Error::InvalidState { .. })), "{refused:?}");
    }
}

// What may be called when.

/// Where a producer may be with its transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Ready,
    InTransaction,
    /// A record of it was not delivered.
    Abortable,
    /// A commit could not be written down.
    Committing,
    /// An abort could not.
    Aborting,
    /// Another producer has its name.
    Fenced,
    Closed,
}
use Phase::{Abortable, Aborting, Closed, Committing, Fenced, InTransaction, Ready};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Works,
    NotNow,
    MustAbort,
    IsFenced,
    IsClosed,
}
use Does::{IsClosed, IsFenced, MustAbort, NotNow, Works};

fn does(result: Result<()>) -> Does {
    match result {
        Ok(()) => Works,
        Err(Error::TransactionState { .. }) => NotNow,
        Err(Error::TransactionAborted { .. }) => MustAbort,
        Err(Error::ProducerFenced { .. }) => IsFenced,
        Err(Error::Closed { .. }) => IsClosed,
        Err(other) => panic!("{other}"),
    }
}

struct Started {
    machine: Machine,
    store: Store,
    producer: Producer,
    /// Whoever fenced it, if it is.
    _other: Option<Producer>,
}

/// A producer brought to a phase, with the disk well again.
fn bring_to(phase: Phase) -> Started {
    let machine = Machine::new();
    let store = prepare(machine.open());
    coordinator(&store).set_groups(Offsets::new(&store));
    let mut producer = store.producer(transactional()).unwrap();
    let break_state = || {
        let when = When::next().of(&[Call::Write]).under("__transaction_state-0").and_ever_after();
        machine.disk.fail(when, Fault::Error(ENOSPC));
    };
    let mut other = None;
    if phase != Ready {
        producer.begin_transaction().unwrap();
        send_both(&producer, "in doubt");
        producer.flush().unwrap();
    }
    match phase {
        Ready | InTransaction => {}
        Abortable => {
            let topic = store.topic("t").unwrap();
            let late = producer.send("t", &Record::new(&"x".repeat(2000))).unwrap();
            topic.configure([("max.message.bytes", Some("500"))]).unwrap();
            producer.flush().unwrap();
            late.wait().unwrap_err();
        }
        Committing => {
            break_state();
            let error = producer.commit_transaction().unwrap_err();
            assert!(matches!(error, Error::Timeout { .. }), "{error}");
        }
        Aborting => {
            break_state();
            let error = producer.abort_transaction().unwrap_err();
            assert!(matches!(error, Error::Timeout { .. }), "{error}");
        }
        Fenced => {
            other = Some(store.producer(transactional()).unwrap());
            assert_eq!(does(producer.commit_transaction()), IsFenced);
        }
        Closed => {
            producer.close(HOUR).unwrap();
            // A handle on which nothing is under way.
            producer = std::convert::identity(producer);
        }
    }
    machine.disk.heal();
    Started { machine, store, producer, _other: other }
}

/// A call of a producer.
type Called = fn(&Producer) -> Result<()>;

#[test]
fn every_call_in_every_phase() {
    let begin: Called = |producer| producer.begin_transaction();
    let send: Called = |producer| producer.send("t", &Record::new("v")).map(drop);
    let offsets: Called = |producer| send_offset(producer, 1);
    let commit: Called = |producer| producer.commit_transaction();
    let abort: Called = |producer| producer.abort_transaction();
    let flush: Called = |producer| producer.flush();
    for (phase, expected) in [
        (Ready, [Works, NotNow, NotNow, NotNow, NotNow, Works]),
        (InTransaction, [NotNow, Works, Works, Works, Works, Works]),
        (Abortable, [MustAbort, MustAbort, MustAbort, MustAbort, Works, Works]),
        (Committing, [NotNow, NotNow, NotNow, Works, NotNow, Works]),
        (Aborting, [NotNow, NotNow, NotNow, NotNow, Works, Works]),
        (Fenced, [IsFenced, IsFenced, IsFenced, IsFenced, IsFenced, Works]),
        (Closed, [IsClosed, IsClosed, IsClosed, IsClosed, IsClosed, Works]),
    ] {
        for (call, (name, expected)) in [begin, send, offsets, commit, abort, flush]
            .into_iter()
            .zip(["begin", "send", "offsets", "commit", "abort", "flush"].into_iter().zip(expected))
        {
            let started = bring_to(phase);
            let found = does(call(&started.producer));
            assert_eq!(found, expected, "{name} in {phase:?}");
            // Whatever was refused, it changed nothing: the way on is the same.
            if expected != Works {
                continue_from(phase, &started);
            }
        }
    }
}

/// A transaction is brought to its end, and another one committed, where that is possible.
fn continue_from(phase: Phase, started: &Started) {
    let Started { machine, store, producer, .. } = started;
    let before = match phase {
        Fenced | Closed => return assert_eq!(committed(store, 0), Vec::<String>::new()),
        Ready => 0,
        InTransaction | Committing => {
            producer.commit_transaction().unwrap();
            1
        }
        Abortable | Aborting => {
            producer.abort_transaction().unwrap();
            0
        }
    };
    producer.begin_transaction().unwrap();
    send_both(producer, "next");
    producer.commit_transaction().unwrap();
    for number in 0..2 {
        let expected = [&["in doubt", "next"][..], &["next"]][1 - before].to_vec();
        assert_eq!(committed(store, number), expected, "{phase:?}");
    }
    assert_eq!(open_transactions(store), 0);
    let _ = machine;
}

// Failures.

#[test]
fn a_record_that_is_not_delivered_spoils_the_transaction_and_no_later_one() {
    let started = bring_to(Abortable);
    let Started { store, producer, .. } = &started;
    let error = producer.commit_transaction().unwrap_err();
    assert!(error.to_string().contains("max.message.bytes"), "{error}");
    producer.abort_transaction().unwrap();
    // It was known not to be in the log: the epoch is the same.
    producer.begin_transaction().unwrap();
    send_both(producer, "next");
    producer.commit_transaction().unwrap();
    assert_eq!(log(store, 0).producers()[0].producer_epoch, 0);
    assert_eq!(committed(store, 0), ["next"]);
}

#[test]
fn what_waits_behind_a_failed_record_is_not_written() {
    let (machine, store, producer) = start(transactional().linger(Duration::ZERO).retries(1));
    producer.begin_transaction().unwrap();
    machine.disk.fail(When::next().of(&[Call::Write]).under("t-0").and_ever_after(), Fault::Error(ENOSPC));
    let first = send_to(&producer, 0);
    let behind = producer.send_with("t", &Record::new("v"), SendOptions::new().partition(0));
    let error = decided(&machine, &first).unwrap_err();
    assert!(matches!(error, Error::StorageFull { .. }), "{error}");
    if let Ok(behind) = behind {
        let error = decided(&machine, &behind).unwrap_err();
        assert!(matches!(error, Error::StorageFull { .. } | Error::TransactionAborted { .. }), "{error}");
    }
    machine.disk.heal();
    assert_eq!(does(producer.commit_transaction()), MustAbort);
    producer.abort_transaction().unwrap();
    assert_eq!(committed(&store, 0), Vec::<String>::new());
}

#[test]
fn a_record_of_unknown_fate_costs_an_epoch() {
    let (machine, store, producer) = start(transactional().linger(Duration::ZERO).retries(2));
    producer.begin_transaction().unwrap();
    machine.disk.fail(When::next().of(&[Call::Sync]).under("t-0").and_ever_after(), Fault::Error(EIO));
    let lost = send_to(&producer, 0);
    decided(&machine, &lost).unwrap_err();
    machine.disk.heal();
    assert_eq!(does(producer.commit_transaction()), MustAbort);
    producer.abort_transaction().unwrap();
    producer.begin_transaction().unwrap();
    send_both(&producer, "next");
    producer.commit_transaction().unwrap();
    for number in 0..2 {
        let known = &log(&store, number).producers()[0];
        assert!(known.producer_epoch > 0, "{known:?}");
        assert_eq!(known.last_sequence, Some(0));
        assert_eq!(committed(&store, number), ["next"]);
    }
}

#[test]
fn a_failure_that_passes_is_not_noticed() {
    for place in ["t-0", "t-1", "__transaction_state-0"] {
        for (call, fault) in [
            (Call::Write, Fault::Error(EIO)),
            (Call::Write, Fault::Error(ENOSPC)),
            (Call::Write, Fault::Late(EIO)),
            (Call::Sync, Fault::Error(EIO)),
            (Call::Sync, Fault::Forget),
        ] {
            for nth in 1..=4 {
                let (machine, store, producer) = start(transactional().max_block(HOUR));
                machine.disk.fail(When::nth(nth).of(&[call]).under(place), fault);
                for value in ["a", "b"] {
                    std::thread::scope(|scope| {
                        let working = scope.spawn(|| {
                            producer.begin_transaction().unwrap();
                            send_both(&producer, value);
                            producer.commit_transaction().unwrap();
                        });
                        until(&machine, || working.is_finished());
                    });
                }
                for number in 0..2 {
                    assert_eq!(committed(&store, number), ["a", "b"], "{place} {call:?} {fault:?} {nth}");
                }
            }
        }
    }
}

#[test]
fn a_disk_that_is_full_for_long_keeps_the_commit_waiting() {
    let started = bring_to(Committing);
    let Started { store, producer, .. } = &started;
    assert_eq!(does(producer.abort_transaction()), NotNow);
    producer.commit_transaction().unwrap();
    assert_eq!(committed(store, 0), ["in doubt"]);
}

// Several producers of one name.

#[test]
fn a_new_producer_of_the_name_shuts_out_the_old_one_and_aborts_what_it_left() {
    let (_machine, store, old) = start(transactional());
    old.begin_transaction().unwrap();
    send_both(&old, "old");
    old.flush().unwrap();
    let new = store.producer(transactional()).unwrap();
    assert_eq!(open_transactions(&store), 0);
    new.begin_transaction().unwrap();
    send_both(&new, "new");
    // It finds out where it writes, or where it asks; and nothing works any more.
    let late = send_to(&old, 0);
    old.flush().unwrap();
    let error = late.wait().unwrap_err();
    assert!(
        matches!(&error, Error::ProducerFenced { transactional_id, .. } if transactional_id == ID),
        "{error}"
    );
    assert_eq!(error.class(), ErrorClass::Fatal);
    assert_eq!(does(old.send("t", &Record::new("v")).map(drop)), IsFenced);
    assert_eq!(does(old.commit_transaction()), IsFenced);
    assert_eq!(does(old.abort_transaction()), IsFenced);
    old.close(HOUR).unwrap();
    new.commit_transaction().unwrap();
    assert_eq!(committed(&store, 0), ["new"]);
}

#[test]
fn producers_of_other_names_do_not_meet() {
    let (_machine, store, one) = start(transactional());
    let two = store.producer(transactional().transactional_id("shipping")).unwrap();
    for producer in [&one, &two] {
        producer.begin_transaction().unwrap();
    }
    send_both(&one, "one");
    send_both(&two, "two");
    two.commit_transaction().unwrap();
    one.abort_transaction().unwrap();
    assert_eq!(committed(&store, 1), ["two"]);
}

#[test]
fn a_transaction_that_takes_too_long_is_aborted_and_its_producer_shut_out() {
    let quick = transactional().transaction_timeout(ms(1000));
    let (machine, store, producer) = start(quick);
    producer.begin_transaction().unwrap();
    send_both(&producer, "late");
    producer.flush().unwrap();
    machine.clock.advance(ms(1001));
    store.maintain().unwrap();
    assert_eq!(open_transactions(&store), 0);
    let late = send_to(&producer, 0);
    producer.flush().unwrap();
    assert!(matches!(late.wait(), Err(Error::ProducerFenced { .. })));
    assert_eq!(does(producer.commit_transaction()), IsFenced);
    assert_eq!(committed(&store, 0), Vec::<String>::new());
}

// The end.

#[test]
fn closing_and_dropping_abort_what_is_open() {
    for close in [true, false] {
        let (_machine, store, producer) = start(transactional());
        producer.begin_transaction().unwrap();
        send_both(&producer, "open");
        producer.flush().unwrap();
        assert_eq!(open_transactions(&store), 2);
        if close {
            producer.close(HOUR).unwrap();
        } else {
            drop(producer);
        }
        assert_eq!(open_transactions(&store), 0);
        assert_eq!(committed(&store, 0), Vec::<String>::new());
        let described = store.transactions().unwrap().describe(ID).unwrap();
        assert_eq!(described.state.to_string(), "CompleteAbort");
    }
}

#[test]
fn a_commit_takes_along_every_send_that_was_let_through() {
    let (_machine, store, producer) = start(transactional().batch_size(200));
    for round in 0..30 {
        producer.begin_transaction().unwrap();
        let sent = std::thread::scope(|scope| {
            let send = || {
                let mut sent = 0;
                while producer.send("t", &Record::new("v").key(&format!("{sent}"))).is_ok() {
                    sent += 1;
                }
                sent
            };
            let threads = [scope.spawn(send), scope.spawn(send)];
            while producer.stats().records_sent == 0 {
                std::thread::yield_now();
            }
            producer.commit_transaction().unwrap();
            threads.map(|thread| thread.join().unwrap()).iter().sum::<usize>()
        });
        let before: usize = (0..2).map(|number| committed(&store, number).len()).sum();
        assert_eq!(before as u64, producer.stats().records_sent, "round {round}, {sent} in it");
        assert_eq!(open_transactions(&store), 0);
    }
}

/// Two records: the disk, which the gate keeps, has one in its hands, and the other waits. Who flushes waits for both.
fn one_in_hand<'scope>(
    scope: &'scope Scope<'scope, '_>,
    producer: &'scope Producer,
    gate: &Gate,
) -> (Delivery, ScopedJoinHandle<'scope, ()>, Delivery) {
    let in_hand = send_to(producer, 0);
    let flushing = scope.spawn(|| producer.flush().unwrap());
    gate.wait_for_one();
    (in_hand, flushing, send_to(producer, 1))
}

fn until_refused(producer: &Producer) {
    while producer.send("t", &Record::new("v")).is_ok() {
        std::thread::yield_now();
    }
}

#[test]
fn an_abort_waits_for_what_the_disk_has_in_its_hands() {
    let machine = Machine::new();
    let gate = Arc::new(Gate::default());
    let store = prepare(gated(&machine, &gate));
    let producer = store.producer(transactional()).unwrap();
    producer.begin_transaction().unwrap();
    gate.shut();
    std::thread::scope(|scope| {
        let (in_hand, flushing, waiting) = one_in_hand(scope, &producer, &gate);
        let aborting = scope.spawn(|| producer.abort_transaction());
        // It is decided before the abort is; until then sends are refused.
        until_refused(&producer);
        assert!(!aborting.is_finished());
        gate.open();
        aborting.join().unwrap().unwrap();
        flushing.join().unwrap();
        assert_eq!(in_hand.wait().unwrap().offset, 0);
        assert!(matches!(waiting.try_get().unwrap(), Err(Error::TransactionAborted { .. })));
    });
    assert_eq!(committed(&store, 0), Vec::<String>::new());
    assert_eq!(open_transactions(&store), 0);
}

#[test]
fn a_close_that_gives_records_up_lets_no_commit_go_on_without_them() {
    let machine = Machine::new();
    let gate = Arc::new(Gate::default());
    let store = prepare(gated(&machine, &gate));
    let producer = store.producer(transactional()).unwrap();
    producer.begin_transaction().unwrap();
    gate.shut();
    std::thread::scope(|scope| {
        let (in_hand, flushing, waiting) = one_in_hand(scope, &producer, &gate);
        let committing = scope.spawn(|| producer.commit_transaction());
        // It has begun once sends are refused.
        until_refused(&producer);
        assert!(matches!(producer.close(Duration::ZERO), Err(Error::Timeout { .. })));
        assert!(matches!(waiting.try_get().unwrap(), Err(Error::Closed { .. })));
        gate.open();
        let error = committing.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::TransactionAborted { .. }), "{error}");
        flushing.join().unwrap();
        assert_eq!(in_hand.wait().unwrap().offset, 0);
    });
    producer.close(HOUR).unwrap();
    assert_eq!((committed(&store, 0), committed(&store, 1)), (vec![], vec![]));
    assert_eq!(open_transactions(&store), 0);
}

#[test]
fn a_callback_may_close_its_producer_while_a_commit_waits_for_the_record() {
    let machine = Machine::new();
    let gate = Arc::new(Gate::default());
    let store = prepare(gated(&machine, &gate));
    let producer = Arc::new(store.producer(transactional()).unwrap());
    producer.begin_transaction().unwrap();
    gate.shut();
    let (closing, to) = (Arc::clone(&producer), SendOptions::new().partition(0));
    let close = move |_| closing.close(HOUR).unwrap();
    producer.send_with_then("t", &Record::new("v"), to, close).unwrap();
    let committed_meanwhile = std::thread::scope(|scope| {
        let committing = scope.spawn(|| producer.commit_transaction());
        gate.wait_for_one();
        gate.open();
        committing.join().unwrap()
    });
    producer.close(HOUR).unwrap();
    committed_meanwhile.unwrap();
    assert_eq!(committed(&store, 0), ["v"]);
    assert_eq!(open_transactions(&store), 0);
}

/// A task that holds up whoever wakes it.
struct Slow(Gate);

impl Wake for Slow {
    fn wake(self: Arc<Self>) {
        self.0.pass();
    }
}

#[test]
fn a_record_lost_by_a_panic_spoils_its_transaction_at_once_and_no_later_one() {
    for commit in [true, false] {
        let machine = Machine::new();
        let strike = Arc::new(AtomicBool::new(false));
        let hook = {
            let strike = Arc::clone(&strike);
            move |call: Call, name: &Path| {
                let struck = call == Call::Write && name.starts_with("t-0");
                assert!(!struck || !strike.swap(false, Ordering::SeqCst), "on purpose");
            }
        };
        let disk = Hooked::new(SimulatedDisk::clone(&machine.disk), hook);
        let store = prepare(machine.options().open_in(disk).unwrap());
        let producer = store.producer(transactional()).unwrap();
        producer.begin_transaction().unwrap();
        let mut lost = send_to(&producer, 0);
        let slow = Arc::new(Slow(Gate::default()));
        slow.0.shut();
        let waker = Waker::from(Arc::clone(&slow));
        assert!(Pin::new(&mut lost).poll(&mut Context::from_waker(&waker)).is_pending());
        strike.store(true, Ordering::SeqCst);
        producer.flush().unwrap();
        assert!(lost.try_get().unwrap().is_err());
        // The thread of the producer has not come further than that yet.
        slow.0.wait_for_one();
        let committed_anyway = commit.then(|| producer.commit_transaction());
        let aborted = producer.abort_transaction();
        slow.0.open();
        if let Some(result) = committed_anyway {
            assert!(matches!(result, Err(Error::TransactionAborted { .. })), "{result:?}");
        }
        aborted.unwrap();
        for value in ["a", "b"] {
            producer.begin_transaction().unwrap();
            send_both(&producer, value);
            producer.commit_transaction().unwrap();
        }
        (0..2).for_each(|number| assert_eq!(committed(&store, number), ["a", "b"]));
    }
}

// Offsets.

/// Where the group goes on: the offset last committed.
fn position(offsets: &Offsets) -> u64 {
    let log = offsets.partition("g");
    let records = log.read_from_with(log.log_start(), Isolation::ReadCommitted).unwrap();
    let number = |record: annals::StoredRecord| {
        std::str::from_utf8(record.value().unwrap()).unwrap().parse::<u64>().unwrap()
    };
    records.map(Result::unwrap).map(number).last().unwrap_or(0)
}

fn send_offset(producer: &Producer, offset: u64) -> Result<()> {
    let partition = annals::TopicPartition::from_dir_name("input-0").unwrap();
    let commit = (partition, OffsetAndMetadata::new(offset));
    producer.send_offsets_to_transaction([commit], &GroupMetadata::simple("g"))
}

#[test]
fn offsets_count_with_the_transaction_they_are_sent_to() {
    let machine = Machine::new();
    let store = prepare(machine.open());
    let offsets = Offsets::new(&store);
    coordinator(&store).set_groups(Arc::clone(&offsets) as _);
    let producer = store.producer(transactional()).unwrap();
    for (offset, commit) in [(3, true), (7, false), (9, true)] {
        producer.begin_transaction().unwrap();
        send_both(&producer, "v");
        producer.send_offsets_to_transaction([], &GroupMetadata::simple("g")).unwrap();
        send_offset(&producer, offset).unwrap();
        let before = position(&offsets);
        if commit {
            producer.commit_transaction().unwrap();
        } else {
            producer.abort_transaction().unwrap();
        }
        assert_eq!(position(&offsets), if commit { offset } else { before });
    }
    let ended: Vec<bool> = offsets.ended.lock().unwrap().iter().map(|(_, _, commit)| *commit).collect();
    assert_eq!(ended, [true, false, true]);
}

#[test]
fn offsets_of_a_group_of_the_store_count_once_the_transaction_does() {
    let machine = Machine::new();
    let store = prepare(machine.open());
    let groups = store.groups().unwrap();
    let producer = store.producer(transactional()).unwrap();
    let committed = || {
        let found = groups.committed("g", None, false).unwrap();
        found.values().map(|position| position.offset).collect::<Vec<_>>()
    };
    for (offset, commit, after) in [(3, false, vec![]), (4, true, vec![4]), (5, false, vec![4])] {
        producer.begin_transaction().unwrap();
        send_both(&producer, "v");
        send_offset(&producer, offset).unwrap();
        let ended = if commit { producer.commit_transaction() } else { producer.abort_transaction() };
        ended.unwrap();
        assert_eq!(committed(), after);
    }
}

#[test]
fn a_close_waits_for_offsets_that_are_being_sent_and_aborts_them() {
    let machine = Machine::new();
    let gate = Arc::new(Gate::default());
    let store = prepare(gated_at(&machine, &gate, "__transaction_state-"));
    let offsets = Offsets::new(&store);
    coordinator(&store).set_groups(Arc::clone(&offsets) as _);
    let producer = store.producer(transactional()).unwrap();
    producer.begin_transaction().unwrap();
    gate.shut();
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| send_offset(&producer, 1));
        gate.wait_for_one();
        let ends_before = (0..1000).any(|_| {
            std::thread::yield_now();
            producer.close(Duration::ZERO).is_ok()
        });
        gate.open();
        sending.join().unwrap().unwrap();
        producer.close(HOUR).unwrap();
        assert!(!ends_before);
    });
    let described = store.transactions().unwrap().describe(ID).unwrap();
    assert_eq!(described.state.to_string(), "CompleteAbort");
    assert_eq!(offsets.partition("g").open_transactions(), []);
    assert_eq!(position(&offsets), 0);
}

#[test]
fn a_consumer_that_is_no_member_any_more_commits_nothing_and_spoils_the_transaction() {
    let (_machine, store, producer) = start(transactional());
    for send_first in [true, false] {
        producer.begin_transaction().unwrap();
        if send_first {
            send_both(&producer, "v");
        }
        let partition = annals::TopicPartition::from_dir_name("input-0").unwrap();
        let commit = (partition, OffsetAndMetadata::new(1));
        let ghost = GroupMetadata { generation: 7, member_id: "ghost".into(), ..GroupMetadata::simple("g") };
        let error = producer.send_offsets_to_transaction([commit], &ghost).unwrap_err();
        let known = matches!(error, Error::UnknownMember { .. } | Error::IllegalGeneration { .. });
        assert!(known, "{error}");
        assert_eq!(error.class(), ErrorClass::Abortable);
        assert_eq!(does(producer.commit_transaction()), MustAbort);
        producer.abort_transaction().unwrap();
    }
    assert_eq!(committed(&store, 0), Vec::<String>::new());
    assert!(store.groups().unwrap().committed("g", None, true).unwrap().is_empty());
}

#[test]
fn a_transaction_that_the_coordinator_was_never_told_of_can_be_aborted() {
    let (machine, store, producer) = start(transactional().retries(1));
    let state = When::next().of(&[Call::Write]).under("__transaction_state-0").and_ever_after();
    machine.disk.fail(state, Fault::Error(ENOSPC));
    producer.begin_transaction().unwrap();
    let lost = send_to(&producer, 0);
    producers::flush(&machine, &producer);
    lost.wait().unwrap_err();
    machine.disk.heal();
    assert_eq!(does(producer.commit_transaction()), MustAbort);
    producer.abort_transaction().unwrap();
    producer.begin_transaction().unwrap();
    send_both(&producer, "next");
    producer.commit_transaction().unwrap();
    assert_eq!(committed(&store, 0), ["next"]);
}

/// Reads `input` from where the group is, writes what it makes of it, and commits both, until all is done.
fn transform(store: &Store, offsets: &Arc<Offsets>) -> Result<()> {
    coordinator(store).set_groups(Arc::clone(offsets) as _);
    let at_once = transactional().retries(1).retry_backoff(Duration::ZERO, Duration::ZERO);
    let producer = store.producer(at_once.max_block(Duration::ZERO))?;
    let input = store.topic("input")?.partition(0)?;
    let mut next = position(offsets);
    while next < input.log_end() {
        producer.begin_transaction()?;
        for record in input.read_from(next)?.take(2) {
            let value = [record?.value().unwrap_or_default(), b"!"].concat();
            let number = (next % 2) as u32;
            producer.send_with("t", &Record::new(&value), SendOptions::new().partition(number))?;
            next += 1;
        }
        send_offset(&producer, next)?;
        producer.commit_transaction()?;
    }
    Ok(())
}

#[test]
fn what_is_transformed_is_transformed_exactly_once_wherever_it_is_cut_off() {
    let machine = Machine::new();
    let store = prepare(machine.open());
    let input = store.create_topic("input", TopicConfig::new()).unwrap().partition(0).unwrap();
    let values: Vec<String> = (0..6).map(|number| format!("{number}")).collect();
    input.append_batch(&values.iter().map(Record::new).collect::<Vec<_>>()).unwrap();
    Offsets::new(&store);
    store.close().unwrap();
    let mut call = 0;
    loop {
        call += 1;
        let cut = Machine { disk: machine.disk.crash(Crash::ProcessKill), clock: Arc::clone(&machine.clock) };
        let store = cut.open();
        let offsets = Offsets::new(&store);
        let before = cut.disk.calls();
        cut.disk.fail(When::nth(call), Fault::PowerOff);
        let done = transform(&store, &offsets).is_ok();
        let through = cut.disk.calls() - before < call;
        for crash in [Crash::ProcessKill, Crash::PowerCut { seed: call }] {
            let found = Machine { disk: cut.disk.crash(crash), clock: Arc::clone(&cut.clock) };
            let store = found.open();
            let offsets = Offsets::new(&store);
            transform(&store, &offsets).unwrap();
            for number in 0..2 {
                let expected: Vec<String> = (0..3).map(|turn| format!("{}!", 2 * turn + number)).collect();
                assert_eq!(committed(&store, number), expected, "call {call}, {crash:?}");
            }
            assert_eq!(open_transactions(&store), 0);
        }
        drop((offsets, store));
        if through {
            assert!(done, "it fails without a fault");
            break;
        }
    }
    assert!(call > 50, "{call} calls");
}
