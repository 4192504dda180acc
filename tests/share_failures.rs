//! What writes of a share group's progress that fail leave behind, if all of them, some or nothing is on disk.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/logs.rs"]
mod logs;

use std::time::Duration;

use annals::fs::{Crash, Fault, When};
use annals::share::{
    Acknowledge, AcknowledgementMode, ShareConfig, ShareConsumer, ShareOffsetReset, ShareRecord,
};
use annals::{Durability, Error, Store, TopicConfig};
use logs::{Machine, append};

const NOW: Duration = Duration::ZERO;
const STATE: &str = "__share_group_state";
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn consumer(store: &Store) -> ShareConsumer {
    let config = ShareConfig::new()
        .group("workers")
        .offset_reset(ShareOffsetReset::Earliest)
        .acknowledgement_mode(AcknowledgementMode::Explicit);
    let mut consumer = store.share_consumer(config).unwrap();
    consumer.subscribe(["t"]).unwrap();
    consumer
}

fn offsets(records: &[ShareRecord]) -> Vec<u64> {
    records.iter().map(ShareRecord::offset).collect()
}

/// What is delivered after a kill, and after power cuts that leave nothing, everything and some of what was not synced.
fn delivered_after_crashes(machine: &Machine) -> Vec<Vec<u64>> {
    let cuts = (0..5).map(|seed| Crash::PowerCut { seed });
    let found = std::iter::once(Crash::ProcessKill).chain(cuts).map(|crash| {
        let found = Machine { disk: machine.disk.crash(crash), clock: machine.clock.clone() };
        offsets(&consumer(&found.open()).poll(NOW).unwrap())
    });
    found.collect()
}

/// A record is accepted, which raises the start offset beyond others that are finished, while the `nth` call to the
/// disk fails; then it is released. Returns whether the call was reached.
fn accept_that_fails(nth: u64, fault: Fault, durability: Durability) -> bool {
    let name = format!("{fault:?} at call {nth}, {durability:?}");
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let state = TopicConfig::new().set("cleanup.policy", "delete").unwrap().durability(durability);
    let state = store.create_topic(STATE, state).unwrap().partition(0).unwrap();
    append(&log, &["a", "b", "c", "d", "e"]);
    let mut worker = consumer(&store);
    let records = worker.poll(NOW).unwrap();
    for record in &records[1..3] {
        worker.acknowledge(record, Acknowledge::Accept).unwrap();
    }
    worker.commit().unwrap();
    state.flush().unwrap();

    worker.acknowledge(&records[0], Acknowledge::Accept).unwrap();
    let before = machine.disk.calls();
    machine.disk.fail(When::nth(nth).under(format!("{STATE}-0")), fault);
    let failed = worker.commit().is_err();
    let reached = machine.disk.calls() - before >= nth;
    machine.disk.heal();
    for found in delivered_after_crashes(&machine) {
        let either = found == [0, 3, 4] || found == [3, 4];
        assert!(either, "{name}: {found:?}");
    }
    if failed {
        // It is still there, and can be given back; that counts once it is committed, whatever is on disk.
        worker.acknowledge(&records[0], Acknowledge::Release).unwrap();
        while let Err(error) = worker.commit() {
            assert!(matches!(error, Error::Poisoned { .. }), "{name}: {error}");
            state.reopen().unwrap();
        }
        state.flush().unwrap();
        for found in delivered_after_crashes(&machine) {
            assert_eq!(found, [0, 3, 4], "{name}: it was given back");
        }
        assert_eq!(offsets(&worker.poll(NOW).unwrap()), [0]);
    }
    reached
}

#[test]
fn a_word_after_one_that_could_not_be_written_is_the_one_that_counts() {
    for durability in [Durability::Synced, Durability::Process] {
        for fault in [
            Fault::Error(EIO),
            Fault::Late(EIO),
            Fault::Error(ENOSPC),
            Fault::Late(ENOSPC),
            Fault::Forget,
            Fault::Short,
        ] {
            let reached = (1..100).take_while(|nth| accept_that_fails(*nth, fault, durability)).count();
            assert!(reached > 0 && reached < 99, "{fault:?}: {reached} calls");
        }
    }
}
