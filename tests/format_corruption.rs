//! Damaged, cut and lying bytes: each golden vector is bent in every way that a byte can be, and nothing
//! panics, nothing wrong is taken for right, and nothing is allocated on the word of the input.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and so do its helpers"
)]

mod common;

use annals::FormatError;
use annals::format::{
    AbortedTransaction, BatchBuilder, BatchHeader, BatchOptions, Codec, Compression, Frame, LeaderEpochs,
    OffsetCheckpoint, OffsetIndexEntry, PartitionMetadata, ProducerSnapshot, Record, RecordBatch,
    TimeIndexEntry, compress, crc32, crc32c, decompress, stamp, stamp_append_time, verify,
};
use common::{enabled, vector, vectors};

const CODECS: [Compression; 4] =
    [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// The bytes of a batch that its checksum covers, and the four that hold it.
fn guarded(bytes: &[u8]) -> std::ops::Range<usize> {
    if bytes[16] == 2 { 17..bytes.len() } else { 12..bytes.len() }
}

/// Makes the checksum right again, so that damage reaches what lies behind it.
fn mend_checksum(bytes: &mut [u8]) {
    match bytes.get(16) {
        Some(2) if bytes.len() > 21 => {
            let crc = crc32c(&bytes[21..]).to_be_bytes();
            bytes[17..21].copy_from_slice(&crc);
        }
        Some(0 | 1) => {
            let crc = crc32(&bytes[16..]).to_be_bytes();
            bytes[12..16].copy_from_slice(&crc);
        }
        _ => {}
    }
}

/// Decodes all that can be decoded. What decodes must keep its own promises.
fn decode_all(bytes: &[u8]) -> Result<(), FormatError> {
    let _ = Frame::parse(bytes);
    let _ = BatchHeader::parse(bytes);
    let batch = RecordBatch::parse(bytes.to_vec().into())?;
    assert!(batch.next_offset() > batch.base_offset());
    let records = batch.records(1 << 20)?;
    let views: Vec<_> = records.iter().collect();
    assert_eq!(views.len(), records.len(), "what was checked decodes");
    assert!(views.windows(2).all(|pair| pair[0].offset() < pair[1].offset()), "offsets rise");
    for (view, stored) in views.iter().zip(records.clone()) {
        assert_eq!(view.headers().len(), view.headers().count(), "headers were checked too");
        assert_eq!((view.offset(), view.timestamp()), (stored.offset(), stored.timestamp()));
        assert_eq!((view.key(), view.value()), (stored.key(), stored.value()));
    }
    Ok(())
}

#[test]
fn every_change_of_a_byte_under_the_checksum_is_found() {
    for original in vectors().iter().filter(|vector| vector.is_batch()) {
        let mut bytes = original.bytes.clone();
        for at in 0..bytes.len() {
            let is_guarded = guarded(&original.bytes).contains(&at);
            for change in 1..=255 {
                bytes[at] ^= change;
                let found = decode_all(&bytes);
                assert!(!is_guarded || found.is_err(), "{} byte {at} changed by {change:02x}", original.name);
                bytes[at] ^= change;
            }
        }
    }
}

#[test]
fn a_changed_byte_whose_checksum_was_mended_does_no_harm() {
    for original in vectors().iter().filter(|vector| vector.is_batch()) {
        for at in 0..original.bytes.len() {
            for change in 1..=255 {
                let mut bytes = original.bytes.clone();
                bytes[at] ^= change;
                mend_checksum(&mut bytes);
                // What comes out is somebody's right value or an error, never a panic.
                let _ = decode_all(&bytes);
            }
        }
    }
}

#[test]
fn a_changed_magic_or_length_is_found() {
    for original in vectors().iter().filter(|vector| vector.is_batch()) {
        for at in (8..12).chain([16]) {
            for change in 1..=255 {
                let mut bytes = original.bytes.clone();
                bytes[at] ^= change;
                assert!(verify(&bytes).is_err(), "{} byte {at} changed by {change:02x}", original.name);
            }
        }
    }
}

#[test]
fn every_cut_is_found_and_so_is_a_byte_too_many() {
    for original in vectors().iter().filter(|vector| vector.is_batch()) {
        for end in 0..original.bytes.len() {
            let found = RecordBatch::parse(original.bytes[..end].to_vec().into()).unwrap_err();
            assert!(matches!(found, FormatError::Short { .. }), "{} cut to {end}: {found}", original.name);
        }
        let mut longer = original.bytes.clone();
        longer.push(0);
        assert!(matches!(verify(&longer), Err(FormatError::Trailing { extra: 1, .. })), "{}", original.name);
    }
}

#[test]
fn records_that_end_early_or_late_are_found_behind_a_right_checksum() {
    for original in vectors().iter().filter(|vector| vector.is_batch() && vector.bytes[16] == 2) {
        let codec = BatchHeader::parse(&original.bytes).unwrap().compression;
        if !enabled(codec) {
            continue;
        }
        let with_payload = |payload: &[u8]| {
            let mut bytes = original.bytes[..61].to_vec();
            bytes.extend_from_slice(payload);
            let length = (bytes.len() as u32 - 12).to_be_bytes();
            bytes[8..12].copy_from_slice(&length);
            mend_checksum(&mut bytes);
            RecordBatch::parse(bytes.into()).unwrap().records(1 << 20)
        };
        let payload = &original.bytes[61..];
        for end in 0..payload.len() {
            assert!(with_payload(&payload[..end]).is_err(), "{} payload cut to {end}", original.name);
        }
        let longer = [payload, &[0]].concat();
        assert!(with_payload(&longer).is_err(), "{} payload longer", original.name);
    }
}

#[test]
fn stamping_what_is_no_batch_is_refused() {
    for original in vectors() {
        for end in 0..original.bytes.len() {
            let mut bytes = original.bytes[..end].to_vec();
            let _ = stamp(&mut bytes, 7, 1);
            assert!(stamp_append_time(&mut bytes, 7).is_err());
        }
    }
    let mut batch = vector("B2_v2_idempotent3");
    let before = batch.clone();
    assert!(stamp(&mut batch, i64::MAX as u64 - 1, 1).is_err());
    assert!(stamp(&mut batch, 0, -2).is_err());
    assert!(stamp_append_time(&mut batch, -1).is_err());
    assert!(stamp(&mut vector("L1_v1"), 0, 0).is_err());
    assert_eq!(batch, before);
    stamp(&mut batch, i64::MAX as u64 - 2, -1).unwrap();
    assert_eq!(verify(&batch).unwrap().last_offset, i64::MAX as u64);
}

#[test]
fn counts_and_lengths_that_lie_are_refused() {
    let huge: &[u8] = &[0xfe, 0xff, 0xff, 0xff, 0x0f];
    let minus_two: &[u8] = &[0x03];
    // length, attributes, deltas, key length, key, value length, value, number of headers
    let fields: [&[u8]; 9] = [&[0x10], &[0], &[0], &[0], &[0x02], b"k", &[0x02], b"v", &[0]];
    for (at, lie) in [(0, huge), (3, huge), (4, huge), (6, huge), (8, huge)]
        .into_iter()
        .chain([0, 3, 4, 6, 8].map(|at| (at, minus_two)))
    {
        let mut lying = fields;
        lying[at] = lie;
        assert!(records_from(&lying.concat(), 1).is_err(), "field {at} is {lie:02x?}");
    }
    assert_eq!(records_from(&fields.concat(), 1), Ok(1));
    assert!(matches!(records_from(&fields.concat(), i32::MAX), Err(FormatError::Short { .. })));
    assert!(matches!(records_from(&fields.concat(), 0), Err(FormatError::Trailing { .. })));
    assert!(matches!(records_from(&fields.concat(), -1), Err(FormatError::Invalid { .. })));
    let twice = [fields.concat(), fields.concat()].concat();
    assert!(matches!(records_from(&twice, 2), Err(FormatError::Invalid { what: "record offset", .. })));
}

/// How many records a batch holds whose payload is `records` and whose header counts `count`.
fn records_from(records: &[u8], count: i32) -> Result<usize, FormatError> {
    let mut bytes = vector("B1_v2_single");
    bytes.truncate(61);
    bytes.extend_from_slice(records);
    let length = (bytes.len() as u32 - 12).to_be_bytes();
    bytes[8..12].copy_from_slice(&length);
    bytes[23..27].copy_from_slice(&9i32.to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    mend_checksum(&mut bytes);
    // The offset delta of 0 is the only one here.
    RecordBatch::parse(bytes.into())?.records(1000).map(|records| records.len())
}

#[test]
fn a_header_key_that_is_not_utf8_is_refused() {
    let mut record = vec![0x14, 0, 0, 0, 0x01, 0x01, 0x02, 0x02, b'h', 0x02, b'x'];
    assert_eq!(records_from(&record, 1), Ok(1));
    record[8] = 0xff;
    assert!(matches!(records_from(&record, 1), Err(FormatError::Invalid { what: "header key", .. })));
}

#[test]
fn a_record_beyond_the_last_offset_is_refused() {
    let mut record = vec![0x0c, 0, 0, 0x12, 0x01, 0x01, 0x00];
    assert_eq!(records_from(&record, 1), Ok(1));
    record[3] = 0x14;
    assert!(matches!(records_from(&record, 1), Err(FormatError::Invalid { what: "record offset", .. })));
}

fn packed(compression: Compression, input: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    compress(Codec::from(compression), input, &mut out).unwrap();
    out
}

#[test]
fn a_bomb_is_refused_once_it_passes_the_limit() {
    let bomb = vec![0; 32 << 20];
    for codec in CODECS.into_iter().filter(|&codec| enabled(codec)) {
        let packed = packed(codec, &bomb);
        assert!(packed.len() < bomb.len() / 20, "{codec} packs zeros");
        for limit in [0, 1, 1000, 1 << 20, bomb.len() - 1] {
            let found = decompress(codec, 2, &packed, limit);
            let limit = limit as u64;
            assert!(
                matches!(found, Err(FormatError::Limit { limit: l, .. }) if l == limit),
                "{codec} at {limit}"
            );
        }
        assert!(decompress(codec, 2, &packed, bomb.len()).unwrap() == bomb, "{codec} at its size");
    }
}

#[test]
fn a_bomb_in_a_batch_is_refused() {
    let value = vec![0; 4 << 20];
    for codec in CODECS.into_iter().filter(|&codec| enabled(codec)) {
        let mut builder = BatchBuilder::new(BatchOptions { codec: codec.into(), ..BatchOptions::default() });
        builder.push(&Record::new(&value)).unwrap();
        let batch = RecordBatch::parse(builder.finish().unwrap().into()).unwrap();
        assert!(matches!(batch.records(1 << 20), Err(FormatError::Limit { .. })), "{codec}");
        assert_eq!(batch.records(5 << 20).unwrap().len(), 1);
    }
}

/// A message of magic 1.
fn message(offset: u64, attributes: u8, value: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = offset.to_be_bytes().to_vec();
    let value_length = value.map_or(-1, |value| value.len() as i32);
    bytes.extend_from_slice(&(22 + value_length.max(0)).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 0, 1, attributes]);
    bytes.extend_from_slice(&1_700_000_000_000i64.to_be_bytes());
    bytes.extend_from_slice(&(-1i32).to_be_bytes());
    bytes.extend_from_slice(&value_length.to_be_bytes());
    bytes.extend_from_slice(value.unwrap_or_default());
    mend_checksum(&mut bytes);
    bytes
}

fn legacy_offsets(wrapper: Vec<u8>) -> Result<Vec<u64>, FormatError> {
    let records = RecordBatch::parse(wrapper.into()).unwrap().records(1 << 20)?;
    Ok(records.iter().map(|record| record.offset()).collect())
}

#[test]
fn a_bomb_in_a_legacy_wrapper_is_refused() {
    let inner = message(0, 0, Some(&vec![0; 2 << 20]));
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4] {
        if enabled(codec) {
            let wrapper = message(5, codec.id(), Some(&packed(codec, &inner)));
            assert!(matches!(legacy_offsets(wrapper), Err(FormatError::Limit { .. })), "{codec}");
        }
    }
}

