//! One run of compaction over a log (Kafka's `Cleaner.doClean`): the keys of its dirty part go into a map, as many
//! as fit, then the log up to there is written again without what the map supersedes; and once more, until the
//! dirty part is done.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::candidates::{Dirtiness, LogState, SegmentAge};
use super::filter::{Filter, LastBatch, LastBatches, map_keys};
use super::groups::{SegmentSizes, group};
use super::offset_map::OffsetMap;
use super::output::Output;
use super::status::CompactionReport;
use super::swap::Swapped;
use super::transactions::CleanedTransactions;
use crate::error::{Error, Result};
use crate::format::{BatchHeader, OffsetIndexEntry, RecordBatch, TimeIndexEntry};
use crate::observe;
use crate::partition::{DurableMark, Log, LogConfig, Marks, Partition};
use crate::storage::file_name::Stage;
use crate::storage::{BatchReader, Segment, Unreadable, find_batch_before, remove_files};

/// What compaction may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CompactionLimits {
    /// Bytes of memory for the map of keys.
    pub(crate) memory: usize,
    /// Bytes a second, read and written together; `None` is no limit.
    pub(crate) bytes_per_second: Option<u64>,
}

/// What of a log is to be compacted.
pub(super) struct Plan {
    segments: Vec<Arc<Segment>>,
    pub(super) dirtiness: Dirtiness,
}

/// Why a run ended early.
enum Failure {
    /// Somebody needs the log for himself.
    Stopped,
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Failed(error)
    }
}

type Attempt<T> = std::result::Result<T, Failure>;

impl Partition {
    /// Compacts now what may be compacted, however little it is: for each key, the last record of the sealed
    /// segments stays, and tombstones go once `delete.retention.ms` is over. Appends and reads go on meanwhile.
    /// [`Store::maintain`](crate::Store::maintain) does it for the partitions for which it is due.
    ///
    /// Waits for a run that is under way. Returns `None` if there was nothing to do, or if the run was stopped by a
    /// truncation or a close.
    ///
    /// # Errors
    /// [`Error::PolicyViolation`] if the topic's `cleanup.policy` does not include `compact`; [`Error::Corruption`]
    /// if a batch is damaged: then nothing is removed from its segment; otherwise as the system calls fail. The log
    /// is whole in any case, and the next run begins anew.
    pub fn compact(&self) -> Result<Option<CompactionReport>> {
        let config = self.log.config.load();
        if !config.cleanup_policy.compact {
            let (partition, action) = (self.id().to_string(), "compact");
            let reason = "its cleanup.policy does not include compact".into();
            return Err(Error::PolicyViolation { partition, action, reason });
        }
        let _alone = self.log.compacting.lock();
        self.log.compact(true)
    }

    /// Compacts if that is due, unless it is under way already or has just failed.
    pub(crate) fn compact_if_due(&self) -> Result<Option<CompactionReport>> {
        let log = &self.log;
        if !log.config.load().cleanup_policy.compact || !log.compaction.may_retry(log.clock.monotonic()) {
            return Ok(None);
        }
        let Some(_alone) = log.compacting.try_lock() else { return Ok(None) };
        log.compact(false)
    }
}

impl Log {
    /// What may be compacted now. Only what is on disk for sure is: a copy must not be all that is left of it.
    pub(super) fn plan_compaction(&self) -> Result<Plan> {
        let config = self.config.load();
        let segments = self.segments.load_full();
        let marks = self.marks_at_start(&segments);
        let recoverable = marks.recoverable().durable;
        let durable = segments.partition_point(|segment| segment.base_offset() < recoverable.segment);
        let considered = segments.get(..=durable.min(segments.len().saturating_sub(1)));
        let segments = considered.unwrap_or_default().to_vec();
        let ages = segments.iter().map(|segment| segment.compaction_age()).collect::<Result<Vec<_>>>()?;
        let state = LogState {
            checkpoint: marks.first_dirty,
            log_start: self.log_start.load(Ordering::Acquire),
            log_end: self.log_end.load(Ordering::Acquire),
            last_stable: self.last_stable_offset(),
            segments: &ages,
        };
        Ok(Plan { dirtiness: state.dirtiness(&config, self.clock.now()), segments })
    }

