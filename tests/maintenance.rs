//! What a pass of maintenance does and says, when it holds back, and how the thread that runs it lives and ends.
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

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock};
use std::time::Duration;

use annals::clock::{Clock, ManualClock};
use annals::fs::{Call, Fault, SimulatedDisk, When};
use annals::{
    AppendOptions, Durability, Error, Isolation, MaintenanceStatus, Partition, Record, Store, StoreOptions,
    TopicConfig,
};
use hooked::Hooked;
use logs::{Machine, NOW, append, file, values};

const EIO: i32 = 5;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Keeps nothing longer than a day.
fn for_a_day() -> TopicConfig {
    TopicConfig::new().retention(Some(DAY))
}

/// Three segments of one record each, and an empty one.
fn fill(log: &Partition) {
    for value in ["a", "b", "c"] {
        append(log, &[value]);
        log.roll().unwrap();
    }
}

fn ids(partitions: &[&Partition]) -> Vec<String> {
    partitions.iter().map(|partition| partition.id().to_string()).collect()
}

fn is_poisoned(error: &Error) -> bool {
    matches!(error, Error::Poisoned { .. })
}

// ---- the duties of a pass ----

#[test]
fn a_pass_with_nothing_to_do_does_not_touch_the_disk() {
    let machine = Machine::new();
    let config = TopicConfig::new().durability(Durability::Process).retention_bytes(Some(1 << 20));
    let (store, log) = machine.start(config);
    append(&log, &["v"]);
    log.flush().unwrap();
    store.maintain().unwrap();
    let calls = machine.disk.calls();
    machine.clock.advance(HOUR);
    let report = store.maintain().unwrap();
    assert_eq!(machine.disk.calls(), calls, "nothing was due");
    assert_eq!(report, Default::default());
    append(&log, &["w"]);
    log.flush().unwrap();
    let calls = machine.disk.calls();
    store.maintain().unwrap();
    assert!(machine.disk.calls() > calls, "the recovery point moved");
}

#[test]
fn intervals_are_kept_without_appends() {
    let machine = Machine::new();
    let interval = Durability::Interval { time: Duration::from_secs(1), bytes: 1 << 30 };
    let (store, log) = machine.start(TopicConfig::new().durability(interval));
    store.maintain().unwrap();
    machine.clock.advance(Duration::from_secs(1));
    append(&log, &["due at once, since nothing was synced for a second"]);
    append(&log, &["not due"]);
    assert_eq!(log.recovery_point(), 1);
    assert!(store.maintain().unwrap().synced.is_empty());
    machine.clock.advance(Duration::from_secs(1));
    let synced = store.maintain().unwrap().synced;
    assert_eq!((synced, log.recovery_point()), (vec![log.id().clone()], 2));
}

#[test]
fn old_segments_go_and_the_report_says_which() {
    let machine = Machine::new();
    let store = machine.open();
    let old = store.create_topic("old", for_a_day().partitions(2)).unwrap().partitions().unwrap();
    let kept = store.create_topic("kept", TopicConfig::new()).unwrap().partition(0).unwrap();
    [&old[0], &old[1], &kept].into_iter().for_each(fill);
    store.maintain().unwrap();
    machine.clock.advance(DAY + Duration::from_millis(1));
    append(&old[1], &["young"]);
    machine.disk.record(true);
    let report = store.maintain().unwrap();
    let before_files = machine.disk.recorded();
    let expired: Vec<_> =
        report.expired.iter().map(|(id, gone)| (id.to_string(), gone.segments, gone.log_start)).collect();
    assert_eq!(expired, [("old-0".into(), 3, 3), ("old-1".into(), 3, 3)]);
    assert!(report.expired.iter().all(|(_, gone)| gone.bytes > 0));
    assert_eq!((old[0].log_start(), old[1].log_start(), kept.log_start()), (3, 3, 0));
    assert_eq!(values(&old[1], 3), [(3, "young".into())]);
    // The log starts were written down once, before any file was touched.
    let written =
        |(call, name): &(Call, PathBuf)| *call == Call::Rename && name.starts_with("annals.checkpoint.tmp");
    let retired = |(call, name): &(Call, PathBuf)| *call == Call::Rename && name.starts_with("old-0");
    let first_written = before_files.iter().position(written).unwrap();
    let first_retired = before_files.iter().position(retired).unwrap();
    assert!(first_written < first_retired, "{first_written} {first_retired}");
    let between = before_files[..first_retired].iter().filter(|call| written(call)).count();
    assert_eq!(between, 1);
    assert!(store.maintain().unwrap().expired.is_empty());
    for after in [machine.cut_off(), machine.killed()] {
        let store = after.open();
        let log = store.topic("old").unwrap().partition(0).unwrap();
        assert_eq!((log.log_start(), log.log_end()), (3, 3));
        assert!(log.recovery_report().damage.is_empty());
    }
}

