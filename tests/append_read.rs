//! What one partition promises about appending and reading: offsets, batches, refusals and their reasons.
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

use std::time::Duration;

use annals::format::{
    BatchBuilder, BatchHeader, BatchOptions, Compression, TimestampType, crc32c, encode_empty,
};
use annals::fs::Call;
use annals::{
    AppendOptions, CleanupPolicy, CompressionType, Durability, Error, FetchOptions, FormatError, Isolation,
    Partition, Record, Store, TopicConfig,
};
use logs::{Machine, NOW, append, records, values};

const CODECS: [(CompressionType, Compression); 5] = [
    (CompressionType::Uncompressed, Compression::None),
    (CompressionType::Gzip, Compression::Gzip),
    (CompressionType::Snappy, Compression::Snappy),
    (CompressionType::Lz4, Compression::Lz4),
    (CompressionType::Zstd, Compression::Zstd),
];

fn start(config: TopicConfig) -> (Machine, Store, Partition) {
    let machine = Machine::new();
    let (store, log) = machine.start(config);
    (machine, store, log)
}

/// Nothing of what was just refused is there, and the next append gets the offset it would have had.
fn assert_nothing_appended(log: &Partition) {
    let end = log.log_end();
    assert_eq!(records(log, end).len(), 0);
    let record = Record::new("after a refusal").key("key").timestamp(NOW);
    assert_eq!(log.append(&record).unwrap(), end);
}

#[test]
fn offsets_are_dense_and_a_batch_is_stored_as_one() {
    let (_machine, _store, log) = start(TopicConfig::new());
    assert_eq!((log.log_start(), log.log_end()), (0, 0));
    let mut end = 0;
    for count in [1, 5, 2, 40, 1] {
        let texts: Vec<String> = (end..end + count).map(|offset| format!("value {offset}")).collect();
        let batch: Vec<Record<'_>> = texts.iter().map(Record::new).collect();
        let appended = log.append_batch(&batch).unwrap();
        assert_eq!((appended.base_offset, appended.last_offset), (end, end + count - 1));
        assert_eq!(appended.append_time, None);
        end += count;
        assert_eq!((log.log_end(), log.high_watermark(), log.last_stable_offset()), (end, end, end));
        assert_eq!(log.recovery_point(), end, "synced before it returned");
    }
    let expected: Vec<_> = (0..end).map(|offset| (offset, format!("value {offset}"))).collect();
    assert_eq!(values(&log, 0), expected);
    let batches = log.fetch(0, FetchOptions::new()).unwrap().batches;
    let bounds: Vec<_> = batches.iter().map(|batch| (batch.base_offset(), batch.last_offset())).collect();
    assert_eq!(bounds, [(0, 0), (1, 5), (6, 7), (8, 47), (48, 48)]);
    assert!(batches.iter().all(|batch| batch.header().leader_epoch == Some(0)));
    assert_eq!(batches.iter().map(|batch| batch.header().size).sum::<u64>(), log.size());
}

#[test]
fn one_bad_record_keeps_out_its_whole_batch_and_no_records_are_no_batch() {
    let (_machine, _store, log) = start(TopicConfig::new());
    append(&log, &["there"]);
    let batch = [Record::new("a"), Record::new("b"), Record::new("c").timestamp(-2), Record::new("d")];
    let error = log.append_batch(&batch).unwrap_err();
    assert!(matches!(error, Error::InvalidTimestamp { index: 2, timestamp: -2, .. }), "{error}");
    assert_nothing_appended(&log);
    let error = log.append_batch(&[]).unwrap_err();
    assert!(matches!(error, Error::InvalidRecord { index: 0, .. }), "{error}");
    assert_nothing_appended(&log);
}