#[cfg(feature = "gzip")]
#[test]
fn legacy_wrappers_follow_their_rules() {
    let gzip = |inner: &[&[u8]]| packed(Compression::Gzip, &inner.concat());
    let (first, third) = (message(0, 0, Some(b"a")), message(2, 0, Some(b"b")));
    let wrapper = |offset, inner: &[&[u8]]| legacy_offsets(message(offset, 1, Some(&gzip(inner))));

    assert_eq!(wrapper(12, &[&first, &third]), Ok(vec![10, 12]));
    assert_eq!(wrapper(2, &[&first, &third]), Ok(vec![0, 2]));
    assert_eq!(wrapper(0, &[&first, &third]), Ok(vec![0, 2]), "a wrapper at 0 counts from 0");
    let invalid = |found: Result<Vec<u64>, FormatError>| matches!(found, Err(FormatError::Invalid { .. }));
    assert!(invalid(wrapper(1, &[&first, &third])), "a wrapper before its last message");
    assert!(invalid(wrapper(9, &[&third, &first])), "offsets that fall");
    assert!(invalid(wrapper(9, &[&first, &first])), "offsets that stand");
    assert!(invalid(wrapper(9, &[])), "nothing inside");
    assert!(invalid(legacy_offsets(message(9, 1, None))), "no value");
    assert!(invalid(wrapper(9, &[&message(0, 1, Some(&gzip(&[&first])))])), "a wrapper in a wrapper");
    let zstd = RecordBatch::parse(message(9, 4, Some(b"?")).into());
    assert!(matches!(zstd, Err(FormatError::Invalid { .. })), "zstd came later");

    let mut damaged = first.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(matches!(wrapper(9, &[&damaged]), Err(FormatError::Checksum { .. })));
    assert!(matches!(wrapper(9, &[&first[..first.len() - 1]]), Err(FormatError::Short { .. })));

    let append_time = message(9, 1 | 8, Some(&gzip(&[&first, &third])));
    let records = RecordBatch::parse(append_time.into()).unwrap().records(1000).unwrap();
    assert!(records.iter().all(|record| record.timestamp() == 1_700_000_000_000));
}

