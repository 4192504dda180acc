//! What is encoded decodes to the same, for any input; and no input whatever makes decoding panic.

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
    EndTransactionMarker, EpochEntry, Frame, LeaderEpochs, OffsetCheckpoint, OffsetIndexEntry,
    PartitionMetadata, ProducerEntry, ProducerSnapshot, Record, RecordBatch, RecordView, TimeIndexEntry,
    compress, crc32, crc32c, decompress, stamp,
};
use annals::{TopicName, TopicPartition, Uuid};
use common::enabled;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

const OFFSET_MAX: u64 = i64::MAX as u64;

/// A record in plain values: the gap in offsets before it, then what it holds.
#[derive(Debug, Clone)]
struct Plain {
    gap: u32,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Plain {
    fn record(&self) -> Record<'_> {
        let mut record = match &self.value {
            Some(value) => Record::new(value),
            None => Record::tombstone(),
        };
        record = record.timestamp(self.timestamp);
        if let Some(key) = &self.key {
            record = record.key(key);
        }
        for (key, value) in &self.headers {
            record = match value {
                Some(value) => record.header(key, value),
                None => record.null_header(key),
            };
        }
        record
    }
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    // Runs as well as noise, so that codecs have something to find.
    prop_oneof![vec(any::<u8>(), 0..max), (any::<u8>(), 0..max).prop_map(|(byte, length)| vec![byte; length])]
}

/// Timestamps far apart and out of order, so that deltas are long and negative.
fn timestamp() -> impl Strategy<Value = i64> {
    prop_oneof![1_700_000_000_000..1_700_000_100_000i64, -1..i64::MAX, Just(-1)]
}

fn plain() -> impl Strategy<Value = Plain> {
    let headers = vec((".{0,6}", option::of(bytes(20))), 0..4);
    (prop_oneof![Just(0u32), 0..1000u32], timestamp(), option::of(bytes(40)), option::of(bytes(300)), headers)
        .prop_map(|(gap, timestamp, key, value, headers)| Plain { gap, timestamp, key, value, headers })
}

fn compression() -> impl Strategy<Value = Compression> {
    (0..5u8)
        .prop_map(|id| Compression::from_id(id).unwrap())
        .prop_filter("compiled in", |&codec| enabled(codec))
}

fn options() -> impl Strategy<Value = BatchOptions> {
    let producer = option::of((0..i64::MAX, 0..i16::MAX, 0..=i32::MAX, any::<bool>()));
    let horizon = option::of(0..i64::MAX);
    (0..OFFSET_MAX / 2, -1..i32::MAX, compression(), producer, horizon).prop_map(
        |(base_offset, leader_epoch, compression, producer, delete_horizon)| {
            let mut options = BatchOptions {
                base_offset,
                leader_epoch,
                codec: compression.into(),
                delete_horizon,
                ..BatchOptions::default()
            };
            if let Some((id, epoch, sequence, transactional)) = producer {
                options.producer_id = id;
                options.producer_epoch = epoch;
                options.base_sequence = sequence;
                options.transactional = transactional;
            }
            options
        },
    )
}

fn build(options: BatchOptions, plains: &[Plain]) -> (Vec<u8>, Vec<u64>) {
    let base_offset = options.base_offset;
    let mut builder = BatchBuilder::new(options);
    let mut next = 0;
    let mut offsets = Vec::new();
    for plain in plains {
        let delta = next + plain.gap;
        builder.push_at(delta, &plain.record()).unwrap();
        offsets.push(base_offset + u64::from(delta));
        next = delta + 1;
    }
    (builder.finish().unwrap(), offsets)
}

fn same(record: RecordView<'_>, plain: &Plain, offset: u64) -> Result<(), TestCaseError> {
    prop_assert_eq!(record.offset(), offset);
    prop_assert_eq!(record.timestamp(), plain.timestamp);
    prop_assert_eq!(record.key(), plain.key.as_deref());
    prop_assert_eq!(record.value(), plain.value.as_deref());
    let headers = record.headers().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)));
    prop_assert_eq!(headers.collect::<Vec<_>>(), plain.headers.clone());
    Ok(())
}

