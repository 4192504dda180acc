//! Whole logs in memory, compacted pass by pass: after any of them each key has its last committed record, as
//! it was.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::filter::{Counts, Filter, Filtered, LastBatch, LastBatches, map_keys};
use super::offset_map::OffsetMap;
use super::transactions::CleanedTransactions;
use crate::format::{
    AbortedTransaction, BatchBuilder, BatchOptions, Compression, EndTransactionMarker, Record, RecordBatch,
};

const NOW: i64 = 1_700_000_000_000;
const RETENTION: i64 = 1000;
const LIMIT: usize = 1 << 20;

/// A batch that Kafka's own classes wrote.
pub(super) fn golden(name: &str) -> Vec<u8> {
    let vectors = include_str!("../../../tests/data/golden_vectors.txt");
    let line = vectors.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
    let hex = line.split(' ').nth(1).unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

pub(super) fn parse(bytes: Vec<u8>) -> RecordBatch {
    RecordBatch::parse(bytes.into()).unwrap()
}

#[derive(Debug, Clone)]
struct Entry {
    key: Option<u8>,
    value: Option<u8>,
    header: bool,
    time: i64,
}

#[derive(Debug, Clone)]
enum Step {
    /// Without a producer.
    Plain(Compression, Vec<Entry>),
    /// In a transaction of this producer, or outside of any.
    Produced(i64, bool, Compression, Vec<Entry>),
    End(i64, bool),
}

fn entry() -> impl Strategy<Value = Entry> {
    (prop::option::weighted(0.9, 0u8..6), prop::option::weighted(0.7, any::<u8>()), any::<bool>(), 0i64..50)
        .prop_map(|(key, value, header, time)| Entry { key, value, header, time: NOW - time })
}

fn codec() -> impl Strategy<Value = Compression> {
    let all = [
        (Compression::None, true),
        (Compression::Gzip, cfg!(feature = "gzip")),
        (Compression::Snappy, cfg!(feature = "snappy")),
        (Compression::Lz4, cfg!(feature = "lz4")),
        (Compression::Zstd, cfg!(feature = "zstd")),
    ];
    prop::sample::select(all.into_iter().filter(|(_, on)| *on).map(|(codec, _)| codec).collect::<Vec<_>>())
}

fn step() -> impl Strategy<Value = Step> {
    let entries = || vec(entry(), 1..4);
    prop_oneof![
        2 => (codec(), entries()).prop_map(|(codec, entries)| Step::Plain(codec, entries)),
        4 => (0i64..3, any::<bool>(), codec(), entries())
            .prop_map(|(producer, inside, codec, entries)| Step::Produced(producer, inside, codec, entries)),
        3 => (0i64..3, any::<bool>()).prop_map(|(producer, commit)| Step::End(producer, commit)),
    ]
}

/// Steps at the end of which every transaction has ended.
fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..count).prop_map(|mut steps| {
        let mut open = BTreeSet::new();
        for step in &steps {
            match step {
                Step::Produced(producer, true, ..) => _ = open.insert(*producer),
                Step::End(producer, _) => _ = open.remove(producer),
                _ => {}
            }
        }
        steps.extend(open.into_iter().map(|producer| Step::End(producer, producer % 2 == 0)));
        steps
    })
}

/// A log, and what is known beside it.
#[derive(Debug, Clone, Default)]
struct Log {
    batches: Vec<RecordBatch>,
    aborted: Vec<AbortedTransaction>,
    last: LastBatches,
    /// The last sequence number of each producer that has one.
    sequences: HashMap<i64, i32>,
    open: BTreeMap<i64, u64>,
    end: u64,
}

impl Log {
    fn of(steps: &[Step]) -> Log {
        let mut log = Log::default();
        for step in steps {
            match step {
                Step::Plain(codec, entries) => log.data(BatchOptions::default(), *codec, entries),
                Step::Produced(producer, inside, codec, entries) => {
                    // A producer with a transaction open writes nothing outside of it.
                    let transactional = *inside || log.open.contains_key(producer);
                    let sequence = log.sequences.get(producer).map_or(0, |last| last + 1);
                    let options = BatchOptions {
                        producer_id: *producer,
                        producer_epoch: 0,
                        base_sequence: sequence,
                        transactional,
                        ..BatchOptions::default()
                    };
                    log.sequences.insert(*producer, sequence + entries.len() as i32 - 1);
                    if transactional {
                        log.open.entry(*producer).or_insert(log.end);
                    }
                    log.data(options, *codec, entries);
                    log.last.insert(*producer, LastBatch { epoch: 0, last_data_offset: Some(log.end - 1) });
                }
                Step::End(producer, commit) => log.marker(*producer, *commit),
            }
        }
        assert!(log.open.is_empty(), "what may be compacted has no transaction open");
        log
    }