#[test]
fn size_and_raised_log_starts_are_reasons_too() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().retention_bytes(Some(1)));
    fill(&log);
    append(&log, &["d"]);
    let report = store.maintain().unwrap();
    assert_eq!((report.expired[0].1.segments, log.log_start()), (3, 3), "{report:?}");
}

#[test]
fn files_are_removed_after_their_delay() {
    let machine = Machine::new();
    let (store, log) = machine.start(for_a_day().set("file.delete.delay.ms", "60000").unwrap());
    let other = store.create_topic("u", TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&other, &["v"]);
    fill(&log);
    machine.clock.advance(DAY * 2);
    store.delete_topic("u").unwrap();
    assert!(store.maintain().unwrap().removed.is_empty());
    let waiting = machine.disk.names();
    assert!(waiting.contains(&file(0, "log.deleted")), "{waiting:?}");
    assert!(waiting.iter().any(|name| name.to_string_lossy().starts_with("u-0.")), "{waiting:?}");
    machine.clock.advance(MINUTE - Duration::from_millis(1));
    assert!(store.maintain().unwrap().removed.is_empty());
    machine.clock.advance(Duration::from_millis(1));
    let removed = store.maintain().unwrap().removed;
    let names: Vec<_> = removed.iter().map(|path| path.strip_prefix(store.path()).unwrap()).collect();
    assert_eq!(names[..3], [0, 1, 2].map(|base| file(base, "log.deleted")));
    assert!(names[3].to_string_lossy().starts_with("u-0.") && names.len() == 4, "{names:?}");
    let left = machine.disk.names();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("delete")), "{left:?}");
}

#[test]
fn producers_that_were_silent_for_long_are_forgotten() {
    let machine = Machine::new();
    let config = TopicConfig::new().set("annals.producer.expiration.ms", "60000").unwrap();
    let (store, log) = machine.start(config);
    let send = |id| {
        let record = [Record::new("v")];
        log.append_batch_with(&record, AppendOptions::new().idempotent(id, 0, 0)).unwrap();
    };
    send(1);
    machine.clock.advance(MINUTE / 2);
    send(2);
    assert_eq!(store.maintain().unwrap().producers_expired, 0);
    machine.clock.advance(MINUTE / 2);
    assert_eq!(store.maintain().unwrap().producers_expired, 1);
    assert_eq!(log.producers().iter().map(|producer| producer.producer_id).collect::<Vec<_>>(), [2]);
}

#[test]
fn what_a_pass_writes_down_need_not_be_recovered() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().index_interval_bytes(1));
    for _ in 0..5 {
        let batch = [Record::new("v")];
        let sequence = i32::try_from(log.log_end()).unwrap();
        log.append_batch_with(&batch, AppendOptions::new().idempotent(7, 0, sequence)).unwrap();
    }
    assert!(machine.killed().restart().1.recovery_report().scanned_bytes > 0);
    store.maintain().unwrap();
    assert!(!machine.disk.read(file(0, "index")).unwrap().is_empty());
    assert!(machine.disk.names().contains(&file(5, "snapshot")));
    for after in [machine.killed(), machine.cut_off()] {
        let (_store, log) = after.restart();
        assert_eq!(log.recovery_report().scanned_bytes, 0);
        assert_eq!((log.log_end(), log.producers().len()), (5, 1));
    }
}

// ---- what fails ----