    /// What is written down. A recovery point at the end of a segment is one at the start of the next, and the
    /// former may be compacted.
    fn marks_at_start(&self, segments: &[Arc<Segment>]) -> Marks {
        let mut marks = self.marks.lock();
        let DurableMark { offset, segment, .. } = marks.now.durable;
        if offset > segment && segments.iter().any(|segment| segment.base_offset() == offset) {
            marks.now.durable = DurableMark { offset, segment: offset, position: 0 };
        }
        *marks
    }

    /// A run, by whoever holds the right to compact.
    fn compact(&self, forced: bool) -> Result<Option<CompactionReport>> {
        self.writer.lock().check(&self.id)?;
        self.finish_swap()?;
        // A recovery point that waits for something to be saved would keep its segments from being compacted.
        self.persist_indexes(false)?;
        let plan = self.plan_compaction()?;
        if plan.dirtiness.reset {
            self.marks.lock().first_dirty = Some(plan.dirtiness.first_dirty);
        }
        if !(forced || plan.dirtiness.due) || !plan.has_work() {
            return Ok(None);
        }
        self.compaction.begin();
        let began = self.clock.monotonic();
        match self.run(plan, began) {
            Ok(report) => {
                let took = self.clock.monotonic().saturating_sub(began);
                let report = CompactionReport { took, ..report };
                self.compaction.succeeded(report);
                observe::compacted(&self.id, report.bytes_before, report.bytes_after);
                Ok(Some(report))
            }
            Err(Failure::Stopped) => {
                self.compaction.stopped();
                Ok(None)
            }
            Err(Failure::Failed(error)) => {
                observe::compaction_failed(&self.id, &error.to_string());
                self.compaction.failed(error.to_string(), self.clock.monotonic());
                Err(error)
            }
        }
    }

    fn run(&self, plan: Plan, began: Duration) -> Attempt<CompactionReport> {
        let mut throttle = Throttle { log: self, began, bytes: 0 };
        let from = plan.dirtiness.first_dirty;
        let mut report = CompactionReport { from, ..CompactionReport::default() };
        let mut plan = plan;
        loop {
            let end = self.pass(&plan, &mut report, &mut throttle)?;
            report.passes += 1;
            report.to = end;
            self.marks.lock().first_dirty = Some(end);
            self.surroundings.checkpoint()?;
            if end >= plan.dirtiness.first_uncleanable {
                return Ok(report);
            }
            let limit = plan.dirtiness.first_uncleanable;
            plan = self.plan_compaction()?;
            plan.dirtiness.first_uncleanable = plan.dirtiness.first_uncleanable.min(limit);
        }
    }

    /// One map of keys, and everything up to its end written again. Returns the end.
    fn pass(&self, plan: &Plan, report: &mut CompactionReport, throttle: &mut Throttle<'_>) -> Attempt<u64> {
        let config = self.config.load();
        let Dirtiness { first_dirty, first_uncleanable, .. } = plan.dirtiness;
        let secret = (self.fs().random(), self.fs().random());
        let keys = first_uncleanable.saturating_sub(first_dirty);
        let mut map = OffsetMap::with_capacity_for(keys, self.compaction_limits.memory, secret);
        let map_end = self.fill(&mut map, plan, &config, throttle)?;
        if map_end <= first_dirty {
            let (size, limit) = (map.capacity() as u64 + 1, map.capacity() as u64);
            let what = "the number of keys in one batch";
            return Err(Error::TooLarge { what, size, limit, setting: "compaction_memory" }.into());
        }
        let sources = plan.below(map_end);
        let last_batches = self.last_batches();
        let mut filter = Filter {
            map: &map,
            map_end,
            now: self.clock.now(),
            delete_retention_ms: config.delete_retention_ms,
            round_end: first_uncleanable,
            last_batches: &last_batches,
            legacy_tombstones_kept: true,
            decompress_limit: config.max_decompressed_bytes as usize,
            counts: Default::default(),
        };
        let mut transactions = self.transactions_of(sources)?;
        let legacy_limit = legacy_limit(sources, first_dirty, &config)?;
        let sizes = sources.iter().zip(ends(sources, plan.next_base(sources)));
        let sizes = sizes.map(|(segment, end)| segment.sizes(end)).collect::<Result<Vec<_>>>()?;
        let index_bytes = config.segment_index_bytes.into();
        for range in group(&sizes, config.segment_bytes.into(), index_bytes) {
            let group = sources.get(range).unwrap_or_default();
            self.rewrite(group, &mut filter, &mut transactions, legacy_limit, report, throttle)?;
        }
        report.records_read += filter.counts.records_read;
        report.records_kept += filter.counts.records_kept;
        report.without_key += filter.counts.without_key;
        Ok(map_end)
    }

