//! One record: as it is written ([`Record`]), as it is read from a batch ([`RecordView`]), and as it is kept
//! ([`StoredRecord`]).
//!
//! The bytes of a record inside a v2 batch (Kafka's `DefaultRecord`):
//!
//! ```text
//! varint  length of all that follows
//! i8      attributes, unused
//! varlong timestamp delta      record timestamp - base timestamp of the batch
//! varint  offset delta         record offset - base offset of the batch
//! varint  key length, -1 = null;   key
//! varint  value length, -1 = null; value
//! varint  number of headers
//! { varint key length; key in UTF-8; varint value length, -1 = null; value }*
//! ```

use std::fmt;

use bytes::Bytes;

use super::codec::{Reader, varint_len, varlong_len, write_varint, write_varlong};
use crate::error::FormatError;

/// A record to write. It borrows its key, value and headers.
///
/// ```
/// use annals::format::Record;
/// let record = Record::new("logged in").key("user-7").header("source", "web").timestamp(1_700_000_000_000);
/// assert_eq!(record.key_bytes(), Some(&b"user-7"[..]));
/// assert_eq!(record.value_bytes(), Some(&b"logged in"[..]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record<'a> {
    timestamp: Option<i64>,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: Vec<Header<'a>>,
}

impl<'a> Record<'a> {
    /// A record of this value, without key and headers, that gets its timestamp when it is appended.
    pub fn new(value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Record { value: Some(value.as_ref()), ..Record::default() }
    }

    /// A record without a value: in a compacted topic, the order to forget its key.
    pub fn tombstone() -> Self {
        Record::default()
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.key = Some(key.as_ref());
        self
    }

    /// Sets the timestamp, in milliseconds since the epoch. -1 means none; other negative ones are refused on
    /// append.
    #[must_use]
    pub fn timestamp(mut self, millis: i64) -> Self {
        self.timestamp = Some(millis);
        self
    }

    /// Adds a header. Headers keep their order, and a key may come more than once.
    #[must_use]
    pub fn header(mut self, key: &'a str, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.headers.push(Header { key, value: Some(value.as_ref()) });
        self
    }

    /// Adds a header whose value is null, which is not the same as empty.
    #[must_use]
    pub fn null_header(mut self, key: &'a str) -> Self {
        self.headers.push(Header { key, value: None });
        self
    }

    /// The key, if there is one.
    pub fn key_bytes(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// The value; `None` for a tombstone.
    pub fn value_bytes(&self) -> Option<&'a [u8]> {
        self.value
    }

    /// The headers, in order.
    pub fn headers(&self) -> &[Header<'a>] {
        &self.headers
    }

    /// The bytes that it takes in a batch at most, before compression: its parts, and the longest varints.
    pub(crate) fn encoded_len_max(&self) -> usize {
        const VARINTS: usize = 5 + 1 + 10 + 5 + 5 + 5 + 5;
        let header = |header: &Header<'_>| 10 + header.key.len() + header.value.map_or(0, <[u8]>::len);
        let parts = [self.key, self.value].into_iter().flatten().map(<[u8]>::len);
        parts.chain(self.headers.iter().map(header)).fold(VARINTS, usize::saturating_add)
    }

    /// The timestamp if one was set, in milliseconds since the epoch.
    pub fn timestamp_millis(&self) -> Option<i64> {
        self.timestamp
    }
}

impl<'a> From<RecordView<'a>> for Record<'a> {
    /// The same key, value, headers and timestamp, to be written elsewhere.
    fn from(view: RecordView<'a>) -> Self {
        Record {
            timestamp: Some(view.timestamp),
            key: view.key,
            value: view.value,
            headers: view.headers().collect(),
        }
    }
}

/// One header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The key; never null.
    pub key: &'a str,
    /// The value; null and empty are different.
    pub value: Option<&'a [u8]>,
}