#[test]
fn a_failure_is_returned_and_the_rest_is_done() {
    let machine = Machine::new();
    let store = machine.open();
    let logs =
        ["a", "b", "c"].map(|name| store.create_topic(name, for_a_day()).unwrap().partition(0).unwrap());
    logs.iter().for_each(fill);
    machine.clock.advance(DAY * 2);
    machine.disk.fail(When::next().of(&[Call::Rename]).under("b-0").and_ever_after(), Fault::Error(EIO));
    let error = store.maintain().unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path.to_string_lossy().contains("b-0")), "{error}");
    let status = store.maintenance_status();
    let expired: Vec<_> = status.last_report.unwrap().expired.iter().map(|(id, _)| id.to_string()).collect();
    assert_eq!(expired, ids(&[&logs[0], &logs[2]]));
    assert_eq!((status.passes, status.errors, status.running), (1, 1, false));
    assert_eq!(status.last_error.unwrap(), error.to_string());
    machine.disk.heal();
    store.maintain().unwrap();
    let status = store.maintenance_status();
    assert_eq!((status.passes, status.errors), (2, 1));
    assert!(status.last_error.is_some(), "it stays to be seen");
}

#[test]
fn damage_is_left_alone_and_no_failure() {
    let machine = Machine::new();
    let (store, log) = machine.start(for_a_day().durability(Durability::Process));
    append(&log, &["a"]);
    append(&log, &["b"]);
    drop((store, log));
    assert!(machine.disk.remove(".kafka_cleanshutdown") && machine.disk.remove("annals.checkpoint"));
    assert!(machine.disk.remove("recovery-point-offset-checkpoint"));
    assert!(machine.disk.flip(file(0, "log"), 65, 1));
    let (store, log) = machine.restart();
    assert!(!log.recovery_report().damage.is_empty());
    let healthy = store.create_topic("u", for_a_day()).unwrap().partition(0).unwrap();
    fill(&healthy);
    machine.clock.advance(DAY * 2);
    for expected in [1, 0] {
        let expired = store.maintain().unwrap().expired;
        assert_eq!(expired.len(), expected, "{expired:?}");
    }
    assert_eq!((log.segments().len(), healthy.log_start()), (1, 3));
}

#[test]
fn a_poisoned_partition_is_reported_each_time_and_still_expires() {
    let machine = Machine::new();
    let (store, log) = machine.start(for_a_day());
    fill(&log);
    append(&log, &["d"]);
    machine.disk.fail(When::next().of(&[Call::Sync]).under("t-0"), Fault::Error(EIO));
    log.append(&Record::new("e")).unwrap_err();
    assert!(is_poisoned(&store.maintain().unwrap_err()));
    assert_eq!(log.log_start(), 0);
    machine.clock.advance(DAY * 2);
    assert!(is_poisoned(&store.maintain().unwrap_err()));
    assert_eq!(log.log_start(), 3, "all but the one that is appended to");
    assert!(is_poisoned(&store.maintain().unwrap_err()));
    log.reopen().unwrap();
    store.maintain().unwrap();
    assert_eq!(log.log_start(), 4);
}

#[test]
fn retention_frees_space_on_a_full_disk() {
    for young in [true, false] {
        let machine = Machine::new();
        let config = for_a_day().set("file.delete.delay.ms", "1000").unwrap();
        let (store, log) = machine.start(config);
        let large = "v".repeat(10_000);
        for _ in 0..3 {
            append(&log, &[&large]);
            log.roll().unwrap();
        }
        append(&log, &["active"]);
        store.maintain().unwrap();
        machine.clock.advance(DAY * 2);
        if young {
            append(&log, &["young"]);
        }
        let full_at = machine.disk.used();
        machine.disk.set_capacity(Some(full_at));
        let full = log.append(&Record::new(&large)).unwrap_err();
        assert!(matches!(full, Error::StorageFull { .. }), "{full}");
        let _ = store.maintain();
        assert_eq!(log.log_start(), 3, "young: {young}");
        machine.clock.advance(Duration::from_secs(1));
        let _ = store.maintain();
        assert!(machine.disk.used() + 30_000 <= full_at, "young: {young}");
        append(&log, &[&large]);
        store.maintain().unwrap();
        let (_store, after) = machine.killed().restart();
        assert_eq!(after.log_end(), log.log_end());
        assert!(after.log_start() >= 3 && after.recovery_report().damage.is_empty());
    }
}