    /// Puts the keys of the dirty part into the map. Returns up to where it covers the log.
    fn fill(
        &self,
        map: &mut OffsetMap,
        plan: &Plan,
        config: &LogConfig,
        throttle: &mut Throttle<'_>,
    ) -> Attempt<u64> {
        let Dirtiness { first_dirty, first_uncleanable, .. } = plan.dirtiness;
        let limit = config.max_decompressed_bytes as usize;
        let aborted = self.collect_aborted(first_dirty, first_uncleanable)?;
        let mut transactions = CleanedTransactions::new(aborted);
        let mut end = first_dirty;
        let dirty = plan.range(first_dirty, first_uncleanable);
        let dirty = plan.segments.get(dirty).unwrap_or_default();
        for (segment, segment_end) in dirty.iter().zip(ends(dirty, first_uncleanable)) {
            let mut batches = self.batches_of(segment, first_dirty)?;
            while let Some(batch) = batches.next()? {
                throttle.spend(batch.header().size)?;
                if batch.next_offset() <= first_dirty {
                    continue;
                }
                let mapped = map_keys(map, &batch, first_dirty, &mut transactions, limit);
                if !mapped.map_err(|error| batches.damaged(&batch, &error))? {
                    return Ok(end);
                }
                end = batch.next_offset();
            }
            // Offsets that are missing at the end of a segment hold nothing to be mapped.
            end = end.max(segment_end);
        }
        Ok(end)
    }

