//! The seam [`ConsumerInterceptor`]: who sees what a consumer returns and commits.

use std::fmt;

use super::commit::Offsets;
use super::records::ConsumerRecords;

/// Sees the records of each poll before the caller does, and every commit after it was made: for measuring, tracing,
/// filtering.
///
/// # Contract
/// Both are called on the thread that polls or commits, one at a time for each consumer, and hold it up for as long as
/// they take. What [`on_consume`](Self::on_consume) takes out counts as consumed all the same.
pub trait ConsumerInterceptor: fmt::Debug + Send + Sync {
    /// What the caller of poll gets instead of these records; never called for none.
    fn on_consume(&self, records: ConsumerRecords) -> ConsumerRecords {
        records
    }

    /// These positions were committed.
    fn on_commit(&self, offsets: &Offsets) {
        let _ = offsets;
    }
}