    fn data(&mut self, options: BatchOptions, codec: Compression, entries: &[Entry]) {
        let mut builder =
            BatchBuilder::new(BatchOptions { base_offset: self.end, codec: codec.into(), ..options });
        for entry in entries {
            let (key, value) = ([entry.key.unwrap_or_default()], [entry.value.unwrap_or_default()]);
            let mut record = if entry.value.is_some() { Record::new(&value) } else { Record::tombstone() };
            record = record.timestamp(entry.time);
            if entry.key.is_some() {
                record = record.key(&key);
            }
            if entry.header {
                record = record.header("h", &value).null_header("n");
            }
            builder.push(&record).unwrap();
        }
        self.batches.push(parse(builder.finish().unwrap()));
        self.end += entries.len() as u64;
    }

    fn marker(&mut self, producer_id: i64, commit: bool) {
        let options = BatchOptions {
            base_offset: self.end,
            producer_id,
            producer_epoch: 0,
            default_timestamp: NOW,
            ..BatchOptions::default()
        };
        let marker = EndTransactionMarker { coordinator_epoch: 0, commit };
        self.batches.push(parse(marker.encode_batch(&options).unwrap()));
        let first = self.open.remove(&producer_id);
        if let Some(first_offset) = first.filter(|_| !commit) {
            self.aborted.push(AbortedTransaction {
                producer_id,
                first_offset,
                last_offset: self.end,
                last_stable_offset: self.end,
            });
        }
        self.last.entry(producer_id).or_insert(LastBatch { epoch: 0, last_data_offset: None });
        self.end += 1;
    }

    /// The records a reader of committed data gets, each in full.
    fn committed(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        for batch in &self.batches {
            let header = batch.header();
            let aborted = header.transactional
                && self.aborted.iter().any(|entry| {
                    Some(entry.producer_id) == header.producer_id
                        && (entry.first_offset..entry.last_offset).contains(&header.base_offset)
                });
            if header.control || aborted {
                continue;
            }
            seen.extend(batch.records(LIMIT).unwrap().iter().map(|record| Seen {
                key: record.key().map(<[u8]>::to_vec),
                tombstone: record.value().is_none(),
                offset: record.offset(),
                all: format!("{record:?}"),
            }));
        }
        seen
    }

    /// Compacts it from `first_dirty` to its end, in as many rounds as the map needs; returns what became of
    /// the batches in the last.
    fn compact(&mut self, mut first_dirty: u64, slots: usize, now: i64) -> Vec<Filtered> {
        loop {
            let mut map = OffsetMap::new(slots * OffsetMap::SLOT_BYTES, (3, 4));
            let mut transactions = CleanedTransactions::new(self.aborted.iter().copied());
            let mut map_end = first_dirty;
            for batch in self.batches.iter().filter(|batch| batch.next_offset() > first_dirty) {
                if !map_keys(&mut map, batch, first_dirty, &mut transactions, LIMIT).unwrap() {
                    break;
                }
                map_end = batch.next_offset();
            }
            assert!(map_end > first_dirty || first_dirty == self.end, "no progress");
            let filtered = self.filter(&map, map_end, now);
            first_dirty = map_end;
            if first_dirty == self.end {
                return filtered;
            }
        }
    }

    fn filter(&mut self, map: &OffsetMap, map_end: u64, now: i64) -> Vec<Filtered> {
        let mut transactions = CleanedTransactions::new(self.aborted.iter().copied());
        let mut filter = Filter {
            map,
            map_end,
            now,
            delete_retention_ms: RETENTION,
            round_end: self.end,
            last_batches: &self.last,
            legacy_tombstones_kept: false,
            decompress_limit: LIMIT,
            counts: Counts::default(),
        };
        let apply = |batch| filter.apply(batch, &mut transactions).unwrap();
        let filtered: Vec<_> = self.batches.iter().map(apply).collect();
        let left = self.batches.iter().zip(&filtered).filter_map(|(batch, filtered)| filtered.bytes(batch));
        let batches: Vec<_> = left.map(|bytes| parse(bytes.to_vec())).collect();
        let size = |batches: &[RecordBatch]| batches.iter().map(|batch| batch.header().size).sum::<u64>();
        assert_eq!(
            (filter.counts.bytes_read, filter.counts.bytes_kept),
            (size(&self.batches), size(&batches))
        );
        self.batches = batches;
        self.aborted = transactions.take_retained();
        self.check();
        filtered
    }

