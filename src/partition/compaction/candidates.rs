//! Which part of a log may be compacted, and whether it is worth it or due (Kafka's `LogCleanerManager`).
//!
//! What may be compacted ends below the active segment, below the last stable offset, and below every segment
//! that is younger than `min.compaction.lag.ms`; it consists of whole segments.

use crate::partition::LogConfig;

/// What counts of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentAge {
    /// The base offset.
    pub(super) base_offset: u64,
    /// The size of the log file.
    pub(super) bytes: u64,
    /// The largest timestamp in it; if no record has one, when it was last written.
    pub(super) largest_timestamp: i64,
    /// The timestamp of its first batch; `None` if it is empty.
    pub(super) first_timestamp: Option<i64>,
}

/// What counts of a log.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogState<'a> {
    /// How far it was compacted before, if it was.
    pub(super) checkpoint: Option<u64>,
    /// The first offset that can be read.
    pub(super) log_start: u64,
    /// The offset that the next record will get.
    pub(super) log_end: u64,
    /// Where the first transaction begins that is undecided, or what is not yet committed.
    pub(super) last_stable: u64,
    /// Its segments in order; the last one is active.
    pub(super) segments: &'a [SegmentAge],
}

/// What is to be done with a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dirtiness {
    /// The first offset that was not compacted before.
    pub(super) first_dirty: u64,
    /// The first offset that may not be compacted now: the base of a segment, or `first_dirty` if that is
    /// larger.
    pub(super) first_uncleanable: u64,
    /// Bytes of the segments that begin below `first_dirty`.
    pub(super) clean_bytes: u64,
    /// Bytes of the segments from that with `first_dirty` on, up to `first_uncleanable`.
    pub(super) cleanable_bytes: u64,
    /// Whether to compact it.
    pub(super) due: bool,
    /// Whether the checkpoint lay outside the log, so that it is to be written again.
    pub(super) reset: bool,
}

impl Dirtiness {
    /// The part of the bytes that was not compacted before, from 0 to 1: the dirtiest log comes first.
    pub(super) fn ratio(&self) -> f64 {
        match self.clean_bytes.saturating_add(self.cleanable_bytes) {
            0 => 0.0,
            total => self.cleanable_bytes as f64 / total as f64,
        }
    }
}

