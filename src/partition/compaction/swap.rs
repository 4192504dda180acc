//! The exchange of segments for the one that compaction made of them (Kafka's `replaceSegments`).
//!
//! | the machine stops | the next opening |
//! | --- | --- |
//! | while `.cleaned` files are written, or some of them have become `.swap` | throws all of them away |
//! | once all are `.swap`, and that is durable | removes what they replace, and gives them their names |
//! | while the old ones become `.deleted` | the same |
//! | once that is durable, while the new ones get their names | the same for those still `.swap` |

use std::sync::Arc;

use crate::error::Result;
use crate::fs::sync_dir;
use crate::partition::{Log, State};
use crate::storage::Segment;
use crate::storage::file_name::Stage;

/// Whether segments could be exchanged.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Swapped {
    Done,
    /// Retention or a truncation took one of them meanwhile.
    Gone,
}

impl Log {
    /// Puts `new`, whose files are `.cleaned`, in the place of `old`: neighbours, sealed, and on disk.
    pub(super) fn swap(&self, old: &[Arc<Segment>], new: Segment) -> Result<Swapped> {
        let _upkeep = self.upkeep.lock();
        let new = Arc::new(new);
        // Checked before anything is renamed: whoever changes the list holds the same lock.
        if !self.holds(old) {
            return Ok(Swapped::Gone);
        }
        new.restage(Stage::Cleaned, Stage::Swap)?;
        sync_dir(self.fs(), self.directory())?;
        {
            let mut writer = self.writer.lock();
            let segments = self.segments.load_full();
            let is_old = |segment: &Arc<Segment>| old.iter().any(|old| Arc::ptr_eq(old, segment));
            let at = segments.iter().position(is_old).unwrap_or(0);
            let mut list: Vec<_> = segments.iter().filter(|segment| !is_old(segment)).cloned().collect();
            list.insert(at.min(list.len()), Arc::clone(&new));
            writer.unindexed.retain(|segment| !is_old(segment));
            writer.unsynced.retain(|(segment, _)| !is_old(segment));
            self.segments.store(Arc::new(list));
        }
        self.retire(old, false)?;
        new.restage(Stage::Swap, Stage::Final)?;
        sync_dir(self.fs(), self.directory())?;
        for vanished in old.iter().skip(1) {
            self.snapshots.remove(self.fs(), self.directory(), vanished.base_offset())?;
        }
        // From now on they are read from their files when they are needed.
        new.adopt(None);
        Ok(Swapped::Done)
    }

    /// Whether these are still part of the log, which is open and whole.
    fn holds(&self, old: &[Arc<Segment>]) -> bool {
        let ready = matches!(self.writer.lock().state, State::Ready);
        let segments = self.segments.load();
        ready && old.iter().all(|old| segments.iter().any(|segment| Arc::ptr_eq(segment, old)))
    }
}
