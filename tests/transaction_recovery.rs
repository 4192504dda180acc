//! Transactions across crashes and failing disks: struck at every call, a transaction ends committed everywhere or
//! nowhere, what was reported committed stays so, and nobody waits for it in the end.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/coordinated.rs"]
mod coordinated;
#[path = "common/logs.rs"]
mod logs;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use annals::format::transaction_records::{TransactionState as State, TransactionValue, decode_key};
use annals::fs::{Call, Crash, Fault, When};
use annals::group::{GroupConfig, GroupMetadata, OffsetAndMetadata, OffsetCommit};
use annals::transaction::{ProducerIdAndEpoch, TransactionCoordinator};
use annals::{Durability, Error, Isolation, Partition, Result, Store, TopicConfig};
use coordinated::{MINUTE, committed, coordinator, write};
use logs::Machine;

const ID: &str = "billing";
const GROUP: &str = "readers";
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// No act of these tests makes so many calls.
const CALLS_MAX: u64 = 1_000;
const PARTITIONS: u32 = 3;

/// A store with a transaction open in three partitions and in the offsets of a group. One of the partitions does not
/// sync what is appended to it.
struct Scene {
    machine: Machine,
    store: Store,
    transactions: Arc<TransactionCoordinator>,
    producer: ProducerIdAndEpoch,
}

fn logs_of(store: &Store) -> Vec<Partition> {
    let mut logs = store.topic("t").unwrap().partitions().unwrap();
    logs.extend(store.topic("lax").unwrap().partitions().unwrap());
    logs.extend(store.topic("__consumer_offsets").unwrap().partitions().unwrap());
    logs
}

/// Those among them in which the transaction has a record.
fn written(store: &Store) -> Vec<Partition> {
    let offsets = store.groups().unwrap().offsets_partition(GROUP).unwrap().unwrap();
    let others = |log: &Partition| log.id().topic != offsets.topic || *log.id() == offsets;
    logs_of(store).into_iter().filter(others).collect()
}

fn scene() -> Scene {
    let machine = Machine::new();
    let store = machine.open();
    store.create_topic("t", TopicConfig::new().partitions(PARTITIONS - 1)).unwrap();
    store.create_topic("lax", TopicConfig::new().durability(Durability::Process)).unwrap();
    store.groups_with(GroupConfig::new().offsets_partitions(2)).unwrap();
    store.groups().unwrap().offsets_partition(GROUP).unwrap();
    let transactions = coordinator(&store);
    let producer = transactions.init_producer(ID, MINUTE).unwrap();
    // A first transaction, so that files are there and the next is not the first.
    begin(&store, &transactions, producer, 0);
    transactions.end(ID, producer, true).unwrap();
    begin(&store, &transactions, producer, 1);
    Scene { machine, store, transactions, producer }
}

fn begin(store: &Store, transactions: &TransactionCoordinator, producer: ProducerIdAndEpoch, sequence: i32) {
    let mut logs = written(store);
    let offsets = logs.pop().unwrap();
    assert_eq!(offsets.id().topic.as_str(), "__consumer_offsets");
    let ids: Vec<_> = logs.iter().map(|log| log.id().clone()).collect();
    transactions.add_partitions(ID, producer, &ids).unwrap();
    transactions.add_offsets(ID, producer, GROUP).unwrap();
    logs.iter().for_each(|log| write(log, producer, sequence));
    let position = OffsetAndMetadata::new(committed(&logs[0]) as u64 + 1);
    let commit = OffsetCommit { partition: ids[0].clone(), position };
    let member = GroupMetadata::simple(GROUP);
    let groups = store.groups().unwrap();
    groups.commit_in_transaction(&member, producer.id, producer.epoch, &[commit]).unwrap();
}

/// What the group has committed: the number of the last transaction that was.
fn position(store: &Store, stable: bool) -> Result<u64> {
    let committed = store.groups()?.committed(GROUP, None, stable)?;
    Ok(committed.values().next().map_or(0, |position| position.offset))
}

/// What is done to the open transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Commit,
    Abort,
    /// A new producer takes its place.
    Replace,
    /// Its time has passed.
    TimeOut,
}
const ACTS: [Act; 4] = [Act::Commit, Act::Abort, Act::Replace, Act::TimeOut];