#[test]
fn every_shape_of_a_record_comes_back_in_every_codec_also_after_a_restart() {
    let long = vec![7u8; 70_000];
    let shapes = || {
        vec![
            Record::new("plain"),
            Record::new("").key(""),
            Record::tombstone().key("key"),
            Record::tombstone(),
            Record::new(&[0u8, 255, 128]).key(&[255u8; 3]).timestamp(0),
            Record::new("headers")
                .header("h", "1")
                .header("h", "2")
                .null_header("none")
                .header("", "")
                .header("ünicode", &[9u8]),
            Record::new(&long).key(&long).header("long", &long),
            Record::new("early").timestamp(NOW - 9_000_000_000),
            Record::new("none").timestamp(-1),
        ]
    };
    for (codec, stored) in CODECS.into_iter().filter(|(_, stored)| common::enabled(*stored)) {
        let machine = Machine::new();
        let (store, log) = machine.start(TopicConfig::new().compression(codec));
        log.append_batch(&shapes()).unwrap();
        for shape in shapes() {
            log.append(&shape).unwrap();
        }
        store.close().unwrap();
        let (_store, log) = machine.restart();
        let read = records(&log, 0);
        let appended: Vec<Record<'_>> = shapes().into_iter().chain(shapes()).collect();
        assert_eq!(read.len(), appended.len());
        for (at, (read, appended)) in read.iter().zip(&appended).enumerate() {
            assert_eq!(read.offset(), at as u64);
            assert_eq!(
                (read.key(), read.value()),
                (appended.key_bytes(), appended.value_bytes()),
                "{codec:?}"
            );
            assert_eq!(read.timestamp(), appended.timestamp_millis().unwrap_or(NOW), "{codec:?} {at}");
            assert!(read.headers().eq(appended.headers().iter().cloned()), "{codec:?} {at}");
            assert_eq!(read.sequence(), None);
        }
        let batches = log.fetch(0, FetchOptions::new()).unwrap().batches;
        assert!(batches.iter().all(|batch| batch.header().compression == stored), "{codec:?}");
    }
}

#[test]
fn a_codec_that_was_left_out_is_refused_by_name() {
    for (codec, stored) in CODECS.into_iter().filter(|(_, stored)| !common::enabled(*stored)) {
        let (_machine, _store, log) = start(TopicConfig::new().compression(codec));
        let error = log.append(&Record::new("x")).unwrap_err();
        let Error::InvalidBatch { source: FormatError::CodecDisabled { codec } } = error else {
            panic!("{error}")
        };
        assert_eq!(codec, stored.name());
        assert_eq!(log.log_end(), 0);
    }
}

#[test]
fn a_topic_that_stamps_its_records_does_so() {
    let config = TopicConfig::new().timestamp_type(TimestampType::LogAppendTime);
    let (machine, _store, log) = start(config);
    let batch =
        [Record::new("a").timestamp(5), Record::new("b").timestamp(NOW + (1 << 40)), Record::new("c")];
    let appended = log.append_batch(&batch).unwrap();
    assert_eq!(appended.append_time, Some(NOW));
    machine.clock.advance(Duration::from_millis(7));
    assert_eq!(
        log.append_encoded(&encoded(&["d"]), AppendOptions::new()).unwrap().append_time,
        Some(NOW + 7)
    );
    let stamped: Vec<i64> = records(&log, 0).iter().map(|record| record.timestamp()).collect();
    assert_eq!(stamped, [NOW, NOW, NOW, NOW + 7]);
    for batch in log.fetch(0, FetchOptions::new()).unwrap().batches {
        assert_eq!(batch.header().timestamp_type, TimestampType::LogAppendTime);
    }
    assert_eq!(log.offset_for_timestamp(NOW + 1).unwrap().unwrap().offset, 3);
}