#[test]
fn a_topic_deleted_during_a_pass_is_not_mistaken_for_the_one_that_follows() {
    let disk = SimulatedDisk::new(1);
    let store: Arc<OnceLock<Store>> = Arc::default();
    let armed = Arc::new(AtomicBool::new(false));
    let hook = {
        let (store, armed) = (Arc::clone(&store), Arc::clone(&armed));
        move |call: Call, name: &Path| {
            // Topic `a` is being relieved of its old segments; `t` comes next.
            if call == Call::SyncDir && name == Path::new("a-0") && armed.swap(false, Ordering::SeqCst) {
                let store = store.get().unwrap();
                store.delete_topic("t").unwrap();
                let anew = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
                append(&anew, &["of the new topic"]);
            }
        }
    };
    let machine = Machine::of(disk.clone());
    let opened = machine.options().open_in(Hooked::new(disk.clone(), hook)).unwrap();
    for name in ["a", "t"] {
        fill(&opened.create_topic(name, for_a_day()).unwrap().partition(0).unwrap());
    }
    machine.clock.advance(DAY * 2);
    store.set(opened).unwrap();
    armed.store(true, Ordering::SeqCst);
    store.get().unwrap().maintain().unwrap();
    assert!(!armed.load(Ordering::SeqCst));
    assert!(disk.names().contains(&file(0, "log")), "{:?}", disk.names());
    for after in [&machine, &machine.cut_off()] {
        let disk = Machine { disk: after.disk.crash(annals::fs::Crash::ProcessKill), ..machine.clone() };
        assert_eq!(values(&disk.restart().1, 0), [(0, "of the new topic".into())]);
    }
}

#[test]
fn new_settings_hold_from_the_next_pass_on() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().retention(None));
    fill(&log);
    machine.clock.advance(DAY * 2);
    assert!(store.maintain().unwrap().expired.is_empty());
    let topic = store.topic("t").unwrap();
    topic.configure([("retention.ms", Some("86400000"))]).unwrap();
    assert_eq!(store.maintain().unwrap().expired.len(), 1);
    assert_eq!(log.log_start(), 3);
    fill(&log);
    topic.configure([("retention.ms", Some("-1")), ("retention.bytes", Some("1"))]).unwrap();
    append(&log, &["last"]);
    assert_eq!(store.maintain().unwrap().expired.len(), 1);
    assert_eq!(log.log_start(), 6);
}

#[test]
fn a_store_opened_for_reading_is_not_maintained() {
    let machine = Machine::new();
    drop(machine.start(TopicConfig::new()));
    let options = machine.options().read_only(true).background(true);
    let store = options.open_in(Arc::new(machine.disk.clone())).unwrap();
    assert!(matches!(store.maintain(), Err(Error::ReadOnly { .. })));
    assert_eq!(store.maintenance_status(), MaintenanceStatus::default());
}

// ---- a clock that jumps ----

/// A store that was maintained once, with three segments that a jump of three days makes too old.
fn before_a_jump() -> (Machine, Store, Partition) {
    let machine = Machine::new();
    let config = for_a_day().set("annals.producer.expiration.ms", "3600000").unwrap();
    let (store, log) = machine.start(config);
    let producer = AppendOptions::new().idempotent(1, 0, 0);
    log.append_batch_with(&[Record::new("of a producer")], producer).unwrap();
    fill(&log);
    store.maintain().unwrap();
    (machine, store, log)
}

#[test]
fn a_jump_ahead_holds_time_retention_back_for_an_hour() {
    let (machine, store, log) = before_a_jump();
    machine.clock.set(NOW + 3 * DAY.as_millis() as i64);
    let report = store.maintain().unwrap();
    assert_eq!(report.warnings.len(), 1, "{report:?}");
    assert!(report.warnings[0].contains("jumped ahead by 259200 s"), "{report:?}");
    for _ in 0..59 {
        machine.clock.advance(MINUTE);
        let report = store.maintain().unwrap();
        assert_eq!((report.warnings.len(), report.expired.len(), report.producers_expired), (0, 0, 0));
    }
    assert_eq!((log.log_start(), log.producers().len()), (0, 1));
    machine.clock.advance(MINUTE);
    let report = store.maintain().unwrap();
    assert_eq!((report.warnings.len(), report.expired.len(), report.producers_expired), (0, 1, 1));
    assert_eq!(log.log_start(), 4);
}