/// A record read from a batch, borrowed from it.
#[derive(Clone, Copy)]
pub struct RecordView<'a> {
    pub(super) offset: u64,
    pub(super) timestamp: i64,
    /// -1 for none.
    pub(super) sequence: i32,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    /// The headers as encoded, without their count.
    pub(super) headers: &'a [u8],
    pub(super) header_count: u32,
}

impl<'a> RecordView<'a> {
    /// Its offset in the partition.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Its timestamp in milliseconds since the epoch, -1 if it has none. In a batch with append time, that
    /// time.
    pub fn timestamp(&self) -> i64 {
        self.timestamp
    }

    /// The key, if there is one.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// The value; `None` for a tombstone.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.value
    }

    /// The headers, in order.
    pub fn headers(&self) -> Headers<'a> {
        Headers { reader: Reader::new(self.headers), left: self.header_count }
    }

    /// Its producer's sequence number, if the producer gave it one.
    pub fn sequence(&self) -> Option<i32> {
        (self.sequence >= 0).then_some(self.sequence)
    }
}

impl fmt::Debug for RecordView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("offset", &self.offset)
            .field("timestamp", &self.timestamp)
            .field("sequence", &self.sequence())
            .field("key", &self.key.map(<[u8]>::escape_ascii).map(|key| key.to_string()))
            .field("value", &self.value.map(<[u8]>::escape_ascii).map(|value| value.to_string()))
            .field("headers", &self.headers().collect::<Vec<_>>())
            .finish()
    }
}

/// A record read from a batch, holding a share of the batch's memory: it can be kept, cloned and sent.
///
/// Keeping one keeps the (decompressed) batch; copy key and value out to keep a few of many.
#[derive(Clone)]
pub struct StoredRecord {
    /// This record alone, so that the spans fit in 32 bits whatever the size of the batch.
    bytes: Bytes,
    offset: u64,
    timestamp: i64,
    sequence: i32,
    key: Option<Span>,
    value: Option<Span>,
    headers: Span,
    header_count: u32,
}

impl StoredRecord {
    /// `view` must borrow from `bytes`.
    pub(super) fn new(bytes: Bytes, view: &RecordView<'_>) -> Self {
        let span = |part: &[u8]| Span::of(part, &bytes);
        let (key, value, headers) = (view.key.map(span), view.value.map(span), span(view.headers));
        StoredRecord {
            offset: view.offset,
            timestamp: view.timestamp,
            sequence: view.sequence,
            key,
            value,
            headers,
            header_count: view.header_count,
            bytes,
        }
    }

    /// The same record, borrowed.
    pub fn view(&self) -> RecordView<'_> {
        RecordView {
            offset: self.offset,
            timestamp: self.timestamp,
            sequence: self.sequence,
            key: self.key(),
            value: self.value(),
            headers: self.headers.within(&self.bytes),
            header_count: self.header_count,
        }
    }

    /// Its offset in the partition.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Its timestamp in milliseconds since the epoch, -1 if it has none. In a batch with append time, that
    /// time.
    pub fn timestamp(&self) -> i64 {
        self.timestamp
    }

    /// The key, if there is one.
    pub fn key(&self) -> Option<&[u8]> {
        self.key.map(|span| span.within(&self.bytes))
    }

    /// The value; `None` for a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        self.value.map(|span| span.within(&self.bytes))
    }

    /// The headers, in order.
    pub fn headers(&self) -> Headers<'_> {
        self.view().headers()
    }

    /// Its producer's sequence number, if the producer gave it one.
    pub fn sequence(&self) -> Option<i32> {
        (self.sequence >= 0).then_some(self.sequence)
    }

    /// The same record, in memory of its own.
    pub(crate) fn detached(&self) -> StoredRecord {
        StoredRecord { bytes: Bytes::copy_from_slice(&self.bytes), ..self.clone() }
    }

    /// The bytes that it takes in its (decompressed) batch, with everything that belongs to it.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The key as a share of the batch's memory, without a copy.
    pub fn key_bytes(&self) -> Option<Bytes> {
        self.key.map(|span| self.bytes.slice(span.range()))
    }

    /// The value as a share of the batch's memory, without a copy.
    pub fn value_bytes(&self) -> Option<Bytes> {
        self.value.map(|span| self.bytes.slice(span.range()))
    }
}