#[test]
fn timestamps_out_of_bounds_are_refused_and_the_record_is_named() {
    let config = TopicConfig::new()
        .set("message.timestamp.before.max.ms", "1000")
        .and_then(|config| config.set("message.timestamp.after.max.ms", "2000"))
        .unwrap();
    let (machine, _store, log) = start(config);
    for timestamp in [NOW - 1001, NOW + 2001, 0, i64::MAX, -2, i64::MIN] {
        let batch = [Record::new("a"), Record::new("b").timestamp(timestamp)];
        let error = log.append_batch(&batch).unwrap_err();
        let Error::InvalidTimestamp { index: 1, timestamp: named, reason } = &error else {
            panic!("{error}")
        };
        assert_eq!(*named, timestamp);
        assert!(timestamp < 0 || reason.contains("message.timestamp."), "{reason}");
        assert_nothing_appended(&log);
        if timestamp >= 0 {
            let batch = encoded_records(&[Record::new("a").timestamp(NOW), batch[1].clone()]);
            let error = log.append_encoded(&batch, AppendOptions::new()).unwrap_err();
            assert!(matches!(error, Error::InvalidTimestamp { index: 1, .. }), "{error}");
        }
    }
    for timestamp in [NOW - 1000, NOW, NOW + 2000, -1] {
        log.append(&Record::new("at the bound").timestamp(timestamp)).unwrap();
    }
    // The bounds go with the clock.
    machine.clock.set(NOW + 500);
    log.append(&Record::new("later").timestamp(NOW + 2500)).unwrap();
    assert!(log.append(&Record::new("old").timestamp(NOW - 1000)).is_err());
}

#[test]
fn a_batch_larger_than_the_topic_takes_is_refused_and_one_just_as_large_is_not() {
    let value = vec![b'x'; 500];
    let (_machine, _store, log) = start(TopicConfig::new());
    log.append(&Record::new(&value)).unwrap();
    let size = log.size();
    for (setting, config) in [
        ("max.message.bytes", TopicConfig::new().max_message_bytes(size as u32)),
        ("segment.bytes", TopicConfig::new().segment_bytes(size as u32)),
    ] {
        let (_machine, _store, log) = start(config);
        log.append(&Record::new(&value)).unwrap();
        let larger = vec![b'x'; 501];
        let error = log.append(&Record::new(&larger)).unwrap_err();
        let Error::TooLarge { size: found, limit, setting: named, .. } = error else { panic!("{error}") };
        assert_eq!((found, limit, named), (size + 1, size, setting));
        let error = log.append_encoded(&encoded_records(&[Record::new(&larger)]), AppendOptions::new());
        assert!(matches!(error, Err(Error::TooLarge { setting: named, .. }) if named == setting));
        assert_eq!(log.log_end(), 1);
        log.append(&Record::new(&value)).unwrap();
        assert_eq!(log.segments().len(), if setting == "segment.bytes" { 2 } else { 1 });
    }
}

#[test]
#[cfg(feature = "zstd")]
fn what_counts_is_the_size_after_compression() {
    let value = vec![b'x'; 100_000];
    let config = TopicConfig::new().max_message_bytes(1_000);
    let (_machine, _store, log) = start(config.clone());
    assert!(matches!(log.append(&Record::new(&value)), Err(Error::TooLarge { .. })));
    let (_machine, _store, log) = start(config.compression(CompressionType::Zstd));
    log.append(&Record::new(&value)).unwrap();
    assert_eq!(records(&log, 0)[0].value(), Some(&value[..]));
    // A client's compressed batch that this topic would have to store unpacked.
    let small = encoded_with(Compression::Zstd, &[Record::new(&value)]);
    let (_machine, _store, log) =
        start(TopicConfig::new().max_message_bytes(1_000).compression(CompressionType::Uncompressed));
    assert!(matches!(log.append_encoded(&small, AppendOptions::new()), Err(Error::TooLarge { .. })));
    assert_nothing_appended(&log);
    // What it holds unpacked has a limit of its own.
    let config = TopicConfig::new().set("annals.max.decompressed.bytes", "5000").unwrap();
    let (_machine, _store, log) = start(config);
    let error = log.append_encoded(&small, AppendOptions::new()).unwrap_err();
    assert!(matches!(error, Error::InvalidBatch { source: FormatError::Limit { .. } }), "{error}");
}

