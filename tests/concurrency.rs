//! Many threads on one partition: what readers see, who shares a sync, who is woken, and what a panic breaks.
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

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use annals::clock::{Clock, ManualClock, SystemClock};
use annals::fs::{Call, Crash, SimulatedDisk};
use annals::{Durability, Error, Partition, Record, Store, TopicConfig};
use hooked::Hooked;
use logs::{Machine, NOW, append, file, values};

const WRITERS: u64 = 8;
const READERS: usize = 4;
const ROUNDS: u64 = 150;
/// Long enough that only a waiter nobody wakes would wait for it.
const LONG: Duration = Duration::from_secs(600);

/// How many records the batch of a writer's round has.
fn batch_len(writer: u64, round: u64) -> u64 {
    1 + (writer + round) % 4
}

fn write_all(log: &Partition, writer: u64) {
    let mut last = None;
    for round in 0..ROUNDS {
        let len = batch_len(writer, round);
        let texts: Vec<String> = (0..len).map(|n| format!("{writer} {round} {n}")).collect();
        let records: Vec<Record<'_>> = texts.iter().map(Record::new).collect();
        let appended = log.append_batch(&records).unwrap();
        assert_eq!(appended.last_offset - appended.base_offset + 1, len);
        assert!(last < Some(appended.base_offset), "offsets of one writer go on");
        last = Some(appended.last_offset);
        // Whoever appended can read it at once.
        let first = log.read_from(appended.base_offset).unwrap().next().unwrap().unwrap();
        assert_eq!(first.value(), Some(texts[0].as_bytes()));
    }
}

/// Follows the log to `total` records: offsets without gap, batches whole, the rounds of each writer in order.
fn follow(log: &Partition, total: u64) {
    let mut reader = log.read_from(0).unwrap();
    let (mut offset, mut rounds) = (0, [0; WRITERS as usize]);
    while offset < total {
        assert!(log.wait_for(offset, LONG).unwrap());
        let mut left_of_batch = 0;
        for record in reader.by_ref() {
            let record = record.unwrap();
            assert_eq!(record.offset(), offset);
            let text = String::from_utf8(record.value().unwrap().to_vec()).unwrap();
            let numbers: Vec<u64> = text.split(' ').map(|number| number.parse().unwrap()).collect();
            let [writer, round, n] = numbers[..] else { panic!("{text}") };
            assert_eq!(round, rounds[writer as usize], "rounds of writer {writer}");
            let len = batch_len(writer, round);
            assert_eq!(n, if left_of_batch == 0 { 0 } else { len - left_of_batch }, "a batch is torn apart");
            left_of_batch = len - n - 1;
            rounds[writer as usize] += u64::from(left_of_batch == 0);
            offset += 1;
        }
        assert_eq!(left_of_batch, 0, "half a batch is seen");
    }
    assert_eq!(rounds, [ROUNDS; WRITERS as usize]);
}

fn write_and_follow(log: &Partition) {
    let total = (0..WRITERS).flat_map(|w| (0..ROUNDS).map(move |r| batch_len(w, r))).sum();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || write_all(log, writer));
        }
        for _ in 0..READERS {
            scope.spawn(move || follow(log, total));
        }
    });
    assert_eq!(log.log_end(), total);
    follow(log, total);
}

fn levels() -> [Durability; 3] {
    [
        Durability::Synced,
        Durability::Interval { time: Duration::from_millis(1), bytes: 5_000 },
        Durability::Process,
    ]
}

#[test]
fn readers_follow_many_writers_without_gaps_or_torn_batches() {
    for level in levels() {
        for descriptors in [1, 500] {
            let disk = SimulatedDisk::new(1);
            let open = || {
                let options = Store::options().max_open_files(descriptors);
                options.open_in(Arc::new(disk.clone())).unwrap()
            };
            let config = TopicConfig::new().durability(level).segment_bytes(4_000).index_interval_bytes(300);
            let store = open();
            let log = store.create_topic("t", config).unwrap().partition(0).unwrap();
            write_and_follow(&log);
            assert!(log.segments().len() > 10);
            let end = log.log_end();
            drop(log);
            store.close().unwrap();
            let log = open().topic("t").unwrap().partition(0).unwrap();
            assert!(log.recovery_report().clean);
            follow(&log, end);
        }
    }
}

