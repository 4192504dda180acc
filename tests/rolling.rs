//! When a segment ends and the next begins, what the indexes of both then hold, and what is found through them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

mod common;
#[path = "common/logs.rs"]
mod logs;

use std::path::Path;
use std::time::Duration;

use annals::format::{BatchBuilder, BatchOptions, OffsetIndexEntry, RecordBatch, TimeIndexEntry, stamp};
use annals::{FetchOptions, Partition, Record, StoredRecord, TopicConfig};
use logs::{Machine, NOW, append, file, records, values};
use proptest::prelude::*;

/// A batch of one record of this many bytes of value, and no key, is so large.
fn batch_size(value: usize) -> u32 {
    // A record of less than 64 bytes: length, attributes, two deltas, key, value and headers take a byte each.
    61 + 7 + value as u32
}

fn at(log: &Partition, timestamp: i64) -> u64 {
    log.append(&Record::new("v").timestamp(timestamp)).unwrap()
}

#[test]
fn a_segment_holds_what_fits_and_no_byte_more() {
    let size = batch_size(10);
    for (segment_bytes, each) in [(3 * size, 3), (3 * size - 1, 2), (size, 1), (4 * size - 1, 3)] {
        let machine = Machine::new();
        let (store, log) = machine.start(TopicConfig::new().segment_bytes(segment_bytes));
        for _ in 0..12 {
            append(&log, &["0123456789"]);
        }
        let bases: Vec<u64> = (0..12).step_by(each).collect();
        assert_eq!(log.segments(), bases);
        assert_eq!(values(&log, 0).len(), 12);
        store.close().unwrap();
        let (_store, log) = machine.restart();
        assert_eq!(log.segments(), bases);
        for base in bases {
            let len = machine.disk.read(file(base, "log")).unwrap().len() as u64;
            assert_eq!(len, each as u64 * u64::from(size));
        }
        // The last one is full: the next append begins a new one, also after a restart.
        append(&log, &["0123456789"]);
        assert_eq!(*log.segments().last().unwrap(), 12);
    }
}

#[test]
fn a_large_batch_begins_a_segment_of_its_own_and_none_is_left_empty() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new().segment_bytes(200));
    append(&log, &["small"]);
    let large = "x".repeat(100);
    append(&log, &[&large]);
    append(&log, &["small"]);
    assert_eq!(log.segments(), [0, 1, 2]);
    assert_eq!(values(&log, 0).len(), 3);
}

#[test]
fn a_segment_ends_by_the_time_of_its_records() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().segment_age(Duration::from_millis(1000)));
    at(&log, NOW);
    // The wall clock says nothing where the records have a time.
    machine.clock.advance(Duration::from_secs(3600));
    at(&log, NOW + 1000);
    at(&log, NOW - 5000);
    assert_eq!(log.segments(), [0], "not older than it may be");
    at(&log, NOW + 1001);
    assert_eq!(log.segments(), [0, 3]);
    // From the first batch on, whatever came later.
    at(&log, NOW);
    at(&log, NOW + 2001);
    assert_eq!(log.segments(), [0, 3]);
    store.close().unwrap();
    let (_store, log) = machine.restart();
    at(&log, NOW + 2001);
    assert_eq!(log.segments(), [0, 3], "the first batch is known after a restart");
    at(&log, NOW + 2002);
    assert_eq!(log.segments(), [0, 3, 7]);
    assert_eq!(records(&log, 0).len(), 8);
}

#[test]
fn a_segment_of_records_without_time_ends_by_the_clock() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new().segment_age(Duration::from_millis(1000)));
    machine.clock.advance(Duration::from_millis(5000));
    at(&log, -1);
    assert_eq!(log.segments(), [0], "an empty one is not rolled");
    at(&log, -1);
    assert_eq!(log.segments(), [0, 1], "it is as old as its file");
    machine.clock.advance(Duration::from_millis(1000));
    at(&log, -1);
    assert_eq!(log.segments(), [0, 1]);
    machine.clock.advance(Duration::from_millis(1));
    at(&log, -1);
    assert_eq!(log.segments(), [0, 1, 3]);
    // A clock that jumps back ends nothing.
    machine.clock.set(5);
    at(&log, -1);
    assert_eq!(log.segments(), [0, 1, 3]);
}

