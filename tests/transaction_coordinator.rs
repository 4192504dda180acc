//! The coordinator of transactions: who may do what in which state, who is fenced off, what happens without anybody
//! asking, and what administrators see. What crashes leave is in `transaction_recovery.rs`.
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

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use annals::format::transaction_records::{
    TransactionState as State, TransactionValue, decode_key, encode_key,
};
use annals::fs::{Call, Fault, SimulatedDisk, When};
use annals::group::{GroupCoordinator, GroupMetadata, OffsetAndMetadata, OffsetCommit};
use annals::transaction::{ProducerIdAndEpoch, TransactionConfig, TransactionCoordinator};
use annals::{AppendOptions, Error, Isolation, Partition, Record, Store, TopicConfig, TopicPartition};
use coordinated::{MINUTE, Offsets, committed, coordinator, try_write, write};
use logs::{Machine, NOW};

const EIO: i32 = 5;
const ID: &str = "billing";

/// A store with topic `t` of so many partitions, and its coordinator.
struct World {
    machine: Machine,
    store: Store,
    logs: Vec<Partition>,
    transactions: Arc<TransactionCoordinator>,
}

fn world(partitions: u32) -> World {
    let machine = Machine::new();
    let store = machine.open();
    let topic = store.create_topic("t", TopicConfig::new().partitions(partitions)).unwrap();
    let (logs, transactions) = (topic.partitions().unwrap(), coordinator(&store));
    World { machine, store, logs, transactions }
}

impl World {
    fn init(&self) -> ProducerIdAndEpoch {
        self.transactions.init_producer(ID, MINUTE).unwrap()
    }

    /// A transaction with a record in every partition.
    fn begin(&self, producer: ProducerIdAndEpoch, sequence: i32) {
        self.transactions.add_partitions(ID, producer, &self.ids()).unwrap();
        self.logs.iter().for_each(|log| write(log, producer, sequence));
    }

    fn ids(&self) -> Vec<TopicPartition> {
        self.logs.iter().map(|log| log.id().clone()).collect()
    }

    fn state(&self) -> Option<State> {
        self.transactions.describe(ID).ok().map(|described| described.state)
    }

    fn producer(&self) -> ProducerIdAndEpoch {
        self.transactions.describe(ID).unwrap().producer
    }

    fn break_partition(&self) {
        self.machine.disk.fail(
            When::next().of(&[Call::Write, Call::Create]).under("t-0").and_ever_after(),
            Fault::Error(EIO),
        );
    }

    /// A producer, and its transactional id in a state, with the disk well again.
    fn bring_to(&self, state: State) -> ProducerIdAndEpoch {
        let producer = self.init();
        if state == State::Empty {
            return producer;
        }
        self.begin(producer, 0);
        let commit = matches!(state, State::PrepareCommit | State::CompleteCommit);
        match state {
            State::Ongoing => {}
            State::PrepareCommit | State::PrepareAbort => {
                self.break_partition();
                self.transactions.end(ID, producer, commit).unwrap_err();
                self.machine.disk.heal();
            }
            _ => self.transactions.end(ID, producer, commit).unwrap(),
        }
        assert_eq!(self.state(), Some(state));
        producer
    }
}

/// What a call gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Another producer id, or an id that is not known.
    Mapping,
    Fenced,
    NotAllowed,
    Unknown,
    /// The disk fails.
    Failed,
}
use Outcome::{Done, Failed, Fenced, Mapping, NotAllowed, Unknown};