impl fmt::Debug for StoredRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(f)
    }
}

/// Where in a record's bytes a part of it lies. A record is shorter than 2 GiB.
#[derive(Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// `part` must be empty or a part of `whole`.
    fn of(part: &[u8], whole: &[u8]) -> Self {
        if part.is_empty() {
            return Span { start: 0, end: 0 };
        }
        let start = part.as_ptr().addr() - whole.as_ptr().addr();
        Span { start: start as u32, end: (start + part.len()) as u32 }
    }

    fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }

    fn within(self, whole: &[u8]) -> &[u8] {
        whole.get(self.range()).unwrap_or_default()
    }
}

/// The headers of a record, in order. They were checked when the batch was decoded, so none fails here.
#[derive(Debug, Clone)]
pub struct Headers<'a> {
    reader: Reader<'a>,
    left: u32,
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.left = self.left.checked_sub(1)?;
        read_header(&mut self.reader).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Headers<'_> {}

/// What a v2 batch adds to each of its records.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordContext {
    pub(super) base_offset: u64,
    pub(super) base_timestamp: i64,
    /// The timestamp of all records if the batch has append time.
    pub(super) append_time: Option<i64>,
    pub(super) base_sequence: i32,
}

impl RecordContext {
    /// Reads the record at the front of `reader`; its headers are located, not checked.
    #[inline]
    pub(super) fn read<'a>(&self, reader: &mut Reader<'a>) -> Result<RecordView<'a>, FormatError> {
        let length = reader.varint("record length")?;
        let Ok(length) = usize::try_from(length) else { return Err(negative("record length", length)) };
        let mut body = Reader::new(reader.take(length, "record")?);
        body.i8("record attributes")?;
        let timestamp_delta = body.varlong("record timestamp delta")?;
        let offset_delta = body.varint("record offset delta")?;
        let key_length = body.varint("record key length")?;
        let key = body.nullable(key_length, "record key")?;
        let value_length = body.varint("record value length")?;
        let value = body.nullable(value_length, "record value")?;
        let header_count = body.varint("record header count")?;
        Ok(RecordView {
            offset: self.offset(offset_delta)?,
            timestamp: self.timestamp(timestamp_delta)?,
            sequence: match self.base_sequence {
                negative @ ..0 => negative,
                base => super::batch::increment_sequence(base, offset_delta),
            },
            key,
            value,
            headers: body.rest(),
            header_count: u32::try_from(header_count)
                .map_err(|_| negative("record header count", header_count))?,
        })
    }

    fn offset(&self, delta: i32) -> Result<u64, FormatError> {
        let delta = u64::try_from(delta).map_err(|_| negative("record offset delta", delta))?;
        // Both are below 2^63, so this cannot overflow.
        Ok(self.base_offset + delta)
    }

    fn timestamp(&self, delta: i64) -> Result<i64, FormatError> {
        // With append time the deltas mean nothing (`DefaultRecord.readFrom`).
        self.append_time.or_else(|| self.base_timestamp.checked_add(delta)).ok_or(FormatError::Invalid {
            what: "record timestamp delta",
            found: delta,
            expected: "a timestamp of 64 bits when added to the base timestamp",
        })
    }
}

/// Checks the headers of a record to their last byte.
pub(super) fn check_headers(view: &RecordView<'_>) -> Result<(), FormatError> {
    let mut reader = Reader::new(view.headers);
    // Two bytes are the shortest header, so a count that lies is found before long.
    for _ in 0..view.header_count {
        read_header(&mut reader)?;
    }
    reader.finish("the record's headers")
}