#[test]
fn a_compacted_topic_needs_keys() {
    for policy in ["compact", "compact,delete"] {
        let (_machine, _store, log) = start(TopicConfig::new().set("cleanup.policy", policy).unwrap());
        let batch = [Record::new("a").key("k"), Record::new("b"), Record::new("c")];
        let error = log.append_batch(&batch).unwrap_err();
        assert!(
            matches!(&error, Error::InvalidRecord { index: 1, reason } if reason.contains("key")),
            "{error}"
        );
        let error = log.append_encoded(&encoded(&["a"]), AppendOptions::new()).unwrap_err();
        assert!(matches!(error, Error::InvalidRecord { index: 0, .. }), "{error}");
        log.append(&Record::tombstone().key("")).unwrap();
        assert_nothing_appended(&log);
    }
    let both = CleanupPolicy { delete: true, compact: true };
    assert_eq!(TopicConfig::new().cleanup_policy(both).get("cleanup.policy").unwrap(), "compact,delete");
}

#[test]
fn reading_begins_within_a_batch_and_at_the_end_and_nowhere_else() {
    let (_machine, _store, log) = start(TopicConfig::new());
    append(&log, &["0", "1", "2"]);
    append(&log, &["3", "4"]);
    for from in 0..=5 {
        let expected: Vec<_> = (from..5).map(|offset| (offset, offset.to_string())).collect();
        assert_eq!(values(&log, from), expected);
        assert_eq!(log.read_from(from).unwrap().position(), from);
    }
    for from in [6, 7, 1 << 40, u64::MAX] {
        let read = log.read_from(from).map(drop).unwrap_err();
        let fetched = log.fetch(from, FetchOptions::new()).map(drop).unwrap_err();
        for error in [read, fetched] {
            let Error::OffsetOutOfRange { partition, requested, log_start, log_end } = &error else {
                panic!("{error}")
            };
            assert_eq!((partition.as_str(), *requested, *log_start, *log_end), ("t-0", from, 0, 5));
        }
    }
}

#[test]
fn reading_below_the_log_start_is_refused() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().segment_bytes(100));
    for n in 0..6 {
        append(&log, &[&format!("a value, the number {n}")]);
    }
    drop(log);
    store.close().unwrap();
    // As Kafka's own tools move it.
    machine.disk.remove("annals.checkpoint");
    machine.disk.write("recovery-point-offset-checkpoint", b"0\n1\nt 0 6\n").unwrap();
    machine.disk.write("log-start-offset-checkpoint", b"0\n1\nt 0 3\n").unwrap();
    let (_store, log) = machine.restart();
    assert_eq!((log.log_start(), log.log_end()), (3, 6));
    for from in [0, 2] {
        let Error::OffsetOutOfRange { requested, log_start, log_end, .. } = log.read_from(from).unwrap_err()
        else {
            panic!("not out of range")
        };
        assert_eq!((requested, log_start, log_end), (from, 3, 6));
    }
    assert_eq!(values(&log, 3).len(), 3);
    assert_eq!(log.offset_for_timestamp(0).unwrap().unwrap().offset, 3);
}

#[test]
fn an_iterator_at_the_end_goes_on_when_there_is_more() {
    let (_machine, _store, log) = start(TopicConfig::new().segment_bytes(200));
    let mut reader = log.read_from(0).unwrap();
    assert!(reader.next().is_none());
    for round in 0..20u64 {
        let end = log.log_end();
        append(&log, &["a", "b"]);
        for offset in [end, end + 1] {
            assert_eq!(reader.next().unwrap().unwrap().offset(), offset, "round {round}");
            assert_eq!(reader.position(), offset + 1);
        }
        assert!(reader.next().is_none());
        assert!(reader.skip_damage().is_none(), "there is no damage to skip");
    }
    assert!(log.segments().len() > 5);
}