    /// What holds of every log, compacted or not.
    fn check(&self) {
        let mut next = 0;
        for batch in &self.batches {
            assert!(batch.base_offset() >= next);
            next = batch.next_offset();
            batch.records(LIMIT).unwrap();
        }
        assert_eq!(next, self.end, "the log ends where it ended");
        for (producer, last) in &self.last {
            let known = self.batches.iter().map(RecordBatch::header).rev().find(|header| {
                header.producer_id == Some(*producer) && header.control == last.last_data_offset.is_none()
            });
            let known = known.expect("an active producer is known by a batch");
            assert_eq!(known.producer_epoch, last.epoch);
            if last.last_data_offset.is_some() {
                assert_eq!(Some(known.last_offset), last.last_data_offset);
                assert_eq!(known.last_sequence(), self.sequences[producer]);
            }
        }
        let order: Vec<_> = self.aborted.iter().map(|entry| entry.last_offset).collect();
        assert!(order.is_sorted());
    }

    /// Every data batch of a transaction that is left has its marker behind it, and no marker its horizon.
    fn check_markers(&self) {
        let mut open = HashSet::new();
        for batch in &self.batches {
            let header = batch.header();
            if header.transactional && !header.control {
                open.insert(header.producer_id);
            } else if header.control && header.records_count == Some(1) && open.remove(&header.producer_id) {
                assert_eq!(header.delete_horizon, None);
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    key: Option<Vec<u8>>,
    tombstone: bool,
    offset: u64,
    all: String,
}

/// Of each key the last record.
fn last_of_each_key(seen: &[Seen]) -> Vec<Seen> {
    let last: HashMap<_, _> = seen.iter().map(|seen| (&seen.key, seen.offset)).collect();
    seen.iter().filter(|seen| seen.key.is_some() && last[&seen.key] == seen.offset).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_key_keeps_its_last_committed_record_however_many_rounds_it_takes(
        steps in steps(40),
        // Room for the three keys of one batch, up to room for all.
        slots in 4usize..10,
        active in any::<bool>(),
    ) {
        let mut log = Log::of(&steps);
        if !active {
            log.last.clear();
        }
        log.check();
        log.check_markers();
        let expected = last_of_each_key(&log.committed());
        log.compact(0, slots, NOW);
        prop_assert_eq!(log.committed(), expected.clone());
        log.check_markers();

        // The markers of what went get their horizon now; after that nothing happens until it is reached.
        log.compact(log.end, slots, NOW);
        prop_assert_eq!(log.committed(), expected.clone());
        for filtered in log.compact(log.end, slots, NOW + RETENTION - 1) {
            prop_assert_eq!(filtered, Filtered::Unchanged);
        }

        log.compact(log.end, slots, NOW + RETENTION);
        let values: Vec<_> = expected.into_iter().filter(|seen| !seen.tombstone).collect();
        prop_assert_eq!(log.committed(), values);
        log.check_markers();
    }

    #[test]
    fn compacting_again_after_appending_is_compacting_all(
        steps in steps(20),
        more in steps(20),
        slots in 4usize..10,
    ) {
        let first = Log::of(&steps);
        let whole = Log::of(&[steps, more].concat());
        let expected = last_of_each_key(&whole.committed());

        let mut log = first.clone();
        log.compact(0, slots, NOW);
        log.aborted.extend(whole.aborted.iter().filter(|entry| entry.last_offset >= first.end));
        log.batches.extend(whole.batches.iter().filter(|batch| batch.base_offset() >= first.end).cloned());
        log.end = whole.end;
        log.last = whole.last.clone();
        log.sequences = whole.sequences.clone();
        log.compact(first.end, slots, NOW + RETENTION / 2);
        prop_assert_eq!(log.committed(), expected);
        log.check_markers();
    }
}