#[test]
fn the_age_is_lowered_by_chance_and_never_by_more_than_the_jitter() {
    let machine = Machine::new();
    let config = TopicConfig::new()
        .segment_age(Duration::from_millis(1000))
        .set("segment.jitter.ms", "400")
        .unwrap()
        .partitions(4);
    let store = machine.open();
    let topic = store.create_topic("t", config).unwrap();
    let mut early = [0; 2];
    for log in topic.partitions().unwrap() {
        let mut begun = NOW - 1_000_000;
        at(&log, begun);
        for _ in 0..16 {
            let segments = log.segments().len();
            at(&log, begun + 600);
            assert_eq!(log.segments().len(), segments, "more than the jitter too early");
            at(&log, begun + 800);
            let rolled = log.segments().len() > segments;
            early[usize::from(rolled)] += 1;
            if rolled {
                begun += 800;
            } else {
                at(&log, begun + 1001);
                assert_eq!(log.segments().len(), segments + 1, "too late");
                begun += 1001;
            }
        }
    }
    assert!(early[0] >= 10 && early[1] >= 10, "not much of a chance: {early:?}");
    // More jitter than age is as much as the age.
    let config = TopicConfig::new()
        .segment_age(Duration::from_millis(10))
        .set("segment.jitter.ms", &i64::MAX.to_string())
        .unwrap();
    let log = store.create_topic("u", config).unwrap().partition(0).unwrap();
    at(&log, NOW);
    at(&log, NOW);
    assert_eq!(log.segments(), [0]);
    at(&log, NOW + 11);
    assert_eq!(log.segments(), [0, 2]);
}

#[test]
fn a_segment_ends_when_its_index_is_full() {
    for bytes in [4u32, 12, 24, 25, 100, 1000] {
        let machine = Machine::new();
        let config =
            TopicConfig::new().index_interval_bytes(0).set("segment.index.bytes", &bytes.to_string());
        let (store, log) = machine.start(config.unwrap());
        for n in 0..200 {
            at(&log, NOW + n);
        }
        let bases = log.segments();
        assert!(bases.len() > 1, "{bytes}");
        assert_eq!(records(&log, 0).len(), 200);
        store.close().unwrap();
        for base in bases {
            for extension in ["index", "timeindex"] {
                let len = machine.disk.read(file(base, extension)).map_or(0, |bytes| bytes.len());
                // One entry has to fit, since a sealed segment says what its largest timestamp is.
                assert!(len <= (bytes as usize).max(12), "{extension} of {base} has {len} bytes of {bytes}");
            }
        }
        let (_store, log) = machine.restart();
        assert_eq!(records(&log, 0).len(), 200);
    }
}

/// One encoded batch at an offset.
fn batch_at(offset: u64, value: &str) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions { default_timestamp: NOW, ..BatchOptions::default() });
    builder.push(&Record::new(value)).unwrap();
    let mut batch = builder.finish().unwrap();
    stamp(&mut batch, offset, 0).unwrap();
    batch
}

#[test]
fn a_segment_spans_no_more_offsets_than_an_index_entry_can_say() {
    let span = i32::MAX as u64;
    let machine = Machine::new();
    let log = [batch_at(0, "first"), batch_at(span - 2, "far")].concat();
    machine.disk.write(file(0, "log"), &log).unwrap();
    let (store, log) = machine.restart();
    assert_eq!(log.log_end(), span - 1);
    for offset in span - 1..span + 3 {
        assert_eq!(append(&log, &["v"]), offset);
    }
    assert_eq!(log.segments(), [0, span + 1]);
    let offsets: Vec<u64> = records(&log, 0).iter().map(StoredRecord::offset).collect();
    assert_eq!(offsets, [0, span - 2, span - 1, span, span + 1, span + 2]);
    store.close().unwrap();
    let (_store, log) = machine.restart();
    for (from, next) in [(1, span - 2), (span, span), (span + 1, span + 1), (span + 2, span + 2)] {
        assert_eq!(records(&log, from)[0].offset(), next);
    }
}

