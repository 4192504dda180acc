//! Which segments become one: neighbours whose bytes, index entries and offsets fit into a single segment
//! (Kafka's `Cleaner.groupSegmentsBySize`).

use std::ops::Range;

use crate::partition::roll::OFFSET_SPAN_MAX;

/// What counts of a segment when it is put together with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentSizes {
    /// The base offset.
    pub(super) base_offset: u64,
    /// The base offset of the next segment, or where the log that may be compacted ends: one more than the
    /// last offset that can be in it.
    pub(super) next_base: u64,
    /// The size of the log file.
    pub(super) log_bytes: u64,
    /// The size of the offset index.
    pub(super) offset_index_bytes: u64,
    /// The size of the time index.
    pub(super) time_index_bytes: u64,
}

/// Ranges of `segments`, in order and without a gap, each of which fits into one segment before compaction
/// and so also after it. A segment that is too large by itself is a group by itself.
pub(super) fn group(segments: &[SegmentSizes], segment_bytes: u64, index_bytes: u64) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut sum: Option<SegmentSizes> = None;
    for (position, segment) in segments.iter().enumerate() {
        let joined = sum.and_then(|sum| join(&sum, segment, segment_bytes, index_bytes));
        match groups.last_mut().filter(|_| joined.is_some()) {
            Some(group) => group.end = position + 1,
            None => groups.push(position..position + 1),
        }
        sum = Some(joined.unwrap_or(*segment));
    }
    groups
}

/// The group and the segment after it as one, if that is allowed.
fn join(
    group: &SegmentSizes,
    segment: &SegmentSizes,
    segment_bytes: u64,
    index_bytes: u64,
) -> Option<SegmentSizes> {
    let within = |sum: u64, more: u64, limit| sum.checked_add(more).filter(|&total| total <= limit);
    let log_bytes = within(group.log_bytes, segment.log_bytes, segment_bytes)?;
    let offset_index_bytes = within(group.offset_index_bytes, segment.offset_index_bytes, index_bytes)?;
    let time_index_bytes = within(group.time_index_bytes, segment.time_index_bytes, index_bytes)?;
    let last_offset = segment.next_base.saturating_sub(1);
    // A segment without records has no offsets to fit; otherwise one would be left every 2^31 records.
    let spans = segment.log_bytes > 0 && last_offset.saturating_sub(group.base_offset) > OFFSET_SPAN_MAX;
    (!spans).then_some(SegmentSizes {
        base_offset: group.base_offset,
        next_base: segment.next_base,
        log_bytes,
        offset_index_bytes,
        time_index_bytes,
    })
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "one group is one range")]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Segments of these sizes, each of 10 offsets.
    fn segments(sizes: &[(u64, u64, u64)]) -> Vec<SegmentSizes> {
        sizes
            .iter()
            .zip(0u64..)
            .map(|(&(log_bytes, offset_index_bytes, time_index_bytes), number)| SegmentSizes {
                base_offset: number * 10,
                next_base: number * 10 + 10,
                log_bytes,
                offset_index_bytes,
                time_index_bytes,
            })
            .collect()
    }

    #[test]
    fn all_that_fits_becomes_one() {
        let ten = segments(&[(100, 8, 12); 10]);
        assert_eq!(group(&ten, u64::MAX, u64::MAX), [0..10]);
        assert_eq!(group(&[], 1, 1), []);
    }

    #[test]
    fn what_is_too_large_stays_alone() {
        let ten = segments(&[(100, 8, 12); 10]);
        let alone: Vec<_> = (0..10).map(|at| at..at + 1).collect();
        assert_eq!(group(&ten, 1, u64::MAX), alone);
        assert_eq!(group(&ten, u64::MAX, 1), alone);
    }

    #[test]
    fn each_size_has_its_own_limit_which_may_be_reached() {
        let ten = segments(&[(100, 8, 12); 10]);
        let threes = [0..3, 3..6, 6..9, 9..10];
        assert_eq!(group(&ten, 300, u64::MAX), threes);
        assert_eq!(group(&ten, 399, u64::MAX), threes);
        assert_eq!(group(&ten, u64::MAX, 36), threes, "the time index");
        let offsets = segments(&[(100, 12, 8); 10]);
        assert_eq!(group(&offsets, u64::MAX, 36), threes, "the offset index");
    }

    #[test]
    fn a_group_spans_no_more_offsets_than_an_index_can_say() {
        let span = i32::MAX as u64;
        let mut three = segments(&[(1, 0, 0); 3]);
        three[1] = SegmentSizes { next_base: span + 1, ..three[1] };
        three[2] = SegmentSizes { base_offset: span + 1, next_base: span + 2, ..three[2] };
        assert_eq!(group(&three, 100, 100), [0..2, 2..3]);
        three[1].next_base += 1;
        three[2].base_offset += 1;
        assert_eq!(group(&three, 100, 100), [0..1, 1..3]);
    }

    #[test]
    fn an_empty_segment_joins_however_far_its_offsets_are() {
        let mut two = segments(&[(1, 0, 0), (0, 0, 0)]);
        two[1].next_base = u64::MAX / 2;
        assert_eq!(group(&two, 100, 100), [0..2]);
        two[1].log_bytes = 1;
        assert_eq!(group(&two, 100, 100), [0..1, 1..2]);
    }

    proptest! {
        #[test]
        fn groups_hold_all_segments_in_order_and_no_two_groups_would_fit_together(
            sizes in vec((0u64..50, 0u64..50, 0u64..50), 0..30),
        ) {
            let segments = segments(&sizes);
            let groups = group(&segments, 100, 60);
            let flat: Vec<usize> = groups.iter().cloned().flatten().collect();
            prop_assert_eq!(flat, (0..segments.len()).collect::<Vec<_>>());
            let sum = |range: Range<usize>, size: fn(&SegmentSizes) -> u64| {
                segments[range].iter().map(size).sum::<u64>()
            };
            let fits = |range: Range<usize>| {
                sum(range.clone(), |segment| segment.log_bytes) <= 100
                    && sum(range.clone(), |segment| segment.offset_index_bytes) <= 60
                    && sum(range, |segment| segment.time_index_bytes) <= 60
            };
            for range in &groups {
                prop_assert!(fits(range.clone()));
                if range.end < segments.len() {
                    prop_assert!(!fits(range.start..range.end + 1));
                }
            }
        }
    }
}
