//! What a crash leaves of index files: nothing half written, and nothing that hides records from a search by time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::path::Path;
use std::sync::Arc;

use annals::clock::ManualClock;
use annals::fs::{Call, Crash, Fault, SimulatedDisk, When};
use annals::{Partition, Record, Store, TopicConfig};

const NOW: i64 = 1_700_000_000_000;
const ENOSPC: i32 = 28;

fn open(disk: &SimulatedDisk) -> annals::Result<Store> {
    let clock = Arc::new(ManualClock::new(NOW));
    Store::options().recovery_threads(1).clock(clock).open_in(Arc::new(disk.clone()))
}

/// Appends with rolls in between, and flushes that write the indexes of the active segment, too.
fn run(disk: &SimulatedDisk) -> Option<Store> {
    let store = open(disk).ok()?;
    let config = TopicConfig::new().segment_bytes(1000).index_interval_bytes(150);
    let log = store.create_topic("t", config).ok()?.partition(0).ok()?;
    for number in 0..40u8 {
        // After errors it goes on, as an application would.
        let _ = log.append(&Record::new(&[number; 40]).timestamp(NOW + i64::from(number)));
        if number % 3 == 0 {
            let _ = store.flush();
        }
    }
    Some(store)
}

/// Opens what a crash left, crashes again, and looks at what the second opening sees.
fn check_after_two_crashes(image: &SimulatedDisk, label: &str) {
    let first = open(image).expect("an image does not open");
    let image = image.crash(Crash::ProcessKill);
    drop(first);
    let store = open(&image).expect("an image does not open again");
    let Ok(topic) = store.topic("t") else { return };
    let log = topic.partition(0).expect("a partition does not open");
    assert_eq!(log.recovery_report().unknown, Vec::<std::path::PathBuf>::new(), "{label}");
    for name in image.names() {
        let in_partition = name.parent() == Some(Path::new("t-0"));
        assert!(
            !in_partition || name.extension().is_none_or(|last| last != "tmp"),
            "{label}: {}",
            name.display()
        );
    }
    check_times(&log, label);
}

/// Every record is found by its own time.
fn check_times(log: &Partition, label: &str) {
    for record in log.read_from(0).unwrap() {
        let record = record.unwrap();
        let found = log.offset_for_timestamp(record.timestamp()).unwrap().map(|found| found.offset);
        assert_eq!(found, Some(record.offset()), "{label}: time {}", record.timestamp());
    }
}

fn calls_of_a_run() -> u64 {
    let whole = SimulatedDisk::new(1);
    let store = run(&whole);
    let calls = whole.calls();
    drop(store);
    calls
}

#[test]
fn a_crash_leaves_no_litter_and_no_index_that_hides_records() {
    for call in 1..=calls_of_a_run() {
        let disk = SimulatedDisk::new(1);
        disk.fail(When::nth(call), Fault::PowerOff);
        let store = run(&disk);
        for crash in [Crash::ProcessKill, Crash::PowerCut { seed: call }] {
            check_after_two_crashes(&disk.crash(crash), &format!("{crash:?} at call {call}"));
        }
        drop(store);
    }
}

#[test]
fn an_index_that_could_not_be_written_hides_no_records_after_a_crash() {
    for call in 1..=calls_of_a_run() {
        for ever_after in [false, true] {
            let disk = SimulatedDisk::new(1);
            let when = When::nth(call);
            disk.fail(if ever_after { when.and_ever_after() } else { when }, Fault::Error(ENOSPC));
            let store = run(&disk);
            let image = disk.crash(Crash::ProcessKill);
            drop(store);
            image.heal();
            check_after_two_crashes(&image, &format!("no room at call {call}, ever after {ever_after}"));
        }
    }
}

#[test]
fn a_checkpoint_made_for_another_topic_does_not_outrun_the_indexes() {
    let disk = SimulatedDisk::new(1);
    let store = open(&disk).unwrap();
    let config = || TopicConfig::new().segment_bytes(1000).index_interval_bytes(150);
    let quiet = store.create_topic("quiet", config()).unwrap().partition(0).unwrap();
    let busy = store.create_topic("busy", config()).unwrap().partition(0).unwrap();
    let append = |log: &Partition, number: u8| {
        log.append(&Record::new(&[number; 40]).timestamp(NOW + i64::from(number))).unwrap();
    };
    (0..3).for_each(|number| append(&quiet, number));
    store.flush().unwrap();
    // The index files of the quiet one end here; the rolls of the other have its recovery point written down.
    (3..5).for_each(|number| append(&quiet, number));
    (0..40).for_each(|number| append(&busy, number));
    let again = open(&disk.crash(Crash::ProcessKill)).unwrap();
    check_times(&again.topic("quiet").unwrap().partition(0).unwrap(), "quiet");
}

#[test]
fn a_partition_reopened_after_a_failed_sync_finds_every_record_by_its_time() {
    let disk = SimulatedDisk::new(1);
    let store = open(&disk).unwrap();
    let config = TopicConfig::new().index_interval_bytes(150);
    let log = store.create_topic("t", config).unwrap().partition(0).unwrap();
    let append = |number: u8| log.append(&Record::new(&[number; 40]).timestamp(NOW + i64::from(number)));
    for number in 0..6 {
        append(number).unwrap();
    }
    store.flush().unwrap();
    for number in 6..8 {
        append(number).unwrap();
    }
    disk.fail(When::next().of(&[Call::Sync]), Fault::Forget);
    append(100).unwrap_err();
    log.reopen().unwrap();
    check_times(&log, "reopened");
    let newest = log.offset_of_max_timestamp().unwrap().unwrap();
    assert_eq!((newest.offset, newest.timestamp), (7, NOW + 7));
}
