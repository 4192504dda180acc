//! [`PriorityOrder`]: which of the available records goes first.

use std::cmp::Ordering;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::format::StoredRecord;

/// Which of two records of a share group is delivered first.
///
/// # Contract
/// - The order is total, and a function of the two records alone: what compares as equal goes by offset.
/// - It is asked often, and while the partition is locked: it should be quick, and must not call the consumer.
///   An order that breaks this contract delivers in no useful order; no record is lost by it. What it panics for
///   counts as equal.
pub trait PriorityOrder: fmt::Debug + Send + Sync {
    /// By which the members of a group tell that they have the same order.
    fn name(&self) -> &str;

    /// [`Ordering::Less`] if `left` goes first, [`Ordering::Equal`] if that is all the same.
    fn compare(&self, left: &StoredRecord, right: &StoredRecord) -> Ordering;
}

/// As an order says. If it panics, a record must not stay behind that it was asked of, nor others with it.
pub(super) fn compare(order: &dyn PriorityOrder, left: &StoredRecord, right: &StoredRecord) -> Ordering {
    catch_unwind(AssertUnwindSafe(|| order.compare(left, right))).unwrap_or(Ordering::Equal)
}

/// Lower keys first, compared byte by byte; records without a key come last.
#[derive(Debug, Clone, Copy, Default)]
pub struct LowestKeyFirst;

impl PriorityOrder for LowestKeyFirst {
    fn name(&self) -> &str {
        "lowest-key-first"
    }

    fn compare(&self, left: &StoredRecord, right: &StoredRecord) -> Ordering {
        match (left.key(), right.key()) {
            (Some(left), Some(right)) => left.cmp(right),
            (left, right) => right.is_some().cmp(&left.is_some()),
        }
    }
}

/// Lower ranks first, where a function says the rank of a record.
///
/// ```
/// use annals::share::{PriorityOrder, RankOrder};
///
/// // A header says how urgent it is; what says nothing can wait.
/// let order = RankOrder::new("urgency", |record| {
///     record.headers().find(|header| header.key == "urgent").map_or(1, |_| 0)
/// });
/// assert_eq!(order.name(), "urgency");
/// ```
pub struct RankOrder<F> {
    name: String,
    rank: F,
}

impl<F, R> RankOrder<F>
where
    F: Fn(&StoredRecord) -> R + Send + Sync,
    R: Ord,
{
    /// An order of that name.
    pub fn new(name: impl Into<String>, rank: F) -> Self {
        RankOrder { name: name.into(), rank }
    }
}

impl<F, R> PriorityOrder for RankOrder<F>
where
    F: Fn(&StoredRecord) -> R + Send + Sync,
    R: Ord,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn compare(&self, left: &StoredRecord, right: &StoredRecord) -> Ordering {
        (self.rank)(left).cmp(&(self.rank)(right))
    }
}

impl<F> fmt::Debug for RankOrder<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RankOrder").field("name", &self.name).finish_non_exhaustive()
    }
}