#[test]
fn every_change_of_a_compressed_byte_does_no_harm() {
    let text: Vec<u8> = (0..5000u32).flat_map(|n| (n / 9).to_le_bytes()).collect();
    for codec in CODECS.into_iter().filter(|&codec| enabled(codec)) {
        let packed = packed(codec, &text);
        for at in 0..packed.len() {
            for bit in 0..8 {
                let mut bytes = packed.clone();
                bytes[at] ^= 1 << bit;
                if let Ok(out) = decompress(codec, 2, &bytes, 50_000) {
                    assert!(out.len() <= 50_000);
                }
            }
        }
        // Snappy's framing has no end mark: a cut between two blocks shows only in the records.
        for end in (0..packed.len()).filter(|_| codec != Compression::Snappy) {
            assert!(decompress(codec, 2, &packed[..end], 50_000).is_err(), "{codec} cut to {end}");
        }
        let longer = [&packed[..], &[0]].concat();
        assert!(decompress(codec, 2, &longer, 50_000).is_err(), "{codec} with a byte behind it");
    }
}

#[test]
fn levels_that_a_codec_does_not_have_are_refused() {
    for (codec, levels) in [(Compression::Gzip, [0, 10]), (Compression::Zstd, [23, -131_073])] {
        for level in levels.into_iter().filter(|_| enabled(codec)) {
            let found = compress(Codec { compression: codec, level: Some(level) }, b"x", &mut Vec::new());
            assert!(matches!(found, Err(FormatError::Invalid { .. })), "{codec} level {level}");
        }
    }
}

