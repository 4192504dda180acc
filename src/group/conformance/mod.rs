//! What every [`GroupCoordinator`] must do, as a suite of checks that anybody can run against his own.
//!
//! ```
//! use std::sync::Arc;
//! use annals::clock::ManualClock;
//! use annals::fs::SimulatedDisk;
//! use annals::group::conformance::{self, Subject};
//! use annals::Store;
//!
//! let failures = conformance::check(|| {
//!     let clock = Arc::new(ManualClock::new(1_700_000_000_000));
//!     let options = Store::options().clock(Arc::clone(&clock) as _);
//!     let store = options.open_in(Arc::new(SimulatedDisk::new(1))).unwrap();
//!     Subject::new(store.groups().unwrap(), clock).keep(store)
//! });
//! assert!(failures.is_empty(), "{failures:#?}");
//! ```

mod checks;
mod members;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::coordinator::GroupCoordinator;
use crate::clock::ManualClock;
use crate::types::TopicPartition;

/// Appends the marker that ends a producer's transaction to a partition: `(partition, producer id, epoch, committed)`.
type Marker = Box<dyn Fn(&TopicPartition, i64, i16, bool)>;

/// A coordinator without groups, to be checked.
///
/// Its timeouts must go by the clock alone, and it must allow session timeouts of 30 seconds and groups of 4 members.
pub struct Subject {
    groups: Arc<dyn GroupCoordinator>,
    clock: Arc<ManualClock>,
    marker: Option<Marker>,
    _kept: Vec<Box<dyn Any>>,
}

impl Subject {
    /// A coordinator, and the clock that it goes by.
    pub fn new(groups: Arc<dyn GroupCoordinator>, clock: Arc<ManualClock>) -> Self {
        Subject { groups, clock, marker: None, _kept: Vec::new() }
    }

    /// Keeps something as long as the coordinator is being checked, such as the store that it belongs to.
    #[must_use]
    pub fn keep(mut self, kept: impl Any) -> Self {
        self._kept.push(Box::new(kept));
        self
    }

    /// How the marker that ends a producer's transaction is appended to a partition, given the producer's id and epoch
    /// and whether it is committed. Without it, commits in transactions are not checked.
    #[must_use]
    pub fn marker(mut self, append: impl Fn(&TopicPartition, i64, i16, bool) + 'static) -> Self {
        self.marker = Some(Box::new(append));
        self
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("groups", &self.groups).finish_non_exhaustive()
    }
}

/// A rule that a coordinator breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The rule.
    pub rule: &'static str,
    /// What was expected, and what happened.
    pub what: String,
}

/// Checks every rule, each with a coordinator of its own. Returns the rules that are broken: none, if all is well.
pub fn check(mut make: impl FnMut() -> Subject) -> Vec<Failure> {
    let checked = checks::CHECKS.iter().map(|(rule, check)| (*rule, check(&make())));
    checked.filter_map(|(rule, outcome)| outcome.err().map(|what| Failure { rule, what })).collect()
}
