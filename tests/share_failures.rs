//! What a share group's progress comes to if writes of it fail, and if the log or its own log changes under it.

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

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use annals::format::{ShareStateKey, coordinator_partition};
use annals::fs::{Call, Crash, Fault, When};
use annals::share::{
    Acknowledge, AcknowledgementMode, LowestKeyFirst, ShareConfig, ShareConsumer, ShareOffsetReset,
    ShareRecord,
};
use annals::{Durability, Error, Store, Topic, TopicConfig};
use hooked::Hooked;
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
        worker.commit().unwrap();
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

#[test]
fn a_topic_that_comes_while_old_keys_are_thrown_out_keeps_its_progress() {
    let machine = Machine::new();
    let (reached, arrivals) = mpsc::channel();
    let (go_on, going) = mpsc::channel::<()>();
    let going = Mutex::new(going);
    let hold = Arc::new(AtomicBool::new(false));
    let hook = {
        let hold = Arc::clone(&hold);
        move |call: Call, name: &Path| {
            let here = call == Call::Write && name.starts_with(format!("{STATE}-0"));
            if here && hold.swap(false, Ordering::SeqCst) {
                reached.send(()).unwrap();
                going.lock().unwrap().recv().unwrap();
            }
        }
    };
    let store = machine.options().open_in(Hooked::new(machine.disk.clone(), hook)).unwrap();
    let two = TopicConfig::new().partitions(2).set("cleanup.policy", "delete").unwrap();
    store.create_topic(STATE, two).unwrap();
    let gone = store.create_topic("gone", TopicConfig::new()).unwrap();
    // Progress in each of two places, set so often that it is worth throwing something out.
    for place in [0, 1] {
        let group = group_kept_in(place, &gone);
        for _ in 0..1_100 {
            store.share_groups().reset(&group, "gone", ShareOffsetReset::Earliest).unwrap();
        }
    }
    store.delete_topic("gone").unwrap();
    std::thread::scope(|scope| {
        hold.store(true, Ordering::SeqCst);
        let maintaining = scope.spawn(|| store.maintain().unwrap());
        // It throws out what is in the first place, and has not come to the second.
        arrivals.recv().unwrap();
        let topic = store.create_topic("t", TopicConfig::new()).unwrap();
        append(&topic.partition(0).unwrap(), &["a"]);
        let config = ShareConfig::new().group(group_kept_in(1, &topic));
        let mut worker = store.share_consumer(config.offset_reset(ShareOffsetReset::Earliest)).unwrap();
        worker.subscribe(["t"]).unwrap();
        assert_eq!(offsets(&worker.poll(NOW).unwrap()), [0]);
        go_on.send(()).unwrap();
        maintaining.join().unwrap();
        worker.close().unwrap();
    });
}

/// A group whose progress on partition 0 of a topic is kept in that partition of two.
fn group_kept_in(place: u32, topic: &Topic) -> String {
    let kept_in = |group: &String| {
        let key = ShareStateKey { group: group.clone(), topic_id: topic.id(), partition: 0 };
        coordinator_partition(&key.coordinator_key(), 2) == place
    };
    (0..).map(|number| format!("group-{number}")).find(kept_in).unwrap()
}

#[test]
fn one_that_waits_for_what_a_crash_has_hidden_is_woken_once_it_is_seen_again() {
    let machine = Machine::new();
    let replicated = TopicConfig::new().set("annals.replicated", "true").unwrap();
    let (store, log) = machine.start(replicated);
    append(&log, &["a"]);
    append(&log, &["b"]);
    append(&log, &["c"]);
    log.set_high_watermark(3).unwrap();
    let mut worker = consumer(&store);
    for record in worker.poll(NOW).unwrap() {
        worker.acknowledge(&record, Acknowledge::Release).unwrap();
    }
    worker.commit().unwrap();
    // The high watermark is not written down with each move.
    let (store, log) = machine.cut_off().restart();
    assert_eq!((log.high_watermark(), log.log_end()), (0, 3));
    let mut worker = consumer(&store);
    assert!(worker.poll(NOW).unwrap().is_empty());
    for seen in 1..=3 {
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| offsets(&worker.poll(Duration::from_secs(3600)).unwrap()));
            log.set_high_watermark(seen).unwrap();
            assert_eq!(waiting.join().unwrap(), [seen - 1]);
        });
    }
}