#[test]
fn size_is_a_reason_even_while_age_is_not() {
    let (machine, store, log) = before_a_jump();
    append(&log, &["last"]);
    machine.clock.set(NOW + 3 * DAY.as_millis() as i64);
    store.topic("t").unwrap().configure([("retention.bytes", Some("1"))]).unwrap();
    let report = store.maintain().unwrap();
    assert_eq!((report.warnings.len(), report.expired.len(), log.log_start()), (1, 1, 4));
}

#[test]
fn a_jump_back_does_not_end_the_hold_and_another_ahead_begins_anew() {
    let (machine, store, log) = before_a_jump();
    let ahead = NOW + 3 * DAY.as_millis() as i64;
    machine.clock.set(ahead);
    assert_eq!(store.maintain().unwrap().warnings.len(), 1);
    machine.clock.advance(MINUTE);
    machine.clock.set(NOW);
    assert!(store.maintain().unwrap().warnings.is_empty());
    machine.clock.advance(MINUTE);
    // Less than may be, so no jump; the hold of the first goes on.
    machine.clock.set(NOW + 9 * MINUTE.as_millis() as i64);
    store.topic("t").unwrap().configure([("retention.ms", Some("1"))]).unwrap();
    let report = store.maintain().unwrap();
    assert_eq!((report.warnings.len(), report.expired.len()), (0, 0));
    machine.clock.set(ahead);
    assert_eq!(store.maintain().unwrap().warnings.len(), 1);
    machine.clock.advance(HOUR - Duration::from_millis(1));
    assert!(store.maintain().unwrap().expired.is_empty());
    machine.clock.advance(Duration::from_millis(1));
    assert_eq!(store.maintain().unwrap().expired.len(), 1);
    assert_eq!(log.log_start(), 4);
}

#[test]
fn time_that_passes_is_no_jump() {
    for (monotonic, more, held) in [(DAY * 3, 0, false), (MINUTE, 600_000, false), (MINUTE, 600_001, true)] {
        let (machine, store, _log) = before_a_jump();
        store.topic("t").unwrap().configure([("retention.ms", Some("1"))]).unwrap();
        machine.clock.advance(monotonic);
        machine.clock.set(machine.clock.now() + more);
        let report = store.maintain().unwrap();
        let seen = (report.warnings.len() == 1, report.expired.is_empty());
        assert_eq!(seen, (held, held), "{monotonic:?} and {more} ms");
    }
}

#[test]
fn the_first_pass_after_opening_has_nothing_to_compare_with() {
    let (machine, store, log) = before_a_jump();
    drop((store, log));
    machine.clock.set(NOW + 3 * DAY.as_millis() as i64);
    let (store, log) = machine.restart();
    let report = store.maintain().unwrap();
    assert_eq!((report.warnings.len(), report.expired.len(), log.log_start()), (0, 1, 4));
}

// ---- the thread ----

/// As fast as it goes.
fn in_background(options: StoreOptions) -> StoreOptions {
    options.background(true).maintenance_interval(Duration::ZERO)
}

/// Waits until the passes of a store are as they should be.
fn wait_for(store: &Store, what: &str, is: impl Fn(&MaintenanceStatus) -> bool) -> MaintenanceStatus {
    for _ in 0..600_000 {
        let status = store.maintenance_status();
        if is(&status) {
            return status;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{what}: {:?}", store.maintenance_status());
}

/// A clock that does as it is told when the thread of maintenance asks.
#[derive(Debug)]
struct Told {
    clock: ManualClock,
    asked: AtomicU64,
    panics: AtomicBool,
    slow: AtomicBool,
    drops: Mutex<Option<Store>>,
}

impl Told {
    fn new() -> Arc<Self> {
        let clock = ManualClock::new(NOW);
        Arc::new(Told {
            clock,
            asked: 0.into(),
            panics: false.into(),
            slow: false.into(),
            drops: Mutex::default(),
        })
    }
}

const PLANNED: &str = "planned";

impl Clock for Told {
    fn now(&self) -> i64 {
        if std::thread::current().name() == Some("annals-maintenance") {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.slow.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(50));
            }
            drop(self.drops.lock().unwrap().take());
            assert!(!self.panics.load(Ordering::SeqCst), "{PLANNED}");
        }
        self.clock.now()
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
}

/// Says nothing of panics that belong to a test.
fn expect_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let payload = panic.payload();
            let text = payload.downcast_ref::<String>().map(String::as_str);
            if text.or(payload.downcast_ref::<&str>().copied()) != Some(PLANNED) {
                told(panic);
            }
        }));
    });
}