fn read_header<'a>(reader: &mut Reader<'a>) -> Result<Header<'a>, FormatError> {
    let key_length = reader.varint("header key length")?;
    let key_length = usize::try_from(key_length).map_err(|_| negative("header key length", key_length))?;
    let key = reader.take(key_length, "header key")?;
    let key = std::str::from_utf8(key).map_err(|error| FormatError::Invalid {
        what: "header key",
        found: key.get(error.valid_up_to()).copied().unwrap_or_default().into(),
        expected: "UTF-8",
    })?;
    let value_length = reader.varint("header value length")?;
    Ok(Header { key, value: reader.nullable(value_length, "header value")? })
}

#[cold]
fn negative(what: &'static str, found: i32) -> FormatError {
    FormatError::Invalid { what, found: found.into(), expected: "at least 0" }
}

/// The headers of a record to encode: a list, or the bytes of a record that was read.
#[derive(Clone, Copy)]
pub(super) enum HeaderSource<'a> {
    List(&'a [Header<'a>]),
    Encoded { count: u32, bytes: &'a [u8] },
}

impl HeaderSource<'_> {
    fn count(&self) -> usize {
        match self {
            HeaderSource::List(list) => list.len(),
            HeaderSource::Encoded { count, .. } => *count as usize,
        }
    }

    fn encoded_len(&self) -> usize {
        match self {
            HeaderSource::List(list) => list
                .iter()
                .map(|header| nullable_len(Some(header.key.as_bytes())) + nullable_len(header.value))
                .sum(),
            HeaderSource::Encoded { bytes, .. } => bytes.len(),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            HeaderSource::List(list) => {
                for header in *list {
                    write_nullable(out, Some(header.key.as_bytes()));
                    write_nullable(out, header.value);
                }
            }
            HeaderSource::Encoded { bytes, .. } => out.extend_from_slice(bytes),
        }
    }
}

/// A record with its deltas worked out, ready to encode.
pub(super) struct EncodedRecord<'a> {
    pub(super) timestamp_delta: i64,
    pub(super) offset_delta: i32,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: HeaderSource<'a>,
}

impl EncodedRecord<'_> {
    /// Appends the record; nothing is appended if it is refused.
    ///
    /// # Errors
    /// [`FormatError::Limit`] if the record, or its number of headers, does not fit the format's 31 bits.
    #[inline]
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let too_large = |_| FormatError::Limit { what: "record", limit: i32::MAX as u64 };
        // Bounds every part first: the lengths of parts are written as i32 too.
        let headers_len = self.headers.encoded_len();
        let parts = [self.key.map_or(0, <[u8]>::len), self.value.map_or(0, <[u8]>::len), headers_len];
        let total = parts.iter().fold(0usize, |sum, &part| sum.saturating_add(part));
        i32::try_from(total).map_err(too_large)?;
        let header_count = i32::try_from(self.headers.count()).map_err(too_large)?;
        let length = 1
            + varlong_len(self.timestamp_delta)
            + varint_len(self.offset_delta)
            + nullable_len(self.key)
            + nullable_len(self.value)
            + varint_len(header_count)
            + headers_len;
        let length = i32::try_from(length).map_err(too_large)?;
        out.reserve(varint_len(length) + length as usize);
        write_varint(out, length);
        out.push(0);
        write_varlong(out, self.timestamp_delta);
        write_varint(out, self.offset_delta);
        write_nullable(out, self.key);
        write_nullable(out, self.value);
        write_varint(out, header_count);
        if header_count > 0 {
            self.headers.write(out);
        }
        Ok(())
    }
}

// The lengths below fit an i32: `EncodedRecord::write` has checked their sum.

fn nullable_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varint_len(bytes.len() as i32) + bytes.len())
}

#[inline]
fn write_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => write_varint(out, -1),
        Some(bytes) => {
            write_varint(out, bytes.len() as i32);
            out.extend_from_slice(bytes);
        }
    }
}