fn act(scene: &Scene, what: Act) -> Result<()> {
    let transactions = &scene.transactions;
    match what {
        Act::Commit => transactions.end(ID, scene.producer, true),
        Act::Abort => transactions.end(ID, scene.producer, false),
        Act::Replace => transactions.init_producer(ID, MINUTE).map(|_| ()),
        Act::TimeOut => {
            scene.machine.clock.advance(MINUTE + Duration::from_millis(1));
            transactions.tick()
        }
    }
}

/// Whether the second transaction is committed; all partitions must agree.
fn is_committed(store: &Store, name: &str) -> bool {
    let counts: Vec<usize> = written(store).iter().map(committed).collect();
    assert_eq!(counts.len(), PARTITIONS as usize + 1);
    assert!(counts.iter().all(|&count| count == counts[0]), "{name}: partitions differ: {counts:?}");
    assert!((1..=2).contains(&counts[0]), "{name}: {counts:?}");
    assert_eq!(position(store, false).unwrap(), counts[0] as u64, "{name}: the offset of the group");
    counts[0] == 2
}

fn assert_nobody_waits(store: &Store, name: &str) {
    for log in logs_of(store) {
        assert!(log.open_transactions().is_empty(), "{name}: {} is open", log.id());
        assert_eq!(log.last_stable_offset(), log.log_end(), "{name}");
    }
}

/// Everything that must hold once the store's coordinator was asked for: after `what`, which returned, or not.
fn check(store: &Store, transactions: &TransactionCoordinator, what: Act, done: bool, name: &str) {
    let name = &format!("{what:?}, done: {done}, {name}");
    let described = transactions.describe(ID).unwrap();
    let undecided = described.state == State::Ongoing;
    assert!(
        !matches!(described.state, State::PrepareCommit | State::PrepareAbort),
        "{name}: what was decided is not carried out: {described:?}"
    );
    assert!(!(done && undecided), "{name}: what was reported is not so");
    if undecided {
        // Nothing of it was decided, so nobody may see any of it.
        assert!(!is_committed(store, name), "{name}: seen and not decided");
        assert!(matches!(position(store, true), Err(Error::UnstableOffsets { .. })), "{name}");
    } else {
        assert_nobody_waits(store, name);
        position(store, true).unwrap();
    }
    let was_committed = is_committed(store, name);
    if done {
        assert_eq!(was_committed, what == Act::Commit, "{name}");
    }
    assert!(!was_committed || what == Act::Commit, "{name}: committed without being asked");
    check_records(store, name);

    // And it goes on: the next producer ends what is open, and has its own transaction.
    let next = transactions.init_producer(ID, MINUTE).unwrap();
    assert_nobody_waits(store, name);
    assert_eq!(is_committed(store, name), was_committed, "{name}: changed its mind");
    begin(store, transactions, next, 0);
    transactions.end(ID, next, true).unwrap();
    assert_nobody_waits(store, name);
    for log in written(store) {
        assert_eq!(committed(&log), 2 + usize::from(was_committed), "{name}");
    }
    assert_eq!(position(store, true).unwrap(), 2 + u64::from(was_committed), "{name}");
    assert!(transactions.find_hanging().unwrap().is_empty(), "{name}");
}

/// What is in `__transaction_state` reads by Kafka's schema, and each state may follow the one before. Of a decision
/// whose writing failed another may follow, since nobody was told of it.
fn check_records(store: &Store, name: &str) {
    let log = store.topic("__transaction_state").unwrap().partition(0).unwrap();
    let mut epochs: BTreeMap<String, i16> = BTreeMap::new();
    for record in log.read_from_with(log.log_start(), Isolation::ReadCommitted).unwrap() {
        let record = record.unwrap();
        let id = decode_key(record.key().unwrap()).unwrap().unwrap();
        let value = TransactionValue::decode(record.value().unwrap()).unwrap();
        let before = epochs.insert(id, value.producer_epoch);
        assert!(before.is_none_or(|before| before <= value.producer_epoch), "{name}: {value:?}");
    }
}