#[test]
fn the_same_on_a_real_disk() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let config = TopicConfig::new().durability(Durability::Process).segment_bytes(4_000);
    let log = store.create_topic("t", config).unwrap().partition(0).unwrap();
    write_and_follow(&log);
}

#[test]
fn what_was_acknowledged_to_many_writers_survives_a_power_cut_at_any_moment() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new().segment_bytes(2_000));
    let images = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let log = &log;
            scope.spawn(move || write_all(log, writer));
        }
        scope.spawn(|| {
            for seed in 0..20 {
                assert!(log.wait_for(seed * 100, LONG).unwrap());
                // Acknowledged is what can be read, and that before the cut.
                let end = log.log_end();
                images.lock().unwrap().push((end, machine.disk.crash(Crash::PowerCut { seed })));
            }
        });
    });
    let whole = values(&log, 0);
    for (end, image) in images.into_inner().unwrap() {
        let (_store, after) = Machine::of(image).restart();
        let report = after.recovery_report();
        // Of batches in flight together any sectors may survive: then a torn one may lie before a whole one, which
        // is taken for damage. None of it was acknowledged.
        assert!(report.damage.iter().all(|damage| damage.from >= end), "{end} were there: {report:?}");
        assert!(after.log_end() >= end, "{} of {end} are left", after.log_end());
        let acknowledged = after.read_from(0).unwrap().take(end as usize);
        for (record, (offset, value)) in acknowledged.zip(&whole) {
            let record = record.unwrap();
            assert_eq!((record.offset(), record.value()), (*offset, Some(value.as_bytes())));
        }
    }
}

// ---- group commit ----

#[test]
fn those_who_wait_at_the_same_time_share_one_sync() {
    let disk = SimulatedDisk::new(1);
    let (syncs, writes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let hook = {
        let (syncs, writes) = (Arc::clone(&syncs), Arc::clone(&writes));
        move |call: Call, name: &Path| {
            if name != file(0, "log") {
                return;
            }
            match call {
                Call::Write => drop(writes.fetch_add(1, Ordering::SeqCst)),
                Call::Sync if syncs.fetch_add(1, Ordering::SeqCst) == 0 => {
                    // The first sync lasts until all have written.
                    while writes.load(Ordering::SeqCst) < WRITERS {
                        std::thread::yield_now();
                    }
                }
                _ => {}
            }
        }
    };
    let store = Machine::of(disk.clone()).options().open_in(Hooked::new(disk, hook)).unwrap();
    let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    syncs.store(0, Ordering::SeqCst);
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| append(&log, &["v"]));
        }
    });
    assert_eq!(log.recovery_point(), WRITERS);
    let syncs = syncs.load(Ordering::SeqCst);
    assert_eq!(syncs, 2, "one for the first, one for all who came during it");
}

// ---- waiting ----

#[test]
fn one_append_wakes_all_who_wait_for_it() {
    let store = Store::options().open_in(Arc::new(SimulatedDisk::new(1))).unwrap();
    let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    let ready = Barrier::new(33);
    std::thread::scope(|scope| {
        for waiter in 0..32u64 {
            let (log, ready) = (&log, &ready);
            scope.spawn(move || {
                ready.wait();
                assert!(log.wait_for(waiter % 4, LONG).unwrap());
                assert!(log.log_end() > waiter % 4);
            });
        }
        ready.wait();
        for _ in 0..4 {
            append(&log, &["v"]);
        }
    });
}

#[test]
fn waiting_ends_after_its_timeout() {
    let store = Store::options().open_in(Arc::new(SimulatedDisk::new(1))).unwrap();
    let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    let clock = SystemClock::new();
    assert!(!log.wait_for(0, Duration::from_millis(30)).unwrap());
    assert!(clock.monotonic() >= Duration::from_millis(30));
    assert!(!log.wait_for(0, Duration::ZERO).unwrap());
    append(&log, &["v"]);
    assert!(log.wait_for(0, Duration::ZERO).unwrap());
    assert!(!log.wait_for(1, Duration::from_millis(1)).unwrap());
    assert!(!log.wait_for(u64::MAX, Duration::from_millis(1)).unwrap());
}