#[test]
fn a_fetch_brings_whole_batches_within_its_limit_but_always_one() {
    let (_machine, _store, log) = start(TopicConfig::new());
    append(&log, &["0", "1", "2"]);
    let first = log.size();
    append(&log, &["3"]);
    let second = log.size() - first;
    append(&log, &["4", "5"]);
    let fetch = |from, max_bytes| {
        let fetched = log.fetch(from, FetchOptions::new().max_bytes(max_bytes)).unwrap();
        assert_eq!((fetched.log_start, fetched.high_watermark, fetched.last_stable_offset), (0, 6, 6));
        let bases: Vec<u64> = fetched.batches.iter().map(|batch| batch.base_offset()).collect();
        (bases, fetched.next_offset)
    };
    for from in 0..3 {
        assert_eq!(fetch(from, 0), (vec![0], 3), "the first batch begins below {from}");
        assert_eq!(fetch(from, first + second - 1), (vec![0], 3));
        assert_eq!(fetch(from, first + second), (vec![0, 3], 4));
        assert_eq!(fetch(from, u64::MAX), (vec![0, 3, 4], 6));
    }
    assert_eq!(fetch(3, second), (vec![3], 4));
    assert_eq!(fetch(5, 1), (vec![4], 6));
    assert_eq!(fetch(6, u64::MAX), (vec![], 6));
    for isolation in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
        let fetched = log.fetch(0, FetchOptions::new().isolation(isolation)).unwrap();
        assert_eq!(fetched.batches.len(), 3, "nothing is undecided");
    }
}

#[test]
fn a_fetch_goes_on_in_the_next_segment() {
    let (_machine, _store, log) = start(TopicConfig::new().segment_bytes(150));
    for n in 0..9 {
        append(&log, &[&format!("a value, the number {n}")]);
    }
    assert!(log.segments().len() > 2);
    let fetched = log.fetch(0, FetchOptions::new()).unwrap();
    assert_eq!((fetched.batches.len(), fetched.next_offset), (9, 9));
}

// ---- batches that clients encoded ----