fn outcome<T>(result: annals::Result<T>) -> Outcome {
    match result {
        Ok(_) => Done,
        Err(Error::InvalidProducerIdMapping { .. }) => Mapping,
        Err(Error::ProducerFenced { .. }) => Fenced,
        Err(Error::TransactionState { .. }) => NotAllowed,
        Err(Error::UnknownTransactionalId { .. }) => Unknown,
        Err(Error::Io { .. } | Error::Poisoned { .. }) => Failed,
        Err(other) => panic!("{other}"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Init,
    Bump,
    Add,
    Commit,
    Abort,
    /// An administrator's abort.
    Fence,
    Tick,
}
use Ask::{Abort, Add, Bump, Commit, Fence, Init, Tick};

const ASKS: [Ask; 7] = [Init, Bump, Add, Commit, Abort, Fence, Tick];

fn ask(world: &World, what: Ask, producer: ProducerIdAndEpoch) -> Outcome {
    let transactions = &world.transactions;
    match what {
        Init => outcome(transactions.init_producer(ID, MINUTE)),
        Bump => outcome(transactions.bump_epoch(ID, producer)),
        Add => outcome(transactions.add_partitions(ID, producer, &world.ids())),
        Commit => outcome(transactions.end(ID, producer, true)),
        Abort => outcome(transactions.end(ID, producer, false)),
        Fence => outcome(transactions.abort(ID)),
        Tick => outcome(transactions.tick()),
    }
}

type Row = [(Outcome, State, i16); 7];

/// In each state, by the order of the calls above: what each call gives, the state after it, and by how much it raised
/// the epoch.
const TABLE: [(State, Row); 7] = [
    (
        State::Empty,
        [
            (Done, State::Empty, 1),
            (Done, State::Empty, 1),
            (Done, State::Ongoing, 0),
            (NotAllowed, State::Empty, 0),
            (NotAllowed, State::Empty, 0),
            (Done, State::Empty, 1),
            (Done, State::Empty, 0),
        ],
    ),
    (
        State::Ongoing,
        [
            (Done, State::Empty, 2),
            (Done, State::Empty, 2),
            (Done, State::Ongoing, 0),
            (Done, State::CompleteCommit, 0),
            (Done, State::CompleteAbort, 0),
            (Done, State::CompleteAbort, 1),
            (Done, State::Ongoing, 0),
        ],
    ),
    (
        State::PrepareCommit,
        [
            (Done, State::Empty, 1),
            (Done, State::Empty, 1),
            (Done, State::Ongoing, 0),
            (Done, State::CompleteCommit, 0),
            (NotAllowed, State::PrepareCommit, 0),
            (Done, State::Empty, 1),
            (Done, State::CompleteCommit, 0),
        ],
    ),
    (
        State::PrepareAbort,
        [
            (Done, State::Empty, 1),
            (Done, State::Empty, 1),
            (Done, State::Ongoing, 0),
            (NotAllowed, State::PrepareAbort, 0),
            (Done, State::CompleteAbort, 0),
            (Done, State::Empty, 1),
            (Done, State::CompleteAbort, 0),
        ],
    ),
    (
        State::CompleteCommit,
        [
            (Done, State::Empty, 1),
            (Done, State::Empty, 1),
            (Done, State::Ongoing, 0),
            (Done, State::CompleteCommit, 0),
            (NotAllowed, State::CompleteCommit, 0),
            (Done, State::Empty, 1),
            (Done, State::CompleteCommit, 0),
        ],
    ),
    (
        State::CompleteAbort,
        [
            (Done, State::Empty, 1),
            (Done, State::Empty, 1),
            (Done, State::Ongoing, 0),
            (NotAllowed, State::CompleteAbort, 0),
            (Done, State::CompleteAbort, 0),
            (Done, State::Empty, 1),
            (Done, State::CompleteAbort, 0),
        ],
    ),
    // Nothing is known of it: what comes after does not count.
    (
        State::Dead,
        [
            (Done, State::Empty, 0),
            (Mapping, State::Dead, 0),
            (Mapping, State::Dead, 0),
            (Mapping, State::Dead, 0),
            (Mapping, State::Dead, 0),
            (Unknown, State::Dead, 0),
            (Done, State::Dead, 0),
        ],
    ),
];

#[test]
fn every_call_in_every_state() {
    for (state, row) in TABLE {
        for (what, expected) in ASKS.into_iter().zip(row) {
            let world = world(2);
            let producer = match state {
                State::Dead => ProducerIdAndEpoch { id: 0, epoch: 0 },
                _ => world.bring_to(state),
            };
            let got = ask(&world, what, producer);
            let after = world.state().unwrap_or(State::Dead);
            let raised = world.transactions.describe(ID).map_or(0, |it| it.producer.epoch) - producer.epoch;
            assert_eq!((got, after, raised), expected, "{what:?} in {state}");

            // Whatever is over is committed in all partitions, or in none.
            let over =
                !matches!(state, State::Empty | State::Ongoing | State::Dead) || after != State::Ongoing;
            let open = matches!(after, State::PrepareCommit | State::PrepareAbort);
            if over && !open {
                let was_committed = matches!(state, State::PrepareCommit | State::CompleteCommit)
                    || after == State::CompleteCommit;
                for log in &world.logs {
                    assert_eq!(committed(log), usize::from(was_committed), "{what:?} in {state}");
                    assert!(log.open_transactions().is_empty(), "{what:?} in {state}");
                }
            }
        }
    }
}

#[test]
fn while_the_disk_fails_a_decision_stands_and_what_needs_it_done_fails() {
    for (state, contrary) in [(State::PrepareCommit, Abort), (State::PrepareAbort, Commit)] {
        for what in ASKS {
            let world = world(2);
            let producer = world.bring_to(state);
            world.break_partition();
            let expected = if what == contrary { NotAllowed } else { Failed };
            assert_eq!(ask(&world, what, producer), expected, "{what:?} in {state}");
            assert_eq!(world.state(), Some(state));
            world.machine.disk.heal();
            // It says that a partition took no appends, and sees to it that it does.
            let _ = world.store.maintain();
            let commit = state == State::PrepareCommit;
            let complete = if commit { State::CompleteCommit } else { State::CompleteAbort };
            assert_eq!(world.state(), Some(complete), "maintenance finishes it");
            world.logs.iter().for_each(|log| assert_eq!(committed(log), usize::from(commit)));
        }
    }
}

#[test]
fn another_producer_and_another_epoch_are_refused_in_every_state() {
    for (state, _) in TABLE.iter().filter(|(state, _)| *state != State::Dead) {
        let world = world(1);
        world.init();
        let producer = world.bring_to(*state);
        assert_eq!(producer.epoch, 1);
        for what in [Bump, Add, Commit, Abort] {
            for epoch in [-1, 0, 2, i16::MAX] {
                let other = ProducerIdAndEpoch { epoch, ..producer };
                assert_eq!(ask(&world, what, other), Fenced, "{what:?} in {state}, epoch {epoch}");
            }
            let other = ProducerIdAndEpoch { id: producer.id + 1, ..producer };
            assert_eq!(ask(&world, what, other), Mapping, "{what:?} in {state}");
            assert_eq!(world.state(), Some(*state));
        }
    }
}

#[test]
fn partitions_that_have_their_marker_do_not_get_another_each_time() {
    let world = world(2);
    world.bring_to(State::PrepareCommit);
    world.break_partition();
    let end = world.logs[1].log_end();
    for _ in 0..3 {
        world.transactions.tick().unwrap_err();
    }
    assert_eq!(world.logs[1].log_end(), end);
    assert_eq!((committed(&world.logs[0]), committed(&world.logs[1])), (0, 1));
}

#[test]
fn a_zombie_is_fenced_off_and_what_it_left_is_aborted() {
    let world = world(2);
    let zombie = world.init();
    world.begin(zombie, 0);
    let next = world.init();
    assert_eq!((next.id, next.epoch), (zombie.id, zombie.epoch + 2));
    for log in &world.logs {
        assert!(matches!(try_write(log, zombie, 1), Err(Error::Fenced { what: "producer epoch", .. })));
    }
    assert_eq!(ask(&world, Commit, zombie), Fenced);
    assert_eq!(ask(&world, Add, zombie), Fenced);
    assert_eq!(ask(&world, Bump, zombie), Fenced);
    world.begin(next, 0);
    world.transactions.end(ID, next, true).unwrap();
    world.logs.iter().for_each(|log| assert_eq!(committed(log), 1));
}

#[test]
fn a_transaction_that_takes_too_long_is_aborted_and_its_producer_fenced_off() {
    let world = world(2);
    let producer = world.init();
    world.begin(producer, 0);
    world.machine.clock.advance(MINUTE);
    world.store.maintain().unwrap();
    assert_eq!(world.state(), Some(State::Ongoing), "it has all of its timeout");
    // Adding to it does not give it more.
    world.transactions.add_partitions(ID, producer, &[]).unwrap();
    world.machine.clock.advance(Duration::from_millis(1));
    world.store.maintain().unwrap();
    assert_eq!(world.state(), Some(State::CompleteAbort));
    assert_eq!(world.producer().epoch, producer.epoch + 1);
    assert_eq!(ask(&world, Commit, producer), Fenced);
    assert_eq!(ask(&world, Add, producer), Fenced);
    world.logs.iter().for_each(|log| assert!(try_write(log, producer, 1).is_err()));
    world.logs.iter().for_each(|log| assert_eq!((committed(log), log.open_transactions().len()), (0, 0)));
}

#[test]
fn a_wall_clock_that_jumps_does_not_time_out_a_transaction() {
    let world = world(1);
    let producer = world.init();
    world.begin(producer, 0);
    world.machine.clock.set(NOW + 1_000_000_000);
    world.transactions.tick().unwrap();
    assert_eq!(world.state(), Some(State::Ongoing));
    world.machine.clock.set(0);
    world.machine.clock.advance(MINUTE + Duration::from_millis(1));
    world.transactions.tick().unwrap();
    assert_eq!(world.state(), Some(State::CompleteAbort));
}

#[test]
fn the_timeout_counts_on_across_a_restart() {
    let world = world(1);
    let producer = world.init();
    world.begin(producer, 0);
    world.machine.clock.advance(MINUTE - Duration::from_secs(10));
    let found = world.machine.killed();
    let store = found.open();
    let transactions = store.transactions().unwrap();
    assert_eq!(transactions.describe(ID).unwrap().state, State::Ongoing, "its producer may be elsewhere");
    found.clock.advance(Duration::from_secs(10) + Duration::from_millis(1));
    store.maintain().unwrap();
    assert_eq!(transactions.describe(ID).unwrap().state, State::CompleteAbort);
}

#[test]
fn a_producer_that_outlives_the_store_goes_on_with_its_transaction() {
    let world = world(1);
    let producer = world.init();
    world.begin(producer, 0);
    let store = world.machine.killed().open();
    store.transactions().unwrap().end(ID, producer, true).unwrap();
    assert_eq!(committed(&store.topic("t").unwrap().partition(0).unwrap()), 1);
}

#[test]
fn an_id_that_has_used_up_its_epochs_gets_another_producer() {
    let world = world(1);
    let first = world.init();
    let at = |epoch: i16| {
        // As if it had been given all those epochs.
        let mut value = TransactionValue::new(first.id, epoch, 60_000);
        value.last_update = NOW;
        plant(&world.store, ID, &value);
        world.machine.killed().open()
    };
    let init = |store: &Store| store.transactions().unwrap().init_producer(ID, MINUTE).unwrap();
    let store = at(32_764);
    assert_eq!(init(&store), ProducerIdAndEpoch { id: first.id, epoch: 32_765 });
    assert_eq!(init(&store), ProducerIdAndEpoch { id: first.id, epoch: 32_766 });
    let other = init(&store);
    assert!(other.id > first.id && other.epoch == 0, "{other:?}");

    // Fencing off the last epoch takes the one that is kept for it.
    let store = at(32_765);
    let log = store.topic("t").unwrap().partition(0).unwrap();
    let transactions = store.transactions().unwrap();
    let last = transactions.init_producer(ID, MINUTE).unwrap();
    transactions.add_partitions(ID, last, &[log.id().clone()]).unwrap();
    write(&log, last, 0);
    transactions.abort(ID).unwrap();
    assert_eq!(transactions.describe(ID).unwrap().producer.epoch, i16::MAX);
    assert!(try_write(&log, last, 1).is_err());
    let other = init(&store);
    assert!(other.id > first.id && other.epoch == 0, "{other:?}");
    let bumped = transactions.bump_epoch(ID, other).unwrap();
    assert_eq!(bumped, ProducerIdAndEpoch { id: other.id, epoch: 1 });
}

/// Puts a value into the coordinator's topic, as if it had been written there before.
fn plant(store: &Store, id: &str, value: &TransactionValue) {
    plant_bytes(store, id, &value.encode().unwrap());
}

fn plant_bytes(store: &Store, id: &str, value: &[u8]) {
    let log = store.topic("__transaction_state").unwrap().partition(0).unwrap();
    log.append(&Record::new(value).key(&encode_key(id).unwrap())).unwrap();
}

#[test]
fn what_may_not_be_asked_for() {
    let world = world(1);
    let init = |id: &str, timeout| world.transactions.init_producer(id, timeout).unwrap_err();
    for id in [String::new(), "x".repeat(0x8000)] {
        assert!(matches!(init(&id, MINUTE), Error::InvalidName { kind: "transactional id", .. }));
    }
    for timeout in [Duration::ZERO, MINUTE * 15 + Duration::from_millis(1), Duration::MAX] {
        let error = init(ID, timeout);
        assert_eq!(error.kafka_code(), Some(50), "{error}");
        assert!(matches!(error, Error::InvalidConfig { key, .. } if key == "transaction.timeout.ms"));
    }
    assert!(world.transactions.list().unwrap().is_empty(), "nothing was made");
    world.transactions.init_producer(&"x".repeat(0x7fff), MINUTE * 15).unwrap();
    let shorter = TransactionConfig::new().max_timeout(Duration::from_millis(5));
    world.transactions.configure(shorter).unwrap();
    assert!(matches!(init(ID, Duration::from_millis(6)), Error::InvalidConfig { .. }));
    world.transactions.init_producer(ID, Duration::from_millis(5)).unwrap();
    for config in [
        TransactionConfig::new().max_timeout(Duration::ZERO),
        TransactionConfig::new().id_expiration(Duration::ZERO),
        TransactionConfig::new().partitions(0),
    ] {
        assert!(matches!(world.transactions.configure(config), Err(Error::InvalidConfig { .. })));
    }
}

#[test]
fn an_id_whose_first_producer_could_not_be_written_down_is_not_known() {
    let world = world(1);
    world.transactions.init_producer("another", MINUTE).unwrap();
    world.machine.disk.set_capacity(Some(world.machine.disk.used()));
    assert!(matches!(world.transactions.init_producer(ID, MINUTE), Err(Error::StorageFull { .. })));
    assert_eq!(world.state(), None);
    assert_eq!(world.transactions.list().unwrap().len(), 1);
    world.machine.disk.set_capacity(None);
    assert_eq!(world.init().epoch, 0);
}

#[test]
fn there_are_no_more_ids_than_allowed() {
    let world = world(1);
    world.transactions.configure(TransactionConfig::new().ids_max(2)).unwrap();
    world.init();
    world.transactions.init_producer("second", MINUTE).unwrap();
    let refused = |id: &str| {
        let error = world.transactions.init_producer(id, MINUTE).unwrap_err();
        assert!(matches!(error, Error::TooLarge { size: 3, limit: 2, .. }), "{error}");
    };
    refused("third");
    refused("fourth");
    world.init();
    // Those that are forgotten make room.
    world.machine.clock.advance(Duration::from_secs(7 * 24 * 60 * 60 + 1));
    world.transactions.tick().unwrap();
    for id in ["third", "fourth"] {
        world.transactions.init_producer(id, MINUTE).unwrap();
    }
    refused("fifth");
    // Found in the log, they count.
    let store = world.machine.killed().open();
    let transactions = store.transactions().unwrap();
    transactions.configure(TransactionConfig::new().ids_max(1)).unwrap();
    assert!(matches!(transactions.init_producer("fifth", MINUTE), Err(Error::TooLarge { .. })));
    transactions.init_producer("third", MINUTE).unwrap();
}

#[test]
fn ids_that_are_not_used_are_forgotten() {
    let world = world(1);
    let week = Duration::from_secs(7 * 24 * 60 * 60);
    let first = world.init();
    world.transactions.init_producer("busy", MINUTE * 15).unwrap();
    world.machine.clock.advance(week);
    world.store.maintain().unwrap();
    assert_eq!(world.transactions.list().unwrap().len(), 2);
    world.transactions.init_producer("busy", MINUTE).unwrap();
    world.machine.clock.advance(Duration::from_millis(1));
    world.store.maintain().unwrap();
    assert!(matches!(world.transactions.describe(ID), Err(Error::UnknownTransactionalId { .. })));
    assert_eq!(world.transactions.list().unwrap().len(), 1);
    assert_eq!(ask(&world, Add, first), Mapping);
    world.store.flush().unwrap();
    let store = world.machine.killed().open();
    assert_eq!(store.transactions().unwrap().list().unwrap().len(), 1, "a tombstone says so");
    let again = world.init();
    assert!(again.id > first.id && again.epoch == 0, "{again:?}");
}

#[test]
fn offsets_of_groups_are_committed_with_the_rest() {
    for commit in [true, false] {
        let world = world(1);
        let offsets = Offsets::new(&world.store);
        world.transactions.set_groups(Arc::clone(&offsets) as _);
        let producer = world.init();
        world.begin(producer, 0);
        world.transactions.add_offsets(ID, producer, "g").unwrap();
        let position =
            OffsetCommit { partition: world.logs[0].id().clone(), position: OffsetAndMetadata::new(7) };
        let member = GroupMetadata::simple("g");
        offsets.commit_in_transaction(&member, producer.id, producer.epoch, &[position]).unwrap();
        let log = offsets.partition("g");
        assert_eq!(committed(&log), 0);
        assert!(offsets.ended.lock().unwrap().is_empty());
        world.transactions.end(ID, producer, commit).unwrap();
        assert_eq!((committed(&log), committed(&world.logs[0])), (usize::from(commit), usize::from(commit)));
        let told = offsets.ended.lock().unwrap().clone();
        assert_eq!(told, [(log.id().clone(), producer.id, commit)], "of that partition, and no other");
    }
}

#[test]
fn partitions_that_are_deleted_meanwhile_keep_nobody_from_the_others() {
    let world = world(1);
    let gone = world.store.create_topic("gone", TopicConfig::new()).unwrap().partition(0).unwrap();
    let producer = world.init();
    world.begin(producer, 0);
    let missing = TopicPartition { partition: 9, ..gone.id().clone() };
    world.transactions.add_partitions(ID, producer, &[gone.id().clone(), missing]).unwrap();
    write(&gone, producer, 0);
    world.store.delete_topic("gone").unwrap();
    world.transactions.end(ID, producer, true).unwrap();
    assert_eq!((world.state(), committed(&world.logs[0])), (Some(State::CompleteCommit), 1));
    // One that is there again under the name never heard of the transaction.
    let producer = world.init();
    world.transactions.add_partitions(ID, producer, &[gone.id().clone()]).unwrap();
    let again = world.store.create_topic("gone", TopicConfig::new()).unwrap().partition(0).unwrap();
    world.transactions.end(ID, producer, true).unwrap();
    assert!(again.open_transactions().is_empty());
}

#[test]
fn a_coordinator_of_a_greater_epoch_before_this_one_is_no_obstacle() {
    let world = world(1);
    let producer = world.init();
    world.begin(producer, 0);
    let marker = annals::format::EndTransactionMarker { coordinator_epoch: 12, commit: false };
    world.logs[0].end_transaction(producer.id, producer.epoch, marker, AppendOptions::new()).unwrap();
    write(&world.logs[0], producer, 1);
    world.transactions.end(ID, producer, true).unwrap();
    assert_eq!(committed(&world.logs[0]), 1);
    assert_eq!(world.logs[0].producers()[0].coordinator_epoch, Some(12));
}

#[test]
fn administrators_list_describe_and_abort() {
    let world = world(2);
    let producer = world.init();
    let other = world.transactions.init_producer("another", Duration::from_secs(5)).unwrap();
    assert_eq!(other.id, producer.id + 1);
    world.machine.clock.advance(Duration::from_millis(7));
    world.begin(producer, 0);
    let listed: Vec<_> = world.transactions.list().unwrap();
    let listed: Vec<_> =
        listed.iter().map(|it| (it.transactional_id.as_str(), it.producer_id, it.state)).collect();
    assert_eq!(listed, [("another", other.id, State::Empty), (ID, producer.id, State::Ongoing)]);
    let described = world.transactions.describe(ID).unwrap();
    assert_eq!((described.producer, described.timeout, described.started), (producer, MINUTE, Some(NOW + 7)));
    assert_eq!((described.last_update, described.partitions), (NOW + 7, world.ids()));
    let described = world.transactions.describe("another").unwrap();
    assert_eq!((described.started, described.partitions.len()), (None, 0));
    let error = world.transactions.describe("nobody").unwrap_err();
    assert_eq!((error.kafka_code(), error.is_retryable()), (Some(105), false));

    world.transactions.abort(ID).unwrap();
    assert_eq!(ask(&world, Commit, producer), Fenced);
    world.logs.iter().for_each(|log| assert_eq!((committed(log), log.open_transactions().len()), (0, 0)));
}

#[test]
fn transactions_that_nobody_looks_after_are_found_and_left_alone() {
    let world = world(2);
    let producer = world.init();
    world.begin(producer, 0);
    let by_hand = ProducerIdAndEpoch { id: 77_777, epoch: 0 };
    write(&world.logs[1], by_hand, 0);
    world.machine.clock.advance(MINUTE * 100);
    world.transactions.tick().unwrap();
    let hanging = world.transactions.find_hanging().unwrap();
    assert_eq!(hanging.len(), 1);
    assert_eq!((&hanging[0].0, hanging[0].1.producer_id), (world.logs[1].id(), by_hand.id));
    let marker = annals::format::EndTransactionMarker { coordinator_epoch: 0, commit: false };
    world.logs[1].end_transaction(by_hand.id, by_hand.epoch, marker, AppendOptions::new()).unwrap();
    assert!(world.transactions.find_hanging().unwrap().is_empty());
}

#[test]
fn one_coordinator_of_a_store_which_its_closing_ends() {
    let world = world(1);
    assert!(Arc::ptr_eq(&world.transactions, &world.store.transactions().unwrap()));
    let producer = world.init();
    world.store.close().unwrap();
    assert!(matches!(world.transactions.init_producer(ID, MINUTE), Err(Error::Closed { .. })));
    let added = world.transactions.add_partitions(ID, producer, &[world.logs[0].id().clone()]);
    assert!(matches!(added, Err(Error::Closed { .. })));
    assert!(matches!(world.transactions.init_idempotent(), Err(Error::Closed { .. })));
}

#[test]
fn a_store_that_is_only_read_shows_its_transactions() {
    let world = world(1);
    world.bring_to(State::PrepareCommit);
    let found = world.machine.killed();
    let store = found.options().read_only(true).open_in(Arc::new(found.disk.clone())).unwrap();
    let transactions = store.transactions().unwrap();
    assert_eq!(transactions.describe(ID).unwrap().state, State::PrepareCommit);
    assert!(matches!(transactions.init_producer(ID, MINUTE), Err(Error::ReadOnly { .. })));
    assert!(matches!(transactions.init_idempotent(), Err(Error::ReadOnly { .. })));
}

#[test]
fn all_that_is_written_down_is_in_the_schema_of_kafka_and_in_order() {
    let world = world(2);
    for (state, _) in TABLE.iter().filter(|(state, _)| *state != State::Dead) {
        world.bring_to(*state);
        world.transactions.tick().unwrap();
    }
    let log = world.store.topic("__transaction_state").unwrap().partition(0).unwrap();
    let (mut before, mut epoch) = (None, -1);
    for record in log.read_from(0).unwrap() {
        let record = record.unwrap();
        assert_eq!(decode_key(record.key().unwrap()), Ok(Some(ID.into())));
        let value = TransactionValue::decode(record.value().unwrap()).unwrap();
        if let Some(before) = before {
            assert!(value.state.may_follow(before), "{before} to {}", value.state);
        }
        assert!(value.producer_epoch >= epoch);
        assert_eq!(value.state == State::Empty, value.started.is_none());
        let over = matches!(value.state, State::Empty | State::CompleteCommit | State::CompleteAbort);
        assert_eq!(value.partitions.is_empty(), over, "{value:?}");
        (before, epoch) = (Some(value.state), value.producer_epoch);
    }
    assert_eq!(
        world.store.topic("__transaction_state").unwrap().config().get("cleanup.policy").as_deref(),
        Some("compact")
    );
}

#[test]
fn what_a_broker_left_undone_is_done() {
    let world = world(1);
    world.init();
    let log = &world.logs[0];
    write(log, ProducerIdAndEpoch { id: 4000, epoch: 3 }, 0);
    // Version 1: `PrepareCommit`, partition t-0, next producer 4001, client version 2.
    let value = b"\0\x01\0\0\0\0\0\0\x0f\xa0\0\x03\0\0\xea\x60\x02\x02\x02t\x02\0\0\0\0\0\
        \0\0\x01\x8b\xcf\xe5\x68\x05\0\0\x01\x8b\xcf\xe5\x68\0\x02\x01\x08\0\0\0\0\0\0\x0f\xa1\x02\x02\0\x02";
    plant_bytes(&world.store, "kafka", value);
    plant_bytes(&world.store, "of a kind to come", value);
    let found = world.machine.killed();
    let store = found.open();
    let log = store.topic("t").unwrap().partition(0).unwrap();
    assert_eq!(committed(&log), 0);
    let transactions = store.transactions().unwrap();
    assert_eq!(committed(&log), 1);
    let described = transactions.describe("kafka").unwrap();
    assert_eq!(
        (described.state, described.producer),
        (State::CompleteCommit, ProducerIdAndEpoch { id: 4001, epoch: 0 })
    );
    assert!(transactions.init_idempotent().unwrap().id > 4001, "its ids are in use");
}

#[test]
fn a_record_that_cannot_be_read_is_an_error_that_names_it() {
    let world = world(1);
    world.init();
    plant_bytes(&world.store, "x", b"\0\x09what is this");
    let store = world.machine.killed().open();
    let transactions = store.transactions().unwrap();
    let error = transactions.init_producer(ID, MINUTE).unwrap_err();
    assert!(matches!(&error, Error::Corruption { offset: 1, .. }), "{error}");
    assert!(store.maintain().is_err());
    // Who needs nothing of it is not kept from his work.
    transactions.init_idempotent().unwrap();
    // The next value of the key says what is true.
    plant(&store, "x", &TransactionValue::new(5, 0, 1));
}

/// A store on a disk that stops before the first write below `t-0`, once armed.
fn held_up() -> (Arc<AtomicBool>, mpsc::Receiver<()>, mpsc::Sender<()>, Store) {
    let armed = Arc::new(AtomicBool::new(false));
    let (arrived, arrival) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let released = Mutex::new(released);
    let hook = {
        let armed = Arc::clone(&armed);
        move |call: Call, name: &std::path::Path| {
            if call == Call::Write && name.starts_with("t-0") && armed.swap(false, Ordering::SeqCst) {
                arrived.send(()).unwrap();
                released.lock().unwrap().recv().unwrap();
            }
        }
    };
    let disk = hooked::Hooked::new(SimulatedDisk::new(1), hook);
    let clock = Arc::new(annals::clock::ManualClock::new(NOW));
    let store = Store::options().recovery_threads(1).clock(clock).open_in(disk).unwrap();
    (armed, arrival, release, store)
}

#[test]
fn while_one_thread_ends_a_transaction_others_are_sent_away_or_wait_and_other_ids_go_on() {
    let (armed, arrival, release, store) = held_up();
    let logs = store.create_topic("t", TopicConfig::new().partitions(2)).unwrap().partitions().unwrap();
    let transactions = coordinator(&store);
    let producer = transactions.init_producer(ID, MINUTE).unwrap();
    transactions.add_partitions(ID, producer, &[logs[0].id().clone()]).unwrap();
    write(&logs[0], producer, 0);
    std::thread::scope(|scope| {
        armed.store(true, Ordering::SeqCst);
        let ending = scope.spawn(|| transactions.end(ID, producer, true));
        arrival.recv().unwrap();
        let busy = |result: annals::Result<()>| {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::ConcurrentTransactions { .. }), "{error}");
            assert!(error.is_retryable());
        };
        busy(transactions.end(ID, producer, true));
        busy(transactions.end(ID, producer, false));
        busy(transactions.add_partitions(ID, producer, &[logs[1].id().clone()]));
        let older = ProducerIdAndEpoch { epoch: producer.epoch - 1, ..producer };
        assert_eq!(outcome(transactions.end(ID, older, true)), Fenced);
        assert_eq!(transactions.describe(ID).unwrap().state, State::PrepareCommit);
        transactions.tick().unwrap();

        let other = transactions.init_producer("other", MINUTE).unwrap();
        transactions.add_partitions("other", other, &[logs[1].id().clone()]).unwrap();
        write(&logs[1], other, 0);
        transactions.end("other", other, true).unwrap();
        assert_eq!(committed(&logs[1]), 1);

        let next = scope.spawn(|| transactions.init_producer(ID, MINUTE));
        release.send(()).unwrap();
        ending.join().unwrap().unwrap();
        assert_eq!(next.join().unwrap().unwrap().epoch, producer.epoch + 1);
    });
    assert_eq!(committed(&logs[0]), 1);
}

