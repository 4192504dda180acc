//! How those read a log from its beginning to its end who keep their state in it.

use std::sync::Arc;

use super::read::Cursor;
use super::{Isolation, Partition};
use crate::error::{Error, Result};
use crate::format::{BatchHeader, RecordView};

impl Partition {
    /// Shows all records to the end of the log in order, control records among them, each with its batch's header.
    ///
    /// Damage ends it, unless its [loss was accepted](Self::accept_loss) since the log was opened: then it goes on
    /// behind. If `lenient`, that holds of any damage, and of records that `show` fails for.
    pub(crate) fn replay(
        &self,
        lenient: bool,
        mut show: impl FnMut(&BatchHeader, &RecordView<'_>) -> Result<()>,
    ) -> Result<()> {
        // A partition that has failed since then was accepted, too.
        let open = || !matches!(self.check(), Err(Error::Damaged { .. } | Error::ReadOnly { .. }));
        let accepted = lenient || !self.recovery_report().damage.is_empty() && open();
        let limit = self.config().max_decompressed_bytes as usize;
        let mut cursor = Cursor::new(Arc::clone(&self.log), self.log_start());
        loop {
            let bound = self.log.bound(Isolation::LogEnd);
            let read = cursor.next(bound).and_then(|batch| match batch {
                None => Ok(None),
                Some(batch) => match batch.records(limit) {
                    Ok(records) => Ok(Some((batch, records))),
                    Err(error) => Err(cursor.undecodable(&batch, &error)),
                },
            });
            let (batch, records) = match read {
                Ok(Some(read)) => read,
                Ok(None) => return Ok(()),
                Err(_) if accepted && cursor.skip_damage().is_some() => continue,
                Err(error) => return Err(error),
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
}