fn encoded_with(compression: Compression, records: &[Record<'_>]) -> Vec<u8> {
    build(BatchOptions { codec: compression.into(), ..BatchOptions::default() }, records)
}

fn build(options: BatchOptions, records: &[Record<'_>]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions { default_timestamp: NOW, ..options });
    records.iter().for_each(|record| builder.push(record).unwrap());
    builder.finish().unwrap()
}

fn encoded_records(records: &[Record<'_>]) -> Vec<u8> {
    encoded_with(Compression::None, records)
}

fn encoded(values: &[&str]) -> Vec<u8> {
    encoded_records(&values.iter().map(|value| Record::new(*value)).collect::<Vec<_>>())
}

/// Puts bytes into a batch and makes its checksum right again.
fn patched(batch: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut batch = batch.to_vec();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

const LAST_OFFSET_DELTA: usize = 23;
const MAX_TIMESTAMP: usize = 35;
const PRODUCER_ID: usize = 43;
const RECORDS_COUNT: usize = 57;

#[test]
fn an_encoded_batch_is_stored_as_it_came() {
    let (_machine, _store, log) = start(TopicConfig::new());
    append(&log, &["before"]);
    let options = BatchOptions {
        producer_id: 4000,
        producer_epoch: 2,
        base_sequence: 10,
        leader_epoch: 77,
        ..BatchOptions::default()
    };
    let batch = build(
        options,
        &[
            Record::new("a").key("k").timestamp(NOW - 3),
            Record::tombstone().header("h", "x").timestamp(NOW - 9),
            Record::new("").timestamp(NOW + 4),
        ],
    );
    let appended = log.append_encoded(&batch, AppendOptions::new()).unwrap();
    assert_eq!((appended.base_offset, appended.last_offset, appended.append_time), (1, 3, None));
    let stored = &log.fetch(1, FetchOptions::new()).unwrap().batches[0];
    assert_eq!(&stored.as_bytes()[16..], &batch[16..], "all but offset, length and leader epoch");
    let header = stored.header();
    assert_eq!((header.base_offset, header.leader_epoch), (1, Some(0)));
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (Some(4000), 2, 10));
    let sequences: Vec<_> = records(&log, 1).iter().map(|record| record.sequence()).collect();
    assert_eq!(sequences, [Some(10), Some(11), Some(12)]);
    assert_eq!(append(&log, &["after"]), 4);
}

#[test]
fn an_encoded_batch_that_lies_about_its_largest_timestamp_is_put_right() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let batch =
        encoded_records(&[Record::new("a").timestamp(NOW - 50), Record::new("b").timestamp(NOW - 70)]);
    for lie in [NOW + 1_000, NOW - 60, -1, 0, i64::MAX] {
        log.append_encoded(&patched(&batch, MAX_TIMESTAMP, &lie.to_be_bytes()), AppendOptions::new())
            .unwrap();
    }
    for fetched in log.fetch(0, FetchOptions::new()).unwrap().batches {
        assert_eq!(fetched.header().max_timestamp, NOW - 50);
        assert_eq!(fetched.as_bytes()[21..], batch[21..]);
    }
    assert_eq!(log.offset_for_timestamp(NOW - 60).unwrap().unwrap().offset, 0);
    assert_eq!(log.offset_for_timestamp(NOW).unwrap(), None);
    store.close().unwrap();
    let (_store, log) = machine.restart();
    assert_eq!(records(&log, 0).len(), 10);
}

#[test]
#[cfg(all(feature = "gzip", feature = "zstd"))]
fn an_encoded_batch_in_another_codec_than_the_topics_is_compressed_again() {
    let value = vec![b'v'; 3_000];
    let shapes =
        [Record::new(&value).key("k").timestamp(NOW - 7), Record::tombstone().key("t").header("h", "x")];
    let options = || BatchOptions {
        codec: Compression::Gzip.into(),
        producer_id: 5,
        producer_epoch: 1,
        base_sequence: 3,
        transactional: true,
        ..BatchOptions::default()
    };
    for (codec, stored) in [
        (CompressionType::Producer, Compression::Gzip),
        (CompressionType::Gzip, Compression::Gzip),
        (CompressionType::Zstd, Compression::Zstd),
        (CompressionType::Uncompressed, Compression::None),
    ] {
        let (_machine, _store, log) = start(TopicConfig::new().compression(codec));
        let batch = build(options(), &shapes);
        log.append_encoded(&batch, AppendOptions::new()).unwrap();
        let fetched = &log.fetch(0, FetchOptions::new()).unwrap().batches[0];
        let header = fetched.header();
        assert_eq!(header.compression, stored, "{codec:?}");
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (Some(5), 1, 3));
        assert!(header.transactional);
        if stored == Compression::Gzip {
            assert_eq!(fetched.as_bytes()[16..], batch[16..]);
        }
        let read = records(&log, 0);
        assert_eq!((read[0].key(), read[0].value()), (Some(&b"k"[..]), Some(&value[..])));
        assert_eq!((read[0].timestamp(), read[1].timestamp()), (NOW - 7, NOW));
        assert_eq!((read[1].value(), read[1].headers().len()), (None, 1));
    }
}

#[test]
fn encoded_batches_that_may_not_be_are_refused_each_for_its_reason() {
    let good = encoded(&["a", "b"]);
    let names = |error: &FormatError, what| matches!(error, FormatError::Invalid { what: named, .. } if *named == what);
    let invalid = |what: &'static str| move |error: &FormatError| names(error, what);
    type Expects = Box<dyn Fn(&FormatError) -> bool>;
    let mut bad_checksum = good.clone();
    *bad_checksum.last_mut().unwrap() ^= 1;
    let mut based = good.clone();
    based[7] = 1;
    let with = |options: BatchOptions| build(options, &[Record::new("a").key("k")]);
    let control =
        with(BatchOptions { control: true, producer_id: 1, producer_epoch: 0, ..BatchOptions::default() });
    let stamped = with(BatchOptions {
        timestamp_type: TimestampType::LogAppendTime,
        append_time: NOW,
        ..BatchOptions::default()
    });
    let horizon = with(BatchOptions { delete_horizon: Some(NOW), ..BatchOptions::default() });
    let empty = encode_empty(&BatchHeader::parse(&good).unwrap()).unwrap();
    let empty = patched(&empty, LAST_OFFSET_DELTA, &0i32.to_be_bytes());
    let mut newer = good.clone();
    newer[16] = 3;
    let cases: Vec<(&str, Vec<u8>, Expects)> = vec![
        ("an offset of its own", based, Box::new(invalid("the base offset of the batch"))),
        ("a bad checksum", bad_checksum, Box::new(|e| matches!(e, FormatError::Checksum { .. }))),
        (
            "a byte behind it",
            [&good[..], &[0]].concat(),
            Box::new(|e| matches!(e, FormatError::Trailing { .. })),
        ),
        ("two batches", good.repeat(2), Box::new(|e| matches!(e, FormatError::Trailing { .. }))),
        ("a part of it", good[..good.len() - 1].into(), Box::new(|e| matches!(e, FormatError::Short { .. }))),
        ("nothing", vec![], Box::new(|e| matches!(e, FormatError::Short { .. }))),
        ("half a header", good[..40].into(), Box::new(|e| matches!(e, FormatError::Short { .. }))),
        ("control records", control, Box::new(invalid("the control bit"))),
        ("an append time", stamped, Box::new(invalid("the timestamp type"))),
        ("a delete horizon", horizon, Box::new(invalid("the delete horizon bit"))),
        (
            "a producer without sequence",
            patched(&good, PRODUCER_ID, &9i64.to_be_bytes()),
            Box::new(invalid("the base sequence")),
        ),
        ("no records", empty, Box::new(invalid("the number of records"))),
        (
            "fewer records than offsets",
            patched(&good, LAST_OFFSET_DELTA, &2i32.to_be_bytes()),
            Box::new(invalid("the number of records")),
        ),
        (
            "fewer offsets than records",
            patched(&good, LAST_OFFSET_DELTA, &0i32.to_be_bytes()),
            Box::new(|_| true),
        ),
        (
            "fewer records than it says",
            patched(&good, RECORDS_COUNT, &3i32.to_be_bytes()),
            Box::new(|_| true),
        ),
        ("more records than it says", patched(&good, RECORDS_COUNT, &1i32.to_be_bytes()), Box::new(|_| true)),
        ("-1 records", patched(&good, RECORDS_COUNT, &(-1i32).to_be_bytes()), Box::new(|_| true)),
        ("a span below 0", patched(&good, LAST_OFFSET_DELTA, &(-1i32).to_be_bytes()), Box::new(|_| true)),
        (
            "offsets that do not begin at 0",
            patched(&shifted(), LAST_OFFSET_DELTA, &1i32.to_be_bytes()),
            Box::new(|_| true),
        ),
        ("an unknown codec", patched(&good, 22, &[5]), Box::new(|_| true)),
        ("magic 0", common::vector("L0_v0"), Box::new(invalid("the magic of the batch"))),
        ("magic 1", common::vector("L1_v1"), Box::new(invalid("the magic of the batch"))),
        ("magic 3", newer, Box::new(|_| true)),
    ];
    let (_machine, _store, log) = start(TopicConfig::new());
    for (what, batch, expects) in cases {
        match log.append_encoded(&batch, AppendOptions::new()) {
            Err(Error::InvalidBatch { source }) if expects(&source) => {}
            other => panic!("{what} gave {other:?}"),
        }
        assert_nothing_appended(&log);
    }
    assert_eq!(log.append_encoded(&good, AppendOptions::new()).unwrap().base_offset, log.log_end() - 2);
}

/// Two records with the deltas 1 and 2.
fn shifted() -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions { default_timestamp: NOW, ..BatchOptions::default() });
    builder.push_at(1, &Record::new("a")).unwrap();
    builder.push_at(2, &Record::new("b")).unwrap();
    builder.finish().unwrap()
}