// ---- what the index files hold ----

/// The worked example that Kafka's own classes gave: 8 batches of 121 bytes with 2 records each, from offset 1000 on.
fn worked_example(machine: &Machine) -> Partition {
    // A partition that begins at 1000, as a broker leaves one whose records were all deleted.
    machine.disk.write("t-0/leader-epoch-checkpoint", b"0\n0\n").unwrap();
    for name in ["recovery-point-offset-checkpoint", "log-start-offset-checkpoint"] {
        machine.disk.write(name, b"0\n1\nt 0 1000\n").unwrap();
    }
    let store = example_store(machine);
    let log = store.topic("t").unwrap().partition(0).unwrap();
    assert_eq!((log.log_start(), log.log_end(), log.segments()), (1000, 1000, vec![1000]));
    for time in [0, 10, 5, 20, 20, 15, 30, 1] {
        let record = Record::new("twenty-three characters").timestamp(NOW + time);
        log.append_batch(&[record.clone(), record]).unwrap();
    }
    let fetched = log.fetch(1000, FetchOptions::new()).unwrap();
    assert!(fetched.batches.iter().all(|batch| batch.header().size == 121));
    store.close().unwrap();
    log
}

fn example_store(machine: &Machine) -> annals::Store {
    let defaults = TopicConfig::new().index_interval_bytes(150);
    let fs = std::sync::Arc::new(machine.disk.clone());
    machine.options().topic_defaults(defaults).open_in(fs).unwrap()
}

#[test]
fn the_index_files_are_kafkas_byte_for_byte_also_when_they_are_rebuilt() {
    let machine = Machine::new();
    worked_example(&machine);
    let index = || machine.disk.read(file(1000, "index")).unwrap();
    let times = || machine.disk.read(file(1000, "timeindex")).unwrap();
    assert_eq!((index(), times()), (common::vector("S_index"), common::vector("S_timeindex")));
    for lost in [&["index"][..], &["timeindex"], &["index", "timeindex"]] {
        for extension in lost {
            assert!(machine.disk.remove(file(1000, extension)));
        }
        // As after a crash before anything was written down: all of it is read again.
        machine.disk.remove(".kafka_cleanshutdown");
        machine.disk.remove("annals.checkpoint");
        machine.disk.write("recovery-point-offset-checkpoint", b"0\n0\n").unwrap();
        let store = example_store(&machine);
        let log = store.topic("t").unwrap().partition(0).unwrap();
        assert_eq!(log.recovery_report().rebuilt_indexes, [1000]);
        assert_eq!(log.log_end(), 1016);
        store.close().unwrap();
        assert_eq!(
            (index(), times()),
            (common::vector("S_index"), common::vector("S_timeindex")),
            "{lost:?}"
        );
    }
}

#[test]
fn lookups_in_the_worked_example() {
    let index = annals::OffsetIndex::new(1000);
    for (offset, position) in [(1005, 242), (1009, 484), (1013, 726)] {
        index.append(offset, position).unwrap();
    }
    for (offset, position) in
        [(0, 0), (1000, 0), (1004, 0), (1005, 242), (1008, 242), (1009, 484), (1013, 726), (u64::MAX, 726)]
    {
        assert_eq!(index.lookup(offset).position, position, "{offset}");
    }
    let times = annals::TimeIndex::new(1000);
    for (time, offset) in [(10, 1003), (10, 1005), (20, 1007), (20, 1009), (30, 1013)] {
        times.maybe_append(time, offset).unwrap();
    }
    assert_eq!(times.len(), 3);
    for (time, offset) in [(-1, 1000), (9, 1000), (10, 1003), (19, 1003), (20, 1007), (30, 1013), (99, 1013)]
    {
        assert_eq!(times.lookup(time).offset, offset, "{time}");
    }
}