#[test]
fn closing_and_deleting_send_the_waiters_home() {
    for delete in [false, true] {
        let store = Store::options().open_in(Arc::new(SimulatedDisk::new(1))).unwrap();
        let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
        let ready = Barrier::new(5);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    ready.wait();
                    assert!(matches!(log.wait_for(0, LONG), Err(Error::Closed { .. })));
                });
            }
            ready.wait();
            if delete { store.delete_topic("t").unwrap() } else { store.close().unwrap() }
        });
    }
}

#[test]
fn closing_in_the_middle_of_appends_loses_none_that_was_acknowledged() {
    for level in levels() {
        let machine = Machine::new();
        let (store, log) = machine.start(TopicConfig::new().durability(level).segment_bytes(900));
        let acknowledged = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(|| {
                    loop {
                        match log.append(&Record::new("v")) {
                            Ok(offset) => drop(acknowledged.fetch_max(offset + 1, Ordering::SeqCst)),
                            Err(Error::Closed { .. }) => return,
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            assert!(log.wait_for(300, LONG).unwrap());
            store.close().unwrap();
        });
        let (_store, after) = machine.cut_off().restart();
        let end = after.log_end();
        assert!(end >= acknowledged.load(Ordering::SeqCst), "{level}: {end} of {acknowledged:?} are left");
        assert_eq!(values(&after, 0).len() as u64, end);
    }
}

// ---- panics ----

/// Appends until it works, as a caller would who wants to go on; how often is bounded, so that nothing hangs.
fn append_at_last(log: &Partition, value: &str) -> u64 {
    for _ in 0..4 {
        match catch_unwind(AssertUnwindSafe(|| log.append(&Record::new(value)))) {
            Ok(Ok(offset)) => return offset,
            Ok(Err(Error::Poisoned { .. } | Error::Io { .. })) => {
                let _ = catch_unwind(AssertUnwindSafe(|| log.reopen()));
            }
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => {}
        }
    }
    panic!("it never works again");
}

/// All values that were acknowledged are where they were, whatever else there is.
fn assert_there(log: &Partition, acknowledged: &[(u64, String)], what: &str) {
    let found = values(log, 0);
    for (offset, value) in acknowledged {
        assert_eq!(
            found.get(*offset as usize).map(|(_, found)| found),
            Some(value),
            "{what}: offset {offset}"
        );
    }
}

#[test]
fn a_panic_in_any_call_of_the_file_system_breaks_one_append_at_most() {
    expect_panics();
    for at in 0..u64::MAX {
        let disk = SimulatedDisk::new(1);
        let (calls, armed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(u64::MAX)));
        let hook = {
            let (calls, armed) = (Arc::clone(&calls), Arc::clone(&armed));
            move |_: Call, _: &Path| {
                if calls.fetch_add(1, Ordering::SeqCst) == armed.load(Ordering::SeqCst) {
                    panic!("{PLANNED}");
                }
            }
        };
        let store = Machine::of(disk.clone()).options().open_in(Hooked::new(disk.clone(), hook)).unwrap();
        let config = TopicConfig::new().segment_bytes(400).index_interval_bytes(60);
        let log = store.create_topic("t", config).unwrap().partition(0).unwrap();
        armed.store(calls.load(Ordering::SeqCst) + at, Ordering::SeqCst);
        let mut acknowledged = Vec::new();
        for n in 0..14 {
            let value = format!("value {n}");
            acknowledged.push((append_at_last(&log, &value), value));
        }
        let happened = calls.load(Ordering::SeqCst) > armed.load(Ordering::SeqCst);
        armed.store(u64::MAX, Ordering::SeqCst);
        assert!(acknowledged.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_there(&log, &acknowledged, &format!("call {at}"));
        let (_after, survived) = Machine::of(disk.crash(Crash::PowerCut { seed: 0 })).restart();
        assert_there(&survived, &acknowledged, &format!("call {at}, after a power cut"));
        drop(log);
        store.close().unwrap();
        let (_after, reopened) = Machine::of(disk).restart();
        assert_there(&reopened, &acknowledged, &format!("call {at}, after a restart"));
        if !happened {
            assert!(at > 50, "{at} calls");
            break;
        }
    }
}

#[test]
fn others_are_not_told_of_a_sync_that_ended_in_a_panic() {
    expect_panics();
    let disk = SimulatedDisk::new(1);
    let (syncs, writes) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(0)));
    let hook = {
        let (syncs, writes) = (Arc::clone(&syncs), Arc::clone(&writes));
        move |call: Call, name: &Path| {
            if name != file(0, "log") {
                return;
            }
            match call {
                Call::Write => drop(writes.fetch_add(1, Ordering::SeqCst)),
                Call::Sync if syncs.fetch_add(1, Ordering::SeqCst) == 0 => {
                    while writes.load(Ordering::SeqCst) < WRITERS {
                        std::thread::yield_now();
                    }
                    panic!("{PLANNED}");
                }
                _ => {}
            }
        }
    };
    let store = Machine::of(disk.clone()).options().open_in(Hooked::new(disk.clone(), hook)).unwrap();
    let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    syncs.store(0, Ordering::SeqCst);
    writes.store(0, Ordering::SeqCst);
    let (panicked, told) = (AtomicUsize::new(0), std::sync::Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (log, panicked, told) = (&log, &panicked, &told);
            scope.spawn(move || {
                let value = format!("of {writer}");
                match catch_unwind(AssertUnwindSafe(|| log.append(&Record::new(&value)))) {
                    Ok(Ok(offset)) => told.lock().unwrap().push((offset, value)),
                    Ok(Err(error)) => {
                        assert!(matches!(error, Error::Poisoned { .. } | Error::Io { .. }), "{error}");
                    }
                    Err(_) => drop(panicked.fetch_add(1, Ordering::SeqCst)),
                }
            });
        }
    });
    assert_eq!(panicked.into_inner(), 1);
    let mut told = told.into_inner().unwrap();
    let (_after, survived) = Machine::of(disk.crash(Crash::PowerCut { seed: 0 })).restart();
    assert_there(&survived, &told, "acknowledged without a sync");
    told.push((append_at_last(&log, "more"), "more".into()));
    let (_after, survived) = Machine::of(disk.crash(Crash::PowerCut { seed: 0 })).restart();
    assert_there(&survived, &told, "after it went on");
}