#[test]
fn without_being_asked_there_is_no_thread() {
    let clock = Told::new();
    let options = Store::options().clock(clock.clone()).maintenance_interval(Duration::ZERO);
    let store = options.open_in(Arc::new(SimulatedDisk::new(1))).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(clock.asked.load(Ordering::SeqCst), 0);
    assert!(!store.maintenance_status().running);
}

#[test]
fn the_thread_does_what_is_due_by_the_clock_it_was_given() {
    let machine = Machine::new();
    let store = in_background(machine.options()).open_in(Arc::new(machine.disk.clone())).unwrap();
    let log = store.create_topic("t", for_a_day()).unwrap().partition(0).unwrap();
    fill(&log);
    let status = wait_for(&store, "passes", |status| status.passes >= 3);
    assert!(status.running && status.errors == 0, "{status:?}");
    assert_eq!(log.log_start(), 0);
    machine.clock.advance(DAY * 2);
    for _ in 0..600_000 {
        if log.log_start() == 3 {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("nothing expired: {:?}", store.maintenance_status());
}

#[test]
fn the_thread_ends_with_the_store_and_keeps_nothing() {
    for close in [true, false] {
        // It must also wake from a long rest.
        for interval in [Duration::ZERO, HOUR] {
            let clock = Told::new();
            let disk = SimulatedDisk::new(1);
            let options =
                Store::options().clock(clock.clone()).background(true).maintenance_interval(interval);
            let store = options.open_in(Arc::new(disk.clone())).unwrap();
            assert!(store.maintenance_status().running);
            if interval.is_zero() {
                clock.slow.store(true, Ordering::SeqCst);
                let asked = clock.asked.load(Ordering::SeqCst);
                wait_for(&store, "a pass under way", |_| clock.asked.load(Ordering::SeqCst) > asked);
            }
            if close {
                store.close().unwrap()
            } else {
                drop(store)
            }
            assert_eq!(Arc::strong_count(&clock), 1, "the thread is gone with what it had");
            let again = Store::options().open_in(Arc::new(disk)).unwrap();
            assert!(again.report().clean);
        }
    }
}

#[test]
fn a_failing_disk_is_reported_and_the_thread_goes_on() {
    let machine = Machine::new();
    let store = in_background(machine.options()).open_in(Arc::new(machine.disk.clone())).unwrap();
    let log = store.create_topic("t", for_a_day()).unwrap().partition(0).unwrap();
    fill(&log);
    machine.disk.fail(When::next().of(&[Call::Rename]).and_ever_after(), Fault::Error(EIO));
    machine.clock.advance(DAY * 2);
    let status = wait_for(&store, "errors", |status| status.errors >= 2);
    assert!(status.running && status.last_error.as_ref().unwrap().contains("cannot rename"), "{status:?}");
    machine.disk.heal();
    let errors = wait_for(&store, "an end of it", |status| {
        let expired = |report: &annals::MaintenanceReport| report.expired.is_empty();
        status.last_report.as_ref().is_some_and(expired) && log.log_start() == 3
    });
    let later = wait_for(&store, "passes", |status| status.passes > errors.passes + 3);
    assert!(later.running);
    store.close().unwrap();
}

#[test]
fn a_panic_is_reported_and_the_thread_goes_on() {
    expect_panics();
    let clock = Told::new();
    let options = in_background(Store::options().clock(clock.clone()));
    let store = options.open_in(Arc::new(SimulatedDisk::new(1))).unwrap();
    let log = store.create_topic("t", for_a_day()).unwrap().partition(0).unwrap();
    fill(&log);
    clock.panics.store(true, Ordering::SeqCst);
    let status = wait_for(&store, "panics", |status| status.errors >= 2);
    assert_eq!(status.last_error.as_deref(), Some("a pass panicked: planned"));
    assert!(status.running);
    clock.panics.store(false, Ordering::SeqCst);
    clock.clock.advance(DAY * 2);
    wait_for(&store, "what was due", |_| log.log_start() == 3);
    append(&log, &["d"]);
    store.close().unwrap();
}

#[test]
fn the_thread_can_be_the_one_that_lets_go_of_the_store() {
    let clock = Told::new();
    let disk = SimulatedDisk::new(1);
    let store = in_background(Store::options().clock(clock.clone())).open_in(Arc::new(disk.clone())).unwrap();
    append(&store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap(), &["v"]);
    *clock.drops.lock().unwrap() = Some(store);
    for _ in 0..600_000 {
        if Arc::strong_count(&clock) == 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(Arc::strong_count(&clock), 1, "it waits for itself");
    let store = Store::options().open_in(Arc::new(disk)).unwrap();
    assert!(store.report().clean);
    assert_eq!(values(&store.topic("t").unwrap().partition(0).unwrap(), 0).len(), 1);
}

#[test]
fn passes_of_others_and_of_the_thread_do_not_meet() {
    let machine = Machine::new();
    let store = in_background(machine.options()).open_in(Arc::new(machine.disk.clone())).unwrap();
    let log = store.create_topic("t", for_a_day()).unwrap().partition(0).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..200).for_each(|_| drop(store.maintain().unwrap())));
        }
        for _ in 0..20 {
            fill(&log);
            machine.clock.advance(DAY * 2);
        }
    });
    let status = store.maintenance_status();
    assert!(status.passes >= 400 && status.errors == 0, "{status:?}");
    store.maintain().unwrap();
    assert_eq!((log.log_start(), log.log_end()), (60, 60));
    store.close().unwrap();
    assert_eq!(machine.restart().1.log_start(), 60);
}