#[test]
fn one_that_waits_for_what_a_crash_has_hidden_is_woken_even_if_there_is_no_room_for_more() {
    for priority in [false, true] {
        let machine = Machine::new();
        let replicated = TopicConfig::new().set("annals.replicated", "true").unwrap();
        let (store, log) = machine.start(replicated);
        append(&log, &["a"]);
        append(&log, &["b"]);
        log.set_high_watermark(2).unwrap();
        let workers = |store: &Store| {
            let config = ShareConfig::new().group("workers").offset_reset(ShareOffsetReset::Earliest);
            let config = config.acknowledgement_mode(AcknowledgementMode::Explicit).max_in_flight(2);
            let config = if priority { config.priority(LowestKeyFirst) } else { config };
            let mut worker = store.share_consumer(config).unwrap();
            worker.subscribe(["t"]).unwrap();
            worker
        };
        let mut worker = workers(&store);
        for record in worker.poll(NOW).unwrap() {
            worker.acknowledge(&record, Acknowledge::Release).unwrap();
        }
        worker.commit().unwrap();
        let (store, log) = machine.cut_off().restart();
        assert_eq!((log.high_watermark(), log.log_end()), (0, 2));
        let mut worker = workers(&store);
        assert!(worker.poll(NOW).unwrap().is_empty());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || offsets(&worker.poll(Duration::from_secs(3600)).unwrap()));
            std::thread::sleep(Duration::from_millis(100));
            log.set_high_watermark(1).unwrap();
            assert_eq!(waiting.join().unwrap(), [0], "by priority: {priority}");
        });
    }
}

#[test]
fn a_loss_of_progress_that_was_accepted_keeps_nobody_from_the_rest() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let state = TopicConfig::new().set("cleanup.policy", "delete").unwrap();
    store.create_topic(STATE, state).unwrap();
    append(&log, &["a", "b", "c"]);
    let mut worker = consumer(&store);
    let records = worker.poll(NOW).unwrap();
    let file = format!("{STATE}-0/00000000000000000000.log");
    let first = machine.disk.read(&file).unwrap().len() as u64;
    for record in &records[..2] {
        worker.acknowledge(record, Acknowledge::Accept).unwrap();
        worker.commit().unwrap();
    }
    let machine = machine.killed();
    assert!(machine.disk.flip(&file, first + 65, 0x40));
    let store = machine.open();
    let failed =
        store.share_consumer(ShareConfig::new().group("workers")).unwrap().subscribe(["t"]).unwrap_err();
    assert!(matches!(failed, Error::Corruption { .. }), "{failed}");
    let state = store.topic(STATE).unwrap().partition(0).unwrap();
    let damage = state.recovery_report().damage.clone();
    state.accept_loss(damage[0].from).unwrap();
    assert_eq!(offsets(&consumer(&store).poll(NOW).unwrap()), [2]);
}

#[test]
fn finished_records_that_are_deleted_before_they_are_read_over_keep_nothing_back() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().segment_bytes(100));
    for _ in 0..10 {
        append(&log, &["a"]);
    }
    let mut worker = consumer(&store);
    for record in &worker.poll(NOW).unwrap()[1..] {
        worker.acknowledge(record, Acknowledge::Accept).unwrap();
    }
    worker.close().unwrap();
    let config = ShareConfig::new().group("workers").priority(LowestKeyFirst).read_ahead_bytes(1);
    let mut worker = store.share_consumer(config).unwrap();
    worker.subscribe(["t"]).unwrap();
    // The only one that is left; there is no room to read on.
    assert_eq!(offsets(&worker.poll(NOW).unwrap()), [0]);
    worker.commit().unwrap();
    log.delete_records(5).unwrap();
    append(&log, &["b"]);
    assert_eq!(offsets(&worker.poll(NOW).unwrap()), [10]);
}
