//! The seam [`ConsumerInterceptor`]: who sees what a consumer returns and commits; and calling what is not the crate's.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Consumer;
use super::commit::Offsets;
use super::records::ConsumerRecords;
use crate::observe;

/// Sees the records of each poll before the caller does, and every commit after it was made: for measuring, tracing,
/// filtering.
///
/// # Contract
/// Both are called on the thread that polls or commits, one at a time for each consumer, and hold it up for as long as
/// they take. What [`on_consume`](Self::on_consume) takes out counts as consumed all the same.
///
/// One that panics is passed over, and [counted](super::ConsumerStats::panics): the records go on as they were before.
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

impl Consumer {
    /// The records, after all interceptors have had them.
    pub(super) fn intercept(&mut self, mut records: ConsumerRecords) -> ConsumerRecords {
        for interceptor in self.config.interceptors.clone() {
            // No payload is copied.
            let before = records.clone();
            let seen = self.call_out("on_consume of an interceptor", |_| interceptor.on_consume(records));
            records = seen.unwrap_or(before);
        }
        records
    }

    /// Runs what is somebody else's. A panic of that goes no further, since the consumer is in the middle of
    /// something: it is counted and told, and what it said is returned.
    pub(super) fn call_out<T>(
        &mut self,
        what: &'static str,
        call: impl FnOnce(&mut Self) -> T,
    ) -> Result<T, String> {
        catch_unwind(AssertUnwindSafe(|| call(self))).map_err(|panic| {
            let said = observe::text_of(&*panic);
            self.counters.panics += 1;
            observe::callback_panicked(what, said);
            said.to_string()
        })
    }
}