    /// Writes what is left of a group of segments, and puts it in their place.
    fn rewrite(
        &self,
        group: &[Arc<Segment>],
        filter: &mut Filter<'_>,
        transactions: &mut CleanedTransactions,
        legacy_limit: i64,
        report: &mut CompactionReport,
        throttle: &mut Throttle<'_>,
    ) -> Attempt<()> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(()) };
        let base = first.base_offset();
        let interval = self.config.load().index_interval_bytes.into();
        let written = (|| {
            let mut output = Output::create(&self.pool, self.directory(), base, interval)?;
            for segment in group {
                filter.legacy_tombstones_kept = segment.append_time()? > legacy_limit;
                self.filter_segment(segment, filter, transactions, &mut output, throttle)?;
            }
            let aborted = transactions.take_retained();
            if group.len() == 1 && output.unchanged {
                return Ok(None);
            }
            Ok(Some(output.finish(aborted, last.append_time()?)?))
        })();
        let (before, after) = match written {
            Ok(Some(segment)) => {
                let bytes_after = segment.size();
                let before: u64 = group.iter().map(|segment| segment.size()).sum();
                match self.swap(group, segment) {
                    Ok(Swapped::Done) => (before, Some(bytes_after)),
                    Ok(Swapped::Gone) => {
                        remove_files(self.fs(), self.directory(), base, Stage::Cleaned)?;
                        return Err(Failure::Stopped);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(None) => {
                remove_files(self.fs(), self.directory(), base, Stage::Cleaned)?;
                (0, None)
            }
            Err(failure) => {
                // If this fails as well, the next opening removes it.
                let _ = remove_files(self.fs(), self.directory(), base, Stage::Cleaned);
                return Err(failure);
            }
        };
        if let Some(after) = after {
            report.segments_before += group.len();
            report.segments_after += 1;
            report.bytes_before += before;
            report.bytes_after += after;
        }
        Ok(())
    }

    fn filter_segment(
        &self,
        segment: &Arc<Segment>,
        filter: &mut Filter<'_>,
        transactions: &mut CleanedTransactions,
        output: &mut Output,
        throttle: &mut Throttle<'_>,
    ) -> Attempt<()> {
        let mut batches = self.batches_of(segment, 0)?;
        while let Some(batch) = batches.next()? {
            throttle.spend(batch.header().size)?;
            let filtered = filter.apply(&batch, transactions);
            let filtered = filtered.map_err(|error| batches.damaged(&batch, &error))?;
            let Some(bytes) = filtered.bytes(&batch) else {
                output.unchanged = false;
                continue;
            };
            if std::ptr::eq(bytes, batch.as_bytes()) {
                output.append(bytes, batch.header())?;
            } else {
                output.unchanged = false;
                let header = BatchHeader::parse(bytes).map_err(|error| batches.damaged(&batch, &error))?;
                output.append(bytes, &header)?;
            }
            throttle.spend(bytes.len() as u64)?;
        }
        Ok(())
    }

    fn batches_of(&self, segment: &Arc<Segment>, from: u64) -> Result<Batches> {
        let follows = segment.base_offset();
        let reader = if from > follows {
            segment.reader_for(from)?
        } else {
            BatchReader::new(Arc::clone(segment.log()), 0)
        };
        let log_start = self.log_start.load(Ordering::Acquire);
        Ok(Batches { segment: Arc::clone(segment), reader, follows, log_start })
    }

    /// The last batches of producers that are known: they must go on being known by them.
    fn last_batches(&self) -> LastBatches {
        let known = self.writer.lock().producers.last_batches();
        let last = |(producer, (epoch, last_data_offset))| (producer, LastBatch { epoch, last_data_offset });
        known.into_iter().map(last).collect::<HashMap<_, _>>()
    }

    fn transactions_of(&self, sources: &[Arc<Segment>]) -> Result<CleanedTransactions> {
        let (Some(first), Some(last)) = (sources.first(), sources.last()) else {
            return Ok(CleanedTransactions::default());
        };
        let end = self.next_base_of(last);
        Ok(CleanedTransactions::new(self.collect_aborted(first.base_offset(), end)?))
    }

    fn next_base_of(&self, segment: &Segment) -> u64 {
        let segments = self.segments.load();
        let after = segments.partition_point(|other| other.base_offset() <= segment.base_offset());
        segments.get(after).map_or_else(|| self.log_end.load(Ordering::Acquire), |next| next.base_offset())
    }
}

impl Plan {
    fn has_work(&self) -> bool {
        self.dirtiness.cleanable_bytes > 0 && self.dirtiness.first_uncleanable > self.dirtiness.first_dirty
    }

    /// The segments that hold the offsets from one to another.
    fn range(&self, from: u64, to: u64) -> Range<usize> {
        let first = self.segments.partition_point(|segment| segment.base_offset() <= from).saturating_sub(1);
        let end = self.segments.partition_point(|segment| segment.base_offset() < to);
        first.min(end)..end
    }

    /// The segments that begin below an offset.
    fn below(&self, offset: u64) -> &[Arc<Segment>] {
        let end = self.segments.partition_point(|segment| segment.base_offset() < offset);
        self.segments.get(..end).unwrap_or_default()
    }

    /// Where the last of these, the first of the plan, ends.
    fn next_base(&self, sources: &[Arc<Segment>]) -> u64 {
        let next = self.segments.get(sources.len()).map(|next| next.base_offset());
        next.unwrap_or(self.dirtiness.first_uncleanable)
    }
}

/// Where each of the segments ends: where the next one begins, and the last one at `last`.
fn ends(segments: &[Arc<Segment>], last: u64) -> impl Iterator<Item = u64> + '_ {
    segments.iter().skip(1).map(|next| next.base_offset()).chain([last])
}