// ---- figures ----

#[test]
fn the_figures_of_a_store_are_those_of_its_partitions() {
    let machine = Machine::new();
    let store = machine.open();
    assert_eq!(store.stats(), Default::default());
    let two = store.create_topic("two", for_a_day().partitions(2)).unwrap();
    let one = store.create_topic("one", TopicConfig::new()).unwrap().partition(0).unwrap();
    fill(&two.partition(0).unwrap());
    let begin = AppendOptions::new().transactional(1, 0, 0);
    one.append_batch_with(&[Record::new("a"), Record::new("b")], begin).unwrap();
    assert_eq!(one.read_from_with(0, Isolation::ReadUncommitted).unwrap().count(), 2);
    let stats = store.stats();
    assert_eq!((stats.topics, stats.partitions, stats.partitions_not_open), (2, 3, 0));
    assert_eq!((stats.segments, stats.producers, stats.open_transactions), (6, 1, 1));
    assert_eq!((stats.appended_batches, stats.appended_records, stats.read_batches), (4, 5, 1));
    assert_eq!(stats.bytes, one.size() + two.partition(0).unwrap().size());
    assert_eq!((stats.appended_bytes, stats.read_bytes), (stats.bytes, one.size()));
    assert!(stats.open_files > 0 && stats.open_files <= 6, "{stats:?}");
    assert_eq!((stats.partitions_refusing, stats.expired_segments), (0, 0));
    machine.clock.advance(DAY * 2);
    store.maintain().unwrap();
    let stats = store.stats();
    assert_eq!((stats.expired_segments, stats.retired_segments, stats.segments), (3, 3, 3));
    assert_eq!((stats.bytes, stats.expired_bytes), (one.size(), stats.appended_bytes - one.size()));
    machine.disk.fail(When::next().of(&[Call::Sync]).under("one-0"), Fault::Error(EIO));
    one.append(&Record::new("c")).unwrap_err();
    assert_eq!(store.stats().partitions_refusing, 1);
    store.delete_topic("one").unwrap();
    assert_eq!(store.stats().appended_records, 3);
}