#[test]
fn a_codec_that_was_compiled_out_says_so() {
    for codec in CODECS.into_iter().filter(|&codec| !enabled(codec)) {
        let disabled = FormatError::CodecDisabled { codec: codec.name() };
        assert_eq!(compress(codec.into(), b"x", &mut Vec::new()), Err(disabled.clone()));
        assert_eq!(decompress(codec, 2, b"x", 10), Err(disabled));
    }
}

#[test]
fn every_change_and_cut_of_a_snapshot_is_found() {
    for name in ["F2_snapshot_2entries", "F2_snapshot_empty"] {
        let original = vector(name);
        for at in 0..original.len() {
            for change in 1..=255 {
                let mut bytes = original.clone();
                bytes[at] ^= change;
                assert!(
                    ProducerSnapshot::decode(&bytes).is_err(),
                    "{name} byte {at} changed by {change:02x}"
                );
                let crc = crc32c(&bytes[6..]).to_be_bytes();
                bytes[2..6].copy_from_slice(&crc);
                let _ = ProducerSnapshot::decode(&bytes);
            }
            assert!(ProducerSnapshot::decode(&original[..at]).is_err(), "{name} cut to {at}");
        }
    }
    let mut longer = vector("F2_snapshot_2entries");
    longer.extend_from_slice(&[0; 46]);
    let crc = crc32c(&longer[6..]).to_be_bytes();
    longer[2..6].copy_from_slice(&crc);
    assert!(matches!(ProducerSnapshot::decode(&longer), Err(FormatError::Trailing { extra: 46, .. })));
    let mut lying = vector("F2_snapshot_empty");
    lying[6..10].copy_from_slice(&i32::MAX.to_be_bytes());
    let crc = crc32c(&lying[6..]).to_be_bytes();
    lying[2..6].copy_from_slice(&crc);
    assert!(matches!(ProducerSnapshot::decode(&lying), Err(FormatError::Short { .. })));
    lying[..2].copy_from_slice(&[0, 2]);
    assert!(matches!(ProducerSnapshot::decode(&lying), Err(FormatError::Version { found: 2, .. })));
}