/// A clock that panics when it is asked for the so-and-so-many-th time.
#[derive(Debug)]
struct PanickingClock {
    clock: ManualClock,
    asked: AtomicU64,
    at: AtomicU64,
}

impl PanickingClock {
    fn ask(&self) {
        if self.asked.fetch_add(1, Ordering::SeqCst) == self.at.load(Ordering::SeqCst) {
            panic!("{PLANNED}");
        }
    }
}

impl Clock for PanickingClock {
    fn now(&self) -> i64 {
        self.ask();
        self.clock.now()
    }

    fn monotonic(&self) -> Duration {
        self.ask();
        self.clock.monotonic()
    }
}

#[test]
fn a_panic_in_the_clock_breaks_one_append_at_most() {
    expect_panics();
    for level in levels() {
        for at in 0..60 {
            let disk = SimulatedDisk::new(1);
            let (asked, never) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
            let clock = Arc::new(PanickingClock { clock: ManualClock::new(NOW), asked, at: never });
            let options = Machine::of(disk.clone()).options().clock(Arc::clone(&clock) as _);
            let store = options.open_in(Arc::new(disk.clone())).unwrap();
            let config = TopicConfig::new().segment_bytes(400).durability(level);
            let log = store.create_topic("t", config).unwrap().partition(0).unwrap();
            clock.at.store(clock.asked.load(Ordering::SeqCst) + at, Ordering::SeqCst);
            let mut acknowledged = Vec::new();
            for n in 0..14 {
                let value = format!("value {n}");
                acknowledged.push((append_at_last(&log, &value), value));
            }
            clock.at.store(u64::MAX, Ordering::SeqCst);
            drop(log);
            store.close().unwrap();
            let (_after, reopened) = Machine::of(disk).restart();
            assert_there(&reopened, &acknowledged, &format!("{level}, call {at}"));
        }
    }
}

/// What the panics that are wanted say.
const PLANNED: &str = "a panic that the test wants";

/// Keeps the panics that are wanted out of the output.
fn expect_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<String>().is_none_or(|text| text != PLANNED) {
                usual(info);
            }
        }));
    });
}
