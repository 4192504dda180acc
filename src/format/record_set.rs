//! All records of one batch, decompressed and checked to the last byte.

use std::fmt;

use bytes::Bytes;

use super::batch::{BatchHeader, TimestampType};
use super::codec::Reader;
use super::legacy;
use super::record::{RecordContext, RecordView, StoredRecord, check_headers};
use crate::error::FormatError;

/// All records of one batch. It owns them (or shares the batch's memory when that is not compressed), and
/// every record in it was checked, so walking it cannot fail.
#[derive(Clone)]
pub struct RecordSet {
    payload: Bytes,
    layout: Layout,
    count: u32,
}

impl RecordSet {
    /// The number of records.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is none, as in a batch that compaction emptied.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The records in offset order, borrowed. Nothing is allocated for them.
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter { reader: Reader::new(&self.payload), layout: self.layout, left: self.count }
    }

    /// Checks the records of a v2 batch; `payload` is what follows its header, decompressed.
    pub(super) fn decode(payload: Bytes, header: &BatchHeader) -> Result<Self, FormatError> {
        let context = RecordContext {
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp,
            append_time: match header.timestamp_type {
                TimestampType::CreateTime => None,
                TimestampType::LogAppendTime => Some(header.max_timestamp),
            },
            base_sequence: header.base_sequence,
        };
        let count = header.records_count.unwrap_or_default();
        let mut reader = Reader::new(&payload);
        let mut previous = None;
        for _ in 0..count {
            let record = context.read(&mut reader)?;
            check_headers(&record)?;
            check_order(previous, record.offset, header.last_offset)?;
            previous = Some(record.offset);
        }
        reader.finish("the last record of the batch")?;
        Ok(RecordSet { payload, layout: Layout::Current(context), count })
    }

    /// The records of a legacy message or wrapper; `payload` was checked by [`legacy`].
    pub(super) fn from_legacy(payload: Bytes, context: legacy::MessageContext, count: u32) -> Self {
        RecordSet { payload, layout: Layout::Legacy(context), count }
    }
}

impl fmt::Debug for RecordSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<'a> IntoIterator for &'a RecordSet {
    type Item = RecordView<'a>;
    type IntoIter = RecordIter<'a>;

    fn into_iter(self) -> RecordIter<'a> {
        self.iter()
    }
}

impl IntoIterator for RecordSet {
    type Item = StoredRecord;
    type IntoIter = IntoRecords;

    fn into_iter(self) -> IntoRecords {
        IntoRecords { left: self.count, position: 0, set: self }
    }
}

/// The records of a [`RecordSet`], borrowed.
#[derive(Debug, Clone)]
pub struct RecordIter<'a> {
    reader: Reader<'a>,
    layout: Layout,
    left: u32,
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = RecordView<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordView<'a>> {
        self.left = self.left.checked_sub(1)?;
        // What was decoded once decodes again.
        self.layout.read(&mut self.reader).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for RecordIter<'_> {}

/// The records of a [`RecordSet`], each with a share of its memory. None of them costs an allocation.
#[derive(Debug, Clone)]
pub struct IntoRecords {
    set: RecordSet,
    position: usize,
    left: u32,
}

impl IntoRecords {
    /// Passes over the records below an offset.
    pub(crate) fn skip_below(&mut self, offset: u64) {
        while let Some(rest) = self.set.payload.get(self.position..).filter(|_| self.left > 0) {
            let mut reader = Reader::new(rest);
            match self.set.layout.read(&mut reader) {
                Ok(view) if view.offset < offset => {
                    self.position = self.set.payload.len() - reader.remaining();
                    self.left -= 1;
                }
                _ => return,
            }
        }
    }
}

impl Iterator for IntoRecords {
    type Item = StoredRecord;

    #[inline]
    fn next(&mut self) -> Option<StoredRecord> {
        self.left = self.left.checked_sub(1)?;
        let mut reader = Reader::new(self.set.payload.get(self.position..)?);
        let view = self.set.layout.read(&mut reader).ok()?;
        let end = self.set.payload.len() - reader.remaining();
        let bytes = self.set.payload.slice(self.position..end);
        self.position = end;
        Some(StoredRecord::new(bytes, &view))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for IntoRecords {}

/// How the records lie in the payload.
#[derive(Debug, Clone, Copy)]
enum Layout {
    Current(RecordContext),
    Legacy(legacy::MessageContext),
}

impl Layout {
    #[inline]
    fn read<'a>(&self, reader: &mut Reader<'a>) -> Result<RecordView<'a>, FormatError> {
        match self {
            Layout::Current(context) => context.read(reader),
            Layout::Legacy(context) => context.read(reader),
        }
    }
}

/// Checks that offsets rise within a batch and stay within what its header says.
pub(super) fn check_order(previous: Option<u64>, offset: u64, last: u64) -> Result<(), FormatError> {
    let expected = if previous.is_some_and(|previous| offset <= previous) {
        "more than that of the record before it"
    } else if offset > last {
        "at most the last offset of the batch"
    } else {
        return Ok(());
    };
    Err(FormatError::Invalid { what: "record offset", found: offset as i64, expected })
}