#[test]
fn index_entries_below_zero_are_refused() {
    assert!(OffsetIndexEntry::decode(&[0xff; 8]).is_err());
    assert!(OffsetIndexEntry::decode(&[0, 0, 0, 1, 0x80, 0, 0, 0]).is_err());
    assert!(TimeIndexEntry::decode(&[0xff; 12]).is_err());
    let mut aborted: [u8; 34] = vector("F1_txnindex_2entries")[..34].try_into().unwrap();
    aborted[10] = 0x80;
    assert!(matches!(AbortedTransaction::decode(&aborted), Err(FormatError::Invalid { .. })));
    aborted[1] = 1;
    assert!(matches!(AbortedTransaction::decode(&aborted), Err(FormatError::Version { found: 1, .. })));
    aborted[0] = 0xff;
    assert!(matches!(AbortedTransaction::decode(&aborted), Err(FormatError::Invalid { .. })));
}

#[test]
fn every_change_of_a_text_file_does_no_harm() {
    let texts = ["0\n2\n0 0\n7 100\n", "0\n1\nt 0 210\n", "version: 0\ntopic_id: AQIDBAUGBwgREhMUFRYXGA"];
    for text in texts {
        for at in 0..text.len() {
            for change in 0..=255 {
                let mut bytes = text.as_bytes().to_vec();
                bytes[at] ^= change;
                let (whole, cut) = (&bytes[..], &bytes[..at]);
                for bytes in [whole, cut] {
                    let _ = LeaderEpochs::decode(bytes);
                    let _ = OffsetCheckpoint::decode(bytes);
                    let _ = PartitionMetadata::decode(bytes);
                }
            }
        }
    }
}