impl LogState<'_> {
    /// What is dirty now, and whether compaction is due.
    pub(super) fn dirtiness(&self, config: &LogConfig, now: i64) -> Dirtiness {
        let (first_dirty, reset) = match self.checkpoint {
            Some(checkpoint) if (self.log_start..=self.log_end).contains(&checkpoint) => (checkpoint, false),
            // What a checkpoint outside the log says about the log is not to be trusted.
            Some(_) => (self.log_start, true),
            None => (self.log_start, false),
        };
        let uncleanable = self.uncleanable_segment(first_dirty, config, now);
        let bytes = |segments: &[SegmentAge]| segments.iter().map(|segment| segment.bytes).sum::<u64>();
        let before = |offset| {
            let count = self.segments.partition_point(|segment| segment.base_offset < offset);
            self.segments.get(..count).unwrap_or_default()
        };
        let mut dirtiness = Dirtiness {
            first_dirty,
            first_uncleanable: uncleanable.max(first_dirty),
            clean_bytes: bytes(before(first_dirty)),
            cleanable_bytes: bytes(
                before(uncleanable).get(self.containing(first_dirty)..).unwrap_or_default(),
            ),
            due: false,
            reset,
        };
        dirtiness.due = dirtiness.ratio() > config.min_cleanable_dirty_ratio
            || dirtiness.cleanable_bytes > 0 && self.is_overdue(first_dirty, config, now);
        dirtiness
    }

    /// The base of the first segment that may not be compacted.
    fn uncleanable_segment(&self, first_dirty: u64, config: &LogConfig, now: i64) -> u64 {
        let active = self.segments.last().map_or(self.log_end, |segment| segment.base_offset);
        let youngest_allowed = now.saturating_sub(config.min_compaction_lag_ms);
        let young = self
            .dirty_sealed(first_dirty)
            .iter()
            .find(|segment| config.min_compaction_lag_ms > 0 && segment.largest_timestamp > youngest_allowed)
            .map_or(active, |segment| segment.base_offset);
        let limit = young.min(active).min(self.last_stable).max(first_dirty);
        // Whole segments only: one that goes on beyond the limit cannot be replaced up to it.
        self.segments.get(self.containing(limit)).map_or(active, |segment| segment.base_offset.min(active))
    }

    /// Whether something dirty is older than `max.compaction.lag.ms`.
    fn is_overdue(&self, first_dirty: u64, config: &LogConfig, now: i64) -> bool {
        let oldest_allowed = now.saturating_sub(config.max_compaction_lag_ms);
        self.dirty_sealed(first_dirty)
            .iter()
            .filter_map(|segment| segment.first_timestamp)
            .any(|timestamp| timestamp > 0 && timestamp < oldest_allowed)
    }

    /// The segments from that with `first_dirty` on, without the active one.
    fn dirty_sealed(&self, first_dirty: u64) -> &[SegmentAge] {
        self.segments
            .split_last()
            .and_then(|(_, sealed)| sealed.get(self.containing(first_dirty)..))
            .unwrap_or_default()
    }

    /// The position of the segment to which an offset belongs; the first one for an offset below all.
    fn containing(&self, offset: u64) -> usize {
        self.segments.partition_point(|segment| segment.base_offset <= offset).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TopicConfig;

    const NOW: i64 = 1_700_000_000_000;

    /// Ten sealed segments of 100 bytes and 10 offsets, one an hour, and an active one with 5 offsets.
    fn segments() -> Vec<SegmentAge> {
        (0..11)
            .map(|number| SegmentAge {
                base_offset: number as u64 * 10,
                bytes: 100,
                largest_timestamp: hours_ago(10 - number),
                first_timestamp: Some(hours_ago(11 - number)),
            })
            .collect()
    }

    fn hours_ago(hours: i64) -> i64 {
        NOW - hours * 3_600_000
    }

    fn config(min_lag: i64, max_lag: i64, ratio: f64) -> LogConfig {
        LogConfig {
            min_compaction_lag_ms: min_lag,
            max_compaction_lag_ms: max_lag,
            min_cleanable_dirty_ratio: ratio,
            ..TopicConfig::new().resolve().unwrap()
        }
    }

    fn lazy() -> LogConfig {
        config(0, i64::MAX, 1.0)
    }

    fn log(segments: &[SegmentAge], checkpoint: Option<u64>) -> LogState<'_> {
        LogState { checkpoint, log_start: 0, log_end: 105, last_stable: 105, segments }
    }

    #[test]
    fn a_log_never_compacted_is_dirty_up_to_its_active_segment() {
        let found = log(&segments(), None).dirtiness(&lazy(), NOW);
        let expected = Dirtiness {
            first_dirty: 0,
            first_uncleanable: 100,
            clean_bytes: 0,
            cleanable_bytes: 1000,
            due: false,
            reset: false,
        };
        assert_eq!(found, expected);
        assert_eq!(found.ratio(), 1.0);
    }

    #[test]
    fn what_was_compacted_counts_as_clean() {
        let found = log(&segments(), Some(30)).dirtiness(&lazy(), NOW);
        assert_eq!((found.first_dirty, found.clean_bytes, found.cleanable_bytes), (30, 300, 700));
        assert_eq!(found.ratio(), 0.7);
    }

    #[test]
    fn a_segment_compacted_in_part_is_clean_and_dirty() {
        let found = log(&segments(), Some(35)).dirtiness(&lazy(), NOW);
        assert_eq!((found.first_dirty, found.clean_bytes, found.cleanable_bytes), (35, 400, 700));
    }

    #[test]
    fn a_checkpoint_outside_the_log_is_reset_to_its_start() {
        let segments = segments();
        let from = |checkpoint| {
            let state = LogState { log_start: 20, ..log(&segments, checkpoint) };
            let found = state.dirtiness(&lazy(), NOW);
            (found.first_dirty, found.reset)
        };
        assert_eq!(from(Some(19)), (20, true));
        assert_eq!(from(Some(106)), (20, true));
        assert_eq!(from(Some(20)), (20, false));
        assert_eq!(from(Some(105)), (105, false));
        assert_eq!(from(None), (20, false));
    }

    #[test]
    fn nothing_beyond_the_last_stable_offset_is_compacted_and_no_part_of_a_segment() {
        let segments = segments();
        let up_to = |last_stable| {
            let found = LogState { last_stable, ..log(&segments, None) }.dirtiness(&lazy(), NOW);
            (found.first_uncleanable, found.cleanable_bytes)
        };
        assert_eq!(up_to(40), (40, 400));
        assert_eq!(up_to(39), (30, 300));
        assert_eq!(up_to(104), (100, 1000));
        assert_eq!(up_to(0), (0, 0));
    }

    #[test]
    fn the_range_is_never_negative() {
        let segments = segments();
        let state = LogState { last_stable: 40, ..log(&segments, Some(75)) };
        let found = state.dirtiness(&config(0, 0, 0.0), NOW);
        assert_eq!((found.first_dirty, found.first_uncleanable, found.cleanable_bytes), (75, 75, 0));
        assert!(!found.due);
        let found = log(&segments, Some(103)).dirtiness(&config(0, 0, 0.0), NOW);
        assert_eq!((found.first_dirty, found.first_uncleanable, found.cleanable_bytes), (103, 103, 0));
        assert!(!found.due);
    }

    #[test]
    fn what_is_younger_than_the_minimum_lag_is_left() {
        let segments = segments();
        let up_to = |lag| log(&segments, None).dirtiness(&config(lag, i64::MAX, 1.0), NOW).first_uncleanable;
        assert_eq!(up_to(0), 100);
        assert_eq!(up_to(3_600_000), 100, "exactly old enough");
        assert_eq!(up_to(3_600_001), 90);
        assert_eq!(up_to(5 * 3_600_000 + 1), 50);
        assert_eq!(up_to(i64::MAX), 0);
    }

    #[test]
    fn a_young_segment_in_the_middle_ends_the_range() {
        let mut segments = segments();
        segments[4].largest_timestamp = NOW;
        let lag = config(1, i64::MAX, 1.0);
        assert_eq!(log(&segments, None).dirtiness(&lag, NOW).first_uncleanable, 40);
        // What was compacted before does not hold up what was not.
        assert_eq!(log(&segments, Some(50)).dirtiness(&lag, NOW).first_uncleanable, 100);
    }

    #[test]
    fn more_than_the_ratio_must_be_dirty() {
        let segments = segments();
        let due = |ratio| log(&segments, Some(50)).dirtiness(&config(0, i64::MAX, ratio), NOW).due;
        assert!(due(0.49));
        assert!(!due(0.5));
    }

    #[test]
    fn what_is_older_than_the_maximum_lag_makes_compaction_due() {
        let segments = segments();
        let due = |checkpoint, lag_hours: i64| {
            let config = config(0, lag_hours * 3_600_000, 1.0);
            log(&segments, checkpoint).dirtiness(&config, NOW).due
        };
        assert!(due(None, 10) && !due(None, 11), "the first batch is exactly 11 hours old");
        assert!(due(Some(50), 5) && !due(Some(50), 6), "what is clean does not count");
        assert!(!due(Some(100), 0), "nor does the active segment");
    }

    #[test]
    fn batches_without_a_time_make_nothing_due() {
        let mut segments = segments();
        for segment in &mut segments {
            segment.first_timestamp = Some(-1);
        }
        segments[3].first_timestamp = None;
        assert!(!log(&segments, None).dirtiness(&config(0, 0, 1.0), NOW).due);
        segments[3].first_timestamp = Some(1);
        assert!(log(&segments, None).dirtiness(&config(0, 0, 1.0), NOW).due);
    }

    #[test]
    fn an_empty_log_has_nothing_to_compact() {
        let one = [SegmentAge { bytes: 0, first_timestamp: None, ..segments()[0] }];
        let state = LogState { log_end: 0, last_stable: 0, ..log(&one, None) };
        let found = state.dirtiness(&config(0, 0, 0.0), NOW);
        assert_eq!((found.first_uncleanable, found.clean_bytes, found.cleanable_bytes), (0, 0, 0));
        assert!(!found.due && found.ratio() == 0.0);
    }
}