fn open_with_coordinator(machine: &Machine) -> Result<(Store, Arc<TransactionCoordinator>)> {
    let store = machine.try_open()?;
    let transactions = store.transactions()?;
    Ok((store, transactions))
}

fn crashes() -> impl Iterator<Item = Crash> {
    let cuts = (0..4).map(|seed| Crash::PowerCut { seed });
    std::iter::once(Crash::ProcessKill).chain(cuts)
}

fn found(machine: &Machine, crash: Crash) -> Machine {
    let clock = Arc::new(annals::clock::ManualClock::new(annals::clock::Clock::now(&*machine.clock)));
    Machine { disk: machine.disk.crash(crash), clock }
}

/// Looks at what is found after a crash, whether groups are used before transactions or after.
fn check_found(machine: &Machine, crash: Crash, what: Act, done: bool, name: &str) {
    for groups_first in [false, true] {
        let name = &format!("{name}, {crash:?}, groups first: {groups_first}");
        let machine = found(machine, crash);
        if groups_first {
            let store = machine.open();
            let before = position(&store, false).unwrap();
            let transactions = store.transactions().unwrap();
            assert!(position(&store, false).unwrap() >= before, "{name}");
            check(&store, &transactions, what, done, name);
        } else {
            let (store, transactions) = open_with_coordinator(&machine).unwrap();
            check(&store, &transactions, what, done, name);
        }
        // And the same once more, closed in good order.
        let (store, transactions) = open_with_coordinator(&machine).unwrap();
        assert_nobody_waits(&store, name);
        assert_eq!(transactions.describe(ID).unwrap().state, State::CompleteCommit, "{name}");
    }
}

#[test]
fn a_crash_at_any_call_leaves_all_partitions_agreed() {
    for what in ACTS {
        for call in 1..CALLS_MAX {
            let scene = scene();
            let before = scene.machine.disk.calls();
            scene.machine.disk.fail(When::nth(call), Fault::PowerOff);
            let done = act(&scene, what).is_ok();
            let calls = scene.machine.disk.calls() - before;
            for crash in crashes() {
                check_found(&scene.machine, crash, what, done, &format!("call {call}"));
            }
            if calls < call {
                assert!(done, "{what:?} fails without a fault");
                break;
            }
        }
    }
}

