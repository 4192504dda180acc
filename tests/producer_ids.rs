//! Producer ids: each is given once, whatever crashes, whatever becomes of the file that says which are free, and
//! whoever gave some before.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/logs.rs"]
mod logs;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use annals::fs::{Crash, Fault, When};
use annals::{AppendOptions, Error, Record, Store, TopicConfig};
use logs::Machine;

const FILE: &str = "annals.producer-ids";
const BLOCK: i64 = 1000;
const CALLS_MAX: u64 = 1_000;

fn try_give(store: &Store) -> annals::Result<i64> {
    let producer = store.transactions()?.init_idempotent()?;
    assert_eq!(producer.epoch, 0);
    Ok(producer.id)
}

fn give(store: &Store) -> i64 {
    try_give(store).unwrap()
}

/// A record of a producer that somebody else gave an id.
fn append_as(store: &Store, id: i64) {
    let topic = store.topic("t").or_else(|_| store.create_topic("t", TopicConfig::new())).unwrap();
    let options = AppendOptions::new().idempotent(id, 0, 0);
    topic.partition(0).unwrap().append_batch_with(&[Record::new("v")], options).unwrap();
}

#[test]
fn ids_are_given_in_order_and_a_block_at_a_time_is_written_down() {
    let machine = Machine::new();
    let store = machine.open();
    assert_eq!(give(&store), 0);
    let before = machine.disk.calls();
    for id in 1..BLOCK {
        assert_eq!(give(&store), id);
    }
    assert_eq!(machine.disk.calls(), before, "the block is reserved");
    assert_eq!(give(&store), BLOCK);
    assert!(machine.disk.calls() > before);
    assert!(store.report().unknown.is_empty());
    store.close().unwrap();
    let store = machine.open();
    assert_eq!(give(&store), 2 * BLOCK, "what was left of the block is lost");
    assert!(store.report().unknown.is_empty(), "the file is known");
}

#[test]
fn no_id_is_given_twice_across_crashes_at_any_call() {
    let crashes = || {
        let cuts = (0..4).map(|seed| Crash::PowerCut { seed });
        std::iter::once(Crash::ProcessKill).chain(cuts)
    };
    for call in 1..CALLS_MAX {
        let machine = Machine::new();
        let store = machine.open();
        append_as(&store, 3);
        let before = machine.disk.calls();
        machine.disk.fail(When::nth(call), Fault::PowerOff);
        // More than a block, so that a second one is taken.
        let given: BTreeSet<i64> = (0..=BLOCK).map_while(|_| try_give(&store).ok()).collect();
        let done = given.len() as i64 == BLOCK + 1;
        for crash in crashes() {
            let found = Machine { disk: machine.disk.crash(crash), clock: Arc::clone(&machine.clock) };
            let id = give(&found.open());
            assert!(id > 3 && !given.contains(&id), "call {call}, {crash:?}: {id} again");
            let id_after = give(&found.killed().open());
            assert!(id_after > id, "call {call}, {crash:?}");
        }
        if machine.disk.calls() - before < call {
            assert!(done);
            return;
        }
    }
    panic!("too many calls");
}

#[test]
fn what_cannot_be_written_down_is_not_given_and_is_when_the_disk_is_well() {
    for fault in [Fault::Error(5), Fault::Late(5), Fault::Forget, Fault::Error(28)] {
        let mut given = BTreeSet::new();
        for call in 1..CALLS_MAX {
            let machine = Machine::new();
            let store = machine.open();
            let before = machine.disk.calls();
            machine.disk.fail(When::nth(call), fault);
            let first = try_give(&store);
            let calls = machine.disk.calls() - before;
            machine.disk.heal();
            let second = give(&store);
            assert!(first.as_ref().ok() != Some(&second));
            given.insert(first.is_ok());
            let third = give(&machine.killed().open());
            assert!(third > second, "call {call}, {fault:?}");
            if calls < call {
                assert!(first.is_ok());
                break;
            }
        }
        assert_eq!(given.len(), 2, "some fail, and some do not: {fault:?}");
    }
}

#[test]
fn ids_that_a_broker_gave_are_not_given() {
    let machine = Machine::new();
    let store = machine.open();
    append_as(&store, 7000);
    append_as(&store, 6500);
    let id = give(&store);
    assert_eq!(id, 7001 + BLOCK, "and some may have an id and not have used it yet");
    // A broker ran again in between, and gave more.
    append_as(&store, 70_000);
    let store = machine.killed().open();
    assert_eq!(give(&store), 70_001);
}

#[test]
fn a_file_that_is_lost_or_damaged_gives_no_id_twice() {
    type Harm = fn(&Machine);
    let harms: [(&str, Harm); 5] = [
        ("lost", |machine| assert!(machine.disk.remove(FILE))),
        ("flipped", |machine| assert!(machine.disk.flip(FILE, 20, 4))),
        ("empty", |machine| machine.disk.write(FILE, b"").unwrap()),
        ("huge", |machine| machine.disk.write(FILE, &[7; 10_000]).unwrap()),
        ("another", |machine| {
            machine.disk.write(FILE, b"annalsM1 and what not, as long as it takes").unwrap()
        }),
    ];
    for (what, harm) in harms {
        let machine = Machine::new();
        let store = machine.open();
        let ids: Vec<i64> = (0..3).map(|_| give(&store)).collect();
        append_as(&store, ids[1]);
        store.transactions().unwrap().init_producer("x", Duration::from_secs(1)).unwrap();
        store.close().unwrap();
        harm(&machine);
        let store = machine.open();
        let id = give(&store);
        assert_eq!(id, 4 + BLOCK, "{what}: behind the one in `__transaction_state`, and a block further");
        assert_eq!(
            store.report().warnings.len(),
            usize::from(what != "lost"),
            "{what}: {:?}",
            store.report()
        );
        assert_eq!(give(&machine.killed().open()), 4 + 2 * BLOCK, "{what}: it is whole again");
    }
}

#[test]
fn a_file_of_a_newer_version_is_left_as_it_is() {
    let machine = Machine::new();
    let store = machine.open();
    give(&store);
    store.close().unwrap();
    let mut bytes = machine.disk.read(FILE).unwrap();
    bytes[9] = 2;
    let end = bytes.len() - 4;
    let checksum = annals::format::crc32(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum.to_be_bytes());
    machine.disk.write(FILE, &bytes).unwrap();
    let store = machine.open();
    assert!(matches!(try_give(&store), Err(Error::UnsupportedFormat { found: 2, .. })));
    assert_eq!(machine.disk.read(FILE).unwrap(), bytes);
}

#[test]
fn the_last_id_of_all_is_the_last() {
    let machine = Machine::new();
    let store = machine.open();
    append_as(&store, i64::MAX - 1);
    for _ in 0..2 {
        assert!(matches!(try_give(&store), Err(Error::TooLarge { what: "a producer id", .. })));
    }
}

#[test]
fn threads_get_ids_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let given: Vec<i64> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..BLOCK).map(|_| give(&store)).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let distinct: BTreeSet<i64> = given.iter().copied().collect();
    assert_eq!(distinct.len(), given.len());
    assert_eq!(distinct.last(), Some(&(4 * BLOCK - 1)));
}

#[test]
fn a_crash_leaves_no_litter_that_matters() {
    let machine = Machine::new();
    let store = machine.open();
    give(&store);
    machine.disk.write(format!("{FILE}.tmp"), b"half").unwrap();
    let store = machine.killed().open();
    assert!(store.report().unknown.is_empty());
    assert_eq!(give(&store), BLOCK);
}
