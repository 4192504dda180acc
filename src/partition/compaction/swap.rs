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
use crate::storage::file_name::Stage;
use crate::storage::{Segment, remove_files};

/// Whether segments could be exchanged.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Swapped {
    Done,
    /// Retention or a truncation took one of them meanwhile.
    Gone,
}

/// An exchange that a failing disk left in the middle. The next opening would finish it, so nobody may build on what
/// the files are now before it is finished here.
#[derive(Debug, Default)]
pub(in crate::partition) struct Unfinished {
    /// A result that was to be thrown away, by its base offset.
    litter: Option<u64>,
    /// Segments whose files still have their names, though another has taken their place.
    swap: Option<(Vec<Arc<Segment>>, Arc<Segment>)>,
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
        let staged = new.restage(Stage::Cleaned, Stage::Swap);
        if let Err(error) = staged.and_then(|()| sync_dir(self.fs(), self.directory())) {
            self.unfinished.lock().litter = Some(new.base_offset());
            // If this fails as well, it is tried again.
            let _ = self.remove_litter();
            return Err(error);
        }
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
        self.unfinished.lock().swap = Some((old.to_vec(), new));
        self.finish_swap_held()?;
        Ok(Swapped::Done)
    }

    /// Finishes what a failing disk left in the middle. Called by whoever is about to change the files.
    pub(in crate::partition) fn finish_swap(&self) -> Result<()> {
        let _upkeep = self.upkeep.lock();
        self.finish_swap_held()
    }

    pub(in crate::partition) fn finish_swap_held(&self) -> Result<()> {
        if self.writer.lock().is_over() {
            // The names may be another's by now.
            return Ok(());
        }
        self.remove_litter()?;
        let Some((old, new)) = self.unfinished.lock().swap.clone() else { return Ok(()) };
        self.retire(&old, false)?;
        new.restage(Stage::Swap, Stage::Final)?;
        sync_dir(self.fs(), self.directory())?;
        self.unfinished.lock().swap = None;
        // From now on they are read from their files when they are needed.
        new.adopt(None);
        for vanished in old.iter().skip(1) {
            self.snapshots.remove(self.fs(), self.directory(), vanished.base_offset())?;
        }
        Ok(())
    }

    fn remove_litter(&self) -> Result<()> {
        let Some(base) = self.unfinished.lock().litter else { return Ok(()) };
        for stage in [Stage::Cleaned, Stage::Swap] {
            remove_files(self.fs(), self.directory(), base, stage)?;
        }
        sync_dir(self.fs(), self.directory())?;
        self.unfinished.lock().litter = None;
        Ok(())
    }

    /// Whether these are still part of the log, which is open and whole.
    fn holds(&self, old: &[Arc<Segment>]) -> bool {
        let ready = matches!(self.writer.lock().state, State::Ready);
        let segments = self.segments.load();
        ready && old.iter().all(|old| segments.iter().any(|segment| Arc::ptr_eq(segment, old)))
    }
}