/// What the two index files of one log file must hold, by Kafka's rules and from the log alone.
fn expected_indexes(log: &[u8], base: u64, interval: u64) -> (Vec<u8>, Vec<u8>) {
    let (mut index, mut times) = (Vec::new(), Vec::new());
    let (mut position, mut since, mut largest, mut largest_at, mut last_time) = (0u64, 0u64, -1, 0, -1);
    let mut note_time = |time: i64, offset: u64| {
        if time > last_time {
            let relative_offset = (offset - base) as u32;
            times.extend_from_slice(&TimeIndexEntry { timestamp: time, relative_offset }.encode());
            last_time = time;
        }
    };
    while (position as usize) < log.len() {
        let size = 12 + u32::from_be_bytes(log[position as usize + 8..][..4].try_into().unwrap()) as usize;
        let batch = RecordBatch::parse(log[position as usize..][..size].to_vec().into()).unwrap();
        let header = batch.header();
        if header.max_timestamp > largest {
            (largest, largest_at) = (header.max_timestamp, header.last_offset);
        }
        if since > interval {
            let entry = OffsetIndexEntry {
                relative_offset: (header.last_offset - base) as u32,
                position: position as u32,
            };
            index.extend_from_slice(&entry.encode());
            note_time(largest, largest_at);
            since = 0;
        }
        since += size as u64;
        position += size as u64;
    }
    note_time(largest, largest_at);
    (index, times)
}

#[derive(Debug, Clone)]
struct Script {
    batches: Vec<(usize, i64, usize)>,
    interval: u32,
    segment: u32,
}

fn script() -> impl Strategy<Value = Script> {
    let batch = (1usize..4, -1i64..60, 0usize..40);
    (proptest::collection::vec(batch, 1..60), 0u32..400, 250u32..2500)
        .prop_map(|(batches, interval, segment)| Script { batches, interval, segment })
}

fn run_script(machine: &Machine, script: &Script) -> (annals::Store, Partition, Vec<i64>) {
    let config = TopicConfig::new().index_interval_bytes(script.interval).segment_bytes(script.segment);
    let (store, log) = machine.start(config);
    let mut times = Vec::new();
    for (count, time, len) in &script.batches {
        let value = "v".repeat(*len);
        // Within a batch the times go down, so that its largest is not its last.
        let of = |n: usize| if *time < 0 { -1 } else { (NOW + time - n as i64).max(0) };
        let batch: Vec<_> = (0..*count).map(|n| Record::new(&value).timestamp(of(n))).collect();
        log.append_batch(&batch).unwrap();
        times.extend((0..*count).map(of));
    }
    (store, log, times)
}

/// Every lookup by time and by offset, against the list of all times.
fn check_lookups(log: &Partition, times: &[i64]) {
    for probe in (-2..62).map(|by| NOW + by).chain([0, i64::MAX]) {
        let expected = times.iter().position(|&time| time >= probe);
        let found = log.offset_for_timestamp(probe).unwrap();
        assert_eq!(found.map(|f| f.offset), expected.map(|at| at as u64), "for {probe} in {times:?}");
        assert_eq!(found.map(|f| f.timestamp), expected.map(|at| times[at]));
    }
    let largest = times.iter().copied().max().filter(|&time| time >= 0);
    let first = largest.and_then(|largest| times.iter().position(|&time| time == largest));
    assert_eq!(log.offset_of_max_timestamp().unwrap().map(|found| found.offset), first.map(|at| at as u64));
    for offset in 0..times.len() as u64 {
        let first = log.read_from(offset).unwrap().next().unwrap().unwrap();
        assert_eq!((first.offset(), first.timestamp()), (offset, times[offset as usize]));
    }
}