// ---- durability of single appends ----

fn syncs(machine: &Machine, act: impl FnOnce()) -> usize {
    machine.disk.record(true);
    act();
    let calls = machine.disk.recorded();
    machine.disk.record(false);
    let log = |name: &std::path::Path| name.extension().is_some_and(|extension| extension == "log");
    calls.iter().filter(|(call, name)| *call == Call::Sync && log(name)).count()
}

#[test]
fn one_append_can_be_more_durable_than_its_topic_and_not_less() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new().durability(Durability::Process));
    let with = |level| {
        let (log, record) = (log.clone(), [Record::new("x")]);
        move || {
            log.append_batch_with(&record, AppendOptions::new().durability(level)).unwrap();
        }
    };
    assert_eq!(
        syncs(&machine, || {
            append(&log, &["a"]);
        }),
        0
    );
    assert_eq!(log.recovery_point(), 0);
    assert_eq!(syncs(&machine, with(Durability::Process)), 0);
    assert_eq!(syncs(&machine, with(Durability::Synced)), 1);
    assert_eq!(log.recovery_point(), 3);
    append(&log, &["lost"]);
    let (_after, survived) = machine.cut_off().restart();
    assert_eq!(survived.log_end(), 3, "and what came before it, since a log has no holes");
    let (_after, survived) = machine.killed().restart();
    assert_eq!(survived.log_end(), 4);

    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new());
    let weaker = AppendOptions::new().durability(Durability::Process);
    let record = [Record::new("x")];
    assert_eq!(
        syncs(&machine, || {
            log.append_batch_with(&record, weaker).unwrap();
        }),
        1
    );
    assert_eq!(
        syncs(&machine, || {
            log.append_encoded(&encoded(&["y"]), weaker).unwrap();
        }),
        1
    );
}

