//! Byte for byte what Apache Kafka writes: every vector decodes to what Kafka put in, and what is not
//! compressed is encoded to the same bytes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and so do its helpers"
)]

mod common;

use annals::format::codec::{
    Reader, unsigned_varint_len, varint_len, varlong_len, write_unsigned_varint, write_varint, write_varlong,
};
use annals::format::{
    AbortedTransaction, BatchBuilder, BatchHeader, BatchOptions, Compression, ControlType,
    EndTransactionMarker, EpochEntry, LeaderEpochs, OffsetCheckpoint, OffsetIndexEntry, PartitionMetadata,
    ProducerEntry, ProducerSnapshot, Record, RecordBatch, RecordView, TimeIndexEntry, TimestampType,
    clean_shutdown, crc32c, decrement_sequence, encode_empty, increment_sequence, stamp, stamp_append_time,
};
use annals::{FormatError, TopicName, TopicPartition, Uuid};
use common::{enabled, records_of, vector, vectors};

const T: i64 = 1_700_000_000_000;

/// A record in plain values: offset, timestamp, key, value, headers.
type Plain = (u64, i64, Option<String>, Option<String>, Vec<(String, Option<String>)>);

fn plain(offset: u64, timestamp: i64, key: Option<&str>, value: Option<&str>) -> Plain {
    (offset, timestamp, key.map(str::to_owned), value.map(str::to_owned), Vec::new())
}

fn plain_of(record: RecordView<'_>) -> Plain {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let headers = record.headers().map(|header| (header.key.to_owned(), header.value.map(text))).collect();
    (record.offset(), record.timestamp(), record.key().map(text), record.value().map(text), headers)
}

/// The records of a vector, and the same again by way of records that outlive the batch.
fn decoded(name: &str) -> Vec<Plain> {
    let records = records_of(&vector(name));
    let borrowed: Vec<_> = records.iter().map(plain_of).collect();
    assert_eq!(records.len(), borrowed.len());
    let owned: Vec<_> = records.into_iter().map(|record| plain_of(record.view())).collect();
    assert_eq!(owned, borrowed, "{name}");
    borrowed
}

fn header(name: &str) -> BatchHeader {
    RecordBatch::parse(vector(name).into()).unwrap().header().clone()
}