#[test]
fn many_producers_at_once() {
    const THREADS: usize = 8;
    const ROUNDS: usize = 25;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let logs = store.create_topic("t", TopicConfig::new().partitions(3)).unwrap().partitions().unwrap();
    let transactions = coordinator(&store);
    let ids: Vec<TopicPartition> = logs.iter().map(|log| log.id().clone()).collect();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (transactions, logs, ids) = (&transactions, &logs, &ids);
            scope.spawn(move || {
                // The last two share a name, and fence each other off.
                let name = format!("producer-{}", thread.min(THREADS - 2));
                let mut producer = None;
                for round in 0..ROUNDS {
                    let current =
                        *producer.get_or_insert_with(|| transactions.init_producer(&name, MINUTE).unwrap());
                    let value = format!("{thread}.{round}");
                    let done = transactions.add_partitions(&name, current, ids).and_then(|()| {
                        for log in logs {
                            let options = AppendOptions::new().coordinator().transactional(
                                current.id,
                                current.epoch,
                                0,
                            );
                            log.append_batch_with(&[Record::new(&value)], options)?;
                        }
                        transactions.end(&name, current, round % 3 != 0)
                    });
                    match done {
                        Ok(()) => {}
                        Err(
                            Error::ProducerFenced { .. }
                            | Error::Fenced { .. }
                            | Error::ConcurrentTransactions { .. },
                        ) => {
                            producer = None;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    for id in 0..THREADS - 1 {
        transactions.abort(&format!("producer-{id}")).unwrap();
    }
    assert!(transactions.find_hanging().unwrap().is_empty());
    let all = |log: &Partition| {
        let records = log.read_from_with(0, Isolation::ReadCommitted).unwrap();
        let mut values: Vec<_> = records.map(|record| record.unwrap().value().unwrap().to_vec()).collect();
        values.sort_unstable();
        values
    };
    let first = all(&logs[0]);
    assert!(first.len() >= (THREADS - 2) * (ROUNDS - ROUNDS.div_ceil(3)), "all of those who are alone");
    assert!(logs.iter().all(|log| all(log) == first), "all partitions agree");
    let rounds = first
        .iter()
        .map(|value| String::from_utf8_lossy(value).split_once('.').unwrap().1.parse::<usize>().unwrap());
    assert!(rounds.clone().all(|round| round % 3 != 0), "nothing that was aborted: {first:?}");
}