/// Tombstones of magic 0 and 1 in segments last written after this stay (Kafka's rule by modification times).
fn legacy_limit(sources: &[Arc<Segment>], first_dirty: u64, config: &LogConfig) -> Result<i64> {
    let clean = sources.iter().rev().find(|segment| segment.base_offset() < first_dirty);
    match clean {
        Some(clean) => Ok(clean.append_time()?.saturating_sub(config.delete_retention_ms)),
        None => Ok(0),
    }
}

impl Segment {
    fn compaction_age(&self) -> Result<SegmentAge> {
        let largest = self.max_timestamp()?;
        Ok(SegmentAge {
            base_offset: self.base_offset(),
            bytes: self.size(),
            largest_timestamp: if largest >= 0 { largest } else { self.append_time()? },
            first_timestamp: self.first_timestamp(),
        })
    }

    fn sizes(&self, next_base: u64) -> Result<SegmentSizes> {
        let indexes = self.indexes()?;
        Ok(SegmentSizes {
            base_offset: self.base_offset(),
            next_base,
            log_bytes: self.size(),
            offset_index_bytes: (indexes.offset.len() * OffsetIndexEntry::SIZE) as u64,
            time_index_bytes: (indexes.time.len() * TimeIndexEntry::SIZE) as u64,
        })
    }
}

/// The batches of a segment in order, from the one that holds an offset on.
struct Batches {
    segment: Arc<Segment>,
    reader: BatchReader,
    follows: u64,
    log_start: u64,
}

impl Batches {
    /// What cannot be read, or is out of order, must not be thrown away: it is for somebody to look at. What lies
    /// below the log start is for nobody.
    fn next(&mut self) -> Result<Option<RecordBatch>> {
        let (log, end) = (self.segment.log(), self.segment.size());
        loop {
            let position = self.reader.position();
            let error = match self.reader.next(end) {
                Ok(Some(batch)) => {
                    let header = batch.header();
                    if header.last_offset < self.follows || !log.may_hold(header) {
                        let detail = format!("offsets go back: the batch before ends below {}", self.follows);
                        return Err(log.corruption(position, header.base_offset, detail));
                    }
                    self.follows = batch.next_offset();
                    return Ok(Some(batch));
                }
                Ok(None) => return Ok(None),
                Err(Unreadable::Failed(error)) => return Err(error),
                Err(Unreadable::Damaged(error)) => error,
            };
            match find_batch_before(log, position, end, self.follows + 1, self.log_start)? {
                Some(behind) => self.reader.seek(behind),
                None => return Err(log.corruption(position, self.follows, error)),
            }
        }
    }

    fn damaged(&self, batch: &RecordBatch, error: &crate::error::FormatError) -> Error {
        let position = self.reader.position().saturating_sub(batch.header().size);
        self.segment.log().corruption(position, batch.base_offset(), error)
    }
}

/// Keeps to the bytes a second that compaction may use, and ends it when it is told to stop.
struct Throttle<'a> {
    log: &'a Log,
    began: Duration,
    bytes: u64,
}

/// How long it sleeps at a time, so that it can be stopped.
const SLEEP_MAX: Duration = Duration::from_millis(50);

impl Throttle<'_> {
    fn spend(&mut self, bytes: u64) -> Attempt<()> {
        self.bytes += bytes;
        loop {
            if self.log.compaction_stop.load(Ordering::Acquire) > 0 {
                return Err(Failure::Stopped);
            }
            let Some(rate) = self.log.compaction_limits.bytes_per_second else { return Ok(()) };
            let due = Duration::from_secs_f64(self.bytes as f64 / rate.max(1) as f64);
            let elapsed = self.log.clock.monotonic().saturating_sub(self.began);
            let ahead = due.saturating_sub(elapsed);
            if ahead.is_zero() {
                return Ok(());
            }
            self.log.clock.sleep(ahead.min(SLEEP_MAX));
        }
    }
}