fn check_index_files(machine: &Machine, script: &Script, bases: &[u64]) {
    for (n, &base) in bases.iter().enumerate() {
        let log = machine.disk.read(file(base, "log")).unwrap();
        let (index, times) = expected_indexes(&log, base, script.interval.into());
        let sealed = n + 1 < bases.len();
        // The index of a log too short for an entry is not worth a file while the segment is active.
        if sealed || !index.is_empty() {
            assert_eq!(machine.disk.read(file(base, "index")).as_ref(), Some(&index), "index of {base}");
            assert_eq!(machine.disk.read(file(base, "timeindex")).as_ref(), Some(&times), "times of {base}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn indexes_follow_kafkas_rules_and_lookups_are_right(script in script()) {
        let machine = Machine::new();
        let (store, log, times) = run_script(&machine, &script);
        check_lookups(&log, &times);
        let bases = log.segments();
        store.close().unwrap();
        check_index_files(&machine, &script, &bases);
        let (store, log) = machine.restart();
        prop_assert!(log.recovery_report().clean);
        check_lookups(&log, &times);
        drop(log);
        drop(store);
        // Without the indexes, and without a word about the clean end.
        for &base in &bases {
            machine.disk.remove(file(base, "index"));
            machine.disk.remove(file(base, "timeindex"));
        }
        for name in [".kafka_cleanshutdown", "annals.checkpoint", "recovery-point-offset-checkpoint"] {
            machine.disk.remove(name);
        }
        let (_store, log) = machine.restart();
        check_lookups(&log, &times);
    }
}

#[test]
fn equal_times_give_the_first_record_also_across_segments() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().segment_bytes(2 * batch_size(1)));
    for time in [5, 9, 9, 9, 2, 9, 7, 7] {
        at(&log, NOW + time);
    }
    assert_eq!(log.segments().len(), 4);
    let check = |log: &Partition| {
        let first = |time| log.offset_for_timestamp(NOW + time).unwrap().map(|found| found.offset);
        assert_eq!(
            [first(0), first(5), first(6), first(9), first(10)],
            [Some(0), Some(0), Some(1), Some(1), None]
        );
        let largest = log.offset_of_max_timestamp().unwrap().unwrap();
        assert_eq!((largest.offset, largest.timestamp, largest.leader_epoch), (1, NOW + 9, Some(0)));
    };
    check(&log);
    store.close().unwrap();
    check(&machine.restart().1);
}

#[test]
fn a_log_without_times_has_no_record_at_any_time() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new());
    assert_eq!(log.offset_for_timestamp(0).unwrap(), None);
    assert_eq!(log.offset_of_max_timestamp().unwrap(), None);
    at(&log, -1);
    assert_eq!(log.offset_for_timestamp(0).unwrap(), None);
    assert_eq!(log.offset_of_max_timestamp().unwrap(), None);
    at(&log, 0);
    assert_eq!(log.offset_for_timestamp(0).unwrap().unwrap().offset, 1);
    assert_eq!(log.offset_of_max_timestamp().unwrap().unwrap().offset, 1);
}

#[test]
fn a_hundred_segments_read_as_one_log() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().segment_bytes(300).index_interval_bytes(80));
    let mut end = 0;
    while log.segments().len() < 100 {
        let texts: Vec<String> = (end..end + 1 + end % 3).map(|offset| offset.to_string()).collect();
        append(&log, &texts.iter().map(String::as_str).collect::<Vec<_>>());
        end = log.log_end();
    }
    let expected: Vec<_> = (0..end).map(|offset| (offset, offset.to_string())).collect();
    let check = |log: &Partition| {
        assert_eq!(values(log, 0), expected);
        for from in 0..end {
            let first = log.read_from(from).unwrap().next().unwrap().unwrap();
            assert_eq!((first.offset(), first.value()), (from, Some(from.to_string().as_bytes())));
        }
        let fetched = log.fetch(0, FetchOptions::new()).unwrap();
        assert_eq!(fetched.next_offset, end);
    };
    check(&log);
    let bases = log.segments();
    drop(log);
    store.close().unwrap();
    let (_store, log) = machine.restart();
    assert!(log.recovery_report().clean);
    assert_eq!(log.segments(), bases);
    check(&log);
    assert!(machine.disk.read(Path::new("t-0").join(format!("{:020}.index", bases[3]))).is_some());
}