#[test]
fn an_interval_syncs_when_its_bytes_or_its_time_are_up() {
    let machine = Machine::new();
    let level = Durability::Interval { time: Duration::from_millis(50), bytes: 300 };
    let (store, log) = machine.start(TopicConfig::new().durability(level));
    append(&log, &["a"]);
    let size = log.size();
    let one = || {
        append(&log, &["a"]);
    };
    let mut unsynced = size;
    while unsynced + size < 300 {
        assert_eq!(syncs(&machine, one), 0, "{unsynced} bytes");
        unsynced += size;
    }
    assert_eq!(syncs(&machine, one), 1);
    assert_eq!(log.recovery_point(), log.log_end());
    assert_eq!(syncs(&machine, one), 0);
    machine.clock.advance(Duration::from_millis(49));
    assert_eq!(syncs(&machine, || assert!(store.maintain().unwrap().synced.is_empty())), 0);
    machine.clock.advance(Duration::from_millis(1));
    assert_eq!(store.maintain().unwrap().synced.len(), 1);
    assert_eq!(log.recovery_point(), log.log_end());
}

#[test]
fn kafkas_own_flush_settings_sync_as_well() {
    let machine = Machine::new();
    let config = TopicConfig::new().durability(Durability::Process).set("flush.messages", "3").unwrap();
    let (_store, log) = machine.start(config);
    let one = || {
        append(&log, &["a"]);
    };
    assert_eq!([syncs(&machine, one), syncs(&machine, one), syncs(&machine, one)], [0, 0, 1]);
    assert_eq!(
        syncs(&machine, || {
            append(&log, &["a", "b", "c"]);
        }),
        1
    );
    assert_eq!(log.recovery_point(), 6);
}

#[test]
fn flushing_makes_everything_durable_whatever_the_topic_says() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().durability(Durability::Process).segment_bytes(200));
    for round in 0..6u64 {
        for _ in 0..5 {
            append(&log, &["value"]);
        }
        if round % 2 == 0 {
            log.flush().unwrap()
        } else {
            store.flush().unwrap()
        }
        assert_eq!(log.recovery_point(), log.log_end());
        let (_after, survived) = machine.cut_off().restart();
        assert_eq!(survived.log_end(), (round + 1) * 5);
    }
}