fn build(options: BatchOptions, records: &[Record<'_>]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(options);
    for record in records {
        builder.push(record).unwrap();
    }
    let estimate = builder.size_estimate();
    let batch = builder.finish().unwrap();
    assert_eq!(batch.len(), estimate);
    batch
}

fn none() -> BatchOptions {
    BatchOptions::default()
}

#[test]
fn all_vectors_are_here() {
    assert_eq!(vectors().len(), 27);
}

#[test]
fn checksum_check_value() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn varint_examples() {
    let examples: [(i32, &[u8]); 12] = [
        (0, &[0x00]),
        (-1, &[0x01]),
        (1, &[0x02]),
        (63, &[0x7e]),
        (-64, &[0x7f]),
        (64, &[0x80, 0x01]),
        (-65, &[0x81, 0x01]),
        (8191, &[0xfe, 0x7f]),
        (-8192, &[0xff, 0x7f]),
        (8192, &[0x80, 0x80, 0x01]),
        (i32::MAX, &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
        (i32::MIN, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
    ];
    for (value, bytes) in examples {
        let mut out = Vec::new();
        write_varint(&mut out, value);
        assert_eq!(out, bytes, "{value}");
        assert_eq!(varint_len(value), bytes.len());
        assert_eq!(Reader::new(bytes).varint("v"), Ok(value));
        out.clear();
        write_varlong(&mut out, value.into());
        assert_eq!(out, bytes, "{value} as 64 bits");
    }
    for (value, last) in [(i64::MAX, 0xfe), (i64::MIN, 0xff)] {
        let mut bytes = vec![last];
        bytes.extend([0xff; 8]);
        bytes.push(0x01);
        let mut out = Vec::new();
        write_varlong(&mut out, value);
        assert_eq!(out, bytes, "{value}");
        assert_eq!(varlong_len(value), 10);
        assert_eq!(Reader::new(&bytes).varlong("v"), Ok(value));
    }
    let mut out = Vec::new();
    write_unsigned_varint(&mut out, u32::MAX);
    assert_eq!(out, [0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert_eq!(unsigned_varint_len(u32::MAX), 5);
}

#[test]
fn sequences_wrap_from_the_largest_to_zero() {
    assert_eq!(increment_sequence(i32::MAX, 0), i32::MAX);
    assert_eq!(increment_sequence(i32::MAX, 1), 0);
    assert_eq!(increment_sequence(i32::MAX - 1, 3), 1);
    assert_eq!(increment_sequence(5, i32::MAX), 4);
    assert_eq!(decrement_sequence(0, 1), i32::MAX);
    assert_eq!(decrement_sequence(1, 3), i32::MAX - 1);
    assert_eq!(decrement_sequence(9, 4), 5);
}

#[test]
fn one_record_without_producer() {
    let batch = build(none(), &[Record::new("v").key("k").timestamp(T)]);
    assert_eq!(batch, vector("B1_v2_single"));
    assert_eq!(decoded("B1_v2_single"), [plain(0, T, Some("k"), Some("v"))]);
    let header = header("B1_v2_single");
    assert_eq!((header.base_offset, header.last_offset, header.size, header.magic), (0, 0, 70, 2));
    assert_eq!((header.leader_epoch, header.producer_id, header.records_count), (None, None, Some(1)));
    assert_eq!((header.producer_epoch, header.base_sequence, header.last_sequence()), (-1, -1, -1));
}

#[test]
fn an_idempotent_batch_with_headers_null_key_and_tombstone() {
    let options = BatchOptions {
        base_offset: 100,
        leader_epoch: 7,
        producer_id: 4000,
        producer_epoch: 2,
        base_sequence: 10,
        ..none()
    };
    let batch = build(
        options,
        &[
            Record::new("value1").key("key1").timestamp(T).header("h1", "x").null_header("h2"),
            Record::new("no-key").timestamp(T - 5),
            Record::tombstone().key("key2").timestamp(T + 1000),
        ],
    );
    assert_eq!(batch, vector("B2_v2_idempotent3"));

    let mut first = plain(100, T, Some("key1"), Some("value1"));
    first.4 = vec![("h1".into(), Some("x".into())), ("h2".into(), None)];
    let second = plain(101, T - 5, None, Some("no-key"));
    let third = plain(102, T + 1000, Some("key2"), None);
    assert_eq!(decoded("B2_v2_idempotent3"), [first, second, third]);
    let header = header("B2_v2_idempotent3");
    assert_eq!((header.leader_epoch, header.producer_id, header.producer_epoch), (Some(7), Some(4000), 2));
    assert_eq!((header.base_sequence, header.last_sequence(), header.next_offset()), (10, 12, 103));
    assert_eq!((header.base_timestamp, header.max_timestamp), (T, T + 1000));
    let sequences: Vec<_> = records_of(&batch).iter().map(|record| record.sequence()).collect();
    assert_eq!(sequences, [Some(10), Some(11), Some(12)]);
}

#[test]
fn append_time_built_or_stamped_later() {
    let record = Record::new("v").key("k").timestamp(T);
    let base = BatchOptions { base_offset: 5, leader_epoch: 3, ..none() };
    let options =
        BatchOptions { timestamp_type: TimestampType::LogAppendTime, append_time: T + 7, ..base.clone() };
    assert_eq!(build(options, std::slice::from_ref(&record)), vector("B3_v2_logappend"));
    assert_eq!(decoded("B3_v2_logappend"), [plain(5, T + 7, Some("k"), Some("v"))]);
    assert_eq!(header("B3_v2_logappend").timestamp_type, TimestampType::LogAppendTime);

    let mut stamped = build(none(), &[record]);
    stamp(&mut stamped, 5, 3).unwrap();
    stamp_append_time(&mut stamped, T + 7).unwrap();
    assert_eq!(stamped, vector("B3_v2_logappend"));
}

#[test]
fn a_transactional_batch_and_what_compaction_leaves_of_it() {
    let options = BatchOptions {
        base_offset: 200,
        leader_epoch: 7,
        producer_id: 4000,
        producer_epoch: 3,
        base_sequence: 0,
        transactional: true,
        ..none()
    };
    let records = decoded("B4_v2_txn");
    assert_eq!(records, [plain(200, T, Some("a"), Some("1")), plain(201, T + 1, Some("b"), Some("2"))]);
    let pushed: Vec<_> = records
        .iter()
        .map(|(_, timestamp, key, value, _)| {
            Record::new(value.as_ref().unwrap()).key(key.as_ref().unwrap()).timestamp(*timestamp)
        })
        .collect();
    assert_eq!(build(options, &pushed), vector("B4_v2_txn"));

    let header = header("B4_v2_txn");
    assert!(header.transactional && !header.control);
    assert_eq!((header.base_offset, header.last_offset), (200, 201));
    let empty = encode_empty(&header).unwrap();
    assert_eq!(empty, vector("B7_empty_after_compaction"));
    let empty = RecordBatch::parse(empty.into()).unwrap();
    assert!(empty.records(0).unwrap().is_empty());
    assert_eq!((empty.next_offset(), empty.header().last_sequence()), (202, 1));
    assert_eq!(empty.header().max_timestamp, header.max_timestamp);
}

#[test]
fn markers_of_a_transaction() {
    for (name, commit) in [("B5_commit_marker", true), ("B6_abort_marker", false)] {
        let marker = EndTransactionMarker { coordinator_epoch: 11, commit };
        let options = BatchOptions {
            base_offset: 202,
            leader_epoch: 7,
            default_timestamp: T + 2,
            producer_id: 4000,
            producer_epoch: 3,
            ..none()
        };
        assert_eq!(marker.encode_batch(&options).unwrap(), vector(name));
        let header = header(name);
        assert!(header.control && header.transactional);
        let records = records_of(&vector(name));
        let record = records.iter().next().unwrap();
        assert_eq!((record.offset(), record.timestamp()), (202, T + 2));
        assert_eq!(EndTransactionMarker::parse(&record), Ok(Some(marker)));
    }
}

#[test]
fn other_control_records_are_no_markers() {
    let records = records_of(&vector("B8_leader_change"));
    let record = records.iter().next().unwrap();
    assert_eq!(ControlType::parse(record.key().unwrap()), Ok(ControlType::LeaderChange));
    assert_eq!(EndTransactionMarker::parse(&record), Ok(None));
    assert!(header("B8_leader_change").control && !header("B8_leader_change").transactional);
}

#[test]
fn control_keys_and_values_of_later_versions_are_read_by_their_first_bytes() {
    assert_eq!(ControlType::parse(&[0, 9, 0, 1, 0xff]), Ok(ControlType::Commit));
    assert_eq!(ControlType::parse(&[0, 0, 1, 0]), Ok(ControlType::Unknown(256)));
    assert!(matches!(ControlType::parse(&[0xff, 0xff, 0, 1]), Err(FormatError::Invalid { .. })));
    assert!(matches!(ControlType::parse(&[0, 0, 0]), Err(FormatError::Short { .. })));
}

#[test]
fn cleaning_keeps_offsets_and_moves_the_base_timestamp() {
    let before = build(
        BatchOptions { base_offset: 10, leader_epoch: 0, ..none() },
        &[
            Record::new("v1").key("k1").timestamp(T),
            Record::tombstone().key("k2").timestamp(T + 1),
            Record::new("v3").key("k3").timestamp(T + 2),
        ],
    );
    assert_eq!(before, vector("B9a_before_cleaning"));

    let horizon = T + 100_000 + 86_400_000;
    let options = BatchOptions {
        delete_horizon: Some(horizon),
        ..BatchOptions::rewriting(&header("B9a_before_cleaning"))
    };
    let mut builder = BatchBuilder::new(options);
    for record in records_of(&before).iter().skip(1) {
        builder.push_view(&record).unwrap();
    }
    assert_eq!(builder.finish().unwrap(), vector("B9b_after_cleaning_delete_horizon"));

    let after = header("B9b_after_cleaning_delete_horizon");
    assert_eq!((after.base_offset, after.last_offset, after.records_count), (10, 12, Some(2)));
    assert_eq!((after.delete_horizon, after.max_timestamp), (Some(horizon), T + 2));
    let expected = [plain(11, T + 1, Some("k2"), None), plain(12, T + 2, Some("k3"), Some("v3"))];
    assert_eq!(decoded("B9b_after_cleaning_delete_horizon"), expected);
}

#[test]
fn every_codec_holds_the_same_two_records() {
    let (a, b) = ("a".repeat(40), "b".repeat(40));
    let records = [Record::new(&a).key("key1").timestamp(T), Record::new(&b).key("key2").timestamp(T + 1)];
    assert_eq!(build(none(), &records), vector("C0_none"));

    let expected = [plain(0, T, Some("key1"), Some(&a)), plain(1, T + 1, Some("key2"), Some(&b))];
    let names = ["C0_none", "C1_gzip", "C2_snappy", "C3_lz4", "C4_zstd"];
    for (id, name) in names.into_iter().enumerate() {
        let compression = Compression::from_id(id as u8).unwrap();
        assert_eq!(header(name).compression, compression);
        if enabled(compression) {
            assert_eq!(decoded(name), expected, "{name}");
        } else {
            let refused = RecordBatch::parse(vector(name).into()).unwrap().records(1000).unwrap_err();
            assert_eq!(refused, FormatError::CodecDisabled { codec: compression.name() });
        }
    }
}

#[cfg(feature = "lz4")]
#[test]
fn lz4_frames_have_the_header_that_kafka_writes() {
    let batch = vector("C3_lz4");
    let mut options = BatchOptions { codec: Compression::Lz4.into(), ..none() };
    options.default_timestamp = T;
    let mut builder = BatchBuilder::new(options);
    builder.push(&Record::new("v")).unwrap();
    let ours = builder.finish().unwrap();
    assert_eq!(ours[61..68], batch[61..68]);
}

#[cfg(feature = "snappy")]
#[test]
fn snappy_streams_have_the_header_that_kafka_writes() {
    let batch = vector("C2_snappy");
    let mut builder = BatchBuilder::new(BatchOptions { codec: Compression::Snappy.into(), ..none() });
    builder.push(&Record::new("v")).unwrap();
    assert_eq!(builder.finish().unwrap()[61..77], batch[61..77]);
}

#[test]
fn single_legacy_messages() {
    assert_eq!(decoded("L0_v0"), [plain(3, -1, Some("k"), Some("v"))]);
    assert_eq!(decoded("L0_v0_nullkey"), [plain(4, -1, None, Some("v"))]);
    assert_eq!(decoded("L1_v1"), [plain(3, T, Some("k"), Some("v"))]);
    let header = header("L1_v1");
    assert_eq!((header.magic, header.leader_epoch, header.producer_id), (1, None, None));
    assert_eq!((header.base_offset, header.next_offset(), header.size), (3, 4, 36));
    assert_eq!((header.max_timestamp, header.records_count), (T, Some(1)));
}

#[cfg(feature = "gzip")]
#[test]
fn legacy_gzip_wrappers() {
    let pair =
        |first, second| [plain(10, first, Some("k1"), Some("v1")), plain(11, second, Some("k2"), Some("v2"))];
    assert_eq!(decoded("L0_v0_gzip_wrapper"), pair(-1, -1));
    assert_eq!(decoded("L1_v1_gzip_wrapper"), pair(T, T + 5));
    let header = header("L1_v1_gzip_wrapper");
    assert_eq!((header.base_offset, header.last_offset, header.records_count), (11, 11, None));
}

#[cfg(feature = "lz4")]
#[test]
fn legacy_lz4_wrappers_with_the_wrong_and_the_right_header_checksum() {
    assert_eq!(decoded("L0_v0_lz4_wrapper_badHC"), [plain(10, -1, Some("k1"), Some("v1"))]);
    assert_eq!(decoded("L1_v1_lz4_wrapper"), [plain(10, T, Some("k1"), Some("v1"))]);
}

#[test]
fn aborted_transactions() {
    let entries = [
        AbortedTransaction {
            producer_id: 4000,
            first_offset: 200,
            last_offset: 202,
            last_stable_offset: 203,
        },
        AbortedTransaction {
            producer_id: 4001,
            first_offset: 150,
            last_offset: 210,
            last_stable_offset: 211,
        },
    ];
    let bytes = vector("F1_txnindex_2entries");
    for (entry, chunk) in entries.iter().zip(bytes.chunks(AbortedTransaction::SIZE)) {
        assert_eq!(entry.encode(), chunk);
        assert_eq!(AbortedTransaction::decode(chunk.try_into().unwrap()), Ok(*entry));
    }
}

#[test]
fn producer_snapshots() {
    let snapshot = ProducerSnapshot {
        entries: vec![
            ProducerEntry {
                producer_id: 4000,
                producer_epoch: 3,
                last_sequence: 12,
                last_offset: Some(201),
                offset_delta: 1,
                last_timestamp: T + 2,
                coordinator_epoch: 11,
                transaction_first_offset: None,
            },
            ProducerEntry {
                producer_id: 4001,
                producer_epoch: 0,
                last_sequence: 4,
                last_offset: Some(209),
                offset_delta: 4,
                last_timestamp: T + 9,
                coordinator_epoch: -1,
                transaction_first_offset: Some(205),
            },
        ],
    };
    assert_eq!(snapshot.encode().unwrap(), vector("F2_snapshot_2entries"));
    assert_eq!(ProducerSnapshot::decode(&vector("F2_snapshot_2entries")), Ok(snapshot));
    assert_eq!(ProducerSnapshot::default().encode().unwrap(), vector("F2_snapshot_empty"));
}

#[test]
fn index_entries() {
    let bytes = vector("S_index");
    let entries = [(5, 242), (9, 484), (13, 726)];
    for ((relative_offset, position), chunk) in entries.into_iter().zip(bytes.chunks(OffsetIndexEntry::SIZE))
    {
        let entry = OffsetIndexEntry { relative_offset, position };
        assert_eq!(entry.encode(), chunk);
        assert_eq!(OffsetIndexEntry::decode(chunk.try_into().unwrap()), Ok(entry));
    }
    let bytes = vector("S_timeindex");
    let entries = [(T + 10, 3), (T + 20, 7), (T + 30, 13)];
    for ((timestamp, relative_offset), chunk) in entries.into_iter().zip(bytes.chunks(TimeIndexEntry::SIZE)) {
        let entry = TimeIndexEntry { timestamp, relative_offset };
        assert_eq!(entry.encode(), chunk);
        assert_eq!(TimeIndexEntry::decode(chunk.try_into().unwrap()), Ok(entry));
    }
}

#[test]
fn text_files() {
    let epochs = LeaderEpochs {
        entries: vec![EpochEntry { epoch: 0, start_offset: 0 }, EpochEntry { epoch: 7, start_offset: 100 }],
    };
    assert_eq!(epochs.encode(), "0\n2\n0 0\n7 100\n");
    assert_eq!(LeaderEpochs::decode(b"0\n2\n0 0\n7 100\n"), Ok(epochs));

    let at = TopicPartition { topic: TopicName::new("t").unwrap(), partition: 0 };
    let offsets = OffsetCheckpoint { entries: vec![(at, 210)] };
    assert_eq!(offsets.encode(), "0\n1\nt 0 210\n");
    assert_eq!(OffsetCheckpoint::decode(b"0\n1\nt 0 210\n"), Ok(offsets));

    let mut id = [0; 16];
    id[..8].copy_from_slice(&0x0102_0304_0506_0708u64.to_be_bytes());
    id[8..].copy_from_slice(&0x1112_1314_1516_1718u64.to_be_bytes());
    let metadata = PartitionMetadata::new(Uuid(id));
    assert_eq!(metadata.encode(), "version: 0\ntopic_id: AQIDBAUGBwgREhMUFRYXGA");
    assert_eq!(PartitionMetadata::decode(metadata.encode().as_bytes()), Ok(metadata));

    assert_eq!(clean_shutdown(17), "{\"version\":0,\"brokerEpoch\":17}");
}

#[test]
fn text_files_as_people_edit_them() {
    assert_eq!(LeaderEpochs::decode(b""), Ok(LeaderEpochs::default()));
    assert_eq!(LeaderEpochs::decode(b"0\r\n1\r\n3 \t 5").unwrap().entries.len(), 1);
    for wrong in
        ["1\n0\n", "0\n", "0\n2\n0 0\n", "0\n1\n0 0\n1 1\n", "0\n1\n0\n", "0\n1\n0 0 0\n", "x", "0\n-1\n"]
    {
        assert!(LeaderEpochs::decode(wrong.as_bytes()).is_err(), "{wrong:?}");
    }
    for unordered in ["0\n2\n1 0\n1 5\n", "0\n2\n1 5\n2 5\n", "0\n2\n2 0\n1 5\n", "0\n2\n1 5\n2 4\n"] {
        assert_eq!(
            LeaderEpochs::decode(unordered.as_bytes()),
            Err(FormatError::Text {
                what: "leader epoch checkpoint",
                line: 4,
                reason: "epoch and offset must both be larger than in the line before"
            })
        );
    }
    for wrong in ["0\n1\na/b 0 1\n", "0\n1\nt -1 1\n", "0\n1\nt 0 -1\n", "0\n1\nt 0\n", "0\n1\nt 0 1 2\n"] {
        assert!(OffsetCheckpoint::decode(wrong.as_bytes()).is_err(), "{wrong:?}");
    }
    assert!(PartitionMetadata::decode(b"version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA").is_err());
    assert!(PartitionMetadata::decode(b"version: -1\ntopic_id: AQIDBAUGBwgREhMUFRYXGA").is_err());
    assert_eq!(
        PartitionMetadata::decode(b"version:   3\ntopic_id: AQIDBAUGBwgREhMUFRYXGA\n").unwrap().version,
        3
    );
}

#[test]
fn a_batch_that_breaks_the_rules_is_not_built() {
    let refused = |options: BatchOptions| {
        let mut builder = BatchBuilder::new(options);
        builder.push(&Record::new("v")).unwrap();
        matches!(builder.finish(), Err(FormatError::Invalid { .. }))
    };
    assert!(refused(BatchOptions { producer_id: 1, base_sequence: 0, ..none() }));
    assert!(refused(BatchOptions { producer_id: 1, producer_epoch: 0, ..none() }));
    assert!(refused(BatchOptions { transactional: true, ..none() }));
    assert!(refused(BatchOptions { control: true, codec: Compression::Gzip.into(), ..none() }));
    assert!(refused(BatchOptions { base_offset: i64::MAX as u64 + 1, ..none() }));
    assert!(refused(BatchOptions { last_offset_delta: Some(u32::MAX), ..none() }));
    assert!(refused(BatchOptions { leader_epoch: -2, ..none() }));

    let mut builder = BatchBuilder::new(none());
    assert!(builder.push(&Record::new("v").timestamp(-2)).is_err());
    builder.push_at(5, &Record::new("v")).unwrap();
    assert!(builder.push_at(5, &Record::new("v")).is_err());
    assert!(builder.push_at(u32::MAX, &Record::new("v")).is_err());
    builder.push_at(i32::MAX as u32, &Record::new("v")).unwrap();
    assert!(matches!(builder.push(&Record::new("v")), Err(FormatError::Limit { .. })));
    assert_eq!(builder.len(), 2);
    let offsets: Vec<_> =
        records_of(&builder.finish().unwrap()).iter().map(|record| record.offset()).collect();
    assert_eq!(offsets, [5, i32::MAX as u64]);
}

#[test]
fn a_builder_without_records_gives_no_bytes() {
    assert_eq!(BatchBuilder::new(none()).finish(), Ok(Vec::new()));
}

#[test]
fn building_and_stamping_one_record_takes_no_memory_from_a_buffer_that_is_large_enough() {
    let buffer = Vec::with_capacity(4096);
    let before = buffer.as_ptr();
    let mut builder = BatchBuilder::with_buffer(none(), buffer);
    builder.push(&Record::new(&[7; 1000]).key("k")).unwrap();
    let batch = builder.finish().unwrap();
    assert_eq!((batch.as_ptr(), batch.capacity()), (before, 4096));
}