/// Decodes whatever can be decoded from `bytes`.
fn decode(bytes: &[u8]) {
    let _ = Frame::parse(bytes);
    let _ = BatchHeader::parse(bytes);
    let _ = stamp(&mut bytes.to_vec(), 1, 1);
    if let Ok(batch) = RecordBatch::parse(bytes.to_vec().into()) {
        if let Ok(records) = batch.records(1 << 16) {
            assert_eq!(records.iter().count(), records.len());
            for record in records {
                let _ = EndTransactionMarker::parse(&record.view());
                let _ = format!("{record:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn a_batch_holds_what_was_put_in(options in options(), plains in vec(plain(), 1..20)) {
        let (bytes, offsets) = build(options.clone(), &plains);
        let batch = RecordBatch::parse(bytes.into()).unwrap();
        let header = batch.header();
        prop_assert_eq!(header.base_offset, options.base_offset);
        prop_assert_eq!(header.last_offset, *offsets.last().unwrap());
        prop_assert_eq!(header.compression, options.codec.compression);
        prop_assert_eq!(header.delete_horizon, options.delete_horizon);
        prop_assert_eq!(header.transactional, options.transactional);
        prop_assert_eq!(header.max_timestamp, plains.iter().map(|plain| plain.timestamp).max().unwrap());
        prop_assert_eq!(header.producer_id.unwrap_or(-1), options.producer_id);

        let records = batch.records(1 << 20).unwrap();
        prop_assert_eq!(records.len(), plains.len());
        for ((record, plain), offset) in records.iter().zip(&plains).zip(&offsets) {
            same(record, plain, *offset)?;
            prop_assert_eq!(record.sequence().is_some(), options.base_sequence >= 0);
        }
        for ((record, plain), offset) in records.into_iter().zip(&plains).zip(&offsets) {
            same(record.view(), plain, *offset)?;
            prop_assert!(record.key_bytes().as_deref() == plain.key.as_deref());
            prop_assert!(record.value_bytes().as_deref() == plain.value.as_deref());
        }
    }

    #[test]
    fn a_batch_rewritten_with_fewer_records_keeps_its_place(
        options in options(),
        plains in vec(plain(), 1..20),
        keep in vec(any::<bool>(), 20),
    ) {
        let (bytes, offsets) = build(options, &plains);
        let batch = RecordBatch::parse(bytes.into()).unwrap();
        let mut builder = BatchBuilder::new(BatchOptions::rewriting(batch.header()));
        let records = batch.records(1 << 20).unwrap();
        for (record, _) in records.iter().zip(&keep).filter(|(_, keep)| **keep) {
            builder.push_view(&record).unwrap();
        }
        let kept = builder.len();
        let rewritten = builder.finish().unwrap();
        if kept == 0 {
            prop_assert!(rewritten.is_empty());
            return Ok(());
        }
        let rewritten = RecordBatch::parse(rewritten.into()).unwrap();
        let (old, new) = (batch.header(), rewritten.header());
        prop_assert_eq!((old.base_offset, old.last_offset), (new.base_offset, new.last_offset));
        prop_assert_eq!((old.last_sequence(), old.producer_id), (new.last_sequence(), new.producer_id));
        prop_assert_eq!((old.leader_epoch, old.transactional), (new.leader_epoch, new.transactional));
        let left = plains.iter().zip(&offsets).zip(&keep).filter(|(_, keep)| **keep).map(|(pair, _)| pair);
        for (record, (plain, offset)) in rewritten.records(1 << 20).unwrap().iter().zip(left) {
            same(record, plain, *offset)?;
        }
    }

    #[test]
    fn codecs_give_back_what_they_took(codec in compression(), input in bytes(200_000), magic in 1..3u8) {
        let mut packed = vec![9];
        compress(codec.into(), &input, &mut packed).unwrap();
        prop_assert_eq!(packed[0], 9);
        if codec == Compression::None || packed.len() > 1 {
            prop_assert!(decompress(codec, magic, &packed[1..], input.len()).unwrap() == input);
        }
        if !input.is_empty() {
            prop_assert!(decompress(codec, magic, &packed[1..], input.len() - 1).is_err());
        }
    }

    #[test]
    fn varints(small in any::<i32>(), large in any::<i64>(), unsigned in any::<u32>(), shift in 0..64u32) {
        let (small, large, unsigned) = (small >> (shift % 32), large >> shift, unsigned >> (shift % 32));
        let mut out = Vec::new();
        write_varint(&mut out, small);
        prop_assert_eq!(out.len(), varint_len(small));
        write_varlong(&mut out, large);
        prop_assert_eq!(out.len(), varint_len(small) + varlong_len(large));
        write_unsigned_varint(&mut out, unsigned);
        prop_assert_eq!(out.len(), varint_len(small) + varlong_len(large) + unsigned_varint_len(unsigned));
        let mut reader = Reader::new(&out);
        prop_assert_eq!(reader.varint("v"), Ok(small));
        prop_assert_eq!(reader.varlong("v"), Ok(large));
        prop_assert_eq!(reader.unsigned_varint("v"), Ok(unsigned));
        prop_assert_eq!(reader.finish("all"), Ok(()));
    }

    #[test]
    fn index_entries(relative_offset in 0..=i32::MAX as u32, position in 0..=i32::MAX as u32, timestamp: i64) {
        let entry = OffsetIndexEntry { relative_offset, position };
        prop_assert_eq!(OffsetIndexEntry::decode(&entry.encode()), Ok(entry));
        let entry = TimeIndexEntry { timestamp, relative_offset };
        prop_assert_eq!(TimeIndexEntry::decode(&entry.encode()), Ok(entry));
    }

    #[test]
    fn aborted_transactions(
        producer_id: i64,
        (first_offset, last_offset, last_stable_offset) in (0..=OFFSET_MAX, 0..=OFFSET_MAX, 0..=OFFSET_MAX),
    ) {
        let entry = AbortedTransaction { producer_id, first_offset, last_offset, last_stable_offset };
        prop_assert_eq!(AbortedTransaction::decode(&entry.encode()), Ok(entry));
    }

    #[test]
    fn snapshots(entries in vec(producer_entry(), 0..20)) {
        let snapshot = ProducerSnapshot { entries };
        prop_assert_eq!(ProducerSnapshot::decode(&snapshot.encode().unwrap()), Ok(snapshot));
    }

    #[test]
    fn leader_epochs(mut epochs in vec(0..=i32::MAX, 0..20), mut offsets in vec(0..=OFFSET_MAX, 20)) {
        epochs.sort_unstable();
        epochs.dedup();
        offsets.sort_unstable();
        offsets.dedup();
        let entries = epochs.into_iter().zip(offsets);
        let entries = entries.map(|(epoch, start_offset)| EpochEntry { epoch, start_offset }).collect();
        let epochs = LeaderEpochs { entries };
        prop_assert_eq!(LeaderEpochs::decode(epochs.encode().as_bytes()), Ok(epochs));
    }

    #[test]
    fn offset_checkpoints(entries in vec(("[a-zA-Z0-9_-]{1,30}", 0..=i32::MAX as u32, 0..=OFFSET_MAX), 0..20)) {
        let entries = entries.into_iter().map(|(topic, partition, offset)| {
            (TopicPartition { topic: TopicName::new(topic).unwrap(), partition }, offset)
        });
        let checkpoint = OffsetCheckpoint { entries: entries.collect() };
        prop_assert_eq!(OffsetCheckpoint::decode(checkpoint.encode().as_bytes()), Ok(checkpoint));
    }

    #[test]
    fn partition_metadata(version in 0..=i32::MAX, id in 1..=u128::MAX) {
        let metadata = PartitionMetadata { version, topic_id: Uuid(id.to_be_bytes()) };
        prop_assert_eq!(PartitionMetadata::decode(metadata.encode().as_bytes()), Ok(metadata));
    }

    #[test]
    fn any_bytes_decode_to_something_or_an_error(bytes in vec(any::<u8>(), 0..300), magic in 0..3u8) {
        decode(&bytes);
        let _ = ControlType::parse(&bytes);
        let _ = ProducerSnapshot::decode(&bytes);
        let _ = LeaderEpochs::decode(&bytes);
        let _ = OffsetCheckpoint::decode(&bytes);
        let _ = PartitionMetadata::decode(&bytes);
        for id in 0..5 {
            let codec = Compression::from_id(id).unwrap();
            if let Ok(out) = decompress(codec, magic, &bytes, 10_000) {
                prop_assert!(out.len() <= 10_000);
            }
        }
    }

    #[test]
    fn any_bytes_in_the_frame_of_a_batch_decode_to_something_or_an_error(
        mut bytes in vec(any::<u8>(), 61..300),
        sane in any::<bool>(),
        count in 0..5u8,
        codec in 0..5u8,
        magic in 0..3u8,
    ) {
        bytes[0] &= 0x7f;
        let length = (bytes.len() as u32 - 12).to_be_bytes();
        bytes[8..12].copy_from_slice(&length);
        bytes[16] = magic;
        if magic == 2 {
            if sane {
                bytes[12] &= 0x7f;
                bytes[22] = bytes[22] & 0xf8 | codec;
                bytes[23] &= 0x7f;
                bytes[57..61].copy_from_slice(&[0, 0, 0, count]);
            }
            let crc = crc32c(&bytes[21..]).to_be_bytes();
            bytes[17..21].copy_from_slice(&crc);
        } else {
            bytes[17] = bytes[17] & 0xf8 | codec;
            if sane {
                // A null key, then a value to the end.
                let body = if magic == 0 { 18 } else { 26 };
                bytes[body..body + 4].copy_from_slice(&[0xff; 4]);
                let length = (bytes.len() - body - 8) as u32;
                bytes[body + 4..body + 8].copy_from_slice(&length.to_be_bytes());
            }
            let crc = crc32(&bytes[16..]).to_be_bytes();
            bytes[12..16].copy_from_slice(&crc);
        }
        decode(&bytes);
    }
}

fn producer_entry() -> impl Strategy<Value = ProducerEntry> {
    let offset = || option::of(0..=OFFSET_MAX);
    let first = (any::<i64>(), any::<i16>(), any::<i32>(), offset());
    (first, any::<i32>(), any::<i64>(), any::<i32>(), offset()).prop_map(
        |(
            (producer_id, producer_epoch, last_sequence, last_offset),
            offset_delta,
            last_timestamp,
            coordinator_epoch,
            transaction_first_offset,
        )| ProducerEntry {
            producer_id,
            producer_epoch,
            last_sequence,
            last_offset,
            offset_delta,
            last_timestamp,
            coordinator_epoch,
            transaction_first_offset,
        },
    )
}