#[test]
fn a_crash_at_any_call_of_the_recovery_changes_nothing() {
    for what in [Act::Commit, Act::Abort] {
        // In the order of the markers: none of them is written, one is, and all but one are.
        let offsets = written(&scene().store).last().unwrap().id().to_string();
        for stopped_at in [&*offsets, "lax-0", "t-1"] {
            let scene = scene();
            scene.machine.disk.fail(When::next().of(&[Call::Write]).under(stopped_at), Fault::PowerOff);
            act(&scene, what).unwrap_err();
            for call in 1..CALLS_MAX {
                let machine = found(&scene.machine, Crash::PowerCut { seed: call });
                let before = machine.disk.calls();
                machine.disk.fail(When::nth(call), Fault::PowerOff);
                let opened = open_with_coordinator(&machine);
                let through = machine.disk.calls() - before < call;
                let crash = match call % 3 {
                    0 => Crash::ProcessKill,
                    1 => Crash::PowerCut { seed: 0 },
                    _ => Crash::PowerCut { seed: call },
                };
                let again = found(&machine, crash);
                drop(opened);
                let name = format!("stopped at {stopped_at}, call {call} of opening, {crash:?}");
                let (store, transactions) = open_with_coordinator(&again).unwrap();
                assert_eq!(is_committed(&store, &name), what == Act::Commit, "{name}");
                check(&store, &transactions, what, true, &name);
                if through {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_failing_call_leaves_all_partitions_agreed() {
    let faults =
        [Fault::Error(EIO), Fault::Late(EIO), Fault::Forget, Fault::Error(ENOSPC), Fault::Late(ENOSPC)];
    for (what, fault) in ACTS.into_iter().flat_map(|what| faults.map(|fault| (what, fault))) {
        for call in 1..CALLS_MAX {
            let scene = scene();
            let before = scene.machine.disk.calls();
            scene.machine.disk.fail(When::nth(call), fault);
            let done = act(&scene, what).is_ok();
            let calls = scene.machine.disk.calls() - before;
            scene.machine.disk.heal();
            let name = format!("call {call}, {fault:?}");
            // A power cut in the middle of it.
            check_found(&scene.machine, Crash::PowerCut { seed: call }, what, done, &name);
            // Whatever is left to do, maintenance does.
            let _ = scene.store.maintain();
            if what == Act::TimeOut {
                assert_nobody_waits(&scene.store, &name);
            }
            check(&scene.store, &scene.transactions, what, done, &name);
            if calls < call {
                assert!(done, "{what:?} fails without a fault");
                break;
            }
        }
    }
}

#[test]
fn what_failed_is_asked_for_again() {
    for fault in [Fault::Error(EIO), Fault::Forget, Fault::Error(ENOSPC)] {
        for call in 1..CALLS_MAX {
            let scene = scene();
            let before = scene.machine.disk.calls();
            scene.machine.disk.fail(When::nth(call).and_ever_after(), fault);
            let done = act(&scene, Act::Commit).is_ok();
            let calls = scene.machine.disk.calls() - before;
            scene.machine.disk.heal();
            let name = format!("call {call}, {fault:?}");
            if calls < call {
                assert!(done, "{name}");
                break;
            }
            act(&scene, Act::Commit).unwrap();
            act(&scene, Act::Commit).unwrap();
            check(&scene.store, &scene.transactions, Act::Commit, true, &name);
        }
    }
}

#[test]
fn on_a_full_disk_nothing_is_decided_or_all_of_it() {
    let scene = scene();
    scene.machine.disk.set_capacity(Some(scene.machine.disk.used()));
    let full = act(&scene, Act::Commit).unwrap_err();
    assert!(matches!(full, Error::StorageFull { .. }), "{full}");
    assert_eq!(scene.transactions.describe(ID).unwrap().state, State::Ongoing);
    assert!(!is_committed(&scene.store, "full"));

    // Room for the decision alone.
    for room in 1..400 {
        scene.machine.disk.set_capacity(Some(scene.machine.disk.used() + room));
        if act(&scene, Act::Commit).is_ok()
            || scene.transactions.describe(ID).unwrap().state != State::Ongoing
        {
            break;
        }
    }
    assert_eq!(scene.transactions.describe(ID).unwrap().state, State::PrepareCommit);
    assert!(matches!(act(&scene, Act::Abort), Err(Error::TransactionState { .. })), "it is decided");
    assert!(matches!(act(&scene, Act::Replace), Err(Error::StorageFull { .. })));
    scene.machine.disk.set_capacity(None);
    scene.store.maintain().unwrap();
    check(&scene.store, &scene.transactions, Act::Commit, true, "with room");
}

#[test]
fn a_partition_whose_loss_was_accepted_gets_its_marker_then() {
    let scene = scene();
    scene.machine.disk.fail(When::next().of(&[Call::Write]).under("t-0"), Fault::PowerOff);
    act(&scene, Act::Commit).unwrap_err();
    let machine = found(&scene.machine, Crash::ProcessKill);
    // The first batch of it, with valid ones behind.
    assert!(machine.disk.flip("t-0/00000000000000000000.log", 70, 1));
    machine.disk.remove(".kafka_cleanshutdown");
    let (store, transactions) = open_with_coordinator(&machine).unwrap();
    let log = store.topic("t").unwrap().partition(0).unwrap();
    let Some(damage) = log.recovery_report().damage.first().cloned() else { panic!("no damage was found") };
    assert_eq!(transactions.describe(ID).unwrap().state, State::PrepareCommit);
    assert!(matches!(transactions.tick(), Err(Error::Damaged { .. })));
    log.accept_loss(damage.from).unwrap();
    store.maintain().unwrap();
    assert_eq!(transactions.describe(ID).unwrap().state, State::CompleteCommit);
    assert_eq!(committed(&store.topic("t").unwrap().partition(1).unwrap()), 2);
}

#[test]
fn a_power_cut_after_a_commit_takes_nothing_of_it_even_where_appends_are_not_synced() {
    let scene = scene();
    act(&scene, Act::Commit).unwrap();
    for crash in crashes() {
        check_found(&scene.machine, crash, Act::Commit, true, "it was committed");
    }
}
