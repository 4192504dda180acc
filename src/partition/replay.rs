//! How those read a log from its beginning to its end who keep their state in it.

use std::sync::Arc;

use super::read::Cursor;
use super::{Isolation, Partition};
use crate::error::Result;
use crate::format::{BatchHeader, RecordBatch, RecordSet, RecordView};

/// Where in a log the loss of what is damaged was accepted: from the first such offset to behind the last. What is
/// damaged in between later is not told from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct AcceptedLoss {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl AcceptedLoss {
    pub(super) fn add(&mut self, from: u64, to: u64) {
        let first = if self.to == 0 { from } else { self.from.min(from) };
        *self = AcceptedLoss { from: first, to: self.to.max(to) };
    }

    /// The log is cut there: what comes next is new.
    pub(super) fn cut(&mut self, end: u64) {
        *self =
            if self.from < end { AcceptedLoss { to: self.to.min(end), ..*self } } else { Self::default() };
    }

    /// Whether it is of what is damaged between two offsets.
    fn meets(self, from: u64, behind: u64) -> bool {
        self.from < behind && from < self.to
    }
}

impl Partition {
    /// Shows all records to the end of the log in order, control records among them, each with its batch's header.
    ///
    /// Damage ends it, unless its [loss was accepted](Self::accept_loss): then it goes on behind. If `lenient`, that
    /// holds of any damage, and of records that `show` fails for.
    pub(crate) fn replay(
        &self,
        lenient: bool,
        mut show: impl FnMut(&BatchHeader, &RecordView<'_>) -> Result<()>,
    ) -> Result<()> {
        let accepted = self.log.marks.lock().accepted;
        let mut cursor = Cursor::new(Arc::clone(&self.log), self.log_start());
        loop {
            let (batch, records) = match self.next_records(&mut cursor) {
                Ok(Some(read)) => read,
                Ok(None) => return Ok(()),
                Err(error) => {
                    let from = cursor.wanted;
                    match cursor.skip_damage() {
                        Some(behind) if lenient || accepted.meets(from, behind) => continue,
                        _ => return Err(error),
                    }
                }
            };
            for record in records.iter().filter(|record| record.offset() >= cursor.wanted) {
                match show(batch.header(), &record) {
                    Err(error) if !lenient => return Err(error),
                    _ => {}
                }
            }
            cursor.wanted = batch.next_offset();
        }
    }

    /// Where reading goes on behind damage at an offset; `None` if there is none.
    pub(super) fn behind_damage(&self, offset: u64) -> Option<u64> {
        let mut cursor = Cursor::new(Arc::clone(&self.log), offset);
        self.next_records(&mut cursor).is_err().then(|| cursor.skip_damage()).flatten()
    }

    fn next_records(&self, cursor: &mut Cursor) -> Result<Option<(RecordBatch, RecordSet)>> {
        let Some(batch) = cursor.next(self.log.bound(Isolation::LogEnd))? else { return Ok(None) };
        match batch.records(self.config().max_decompressed_bytes as usize) {
            Ok(records) => Ok(Some((batch, records))),
            Err(error) => Err(cursor.undecodable(&batch, &error)),
        }
    }
}
